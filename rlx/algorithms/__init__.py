"""Algorithms: rewards to advantages to loss, on tensors alone."""
