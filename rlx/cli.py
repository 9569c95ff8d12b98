"""The door: `rlx <overrides>`. Hydra composes, this file checks and hands a typed `Config` to its stage.

Past `carry_out` nothing knows Hydra. A wrong input is one line and exit code 2; a run that stopped on request ends
with 75, one that failed with 1.
"""

import math
import os
import select
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from multiprocessing import parent_process
from typing import Any, NoReturn

from rlx.errors import ConfigError, RlxError, Stopped
from rlx.signals import stop

OWN = frozenset(
    {
        *("seed", "runs_dir", "rerun", "init_from", "stage", "hydra", "scale", "experiment", "checkpoint", "at"),
        *("schema", "plan", "optimized_metric"),
    }
)
"""Keys of the command line that no stage needs to use."""
_COMPLETION = frozenset({"--shell-completion", "-sc"})
_OF_SWEEPS = ("plan.dry", "plan.either", "hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")
"""How arguments begin that mean a sweep, also of one run."""
_MOST_TOLD = 20
"""Failed runs that are named at the end of a sweep."""


def main() -> None:
    """Console entry point."""
    if code := run(sys.argv[1:]):
        sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Carry out one command, given what stands after `rlx`; returns its exit code."""
    stop.install()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        return 0 if _answered(list(arguments)) else _hydra_main(list(arguments))
    except BaseException as error:
        return _report(error)


def _answered(arguments: list[str]) -> bool:
    """Print what needs neither Hydra nor torch: the help page, the version, and what a shell asks at Tab."""
    if "--help" in arguments or "-h" in arguments:
        from rlx.help import page

        print(page(arguments))
        return True
    if "--version" in arguments:
        from rlx import __version__

        print(f"rlx {__version__}")
        return True
    if not _COMPLETION.isdisjoint(arguments):
        from rlx.completion import answer

        text = answer(arguments[-1], os.environ.get("COMP_LINE", ""))
        if text is not None:
            print(text)
            return True
    return False


def _hydra_main(arguments: list[str]) -> int:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from rlx.plugins import Told, finished_sweep
    from rlx.plugins import register as register_plugins
    from rlx.store import register

    arguments = _flags_first(_with_multirun(arguments))
    register()
    register_plugins(lambda config: _sweep(config, arguments))
    GlobalHydra.instance().clear()  # of an earlier command of this process
    argv, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        hydra.main(version_base="1.3", config_path="pkg://rlx.conf", config_name="config")(_job)()
    except Told as error:
        return error.exit_code
    finally:
        sys.argv = argv
    sweep = finished_sweep()
    if sweep is None:
        return 0
    sweep.tell_found()
    if not sweep.failed:
        return 0
    runs = "1 run" if len(sweep.failed) == 1 else f"{len(sweep.failed)} runs"
    shown = [*list(sweep.failed)[:_MOST_TOLD], *(["..."] if len(sweep.failed) > _MOST_TOLD else [])]
    print(f"rlx: {runs} of the sweep failed: {', '.join(shown)}", file=sys.stderr, flush=True)
    return sweep.code


def _with_multirun(arguments: list[str]) -> list[str]:
    """The arguments with -m, where they say what only a sweep has: a launcher, a sweeper, what becomes of the plan."""
    flags = {"-m", "--multirun", "--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc"}
    sweeps = any(text.startswith(_OF_SWEEPS) for text in arguments)
    asked = {text.partition("=")[0] for text in arguments}
    return ["-m", *arguments] if sweeps and flags.isdisjoint(asked) else arguments


def _sweep(config: Any, arguments: Sequence[str]) -> Any:
    """The sweep that a command is; `config` is what it begins with."""
    from omegaconf import OmegaConf

    from rlx.stages.planning import hands_for
    from rlx.sweep import Sweep

    plan: Any = OmegaConf.to_object(config.plan)  # checked
    return Sweep(
        enter=_compose,
        report=_report,
        hands=lambda jobs: hands_for(jobs, stop, run),
        command=shlex.join(["rlx", *arguments]),
        dry=plan.dry,
        name=plan.name,
    )


def _flags_first(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra wants them: flags with their values, then overrides.

    Raises:
        ConfigError: a flag that there is not, or a value that it does not take.
    """
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; the flags are in: rlx --help")

    parser = get_args_parser()
    parser.allow_abbrev = False
    parser.error = refuse
    overrides = parser.parse_intermixed_args(arguments).overrides
    return [text for text in arguments if text not in overrides] + overrides


