"""ALiBi and Hard-ALiBi: slopes of transformers' Bloom, masks and biases worked by hand, in each form of attention."""

import pytest
import torch
from torch.nn import functional as F

from rlx.nn import attention
from rlx.nn.alibi import alibi, head_windows, slopes
from rlx.nn.attention import attend_blocks, attend_cached
from rlx.nn.rows import Pass, seen_by

INF = float("inf")


def row_of(length: int, documents: list[int] | None = None) -> Pass:
    """A pass without a cache over one row."""
    numbers = None if documents is None else torch.tensor([documents])
    return Pass(positions=torch.arange(length)[None], documents=numbers, slots=None, lengths=None)


def from_cache(positions: list[list[int]], slots: int) -> Pass:
    return Pass(positions=torch.tensor(positions), documents=None, slots=slots, lengths=None)


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 25])
def test_slopes_are_those_of_bloom(heads: int) -> None:
    pytest.importorskip("transformers")
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)  # [H, 1, 2]: slope times place
    torch.testing.assert_close(slopes(heads), theirs[:, 0, 1])


def test_the_bias_of_packed_documents_by_hand() -> None:
    """Two heads, of slopes 1/16 and 1/256; the second document begins at the third token."""
    _, made = alibi(2, None)
    found = made(row_of(4, [0, 0, 1, 1]))
    far = 1 / 16
    assert found.shape == (1, 2, 4, 4)
    assert found[0, 0].tolist() == [
        [0, -INF, -INF, -INF],
        [-far, 0, -INF, -INF],
        [-INF, -INF, 0, -INF],
        [-INF, -INF, -far, 0],
    ]
    assert found[0, 1, 1, 0] == -1 / 256


def test_the_bias_of_a_cache_by_hand() -> None:
    """Rows at unequal positions, and a window of two."""
    _, made = alibi(1, 2)
    far = 1 / 256
    found = made(from_cache([[0], [2]], 4))
    assert found[:, 0, 0].tolist() == [[0, -INF, -INF, -INF], [-INF, -far, 0, -INF]]


@pytest.mark.parametrize("cached", [False, True], ids=["whole rows", "from a cache"])
def test_head_i_sees_min_t_i_plus_1_tokens(cached: bool) -> None:
    heads, hard, length = 6, 4, 9
    _, made = seen_by(head_windows(heads, None, hard))
    found = made(from_cache([list(range(length))], length) if cached else row_of(length))
    assert found is not None and found.shape == (1, heads, length, length)
    for head in range(heads):
        for t in range(1, length + 1):
            assert int(found[0, head, t - 1].sum()) == (min(t, head + 1) if head < hard else t)
            assert found[0, head, t - 1, t - 1], "the token itself, and those right before it"
            assert not found[0, head, t - 1, t:].any()


def test_hard_heads_do_not_look_across_documents() -> None:
    _, made = seen_by(head_windows(3, None, 2))
    found = made(row_of(5, [0, 0, 1, 1, 1]))
    assert found[0, :, 2].int().tolist() == [[0, 0, 1, 0, 0]] * 3
    assert found[0, :, 4].int().tolist() == [[0, 0, 0, 0, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]]


def test_a_window_of_the_layer_is_one_of_all_its_heads() -> None:
    assert head_windows(4, 3, 0) == 3 and head_windows(4, None, 0) is None
    assert head_windows(5, 2, 3) == (1, 2, 2, 2, 2)


def some(length: int, groups: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, length, 8, generator=generator).requires_grad_() for heads in (4, groups, groups)]


def masks(length: int) -> dict[str, torch.Tensor]:
    """One a head, and a bias; of two rows, one with two documents."""
    documents = torch.tensor([[0] * (length // 3) + [1] * (length - length // 3), [0] * length])
    known = Pass(positions=torch.arange(length)[None], documents=documents, slots=None, lengths=None)
    return {"one a head": seen_by(head_windows(4, None, 2))[1](known), "bias": alibi(4, None)[1](known)}


@pytest.mark.parametrize("kind", ["one a head", "bias"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("length", [3, 64, 70])
def test_blocks_are_torchs_attention(length: int, groups: int, kind: str) -> None:
    mask, (q, k, v) = masks(length)[kind], some(length, groups)
    found = attend_blocks(q, k, v, mask)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    mine, theirs = (torch.autograd.grad(out.square().sum(), (q, k, v)) for out in (found, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("compiling", [False, True], ids=["eager", "the form that is compiled"])
@pytest.mark.parametrize("kind", ["one a head", "bias"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_one_token_from_a_cache(groups: int, kind: str, compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention.torch.compiler, "is_compiling", lambda: compiling)
    mask, (q, k, v) = masks(20)[kind][:, :, -1:], (tensor.detach() for tensor in some(20, groups))
    found = attend_cached(q[:, :, -1:], k.transpose(-1, -2), v, mask)
    expected = F.scaled_dot_product_attention(q[:, :, -1:], k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
