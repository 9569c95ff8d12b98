"""Weights of a sum of adapters, learned or searched on documents.

1. Learned (`Learning`): every adapted matrix is W + sum w_k s_k B_k A_k with base and factors fixed, worked out anew
   each pass, so that linear layers and stacks of experts are one case; the w_k alone are trained.
2. Searched (`Search`): one weight a parent, the adapter added to the base's weights for each try.
3. What both spend counts as training.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rlx.batches import Batch
from rlx.errors import Stopped
from rlx.merges.adapters import Learning, Per, Search, concatenated
from rlx.merges.base import Factors
from rlx.merges.evolution import search
from rlx.models.adapters import Product
from rlx.models.size import Operations
from rlx.nn.decoder import Decoder
from rlx.nn.lora import add_product
from rlx.progress import Progress
from rlx.runs.run import Run
from rlx.signals import StopFlag
from rlx.stages.arithmetic import arithmetic, device_of
from rlx.stages.merging.parents import Parents
from rlx.types import Split

if TYPE_CHECKING:
    from rlx.config import Config


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A matrix, or a stack of them, that some of the parents adapt."""

    name: str
    """What PEFT calls it."""
    tensor: str
    rows: slice
    factors: Mapping[int, Factors]
    """By parent."""

    @property
    def layer(self) -> str:
        """Its layer's number; empty outside of layers."""
        parts = self.tensor.split(".")
        return parts[1] if parts[0] == "blocks" else ""

    def group(self, per: Per) -> str:
        """What it shares its learned weights with."""
        return {Per.module: self.name, Per.layer: self.layer, Per.whole: ""}[per]


