"""One fit under Lightning that can be killed anywhere and taken up again with the same bits.

1. Optimization is manual and one item of the source is one step: micro-batches, minibatches and epochs are inside
   `training_step`, so that everything is counted in the same steps.
2. The source is one endless-looking epoch whose length is known, so Lightning fetches nothing ahead. Its state, the
   counters and the random generators are this callback's, which no order of events in Lightning can lose.
3. All work of a step boundary is in `on_train_batch_end`, in this order: measurements, metrics row, fsync, checkpoint,
   stop. Measurements are ours: Lightning's validation moves rows on a resume.
4. Signals only set a flag; the handlers are put back after Lightning took them. A stop inside a measurement abandons
   it: the step is saved with its row pending, and the next attempt begins with measuring and writing that row.
5. Random generators are restored in `on_train_start`, after Lightning has built its iterators, which draw numbers.
6. Under a budget of operations the last step is the first at or past it, and the schedule runs over as many steps as
   the budget pays for by the mean cost of those made.
"""

import logging
import math
import random
import warnings
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor

from rlx.errors import CheckpointError, DivergedError, RunError, Stopped
from rlx.options import option_of
from rlx.progress import Progress
from rlx.runs.checkpoints import CheckpointPlan, checkpoint_path, prune, write_best
from rlx.signals import StopFlag
from rlx.stages.arithmetic import compiles
from rlx.stages.base import Context
from rlx.stages.continuing import adapter_of, parent_state
from rlx.stages.modules.checkpointing import (
    ModelDirectoryIO,
    TakenUp,
    generators_state,
    last_good,
    restore_generators,
)
from rlx.stages.modules.evidence import save_evidence
from rlx.stages.modules.measuring import EvalInside
from rlx.stages.modules.step import Source, StepModule
from rlx.stages.start import seed_for
from rlx.trainers.base import Precision, TrainerConfig


@dataclass(slots=True, kw_only=True)
class LoopConfig:
    """What the callback needs of a stage's config."""

    val_every: int
    """Steps between validations; 0: none."""
    max_flops: float | None
    """Stop when training and rollouts have spent so many operations."""
    metric: str
    """What the best checkpoint goes by: losses are better when lower, everything else when higher."""


