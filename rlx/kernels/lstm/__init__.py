"""A long short-term memory (Hochreiter and Schmidhuber 1997; forget gates of Gers et al. 2000), torch's equations:

    i, f, g, o = x_t + U h_{t-1};    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g);    h_t = sigmoid(o) tanh(c_t)

There is no form of it that is parallel in time: a pass is T small products one after the other, in a loop of Python.
It is one operation with a backward pass of its own (a loop too, and one product for U's gradient), so that a compiler
does not unroll it, and a graph of T steps is not kept.
"""

from typing import Any

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.kernels.base import Impl
from rlx.kernels.lstm.reference import lstm_reference


def lstm(
    inputs: Tensor,
    weight: Tensor,
    *,
    starts: Tensor | None = None,
    state: tuple[Tensor, Tensor] | None = None,
    impl: Impl = Impl.auto,
) -> tuple[Tensor, Tensor]:
    """Hidden states and cells [B, T, W], in the dtype of the inputs, but at least in float32.

    Args:
        inputs: [B, T, 4 W], what the tokens bring to the gates i, f, g, o, biases included.
        weight: [4 W, W], U.
        starts: [B, T] bool, True where the state is emptied before the token; None: nowhere.
        state: hidden state and cell [B, W] before the first token; None: zeros.

    Raises:
        ConfigError: there is no such implementation.
    """
    if impl not in (Impl.auto, Impl.reference, Impl.torch):
        raise ConfigError(f"impl={impl.value}: lstm has no such implementation; take auto, torch or reference")
    dtype = torch.promote_types(inputs.dtype, torch.float32)
    empty = torch.zeros(inputs.shape[0], weight.shape[1], dtype=dtype, device=inputs.device)
    hidden, cell = (empty, empty) if state is None else (x.to(dtype) for x in state)
    inputs, weight = inputs.to(dtype), weight.to(dtype)
    with torch.autocast(inputs.device.type, enabled=False):
        if impl is Impl.reference:
            found = lstm_reference(inputs, weight, starts, hidden, cell)
            return found[0], found[1]
        hiddens, cells, _ = _forward(inputs, weight, starts, hidden, cell)
    return hiddens, cells


@torch.library.custom_op("rlx::lstm", mutates_args=())
def _forward(
    inputs: Tensor, weight: Tensor, starts: Tensor | None, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states and cells [B, T, W], and the gates [B, T, 4 W] for the backward pass."""
    batch, length, width = inputs.shape[0], inputs.shape[1], weight.shape[1]
    hiddens, cells = inputs.new_empty(length, batch, width), inputs.new_empty(length, batch, width)
    gates = inputs.transpose(0, 1).clone(memory_format=torch.contiguous_format)
    keep = None if starts is None else (~starts).to(inputs.dtype).T
    turned = weight.T
    for t in range(length):
        if keep is not None:
            hidden, cell = hidden * keep[t, :, None], cell * keep[t, :, None]
        now = gates[t].addmm_(hidden, turned)
        entered, kept, new, shown = now.chunk(4, dim=-1)
        for gate in (entered, kept, shown):
            gate.sigmoid_()
        new.tanh_()
        cell = torch.addcmul(entered * new, kept, cell, out=cells[t])
        hidden = torch.mul(shown, cell.tanh(), out=hiddens[t])
    return tuple(x.transpose(0, 1).contiguous() for x in (hiddens, cells, gates))  # pyright: ignore[reportReturnType]


@_forward.register_fake
def _(inputs: Tensor, weight: Tensor, starts: Tensor | None, hidden: Tensor, cell: Tensor) -> Any:
    shape = (*inputs.shape[:2], weight.shape[1])
    return inputs.new_empty(shape), inputs.new_empty(shape), torch.empty_like(inputs)


@torch.library.custom_op("rlx::lstm_backward", mutates_args=())
def _backward(
    to_hiddens: Tensor,
    to_cells: Tensor,
    weight: Tensor,
    starts: Tensor | None,
    hidden: Tensor,
    cell: Tensor,
    hiddens: Tensor,
    cells: Tensor,
    gates: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of inputs, weight, hidden and cell."""
    length = gates.shape[1]
    keep = torch.ones_like(gates[..., :1]) if starts is None else (~starts).to(gates.dtype)[..., None]  # [B, T, 1]
    last_hidden = torch.cat([hidden[:, None], hiddens[:, :-1]], dim=1) * keep
    last_cell = torch.cat([cell[:, None], cells[:, :-1]], dim=1) * keep
    entered, kept, new, shown = gates.chunk(4, dim=-1)
    bent = cells.tanh()
    # what a step's gradients are multiplied with, for all steps at once: [B, T, W] and [B, T, 3 W]
    into_cell, into_shown = shown * (1 - bent * bent), bent * shown * (1 - shown)
    into_gates = (new * entered * (1 - entered), last_cell * kept * (1 - kept), entered * (1 - new * new))
    into_cell, into_shown, into_three, kept, last = (
        x.transpose(0, 1).contiguous() for x in (into_cell, into_shown, torch.cat(into_gates, dim=-1), kept, keep)
    )
    to_hiddens, to_cells = (x.transpose(0, 1) for x in (to_hiddens, to_cells))
    grads = gates.new_empty(length, *gates[:, 0].shape)
    to_hidden, to_cell = torch.zeros_like(hidden), torch.zeros_like(cell)
    for t in range(length - 1, -1, -1):
        to_hidden = to_hidden + to_hiddens[t]
        to_cell = torch.addcmul(to_cell + to_cells[t], to_hidden, into_cell[t])
        grad = torch.cat([into_three[t] * to_cell.repeat(1, 3), to_hidden * into_shown[t]], dim=-1)
        grads[t] = grad
        to_hidden, to_cell = (grad @ weight) * last[t], to_cell * kept[t] * last[t]
    to_inputs = grads.transpose(0, 1).contiguous()
    to_weight = to_inputs.flatten(0, 1).T @ last_hidden.flatten(0, 1)
    return to_inputs, to_weight, to_hidden, to_cell


@_backward.register_fake
def _(*inputs: Any) -> Any:
    _, _, weight, _, hidden, cell, _, _, gates = inputs
    return torch.empty_like(gates), torch.empty_like(weight), torch.empty_like(hidden), torch.empty_like(cell)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    _, weight, starts, hidden, cell = inputs
    ctx.save_for_backward(weight, starts, hidden, cell, *output)


def _differentiate(ctx: Any, to_hiddens: Tensor, to_cells: Tensor, _: Any) -> Any:
    to_inputs, to_weight, to_hidden, to_cell = _backward(to_hiddens, to_cells, *ctx.saved_tensors)
    return to_inputs, to_weight, None, to_hidden, to_cell


_forward.register_autograd(_differentiate, setup_context=_keep)
