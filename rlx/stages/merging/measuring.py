"""What is measured of models that are merged: held-out loss, accuracy on tasks, and how alike the parents are."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from rlx.errors import ConfigError, Stopped
from rlx.evaluation.similarity import barrier_height, cka, convexity_gap
from rlx.options import option_of
from rlx.runs.identity import described
from rlx.signals import StopFlag
from rlx.stages.arithmetic import arithmetic, compiles, device_of
from rlx.stages.merging.parents import Parents
from rlx.types import Split

if TYPE_CHECKING:
    from torch import Tensor

    from rlx.batches import Batch
    from rlx.config import Config
    from rlx.data.corpora.base import Corpus
    from rlx.data.tokenizers.base import Tokenizer
    from rlx.nn.decoder import Decoder
    from rlx.tasks.base import TaskConfig

ROWS, BATCHES = 64, 16
"""Tokens of a batch that CKA is worked out on, and batches at most."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out documents of one source."""

    name: str
    """What it is called where there are several."""
    share: float
    batches: "list[Batch]"


@dataclass(slots=True, kw_only=True)
class Meter:
    """Measures models with one tokenizer on the same documents and problems; `flops` counts what that takes."""

    config: "Config"
    tokenizer: "Tokenizer"
    stop: StopFlag
    held_out: list[HeldOut]
    tasks: "Mapping[str, TaskConfig]"
    problems: int
    samples: int
    split: Split
    flops: float = 0.0

    def losses(self, model: "Decoder") -> dict[str, float]:
        """Mean loss (nats) over the tokens that count, by source; under "" the mean by share.

        Raises:
            Stopped: the process was asked to stop.
        """
        import torch

        from rlx.models.size import Operations
        from rlx.stages.modules.supervised import negative_log_likelihood

        device, operations = device_of(self.config.trainer), Operations(model)
        model.to(device).eval()
        found = {"": 0.0}
        with torch.no_grad(), arithmetic(self.config.trainer):
            for part in self.held_out:
                total = counted = 0.0
                for batch in part.batches:
                    if self.stop():
                        raise Stopped
                    total += negative_log_likelihood(model, batch.to(device)).item()
                    counted += batch.loss_mask.sum().item()
                    self.flops += operations.forward(batch.extent())
                mean = total / max(counted, 1.0)
                found[""] += part.share * mean
                if part.name:
                    found[part.name] = mean
        return found

    def evaluations(self, model: "Decoder", label: str) -> dict[str, dict[str, Any]]:
        """By task: what eval.json says of an evaluation.

        Raises:
            Stopped: the process was asked to stop.
        """
        return {name: self._evaluation(model, name, task, label) for name, task in self.tasks.items()}

    def _evaluation(self, model: "Decoder", name: str, task_config: "TaskConfig", label: str) -> dict[str, Any]:
        from rlx.evaluation.evaluate import Evaluator, first_problems, record_of
        from rlx.evaluation.judge import Judge
        from rlx.models.size import Operations
        from rlx.progress import Progress

        config, task = self.config, task_config.build()
        assert config.decode is not None
        model.to(device_of(config.trainer)).eval()
        evaluator = Evaluator(
            model,
            self.tokenizer,
            task,
            decode=config.decode,
            stop=self.stop,
            compile=compiles(config.trainer),
            judge=Judge(task, task_config, stop=self.stop),
        )
        examples, done = first_problems(task, self.split, self.problems), 0
        progress = Progress(f"{f'{label} on {name}':<24}", len(examples))

        def keep(chunk: dict[str, Any]) -> None:
            nonlocal done
            done += len(chunk["problems"])
            progress.update(done)

        with arithmetic(config.trainer):
            found = evaluator.evaluate(examples, samples=self.samples, seed=config.seed, done=(), keep=keep)
        progress.close()
        operations = Operations(model)
        self.flops += operations.forward(found.prefilled) + operations.forward(found.decoded, cached=True)
        return record_of(found, name, task, split=self.split, samples=self.samples, decode=config.decode)

    def activations(self, model: "Decoder") -> "list[list[Tensor]]":
        """By layer: batches [N, D] of the residual stream behind it, at the first held-out tokens that count.

        Raises:
            Stopped: the process was asked to stop.
        """
        import torch

        from rlx.models.size import Operations

        operations, device = Operations(model), device_of(self.config.trainer)
        model.to(device).eval()
        found: list[list[Tensor]] = [[] for _ in model.blocks]
        with torch.no_grad(), arithmetic(self.config.trainer):
            for batch in (batch for part in self.held_out for batch in part.batches):
                if self.stop():
                    raise Stopped
                batch = batch.to(device)
                with _heard(model) as heard:
                    rows = model.rows(batch.tokens, positions=batch.positions, documents=batch.documents)
                    rows.places = batch.places
                    model.run(batch.tokens, rows)
                self.flops += operations.forward(batch.extent())
                counted = batch.loss_mask.bool()
                for layer, x in zip(found, heard, strict=True):
                    layer.extend(part.float().cpu() for part in x[counted].split(ROWS) if len(part) == ROWS)
                if len(found[0]) >= BATCHES:
                    break
        return [layer[:BATCHES] for layer in found]

    def asked(self) -> dict[str, Any]:
        """All that what is measured depends on, besides the weights."""
        config = self.config
        assert config.decode is not None and config.trainer is not None
        import torch

        return {
            "held_out": [[part.name, part.share, [_digest(batch) for batch in part.batches]] for part in self.held_out],
            "tasks": {name: described(task) for name, task in self.tasks.items()},
            "asked": [self.problems, self.samples, self.split.value, config.seed],
            "decode": described(config.decode),
            "tokenizer": [self.tokenizer.to_json(), self.tokenizer.tokens],
            "arithmetic": [
                config.trainer.precision.value, config.trainer.accelerator, torch.get_num_threads(),
                config.trainer.compile,
            ],
        }  # fmt: skip