@dataclass(frozen=True, slots=True)
class Learner:
    """What weights are learned with."""

    config: "Config"
    stop: StopFlag
    run: Run
    row_tokens: int

    def batches(self, model: Decoder, parents: Parents, tokens: int) -> Iterator[Batch]:
        """The corpus in batches of so many tokens, solutions alone counting, in an order of the run's seed."""
        from rlx.data.documents import coupled_stream
        from rlx.data.packing import Packer

        config, tokenizer, key = self.config, parents.tokenizer, (self.config.seed, "merge weights")
        assert config.corpus is not None and tokenizer is not None
        task = None if config.task is None else config.task.build()
        document = config.corpus.build(task, tokenizer, split=Split.train, whole=False, key=key).document
        if model.places is not None:
            document = coupled_stream(document, model.places.most, key=key)
        rows, coupled = max(1, tokens // self.row_tokens), model.places is not None
        packer = Packer(document, rows=rows, length=self.row_tokens, pad_id=tokenizer.pad_id, coupled=coupled)
        while True:
            yield packer.next().to(device_of(config.trainer))

    def loss(self, model: Decoder, batch: Batch) -> Tensor:
        """Mean next-token loss (nats) over the tokens that count.

        Raises:
            Stopped: the process was asked to stop.
        """
        from rlx.stages.modules.supervised import negative_log_likelihood

        if self.stop():
            raise Stopped
        with arithmetic(self.config.trainer):
            return negative_log_likelihood(model, batch) / batch.loss_mask.sum().clamp_min(1)


class Mixing(nn.Module):
    """One weight a parent: what is learned is `raw` [K]."""

    def __init__(self, raw: Tensor, *, softmax: bool) -> None:
        super().__init__()
        self.raw, self.softmax = nn.Parameter(raw), softmax

    def forward(self) -> Tensor:
        return self.raw.softmax(0) if self.softmax else self.raw


class Mixed(nn.Module):
    """W + sum w_k s_k B_k A_k, to some rows of W or of each in a stack: a parametrization of torch."""

    a: Tensor
    b: Tensor
    of: Tensor

    def __init__(self, matrix: Matrix, mixing: Mixing) -> None:
        super().__init__()
        self.rows, self.mixing = matrix.rows, mixing
        factors = matrix.factors
        whole = concatenated(list(factors.values()), [1.0] * len(factors))
        ranks = torch.tensor([each.a.shape[-2] for each in factors.values()])
        self.register_buffer("a", whole.a)
        self.register_buffer("b", whole.b)
        self.register_buffer("of", torch.tensor(list(factors)).repeat_interleave(ranks))

    def forward(self, weight: Tensor) -> Tensor:
        weights = self.mixing()[self.of]  # [R]
        added = torch.zeros_like(weight)
        added[..., self.rows, :] = self.b @ (weights[:, None] * self.a)
        return weight + added


def mix(model: Decoder, matrices: Sequence[Matrix], learning: Learning, count: int, seed: int) -> dict[str, Mixing]:
    """Freeze a model and put the parents' adapters on it, mixed; gives what is trained, by group."""
    model.requires_grad_(False)
    generator, found = torch.Generator().manual_seed(seed), {}
    for matrix in matrices:
        group = matrix.group(learning.per)
        if group not in found:
            drawn = learning.init_std * torch.randn(count, generator=generator)
            raw = drawn if learning.softmax else torch.full([count], 1 / count)
            found[group] = Mixing(raw, softmax=learning.softmax)
        owner, _, name = matrix.tensor.rpartition(".")
        parametrize.register_parametrization(model.get_submodule(owner), name, Mixed(matrix, found[group]))
    return found


def rate(step: int, learning: Learning) -> float:
    """The learning rate of a step, the first being 0: up in a line, then down in one."""
    if step < learning.warmup:
        return learning.lr * (step + 1) / learning.warmup
    return learning.lr * (learning.steps - step) / max(1, learning.steps - learning.warmup)


def learnt(
    parents: Parents, matrices: Sequence[Matrix], learning: Learning, learner: "Learner", seed: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Weights by matrix, one a parent; and the last step's row of metrics, the others being written.

    Raises:
        Stopped: the process was asked to stop.
    """
    model = parents.start(0, adapted=False)
    mixings = mix(model, matrices, learning, len(parents.members), seed)
    model.to(device_of(learner.config.trainer)).eval()
    operations, batches = Operations(model), learner.batches(model, parents, learning.batch_tokens)
    optimizer = torch.optim.AdamW([mixing.raw for mixing in mixings.values()], lr=learning.lr, weight_decay=0.0)
    progress, row, tokens, run = Progress(f"{'mixing weights':<24}", learning.steps), {}, 0, learner.run
    for step in range(learning.steps):
        batch = next(batches)
        optimizer.param_groups[0]["lr"] = rate(step, learning)
        optimizer.zero_grad()
        loss = learner.loss(model, batch)
        loss.backward()
        optimizer.step()
        if row:
            run.metrics.append({**row, **run.ledger.row(), "wall": round(run.wall, 3)})
        extent = batch.extent()
        run.ledger.train += operations.training(extent)
        tokens += int(extent.tokens)
        row = {"step": step + 1, "tokens": tokens, "train/loss": loss.item(), "train/lr": rate(step, learning)}
        progress.update(step + 1, f"loss {row['train/loss']:.3f}")
    progress.close()
    with torch.no_grad():
        values = {group: mixing().tolist() for group, mixing in mixings.items()}
    return {matrix.name: values[matrix.group(learning.per)] for matrix in matrices}, row


@torch.no_grad()
def searched(
    parents: Parents,
    added: Callable[[Sequence[float]], list[Product]],
    asked: Search,
    learner: Learner,
    seed: int,
) -> list[tuple[list[float], float]]:
    """Weights that were tried, one a parent, with what was to be made small.

    Args:
        added: what the adapter with these weights adds to the model.

    Raises:
        Stopped: the process was asked to stop.
    """
    device, count = device_of(learner.config.trainer), len(parents.members)
    model = parents.start(0, adapted=False).to(device).eval()
    operations, batch = Operations(model), next(learner.batches(model, parents, asked.batch_tokens))
    tensors = model.state_dict()
    before = {product.tensor: tensors[product.tensor].clone() for product in added([0.0] * count)}
    progress, tried = Progress(f"{'search of weights':<24}", asked.evaluations), 0

    def value(weights: list[float]) -> float:
        nonlocal tried
        for name, tensor in before.items():
            tensors[name].copy_(tensor)
        for each in added(weights):
            add_product(tensors[each.tensor], each.rows, each.a.to(device), each.b.to(device), each.scale)
        loss = learner.loss(model, batch).item()
        learner.run.ledger.train += operations.forward(batch.extent())
        tried += 1
        progress.update(tried, f"loss {loss:.3f}")
        return loss + asked.penalty * sum(map(abs, weights)) / count

    generator = torch.Generator().manual_seed(seed)
    found = search(value, count, evaluations=asked.evaluations, bound=asked.bound, generator=generator)
    progress.close()
    return found
