"""What the stages that make a run have in common: its place, its start, its directory."""

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

from rlx.config import InitState
from rlx.data.tokenizers.base import Tokenizer
from rlx.errors import CheckpointError, ConfigError, Stopped
from rlx.options import ROOMS, option_of, plain_value
from rlx.runs.checkpoints import nearest_whole, step_of
from rlx.runs.checksums import check_whole
from rlx.runs.files import CHECKSUMS, METRICS, MODEL_TOKENIZER
from rlx.runs.identity import RunName, content_hash, described, digest, parent_identity
from rlx.runs.metrics import MetricsLog
from rlx.runs.references import Kind, parse_reference, resolve
from rlx.runs.run import Run, open_run, read_record
from rlx.runs.status import State, state_of
from rlx.signals import StopFlag
from rlx.stages.config import TRAINING_KEYS, StageConfig
from rlx.stages.continuing import check_continues, parent_state
from rlx.tasks.base import stable_hash

if TYPE_CHECKING:
    from torch import Tensor

    from rlx.config import Config
    from rlx.models.base import ModelConfig
    from rlx.nn.decoder import Decoder

UNNAMED = frozenset({"trainer", "logger"})
"""Groups whose choice alone changes no result; their fields may."""


@dataclass(kw_only=True, slots=True)
class Context:
    """What the door knows besides the config."""

    overrides: list[str]
    """Overrides as typed."""
    compose: Callable[[Sequence[str]], "tuple[Config, Context]"]
    """Composes and checks another command."""
    stop: StopFlag
    """Set when the process was asked to stop."""
    choices: dict[str, str] = field(default_factory=dict)
    """Option names chosen, by group; also of groups that only preset values, such as scale."""
    preset: dict[str, str] = field(default_factory=dict)
    """Model fields that a preset sets: they count as typed, the numbers of a scale do not."""
    flags: list[str] = field(default_factory=list)
    """Options before the overrides, such as --config-dir."""
    label: str = ""
    """What progress lines begin with, for example the run's place in a plan."""

    @property
    def command(self) -> str:
        """The command that repeats this one."""
        return shlex.join(["rlx", *self.flags, *self.overrides])

    def heed_stop(self) -> None:
        """Called between the phases of a run that are not stopped inside.

        Raises:
            Stopped: the process was asked to stop.
        """
        if self.stop():
            raise Stopped

    def typed(self, *groups: str) -> dict[str, str]:
        """Overrides on these groups and their fields, a preset's included: dotted key to text."""
        pairs = [text.lstrip("+~").partition("=")[::2] for text in self.overrides]
        given = [*self.preset.items(), *pairs]
        return {key: value for key, value in given if key.split(".")[0].split("@")[0].split("/")[0] in groups}


@dataclass(kw_only=True, slots=True)
class RunStageConfig(StageConfig):
    """A stage that makes one run directory."""

    def run(self, config: "Config", context: Context, run: Run) -> None:
        """Do the work in the run's directory."""
        raise NotImplementedError

    def check(self, config: "Config") -> None:
        """Raise ConfigError for what this stage cannot do; called before anything is written."""

    def also_from(self) -> dict[str, str]:
        """Runs that the result depends on besides the parents: field name to reference."""
        return {}

    def parents(self, config: "Config") -> list[str]:
        """References of the models that the run starts from."""
        return [config.init_from] if config.init_from and config.init_from != "random" else []

    def carry_out(self, config: "Config", context: Context) -> None:
        self.check(config)
        place = place_of(config, context)
        if state_of(place) is State.finished:
            report_finished(place)
            return
        check_device(config)
        goes_on = config.init.state is InitState.all
        parents = [parent_record(reference, trainer=goes_on) for reference in self.parents(config)]
        if goes_on:
            check_continues(config, Path(parents[0]["folder"]))
        if parents:
            config.model, config.tokenizer = parent_model(config, context, Path(parents[0]["folder"])), None
        name = RunName.of(place)
        assert name is not None
        record = {"stage": name.stage, "task": name.task, "model": name.model, "seed": name.seed, "parents": parents}
        record["options"] = {**chosen(config, context), "model": name.model}
        kept = resolved(config)
        context.heed_stop()
        with open_run(place, config=kept, command=context.command, record=record, logger=config.logger) as run:
            run.say(f"{context.label or name.stage}: {place}" + (" (going on)" if run.attempt > 1 else ""))
            self.run(config, context, run)
            run.save_record()


