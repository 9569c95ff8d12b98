"""Sums of factors against the two formulas; PEFT's own is compared in tests/stages/test_merge_adapters.py."""

from math import sqrt

import pytest
import torch

from rlx.errors import ConfigError
from rlx.merges.lora_linear import LoraLinearConfig, Rule
from tests.merges.factors import STACKS, dense, distance, drawn, total

stacked = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
WEIGHTS, SCALES = [0.7, -0.2, 1.5], [2.0, 0.5, 1.25]


@stacked
def test_the_roots_go_to_both_factors(stack: tuple[int, ...]) -> None:
    factors = drawn([3, 3, 3], SCALES, stack)
    found = LoraLinearConfig().build().combine(factors, WEIGHTS)
    signs, roots = [1, -1, 1], [sqrt(1.4), sqrt(0.1), sqrt(1.875)]
    a = torch.stack([sign * root * each.a.double() for sign, root, each in zip(signs, roots, factors, strict=True)])
    b = torch.stack([root * each.b.double() for root, each in zip(roots, factors, strict=True)])
    expected = torch.einsum("...or,...ri->...oi", b.sum(0), a.sum(0))
    torch.testing.assert_close(dense(found), expected, atol=1e-5, rtol=1e-5)


@stacked
def test_or_all_go_to_the_second(stack: tuple[int, ...]) -> None:
    factors = drawn([3, 3, 3], SCALES, stack)
    found = LoraLinearConfig(rule=Rule.soups).build().combine(factors, WEIGHTS)
    a = torch.stack([each.a.double() for each in factors]).sum(0)
    strengths = [weight * scale for weight, scale in zip(WEIGHTS, SCALES, strict=True)]
    b = torch.stack([strength * each.b.double() for strength, each in zip(strengths, factors, strict=True)]).sum(0)
    torch.testing.assert_close(dense(found), torch.einsum("...or,...ri->...oi", b, a), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", list(Rule), ids=lambda rule: rule.name)
@pytest.mark.parametrize("weight", [1.0, -0.5])
def test_one_adapter_alone_is_its_own_product(rule: Rule, weight: float) -> None:
    factors = drawn([4], [2.0])
    found = LoraLinearConfig(rule=rule).build().combine(factors, [weight])
    assert distance(dense(found), total(factors, [weight])) < 1e-6


@pytest.mark.parametrize(("rule", "least"), [(Rule.peft, 0.9), (Rule.soups, 0.9)], ids=["peft", "soups"])
def test_it_is_not_the_sum(rule: Rule, least: float) -> None:
    """Of adapters that have nothing to do with each other the cross terms are as large as the terms."""
    factors = drawn([8, 8], [2.0, 2.0], o=128, i=128)
    found = LoraLinearConfig(rule=rule).build().combine(factors, [0.5, 0.5])
    assert distance(dense(found), total(factors, [0.5, 0.5])) > least


def test_ranks_must_be_equal() -> None:
    config = LoraLinearConfig()
    config.check(drawn([3, 3], [1.0, 2.0]))
    with pytest.raises(ConfigError, match="ranks 2, 3 cannot be added factor by factor; merge=lora_cat") as error:
        config.check(drawn([2, 3], [1.0, 1.0]))
    assert "\n" not in str(error.value)
