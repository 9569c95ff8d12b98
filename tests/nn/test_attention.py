"""The forms of attention against torch's, with gradients: blocks of queries, grouped heads, masks, and from a cache."""

import pytest
import torch
from torch.nn import functional as F

from rlx.nn import attention
from rlx.nn.attention import attend_blocks, attend_cached


def inputs(length: int, groups: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 4, length, 8), (2, groups, length, 8), (2, groups, length, 8))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def document_mask(length: int) -> torch.Tensor:
    documents = torch.tensor([[0] * (length // 3) + [1] * (length - length // 3), [0] * length])
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same & torch.ones(length, length, dtype=torch.bool).tril()


@pytest.mark.parametrize("length", [1, 63, 64, 65, 150])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True], ids=["causal", "documents"])
def test_blocks_are_torchs_attention(length: int, groups: int, masked: bool) -> None:
    mask = document_mask(length) if masked else None
    q, k, v = inputs(length, groups)
    weight = torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    found = attend_blocks(q, k, v, mask)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    mine = torch.autograd.grad((found * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_large_scores_do_not_overflow() -> None:
    q, k, v = inputs(70, 4)
    found = attend_blocks(q * 1000, k * 1000, v, None)
    assert found.isfinite().all()
    torch.testing.assert_close(found, F.scaled_dot_product_attention(q * 1000, k * 1000, v, is_causal=True))


@pytest.mark.parametrize("compiling", [False, True], ids=["eager", "the form that is compiled"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_one_token_from_a_cache(groups: int, compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention.torch.compiler, "is_compiling", lambda: compiling)
    q, k, v = (tensor.detach() for tensor in inputs(20, groups))
    mask = torch.arange(20) <= torch.tensor([7, 19])[:, None, None, None]
    found = attend_cached(q[:, :, :1], k.transpose(-1, -2), v, mask)
    expected = F.scaled_dot_product_attention(q[:, :, :1], k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
