"""Rows that are decoded side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlx.decoding.completions import Exchange
from rlx.decoding.lengths import Forecast
from rlx.nn.cache import Cache
from rlx.nn.decoder import Decoder


class Guide:
    """Coupled positions that are given: of the prompts, and of what follows each where it goes as it should."""

    def __init__(self, places: Sequence[Sequence[int]], samples: int, most: int, device: torch.device) -> None:
        self.samples = samples
        width = max(len(row) for row in places) + 1
        padded = [[*row, *[min(max(row) + 1, most)] * (width - len(row))] for row in places]
        self.ids = torch.tensor(padded, device=device)  # [P, W]

    def at(self, place: Tensor, positions: Tensor) -> Tensor:
        """[N] int64, those at positions [N] of the samples `place` [N]."""
        return self.ids[place // self.samples, positions.clamp(max=self.ids.shape[1] - 1)]


@dataclass(slots=True, kw_only=True)
class State:
    """Rows being decoded side by side. Their tensors are changed in place, so that recorded steps find them."""

    cache: Cache
    tokens: Tensor  # [N] int64, the last one drawn, not yet passed
    positions: Tensor  # [N] int64, where it goes
    keys: Tensor  # [N] int64
    drawn: Tensor  # [N] int64, tokens so far, and the column of the output that the next one goes to
    place: Tensor  # [N] int64, the row of the output that is the sample's
    alive: Tensor  # [N] bool, False for an idle row
    over: Tensor  # [N] bool, True where the last step ended a turn
    ids: Tensor  # [N] int64, coupled positions of `tokens`, of models that have them
    fed: Tensor  # [N] int64, in an interaction the column up to which the row's tokens are given
    limit: Tensor  # [N] int64, in an interaction the column at which its turn is cut
    ends: Tensor  # [V] bool, in an interaction tokens that end turns, besides the end mark
    looked: Tensor  # [N, D] float32, states that lengths are predicted from, where they are; else [N, 0]
    unread: int  # the output's row that idle rows write to
    dtype: torch.dtype | None  # of the cache; None: that of the weights
    guide: Guide | None = None
    exchange: Exchange | None = None
    forecast: Forecast | None = None

    @classmethod
    def empty(
        cls,
        cache: Cache,
        rows: int,
        *,
        unread: int,
        vocab: int,
        device: torch.device,
        dtype: torch.dtype | None,
        watched: int = 0,
    ) -> "State":
        """Idle rows, of whose states `watched` numbers are kept."""

        def zeros(kind: torch.dtype = torch.int64, count: int = rows) -> Tensor:
            return torch.zeros(count, dtype=kind, device=device)

        return cls(
            cache=cache,
            tokens=zeros(),
            positions=zeros(),
            keys=zeros(),
            drawn=zeros(),
            place=zeros(),
            alive=zeros(torch.bool),
            over=zeros(torch.bool),
            ids=zeros(),
            fed=zeros(),
            limit=zeros(),
            ends=zeros(torch.bool, vocab),
            looked=torch.zeros(rows, watched, device=device),
            unread=unread,
            dtype=dtype,
        )

    def holds(self, rows: int, length: int, dtype: torch.dtype | None) -> bool:
        """True where so many rows of so many slots have room."""
        return len(self.place) >= rows and self.cache.length >= length and self.dtype is dtype

    def shelf(self, model: Decoder, rows: int) -> "State":
        """Idle rows of their own, for samples of these rows that are set aside."""
        cache = model.new_cache(rows, self.cache.length, dtype=self.dtype)
        made = self.at(torch.zeros(rows, dtype=torch.int64, device=self.place.device))
        return replace(made, cache=cache, alive=torch.zeros_like(made.alive))

    def written(self) -> Tensor:
        """[N] int64: rows of the output to write to."""
        return torch.where(self.alive, self.place, self.unread)

    def look(self) -> tuple[int, int]:
        """How many rows are alive, and the largest position that one of them goes to."""
        alive, reach = torch.stack((self.alive.sum(), (self.positions * self.alive).amax())).tolist()
        return alive, reach

    def listen(self, exchange: Exchange) -> None:
        """Interact."""
        self.exchange = exchange
        self.ends.zero_() if exchange.ends is None else self.ends.copy_(exchange.ends)

    def begin(self, rows: Tensor, most: int) -> None:
        """The samples in `rows` [N] begin their first turn."""
        assert self.exchange is not None
        budgets = [self.exchange.budget(place) or most for place in self.place[rows].tolist()]
        self.fed[rows], self.limit[rows] = 0, torch.tensor(budgets, device=rows.device).clamp(max=most)

    def at(self, index: Tensor) -> "State":
        """The rows in `index`, apart: what is changed there changes nothing here. Their cache is left out."""
        return self._with(Cache([], 0), lambda tensor: tensor[index])

    def put(self, index: Tensor, other: "State", source: Tensor) -> None:
        """The samples in the rows `index` [N] int64 become those in the rows `source` [N] of others."""
        self.cache.put(index, other.cache, source)
        for name in _OF_ROWS:
            getattr(self, name)[index] = getattr(other, name)[source]

    def first(self, count: int) -> "State":
        """The first rows: what is changed there is changed here."""
        return self._with(self.cache.first(count), lambda tensor: tensor[:count])

    def _with(self, cache: Cache, part: Callable[[Tensor], Tensor]) -> "State":
        return replace(self, cache=cache, **{name: part(getattr(self, name)) for name in _OF_ROWS})

    def advance(self, rows: Tensor | None, tokens: Tensor, over: Tensor, ids: Tensor | None) -> None:
        """Tokens [N] were drawn for `rows` (None: all): those alive go on, those in `over` [N] bool are idle."""
        if rows is None:
            self.positions += self.alive
            self.drawn += self.alive
            self.alive &= ~over
            self.tokens.copy_(tokens)
            self.over.copy_(over)
            if ids is not None:
                self.ids.copy_(ids)
            return
        self.positions[rows] += 1
        self.drawn[rows] += 1
        self.alive[rows] = ~over
        self.tokens[rows] = tokens
        self.over[rows] = over
        if ids is not None:
            self.ids[rows] = ids

    def narrow(self, count: int) -> None:
        """Go on with the first `count` rows only; those that are alive and lie behind move to idle places there."""
        behind = count + self.alive[count:].nonzero().squeeze(1)
        free = (~self.alive[:count]).nonzero().squeeze(1)[: len(behind)]
        self.put(free, self, behind)
        kept = self.first(count)
        self.cache = kept.cache
        for name in _OF_ROWS:
            setattr(self, name, getattr(kept, name))


_OF_ROWS = ("tokens", "positions", "keys", "drawn", "place", "alive", "over", "ids", "fed", "limit", "looked")
"""Tensors of `State` that have an entry a row."""
