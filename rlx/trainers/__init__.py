"""Where and in what precision a run computes."""
