"""Models in the layouts that transformers saves: a file an option of `model=`, found by folder."""
