"""What every algorithm promises, run over all options of `algorithm=` on hand-made rollouts of a table of logits."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlx.algorithms.base import Algorithm, AlgorithmConfig, Rewards, Totals
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from rlx.options import discover
from rlx.types import Outcome, Verdict

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "grpo": [
        {},
        {"normalization": "token"},
        {"normalization": "constant", "std_normalization": "none"},
        {"kl_coefficient": 0.3, "entropy_coefficient": 0.1},
        {"importance_sampling_cap": 1.2},
    ]
}
"""Settings worth testing besides the defaults of an option."""
LEARNING_RATE: dict[str, float] = {}
"""Of the bandit, where 0.1 does not do."""
MAX_TOKENS, VOCAB = 6, 5


def variants(*, plain: bool = False) -> list[Any]:
    """Configs of every algorithm; with `plain` only those whose loss is made of the rewards alone."""
    found = []
    for name, option in discover("algorithm").items():
        for settings in SETTINGS.get(name, [{}]):
            if plain and any(key.endswith("_coefficient") for key in settings):
                continue
            values = {key: enum_of(option.config, key, value) for key, value in settings.items()}
            label = "-".join([name, *(f"{key}={value}" for key, value in settings.items())])
            found.append(pytest.param(option.config(**values), id=label))
    return found


def enum_of(config: type, key: str, value: Any) -> Any:
    """`value` as the option's field has it: text is the name of an enum's member."""
    kind: Any = type(getattr(config(), key))
    return kind[value] if isinstance(value, str) else value


def table(seed: int = 0) -> Tensor:
    """[T, V] float64: a policy whose tokens depend on their place alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(MAX_TOKENS + 2, VOCAB, generator=generator, dtype=torch.float64)


def look(logits: Tensor, tokens: Tensor) -> PolicyOutput:
    """What the table says of tokens [B, T]."""
    logs = logits[: tokens.shape[1]].log_softmax(-1)  # [T, V]
    logprobs = logs.expand(len(tokens), -1, -1).gather(-1, tokens[..., None]).squeeze(-1)
    entropy = -(logs.exp() * logs).sum(-1).expand(tokens.shape)
    return PolicyOutput(logprobs=logprobs, entropy=entropy, values=torch.zeros_like(logprobs))


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
    )


def graded(seed: int = 0) -> RolloutBatch:
    """Four groups of four, mixed rewards."""
    generator = torch.Generator().manual_seed(seed + 10)
    rewards = torch.rand(16, generator=generator).round(decimals=1)
    return rollout(rewards.tolist(), [7] * 4 + [0] * 4 + [3, 5] * 4)


def loss_and_gradient(
    algorithm: Algorithm, batch: RolloutBatch, parts: list[Tensor] | None = None, totals: Totals | None = None
) -> tuple[float, Tensor]:
    """The step's loss and its gradient with respect to the table, the batch taken in parts."""
    logits = table().requires_grad_()
    batch = algorithm.select(batch)
    advantages = algorithm.advantages(batch)
    totals = totals or Totals.of(batch, MAX_TOKENS)
    total = 0.0
    for rows in parts or [torch.arange(len(batch.tokens))]:
        part = batch.rows(rows)
        losses, _ = algorithm.losses(look(logits, part.tokens), part, advantages[rows], totals)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        total += loss.item()
    assert logits.grad is not None
    return total, logits.grad


def close(found: tuple[float, Tensor], expected: tuple[float, Tensor], tolerance: float = 1e-9) -> None:
    assert expected[1].abs().max() > 1e-3, "a gradient worth comparing"
    assert found[0] == pytest.approx(expected[0], abs=tolerance)
    torch.testing.assert_close(found[1], expected[1], atol=tolerance, rtol=0)


@pytest.fixture(params=variants())
def config(request: pytest.FixtureRequest) -> AlgorithmConfig:
    return request.param


