"""Who may import whom: the rooms of rlx, read from the source of every file.

A room is a package or a module right under `rlx`, or a part of one with rules of its own; the longest name in `ROOMS`
that begins a module's name is its room. A room may import itself, what its row names (a room with all that is in it,
or a single module), and the libraries of its row; nothing else. Imports inside functions count like the others, and so
do those that only type checkers read. From the bottom up:

    room                        may import of rlx                             libraries
    types, options, errors      nothing                                       none
    signals, progress           nothing                                       none
    batches                     nothing                                       torch
    expressions                 nothing                                       none
    bounded                     errors                                        none
    rows                        errors                                        datasets, pyarrow (both late)
    statistics                  nothing                                       numpy
    tasks                       types, errors, options, rows, bounded,        numpy, math_verify and what it parses with
                                expressions                                   (late, in a process of their own)
    environments                types, errors, options, expressions,          numpy
                                tasks/base
    kernels                     GROUND                                        torch, fla (late); triton in
                                                                              <name>/triton.py
    algorithms, merges          GROUND                                        torch
    adapters                    GROUND, nn                                    torch
    optim, trainers             GROUND                                        torch
    runs                        GROUND, rows, progress                        torch, numpy, safetensors, yaml; xxhash,
                                                                              wandb, wandb_workspaces (late)
    nn                          GROUND, kernels                               torch
    models                      GROUND, kernels, nn                           torch
    data                        GROUND, rows, bounded, tasks/base, progress,  torch, numpy, tokenizers; datasets and
                                environments/base                             pyarrow (late)
    data/__main__               everything                                    none
    decoding                    GROUND, nn                                    torch
    evaluation                  GROUND, decoding, data, environments, runs,   torch, numpy
                                tasks/base, statistics, bounded, nn/decoder
                                (the type it is handed)
    report                      errors, statistics, runs/files                numpy, matplotlib
    plans                       GROUND, runs, progress                        torch, pyarrow (both late)
    plans/__main__              everything                                    yaml
    studies                     GROUND, report, statistics                    numpy
    config                      GROUND, every base.py, stages/config,         none
                                runs/checkpoints (the grammar of `keep`)
    stages                      everything above but report, plans, studies   torch, numpy, safetensors; scipy (late)
    stages/report, stages/study the same and report; study also plans, studies,
                                stages/planning
    stages/planning             as stages, and plans                          none
    stages/modules              as stages                                     torch, numpy, lightning
    store                       config, options, plans/base                   hydra, omegaconf
    composer                    nothing                                       hydra, omegaconf
    grid                        errors                                        hydra
    sweep                       everything                                    hydra, omegaconf
    plugins                     everything                                    hydra, its plugins, omegaconf
    explain                     config, errors, options                       omegaconf
    catalog                     options, conf                                 yaml
    completion                  catalog, errors, options, runs                none
    help                        catalog, errors                               none
    cli                         everything                                    hydra, omegaconf

GROUND is types, errors, options, batches. `rows` reads data files: tasks and corpora are made of them, and a run is
named after their content. "Late" libraries are imported inside functions only, and so is `rlx.stages.modules` by the
stages; `rlx.kernels.<name>.triton` by its kernel. transformers is nowhere, and torch is not in tasks, environments,
report, statistics, rows, types, options and errors. No stage imports another stage, and no option another option of its
group: what two of them share moves to the room's base.py or a module that is no option.
The names of the files of a run are written in `rlx/runs/files.py` and nowhere else.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import rlx.options
from tests.conftest import environment

ROOT = Path(__file__).resolve().parents[1]
GROUND = ("types", "errors", "options", "batches")
ABOVE_RUNS = ("signals", "progress", "statistics", "config", "adapters", "algorithms", "merges", "optim", "trainers",
              "runs", "nn", "kernels", "models", "data", "decoding", "evaluation", "environments", "tasks",
              "rows")  # fmt: skip
BASES = ("adapters", "algorithms", "data.corpora", "data.tokenizers", "decoding", "environments", "merges", "models",
         "optim", "optim.schedules", "plans", "runs.loggers", "studies", "tasks", "trainers")  # fmt: skip


@dataclass(frozen=True)
class Room:
    """What a room may import: names under rlx, and libraries; the late ones inside functions only."""

    rlx: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    late: tuple[str, ...] = ()


STAGE = (*GROUND, *ABOVE_RUNS, "stages")
TORCH = ("torch",)
MATH = ("math_verify", "latex2sympy2_extended")
WANDB = ("wandb", "wandb_workspaces")
ROOMS = {
    "types": Room(),
    "options": Room(),
    "errors": Room(),
    "signals": Room(),
    "progress": Room(),
    "batches": Room(libraries=TORCH),
    "statistics": Room(libraries=("numpy",)),
    "bounded": Room(("errors",)),
    "expressions": Room(),
    "rows": Room(("errors",), ("datasets", "pyarrow"), late=("datasets", "pyarrow")),
    "tasks": Room(("types", "errors", "options", "rows", "bounded", "expressions"), ("numpy", *MATH), late=MATH),
    "environments": Room(("types", "errors", "options", "expressions", "tasks.base"), ("numpy",)),
    "kernels": Room(GROUND, (*TORCH, "triton", "fla"), late=("fla",)),
    "adapters": Room((*GROUND, "nn"), TORCH),
    "algorithms": Room(GROUND, TORCH),
    "merges": Room(GROUND, TORCH),
    "optim": Room(GROUND, TORCH),
    "trainers": Room(GROUND, TORCH),
    "runs": Room(
        (*GROUND, "rows", "progress"),
        (*TORCH, "numpy", "safetensors", "yaml", "xxhash", *WANDB),
        late=("xxhash", *WANDB),
    ),
    "nn": Room((*GROUND, "kernels"), TORCH),
    "models": Room((*GROUND, "kernels", "nn"), TORCH),
    "data": Room(
        (*GROUND, "rows", "bounded", "tasks.base", "environments.base", "progress"),
        (*TORCH, "numpy", "tokenizers", "datasets", "pyarrow"),
        late=("datasets", "pyarrow"),
    ),
    "data.__main__": Room(("",)),
    "decoding": Room((*GROUND, "nn"), TORCH),
    "evaluation": Room(
        (*GROUND, "decoding", "data", "environments", "runs", "tasks.base", "statistics", "bounded", "nn.decoder"),
        (*TORCH, "numpy"),
    ),
    "report": Room(("errors", "statistics", "runs.files"), ("numpy", "matplotlib")),
    "plans": Room((*GROUND, "runs", "progress"), (*TORCH, "pyarrow"), late=(*TORCH, "pyarrow")),
    "plans.__main__": Room(("",), ("yaml",)),
    "studies": Room((*GROUND, "report", "statistics"), ("numpy",)),
    "config": Room((*GROUND, *(f"{room}.base" for room in BASES), "stages.config", "runs.checkpoints")),
    "stages": Room(STAGE, (*TORCH, "numpy", "safetensors", "scipy"), late=("scipy",)),
    "stages.report": Room((*STAGE, "report")),
    "stages.study": Room((*STAGE, "report", "plans", "studies")),
    "stages.planning": Room((*STAGE, "plans")),
    "stages.modules": Room(STAGE, (*TORCH, "numpy", "lightning")),
    "store": Room(("config", "options", "plans.base"), ("hydra", "omegaconf")),
    "composer": Room((), ("hydra", "omegaconf")),
    "grid": Room(("errors",), ("hydra",)),
    "sweep": Room(("",), ("hydra", "omegaconf")),
    "plugins": Room(("",), ("hydra", "hydra_plugins", "omegaconf")),
    "explain": Room(("config", "errors", "options"), ("omegaconf",)),
    "catalog": Room(("options", "conf"), ("yaml",)),
    "completion": Room(("catalog", "errors", "options", "runs")),
    "help": Room(("catalog", "errors")),
    "cli": Room(("",), ("hydra", "omegaconf")),
}
LATE_ROOM = re.compile(r"rlx\.(stages\.modules|kernels\.\w+\.triton)(\.|$)")
"""Modules of rlx that others import inside functions only."""


@dataclass(frozen=True)
class Import:
    """One imported module, and where the statement stands."""

    name: str
    line: int
    inside: bool
    """Inside a function."""
    typing: bool
    """Under `if TYPE_CHECKING`."""


@cache
def modules() -> dict[str, Path]:
    """Every module of rlx by its dotted name."""
    found = {}
    for path in sorted((ROOT / "rlx").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path) -> list[Import]:
    """All that a file imports, with `from rlx.report import units` read as rlx.report.units."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def names(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            inner = [f"{base}.{alias.name}" for alias in node.names]
            yield from {name if name in modules() else base for name in inner}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))

    def walk(node: ast.AST, inside: bool, typing: bool) -> Iterator[Import]:
        for name in names(node):
            yield Import(name, getattr(node, "lineno", 0), inside, typing)
        inside |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside, typing or (guarded and child not in getattr(node, "orelse", [])))

    return list(walk(ast.parse(path.read_text()), False, False))


