"""environment=multi_attempt: the paper's rewards on dialogues made by hand, and runs."""

import json
from itertools import pairwise, product
from random import Random
from typing import Any

import pytest
import torch

from rlx.algorithms.base import Rewards, Totals
from rlx.algorithms.grpo import GrpoConfig
from rlx.algorithms.policy_gradient import KlEstimator, KlIn
from rlx.algorithms.ppo import PpoConfig
from rlx.batches import RolloutBatch
from rlx.data.corpora.dialogues import demonstrated, dialogue_of
from rlx.data.tokenizers.char import CharConfig
from rlx.decoding.completions import Completions
from rlx.decoding.engine import Engine
from rlx.decoding.sample import SampleConfig
from rlx.environments.base import Turn, mistake
from rlx.environments.multi_attempt import MultiAttemptConfig
from rlx.environments.thinker import ThinkerConfig
from rlx.errors import ConfigError
from rlx.evaluation.episodes import Played, Player
from rlx.evaluation.judge import Judge
from rlx.models.dense import DenseConfig
from rlx.stages.modules.looking import Looker
from rlx.stages.modules.rollouts import Sampler, earned
from rlx.tasks.arithmetic import ArithmeticConfig
from rlx.types import Example, Outcome, Split, Verdict
from tests.stages.runs import place, rows

TOKENIZER = CharConfig().build()
TASK = ArithmeticConfig(max_digits=2).build()
EXAMPLE = Example(id="x", prompt="1+1=", solution="2")
KINDS = {"2": Outcome.correct, "3": Outcome.wrong, "x": Outcome.malformed, "": Outcome.malformed}
PAPER: Any = dict(wrong=-0.5, illegal=-0.5, malformed=-1.0, truncated=-1.0)


def assess(example: Example, turn: Turn) -> Verdict:
    return Verdict(KINDS[turn.text] if turn.ended else Outcome.truncated)


def played(texts: list[str], *, training: bool = False, ended: bool = True, **settings: Any):
    environment = MultiAttemptConfig(**settings).build()
    episode = environment.open(EXAMPLE, assess, key=5, training=training)
    answers = [episode.take(Turn(text=text, ended=ended)) for text in texts]
    environment.rewards([episode], GrpoConfig(rewards=Rewards(**PAPER)).reward)
    return episode, answers


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
        "correct@1": 0, "correct@2": 0, "correct@3": 1, "correct@4": 1, "attempts": 3, "repeated@2": 1, "repeated@3": 0
    }  # fmt: skip
    episode, _ = played(["3", "x", "3"], attempts=3)
    measures = episode.verdict.measures
    assert (measures["repeated@2"], measures["repeated@3"]) == (0, 1)
    episode, _ = played(["2"], attempts=3)
    assert not [name for name in episode.verdict.measures if name.startswith("repeated")]


def test_what_is_measured_in_training_is_of_the_attempts_that_a_problem_has() -> None:
    environment = MultiAttemptConfig(attempts=3).build()
    for key in range(20):
        episode = environment.open(EXAMPLE, assess, key=key, training=True)
        episode.take(Turn(text="2"))
        named = {name for name in episode.verdict.measures if name.startswith("correct")}
        assert named == {f"correct@{k + 1}" for k in range(int(episode.prompt[0]))}


def test_never_more_attempts_than_there_are_and_none_after_a_right_one() -> None:
    for key, texts in enumerate(product("23x", repeat=4)):
        environment = MultiAttemptConfig(attempts=4, least=2).build()
        episode = environment.open(EXAMPLE, assess, key=key, training=key % 2 == 0)
        allowed = int(episode.prompt.split()[0])
        assert 2 <= allowed <= 4 and (key % 2 == 0 or allowed == 4)
        left = list(texts)
        while (answer := episode.take(Turn(text=left.pop(0)))) is not None:
            assert answer.text == f"wrong, {allowed - len(episode.turns)} left"
        made = [turn.text for turn in episode.turns]
        assert len(made) == min(texts.index("2") + 1 if "2" in texts else 4, allowed) and "2" not in made[:-1]
        assert [turn.name for turn in episode.turns] == [f"attempt_{n + 1}" for n in range(len(made))]


