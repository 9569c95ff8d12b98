"""One fit under Lightning that can be killed anywhere and taken up again with the same bits.

1. Optimization is manual and one item of the source is one step: micro-batches, minibatches and epochs are inside
   `training_step`, so that everything is counted in the same steps.
2. The source is one endless-looking epoch whose length is known, so Lightning fetches nothing ahead. Its state, the
   counters and the random generators are this callback's, which no order of events in Lightning can lose.
3. All work of a step boundary is in `on_train_batch_end`, in this order: metrics row, validation, fsync, checkpoint,
   stop. Validation is ours: Lightning's moves rows on a resume.
4. Signals only set a flag; the handlers are put back after Lightning took them.
5. Random generators are restored in `on_train_start`, after Lightning has built its iterators, which draw numbers.
"""

import logging
import math
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor

from rlx.config import CheckpointConfig, Config
from rlx.errors import RunError, Stopped
from rlx.models.folder import load_weights, weights_of
from rlx.runs.checkpoints import (
    Keep,
    checkpoint_path,
    list_checkpoints,
    load_model_directory,
    load_trainer_state,
    new_checkpoint,
    prune,
    save_model_directory,
    save_trainer_state,
)
from rlx.runs.progress import Progress
from rlx.runs.run import Run
from rlx.signals import StopFlag
from rlx.stages.base import Context, Start, seed_for
from rlx.trainers.base import Precision, TrainerConfig

PREFIX = "model."
"""How Lightning names the decoder's tensors in a module that holds it as `model`."""


