"""Next-token training on packed documents: pretrain and sft are this module with other masks."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from rlx.batches import Batch
from rlx.data.packing import Packer
from rlx.decoding.logprobs import token_logprobs
from rlx.errors import ConfigError
from rlx.models.size import forward_flops, training_flops
from rlx.nn.compiled import compiled
from rlx.nn.decoder import Decoder
from rlx.nn.rows import Rows
from rlx.runs.run import Run
from rlx.stages.modules.step import StepModule
from rlx.stages.start import Start


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

    def state_dict(self) -> dict[str, Any]:
        return {"made": self.made, "packer": self.packer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.made = state["made"]
        self.packer.load_state_dict(state["packer"])


class SupervisedModule(StepModule):
    """Mean cross-entropy (nats) over the tokens that count, the mean taken over the whole step."""

    held_out: list[Batch]

    def __init__(self, start: Start, config: Any, run: Run, *, total: int, clip_norm: float) -> None:
        super().__init__(start, config, run, total=total, clip_norm=clip_norm)
        self.likelihood = compiled(_row_losses) if config.trainer.compile else _row_losses

    def training_step(self, batches: list[Batch], index: int) -> None:
        optimizer: Any = self.optimizers()
        counted = sum(batch.loss_mask.sum() for batch in batches)
        total = torch.zeros((), device=self.device)
        for batch in batches:
            loss = negative_log_likelihood(self.model, batch, self.likelihood) / counted
            self.manual_backward(loss)
            total += loss.detach()
        norm = self.update(optimizer)
        sizes = [batch_size(batch) for batch in batches]
        self.tokens = sum(tokens for tokens, _ in sizes)
        self.run.ledger.train += sum(training_flops(self.model, *size) for size in sizes)
        self.row = {"train/loss": total, "train/grad_norm": norm, "train/lr": self.learning_rate()}
        self.done = True

    def transfer_batch_to_device(self, batch: list[Batch], device: torch.device, dataloader_idx: int) -> list[Batch]:
        return [part.to(device) for part in batch]

    def validate(self) -> dict[str, float]:
        total = counted = 0.0
        for batch in self.held_out:
            batch = batch.to(self.device)
            with self.trainer.precision_plugin.forward_context():
                total += negative_log_likelihood(self.model, batch).item()
            counted += batch.loss_mask.sum().item()
            self.run.ledger.eval += forward_flops(self.model, *batch_size(batch))
        return {"val/loss": total / max(counted, 1.0)}

    def note(self) -> str:
        return f"loss {float(self.row['train/loss']):.3f}"


def _row_losses(model: Decoder, tokens: Tensor, rows: Rows, loss_mask: Tensor) -> Tensor:
    """The part of `negative_log_likelihood` that is worth compiling."""
    hidden, aux = model.run(tokens, rows)
    logprobs = token_logprobs(model.logits(hidden), tokens)
    loss = -(logprobs * loss_mask).sum()
    for value in aux.losses.values():
        loss = loss + value * loss_mask.sum()
    return loss


def negative_log_likelihood(model: Decoder, batch: Batch, core: Callable[..., Tensor] = _row_losses) -> Tensor:
    """Sum [] of -log p (nats) over the tokens whose loss mask is 1, each given its document so far."""
    rows = model.rows(batch.tokens, positions=batch.positions, documents=batch.documents)
    return core(model, batch.tokens, rows, batch.loss_mask)


def batch_size(batch: Batch) -> tuple[int, int]:
    """Tokens that are not padding, and the positions that they attend in sum."""
    real = batch.documents >= 0
    return int(real.sum()), int(((batch.positions + 1) * real).sum())
