"""What the stages that make a run have in common: its place, its start, its directory."""

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

from rlx.config import InitState
from rlx.data.tokenizers.base import TokenizerConfig, text_of
from rlx.errors import CheckpointError, ConfigError, Stopped
from rlx.options import ROOMS, option_of, plain_value
from rlx.runs.ancestry import ancestors_in
from rlx.runs.identity import RunName, described, digest, parent_identities, parent_identity
from rlx.runs.references import Kind, parse_reference
from rlx.runs.run import Run, open_run, read_config, read_record
from rlx.runs.status import State, state_of
from rlx.signals import StopFlag
from rlx.stages.config import TRAINING_KEYS, StageConfig
from rlx.stages.continuing import check_continues
from rlx.stages.coupling import check_coupling
from rlx.stages.material import material_of, source_of
from rlx.stages.start import own_checkpoint, parent_model, parent_record, parents_without, typed_fields

if TYPE_CHECKING:
    from rlx.config import Config
    from rlx.models.base import ModelConfig
    from rlx.stages.estimate import Cost, Outset

OF_PLANS = frozenset({"plan", "optimized_metric"})
"""Keys that say how runs are made together, and nothing of one run."""
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

    def model_of(self, config: "Config", context: Context, folder: Path, *, begun: bool) -> "ModelConfig | None":
        """The model of a run whose first parent lies in `folder` (`parent_model`)."""
        return parent_model(config, context, folder, begun=begun)

    def check(self, config: "Config") -> None:
        """Raise ConfigError for what this stage cannot do; called before anything is written, in plans too."""

    def check_runs(self, config: "Config") -> None:
        """Raise ConfigError where the runs that this one needs besides its parents are not as they must be."""

    def check_start(self, config: "Config") -> None:
        """Raise ConfigError for what cannot be done with the model at hand (`config.model`), or with the parents, which
        are there; called before anything is written."""

    def also_from(self, config: "Config") -> dict[str, str]:
        """Runs that the result depends on besides the parents: field name to reference."""
        return {}

    def parents(self, config: "Config") -> list[str]:
        """References of the models that the run starts from."""
        return [config.init_from] if config.init_from and config.init_from != "random" else []

    def cost(self, config: "Config", outset: "Outset") -> "Cost | None":
        """What the run is expected to spend from where it starts; None where a stage does not tell.

        Raises:
            RlxError: the run cannot be made like this, or names another that is neither planned nor there.
        """
        return None

    def carry_out(self, config: "Config", context: Context) -> None:
        self.check(config)
        check_extension(config)
        place = place_of(config, context)
        if state_of(place) is State.finished:
            report_finished(place, resolved(config))
            return
        self.check_runs(config)
        check_device(config)
        goes_on = config.init.state is InitState.all
        own = None
        try:
            parents = [parent_record(reference, trainer=goes_on) for reference in self.parents(config)]
            if goes_on:
                check_continues(config, Path(parents[0]["folder"]))
        except CheckpointError as error:
            own = own_checkpoint(place) if self.trains else None
            if own is None:
                raise
            parents = parents_without(place, str(error))
        if parents:
            folder = own or Path(parents[0]["folder"])
            extends = config.tokenizer is not None and config.tokenizer.extend
            config.model = self.model_of(config, context, folder, begun=own is not None)
            config.tokenizer = TokenizerConfig(extend=True) if extends else None
        elif "tokenizer" in self.uses and config.tokenizer is not None:
            config.tokenizer.check(material_of(config))
        check_adapter(config)
        self.check_start(config)
        name = RunName.of(place)
        assert name is not None
        record = {"stage": name.stage, "task": name.task, "model": name.model, "seed": name.seed, "parents": parents}
        record["ancestors"] = [folder for parent in parents for folder in ancestors_in(parent.get("record") or {})]
        record["options"] = {**chosen(config, context), "model": name.model}
        kept = resolved(config)
        task = config.task.build() if config.task is not None else None
        if config.corpus is not None and "corpus" in self.uses:
            config.corpus.check(task)  # files that cannot be read, and their like, are found before anything is written
        check_coupling(config)
        context.heed_stop()
        with open_run(place, config=kept, command=context.command, record=record, logger=config.logger) as run:
            run.say(f"{context.label or name.stage}: {place}" + (" (going on)" if run.attempt > 1 else ""))
            if own is not None:
                run.say(f"  {parents[0]['lost']}: the run goes on without, from checkpoints of its own")
            with text_of(source_of(config)):
                self.run(config, context, run)
            run.save_record()


def resolved(config: "Config") -> dict[str, Any]:
    """What config.yaml says: of the groups only those that the stage reads, and the model that is run."""
    stage = config.stage
    assert stage is not None
    used = {"stage", *stage.uses, *(stage.measures if config.eval.every else ())}
    unread = OF_PLANS if stage.trains else OF_PLANS | TRAINING_KEYS
    return {
        key: value
        for key, value in plain_value(config).items()
        if (key not in ROOMS or key in used) and key not in unread
    }


def chosen(config: "Config", context: Context) -> dict[str, str]:
    """Names of the options that make up a run, by group; of groups only those that the stage reads."""
    used = {"stage", "scale", "experiment", *(config.stage.uses if config.stage is not None else ())}
    return {group: name for group, name in context.choices.items() if group in used and name != "None"}


