"""The mixture of experts against its definition in fp64, numerical gradients, and what must hold of any mixture."""

from shutil import which

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlx.errors import ConfigError
from rlx.kernels.base import Impl
from rlx.kernels.experts import experts, grouped_outer, grouped_product

SHAPES = [(7, 6, 5, 3, 2), (33, 10, 7, 5, 1), (65, 12, 9, 4, 4), (1, 4, 3, 6, 2), (40, 16, 8, 64, 8)]
"""N tokens, D width, I expert width, E experts, K of a token."""
BOTH = pytest.mark.parametrize("impl", [Impl.reference, Impl.torch], ids=lambda impl: impl.value)


def made(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """x, chosen, gates, gate_up, down."""
    count, width, inner, n_experts, top_k = shape
    generator = torch.Generator().manual_seed(0)

    def drawn(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    chosen = torch.rand(count, n_experts, generator=generator).argsort(-1)[:, :top_k]
    gates = torch.rand(count, top_k, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return drawn(count, width), chosen, gates, drawn(n_experts, 2 * inner, width), drawn(n_experts, width, inner)


def by_hand(x: Tensor, chosen: Tensor, gates: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Token by token."""
    rows = []
    for token, experts_of, weights in zip(x, chosen.tolist(), gates, strict=True):
        row = torch.zeros_like(token)
        for expert, weight in zip(experts_of, weights, strict=True):
            inner = down.shape[-1]
            hidden = gate_up[expert] @ token
            row = row + weight * (down[expert] @ (F.silu(hidden[:inner]) * hidden[inner:]))
        rows.append(row)
    return torch.stack(rows)


def with_gradients(inputs: tuple[Tensor, ...], impl: Impl) -> list[Tensor]:
    x, chosen, *rest = inputs
    out = experts(x, chosen, *rest, impl=impl)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), (x, *rest))]


@BOTH
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_sum_over_chosen_experts(shape: tuple[int, ...], impl: Impl) -> None:
    inputs = made(shape)
    torch.testing.assert_close(experts(*inputs, impl=impl), by_hand(*inputs), atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-11), (torch.float32, 2e-5)], ids=str)
def test_gradients_are_those_of_the_reference(shape: tuple[int, ...], dtype: torch.dtype, close: float) -> None:
    found, expected = with_gradients(made(shape, dtype), Impl.torch), with_gradients(made(shape), Impl.reference)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), two, atol=close * float(two.abs().max()), rtol=0)


@BOTH
def test_numerical_gradients(impl: Impl) -> None:
    x, chosen, *rest = made((7, 6, 5, 3, 2))
    assert torch.autograd.gradcheck(lambda x, *rest: experts(x, chosen, *rest, impl=impl), (x, *rest))


def test_bfloat16_is_no_further_off_than_its_inputs() -> None:
    """Against fp64 on the same rounded numbers: products are summed in fp32, results rounded to 8 bits."""
    x, chosen, gates, *rest = made((65, 32, 24, 4, 2), torch.bfloat16)
    inputs = (x, chosen, gates.float().detach().requires_grad_(), *rest)
    exact = tuple(t.double().detach().requires_grad_() if t.is_floating_point() else t for t in inputs)
    found, expected = with_gradients(inputs, Impl.torch), with_gradients(exact, Impl.reference)
    assert found[0].dtype is torch.bfloat16 and found[2].dtype is torch.float32
    for one, two in zip(found, expected, strict=True):
        assert (one.double() - two).abs().max() < 0.02 * two.abs().max()


@BOTH
def test_float32_stays_float32_under_autocast(impl: Impl) -> None:
    inputs = made(SHAPES[1], torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = experts(*inputs, impl=impl)
    torch.testing.assert_close(found, by_hand(*inputs), atol=2e-5, rtol=2e-5)


@BOTH
def test_all_experts_are_the_dense_mixture(impl: Impl) -> None:
    x, _, _, gate_up, down = made((9, 6, 5, 4, 4))
    gates = torch.rand(9, 4, dtype=torch.float64)
    hidden = torch.einsum("nd,eid->nei", x, gate_up)
    answers = torch.einsum("nei,edi->ned", F.silu(hidden[..., :5]) * hidden[..., 5:], down)
    chosen = torch.arange(4).expand(9, 4)
    found = experts(x, chosen, gates, gate_up, down, impl=impl)
    torch.testing.assert_close(found, (answers * gates[..., None]).sum(1), atol=1e-11, rtol=1e-11)


def test_experts_in_another_order_change_nothing() -> None:
    x, chosen, gates, gate_up, down = made((33, 10, 7, 5, 2))
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = order.argsort()[chosen]
    found = experts(x, moved, gates, gate_up[order], down[order])
    torch.testing.assert_close(found, experts(x, chosen, gates, gate_up, down), atol=1e-12, rtol=0)
    flipped = experts(x, chosen.flip(-1), gates.flip(-1), gate_up, down)
    torch.testing.assert_close(flipped, experts(x, chosen, gates, gate_up, down), atol=1e-12, rtol=0)


@pytest.mark.parametrize("expert", [0, 2])
def test_one_expert_takes_all_and_the_others_get_no_gradient(expert: int) -> None:
    x, _, gates, gate_up, down = made((33, 10, 7, 3, 1))
    chosen = torch.full((33, 1), expert)
    out = experts(x, chosen, gates, gate_up, down)
    gate, up = (x @ gate_up[expert].T).chunk(2, -1)
    torch.testing.assert_close(out, gates * ((F.silu(gate) * up) @ down[expert].T), atol=1e-11, rtol=1e-11)
    for grad in torch.autograd.grad(out.square().sum(), (gate_up, down)):
        assert grad[expert].abs().max() > 0
        assert all(torch.equal(grad[n], torch.zeros_like(grad[n])) for n in range(3) if n != expert)


def test_the_same_inputs_give_the_same_bits() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first, second = (with_gradients(made((700, 32, 24, 4, 2), torch.float32), Impl.torch) for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_no_tokens_are_no_rows() -> None:
    x, chosen, gates, gate_up, down = made((7, 6, 5, 3, 2))
    assert experts(x[:0], chosen[:0], gates[:0], gate_up, down).shape == (0, 6)


def test_the_operations_keep_torchs_rules() -> None:
    """Schema, fake tensors and autograd registration, by torch's own checker."""
    rows, weights = torch.randn(7, 4, requires_grad=True), torch.randn(3, 5, 4, requires_grad=True)
    ends = torch.tensor([3, 3, 7])
    torch.library.opcheck(grouped_product, (rows, weights, ends, True))
    torch.library.opcheck(grouped_product, (torch.randn(7, 5, requires_grad=True), weights, ends, False))
    torch.library.opcheck(grouped_outer, (torch.randn(7, 5), rows.detach(), ends))


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_pass_is_one_graph() -> None:
    """Whatever the loads are: they change here, and nothing is compiled anew."""
    from torch._dynamo.testing import CompileCounter

    x, chosen, *rest = made((33, 10, 7, 5, 2), torch.float32)
    counter = CompileCounter()
    torch.compile(experts, fullgraph=True, dynamic=False, backend=counter)(x, chosen, *rest)
    whole = torch.compile(experts, fullgraph=True, dynamic=False)
    for shift in range(3):
        moved = torch.where(torch.arange(33)[:, None] < 8 * shift, torch.tensor([4, 1]), chosen)
        out, plain = whole(x, moved, *rest), experts(x, moved, *rest)
        torch.testing.assert_close(out, plain, atol=1e-5, rtol=1e-5)
        found, expected = (torch.autograd.grad(each.square().sum(), (x, *rest)) for each in (out, plain))
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two, atol=1e-4 * float(two.abs().max()), rtol=0)
    assert counter.frame_count == 1


def test_wrong_requests_are_one_line() -> None:
    inputs = made((7, 6, 5, 3, 2))
    with pytest.raises(ConfigError, match="experts has no impl=triton; take auto, reference or torch"):
        experts(*inputs, impl=Impl.triton)
    x, chosen, gates, gate_up, down = inputs
    for wrong in ((x, chosen[:3], gates, gate_up, down), (x, chosen, gates, gate_up, down.mT), (x.T, *inputs[1:])):
        with pytest.raises(ValueError, match=r"x \[N, D\].* expected; got \("):
            experts(*wrong)
