"""Tokenizers: all are `tokenizers` objects, saved as tokenizer.json."""
