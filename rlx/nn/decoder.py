"""The decoder that every model is: embedding, blocks of (token mixer, channel mixer), norm, head."""

import math
from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from rlx.nn.aux import Aux, together
from rlx.nn.block import Block
from rlx.nn.cache import Cache
from rlx.nn.norm import RMSNorm
from rlx.nn.places import Places
from rlx.nn.rows import Pass, Rows

KERNEL = 8
"""Tokens that a kernel spans at most."""


@runtime_checkable
class OwnInit(Protocol):
    """A module whose weights do not all begin as the decoder's do."""

    def reset_own(self) -> None: ...


class Decoder(nn.Module):
    """Tokens [B, T] to final hidden states [B, T, D]; `logits` is the head."""

    blocks: Sequence[Block]

    def __init__(
        self,
        blocks: list[Block],
        *,
        vocab_size: int,
        d_model: int,
        norm_eps: float,
        tie_embeddings: bool,
        init_std: float,
        logit_cap: float | None = None,
        rate_scale: float = 1.0,
        small_head: bool = False,
        places: Places | None = None,
    ) -> None:
        """
        Args:
            rate_scale: share of the learning rate that matrices move by whose inputs are as wide as the model; they
                begin with its root of the standard deviation.
            small_head: the head begins with `rate_scale` of it.
        """
        super().__init__()
        self.vocab_size, self.init_std, self.tied = vocab_size, init_std, tie_embeddings
        self.logit_cap, self.rate_scale, self.small_head = logit_cap, rate_scale, small_head
        self.embed = nn.Embedding(vocab_size, d_model)
        self.places = places
        self.blocks = cast(Sequence[Block], nn.ModuleList(blocks))
        self.norm = RMSNorm(d_model, eps=norm_eps)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.reset_parameters()
        if tie_embeddings:
            self.head.weight = self.embed.weight

    def reset_parameters(self) -> None:
        """Normal weights; `out` and `down` projections are scaled down with depth (GPT-2's rule).

        After that a module with a `reset_own` sets what it wants otherwise.
        """
        residual_std = self.init_std / math.sqrt(2 * max(len(self.blocks), 1))
        scales = self.rate_scales()
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                std, scale = residual_std if into_residual(name) else self.init_std, scales.get(name, 1.0)
                std *= scale if self.small_head and name == "head.weight" else math.sqrt(scale)
                nn.init.normal_(parameter, std=std)
        for module in self.modules():
            if isinstance(module, OwnInit):
                module.reset_own()

    def rate_scales(self) -> dict[str, float]:
        """Shares of the learning rate by parameter, where they are not 1: of matrices whose inputs grow with the width.

        These are weights of linear layers, and of modules that hold matrices otherwise (`active_numel`) those whose
        last side, as in a linear layer the inputs, is no kernel over a few tokens.
        """
        if self.rate_scale == 1.0:
            return {}
        found: dict[str, float] = {}
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) or hasattr(module, "active_numel"):
                own = [f"{name}.{key}" for key, part in module.named_parameters(recurse=False) if _grows(part)]
                found.update(dict.fromkeys(own, self.rate_scale))
        return found

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        slots: int | None = None,
        lengths: Tensor | None = None,
        routing: Tensor | None = None,
        places: Tensor | None = None,
        look: int | None = None,
    ) -> tuple[Tensor, Aux]:
        """Hidden states [B, T, D] after the last norm, and what the blocks have to say besides.

        Args:
            tokens: [B, T] int64.
            positions: [B, T] int64, position of each token in its document; None: 0..T-1 in every row.
            documents: [B, T] int64, tokens of unequal number do not see each other; None: one document a row.
            cache: state of the rows so far; it is written at `positions`. Not together with `documents`.
            slots: with a cache, how many of its positions are attended (at least the largest position + 1).
            lengths: [B] int64, without documents: how many of each row's tokens are real; the rest is padding on the
                right, and leaves no trace in the state. None: all are.
            routing: [L, B, T, K] int64, experts that the L routed layers take; None: they choose, as where it is -1.
            places: [B, T] int64, ids that the task gives the tokens, for a model that embeds them; 0: none.
            look: layer (0, 1, ...) after which the residual stream is given back besides.
        """
        rows = self.rows(tokens, positions=positions, documents=documents, cache=cache, slots=slots, lengths=lengths)
        rows.routing, rows.places, rows.look = routing, places, look
        return self.run(tokens, rows, cache)

    def run(self, tokens: Tensor, rows: Rows, cache: Cache | None = None) -> tuple[Tensor, Aux]:
        """`forward` on rows that are worked out already: the part that is worth compiling.

        A compiler that saw how tables and masks are made would make them again in every layer and head.
        """
        x, parts, looked = self.embed(tokens), [], None
        if self.places is not None:
            x = x + self.places(rows.places)
        for number, block in enumerate(self.blocks):
            x, aux = block(x, rows=rows, cache=None if cache is None else cache.layers[number])
            parts.append(aux)
            looked = x if number == rows.look else looked
        return self.norm(x), together(parts)._replace(looked=looked)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., V] from hidden [..., D], in hidden's dtype (or autocast's)."""
        logits = self.head(hidden)
        return logits if self.logit_cap is None else self.logit_cap * torch.tanh(logits / self.logit_cap)

    def rows(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        slots: int | None = None,
        lengths: Tensor | None = None,
    ) -> Rows:
        """What all layers need to know of a pass; arguments as `forward`."""
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]  # [1, T]: the same in every row
            if cache is not None:
                positions = positions.expand(tokens.shape)
        assert cache is None or documents is None, "a cache holds one document a row"
        known = Pass(
            positions=positions,
            documents=documents,
            slots=None if cache is None else slots or cache.length,
            lengths=lengths,
        )
        needs = {name: make for block in self.blocks for name, make in block.needs().items()}
        return Rows(positions=positions, given={name: make(known) for name, make in needs.items()})

    def new_cache(self, batch: int, length: int, dtype: torch.dtype | None = None) -> Cache:
        """An empty cache of `length` positions for `batch` rows, where the weights are; their dtype if None."""
        weight = self.embed.weight
        dtype = dtype or weight.dtype
        layers = [b.mixer.new_cache(batch, length, dtype=dtype, device=weight.device) for b in self.blocks]
        return Cache(layers, length)


def _grows(weight: Tensor) -> bool:
    return weight.dim() >= 2 and weight.shape[-1] > KERNEL


def into_residual(name: str) -> bool:
    """True for the parameters that write into the residual stream."""
    return name.removesuffix(".weight").endswith(("mixer.out", "channel.down", "shared.down"))
