"""stage=rl: the sampled and the trained policy agree, and what an algorithm sees is what was sampled."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlx.decoding.engine import Engine
from rlx.environments.base import Turn
from rlx.models.size import Operations
from rlx.stages.modules import policy
from rlx.stages.modules.rollouts import Sampler, turn_metrics
from rlx.tasks.countdown import CountdownConfig
from rlx.types import Outcome, Verdict
from tests.stages.runs import PRETRAIN, arithmetic_of, place, record, rl, rows


@pytest.fixture
def start(door, tmp_path_factory):
    """A start trained for twelve steps, by the first test that asks."""
    folder = tmp_path_factory.getbasetemp() / "start-of-rl"
    made = list(folder.glob("*/seed0"))
    return made[0] if made else place(door(*PRETRAIN, f"runs_dir={folder}").out)


def test_rl_logs_what_people_look_for(door, start):
    done = door(*rl(start))
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


def test_another_seed_and_a_second_run_in_a_row_draw_other_problems(door, start):
    def drawn(run) -> set[str]:
        return {json.loads(line)["id"] for line in (run / "samples.jsonl").read_text().splitlines()}

    short = ("stage.steps=1", "stage.val_every=0", "stage.preflight_problems=0")
    one = place(door(*rl(start, *short)).out)
    other, second = (place(door(*rl(init, *short, seed)).out) for init, seed in ((start, "seed=1"), (one, "seed=0")))
    assert len(drawn(one)) == 2 and not drawn(one) & (drawn(other) | drawn(second))


def test_epochs_and_minibatches_and_parts(door, start, monkeypatch):
    one = rows(place(door(*rl(start)).out))
    parts = rows(place(door(*rl(start, "stage.micro_rows=3")).out))
    assert abs(one[0]["train/grad_norm"] - parts[0]["train/grad_norm"]) < 1e-4
    updates, orders = policy.PolicyModule._updates, []

    def watched(*given):
        made = updates(*given)
        assert [len(rows) for rows in made] == [8] * 4
        orders.extend(tuple(torch.cat(made[first : first + 2]).tolist()) for first in (0, 2))
        return made

    monkeypatch.setattr(policy.PolicyModule, "_updates", watched)
    several = rows(place(door(*rl(start, "algorithm.epochs=2", "algorithm.minibatches=2")).out))
    assert len(set(orders)) == 6 * 2 and {tuple(sorted(made)) for made in orders} == {tuple(range(16))}
    assert several[0]["reward"] == one[0]["reward"]
    assert [row["train/loss"] for row in several] != [row["train/loss"] for row in one]


def test_kl_to_the_start_is_zero_at_the_start(door, start):
    found = rows(place(door(*rl(start, "algorithm.kl_coefficient=0.1")).out))
    assert abs(found[0]["kl"]) < 1e-6 and found[-1]["kl"] > 0
    found = rows(place(door(*rl(start, "algorithm.kl_coefficient=0.1", "model.norm_eps=1")).out))
    assert abs(found[0]["kl"]) < 1e-6  # the reference has the same norms


def test_a_budget_of_operations_ends_the_run(door, start):
    first = rows(place(door(*rl(start)).out))[0]
    limit = 1.5 * (first["flops/train"] + first["flops/rollout"])
    assert len(rows(place(door(*rl(start, f"stage.max_flops={limit}")).out))) in (2, 3)


def test_looking_ahead_and_validation_are_evaluation_in_the_ledger(door, start):
    short = ("stage.steps=2", "stage.preflight_problems=0", "stage.val_every=0")
    plain = rows(place(door(*rl(start, *short)).out))
    ahead = rows(place(door(*rl(start, *short, "stage.preflight_problems=4", "runs_dir=ahead")).out))
    valid = rows(place(door(*rl(start, *short, "stage.val_every=1", "runs_dir=valid")).out))
    for one, other, third in zip(plain, ahead, valid, strict=True):
        for name in ("flops/train", "flops/rollout"):
            assert one[name] == other[name] == third[name] > 0
        assert one["flops/eval"] == 0 < min(other["flops/eval"], third["flops/eval"])
    assert ahead[0]["flops/eval"] == ahead[1]["flops/eval"] and valid[0]["flops/eval"] < valid[1]["flops/eval"]


def test_the_numbers_of_a_rollout_by_hand():
    """Two groups of four: one of four right, and all of four, of which two are cut."""
    rewards = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 1])
    batch = SimpleNamespace(returns=lambda: rewards, group=torch.tensor([0] * 4 + [1] * 4),
                            finished=torch.tensor([True] * 6 + [False] * 2))  # fmt: skip
    outcomes = [Outcome.correct, Outcome.wrong, Outcome.malformed, Outcome.malformed, *[Outcome.correct] * 4]
    verdicts = [Verdict(outcome, measures={"code": place % 2}) for place, outcome in enumerate(outcomes)]
    rollout: Any = SimpleNamespace(batch=batch, verdicts=verdicts, episodes=[], parts={}, rows=None, talks=False,
                                   lengths=torch.tensor([2, 4, 4, 4, 4, 6, 8, 8]))  # fmt: skip
    found = policy.rollout_metrics(rollout)
    assert found.pop("reward_std") == pytest.approx(0.25)  # of the sample, as in TRL: 0.5 and 0
    assert {name: value for name, value in found.items() if value} == pytest.approx({
        "reward": 0.625, "reward_max": 1.0, "frac_reward_zero_std": 0.5, "rewards/verifier/mean": 0.625,
        "rewards/verifier/any_of_group": 1.0, "completions/mean_length": 5.0, "completions/min_length": 2.0,
        "completions/max_length": 8.0, "completions/clipped_ratio": 0.25, "completions/mean_terminated_length": 4.0,
        "completions/mean_length_correct": 5.6, "completions/mean_length_wrong": 4.0,
        "outcomes/correct": 0.625, "outcomes/wrong": 0.125, "outcomes/malformed": 0.25,
        "measures/code": 0.5,
    })  # fmt: skip


def test_the_numbers_of_turns_by_hand():
    """An episode of two calls and an answer beside one of an answer alone: each call counts."""

    def turn(name: str, reward: float, verdict: Outcome | None = None) -> Turn:
        return Turn(text="", name=name, reward=reward, verdict=None if verdict is None else Verdict(verdict))

    turns = [[turn("call", 0.5), turn("call", 0.25), turn("answer", 1.0, Outcome.correct)],
             [turn("answer", 0.0, Outcome.wrong)]]  # fmt: skip
    episodes = [SimpleNamespace(turns=each, cut=False, void=False) for each in turns]
    mask = torch.tensor([[0, 1, 1, 1, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0, 0, 0, 0]]).float()
    batch = SimpleNamespace(tokens=mask.long(), loss_mask=mask,
                            turn=torch.tensor([[0, 0, 0, 0, 0, 1, 1, 2, 2], [0] * 9]))  # fmt: skip
    rollout: Any = SimpleNamespace(batch=batch, episodes=episodes, talks=True, lengths=torch.tensor([6, 4]),
                                   prompt_lengths=torch.tensor([1, 1]))  # fmt: skip
    assert turn_metrics(rollout) == pytest.approx({
        "turns/mean": 2.0, "turns/max": 3.0, "turns/cut_ratio": 0.0, "turns/void_ratio": 0.0,
        "turns/reply_ratio": 2 / 12, "turns/call/share": 1.0, "turns/answer/share": 1.0,
        "turns/call/length": 2.0, "turns/call/reward": 0.375, "turns/answer/length": 3.0, "turns/answer/reward": 0.5,
        "turns/answer/correct": 0.5,
    })  # fmt: skip


@pytest.mark.parametrize("worth", [0.1, -3.3, 1000.1])
def test_equal_rewards_have_no_spread_whatever_rounds(worth):
    rewards = torch.full((8,), worth)  # the spread of which is 8e-9 to 7e-5 in float32
    batch = SimpleNamespace(returns=lambda: rewards, group=torch.zeros(8), finished=torch.ones(8) > 0)
    rollout: Any = SimpleNamespace(batch=batch, verdicts=[Verdict(Outcome.wrong)] * 8, lengths=torch.ones(8), parts={},
                                   episodes=[], rows=None, talks=False)  # fmt: skip
    assert rewards.std() > 0 and policy.rollout_metrics(rollout)["frac_reward_zero_std"] == 1


def test_every_pass_of_an_update_is_in_the_ledger(door, start, monkeypatch):
    """Those of the reference and of the trainer's own log-probabilities too."""
    monkeypatch.setattr(Operations, "forward", lambda *_, cached=False: 1.0)
    monkeypatch.setattr(Operations, "training", lambda *_: 3.0)
    more = ("stage.steps=1", "stage.val_every=0", "stage.preflight_problems=0", "algorithm.kl_coefficient=0.1")
    (once,) = rows(place(door(*rl(start, *more)).out))
    assert once["flops/train"] == 1 + 3
    several = ("algorithm.epochs=2", "algorithm.minibatches=2", "algorithm.importance_sampling_cap=2")
    (once,) = rows(place(door(*rl(start, *more, *several)).out))
    assert once["flops/train"] == 1 + 1 + 4 * 3


