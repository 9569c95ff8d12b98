"""environment=multi_attempt: the paper's rewards on dialogues made by hand, and runs."""

import json
from itertools import pairwise
from typing import Any

import pytest

from rlx.algorithms.grpo import GrpoConfig
from rlx.environments.base import Turn
from rlx.environments.multi_attempt import MultiAttemptConfig
from rlx.errors import ConfigError
from rlx.types import Example, Outcome, Verdict
from tests.stages.runs import place, rows

EXAMPLE = Example(id="x", prompt="1+1=", solution="2")
KINDS = {"2": Outcome.correct, "3": Outcome.wrong, "x": Outcome.malformed, "": Outcome.malformed}
PAPER: Any = dict(wrong=-0.5, illegal=-0.5, malformed=-1.0, truncated=-1.0)


def assess(example: Example, turn: Turn) -> Verdict:
    return Verdict(KINDS[turn.text] if turn.ended else Outcome.truncated)


def played(texts: list[str], *, training: bool = False, ended: bool = True, **settings: Any):
    environment = MultiAttemptConfig(**settings).build()
    episode = environment.open(EXAMPLE, assess, key=5, training=training)
    answers = [episode.take(Turn(text=text, ended=ended)) for text in texts]
    environment.rewards([episode], GrpoConfig(rewards=_rewards()).reward)
    return episode, answers


def _rewards():
    from rlx.algorithms.base import Rewards

    return Rewards(**PAPER)


@pytest.mark.parametrize(
    ("texts", "reward"),
    [
        (["2"], 1.0),
        (["3", "2"], 1.0),
        (["x", "3", "2"], 1.0),
        (["3", "3", "3"], -0.5),
        (["3", "x", "x"], -0.5),
        (["x", "x", "3"], -0.5),
        (["x", "", "x"], -1.0),
    ],
)
def test_the_papers_rewards(texts: list[str], reward: float) -> None:
    episode, answers = played(texts, attempts=3)
    assert [turn.reward for turn in episode.turns] == [*[0.0] * (len(texts) - 1), reward]
    told = [None if answer is None else answer.text for answer in answers]
    assert told == [*[f"wrong, {2 - n} left" for n in range(len(texts) - 1)], None]
    assert episode.verdict.correct is (reward == 1.0)


def test_a_cut_attempt_is_one() -> None:
    episode, answers = played(["3", "3"], attempts=2, ended=False)
    assert episode.verdict.outcome is Outcome.truncated and answers[1] is None
    assert answers[0] is not None and answers[0].text == "wrong, 1 left"
    assert episode.turns[-1].reward == -1.0


def test_attempts_are_drawn_evenly_for_a_problem_and_all_are_given_to_one_that_is_measured() -> None:
    environment = MultiAttemptConfig(attempts=5).build()
    found = [environment.open(EXAMPLE, assess, key=key, training=True) for key in range(5000)]
    counts = [sum(episode.prompt == f"{n} tries\n1+1=" for episode in found) for n in range(1, 6)]
    assert sum(counts) == 5000 and max(abs(count - 1000) for count in counts) < 120
    assert environment.open(EXAMPLE, assess, key=3, training=True).prompt == found[3].prompt
    assert {environment.open(EXAMPLE, assess, key=k, training=False).prompt for k in range(20)} == {"5 tries\n1+1="}


def test_what_is_measured() -> None:
    episode, _ = played(["3", "3", "2"], attempts=4)
    assert episode.verdict.measures == {
        "correct@1": 0, "correct@2": 0, "correct@3": 1, "correct@4": 1, "attempts": 3, "repeated": 0.5
    }  # fmt: skip


@pytest.mark.parametrize("settings", [{"attempts": 0}, {"least": 0}, {"least": 6}, {"turn_tokens": 0}], ids=str)
def test_wrong_settings_are_one_line(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"environment\.") as error:
        MultiAttemptConfig(**settings)
    assert "\n" not in str(error.value)


def test_a_run_plays_and_an_evaluation_tells_each_attempt(door) -> None:
    task = ("task=arithmetic", "task.max_digits=2", "scale=smoke", "trainer.threads=1")
    talk = ("environment=multi_attempt", "environment.attempts=3", "environment.turn_tokens=5")
    dialogues = ("corpus=dialogues", "corpus.environment={name:multi_attempt,attempts:3}")
    start = place(door(*task, "stage=sft", *dialogues, "stage.steps=60").out)
    done = door(
        *task, *talk, "stage=rl", "algorithm=ppo", f"init_from={start}", "stage.steps=2", "stage.prompts=4",
        "decode.max_tokens=60", "stage.val_every=2", "stage.val_problems=4",
    )  # fmt: skip
    assert done.code == 0, done.err
    row = rows(place(done.out))[-1]
    names = {"turns/mean", "turns/reply_ratio", "turns/attempt_1/length", "turns/attempt_2/share", "measures/correct@1"}
    assert names <= set(row) and row["turns/max"] == 3
    assert row["sampling/sampling_logp_difference/mean"] <= 1e-5
    assert row["completions/max_length"] <= 15 and row["turns/attempt_1/length"] <= 5
    (sample, *_) = [json.loads(line) for line in (place(done.out) / "samples.jsonl").read_text().splitlines()]
    assert "> wrong, 2 left" in sample["completion"] or sample["verdict"] == "correct"
    found = door("stage=eval", *task, *talk, f"init_from={start}", "stage.problems=8", "decode.max_tokens=60")
    assert found.code == 0, found.err
    metrics = json.loads((place(found.out) / "eval.json").read_text())["metrics"]
    at = [metrics[f"eval/arithmetic/measures/correct@{k}"] for k in (1, 2, 3)]
    assert all(one <= other for one, other in pairwise(at)) and at[-1] == pytest.approx(
        metrics["eval/arithmetic/pass@1"]
    )


def test_a_model_with_coupled_positions_does_not_interact(door) -> None:
    coupled = ("task=arithmetic", "task.trace=reversed", "model.position=coupled", "init_from=random", "scale=smoke")
    done = door("stage=eval", *coupled, "environment=multi_attempt")
    assert done.code == 2 and "has no coupled positions" in done.err and "environment=single" in done.err
