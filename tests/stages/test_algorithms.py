"""Every algorithm through the stage: it trains, says what it did, and what is beside the policy does its part."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlx.algorithms.expert_iteration import ExpertIterationConfig
from rlx.algorithms.policy_gradient import GroupRelative
from rlx.batches import RolloutBatch
from rlx.errors import ConfigError
from rlx.optim.adamw import AdamWConfig
from rlx.optim.muon import MuonConfig
from rlx.optim.schedules.cosine import CosineConfig
from rlx.options import discover
from rlx.stages.modules import looking, policy
from rlx.stages.modules.companion import Companion, trained
from rlx.stages.modules.gathered import Gathered
from rlx.stages.modules.looking import Looker
from tests.stages.runs import ADDS, digest, improve, place, record, rows

SHORT: dict[str, tuple[str, ...]] = {
    "expert_iteration": ("algorithm.round_iterations=3", "algorithm.batch_rows=4"),
    "rft": ("algorithm.batch_rows=4",),
    "parallel": ("algorithm.sft_rows=8",),
    "ppo": ("algorithm.minibatches=2",),
}
"""What six iterations ask for besides the defaults."""
SAID: dict[str, set[str]] = {
    "dapo": {"sampling/draws", "sampling/kept_ratio", "rewards/overlong/mean"},
    "dpo": {"rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected"},
    "expert_iteration": {"buffer/rows", "buffer/kept_ratio", "buffer/trained_rows"},
    "rft": {"buffer/rows", "buffer/kept_ratio", "buffer/trained_rows"},
    "npo": {"npo/weight", "npo/log_ratio"},
    "grpo_lambda": {"rewards/length/mean"},
    "parallel": {"train/sft_loss", "train/sft_grad_norm"},
    "ppo": {"critic/value", "critic/error", "critic/grad_norm", "train/policy_loss", "train/value_loss"},
}
"""What the rows of an algorithm have besides those of every one."""


@pytest.fixture(scope="session")
def adds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adds")


@pytest.fixture
def start(door, adds: Path) -> Path:
    """A start that adds right now and then, made by the first test that asks."""
    made = list(adds.glob("*/seed0"))
    return made[0] if made else place(door(*ADDS, f"runs_dir={adds}").out)


@pytest.mark.parametrize("name", discover("algorithm"))
def test_it_trains_and_says_what_it_did(door, start, name):
    done = door(*improve(start, name, *SHORT.get(name, ())))
    assert done.code == 0, done.err
    run = place(done.out)
    found = rows(run)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(value) for row in found for value in row.values())
    assert any(row.get("train/grad_norm", 0) > 0 for row in found)
    assert set().union(*found) >= SAID.get(name, set())
    weights = digest(run)
    assert len(set(weights.values())) == len(weights)
    assert record(run)["options"]["algorithm"] == name
    gaps = [row[key] for row in found if (key := "sampling/sampling_logp_difference/mean") in row]
    assert all(gap <= 1e-5 for gap in gaps) and bool(gaps) == (name not in ("expert_iteration", "rft"))


def watched(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[tuple[Any, ...]]:
    """Filled with (self, given ..., result) at every call of a method."""
    seen: list[tuple[Any, ...]] = []
    whole = getattr(owner, name)

    def watching(*given: Any, **named: Any) -> Any:
        found = whole(*given, **named)
        seen.append((*given, found))
        return found

    monkeypatch.setattr(owner, name, watching)
    return seen


def test_dynamic_sampling_draws_until_every_group_teaches(door, start, monkeypatch):
    seen = watched(monkeypatch, policy.RolloutSource, "_rollout")
    done = door(*improve(start, "dapo", "algorithm.max_draws=20", "stage.val_every=0", "algorithm.minibatches=2"))
    assert done.code == 0, done.err
    found, drawn = rows(place(done.out)), 0
    for row, (source, rollout) in zip(found, seen, strict=True):
        batch = rollout.batch.rows(rollout.rows)
        right = batch.correct.view(-1, 4)
        assert len(right) == 8 and right.any(-1).all() and not right.all(-1).any()
        assert row["sampling/draws"] == rollout.draws > 1
        assert row["sampling/kept_ratio"] == len(rollout.rows) / len(rollout.verdicts)
        assert row["rewards/verifier/mean"] == pytest.approx(rollout.batch.correct.float().mean().item())
        ids = [example.id for example in rollout.examples]
        order = source.sampler.training_examples(drawn, len(ids))
        assert ids == [example.id for example in order]  # every problem is drawn once, none is passed over
        drawn += len(ids)
    short = rows(place(door(*improve(start, "dapo", "algorithm.max_draws=1", "stage.val_every=0")).out))
    assert all(row["sampling/draws"] == 1 and row["sampling/kept_ratio"] < 1 for row in short)


def test_the_critic_learns_and_is_no_part_of_the_model(door, start, monkeypatch):
    """It begins as the policy with values of 0; in its warm-up the policy stands still."""
    more = ("algorithm.critic_warmup=2", "algorithm.critic_lr=3e-3", "checkpoint.every=1", "checkpoint.keep=all",
            "schedule=constant", "schedule.warmup_steps=0")  # fmt: skip
    done = door(*improve(start, "ppo", *more))
    assert done.code == 0, done.err
    run = place(done.out)
    found, weights = rows(run), digest(run)
    assert found[0]["critic/value"] == 0 and found[-1]["critic/value"] != 0
    assert "train/grad_norm" not in found[0] and found[2]["train/grad_norm"] > 0
    assert ["train/lr" in row for row in found] == [False] * 2 + [True] * 4
    *_, first = digest(start).values()
    assert weights["step-000001"] == weights["step-000002"] == first != weights["step-000003"]
    described = json.loads((run / "checkpoints/step-000006/config.json").read_text())
    assert described == json.loads(next(iter(start.glob("checkpoints/*/config.json"))).read_text())
    state = torch.load(run / "checkpoints/step-000006/trainer/state.pt", weights_only=True)
    critic = state["run"]["module"]["companions"]["critic"]["weights"]
    assert critic["head.weight"].shape[0] == 1 and critic["head.weight"].any()


def test_rounds_begin_where_they_are_told_to(door, start, monkeypatch):
    """Who samples and what a round of training begins with are chosen apart."""
    begun: dict[str, list[dict[str, torch.Tensor]]] = {}
    improve_on, sample = policy.PolicyModule._improve, policy.Sampler.sample
    case = ""

    def improving(module: Any, batch: Any, optimizer: Any = None) -> Any:
        begun[case].append({name: tensor.clone() for name, tensor in module.model.state_dict().items()})
        return improve_on(module, batch, optimizer)

    sampled: dict[str, list[list[str]]] = {}

    def sampling(sampler: Any, examples: Any, *key: Any, **named: Any) -> Any:
        rollout = sample(sampler, examples, *key, **named)
        if key[0] == "train":
            sampled[case].append(rollout.texts)
        return rollout

    monkeypatch.setattr(policy.PolicyModule, "_improve", improving)
    monkeypatch.setattr(policy.Sampler, "sample", sampling)
    for generator in ("start", "latest"):
        for origin in ("start", "latest"):
            case = f"{generator} {origin}"
            begun[case], sampled[case] = [], []
            more = ("algorithm.round_iterations=2", f"algorithm.generator={generator}", "algorithm.batch_rows=2",
                    f"algorithm.train_from={origin}", "stage.val_every=0", "stage.preflight_problems=0")  # fmt: skip
            done = door(*improve(start, "expert_iteration", *more, f"runs_dir={case.replace(' ', '-')}"))
            assert done.code == 0, done.err
            assert len(begun[case]) == 3

    def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(one[name], other[name]) for name in one)

    for case, weights in begun.items():
        assert equal(weights[0], weights[2]) == case.endswith("start"), case
    assert sampled["start start"] == sampled["start latest"]
    assert sampled["latest start"][:2] == sampled["start start"][:2]
    assert sampled["latest start"][2:] != sampled["start start"][2:] != sampled["latest latest"][2:]


def test_rates_of_rounds_run_over_the_iterations_that_sampled(door, start, monkeypatch):
    """Else one round at the end of a run would be trained at the rate of its last step alone."""
    seen = watched(monkeypatch, policy.PolicyModule, "_factor")
    latest = ("algorithm.train_from=latest", "algorithm.batch_rows=2", "stage.val_every=0", "schedule.warmup_steps=0")
    for every in ("null", "3"):
        seen.clear()
        done = door(*improve(start, "expert_iteration", *latest, f"algorithm.round_iterations={every}"))
        assert done.code == 0, done.err
        factors, six = [factor for *_, factor in seen], [CosineConfig(warmup_steps=0).factor(n, 6) for n in range(6)]
        assert list(dict.fromkeys(factors)) == six and factors == sorted(factors, reverse=True)


def test_a_round_that_is_all_warm_up_is_told(door, start):
    more = ("algorithm.round_iterations=2", "algorithm.batch_rows=4", "stage.val_every=0")
    (alarm,) = record(place(door(*improve(start, "expert_iteration", *more)).out))["alarms"]
    assert alarm.startswith("from step 2: a round of ") and "/20 of optim.lr" in alarm
    for fine in ("schedule.warmup_steps=1", "algorithm.train_from=latest"):
        assert record(place(door(*improve(start, "expert_iteration", *more, fine)).out))["alarms"] == []


def test_the_buffer_keeps_what_it_is_told_to(door, start):
    def trained_rows(*more: str) -> list[float]:
        made = rows(place(door(*improve(start, "expert_iteration", "algorithm.generator=start", *more)).out))
        return [row["buffer/trained_rows"] for row in made if "buffer/trained_rows" in row]

    one = trained_rows("algorithm.round_iterations=2")
    every = trained_rows("algorithm.round_iterations=2", "algorithm.buffer_rounds=null")
    assert len(one) == len(every) == 3 and every[0] == one[0]
    assert one[1] < every[1] <= one[0] + one[1] and every[1] < every[2] <= sum(one)
    (whole,) = trained_rows("algorithm.round_iterations=null")
    assert whole == every[2]
    few = ("algorithm.round_iterations=null", "task.train_examples=6", "algorithm.deduplicate=false")
    (doubled,), (capped,) = trained_rows(*few), trained_rows(*few, "algorithm.max_per_prompt=1")
    assert 0 < capped <= 6 < doubled
    (last,) = trained_rows("algorithm.round_iterations=100")  # the last step ends a round that is not full
    assert last == whole


def test_a_round_without_a_right_sample_leaves_the_policy_alone(door, start):
    """It does not go back to where it began."""
    always = ("algorithm.round_iterations=2", "algorithm.batch_rows=4", "checkpoint.keep=all", "stage.val_every=0")
    run = place(door(*improve(start, "expert_iteration", *always)).out)
    *_, first = digest(start).values()
    moved = digest(run)
    assert moved["step-000002"] != first

    def nothing(sampler, examples, *key, **named):
        rollout = sample(sampler, examples, *key, **named)
        if key[0] == "train" and key[1] >= 2:
            rollout.batch.correct[:] = False
        return rollout

    sample = policy.Sampler.sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy.Sampler, "sample", nothing)
        still = place(door(*improve(start, "expert_iteration", *always, "rerun=still")).out)
    assert len(set(digest(still).values())) == 1 and digest(still)["step-000006"] == moved["step-000002"]


def test_a_renewed_reference_is_the_policy_of_that_iteration(door, start, monkeypatch):
    more = ("algorithm.kl_coefficient=0.1", "algorithm.minibatches=2")
    kept = rows(place(door(*improve(start, "grpo", *more)).out))
    renewed = rows(place(door(*improve(start, "grpo", *more, "algorithm.reference_every=3")).out))
    assert [row["kl"] for row in kept[:3]] == [row["kl"] for row in renewed[:3]]
    assert renewed[3]["kl"] < 0.5 * kept[3]["kl"]
    always = rows(
        place(door(*improve(start, "grpo", "algorithm.kl_coefficient=0.1", "algorithm.reference_every=1")).out)
    )
    assert all(abs(row["kl"]) < 1e-6 for row in always if "kl" in row)


def test_what_is_masked_goes_through_no_model(door, start, monkeypatch):
    """Nor is a minibatch of nothing else an error, with weights of no token."""
    looks = watched(monkeypatch, Looker, "policy"), watched(monkeypatch, Looker, "values")
    more = ("algorithm.mask_truncated=true", "algorithm.importance_sampling_cap=2", "algorithm.kl_coefficient=0.1",
            "algorithm.minibatches=16", "decode.max_tokens=1", "stage.steps=2", "stage.val_every=0")  # fmt: skip
    done = door(*improve(start, "ppo", *more))
    assert done.code == 0, done.err
    assert all(0 < row["completions/clipped_ratio"] < 1 for row in rows(place(done.out)))
    assert all(look and all(batch.loss_mask.any(-1).all() for _, _, batch, *_ in look) for look in looks)


def test_the_gap_is_measured_where_a_row_goes_through_first(door, start):
    """The minibatches before had no signal, and moved nothing."""
    found = rows(place(door(*improve(start, "grpo", "algorithm.minibatches=8", "stage.val_every=0")).out))
    name = "sampling/sampling_logp_difference/mean"
    assert all((name in row) == ("entropy" in row) and row.get(name, 0) <= 1e-5 for row in found)
    assert any(name in row for row in found)


def test_a_pass_has_as_many_steps_as_asked(door, start, monkeypatch):
    """32 rows in 5 parts, as equal as can be; of as many pairs as there are, no part is empty."""
    seen = watched(monkeypatch, policy.PolicyModule, "_updates")
    for name in ("grpo", "dpo"):
        done = door(*improve(start, name, "algorithm.minibatches=5", "algorithm.epochs=2", "stage.val_every=0"))
        assert done.code == 0, done.err
    sizes = [[len(part) for part in parts] for _, _, parts in seen]
    assert sizes[:6] == [[7, 7, 6, 6, 6] * 2] * 6
    for (_, rows_there, _), parts in list(zip(seen, sizes, strict=True))[6:]:
        assert sum(parts) == 2 * rows_there and len(parts) == max(2 * min(rows_there // 2, 5), 1)


@pytest.mark.parametrize("optim", [AdamWConfig(lr=1e-2), MuonConfig(lr=1e-2, adamw_lr=4e-3)], ids=["adamw", "muon"])
def test_what_is_beside_the_policy_has_its_own_rates_and_this_runs_decays(optim):
    """All of an optimizer's rates; also where it goes on with the moments of a parent that had others."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    model.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    own, halved = (Companion(model, optim, lr=lr, clip_norm=1.0) for lr in (None, 5e-3))
    rates = [group["peak_lr"] for group in own.optimizer.param_groups]
    assert [group["peak_lr"] for group in halved.optimizer.param_groups] == [rate / 2 for rate in rates]
    changed = Companion(model, replace(optim, weight_decay=0.5), lr=None, clip_norm=1.0)
    decays = [group["weight_decay"] for group in changed.optimizer.param_groups]
    model[0](torch.ones(3)).sum().backward()
    halved.step(1.0)
    changed.restore(halved.state())
    groups = changed.optimizer.param_groups
    assert [group["peak_lr"] for group in groups] == rates and 0.5 in decays
    assert [group["weight_decay"] for group in groups] == decays


