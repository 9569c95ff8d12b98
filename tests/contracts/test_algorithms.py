"""What every algorithm promises, run over all options of `algorithm=` on hand-made rollouts of a table of logits.

A step here is what the stage makes of it: parts of the reward are added, rows are selected, advantages taken of all of
them, and the loss of each part of the step is differentiated. What an algorithm does otherwise by design stands in
`moves`, `COMPARING` and `in_order`, with the reason; nothing is skipped.
"""

import io
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.algorithms.base import Algorithm, AlgorithmConfig, Rewards, Totals
from rlx.algorithms.dpo import DpoConfig
from rlx.algorithms.npo import NpoConfig
from rlx.algorithms.policy_gradient import GroupConfig, Signs
from rlx.algorithms.reinforce import Baseline, ReinforceConfig
from rlx.algorithms.rejection import RejectionConfig
from rlx.algorithms.rloo import RlooConfig
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from rlx.options import discover
from rlx.types import Outcome, Verdict

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "grpo": [
        {},
        {"normalization": "token"},
        {"normalization": "constant", "std_normalization": "none"},
        {"normalization": "sum", "std_normalization": "batch", "dual_clip": 3.0},
        {"kl_coefficient": 0.3},
        {"entropy_coefficient": 0.1},
        {"kl_coefficient": 0.3, "kl_in": "reward"},
        {"importance_sampling_cap": 1.2},
        {"signs": "negative"},
    ],
    "ppo": [{}, {"whiten": False, "gae_lambda": 0.9, "value_clip": None}, {"kl_coefficient": 0.1, "gamma": 0.9}],
    "reinforce": [{}, {"baseline": "batch"}, {"baseline": "none"}, {"kl_coefficient": 0.1}],
    "reinforce_plus_plus": [{}, {"kl_coefficient": 0.1}],
    "reinforce_plus_plus_baseline": [{}, {"kl_coefficient": 0.1}],
    "rloo": [{}, {"kl_coefficient": 0.1}],
    "gspo": [{}, {"normalization": "sum"}],
    "cispo": [{}, {"normalization": "sequence", "signs": "positive"}],
    "grpo_lambda": [{}, {"penalized_above": 0.5, "length_penalty": 0.3}],
    "dapo": [{}, {"mask_truncated": False}],
    "parallel": [{}, {"combine": "sum"}],
    "dpo": [{}, {"beta": 2.0}],
    "npo": [{}, {"beta": 2.0, "retain_coefficient": 0.5}],
    "expert_iteration": [{}, {"deduplicate": False}],
    "rft": [{}, {"deduplicate": False}],
}
"""Settings worth testing besides the defaults of an option."""
MAX_TOKENS, VOCAB = 6, 5


def variants(settings_of: dict[str, list[dict[str, Any]]]) -> list[Any]:
    """Configs of every algorithm, at the settings given or else the defaults."""
    found = []
    for name, option in discover("algorithm").items():
        for settings in settings_of.get(name, [{}]):
            values = {key: enum_of(option.config, key, value) for key, value in settings.items()}
            label = "-".join([name, *(f"{key}={value}" for key, value in settings.items())])
            found.append(pytest.param(option.config(**values), id=label))
    return found


def enum_of(config: type, key: str, value: Any) -> Any:
    """`value` as the option's field has it: text is the name of an enum's member."""
    kind: Any = type(getattr(config(), key))
    return kind[value] if isinstance(value, str) else value


def costs(config: Any) -> bool:
    """Whether the loss is made of more than rewards."""
    return any(getattr(config, name, 0) for name in ("kl_coefficient", "entropy_coefficient"))


PLAIN = [each for each in variants(SETTINGS) if not costs(each.values[0])]


def moves(config: AlgorithmConfig, reward: float) -> bool:
    """Whether a policy moves although all rewards are `reward`, because what is done with a row depends on no other:
    right completions are imitated, wrong ones pushed away, or no baseline is taken off."""
    right = reward > 0.5
    if isinstance(config, RejectionConfig):
        return right
    if isinstance(config, NpoConfig):
        return not right or config.retain_coefficient > 0
    return isinstance(config, ReinforceConfig) and config.baseline is Baseline.none and reward != 0


COMPARING = (GroupConfig, RlooConfig)
"""Configs of algorithms whose advantages are differences within a group, so that a group of equal rewards has none.
REINFORCE++ with the group's mean takes the mean of all tokens off again; the others have baselines of another kind."""


