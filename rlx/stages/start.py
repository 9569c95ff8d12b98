"""What a run starts from: its parents on the disk, and the decoder and tokenizer read from them or made fresh."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlx.config import InitState
from rlx.data.tokenizers.base import Tokenizer
from rlx.errors import CheckpointError, ConfigError
from rlx.options import option_of
from rlx.progress import counted
from rlx.runs.checkpoints import checkpoint_path, nearest_whole, step_of
from rlx.runs.checksums import check_whole
from rlx.runs.files import CHECKSUMS, METRICS, MODEL_TOKENIZER
from rlx.runs.identity import content_hash
from rlx.runs.metrics import MetricsLog
from rlx.runs.references import Kind, parse_reference, resolve
from rlx.runs.run import read_record
from rlx.stages.continuing import parent_state
from rlx.stages.material import material_of
from rlx.tasks.base import stable_hash

if TYPE_CHECKING:
    from torch import Tensor

    from rlx.adapters.base import AdapterConfig
    from rlx.config import Config
    from rlx.models.adapters import Product
    from rlx.models.base import Grow, ModelConfig
    from rlx.nn.decoder import Decoder
    from rlx.runs.run import Run
    from rlx.stages.base import Context


SHOWN = 8
"""Tokens that are named on the screen."""


def parent_record(reference: str, *, trainer: bool = False) -> dict[str, Any]:
    """How a parent is written in run.json: reference, run, the step found, and (not written) its own run.json.

    Raises:
        CheckpointError: the reference cannot be used, or its files (with `trainer` its state.pt too) are damaged.
    """
    parsed = parse_reference(reference)
    folder = resolve(parsed)
    try:
        check_whole(folder, trainer=trainer)
    except CheckpointError as error:
        step = parse_reference(str(folder)).step
        near = None if step is None else nearest_whole(parsed.run, step, trainer=trainer)
        others = "restore it from a copy" + (", or take init.state=weights" if trainer else "")
        instead = others if near is None else f"the nearest good one is {parsed.run}@{near}"
        raise CheckpointError(f"{error}; {instead} (without {CHECKSUMS} it is taken as it is)") from error
    found: dict[str, Any] = {"reference": reference, "folder": str(folder)}
    if parsed.kind is Kind.run:
        found["run"] = parsed.run
        found["step"] = parse_reference(str(folder)).step
        found["record"] = spent_by(read_record(parsed.run), Path(parsed.run), found["step"])
    if found.get("record") is None:
        found["content"] = content_hash(reference)
    return found


def own_checkpoint(place: Path) -> Path | None:
    """The newest whole checkpoint that an earlier attempt of a run left, with its state; None without one."""
    step = nearest_whole(place, sys.maxsize, trainer=True)
    begun = "steps_before" in (read_record(place) or {})
    return checkpoint_path(place, step) if step is not None and begun else None


def parents_without(place: Path, lost: str) -> list[dict[str, Any]]:
    """The parents of a run as its earlier attempt knew them, marked as lost, with what they had spent."""
    record = read_record(place) or {}
    spent = {run: flops for run, flops in record.get("lineage", {}).items() if run not in (record["run"], str(place))}
    return [{**parent, "lost": lost, "record": {"lineage": spent}} for parent in record["parents"]]


def spent_by(record: dict[str, Any] | None, run: Path, step: int | None) -> dict[str, Any] | None:
    """A run's record whose lineage charges the run itself with what it had spent at a step, not with all of it."""
    if record is None or step is None or step >= record.get("steps", step):
        return record
    spent = {row.get("step"): row.get("flops/total") for row in MetricsLog.read(run / METRICS)}
    if step and step not in spent:  # rows were lost: better too much than nothing
        return record
    lineage = {**record.get("lineage", {}), record["run"]: spent.get(step) or 0.0}
    return {**record, "lineage": lineage}


def parent_model(config: "Config", context: "Context", folder: Path, *, begun: bool = False) -> "ModelConfig":
    """The model of a run with parents: the first parent's, with what the command line may change, grown if asked.

    Args:
        begun: the folder is a checkpoint of the run itself, which has grown.

    Raises:
        ConfigError: the command line asks for another one.
    """
    from rlx.models.growth import grown_config

    own, _ = read_described(folder)
    changes, grow = changes_of(config, context, folder, own), config.init.grow
    asked = changes.pop("n_layers", own.n_layers)
    own = replace(own, **changes)
    return own if grow is None or begun else grown_config(own, asked, grow)


def typed_fields(context: "Context") -> list[str]:
    """Fields of the model that were typed; in place of `depth` those that it stands for."""
    from rlx.models.base import of_depth

    found = [key.split(".")[1] for key in context.typed("model") if key.startswith("model.")]
    return list(dict.fromkeys(part for name in found for part in (of_depth(1) if name == "depth" else [name])))


