"""One layer: a token mixer and a channel mixer, each behind its norm and added to the residual stream."""

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from rlx.nn.cache import LayerCache
from rlx.nn.mlp import Aux
from rlx.nn.norm import RMSNorm
from rlx.nn.rows import Rows


class TokenMixer(Protocol):
    """Mixes along the row: [B, T, D] to [B, T, D], causal."""

    def __call__(self, x: Tensor, *, rows: Rows, cache: LayerCache | None = None) -> Tensor: ...
    def new_cache(self, batch: int, length: int, *, dtype: torch.dtype, device: torch.device) -> LayerCache: ...
    def state_numel(self, seq_len: int) -> int: ...
    @property
    def flops_per_position(self) -> int: ...


class Block(nn.Module):
    """x + mixer(norm(x)), then x + channel(norm(x))."""

    mixer: TokenMixer

    def __init__(self, *, mixer: nn.Module, channel: nn.Module, d_model: int, norm_eps: float) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(d_model, eps=norm_eps)
        self.mixer = cast(TokenMixer, mixer)
        self.channel_norm = RMSNorm(d_model, eps=norm_eps)
        self.channel = channel

    def forward(self, x: Tensor, *, rows: Rows, cache: LayerCache | None = None) -> tuple[Tensor, Aux]:
        x = x + self.mixer(self.mixer_norm(x), rows=rows, cache=cache)
        added, aux = self.channel(self.channel_norm(x))
        return x + added, aux
