"""The predictor of remaining lengths against sums worked by hand, brute force, and data made to be learnt."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from rlx.decoding import lengths
from rlx.decoding.lengths import BINS, LengthProbe, Seen, check_apart, filtered, middle_layer
from rlx.errors import ConfigError

CPU = torch.device("cpu")


def probe_of(width: int = 8, most: int = 100, seed: int = 0) -> LengthProbe:
    return LengthProbe(width, most, seed=seed, device=CPU)


def rows_of(left: torch.Tensor, request: torch.Tensor, **more: Any) -> Seen:
    """Rows whose states tell what is left, at a place of their own each, and of which request they are."""
    generator = torch.Generator().manual_seed(int(left.sum()))
    states = 0.3 * torch.randn(len(left), 8, generator=generator)
    states[:, 0] += left / 50
    states[:, 1] += 1.0
    found = {"states": states, "left": left, "drawn": 100 - left, "predicted": left * 0 + 50.0, "request": request}
    return Seen(**{**found, **more})


def some_rows(count: int = 2000, seed: int = 0) -> Seen:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(1, 101, (count,), generator=generator)
    return rows_of(left, torch.arange(count) + 10_000 * seed)


@pytest.mark.parametrize(
    "most, left, expected",
    [
        (512, [1, 51, 52, 102, 103, 461, 512], [0, 0, 1, 1, 2, 9, 9]),
        (100, [1, 9, 10, 99, 100], [0, 0, 1, 9, 9]),
        (4, [1, 2, 4], [1, 2, 4]),
    ],
    ids=["paper", "100", "tokens"],
)
def test_bins_are_equal_over_all_lengths(most: int, left: list[int], expected: list[int]) -> None:
    """Ten of them; 51.2 tokens wide for 512, and never narrower than a token."""
    probe = probe_of(most=most)
    assert probe.labels(torch.tensor(left)).tolist() == expected
    middles = [(n + 0.5) * max(most / 10, 1) for n in range(10)]
    assert probe.mean(torch.eye(BINS)).tolist() == pytest.approx(middles)
    assert float(probe.mean(torch.full((1, BINS), 0.1))) == pytest.approx(5 * max(most / 10, 1))


def test_a_belief_moves_by_a_token_and_takes_what_the_state_says() -> None:
    """Three bins of width 4 by hand: from (0, 1/2, 1/2), 1/4 of each moves down; then times (.2, .2, .6)."""
    belief = torch.zeros(1, 10)
    belief[0, 1], belief[0, 2] = 0.5, 0.5
    now = torch.zeros(1, 10)
    now[0, :3] = torch.tensor([0.2, 0.2, 0.6])
    before = [0.5 / 4, 0.5 * 3 / 4 + 0.5 / 4, 0.5 * 3 / 4]
    after = [0.2 * before[0], 0.2 * before[1], 0.6 * before[2]]
    expected = [value / sum(after) for value in after] + [0.0] * 7
    assert filtered(belief, now, 4.0)[0].tolist() == pytest.approx(expected)


def test_without_evidence_a_belief_loses_a_token_a_step() -> None:
    """A flat likelihood leaves the transition alone: the mean falls by one a step until the lowest bin absorbs."""
    probe = probe_of(most=512)
    belief, flat = torch.eye(10)[9:], torch.full((1, 10), 0.1)
    means = []
    for _ in range(200):
        means.append(float(probe.mean(belief)))
        belief = filtered(belief, flat, probe.bin)
    falls = [one - other for one, other in pairwise(means)]
    assert falls[:100] == pytest.approx([1.0] * 100, abs=0.01)
    for _ in range(5000):
        belief = filtered(belief, flat, probe.bin)
    assert float(belief[0, 0]) == pytest.approx(1.0) and float(probe.mean(belief)) == pytest.approx(25.6)


def test_what_was_ruled_out_is_believed_anew() -> None:
    belief, now = torch.eye(10)[:1], torch.eye(10)[5:6]
    assert torch.equal(filtered(belief, now, 10.0), now)


def test_it_learns_what_the_states_tell() -> None:
    probe, test = probe_of(), some_rows(500, seed=7)
    probe.kept = some_rows()
    assert probe.fit(1) > probe.fit(600)
    with torch.no_grad():
        found = probe.mean(torch.softmax(probe.logits(test.states), -1))
    left = test.left.float()
    assert float((found - left).abs().mean()) < 0.5 * float((left - left.median()).abs().mean())


def test_a_rollout_is_measured_before_it_is_learnt_from() -> None:
    probe, seen = probe_of(), some_rows(300)
    figures = probe.learn(seen)
    left = seen.left.float()
    assert figures["lengths/error"] == pytest.approx(float((left - 50).abs().mean()))
    assert figures["lengths/error_constant"] == pytest.approx(float((left - left.median()).abs().mean()))
    assert probe.made == lengths.STEPS and len(probe.kept) == 300


def test_the_last_rows_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "ROWS", 500)
    probe, parts = probe_of(), [some_rows(300, seed=n) for n in range(3)]
    for part in parts:
        probe.learn(part)
    expected = Seen.joined(parts).rows(slice(400, None)).tensors()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in probe.kept.tensors().items())


def test_nothing_seen_is_nothing_learnt() -> None:
    probe = probe_of()
    assert probe.learn(Seen.none(8, CPU)) == {} and probe.made == 0
    assert probe.forecast(torch.arange(3)).seen(torch.zeros(3)).tensors().keys() == some_rows().tensors().keys()


def test_rows_of_a_request_stay_together() -> None:
    rows = rows_of(torch.randint(1, 101, (4000,)), torch.arange(4000) // 20)
    mine, others = rows.parted(0.8)
    assert not set(mine.request.tolist()) & set(others.request.tolist())
    assert len(mine) + len(others) == 4000 and 0.7 < len(mine) / 4000 < 0.9
    assert all(count == 20 for count in torch.cat((mine.request, others.request)).bincount().tolist())
    check_apart(mine, others)


def test_a_split_by_step_looks_better_and_is_refused() -> None:
    """States that tell the request and nothing of its length: steps of the same request give it away."""
    generator = torch.Generator().manual_seed(3)
    names, long = torch.randn(40, 8, generator=generator), torch.randint(1, 101, (40,), generator=generator)
    request = torch.arange(40).repeat_interleave(50)
    whole = rows_of(long[request], request, states=names[request])
    by_request, odd = whole.parted(0.8), torch.arange(len(whole)) % 5 == 0
    by_step = whole.rows(~odd), whole.rows(odd)

    def error(train: Seen, test: Seen) -> float:
        probe = probe_of()
        probe.kept = train
        probe.fit(400)
        with torch.no_grad():
            found = probe.mean(torch.softmax(probe.logits(test.states), -1))
        return float((found - test.left).abs().mean())

    assert error(*by_step) < 0.3 * error(*by_request)
    with pytest.raises(ConfigError, match=r"40 requests have rows both among .* split by request"):
        check_apart(*by_step)
    probe = probe_of()
    probe.learn(by_step[0])
    with pytest.raises(ConfigError, match="split by request"):
        probe.learn(by_step[1])


def test_learning_goes_on_from_a_state() -> None:
    whole, broken = probe_of(seed=5), probe_of(seed=5)
    parts = [some_rows(300, seed=n) for n in range(4)]
    for part in parts:
        whole.learn(part)
    for part in parts[:2]:
        broken.learn(part)
    again = probe_of(seed=5)
    again.restore(broken.state())
    for part in parts[2:]:
        again.learn(part)
    assert again.made == whole.made
    assert all(torch.equal(a, b) for a, b in zip(again.network.parameters(), whole.network.parameters(), strict=True))


@pytest.mark.parametrize("most, width", [(200, 8), (100, 16)], ids=["most", "width"])
def test_a_state_of_other_bins_is_left(most: int, width: int) -> None:
    learnt, other = probe_of(), probe_of(width, most)
    learnt.learn(some_rows(100))
    other.restore(learnt.state())
    assert other.made == 0 and len(other.kept) == 0


def test_it_takes_no_random_number_of_the_runs() -> None:
    torch.manual_seed(4)
    before = torch.get_rng_state()
    probe_of().learn(some_rows(100))
    assert torch.equal(torch.get_rng_state(), before)
    one, same, other = (probe_of(seed=seed).network[0].weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_arithmetic_is_that_of_float32_under_autocast() -> None:
    probe, states = probe_of(), some_rows(50).states
    with torch.autocast("cpu", torch.bfloat16):
        found = probe.logits(states.bfloat16().float())
    assert found.dtype is torch.float32 and torch.equal(found, probe.logits(states.bfloat16().float()))


@pytest.mark.parametrize("layers, layer", [(1, 0), (2, 0), (3, 0), (4, 1), (6, 2), (32, 15)])
def test_the_layer_is_in_the_middle(layers: int, layer: int) -> None:
    assert middle_layer(layers) == layer