def changes_of(config: "Config", context: "Context", folder: Path, own: "ModelConfig") -> dict[str, Any]:
    """Model fields typed on the command line that differ from the checkpoint's own, where that touches no tensor."""
    changes = {}
    if "model" in context.typed("model") and option_of(config.model).name != option_of(own).name:
        raise ConfigError(
            f"model={option_of(config.model).name} but {folder} is {option_of(own).name}; leave model= out, "
            "or start from fresh weights with init_from=random"
        )
    for name in typed_fields(context):
        asked, found = getattr(config.model, name), getattr(own, name, None)
        if asked == found:
            continue
        grows = name == "n_layers" and config.init.grow is not None
        if name not in own.tensor_free and not grows:
            deeper = name == "n_layers" and config.stage is not None and config.stage.trains and asked > own.n_layers
            key = f"model.{name}"
            raise ConfigError(
                f"{key}={_written(name, config.model)} but {folder} has {_written(name, own)}, which stays "
                f"with its weights; leave {key}= out, "
                + ("add layers by init.grow=stack, " if deeper else "")
                + "or start from fresh weights with init_from=random"
            )
        changes[name] = asked
    if typed := [key for key in context.typed("tokenizer") if key != "tokenizer.extend"]:
        raise ConfigError(
            f"{typed[0]} cannot be set with init_from: the tokenizer is the checkpoint's; tokenizer.extend=true alone "
            "adds tokens to it"
        )
    return changes


def _written(name: str, model: "ModelConfig | None") -> Any:
    """A model's field as the command line has it; layers that are null are the model's own."""
    if model is not None and name == "layers":
        return f"[{','.join(model.layers or [model.plain])}]"
    return getattr(model, name, None)


@dataclass(slots=True, kw_only=True)
class Start:
    """Where a run starts: a decoder with its weights, its config and tokenizer."""

    model: "Decoder"
    model_config: "ModelConfig"
    tokenizer: Tokenizer
    depth: int
    """Number of training stages behind the weights."""
    folder: Path | None = None
    """Where the weights come from; None for fresh ones."""
    made: int = 0
    """Steps behind the weights that are counted on (init.state=all)."""
    origin: Path | None = None
    """The weights that this training began from: `folder`, or what the parent began from where its steps count on."""
    lost: str = ""
    """Why they cannot be read any more: the weights are then the run's own, which can go on and not begin again."""
    adapter: "AdapterConfig | None" = None
    """What is trained in the model's place."""

    def description(self) -> dict[str, Any]:
        """What config.json says of the model."""
        from rlx.models.folder import describe

        return describe(self.model_config, self.model.vocab_size, self.tokenizer.tokens)

    def parameters(self) -> dict[str, int]:
        """How many numbers the model has, adapters included: all, what a token meets, the vocabulary's, the trained."""
        from rlx.models.size import parameter_counts

        trained = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        return {**parameter_counts(self.model), "trained": trained}


def start_of(config: "Config", run: "Run") -> Start:
    """Fresh weights of a run without parents, else the first parent's, with its tokenizer; and adapter= beside them.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ConfigError: the adapter is none for this model.
    """
    import torch

    start = _whole_start(config, run)
    if config.adapter is None:
        return start
    torch.manual_seed(seed_for(config.seed, "adapter"))
    config.adapter.attach(start.model)
    if config.init.state is InitState.all and not start.lost:
        from rlx.models.adapters import load_adapter_weights

        assert start.folder is not None
        products = read_adapter(start.folder, start.model_config, start.model.vocab_size)
        load_adapter_weights(start.model, products, start.folder)
    start = replace(start, adapter=config.adapter)
    counts = start.parameters()
    run.say(f"  adapter: {counts['trained']:,} of {counts['total']:,} parameters are trained")
    return start


def _whole_start(config: "Config", run: "Run") -> Start:
    """`start_of` without the run's own adapter: that of a parent is part of the weights, unless it is to go on."""
    import torch

    goes_on = config.adapter is not None and config.init.state is InitState.all
    parents = run.record["parents"]
    if not parents:
        assert config.model is not None and config.tokenizer is not None
        tokenizer = replace(config.tokenizer, extend=False).build(material_of(config))
        if config.tokenizer.extend:
            tokenizer = extend(tokenizer, config, run)
        torch.manual_seed(seed_for(config.seed, "weights"))
        model = config.model.build(tokenizer.vocab_size)
        return Start(model=model, model_config=config.model, tokenizer=tokenizer, depth=0)
    assert config.model is not None
    if lost := parents[0].get("lost"):
        own = own_checkpoint(run.path)
        if own is None:
            raise CheckpointError(lost)
        start, known = load_start(own, model_config=config.model, fold=config.adapter is None), run.record
        return replace(
            start, depth=known["depth"] - 1, made=known["steps_before"], origin=_path(known["origin"]), lost=lost
        )
    folder = Path(parents[0]["folder"])
    if config.init.grow is not None:
        torch.manual_seed(seed_for(config.seed, "growth"))
    extends = config.tokenizer is not None and config.tokenizer.extend
    start = load_start(
        folder,
        model_config=config.model,
        grow=config.init.grow,
        fold=not goes_on,
        extended=(lambda tokenizer: extend(tokenizer, config, run)) if extends else None,
    )
    if config.init.state is InitState.all:
        return replace(
            start,
            depth=start.depth - 1,  # it is the parent's stage that goes on
            made=parent_state(folder)["run"]["step"],
            origin=_path((parents[0].get("record") or {}).get("origin")),
        )
    return start


