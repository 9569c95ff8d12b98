"""Completions kept over several iterations until a round of training is due."""

from dataclasses import replace
from typing import Any

from rlx.algorithms.base import Algorithm, Gathering
from rlx.batches import RolloutBatch
from rlx.errors import ConfigError


class Gathered:
    """The kept completions of this round, and of earlier ones that are trained on again."""

    def __init__(self, gathering: Gathering, algorithm: Algorithm, *, total: int, pad_id: int) -> None:
        self.gathering, self.algorithm, self.total, self.pad_id = gathering, algorithm, total, pad_id
        self.now: list[RolloutBatch] = []
        self.past: list[RolloutBatch] = []
        """A batch a round, oldest first."""
        self.seen = 0
        """Completions sampled in this round."""

    def add(self, batch: RolloutBatch) -> dict[str, float]:
        """Keep what the algorithm selects of an iteration's completions; metrics of the buffer."""
        kept = replace(self.algorithm.select(batch), sampled=None)
        self.seen += len(batch.tokens)
        if len(kept.tokens):
            self.now.append(kept)
        held = sum(len(part.tokens) for part in self.now)
        return {"buffer/rows": float(held), "buffer/kept_ratio": held / max(self.seen, 1)}

    def is_due(self, step: int) -> bool:
        """True when a round of training follows `step` (counted from 1)."""
        every = self.gathering.iterations
        return step == self.total or (every is not None and step % every == 0)

    def take(self, empty: RolloutBatch) -> RolloutBatch:
        """What a round trains on; the next one begins. `empty` has the fields of a batch and no rows."""
        fresh = self.algorithm.select(RolloutBatch.joined([*self.now, empty], self.pad_id))
        self.now, self.seen = [], 0
        rounds = self.gathering.rounds
        self.past = [*self.past, fresh][-rounds:] if rounds is not None else [*self.past, fresh]
        whole = self.algorithm.select(RolloutBatch.joined(self.past, self.pad_id))
        if rounds == 1:
            self.past = []
        return whole

    def state(self) -> dict[str, Any]:
        """Plain tensors, for trainer/state.pt."""
        kept = self.past if self.gathering.rounds != 1 else []
        return {
            "now": [batch.tensors() for batch in self.now],
            "past": [batch.tensors() for batch in kept],
            "seen": self.seen,
        }

    def restore(self, state: dict[str, Any], *, routed: bool) -> None:
        """Take up a state, perhaps of a parent with another stage.replay_routing; `routed`: this run replays.

        Raises:
            ConfigError: the experts to be replayed were not kept.
        """
        self.now, self.past = ([RolloutBatch(**tensors) for tensors in state[name]] for name in ("now", "past"))
        self.seen = state["seen"]
        for batch in (*self.now, *self.past):
            if routed and batch.routing is None:
                raise ConfigError(
                    "stage.replay_routing=true: the parent gathered samples without the experts that were chosen; "
                    "leave it out, or take init.state=weights"
                )
            batch.routing = batch.routing if routed else None
