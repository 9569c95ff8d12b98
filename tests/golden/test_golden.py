"""Short seeded runs of every stage against the numbers that are kept here: a changed curve is a decision.

    RLX_WRITE_GOLDEN=1 python -m pytest tests/golden

writes the numbers anew; whoever does it names the change, before and after, under "Changes results" in CHANGELOG.md.

Tolerances leave room for another machine's rounding and for little else. Weights moved by a millionth of themselves
before each stage, more than sums in another order do, move the losses by 1e-6 and the gradients' norms by 3e-4; moved
by a ten-thousandth, by 4e-5 and 3e-2. Runs are short enough to stay so. A sampled token changes only where its draw
falls within rounding of a boundary: not once in these runs at either size, so the first iteration of RL is compared
as it is, and the later ones, which what is learnt would carry it into, are allowed three samples of 32.
"""

import json
import os
from pathlib import Path

import pytest

from tests.conftest import COUNTDOWN, SMALL
from tests.stages.runs import place

HERE = Path(__file__).parent
WRITE = "RLX_WRITE_GOLDEN"
ANEW = (
    f"if results were meant to change, write the curves anew ({WRITE}=1 python -m pytest tests/golden) and name the "
    'change under "Changes results" in CHANGELOG.md'
)
TRAIN = (*COUNTDOWN, *SMALL, "stage.batch_tokens=512", "stage.steps=20", "stage.val_every=5", "optim.lr=1e-2",
         "schedule.warmup_steps=5")  # fmt: skip
COMMANDS = {
    "pretrain": [*TRAIN, "stage=pretrain", "optim=adamw"],
    "sft": [*TRAIN, "stage=sft", "init_from={pretrain}"],
    "rl": [*COUNTDOWN, "trainer.threads=1", "stage=rl", "algorithm=grpo", "init_from={pretrain}", "stage.steps=10",
           "stage.prompts=4", "algorithm.group_size=8", "decode.max_tokens=12", "stage.val_every=0", "optim.lr=3e-3",
           "schedule.warmup_steps=2", "algorithm.rewards.malformed=1"],
    "merge": [*COUNTDOWN, "trainer.threads=1", "stage=merge", "merge=linear", "merge.models=[{pretrain},{sft}]",
              "stage.val_tokens=512", "stage.problems=0", "stage.compare=false"],
    "eval": [*COUNTDOWN, "trainer.threads=1", "stage=eval", "init_from={sft}", "stage.problems=8", "stage.samples=4",
             "decode.max_tokens=24"],
}  # fmt: skip
"""In RL whoever ends an answer is rewarded: what twenty steps of pretraining can learn."""
EXACT = (1e-6, 1e-6)
CURVE = {"train/loss": (3e-4, 0), "train/grad_norm": (1e-2, 0), "train/lr": EXACT, "val/loss": (3e-4, 0)}
ALLOWED: dict[str, dict[str, tuple[float, float]]] = {
    "pretrain": CURVE,
    "sft": CURVE,
    "rl": {
        **dict.fromkeys(("reward", "reward_std", "frac_reward_zero_std", "completions/mean_length"), EXACT),
        "entropy": (3e-4, 0), "train/grad_norm": (1e-2, 0), "train/loss": (0, 1e-5), "train/lr": EXACT,
    },
    "merge": {"val/loss": (3e-4, 0), "merge/parent_0/val_loss": (3e-4, 0), "merge/parent_1/val_loss": (3e-4, 0)},
    "eval": {
        "eval/countdown/greedy": (0, 1 / 8), "eval/countdown/pass@1": (0, 1 / 32), "eval/countdown/pass@4": (0, 1 / 8),
        "eval/countdown/mean_length": (0, 24 / 32), "malformed": (0, 1 / 32), "truncated": (0, 1 / 32),
    },
}  # fmt: skip
"""By metric of a stage: the difference allowed, relative and absolute; those of rl are for its first iteration."""
LATER = {"reward": (0, 3 / 32), "completions/mean_length": (0, 1), "entropy": (1e-2, 0), "train/lr": EXACT}
"""The same for the later iterations of rl."""


@pytest.fixture
def runs(door, tmp_path_factory) -> dict[str, Path]:
    """The run of every stage, made by the first test that asks."""
    made: dict[str, Path] = {}
    for stage, arguments in COMMANDS.items():
        folder = tmp_path_factory.getbasetemp() / "golden" / stage
        there = list(folder.glob("*/seed0"))
        if not there:
            done = door(*(text.format(**made) for text in arguments), f"runs_dir={folder}")
            assert done.code == 0, done.err
            there = [place(done.out)]
        made[stage] = there[0]
    return made


def curves(run: Path, names: list[str]) -> dict[str, list[float | None]]:
    """Metrics of a run row by row; None where a row has it not."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    if (run / "eval.json").is_file():
        rows[0].update(json.loads((run / "eval.json").read_text())["outcomes"])
    short = [{name: float(f"{row[name]:.8g}") for name in names if name in row} for row in rows]
    return {name: [row.get(name) for row in short] for name in names}


@pytest.mark.parametrize("stage", COMMANDS)
def test_the_curve_is_the_one_that_is_kept(runs, stage):
    found, file = curves(runs[stage], list(ALLOWED[stage])), HERE / f"{stage}.json"
    if os.environ.get(WRITE):
        file.write_text(json.dumps(found, indent=1) + "\n")
    kept = json.loads(file.read_text())
    assert kept.keys() == found.keys(), ANEW
    for name, values in kept.items():
        assert len(found[name]) == len(values), f"{stage} made {len(found[name])} rows, kept are {len(values)}; {ANEW}"
        assert any(value is not None for value in values), f"{name} is in no row"
        for row, (value, other) in enumerate(zip(values, found[name], strict=True)):
            allowed = LATER if stage == "rl" and row else ALLOWED[stage]
            if name in allowed:
                message = f"{stage}: {name} in row {row} is {other}, kept is {value}; {ANEW}"
                relative, absolute = allowed[name]
                assert (value is None) == (other is None), message
                assert value is None or abs(other - value) <= max(relative * abs(value), absolute), message


def test_the_kept_curves_show_something():
    """The losses fall and the reward rises, or they would not notice what they are kept for."""
    kept = {stage: json.loads((HERE / f"{stage}.json").read_text()) for stage in COMMANDS}
    for stage in ("pretrain", "sft"):
        assert kept[stage]["train/loss"][-1] < 0.97 * kept[stage]["train/loss"][0]
    reward = kept["rl"]["reward"]
    assert sum(reward[-3:]) > sum(reward[:3]) + 0.3
    assert kept["rl"]["train/grad_norm"][0] > 0 and 0 < kept["eval"]["malformed"][0] < 1
