"""Interleaved-head attention against loops over its definition, and against plain attention where it must be that."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlx.errors import ConfigError
from rlx.kernels.base import Impl
from rlx.kernels.iha import interleaved_attention, stock
from rlx.kernels.iha.reference import seen

BOTH = pytest.mark.parametrize("impl", [Impl.reference, Impl.torch], ids=lambda impl: impl.value)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inputs(
    length: int, heads: int, width: int, pseudo: int, *, full: bool = True, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    shapes = {
        **dict.fromkeys(("q", "k", "v"), (2, length, heads, width)),
        **dict.fromkeys(("mix_q", "mix_k", "mix_v"), (heads, heads, pseudo)),
        "collapse": (heads, heads if full else 1, pseudo),
    }
    return {name: normal(*shape, seed=seed, dtype=dtype) for seed, (name, shape) in enumerate(shapes.items())}


def tables(positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
    angles = positions[:, None, :, None] * 100.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()


def by_loops(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_q: Tensor,
    mix_k: Tensor,
    mix_v: Tensor,
    collapse: Tensor,
    *,
    flat: bool,
    window: int | None,
    documents: Tensor | None,
    shared: bool | None,
    norms: tuple[Tensor, Tensor, float] | None,
) -> Tensor:
    """One number after the other; pairs are turned as complex numbers. `shared` None: nothing is turned."""
    batch, length, heads, width = q.shape
    pseudo, half = mix_q.shape[2], width // 2
    turns = 100.0 ** (-torch.arange(half, dtype=torch.float64) * 2 / width)

    def pseudo_head(x: Tensor, mix: Tensor, b: int, n: int, h: int, p: int, scale: Tensor | None) -> Tensor:
        found = sum((mix[m, h, p] * x[b, n, m] for m in range(heads)), torch.zeros(width, dtype=x.dtype))
        if scale is None:
            return found
        if norms is not None:
            found = found / math.sqrt(sum(float(c) ** 2 for c in found) / width + norms[2]) * scale
        if shared is None:
            return found
        pairs = torch.complex(found[:half], found[half:])
        pairs = pairs * torch.exp(1j * turns * (n if shared else n * pseudo + p))
        return torch.cat((pairs.real, pairs.imag))

    ones = torch.ones(width, dtype=q.dtype)
    q_scale, k_scale = (ones, ones) if norms is None else norms[:2]
    out = torch.zeros(batch, length, heads, width, dtype=q.dtype)
    for b in range(batch):
        attended = torch.zeros(length, pseudo, heads, width, dtype=q.dtype)
        for n in range(length):
            for p in range(pseudo):
                for h in range(heads):
                    scores, values = [], []
                    for m in range(n + 1):
                        for r in range(pseudo):
                            if flat and m == n and r > p:
                                continue
                            if window is not None and n - m >= window:
                                continue
                            if documents is not None and documents[b, n] != documents[b, m]:
                                continue
                            key = pseudo_head(k, mix_k, b, m, h, r, k_scale)
                            scores.append(pseudo_head(q, mix_q, b, n, h, p, q_scale) @ key / math.sqrt(width))
                            values.append(pseudo_head(v, mix_v, b, m, h, r, None))
                    attended[n, p, h] = torch.stack(scores).softmax(0) @ torch.stack(values)
        for n in range(length):
            for h in range(heads):
                for p in range(pseudo):
                    if collapse.shape[1] == 1:
                        out[b, n, h] += collapse[h, 0, p] * attended[n, p, h]
                        continue
                    for source in range(heads):
                        out[b, n, h] += collapse[h, source, p] * attended[n, p, source]
    return out


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one pseudo-head": {"pseudo": 1},
    "three pseudo-heads": {"pseudo": 3},
    "token mask": {"flat": False},
    "shared turns": {"shared": True},
    "not turned": {"shared": None},
    "own collapse": {"full": False},
    "normed": {"normed": True},
    "window": {"window": 2},
    "window of one token": {"window": 1, "pseudo": 3},
    "window, token mask": {"window": 2, "flat": False},
    "packed": {"packed": True},
    "packed window, token mask": {"packed": True, "window": 2, "flat": False, "pseudo": 3, "full": False},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_all_are_the_definition(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in blocks of few queries, and in the form that is compiled."""
    length, heads, width = 5, 3, 4
    pseudo, flat, window = case.get("pseudo", 2), case.get("flat", True), case.get("window")
    shared = case.get("shared", False)
    given = inputs(length, heads, width, pseudo, full=case.get("full", True))
    documents = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, -1]]) if "packed" in case else None
    norms = (normal(width, seed=8), normal(width, seed=9), 0.1) if "normed" in case else None
    expected = by_loops(**given, flat=flat, window=window, documents=documents, shared=shared, norms=norms)

    virtual = torch.arange(length * pseudo)[None]
    rotary = None if shared is None else tables(virtual // pseudo if shared else virtual, width)
    mask = seen(length, pseudo, flat=flat, window=window, documents=documents)
    if flat and documents is None:
        mask = None
    spans = seen(length, pseudo, flat=flat, window=window, documents=documents)
    for compiling, block in ((False, 64), (False, 4), (True, 64), (True, 4)):
        monkeypatch.setattr(stock, "BLOCK", block)
        monkeypatch.setattr(stock.torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        for impl in (Impl.reference, Impl.torch, Impl.auto):
            found = interleaved_attention(**given, mask=mask, window=window, rotary=rotary, norms=norms, impl=impl)
            torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
        q, k, v = (stock.virtual(given[x], given[f"mix_{x}"], None, None) for x in "qkv")
        blocks = stock.attend_blocks(q, k, v, mask, window=window, pseudo=pseudo)
        whole = F.scaled_dot_product_attention(q, k, v, attn_mask=spans)
        torch.testing.assert_close(blocks, whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("length", "pseudo", "window"), [(70, 2, None), (47, 3, 9), (65, 2, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_lower_precision_and_its_gradients(length: int, pseudo: int, window: int | None, dtype: torch.dtype) -> None:
    """Rows longer than a block. bf16 keeps 8 bits: an error of 2^-8 a rounding, of which there are a few."""
    given = inputs(length, 4, 8, pseudo)
    given = {name: x.to(dtype).double() for name, x in given.items()}
    weight = normal(2, length, 4, 8, seed=20).to(dtype)
    rotary = tables(torch.arange(length * pseudo)[None], 8)

    def run(impl: Impl, kind: torch.dtype) -> list[Tensor]:
        leaves = {name: x.to(kind).requires_grad_() for name, x in given.items()}
        out = interleaved_attention(**leaves, window=window, rotary=rotary, impl=impl)
        return [out, *torch.autograd.grad((out * weight.to(kind)).sum(), list(leaves.values()))]

    bound = 1e-5 if dtype is torch.float32 else 0.03
    for found, exact in zip(run(Impl.torch, dtype), run(Impl.reference, torch.float64), strict=True):
        assert found.dtype is dtype
        assert (found.double() - exact).norm() < bound * exact.norm()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain causal attention of heads [B, N, H, K]."""
    parts = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2)


def rotated(x: Tensor) -> Tensor:
    """[B, N, H, K] turned by its places."""
    cos, sin = tables(torch.arange(x.shape[1])[None], x.shape[3])
    first, second = x.transpose(1, 2).chunk(2, -1)
    return (x.transpose(1, 2) * cos + torch.cat((-second, first), -1) * sin).transpose(1, 2)


COLLAPSES = {"first": [1.0, 0, 0], "last": [0, 0, 1.0], "mean": [1 / 3] * 3, "any that sums to one": [0.7, -0.2, 0.5]}


@BOTH
@pytest.mark.parametrize("turned", ["not", "token", "virtual"])
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "token"])
@pytest.mark.parametrize("chosen", COLLAPSES)
def test_it_is_attention_exactly_where_it_must_be(chosen: str, flat: bool, turned: str, impl: Impl) -> None:
    length, heads, width, pseudo = 11, 3, 4, 3
    given = inputs(length, heads, width, pseudo)
    identity = torch.eye(heads, dtype=torch.float64)[..., None]
    given |= {f"mix_{x}": identity.expand(-1, -1, pseudo) for x in "qkv"}
    given["collapse"] = identity * torch.tensor(COLLAPSES[chosen], dtype=torch.float64)
    q, k, v = (given[x] for x in "qkv")
    plain = attention(q, k, v) if turned == "not" else attention(rotated(q), rotated(k), v)
    virtual = torch.arange(length * pseudo)[None]
    rotary = None if turned == "not" else tables(virtual if turned == "virtual" else virtual // pseudo, width)
    mask = None if flat else seen(length, pseudo, flat=False, window=None, documents=None)
    error = (interleaved_attention(**given, mask=mask, rotary=rotary, impl=impl) - plain).abs().max()
    same = turned != "virtual" and (not flat or chosen == "last")
    assert error < 1e-12 if same else error > 1e-2


@BOTH
def test_one_pseudo_head_is_attention_of_mixed_projections(impl: Impl) -> None:
    """W_h' = sum over m of mix[m, h] W_m, and the collapse folds into the output projection."""
    heads, width, d_model = 4, 6, 10
    x, out = normal(2, 9, d_model, seed=0), normal(heads, width, d_model, seed=1)
    projections = [normal(d_model, heads, width, seed=seed) for seed in (2, 3, 4)]
    mixes = [normal(heads, heads, 1, seed=seed) for seed in (5, 6, 7)]
    collapse = normal(heads, heads, 1, seed=8)
    q, k, v = (torch.einsum("bnd,dhk->bnhk", x, w) for w in projections)
    given = {"mix_q": mixes[0], "mix_k": mixes[1], "mix_v": mixes[2], "collapse": collapse}
    found = torch.einsum("bnhk,hkd->bnd", interleaved_attention(q, k, v, **given, impl=impl), out)
    folded = [torch.einsum("dmk,mh->dhk", w, mix[..., 0]) for w, mix in zip(projections, mixes, strict=True)]
    q, k, v = (torch.einsum("bnd,dhk->bnhk", x, w) for w in folded)
    expected = torch.einsum("bnhk,hkd->bnd", attention(q, k, v), torch.einsum("hg,hkd->gkd", collapse[..., 0], out))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@BOTH
@pytest.mark.parametrize("pseudo", [1, 2])
def test_on_repeated_tokens_only_pseudo_heads_are_not_linear(pseudo: int, impl: Impl) -> None:
    """With all tokens equal, attention gives back their value, linear in x, however the scores are."""
    given = inputs(6, 3, 4, pseudo)
    same = {x: given[x][:, :1].expand(-1, 6, -1, -1) for x in "qkv"}

    def out(scale: float) -> Tensor:
        return interleaved_attention(**{**given, **{x: scale * same[x] for x in "qkv"}}, impl=impl)

    error = (out(2.0) - 2 * out(1.0)).abs().max()
    assert error < 1e-12 if pseudo == 1 else error > 1e-2


def test_square_root_of_k_heads_filter_k_powers() -> None:
    """[X, AX, ..., A^(k-1) X] by linear attention on [X, I] (the paper's theorem), through our mixing and collapse.

    Head h has queries A^(h H); keys of source head j are A^j transposed and its values X in the j-th block of the
    width. Pseudo-heads take keys and values of source head p, so a head's first pseudo-query sums A^(h H + p) X, each
    in a block of its own.
    """
    n, d, powers = 8, 2, 9
    heads = pseudo = math.isqrt(powers - 1) + 1
    assert heads == 3
    a, x = normal(n, n, seed=0) / math.sqrt(n), normal(n, d, seed=1)
    power = [torch.linalg.matrix_power(a, i) for i in range(powers)]
    q = torch.stack([power[h * heads] for h in range(heads)], 1)[None]  # [1, N, H, N]
    k = torch.stack([power[j].T for j in range(heads)], 1)[None]  # query n times key m is (A^(h H) A^j)[n, m]
    v = torch.zeros(1, n, heads, pseudo * d, dtype=torch.float64)
    for j in range(heads):
        v[0, :, j, j * d : (j + 1) * d] = x
    own = torch.eye(heads, dtype=torch.float64)
    mix_q, mix_p = own[..., None].expand(-1, -1, pseudo), own[:, None].expand(-1, heads, -1)
    q, k, v = (stock.virtual(t, m, None, None) for t, m in ((q, mix_q), (k, mix_p), (v, mix_p)))
    first = torch.zeros(pseudo, dtype=torch.float64)
    first[0] = 1
    found = stock.collapsed(q @ k.transpose(-1, -2) @ v, own[..., None] * first)  # [1, N, H, P d]
    expected = torch.cat([power[i] @ x for i in range(powers)], 1)
    torch.testing.assert_close(found.flatten(2)[0], expected, atol=1e-12, rtol=0)


@BOTH
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "token"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_token_changes_no_bit_before_it(dtype: torch.dtype, flat: bool, impl: Impl) -> None:
    length, pseudo, place = 70, 3, 41
    given = inputs(length, 4, 8, pseudo, dtype=dtype)
    mask = None if flat else seen(length, pseudo, flat=False, window=None, documents=None)
    before = interleaved_attention(**given, mask=mask, impl=impl)
    for x in "qkv":
        given[x][:, place] += 1
    after = interleaved_attention(**given, mask=mask, impl=impl)
    assert torch.equal(after[:, :place], before[:, :place])
    assert (after[:, place:] != before[:, place:]).flatten(2).any(-1).all()


@BOTH
@pytest.mark.parametrize("window", [13, 14, 1000])
def test_a_window_of_the_whole_row_is_none(window: int, impl: Impl) -> None:
    given = inputs(13, 3, 4, 2)
    found = interleaved_attention(**given, window=window, impl=impl)
    torch.testing.assert_close(found, interleaved_attention(**given, impl=impl), atol=1e-12, rtol=0)


@BOTH
@pytest.mark.parametrize("window", [None, 3])
def test_packed_documents_are_as_alone(window: int | None, impl: Impl) -> None:
    given = inputs(12, 3, 4, 2)
    documents = torch.tensor([[0] * 5 + [1] * 7] * 2)
    mask = seen(12, 2, flat=True, window=window, documents=documents)
    found = interleaved_attention(**given, mask=mask, window=window, impl=impl)
    for span in (slice(0, 5), slice(5, 12)):
        alone = {**given, **{x: given[x][:, span] for x in "qkv"}}
        expected = interleaved_attention(**alone, window=window, impl=impl)
        torch.testing.assert_close(found[:, span], expected, atol=1e-12, rtol=0)


@BOTH
@pytest.mark.parametrize(("flat", "window", "full"), [(True, None, True), (False, None, False), (True, 2, True)])
def test_gradients_are_those_of_differences(flat: bool, window: int | None, full: bool, impl: Impl) -> None:
    length, heads, pseudo, width = 5, 3, 2, 4
    given = inputs(length, heads, width, pseudo, full=full)
    mask = None if flat else seen(length, pseudo, flat=False, window=window, documents=None)
    norms = (normal(width, seed=8), normal(width, seed=9), 0.1)
    rotary = tables(torch.arange(length * pseudo)[None], width)

    def run(*tensors: Tensor) -> Tensor:
        named = dict(zip(given, tensors, strict=True))
        return interleaved_attention(**named, mask=mask, window=window, rotary=rotary, norms=norms, impl=impl)

    leaves = tuple((x[:1] if x.dim() == 4 else x).requires_grad_() for x in given.values())
    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("compiling", [False, True], ids=["eager", "the form that is compiled"])
def test_a_token_from_a_cache(compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock.torch.compiler, "is_compiling", lambda: compiling)
    q, k, v = (normal(2, 3, 20, 8, seed=seed, dtype=torch.float32) for seed in range(3))
    mask = torch.arange(20) <= torch.tensor([[6, 7], [18, 19]])[:, None, :, None]
    found = stock.attend_cached(q[:, :, :2], k.transpose(-1, -2), v, mask, pseudo=2)
    expected = F.scaled_dot_product_attention(q[:, :, :2], k, v, attn_mask=mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("impl", [Impl.triton, Impl.fla], ids=lambda impl: impl.value)
def test_an_implementation_that_is_not_there_is_one_line(impl: Impl) -> None:
    with pytest.raises(ConfigError, match=f"3 pseudo-heads cannot be had as {impl.value}; take auto, torch") as error:
        interleaved_attention(**inputs(4, 2, 4, 3), impl=impl)
    assert "\n" not in str(error.value)