def test_one_sample_a_prompt_teaches_where_samples_are_not_compared(door, start):
    one = ("algorithm.group_size=1", "stage.prompts=32", "stage.preflight=stop", "stage.steps=20", "stage.val_every=0")
    done = door(*improve(start, "reinforce", *one, "stage.preflight_problems=32"))
    assert done.code == 0 and "cannot learn" not in done.out and "groups" not in done.out, done.out + done.err
    assert all(row["train/grad_norm"] > 0 for row in rows(place(done.out)))
    assert not record(place(done.out))["alarms"]
    equal = [f"algorithm.rewards.{name}=1" for name in ("wrong", "illegal", "malformed", "truncated")]
    done = door(*improve(start, "reinforce", "algorithm.group_size=1", "stage.preflight=stop", *equal))
    assert done.code == 1 and "every verdict is worth 1" in done.err and "all rewards are equal" in done.err


def test_rounds_take_samples_of_a_cut_distribution(door, start):
    """As papers of expert iteration draw them; a ratio to what was sampled would be off."""
    done = door(*improve(start, "expert_iteration", *SHORT["expert_iteration"], "decode.top_p=0.95", "stage.steps=3"))
    assert done.code == 0 and rows(place(done.out))[-1]["buffer/trained_rows"] > 0, done.err
    done = door(*improve(start, "grpo", "decode.top_p=0.95"))
    assert done.code == 2 and "rl trains on the whole distribution" in done.err


