"""rlx: what pretraining, fine-tuning, reinforcement learning and merging each do to reasoning."""

__version__ = "0.1.0"
