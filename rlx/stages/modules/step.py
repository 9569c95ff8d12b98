"""What a stage hands to the loop: a module that makes whole steps, and the source of their items."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Protocol

import lightning.pytorch as pl
import torch
from torch import Tensor

from rlx.config import Config
from rlx.environments.base import Episode
from rlx.errors import DivergedError
from rlx.models.size import Operations
from rlx.runs.run import Run
from rlx.stages.modules.routing import RoutingLog
from rlx.stages.start import Start


class Source(Protocol):
    """Where the items of the steps come from; sized, and with a state that says what comes next."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
    def problems(self) -> Sequence[Episode]:
        """That the next item is made of, as they begin, where it is made by the model."""
        ...


class StepModule(pl.LightningModule):
    """A module whose `training_step` makes whole steps.

    After a step, `row` holds its metrics (numbers or tensors [] to be read once), `tokens` the tokens it trained on,
    and `done` tells that the step was made; the callback clears it. For an item that is None (an abandoned rollout)
    Lightning skips `training_step`, yet ends the batch.
    """

    def __init__(self, start: Start, config: Config, run: Run, *, total: int, clip_norm: float) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.operations = start.model, Operations(start.model)
        self.routing = RoutingLog(start.model)
        self.start, self.config, self.run = start, config, run
        self.total, self.clip_norm = total, clip_norm
        self.position = start.made
        """Steps made before the current one."""
        self.span = total
        """Steps that the schedule runs over."""
        self.row: dict[str, float | Tensor] = {}
        self.tokens = 0
        self.done = False
        self.item: Any = None
        """What the step in progress is made of, until it is made."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.config.optim is not None
        optimizer = with_peaks(self.config.optim.build(self.model))
        self._settings = settings_of(optimizer)
        return optimizer

    def put_settings(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the optimizer the rates and decays of this run's config, where it was loaded with its parent's."""
        put_settings(optimizer, self._settings)

    def count_anew(self) -> None:
        """Forget what only the parent's run is told of, where its state was taken over."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.item = batch

    def on_train_batch_end(self, *_: Any) -> None:
        self.item = None

    def update(self, optimizer: Any, loss: Tensor | None = None) -> Tensor:
        """Set the rate, clip, step, clear the gradient and balance the experts; returns the gradient's norm before
        clipping.

        Raises:
            DivergedError: the norm is not finite, or the loss, where it is given; no weight was changed.
        """
        norm = stepped(optimizer, self.model, self.rate_factor(), self.clip_norm, loss)
        self.routing.stepped(self.position + 1)
        return norm

    def rate_factor(self) -> float:
        """What multiplies peak rates in this step."""
        assert self.config.schedule is not None
        return self.config.schedule.factor(self.position, self.span)

    def learning_rate(self) -> float:
        """The first group's rate."""
        return self.trainer.optimizers[0].param_groups[0]["lr"]

    def validate(self) -> dict[str, float]:
        """Metrics on held-out data; called in eval mode, without gradients, with generators set aside.

        Raises:
            Stopped: the process was asked to stop; nothing was counted.
        """
        return {}

    def measured(self) -> None:
        """Write down what the measurements of a step found besides numbers; called once all of them are made."""

    def note(self) -> str:
        """What the progress line says besides the steps."""
        return ""

    def alarms(self, row: dict[str, Any]) -> list[str]:
        """New sentences about what goes wrong in this run."""
        return []

    def state(self) -> dict[str, Any]:
        """What else a resumed run needs, as plain values and tensors."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""


def with_peaks(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer, whose groups remember their rate as the peak that a schedule multiplies."""
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def settings_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What an optimizer was built with, a group each."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def put_settings(optimizer: torch.optim.Optimizer, settings: list[dict[str, Any]]) -> None:
    """Give an optimizer that was loaded what `settings_of` told of it before."""
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def stepped(
    optimizer: Any, model: torch.nn.Module, factor: float, clip_norm: float, loss: Tensor | None = None
) -> Tensor:
    """Set the rate, clip, step and clear the gradient; returns the gradient's norm [] before clipping.

    Args:
        loss: [], looked at with the gradient: it may be infinite where that is finite.

    Raises:
        DivergedError: the gradient or the loss is not finite; no weight was changed.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    if not torch.isfinite(norm if loss is None else norm + loss):  # read once: a GPU is waited for
        _diverged(norm.item(), None if loss is None else loss.item())
    optimizer.step()
    optimizer.zero_grad()
    return norm


def _diverged(norm: float, loss: float | None) -> NoReturn:
    figures = {"grad_norm": norm} if loss is None else {"loss": loss, "grad_norm": norm}
    if loss is not None and not math.isfinite(loss):
        raise DivergedError(f"the loss is {loss}: the run has diverged", part="loss", **figures)
    raise DivergedError(f"the gradient is {norm}: the run has diverged", part="gradient", **figures)
