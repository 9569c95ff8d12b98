"""`stage=eval`: one model on the task's held-out problems; greedy, pass@k, verdicts, one row a problem.

What is finished is kept in the run directory until the results are written, so that a run that was stopped or killed
goes on from there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rlx.errors import ConfigError
from rlx.options import option, option_of
from rlx.runs.files import EVAL, EVAL_PARTIAL, write_json
from rlx.runs.identity import content_hash
from rlx.runs.metrics import MetricsLog
from rlx.runs.run import Run
from rlx.stages.arithmetic import arithmetic, compiles, device_of, prepare
from rlx.stages.base import Context, RunStageConfig
from rlx.stages.estimate import Cost, Outset
from rlx.stages.start import start_of
from rlx.types import Example, Split

if TYPE_CHECKING:
    from rlx.config import Config


@option("stage", "eval")
@dataclass(kw_only=True, slots=True)
class EvalConfig(RunStageConfig):
    """A greedy completion and several samples of every problem."""

    uses: ClassVar[frozenset[str]] = frozenset(
        {"task", "model", "tokenizer", "environment", "decode", "trainer", "logger"}
    )
    requires: ClassVar[frozenset[str]] = frozenset({"task"})

    split: Split = Split.test
    """Which problems: test, val or train."""
    problems: int = 200
    """Problems drawn: the first of the split; one that was drawn twice is evaluated once."""
    samples: int = 8
    """Completions drawn a problem."""

    def __post_init__(self) -> None:
        if self.problems < 1 or self.samples < 1:
            raise ConfigError(f"stage.problems={self.problems} and stage.samples={self.samples} must be at least 1")

    def check(self, config: "Config") -> None:
        assert config.decode is not None
        if config.init_from is None:
            raise ConfigError("stage=eval needs a model: init_from=<run>, or init_from=random for fresh weights")
        if config.decode.temperature == 0:
            raise ConfigError("decode.temperature=0: eval draws samples and adds the greedy completion itself")

    def cost(self, config: "Config", outset: Outset) -> Cost:
        flops, tokens = outset.evaluation(config, self.split, problems=self.problems, samples=self.samples)
        return Cost(eval=flops, decoding=flops, tokens=tokens)

    def run(self, config: "Config", context: Context, run: Run) -> None:
        from rlx.evaluation.evaluate import Evaluator, first_problems, record_of
        from rlx.evaluation.judge import Judge
        from rlx.models.size import Operations, parameter_counts
        from rlx.progress import Progress

        assert config.task is not None and config.decode is not None
        prepare(config, run)
        start = start_of(config, run)
        start.model.to(device_of(config.trainer))
        task = config.task.build()
        examples = first_problems(task, self.split, self.problems)
        evaluator = Evaluator(
            start.model,
            start.tokenizer,
            task,
            decode=config.decode,
            stop=context.stop,
            compile=compiles(config.trainer),
            judge=Judge(task, config.task, stop=context.stop),
            environment=config.environment and config.environment.build(),
        )
        with MetricsLog(run.path / EVAL_PARTIAL) as log:
            partial = PartialEvaluation(run, log, examples)
            progress = Progress(f"{context.label or 'eval':<24}", len(examples), done=partial.problems)

            def keep(chunk: dict[str, Any]) -> None:
                partial.append(chunk)
                progress.update(partial.problems)

            with arithmetic(config.trainer):
                found = evaluator.evaluate(
                    examples, samples=self.samples, seed=config.seed, done=partial.done, keep=keep
                )
            progress.close()
        name = option_of(config.task).name
        operations = Operations(start.model)
        run.ledger.eval += operations.forward(found.prefilled) + operations.forward(found.decoded, cached=True)
        result = record_of(found, name, task, split=self.split, samples=self.samples, decode=config.decode)
        run.metrics.rewind(0, run.attempt - 1)
        run.samples.rewind(0, run.attempt - 1)
        for sample in found.samples:
            run.samples.append(sample)
        assert config.environment is not None
        talks = config.environment.build().turns > 1
        if talks:
            result["environment"] = option_of(config.environment).name
        metrics = result["metrics"]
        row = {"step": 0, "tokens": sum(found.lengths), **metrics, **run.ledger.row(), "wall": round(run.wall, 3)}
        run.metrics.append(row)
        write_json(run.path / EVAL, result)
        run.save_record(parameters=parameter_counts(start.model), steps=0, tokens=sum(found.lengths), depth=start.depth)
        (run.path / EVAL_PARTIAL).unlink()
        run.say(f"  {len(examples)} problems: " + summary(metrics, name, task.baseline, talks=talks))
        if found.failed:
            what = "turns of" if talks else "of"
            count = f"{found.failures['verifier/errors']} {what} {len(examples) * (1 + self.samples)} completions"
            sentence = f"the verifier failed on {count}, which count as malformed: {found.failed}"
            run.say(f"  alarm: {sentence}")
            run.save_record(alarms=[sentence])


def summary(metrics: Mapping[str, float], task: str, baseline: str, *, talks: bool = False) -> str:
    """The line that ends an evaluation: accuracies, and beside them chance and the task's short cut, which are those of
    one answer also where a problem is worked on in several turns (`talks`)."""
    own = {key.removeprefix(f"eval/{task}/"): value for key, value in metrics.items()}
    shown = {name: value for name, value in own.items() if name == "greedy" or ("@" in name and "/" not in name)}
    measured = {name.removeprefix("measures/"): own[name] for name in own if name.startswith("measures/")}
    parts = [
        *(f"{name} {value:.1%}" for name, value in shown.items()),
        f"| chance {'of one answer ' if talks else ''}{_chance(own['chance'])}",
        f"baseline {own['baseline']:.1%} ({baseline})",
        *(f"{'| ' if not place else ''}{name} {value:.3g}" for place, (name, value) in enumerate(measured.items())),
    ]
    return "  ".join(parts)


def _chance(value: float) -> str:
    """A mean chance: none where there is no end of answers, and never rounded to nothing."""
    return "none" if value == 0 else "<0.1%" if value < 0.001 else f"{value:.1%}"


class PartialEvaluation:
    """The chunks that are finished, in a file of the run directory until the whole evaluation is."""

    def __init__(self, run: Run, log: MetricsLog, examples: Sequence[Example]) -> None:
        self.run, self.log = run, log
        self.origin = {
            "weights": [content_hash(parent["reference"]) for parent in run.record["parents"]],
            "arithmetic": run.record["arithmetic"],
        }
        self.done = self._take_up(examples)
        self.problems = sum(len(chunk["problems"]) for chunk in self.done)

    def append(self, chunk: dict[str, Any]) -> None:
        """Keep what was found of one more chunk.

        Raises:
            RunError: the lease is another's now, or the disk is full.
        """
        self.run.lease.ensure_held()
        self.log.append({**chunk, **self.origin, "wall": self.run.wall})
        self.log.sync()
        self.problems += len(chunk["problems"])

    def _take_up(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """What an earlier attempt finished, if it had the same weights and problems."""
        from rlx.evaluation.evaluate import chunks

        rows = MetricsLog.read(self.log.path)
        if not rows:
            return []
        expected = [[example.id for example in chunk] for chunk in chunks(examples)]
        found = [[problem["id"] for problem in row["problems"]] for row in rows]
        if found != expected[: len(found)] or any(
            row["weights"] != self.origin["weights"] or "decoded" not in row for row in rows
        ):
            self.run.say("  the model or the problems changed since the evaluation began: it starts over")
            self.log.rewind(0, self.run.attempt - 1)
            return []
        last = rows[-1]
        self.run.wall_before = last["wall"]
        self.run.say(f"  going on after {sum(map(len, found))} problems")
        if any(row["arithmetic"] != self.origin["arithmetic"] for row in rows):
            self.run.say(
                f"  they were made with {last['arithmetic']}, the others will be with {self.origin['arithmetic']}: "
                "sums may differ in their last bits from an unbroken run"
            )
        return rows