def test_no_more_problems_are_held_out_than_there_are():
    sampler = object.__new__(Sampler)
    sampler.task = CountdownConfig(numbers=3, val_examples=3).build()
    assert [len(sampler.held_out_examples(count)) for count in (2, 3, 8)] == [2, 3, 3]


def test_entropy_of_no_rows_is_absent(door, start):
    """Iterations without any advantage train on no row: a mean over none is not 0."""
    done = door(*rl(start, "algorithm.rewards.truncated=0", "algorithm.rewards.malformed=0"))
    assert done.code == 0
    dead = [row for row in rows(place(done.out)) if row["frac_reward_zero_std"] == 1.0]
    assert dead and all("entropy" not in row and "train/loss" in row for row in dead)


def test_bf16_samples_as_it_trains(door, start, monkeypatch):
    """Sampled and trained log-probabilities come from the same arithmetic: their gap is rounding of bf16, not more."""
    seen = arithmetic_of(monkeypatch, Engine, "complete")
    done = door(*rl(start, "trainer.precision=bf16", "stage.steps=2"))
    assert done.code == 0, done.err
    assert seen and all(seen)
    gaps = [row["sampling/sampling_logp_difference/mean"] for row in rows(place(done.out))]
    assert all(gap < 0.02 for gap in gaps)