@pytest.mark.parametrize("config", variants(plain=True))
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -3.3, 1000.1], ids=str)
def test_equal_rewards_give_exactly_no_gradient(config: AlgorithmConfig, reward: float) -> None:
    batch = rollout([reward] * 21, [0] * 7 + [1] * 14)
    for number in (torch.float64, torch.float32):
        changed = replace(batch, rewards=batch.rewards.to(number), loss_mask=batch.loss_mask.to(number))
        _, gradient = loss_and_gradient(config.build(), changed)
        assert gradient.abs().max() == 0


def test_advantages_are_zero_outside_the_mask(config: AlgorithmConfig) -> None:
    batch = graded()
    advantages = config.build().advantages(batch)
    assert advantages.shape == batch.tokens.shape
    assert advantages[batch.loss_mask == 0].abs().sum() == 0
    assert advantages.abs().sum() > 0


def test_padding_changes_nothing(config: AlgorithmConfig) -> None:
    """Columns of padding on the right, whatever their tokens and log-probabilities are."""
    algorithm, batch = config.build(), graded()
    logits = table()
    expected = loss_and_gradient(algorithm, batch)
    wide = torch.nn.functional.pad

    def widened(tensor: Tensor | None, value: float) -> Any:
        return None if tensor is None else wide(tensor, (0, 3), value=value)

    padded = replace(
        batch,
        tokens=widened(batch.tokens, 1),
        loss_mask=widened(batch.loss_mask, 0),
        logprobs=widened(batch.logprobs, 0),
        rewards=widened(batch.rewards, 0),
        turn=widened(batch.turn, 0),
        reference_logprobs=widened(batch.reference_logprobs, -9.0),
        old_logprobs=widened(batch.old_logprobs, -5.0),
    )
    parameters = logits.clone().requires_grad_()
    advantages = algorithm.advantages(padded)
    policy = look(torch.cat((parameters, torch.full((3, VOCAB), 50.0) * torch.arange(VOCAB))), padded.tokens)
    losses, _ = algorithm.losses(policy, padded, advantages, Totals.of(padded, MAX_TOKENS))
    loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    assert parameters.grad is not None
    close((loss.item(), parameters.grad), expected)


def test_order_of_rows_changes_nothing(config: AlgorithmConfig) -> None:
    algorithm, batch = config.build(), graded()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    close(loss_and_gradient(algorithm, batch.rows(order)), loss_and_gradient(algorithm, batch))


@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [1, 10, 5]], ids=["four equal", "three unequal"])
def test_micro_batches_change_nothing(config: AlgorithmConfig, sizes: list[int]) -> None:
    algorithm, batch = config.build(), graded()
    parts = list(torch.arange(16).split(sizes))
    close(loss_and_gradient(algorithm, batch, parts), loss_and_gradient(algorithm, batch))


def test_rows_without_sampled_tokens_change_nothing(config: AlgorithmConfig) -> None:
    """Such a row is in no group of the others and counts in no denominator."""
    algorithm, batch = config.build(), graded()
    empty = replace(batch.rows(torch.tensor([0])), group=torch.tensor([99]))
    for name in ("loss_mask", "logprobs", "rewards"):
        setattr(empty, name, torch.zeros_like(getattr(empty, name)))
    names = [name for name in batch.__slots__ if getattr(batch, name) is not None]
    joined = RolloutBatch(**{name: torch.cat((getattr(batch, name), getattr(empty, name))) for name in names})
    close(loss_and_gradient(algorithm, joined), loss_and_gradient(algorithm, batch))


