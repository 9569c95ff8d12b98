"""environment=tool: calls, answers and void turns made by hand; what is trained on of void ones; and runs."""

import json
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch

from rlx.data.corpora.dialogues import DialoguesConfig, demonstrated
from rlx.data.tokenizers.word import WordConfig
from rlx.environments.base import Answer, Turn
from rlx.environments.tool import ToolConfig
from rlx.errors import ConfigError
from rlx.models.size import Operations
from rlx.stages.material import Material
from rlx.stages.modules.policy import PolicyModule
from rlx.stages.modules.rollouts import Rollout
from rlx.tasks.arithmetic import ArithmeticConfig
from rlx.tasks.arithmetic_problems import Operation
from rlx.tasks.copy import CopyConfig
from rlx.tasks.countdown import CountdownConfig
from rlx.tasks.countdown_traces import Trace
from rlx.tasks.graph import GraphConfig
from rlx.tasks.math import MathConfig
from rlx.types import Example, Outcome, Split, Verdict
from tests.stages.runs import place, rows

EXAMPLE = Example(id="x", prompt="12*34=", solution="408")
PRODUCTS = ArithmeticConfig(operation=Operation.multiply, min_digits=2, max_digits=3)


def assess(example: Example, turn: Turn) -> Verdict:
    if not turn.ended:
        return Verdict(Outcome.truncated)
    text = turn.text.rstrip("]")  # as a verifier may that looks at the beginning alone
    right, form = turn.clean and text == example.solution, turn.clean and text.isdecimal()
    return Verdict(Outcome.correct if right else Outcome.wrong if form else Outcome.malformed)


def opened(*, key: int = 5, training: bool = False, **settings: Any):
    return ToolConfig(**settings).build().open(EXAMPLE, assess, key=key, training=training)


def told(answer: Answer | None) -> str | None:
    return None if answer is None else answer.text


def test_a_call_is_answered_and_the_answer_is_verified() -> None:
    episode = opened()
    assert episode.prompt == "12*34="
    assert told(episode.take(Turn(text="I ask [ or [12*34]"))) == "408"
    assert told(episode.take(Turn(text="[1/0]"))) == "error: zero"
    assert episode.take(Turn(text="408")) is None
    assert [turn.name for turn in episode.turns] == ["call", "call", "answer"]
    assert episode.verdict == Verdict(Outcome.correct, measures={"calls": 2, "call_errors": 0.5, "void": 0})
    assert not episode.void


@pytest.mark.parametrize(
    ("turn", "outcome"),
    [
        (Turn(text="[12*3", ended=False), Outcome.truncated),
        (Turn(text="408", ended=False), Outcome.truncated),
        (Turn(text="[12*34]", clean=False), Outcome.malformed),
        (Turn(text="[12*34"), Outcome.malformed),
        (Turn(text=""), Outcome.malformed),
        (Turn(text="408]"), Outcome.malformed),
    ],
    ids=lambda value: value.text if isinstance(value, Turn) else "",
)
def test_a_turn_that_is_neither_call_nor_answer_ends_a_void_episode(turn: Turn, outcome: Outcome) -> None:
    for first in ([], ["[1+1]"]):
        episode = opened()
        for text in first:
            episode.take(Turn(text=text))
        assert episode.take(replace(turn)) is None
        assert episode.void and episode.turns[-1].name == "void" and episode.verdict.outcome is outcome
        assert episode.verdict.measures["void"] == 1 and episode.verdict.measures["calls"] == len(first)


def test_an_unfinished_call_is_void_whatever_the_verifier_makes_of_it() -> None:
    """math takes any text with a number for an answer."""
    task = MathConfig().build()
    example, asked = task.example(Split.train, 0), list[str]()

    def verify(example: Example, turn: Turn) -> Verdict:
        asked.append(turn.text)
        return task.verify(example, turn.text)

    for text in ("[18", "18 [", "]18"):
        episode = ToolConfig().build().open(example, verify, key=0, training=True)
        assert task.verify(example, text).outcome is Outcome.wrong
        assert episode.take(Turn(text=text)) is None
        assert episode.void and episode.verdict.outcome is Outcome.malformed and not asked
    shown = [demonstrated(ToolConfig(flaws=1).build(), task, Split.train, index) for index in range(60)]
    flawed = [episode for episode in shown if not episode.turns[0].reply]
    assert len(flawed) > 10 and all(episode.void for episode in flawed)


