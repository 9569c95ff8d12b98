"""Models: which mixers, which widths. Each is one Decoder."""
