"""`algorithm=parallel`: two optimizers at the same weights, whose steps are averaged.

Checked in runs of the stage, with gradients as they came and AdamW written out in float64.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rlx.algorithms.base import Demonstrations, Normalization
from rlx.algorithms.grpo import GrpoConfig
from rlx.algorithms.parallel import Combine, ParallelConfig
from rlx.algorithms.policy_gradient import StdNormalization
from rlx.errors import ConfigError
from rlx.stages.modules import companion, policy
from rlx.stages.modules.companion import averaged, trained
from rlx.stages.modules.rollouts import Sampler
from rlx.stages.modules.step import stepped
from tests.stages.runs import rl

ADAM = {"optim.beta1": 0.8, "optim.beta2": 0.9, "optim.eps": 1e-4, "optim.weight_decay": 3.0}
"""Of the runs; eps is large, so that no step depends on the rounding of a gradient near 0."""


def test_the_middle_by_hand() -> None:
    """From 1 and 2, one step leads to 3 and 2, the other to 2 and 0; what does not learn stays."""
    model = nn.Linear(1, 2)
    model.bias.requires_grad_(False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0], [0.0]]))
    fixed = model.bias.clone()
    averaged(model, [torch.tensor([[1.0], [2.0]])], [torch.tensor([[3.0], [2.0]])])
    assert model.weight.tolist() == [[1 + 0.5 * (2 + 1)], [2 + 0.5 * (0 - 2)]]
    assert torch.equal(model.bias, fixed) and len(trained(model)) == 1


def test_what_neither_step_moved_stays_to_the_bit() -> None:
    """The mean of two equal numbers is that number, and so must be the middle, wherever the rounding falls."""
    model = nn.Linear(64, 64)
    start = [parameter.clone() for parameter in trained(model)]
    averaged(model, start, [parameter.clone() for parameter in start])
    assert all(torch.equal(one, other) for one, other in zip(trained(model), start, strict=True))


@dataclass
class Step:
    """One of an optimizer: where it began and ended, and the gradient before clipping; all of float64."""

    side: str
    model: Any
    before: Tensor
    gradient: Tensor
    after: Tensor
    lr: float
    solutions: Tensor | None
    """The gradient of the solutions' mean cross-entropy there, of the solutions asked for last."""


@dataclass
class Adam:
    """AdamW on one flat tensor, as its paper writes it, after clipping to a norm of 1."""

    mean: Any = 0.0
    square: Any = 0.0
    made: int = 0

    def step(self, weights: Tensor, gradient: Tensor, lr: float, decays: Tensor) -> Tensor:
        """How far it moves the weights, of which those decay where `decays` is 1."""
        one, two, self.made = ADAM["optim.beta1"], ADAM["optim.beta2"], self.made + 1
        gradient = gradient / max(1.0, gradient.norm().item())
        self.mean = one * self.mean + (1 - one) * gradient
        self.square = two * self.square + (1 - two) * gradient**2
        mean, square = self.mean / (1 - one**self.made), self.square / (1 - two**self.made)
        return -lr * (mean / (square.sqrt() + ADAM["optim.eps"]) + ADAM["optim.weight_decay"] * decays * weights)


@dataclass
class Watch:
    """The steps of a run, in the order they were made."""

    steps: list[Step] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    """Solutions, a batch a request."""


@pytest.fixture
def watched(door, monkeypatch: pytest.MonkeyPatch):
    """Run an iteration or more of an algorithm from random weights, and give its steps."""

    def flat(tensors: Any) -> Tensor:
        return torch.cat([tensor.detach().double().flatten() for tensor in tensors])

    def solved(model: Any, batch: Any) -> Tensor:
        """Gradient of the mean cross-entropy of the solutions' tokens."""
        hidden, _ = model.run(batch.tokens, model.rows(batch.tokens))
        targets = torch.where(batch.loss_mask > 0, batch.tokens, -100)[:, 1:]
        loss = cross_entropy(model.logits(hidden)[:, :-1].flatten(0, 1), targets.flatten())
        return flat(torch.autograd.grad(loss, [each for each in model.parameters() if each.requires_grad]))

    def run(*arguments: str) -> Watch:
        seen = Watch()
        demonstrations = Sampler.demonstrations

        def asked(sampler: Sampler, first: int, count: int) -> Any:
            seen.asked.append(demonstrations(sampler, first, count))
            return seen.asked[-1]

        def recorder(side: str):
            def record(optimizer: Any, model: Any, factor: float, clip_norm: float) -> Tensor:
                assert clip_norm == 1.0
                learning = [each for each in model.parameters() if each.requires_grad]
                before, gradient = flat(learning), flat([each.grad for each in learning])
                solutions = solved(model, seen.asked[-1]) if seen.asked else None
                norm = stepped(optimizer, model, factor, clip_norm)
                lr = optimizer.param_groups[0]["lr"]
                seen.steps.append(Step(side, model, before, gradient, flat(learning), lr, solutions))
                return norm

            return record

        with monkeypatch.context() as patch:
            patch.setattr(Sampler, "demonstrations", asked)
            patch.setattr(policy, "stepped", recorder("policy"))
            patch.setattr(companion, "stepped", recorder("solutions"))
            settings = [f"{name}={value}" for name, value in ADAM.items()]
            done = door(*rl("random", *settings, "optim.lr=0.01", "schedule.warmup_steps=0", "stage.val_every=0",
                            "stage.preflight_problems=0", "stage.steps=1", *arguments))  # fmt: skip
        assert done.code == 0, done.err
        return seen

    return run


