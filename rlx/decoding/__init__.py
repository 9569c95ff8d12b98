"""Sampling: prompts to completions, from a cache, on the modules that the trainer trains."""