def resolved(config: "Config") -> dict[str, Any]:
    """What config.yaml says: of the groups only those that the stage reads, and the model that is run."""
    stage = config.stage
    assert stage is not None
    used = {"stage", *stage.uses, *(stage.measures if config.eval.every else ())}
    unread = () if stage.trains else TRAINING_KEYS
    return {
        key: value
        for key, value in plain_value(config).items()
        if (key not in ROOMS or key in used) and key not in unread
    }


def chosen(config: "Config", context: Context) -> dict[str, str]:
    """Names of the options that make up a run, by group; of groups only those that the stage reads."""
    used = {"stage", "scale", "experiment", *(config.stage.uses if config.stage is not None else ())}
    return {group: name for group, name in context.choices.items() if group in used and name != "None"}


def parent_model(config: "Config", context: Context, folder: Path) -> "ModelConfig":
    """The model of a run with parents: the first parent's, with what the command line may change.

    Raises:
        ConfigError: the command line asks for another one.
    """
    _, own, _ = read_model(folder)
    return replace(own, **changes_of(config, context, folder, own))


def report_finished(place: Path) -> None:
    """Say that a run is there, and when other code made it."""
    from rlx.runs.provenance import git_state

    line = f"finished already: {place}"
    made, now = (read_record(place) or {}).get("git", {}).get("commit"), git_state().get("commit")
    if made and now and made != now:
        line += f" (made by commit {made[:10]}, this is {now[:10]}; rerun=<label> makes it anew)"
    print(line, flush=True)


def place_of(config: "Config", context: Context) -> Path:
    """The run directory of a config; nothing but the names of parents is needed."""
    stage = config.stage
    assert isinstance(stage, RunStageConfig)
    parents = stage.parents(config)
    parts: dict[str, Any] = {}
    for group in sorted(stage.uses):
        part = getattr(config, group)
        if part is not None and not (parents and group in ("model", "tokenizer")):
            parts[group] = described(part, named=group not in UNNAMED)
    parts = {group: part for group, part in parts.items() if part}
    parts["stage"] = described(stage)
    parts.get("merge", {}).pop("models", None)
    parts["parents"] = [parent_identity(reference, config.seed) for reference in parents]
    for name, reference in stage.also_from().items():
        parts[name] = parent_identity(reference, config.seed)
    # model= itself can only name what the parent is; of its fields the parent's values are not known here.
    changed = [key.split(".")[1] for key in context.typed("model") if key.startswith("model.")]
    if parents and changed:
        parts["changes"] = {name: plain_value(getattr(config.model, name)) for name in changed}
    if config.init.state is InitState.all:
        parts["init"] = {"state": config.init.state.name}
    if stage.trains and (best := best_identity(config)):
        parts["best"] = best
    if config.rerun is not None:
        parts["rerun"] = config.rerun
    task = option_of(config.task).name if config.task is not None else "any"
    name = RunName(task, _model_name(config, parents), option_of(stage).name, digest(parts), config.seed)
    return name.path(config.runs_dir)


def best_identity(config: "Config") -> dict[str, Any]:
    """What decides which checkpoint is the best, where it is not the stage's own measure.

    It changes no weights of this run, but those of a child that takes `@best`, which knows its parent by its hash.
    """
    stage, metric = config.stage, config.checkpoint.best
    assert stage is not None
    if metric in (None, stage.measure):
        return {}
    found = {"metric": metric, "eval": plain_value(config.eval)}
    if config.decode is not None and "decode" in stage.measures:
        found["decode"] = described(config.decode)
    return found


