"""One layer: a token mixer and a channel mixer, each behind its norm and added to the residual stream."""

from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from rlx.nn.aux import NONE, Aux
from rlx.nn.cache import LayerCache
from rlx.nn.norm import RMSNorm
from rlx.nn.rows import Need, Rows


class TokenMixer(Protocol):
    """Mixes along the row: [B, T, D] to [B, T, D], causal within a document."""

    def __call__(self, x: Tensor, *, rows: Rows, cache: LayerCache | None = None) -> Tensor: ...

    def needs(self) -> Mapping[str, Need]:
        """What it reads in `rows.given`, by a name that says all that it depends on."""
        ...

    def new_cache(self, batch: int, length: int, *, dtype: torch.dtype, device: torch.device) -> LayerCache:
        """The state of `batch` rows before their first token, with room for `length` of them."""
        ...

    def state_numel(self, seq_len: int) -> int:
        """Numbers kept per sequence when decoding at `seq_len` tokens."""
        ...

    def flops(self, attended: Tensor, *, cached: bool) -> Tensor:
        """Operations for one token that attends `attended` positions ([N] float64, itself included), besides those of
        the linear layers: what is computed for it in a pass over whole rows, or (cached) in a step of decoding."""
        ...


class ChannelMixer(Protocol):
    """Mixes each token's channels: [B, T, D] to [B, T, D]."""

    def __call__(self, x: Tensor, *, rows: Rows) -> tuple[Tensor, Aux]: ...
    def needs(self) -> Mapping[str, Need]: ...


class Block(nn.Module):
    """x + mixer(norm(x)), then x + channel(norm(x)), where there is a channel mixer."""

    mixer: TokenMixer
    channel: ChannelMixer | None

    def __init__(self, *, mixer: nn.Module, channel: nn.Module | None, d_model: int, norm_eps: float) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(d_model, eps=norm_eps)
        self.mixer = cast(TokenMixer, mixer)
        self.channel_norm = None if channel is None else RMSNorm(d_model, eps=norm_eps)
        self.channel = cast(ChannelMixer | None, channel)

    def forward(self, x: Tensor, *, rows: Rows, cache: LayerCache | None = None) -> tuple[Tensor, Aux]:
        x = x + self.mixer(self.mixer_norm(x), rows=rows, cache=cache)
        if self.channel is None or self.channel_norm is None:
            return x, NONE
        added, aux = self.channel(self.channel_norm(x), rows=rows)
        return x + added, aux

    def needs(self) -> dict[str, Need]:
        """What both read in `rows.given`."""
        return {**self.mixer.needs(), **(self.channel.needs() if self.channel is not None else {})}
