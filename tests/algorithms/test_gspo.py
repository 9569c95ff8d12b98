"""algorithm=gspo against its equation in both of its forms, and hand-worked ratios."""

import math

import pytest
import torch

from rlx.algorithms.base import Normalization
from rlx.algorithms.gspo import GspoConfig
from tests.algorithms import plain
from tests.algorithms.plain import Completion, clipped, completion, drawn
from tests.algorithms.rollouts import agree, gradient_of, step_of


def log_ratio(row: Completion) -> torch.Tensor:
    """Mean over a row's tokens of log p - log p_old."""
    return plain.sum_of([now - old for now, old in zip(row.now, row.sampled, strict=True)]) / len(row)


def by_sequence(rows: list[Completion], low: float, high: float) -> torch.Tensor:
    """The paper's equation 5: a loss a row."""
    advantages = plain.by_group(rows)
    losses = [clipped(log_ratio(row).exp(), a, low, high) for a, row in zip(advantages, rows, strict=True)]
    return plain.sum_of(losses) / len(rows)


def by_token(rows: list[Completion], low: float, high: float) -> torch.Tensor:
    """The token form: s_it = stop(s_i) * p / stop(p), a mean over rows of means over tokens."""
    losses = []
    for a, row in zip(plain.by_group(rows), rows, strict=True):
        whole = log_ratio(row).exp().detach()
        losses.append([clipped(whole * (now - now.detach()).exp(), a, low, high) for now in row.now])
    return plain.reduced(losses, "sequence")


@pytest.mark.parametrize(("low", "high"), [(3e-4, 4e-4), (0.2, 0.3)], ids=["narrow", "wide"])
@pytest.mark.parametrize("seed", range(2))
def test_both_forms_have_the_gradient_of_the_algorithm(seed: int, low: float, high: float) -> None:
    rows = drawn(seed)
    config = GspoConfig(clip_low=low, clip_high=high)
    agree(config, rows, by_sequence(rows, low, high), extra=seed)
    agree(config, rows, by_token(rows, low, high), extra=seed)


def test_the_ratio_is_the_geometric_mean_of_the_tokens() -> None:
    """Ratios 2 and 8: 4. A row's advantage is -1/sqrt(2), so that it is pushed at that ratio."""
    bad, good = completion(0.0, 2), completion(1.0, 3)
    bad.now = [plain.scalar(old + math.log(ratio)) for old, ratio in zip(bad.sampled, (2.0, 8.0), strict=True)]
    loss, gradient, _ = step_of(GspoConfig(std_eps=0.0), [bad, good])
    advantage = 1 / math.sqrt(2)
    assert loss == pytest.approx((4 * advantage - advantage) / 2)
    assert gradient == [pytest.approx([4 * advantage / 2 / 2] * 2), pytest.approx([-advantage / 3 / 2] * 3)]


def test_a_row_is_clipped_as_a_whole() -> None:
    """By 1 - 3e-4 and 1 + 4e-4, however far single tokens are."""
    for change, moves in ((1.00035, True), (1.00045, False)):
        good = completion(1.0, 2)
        far = (3.0, change**2 / 3.0)  # geometric mean: the change
        good.now = [plain.scalar(old + math.log(ratio)) for old, ratio in zip(good.sampled, far, strict=True)]
        gradient, _ = gradient_of(GspoConfig(), [good, completion(0.0)])
        assert [bool(slope) for slope in gradient] == [moves] * 2
    for change, moves in ((0.99975, True), (0.99965, False)):
        _, gradient = gradient_of(GspoConfig(), [completion(1.0), completion(0.0, 2, ratio=change)])
        assert [bool(slope) for slope in gradient] == [moves] * 2


def test_a_row_weighs_the_mean_of_its_tokens_importance_weights() -> None:
    """The sampler's probability 1/4, the trainer's 1/2 and 1/8: (min(2, 1.5) + 1/2) / 2 = 1, at ratio 1."""
    bad = completion(0.0, 2)
    bad.trainer = [math.log(0.5), math.log(0.125)]
    bad.now = [plain.scalar(value) for value in bad.trainer]
    _, gradient = gradient_of(GspoConfig(std_eps=0.0, importance_sampling_cap=1.5), [completion(1.0), bad])
    assert gradient == pytest.approx([1 / math.sqrt(2) / 2 / 2] * 2)


def test_clipped_rows_are_counted_by_their_tokens() -> None:
    rows = [completion(1.0, 1, ratio=2.0), completion(0.0, 3, ratio=1.0001), completion(0.0, 1, ratio=0.5)]
    _, _, metrics = step_of(GspoConfig(), rows)
    assert metrics["clip_ratio/high_mean"].item() == pytest.approx(1 / 5)
    assert metrics["clip_ratio/low_mean"].item() == pytest.approx(1 / 5)


def test_summed_over_tokens_rows_weigh_by_their_length() -> None:
    """LUSPO: a row's loss times its tokens."""
    rows = drawn(3)
    losses = [
        len(row) * clipped(log_ratio(row).exp(), a, 0.2, 0.2) for a, row in zip(plain.by_group(rows), rows, strict=True)
    ]
    config = GspoConfig(normalization=Normalization.sum, clip_low=0.2, clip_high=0.2)
    agree(config, rows, plain.sum_of(losses) / len(rows))
