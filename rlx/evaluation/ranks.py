"""Rollouts split over the processes that train together: each plays every W-th problem, and all get all of them.

Tensors travel as tensors, and what the verifier found as JSON. The episodes of other ranks are then played again here,
turn by turn, with their verdicts read in place of asked for: an environment answers the same to the same.
"""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rlx.batches import Extent
from rlx.decoding.completions import Completions
from rlx.decoding.lengths import Seen
from rlx.types import Failure, Outcome, Verdict

Heard = list[list[Verdict]]
"""What the verifier found, by row: verdicts in the order in which it was asked."""


def rank_and_size() -> tuple[int, int]:
    """Of this process among those that train together: (0, 1) where it is alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def own_share(count: int) -> list[int]:
    """Numbers of the problems, of `count`, that this rank plays; where there are fewer than ranks each plays all."""
    rank, size = rank_and_size()
    return list(range(rank, count, size)) if size <= count else list(range(count))


def all_rows(own: Completions, heard: Heard, samples: int, pad_id: int) -> tuple[Completions, Heard]:
    """The completions and verdicts of all ranks, problem by problem, from those of each one's share."""
    device = own.tokens.device
    texts = _gathered_text(json.dumps([[_plain(one) for one in row] for row in heard]), device)
    verdicts = [[[_read(one) for one in row] for row in json.loads(text)] for text in texts]
    counts = [len(part) for part in verdicts]
    order, tensors = _order(counts, samples), {}
    for name in (each.name for each in fields(own)):
        value = getattr(own, name)
        if isinstance(value, Tensor):
            parts = _gathered(value, counts, {"tokens": pad_id, "routing": -1}.get(name, 0))
            tensors[name] = torch.cat(parts)[order.to(device)]
    found = replace(own, **tensors, prefilled=_sum(own.prefilled, device), decoded=_sum(own.decoded, device))
    if own.seen is not None:
        found.seen, (found.preempted, found.predictions) = _all_seen(own, device)
    flat = [row for part in verdicts for row in part]
    return found, [flat[place] for place in order.tolist()]


def _order(counts: Sequence[int], samples: int) -> Tensor:
    """[N] int64: places, in rows laid rank by rank, of the rows problem by problem."""
    size, starts, found = len(counts), [sum(counts[:rank]) for rank in range(len(counts))], []
    for problem in range(sum(counts) // samples):
        rank, number = problem % size, problem // size
        first = starts[rank] + number * samples
        found += range(first, first + samples)
    return torch.tensor(found, dtype=torch.int64)


def _gathered(own: Tensor, counts: Sequence[int], empty: int) -> list[Tensor]:
    """A tensor of each rank, [N] or [N, M, ...]; M may differ, and is filled up to the widest."""
    shape = [max(counts), *own.shape[1:]]
    if own.dim() > 1:
        width = torch.tensor(own.shape[1], device=own.device)
        dist.all_reduce(width, dist.ReduceOp.MAX)
        shape[1] = int(width)
    kind = own.dtype
    own = own if kind.is_floating_point else own.to(torch.int64)  # not every library sends the small ones
    padded = own.new_full(shape, empty)
    padded[tuple(slice(size) for size in own.shape)] = own
    found = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(found, padded)
    return [part[:count].to(kind) for part, count in zip(found, counts, strict=True)]


def _gathered_text(text: str, device: torch.device) -> list[str]:
    """A text of each rank."""
    own = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(device)
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(own)], device=device))
    parts = _gathered(own, [int(length) for length in lengths], 0)
    return [bytes(part.cpu().tolist()).decode() for part in parts]


def _all_seen(own: Completions, device: torch.device) -> tuple[Seen, list[int]]:
    """What all ranks are to learn lengths from, rank by rank, so that they learn the same; and how many samples were
    set aside and predictions made in all."""
    assert own.seen is not None
    totals = torch.tensor([own.preempted, own.predictions], device=device)
    dist.all_reduce(totals)
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(own.seen)], device=device))
    counts = [int(length) for length in lengths]
    found = {name: torch.cat(_gathered(value, counts, 0)) for name, value in own.seen.tensors().items()}
    return Seen(**found), totals.tolist()


def _sum(extent: Extent, device: torch.device) -> Extent:
    """Of all ranks."""
    length = torch.tensor(len(extent.counts), device=device)
    dist.all_reduce(length, dist.ReduceOp.MAX)
    counts = torch.zeros(int(length), dtype=torch.float64, device=device)
    counts[: len(extent.counts)] = extent.counts.to(device)
    dist.all_reduce(counts)
    return Extent(counts.cpu())


def _plain(verdict: Verdict) -> dict[str, Any]:
    failure = None if verdict.failure is None else verdict.failure.value
    measures = {name: float(value) for name, value in verdict.measures.items()}
    return {"outcome": verdict.outcome.value, "detail": verdict.detail, "measures": measures, "failure": failure}


def _read(said: dict[str, Any]) -> Verdict:
    failure = said["failure"] and Failure(said["failure"])
    return Verdict(Outcome(said["outcome"]), said["detail"], said["measures"], failure)