class RunCallback(pl.Callback):
    """Rows, measurements, checkpoints, stopping: all at step boundaries."""

    def __init__(
        self, module: StepModule, source: Source, loop: LoopConfig, stop: StopFlag, taken: TakenUp | None, label: str
    ) -> None:
        self.module, self.run, self.config = module, module.run, module.config
        self.source, self.loop, self.stop, self.taken, self.label = source, loop, stop, taken, label
        self.first, self.limit = module.start.made, len(source)
        checkpoint = self.config.checkpoint
        self.plan = CheckpointPlan.of(checkpoint.every, checkpoint.keep, module.total, first=self.first)
        inside = self.config.eval.every > 0
        self.evaluation = EvalInside(module.start, self.config, self.run, stop) if inside else None
        self.step, self.tokens = self.first, 0
        self.spent_up = False
        """The budget of operations is used up."""
        self.pending: dict[str, Any] | None = None
        """The row of the step just made, until it is measured and written."""
        self.best: dict[str, Any] | None = None
        self.named: dict[str, Any] | None = None
        """What best.json says."""
        self.renew = False
        """The checkpoint of this step that is on the disk was made while its row was pending."""
        self.progress: Progress | None = None
        self.said: list[str] = []

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds besides Lightning's own."""
        return {
            "stage": option_of(self.config.stage).name,
            "optim": option_of(self.config.optim).name,
            "seed": self.config.seed,
            "adapter": adapter_of(self.config),
            "step": self.step,
            "tokens": self.tokens,
            "spent_up": self.spent_up,
            "pending": self.pending,
            "best": self.best,
            "wall": self.run.wall,
            "ledger": self.run.ledger.state_dict(),
            "offsets": {"metrics": self.run.metrics.offset, "samples": self.run.samples.offset},
            "source": self.source.state_dict(),
            "module": self.module.state(),
            "generators": generators_state(),
            "said": list(self.said),
            "threads": torch.get_num_threads(),
            "compiled": compiles(self.config.trainer),
        }

    @property
    def last(self) -> bool:
        """True when the step just made is the run's last."""
        return self.spent_up or self.step >= self.limit

    @property
    def over(self) -> bool:
        """True when nothing is left to do."""
        return self.last and self.pending is None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop.install()
        if self.taken is None:
            torch.manual_seed(seed_for(self.config.seed, "steps"))
            random.seed(seed_for(self.config.seed, "steps"))
            np.random.seed(seed_for(self.config.seed, "steps") % 2**32)
        elif self.taken.parents:
            self._follow(self.taken.state["run"])
            self.module.put_settings(trainer.optimizers[0])
            self.module.count_anew()
        else:
            self._take_up(self.taken.state["run"])
        self.progress = Progress(self.label, self.module.total, done=self.step)
        self._name_best()
        if self.pending is not None:
            self.module.row = dict(self.pending)
            self._complete_row()
            self.renew = self.pending is None
        if self.renew or self.over:
            self._boundary(trainer, made=self.renew)
        elif self.stop():
            trainer.should_stop = True

    def _take_up(self, state: dict[str, Any]) -> None:
        """Go on where this run's own checkpoint stands."""
        self._follow(state)
        self.tokens, self.spent_up, self.said = state["tokens"], state["spent_up"], list(state["said"])
        self.pending, self.best = state["pending"], state["best"]
        self.run.wall_before = state["wall"]
        self.run.ledger.load_state_dict(state["ledger"])
        self.module.span = self._span()

    def _follow(self, state: dict[str, Any]) -> None:
        """Go on after the step of a checkpoint, with counts of one's own."""
        self.step = self.module.position = state["step"]
        self.source.load_state_dict(state["source"])
        self.module.restore(state["module"])
        if state["threads"] != torch.get_num_threads():
            self.run.say(
                f"resumed with {torch.get_num_threads()} threads, the checkpoint had {state['threads']}: sums may "
                "differ in their last bits from an unbroken run; set trainer.threads to keep them"
            )
        compiled = compiles(self.config.trainer)
        if state.get("compiled", False) is not compiled:
            self.run.say(
                f"resumed with trainer.compile={str(compiled).lower()}, the checkpoint was made without that: sums may "
                "differ in their last bits from an unbroken run"
            )
        restore_generators(state["generators"])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        made, self.module.done = self.module.done, False
        if self.run.lease.lost:
            self.run.lease.ensure_held()
        if made:
            self._count_step()
            self._complete_row()
        self._boundary(trainer, made=made)

    def _count_step(self) -> None:
        module = self.module
        self.step += 1
        self.tokens += module.tokens
        module.position, module.span = self.step, self._span()
        self.spent_up = self.loop.max_flops is not None and self._spent >= self.loop.max_flops
        values = {name: value.item() if isinstance(value, Tensor) else value for name, value in module.row.items()}
        self.pending = {"step": self.step, "tokens": self.tokens, **values}
        self.renew = False

    @property
    def _spent(self) -> float:
        """Operations that count towards the budget."""
        return self.run.ledger.train + self.run.ledger.rollout

    def _span(self) -> int:
        made = self.step - self.first
        if self.loop.max_flops is None or made == 0:
            return self.module.total
        return min(self.limit, self.first + max(made, math.ceil(made * self.loop.max_flops / self._spent)))

    def _complete_row(self) -> None:
        """Measure what is due after this step and write its row; when a stop comes meanwhile, it stays pending."""
        assert self.pending is not None
        spent = self.run.ledger.state_dict()
        try:
            measured = self._measured()
        except Stopped:
            self.run.ledger.load_state_dict(spent)
            return
        self.module.measured()
        row, self.pending = {**self.pending, **measured, **self.run.ledger.row()}, None
        self.run.metrics.append({**row, "wall": round(self.run.wall, 3)})
        for sentence in self.module.alarms(row):
            self.alarm(sentence)
            self.run.say(f"  alarm: {sentence}")
        self._judge(row)
        if self.progress is not None:
            self.progress.update(self.step, self.module.note(), total=self.module.span)

    def _measured(self) -> dict[str, float]:
        """Held-out metrics, where they are due after this step."""
        module, step = self.module, self.step
        every = self.loop.val_every
        validate = every and (step % every == 0 or self.last or step == 1)
        evaluate = self.evaluation is not None and (step % self.evaluation.every == 0 or self.last)
        if not validate and not evaluate:
            return {}
        module.model.eval()
        kept = generators_state()
        try:
            with torch.no_grad():
                found = module.validate() if validate else {}
                return {**found, **self.evaluation()} if self.evaluation is not None and evaluate else found
        finally:
            restore_generators(kept)
            module.model.train()

    def _judge(self, row: dict[str, Any]) -> None:
        """Keep in mind the best step so far; of equal ones the first."""
        value = row.get(self.loop.metric, math.nan)
        sign = -1 if self.loop.metric.endswith("loss") else 1
        if not math.isnan(value) and (self.best is None or sign * value > sign * self.best["value"]):
            self.best = {"step": self.step, "metric": self.loop.metric, "value": value}

    def alarm(self, sentence: str) -> None:
        """Keep a sentence about what goes wrong, in run.json too."""
        self.said.append(sentence)
        self.run.save_record(alarms=list(self.said))

    def _boundary(self, trainer: pl.Trainer, *, made: bool) -> None:
        """Checkpoint and stop, where they are due; `made`: a step was made and its row written since the last look."""
        stopping = self.stop()
        is_best = self.best is not None and self.best["step"] == self.step
        if self.over or stopping or (made and (is_best or self.plan.makes(self.step))):
            self._checkpoint(trainer)
            stopping = self.stop()
        if self.over or stopping:
            trainer.should_stop = True

    def _checkpoint(self, trainer: pl.Trainer) -> None:
        path = checkpoint_path(self.run.path, self.step)
        self.run.metrics.sync()
        self.run.samples.sync()
        if self.renew or not path.exists():
            trainer.save_checkpoint(path)
            self.renew = False
        if self.best != self.named:
            self._name_best()
        prune(self.run.path, self.plan, ended=self.over)
        self.run.save_record(steps=self.step, tokens=self.tokens)

    def _name_best(self) -> None:
        write_best(self.run.path, self.best)
        self.named = self.best

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.progress is not None:
            self.progress.close()


