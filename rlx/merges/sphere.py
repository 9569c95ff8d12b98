"""Rules that look at angles between the parents' tensors: what they share.

The result of such a rule lies in the span of the tensors, so that it is a weighted sum of them whose coefficients
follow from the inner products alone. Those are taken once, in float64 and a block at a time; what comes after is
arithmetic on N numbers, whatever the size of the tensor.
"""

from collections.abc import Iterator, Sequence
from enum import Enum

import torch
from torch import Tensor

from rlx.merges.base import BLOCK

SMALL = 1e-8
"""A mean of unit vectors shorter than this has no direction."""


class Per(Enum):
    """What counts as one vector."""

    tensor = "tensor"
    """The whole tensor."""
    row = "row"
    """Each vector along the last axis (the inputs of one unit); a tensor of fewer than two axes is one."""


def as_rows(tensor: Tensor, per: Per) -> Tensor:
    """The tensor's vectors, [R, C]."""
    if per is Per.tensor or tensor.dim() == 0:
        return tensor.reshape(1, tensor.numel())
    return tensor.reshape(tensor.shape[:-1].numel(), tensor.shape[-1])


def blocks(matrix: Tensor) -> Iterator[tuple[slice, slice]]:
    """Where the blocks of a matrix lie, [R, C]."""
    rows, columns = matrix.shape
    height = max(1, BLOCK // max(1, columns))
    for top in range(0, rows, height):
        for left in range(0, columns, BLOCK):
            yield slice(top, top + height), slice(left, left + BLOCK)


def products(matrices: Sequence[Tensor]) -> Tensor:
    """Inner products of the N matrices' rows, [R, N, N] float64."""
    rows, count = matrices[0].shape[0], len(matrices)
    total = matrices[0].new_zeros((rows, count, count), dtype=torch.float64)
    for place in blocks(matrices[0]):
        block = torch.stack([matrix[place].double() for matrix in matrices], dim=1)  # [R', N, C']
        total[place[0]] += block @ block.mT
    return total


def combined(matrices: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    """sum_i c_i x_i of the rows, [R, C] in the dtype of the matrices.

    Args:
        matrices: N of [R, C].
        coefficients: [R, N].
    """
    total = torch.empty_like(matrices[0])
    factors = coefficients.to(total.dtype)
    for rows, columns in blocks(total):
        part = total[rows, columns]
        torch.mul(matrices[0][rows, columns], factors[rows, :1], out=part)
        for number, matrix in enumerate(matrices[1:], start=1):
            part.addcmul_(matrix[rows, columns], factors[rows, number : number + 1])
    return total


def inverse(values: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0."""
    return torch.where(values == 0, 0.0, 1 / torch.where(values == 0, 1.0, values))


def lengths(gram: Tensor) -> Tensor:
    """Norms of the vectors, [R, N], from their inner products [R, N, N]."""
    return gram.diagonal(dim1=-2, dim2=-1).sqrt()


def cosines(gram: Tensor) -> Tensor:
    """Of the angles between vectors, [R, N, N], from their inner products; 0 with a vector that is 0."""
    scale = inverse(lengths(gram))
    return (gram * scale.unsqueeze(-1) * scale.unsqueeze(-2)).clamp(-1, 1)


def length_of(coefficients: Tensor, gram: Tensor) -> Tensor:
    """Norm of a weighted sum of vectors, [R, 1], from its coefficients [R, N] and the vectors' inner products."""
    squared = (coefficients.unsqueeze(-2) @ gram @ coefficients.unsqueeze(-1)).squeeze(-1)
    return squared.clamp(min=0).sqrt()