def in_order(config: AlgorithmConfig) -> bool:
    """Whether the order within a group matters: pairs are made of the first right and the first wrong row of it, and so
    on."""
    return isinstance(config, DpoConfig)


def table(seed: int = 0) -> Tensor:
    """[T, V + 1] float64: a policy whose tokens depend on their place alone, and a critic's values beside it."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(MAX_TOKENS + 2, VOCAB, generator=generator, dtype=torch.float64)
    return torch.cat((logits, torch.linspace(-0.3, 0.9, MAX_TOKENS + 2, dtype=torch.float64)[:, None]), dim=1)


def look(weights: Tensor, tokens: Tensor) -> PolicyOutput:
    """What the table says of tokens [B, T]."""
    logs = weights[: tokens.shape[1], :VOCAB].log_softmax(-1)  # [T, V]
    logprobs = logs.expand(len(tokens), -1, -1).gather(-1, tokens[..., None]).squeeze(-1)
    entropy = -(logs.exp() * logs).sum(-1).expand(tokens.shape)
    return PolicyOutput(
        logprobs=logprobs, entropy=entropy, values=weights[: tokens.shape[1], VOCAB].expand(tokens.shape)
    )


def rollout(rewards: list[float], group: list[int], seed: int = 0) -> RolloutBatch:
    """Rows with prompts of two tokens and completions of 1 to 6, sampled by a policy near `table()`."""
    generator = torch.Generator().manual_seed(seed)
    rows, width = len(rewards), MAX_TOKENS + 2
    tokens = torch.randint(VOCAB, (rows, width), generator=generator)
    lengths = torch.randint(1, MAX_TOKENS + 1, (rows,), generator=generator)
    place = torch.arange(width)
    mask = ((place >= 2) & (place < 2 + lengths[:, None])).double()
    old = look(table() + 0.3 * table(seed + 1), tokens).logprobs
    worth = torch.zeros(rows, width, dtype=torch.float64)
    worth[torch.arange(rows), lengths + 1] = torch.tensor(rewards, dtype=torch.float64)
    return RolloutBatch(
        tokens=tokens * (place < 2 + lengths[:, None]),
        loss_mask=mask,
        logprobs=old * mask,
        rewards=worth,
        group=torch.tensor(group),
        turn=torch.zeros_like(tokens),
        finished=lengths < MAX_TOKENS,
        correct=torch.tensor(rewards) > 0.5,
        reference_logprobs=look(table() + 0.3 * table(seed + 2), tokens).logprobs,
        old_logprobs=look(table() + 0.3 * table(seed + 3), tokens).logprobs,
        values=torch.randn(rows, width, generator=generator, dtype=torch.float64) * mask,
    )


def graded(seed: int = 0) -> RolloutBatch:
    """Four groups of four, mixed rewards."""
    generator = torch.Generator().manual_seed(seed + 10)
    rewards = torch.rand(16, generator=generator).round(decimals=1)
    return rollout(rewards.tolist(), [7] * 4 + [0] * 4 + [3, 5] * 4)


def shaped(algorithm: Algorithm, batch: RolloutBatch) -> RolloutBatch:
    """With the algorithm's parts of the reward on each row's last sampled token."""
    rewards = batch.rewards.clone()
    for part in algorithm.shape(batch, MAX_TOKENS).values():
        assert part.shape == (len(batch.tokens),)
        for row in range(len(part)):
            sampled = batch.loss_mask[row].nonzero().flatten().tolist()
            rewards[row, sampled[-1] if sampled else 0] += part[row]
    return replace(batch, rewards=rewards)


Cut = Callable[[Tensor], list[Tensor]]
"""Numbers [N] of an algorithm's units in parts that go through a model at once."""


def whole(units: Tensor) -> list[Tensor]:
    return [units]


def four_equal(units: Tensor) -> list[Tensor]:
    return list(units.chunk(4))


def three_unequal(units: Tensor) -> list[Tensor]:
    rest = (len(units) - 1) // 3
    return list(units.split([1, len(units) - 1 - rest, rest]))


def loss_and_gradient(
    algorithm: Algorithm, batch: RolloutBatch, cut: Cut = whole, weights: Tensor | None = None
) -> tuple[float, Tensor]:
    """The step's loss and its gradient with respect to the table, the rows selected taken in parts."""
    weights = (table() if weights is None else weights).requires_grad_()
    batch = algorithm.select(batch)
    advantages, totals = algorithm.advantages(batch), Totals.of(batch, MAX_TOKENS)
    total = 0.0
    for part in cut(torch.arange(len(batch.tokens)).view(-1, algorithm.unit)):
        found = part_of_step(algorithm, batch, part.flatten(), advantages, totals, weights)[0]
        found.backward()
        total += found.item()
    assert weights.grad is not None
    return total, weights.grad[: MAX_TOKENS + 2]


