"""Mixture of experts: SwiGLU experts, each over the tokens that chose it. Nothing is dropped and nothing is padded.

1. The N * K pairs (token, choice) are put in the order of their experts, those of one expert in the order of their
   tokens, so that an expert's rows lie together: two matrix products an expert, over exactly its rows.
2. How many rows an expert has is known only when the numbers are there. What depends on it is inside two operations,
   `rlx::grouped_product` and `rlx::grouped_outer`, which a compiler takes as they are; everything else has fixed shapes
   and is compiled with the layers around it.
3. A row is read from its token and summed back into it through the order and its inverse, forward and backward: no sum
   depends on which thread comes first, so the same inputs give the same bits.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from rlx.errors import ConfigError
from rlx.kernels.base import Impl
from rlx.kernels.experts.reference import experts_reference
from rlx.kernels.precision import wide

__all__ = ["experts", "experts_reference", "pick"]


def pick(impl: Impl) -> Impl:
    """What `impl` means here.

    Raises:
        ConfigError: it cannot be had.
    """
    if impl is Impl.auto:
        return Impl.torch
    if impl not in (Impl.reference, Impl.torch):
        raise ConfigError(f"experts has no impl={impl.value}; take auto, reference or torch")
    return impl


def experts(
    x: Tensor, chosen: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor, *, impl: Impl = Impl.auto
) -> Tensor:
    """[N, D]: each token's answers from its experts, weighted by its gates and summed, in x's dtype.

    Args:
        x: [N, D], in float32 or float64, or with the weights in bfloat16 or float16.
        chosen: [N, K] int64, experts of each token, no two alike; 0 <= chosen < E is not looked at.
        gates: [N, K], weights of the answers; used in at least float32.
        gate_up: [E, 2I, D], of every expert its gate above its up projection.
        down: [E, D, I].
        impl: `reference` passes every token through every expert.

    Raises:
        ConfigError: the implementation cannot be had.
        ValueError: shapes that do not fit.
    """
    count, rows, width = gate_up.shape
    fits = x.shape[1:] == (width,) and chosen.shape == gates.shape and chosen.shape[:1] == x.shape[:1]
    if not fits or rows % 2 or down.shape != (count, width, rows // 2):
        shapes = ", ".join(str(tuple(each.shape)) for each in (x, chosen, gates, gate_up, down))
        raise ValueError(
            f"x [N, D], chosen and gates [N, K], gate_up [E, 2I, D], down [E, D, I] expected; got {shapes}"
        )
    with torch.autocast(x.device.type, enabled=False):
        if pick(impl) is Impl.reference:
            return experts_reference(x, chosen, gates, gate_up, down)
        return _grouped(x, chosen, gates, gate_up, down)


def _grouped(x: Tensor, chosen: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    order, inverse, ends = _sorted(chosen, len(gate_up))
    sent: Any = _Send.apply(x, order, inverse)  # [N * K, D]
    gate, up = grouped_product(sent, gate_up, ends, True).chunk(2, dim=-1)
    answers = grouped_product(F.silu(gate) * up, down, ends, True)  # [N * K, D]
    out: Any = _Collect.apply(answers, gates, order, inverse)
    return out


def _sorted(chosen: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs by expert: order [N * K] (pair n * K + k), its inverse [N, K], and where each expert's rows end [E]."""
    pairs = chosen.flatten()
    order = pairs.argsort(stable=True)
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(pairs), device=pairs.device))
    ends = (pairs[:, None] == torch.arange(count, device=pairs.device)).sum(0).cumsum(0)
    return order, inverse.view(chosen.shape), ends


class _Send(torch.autograd.Function):
    """Tokens [N, D] to rows [N * K, D] by expert."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order // inverse.shape[1])  # faster than x[...] on a CPU

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (inverse,) = ctx.saved_tensors
        return wide(_of_tokens(grad, inverse)).sum(1).to(grad.dtype), None, None


class _Collect(torch.autograd.Function):
    """Rows [N * K, D] by expert to tokens [N, D], each row weighted by its gate of [N, K]."""

    @staticmethod
    def forward(ctx: Any, answers: Tensor, gates: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(answers, gates, order, inverse)
        return (wide(_of_tokens(answers, inverse)) * gates[..., None]).sum(1).to(answers.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        answers, gates, order, inverse = ctx.saved_tensors
        weighed = wide(grad.index_select(0, order // inverse.shape[1])) * gates.flatten()[order, None]  # [N * K, D]
        to_gates = (wide(_of_tokens(answers, inverse)) * wide(grad)[:, None]).sum(-1)  # [N, K]
        return weighed.to(answers.dtype), to_gates.to(gates.dtype), None, None


def _of_tokens(rows: Tensor, inverse: Tensor) -> Tensor:
    """[N, K, D] from rows [N * K, D] by expert."""
    return rows.index_select(0, inverse.flatten()).view(*inverse.shape, rows.shape[-1])


@torch.library.custom_op("rlx::grouped_product", mutates_args=())
def grouped_product(rows: Tensor, weights: Tensor, ends: Tensor, transposed: bool) -> Tensor:
    """[M, O]: rows [M, D] times the matrix of their group, weights [G, O, D] transposed or [G, D, O] as they are;
    group g has the rows before ends[g] (ends [G] int64) that no earlier group has."""
    out = rows.new_empty(len(rows), weights.shape[1] if transposed else weights.shape[2])
    begin = 0
    for weight, end in zip(weights, ends.tolist(), strict=True):
        if end > begin:
            torch.mm(rows[begin:end], weight.t() if transposed else weight, out=out[begin:end])
        begin = end
    return out


@torch.library.custom_op("rlx::grouped_outer", mutates_args=())
def grouped_outer(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    """[G, O, D]: of each group the product of its rows, left [M, O] transposed times right [M, D]; 0 of an empty
    one."""
    out = left.new_empty(len(ends), left.shape[1], right.shape[1])
    begin = 0
    for product, end in zip(out, ends.tolist(), strict=True):
        if end > begin:
            torch.mm(left[begin:end].t(), right[begin:end], out=product)
        else:
            product.zero_()
        begin = end
    return out


@grouped_product.register_fake
def _(rows: Tensor, weights: Tensor, ends: Tensor, transposed: bool) -> Tensor:
    return rows.new_empty(rows.shape[0], weights.shape[1] if transposed else weights.shape[2])


@grouped_outer.register_fake
def _(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    return left.new_empty(ends.shape[0], left.shape[1], right.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, weights, ends, ctx.transposed = inputs
    ctx.save_for_backward(rows, weights, ends)


def _product_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    rows, weights, ends = ctx.saved_tensors
    grad = grad.contiguous()
    to_rows = grouped_product(grad, weights, ends, not ctx.transposed) if ctx.needs_input_grad[0] else None
    if not ctx.needs_input_grad[1]:
        return to_rows, None, None, None
    to_weights = grouped_outer(grad, rows, ends) if ctx.transposed else grouped_outer(rows, grad, ends)
    return to_rows, to_weights, None, None


grouped_product.register_autograd(_product_backward, setup_context=_keep)


@register_flop_formula([torch.ops.rlx.grouped_product, torch.ops.rlx.grouped_outer])
def _operations(first: torch.Size, second: torch.Size, *_: Any, out_shape: torch.Size, **__: Any) -> int:
    """Multiplications and additions, for torch's counter: every row meets one matrix."""
    outer = len(out_shape) == 3
    return 2 * first[0] * first[1] * (second[1] if outer else out_shape[1])
