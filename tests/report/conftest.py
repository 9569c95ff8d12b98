"""Made-up plans: run directories as rlx writes them, from a seeded generator and no model."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

SKILL = {"pretrain": 0.06, "sft": 0.34, "rl": 0.58, "merge": 0.47}
LABELS = {"pretrain": "Pretrained", "sft": "SFT", "rl": "RL (GRPO)", "merge": "Merge, linear"}
PARENTS = {"pretrain": [], "sft": ["pretrain"], "rl": ["sft"], "merge": ["sft", "rl"]}
FLOPS = {"pretrain": 9.1e13, "sft": 2.6e13, "rl": 1.3e14, "merge": 2.1e9, "eval": 6.0e11}
STEPS = {"pretrain": 600, "sft": 300, "rl": 120, "merge": 0}


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_folder(stage: str, of: str = "") -> str:
    return f"runs/countdown-dense-{stage}-{(of or stage)[:2]}3f9c1d"


def lineage(stage: str) -> float:
    """A stage's FLOPs and those of its ancestors, each counted once."""
    return sum(FLOPS[each] for each in ancestors(stage))


def ancestors(stage: str) -> set[str]:
    return {stage}.union(*(ancestors(parent) for parent in PARENTS[stage]))


def loss_rows(stage: str, rng: np.random.Generator) -> list[dict]:
    """Training rows of pretrain and sft: losses that fall."""
    rows, steps = [], STEPS[stage]
    level = 1.1 if stage == "pretrain" else 0.55
    for step in range(10, steps + 1, 5):
        loss = level + 2.2 * np.exp(-step / (steps / 6)) + 0.04 * rng.normal()
        share = step / steps
        row = {"step": step, "tokens": 8192 * step, "flops/total": FLOPS[stage] * share, "wall": 130 * share}
        row["train/loss"] = float(loss)
        if step % 50 == 0:
            row["val/loss"] = float(loss + 0.05)
        rows.append(row)
    return rows


def rl_rows(rng: np.random.Generator) -> list[dict]:
    """Training rows of rl: rewards that rise, entropy that falls."""
    rows = []
    for step in range(1, STEPS["rl"] + 1):
        share = step / STEPS["rl"]
        rise = 1 / (1 + np.exp(-6 * (share - 0.35)))
        row = {"step": step, "tokens": 16384 * step, "flops/total": FLOPS["rl"] * share, "wall": 410 * share}
        row |= {"reward": 0.3 + 0.3 * rise + 0.02 * rng.normal(), "reward_std": 0.42 - 0.1 * rise}
        row |= {"frac_reward_zero_std": 0.3 - 0.15 * rise, "entropy": 0.8 * np.exp(-share) + 0.01 * rng.normal()}
        row |= {"kl": 0.02 * share, "completions/mean_length": 38 + 9 * share + rng.normal()}
        row["completions/clipped_ratio"] = max(0.0, 0.08 - 0.07 * share)
        row |= {"outcomes/correct": 0.3 + 0.3 * rise, "outcomes/wrong": 0.7 - 0.3 * rise, "outcomes/illegal": 0.0}
        row |= {
            "measures/format_code": 0.2 + 0.6 * rise,
            "measures/format_text": 0.8 - 0.6 * rise,
            "measures/cells": 0.5,
        }
        if step % 20 == 0:
            row["eval/countdown/greedy"] = 0.36 + 0.28 * rise
        rows.append(row)
    return rows


def followed_rows(texts: dict[int, str], problems: int = 2, right_from: int = 1000) -> list[dict]:
    """Rows of samples.jsonl of an rl run: problems followed through steps, right from one of these on."""
    rows = []
    for step, text in texts.items():
        right = step >= right_from
        told = {"verdict": "correct" if right else "illegal", "detail": "" if right else "6 is not there"}
        told |= {"reward": float(right), "parts": {"verifier": float(right)}, "length": len(text) + 1, "finished": True}
        for number in range(problems):
            known = {"step": step, "kind": "followed", "id": f"val-{number}", "prompt": f"24: {number} 4 6\n"}
            rows.append({**known, "completion": text, **told})
    return rows


