"""What was measured, as alarms, as a metrics row and as eval.json."""

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean
from typing import Any

from rlx.runs.files import EVAL, write_json
from rlx.runs.run import Run

WARN = 0.2
"""Nats of convexity gap above which the parents are said to lie in different basins."""


def basins(check: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """A sentence for each pair of parents with a convexity gap above `WARN`."""
    told = []
    for pair in check["pairs"]:
        gap = pair.get("convexity_gap", 0.0)
        one, other = (names[number] for number in pair["parents"])
        if not isfinite(gap):
            told.append(f"on the way from {one} to {other} the held-out loss is not a finite number")
        elif gap > WARN:
            told.append(
                f"on the way from {one} to {other} the held-out loss rises {gap:.2f} nats above the straight line "
                "between two of its points: they lie in different basins"
            )
    return told


def summary(check: Mapping[str, Any]) -> dict[str, float]:
    """What a metrics row says of the comparison: means over pairs, and the worst way."""
    pairs = check["pairs"]
    if not pairs:
        return {}
    found = {"merge/cosine": fmean([pair["cosine"] for pair in pairs])}
    layers = [value for pair in pairs for value in pair["cka"] if value == value]
    if layers:
        found["merge/cka"] = fmean(layers)
    for name in ("barrier_height", "convexity_gap"):
        values = [pair[name] for pair in pairs if name in pair]
        if values:
            found[f"merge/{name}"] = max(values)
    return found


def rows_of(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What a metrics row says of the models: the result's under the names of other stages, the others' under merge/."""
    result = found["result"]
    parents = [each for name, each in found.items() if name.startswith("parent_")]
    row = {"val/loss" + (f"/{name}" if name else ""): loss for name, loss in result["losses"].items()}
    for evaluation in result["tasks"].values():
        row.update(evaluation["metrics"])
    for name, each in found.items():
        if name == "result":
            continue
        row.update({f"merge/{name}/val_loss" + (f"/{of}" if of else ""): x for of, x in each["losses"].items()})
        for task, evaluation in each["tasks"].items():
            for what in ("greedy", "pass@1"):
                row[f"merge/{name}/{task}/{what}"] = evaluation["metrics"][f"eval/{task}/{what}"]
    row["merge/barrier"] = result["losses"][""] - fmean([each["losses"][""] for each in parents])
    ratios = []
    for task, evaluation in result["tasks"].items():
        best = max(each["tasks"][task]["metrics"][f"eval/{task}/pass@1"] for each in parents)
        if best > 0:
            ratios.append(evaluation["metrics"][f"eval/{task}/pass@1"] / best)
    if ratios:
        row["merge/normalised_accuracy"] = fmean(ratios)
    return row


def write_eval(run: Run, found: Mapping[str, Mapping[str, Any]], references: Sequence[str]) -> None:
    """eval.json: the result's evaluation on the first task, as stage=eval has it; its others under `tasks`, and those
    of the other models under `models`."""
    tasks = list(found["result"]["tasks"])
    if not tasks:
        return
    first = found["result"]["tasks"][tasks[0]]
    others = {name: found["result"]["tasks"][name] for name in tasks[1:]}
    models = {
        name: {"reference": references[int(name[7:])] if name.startswith("parent_") else None, "tasks": each["tasks"]}
        for name, each in found.items()
        if name != "result"
    }
    write_json(run.path / EVAL, {**first, "tasks": others, "models": models})