def test_wrong_answers_and_calls_with_errors_are_not_void() -> None:
    wrong = opened()
    assert wrong.take(Turn(text="409")) is None
    assert (wrong.void, wrong.verdict.outcome) == (False, Outcome.wrong)
    assert wrong.verdict.measures == {"calls": 0, "void": 0}
    calls = opened(most_turns=2)
    assert told(calls.take(Turn(text="[]"))) == "error: form"
    assert calls.take(Turn(text="[1]")) is None
    assert (calls.void, calls.verdict.outcome) == (False, Outcome.malformed)


def test_replies_are_cut_and_turns_have_their_budget() -> None:
    episode = opened(reply_chars=2, turn_tokens=7)
    assert episode.budget == 7 and episode.take(Turn(text="[12*34]")) == Answer("40", 7)
    assert episode.take(Turn(text="[1+]")) == Answer("error: form", 7), "a word that a vocabulary has"


def test_words_have_what_is_said() -> None:
    task = PRODUCTS.build()
    config = DialoguesConfig(environment={"name": "tool", "flaws": 0.5})
    tokenizer = WordConfig().build(Material(words=lambda: config.words(task)))
    for index in range(50):
        episode = demonstrated(ToolConfig(flaws=0.5).build(), task, Split.train, index)
        for text in [episode.prompt, *(part for turn in episode.turns for part in (turn.text, turn.reply))]:
            assert tokenizer.decode(tokenizer.encode(text)) == text
    for text in ("[(1+2)*3/4-5]", "error: form", "error: zero", "error: size", "-7/2"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_noise_is_in_training_alone_equal_for_a_problem_and_as_frequent_as_told() -> None:
    def replies(key: int, *, training: bool = True, **settings: Any) -> list[str | None]:
        episode = opened(key=key, training=training, **settings)
        return [told(episode.take(Turn(text="[12*34]"))) for _ in range(3)]

    found = [replies(key, noise=0.2) for key in range(1000)]
    other = Counter(text != "408" for reply in found for text in reply)
    assert 500 < other[True] < 700
    assert all(text is not None and text.isdecimal() and len(text) == 3 for reply in found for text in reply)
    assert len({text for reply in found for text in reply}) > 300
    assert found == [replies(key, noise=0.2) for key in range(1000)]
    assert all(reply == ["408"] * 3 for key in range(20) for reply in [replies(key, noise=1.0, training=False)])
    assert any(len(set(reply)) == 3 for reply in found)
    assert sum("408" in reply and len(set(reply)) > 1 for reply in found) > 300


def shown(config: ToolConfig, task: Any, count: int = 400) -> list[Any]:
    environment = config.build()
    return [demonstrated(environment, task, Split.train, index) for index in range(count)]


def test_demonstrations_call_what_the_task_says_and_answer() -> None:
    task = PRODUCTS.build()
    for episode in shown(ToolConfig(flaws=0), task, 50):
        first, second = episode.example.truth[0]
        assert [turn.text for turn in episode.turns] == [f"[{first}*{second}]", str(first * second)]
        assert episode.turns[0].reply == str(first * second) and all(turn.lesson for turn in episode.turns)
    task = CountdownConfig(trace=Trace.operations).build()
    for episode in shown(ToolConfig(flaws=0, most_turns=3), task, 50):
        steps = episode.example.solution.split(",")
        assert [f"{turn.text[1:-1]}={turn.reply}" for turn in episode.turns[:-1]] == steps[:2]
        assert episode.turns[-1].text == episode.example.solution


def test_a_share_of_them_is_flawed_in_two_ways() -> None:
    task, found = PRODUCTS.build(), Counter[str]()
    for episode in shown(ToolConfig(flaws=0.4), task):
        product = episode.example.solution
        call = f"[{episode.example.prompt[:-1]}]"
        if episode.void:
            (turn,) = episode.turns
            assert call.startswith(turn.text) and 1 <= len(turn.text) < len(call) and turn.lesson
            found["unfinished"] += 1
        else:
            assert [turn.text for turn in episode.turns] == [call, product]
            found["reply" if episode.turns[0].reply != product else "none"] += 1
            assert len(episode.turns[0].reply) == len(product)
    assert 50 < found["unfinished"] < 110 and 50 < found["reply"] < 110 and found.total() == 400
    assert not any(episode.void for episode in shown(ToolConfig(flaws=0), task, 100))


def test_a_task_that_says_no_calls_is_answered_at_once() -> None:
    for episode in shown(ToolConfig(flaws=1), CopyConfig().build(), 5):
        assert [turn.text for turn in episode.turns] == [episode.example.solution]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (CountdownConfig(), r"take task\.trace=operations\|tinyzero$"),
        (GraphConfig(), r"no task\.trace that it has is without, so take another task, or another environment$"),
    ],
    ids=["countdown", "graph"],
)
def test_a_task_that_cannot_be_shown_is_told_in_a_line(config: Any, told: str) -> None:
    start = r"^corpus\.environment=tool: solutions of the task have \[, a mark of calls; "
    with pytest.raises(ConfigError, match=start + told) as error:
        DialoguesConfig(environment="tool").check(config.build())
    assert "\n" not in str(error.value)
    for fits in (CountdownConfig(trace=Trace.operations), PRODUCTS, MathConfig()):
        DialoguesConfig(environment="tool").check(fits.build())
    DialoguesConfig(environment="multi_attempt").check(config.build())