class Source(Protocol):
    """Where the items of the steps come from; sized, and with a state that says what comes next."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class StepModule(pl.LightningModule):
    """A module whose `training_step` makes whole steps.

    After a step, `row` holds its metrics (numbers or tensors [] to be read once), `tokens` the tokens it trained on,
    and `done` tells that the step was made; the callback clears it. For an item that is None (an abandoned rollout)
    Lightning skips `training_step`, yet ends the batch.
    """

    def __init__(self, start: Start, config: Config, run: Run, *, total: int, clip_norm: float) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = start.model
        self.start, self.config, self.run = start, config, run
        self.total, self.clip_norm = total, clip_norm
        self.position = 0
        """Steps made before the current one."""
        self.row: dict[str, float | Tensor] = {}
        self.tokens = 0
        self.done = False

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.config.optim is not None
        optimizer = self.config.optim.build(self.model)
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        return optimizer

    def update(self, optimizer: Any) -> Tensor:
        """Set the rate, clip, step, and clear the gradient; returns the gradient's norm before clipping."""
        assert self.config.schedule is not None
        factor = self.config.schedule.factor(self.position, self.total)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        if not torch.isfinite(norm):
            raise RunError(
                f"the gradient at step {self.position + 1} is {norm.item()}: the run has diverged; "
                "a lower optim.lr is the usual remedy"
            )
        optimizer.step()
        optimizer.zero_grad()
        return norm

    def learning_rate(self) -> float:
        """The first group's rate."""
        return self.trainer.optimizers[0].param_groups[0]["lr"]

    def validate(self) -> dict[str, float]:
        """Metrics on held-out data; called in eval mode, without gradients, with generators set aside."""
        return {}

    def note(self) -> str:
        """What the progress line says besides the steps."""
        return ""

    def alarms(self, row: dict[str, Any]) -> list[str]:
        """Sentences about what goes wrong in this run, each said once."""
        return []

    def state(self) -> dict[str, Any]:
        """What else a resumed run needs, as plain values and tensors."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""


class ModelDirectoryIO(CheckpointIO):
    """Lightning's checkpoint as a model directory, with everything else in trainer/state.pt."""

    def __init__(self, start: Start, run: Run) -> None:
        self.start, self.run = start, run

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        self.run.lease.ensure_held()
        tensors = checkpoint.pop("state_dict")
        kept = weights_of(self.start.model).keys()
        named = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        step = int(Path(path).name.removeprefix("step-"))
        with new_checkpoint(self.run.path, step) as folder:
            save_model_directory(
                folder,
                {name: tensor for name, tensor in named.items() if name in kept},
                self.start.description(),
                self.start.tokenizer.to_json(),
            )
            save_trainer_state(folder, checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> dict:
        tensors, _, _ = load_model_directory(path)
        load_weights(self.start.model, tensors, path)
        named = {PREFIX + name: tensor for name, tensor in self.start.model.state_dict().items()}
        return {**load_trainer_state(path), "state_dict": named}

    def remove_checkpoint(self, path: Any) -> None:
        raise NotImplementedError("checkpoints are pruned by rlx.runs")


@dataclass(slots=True, kw_only=True)
class LoopConfig:
    """What the callback needs of a stage's config."""

    val_every: int
    """Steps between validations; 0: none."""
    max_flops: float | None
    """Stop when training and rollouts have spent so many operations."""
    checkpoint: CheckpointConfig


class RunCallback(pl.Callback):
    """Rows, validation, checkpoints, stopping: all at step boundaries."""

    def __init__(self, run: Run, source: Source, loop: LoopConfig, stop: StopFlag, *, seed: int, label: str) -> None:
        self.run, self.source, self.loop, self.stop, self.seed = run, source, loop, stop, seed
        self.label = label
        self.keep = Keep.parse(loop.checkpoint.keep)
        self.step = self.tokens = 0
        self.complete = False
        self.resumed: dict[str, Any] | None = None
        self.progress: Progress | None = None
        self.said: list[str] = []

    # What a checkpoint holds besides Lightning's own.

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tokens": self.tokens,
            "complete": self.complete,
            "wall": self.run.wall,
            "ledger": self.run.ledger.state_dict(),
            "offsets": {"metrics": self.run.metrics.offset, "samples": self.run.samples.offset},
            "source": self.source.state_dict(),
            "module": self.module_state,
            "generators": generators_state(),
            "said": list(self.said),
            "threads": torch.get_num_threads(),
        }

    @property
    def module_state(self) -> dict[str, Any]:
        return self._module.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed = state_dict

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, StepModule)
        self._module = pl_module

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop.install()
        if self.resumed is None:
            torch.manual_seed(seed_for(self.seed, "steps"))
            random.seed(seed_for(self.seed, "steps"))
            np.random.seed(seed_for(self.seed, "steps") % 2**32)
        else:
            self._take_up(self.resumed)
        self.progress = Progress(self.label, self._module.total, done=self.step)

    def _take_up(self, state: dict[str, Any]) -> None:
        self.step, self.tokens, self.complete = state["step"], state["tokens"], state["complete"]
        self.said = list(state["said"])
        self.run.wall_before = state["wall"]
        self.run.ledger.load_state_dict(state["ledger"])
        self.source.load_state_dict(state["source"])
        self._module.position = self.step
        self._module.restore(state["module"])
        if state["threads"] != torch.get_num_threads():
            self.run.say(
                f"resumed with {torch.get_num_threads()} threads, the checkpoint had {state['threads']}: sums may "
                "differ in their last bits from an unbroken run; set trainer.threads to keep them"
            )
        restore_generators(state["generators"])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        module = self._module
        done, module.done = module.done, False
        if self.run.lease.lost:
            self.run.lease.ensure_held()
        if done:
            self._step_done(module)
        last = self.complete or self.step >= module.total
        if last or self.stop() or (done and self._is_due(module.total)):
            self._checkpoint(trainer, module)
        if last or self.stop():
            trainer.should_stop = True

    def _is_due(self, total: int) -> bool:
        return self.step % self.loop.checkpoint.every == 0 or self.step in self.keep.planned(total)

    def _step_done(self, module: StepModule) -> None:
        self.step += 1
        self.tokens += module.tokens
        module.position = self.step
        row: dict[str, Any] = {"step": self.step, "tokens": self.tokens}
        row.update({name: value.item() if isinstance(value, Tensor) else value for name, value in module.row.items()})
        spent = self.run.ledger.train + self.run.ledger.rollout
        self.complete = self.loop.max_flops is not None and spent >= self.loop.max_flops
        last = self.complete or self.step >= module.total
        if self.loop.val_every and (self.step % self.loop.val_every == 0 or last or self.step == 1):
            row.update(self._validated(module))
        row.update(self.run.ledger.row())
        self.run.metrics.append({**row, "wall": round(self.run.wall, 3)})
        for sentence in module.alarms(row):
            if sentence not in self.said:
                self.said.append(sentence)
                self.run.say(f"  alarm: {sentence}")
        if self.progress is not None:
            paid = module.total if self.loop.max_flops is None else math.ceil(self.step * self.loop.max_flops / spent)
            self.progress.update(self.step, module.note(), total=min(module.total, paid))

    def _validated(self, module: StepModule) -> dict[str, float]:
        module.model.eval()
        kept = generators_state()
        try:
            with torch.no_grad():
                return module.validate()
        finally:
            restore_generators(kept)
            module.model.train()

    def _checkpoint(self, trainer: pl.Trainer, module: StepModule) -> None:
        path = checkpoint_path(self.run.path, self.step)
        self.run.metrics.sync()
        self.run.samples.sync()
        if not path.exists():
            trainer.save_checkpoint(path)
        prune(self.run.path, self.keep, module.total)
        self.run.save_record(steps=self.step, tokens=self.tokens)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.progress is not None:
            self.progress.close()


