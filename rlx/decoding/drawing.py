"""One token per row from its logits."""

import torch
from torch import Tensor

from rlx.decoding.base import DecodeConfig
from rlx.decoding.logprobs import log_softmax


def draw(logits: Tensor, uniform: Tensor, decode: DecodeConfig) -> tuple[Tensor, Tensor]:
    """One token per row by inverting the cumulative distribution at `uniform`.

    Args:
        logits: [N, V].
        uniform: [N] float64 in (0, 1).
        decode: temperature 0 takes the most likely token; top-k and top-p restrict what is drawn.

    Returns:
        tokens [N] int64, and their log-probabilities [N] float32 over the whole vocabulary at the temperature.
    """
    logs = log_softmax(logits, decode.temperature)  # [N, V]
    if decode.temperature == 0:
        tokens = logs.argmax(-1)
    else:
        cumulative = restrict(logs, decode).double().exp().cumsum(-1)  # [N, V]
        point = uniform[:, None] * cumulative[:, -1:]  # below the total, so a token of weight 0 is never drawn
        tokens = torch.searchsorted(cumulative, point, right=True).squeeze(1).clamp(max=logs.shape[-1] - 1)
    return tokens, logs.gather(1, tokens[:, None]).squeeze(1)


def restrict(logs: Tensor, decode: DecodeConfig) -> Tensor:
    """Log-probabilities [N, V] with -inf where top-k or top-p drop a token; ties go to the lower token id."""
    if not decode.truncates:
        return logs
    ordered, order = logs.sort(dim=-1, descending=True, stable=True)
    drop = torch.zeros_like(ordered, dtype=torch.bool)
    if decode.top_k is not None:
        drop |= torch.arange(drop.shape[1], device=drop.device) >= decode.top_k
    if decode.top_p < 1:
        before = ordered.exp().cumsum(-1) - ordered.exp()
        drop |= before >= decode.top_p
    return logs.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), -torch.inf)