def report_finished(place: Path, asked: dict[str, Any]) -> None:
    """Say that a run is there, and what was other when it was made: the code, what was measured or kept on the way."""
    from rlx.runs.provenance import git_state

    other = []
    made, now = (read_record(place) or {}).get("git", {}).get("commit"), git_state().get("commit")
    if made and now and made != now:
        other.append(f"by commit {made[:10]}, this is {now[:10]}")
    config = read_config(place)
    for group in ("eval", "checkpoint"):
        had, wants = config.get(group), asked.get(group, {})
        if isinstance(had, dict):
            other += [f"with {group}.{name}={had[name]}" for name in had if name in wants and had[name] != wants[name]]
    told = f" (made {', '.join(other)}; rerun=<label> makes it anew)" if other else ""
    print(f"finished already: {place}{told}", flush=True)


def place_of(config: "Config", context: Context) -> Path:
    """The run directory of a config; nothing but the names of parents is needed."""
    stage = config.stage
    assert isinstance(stage, RunStageConfig)
    parents = stage.parents(config)
    parts: dict[str, Any] = {}
    for group in sorted(stage.uses):
        part = getattr(config, group)
        if part is not None and not (parents and group in ("model", "tokenizer")):
            unnamed = group in UNNAMED or getattr(part, "unnamed", False)
            parts[group] = described(part, named=not unnamed)
    parts = {group: part for group, part in parts.items() if part}
    parts["stage"] = described(stage)
    parts.get("merge", {}).pop("models", None)
    parts["parents"] = parent_identities(parents, config.seed)
    for name, reference in stage.also_from(config).items():
        parts[name] = parent_identity(reference, config.seed)
    # model= itself can only name what the parent is; of its fields the parent's values are not known here.
    changed = typed_fields(context)
    if parents and changed:
        parts["changes"] = {name: plain_value(getattr(config.model, name)) for name in changed}
    if config.init.state is InitState.all:
        parts["init"] = {"state": config.init.state.name}
    if config.init.grow is not None and stage.trains:
        parts["init"] = {"grow": config.init.grow.name}
    if stage.trains and (best := best_identity(config)):
        parts["best"] = best
    if parents and "tokenizer" in stage.uses and config.tokenizer is not None and config.tokenizer.extend:
        parts["tokenizer"] = {"extend": True}
    if config.rerun is not None:
        parts["rerun"] = config.rerun
    name = RunName(_task_name(config), _model_name(config, parents), option_of(stage).name, digest(parts), config.seed)
    return name.path(config.runs_dir)


def _task_name(config: "Config") -> str:
    """The task, else the corpus, of a stage that reads neither `any`."""
    assert config.stage is not None
    if config.task is not None:
        return option_of(config.task).name
    corpus = config.corpus if "corpus" in config.stage.uses else None
    return "any" if corpus is None or corpus.needs_task() else option_of(corpus).name


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
    if config.environment is not None and not getattr(config.environment, "unnamed", False):
        found["environment"] = described(config.environment)
    return found


def _model_name(config: "Config", parents: Sequence[str]) -> str:
    """The model option of fresh weights, or what the first parent is called, where no merge makes another of it."""
    if not parents:
        return option_of(config.model).name
    if config.stage is not None and "merge" in config.stage.uses and config.merge is not None and config.merge.makes:
        return config.merge.makes
    parsed = parse_reference(parents[0])
    name = RunName.of(parsed.run)
    if name is not None:
        return name.model
    return "hf" if parsed.kind is Kind.hf else "folder"


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


def check_adapter(config: "Config") -> None:
    """Raise ConfigError when the adapter asks for what the model has not."""
    if config.adapter is not None and config.model is not None:
        from rlx.models.adapters import without_numbers

        config.adapter.attach(without_numbers(config.model, vocab_size=1))


def check_extension(config: "Config") -> None:
    """Raise ConfigError where tokens were to be added to a parent's that could not be trained."""
    stage = config.stage
    assert isinstance(stage, RunStageConfig)
    if config.tokenizer is None or not config.tokenizer.extend or not stage.parents(config):
        return
    reasons = {
        f"stage={option_of(stage).name} trains nothing": not stage.trains,
        "init.state=all goes on with the parent's optimizer, which has none": config.init.state is InitState.all,
        "adapter= leaves the model itself as it is": config.adapter is not None and stage.trains,
    }
    for reason in (reason for reason, holds in reasons.items() if holds):
        raise ConfigError(f"tokenizer.extend=true adds rows to train, and {reason}; leave one of them out")


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
    if config.init_from in (None, "random"):
        check_adapter(config)
        if config.adapter is not None and config.init_from is None:
            raise ConfigError(
                "adapter= trains beside a model that stays as it is, here fresh weights; give init_from=<run>, or "
                "init_from=random for that"
            )
    if config.init.state is InitState.all and config.init_from in (None, "random"):
        raise ConfigError("init.state=all goes on from a parent; give init_from=<run>, or take init.state=weights")
    if config.init.grow is not None and config.init_from in (None, "random"):
        raise ConfigError(f"init.grow={config.init.grow.name} adds layers to a parent; give init_from=<run>")
    if every and config.decode is not None and config.decode.temperature == 0:
        raise ConfigError("decode.temperature=0: eval.every draws samples and adds the greedy completion itself")
    known = [stage.measure] if getattr(stage, "val_every", 0) else []
    if every:
        from rlx.evaluation.evaluate import metric_names

        known += metric_names(option_of(config.task).name, config.eval.samples)
    if config.checkpoint.best is not None and config.checkpoint.best not in known:
        measured = f"this run measures {', '.join(known)}" if known else "this run measures nothing held out"
        raise ConfigError(f"checkpoint.best={config.checkpoint.best}: {measured}; see stage.val_every and eval.every")