def fit(module: StepModule, source: Source, loop: LoopConfig, context: Context) -> None:
    """Make the steps that are left, and end the run's record.

    Raises:
        Stopped: a signal came; the state of the last step is on the disk.
        RunError: the source ran dry, or the numbers are not finite.
    """
    run, config, start = module.run, module.config, module.start
    assert config.trainer is not None
    label = f"{context.label or run.record['stage']:<24}"
    callback = RunCallback(run, source, loop, context.stop, seed=config.seed, label=label)
    newest = _take_up_rows(run)
    if newest is not None and _ended(newest, module.total):
        state = load_trainer_state(newest)["callbacks"][RunCallback.__qualname__]
        load_weights(start.model, load_model_directory(newest)[0], newest)
        callback.setup(None, module, "fit")  # pyright: ignore[reportArgumentType]
        callback._take_up(state)
    else:
        trainer = _trainer(config.trainer, callback, ModelDirectoryIO(start, run), module.total)
        trainer.fit(module, source, ckpt_path=newest, weights_only=True)
        if callback.stop() and not _is_over(callback, module):
            raise Stopped
        if not _is_over(callback, module):
            raise RunError(f"the data ran dry at step {callback.step} of {module.total}")
    run.save_record(steps=callback.step, tokens=callback.tokens, alarms=callback.said)


def _is_over(callback: RunCallback, module: StepModule) -> bool:
    return callback.complete or callback.step >= module.total


def _ended(checkpoint: Path, total: int) -> bool:
    """True when a checkpoint is that of the run's last step: nothing is left to train."""
    state = load_trainer_state(checkpoint)["callbacks"][RunCallback.__qualname__]
    return state["complete"] or state["step"] >= total


def _take_up_rows(run: Run) -> Path | None:
    """The newest checkpoint, with the rows younger than it moved away; None in a new run."""
    found = list_checkpoints(run.path)
    offsets = {"metrics": 0, "samples": 0}
    if found:
        offsets = load_trainer_state(found[-1][1])["callbacks"][RunCallback.__qualname__]["offsets"]
        run.say(f"  going on from step {found[-1][0]}")
    run.metrics.rewind(offsets["metrics"], run.attempt - 1)
    run.samples.rewind(offsets["samples"], run.attempt - 1)
    return found[-1][1] if found else None


def quiet_lightning() -> None:
    """Lightning's advice and notices are not for our users; its errors are exceptions."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*")


def _trainer(config: TrainerConfig, callback: RunCallback, io: ModelDirectoryIO, total: int) -> pl.Trainer:
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


def generators_state() -> dict[str, Any]:
    """State of torch's, Python's and numpy's global generators, as `weights_only` loading takes it."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    assert not isinstance(keys, str)
    return {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
    }


def restore_generators(state: dict[str, Any]) -> None:
    """Put the generators back to `generators_state`."""
    torch.set_rng_state(state["torch"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
