"""Merge methods: state dicts in, one state dict out, tensor by tensor."""
