"""environment=thinker: the rewards by hand, constant verifiers, transitions, budgets, and runs that keep p."""

import json
import signal
from random import Random
from typing import Any

import pytest
import torch

from rlx.algorithms.grpo import GrpoConfig
from rlx.batches import Extent
from rlx.data.corpora.dialogues import demonstrated
from rlx.data.tokenizers.char import CharConfig
from rlx.decoding.engine import Engine
from rlx.decoding.sample import SampleConfig
from rlx.environments.base import Likelihood, Turn, brief
from rlx.environments.thinker import Steps, Thinker, ThinkerConfig, Thinking, says
from rlx.errors import ConfigError
from rlx.evaluation.episodes import Player
from rlx.evaluation.judge import Judge
from rlx.models.dense import DenseConfig
from rlx.signals import stop
from rlx.stages.modules.likelihoods import add_likelihoods
from rlx.stages.modules.looking import Looker
from rlx.tasks.arithmetic import ArithmeticConfig
from rlx.tasks.arithmetic_traces import Trace
from rlx.tasks.base import Task
from rlx.types import Example, Outcome, Split, Verdict
from tests.stages.runs import MODULAR, digest, place, rows

EXAMPLE = Example(id="x", prompt="1+1=", solution="2")
KINDS = {"2": Outcome.correct, "3": Outcome.wrong}
NAMES = ("fast", "verify", "slow", "sum")


def assess(example: Example, turn: Turn) -> Verdict:
    return Verdict(KINDS.get(turn.text, Outcome.malformed) if turn.ended else Outcome.truncated)


def played(environment: Thinker, texts: list[str], *, training: bool = True) -> Thinking:
    """An episode of these turns, which ends with the last of them and not before."""
    episode = environment.open(EXAMPLE, assess, key=5, training=training)
    answers = [episode.take(Turn(text=text)) for text in texts]
    assert [answer is None for answer in answers] == [*[False] * (len(texts) - 1), True]
    return episode


def rewarded(environment: Thinker, dialogues: list[list[str]], iteration: int = 1) -> list[list[float]]:
    episodes = [played(environment, texts) for texts in dialogues]
    environment.count(episodes, iteration)
    environment.rewards(episodes, GrpoConfig().reward)
    return [[turn.reward for turn in episode.turns] for episode in episodes]


def test_rewards_by_hand() -> None:
    """Two of five fast answers are correct, so that a Yes earns 0.6 and a No 0.4 where it is right."""
    dialogues = [["2", "Yes"], ["2", "No"], ["3", "No", "2", "2"], ["3", "Yes", "2", "3"], ["x", "so No", "3"]]
    found = rewarded(ThinkerConfig().build(), dialogues)
    expected = [[1, 0.6], [1, 0], [0, 0.4, 1, 1], [0, 0, 1, 0], [0, 0.4, 0]]
    assert [reward for row in found for reward in row] == pytest.approx([each for row in expected for each in row])
    plain = rewarded(ThinkerConfig(balanced=False).build(), dialogues)
    assert [row[1] for row in plain] == [1, 0, 1, 0, 1]


@pytest.mark.parametrize("right", range(9))
def test_constant_verifiers_earn_p_times_1_less_p_and_a_perfect_one_twice_that(right: int) -> None:
    share = right / 8

    def mean(says: list[str]) -> float:
        dialogues = [["2", says[0]]] * right + [["3", says[1], "3"]] * (8 - right)
        found = rewarded(ThinkerConfig().build(), dialogues)
        return sum(row[1] for row in found) / 8

    assert mean(["Yes", "Yes"]) == mean(["No", "No"]) == share * (1 - share)
    assert mean(["Yes", "No"]) == 2 * share * (1 - share) and mean(["No", "Yes"]) == mean(["", "?"]) == 0