def extend(tokenizer: Tokenizer, config: "Config", run: "Run") -> Tokenizer:
    """The tokenizer with what the run's task and corpus need and it lacks (tokenizer.extend=true), written in run.json.

    Raises:
        ConfigError: it is one that cannot be extended.
    """
    from rlx.data.tokenizers.extension import cut_anew, extended, missing

    if "added_tokens" not in run.record:  # else an earlier attempt has looked
        run.remember(added_tokens=missing(tokenizer, material_of(config)))
    added = run.record["added_tokens"]
    found = extended(tokenizer, added)
    if not added:
        run.say("  tokenizer: it lacks nothing, none added")
        return found
    run.say(f"  tokenizer: {counted(len(added), 'token')} added ({_some(added)}), {found.vocab_size} in all")
    if anew := cut_anew(tokenizer, added):
        run.say(f"  {len(anew)} of them ({_some(anew)}) were several tokens before: texts that have them change")
    return found


def _some(tokens: Sequence[str]) -> str:
    """The first of the tokens."""
    return ", ".join([*map(repr, tokens[:SHOWN]), *(["..."] if len(tokens) > SHOWN else [])])


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def load_start(
    folder: Path,
    *,
    model_config: "ModelConfig | None" = None,
    grow: "Grow | None" = None,
    fold: bool = True,
    extended: Callable[[Tokenizer], Tokenizer] | None = None,
) -> Start:
    """The model of a folder, built by its own config or by `model_config`, whose tensors are the same or, with `grow`,
    made of the folder's and of fresh ones from torch's global generator.

    An adapter in the folder is added to the weights (`fold`), or left out.

    Args:
        extended: gives the folder's tokenizer more tokens; the model gets rows for them.

    Raises:
        CheckpointError: a file is missing, damaged, or not an rlx model's.
    """
    from rlx.models.folder import load_weights, weights_of
    from rlx.models.growth import grown_tensors
    from rlx.models.vocabulary import with_rows

    tensors, own, tokenizer = read_model(folder, fold=fold)
    if extended is not None:
        known, tokenizer = tokenizer.vocab_size, extended(tokenizer)
        tensors = with_rows(tensors, known, tokenizer.vocab_size)
    model_config = model_config or own
    model = model_config.build(tokenizer.vocab_size)
    if grow is not None:
        tensors = grown_tensors(tensors, weights_of(model), grow, own.n_layers, model_config.n_layers)
    load_weights(model, tensors, folder)
    return Start(
        model=model,
        model_config=model_config,
        tokenizer=tokenizer,
        depth=depth_of(folder),
        folder=folder,
        origin=folder,
    )


def depth_of(folder: Path) -> int:
    """Training stages behind the weights in a folder."""
    record = read_record(folder.parent.parent if step_of(folder.name) is not None else folder) or {}
    return int(record.get("depth", 1))


def read_model(folder: Path, *, fold: bool = True) -> "tuple[dict[str, Tensor], ModelConfig, Tokenizer]":
    """Tensors, model config and tokenizer of a folder; an adapter in it is added to the tensors (`fold`), or left out.

    Raises:
        CheckpointError: as `load_start`.
    """
    from rlx.models.adapters import fold as add_adapter
    from rlx.models.folder import read_tensors
    from rlx.runs.model_directory import load_model_directory

    tensors, description, _ = load_model_directory(folder)
    model_config, tokenizer = read_described(folder)
    tensors = read_tensors(description, model_config, tensors, folder)
    if fold:
        add_adapter(tensors, read_adapter(folder, model_config, tokenizer.vocab_size))
    return tensors, model_config, tokenizer


def read_described(folder: Path) -> "tuple[ModelConfig, Tokenizer]":
    """Model config and tokenizer of a folder, whose weights are not read.

    Raises:
        CheckpointError: a file is missing, damaged, or not an rlx model's.
    """
    from rlx.models.folder import config_of, is_foreign
    from rlx.runs.model_directory import read_model_config, read_token_settings

    description = read_model_config(folder)
    model_config, vocab_size = config_of(description, folder)
    path = folder / MODEL_TOKENIZER
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {MODEL_TOKENIZER}; save the model's tokenizer beside it")
    if is_foreign(description):
        return model_config, Tokenizer.load_foreign(path, read_token_settings(folder), vocab_size)
    return model_config, Tokenizer.load(path, description.get("tokens"), vocab_size)


def read_adapter(folder: Path, model_config: "ModelConfig", vocab_size: int) -> "list[Product]":
    """What the adapter in a model's folder adds to its tensors; nothing where there is none.

    Raises:
        CheckpointError: it cannot be read, or is none for this model.
    """
    from rlx.models.adapters import from_peft
    from rlx.runs.model_directory import load_adapter

    found = load_adapter(folder)
    return [] if found is None else from_peft(found[1], found[0], model_config, vocab_size, folder)


def seed_for(seed: int, *purpose: object) -> int:
    """A seed for torch's generators, of its own for every purpose of a run."""
    return stable_hash("seed", seed, *purpose) % 2**63
