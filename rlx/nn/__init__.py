"""Mixers, norms, rotary positions, caches, blocks. Architecture only: no loss, no optimizer."""
