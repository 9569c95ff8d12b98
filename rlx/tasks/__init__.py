"""Tasks: examples, prompts, verifiers. No torch here, so that a verifier runs anywhere."""