def test_the_divergence_is_a_mean_over_the_rows_trained_on(door, start, monkeypatch):
    """Those without an advantage, here the wrong ones, are no part of it."""
    seen = watched(monkeypatch, GroupRelative, "losses")
    done = door(*improve(start, "grpo", "algorithm.signs=positive", "algorithm.kl_coefficient=0.01",
                         "algorithm.kl_in=reward", "stage.val_every=0", "optim.lr=1e-3", "stage.preflight_problems=0",
                         "schedule.warmup_steps=0"))  # fmt: skip
    assert done.code == 0, done.err
    said = [row["kl"] for row in rows(place(done.out)) if "kl" in row]
    means = []
    for _, out, batch, *_ in seen:
        gap = (batch.reference_logprobs - out.logprobs)[batch.loss_mask > 0].detach()
        means.append((gap.exp() - 1 - gap).mean().item())
    assert said == pytest.approx(means, rel=1e-4, abs=1e-7) and max(said) > 1e-3
    assert all(batch.loss_mask.sum() < totals.tokens for _, _, batch, _, totals, _ in seen)


def test_demonstrations_without_a_rate_leave_half_a_step_of_grpo(door, start, monkeypatch):
    moved: list[torch.Tensor] = []
    update = policy.PolicyModule._update

    def updating(module: Any, *given: Any, **named: Any) -> Any:
        before = [parameter.clone() for parameter in trained(module.model)]
        found = update(module, *given, **named)
        steps = [now - old for now, old in zip(trained(module.model), before, strict=True)]
        moved.append(torch.cat([step.flatten() for step in steps]))
        return found

    monkeypatch.setattr(policy.PolicyModule, "_update", updating)
    plain = ("stage.steps=1", "stage.val_every=0", "stage.preflight_problems=0", "schedule.warmup_steps=0")
    for arguments in (
        improve(start, "grpo", *plain),
        improve(start, "parallel", *plain, "algorithm.sft_lr=0", "algorithm.sft_rows=8"),
        improve(start, "parallel", *plain, "algorithm.sft_rows=8"),
        improve(start, "parallel", *plain, "algorithm.sft_rows=8", "algorithm.combine=sum"),
    ):
        done = door(*arguments)
        assert done.code == 0, done.err
    whole, half, both, added = moved
    assert whole.abs().max() > 1e-4
    torch.testing.assert_close(half, whole / 2, atol=1e-7, rtol=0)
    assert (both - half).abs().max() > 1e-4 and (both - added).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["expert_iteration", "parallel", "grpo"])
