"""stage.max_flops, match_flops: a run ends with the first step at or past its budget, by the ledger, wherever it was
stopped."""

import signal

import pytest

from rlx.runs.checkpoints import prune
from rlx.runs.metrics import MetricsLog
from rlx.signals import stop
from rlx.stages.modules import loop
from rlx.stages.training import TrainingConfig
from tests.stages.runs import PRETRAIN, digest, place, rl, rows, sft

COSINE = ("schedule=cosine", "schedule.floor=0", "schedule.warmup_steps=2", "stage.val_every=0")


def spent(row: dict) -> float:
    return row["flops/train"] + row["flops/rollout"]


@pytest.fixture
def start(door):
    return place(door(*PRETRAIN, "runs_dir=start", "stage.steps=4").out)


def command(kind: str, start, budget: float) -> list[str]:
    of, steps = (rl, 200) if kind == "rl" else (sft, "null")
    return of(start, *COSINE, f"stage.max_flops={budget}", f"stage.steps={steps}")


@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_the_last_step_is_the_first_at_or_past_the_budget(door, start, monkeypatch, kind):
    cost = spent(rows(place(door(*command(kind, start, 1.0)).out))[0])
    arguments = command(kind, start, 9.5 * cost)
    whole = place(door(*arguments, "runs_dir=whole").out)
    found = rows(whole)
    assert spent(found[-2]) < 9.5 * cost <= spent(found[-1]) and len(found) > 5
    rates = [row["train/lr"] for row in found]
    assert rates[1] == max(rates) and 0 < rates[-1] < 0.15 * rates[1]  # the schedule ends with the budget
    append = MetricsLog.append

    def stopping(log, row):
        append(log, row)
        if row.get("step") in (3, 4):
            stop.signal = signal.SIGTERM

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "append", stopping)
        assert door(*arguments).code == door(*arguments).code == 75
    run = place(door(*arguments).out)
    assert rows(run) == found and digest(run) == digest(whole)


@pytest.mark.parametrize("share", [0.6, 1.5])
def test_an_estimate_that_is_wrong_moves_neither_the_end_nor_the_schedule_far(door, start, monkeypatch, share):
    """How many steps a budget pays for is guessed from a few batches; the ledger has the last word."""
    cost = spent(rows(place(door(*command("sft", start, 1.0)).out))[0])
    total = TrainingConfig.total_steps
    monkeypatch.setattr(TrainingConfig, "total_steps", lambda *given: round(share * total(*given)))
    found = rows(place(door(*command("sft", start, 20 * cost)).out))
    assert spent(found[-2]) < 20 * cost <= spent(found[-1])
    assert found[-1]["train/lr"] < 0.05 * found[1]["train/lr"] < found[-3]["train/lr"]


def test_what_is_measured_is_not_charged(door, start):
    cost = spent(rows(place(door(*command("sft", start, 1.0)).out))[0])
    arguments = command("sft", start, 3.5 * cost)
    plain, measured = (rows(place(door(*arguments, f"stage.val_every={n}").out)) for n in (0, 1))
    assert len(plain) == len(measured) == 4 and plain[-1]["flops/eval"] == 0 < measured[-1]["flops/eval"]


def test_a_kill_after_the_last_step_adds_none(door, start, monkeypatch):
    """That the budget is used up is a part of the state: the ledger alone is looked at after a step."""
    cost = spent(rows(place(door(*command("sft", start, 1.0)).out))[0])
    arguments = command("sft", start, 2.5 * cost)

    def killing(run, plan, *, ended):
        if ended:
            raise KeyboardInterrupt
        return prune(run, plan, ended=ended)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "prune", killing)
        done = door(*arguments)
    run = place(done.out)
    found, weights = rows(run), digest(run)
    assert done.code == 130 and len(found) == 3 and "step-000003" in weights
    assert door(*arguments).code == 0
    assert rows(run) == found and digest(run)["step-000003"] == weights["step-000003"]


def test_steps_end_a_run_before_its_budget(door, start):
    cost = spent(rows(place(door(*command("sft", start, 1.0)).out))[0])
    found = rows(place(door(*sft(start, *COSINE, f"stage.max_flops={30 * cost}", "stage.steps=7")).out))
    assert len(found) == 7 and found[-1]["train/lr"] < 0.2 * found[1]["train/lr"]


@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_an_rl_run_ends_with_what_another_run_took(door, start, kind):
    """Its own rollouts count, and those of the run that is matched."""
    other = place(door(*command(kind, start, 1e12), "stage.steps=5", "runs_dir=other").out)
    budget, limit = spent(rows(other)[-1]), "algorithm.group_size=2"
    matched = place(door(*rl(start, *COSINE, "stage.steps=200", f"stage.match_flops={other}", limit)).out)
    found = rows(matched)
    assert spent(found[-2]) < budget <= spent(found[-1]) and len(found) < 200
    assert found[-1]["train/lr"] < 0.15 * found[1]["train/lr"]
    assert len(rows(place(door(*rl(start, *COSINE, f"stage.match_flops={other}", limit)).out))) == 6  # stage.steps
    second = place(door(*rl(start, *COSINE, "stage.steps=200", f"stage.max_flops={budget}", limit)).out)
    assert matched != second and rows(second) == found  # the run that is matched is in the name of the place


def test_a_run_to_match_must_be_there_and_alone(door, start):
    done = door(*rl(start, "stage.match_flops=runs/none"))
    assert done.code == 2 and "stage.match_flops=runs/none must be a finished run" in done.err
    done = door(*rl(start, f"stage.match_flops={start}", "stage.max_flops=1e9"))
    assert done.code == 2 and "are both given" in done.err
    (start / "status").write_text('{"state": "stopped"}')
    done = door(*rl(f"{start}@4", f"stage.match_flops={start}"))
    assert done.code == 2 and "must be a finished run" in done.err