@contextmanager
def _heard(model: "Decoder") -> "Iterator[list[Tensor]]":
    """Filled, while a model runs, with what each block puts out."""
    heard: list[Tensor] = []

    def hear(module: object, given: object, out: Any) -> None:
        heard.append(out[0])

    handles = [block.register_forward_hook(hear) for block in model.blocks]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _digest(batch: "Batch") -> str:
    import hashlib

    return hashlib.sha256(batch.tokens.numpy().tobytes() + batch.loss_mask.numpy().tobytes()).hexdigest()


def tasks_of(config: "Config") -> "dict[str, TaskConfig]":
    """The tasks that a merge is evaluated on: the run's own, and those of a mixture.

    Raises:
        ConfigError: a source has the name of the run's task, and is another.
    """
    own = {} if config.task is None else {option_of(config.task).name: config.task}
    others = {} if config.corpus is None else config.corpus.tasks()
    known = [described(task) for task in own.values()]
    for name in own.keys() & others.keys():
        if described(others[name]) not in known:
            raise ConfigError(
                f"corpus.sources.{name} is another than task={name}, and both would be measured as {name}; call the "
                "source otherwise"
            )
    return {**own, **{name: task for name, task in others.items() if described(task) not in known}}


def held_out_of(
    config: "Config", model: "Decoder", tokenizer: "Tokenizer", *, tokens: int, length: int
) -> list[HeldOut]:
    """The first held-out documents, solutions alone counting; of several sources each has about its share.

    Raises:
        ConfigError: a document is longer than a row.
    """
    assert config.corpus is not None
    task = None if config.task is None else config.task.build()
    found, rows = [], max(1, tokens // length)
    for part in config.corpus.validation(task, tokenizer, whole=False, key=(config.seed, "merge")):
        batches = packed(part.corpus, model, tokenizer, rows=max(1, round(part.share * rows)), length=length)
        found.append(HeldOut(part.name, part.share, batches))
    return found


def packed(corpus: "Corpus", model: "Decoder", tokenizer: "Tokenizer", *, rows: int, length: int) -> "list[Batch]":
    """The first documents of a stream, in batches of a few rows.

    Raises:
        ConfigError: a document is longer than a row.
    """
    from rlx.data.documents import coupled_stream
    from rlx.data.packing import Packer

    document, places = corpus.document, model.places
    if places is not None:
        document = coupled_stream(document, places.most, key=None)
    packer = Packer(document, rows=rows, length=length, pad_id=tokenizer.pad_id, coupled=places is not None)
    return packer.next().split(ROWS_AT_ONCE)


ROWS_AT_ONCE = 16
"""Rows of a forward pass."""


def cosines(parents: Parents, stop: StopFlag) -> "tuple[list[list[float]], list[float]]":
    """Cosine [n, n] of the parents' differences from the base (of the weights themselves where there is none), all
    tensors as one vector; and the norm of each.

    Raises:
        Stopped: the process was asked to stop.
    """
    import torch

    count = len(parents.members)
    products = torch.zeros(count, count, dtype=torch.float64)
    shapes = parents.shapes()
    known = shapes if parents.base is None else [*shapes, parents.base.shapes()]
    for name, shape in shapes[0].items():
        if any(other.get(name) != shape for other in known):
            continue  # methods that stack layers or experts may have parents of several kinds
        if stop():
            raise Stopped
        vectors = [parents.tensor(number, name).float().flatten() for number in range(count)]
        if parents.base is not None:
            base = parents.base_tensor(name).float().flatten()
            vectors = [vector.sub_(base) for vector in vectors]
        for first in range(count):
            for second in range(first, count):
                value = torch.dot(vectors[first], vectors[second]).double()
                products[first, second] += value
                if first != second:
                    products[second, first] += value
    norms = products.diagonal().sqrt()
    scale = (norms[:, None] * norms[None]).clamp_min(torch.finfo(torch.float64).tiny)
    return (products / scale).tolist(), norms.tolist()


MOST_PAIRS = 6
"""Pairs of parents whose path is walked: all of four."""


def path(meter: Meter, parents: Parents, first: int, second: int, points: int) -> list[float]:
    """Held-out loss at evenly spaced weights from one parent to another, both included.

    Raises:
        Stopped: the process was asked to stop.
    """
    import torch

    model, found = parents.start(first), []
    own = {name: tensor for name, tensor in model.state_dict().items() if name in parents.members[first].places}
    for number in range(points):
        weight = number / (points - 1)
        with torch.no_grad():
            for name, tensor in own.items():
                one, other = (parents.tensor(end, name).to(tensor.dtype) for end in (first, second))
                tensor.copy_(torch.lerp(one, other, weight) if tensor.is_floating_point() else one)
        found.append(meter.losses(model)[""])
    return found


def likeness(meter: Meter, parents: Parents, points: int) -> dict[str, Any]:
    """How alike the parents are, before anything is merged: of every pair, where their models are of one shape, cosine,
    CKA by layer, and what the loss does on the way from one to the other.

    Raises:
        Stopped: the process was asked to stop.
    """
    count, pairs = len(parents.members), []
    table, norms = cosines(parents, meter.stop)
    seen = [meter.activations(parents.start(number)) for number in range(count)]
    shapes = parents.shapes()
    for place, (first, second) in enumerate(combinations(range(count), 2)):
        pair: dict[str, Any] = {"parents": [first, second], "cosine": table[first][second]}
        pair["cka"] = [cka(x, y) for x, y in zip(seen[first], seen[second], strict=False) if x]
        if points > 1 and place < MOST_PAIRS and shapes[first] == shapes[second]:
            losses = path(meter, parents, first, second, points)
            pair["path"] = losses
            pair["barrier_height"], pair["convexity_gap"] = barrier_height(losses), convexity_gap(losses)
        pairs.append(pair)
    return {"of": "differences" if parents.base is not None else "weights", "norms": norms, "pairs": pairs}


def measured_of(meter: "Meter", model: Any, label: str) -> dict[str, Any]:
    """Losses, evaluations, and what they took."""
    return counted(meter, lambda: {"losses": meter.losses(model), "tasks": meter.evaluations(model, label)})


def counted(meter: "Meter", measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is measured, with what the meter counted meanwhile, which `charged` adds to it."""
    before, meter.flops = meter.flops, 0.0
    found = {**measure(), "flops": meter.flops}
    meter.flops = before
    return found


def charged(meter: "Meter", found: dict[str, Any]) -> dict[str, Any]:
    """The same findings, what they took being counted."""
    meter.flops += found["flops"]
    return found
