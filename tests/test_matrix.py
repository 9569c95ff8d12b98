"""Every architecture through every stage on every task, at scale=smoke: pretrain, sft, rl, a merge of the two, eval.

One process carries out all of them: nothing that a model leaves behind may disturb the next.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlx.runs.run import read_record
from rlx.stages.base import place_of

MODELS = ("dense", "moe", "iha", "gssm")
TASKS = {
    "countdown": ("task.numbers=3", "task.trace=operations"),
    "sudoku": ("task.size=4",),
    "graph": (),
    "math": (),
}
"""Tasks, each at a setting whose documents are short."""
SMALL = ("scale=smoke", "trainer.threads=1")
FEW = {
    "pretrain": ("stage.steps=6", "stage.val_every=6"),
    "sft": ("stage.steps=6", "stage.val_every=6"),
    "rl": ("algorithm=grpo", "decode.max_tokens=16", "stage.steps=2", "stage.val_every=2",
           "algorithm.rewards.truncated=1", "algorithm.rewards.malformed=0.5"),
    "merge": ("merge=linear",),
    "eval": ("decode.max_tokens=16", "stage.problems=6", "stage.samples=2"),
}  # fmt: skip
"""What each stage is given; the rewards differ where nothing is solved, so that rl has something to learn from."""


@pytest.fixture(scope="module")
def carry_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Carries a command out, composed by one Hydra for all of them; returns the run's directory."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    from rlx.cli import _compose
    from rlx.store import register

    GlobalHydra.instance().clear()
    register()
    with pytest.MonkeyPatch.context() as patch, initialize_config_module("rlx.conf", version_base="1.3"):
        patch.chdir(tmp_path_factory.mktemp("matrix"))
        patch.setattr("os.fsync", lambda descriptor: None)  # a process that dies loses nothing of what it wrote
        patch.setattr("rlx.runs.run.git_state", dict)  # four processes a run

        def run(*arguments: str) -> Path:
            config, context = _compose(list(arguments))
            config.stage.carry_out(config, context)
            return Path(place_of(config, context))

        yield run


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", MODELS)
def test_every_stage(carry_out: Callable[..., Path], model: str, task: str) -> None:
    def run(stage: str, *more: str) -> Path:
        return carry_out(f"stage={stage}", f"task={task}", *TASKS[task], *SMALL, *FEW[stage], *more)

    start = run("pretrain", f"model={model}")
    tuned = run("sft", f"init_from={start}")
    trained = run("rl", f"init_from={tuned}")
    merged = run("merge", f"merge.models=[{tuned},{trained}]")
    evaluated = run("eval", f"init_from={merged}")

    for place in (start, tuned, trained, merged):
        record = read_record(place)
        assert record is not None and json.loads((place / "status").read_text())["state"] == "finished"
        (config,) = {path.read_text() for path in place.glob("checkpoints/*/config.json")}
        assert json.loads(config)["model"] == model, "every checkpoint says what it is"
        rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        losses = [value for row in rows for name, value in row.items() if name.endswith("loss")]
        assert losses and all(math.isfinite(loss) for loss in losses)
        ancestors = {merged: 4, trained: 3, tuned: 2, start: 1}[place]
        assert len(record["lineage"]) == ancestors and all(record["lineage"].values()), "all that was spent is known"
        moved = [row["train/grad_norm"] for row in rows if "train/grad_norm" in row]
        assert place == merged or any(moved), "a stage that trains has something to train on"
    found = json.loads((evaluated / "eval.json").read_text())
    assert len(found["problems"]) == 6 and found["task"] == task
