"""The decoder that every model is: embedding, blocks of (token mixer, channel mixer), norm, head."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from rlx.nn.block import Block
from rlx.nn.cache import Cache
from rlx.nn.mlp import Aux
from rlx.nn.norm import RMSNorm
from rlx.nn.rope import rotary_tables
from rlx.nn.rows import Rows, cache_mask, document_mask, one_document_a_row


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
        rotary: tuple[int, float] | None,
    ) -> None:
        super().__init__()
        self.vocab_size, self.rotary, self.init_std, self.tied = vocab_size, rotary, init_std, tie_embeddings
        self.embed = nn.Embedding(vocab_size, d_model)
        self.blocks = cast(Sequence[Block], nn.ModuleList(blocks))
        self.norm = RMSNorm(d_model, eps=norm_eps)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.reset_parameters()
        if tie_embeddings:
            self.head.weight = self.embed.weight

    def reset_parameters(self) -> None:
        """Normal weights; `out` and `down` projections are scaled down with depth (GPT-2's rule)."""
        residual_std = self.init_std / math.sqrt(2 * max(len(self.blocks), 1))
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                into_residual = name.endswith(("mixer.out.weight", "channel.down.weight"))
                nn.init.normal_(parameter, std=residual_std if into_residual else self.init_std)

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        slots: int | None = None,
    ) -> tuple[Tensor, Aux]:
        """Hidden states [B, T, D] after the last norm, and the blocks' auxiliary losses, summed by name.

        Args:
            tokens: [B, T] int64.
            positions: [B, T] int64, position of each token in its document; None: 0..T-1 in every row.
            documents: [B, T] int64, tokens of unequal number do not see each other; None: one document a row.
            cache: state of the rows so far; it is written at `positions`. Not together with `documents`.
            slots: with a cache, how many of its positions are attended (at least the largest position + 1).
        """
        rows = self.rows(tokens, positions=positions, documents=documents, cache=cache, slots=slots)
        return self.run(tokens, rows, cache)

    def run(self, tokens: Tensor, rows: Rows, cache: Cache | None = None) -> tuple[Tensor, Aux]:
        """`forward` on rows that are worked out already: the part that is worth compiling.

        A compiler that saw how tables and masks are made would make them again in every layer and head.
        """
        x, total = self.embed(tokens), {}
        for number, block in enumerate(self.blocks):
            x, aux = block(x, rows=rows, cache=None if cache is None else cache.layers[number])
            for name, value in aux.items():
                total[name] = total.get(name, 0.0) + value
        return self.norm(x), total

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., V] from hidden [..., D], in hidden's dtype (or autocast's)."""
        return self.head(hidden)

    def rows(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
        slots: int | None = None,
    ) -> Rows:
        """What all layers need to know of a pass; arguments as `forward`."""
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]  # [1, T]: the same in every row
            if cache is not None:
                positions = positions.expand(tokens.shape)
        mask = None
        assert cache is None or documents is None, "a cache holds one document a row"
        if cache is not None:
            mask = cache_mask(positions, slots or cache.length)
        elif documents is not None and not one_document_a_row(documents):
            mask = document_mask(documents)
        rotary = None
        if self.rotary is not None:
            head_dim, theta = self.rotary
            rotary = rotary_tables(positions, head_dim=head_dim, theta=theta)
        return Rows(positions=positions, mask=mask, rotary=rotary)

    def new_cache(self, batch: int, length: int, dtype: torch.dtype | None = None) -> Cache:
        """An empty cache of `length` positions for `batch` rows, where the weights are; their dtype if None."""
        weight = self.embed.weight
        dtype = dtype or weight.dtype
        layers = [b.mixer.new_cache(batch, length, dtype=dtype, device=weight.device) for b in self.blocks]
        return Cache(layers, length)
