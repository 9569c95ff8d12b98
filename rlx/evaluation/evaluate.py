"""One model on one task's problems: a greedy completion and n samples each, one row a problem.

Problems are completed in chunks. What is found of a chunk is plain JSON, so that it can be kept, and an evaluation that
was interrupted goes on after the chunks that are done.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlx.batches import Extent
from rlx.data.documents import guides
from rlx.data.tokenizers.base import Tokenizer
from rlx.decoding.base import DecodeConfig
from rlx.decoding.engine import Engine
from rlx.decoding.greedy import GreedyConfig
from rlx.environments.base import Environment
from rlx.environments.single import Single
from rlx.evaluation.episodes import Player, turns_of
from rlx.evaluation.judge import Judge
from rlx.evaluation.verdicts import failure_counts, first_failure, heard, mean_by_name, mean_measures
from rlx.nn.decoder import Decoder
from rlx.statistics import bootstrap, bootstrap_pass_at_k
from rlx.tasks.base import Task, stable_hash
from rlx.types import Example, Outcome, Split

CHUNK = 64
"""Problems completed together; a chunk that is finished is never made again."""


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """Findings for every problem, and what they cost."""

    problems: list[dict[str, Any]] = field(default_factory=list)
    """One a problem: id, n, correct, greedy, chance, baseline, difficulty, mean_length, and the means of what else the
    verifier measured of the samples and of the greedy completion."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Verdicts of the samples."""
    lengths: list[int] = field(default_factory=list)
    """Tokens of every sample."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """First completions, to be read."""
    failures: Counter[str] = field(default_factory=Counter)
    """Turns that the verifier failed on, those of greedy completions too, as `failure_counts` names them."""
    failed: str = ""
    """How it failed first."""
    prefilled: Extent = field(default_factory=Extent)
    """Of the prompts' tokens that went through the model."""
    decoded: Extent = field(default_factory=Extent)
    """Of the completions' tokens that did, one a step."""

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take in what was found of a chunk: a value for each field, as JSON holds it."""
        self.problems.extend(chunk["problems"])
        self.outcomes.update(chunk["outcomes"])
        self.lengths.extend(chunk["lengths"])
        self.samples.extend(chunk["samples"])
        self.failures.update(chunk.get("failures", {}))
        self.failed = self.failed or chunk.get("failed", "")
        self.prefilled += Extent.read(chunk["prefilled"])
        self.decoded += Extent.read(chunk["decoded"])


def chunks(examples: Sequence[Example]) -> list[Sequence[Example]]:
    """The examples in the parts that are completed together."""
    return [examples[start : start + CHUNK] for start in range(0, len(examples), CHUNK)]


def first_problems(task: Task, split: Split, count: int) -> list[Example]:
    """The first `count` problems of a split, or all; one that was drawn twice is taken once."""
    size = task.size(split)
    drawn = [task.example(split, n) for n in range(count if size is None else min(size, count))]
    return list({example.id: example for example in drawn}.values())


class Evaluator:
    """Completes and verifies problems of one task with one model."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        task: Task,
        *,
        decode: DecodeConfig,
        stop: Callable[[], bool],
        compile: bool,
        judge: Judge | None = None,
        environment: Environment | None = None,
    ) -> None:
        """
        Args:
            judge: asks the task's verifier, where that is more than to call it.
            environment: in which problems are worked on; None: each is answered once.
        """
        self.tokenizer, self.task, self.decode = tokenizer, task, decode
        self.judge = judge or Judge(task)
        self.player = Player(environment or Single(), tokenizer, self.judge)
        self.greedy = GreedyConfig(max_tokens=decode.max_tokens, rows=decode.rows)
        self.engine = Engine(model, end_id=tokenizer.end_id, pad_id=tokenizer.pad_id, stop=stop, compile=compile)

    def evaluate(
        self,
        examples: Sequence[Example],
        *,
        samples: int,
        seed: int,
        done: Sequence[Mapping[str, Any]],
        keep: Callable[[dict[str, Any]], None],
    ) -> Evaluation:
        """A greedy completion and `samples` drawn ones of every problem; the draw of a problem depends on its id.

        Args:
            done: findings of the first chunks, from `keep` of an earlier call.
            keep: given the findings of every other chunk once it is finished.

        Raises:
            Stopped: the engine was asked to stop; the chunk at hand is lost.
            ConfigError: there is not enough memory; says what would fit.
        """
        found = Evaluation()
        if len(done) < len(chunks(examples)):
            self.engine.check_room(min(len(examples), CHUNK), samples, self.player.longest(examples), self.decode)
        for number, chunk in enumerate(chunks(examples)):
            if number >= len(done):
                keep(findings := self._complete(chunk, samples, seed))
            else:
                findings = done[number]
            found.add(findings)
        return found

    def _complete(self, examples: Sequence[Example], samples: int, seed: int) -> dict[str, Any]:
        keys = [stable_hash("eval", seed, example.id) % 2**63 for example in examples]
        coupled = self.engine.model.places
        places = None if coupled is None else guides(examples, self.tokenizer, coupled.most, key=None)
        asked: Any = dict(keys=keys, places=places, training=False)
        greedy = self.player.play(self.engine, examples, samples=1, decode=self.greedy, **asked)
        played = self.player.play(self.engine, examples, samples=samples, decode=self.decode, **asked)
        best, best_texts, best_verdicts = greedy.completions, greedy.texts, greedy.verdicts
        drawn, texts, verdicts = played.completions, played.texts, played.verdicts
        lengths = played.lengths.tolist()
        problems, read = [], []
        for number, example in enumerate(examples):
            own = slice(number * samples, (number + 1) * samples)
            problems.append(
                {
                    "id": example.id,
                    "n": samples,
                    "correct": sum(verdict.correct for verdict in verdicts[own]),
                    "greedy": best_verdicts[number].correct,
                    "chance": self.task.chance(example),
                    "baseline": self.judge.verify(example, self.task.guess(example)).correct,
                    "difficulty": dict(example.difficulty),
                    "mean_length": sum(lengths[own]) / samples,
                    "measures": mean_measures(verdicts[own]),
                    "greedy_measures": mean_measures([best_verdicts[number]]),
                }
            )
            read.append(
                {
                    "id": example.id,
                    "prompt": greedy.episodes[number].prompt,
                    "greedy": best_texts[number],
                    "greedy_verdict": best_verdicts[number].outcome.value,
                    "completion": texts[own.start],
                    "verdict": verdicts[own.start].outcome.value,
                    "detail": verdicts[own.start].detail,
                }
            )
            for name, episode in (("greedy_turns", greedy.episodes[number]), ("turns", played.episodes[own.start])):
                if turns := turns_of(episode):
                    read[-1][name] = turns
        said, of = heard([*greedy.episodes, *played.episodes])
        return {
            "problems": problems,
            "outcomes": dict(Counter(verdict.outcome.value for verdict in verdicts)),
            "lengths": lengths,
            "samples": read,
            "failures": failure_counts(said),
            "failed": first_failure(said, of),
            "prefilled": (best.prefilled + drawn.prefilled).plain(),
            "decoded": (best.decoded + drawn.decoded).plain(),
        }


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself."""
    ks = [1]
    while ks[-1] * 2 <= n:
        ks.append(ks[-1] * 2)
    return ks if ks[-1] == n else [*ks, n]


def metric_names(task: str, samples: int) -> list[str]:
    """What `summarize` measures of a task, higher being better."""
    names = ("greedy", f"mean@{samples}", *(f"pass@{k}" for k in powers_of_two(samples)))
    return [f"eval/{task}/{name}" for name in names]


def record_of(
    found: Evaluation, name: str, task: Task, *, split: Split, samples: int, decode: DecodeConfig
) -> dict[str, Any]:
    """What eval.json says of one evaluation on the task that is called `name`."""
    return {
        "task": name,
        "split": split.value,
        "n_problems": len(found.problems),
        "n_samples": samples,
        "decode": {"temperature": decode.temperature, "max_tokens": decode.max_tokens},
        "baseline": task.baseline,
        **summarize(found, name, samples),
        "problems": found.problems,
    }


def summarize(found: Evaluation, task: str, samples: int) -> dict[str, Any]:
    """Metrics with 95 % intervals (bootstrap over problems), and shares of the verdicts.

    `chance` and `baseline` are what an even draw among answers and the task's short cut get on these problems.
    """
    counts = np.array([problem["correct"] for problem in found.problems])
    greedy = np.array([float(problem["greedy"]) for problem in found.problems])
    estimates = {"greedy": bootstrap(greedy), f"mean@{samples}": bootstrap_pass_at_k(counts, samples, 1)}
    estimates.update({f"pass@{k}": bootstrap_pass_at_k(counts, samples, k) for k in powers_of_two(samples)})
    metrics = {f"eval/{task}/{name}": float(e.value) for name, e in estimates.items()}
    metrics[f"eval/{task}/mean_length"] = float(np.mean(found.lengths))
    for name in ("chance", "baseline"):
        metrics[f"eval/{task}/{name}"] = float(np.mean([problem[name] for problem in found.problems]))
    for kind in ("measures", "greedy_measures"):
        for name, value in mean_by_name([problem[kind] for problem in found.problems]).items():
            metrics[f"eval/{task}/{kind}/{name}"] = value
    for name, count in found.failures.items():
        if count:
            metrics[f"eval/{task}/{name}"] = count
    total = sum(found.outcomes.values())
    return {
        "metrics": metrics,
        "intervals": {f"eval/{task}/{name}": [float(e.low), float(e.high)] for name, e in estimates.items()},
        "outcomes": {outcome.value: found.outcomes[outcome.value] / total for outcome in Outcome},
        "verifier": {"errors": 0, **{name.removeprefix("verifier/"): n for name, n in found.failures.items()}},
    }
