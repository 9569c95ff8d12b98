"""What the routed layers of a model did in one optimizer step: their balancing, and metrics of their loads."""

import torch
from torch import Tensor

from rlx.nn.aux import Aux
from rlx.nn.decoder import Decoder
from rlx.nn.experts import routed_layers

SHARES_EVERY = 10
"""Steps between rows that hold the share of every expert of every layer, at least."""
SHARES_A_STEP = 8
"""Such numbers that a row has on average at most: the more experts, the fewer rows have them."""


class RoutingLog:
    """Counts passes with gradient until an optimizer step is made; of a model that routes nothing it says nothing."""

    def __init__(self, model: Decoder) -> None:
        self.layers = routed_layers(model)
        self.row: dict[str, float | Tensor] = {}
        """Metrics of the last optimizer step."""
        self._clear()

    def _clear(self) -> None:
        self._load: Tensor | None = None  # [L, E], tokens of this step by layer and expert
        self._entropy: Tensor | None = None  # [L], summed over tokens
        self._added: dict[str, Tensor] = {}

    def added(self, loss: Tensor, aux: Aux, share: float) -> Tensor:
        """`loss`, a part of a mean over a step, and the losses of the pass that had `share` of the step's tokens.

        The tokens are those that are not padding, whether they count in `loss` or not: layers speak of all of them.
        """
        if not self.layers:
            return loss
        load = torch.stack([each.load for each in aux.routing])
        entropy = torch.stack([each.entropy for each in aux.routing])
        self._load = load if self._load is None else self._load + load
        self._entropy = entropy if self._entropy is None else self._entropy + entropy
        for name, value in aux.losses.items():
            value = value * share
            loss = loss + value
            self._added[name] = self._added.get(name, 0.0) + value.detach()
        return loss

    def stepped(self, step: int) -> None:
        """Optimizer step `step` was made: balance the layers by the loads since the one before."""
        if self._load is None or self._entropy is None:
            self.row = {}
            return
        load = _of_all_ranks(self._load)
        for layer, loads in zip(self.layers, load, strict=True):
            layer.rebalance(loads)
        even = load / load.mean(-1, keepdim=True).clamp_min(1e-9)  # [L, E], 1 at an even load
        tokens = load.sum(-1) / torch.tensor([layer.top_k for layer in self.layers], device=load.device)  # [L]
        self.row = {
            "moe/load_max": even.max(),
            "moe/load_min": even.min(),
            "moe/load_cv": even.std(-1, correction=0).mean(),
            "moe/unused": (load == 0).sum(),
            "moe/entropy": (_of_all_ranks(self._entropy) / tokens.clamp_min(1)).mean(),
            "moe/dropped": 0.0,
            **{f"moe/{name}_loss": value for name, value in self._added.items()},
        }
        every = max(SHARES_EVERY, load.numel() // SHARES_A_STEP)
        if step == 1 or step % every == 0:
            shares = (load / load.sum(-1, keepdim=True).clamp_min(1)).tolist()
            for number, layer in enumerate(shares):
                self.row.update({f"moe/share/{number}/{expert}": value for expert, value in enumerate(layer)})
        self._clear()


def _of_all_ranks(counts: Tensor) -> Tensor:
    """Counts summed over the processes that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
    return counts