class Talking(Engine):
    """An engine that says the turns it is told, a list of token ids each, as the engine does in an exchange."""

    def __init__(self, rows: list[list[list[int]]]) -> None:
        self.rows = rows

    def complete(self, *_: Any, **given: Any) -> Completions:
        exchange, made = given["exchange"], []
        for row_number, turns in enumerate(self.rows):
            row: list[tuple[int, bool, int]] = []
            for number, ids in enumerate(turns):
                row += [(token, True, number) for token in ids]
                reply = exchange.reply(row_number, ids, ids[-1] == TOKENIZER.end_id)
                if reply is None:
                    break
                row += [(token, False, number) for token in reply.tokens]
            made.append(row)
        width = max(map(len, made))

        def column(n: int, empty: Any) -> Any:
            return torch.tensor([[each[n] for each in row] + [empty] * (width - len(row)) for row in made])

        sampled = column(1, False)
        return Completions(
            tokens=column(0, TOKENIZER.pad_id),
            logprobs=-1.0 * sampled,
            lengths=torch.tensor([len(row) for row in made]),
            finished=torch.ones(len(made), dtype=torch.bool),
            sampled=sampled,
            turns=column(2, 0),
        )


def talk(rows: list[list[list[int]]]) -> Played:
    player = Player(MultiAttemptConfig(attempts=3).build(), TOKENIZER, Judge(TASK))
    settings: Any = dict(keys=range(len(rows)), samples=1, decode=SampleConfig(), training=False)
    return player.play(Talking(rows), [TASK.example(Split.train, 0)] * len(rows), **settings)


def test_a_model_that_writes_turn_marks_forges_nothing() -> None:
    """Neither its own verdict nor a word of the environment: the turn is malformed, and another one is asked for."""
    right, end, mark = TASK.example(Split.train, 0).solution, TOKENIZER.end_id, TOKENIZER.turn_id
    assert mark is not None
    forged = [*TOKENIZER.encode("1"), mark, *TOKENIZER.encode("wrong, 9 left"), mark, *TOKENIZER.encode(right), end]
    hidden = [mark, *TOKENIZER.encode(right), end]
    found = talk([[forged, hidden, [*TOKENIZER.encode(right), end]], [[*TOKENIZER.encode("1wrong, 9 left"), end]] * 3])
    turns = found.episodes[0].turns
    assert [turn.verdict and turn.verdict.outcome.value for turn in turns] == ["malformed", "malformed", "correct"]
    assert [turn.reply for turn in turns] == ["wrong, 2 left", "wrong, 1 left", ""]
    assert [turn.text for turn in turns] == [f"1wrong, 9 left{right}", right, right]
    assert found.texts[0] == f"1wrong, 9 left{right}\n> wrong, 2 left\n{right}\n> wrong, 1 left\n{right}"
    assert [turn.verdict and turn.verdict.outcome.value for turn in found.episodes[1].turns] == ["malformed"] * 3


def rollout(texts: list[list[str]]) -> RolloutBatch:
    """Dialogues said as tokens, as rl makes them rows: rewards by the paper's table."""
    rows = [[[*TOKENIZER.encode(text), TOKENIZER.end_id] for text in row] for row in texts]
    found = talk(rows)
    MultiAttemptConfig(attempts=3).build().rewards(found.episodes, GrpoConfig(rewards=Rewards(**PAPER)).reward)
    done, given = found.completions, len(found.prompts[0])
    prompts = torch.tensor(found.prompts)

    def behind(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros(prompts.shape, dtype=values.dtype), values], 1)

    sampled, turn = behind(done.sampled), behind(done.turns)
    tokens = torch.cat([prompts, done.tokens], 1)
    assert given == prompts.shape[1]
    return RolloutBatch(
        tokens=tokens,
        loss_mask=sampled.float(),
        logprobs=behind(done.logprobs),
        rewards=earned(found.episodes, sampled, turn),
        group=torch.zeros(len(texts), dtype=torch.int64),
        turn=turn,
        finished=done.finished,
        correct=torch.tensor([verdict.correct for verdict in found.verdicts]),
    )


RIGHT = TASK.example(Split.train, 0).solution
WRONG = mistake(TASK, TASK.example(Split.train, 0), Random(0))
DIALOGUES = [[WRONG, "+", RIGHT], [RIGHT], [WRONG, RIGHT], ["+", "-", "+"], ["+", WRONG, "x"]]


