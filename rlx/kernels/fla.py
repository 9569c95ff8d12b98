"""flash-linear-attention (github.com/fla-org/flash-linear-attention), whose kernels run on a GPU where it is installed.

No GPU was at hand when this was written: the calls follow its documented signatures and are unverified on one.
"""

import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.kernels.base import Impl


@cache
def has_fla() -> bool:
    """True when it is installed."""
    return importlib.util.find_spec("fla") is not None


def pick(op: str, device: torch.device, impl: Impl = Impl.auto) -> Impl:
    """The implementation of `op` that runs on `device`: fla's on a GPU where it is installed, else torch's.

    Raises:
        ConfigError: the one asked for cannot be had.
    """
    if impl is Impl.auto:
        return Impl.fla if device.type == "cuda" and has_fla() else Impl.torch
    if impl is Impl.triton:
        raise ConfigError(f"impl=triton: {op} has no Triton kernel of ours yet; take auto, torch, fla or reference")
    if impl is Impl.fla and not has_fla():
        raise ConfigError(f"impl=fla: {op} needs flash-linear-attention; pip install 'rlx[fla]', or take impl=torch")
    return impl


def run(kernel: Any, inputs: dict[str, Tensor], starts: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output and last state of one of its chunked kernels, on inputs [B, T, H, ...] by its own names.

    Its packed rows are one row with the places where documents begin, and a state for each of them: there is none to
    begin with, and of those at the end the last of each row is ours.
    """
    if starts is None:
        return kernel(**inputs, scale=1.0, initial_state=state, output_final_state=True)
    if state is not None:
        raise ConfigError("impl=fla: documents that begin inside a row and a state before it are not had together")
    rows, length = starts.shape
    begins = starts.clone()
    begins[:, 0] = True
    end = torch.tensor([rows * length], device=starts.device)
    bounds = torch.cat([begins.flatten().nonzero().squeeze(1), end])  # waits for the device, as packed kernels do
    flat = {name: x.flatten(0, 1)[None] for name, x in inputs.items()}
    out, states = kernel(**flat, scale=1.0, initial_state=None, output_final_state=True, cu_seqlens=bounds)
    last = begins.sum(1).cumsum(0) - 1  # [B]
    return out[0].unflatten(0, (rows, length)), states[last]
