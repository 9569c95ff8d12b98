"""`algorithm=expert_iteration`: when rounds are due, and what each of them trains on. See test_rejection.py for what an
update is."""

from dataclasses import replace

import torch

from rlx.algorithms.expert_iteration import ExpertIterationConfig
from rlx.algorithms.rejection import Whose
from rlx.batches import RolloutBatch
from rlx.stages.modules.gathered import Gathered
from tests.algorithms.written import written

ROUNDS = [[([5], True), ([6], False)], [([5], True), ([7], True)], [([7], True), ([8], True)], [([5], True)]]
"""Completions of one prompt, an iteration each, and whether they are right."""


def iteration(number: int) -> RolloutBatch:
    drawn = ROUNDS[number]
    return written([".x"] * len(drawn), tokens=[[1, *ids] for ids, _ in drawn], correct=[right for _, right in drawn])


def trained(config: ExpertIterationConfig, total: int = 4) -> dict[int, list[int]]:
    """The completions that each round trains on, by the step that it follows."""
    algorithm = config.build()
    gathered, found = Gathered(algorithm.gathering, algorithm, total=total, pad_id=0), {}
    for number in range(total):
        batch = iteration(number)
        gathered.add(batch)
        if gathered.is_due(number + 1):
            kept = gathered.take(batch.rows(torch.zeros(0, dtype=torch.int64)))
            found[number + 1] = kept.tokens[:, 1].tolist()
    return found


def test_a_round_trains_on_its_own_right_and_distinct_samples() -> None:
    config = ExpertIterationConfig(round_iterations=2)
    assert trained(config) == {2: [5, 7], 4: [7, 8, 5]}
    assert trained(replace(config, deduplicate=False)) == {2: [5, 5, 7], 4: [7, 8, 5]}
    assert trained(replace(config, max_per_prompt=1)) == {2: [5], 4: [7]}
    assert trained(replace(config, round_iterations=1)) == {1: [5], 2: [5, 7], 3: [7, 8], 4: [5]}


def test_a_buffer_has_earlier_rounds_too() -> None:
    """Without what they had already; what is left at the end of a run is a round."""
    every = ExpertIterationConfig(round_iterations=1, buffer_rounds=None)
    assert trained(every) == {1: [5], 2: [5, 7], 3: [5, 7, 8], 4: [5, 7, 8]}
    assert trained(replace(every, buffer_rounds=2)) == {1: [5], 2: [5, 7], 3: [5, 7, 8], 4: [7, 8, 5]}
    assert trained(replace(every, round_iterations=3, buffer_rounds=1)) == {3: [5, 7, 8], 4: [5]}
    assert trained(replace(every, round_iterations=None)) == {4: [5, 7, 8]}


def test_the_buffer_says_how_much_was_kept() -> None:
    algorithm = ExpertIterationConfig(deduplicate=False).build()
    assert algorithm.gathering is not None
    gathered = Gathered(algorithm.gathering, algorithm, total=4, pad_id=0)
    assert gathered.add(iteration(0)) == {"buffer/rows": 1.0, "buffer/kept_ratio": 0.5}
    assert gathered.add(iteration(1)) == {"buffer/rows": 3.0, "buffer/kept_ratio": 0.75}


def test_the_published_form_is_the_default() -> None:
    """Rounds sample with what came of the last one and train from where the run began, as Echo Chamber and STaR."""
    gathering = ExpertIterationConfig().build().gathering
    assert gathering is not None
    assert (gathering.iterations, gathering.rounds, gathering.batch_rows) == (20, 1, 64)
    assert not gathering.start_samples and gathering.start_trains
    online = ExpertIterationConfig(train_from=Whose.latest, batch_rows=8, round_iterations=1).build().gathering
    assert online is not None
    assert (online.iterations, online.batch_rows, online.start_trains) == (1, 8, False)
    assert ExpertIterationConfig().deduplicate and ExpertIterationConfig().max_per_prompt is None
