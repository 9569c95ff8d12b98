"""What a channel mixer has to say besides its output: losses to be added, and where tokens were routed."""

from typing import NamedTuple

from torch import Tensor


class Routing(NamedTuple):
    """Choices of one routed layer in one pass. Padding is in `chosen`, and counts nowhere else."""

    chosen: Tensor
    """[B, T, K] int64, experts of each token."""
    load: Tensor
    """[E] float32, how many tokens went to each expert."""
    entropy: Tensor
    """[] float32, sum over tokens of the entropy (nats) of the router's distribution."""


class Aux(NamedTuple):
    """Of one layer, or of all layers of a pass in their order."""

    losses: dict[str, Tensor]
    """Scalar losses by name, weighted as they are to be added to a mean loss a token."""
    routing: tuple[Routing, ...]
    """One a routed layer."""
    looked: Tensor | None = None
    """[B, T, D], the residual stream after the layer that `Rows.look` names."""


NONE = Aux({}, ())
"""Of a layer that has nothing to say."""


def together(parts: list[Aux]) -> Aux:
    """The losses summed by name, the routings one after the other."""
    losses: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.losses.items():
            losses[name] = losses[name] + value if name in losses else value
    return Aux(losses, tuple(routing for part in parts for routing in part.routing))
