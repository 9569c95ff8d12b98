"""Numeric cores, each behind one function with an explicit `impl`; `reference` is the definition of what it computes."""
