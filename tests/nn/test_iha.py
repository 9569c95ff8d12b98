"""Interleaved-head attention as a layer: masks and places of virtual positions, its start, and what it costs."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rlx.kernels.base import notes_of_a_run
from rlx.kernels.iha import reference, stock
from rlx.models.iha import IhaConfig
from rlx.models.layers.iha import IhaCollapse, IhaMask
from rlx.nn.iha import InterleavedAttention, rotary_of, seen_of, virtual_positions
from rlx.nn.rope import rotary_tables
from rlx.nn.rows import Pass


def known(**given: Any) -> Pass:
    return Pass(**{"positions": torch.arange(3)[None], "documents": None, "slots": None, "lengths": None, **given})


def layer(**changes: Any) -> InterleavedAttention:
    given = {"d_model": 12, "n_heads": 3, "head_dim": 4, "pseudo": 2, "flat": True, "shared_rotary": False}
    more = {"full_collapse": True, "noise": 0.02, "qk_norm": False, "norm_eps": 1e-5, "rope_theta": 100.0}
    return InterleavedAttention(**{**given, **more, **changes})


FLAT = [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1] * 4 + [0] * 2, [1] * 5 + [0], [1] * 6]
TOKEN = [[1, 1, 0, 0, 0, 0]] * 2 + [[1, 1, 1, 1, 0, 0]] * 2 + [[1] * 6] * 2


def test_masks_by_hand() -> None:
    def mask(flat: bool, window: int | None = None, **given: Any) -> Any:
        found = seen_of(2, flat=flat, window=window)[1](known(**given))
        return None if found is None else found[0, 0].int().tolist()

    assert mask(True) is None and mask(True, window=2) is None, "the kernel's own"
    assert mask(False) == TOKEN
    assert mask(False, window=1) == [[1, 1, 0, 0, 0, 0]] * 2 + [[0, 0, 1, 1, 0, 0]] * 2 + [[0] * 4 + [1, 1]] * 2
    cached = {"slots": 3, "positions": torch.tensor([[1, 2]])}
    assert mask(True, **cached) == FLAT[2:] and mask(False, **cached) == TOKEN[2:]
    assert mask(True, window=1, **cached) == [
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0] * 4 + [1, 0],
        [0] * 4 + [1, 1],
    ]


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "token"])
def test_masks_of_packed_rows_are_the_definition(flat: bool, window: int | None) -> None:
    documents = torch.tensor([[0, 0, 0, 1, 1, -1], [0, 1, 1, 1, 1, 1]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]])
    found = seen_of(3, flat=flat, window=window)[1](known(documents=documents, positions=positions))
    assert torch.equal(found, reference.seen(6, 3, flat=flat, window=window, documents=documents))


def test_different_needs_have_different_names() -> None:
    needs = [(p, flat, window) for p in (1, 2) for flat in (True, False) for window in (None, 2, 3)]
    assert len({seen_of(p, flat=flat, window=window)[0] for p, flat, window in needs}) == len(needs)
    turns = [
        (p, k, theta, shared) for p in (1, 2) for k in (4, 6) for theta in (10.0, 20.0) for shared in (True, False)
    ]
    assert len({rotary_of(p, k, t, shared=shared)[0] for p, k, t, shared in turns}) == len(turns)


def test_places_by_hand() -> None:
    positions = torch.tensor([[0, 1, 0, 4]])
    assert virtual_positions(positions, 3).tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2, 12, 13, 14]]
    cos, _ = rotary_of(2, 4, 10.0, shared=True)[1](known(positions=positions))
    expected = rotary_tables(torch.tensor([[0, 0, 1, 1, 0, 0, 4, 4]]), head_dim=4, theta=10.0)[0]
    assert torch.equal(cos, expected)


def test_it_begins_near_its_heads() -> None:
    torch.manual_seed(0)
    mixer = layer(n_heads=12, head_dim=2, pseudo=6, noise=0.05)
    mixer.reset_own()
    own = torch.eye(12)[..., None]
    for mix in (mixer.mix_q, mixer.mix_k, mixer.mix_v):
        noise = mix.detach() - own
        assert noise.std().item() == pytest.approx(0.05, rel=0.1) and abs(noise.mean().item()) < 0.01
    assert not torch.equal(mixer.mix_q, mixer.mix_k)
    assert torch.equal(mixer.collapse, own.expand(-1, -1, 6) / 6)
    less = layer(full_collapse=False, pseudo=6)
    less.reset_own()
    assert torch.equal(less.collapse, torch.full((3, 1, 6), 1 / 6))


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "token"])
@pytest.mark.parametrize("pseudo", [1, 2, 3])
@pytest.mark.parametrize("window", [None, 3])
def test_operations_are_those_of_the_pairs_that_are_seen(window: int | None, pseudo: int, flat: bool) -> None:
    length = 8
    mixer = layer(pseudo=pseudo, flat=flat, window=window)
    mask = reference.seen(length, pseudo, flat=flat, window=window, documents=None)[0, 0]
    pairs = mask.sum(1).view(length, pseudo).sum(1).double()  # of each token
    attended = torch.arange(1, length + 1, dtype=torch.float64)
    products = 2 * 4 * 3**2 * pseudo * 4  # 4 H^2 P weights, each for every number of a head
    assert torch.equal(mixer.flops(attended, cached=False), 4 * 3 * 4 * pairs + products)


def test_operations_are_those_that_torch_counts() -> None:
    rows, length = 2, 9
    model = IhaConfig(d_model=12, n_layers=1, n_heads=3, pseudo_heads=2, iha_mask=IhaMask.token).build(7)
    mixer: Any = model.blocks[0].mixer
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    given = model.rows(tokens)
    x = torch.randn(rows, length, 12)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        mixer(x, rows=given)
    linear = 2 * rows * length * sum(p.weight.numel() for p in (mixer.qkv, mixer.out))
    square = mixer.flops(torch.tensor([float(length)]), cached=False).item()  # the counter takes the whole square
    assert counter.get_total_flops() == linear + rows * length * square


@pytest.mark.parametrize("settings", [{}, {"iha_mask": IhaMask.token}, {"window": 3, "layers": ["iha.local"]},
                                      {"iha_collapse": IhaCollapse.per_head, "qk_norm": True}],
                         ids=["plain", "token mask", "window", "own collapse, normed"])  # fmt: skip
def test_a_compiled_step_is_the_eager_one(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the form that is compiled: a token at a time, rows at places of their own."""
    torch.manual_seed(0)
    model = IhaConfig(**{"d_model": 16, "n_layers": 2, "n_heads": 2, "init_std": 0.3, "pseudo_heads": 3, **settings})
    decoder = model.build(11)
    tokens, given = torch.randint(11, (2, 9)), torch.tensor([2, 4])
    with torch.no_grad():
        whole, _ = decoder(tokens)
        cache = decoder.new_cache(2, 9)
        decoder(tokens[:, :4], cache=cache, slots=4, lengths=given)
        monkeypatch.setattr(stock.torch.compiler, "is_compiling", lambda: True)
        for step in range(5):
            place = given + step
            new = tokens.gather(1, place[:, None])
            found, _ = decoder(new, positions=place[:, None], cache=cache)
            torch.testing.assert_close(found[:, 0], whole[torch.arange(2), place], atol=1e-5, rtol=1e-5)


def test_a_run_is_told_which_implementation_it_has() -> None:
    notes = notes_of_a_run()
    model = IhaConfig(d_model=16, n_layers=1).build(11)
    model(torch.zeros(1, 2, dtype=torch.int64))
    assert notes == {"interleaved_attention": "torch"}