def test_p_is_of_the_iterations_of_the_window_and_this_one() -> None:
    environment = ThinkerConfig(window=2).build()
    assert rewarded(environment, [["2", "Yes"]], 1) == [[1, 0.0]]
    assert rewarded(environment, [["3", "No", "3"], ["3", "No", "3"]], 2)[0][1] == pytest.approx(1 / 3)
    resumed = ThinkerConfig(window=2).build()
    resumed.restore(json.loads(json.dumps(environment.state())))
    for each in (environment, resumed):
        assert rewarded(each, [["3", "No", "3"]], 3)[0][1] == 0, "the first iteration is out of the window"
        assert rewarded(each, [["2", "Yes"]], 4)[0][1] == 0.5
        assert rewarded(each, [["2", "Yes"]], 4)[0][1] == pytest.approx(1 / 3), "a second draw of an iteration"
    resumed.restore({})
    assert rewarded(resumed, [["2", "Yes"]], 1)[0][1] == 0


def test_what_is_measured_is_not_counted() -> None:
    environment = ThinkerConfig().build()
    before = [played(environment, texts) for texts in (["2", "Yes"], ["3", "No", "3"])]
    environment.rewards(before, GrpoConfig().reward)
    assert [episode.turns[1].reward for episode in before] == [0.5, 0.5], "p of the episodes at hand"
    environment.count(before[:1], 1)
    environment.rewards(before, GrpoConfig().reward)
    assert [episode.turns[1].reward for episode in before] == [0, 1] and environment.state() == {"fast": [[1, 1, 1]]}


@pytest.mark.parametrize(
    ("texts", "training", "outcome"),
    [
        (["2", "Yes"], True, Outcome.correct),
        (["2", "No"], True, Outcome.correct),
        (["3", "Yes", "2", "3"], True, Outcome.wrong),
        (["3", "No", "x"], True, Outcome.malformed),
        (["3", "No", "3"], True, Outcome.wrong),
        (["2", "Yes"], False, Outcome.correct),
        (["3", "Yes"], False, Outcome.wrong),
        (["2", "No", "3"], False, Outcome.wrong),
        (["3", "No", "2"], False, Outcome.correct),
        (["2", "perhaps", "2"], False, Outcome.correct),
    ],
)
def test_transitions(texts: list[str], training: bool, outcome: Outcome) -> None:
    """In training the verdict decides nothing, and a correct fast answer is followed by no slow one."""
    episode = played(ThinkerConfig().build(), texts, training=training)
    assert [turn.name for turn in episode.turns] == list(NAMES[: len(texts)])
    assert episode.verdict.outcome is outcome
    assert [turn.reply for turn in episode.turns] == [*["verify", "think", "sum"][: len(texts) - 1], ""]


def test_steps_have_budgets_and_the_fast_one_may_be_alone() -> None:
    environment = ThinkerConfig(fast_tokens=3, verify_tokens=4, slow_tokens=5, summary_tokens=None).build()
    episode = environment.open(EXAMPLE, assess, key=0, training=True)
    assert (episode.prompt, episode.budget, environment.turns, environment.apart) == ("fast\n1+1=", 3, 4, True)
    answers = [episode.take(Turn(text=text)) for text in ("3", "No", "2")]
    assert [answer and (answer.text, answer.budget) for answer in answers] == [
        ("verify", 4), ("think", 5), ("sum", None)
    ]  # fmt: skip
    alone = ThinkerConfig(steps=Steps.fast).build()
    episode = alone.open(EXAMPLE, assess, key=0, training=True)
    assert episode.take(Turn(text="2")) is None and alone.turns == 1 and episode.verdict.correct
    alone.rewards([episode], GrpoConfig().reward)
    assert episode.turns[0].reward == 1


@pytest.mark.parametrize(
    ("text", "ended", "clean", "said"),
    [
        ("Yes", True, True, True),
        ("No", True, True, False),
        ("1+1=2\nYes", True, True, True),
        ("Yes No", True, True, False),
        ("Yess", True, True, None),
        ("yes", True, True, None),
        ("", True, True, None),
        ("Yes", False, True, None),
        ("No", True, False, None),
    ],
)
def test_a_verdict_is_the_last_word(text: str, ended: bool, clean: bool, said: bool | None) -> None:
    assert says(Turn(text=text, ended=ended, clean=clean)) is said