def test_nothing_is_written_where_a_task_cannot_be_shown(door, tmp_path) -> None:
    done = door("stage=sft", "task=countdown", "scale=smoke", *SHOWN)
    assert done.code == 2 and "take task.trace=operations|tinyzero" in done.err and not (tmp_path / "runs").exists()


def test_solutions_are_not_read_where_the_model_plays(door) -> None:
    """countdown's have marks of calls in most traces."""
    done = door(
        "stage=rl", "task=countdown", *TALK, "algorithm=grpo", "init_from=random", "scale=smoke", "trainer.threads=1",
        "stage.steps=1", "stage.prompts=2", "algorithm.group_size=2", "stage.val_every=0", "stage.preflight=warn",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = door("stage=eval", "task=countdown", *TALK, "init_from=random", "scale=smoke", "stage.problems=4")
    assert found.code == 0, found.err
    assert not ToolConfig().build().open(replace(EXAMPLE, solution="[408]"), assess, key=0, training=False).void


class Marked:
    """A task one of whose solutions has marks of calls."""

    def __init__(self, solution: str) -> None:
        self.solution = solution

    def size(self, split: Split) -> int | None:
        return 40

    def example(self, split: Split, index: int) -> Example:
        return Example(id=str(index), prompt="12*34=", solution=self.solution if index == 3 else "408")

    def verify(self, example: Example, completion: str) -> Verdict:
        return Verdict(Outcome.correct if completion.endswith("408") else Outcome.wrong)

    def calls(self, example: Example) -> list[str]:
        return ["12*34"]

    def brief(self, solution: str) -> str:
        return solution.split("\n")[-1]


@pytest.mark.parametrize(
    ("solution", "text", "lesson"),
    [("in [0, 9]\n408", "408", True), ("[408]", "408", False), ("[0, 9\n[408", "0, 9\n408", False)],
)
def test_a_single_solution_with_marks_is_shown_without_them(solution: str, text: str, lesson: bool) -> None:
    task: Any = Marked(solution)
    DialoguesConfig(environment="tool").check(task)
    episode = demonstrated(ToolConfig(flaws=0).build(), task, Split.train, 3)
    assert [turn.text for turn in episode.turns] == ["[12*34]", text] and episode.turns[1].lesson is lesson
    assert episode.verdict.correct and not episode.void
    other = demonstrated(ToolConfig(flaws=0).build(), task, Split.train, 4)
    assert [(turn.text, turn.lesson) for turn in other.turns] == [("[12*34]", True), ("408", True)]


@pytest.mark.parametrize(
    "settings",
    [{"most_turns": 1}, {"turn_tokens": 0}, {"reply_chars": 0}, {"noise": 1.5}, {"flaws": -0.1}],
    ids=str,
)
def test_wrong_settings_are_one_line(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=rf"environment\.{name}=") as error:
        ToolConfig(**settings)
    assert "\n" not in str(error.value)


TASK = ("task=arithmetic", "task.operation=multiply", "task.max_digits=2", "scale=smoke", "trainer.threads=1")
TALK = ("environment=tool", "environment.most_turns=3", "environment.turn_tokens=8", "decode.max_tokens=32")
SHOWN = ("corpus=dialogues", "corpus.environment={name:tool,flaws:0.3}")


def training(start: Any, algorithm: str, *more: str) -> list[str]:
    return [*TASK, *TALK, "stage=rl", f"algorithm={algorithm}", f"init_from={start}", "stage.steps=1",
            "stage.prompts=4", "algorithm.group_size=4", "stage.val_every=0", "stage.preflight_problems=0",
            "algorithm.rewards.truncated=0.5", *more]  # fmt: skip


@pytest.fixture
def start(door):
    done = door(*TASK, "stage=sft", *SHOWN, "stage.steps=30")
    assert done.code == 0, done.err
    return place(done.out)


class Watched:
    """Rollouts as a module gets them, changed on the way; and what becomes of its parameters."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
        self.gradients: list[dict[str, Any]] = []
        self.rollouts: list[Rollout] = []
        step, move, watched = PolicyModule.training_step, PolicyModule._step, self

        def training_step(module: Any, rollout: Any, index: int) -> None:
            change(rollout)
            watched.rollouts.append(rollout)
            step(module, rollout, index)

        def stepped(module: Any, optimizer: Any, factor: float) -> dict[str, float]:
            models = [module.model, *([module.critic.model] if module.critic else [])]
            found = {
                f"{n}.{name}": each.grad for n, model in enumerate(models) for name, each in model.named_parameters()
            }
            watched.gradients.append({name: grad.clone() for name, grad in found.items() if grad is not None})
            return move(module, optimizer, factor)

        monkeypatch.setattr(PolicyModule, "training_step", training_step)
        monkeypatch.setattr(PolicyModule, "_step", stepped)


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "reinforce_plus_plus", "npo", "dr_grpo"])
def test_void_rows_alone_give_no_gradient_and_no_nan(door, start, monkeypatch, algorithm: str) -> None:
    def void(rollout: Rollout) -> None:
        for number, episode in enumerate(rollout.episodes):
            episode.void = True
            rollout.batch.rewards[number, int(rollout.batch.loss_mask[number].nonzero()[-1])] += number % 2

    watched = Watched(monkeypatch, void)
    done = door(*training(start, algorithm))
    assert done.code == 0, done.err
    assert all((grad == 0).all() for found in watched.gradients for grad in found.values())
    (row,) = rows(place(done.out))
    assert row["turns/void_ratio"] == 1 and row["train/loss"] == 0
    assert row.get("train/grad_norm", 0.0) == 0 and row.get("critic/grad_norm", 0.0) == 0


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_they_give_one_where_they_are_not_filtered(door, start, monkeypatch, algorithm: str) -> None:
    def void(rollout: Rollout) -> None:
        for number, episode in enumerate(rollout.episodes):
            episode.void = True
            rollout.batch.rewards[number, int(rollout.batch.loss_mask[number].nonzero()[-1])] += number % 2

    watched = Watched(monkeypatch, void)
    done = door(*training(start, algorithm, "environment.filter_void=false"))
    assert done.code == 0, done.err
    assert any((grad != 0).any() for found in watched.gradients for grad in found.values())


def test_a_void_row_changes_others_through_the_baseline_alone(door, start, monkeypatch) -> None:
    """The gradient with a void row is that of the advantages which the group with it has, over the rows without it."""

    def chosen(rollout: Rollout) -> None:
        last = [int(mask.nonzero()[-1]) for mask in rollout.batch.loss_mask]
        rollout.batch.rewards.zero_()
        for number, episode in enumerate(rollout.episodes):
            episode.void = number % 4 == 3
            rollout.batch.rewards[number, last[number]] = (0.0, 1.0, 1.0, -2.0)[number % 4]

    def without(rollout: Rollout) -> None:
        """The same by hand: no void row, and the advantages told."""
        chosen(rollout)
        heard = torch.tensor([number for number in range(16) if number % 4 != 3])
        rollout.batch = rollout.batch.rows(heard)
        for name in ("episodes", "verdicts", "texts"):
            setattr(rollout, name, [getattr(rollout, name)[number] for number in heard.tolist()])
        rollout.lengths, rollout.prompt_lengths = rollout.lengths[heard], rollout.prompt_lengths[heard]
        last = [int(mask.nonzero()[-1]) for mask in rollout.batch.loss_mask]
        for number in range(12):  # less the mean of the four, which is 0: what a baseline of nothing leaves
            rollout.batch.rewards[number, last[number]] = (0.0, 1.0, 1.0)[number % 3]

    def gradient(change: Any, *more: str) -> dict[str, Any]:
        with monkeypatch.context() as patch:
            watched = Watched(patch, change)
            done = door(*training(start, *more))
            assert done.code == 0, done.err
        return watched.gradients[0]

    found = gradient(chosen, "dr_grpo")
    told = gradient(without, "reinforce", "algorithm.normalization=constant", "algorithm.baseline=none")
    assert found.keys() == told.keys() and any((grad != 0).any() for grad in found.values())
    for name, grad in found.items():
        torch.testing.assert_close(grad, told[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("algorithm", "whole"), [("rloo", True), ("grpo", False)])
def test_the_reference_is_asked_of_void_rows_where_their_divergence_is_charged(
    door, start, monkeypatch, algorithm: str, whole: bool
) -> None:
    """At the first step the reference is the policy that sampled: both have the same log-probabilities."""
    batches, extents = [], []
    advantages, forward = PolicyModule._advantages, Operations.forward

    def seen(module: Any, batch: Any, updates: int) -> Any:
        batches.append((batch, extents[-1]))
        return advantages(module, batch, updates)

    def passed(operations: Any, extent: Any, **more: Any) -> float:
        extents.append(extent)
        return forward(operations, extent, **more)

    def void(rollout: Rollout) -> None:
        for number, episode in enumerate(rollout.episodes):
            episode.void = number % 2 == 1

    Watched(monkeypatch, void)
    monkeypatch.setattr(PolicyModule, "_advantages", seen)
    monkeypatch.setattr(Operations, "forward", passed)
    done = door(*training(start, algorithm, "algorithm.kl_coefficient=0.1"))
    assert done.code == 0, done.err
    ((batch, extent),) = batches
    assert not batch.loss_mask[1::2].any() and batch.drawn()[1::2].any(-1).all()
    mask = batch.drawn() if whole else batch.loss_mask
    assert extent == replace(batch, loss_mask=mask).extent()
    assert batch.logprobs[1].abs().max() > 1e-3
    torch.testing.assert_close(batch.reference_logprobs * mask, batch.logprobs * mask, rtol=0, atol=1e-5)


def test_a_run_plays_and_is_measured(door, start) -> None:
    more = ("stage.steps=2", "stage.val_every=2", "stage.val_problems=4", "environment.filter_void=false")
    done = door(*training(start, "ppo", *more))
    assert done.code == 0, done.err
    row = rows(place(done.out))[-1]
    assert {"turns/mean", "turns/void_ratio", "measures/calls", "measures/void"} <= set(row)
    assert row["turns/void_ratio"] == row["measures/void"] and row["turns/max"] <= 3
    assert row["sampling/sampling_logp_difference/mean"] <= 1e-5
    found = door("stage=eval", *TASK, *TALK, f"init_from={start}", "stage.problems=8")
    assert found.code == 0, found.err
    metrics = json.loads((place(found.out) / "eval.json").read_text())["metrics"]
    assert 0 <= metrics["eval/arithmetic/measures/void"] <= 1 and metrics["eval/arithmetic/measures/calls"] >= 0


def test_several_draws_of_an_iteration_are_filtered_too(door, start, monkeypatch) -> None:
    watched = Watched(monkeypatch, lambda rollout: None)
    done = door(*training(start, "grpo", "algorithm.dynamic_sampling=true", "algorithm.max_draws=2"))
    assert done.code == 0, done.err
    (rollout,) = watched.rollouts
    (row,) = rows(place(done.out))
    assert rollout.draws == 2 and rollout.filters_void and row["turns/mean"] > 0


def test_turns_are_told_of_where_every_episode_has_one(door) -> None:
    done = door(*training("random", "grpo", "environment.turn_tokens=1"))
    assert done.code == 0, done.err
    (row,) = rows(place(done.out))
    assert row["turns/mean"] == 1 and row["turns/max"] == 1


def test_hostile_calls_never_raise() -> None:
    random = Random(1)
    for _ in range(2000):
        text = "".join(random.choices("0123456789+-*/()[ ].x\n٣", k=random.randrange(12)))
        episode = opened()
        episode.take(Turn(text=f"{text}]"))
        assert episode.void or episode.turns[0].reply