def fit(module: StepModule, source: Source, loop: LoopConfig, context: Context) -> None:
    """Make the steps that are left, and end the run's record.

    Raises:
        Stopped: a signal came; the state of the last step is on the disk.
        DivergedError: the numbers are not finite.
        RunError: the source ran dry.
    """
    run, config = module.run, module.config
    assert config.trainer is not None
    taken = last_good(run, module.start)
    if taken is None and module.start.lost:
        raise CheckpointError(f"{module.start.lost}, and the run has no usable checkpoint of its own")
    if taken is None and module.start.made:
        assert module.start.folder is not None
        taken = TakenUp(folder=module.start.folder, state=parent_state(module.start.folder), parents=True)
    label = f"{context.label or run.record['stage']:<24}"
    callback = RunCallback(module, source, loop, context.stop, taken, label)
    trainer = _trainer(config.trainer, callback, ModelDirectoryIO(module.start, run, taken, key=callback.state_key))
    try:
        trainer.fit(module, source, ckpt_path=taken and taken.folder, weights_only=True)
    except DivergedError as error:
        assert config.optim is not None
        remedy = f"a lower optim.lr (now {config.optim.lr:g}) is the usual remedy"
        step = callback.step + (callback.pending is None)  # else it was found while the step just made was measured
        sentence = f"step {step}: {error}; {_kept(callback, error, step)}; {remedy}"
        callback.alarm(sentence)
        raise DivergedError(sentence) from error
    except SystemExit as ended:  # Lightning's answer to a second Ctrl-C, with a code of its own
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise ended.__context__ from None
        raise
    if not callback.over:
        context.heed_stop()
        raise RunError(f"the data ran dry at step {callback.step} of {module.total}")
    run.save_record(steps=callback.step, tokens=callback.tokens, alarms=callback.said)


def _kept(callback: RunCallback, error: DivergedError, step: int) -> str:
    """Save what the step was made of, and say where."""
    module = callback.module
    measured = callback.pending is not None
    phase = "measurement" if measured else "rollout" if module.item is None else "update"
    problems = callback.source.problems() if phase == "rollout" else ()
    try:
        place = save_evidence(module.run, error, step=step, phase=phase, item=module.item, problems=problems)
    except RunError as full:
        return f"the step's data could not be saved ({full})"
    return f"the step's data are in {place}"


def quiet_lightning() -> None:
    """Lightning's advice and notices are not for our users; its errors are exceptions."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*")


def _trainer(config: TrainerConfig, callback: RunCallback, io: ModelDirectoryIO) -> pl.Trainer:
    quiet_lightning()
    precision = "bf16-mixed" if config.precision is Precision.bf16 else "32-true"
    return pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        precision=precision,
        max_steps=-1,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        plugins=[io, LightningEnvironment()],
        callbacks=[callback],
    )