def _job(composed: Any) -> float | None:
    """What Hydra calls with the composed config: once, or, by launchers and sweepers that are not ours, for each job
    of a sweep, perhaps in a process of its own. A job's answer is its `optimized_metric`.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from rlx.explain import unknown_key

    stop.install()
    choices = {name: str(value) for name, value in HydraConfig.get().runtime.choices.items()}
    try:
        unknown_key(composed)
        config, context = _enter(composed, list(HydraConfig.get().overrides.task), choices)
        if config.plan.dry:
            raise ConfigError("plan.dry=true shows what hydra/sweeper=plan would make; put -m first")
        assert config.stage is not None
        config.stage.carry_out(config, context)
        return _measured(config, context)
    except BaseException as error:
        single = HydraConfig.get().mode is not RunMode.MULTIRUN
        if single or (isinstance(error, Stopped | KeyboardInterrupt) and parent_process() is None):
            sys.exit(_report(error))
        _report(error)
        raise


def _measured(config: Any, context: Any) -> float | None:
    """The metric that a searching sweeper wants of a run; None where none is asked for."""
    from rlx.runs.listing import metric_of
    from rlx.stages.base import place_of

    return None if config.optimized_metric is None else metric_of(place_of(config, context), config.optimized_metric)


def _enter(composed: Any, overrides: list[str], choices: dict[str, str]) -> tuple[Any, Any]:
    """The typed config and its context, checked.

    Raises:
        ConfigError: anything that cannot be run.
    """
    from rlx.stages.base import Context

    _check_depth(composed, overrides)
    config = _typed(composed)
    context = Context(
        overrides=overrides,
        preset=_preset_model(composed, overrides, choices) if config.init_from else {},
        compose=_compose,
        stop=stop,
        choices=choices,
        flags=_flags(sys.argv[1:]),
    )
    _check(config, context)
    return config, context


def _check_depth(composed: Any, overrides: Sequence[str]) -> None:
    """Raise ConfigError where a field is typed that `model.depth` sets."""
    from rlx.models.base import of_depth

    depth = composed.model.get("depth") if composed.get("model") else None
    for text in overrides if depth is not None else ():
        key = text.lstrip("+").partition("=")[0]
        if key in {f"model.{name}" for name in of_depth(1)}:
            raise ConfigError(f"model.depth={depth} says {key} too; leave {text} out, or set all three and no depth")


def _compose(overrides: Sequence[str]) -> tuple[Any, Any]:
    """Compose and check another command, as if it had been typed."""
    from rlx.explain import explain

    overrides = list(overrides)
    try:
        with _composer().compose([*_folders(), *overrides]) as (composed, choices):
            return _enter(composed, overrides, choices)
    except RlxError:
        raise
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        raise ConfigError(f"{line} (in: rlx {' '.join(overrides)})") from error


def _composer() -> Any:
    """The composer of the Hydra that this command has started."""
    from hydra.core.global_hydra import GlobalHydra

    from rlx.composer import Composer
    from rlx.explain import unknown_key
    from rlx.store import register

    loader = GlobalHydra.instance().config_loader()
    if not _composers or _composers[0].loader is not loader:
        _composers[:] = [Composer(loader, unknown_key, register)]
    return _composers[0]


_composers: list[Any] = []


def _preset_model(composed: Any, overrides: list[str], choices: dict[str, str]) -> dict[str, str]:
    """Model fields that `experiment=` sets, as they would be typed: what the same command has otherwise without it."""
    from rlx.options import ROOMS

    if not any(text.startswith("experiment=") for text in overrides):
        return {}
    typed = {text.partition("=")[0] for text in overrides}
    chosen = {group: name for group, name in choices.items() if group in {*ROOMS, "scale"} and name != "None"}
    groups = [f"{group}={name}" for group, name in chosen.items() if group not in typed]
    kept = [text for text in overrides if not text.startswith("experiment=")]
    with _composer().compose([*_folders(), *groups, *kept]) as (plain, _):
        return {f"model.{key}": str(value) for key, value in composed.model.items() if value != plain.model[key]}


def _typed(composed: Any) -> Any:
    """Dataclasses from the composed config; cross-field checks run here."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_object(composed)
    _check_finite(config, "")
    return config


