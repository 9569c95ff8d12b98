"""Made-up merge runs: metrics.jsonl, merge.json and eval.json as `stage=merge` leaves them."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from tests.report.conftest import FLOPS, write_config, write_json, write_lines, write_run

TASKS = ("countdown", "copy")
PROBLEMS, SAMPLES = 40, 4


def run_of(parent: tuple[str, int]) -> str:
    """The directory of a parent, given by its folder and seed."""
    return f"{parent[0]}/seed{parent[1]}"


def evaluated(task: str, share: float, seed: int) -> dict[str, Any]:
    """An evaluation: that share of the samples of every problem, but for what chance does."""
    rng = np.random.default_rng([seed, round(1000 * share), *task.encode()])
    right = rng.binomial(SAMPLES, share, size=PROBLEMS)
    rows = [{"id": f"{task}-{n}", "n": SAMPLES, "correct": int(right[n]), "greedy": False} for n in range(PROBLEMS)]
    metrics = {f"eval/{task}/pass@1": float(right.mean() / SAMPLES), f"eval/{task}/greedy": 0.0}
    return {"task": task, "split": "test", "n_samples": SAMPLES, "metrics": metrics, "problems": rows}


def measured(skills: Sequence[float], loss: float, seed: int) -> dict[str, Any]:
    """What is measured of a model: its skill at each task, and a loss on each of two sources."""
    tasks = {task: evaluated(task, skill, seed) for task, skill in zip(TASKS, skills, strict=True)}
    return {"losses": {"": loss, "one": loss - 0.1, "two": loss + 0.1}, "tasks": tasks}


def row_of(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The metrics of a merge."""
    row: dict[str, float] = {"step": 0, "tokens": 0}
    for name, each in found.items():
        for source, loss in each["losses"].items():
            key = "val/loss" if name == "result" else f"merge/{name}/val_loss"
            row[f"{key}/{source}" if source else key] = loss
        for task, evaluation in each["tasks"].items():
            for what in ("greedy", "pass@1"):
                key = f"eval/{task}/{what}" if name == "result" else f"merge/{name}/{task}/{what}"
                row[key] = evaluation["metrics"][f"eval/{task}/{what}"]
    losses = [each["losses"][""] for name, each in found.items() if name.startswith("parent_")]
    row["merge/barrier"] = row["val/loss"] - fmean(losses)
    row["merge/normalised_accuracy"] = fmean(
        row[f"eval/{task}/pass@1"] / max(row[f"merge/{name}/{task}/pass@1"] for name in found if name[:6] == "parent")
        for task in TASKS
    )
    return row


def merge_run(
    root: Path,
    number: int,
    parents: Sequence[tuple[str, int]],
    *,
    seed: int = 0,
    options: dict[str, Any],
    rise: float = 0.0,
    apart: float = 0.0,
    related: bool = True,
    ceiling: tuple[str, int] | None = None,
    layers: int = 3,
) -> Path:
    """One finished merge; parent n is skilled at task n.

    rise: what the result's loss is above the chord; apart: how unlike the parents are.
    options: dotted fields of its config, with `merge` for the method.
    """
    folder, weight = f"runs/countdown-dense-merge-h{number:010x}", options.get("merge.weight", 0.5)
    count = len(parents)
    shares = [1 - weight, weight] if count == 2 else [1 / count] * count
    ends = [measured((0.9 - 0.4 * n / count, 0.5 + 0.4 * n / count), 1.0 + 0.2 * n, seed) for n in range(count)]
    loss = sum(share * end["losses"][""] for share, end in zip(shares, ends, strict=True)) + rise
    found = {f"parent_{n}": end for n, end in enumerate(ends)}
    if ceiling is not None:
        found["ceiling"] = measured((0.95, 0.95), 0.8, seed)
    skills = [max(0.02, 0.5 + 0.3 * share - rise) for share in (shares[0], shares[-1])]
    found["result"] = measured(skills, loss + 0.02 * seed, seed)

    given = {**options, **({"stage.ceiling": run_of(ceiling)} if ceiling else {})}
    words = " ".join(f"{key}={value}" for key, value in given.items())
    command = f"rlx stage=merge task=countdown {words} seed={seed} 'merge.models=[{','.join(map(run_of, parents))}]'"
    run = write_run(root, folder, "merge", seed, command, [], FLOPS["merge"])
    record = {"stage": "merge", "seed": seed, "command": command, "options": {"merge": options["merge"]}}
    record["parents"] = [
        {"reference": run_of(parent), "folder": f"{run_of(parent)}/checkpoints/step-000060", "run": run_of(parent)}
        for parent in parents
    ]
    write_json(run / "run.json", record)
    models = [run_of(parent) for parent in parents]
    write_config(
        run,
        {
            "seed": seed,
            "stage.ceiling": None,
            **{k: v for k, v in given.items() if k != "merge"},
            "merge.models": models,
        },
    )
    pairs = []
    for one in range(count):
        for other in range(one + 1, count):
            low, high = ends[one]["losses"][""], ends[other]["losses"][""]
            way = [low + (high - low) * x + 4 * apart * x * (1 - x) for x in np.linspace(0, 1, 5)]
            pair = {"parents": [one, other], "cosine": 0.8 - apart / 3, "path": way, "barrier_height": apart}
            cka = [0.99 - apart * (0.05 + 0.1 * layer) for layer in range(layers)]
            pairs.append({**pair, "convexity_gap": apart, "cka": cka})
    write_json(
        run / "merge.json",
        {
            "base": f"runs/countdown-dense-pretrain-h00000000ff/seed{seed}/checkpoints/step-000060"
            if related
            else None,
            "models": models,
            "unrelated": [] if related else [[0, n] for n in range(1, count)],
            "likeness": {"of": "differences" if related else "weights", "norms": [1.0] * count, "pairs": pairs},
        },
    )
    write_lines(run / "metrics.jsonl", [row_of(found) | {"flops/total": FLOPS["merge"], "wall": 0.8}])
    first, *others = found["result"]["tasks"]
    rest = {task: found["result"]["tasks"][task] for task in others}
    beside = {name: {"reference": None, "tasks": each["tasks"]} for name, each in found.items() if name != "result"}
    write_json(run / "eval.json", {**found["result"]["tasks"][first], "tasks": rest, "models": beside})
    return run


def sweep(
    root: Path,
    parents: Sequence[str],
    *,
    first: int = 0,
    methods: Sequence[str] = ("linear", "slerp", "ties"),
    weights: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    seeds: int = 1,
    rise: float = 0.1,
    related: bool = True,
    ceiling: str | None = None,
) -> None:
    """A run for every method, weight and seed, from `first` numbers on; parents of the merge's own seed."""
    for m, method in enumerate(methods):
        for w, weight in enumerate(weights):
            for seed in range(seeds):
                merge_run(
                    root, first + m * len(weights) + w, [(parent, seed) for parent in parents], seed=seed,
                    options={"merge": method, "merge.weight": weight}, rise=(4 + m) * rise * weight * (1 - weight),
                    apart=rise, related=related, ceiling=(ceiling, seed) if ceiling else None,
                )  # fmt: skip
