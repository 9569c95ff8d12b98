"""init.state=all: two runs, one after the other, are worth one."""

import random
from pathlib import Path

import pytest
import torch

from rlx.runs.checkpoints import load_trainer_state
from tests.stages.runs import PRETRAIN, digest, merge, place, record, rl, rows, sft

LONG = (*PRETRAIN, "schedule=constant", "schedule.warmup_steps=5", "checkpoint.every=6")
SHORT = (*LONG, "stage.steps=6")
ON = "init.state=all"
OWN = ("tokens", "flops/train", "flops/rollout", "flops/verify", "flops/eval", "flops/total")
"""Columns that every run counts from 0."""


def state(run: Path, step: int) -> dict:
    """What a checkpoint says of the source, of the module and of the generators."""
    own = load_trainer_state(run / "checkpoints" / f"step-{step:06}")["run"]
    return {name: own[name] for name in ("step", "source", "module", "generators")}


def same(first: object, second: object) -> bool:
    """Equal, tensors included."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    return first == second


def own_of(found: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in OWN} for row in found]


def test_two_pretrainings_are_one(door, monkeypatch):
    """Whatever a step draws."""
    from rlx.stages.modules.step import StepModule

    update = StepModule.update
    monkeypatch.setattr(StepModule, "update", lambda *given: (torch.rand(1), random.random(), update(*given))[2])
    whole = place(door(*LONG, "runs_dir=whole").out)
    first = place(door(*SHORT).out)
    done = door(*LONG, f"init_from={first}", ON)
    assert done.code == 0, done.err
    second = place(done.out)
    assert digest(second)["step-000012"] == digest(whole)["step-000012"]
    assert own_of(rows(second)) == own_of(rows(whole)[6:])
    assert same(state(second, 12), state(whole, 12))
    both, one = rows(second)[-1], rows(whole)[-1]
    assert rows(first)[-1]["tokens"] + both["tokens"] == one["tokens"]
    assert rows(first)[-1]["flops/train"] + both["flops/train"] == one["flops/train"]
    assert record(second)["flops"]["lineage"] == record(first)["flops"]["total"] + record(second)["flops"]["total"]
    assert record(second)["depth"] == record(first)["depth"] == 1
    anew = place(door(*LONG, f"init_from={first}").out)
    assert anew != second and digest(anew)["step-000012"] != digest(whole)["step-000012"]


def test_two_rl_runs_are_one_with_one_reference(door):
    """The KL is to the policy that the first of them began from."""
    start = place(door(*PRETRAIN, "runs_dir=start", "stage.steps=4").out)
    more = ("schedule=constant", "algorithm.kl_coefficient=0.1", "algorithm.minibatches=2", "stage.val_every=0")
    whole = place(door(*rl(start, *more, "runs_dir=whole")).out)
    first = place(door(*rl(start, *more, "stage.steps=4")).out)
    again = rl(first, *more, ON)
    second = place(door(*again).out)
    assert own_of(rows(second)) == own_of(rows(whole)[4:]) and rows(second)[0]["kl"] > 0
    assert digest(second)["step-000006"] == digest(whole)["step-000006"]
    assert same(state(second, 6), state(whole, 6))
    third = place(door(*rl(second, *more, ON, "stage.steps=8")).out)
    assert record(third)["origin"] == record(whole)["origin"] == str((start / "checkpoints/step-000004").absolute())


def test_a_continued_rl_run_says_its_own_alarms(door):
    """Those that its parent has said too."""
    start = place(door(*PRETRAIN, "runs_dir=start", "stage.steps=4").out)
    dead = ("algorithm.rewards.truncated=0", "algorithm.rewards.malformed=0", "stage.preflight_problems=0")
    first = place(door(*rl(start, *dead, "stage.steps=24", "stage.val_every=0", "schedule=constant")).out)
    second = place(door(*rl(first, *dead, "stage.steps=26", "stage.val_every=0", "schedule=constant", ON)).out)
    assert record(first)["alarms"] and record(second)["alarms"] == record(first)["alarms"]


def test_a_continued_run_goes_on_where_it_stopped(door, monkeypatch):
    first = place(door(*SHORT).out)
    arguments = (*LONG, f"init_from={first}", ON, "checkpoint.every=2", "checkpoint.keep=all")
    whole = place(door(*arguments, "runs_dir=whole").out)
    assert list(digest(whole)) == ["step-000008", "step-000010", "step-000012"]
    from rlx.stages.modules.step import StepModule

    update, made = StepModule.update, []

    def breaking(module, *given):
        made.append(module.position)
        if len(made) in (1, 5):
            raise KeyboardInterrupt
        return update(module, *given)

    with monkeypatch.context() as patch:
        patch.setattr(StepModule, "update", breaking)
        assert door(*arguments).code == 130
        assert door(*arguments).code == 130
    assert made == [6, 6, 7, 8, 9]
    run = place(door(*arguments).out)
    assert rows(run) == rows(whole) and digest(run) == digest(whole)
    assert record(run)["flops"] == record(whole)["flops"]


def test_a_branch_has_its_own_rates_and_its_place_on_a_longer_schedule(door):
    first = place(door(*SHORT).out)
    longer = (*PRETRAIN, f"init_from={first}", ON, "schedule=cosine", "schedule.warmup_steps=0", "optim.lr=2e-3")
    found = rows(place(door(*longer, "schedule.floor=0").out))
    from rlx.optim.schedules.cosine import CosineConfig

    factor = CosineConfig(warmup_steps=0, floor=0.0).factor
    assert [row["train/lr"] for row in found] == [2e-3 * factor(step, 12) for step in range(6, 12)]


def test_a_budget_is_the_new_runs_own(door):
    first = place(door(*SHORT).out)
    cost = rows(first)[-1]["flops/train"] / 6
    more = ("schedule=cosine", "schedule.floor=0", "stage.steps=null", f"stage.max_flops={2.5 * cost}")
    found = rows(place(door(*LONG, f"init_from={first}", ON, *more).out))
    assert [row["step"] for row in found] == [7, 8, 9]
    assert 0 < found[-1]["train/lr"] < 0.2e-3 < found[0]["train/lr"]  # it ends with the schedule of nine steps


@pytest.fixture
def first(door) -> Path:
    return place(door(*SHORT).out)


WRONG = {
    "no parent": (lambda first: [*LONG, ON], "init_from=<run>"),
    "random": (lambda first: [*LONG, ON, "init_from=random"], "init_from=<run>"),
    "another stage": (lambda first: sft(first, ON, "stage.steps=12"), "stage=pretrain"),
    "another optimizer": (lambda first: [*LONG, ON, f"init_from={first}", "optim=adamw"], "optim=muon"),
    "another seed": (lambda first: [*LONG, ON, f"init_from={first}", "seed=1"], "seed=0"),
    "no more steps": (lambda first: [*SHORT, ON, f"init_from={first}"], "stage.steps=12"),
    "a stage without training": (lambda first: merge(first, first, ON), "does not use init"),
}


def test_what_cannot_go_on_is_one_line_and_nothing_written(door, first):
    for what, (command, expected) in WRONG.items():
        done = door(*command(first))
        assert done.code == 2 and expected in done.err and len(done.err.strip().splitlines()) == 1, (what, done)
    assert list(Path("runs").glob("*/*")) == [first]


def test_a_parent_without_a_state_is_one_line(door, first):
    merged = place(door(*merge(first, first)).out)
    done = door(*LONG, ON, f"init_from={merged}")
    assert done.code == 2 and "has no trainer/state.pt" in done.err and "init.state=weights" in done.err
    for path in sorted((first / "checkpoints/step-000006").rglob("*"), reverse=True):
        if path.parent.name == "trainer":
            path.unlink()
    done = door(*LONG, ON, f"init_from={first}")
    assert done.code == 2 and "trainer/state.pt is missing" in done.err and "init.state=weights" in done.err
    assert door(*sft(first)).code == 0  # its weights are whole