def test_what_is_measured_of_an_episode() -> None:
    """Shares of all episodes, so that the verifier's on both kinds follow from their means."""
    environment = ThinkerConfig().build()
    found = [
        played(environment, texts, training=False).verdict.measures
        for texts in (["2", "Yes"], ["2", "No", "3"], ["3", "Yes"], ["3", "No", "2"])
    ]
    assert [each["fast"] for each in found] == [1, 1, 0, 0]
    assert [each["yes_to_right"] for each in found] == [1, 0, 0, 0]
    assert [each["no_to_wrong"] for each in found] == [0, 0, 0, 1]
    assert [each.get("slow") for each in found] == [None, 0, None, 1]


def test_an_episode_that_could_not_go_on_is_truncated() -> None:
    environment = ThinkerConfig().build()
    episode = environment.open(EXAMPLE, assess, key=0, training=False)
    episode.take(Turn(text="2"))
    episode.cut = True
    environment.rewards([episode], GrpoConfig().reward)
    assert episode.verdict.outcome is Outcome.truncated and episode.verdict.measures["yes_to_right"] == 0
    assert episode.turns[0].reward == 1, "what was answered was answered"


def test_a_correct_summary_alone_asks_how_likely_it_is() -> None:
    for coefficient, asked in ((0.5, Likelihood("fast\n1+1=", 0.5)), (0.0, None)):
        environment = ThinkerConfig(summary_coefficient=coefficient).build()
        dialogues = [["3", "No", "2", "2"], ["3", "No", "2", "3"], ["2", "Yes"]]
        episodes = [played(environment, texts) for texts in dialogues]
        environment.rewards(episodes, GrpoConfig().reward)
        found = [[turn.likelihood for turn in episode.turns] for episode in episodes]
        assert found == [[None, None, None, asked], [None] * 4, [None] * 2]


def sums(**settings: Any) -> Task:
    return ArithmeticConfig(max_digits=2, trace=Trace.scratchpad, **settings).build()


def test_demonstrations_are_true_and_mistakes_are_not_learnt() -> None:
    task, environment = sums(), ThinkerConfig(mistakes=0.25).build()
    wrong = 0
    for index in range(400):
        episode = demonstrated(environment, task, Split.train, index)
        fast, verify, *more = episode.turns
        short = brief(task, episode.example.solution)
        assert short == f"={sum(episode.example.truth[0])}"
        assert all(turn.lesson for turn in episode.turns[1:])
        if fast.lesson:
            assert (fast.text, verify.text, more) == (short, "Yes", [])
            continue
        wrong += 1
        assert fast.text != short and fast.text.startswith("=") and "\n" not in fast.text
        assert [verify.text, *(turn.text for turn in more)] == ["No", episode.example.solution, short]
    assert 70 < wrong < 130


def test_the_fast_step_alone_has_its_budget_too() -> None:
    torch.manual_seed(0)
    tokenizer = CharConfig().build()
    engine = Engine(
        DenseConfig(d_model=32, n_layers=1, n_heads=4).build(tokenizer.vocab_size),
        end_id=tokenizer.end_id, pad_id=tokenizer.pad_id,
    )  # fmt: skip
    task = sums()
    examples = [task.example(Split.train, n) for n in range(4)]
    player = Player(ThinkerConfig(steps=Steps.fast, fast_tokens=3).build(), tokenizer, Judge(task))
    found = player.play(
        engine, examples, keys=[1, 2, 3, 4], samples=2, decode=SampleConfig(max_tokens=9), training=True
    )
    assert found.lengths.max() == 3 and all(len(episode.turns) == 1 for episode in found.episodes)


def test_verdicts_may_be_shown_with_work() -> None:
    for index in range(20):
        episode = demonstrated(ThinkerConfig(verify_work=True).build(), sums(), Split.train, index)
        work, word = episode.turns[1].text.rsplit("\n", 1)
        assert work == episode.example.solution and word == ("Yes" if episode.turns[0].lesson else "No")
        assert says(episode.turns[1]) is episode.turns[0].lesson


