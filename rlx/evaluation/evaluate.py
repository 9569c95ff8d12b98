"""One model on one task's problems: a greedy completion and n samples each, one row a problem."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlx.data.documents import prompt_ids
from rlx.data.tokenizers.base import Tokenizer
from rlx.decoding.base import DecodeConfig
from rlx.decoding.engine import Engine
from rlx.decoding.greedy import GreedyConfig
from rlx.evaluation.verdicts import verified
from rlx.nn.decoder import Decoder
from rlx.statistics import bootstrap, bootstrap_pass_at_k
from rlx.tasks.base import Task, stable_hash
from rlx.types import Example, Outcome

CHUNK = 64
"""Problems completed between two looks at the progress."""


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """Findings for every problem, and what they cost."""

    problems: list[dict[str, Any]]
    """One a problem: id, n, correct, greedy, difficulty, lengths."""
    outcomes: Counter[str]
    """Verdicts of the samples."""
    lengths: list[int]
    """Tokens of every sample."""
    samples: list[dict[str, Any]]
    """First completions, to be read."""
    passed: int
    """Tokens that went through the model."""
    context: int
    """Positions that they attended in sum."""


class Evaluator:
    """Completes and verifies problems of one task with one model."""

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, task: Task, *, decode: DecodeConfig, stop: Callable[[], bool]
    ) -> None:
        self.tokenizer, self.task, self.decode = tokenizer, task, decode
        self.greedy = GreedyConfig(max_tokens=decode.max_tokens, rows=decode.rows)
        self.engine = Engine(model, end_id=tokenizer.end_id, pad_id=tokenizer.pad_id, stop=stop)

    def evaluate(
        self, examples: Sequence[Example], *, samples: int, seed: int, progress: Callable[[int], None]
    ) -> Evaluation:
        """A greedy completion and `samples` drawn ones of every problem; the draw of a problem depends on its id."""
        out = Evaluation(problems=[], outcomes=Counter(), lengths=[], samples=[], passed=0, context=0)
        for start in range(0, len(examples), CHUNK):
            self._chunk(examples[start : start + CHUNK], samples, seed, out)
            progress(len(out.problems))
        return out

    def _chunk(self, examples: Sequence[Example], samples: int, seed: int, out: Evaluation) -> None:
        prompts = [prompt_ids(example, self.tokenizer) for example in examples]
        keys = [stable_hash("eval", seed, example.id) % 2**63 for example in examples]
        best = self.engine.complete(prompts, keys=keys, samples=1, decode=self.greedy)
        drawn = self.engine.complete(prompts, keys=keys, samples=samples, decode=self.decode)
        best_texts, best_verdicts = verified(self.task, self.tokenizer, examples, best)
        texts, verdicts = verified(self.task, self.tokenizer, examples, drawn)
        lengths = drawn.lengths.tolist()
        for number, example in enumerate(examples):
            own = slice(number * samples, (number + 1) * samples)
            out.problems.append(
                {
                    "id": example.id,
                    "n": samples,
                    "correct": sum(verdict.correct for verdict in verdicts[own]),
                    "greedy": best_verdicts[number].correct,
                    "difficulty": dict(example.difficulty),
                    "mean_length": sum(lengths[own]) / samples,
                }
            )
            out.samples.append(
                {
                    "id": example.id,
                    "prompt": example.prompt,
                    "greedy": best_texts[number],
                    "greedy_verdict": best_verdicts[number].outcome.value,
                    "completion": texts[own.start],
                    "verdict": verdicts[own.start].outcome.value,
                    "detail": verdicts[own.start].detail,
                }
            )
        out.outcomes.update(verdict.outcome.value for verdict in verdicts)
        out.lengths.extend(lengths)
        out.passed += best.passed + drawn.passed
        out.context += best.context + drawn.context


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself."""
    ks = [1]
    while ks[-1] * 2 <= n:
        ks.append(ks[-1] * 2)
    return ks if ks[-1] == n else [*ks, n]


def summarize(found: Evaluation, task: str, samples: int) -> dict[str, Any]:
    """Metrics with 95 % intervals (bootstrap over problems), and shares of the verdicts."""
    counts = np.array([problem["correct"] for problem in found.problems])
    greedy = np.array([float(problem["greedy"]) for problem in found.problems])
    estimates = {"greedy": bootstrap(greedy), f"mean@{samples}": bootstrap_pass_at_k(counts, samples, 1)}
    estimates.update({f"pass@{k}": bootstrap_pass_at_k(counts, samples, k) for k in powers_of_two(samples)})
    metrics = {f"eval/{task}/{name}": float(e.value) for name, e in estimates.items()}
    metrics[f"eval/{task}/mean_length"] = float(np.mean(found.lengths))
    total = sum(found.outcomes.values())
    return {
        "metrics": metrics,
        "intervals": {f"eval/{task}/{name}": [float(e.low), float(e.high)] for name, e in estimates.items()},
        "outcomes": {outcome.value: found.outcomes[outcome.value] / total for outcome in Outcome},
    }
