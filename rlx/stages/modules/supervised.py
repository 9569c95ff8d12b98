"""Next-token training on packed documents: pretrain and sft are this module with other masks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlx.batches import Batch, Extent
from rlx.data.packing import Packer
from rlx.decoding.logprobs import token_logprobs
from rlx.errors import ConfigError
from rlx.nn.aux import Aux
from rlx.nn.compiled import compiled
from rlx.nn.decoder import Decoder
from rlx.nn.rows import Rows
from rlx.runs.run import Run
from rlx.stages.modules.mixing import SourceLog
from rlx.stages.modules.step import StepModule
from rlx.stages.start import Start

Losses = tuple[Tensor, Tensor | float, Tensor | float, Aux, Tensor]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out documents of one source."""

    name: str
    """What metrics of it are called; empty where there is but one source."""
    share: float
    """Of the held-out loss."""
    batches: list[Batch]


class PackedSource:
    """Steps of one packed batch each, in `micro_batches` parts; what comes next is the packer's state."""

    def __init__(self, packer: Packer, *, micro_batches: int, total: int) -> None:
        self.packer, self.micro_batches, self.total = packer, micro_batches, total
        self.made = 0

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[list[Batch]]:
        while self.made < self.total:
            batches = self.packer.next().split(self.packer.rows // self.micro_batches)
            if not any(batch.loss_mask.any() for batch in batches):
                raise ConfigError(
                    f"no token of step {self.made + 1} counts in the loss: its documents are cut before their answers; "
                    "raise corpus.max_tokens"
                )
            self.made += 1
            yield batches

    def problems(self) -> tuple[()]:
        return ()

    def state_dict(self) -> dict[str, Any]:
        return {"made": self.made, "packer": self.packer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.made = state["made"]
        self.packer.load_state_dict(state["packer"])


class SupervisedModule(StepModule):
    """Mean cross-entropy (nats) over the tokens that count, the mean taken over the whole step.

    The penalty of `model.z_loss` and the losses of routed layers are added for the gradient, and are no part of
    `train/loss`: every model's is the same quantity.
    """

    held_out: list[HeldOut]

    def __init__(self, start: Start, config: Any, run: Run, *, total: int, clip_norm: float) -> None:
        super().__init__(start, config, run, total=total, clip_norm=clip_norm)
        self.likelihood = compiled(_trained_losses) if config.trainer.compile else _trained_losses
        self.z_loss = config.model.z_loss
        self.sources = SourceLog(config.corpus.names() if config.corpus is not None else [])

    def training_step(self, batches: list[Batch], index: int) -> None:
        optimizer: Any = self.optimizers()
        counted = sum(batch.loss_mask.sum() for batch in batches)
        extents = [batch.extent() for batch in batches]
        extent = sum(extents, Extent())
        total, drift = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for batch, part in zip(batches, extents, strict=True):
            loss, penalty, log_z, aux, logprobs = _losses(self.model, batch, self.likelihood, self.z_loss)
            whole = self.routing.added((loss + penalty) / counted, aux, part.tokens / extent.tokens)
            self.manual_backward(whole)
            self.sources.add(batch, logprobs)
            total += loss.detach() / counted
            drift += log_z / counted
        norm = self.update(optimizer, total)
        self.tokens = int(extent.tokens)
        self.run.ledger.train += self.operations.training(extent)
        self.row = {"train/loss": total, "train/grad_norm": norm, "train/lr": self.learning_rate()}
        if self.z_loss:
            self.row["train/log_z"] = drift
        self.row.update(self.routing.row)
        self.row.update(self.sources.row())
        self.done = True

    def state(self) -> dict[str, Any]:
        return {"sources": self.sources.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.sources.load_state_dict(state.get("sources", {}))

    def count_anew(self) -> None:
        self.sources.clear()

    def transfer_batch_to_device(self, batch: list[Batch], device: torch.device, dataloader_idx: int) -> list[Batch]:
        return [part.to(device) for part in batch]

    def validate(self) -> dict[str, float]:
        whole: dict[str, float] = {}
        parts: dict[str, float] = {}
        for held_out in self.held_out:
            found = self._measured(held_out.batches)
            for name, value in found.items():
                whole[name] = whole.get(name, 0.0) + held_out.share * value
            if held_out.name:
                parts[f"val/loss/{held_out.name}"] = found["val/loss"]
        return {**whole, **parts}

    def _measured(self, batches: list[Batch]) -> dict[str, float]:
        """Means over the tokens that count."""
        counted, sums = 0.0, {}
        for batch in batches:
            batch = batch.to(self.device)
            with self.trainer.precision_plugin.forward_context():
                for name, value in held_out_sums(self.model, batch).items():
                    sums[name] = sums.get(name, 0.0) + value
            counted += batch.loss_mask.sum().item()
            self.run.ledger.eval += self.operations.forward(batch.extent())
        return {name: value / max(counted, 1.0) for name, value in sums.items()}

    def note(self) -> str:
        return f"loss {float(self.row['train/loss']):.3f}"


def _row_losses(model: Decoder, tokens: Tensor, rows: Rows, loss_mask: Tensor, z_loss: float) -> Losses:
    """The part of `_losses` that is worth compiling."""
    return _losses_and_hidden(model, tokens, rows, loss_mask, z_loss)[0]


def _trained_losses(model: Decoder, tokens: Tensor, rows: Rows, loss_mask: Tensor, z_loss: float) -> Losses:
    """The same; the penalty has the loss of predicted ids too (arXiv 2502.16792)."""
    (loss, penalty, log_z, aux, logprobs), hidden = _losses_and_hidden(model, tokens, rows, loss_mask, z_loss)
    if model.places is not None and model.places.head is not None:
        assert rows.places is not None
        ids = token_logprobs(model.places.head(hidden), rows.places)
        penalty = penalty - model.places.weight * (ids * loss_mask).sum()
    return loss, penalty, log_z, aux, logprobs


def _losses_and_hidden(
    model: Decoder, tokens: Tensor, rows: Rows, loss_mask: Tensor, z_loss: float
) -> tuple[Losses, Tensor]:
    hidden, aux = model.run(tokens, rows)
    logits = model.logits(hidden)
    logprobs = token_logprobs(logits, tokens)
    loss, penalty, log_z = -(logprobs * loss_mask).sum(), 0.0, 0.0
    if z_loss:
        picked = logits[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1).float()
        each = torch.nn.functional.pad(picked, (1, 0)) - logprobs  # [B, T], log Z: a logit less its log-probability
        penalty = z_loss * (each.square() * loss_mask).sum()
        log_z = (each.detach() * loss_mask).sum()
    return (loss, penalty, log_z, aux, logprobs.detach()), hidden


def held_out_sums(model: Decoder, batch: Batch) -> dict[str, float]:
    """Of the tokens whose loss mask is 1: the sum of -log p (nats); where the model predicts their ids, that of the ids
    too, and how many of these are the likeliest."""
    (loss, *_), hidden = _losses_and_hidden(model, batch.tokens, _rows_of(model, batch), batch.loss_mask, 0.0)
    found = {"val/loss": loss.item()}
    if model.places is None or model.places.head is None:
        return found
    assert batch.places is not None
    logits = model.places.head(hidden)
    right = logits[:, :-1].argmax(-1) == batch.places[:, 1:]
    found["val/id_loss"] = -(token_logprobs(logits, batch.places) * batch.loss_mask).sum().item()
    return {**found, "val/id_accuracy": (right * batch.loss_mask[:, 1:]).sum().item()}


def _losses(model: Decoder, batch: Batch, core: Callable[..., Any], z_loss: float) -> Losses:
    """`negative_log_likelihood`; with z_loss its penalty and log Z, sums over the same tokens; what layers say; and
    log-probabilities [B, T] of the tokens, without gradient."""
    return core(model, batch.tokens, _rows_of(model, batch), batch.loss_mask, z_loss)


def _rows_of(model: Decoder, batch: Batch) -> Rows:
    rows = model.rows(batch.tokens, positions=batch.positions, documents=batch.documents)
    rows.places = batch.places
    return rows


def negative_log_likelihood(model: Decoder, batch: Batch) -> Tensor:
    """Sum [] of -log p (nats) over the tokens whose loss mask is 1, each given its document so far."""
    return _losses(model, batch, _row_losses, 0.0)[0]