def within(name: str, room: str) -> bool:
    """`rlx.tasks.base` is in `tasks` and in `tasks.base`; everything of rlx is in the empty room."""
    return f"{name}.".startswith(f"rlx.{room}." if room else "rlx.")


def room_of(module: str) -> str | None:
    """The longest room that the module is in."""
    return max((room for room in ROOMS if within(module, room)), key=len, default=None)


@cache
def options() -> dict[str, str]:
    """Modules that define options, with their groups; read from the source."""
    found = {}
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                for call in node.decorator_list:
                    if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "option":
                        assert isinstance(call.args[0], ast.Constant), f"{path}: a group is a string"
                        found[module] = str(call.args[0].value)
    return found


def violations(module: str, path: Path, imported: list[Import], groups: dict[str, str]) -> Iterator[str]:
    """Every rule that a file breaks, as a line that names the import."""
    room = room_of(module)
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    if room is None:
        if module != "rlx":
            yield f"{shown}: no row in ROOMS of tests/test_rooms.py; a new room needs one"
            return
        room = "types"
    allowed = ROOMS[room]
    for each in imported:
        where, top = f"{shown}:{each.line}", each.name.split(".")[0]
        if top in sys.stdlib_module_names:
            continue
        if top == "rlx":
            if each.name != "rlx" and not any(within(each.name, name) for name in (room, *allowed.rlx)):
                yield f"{where}: {room} may not import {each.name}"
            group = groups.get(each.name)
            if group is not None and each.name != module and group in ("stage", groups.get(module)):
                yield f"{where}: {each.name} is an option of {group}; what two share moves to base.py"
            late = LATE_ROOM.match(each.name) and not LATE_ROOM.match(module)
        elif top not in allowed.libraries:
            yield f"{where}: {room} may not import {top}"
            continue
        else:
            late = top in allowed.late
            if top == "triton" and path.name != "triton.py":
                yield f"{where}: only kernels/<name>/triton.py imports triton"
        if late and not each.inside and not each.typing:
            yield f"{where}: {each.name} is imported inside functions only"


