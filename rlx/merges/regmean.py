"""`merge=regmean`: linear layers whose outputs are, on the parents' own documents, nearest to the parents' (Jin et al.,
arXiv 2212.09849).

W of a layer minimises sum_i l_i ||X_i W^T - X_i W_i^T||^2, X_i [N, I] being what goes into parent i's
layer: W^T = (sum l_i G_i)^-1 sum l_i G_i W_i^T with G_i = X_i^T X_i, solved in float64. Where there were choices:

1. Off-diagonal entries of G_i are multiplied by `shrink` (the paper's alpha, for which values
   from 0.1 to 0.9 are used): the result then leans less on how inputs of few documents go together.
2. G_i is the sum over tokens, as the paper writes it: a parent's expert that few tokens were sent to counts little.
3. `ridge` times the mean of the diagonal is added to the diagonal, and as much of the weighted mean to the other side:
   inputs that no parent ever has keep the weighted mean instead of none, and equal parents give themselves. The paper
   adds nothing; with `ridge=0` a layer that cannot be solved is an error.
4. Linear layers are all that a model has, the head too where it is no embedding; several projections of one input are
   one layer. Of a stack of experts each has the Gram matrix of the tokens that its own router sent there, whatever
   their gates. All else is the weighted mean: embeddings, norms, routers, convolutions, recurrent matrices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import Given, MergeConfig, SameShapes, normalised, refuse_negative, weighted_sum
from rlx.options import option


@option("merge", "regmean")
@dataclass(kw_only=True, slots=True)
class RegMeanConfig(MergeConfig):
    """Linear layers nearest in their outputs, the rest a weighted mean."""

    statistics: ClassVar[str] = "inputs"

    shrink: float = 0.9
    """What off-diagonal entries of Gram matrices are multiplied by, 0 to 1."""
    ridge: float = 1e-6
    """Added to the diagonals, as a share of their mean."""

    def __post_init__(self) -> None:
        MergeConfig.__post_init__(self)
        if not 0 <= self.shrink <= 1:
            raise ConfigError(f"merge.shrink={self.shrink} must be 0 to 1; 0.9 is usual")
        if self.ridge < 0:
            raise ConfigError(f"merge.ridge={self.ridge} must be at least 0; 1e-6 is usual")
        refuse_negative(self.shares(len(self.models) or 1))

    def build(self) -> SameShapes:
        return SameShapes(self.mean)

    def mean(self, given: Given) -> Tensor:
        """The solution where there are Gram matrices, else the weighted mean."""
        shares = normalised(self.shares(len(given.tensors)))
        grams = [gram for gram in given.statistics if gram is not None]
        if len(grams) < len(given.tensors):
            return weighted_sum(given.tensors, shares)
        return self._solved(given.tensors, grams, shares)

    def _solved(self, tensors: Sequence[Tensor], grams: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """[..., O, I] from parents' [..., O, I] and Gram matrices [..., I, I].

        Raises:
            ConfigError: the sum of the Gram matrices is singular.
        """
        added = self.ridge * self._scale(grams, shares)
        left, right = torch.zeros_like(grams[0], dtype=torch.float64), None
        for tensor, gram, share in zip(tensors, grams, shares, strict=True):
            own = share * (self._shrunk(gram.double()) + added * torch.eye(gram.shape[-1], dtype=torch.float64))
            left += own
            term = own @ tensor.double().transpose(-1, -2)
            right = term if right is None else right.add_(term)
        assert right is not None
        solved = torch.linalg.solve_ex(left, right)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        found, failed = cast(tuple[Tensor, Tensor], solved)
        if failed.any() or not found.isfinite().all():
            raise ConfigError(
                "inputs of a linear layer do not span its width; take more merge.stat_tokens, or a merge.ridge above 0"
            )
        return found.transpose(-1, -2).to(tensors[0].dtype).contiguous()

    def _shrunk(self, gram: Tensor) -> Tensor:
        diagonal = torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
        return self.shrink * gram + (1 - self.shrink) * diagonal

    def _scale(self, grams: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """[..., 1, 1] float64, the mean of the diagonal of the weighted sum; 1 where it is 0."""
        means = torch.stack([gram.diagonal(dim1=-2, dim2=-1).double().mean(-1) for gram in grams], -1)
        mean = (means * torch.tensor(shares, dtype=torch.float64)).sum(-1)
        return torch.where(mean > 0, mean, 1.0)[..., None, None]
