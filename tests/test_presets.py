"""Every YAML under conf/ composes into a typed Config at every scale, and what it describes can be built.

Each stage is composed with the first option of every group that it requires; each other option takes its place in
the first stage that uses its group. Models are built on torch's meta device: shapes without memory. Runs of studies
are composed and placed by the stage itself; nothing is trained or written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from rlx.cli import _compose as composed
from rlx.options import ROOMS, discover
from rlx.stages.base import Context, RunStageConfig, place_of
from rlx.stages.config import StageConfig
from rlx.stages.material import material_of
from rlx.stages.study import expand, plan_folder
from rlx.store import register
from rlx.types import Split

CONF = Path(__file__).resolve().parents[1] / "conf"
SCALES = sorted(path.stem for path in (CONF / "scale").glob("*.yaml"))
PARENT = "runs/any-dense-sft-h0123456789/seed{}"
STARTS = {
    "rl": ["init_from=random"],
    "eval": ["init_from=random"],
    "merge": [f"merge.models=[{PARENT.format(0)},{PARENT.format(1)}]"],
}
"""What a stage must be told besides its groups."""
TOLD = {
    "dialogues": ["corpus.environment=multi_attempt"],
    "mixture": ["corpus.sources={own:{weight:0.8},filler:{task:filler,weight:0.2}}"],
    "text": [f"corpus.path={CONF}", "corpus.pattern=**/*.yaml"],
    "average": [f"merge.models=[{PARENT.format(0)}]", "merge.last=2"],
    "grow": [f"merge.models=[{PARENT.format(0)}]"],
    "passthrough": ["merge.slices=[0:0-2,1:1-3]"],
}
"""What an option must be told, by its name."""


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    """Hydra as the door sets it up, once for all compositions."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_module("rlx.conf", version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


@cache
def stages() -> dict[str, type[StageConfig]]:
    return {name: found.config for name, found in discover("stage").items()}


def presets(group: str) -> list[str]:
    """Names of a group's YAML files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def command(stage: str, scale: str, **chosen: str) -> list[str]:
    """Overrides of a run of a stage; groups that are not chosen get their first option where they are required."""
    needs = stages()[stage].requires | ({"task"} if "corpus" in stages()[stage].requires else set())
    required = {group: presets(group)[0] for group in needs if group != "corpus"}
    pairs = {"stage": stage, "scale": scale, **required, **chosen}
    told = [text for name in pairs.values() for text in TOLD.get(name, [])]
    return [*(f"{key}={value}" for key, value in pairs.items()), *STARTS.get(stage, []), *told]


def variants() -> list[tuple[str, str, str]]:
    """(stage, group, option): every option of every group in the first stage that uses it."""
    found = []
    for group in ROOMS:
        users = [name for name, stage in sorted(stages().items()) if group in stage.uses]
        found += [(users[0], group, name) for name in presets(group) if users]
    return found


def scales_of(study: str) -> list[str]:
    """Scales that a study's runs have values for; all when they have none."""
    runs = (yaml.safe_load((CONF / "study" / f"{study}.yaml").read_text()).get("runs") or {}).values()
    return sorted({scale for run in runs for scale in run.get("at", {})}) or SCALES


def build(config: Any) -> None:
    """Make every object that the config describes."""
    task = config.task.build() if config.task is not None else None
    if task is not None:
        verdict = task.verify(example := task.example(Split.train, 0), example.solution)
        assert verdict.outcome.name == "correct"
    if hasattr(config.tokenizer, "sample_characters"):
        config.tokenizer.sample_characters = 10_000  # learning from as many as the default takes seconds
    tokenizer = config.tokenizer.build(material_of(config))
    with torch.device("meta"):
        model = config.model.build(tokenizer.vocab_size)
        config.optim.build(model)
    assert 0 <= config.schedule.factor(0, 100) <= 1 and 0 <= config.schedule.factor(99, 100) <= 1
    if config.algorithm is not None:
        config.algorithm.build()
    if config.merge is not None:
        config.merge.build()
    if task is not None and config.corpus is not None:
        corpus = config.corpus.build(task, tokenizer, split=Split.train, whole=True, key=(0, "presets"))
        assert len(corpus.document(0).ids) > 1


def check(config: Any, context: Context) -> None:
    """What the stage looks at before anything is written."""
    assert is_dataclass(config)
    if isinstance(config.stage, RunStageConfig):
        config.stage.check(config)
        place = place_of(config, context)
        assert place.parent.name.count("-") == 3


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("stage", presets("stage"))
def test_stage(stage, scale):
    config, context = composed(command(stage, scale))
    check(config, context)
    build(config)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("stage, group, name", variants(), ids=lambda value: value)
def test_option(stage, group, name, scale):
    config, _ = composed(command(stage, scale, **{group: name}))
    assert type(getattr(config, group)) is discover(group)[schema_of(group, name)].config
    build(config)


def schema_of(group: str, name: str) -> str:
    """The option whose schema a YAML file begins with."""
    defaults: Sequence[Any] = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())["defaults"]
    return defaults[0][f"/schema/{group}@_here_"]


@pytest.mark.parametrize("name", presets("experiment"))
def test_experiment(name):
    """A preset names what it needs, or leaves stage and task to the command."""
    pinned = "override /scale" in (CONF / "experiment" / f"{name}.yaml").read_text()
    for scale in [[]] if pinned else [[f"scale={scale}"] for scale in SCALES]:
        preset = [f"experiment={name}", *scale]
        first = compose("config", preset, return_hydra_config=True)
        stage = first.hydra.runtime.choices["stage"] or "pretrain"
        missing = [group for group in sorted(stages()[stage].requires) if first[group] is None]
        groups = [f"{group}={presets(group)[0]}" for group in missing]
        start = STARTS.get(stage, []) if first.init_from is None else []
        config, context = composed([*preset, *([] if first.stage else [f"stage={stage}"]), *groups, *start])
        check(config, context)
        build(config)


@pytest.mark.parametrize("name, scale", [(name, scale) for name in presets("study") for scale in scales_of(name)])
def test_study(name, scale, tmp_path):
    config, context = composed(["stage=study", f"study={name}", f"scale={scale}", f"runs_dir={tmp_path}/runs"])
    runs = [job.planned for job in expand(config, context)]
    assert runs
    assert all(Path(run.run).is_relative_to(tmp_path) for run in runs)
    assert len({run.run for run in runs}) == len(runs)
    assert plan_folder(config, context, runs).parent == tmp_path / "runs" / "plans"
    assert not list(tmp_path.iterdir())
