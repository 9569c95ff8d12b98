"""What `pip install` gives people: the wheel holds every room and every YAML, and works away from the checkout."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, timeout=300)


def built_here() -> bool:
    """True when this environment's setuptools can build rlx, so that nothing is fetched."""
    try:
        return Version(importlib.metadata.version("setuptools")) >= Version("77")
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves folders behind, and finds those of earlier ones."""
    if pip("--version").returncode:
        pytest.skip("this environment has no pip")
    source = tmp_path_factory.mktemp("source")
    for name in ("rlx", "conf", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    out = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if built_here() else []
    done = pip("wheel", "--quiet", "--no-deps", *isolation, "--wheel-dir", str(out), str(source))
    if done.returncode and not isolation:
        pytest.skip("setuptools>=77 is neither installed nor to be had, so no wheel can be built")
    assert done.returncode == 0, done.stderr
    (found,) = out.glob("rlx-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel is installed to."""
    target = tmp_path_factory.mktemp("site")
    done = pip("install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    assert done.returncode == 0, done.stderr
    return target


def contents(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_has_every_module_of_every_room(wheel):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rlx").rglob("*.py")}
    missing = sorted(modules - contents(wheel))
    assert not missing, f"not in the wheel; name their folders under [tool.setuptools] packages: {missing}"


def test_every_room_is_a_package():
    folders = {path.parent for path in (ROOT / "rlx").rglob("*.py")}
    missing = [folder.relative_to(ROOT).as_posix() for folder in folders if not (folder / "__init__.py").is_file()]
    assert not missing, f"no __init__.py in {sorted(missing)}"


def test_the_wheel_has_every_yaml(wheel):
    values = {f"rlx/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert len(values) > 10
    assert not sorted(values - contents(wheel))


def test_the_wheel_has_nothing_else(wheel):
    tops = {name.split("/")[0] for name in contents(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"rlx"}
    assert not [name for name in contents(wheel) if "/tests/" in name or name.endswith(".pyc")]


def door(installed: Path, folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command `rlx` as it was installed, given in a folder away from the checkout."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        [str(installed / "bin" / "rlx"), *arguments],
        capture_output=True, text=True, cwd=folder, env={**clean, "PYTHONPATH": str(installed), **more}, timeout=200,
    )  # fmt: skip


SMALL = ("stage=pretrain", "task=countdown", "task.numbers=3", "task.trace=operations", "scale=smoke", "stage.steps=2",
         "stage.batch_tokens=128", "stage.row_tokens=64", "stage.val_tokens=64", "trainer.threads=1")  # fmt: skip


@pytest.mark.parametrize("arguments", [("--info", "searchpath"), ("--help",)], ids=" ".join)
def test_the_door_opens_away_from_the_checkout(installed, tmp_path, arguments):
    done = door(installed, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    assert ("pkg://rlx.conf" if "--info" in arguments else "stage:") in done.stdout
    assert not list(tmp_path.iterdir())


def test_tab_completes_away_from_the_checkout(installed, tmp_path):
    done = door(installed, tmp_path, "-sc", "query=bash", COMP_LINE="rlx model=dense model.n_h")
    assert (done.returncode, done.stdout, done.stderr) == (0, "model.n_heads=\n", "")
    assert "complete" in door(installed, tmp_path, "-sc", "install=bash").stdout


def test_own_presets_compose_with_the_installed_one(installed, tmp_path):
    folder = tmp_path / "my_conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\noptim:\n  lr: 0.0123\n")
    (folder / "wrong.yaml").write_text("# @package _global_\noptim:\n  lrr: 0.0123\n")
    own = ("--config-dir", "my_conf", "stage=pretrain", "task=countdown")
    done = door(installed, tmp_path, *own, "experiment=mine", "--cfg", "job")
    assert done.returncode == 0 and "lr: 0.0123" in done.stdout, done.stderr
    done = door(installed, tmp_path, *own, "experiment=wrong")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "in experiment/wrong: " in done.stderr and "lrr; did you mean lr?" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["my_conf"]


def test_a_run_with_the_installed_one_is_whole_and_listed(installed, tmp_path):
    done = door(installed, tmp_path, *SMALL)
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("runs/countdown-dense-pretrain-h*/seed0")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    there = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    last = "checkpoints/step-000002"
    assert {"config.yaml", "overrides.txt", "run.json", "metrics.jsonl", "status", "logs/attempt-1.log",
            f"{last}/config.json", f"{last}/model.safetensors", f"{last}/tokenizer.json",
            f"{last}/trainer/state.pt"} <= there  # fmt: skip
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()][-1] == 2
    assert json.loads((run / "status").read_text())["state"] == "finished"
    record = json.loads((run / "run.json").read_text())
    assert record["steps"] == 2 and not record["git"] and record["versions"]["torch"]
    assert (run / "overrides.txt").read_text().split() == ["rlx", *SMALL]
    again = door(installed, tmp_path, *SMALL)
    assert again.returncode == 0 and "finished already" in again.stdout
    listed = subprocess.run(
        [sys.executable, "-m", "rlx.runs", "--paths", "state=finished"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, timeout=60,
    )  # fmt: skip
    assert listed.stdout.strip() == run.relative_to(tmp_path).as_posix(), listed.stderr


def test_it_is_the_installed_one_that_runs(installed, tmp_path):
    text = "import rlx.cli, rlx.conf; print(rlx.cli.__file__, *rlx.conf.__path__)"
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(Path(part).is_relative_to(installed) for part in done.stdout.split())


def pins() -> dict[str, str]:
    """Package to version, as constraints.txt has them."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    split = [re.fullmatch(r"([a-z0-9._-]+)==([a-z0-9.!]+)", line) for line in lines if line]
    assert all(split), "constraints.txt has `name==version` lines only: no ranges, local versions, addresses"
    return {match[1]: match[2] for match in split if match}


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    return [Requirement(text) for text in [*project["dependencies"], *extras]]


def test_constraints_pin_every_dependency():
    found = pins()
    assert found["torch"] == "2.13.0"
    for requirement in declared():
        name = canonicalize_name(requirement.name)
        assert name in found, f"constraints.txt does not pin {name}"
        fits = requirement.specifier.contains(found[name], prereleases=True)
        assert fits, f"constraints.txt has {name}=={found[name]}, pyproject.toml asks for {requirement}"


def test_constraints_pin_what_the_dependencies_need():
    """As far as this environment has them; what a package pins itself, as torch its CUDA libraries, is left out."""
    found, todo, seen = pins(), declared(), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and "==" in str(requirement.specifier):
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        assert name in found, f"constraints.txt does not pin {name}"
        wanted = [{"extra": extra} for extra in ("", *requirement.extras)]
        for need in map(Requirement, needs):
            if need.marker is None or any(need.marker.evaluate(extra) for extra in wanted):
                key = (name, str(need))
                todo += [need] if key not in seen else []
                seen.add(key)
