"""`algorithm=rft`: one round, of the starting policy's samples. See test_rejection.py for what an update is."""

import pytest

from rlx.algorithms.rejection import Whose
from rlx.algorithms.rft import RftConfig
from rlx.stages.modules.gathered import Gathered
from tests.algorithms.written import written


def test_the_start_samples_and_is_trained_once_at_the_end() -> None:
    config = RftConfig()
    algorithm = config.build()
    gathering = algorithm.gathering
    assert gathering is not None and config.epochs == 3
    assert gathering.iterations is None and gathering.start_samples and gathering.start_trains
    gathered = Gathered(gathering, algorithm, total=100, pad_id=0)
    assert [step for step in range(1, 101) if gathered.is_due(step)] == [100]


@pytest.mark.parametrize(
    ("deduplicate", "expected"), [(True, [5, 6, 5]), (False, [5, 6, 5, 5])], ids=["distinct", "all"]
)
def test_distinct_right_completions_of_all_iterations_are_trained_on(deduplicate: bool, expected: list[int]) -> None:
    algorithm = RftConfig(deduplicate=deduplicate).build()
    assert algorithm.gathering is not None
    gathered = Gathered(algorithm.gathering, algorithm, total=2, pad_id=0)
    for tokens, right in (([[1, 5], [1, 6]], [True, True]), ([[2, 5], [1, 5], [1, 7]], [True, True, False])):
        last = written([".x"] * len(tokens), tokens=tokens, correct=right)
        gathered.add(last)
    assert gathered.take(last.rows(last.group[:0])).tokens[:, 1].tolist() == expected


def test_both_policies_can_be_chosen() -> None:
    gathering = RftConfig(generator=Whose.latest, train_from=Whose.latest, round_iterations=5).build().gathering
    assert gathering is not None
    assert not gathering.start_samples and not gathering.start_trains and gathering.iterations == 5
