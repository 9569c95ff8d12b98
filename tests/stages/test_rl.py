"""stage=rl: the sampled and the trained policy agree, and a run that cannot learn says so."""

import json

import pytest

from rlx.decoding.engine import Engine
from rlx.stages.modules.alarms import WINDOW, Alarms, conclusion, preflight
from tests.stages.runs import PRETRAIN, arithmetic_of, place, record, rl, rows


@pytest.fixture
def start(rlx):
    return place(rlx(*PRETRAIN, "runs_dir=start").out)


def test_rl_logs_what_people_look_for(rlx, start):
    done = rlx(*rl(start))
    assert done.code == 0, done.err
    run = place(done.out)
    found = rows(run)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    names = {"reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio",
             "entropy", "clip_ratio/low_mean", "sampling/sampling_logp_difference/mean", "flops/rollout"}  # fmt: skip
    assert names <= set(found[-1])
    assert max(row["sampling/sampling_logp_difference/mean"] for row in found) <= 1e-5
    assert max(row["sampling/sampling_logp_difference/max"] for row in found) <= 1e-4
    assert found[-1]["flops/rollout"] > 0 and any(row["train/grad_norm"] > 0 for row in found)
    sample = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    assert {"prompt", "completion", "verdict", "reward"} <= set(sample)
    assert "preflight" in done.out and "reward" in record(run)["conclusion"]


def test_groups_that_all_fail_are_called_out(rlx, start):
    done = rlx(*rl(start, "algorithm.rewards.truncated=0", "algorithm.rewards.malformed=0"))
    assert done.code == 0
    assert "cannot learn: no sample was right" in done.out and "reward did not move" in done.out


def test_epochs_and_minibatches_and_parts(rlx, start):
    one = rows(place(rlx(*rl(start)).out))
    parts = rows(place(rlx(*rl(start, "stage.micro_rows=3")).out))
    assert abs(one[0]["train/grad_norm"] - parts[0]["train/grad_norm"]) < 1e-4
    several = rows(place(rlx(*rl(start, "algorithm.epochs=2", "algorithm.minibatches=2")).out))
    assert several[0]["reward"] == one[0]["reward"] and several[-1]["train/loss"] != one[-1]["train/loss"]


def test_kl_to_the_start_is_zero_at_the_start(rlx, start):
    found = rows(place(rlx(*rl(start, "algorithm.kl_coefficient=0.1")).out))
    assert abs(found[0]["kl"]) < 1e-6 and found[-1]["kl"] > 0
    found = rows(place(rlx(*rl(start, "algorithm.kl_coefficient=0.1", "model.norm_eps=1")).out))
    assert abs(found[0]["kl"]) < 1e-6  # the reference has the same norms


def test_a_budget_of_operations_ends_the_run(rlx, start):
    first = rows(place(rlx(*rl(start)).out))[0]
    limit = 1.5 * (first["flops/train"] + first["flops/rollout"])
    assert len(rows(place(rlx(*rl(start, f"stage.max_flops={limit}")).out))) in (2, 3)


def row(**more):
    return {"reward": 0.5, "frac_reward_zero_std": 0.2, "entropy": 1.0, "completions/clipped_ratio": 0.0,
            "sampling/sampling_logp_difference/mean": 0.0, "rewards/verifier/mean": 0.5,
            "rewards/verifier/any_of_group": 0.9, **more}  # fmt: skip


def watch(rows_seen) -> str:
    alarms, said = Alarms(lr=3e-4), []
    for seen in rows_seen:
        said += alarms.check(seen)
    return " ".join(said)


def test_alarms_name_the_cause():
    assert watch([row()] * 100) == ""
    collapsed = watch([row(reward=0.3)] * WINDOW + [row(reward=0.01)] * WINDOW)
    assert "collapsed" in collapsed and "optim.lr=0.0003" in collapsed and "too high" in collapsed
    assert "no signal" in watch([row(reward=0.0, frac_reward_zero_std=1.0)] * WINDOW)
    assert "entropy" in watch([row(), row(entropy=0.05)])
    assert "decode.max_tokens" in watch([row(**{"completions/clipped_ratio": 1.0})])
    assert "off-policy" in watch([row(**{"sampling/sampling_logp_difference/mean": 0.05})])


def test_alarms_go_on_after_a_resume():
    first, second = Alarms(lr=1.0), Alarms(lr=1.0)
    for _ in range(WINDOW):
        first.check(row(reward=0.4))
    second.restore(json.loads(json.dumps(first.state())))
    seen = [second.check(row(reward=0.0)) for _ in range(WINDOW)]
    assert any("collapsed" in sentence for sentences in seen for sentence in sentences)


def test_preflight_and_conclusion_speak_plainly():
    assert len(preflight(row(), 8)) == 1
    assert "cut at decode.max_tokens" in preflight(row(**{"completions/clipped_ratio": 0.9}), 8)[-1]
    low, high = [0.2, 0.25, 0.15] * 5, [0.4, 0.45, 0.35] * 5
    assert conclusion(low, high).startswith("reward rose: 0.200 → 0.400")
    assert "FELL" in conclusion(high, low)
    assert "did not move" in conclusion(low, [value + 0.005 for value in low])
    negative = [value - 2 for value in low]  # rewards need not be shares
    assert "did not move" in conclusion(negative, [value - 0.005 for value in negative])
    assert "too few iterations" in conclusion([0.1], [0.9])


def test_entropy_of_no_rows_is_absent(rlx, start):
    """Iterations without any advantage train on no row: a mean over none is not 0."""
    done = rlx(*rl(start, "algorithm.rewards.truncated=0", "algorithm.rewards.malformed=0"))
    assert done.code == 0
    dead = [row for row in rows(place(done.out)) if row["frac_reward_zero_std"] == 1.0]
    assert dead and all("entropy" not in row and "train/loss" in row for row in dead)


def test_bf16_samples_as_it_trains(rlx, start, monkeypatch):
    """Sampled and trained log-probabilities come from the same arithmetic: their gap is rounding of bf16, not more."""
    seen = arithmetic_of(monkeypatch, Engine, "complete")
    done = rlx(*rl(start, "trainer.precision=bf16", "stage.steps=2"))
    assert done.code == 0, done.err
    assert seen and all(seen)
    gaps = [row["sampling/sampling_logp_difference/mean"] for row in rows(place(done.out))]
    assert all(0 < gap < 0.02 for gap in gaps)
