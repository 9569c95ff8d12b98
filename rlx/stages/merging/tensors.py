"""The result's tensors: planned of names and shapes, made one after the other, and written as they are made."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlx.errors import ConfigError, Stopped
from rlx.merges.base import Given, MergeConfig, MergeMethod, Output
from rlx.models.folder import TIED
from rlx.progress import Progress
from rlx.runs.model_directory import carry, stream_model_directory
from rlx.runs.tensor_files import Spec
from rlx.signals import StopFlag
from rlx.stages.merging.parents import Parents, described
from rlx.stages.start import seed_for

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlx.merges.base import Architecture
    from rlx.models.base import ModelConfig


class Statistics(Protocol):
    """What was gathered of the parents."""

    def tensor(self, number: int, name: str) -> "Tensor | None":
        """Of a parent's tensor; None where there is nothing."""
        ...

    def norm(self, number: int) -> float:
        """L2 norm of all that was gathered of a parent."""
        ...


class Read(Sequence["Tensor"]):
    """A number of tensors, each read when it is asked for."""

    def __init__(self, reads: "Sequence[Callable[[], Tensor]]") -> None:
        self._reads = reads

    def __len__(self) -> int:
        return len(self._reads)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [read() for read in self._reads[number]]
        return self._reads[number]()


class Merged:
    """What a method makes of the parents.

    Raises:
        ConfigError: the parents do not fit the method, or the result is no model.
    """

    def __init__(
        self, config: MergeConfig, parents: Parents, *, seed: int, statistics: Statistics | None = None
    ) -> None:
        self.config, self.parents, self.seed, self.statistics = config, parents, seed, statistics
        self.architecture: Architecture = config.architecture([each.architecture() for each in parents.members])
        self.method: MergeMethod = config.build()
        self.outputs = list(self.method.plan(parents.shapes()))
        self.model = self._checked(self.outputs) if parents.known else None
        """The result's; None of a model that rlx has not."""

    def _checked(self, outputs: Sequence[Output]) -> "ModelConfig":
        """The model that the outputs are to be, compared with them."""
        from rlx.models.adapters import without_numbers
        from rlx.models.folder import config_of

        assert self.parents.tokenizer is not None
        config, vocab_size = config_of(described(self.architecture, self.parents.tokenizer), "the result")
        model = without_numbers(config, vocab_size)
        wanted = {name: tuple(t.shape) for name, t in model.state_dict().items() if not (model.tied and name == TIED)}
        found = {output.name: output.shape for output in outputs}
        for name in sorted(wanted.keys() ^ found.keys()):
            what = "would lack" if name in wanted else "would have an unknown tensor"
            raise ConfigError(f"the result {what} {name}; the parents do not fit the method")
        for name, shape in wanted.items():
            if found[name] != shape:
                raise ConfigError(f"{name} of the result would be {found[name]}, and its model has {shape}")
        return config

    def seeds(self) -> dict[str, int]:
        """By tensor: what its random numbers begin with."""
        return {output.name: seed_for(self.seed, "merge", output.name) for output in self.outputs}

    def spec(self, output: Output) -> Spec:
        """In what an output is stored: the widest dtype of its sources where none is asked for."""
        import torch

        dtype = self._dtype(output)
        if self.config.dtype is not None and dtype.is_floating_point:
            dtype = getattr(torch, self.config.dtype.value)
        return Spec(output.name, output.shape, dtype)

    def _dtype(self, output: Output) -> "torch.dtype":
        """The widest of an output's sources."""
        import torch

        return reduce(
            torch.promote_types, [self.parents.members[place.parent].dtype(place.name) for place in output.sources]
        )

    def tensor(self, output: Output) -> "Tensor":
        """One tensor of the result.

        Raises:
            ConfigError: it holds no floating point numbers, and is not the same in all parents.
            CheckpointError: a parent has numbers that are NaN, and so has the result.
        """
        spec, parents, gathered = self.spec(output), self.parents, self.statistics
        reads = [(lambda place=place: parents.tensor(place.parent, place.name)) for place in output.sources]
        if not spec.dtype.is_floating_point:
            return _equal([read() for read in reads], output)
        dtype = self._dtype(output)
        widened = [(lambda read=read: _wide(read(), dtype)) for read in reads]
        given = Given(
            tensors=Read(widened),
            base=_wide(parents.base_tensor(output.name), dtype) if self.config.needs_base else None,
            statistics=[] if gathered is None else [gathered.tensor(each.parent, each.name) for each in output.sources],
            norms=[] if gathered is None else [gathered.norm(each.parent) for each in output.sources],
        )
        if self.config.draws:
            given.generator.manual_seed(seed_for(self.seed, "merge", output.name))
        made = self.method.tensor(output, given).to(spec.dtype)
        if made.sum().isnan():
            for place, read in zip(output.sources, reads, strict=True):
                parents.members[place.parent].checked(place.name, read())
        return made

    def write(self, folder: Path, stop: StopFlag) -> dict[str, str]:
        """Write the model directory; returns sums of its weights, as `stream_model_directory`.

        Raises:
            Stopped: the process was asked to stop.
            RunError: the disk is full or cannot be written.
        """
        first, tokenizer = self.parents.members[0], self.parents.tokenizer
        if tokenizer is not None:
            config, text = described(self.architecture, tokenizer), tokenizer.to_json()
        else:
            config, text = dict(self.architecture.fields), None
            told = [name for name in ("dtype", "torch_dtype") if name in config]
            config |= {name: dtype for name in told for dtype in self._prevailing()}
            carry(first.folder, folder)
        specs = [self.spec(output) for output in self.outputs]
        tensors = self._made(stop)
        return stream_model_directory(folder, specs, tensors, config, text, shard_bytes=self.config.shard_bytes)

    def _prevailing(self) -> list[str]:
        """The dtype that most of the floating point numbers are stored in; [] without any."""
        counts: Counter[str] = Counter()
        for spec in map(self.spec, self.outputs):
            if spec.dtype.is_floating_point:
                counts[str(spec.dtype).removeprefix("torch.")] += prod(spec.shape)
        return [name for name, _ in counts.most_common(1)]

    def _made(self, stop: StopFlag) -> "Iterator[Tensor]":
        progress = Progress(f"{'merge':<24}", len(self.outputs))
        for number, output in enumerate(self.outputs, start=1):
            if stop():
                raise Stopped
            yield self.tensor(output)
            progress.update(number)
        progress.close()


def _wide(tensor: "Tensor", dtype: "torch.dtype") -> "Tensor":
    """In float64 where the sources are, else in float32."""
    import torch

    return tensor.to(torch.float64 if dtype is torch.float64 else torch.float32)


def _equal(tensors: "Iterable[Tensor]", output: Output) -> "Tensor":
    import torch

    first, *others = tensors
    for number, other in enumerate(others, start=2):
        if not torch.equal(first, other):
            raise ConfigError(
                f"{output.name} holds {first.dtype} and differs between parents 1 and {number}; numbers that are no "
                "floating point are only copied"
            )
    return first
