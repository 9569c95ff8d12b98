"""Interleaved-head attention ("Interleaved Head Attention", arXiv 2602.21371): P pseudo-heads a head, each a learned
mixture of all heads, laid one after the other along the row and attended as one longer row.

`reference.py` is the definition, `stock.py` the composition of torch's operations that training and decoding use.
"""

from torch import Tensor

from rlx.errors import ConfigError
from rlx.kernels.base import Impl
from rlx.kernels.iha import reference, stock


def interleaved_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mix_q: Tensor,
    mix_k: Tensor,
    mix_v: Tensor,
    collapse: Tensor,
    mask: Tensor | None = None,
    window: int | None = None,
    rotary: tuple[Tensor, Tensor] | None = None,
    norms: tuple[Tensor, Tensor, float] | None = None,
    impl: Impl = Impl.auto,
) -> Tensor:
    """[B, N, H, K]: heads that have attended by way of their pseudo-heads.

    Args:
        q, k, v: [B, N, H, K], one dtype; the output has it too.
        mix_q, mix_k, mix_v: [H, H, P]; pseudo-head p of head h is the sum over m of mix[m, h, p] times head m.
        collapse: [H, H, P], what head h takes of pseudo-head p of head h'; or [H, 1, P], of its own pseudo-heads alone.
        mask: [B or 1, 1, N P, N P] bool, True where a virtual position sees another (`reference.seen`); None: the
            earlier ones and itself, within `window`.
        window: tokens that a token sees, itself included; with a mask, which has to say so too, it tells what need not
            be computed. None: all.
        rotary: cos and sin, each [B or 1, 1, N P, K], by which queries and keys are turned after the mixing.
        norms: scales [K] of queries and keys and epsilon of an RMS norm between mixing and turning.
        impl: `auto` is the fastest that there is.

    Raises:
        ConfigError: an implementation that cannot do it.
    """
    if choose(impl, pseudo=mix_q.shape[-1]) is Impl.reference:
        if mask is None:
            mask = reference.seen(q.shape[1], mix_q.shape[-1], flat=True, window=window, documents=None).to(q.device)
        core = reference.interleaved_attention
        return core(
            q, k, v, mix_q=mix_q, mix_k=mix_k, mix_v=mix_v, collapse=collapse, mask=mask, rotary=rotary, norms=norms
        )
    return stock.interleaved_attention(
        q,
        k,
        v,
        mix_q=mix_q,
        mix_k=mix_k,
        mix_v=mix_v,
        collapse=collapse,
        mask=mask,
        window=window,
        rotary=rotary,
        norms=norms,
    )


def choose(impl: Impl, *, pseudo: int) -> Impl:
    """The implementation that `impl` is, with `pseudo` pseudo-heads a head.

    Raises:
        ConfigError: it cannot be had.
    """
    if impl is Impl.auto:
        return Impl.torch
    if impl not in (Impl.reference, Impl.torch):
        raise ConfigError(
            f"interleaved-head attention of {pseudo} pseudo-heads cannot be had as {impl.value}; take auto, torch or "
            "reference"
        )
    return impl
