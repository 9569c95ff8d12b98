"""What a step that diverged was made of, kept to be looked at: `logs/attempt-<n>.diverged/`.

1. `step.json` says which step and which part of it, with the loss, the gradient's norm and what else is known.
2. `batch.pt` has the tensors of the step by name, micro-batches joined: `torch.load(..., weights_only=True)`.
3. `rollouts.jsonl`, in rl, has prompts, completions and verdicts, a row each, and the turns of those that have
   several; only the prompts where it was the
   sampling that failed.

The weights from before the step are not among them: the same command goes on from the last checkpoint and comes to the
same step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlx.batches import Batch
from rlx.environments.base import Episode
from rlx.errors import DivergedError
from rlx.evaluation.episodes import turns_of
from rlx.runs.files import (
    DIVERGED_BATCH,
    DIVERGED_ROLLOUTS,
    DIVERGED_STEP,
    atomic_directory,
    attempt_log,
    write_json,
)
from rlx.runs.metrics import MetricsLog
from rlx.runs.run import Run
from rlx.stages.modules.rollouts import Rollout


def save_evidence(
    run: Run, error: DivergedError, *, step: int, phase: str, item: Any, problems: Sequence[Episode]
) -> Path:
    """Write the folder, whole or not at all, and return its place.

    Args:
        phase: what was under way: rollout, update, or the measurement after it.
        item: of the source: a list of batches, a rollout, or None where it could not be made.
        problems: what a rollout was to be made of, an episode each that has not begun.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    place = attempt_log(run.path, run.attempt, "diverged")
    tensors, rows = tensors_of(item), list(rows_of(item, problems))
    with atomic_directory(place, replace=True) as folder:
        if tensors:
            torch.save(tensors, folder / DIVERGED_BATCH)
        if rows:
            with MetricsLog(folder / DIVERGED_ROLLOUTS) as log:
                for row in rows:
                    log.append(row)
        files = sorted(path.name for path in folder.iterdir())
        found = {"step": step, "phase": phase, "part": error.part, **error.figures, "why": str(error), "files": files}
        write_json(folder / DIVERGED_STEP, found)
    return place


def tensors_of(item: Any) -> dict[str, Tensor]:
    """The tensors of a step by name, on the CPU; the rows of its micro-batches joined."""
    if isinstance(item, Rollout):
        own = {name: getattr(item, name) for name in ("prompt_lengths", "lengths", "parts", "rows")}
        return {name: _plain(tensor) for name, tensor in (*_named(item.batch), *_named(own))}
    if isinstance(item, list) and item and all(isinstance(part, Batch) for part in item):
        parts = [dict(_named(part)) for part in item]
        return {name: _plain(torch.cat([part[name] for part in parts])) for name in parts[0]}
    return {}


def rows_of(item: Any, problems: Sequence[Episode]) -> Iterator[dict[str, Any]]:
    """A rollout's rows to be read, or the problems that there was no rollout of."""
    if not isinstance(item, Rollout):
        yield from ({"id": episode.example.id, "prompt": episode.prompt} for episode in problems)
        return
    for row, (text, verdict, worth) in enumerate(
        zip(item.texts, item.verdicts, item.batch.returns().tolist(), strict=True)
    ):
        episode = item.episodes[row]
        turns = turns_of(episode)
        yield {
            "row": row,
            "id": episode.example.id,
            "prompt": episode.prompt,
            "completion": text,
            "verdict": verdict.outcome.value,
            "detail": verdict.detail,
            "reward": worth,
            **({"turns": turns} if turns else {}),
        }


def _named(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a dataclass or mapping, `parts/length` where they are nested."""
    if isinstance(value, Tensor):
        yield name, value
        return
    inner = dict(value) if isinstance(value, Mapping) else {}
    if is_dataclass(value):
        inner = {each.name: getattr(value, each.name) for each in fields(value)}
    for key, each in inner.items():
        yield from _named(each, f"{name}/{key}" if name else str(key))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()  # a view would be saved with all of its memory
