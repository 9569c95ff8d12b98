"""The scan, the gated delta rule and the LSTM: chunked forms against their recurrences, resets, states, gradients."""

import sys
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlx.errors import ConfigError
from rlx.kernels.base import Impl
from rlx.kernels.delta import delta, delta_step
from rlx.kernels.lstm import lstm
from rlx.kernels.scan import scan, scan_step

Inputs = tuple[Tensor, ...]
Core = Callable[..., tuple[Tensor, Tensor]]


def inputs_of(
    core: Core, rows: int, length: int, *, strength: float = 1.0, dtype: torch.dtype = torch.float64
) -> Inputs:
    """Random ones with gates between exp(-strength) and 1; heads 4 wide in groups of two, keys 3, values 5."""
    generator = torch.Generator().manual_seed(length)

    def random(*shape: int) -> Tensor:
        return torch.randn(rows, length, *shape, generator=generator, dtype=torch.float64)

    groups = 2 if core is scan else 4
    q, k, v = random(groups, 3), F.normalize(random(groups, 3), dim=-1), random(4, 5)
    gates = -strength * random(4).sigmoid()
    found = (q, k, v, gates) if core is scan else (q, k, v, gates, random(4).sigmoid())
    return tuple(x.to(dtype) for x in found)


def state_of(rows: int) -> Tensor:
    return torch.randn(rows, 4, 3, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def starts_of(rows: int, length: int) -> Tensor:
    return torch.rand(rows, length, generator=torch.Generator().manual_seed(length)) < 0.15


def close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = 1e-10) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), atol=tolerance, rtol=tolerance)


cores = pytest.mark.parametrize("core", [scan, delta], ids=["scan", "delta"])