def test_the_answer_alone_verifies_in_every_format() -> None:
    for trace in Trace:
        task = ArithmeticConfig(max_digits=3, trace=trace).build()
        for index in range(20):
            example = task.example(Split.train, index)
            short = brief(task, example.solution)
            assert task.verify(example, short).correct and len(short) <= len(example.solution)
            assert brief(task, short) == short and brief(task, "no such thing") == "no such thing"
            wrong = brief(task, task.mistake(example, Random(index)))
            assert task.verify(example, wrong).outcome is Outcome.wrong and len(wrong) <= len(short)


@pytest.mark.parametrize(
    "settings",
    [{"fast_tokens": 0}, {"slow_tokens": -1}, {"window": 0}, {"summary_coefficient": -1.0}, {"mistakes": 1.5}],
    ids=str,
)
def test_wrong_settings_are_one_line(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"environment\.{next(iter(settings))}=") as error:
        ThinkerConfig(**settings)
    assert "\n" not in str(error.value)


TASK = (*MODULAR, "task.trace=scratchpad")
TALK = ("environment=thinker", "environment.fast_tokens=4", "environment.slow_tokens=28", "environment.verify_tokens=5",
        "environment.summary_tokens=4", "decode.max_tokens=80")  # fmt: skip


def start(door: Any, steps: int = 60) -> str:
    """A run that says Yes and No and is right now and then."""
    done = door(
        *TASK, "stage=sft", "corpus=dialogues", "corpus.environment=thinker", f"stage.steps={steps}", "optim=muon",
        "optim.lr=2e-2", "stage.batch_tokens=512", "stage.row_tokens=64", "stage.val_every=0",
    )  # fmt: skip
    assert done.code == 0, done.err
    return str(place(done.out))


def rl(origin: str, *more: str) -> list[str]:
    return [*TASK, *TALK, "stage=rl", "algorithm=ppo", f"init_from={origin}", "stage.steps=3", "stage.prompts=8",
            "algorithm.group_size=4", "stage.val_every=2", "stage.val_problems=4", "stage.preflight_problems=4",
            "checkpoint.every=1", *more]  # fmt: skip


def test_runs_play_it_and_go_on_where_they_stopped(door, monkeypatch) -> None:
    counted: list[tuple[int, int]] = []
    count, complete = Thinker.count, Engine.complete

    def counting(self: Thinker, episodes: Any, iteration: int) -> None:
        counted.append((iteration, len(episodes)))
        count(self, episodes, iteration)

    monkeypatch.setattr(Thinker, "count", counting)
    origin = start(door)
    free = rows(place(door(*rl(origin, "rerun=free")).out))
    assert counted == [(n, 32) for n in range(3)], "neither the preflight nor what is validated"
    for row in free:
        assert row["turns/fast/length"] <= 4 and row["turns/verify/length"] <= 5 and row["turns/cut_ratio"] == 0
        slow, fast = row.get("turns/slow/share", 0.0), row["turns/fast/correct"]
        assert slow == pytest.approx(1 - fast), "no slow turn after a correct fast answer"
        assert row.get("turns/sum/share", 0.0) == pytest.approx(slow * row.get("turns/slow/correct", 0.0))
        assert row["sampling/sampling_logp_difference/mean"] <= 1e-5
    assert any(row["turns/verify/reward"] > 0 for row in free)
    assert not any("rewards/likelihood/mean" in row for row in free if not row.get("turns/sum/correct"))

    rewards = Thinker.rewards

    def asking(self: Thinker, episodes: Any, worth: Any) -> None:
        """Correct summaries are rare so early: every fast answer is asked of."""
        rewards(self, episodes, worth)
        for episode in episodes:
            episode.turns[0].likelihood = Likelihood(episode.prompt, 0.1)

    monkeypatch.setattr(Thinker, "rewards", asking)
    whole = door(*rl(origin))
    assert whole.code == 0, whole.err
    found = rows(place(whole.out))
    added = [row["rewards/likelihood/mean"] for row in found]
    assert all(each < 0 for each in added)
    assert found[0]["reward"] - free[0]["reward"] == pytest.approx(added[0], abs=1e-6), "the same samples"
    assert found[0]["turns/fast/reward"] - free[0]["turns/fast/reward"] == pytest.approx(added[0], abs=1e-6)
    assert found[0]["flops/rollout"] == free[0]["flops/rollout"] and found[0]["flops/train"] > free[0]["flops/train"]

    calls = 0

    def stopping(engine: Engine, *given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1  # the preflight's two, two iterations, a validation, then the third iteration
        if calls == 6:
            stop.signal = signal.SIGTERM
        return complete(engine, *given, **named)

    arguments = rl(origin, "rerun=again")
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "complete", stopping)
        done = door(*arguments)
    assert done.code == 75, done.err
    done = door(*arguments)
    assert done.code == 0, done.err
    assert rows(place(done.out)) == found and digest(place(done.out)) == digest(place(whole.out))