def test_fine_tuning_is_of_the_model_and_policy_gradients_of_what_sampled(door, start, monkeypatch, name):
    """At decode.temperature=0.7 the policy's logits are divided by it, solutions' and kept samples' are not."""
    seen: list[tuple[float, int]] = []
    look = looking._outlook

    def watching(model, tokens, rows, temperature):
        seen.append((temperature, len(tokens)))
        return look(model, tokens, rows, temperature)

    monkeypatch.setattr(looking, "_outlook", watching)
    more = ("decode.temperature=0.7", "stage.steps=2", "stage.val_every=0", "stage.preflight_problems=0",
            "optim.lr=1e-3")  # fmt: skip
    rounds = ("algorithm.round_iterations=1",) if name == "expert_iteration" else ()
    own = ("algorithm.sft_rows=5",) if name == "parallel" else rounds
    done = door(*improve(start, name, *more, *own))
    assert done.code == 0, done.err
    plain = {rows for temperature, rows in seen if temperature == 1.0}
    policys = {rows for temperature, rows in seen if temperature == 0.7}
    assert bool(plain) == (name != "grpo") and bool(policys) == (name != "expert_iteration")
    assert name != "parallel" or plain == {5}


@pytest.mark.parametrize(
    ("algorithm", "more", "says"),
    [
        ("dpo", ("init_from=random",), "algorithm=dpo needs a starting policy"),
        ("ppo", ("init_from=random", "algorithm.kl_coefficient=0.1"), "algorithm.kl_coefficient needs a starting"),
        ("rft", ("stage.max_flops=1e12",), "algorithm.round_iterations=null trains after the last of stage.steps"),
        ("rft", ("stage.match_flops=runs/some",), "leave stage.match_flops out"),
        ("expert_iteration", ("algorithm.minibatches=4",), "give algorithm.batch_rows"),
        ("rft", ("algorithm.reference_every=3",), "nothing here has a reference"),
        ("grpo", ("algorithm.kl_coefficient=0.1", "algorithm.kl_estimator=k1"), "k1 has no gradient in the loss"),
        ("grpo_lambda", ("algorithm.dynamic_sampling=true",), "leave it out"),
        ("dpo", ("algorithm.minibatches=17",), "minibatches=17 parts no more than 16: an iteration has 32 samples"),
        ("ppo", ("algorithm.critic_warmup=6",), "critic_warmup=6: in stage.steps=6 the policy would never be trained"),
        ("grpo", ("stage.preflight=stop", "stage.preflight_problems=0"), "stage.preflight_problems=0 looks at nothing"),
        ("parallel", ("algorithm.combine=sum", "algorithm.sft_lr=1e-3"), "combine=sum has one optimizer"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_what_cannot_be_is_one_line_and_writes_nothing(door, start, tmp_path, algorithm, more, says):
    arguments = [
        text for text in improve(start, algorithm) if not any(m.split("=")[0] == text.split("=")[0] for m in more)
    ]
    done = door(*arguments, *more)
    assert done.code == 2 and says in done.err and len(done.err.strip().splitlines()) == 1, done.err
    assert not (tmp_path / "runs").exists()


def test_what_was_gathered_goes_on_with_and_without_its_experts():
    """A parent's samples wait for their round with the experts that were chosen, or without (init.state=all)."""
    algorithm = ExpertIterationConfig().build()
    assert algorithm.gathering is not None
    nothing, ones = torch.zeros(2, 3), torch.ones(2, 3)
    batch = RolloutBatch(tokens=torch.tensor([[1, 2, 3], [1, 2, 4]]), loss_mask=ones, logprobs=nothing, rewards=nothing,
                         group=torch.zeros(2).long(), turn=nothing.long(), finished=ones[:, 0] > 0,
                         correct=ones[:, 0] > 0, routing=torch.zeros(2, 3, 1, 2).short())  # fmt: skip
    parent, child = (Gathered(algorithm.gathering, algorithm, total=8, pad_id=0) for _ in range(2))
    parent.add(batch)
    for routed in (True, False):
        child.restore(parent.state(), routed=routed)
        more = batch if routed else replace(batch, routing=None)
        child.add(more)
        assert (child.take(more.rows(torch.zeros(0).long())).routing is not None) == routed
    without = Gathered(algorithm.gathering, algorithm, total=8, pad_id=0)
    without.add(replace(batch, routing=None))
    with pytest.raises(ConfigError, match="without the experts that were chosen; leave it out"):
        child.restore(without.state(), routed=True)
