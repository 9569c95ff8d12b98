"""`stage=size`: what a model costs, as a table: parameters, operations a token, state of a sequence, its layers.

    rlx stage=size model=dense model.depth=12                fresh weights, as the command composes them
    rlx stage=size init_from=<run> stage.lengths=[512,8192]  the model of a run, a checkpoint or hf:<folder>

No run is made and nothing is written; the model has no numbers, so one of any size takes milliseconds. What counts as
an operation is said in `rlx/models/size.py`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rlx.batches import Extent
from rlx.errors import ConfigError
from rlx.options import option, option_of
from rlx.runs.model_directory import read_model_config
from rlx.runs.references import parse_reference, resolve
from rlx.stages.base import Context
from rlx.stages.config import StageConfig
from rlx.stages.material import material_of

if TYPE_CHECKING:
    from rlx.config import Config
    from rlx.models.base import ModelConfig
    from rlx.nn.decoder import Decoder


@option("stage", "size")
@dataclass(kw_only=True, slots=True)
class SizeConfig(StageConfig):
    """The size of a model; no run is made."""

    uses: ClassVar[frozenset[str]] = frozenset({"task", "model", "tokenizer", "corpus"})

    lengths: list[int] = field(default_factory=lambda: [128, 512, 2048])
    """Tokens of a row at which operations and state are told."""

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1:
            raise ConfigError(f"stage.lengths={self.lengths} must be numbers of tokens, such as [128,512]")

    def carry_out(self, config: "Config", context: Context) -> None:
        from rlx.models.folder import config_of
        from rlx.stages.start import typed_fields

        if config.init_from in (None, "random"):
            assert config.model is not None and config.tokenizer is not None
            model, vocab_size = config.model, config.tokenizer.build(material_of(config)).vocab_size
        else:
            if context.typed("model"):
                name = ".".join(["model", *typed_fields(context)[:1]])
                raise ConfigError(f"{name}= cannot be set with init_from: the size is the checkpoint's")
            folder = resolve(parse_reference(str(config.init_from)))
            model, vocab_size = config_of(read_model_config(folder), folder)
        print("\n".join(table(model, vocab_size, self.lengths)), flush=True)


def table(config: "ModelConfig", vocab_size: int, lengths: Sequence[int]) -> list[str]:
    """The lines that are printed."""
    import torch

    from rlx.models.adapters import without_numbers
    from rlx.models.size import Operations, parameter_counts, state_bytes

    model = without_numbers(config, vocab_size)
    counts, operations = parameter_counts(model), Operations(model)
    rows = {length: Extent.spans(torch.tensor([1]), torch.tensor([length])) * (1 / length) for length in lengths}
    last = {length: Extent.of(torch.tensor([length])) for length in lengths}
    kept = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    head = (
        f"model={option_of(config).name}  d_model {config.d_model}  {config.n_layers} layers  vocabulary {vocab_size}"
    )
    return [
        head,
        "",
        *_columns([["layers", "parameters each"], *_layers(config, model)]),
        "",
        *_columns(
            [
                ["parameters", "total", "active", "embedding", "non-embedding"],
                ["", *(f"{n:,}" for n in (*counts.values(), counts["total"] - counts["embedding"]))],
            ]
        ),
        "",
        *_columns(
            [
                ["at tokens", *(f"{length:,}" for length in lengths)],
                ["train, FLOPs a token", *(_short(operations.training(row)) for row in rows.values())],
                ["prefill, FLOPs a token", *(_short(operations.forward(row)) for row in rows.values())],
                ["decode, FLOPs a token", *(_short(operations.forward(one, cached=True)) for one in last.values())],
                *(
                    [f"state, bytes in {name}", *(_short(state_bytes(model, length, dtype)) for length in lengths)]
                    for name, dtype in kept.items()
                ),
            ]
        ),
        "",
        "train, prefill: mean over a row of so many tokens; decode: the last one of so many, from a cache",
    ]


def _layers(config: "ModelConfig", model: "Decoder") -> Iterable[list[str]]:
    """Kinds of layers as `model.layers` writes them, in order of appearance, with their number and parameters."""
    names = [each.name for each in config.pattern()]
    for name, count in Counter(names).items():
        parameters = sum(part.numel() for part in list(model.blocks)[names.index(name)].parameters())
        yield [f"{name} x {count}", f"{parameters:,}"]


def _short(value: float) -> str:
    """Three or four digits and a power of a thousand."""
    for power, unit in ((4, "T"), (3, "G"), (2, "M"), (1, "k")):
        if value >= 1000**power:
            return f"{value / 1000**power:#.4g} {unit}"
    return f"{value:,.4g}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text in columns, the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
