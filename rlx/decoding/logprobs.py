"""Log-probabilities of given tokens: one definition for the sampler and the trainer."""

import torch
from torch import Tensor


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """[..., V] float32 from logits [..., V] of any dtype, divided by `temperature` (0 counts as 1: greedy)."""
    return torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """[B, T] float32: log-probability (nats) of tokens [B, T] under logits [B, T, V] of the positions before them.

    The first column has nothing before it and is 0.
    """
    picked = log_softmax(logits[:, :-1], temperature).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    return torch.nn.functional.pad(picked, (1, 0))


def token_logprobs_and_entropy(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and the entropy (nats) [B, T] of the distribution that each token was drawn from."""
    logs = log_softmax(logits[:, :-1], temperature)
    picked = logs.gather(-1, tokens[:, 1:, None]).squeeze(-1)
    entropy = -(logs.exp() * logs).sum(-1)
    pad = torch.nn.functional.pad
    return pad(picked, (1, 0)), pad(entropy, (1, 0))
