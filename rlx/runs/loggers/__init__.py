"""Where metrics go besides metrics.jsonl, which is always written and is the truth."""