def by_hand(core: Core, inputs: Inputs, starts: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The paper's recurrence with matrices written out, for one head at a time."""
    q, k, v, gates = inputs[:4]
    share = v.shape[2] // q.shape[2]
    out, last = torch.zeros_like(v), torch.zeros(v.shape[0], v.shape[2], k.shape[3], v.shape[3], dtype=v.dtype)
    for row in range(v.shape[0]):
        for head in range(v.shape[2]):
            s = torch.zeros_like(last[0, 0]) if state is None else state[row, head]
            for t in range(v.shape[1]):
                key, query = k[row, t, head // share], q[row, t, head // share]
                gate = 0.0 if starts is not None and starts[row, t] else gates[row, t, head].exp()
                if core is scan:
                    s = gate * s + torch.outer(key, v[row, t, head])
                else:
                    rate = inputs[4][row, t, head]
                    erase = torch.eye(len(key), dtype=v.dtype) - rate * torch.outer(key, key)
                    s = gate * erase @ s + rate * torch.outer(key, v[row, t, head])
                out[row, t, head] = query @ s
            last[row, head] = s
    return out, last


@cores
@pytest.mark.parametrize("given", [False, True], ids=["empty", "state"])
@pytest.mark.parametrize("reset", [False, True], ids=["whole", "resets"])
def test_the_reference_is_the_papers_recurrence(core: Core, reset: bool, given: bool) -> None:
    inputs, starts, state = inputs_of(core, 2, 11), starts_of(2, 11) if reset else None, state_of(2) if given else None
    found = core(*inputs, starts=starts, state=state, impl=Impl.reference)
    close(found, by_hand(core, inputs, starts, state))


@cores
@pytest.mark.parametrize("strength", [0.0, 1.0, 60.0], ids=["no decay", "decay", "strong decay"])
@pytest.mark.parametrize("length", [1, 5, 32, 33, 63, 130])
def test_chunks_are_the_recurrence(core: Core, length: int, strength: float) -> None:
    inputs = inputs_of(core, 2, length, strength=strength)
    for starts in (None, starts_of(2, length)):
        for state in (None, state_of(2)):
            expected = core(*inputs, starts=starts, state=state, impl=Impl.reference)
            close(core(*inputs, starts=starts, state=state, impl=Impl.torch), expected)


@cores
def test_the_size_of_chunks_does_not_matter(core: Core) -> None:
    inputs, starts, state = inputs_of(core, 2, 50), starts_of(2, 50), state_of(2)
    expected = core(*inputs, starts=starts, state=state, chunk=1)
    for chunk in (2, 7, 16, 50, 64):
        close(core(*inputs, starts=starts, state=state, chunk=chunk), expected)


@cores
@pytest.mark.parametrize("strength", [0.0, 60.0], ids=["no decay", "strong decay"])
def test_long_rows_stay_near_in_float32(core: Core, strength: float) -> None:
    """Weak gates after strong ones keep their digits, though their sums are in the thousands."""
    inputs = list(inputs_of(core, 1, 1000, strength=strength))
    inputs[3][:, ::7] = 0.0
    inputs[3][:, 500:] *= 1e-3
    expected = core(*inputs, impl=Impl.reference)
    found = core(*(x.float() for x in inputs), impl=Impl.torch)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype is torch.float32
        torch.testing.assert_close(one.double(), other, atol=3e-5 * float(other.abs().max()), rtol=1e-4)


@cores
def test_documents_are_as_alone(core: Core) -> None:
    inputs, starts = inputs_of(core, 1, 80), torch.zeros(1, 80, dtype=torch.bool)
    bounds = [0, 3, 30, 64, 80]
    starts[:, bounds[:-1]] = True
    whole, last = core(*inputs, starts=starts)
    for begin, end in pairwise(bounds):
        alone = core(*(x[:, begin:end] for x in inputs))
        close((whole[:, begin:end],), (alone[0],))
    close((last,), (alone[1],))


@cores
def test_a_row_goes_on_from_a_state(core: Core) -> None:
    inputs = inputs_of(core, 2, 70)
    whole = core(*inputs)
    first, state = core(*(x[:, :41] for x in inputs))
    second, last = core(*(x[:, 41:] for x in inputs), state=state)
    close((torch.cat([first, second], dim=1), last), whole)


@cores
def test_one_token_at_a_time_is_the_whole(core: Core) -> None:
    inputs, step = inputs_of(core, 2, 9), scan_step if core is scan else delta_step
    state = state_of(2)
    expected = core(*inputs, state=state, impl=Impl.reference)
    found = torch.stack([step(*(x[:, t] for x in inputs), state) for t in range(9)], dim=1)
    close((found, state), expected)


@cores
@pytest.mark.parametrize("reset", [False, True], ids=["whole", "resets"])
def test_gradients_are_those_of_differences(core: Core, reset: bool) -> None:
    inputs = tuple(x.requires_grad_() for x in inputs_of(core, 1, 5))
    state, starts = state_of(1).requires_grad_(), torch.tensor([[False, False, True, False, False]]) if reset else None
    assert torch.autograd.gradcheck(lambda s, *x: core(*x, starts=starts, state=s, chunk=3), (state, *inputs))


@cores
@pytest.mark.parametrize("strength", [1.0, 1e4], ids=["decay", "strong decay"])
def test_gradients_are_those_of_the_recurrence_and_finite(core: Core, strength: float) -> None:
    found = []
    for impl in (Impl.reference, Impl.torch):
        inputs = tuple(x.requires_grad_() for x in inputs_of(core, 2, 67, strength=strength))
        out, last = core(*inputs, starts=starts_of(2, 67), impl=impl)
        (out.sin().sum() + last.sin().sum()).backward()
        found.append(tuple(x.grad for x in inputs))
    assert all(x.isfinite().all() for x in found[1])
    close(found[1], found[0], 1e-9)


@cores
def test_no_gradient_crosses_a_reset(core: Core) -> None:
    inputs, starts = inputs_of(core, 1, 45, dtype=torch.float32), torch.zeros(1, 45, dtype=torch.bool)
    starts[:, 20] = True
    inputs = tuple(x.requires_grad_() for x in inputs)
    core(*inputs, starts=starts)[0][:, 20:].sin().sum().backward()
    for x in inputs:
        assert x.grad is not None and x.grad[:, :20].abs().max() == 0 and x.grad[:, 20:].abs().max() > 0


@cores
@pytest.mark.parametrize("impl", [Impl.reference, Impl.torch])
def test_half_precision_comes_in_and_out_and_float32_is_inside(core: Core, impl: Impl) -> None:
    inputs = [x.bfloat16() if place < 3 else x for place, x in enumerate(inputs_of(core, 2, 70, dtype=torch.float32))]
    with torch.autocast("cpu", torch.bfloat16):
        out, last = core(*inputs, impl=impl)
    expected, state = core(*(x.double() for x in inputs), impl=Impl.reference)
    assert (out.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(last.double(), state, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out, expected.bfloat16(), atol=1e-3, rtol=2**-7)  # a rounding of the output


@cores
def test_a_compiled_pass_is_the_same(core: Core) -> None:
    """With the backend that carries the traced graph out as it is: what the tracer makes of it is looked at."""
    inputs, starts = inputs_of(core, 1, 40), starts_of(1, 40)
    compiled = torch.compile(core, backend="aot_eager", fullgraph=True, dynamic=False)
    close(compiled(*inputs, starts=starts, impl=Impl.torch), core(*inputs, starts=starts, impl=Impl.torch))


@cores
def test_what_cannot_be_had_is_one_line(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = inputs_of(core, 1, 3)
    with pytest.raises(ConfigError, match="has no Triton kernel of ours yet"):
        core(*inputs, impl=Impl.triton)
    monkeypatch.setattr("rlx.kernels.fla.has_fla", lambda: False)
    with pytest.raises(ConfigError, match=r"needs flash-linear-attention; pip install 'rlx\[fla\]'"):
        core(*inputs, impl=Impl.fla)
    with pytest.raises(ConfigError, match="lstm has no such implementation"):
        lstm(torch.zeros(1, 2, 8), torch.zeros(8, 2), impl=Impl.fla)


@cores
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
def test_the_library_is_called_by_its_own_names(core: Core, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in its place that computes by our reference: its kernels are not run here."""
    seen: dict[str, Any] = {}

    def kernel(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor | None = None, **more: Any) -> Any:
        seen.update(more)
        assert more["scale"] == 1.0 and more["output_final_state"] is True
        extra = () if beta is None else (beta,)
        if "cu_seqlens" not in more:
            return core(q, k, v, g, *extra, state=more["initial_state"], impl=Impl.reference)
        assert q.shape[0] == 1 and more["initial_state"] is None
        parts = []
        for begin, end in zip(more["cu_seqlens"][:-1], more["cu_seqlens"][1:], strict=True):
            parts.append(core(*(x[:, begin:end] for x in (q, k, v, g, *extra)), impl=Impl.reference))
        return torch.cat([part[0] for part in parts], dim=1), torch.cat([part[1] for part in parts])

    place, name = ("simple_gla", "chunk_simple_gla") if core is scan else ("gated_delta_rule", "chunk_gated_delta_rule")
    made = {name: ModuleType(name) for name in ("fla", "fla.ops", f"fla.ops.{place}")}
    setattr(made[f"fla.ops.{place}"], name, kernel)
    for key, module in made.items():
        monkeypatch.setitem(sys.modules, key, module)
    monkeypatch.setattr("rlx.kernels.fla.has_fla", lambda: True)
    inputs = inputs_of(core, 3, 12, dtype=torch.float32)
    more: dict[str, Any] = {"starts": starts_of(3, 12)} if packed else {"state": state_of(3).float()}
    close(core(*inputs, impl=Impl.fla, **more), core(*inputs, impl=Impl.reference, **more), 1e-6)
    assert ("cu_seqlens" in seen) is packed
    with pytest.raises(ConfigError, match="not had together"):
        core(*inputs, starts=starts_of(3, 12), state=state_of(3), impl=Impl.fla)


def test_the_delta_rule_is_that_of_transformers() -> None:
    """Their queries are divided by sqrt(N) inside."""
    pytest.importorskip("transformers")
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_recurrent_gated_delta_rule as theirs

    q, k, v, gates, rates = inputs_of(delta, 2, 40, dtype=torch.float32)
    expected = theirs(q * 3**0.5, k, v, g=gates, beta=rates, initial_state=state_of(2).float(), output_final_state=True)
    close(delta(q, k, v, gates, rates, state=state_of(2).float()), expected, 1e-5)


def lstm_inputs(rows: int, length: int, width: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    inputs, weight = torch.randn(rows, length, 4 * width).double(), torch.randn(4 * width, width).double()
    return inputs, weight, (torch.randn(rows, width).double(), torch.randn(rows, width).double())


@pytest.mark.parametrize("impl", [Impl.reference, Impl.torch])
def test_the_lstm_is_torchs(impl: Impl) -> None:
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(5, 6, batch_first=True).double()
    x, hidden, cell = torch.randn(3, 9, 5).double(), torch.randn(3, 6).double(), torch.randn(3, 6).double()
    expected, (last_hidden, last_cell) = theirs(x, (hidden[None], cell[None]))
    inputs = x @ theirs.weight_ih_l0.T + theirs.bias_ih_l0 + theirs.bias_hh_l0
    hiddens, cells = lstm(inputs, theirs.weight_hh_l0, state=(hidden, cell), impl=impl)
    close((hiddens, hiddens[:, -1], cells[:, -1]), (expected, last_hidden[0], last_cell[0]))


@pytest.mark.parametrize("reset", [False, True], ids=["whole", "resets"])
@pytest.mark.parametrize("rows", [1, 2])
def test_gradients_of_the_lstm(rows: int, reset: bool) -> None:
    inputs, weight, state = lstm_inputs(rows, 5, 3)
    starts = torch.tensor([[False, False, True, False, True]] * rows) if reset else None
    leaves = tuple(x.requires_grad_() for x in (inputs, weight, *state))
    assert torch.autograd.gradcheck(lambda x, w, h, c: lstm(x, w, starts=starts, state=(h, c)), leaves)
    close(
        lstm(inputs, weight, starts=starts, state=state),
        lstm(inputs, weight, starts=starts, state=state, impl=Impl.reference),
    )
