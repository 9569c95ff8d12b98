"""environment=single: one turn, and no run's place moves."""

from rlx.environments.base import Turn
from rlx.environments.single import Single
from rlx.types import Example, Outcome, Verdict


def test_an_episode_is_over_after_its_answer() -> None:
    example = Example(id="x", prompt="1+1=", solution="2")
    said: list[str] = []

    def assess(example: Example, turn: Turn) -> Verdict:
        said.append(turn.text)
        return Verdict(Outcome.correct if turn.text == example.solution else Outcome.wrong, measures={"digits": 0.5})

    environment = Single()
    episode = environment.open(example, assess, key=0, training=True)
    assert (episode.prompt, episode.budget) == ("1+1=", None)
    assert episode.take(Turn(text="2")) is None and said == ["2"]
    assert episode.verdict == Verdict(Outcome.correct, measures={"digits": 0.5})
    environment.rewards([episode], lambda verdict: 3.0 if verdict.correct else -1.0)
    assert episode.turns[0].reward == 3.0


def test_a_run_lies_where_it_lay_before_there_were_environments(door) -> None:
    start = door(
        "stage=sft", "task=countdown", "scale=smoke", "stage.steps=1", "task.numbers=3", "stage.row_tokens=640"
    )
    assert start.code == 0, start.err
    place = start.out.splitlines()[0].split(": ")[1].strip()
    one = door("stage=eval", "task=countdown", f"init_from={place}", "stage.problems=1", "decode.max_tokens=4")
    other = door(
        "stage=eval", "task=countdown", f"init_from={place}", "stage.problems=1", "decode.max_tokens=4",
        "environment=single",
    )  # fmt: skip
    assert one.code == 0, one.err
    assert "finished already" in other.out
    assert "-eval-" in one.out
