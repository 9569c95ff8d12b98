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
            "stage.val_tokens=640", *more]  # fmt: skip


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
