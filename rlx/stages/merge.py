"""`stage=merge`: one model from several by `merge=`, with the held-out loss of parents and result.

The loss barrier is the result's loss minus the mean of its parents' (Frankle et al., arXiv 1912.05671, measure the
same at the midpoint of two): near 0 the parents lie in one basin, far above it the merge makes no sense.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rlx.errors import ConfigError, Stopped
from rlx.options import option
from rlx.runs.checkpoints import checkpoint_path, new_checkpoint
from rlx.runs.files import remove_directory
from rlx.runs.model_directory import StoredTensors, open_tensors, read_model_config, save_model_directory
from rlx.runs.references import parse_reference, resolve
from rlx.runs.run import Run
from rlx.signals import StopFlag
from rlx.stages.arithmetic import arithmetic, device_of, prepare
from rlx.stages.base import Context, RunStageConfig
from rlx.stages.estimate import Cost, Outset
from rlx.stages.start import Start, load_start, read_adapter, read_model
from rlx.types import Split

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlx.batches import Batch
    from rlx.config import Config


@option("stage", "merge")
@dataclass(kw_only=True, slots=True)
class MergeStageConfig(RunStageConfig):
    """Merge, and measure the held-out loss of parents and result."""

    uses: ClassVar[frozenset[str]] = frozenset({"task", "model", "tokenizer", "corpus", "merge", "trainer", "logger"})
    requires: ClassVar[frozenset[str]] = frozenset({"task", "merge"})

    val_tokens: int = 8192
    """Tokens of held-out documents that the losses are measured on."""
    row_tokens: int = 640
    """Tokens a row; the longest document must fit."""

    def parents(self, config: "Config") -> list[str]:
        models = list(config.merge.models) if config.merge is not None else []
        if len(models) < 2:
            raise ConfigError(f"stage=merge needs at least two parents, got {len(models)}; merge.models=[<run>,<run>]")
        if config.init_from is not None:
            raise ConfigError("stage=merge takes its parents from merge.models=[...]; leave init_from out")
        return models

    def check_start(self, config: "Config") -> None:
        check_alike([resolve(parse_reference(reference)) for reference in self.parents(config)])

    def cost(self, config: "Config", outset: Outset) -> Cost:
        held_out = outset.batch(config, Split.val, tokens=self.val_tokens, length=self.row_tokens)
        return Cost(eval=(len(self.parents(config)) + 1) * outset.forward(held_out))  # the result's loss too

    def run(self, config: "Config", context: Context, run: Run) -> None:
        from rlx.models.folder import describe
        from rlx.models.size import parameter_counts

        assert config.merge is not None
        prepare(config, run)
        folders = [resolve(parse_reference(reference)) for reference in config.merge.models]
        _, model_config, tokenizer = read_model(folders[0])
        tensors = merged(config.merge.build(), folders, context.stop)
        path = checkpoint_path(run.path, 0)
        if path.exists():  # an attempt that was killed left it, perhaps with other parents or other code
            remove_directory(path)
        with new_checkpoint(run.path, 0) as folder:
            description = describe(model_config, tokenizer.vocab_size, tokenizer.tokens)
            save_model_directory(folder, tensors, description, tokenizer.to_json())
        row = self.measured(config, context, run, [*folders, path])
        run.metrics.rewind(0, run.attempt - 1)
        run.metrics.append({"step": 0, "tokens": 0, **row, **run.ledger.row(), "wall": round(run.wall, 3)})
        depth = 1 + max(load_start(folder).depth for folder in folders)
        counts = parameter_counts(load_start(folders[0]).model)
        run.save_record(parameters=counts, steps=0, tokens=0, depth=depth, barrier=row["merge/barrier"])
        run.say(f"  held-out loss {row['val/loss']:.4f}, barrier {row['merge/barrier']:+.4f} nats")

    def measured(self, config: "Config", context: Context, run: Run, folders: Sequence[Path]) -> dict[str, float]:
        """Held-out loss of each parent and of the result (the last folder)."""
        batches = self._held_out(config, load_start(folders[0]))
        device = device_of(config.trainer)
        batches = [batch.to(device) for batch in batches]
        with arithmetic(config.trainer):
            losses = [held_out_loss(load_start(folder), batches, run, device, context.stop) for folder in folders]
        *parents, result = losses
        row = {f"merge/parent_{n}/val_loss": loss for n, loss in enumerate(parents)}
        return {"val/loss": result, **row, "merge/barrier": result - sum(parents) / len(parents)}

    def _held_out(self, config: "Config", start: Start) -> "list[Batch]":
        from rlx.data.documents import coupled_stream
        from rlx.data.packing import Packer

        assert config.corpus is not None and config.task is not None
        corpus = config.corpus.build(
            config.task.build(), start.tokenizer, split=Split.val, whole=False, key=(config.seed, "merge")
        )
        rows = max(1, self.val_tokens // self.row_tokens)
        document, places = corpus.document, start.model.places
        if places is not None:
            document = coupled_stream(document, places.most, key=None)
        pad_id, coupled = start.tokenizer.pad_id, places is not None
        return [Packer(document, rows=rows, length=self.row_tokens, pad_id=pad_id, coupled=coupled).next()]


def held_out_loss(start: Start, batches: "Sequence[Batch]", run: Run, device: "torch.device", stop: StopFlag) -> float:
    """Mean loss (nats) over the tokens that count, with the model put where the batches are.

    Raises:
        Stopped: the process was asked to stop.
    """
    import torch

    from rlx.models.size import Operations
    from rlx.stages.modules.supervised import negative_log_likelihood

    total = counted = 0.0
    operations = Operations(start.model)
    start.model.to(device).eval()
    with torch.no_grad():
        for batch in batches:
            if stop():
                raise Stopped
            total += negative_log_likelihood(start.model, batch).item()
            counted += batch.loss_mask.sum().item()
            run.ledger.eval += operations.forward(batch.extent())
    return total / max(counted, 1.0)


def check_alike(folders: Sequence[Path]) -> None:
    """Raise ConfigError unless all folders hold the same architecture and the same tokenizer."""
    from rlx.options import option_of, plain_value

    _, first, tokenizer = read_model(folders[0])
    for folder in folders[1:]:
        _, other, another = read_model(folder)
        if type(other) is not type(first):
            mine, theirs = option_of(first).name, option_of(other).name
            raise ConfigError(f"merge.models differ in their model: {mine} in {folders[0]}, {theirs} in {folder}")
        mine, theirs = plain_value(first), plain_value(other)
        for name in mine:
            if mine[name] != theirs[name]:
                raise ConfigError(
                    f"merge.models differ in model.{name}: {mine[name]} in {folders[0]}, {theirs[name]} in {folder}"
                )
        if (another.to_json(), another.tokens) != (tokenizer.to_json(), tokenizer.tokens):
            raise ConfigError(f"{folder} has another tokenizer than {folders[0]}; its token ids mean other text")


class ParentTensors:
    """A parent's tensors by our names, in float32, its adapter added, each read when it is asked for."""

    def __init__(self, folder: Path, stored: StoredTensors) -> None:
        from rlx.models.folder import config_of, places_of

        description = read_model_config(folder)
        model_config, vocab_size = config_of(description, folder)
        self.stored, self.places = stored, places_of(description, model_config, stored.names)
        self.products = read_adapter(folder, model_config, vocab_size)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            name: place.shape_of([self.stored.shape(part) for part in place.theirs])
            for name, place in self.places.items()
        }

    def tensor(self, name: str) -> "Tensor":
        from rlx.models.adapters import fold

        place = self.places[name]
        tensor = place.ours([self.stored.tensor(part) for part in place.theirs])
        fold({name: tensor}, [product for product in self.products if product.tensor == name])
        return tensor


def merged(method: Any, folders: Sequence[Path], stop: StopFlag) -> "dict[str, Tensor]":
    """The result's tensors, each read from the parents when its turn comes.

    Raises:
        Stopped: the process was asked to stop.
    """
    with ExitStack() as stack:
        parents = [ParentTensors(folder, stack.enter_context(open_tensors(folder))) for folder in folders]
        tensors = {}
        for output in method.plan([parent.shapes() for parent in parents]):
            if stop():
                raise Stopped
            from rlx.merges.base import Given

            inputs = [parents[source.parent].tensor(source.name) for source in output.sources]
            tensors[output.name] = method.tensor(output, Given(tensors=inputs))
        return tensors