def _check_finite(config: Any, path: str) -> None:
    """Raise ConfigError for a number that is NaN or infinite: no setting means one, and JSON has none."""
    for field in fields(config):
        value, name = getattr(config, field.name), f"{path}{field.name}"
        if is_dataclass(value):
            _check_finite(value, f"{name}.")
            continue
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                what = "a finite number" if number is value else "finite numbers"
                raise ConfigError(f"{name}={value}: expected {what}")


def _check(config: Any, context: Any) -> None:
    """What a stage needs is there, and nothing was asked for that it does not use."""
    from rlx.options import discover, option_of
    from rlx.stages.base import check_required
    from rlx.stages.config import TRAINING_KEYS
    from rlx.sweep import group_of

    if config.stage is None:
        stages = "|".join(discover("stage"))
        raise ConfigError(f"no stage; choose stage={stages}, as in: rlx stage=pretrain task=countdown")
    stage = config.stage
    name = option_of(stage).name
    check_required(config, sorted(stage.needed(config)))
    read = OWN | stage.uses | (TRAINING_KEYS if stage.trains else set())
    read |= stage.measures if config.eval.every else set()
    for key in map(group_of, context.overrides):
        if key not in read and context.choices.get(key) != "None":
            raise ConfigError(f"stage={name} does not use {key}; {_instead(key, stage, context.overrides)}")
    for group in ("adapter", "algorithm", "merge", "study"):
        if group not in stage.uses and getattr(config, group) is not None:
            raise ConfigError(f"stage={name} does not use {group}; leave it out, or set {group}=null")
    from rlx.runs.references import is_pasteable

    if not is_pasteable(config.runs_dir):
        what = "has characters that a command line would need to quote" if config.runs_dir else "is empty"
        raise ConfigError(f"runs_dir={config.runs_dir!r} {what}; give a folder, such as runs_dir=runs")


def _instead(group: str, stage: Any, overrides: Sequence[str]) -> str:
    """What to do about a group that a stage does not use: its own fields of the same names, or the groups it uses."""
    typed = [text.partition("=")[0].partition(f"{group}.")[2] for text in overrides]
    own = [f"stage.{field.name}" for field in fields(stage) if field.name in typed]
    if own:
        return f"set {' and '.join(own)} instead"
    used = f" (it uses {', '.join(sorted(stage.uses))})" if stage.uses else ""
    return f"leave {group} out{used}"


def _flags(arguments: Sequence[str]) -> list[str]:
    """Options of Hydra that a repeated command needs too."""
    kept = []
    for number, argument in enumerate(arguments):
        if argument in ("--config-dir", "-cd") and number + 1 < len(arguments):
            kept += ["--config-dir", arguments[number + 1]]
        elif argument.startswith(("--config-dir=", "hydra.searchpath=")):
            kept.append(argument)
    return kept


def _folders() -> list[str]:
    """What was typed of the folders that are read, besides --config-dir."""
    return [text for text in _flags(sys.argv[1:]) if text.startswith("hydra.searchpath=")]


def _report(error: BaseException) -> int:
    """Say what happened in one line where it is the user's to mend; returns the exit code."""
    from rlx.explain import explain

    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, Stopped):
        print("stopped; the same command goes on from here", file=sys.stderr, flush=True)
        return Stopped.exit_code
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
        return 130
    if isinstance(error, BrokenPipeError) and _nobody_reads():  # who read it wants no more, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, RlxError):
        print(f"rlx: {_one_line(str(error))}", file=sys.stderr, flush=True)
        return error.exit_code
    line = explain(error)
    if line is not None:
        print(f"rlx: {line}", file=sys.stderr, flush=True)
        return 2
    traceback.print_exception(error)
    return 1


def _nobody_reads() -> bool:
    """True when the pipe that broke is our own output, and not one of a library."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(found & select.POLLERR for _, found in poll.poll(0))
    except (OSError, AttributeError):  # no file behind it, or a system without poll
        return False


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
