"""`merge=fisher`: the mean of the parents' weights, each entry counting by how much its parent's predictions depend on
it (Matena and Raffel, arXiv 2111.09832).

W = sum l_i F_i W_i / sum l_i F_i for every entry, F_i being the diagonal of parent i's Fisher
information, E_x E_{y ~ p(y|x)} (d log p(y|x) / dW)^2, and l_i `merge.weights`. The stage gathers it, and:

1. x is a document's prompt and y its solution: one gradient a document, of the log-probability of all its tokens that
   count in the loss, and the mean of the squares over documents. (The square of a whole batch's gradient is another
   quantity.)
2. `labels=model`, as in the paper: every token is drawn from the model, given the document's own tokens before it.
   Gradients of drawn labels have mean 0, so terms between two tokens of a document vanish in expectation: what is
   estimated is the sum over tokens of the Fisher information of the next-token distribution. `labels=data` takes the
   document's own tokens: the empirical Fisher, which is no estimate of the other.
3. `floor`, `floored` and `normalize` are those of the authors' code (mmatena/model_merging, merging.py): the Fisher of
   the first parent, the target, is at least 1e-6, before each is divided by the L2 norm of all of the parent's. Where
   no parent depends on an entry it is then the first's; and where the first is so sure of its documents that its whole
   Fisher is below the floor, all of the result nearly is (take 1e-12 there). `floored=all` treats parents alike.
   `normalize=tensor` divides each tensor's by its own norm, as RegMean's code can.
4. Tensors without a Fisher (the biases of balanced routers) are the weighted mean, and so are entries where the sum of
   l_i F_i is 0.
"""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import Given, MergeConfig, SameShapes, normalised, refuse_negative, weighted_sum
from rlx.options import option


class Labels(Enum):
    """What gradients are taken of."""

    model = "model"
    """Tokens drawn from the model: the Fisher information."""
    data = "data"
    """The documents' own tokens: the empirical Fisher."""


class Floored(Enum):
    """Whose Fisher is raised to the floor."""

    first = "first"
    """The first parent's."""
    all = "all"
    """Every parent's."""


class Norm(Enum):
    """What each parent's Fisher is divided by."""

    model = "model"
    """The L2 norm of all of it."""
    tensor = "tensor"
    """Each tensor's by its own L2 norm."""
    none = "none"
    """Nothing."""


@option("merge", "fisher")
@dataclass(kw_only=True, slots=True)
class FisherConfig(MergeConfig):
    """Mean weighted by the diagonal Fisher information."""

    statistics: ClassVar[str] = "fisher"

    labels: Labels = Labels.model
    """What gradients are taken of: model (tokens drawn from it), data (the documents' own)."""
    floor: float = 1e-6
    """Least value of the Fisher (squared nats over a squared unit of weight), before it is normalised."""
    floored: Floored = Floored.first
    """Whose Fisher is raised to the floor: first, all."""
    normalize: Norm = Norm.model
    """Divide each parent's Fisher by the L2 norm of: model, tensor; none."""

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        if self.floor < 0:
            raise ConfigError(f"merge.floor={self.floor} must be at least 0; 1e-6 is usual")
        refuse_negative(self.shares(len(self.models) or 1))

    def build(self) -> SameShapes:
        return SameShapes(self.mean)

    def mean(self, given: Given) -> Tensor:
        """The weighted mean, entry by entry, of what is given."""
        shares = normalised(self.shares(len(given.tensors)))
        first = given.statistics[0] if given.statistics else None
        if first is None:
            return weighted_sum(given.tensors, shares)
        top, bottom, plain = (torch.zeros_like(first, dtype=torch.float64) for _ in range(3))
        dtype = torch.float32
        for number, (tensor, share) in enumerate(zip(given.tensors, shares, strict=True)):
            weight = share * self._weight(number, given)
            top += weight * tensor
            bottom += weight
            plain += share * tensor
            dtype = tensor.dtype
        nothing = bottom == 0
        return torch.where(nothing, plain, top / bottom.masked_fill(nothing, 1)).to(dtype)

    def _weight(self, number: int, given: Given) -> Tensor:
        """What a parent's entries count, in float64: divided by a norm they may be far below what float32 holds."""
        fisher = given.statistics[number]
        assert fisher is not None
        fisher = fisher.double()
        norm = given.norms[number] if self.normalize is Norm.model else float(fisher.square().sum().sqrt())
        if number == 0 or self.floored is Floored.all:
            fisher = fisher.clamp_min(self.floor)
        return fisher / norm if norm > 0 and self.normalize is not Norm.none else fisher