def _model_name(config: "Config", parents: Sequence[str]) -> str:
    """The model option of fresh weights, or what the first parent is called."""
    if not parents:
        return option_of(config.model).name
    parsed = parse_reference(parents[0])
    name = RunName.of(parsed.run)
    if name is not None:
        return name.model
    return "hf" if parsed.kind is Kind.hf else "folder"


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
        instead = "restore it from a copy" if near is None else f"the nearest good one is {parsed.run}@{near}"
        raise CheckpointError(f"{error}; {instead} (without {CHECKSUMS} it is taken as it is)") from error
    found: dict[str, Any] = {"reference": reference, "folder": str(folder)}
    if parsed.kind is Kind.run:
        found["run"] = parsed.run
        found["step"] = parse_reference(str(folder)).step
        found["record"] = spent_by(read_record(parsed.run), Path(parsed.run), found["step"])
    if found.get("record") is None:
        found["content"] = content_hash(reference)
    return found


def spent_by(record: dict[str, Any] | None, run: Path, step: int | None) -> dict[str, Any] | None:
    """A run's record whose lineage charges the run itself with what it had spent at a step, not with all of it."""
    if record is None or step is None or step >= record.get("steps", step):
        return record
    spent = {row.get("step"): row.get("flops/total") for row in MetricsLog.read(run / METRICS)}
    if step and step not in spent:  # rows were lost: better too much than nothing
        return record
    lineage = {**record.get("lineage", {}), record["run"]: spent.get(step) or 0.0}
    return {**record, "lineage": lineage}


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

    def description(self) -> dict[str, Any]:
        """What config.json says of the model."""
        from rlx.models.folder import describe

        return describe(self.model_config, self.model.vocab_size, self.tokenizer.tokens)


def start_of(config: "Config", reference: str | None) -> Start:
    """Fresh weights when `reference` is None or random, else those of the checkpoint, with its tokenizer.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    import torch

    if reference is None or reference == "random":
        assert config.model is not None and config.tokenizer is not None
        tokenizer = config.tokenizer.build()
        torch.manual_seed(seed_for(config.seed, "weights"))
        model = config.model.build(tokenizer.vocab_size)
        return Start(model=model, model_config=config.model, tokenizer=tokenizer, depth=0)
    folder = resolve(parse_reference(reference))
    assert config.model is not None
    start = load_start(folder, model_config=config.model)
    if config.init.state is InitState.all:
        origin = (read_record(parse_reference(reference).run) or {}).get("origin")
        return replace(
            start,
            depth=start.depth - 1,  # it is the parent's stage that goes on
            made=parent_state(folder)["run"]["step"],
            origin=None if origin is None else Path(origin),
        )
    return start


def load_start(folder: Path, *, model_config: "ModelConfig | None" = None) -> Start:
    """The model of a folder, built by its own config or by `model_config`, whose tensors are the same.

    Raises:
        CheckpointError: a file is missing, damaged, or not an rlx model's.
    """
    from rlx.models.folder import load_weights

    tensors, own, tokenizer = read_model(folder)
    model_config = model_config or own
    model = model_config.build(tokenizer.vocab_size)
    load_weights(model, tensors, folder)
    record = read_record(folder.parent.parent if step_of(folder.name) is not None else folder) or {}
    depth = int(record.get("depth", 1))
    return Start(model=model, model_config=model_config, tokenizer=tokenizer, depth=depth, folder=folder, origin=folder)


def read_model(folder: Path) -> "tuple[dict[str, Tensor], ModelConfig, Tokenizer]":
    """Tensors, model config and tokenizer of a folder.

    Raises:
        CheckpointError: as `load_start`.
    """
    from rlx.models.folder import config_of, is_foreign, read_tensors
    from rlx.runs.model_directory import load_model_directory, read_token_settings

    tensors, description, tokenizer_json = load_model_directory(folder)
    model_config, vocab_size = config_of(description, folder)
    path = folder / MODEL_TOKENIZER
    if tokenizer_json is None:
        raise CheckpointError(f"{folder} has no {MODEL_TOKENIZER}; save the model's tokenizer beside it")
    if is_foreign(description):
        tokenizer = Tokenizer.load_foreign(path, read_token_settings(folder), vocab_size)
    else:
        tokenizer = Tokenizer.load(path, description.get("tokens"), vocab_size)
    return read_tensors(description, model_config, tensors, folder), model_config, tokenizer


def changes_of(config: "Config", context: Context, folder: Path, own: "ModelConfig") -> dict[str, Any]:
    """Model fields typed on the command line that differ from the checkpoint's own, where that touches no tensor."""
    changes = {}
    for key in context.typed("model"):
        if key == "model":
            if option_of(config.model).name != option_of(own).name:
                raise ConfigError(
                    f"model={option_of(config.model).name} but {folder} is {option_of(own).name}; leave model= out, "
                    "or start from fresh weights with init_from=random"
                )
            continue
        name = key.split(".")[1]
        asked, found = getattr(config.model, name), getattr(own, name, None)
        if asked == found:
            continue
        if name not in own.tensor_free:
            raise ConfigError(
                f"{key}={asked} but {folder} has {found}, and its weights fit no other; leave {key}= out, "
                "or start from fresh weights with init_from=random"
            )
        changes[name] = asked
    if typed := context.typed("tokenizer"):
        raise ConfigError(f"{next(iter(typed))} cannot be set with init_from: the tokenizer is the checkpoint's")
    return changes


