"""The router: which experts, with which gates, counted how; its losses and its bias."""

import math
from typing import Any

import pytest
import torch

from rlx.kernels.base import Impl
from rlx.nn.experts import Experts, Router
from rlx.nn.rows import Rows


def made(**settings: Any) -> Experts:
    """Random weights in float64."""
    torch.manual_seed(0)
    module = Experts(**{"d_model": 8, "n_experts": 5, "top_k": 2, "width": 6, **settings}).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def some(rows: int = 3, length: int = 7) -> torch.Tensor:
    return torch.randn(rows, length, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def rows_of(x: torch.Tensor, real: torch.Tensor | None = None, routing: torch.Tensor | None = None) -> Rows:
    positions = torch.arange(x.shape[1]).expand(x.shape[:2])
    return Rows(positions=positions, given={"real": real}, routing=routing)


def expert(module: Experts, number: int, x: torch.Tensor) -> torch.Tensor:
    gate, up = (x @ module.gate_up[number].T).chunk(2, -1)
    return (torch.nn.functional.silu(gate) * up) @ module.down[number].T


@pytest.mark.parametrize("router", Router, ids=lambda router: router.value)
@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("shared_width", [0, 9])
@pytest.mark.parametrize("impl", [Impl.reference, Impl.torch], ids=lambda impl: impl.value)
def test_a_token_gets_its_best_experts(router: Router, renormalise: bool, shared_width: int, impl: Impl) -> None:
    module, x = made(router=router, renormalise=renormalise, shared_width=shared_width, impl=impl), some()
    out, _ = module(x, rows=rows_of(x))
    for token, found in zip(x.flatten(0, 1), out.flatten(0, 1), strict=True):
        logits = module.router @ token
        scores = logits.softmax(-1) if router is Router.softmax else logits.sigmoid()
        best = sorted(range(5), key=lambda n: -float(scores[n].detach()))[:2]
        gates = scores[best] / scores[best].sum() if renormalise else scores[best]
        expected = sum(gate * expert(module, n, token) for gate, n in zip(gates, best, strict=True))
        if module.shared is not None:
            expected = expected + module.shared(token, rows=rows_of(x))[0]
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_of_equal_scores_the_lower_expert_is_chosen() -> None:
    module, x = made(n_experts=40, top_k=3), some()
    with torch.no_grad():
        module.router.zero_()
        module.router[[7, 30]] = 1.0
    _, aux = module(x, rows=rows_of(x))
    positive = x.sum(-1) > 0
    (routing,) = aux.routing
    assert positive.any() and not positive.all()
    assert routing.chosen[positive].unique(dim=0).tolist() == [[7, 30, 0]]
    assert routing.chosen[~positive].unique(dim=0).tolist() == [[0, 1, 2]]


def test_the_router_is_float32_under_autocast() -> None:
    module, x = made().float(), some().float()
    wide, aux = module(x, rows=rows_of(x))
    with torch.autocast("cpu", torch.bfloat16):
        half, other = module(x, rows=rows_of(x))
    assert half.dtype is torch.bfloat16 and (half.float() - wide).abs().max() < 0.05 * wide.abs().max()
    assert torch.equal(other.routing[0].chosen, aux.routing[0].chosen)
    assert torch.equal(other.routing[0].entropy, aux.routing[0].entropy), "the same logits to the bit"


def test_an_even_router_has_balance_1_and_the_entropy_of_its_experts() -> None:
    module, x = made(top_k=5, balance_loss=0.5, router_z_loss=0.25), some()
    with torch.no_grad():
        module.router.zero_()
    _, aux = module(x, rows=rows_of(x))
    assert aux.losses["balance"].item() == pytest.approx(0.5 * 1.0)
    assert aux.losses["router_z"].item() == pytest.approx(0.25 * math.log(5) ** 2)
    assert aux.routing[0].load.tolist() == [21.0] * 5
    assert aux.routing[0].entropy.item() == pytest.approx(21 * math.log(5))


@pytest.mark.parametrize("router", Router, ids=lambda router: router.value)
def test_losses_and_loads_are_of_real_tokens(router: Router) -> None:
    """By hand over the tokens that are no padding; what padding holds changes nothing."""
    module, x = made(router=router, balance_loss=1.0, router_z_loss=1.0), some()
    real = torch.arange(7) < torch.tensor([[7], [3], [0]])
    _, aux = module(x, rows=rows_of(x, real))
    logits = x[real] @ module.router.T  # [10, 5]
    shares = logits.softmax(-1) if router is Router.softmax else logits.sigmoid() / logits.sigmoid().sum(-1, True)
    chosen = logits.topk(2).indices
    load = torch.bincount(chosen.flatten(), minlength=5)
    assert torch.equal(aux.routing[0].load, load.float()) and load.sum() == 20
    expected = 5 * sum(load[n] / 20 * shares[:, n].mean() for n in range(5))
    torch.testing.assert_close(aux.losses["balance"], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(aux.losses["router_z"], logits.logsumexp(-1).square().mean(), atol=1e-10, rtol=0)
    entropy = -(shares * shares.log()).sum()
    assert aux.routing[0].entropy.item() == pytest.approx(entropy.item(), rel=1e-5)
    x[~real] += 1.0
    _, other = module(x, rows=rows_of(x, real))
    assert all(torch.equal(other.losses[name], value) for name, value in aux.losses.items())


def test_a_pass_of_padding_alone_has_losses_of_0() -> None:
    module, x = made(balance_loss=1.0, router_z_loss=1.0), some()
    _, aux = module(x, rows=rows_of(x, torch.zeros(3, 7, dtype=torch.bool)))
    assert [value.item() for value in aux.losses.values()] == [0.0, 0.0] and aux.routing[0].load.sum() == 0


def test_given_experts_of_score_0_are_no_nan() -> None:
    module, x = made(router=Router.sigmoid).float(), torch.ones(1, 2, 8)
    with torch.no_grad():
        module.router.fill_(-100.0)
        module.router[:2] = 100.0
    out, _ = module(x, rows=rows_of(x, routing=torch.tensor([[[[2, 3], [0, 1]]]])))
    out.square().sum().backward()
    assert out[0, 0].abs().max() == 0 and out[0, 1].abs().max() > 0
    assert module.router.grad is not None and module.router.grad.isfinite().all()


def test_losses_that_weigh_nothing_are_not_there() -> None:
    assert made()(some(), rows=rows_of(some()))[1].losses == {}


def test_the_bias_chooses_and_does_not_weigh() -> None:
    module, x = made(renormalise=False, router=Router.sigmoid), some()
    before = module(x, rows=rows_of(x))[1].routing[0].chosen
    with torch.no_grad():
        module.bias[3] = 10.0
    out, aux = module(x, rows=rows_of(x))
    chosen = aux.routing[0].chosen
    assert (chosen == 3).any(-1).all() and not (before == 3).any(-1).all()
    scores = (x @ module.router.T).sigmoid()
    for row in range(3):
        token, pair = x[row, 4], chosen[row, 4].tolist()
        expected = sum(scores[row, 4, number] * expert(module, number, token) for number in pair)
        torch.testing.assert_close(out[row, 4], expected, atol=1e-10, rtol=1e-10)


def test_the_bias_moves_by_the_sign_of_what_is_missing() -> None:
    module = made(balance_rate=0.125)
    module.rebalance(torch.tensor([10.0, 0.0, 4.0, 3.0, 3.0]))  # 4 would be even
    assert module.bias.tolist() == [-0.125, 0.125, 0.0, 0.125, 0.125]
    assert "bias" in module.state_dict() and not any(name == "bias" for name, _ in module.named_parameters())
    still = made()
    still.rebalance(torch.tensor([10.0, 0.0, 4.0, 3.0, 3.0]))
    assert still.bias.tolist() == [0.0] * 5


def test_a_bias_evens_an_uneven_router() -> None:
    module, x = made(n_experts=4, top_k=1, balance_rate=0.01), some(40, 7)
    with torch.no_grad():
        module.bias[2] = 0.6
    loads = []
    for _ in range(100):
        load = module(x, rows=rows_of(x))[1].routing[0].load
        module.rebalance(load)
        loads.append(load)
    assert loads[0].max() > 1.5 * 70 and loads[-1].max() < 1.2 * 70


def test_given_experts_are_taken_with_the_routers_own_gates() -> None:
    """Of two routed layers the second; -1 leaves the choice to the router."""
    module, x = made(number=1), some()
    own = module(x, rows=rows_of(x))[1].routing[0].chosen
    routing = torch.stack([torch.zeros(3, 7, 2, dtype=torch.int64), (own + 1) % 5])
    routing[1, :, 4:] = -1
    out, aux = module(x, rows=rows_of(x, routing=routing))
    chosen = aux.routing[0].chosen
    assert torch.equal(chosen[:, :4], routing[1, :, :4]) and torch.equal(chosen[:, 4:], own[:, 4:])
    scores = (x @ module.router.T).softmax(-1).gather(-1, chosen)
    gates = scores / scores.sum(-1, keepdim=True)
    token = x[1, 2]
    expected = sum(gates[1, 2, k] * expert(module, int(chosen[1, 2, k]), token) for k in range(2))
    torch.testing.assert_close(out[1, 2], expected, atol=1e-10, rtol=1e-10)


def test_gates_teach_the_router() -> None:
    """Through the whole module, against numerical gradients; the choice stays where it is."""
    module, x = made(balance_loss=0.3, router_z_loss=0.2), some(1, 5)

    def total(router: torch.Tensor) -> torch.Tensor:
        out, aux = torch.func.functional_call(module, {"router": router}, (x,), {"rows": rows_of(x)})
        return out.square().sum() + sum(aux.losses.values())

    assert torch.autograd.gradcheck(total, (module.router.detach().clone().requires_grad_(),))