def test_steps_of_two_optimizers_are_averaged(watched) -> None:
    """W + (D_RL + D_SFT) / 2 with gradients at the same W, moments and clipping of their own, and rates of their own,
    over several updates; that is not one optimizer on the mean of the gradients."""
    found = watched("algorithm=parallel", "algorithm.sft_rows=3", "algorithm.sft_lr=0.02", "algorithm.minibatches=2",
                    "stage.steps=2")  # fmt: skip
    assert [step.side for step in found.steps] == ["policy", "solutions"] * 4 and len(found.asked) == 4
    sides, one = {"policy": Adam(), "solutions": Adam()}, Adam()
    weights = found.steps[0].before
    decays = torch.cat([torch.full((each.numel(),), float(each.dim() > 1)) for each in trained(found.steps[0].model)])
    for own, other in zip(found.steps[0::2], found.steps[1::2], strict=True):
        assert torch.equal(own.before, other.before), "both gradients are taken at the same weights"
        torch.testing.assert_close(own.before, weights, atol=1e-6, rtol=0)
        assert other.solutions is not None
        torch.testing.assert_close(other.gradient, other.solutions, atol=1e-6, rtol=1e-4)
        assert own.lr > 0 and other.lr == pytest.approx(2 * own.lr)
        moved = [sides[step.side].step(step.before, step.gradient, step.lr, decays) for step in (own, other)]
        weights = own.before + 0.5 * (moved[0] + moved[1])
        mixed = one.step(own.before, (own.gradient + other.gradient) / 2, (own.lr + other.lr) / 2, decays)
        assert (own.before + mixed - weights).abs().max() > 1e-3
    ended = torch.cat([each.detach().double().flatten() for each in trained(found.steps[-1].model)])
    torch.testing.assert_close(ended, weights, atol=1e-6, rtol=0)
    texts = [tuple(row) for batch in found.asked for row in batch.tokens.tolist()]
    assert len(set(texts)) == 4 * 3, "every update has solutions of its own"


def test_without_a_rate_it_is_half_a_step_of_grpo_and_a_sum_is_one_optimizer(watched) -> None:
    (grpo,) = watched("algorithm=grpo").steps
    still = watched("algorithm=parallel", "algorithm.sft_rows=3", "algorithm.sft_lr=0").steps
    assert torch.equal(still[0].before, grpo.before) and torch.equal(still[0].after, grpo.after)
    assert torch.equal(still[1].after, still[1].before)
    ended = torch.cat([each.detach().double().flatten() for each in trained(still[-1].model)])
    assert (grpo.after - grpo.before).abs().max() > 1e-3
    torch.testing.assert_close(ended - grpo.before, 0.5 * (grpo.after - grpo.before), atol=1e-7, rtol=0)

    (one,) = watched("algorithm=parallel", "algorithm.combine=sum", "algorithm.sft_coefficient=0.3",
                     "algorithm.sft_rows=3").steps  # fmt: skip
    assert one.solutions is not None and one.solutions.abs().max() > 1e-3
    torch.testing.assert_close(one.gradient, grpo.gradient + 0.3 * one.solutions, atol=1e-6, rtol=1e-4)


def test_what_the_stage_must_know() -> None:
    assert ParallelConfig(sft_rows=7, sft_lr=0.1).build().demonstrations == Demonstrations(
        rows=7, lr=0.1, averaged=True, weight=1.0
    )
    own = ParallelConfig(combine=Combine.sum, sft_coefficient=0.3).build().demonstrations
    assert own == Demonstrations(rows=64, lr=None, averaged=False, weight=0.3)


def test_its_rl_side_is_grpo() -> None:
    """With all of its fields and defaults."""
    config = ParallelConfig()
    for name in GrpoConfig.__dataclass_fields__:
        assert getattr(config, name) == getattr(GrpoConfig(), name), name
    assert (config.normalization, config.std_normalization) == (Normalization.sequence, StdNormalization.group)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"sft_rows": 0}, "sft_rows=0 must be at least 1"),
        ({"sft_lr": -1.0}, "sft_lr=-1.0 must be at least 0"),
        ({"sft_coefficient": -1.0}, "sft_coefficient=-1.0"),
        ({"sft_coefficient": 0.5}, "sft_coefficient: combine=average has a rate"),
        ({"combine": Combine.sum, "sft_lr": 0.1}, "sft_lr: combine=sum has one optimizer"),
        ({"group_size": 1}, "group_size=1"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        ParallelConfig(**values)
    assert "\n" not in str(error.value)
