"""`stage=merge`: one model from several by `merge=`, with the held-out loss of parents and result.

The loss barrier is the result's loss minus the mean of its parents' (Frankle et al., arXiv 1912.05671, measure the
same at the midpoint of two): near 0 the parents lie in one basin, far above it the merge makes no sense.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rlx.errors import ConfigError
from rlx.options import option
from rlx.runs.checkpoints import checkpoint_path, new_checkpoint, save_model_directory
from rlx.runs.files import MODEL_TOKENIZER, MODEL_WEIGHTS
from rlx.runs.references import parse_reference, resolve
from rlx.runs.run import Run
from rlx.stages.arithmetic import arithmetic, device_of, prepare
from rlx.stages.base import Context, RunStageConfig, Start, load_start, read_model

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

    def run(self, config: "Config", context: Context, run: Run) -> None:
        from rlx.models.folder import describe
        from rlx.models.size import parameter_count

        assert config.merge is not None
        prepare(config, run)
        folders = [resolve(parse_reference(reference)) for reference in config.merge.models]
        check_alike(folders)
        _, model_config, tokenizer = read_model(folders[0])
        tensors = merged(config.merge.build(), folders)
        if not checkpoint_path(run.path, 0).exists():
            with new_checkpoint(run.path, 0) as folder:
                description = describe(model_config, tokenizer.vocab_size)
                save_model_directory(folder, tensors, description, tokenizer.to_json())
        row = self.measured(config, run, [*folders, checkpoint_path(run.path, 0)])
        run.metrics.rewind(0, run.attempt - 1)
        run.metrics.append({"step": 0, "tokens": 0, **row, **run.ledger.row(), "wall": round(run.wall, 3)})
        depth = 1 + max(load_start(folder).depth for folder in folders)
        numel = parameter_count(load_start(folders[0]).model)
        run.save_record(parameters={"total": numel}, steps=0, tokens=0, depth=depth, barrier=row["merge/barrier"])
        run.say(f"  held-out loss {row['val/loss']:.4f}, barrier {row['merge/barrier']:+.4f} nats")

    def measured(self, config: "Config", run: Run, folders: Sequence[Path]) -> dict[str, float]:
        """Held-out loss of each parent and of the result (the last folder)."""
        batches = self._held_out(config, load_start(folders[0]))
        device = device_of(config.trainer)
        batches = [batch.to(device) for batch in batches]
        with arithmetic(config.trainer):
            losses = [held_out_loss(load_start(folder), batches, run, device) for folder in folders]
        *parents, result = losses
        row = {f"merge/parent_{n}/val_loss": loss for n, loss in enumerate(parents)}
        return {"val/loss": result, **row, "merge/barrier": result - sum(parents) / len(parents)}

    def _held_out(self, config: "Config", start: Start) -> "list[Batch]":
        from rlx.data.packing import Packer
        from rlx.types import Split

        assert config.corpus is not None and config.task is not None
        corpus = config.corpus.build(
            config.task.build(), start.tokenizer, split=Split.val, whole=False, key=(config.seed, "merge")
        )
        rows = max(1, self.val_tokens // self.row_tokens)
        packer = Packer(corpus.document, rows=rows, length=self.row_tokens, pad_id=start.tokenizer.pad_id)
        return [packer.next()]


def held_out_loss(start: Start, batches: "Sequence[Batch]", run: Run, device: "torch.device") -> float:
    """Mean loss (nats) over the tokens that count, with the model put where the batches are."""
    import torch

    from rlx.models.size import forward_flops
    from rlx.stages.modules.supervised import batch_size, negative_log_likelihood

    total = counted = 0.0
    start.model.to(device).eval()
    with torch.no_grad():
        for batch in batches:
            total += negative_log_likelihood(start.model, batch).item()
            counted += batch.loss_mask.sum().item()
            run.ledger.eval += forward_flops(start.model, *batch_size(batch))
    return total / max(counted, 1.0)


def check_alike(folders: Sequence[Path]) -> None:
    """Raise ConfigError unless all folders hold the same architecture and the same tokenizer."""
    from rlx.options import plain_value

    _, first, _ = read_model(folders[0])
    text = (folders[0] / MODEL_TOKENIZER).read_text()
    for folder in folders[1:]:
        _, other, _ = read_model(folder)
        if type(other) is not type(first):
            raise ConfigError(f"{folder} is {type(other).__name__}, {folders[0]} is {type(first).__name__}")
        mine, theirs = plain_value(first), plain_value(other)
        for name in mine:
            if mine[name] != theirs[name]:
                raise ConfigError(
                    f"merge.models differ in model.{name}: {mine[name]} in {folders[0]}, {theirs[name]} in {folder}"
                )
        if (folder / MODEL_TOKENIZER).read_text() != text:
            raise ConfigError(f"{folder} has another tokenizer than {folders[0]}; its token ids mean other text")


def merged(method: Any, folders: Sequence[Path]) -> "dict[str, Tensor]":
    """The result's tensors, each read from the parents when its turn comes."""
    from safetensors import safe_open

    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(folder / MODEL_WEIGHTS, framework="pt")) for folder in folders]
        shapes = [{name: tuple(f.get_slice(name).get_shape()) for name in f.keys()} for f in files]  # noqa: SIM118
        return {
            output.name: method.tensor(
                output, [f.get_tensor(source) for f, source in zip(files, output.sources, strict=True)]
            )
            for output in method.plan(shapes)
        }
