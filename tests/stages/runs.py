"""Commands of the smallest runs, and what is compared between two of them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import COUNTDOWN, SMALL, without_clock

PRETRAIN = (*COUNTDOWN, *SMALL, "stage=pretrain", "stage.steps=12", "stage.val_every=4", "checkpoint.every=3")


def sft(start: Path | str, *more: str) -> list[str]:
    return [*COUNTDOWN, *SMALL, "stage=sft", f"init_from={start}", "stage.steps=12", "stage.val_every=4",
            "checkpoint.every=3", *more]  # fmt: skip


def rl(start: Path | str, *more: str) -> list[str]:
    return [*COUNTDOWN, "trainer.threads=1", "stage=rl", "algorithm=grpo", f"init_from={start}", "decode.max_tokens=12",
            "stage.steps=6", "stage.prompts=4", "algorithm.group_size=4", "stage.val_every=2", "stage.val_problems=4",
            "stage.preflight_problems=4", "checkpoint.every=2",
            "algorithm.rewards.truncated=1", "algorithm.rewards.malformed=0.5", *more]  # fmt: skip


def merge(first: Path | str, second: Path | str, *more: str) -> list[str]:
    return [*COUNTDOWN, "trainer.threads=1", "stage=merge", "merge=linear", f"merge.models=[{first},{second}]",
            "stage.val_tokens=640", "stage.problems=4", "stage.samples=2", "decode.max_tokens=6",
            "stage.path_points=3", *more]  # fmt: skip


def evaluation(start: Path | str, *more: str) -> list[str]:
    """Three chunks of problems."""
    return [*COUNTDOWN, "trainer.threads=1", "stage=eval", f"init_from={start}", "stage.problems=150",
            "stage.samples=2", "decode.max_tokens=6", *more]  # fmt: skip


def place(out: str) -> Path:
    """The run directory that a command's first line names."""
    line = out.splitlines()[0]
    return Path(line.replace("(going on)", "").split(": ", 1)[1].strip())


def digest(run: Path) -> dict[str, str]:
    """sha256 of the weights of every checkpoint that stayed, an adapter's included."""
    found = {}
    for folder in sorted(run.glob("checkpoints/step-*")):
        files = sorted(folder.glob("*.safetensors"))
        found[folder.name] = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return found


def rows(run: Path) -> list[dict]:
    return without_clock([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])


def arithmetic_of(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[bool]:
    """Filled, as a function is called, with whether it was called under bf16 autocast."""
    seen: list[bool] = []
    whole = getattr(owner, name)

    def watched(*given: Any, **named: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return whole(*given, **named)

    monkeypatch.setattr(owner, name, watched)
    return seen


def record(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def status(run: Path) -> dict:
    return json.loads((run / "status").read_text())


MODULAR = ("task=arithmetic", "task.operation=modular", "task.min_digits=2", "task.max_digits=3", "task.modulus=5",
           "task.held_out=8", "scale=smoke", "trainer.threads=1")  # fmt: skip
"""Sums modulo 5: a start of a few steps is right now and then, and not always."""
ADDS = (*MODULAR, "stage=sft", "init_from=random", "stage.steps=60", "stage.batch_tokens=512", "stage.row_tokens=64",
        "optim=muon", "optim.lr=2e-2", "stage.val_every=0")  # fmt: skip


def improve(start: Path | str, algorithm: str, *more: str) -> list[str]:
    """An rl run of six iterations of 8 prompts with 4 samples each, from a run of `ADDS`."""
    return [*MODULAR, "stage=rl", f"algorithm={algorithm}", f"init_from={start}", "decode.max_tokens=6",
            "stage.steps=6", "stage.prompts=8", "algorithm.group_size=4", "stage.val_every=3", "stage.val_problems=4",
            "stage.preflight_problems=4", "checkpoint.every=2", *more]  # fmt: skip