def test_an_abandoned_draw_is_not_counted(door, monkeypatch) -> None:
    """Where an iteration has two draws, and the second is abandoned."""
    origin = start(door, 40)
    seen: list[list[list[int]]] = []
    complete, calls = Engine.complete, 0

    def stopping(engine: Engine, *given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            stop.signal = signal.SIGTERM
        return complete(engine, *given, **named)

    restore = Thinker.restore

    def restoring(self: Thinker, state: dict[str, Any]) -> None:
        seen.append(self.state()["fast"])
        restore(self, state)
        seen.append(self.state()["fast"])

    monkeypatch.setattr(Thinker, "restore", restoring)
    monkeypatch.setattr(Engine, "complete", stopping)
    more = ("algorithm.dynamic_sampling=true", "stage.preflight_problems=0", "stage.val_every=0")
    done = door(*rl(origin, *more))
    assert done.code == 75, done.err
    assert [count for ((_, _, count),) in seen[:1]] == [32] and seen[1] == []


@pytest.mark.parametrize("algorithm", ["dpo", "npo", "expert_iteration", "rft", "grpo_lambda"])
def test_algorithms_that_take_rows_as_wholes_are_refused(door, algorithm: str) -> None:
    done = door(*TASK, *TALK, "stage=rl", f"algorithm={algorithm}", "init_from=runs/none")
    assert done.code == 2 and len(done.err.strip().splitlines()) == 1
    assert f"algorithm={algorithm} " in done.err and "turns of environment=thinker are rewarded apart" in done.err


def test_the_log_probability_is_that_of_a_full_pass() -> None:
    tokenizer, config = CharConfig().build(), DenseConfig(d_model=32, n_layers=2, n_heads=4, init_std=0.25)
    torch.manual_seed(0)
    model = config.build(tokenizer.vocab_size)
    looker = Looker(pad_id=tokenizer.pad_id, micro_rows=2, temperature=0.7, routed=False, compile=False)
    environment = ThinkerConfig(summary_coefficient=0.5).build()
    dialogues = [["3", "No", "2", "2"], ["2", "Yes"], ["3", "No", "2", "3"], ["3", "Yes", "2", "2"]]
    episodes = [played(environment, texts) for texts in dialogues]
    environment.rewards(episodes, GrpoConfig().reward)
    episodes[3].turns[3].likelihood = Likelihood("a longer prompt", -2.0)
    added, extent = add_likelihoods(episodes, model, tokenizer, looker)
    expected, passed = [], 0
    for prompt, text, weight in (("fast\n1+1=", "2", 0.5), ("a longer prompt", "2", -2.0)):
        given = [tokenizer.begin_id, *tokenizer.encode(prompt)]
        said = [*tokenizer.encode(text), tokenizer.end_id]
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([given + said]))[0])[0].double() / 0.7
        logs = logits.log_softmax(-1)
        expected.append(weight * sum(logs[len(given) + n - 1, token].item() for n, token in enumerate(said)))
        passed += len(given) + len(said)
    assert added == pytest.approx([expected[0], 0, 0, expected[1]], abs=1e-4) and extent.tokens == passed
    assert episodes[0].turns[3].reward == pytest.approx(1 + expected[0], abs=1e-4)
    assert [episode.turns[-1].reward for episode in episodes[1:3]] == [0.75, 0.0]
    assert add_likelihoods(episodes[1:3], model, tokenizer, looker) == ([0.0, 0.0], Extent())
