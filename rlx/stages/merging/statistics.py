"""What methods want to know of the parents besides their weights, gathered on documents of `train`.

1. `fisher`: for each parameter the mean over documents of the squared gradient of the document's log-probability
   (`rlx.merges.fisher` says of which tokens). A document is passed alone: the gradients of a batch come summed.
2. `inputs`: for the weight of each linear layer X^T X [I, I] float64 of the inputs X [N, I] of all real tokens; for
   stacks of experts [E, I, I], of the tokens that each expert got.
3. `usage`: for each tensor of a layer of experts, how many real tokens went to each of them, [E].

One parent is in memory at a time; what is found is written to a folder of the run, and read tensor by tensor. Nothing
is kept for other runs: it is as large as a model, of Gram matrices larger. All of it counts as evaluation in the
ledger: nothing is trained, though the Fisher takes passes back.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlx.batches import Batch
from rlx.decoding.logprobs import log_softmax, token_logprobs
from rlx.errors import ConfigError, Stopped, nearest
from rlx.merges.base import MergeConfig
from rlx.merges.fisher import FisherConfig, Labels
from rlx.models.size import Operations
from rlx.nn.aux import Aux
from rlx.nn.decoder import Decoder
from rlx.nn.experts import Experts
from rlx.progress import Progress
from rlx.runs.files import explained, remove_directory
from rlx.runs.tensor_files import Spec, StoredTensors, open_files, stream_file
from rlx.stages.arithmetic import arithmetic, device_of
from rlx.stages.merging.measuring import Meter, packed
from rlx.stages.merging.parents import Parents
from rlx.stages.start import seed_for
from rlx.types import Split

if TYPE_CHECKING:
    from rlx.config import Config

Found = dict[str, Tensor]


@dataclass(slots=True)
class Gathered:
    """What was gathered of each parent."""

    files: list[StoredTensors] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def tensor(self, number: int, name: str) -> Tensor | None:
        file = self.files[number]
        return file.tensor(name) if name in file.names else None

    def norm(self, number: int) -> float:
        return self.norms[number]


@contextmanager
def gathered(meter: Meter, parents: Parents, folder: Path, length: int) -> Iterator[Gathered]:
    """Gather what `config.merge` asks for, in rows of `length` tokens; it lies in `folder`, removed at the end.

    Raises:
        Stopped: the process was asked to stop.
        ConfigError: a document is longer than a row.
        RunError: the disk is full or cannot be written.
    """
    merge = _merge(meter.config)
    if folder.exists():  # an attempt that was killed left it
        remove_directory(folder)
    with explained(folder):
        folder.mkdir()
    try:
        with ExitStack() as stack:
            found = Gathered()
            for number in range(len(parents.members)):
                model = parents.start(number)
                batches = documents(meter, model, number, length)
                tensors = gather(merge.gathers(), meter, model, batches, f"parent {number}")
                path = folder / f"parent_{number}.safetensors"
                specs = [Spec(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()]
                stream_file(path, specs, iter(tensors.values()))
                found.norms.append(sum(tensor.double().square().sum().item() for tensor in tensors.values()) ** 0.5)
                found.files.append(stack.enter_context(open_files(path)))
            yield found
    finally:
        remove_directory(folder)


def _merge(config: "Config") -> MergeConfig:
    assert config.merge is not None
    return config.merge


def check_sources(config: "Config") -> None:
    """Raise ConfigError where `merge.sources` names what is no source of the corpus."""
    known = [] if config.corpus is None else config.corpus.names()
    for name in _merge(config).sources or ():
        if name not in known:
            has = nearest(name, known) if known else "; take corpus=mixture, or leave merge.sources out"
            raise ConfigError(f"merge.sources has {name}, which is no source of the corpus{has}")


def documents(meter: Meter, model: Decoder, number: int, length: int) -> list[Batch]:
    """Batches of a few rows of the documents that a parent is measured on.

    Raises:
        ConfigError: a document is longer than a row.
    """
    config, merge = meter.config, _merge(meter.config)
    assert config.corpus is not None
    task = None if config.task is None else config.task.build()
    key = (config.seed, "merge", "statistics")
    if merge.sources is None:
        corpus = config.corpus.build(task, meter.tokenizer, split=Split.train, whole=False, key=key)
    else:
        name = merge.sources[number]
        corpus = config.corpus.source(name, task, meter.tokenizer, split=Split.train, whole=False, key=key)
    return packed(corpus, model, meter.tokenizer, rows=max(1, merge.stat_tokens // length), length=length)


def gather(what: str, meter: Meter, model: Decoder, batches: list[Batch], label: str) -> Found:
    """What is asked for, by tensor, on the CPU; a document, or batch, at a time.

    Raises:
        Stopped: the process was asked to stop.
    """
    device = device_of(meter.config.trainer)
    model.to(device).eval()
    gatherer: Any = GATHERERS[what](model, meter)
    parts = [part for batch in batches for part in gatherer.parts(batch)]
    progress = Progress(f"{f'{what} of {label}':<24}", len(parts))
    with arithmetic(meter.config.trainer):
        for done, part in enumerate(parts, start=1):
            if meter.stop():
                raise Stopped
            gatherer.add(part.to(device))
            progress.update(done)
    progress.close()
    return {name: tensor.cpu() for name, tensor in gatherer.found().items()}


class Fisher:
    """Sums of squared gradients, a document each."""

    def __init__(self, model: Decoder, meter: Meter) -> None:
        self.model, self.meter, self.operations = model, meter, Operations(model)
        self.labels = cast(FisherConfig, meter.config.merge).labels
        self.sums = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
        self.count = 0
        self.generator = torch.Generator().manual_seed(seed_for(meter.config.seed, "merge", "labels"))

    def parts(self, batch: Batch) -> list[Batch]:
        return [part for part in alone(batch) if part.loss_mask.any()]

    def add(self, batch: Batch) -> None:
        model = self.model
        model.zero_grad(set_to_none=True)
        logits = model.logits(passed(model, batch)[0])
        tokens = batch.tokens if self.labels is Labels.data else self._drawn(logits.detach(), batch.tokens)
        (token_logprobs(logits, tokens) * batch.loss_mask).sum().backward()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.grad is not None:
                    self.sums[name].addcmul_(weight.grad, weight.grad)
        self.count += 1
        self.meter.flops += self.operations.training(batch.extent())

    def _drawn(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """[1, T]: each token drawn from the distribution that the model has for it."""
        chances = log_softmax(logits[0, :-1], 1.0).exp().cpu()
        drawn = torch.multinomial(chances, 1, generator=self.generator)[:, 0].to(tokens.device)
        return torch.cat([tokens[:, :1], drawn[None]], dim=1)

    def found(self) -> Found:
        self.model.zero_grad(set_to_none=True)
        return {name: total / max(self.count, 1) for name, total in self.sums.items()}


class Inputs:
    """Gram matrices of what goes into linear layers."""

    def __init__(self, model: Decoder, meter: Meter) -> None:
        self.model, self.meter, self.operations = model, meter, Operations(model)
        self.grams: Found = {}

    def parts(self, batch: Batch) -> list[Batch]:
        return [batch]

    def add(self, batch: Batch) -> None:
        real = batch.documents >= 0
        with torch.no_grad(), ExitStack() as stack:
            for name, module in self.model.named_modules():
                if isinstance(module, nn.Linear):
                    stack.callback(module.register_forward_pre_hook(self._of_layer(f"{name}.weight", real)).remove)
                elif isinstance(module, Experts):
                    stack.callback(module.register_forward_hook(self._of_experts(name, real)).remove)
            self.model.logits(passed(self.model, batch)[0])
        self.meter.flops += self.operations.forward(batch.extent())

    def _of_layer(self, name: str, real: Tensor) -> Callable[..., None]:
        def hear(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            self._add(name, self._product(given[0][real]))

        return hear

    def _of_experts(self, name: str, real: Tensor) -> Callable[..., None]:
        def hear(module: Experts, given: tuple[Tensor, ...], out: Any) -> None:
            (routing,) = out[1].routing
            x, chosen = given[0][real], routing.chosen[real]  # [N, D], [N, K]
            outer, inner = [], []
            for number in range(module.n_experts):
                own = x[(chosen == number).any(-1)]
                hidden = hidden_of(module, number, own)
                self.meter.flops += 2.0 * len(own) * module.gate_up[number].numel()
                outer.append(self._product(own))
                inner.append(self._product(hidden))
            self._add(f"{name}.gate_up", torch.stack(outer))
            self._add(f"{name}.down", torch.stack(inner))

        return hear

    def _product(self, x: Tensor) -> Tensor:
        """[I, I] float64 of inputs [N, I]."""
        self.meter.flops += 2.0 * x.numel() * x.shape[-1]
        wide = x.double()
        return wide.T @ wide

    def _add(self, name: str, gram: Tensor) -> None:
        self.grams[name] = gram if name not in self.grams else self.grams[name].add_(gram)

    def found(self) -> Found:
        return {name: gram for name, gram in self.grams.items() if not (self.model.tied and name == "head.weight")}


class Usage:
    """How many tokens each expert gets."""

    def __init__(self, model: Decoder, meter: Meter) -> None:
        self.model, self.meter, self.operations = model, meter, Operations(model)
        self.loads: list[Tensor] = []

    def parts(self, batch: Batch) -> list[Batch]:
        return [batch]

    def add(self, batch: Batch) -> None:
        with torch.no_grad():
            loads = [routing.load.double() for routing in passed(self.model, batch)[1].routing]
        self.loads = [a + b for a, b in zip(self.loads, loads, strict=True)] if self.loads else loads
        self.meter.flops += self.operations.forward(batch.extent())

    def found(self) -> Found:
        layers = [(name, module) for name, module in self.model.named_modules() if isinstance(module, Experts)]
        return {
            f"{name}.{own}": load.clone()
            for (name, module), load in zip(layers, self.loads, strict=True)
            for own in ("router", "gate_up", "down", "bias")
        }


GATHERERS: Mapping[str, Callable[[Decoder, Meter], Any]] = {"fisher": Fisher, "inputs": Inputs, "usage": Usage}
"""By the names that `MergeConfig.statistics` has."""


def hidden_of(module: Experts, number: int, x: Tensor) -> Tensor:
    """[N, I]: what an expert's `down` gets of inputs [N, D]."""
    gate, up = F.linear(x, module.gate_up[number].to(x.dtype)).chunk(2, dim=-1)
    return F.silu(gate) * up


def alone(batch: Batch) -> list[Batch]:
    """Each document of the rows as a batch of its own, [1, T]."""
    found = []
    for row in batch.split(1):
        for number in range(int(row.documents.max()) + 1):
            place = (row.documents[0] == number).nonzero()[:, 0]
            found.append(
                Batch(
                    tokens=row.tokens[:, place],
                    positions=row.positions[:, place],
                    documents=torch.zeros_like(row.documents[:, place]),
                    loss_mask=row.loss_mask[:, place],
                    places=None if row.places is None else row.places[:, place],
                )
            )
    return found


def passed(model: Decoder, batch: Batch) -> tuple[Tensor, Aux]:
    """What the decoder says of a batch."""
    return model(batch.tokens, positions=batch.positions, documents=batch.documents, places=batch.places)