def part_of_step(
    algorithm: Algorithm, batch: RolloutBatch, rows: Tensor, advantages: Tensor, totals: Totals, weights: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of some of the rows, and their share of the metrics."""
    part = batch.rows(rows)
    losses, metrics = algorithm.losses(look(weights, part.tokens), part, advantages[rows], totals)
    assert all(loss.shape == () for loss in losses.values())
    return torch.stack(list(losses.values())).sum(), metrics


def close(found: tuple[float, Tensor], expected: tuple[float, Tensor], tolerance: float = 1e-9) -> None:
    assert expected[1].abs().max() > 1e-3, "a gradient worth comparing"
    assert found[0] == pytest.approx(expected[0], abs=tolerance)
    torch.testing.assert_close(found[1], expected[1], atol=tolerance, rtol=0)


@pytest.fixture(params=variants(SETTINGS))
def config(request: pytest.FixtureRequest) -> AlgorithmConfig:
    return request.param


@pytest.mark.parametrize("config", PLAIN)
def test_equal_rewards_give_exactly_no_gradient(config: AlgorithmConfig) -> None:
    """None in the policy, where a critic, if there is one, expects just that; but for what `moves` names."""
    for reward, number in product((0.0, 1.0, 0.1, -3.3, 1000.1), (torch.float64, torch.float32)):
        batch = rollout([reward] * 21, [0] * 7 + [1] * 14)
        batch.values = reward * batch.loss_mask
        kinds = {name: getattr(batch, name).to(number) for name in ("rewards", "loss_mask", "values")}
        _, gradient = loss_and_gradient(config.build(), replace(batch, **kinds))
        assert bool(gradient[:, :VOCAB].abs().max() > 0) == moves(config, reward), reward


@pytest.mark.parametrize("config", [each for each in PLAIN if isinstance(each.values[0], COMPARING)])
def test_a_group_without_a_signal_has_no_advantage(config: GroupConfig | RlooConfig) -> None:
    batch = rollout([1.0, 0.0, 0.3, 0.0, 1.0, 1.0, 1.0, 1.0], [0] * 4 + [1] * 4)
    batch.finished |= True
    heard = config.build().advantages(batch).any(-1).tolist()
    good = [config.signs is not Signs.negative, *[config.signs is not Signs.positive] * 3]
    assert heard == [*good, *[False] * 4]


def test_advantages_are_zero_outside_the_mask(config: AlgorithmConfig) -> None:
    algorithm = config.build()
    batch = algorithm.select(shaped(algorithm, graded()))
    advantages = algorithm.advantages(batch)
    assert advantages.shape == batch.tokens.shape and advantages.dtype == batch.loss_mask.dtype
    assert not advantages.requires_grad
    assert advantages[batch.loss_mask == 0].abs().sum() == 0
    assert advantages.abs().sum() > 0


def test_only_sampled_tokens_are_pushed(config: AlgorithmConfig) -> None:
    """Not prompts, padding, or what stands between sampled tokens (an environment's feedback); each of those that an
    update goes through is, whatever the policy says of it."""
    algorithm, batch = config.build(), graded()
    holes = torch.rand(batch.loss_mask.shape, generator=torch.Generator().manual_seed(4)) < 0.3
    holes &= batch.rewards == 0  # every row keeps a token: its last
    holes[torch.arange(16), batch.loss_mask.argmax(-1)] = False
    batch.loss_mask = batch.loss_mask * ~holes
    batch.old_logprobs = batch.logprobs.clone()  # no ratio is beyond a clip
    batch = algorithm.select(batch)
    advantages = algorithm.advantages(batch)
    said = look(table(), batch.tokens)
    said.logprobs = batch.logprobs.clone().requires_grad_()
    assert said.values is not None
    said.values = said.values.clone().requires_grad_()
    losses, _ = algorithm.losses(said, batch, advantages, Totals.of(batch, MAX_TOKENS))
    torch.stack(list(losses.values())).sum().backward()
    pushed = [value.grad for value in (said.logprobs, said.values) if value.grad is not None]
    assert len(pushed) == 1 + ("values" in algorithm.needs)
    for gradient in pushed:
        assert gradient[batch.loss_mask == 0].abs().sum() == 0 and gradient.isfinite().all()
    asked = batch.loss_mask.bool() if "reference" in algorithm.needs else advantages != 0
    assert (pushed[0] != 0)[asked].all()


def test_only_what_it_needs_is_read(config: AlgorithmConfig) -> None:
    algorithm, batch = config.build(), graded()
    given = {"reference": "reference_logprobs", "old_logprobs": "old_logprobs", "values": "values"}
    unread = {field: None for name, field in given.items() if name not in algorithm.needs}
    close(loss_and_gradient(algorithm, replace(batch, **unread)), loss_and_gradient(algorithm, batch))
    assert algorithm.needs <= set(given)


def test_padding_changes_nothing(config: AlgorithmConfig) -> None:
    """Columns of padding on the right, whatever their tokens, log-probabilities and values are."""
    algorithm, batch = config.build(), graded()
    expected = loss_and_gradient(algorithm, shaped(algorithm, batch))
    padded = batch.padded(batch.tokens.shape[1] + 3, pad_id=1)
    for name, value in {"reference_logprobs": -9.0, "old_logprobs": -5.0, "values": 7.0}.items():
        getattr(padded, name)[:, -3:] = value
    strange = torch.full((3, VOCAB + 1), 50.0, dtype=torch.float64) * torch.arange(VOCAB + 1)
    weights = torch.cat((table(), strange))
    close(loss_and_gradient(algorithm, shaped(algorithm, padded), weights=weights), expected)


def test_order_of_rows_changes_nothing(config: AlgorithmConfig) -> None:
    """For what is `in_order`, rows of a group keep theirs: groups are mixed."""
    algorithm, batch = config.build(), graded()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    if in_order(config):
        for number in batch.group.unique():
            own = batch.group[order] == number
            order[own] = order[own].sort().values
    assert order.tolist() != sorted(order.tolist())
    changed = shaped(algorithm, batch.rows(order))
    close(loss_and_gradient(algorithm, changed), loss_and_gradient(algorithm, shaped(algorithm, batch)))


@pytest.mark.parametrize("cut", [four_equal, three_unequal], ids=["four equal", "three unequal"])
def test_micro_batches_change_nothing(config: AlgorithmConfig, cut: Cut) -> None:
    algorithm, batch = config.build(), graded()
    rows = len(algorithm.select(batch).tokens)
    assert len(cut(torch.arange(rows).view(-1, algorithm.unit))) > 2
    close(loss_and_gradient(algorithm, batch, cut), loss_and_gradient(algorithm, batch))


def test_rows_without_sampled_tokens_change_nothing(config: AlgorithmConfig) -> None:
    """Such a row is in no group of the others and counts in no denominator, be it right or wrong."""
    algorithm, batch = config.build(), graded()
    empty = replace(batch.rows(torch.tensor([0, 0])), group=torch.tensor([99, 98]), correct=torch.tensor([True, False]))
    for name in ("loss_mask", "logprobs", "rewards", "values"):
        setattr(empty, name, torch.zeros_like(getattr(empty, name)))
    names = batch.tensors()
    joined = RolloutBatch(**{name: torch.cat((getattr(batch, name), getattr(empty, name))) for name in names})
    close(loss_and_gradient(algorithm, joined), loss_and_gradient(algorithm, batch))


def test_silent_rows_can_be_left_out_exactly_when_the_algorithm_says_so(config: AlgorithmConfig) -> None:
    """Without the rows whose advantages are 0, at the step's own totals, nothing else changes."""
    algorithm = config.build()
    batch = algorithm.select(graded())
    advantages, totals = algorithm.advantages(batch).clone(), Totals.of(batch, MAX_TOKENS)
    heard = torch.arange(len(batch.tokens) // 2 // algorithm.unit * algorithm.unit)
    advantages[len(heard) :] = 0

    def gradient(rows: Tensor) -> Tensor:
        weights = table().requires_grad_()
        part_of_step(algorithm, batch, rows, advantages, totals, weights)[0].backward()
        assert weights.grad is not None and weights.grad.abs().max() > 1e-3
        return weights.grad

    every, part = gradient(torch.arange(len(batch.tokens))), gradient(heard)
    assert algorithm.silent_at_zero == torch.allclose(part, every, atol=1e-12, rtol=0)


def test_metrics_are_detached_shares(config: AlgorithmConfig) -> None:
    """Metrics of micro-batches add up to those of the whole."""
    algorithm = config.build()
    batch = algorithm.select(graded())
    advantages, totals = algorithm.advantages(batch), Totals.of(batch, MAX_TOKENS)
    weights, units = table().requires_grad_(), torch.arange(len(batch.tokens)).view(-1, algorithm.unit)

    def metrics_of(part: Tensor) -> dict[str, Tensor]:
        return part_of_step(algorithm, batch, part.flatten(), advantages, totals, weights)[1]

    every, parts = metrics_of(units), [metrics_of(part) for part in three_unequal(units)]
    for name, value in every.items():
        assert not value.requires_grad and value.shape == (), name
        torch.testing.assert_close(torch.stack([part[name] for part in parts]).sum(), value)


def test_far_ratios_stay_finite(config: AlgorithmConfig) -> None:
    algorithm = config.build()
    batch = algorithm.select(graded())
    advantages = algorithm.advantages(batch)
    for shift in (-1000.0, 1000.0):  # exp(1000) is infinite in float64 too
        said = look(table(), batch.tokens)
        shifts = torch.tensor([shift, -shift], dtype=torch.float64).repeat(8)[: len(batch.tokens), None]
        said.logprobs = (batch.logprobs + shifts).requires_grad_()
        losses, metrics = algorithm.losses(said, batch, advantages, Totals.of(batch, MAX_TOKENS))
        torch.stack(list(losses.values())).sum().backward()
        assert said.logprobs.grad is not None and said.logprobs.grad.isfinite().all()
        assert all(value.isfinite() for value in (*losses.values(), *metrics.values()))


def test_nothing_to_train_on_is_no_loss(config: AlgorithmConfig) -> None:
    """No row at all, as after an iteration of which nothing is selected."""
    algorithm = config.build()
    batch = algorithm.select(graded().rows(torch.zeros(0, dtype=torch.int64)))
    loss, metrics = part_of_step(
        algorithm, batch, torch.arange(0), algorithm.advantages(batch), Totals.of(batch, MAX_TOKENS), table()
    )
    assert loss == 0 and all(value == 0 for value in metrics.values())


def test_a_state_is_taken_up(config: AlgorithmConfig) -> None:
    """Of plain values, so that it is read without unpickling code; one of another algorithm changes nothing."""
    first, resumed, fresh = config.build(), config.build(), config.build()
    first.advantages(first.select(graded(1)))
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    resumed.restore(torch.load(file, weights_only=True))
    fresh.restore({})
    batch = first.select(graded())
    expected = first.advantages(batch)
    assert torch.equal(resumed.advantages(batch), expected)
    changed = not torch.equal(fresh.advantages(batch), expected)
    assert changed == (isinstance(config, ReinforceConfig) and config.baseline is Baseline.running)


BANDITS: dict[str, list[dict[str, Any]]] = {
    "grpo": [{}, {"normalization": "constant", "std_normalization": "none"}, {"signs": "negative"}],
    "expert_iteration": [{"deduplicate": False}],
    "rft": [{"deduplicate": False}],
}
"""Settings of the bandit, where the defaults do not do. It has ten completions: without duplicates all arms that ever
pay would be imitated alike, so they are kept, and then imitation of what was drawn is a policy gradient on successes,
which has the best arm as its optimum."""


def bandit(config: AlgorithmConfig, lr: float, updates: int) -> list[float]:
    """Probability of the best of ten arms, before and after up to `updates` of 64 samples; arms pay 0 or 1 at random.
    It ends when the best arm has had 0.95 for ten updates. A critic is one number, trained beside the policy."""
    generator = torch.Generator().manual_seed(0)
    pays = torch.tensor([0.1, 0.3, 0.2, 0.5, 0.0, 0.4, 0.9, 0.6, 0.2, 0.3])
    logits, value = torch.zeros(10, requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([logits, value], lr=lr)
    algorithm = config.build()
    group = torch.arange(64) // config.group_size
    mask = torch.tensor([[0.0, 1.0]]).expand(64, 2)
    history: list[float] = []
    while len(history) < updates and (len(history) < 21 or min(history[-10:]) < 0.95):
        logs = logits.log_softmax(-1)
        history.append(logs[6].exp().item())
        arms = torch.multinomial(logs.detach().exp(), 64, replacement=True, generator=generator)
        paid = (torch.rand(64, generator=generator) < pays[arms]).float()
        nothing = torch.zeros(64)
        batch = algorithm.select(
            RolloutBatch(
                tokens=torch.stack((torch.zeros_like(arms), arms), dim=1),
                loss_mask=mask,
                logprobs=torch.stack((nothing, logs.detach()[arms]), dim=1),
                rewards=torch.stack((nothing, paid), dim=1),
                group=group,
                turn=torch.zeros(64, 2, dtype=torch.int64),
                finished=torch.ones(64, dtype=torch.bool),
                correct=paid > 0,
                reference_logprobs=torch.full((64, 2), 0.1).log() * mask,
                values=value.detach() * mask,
            )
        )
        rows = len(batch.tokens)
        out = PolicyOutput(
            logprobs=torch.stack((torch.zeros(rows), logs[batch.tokens[:, 1]]), dim=1),
            entropy=-(logs.exp() * logs).sum().expand(rows, 2),
            values=value.expand(rows, 2),
        )
        losses, _ = algorithm.losses(out, batch, algorithm.advantages(batch), Totals.of(batch, 1))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    return [*history, logits.softmax(-1)[6].item()]


@pytest.mark.parametrize("config", variants(BANDITS))
def test_the_best_arm_is_found(config: AlgorithmConfig) -> None:
    history = bandit(config, lr=0.1, updates=300)
    assert history[0] == pytest.approx(0.1)
    assert history[20] > 0.15
    assert history[-1] >= 0.95


@pytest.mark.parametrize("config", variants({}))
def test_verdicts_are_worth_what_the_config_says(config: AlgorithmConfig) -> None:
    assert config.reward(Verdict(Outcome.correct)) == 1.0
    assert all(config.reward(Verdict(outcome)) == 0.0 for outcome in Outcome if outcome is not Outcome.correct)
    own = replace(config, rewards=Rewards(correct=2.0, malformed=-0.5, truncated=-1.0))
    worth = [own.reward(Verdict(outcome)) for outcome in Outcome]
    assert dict(zip(Outcome, worth, strict=True)) == {
        Outcome.correct: 2.0,
        Outcome.wrong: 0.0,
        Outcome.illegal: 0.0,
        Outcome.malformed: -0.5,
        Outcome.truncated: -1.0,
    }


@pytest.mark.parametrize("config", variants({}))
def test_wrong_settings_are_one_line(config: AlgorithmConfig) -> None:
    for values, says in (
        ({"group_size": 0}, "algorithm.group_size=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"minibatches": 0}, "minibatches=0"),
        ({"reference_every": 0}, "reference_every=0 must be"),
    ):
        with pytest.raises(ConfigError, match=says) as error:
            replace(config, **values)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", variants({}))
def test_a_reference_is_renewed_where_there_is_one(config: AlgorithmConfig) -> None:
    if hasattr(config, "kl_coefficient") or "reference" in config.build().needs:
        assert replace(config, reference_every=3).reference_every == 3
        return
    with pytest.raises(ConfigError, match=r"algorithm\.reference_every: nothing here has a reference"):
        replace(config, reference_every=3)


@pytest.mark.parametrize(
    ("name", "off", "field", "given", "remedy"),
    [
        ("grpo_lambda", {"penalized_above": 0.5}, "penalized_share", 0.5, "one of the two"),
        ("rft", {}, "buffer_rounds", 2, "round_iterations"),
    ],
)
def test_what_another_setting_replaces_is_refused(
    name: str, off: dict[str, Any], field: str, given: Any, remedy: str
) -> None:
    """In one line that says what would read it; at its default it is silent."""
    made = discover("algorithm")[name].config
    off = {key: enum_of(made, key, value) for key, value in off.items()}
    assert getattr(made(**off), field) != given
    with pytest.raises(ConfigError, match=rf"algorithm\.{field}={given}: .*{remedy}, or leave it out$"):
        made(**off, **{field: enum_of(made, field, given)})


def test_what_a_switch_turns_off_is_not_refused() -> None:
    """A sweep goes through the switch."""
    made = {name: option.config for name, option in discover("algorithm").items()}
    for name, values in (
        ("grpo", {"kl_coefficient": 0.0, "kl_estimator": "k2", "kl_in": "reward", "reference_every": 5}),
        ("grpo", {"signs": "positive", "dual_clip": 3.0, "max_draws": 20}),
        ("dapo", {"overlong_share": None, "overlong_penalty": 2.0}),
        ("dr_grpo", {"std_eps": 1e-6}),
        ("reinforce", {"baseline": "batch", "baseline_decay": 0.5}),
    ):
        assert made[name](**{key: enum_of(made[name], key, value) for key, value in values.items()}).build()
