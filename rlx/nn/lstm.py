"""A long short-term memory as a token mixer: `torch.nn.LSTM`'s cell, one bias, and a projection back.

The classic baseline. It is not parallel in time: a training step over rows of T tokens makes T small products there and
T back, one after the other, so it is many times slower than the other mixers, and the slower the longer the rows.
Fresh weights: uniform within 1 / sqrt(W) as torch's, biases 0 but the forget gates' 1 (Jozefowicz et al. 2015).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rlx.kernels.lstm import lstm
from rlx.nn.cache import StateCache
from rlx.nn.lora import whole_weight
from rlx.nn.rows import Need, Rows, real, starts


class LSTM(nn.Module):
    """Token mixer: [B, T, D] to [B, T, D]. `proj` and `again` hold the gates i, f, g, o one above the other."""

    def __init__(self, *, d_model: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.proj = nn.Linear(d_model, 4 * width)
        self.again = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(width, d_model, bias=False)

    def reset_own(self) -> None:
        bound = 1 / math.sqrt(self.width)
        for weight in (self.proj.weight, self.again.weight):
            if not weight.is_meta:  # torch._dynamo would be imported to draw nothing
                nn.init.uniform_(weight, -bound, bound)
        with torch.no_grad():
            self.proj.bias.zero_()
            self.proj.bias[self.width : 2 * self.width] = 1

    def forward(self, x: Tensor, *, rows: Rows, cache: StateCache | None = None) -> Tensor:
        inputs = self.proj(x)  # [B, T, 4 W]
        weight = self._again(inputs)
        if cache is None:
            hiddens, _ = lstm(inputs, weight, starts=rows.given["starts"])
            return self.out(hiddens.to(inputs.dtype))
        hiddens, cells = lstm(inputs, weight, state=(cache.hidden, cache.cell))
        known: Tensor | None = rows.given["real"]
        for kept, found in ((cache.hidden, hiddens), (cache.cell, cells)):
            kept.copy_(found[:, -1] if known is None else found[torch.arange(len(found)), known.sum(1) - 1])
        return self.out(hiddens.to(inputs.dtype))

    def _again(self, inputs: Tensor) -> Tensor:
        """The recurrent matrix [4 W, W] in the dtype of what a linear layer gives, as it is cast for decoding too."""
        return whole_weight(self.again).to(inputs.dtype)

    def needs(self) -> Mapping[str, Need]:
        return {"starts": starts, "real": real}

    def new_cache(self, batch: int, length: int, *, dtype: torch.dtype, device: torch.device) -> StateCache:
        """A state of zeros; it is as large for any `length`."""
        empty = torch.zeros(2, batch, self.width, dtype=torch.promote_types(dtype, torch.float32), device=device)
        return StateCache(hidden=empty[0].clone(), cell=empty[1].clone())

    def state_numel(self, seq_len: int) -> int:
        """Numbers kept per sequence, however long it is."""
        return 2 * self.width

    def flops(self, attended: Tensor, *, cached: bool) -> Tensor:
        """Nothing besides the matrices, of which the recurrent one is a linear layer too."""
        return torch.zeros_like(attended)