def test_silent_rows_can_be_left_out_exactly_when_the_algorithm_says_so(config: AlgorithmConfig) -> None:
    """A group of equal rewards has no advantage; without its rows, at the step's own totals, nothing else changes."""
    algorithm = config.build()
    batch = rollout([1.0, 0.0, 0.3, 0.0, 1.0, 1.0, 1.0, 1.0], [0] * 4 + [1] * 4)
    heard = algorithm.advantages(batch).any(-1).nonzero().squeeze(1)
    assert heard.tolist() == [0, 1, 2, 3]
    totals = Totals.of(batch, MAX_TOKENS)
    whole = loss_and_gradient(algorithm, batch, totals=totals)[1]
    part = loss_and_gradient(algorithm, batch.rows(heard), totals=totals)[1]
    assert algorithm.silent_at_zero == torch.allclose(part, whole, atol=1e-12, rtol=0)


def test_metrics_are_detached_shares(config: AlgorithmConfig) -> None:
    """Metrics of micro-batches add up to those of the whole."""
    algorithm, batch = config.build(), graded()
    advantages, totals = algorithm.advantages(batch), Totals.of(batch, MAX_TOKENS)
    logits = table().requires_grad_()

    def metrics_of(rows: Tensor) -> dict[str, Tensor]:
        part = batch.rows(rows)
        return algorithm.losses(look(logits, part.tokens), part, advantages[rows], totals)[1]

    whole = metrics_of(torch.arange(16))
    parts = [metrics_of(rows) for rows in torch.arange(16).split(4)]
    for name, value in whole.items():
        assert not value.requires_grad and value.shape == (), name
        torch.testing.assert_close(torch.stack([part[name] for part in parts]).sum(), value)


def bandit(config: AlgorithmConfig, lr: float, updates: int) -> list[float]:
    """Probability of the best of ten arms, before and after `updates` of 64 samples; arms pay 0 or 1 at random."""
    generator = torch.Generator().manual_seed(0)
    pays = torch.tensor([0.1, 0.3, 0.2, 0.5, 0.0, 0.4, 0.9, 0.6, 0.2, 0.3])
    logits = torch.zeros(10, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=lr)
    algorithm = config.build()
    group = torch.arange(64) // config.group_size
    mask = torch.tensor([[0.0, 1.0]]).expand(64, 2)
    history = []
    for _ in range(updates):
        logs = logits.log_softmax(-1)
        history.append(logs[6].exp().item())
        arms = torch.multinomial(logs.detach().exp(), 64, replacement=True, generator=generator)
        paid = (torch.rand(64, generator=generator) < pays[arms]).float()
        logprobs = torch.stack((torch.zeros(64), logs[arms]), dim=1)
        batch = RolloutBatch(
            tokens=torch.stack((torch.zeros_like(arms), arms), dim=1),
            loss_mask=mask,
            logprobs=logprobs.detach(),
            rewards=torch.stack((torch.zeros(64), paid), dim=1),
            group=group,
            turn=torch.zeros(64, 2, dtype=torch.int64),
            finished=torch.ones(64, dtype=torch.bool),
            correct=paid > 0,
            reference_logprobs=torch.full((64, 2), 0.1).log() * mask,
            old_logprobs=logprobs.detach(),
        )
        entropy = -(logs.exp() * logs).sum().expand(64, 2)
        out = PolicyOutput(logprobs=logprobs, entropy=entropy, values=torch.zeros(64, 2))
        batch = algorithm.select(batch)
        losses, _ = algorithm.losses(out, batch, algorithm.advantages(batch), Totals.of(batch, 1))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    return [*history, logits.softmax(-1)[6].item()]


@pytest.mark.parametrize("config", variants(plain=True))
def test_the_best_arm_is_found(config: AlgorithmConfig, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id.split("-")[0]
    history = bandit(config, LEARNING_RATE.get(name, 0.1), 300)
    assert history[0] == pytest.approx(0.1)
    assert history[20] > 0.15
    assert history[-1] >= 0.95


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


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"group_size": 0}, "algorithm.group_size=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"minibatches": 0}, "minibatches=0"),
    ],
    ids=["group size", "epochs", "minibatches"],
)
def test_wrong_settings_are_one_line(config: AlgorithmConfig, values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        replace(config, **values)
    assert "\n" not in str(error.value)