def evaluation(of: str, seed: int, problems: int = 200, n: int = 8) -> dict:
    """What an eval run writes: problems are as hard for every model."""
    hard = np.random.default_rng(7).normal(0, 1.3, size=problems)
    rng = np.random.default_rng([seed, *of.encode()])
    skill = np.log(SKILL[of] / (1 - SKILL[of])) + 0.12 * rng.normal()
    rows = []
    for index in range(problems):
        numbers = 3 + index % 3
        chance = 1 / (1 + np.exp(-(skill + hard[index] - 0.8 * (numbers - 4))))
        difficulty = {"numbers": numbers, "target": int(10 + 37 * index % 90)}
        correct, greedy = int(rng.binomial(n, chance)), bool(rng.random() < chance)
        rows.append({"id": f"test-{index}", "n": n, "correct": correct, "greedy": greedy, "difficulty": difficulty})
    right = sum(row["correct"] for row in rows) / (n * problems)
    parts = {"wrong": 0.55, "illegal": 0.25, "malformed": 0.15, "truncated": 0.05}
    return {
        "task": "countdown",
        "split": "test",
        "n_samples": n,
        "n_problems": problems,
        "k": [1, 2, 4, 8],
        "decode": {"temperature": 1.0, "max_tokens": 96},
        "baseline": "adds all numbers",
        "metrics": {
            "eval/countdown/pass@1": right,
            "eval/countdown/mean_length": 41.5,
            "eval/countdown/chance": 0.013,
            "eval/countdown/baseline": 0.031,
        },
        "intervals": {"eval/countdown/pass@1": [right - 0.03, right + 0.03]},
        "problems": rows,
        "outcomes": {"correct": right, **{kind: (1 - right) * share for kind, share in parts.items()}},
    }


def write_run(root: Path, folder: str, stage: str, seed: int, command: str, parents: list[str], total: float) -> Path:
    """A finished run without metrics."""
    run = root / folder / f"seed{seed}"
    own = FLOPS[stage]
    write_json(
        run / "run.json",
        {
            "stage": stage,
            "task": "countdown",
            "model": "dense",
            "seed": seed,
            "command": command,
            "steps": STEPS.get(stage, 0),
            "wall_s": {"pretrain": 131.2, "sft": 64.0, "rl": 411.0, "merge": 0.8}.get(stage, 12.5),
            "tokens": {"pretrain": 4_915_200, "sft": 2_457_600, "rl": 1_966_080}.get(stage, 0),
            "flops": {"train": own, "total": own, "lineage": total},
            "parents": [{"run": f"{parent}/seed{seed}", "step": 1} for parent in parents],
            "git": {"commit": "4f1c9a2be77d", "dirty": seed == 1},
            "versions": {"rlx": "0.1.0", "torch": "2.9.0"},
            "hardware": {"cpu": "2 cores"},
        },
    )
    write_json(run / "status", {"state": "finished", "reason": ""})
    return run


def manifest_row(stage: str, seed: int, folder: str, parents: list[str], of: str = "") -> dict:
    name = f"eval_{of}" if of else stage
    label = f"Evaluation of {LABELS[of]}" if of else LABELS[stage]
    init = "".join(f" init_from={parent}/seed{seed}" for parent in parents)
    command = f"rlx stage={stage} task=countdown model=dense scale=cpu seed={seed}{init}"
    row = {"name": name, "label": label, "seed": seed, "run": f"{folder}/seed{seed}", "stage": stage}
    row |= {"parents": [f"{parent}/seed{seed}" for parent in parents], "command": command, "level": len(parents)}
    return row | ({"of": of} if of else {})