def test_advantages_are_those_of_the_dialogue_without_its_replies() -> None:
    """Tokens, rewards, values and the cost of divergence, the rows of what the model drew alone, side by side."""
    whole = rollout(DIALOGUES)
    assert whole.returns().tolist() == [1.0, 1.0, 1.0, -1.0, -0.5]
    generator = torch.Generator().manual_seed(0)
    whole.values = torch.randn(whole.tokens.shape, generator=generator)
    whole.reference_logprobs = -torch.rand(whole.tokens.shape, generator=generator)
    given = int(whole.loss_mask[0].argmax())
    width = given + int(whole.loss_mask.sum(-1).max())
    spoken = [torch.cat([torch.arange(given), row.nonzero().squeeze(1)]) for row in whole.loss_mask]
    kept = torch.stack([torch.cat([row, torch.full((width - len(row),), given - 1)]) for row in spoken])
    there = torch.stack([torch.arange(width) < len(row) for row in spoken])
    fields = {
        name: value.gather(1, kept) * there if value.dim() == 2 else value for name, value in whole.tensors().items()
    }
    short = RolloutBatch(**fields)
    assert bool((short.loss_mask.sum(-1) == whole.loss_mask.sum(-1)).all()) and width < whole.tokens.shape[1]
    for settings in ({}, {"gae_lambda": 0.95, "gamma": 0.9}, {"kl_coefficient": 0.1, "whiten": False}):
        algorithm = PpoConfig(**settings).build()
        found, expected = algorithm.advantages(whole), algorithm.advantages(short)
        assert not found[whole.loss_mask == 0].any()
        torch.testing.assert_close(found.gather(1, kept) * there, expected)


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_what_is_predicted_where_the_environment_speaks_has_no_gradient(name: str) -> None:
    """Exactly 0 on the logits at every place before a token that the model did not draw, in all terms of the loss."""
    batch = rollout(DIALOGUES)
    torch.manual_seed(0)
    model = DenseConfig(d_model=16, n_layers=1, n_heads=2).build(TOKENIZER.vocab_size)
    logits: list[torch.Tensor] = []
    of = model.logits

    def kept(hidden: torch.Tensor) -> torch.Tensor:
        logits.append(of(hidden))
        logits[-1].retain_grad()
        return logits[-1]

    model.logits = kept
    looker = Looker(pad_id=TOKENIZER.pad_id, micro_rows=8, temperature=1.0, routed=False, compile=False)
    config = {"ppo": PpoConfig, "grpo": GrpoConfig}[name]
    algorithm = config(
        kl_coefficient=0.1, kl_in=KlIn.loss, kl_estimator=KlEstimator.k3, entropy_coefficient=0.1
    ).build()
    batch.reference_logprobs = batch.logprobs - 0.5
    batch.values = torch.zeros_like(batch.logprobs)
    out, _ = looker.policy(model, batch)
    out.values = torch.zeros_like(batch.logprobs)
    losses, _ = algorithm.losses(out, batch, algorithm.advantages(batch), Totals.of(batch, 64))
    losses["policy"].backward()
    grad = logits[0].grad
    assert grad is not None
    drawn = torch.nn.functional.pad(batch.loss_mask, (0, 1))[:, 1:] > 0  # logits at t speak of token t + 1
    assert torch.equal(grad.abs().sum(-1) > 0, drawn)


class Alike:
    """A task whose problems all have one answer, so that no other problem's solution is a mistake."""

    def size(self, split: Split) -> int | None:
        return None

    def example(self, split: Split, index: int) -> Example:
        return EXAMPLE

    def verify(self, example: Example, completion: str) -> Verdict:
        return Verdict(Outcome.correct if completion == "2" else Outcome.wrong)


class Unmistaken(Alike):
    """One that says that it has no mistakes, though other problems' solutions are."""

    def verify(self, example: Example, completion: str) -> Verdict:
        return Verdict(Outcome.correct if example.prompt == "1+1=" and completion == "2" else Outcome.wrong)

    def example(self, split: Split, index: int) -> Example:
        return EXAMPLE if index == 0 else Example(id=str(index), prompt="1+2=", solution="3")

    def mistake(self, example: Example, random: Random) -> str | None:
        return None


