"""Kinds of layers: each file is a mixer with its settings, found by folder, and named in `model.layers`."""
