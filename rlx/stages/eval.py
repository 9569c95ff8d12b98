"""`stage=eval`: one model on the task's held-out problems; greedy, pass@k, verdicts, one row a problem."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rlx.errors import ConfigError
from rlx.options import option, option_of
from rlx.runs.files import EVAL, write_json
from rlx.runs.run import Run
from rlx.stages.arithmetic import arithmetic, device_of, prepare
from rlx.stages.base import Context, RunStageConfig, start_of
from rlx.types import Split

if TYPE_CHECKING:
    from rlx.config import Config


@option("stage", "eval")
@dataclass(kw_only=True, slots=True)
class EvalConfig(RunStageConfig):
    """A greedy completion and several samples of every problem."""

    uses: ClassVar[frozenset[str]] = frozenset({"task", "model", "tokenizer", "decode", "trainer", "logger"})
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

    def run(self, config: "Config", context: Context, run: Run) -> None:
        from rlx.evaluation.evaluate import Evaluator, summarize
        from rlx.models.size import forward_flops, parameter_count
        from rlx.runs.progress import Progress

        assert config.task is not None and config.decode is not None
        prepare(config, run)
        start = start_of(config, config.init_from)
        start.model.to(device_of(config.trainer))
        task = config.task.build()
        size = task.size(self.split)
        count = self.problems if size is None else min(size, self.problems)
        drawn = [task.example(self.split, n) for n in range(count)]
        examples = list({example.id: example for example in drawn}.values())
        evaluator = Evaluator(start.model, start.tokenizer, task, decode=config.decode, stop=context.stop)
        progress = Progress(f"{context.label or 'eval':<24}", len(examples))
        with arithmetic(config.trainer):
            found = evaluator.evaluate(examples, samples=self.samples, seed=config.seed, progress=progress.update)
        progress.close()
        name = option_of(config.task).name
        run.ledger.eval += forward_flops(start.model, found.passed, found.context)
        result: dict[str, Any] = {
            "task": name,
            "split": self.split.value,
            "n_problems": len(examples),
            "n_samples": self.samples,
            "decode": {"temperature": config.decode.temperature, "max_tokens": config.decode.max_tokens},
            **summarize(found, name, self.samples),
            "problems": found.problems,
        }
        run.metrics.rewind(0, run.attempt - 1)
        run.samples.rewind(0, run.attempt - 1)
        for sample in found.samples:
            run.samples.append(sample)
        metrics = result["metrics"]
        row = {"step": 0, "tokens": sum(found.lengths), **metrics, **run.ledger.row(), "wall": round(run.wall, 3)}
        run.metrics.append(row)
        write_json(run.path / EVAL, result)
        run.save_record(
            parameters={"total": parameter_count(start.model)}, steps=0, tokens=sum(found.lengths), depth=start.depth
        )
        shown = {key.split("/")[-1]: value for key, value in metrics.items() if "mean_length" not in key}
        run.say("  " + "  ".join(f"{key} {value:.1%}" for key, value in shown.items()))