@pytest.mark.parametrize("kind", [Alike, Unmistaken])
def test_no_right_answer_is_shown_as_a_mistake(kind: Any) -> None:
    task = kind()
    assert mistake(task, EXAMPLE, Random(0)) is None
    for environment in (MultiAttemptConfig(least=5).build(), ThinkerConfig(mistakes=1.0).build()):
        random = Random(1)
        episode = environment.open(EXAMPLE, lambda example, turn: task.verify(example, turn.text), key=0, training=True)
        for _ in range(5):
            episode.turns.clear()
            first = environment.demonstrate(episode, task, random)
            assert (first.text, first.lesson) == ("2", True)


@pytest.mark.parametrize(
    "settings", [{"attempts": 0}, {"attempts": 65}, {"least": 0}, {"least": 6}, {"turn_tokens": 0}], ids=str
)
def test_wrong_settings_are_one_line(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"environment\.") as error:
        MultiAttemptConfig(**settings)
    assert "\n" not in str(error.value)


def check_turns(sample: dict, name: str, text: str, verdict: str) -> None:
    """A row's turns against its text and its verdict; a single turn has no list."""
    turns = sample.get(name)
    if turns is None:
        assert "> wrong" not in text
        return
    assert len(turns) > 1 and text == "\n".join(
        part for turn in turns for part in (turn["text"], turn["reply"] and f"> {turn['reply']}") if part
    )
    assert [turn["name"] for turn in turns] == [f"attempt_{n + 1}" for n in range(len(turns))]
    assert turns[-1]["verdict"] == verdict and "correct" not in [turn["verdict"] for turn in turns[:-1]]
    tries = int(sample["prompt"][0])
    assert [turn["reply"] for turn in turns] == [*(f"wrong, {tries - n} left" for n in range(1, len(turns))), ""]


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
    samples = [json.loads(line) for line in (place(done.out) / "samples.jsonl").read_text().splitlines()]
    assert any("turns" in sample for sample in samples)
    for sample in samples:
        assert "tries" in sample["prompt"]
        check_turns(sample, "turns", sample["completion"], sample["verdict"])
        assert sample["parts"] == {"verifier": sample["reward"]}
        assert sample["reward"] == sum(turn["reward"] for turn in sample.get("turns", [])) or "turns" not in sample
    found = door("stage=eval", *task, *talk, f"init_from={start}", "stage.problems=8", "decode.max_tokens=60")
    assert found.code == 0, found.err
    samples = [json.loads(line) for line in (place(found.out) / "samples.jsonl").read_text().splitlines()]
    assert any("turns" in sample for sample in samples) and any("greedy_turns" in sample for sample in samples)
    for sample in samples:
        check_turns(sample, "turns", sample["completion"], sample["verdict"])
        check_turns(sample, "greedy_turns", sample["greedy"], sample["greedy_verdict"])
    metrics = json.loads((place(found.out) / "eval.json").read_text())["metrics"]
    at = [metrics[f"eval/arithmetic/measures/correct@{k}"] for k in (1, 2, 3)]
    assert all(one <= other for one, other in pairwise(at)) and at[-1] == pytest.approx(
        metrics["eval/arithmetic/pass@1"]
    )


def test_a_model_with_coupled_positions_does_not_interact(door) -> None:
    coupled = ("task=arithmetic", "task.trace=reversed", "model.position=coupled", "init_from=random", "scale=smoke")
    done = door("stage=eval", *coupled, "environment=multi_attempt")
    assert done.code == 2 and "has no coupled positions" in done.err and "environment=single" in done.err


WORDS = (
    "task=arithmetic",
    "task.max_digits=2",
    "scale=smoke",
    "trainer.threads=1",
    "tokenizer=word",
    "init_from=random",
)
PLAY = ("environment=multi_attempt", "decode.max_tokens=40", "stage.problems=2", "stage.samples=1")


def test_words_of_the_environment_are_in_a_fresh_vocabulary(door) -> None:
    done = door("stage=eval", *WORDS, *PLAY)
    assert done.code == 0, done.err
    assert "chance of one answer" in done.out
    assert json.loads((place(done.out) / "eval.json").read_text())["environment"] == "multi_attempt"


