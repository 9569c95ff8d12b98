"""algorithm=reinforce against its equation, and its running baseline by hand."""

import pytest
import torch

from rlx.algorithms.reinforce import Baseline, Reinforce, ReinforceConfig
from rlx.errors import ConfigError
from tests.algorithms import plain
from tests.algorithms.plain import Completion, completion, drawn
from tests.algorithms.rollouts import advantages_of, agree, gradient_of, step_of


def log_loss(rows: list[Completion], advantages: list[float]) -> torch.Tensor:
    """Mean over rows of -A log p of the whole completion."""
    return plain.reduced([[-a * value for value in row.now] for a, row in zip(advantages, rows, strict=True)], "sum")


@pytest.mark.parametrize("baseline", list(Baseline), ids=lambda b: b.value)
def test_loss_and_gradient_are_the_equation(baseline: Baseline) -> None:
    """Running, in the first iteration, is that iteration's own mean."""
    rows = drawn(2)
    mean = 0.0 if baseline is Baseline.none else sum(row.reward for row in rows) / len(rows)
    agree(ReinforceConfig(baseline=baseline), rows, log_loss(rows, [row.reward - mean for row in rows]), extra=2)


def test_the_divergence_is_a_cost_of_tokens() -> None:
    rows = drawn(3)
    costs = [sum(row) for row in plain.costed(rows, 0.4, plain.k1)]
    agree(ReinforceConfig(baseline=Baseline.none, kl_coefficient=0.4), rows, log_loss(rows, costs))


def test_there_is_no_ratio() -> None:
    """However far the policy has gone from the one that sampled, the gradient is the same; and no clip is counted."""
    near, far = ([completion(1.0, 2, ratio=ratio), completion(0.0, 1, ratio=ratio)] for ratio in (1.0, 50.0))
    assert gradient_of(ReinforceConfig(), near) == gradient_of(ReinforceConfig(), far) == [[-0.25] * 2, [0.25]]
    assert step_of(ReinforceConfig(), near)[2] == {}


def rewarded(*rewards: float) -> list[Completion]:
    return [completion(reward) for reward in rewards]


def test_the_running_baseline_by_hand() -> None:
    """Means 1/2, 1 and 1/4 at decay 0.9: baselines 1/2 (its own), 1/2, and 0.9 * 0.5 + 0.1 * 1 = 0.55."""
    algorithm = ReinforceConfig().build()
    assert advantages_of(algorithm, rewarded(1.0, 0.0)) == [[0.5], [-0.5]]
    assert advantages_of(algorithm, rewarded(1.0, 1.0)) == [[0.5], [0.5]]
    assert advantages_of(algorithm, rewarded(0.5, 0.0)) == [[pytest.approx(-0.05)], [pytest.approx(-0.55)]]
    assert algorithm.state() == {"baselines": {0: pytest.approx(0.9 * 0.55 + 0.1 * 0.25)}}


def test_a_run_that_goes_on_has_its_baseline() -> None:
    first, second, fresh = (ReinforceConfig(baseline_decay=0.5).build() for _ in range(3))
    assert fresh.state() == {"baselines": {}}
    advantages_of(first, rewarded(1.0, 0.0))
    second.restore(first.state())
    assert advantages_of(second, rewarded(1.0, 1.0)) == advantages_of(first, rewarded(1.0, 1.0)) == [[0.5], [0.5]]
    assert advantages_of(fresh, rewarded(1.0, 1.0)) == [[0.0], [0.0]]
    second.restore({})  # of another algorithm
    assert second.state() == {"baselines": {}}


@pytest.mark.parametrize("baseline", [Baseline.batch, Baseline.none], ids=lambda b: b.value)
def test_other_baselines_remember_nothing(baseline: Baseline) -> None:
    algorithm = ReinforceConfig(baseline=baseline).build()
    for _ in range(2):
        found = advantages_of(algorithm, rewarded(1.0, 0.5))
        assert found == ([[0.25], [-0.25]] if baseline is Baseline.batch else [[1.0], [0.5]])
    assert algorithm.state() == {"baselines": {}}


def test_what_is_cut_and_masked_is_in_no_baseline() -> None:
    """Neither that of the iteration nor the running one, which an iteration with nothing to train on leaves alone."""
    algorithm: Reinforce = ReinforceConfig(mask_truncated=True).build()
    cut = completion(0.0, 7, finished=False)
    assert advantages_of(algorithm, [cut]) == [[0.0] * 7]
    assert algorithm.baselines == {}
    assert advantages_of(algorithm, [*rewarded(1.0, 0.5), cut]) == [[0.25], [-0.25], [0.0] * 7]
    advantages_of(algorithm, [cut, cut])
    assert algorithm.baselines == {0: 0.75}


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_forgets_nothing_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=f"baseline_decay={decay} must be in"):
        ReinforceConfig(baseline_decay=decay)