def seed_for(seed: int, *purpose: object) -> int:
    """A seed for torch's generators, of its own for every purpose of a run."""
    return stable_hash("seed", seed, *purpose) % 2**63


def check_numbers(stage: Any, *names: str) -> None:
    """Raise ConfigError for a clip of the gradient that is not above 0, or a named count below 0."""
    if not stage.clip_norm > 0:
        raise ConfigError(f"stage.clip_norm={stage.clip_norm} must be above 0")
    for name in names:
        if getattr(stage, name) < 0:
            raise ConfigError(f"stage.{name}={getattr(stage, name)} must be at least 0")


def check_device(config: "Config") -> None:
    """Raise ConfigError when the device that the trainer names is not in this machine."""
    if config.trainer is None:
        return
    on_cpu = config.trainer.accelerator == "cpu"
    if config.trainer.compile and on_cpu and not which(os.environ.get("CXX", "g++")) and not which("clang++"):
        raise ConfigError("trainer.compile=true needs a C++ compiler and finds no g++; install one, or leave it out")
    if not on_cpu:
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(
                f"trainer={option_of(config.trainer).name}: torch finds no CUDA device here; take trainer=cpu"
            )


def check_required(config: "Config", names: Iterable[str]) -> None:
    """Raise ConfigError for the first group that a stage needs and the command lacks."""
    from rlx.options import discover

    for name in names:
        if getattr(config, name) is None:
            stage = option_of(config.stage).name
            raise ConfigError(f"stage={stage} needs {name}=; choose {name}={'|'.join(discover(name))}")


def check_training(config: "Config") -> None:
    """Raise ConfigError for what no training stage can do: with its parent, its evaluations, its best checkpoint."""
    stage, every = config.stage, config.eval.every
    assert stage is not None
    if config.init.state is InitState.all and config.init_from in (None, "random"):
        raise ConfigError("init.state=all goes on from a parent; give init_from=<run>, or take init.state=weights")
    if every and config.decode is not None and config.decode.temperature == 0:
        raise ConfigError("decode.temperature=0: eval.every draws samples and adds the greedy completion itself")
    known = [stage.measure] if getattr(stage, "val_every", 0) else []
    if every:
        from rlx.evaluation.evaluate import metric_names

        known += metric_names(option_of(config.task).name, config.eval.samples)
    if config.checkpoint.best is not None and config.checkpoint.best not in known:
        measured = f"this run measures {', '.join(known)}" if known else "this run measures nothing held out"
        raise ConfigError(f"checkpoint.best={config.checkpoint.best}: {measured}; see stage.val_every and eval.every")