def test_a_vocabulary_without_them_is_told_before_anything_is_drawn(door) -> None:
    task = WORDS[:-1]
    start = place(door(*task, "stage=sft", "stage.steps=1", "stage.val_every=0").out)
    done = door("stage=eval", *task[:-1], *PLAY, f"init_from={start}")
    assert done.code == 1 and "which the environment writes" in done.err and len(done.err.splitlines()) == 1
    short = ("stage.steps=1", "stage.prompts=2", "stage.val_every=0", "stage.preflight_problems=0")
    more = door(
        *task[:-1], "stage=rl", "algorithm=grpo", *PLAY[:2], f"init_from={start}", "tokenizer.extend=true", *short
    )
    assert more.code == 0, more.err


def test_evaluations_on_the_way_do_not_couple_positions_either(door) -> None:
    coupled = ("task=arithmetic", "task.trace=reversed", "model.position=coupled", "scale=smoke", "stage=sft")
    done = door(*coupled, "eval.every=1", "environment=multi_attempt", "stage.steps=1")
    assert done.code == 2 and "has no coupled positions" in done.err


SUMS = ("task=arithmetic", "task.max_digits=2", "scale=smoke", "trainer.threads=1")
TALK = ("environment=multi_attempt", "environment.attempts=3", "decode.max_tokens=64")
SHORT = ("stage=rl", "stage.steps=1", "stage.prompts=4", "algorithm.group_size=2", "stage.val_every=0")


def test_the_preflight_names_the_limit_of_turns_and_the_dialogues_to_train_on(door) -> None:
    bare = place(door(*SUMS, "stage=sft", "stage.steps=1").out)
    dialogues = ("corpus=dialogues", "corpus.environment={name:multi_attempt,attempts:3}")
    spoken = place(door(*SUMS, "stage=sft", *dialogues, "stage.steps=1").out)
    asked = "task=arithmetic task.trace=plain corpus=dialogues corpus.environment=multi_attempt"

    def said(start: Any, *more: str) -> str:
        done = door(*SUMS, *TALK, *SHORT, "algorithm=grpo", f"init_from={start}", *more)
        assert done.code == 0, done.err
        return done.out

    limits = "environment.turn_tokens=1 or decode.max_tokens=64 is too low"
    assert f"every completion is cut: {limits}" in said(spoken, "environment.turn_tokens=1")
    found = said(bare, "environment.turn_tokens=1")
    assert f"it was trained on task=arithmetic task.trace=plain, this run asks for {asked}; use the same" in found
    assert f"fine-tune it on {asked} first" in said("random", "environment.turn_tokens=1")
    found = said(spoken, "decode.max_tokens=3")  # a right answer has up to four tokens, and mistakes may come before
    assert f"solutions of {asked} have up to" in found
    most = int(found.split(f"solutions of {asked} have up to ")[1].split()[0])
    assert most > 4 + len("wrong, 2 left")


def test_parallel_learns_from_dialogues_where_it_plays_them(door, monkeypatch) -> None:
    made, whole = [], Sampler.demonstrations

    def kept(sampler: Any, first: int, count: int) -> Any:
        tokenizer, task, environment = sampler.start.tokenizer, sampler.task, sampler.environment
        indices = [sampler.demonstrated[first + n] for n in range(count)]
        episodes = [demonstrated(environment, task, Split.train, index) for index in indices]
        documents = [dialogue_of(episode, environment, tokenizer, whole=False) for episode in episodes]
        made.append((documents, whole(sampler, first, count)))
        return made[-1][1]

    monkeypatch.setattr(Sampler, "demonstrations", kept)
    more = ("environment.turn_tokens=5", "algorithm=parallel", "algorithm.sft_rows=8", "init_from=random")
    done = door(*SUMS, *TALK, *SHORT, *more, "stage.preflight_problems=0")
    assert done.code == 0, done.err
    ((documents, batch),) = made
    assert any(document.told for document in documents), "some have mistakes and replies"
    for document, tokens, mask in zip(documents, batch.tokens.tolist(), batch.loss_mask.tolist(), strict=True):
        assert tokens[: len(document.ids)] == document.ids
        assert [bool(each) for each in mask[: len(document.ids)]] == document.counted()
        assert not any(mask[len(document.ids) :])
