"""Evaluation of a model that is being trained: the same problems every time, as stage=eval would evaluate them."""

from collections.abc import Callable

from rlx.config import Config
from rlx.data.tokenizers.base import text_of
from rlx.evaluation.evaluate import Evaluator, first_problems, summarize
from rlx.evaluation.judge import Judge
from rlx.models.size import Operations
from rlx.options import option_of
from rlx.runs.run import Run
from rlx.stages.arithmetic import arithmetic, compiles
from rlx.stages.start import Start


class EvalInside:
    """Greedy and sampled accuracy of the weights of the moment; called in eval mode, without gradients."""

    def __init__(self, start: Start, config: Config, run: Run, stop: Callable[[], bool]) -> None:
        assert config.task is not None and config.decode is not None
        task = config.task.build()
        self.start, self.config, self.run = start, config, run
        self.every, self.operations = config.eval.every, Operations(start.model)
        self.examples = first_problems(task, config.eval.split, config.eval.problems)
        self.evaluator = Evaluator(
            start.model,
            start.tokenizer,
            task,
            decode=config.decode,
            stop=stop,
            compile=compiles(config.trainer),
            judge=Judge(task, config.task, stop=stop),
            environment=config.environment and config.environment.build(),
        )

    def __call__(self) -> dict[str, float]:
        """Entries of a metrics row.

        Raises:
            Stopped: the process was asked to stop; nothing was counted.
        """
        config, samples = self.config, self.config.eval.samples
        with arithmetic(config.trainer), text_of(f"task={option_of(config.task).name}"):
            found = self.evaluator.evaluate(
                self.examples, samples=samples, seed=config.seed, done=(), keep=lambda chunk: None
            )
        self.run.ledger.eval += self.operations.forward(found.prefilled)
        self.run.ledger.eval += self.operations.forward(found.decoded, cached=True)
        return summarize(found, option_of(config.task).name, samples)["metrics"]