def test_importance_weights_are_one_where_the_arithmetic_agrees(door, start):
    """With one update a rollout they cost nothing; with several, a forward pass more."""
    name = "sampling/importance_sampling_ratio"
    for minibatches, cost in ((1, 1.0), (2, 4 / 3)):
        arguments = rl(start, f"algorithm.minibatches={minibatches}", "stage.steps=2")
        plain = rows(place(door(*arguments).out))
        found = rows(place(door(*arguments, "algorithm.importance_sampling_cap=2").out))
        assert not any(key.startswith(name) for key in plain[0])
        for row in found:
            assert all(abs(row[f"{name}/{which}"] - 1) < 1e-4 for which in ("mean", "min", "max"))
        assert abs(found[0]["train/grad_norm"] - plain[0]["train/grad_norm"]) < 1e-4
        assert found[0]["flops/train"] / plain[0]["flops/train"] == pytest.approx(cost)


def test_ratios_are_to_the_trainers_own_log_probabilities(door, start, monkeypatch):
    """Sampled in float32 and trained in bf16, a policy that does not move is far from what was recorded alone."""
    monkeypatch.setattr("rlx.stages.modules.rollouts.arithmetic", lambda trainer: nullcontext())
    arguments = rl(start, "trainer.precision=bf16", "algorithm.minibatches=2", "optim.lr=1e-12", "stage.steps=1",
                   "algorithm.entropy_coefficient=1e-6")  # fmt: skip
    (plain,) = rows(place(door(*arguments).out))
    (weighed,) = rows(place(door(*arguments, "algorithm.importance_sampling_cap=1.001").out))
    assert 0 <= weighed["approx_kl"] < 0.01 * plain["approx_kl"]
    name = "sampling/importance_sampling_ratio"
    assert weighed[f"{name}/min"] < weighed[f"{name}/mean"] < weighed[f"{name}/max"] == pytest.approx(1.001)


def test_what_an_algorithm_sees_is_what_was_sampled(door, start, monkeypatch):
    """Copies of a prompt are groups of their own; the first end mark counts, and bears the reward; nothing follows."""
    seen = []
    metrics = policy.rollout_metrics
    monkeypatch.setattr(policy, "rollout_metrics", lambda rollout: seen.append(rollout) or metrics(rollout))
    done = door(*rl(start, "task.train_examples=1", "stage.steps=3", "stage.val_every=0", "stage.preflight_problems=0"))
    assert done.code == 0 and len(seen) == 3
    finished = 0
    for rollout in seen:
        batch = rollout.batch
        assert batch.group.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
        given = rollout.prompt_lengths[0]
        assert (rollout.prompt_lengths == given).all() and (batch.tokens[:, :given] == batch.tokens[0, :given]).all()
        assert len({tuple(row) for row in batch.tokens.tolist()}) > 8, "groups of a prompt draw their own samples"
        end = end_mark(place(done.out))
        for row in range(16):
            last = int(given + rollout.lengths[row]) - 1
            mask = torch.zeros(batch.tokens.shape[1])
            mask[given : last + 1] = 1
            assert batch.loss_mask[row].tolist() == mask.tolist()
            assert (batch.tokens[row, last] == end) == batch.finished[row]
            assert end not in batch.tokens[row, given:last]
            assert (batch.logprobs[row] < 0).tolist() == mask.bool().tolist()
            assert batch.rewards[row].nonzero().flatten().tolist() in ([], [last])
            finished += int(batch.finished[row])
    assert finished > 0


def test_what_cannot_run_is_one_line_and_no_run(door, start):
    for arguments, expected in (
        (rl("random", "algorithm.kl_coefficient=0.1"), "algorithm.kl_coefficient needs a starting policy"),
        (rl(start, "stage.val_problems=0"), "stage.val_problems=0 measures nothing"),
    ):
        done = door(*arguments)
        assert done.code == 2 and expected in done.err and done.err.count("\n") == 1
        assert not list(Path("runs").glob("*-rl-*"))


def end_mark(run) -> int:
    from rlx.runs.checkpoints import list_checkpoints
    from rlx.stages.start import read_model

    return read_model(list_checkpoints(run)[-1][1])[2].end_id


def test_the_temperature_is_that_of_the_sampler_everywhere(door, start):
    """Of the trained policy and of the reference: else the divergence from the start would begin above 0."""
    found = rows(place(door(*rl(start, "algorithm.kl_coefficient=0.1", "decode.temperature=0.6")).out))
    assert abs(found[0]["kl"]) < 1e-6 and found[-1]["kl"] > 0
    assert max(row["sampling/sampling_logp_difference/mean"] for row in found) <= 1e-5