@pytest.mark.parametrize("module", modules())
def test_imports_stay_in_their_rooms(module):
    path = modules()[module]
    assert not list(violations(module, path, imports(module, path), options()))


BAD = {
    "torch in tasks": ("rlx.tasks.new", "import torch", "tasks may not import torch"),
    "from a package": ("rlx.tasks.new", "from rlx import batches", "rlx.batches"),
    "relative": ("rlx.tasks.new", "from ..nn import cache", "rlx.nn.cache"),
    "in a function": ("rlx.nn.new", "def f():\n    from rlx.models.base import ModelConfig", "rlx.models.base"),
    "for types": ("rlx.runs.new", "if TYPE_CHECKING:\n    from rlx.config import Config", "rlx.config"),
    "by its name": ("rlx.nn.new", "importlib.import_module('lightning.pytorch')", "lightning"),
    "sibling": ("rlx.optim.adamw", "from rlx.optim.muon import MuonConfig", "is an option of optim"),
    "another stage": ("rlx.stages.rl", "from rlx.stages.sft import SftConfig", "is an option of stage"),
    "a stage elsewhere": ("rlx.stages.new", "from rlx.stages.sft import SftConfig", "is an option of stage"),
    "lightning in a stage": ("rlx.stages.rl", "def f():\n    import lightning", "may not import lightning"),
    "modules at the top": ("rlx.stages.rl", "from rlx.stages.modules.loop import fit", "inside functions only"),
    "wandb at the top": ("rlx.runs.loggers.new", "import wandb", "inside functions only"),
    "wandb in a stage": ("rlx.stages.rl", "def f():\n    import wandb", "may not import wandb"),
    "transformers": ("rlx.models.new", "def f():\n    import transformers", "may not import transformers"),
    "triton in reference": ("rlx.kernels.scan.reference", "import triton", "only kernels/<name>/triton.py"),
    "hydra in a stage": ("rlx.stages.rl", "from omegaconf import OmegaConf", "may not import omegaconf"),
    "new room": ("rlx.attic.new", "import torch", "no row in ROOMS"),
}


@pytest.mark.parametrize("module, text, expected", BAD.values(), ids=BAD.keys())
def test_a_wrong_import_is_found(tmp_path, module, text, expected):
    path = tmp_path / f"{module.split('.')[-1]}.py"
    path.write_text(text + "\n")
    (found,) = violations(module, path, imports(module, path), options())
    assert expected in found


def test_every_room_of_options_has_a_row():
    assert all(room_of(room) for room in rlx.options.ROOMS.values())


def test_file_names_are_written_in_one_place():
    files = ast.parse((ROOT / "rlx/runs/files.py").read_text())
    values = [node.value for node in files.body if isinstance(node, ast.Assign)]
    names = {v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str) and "." in v.value}
    assert len(names) > 5
    again = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value} has a name in rlx/runs/files.py"
        for module, path in modules().items()
        if not within(module, "runs")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert not again


def python(text: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_door_loads_nothing_heavy():
    heavy = ("lightning", "pytorch_lightning", "wandb", "datasets", "transformers", "matplotlib", "pandas", "triton")
    loaded = python(
        "import sys, rlx.cli, rlx.store; rlx.store.register()\n"
        f"print(*[name for name in {heavy} if name in sys.modules])"
    )
    assert not loaded


def test_tasks_and_report_need_no_torch():
    rooms = ("tasks", "environments", "report", "statistics", "rows", "types", "errors", "options")
    light = [module for module in modules() if room_of(module) in rooms]
    imported = "".join(f"import {module}\n" for module in light if not module.endswith("__main__"))
    assert python(f"import sys\nsys.modules['torch'] = None\n{imported}print('done')") == "done"