CLAIMS = [
    {
        "claim": "RL raises held-out pass@1 over SFT by at least ten points.",
        "quantity": "pass@1, RL - SFT",
        "value": 19.6,
        "unit": "points",
        "interval": [16.0, 23.2],
        "threshold": "> 10 points",
        "verdict": "holds",
        "note": "Paired over 200 problems and 3 seeds.",
        "command": "rlx stage=study study=quickstart scale=cpu",
    },
    {
        "claim": "RL does not raise pass@8: it sharpens what SFT can already do.",
        "quantity": "pass@8, RL - SFT",
        "value": 9.4,
        "unit": "points",
        "interval": [6.0, 12.9],
        "threshold": "< 2 points",
        "verdict": "fails",
        "note": "At this scale RL also solves problems that SFT never solved in 8 samples.",
        "command": "rlx stage=study study=quickstart scale=cpu",
    },
    {
        "claim": "Averaging SFT and RL weights stays within two points of the better parent.",
        "quantity": "pass@1, merge - RL",
        "value": -9.8,
        "unit": "points",
        "interval": None,
        "threshold": "> -2 points",
        "verdict": "undecided",
        "command": "rlx stage=study study=quickstart scale=cpu",
    },
]


def make_plan(root: Path, seeds: int = 3, stages: tuple[str, ...] = tuple(SKILL), name: str = "quickstart") -> Path:
    """A study of pretrain, sft, rl, merge and an evaluation of each; returns the plan's folder."""
    rows = []
    for stage in stages:
        folder, parents = run_folder(stage), [run_folder(parent) for parent in PARENTS[stage]]
        evals = run_folder("eval", stage)
        for seed in range(seeds):
            row = manifest_row(stage, seed, folder, parents)
            checked = manifest_row("eval", seed, evals, [folder], stage)
            rows += [row, checked]
            run = write_run(root, folder, stage, seed, row["command"], parents, lineage(stage))
            rng = np.random.default_rng([seed, len(stage)])
            if stage != "merge":
                write_lines(run / "metrics.jsonl", rl_rows(rng) if stage == "rl" else loss_rows(stage, rng))
            run = write_run(root, evals, "eval", seed, checked["command"], [folder], lineage(stage) + FLOPS["eval"])
            write_json(run / "eval.json", evaluation(stage, seed))
    plan = root / "runs" / "plans" / name
    write_lines(plan / "manifest.jsonl", sorted(rows, key=lambda row: (row["stage"] == "eval", rows.index(row))))
    write_json(plan / "claims.json", CLAIMS)
    return plan


def write_config(run: Path, fields: dict[str, object]) -> None:
    """config.yaml of dotted fields, as rlx writes it."""
    tree: dict = {}
    for key, value in fields.items():
        *above, last = key.split(".")
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def make_arm(root: Path, stage: str, number: int, seeds: int = 2, parent: str = "", **options: object) -> str:
    """Run directories of one config; options are dotted fields with `__` for the dots. Returns the arm's folder."""
    fields = {name.replace("__", "."): value for name, value in options.items()}
    folder = f"runs/countdown-dense-{stage}-h{number:010x}"
    words = " ".join(f"{key}={value}" for key, value in fields.items())
    for seed in range(seeds):
        init = f" init_from={parent}/seed{seed}" if parent else ""
        command = f"rlx stage={stage} task=countdown {words} seed={seed}{init}"
        run = write_run(root, folder, stage, seed, command, [parent] if parent else [], FLOPS[stage])
        start = f"{parent}/seed{seed}" if parent else None
        write_config(run, {"seed": seed, "init_from": start, "optim.beta1": 0.9, "trainer.threads": seed, **fields})
        rng = np.random.default_rng([seed, number])
        if stage in ("pretrain", "sft", "rl"):
            rows = rl_rows(rng) if stage == "rl" else loss_rows(stage, rng)
            write_lines(
                run / "metrics.jsonl", [row | {"train/loss": row.get("train/loss", 0) + number} for row in rows]
            )
        elif stage == "eval":
            write_json(run / "eval.json", evaluation("sft", seed, problems=40))
    return folder


@pytest.fixture(scope="session")
def finished_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of 24 finished runs over 3 seeds; tests read it and do not change it."""
    return make_plan(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def plan_maker(tmp_path: Path) -> Callable[..., Path]:
    """Makes a plan that a test may change."""
    return lambda **options: make_plan(tmp_path, **options)
