"""Samples that do not run: those that have not begun, and those that were set aside."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlx.decoding.base import DecodeConfig, Scheduling
from rlx.decoding.lengths import LengthProbe, middle_layer
from rlx.decoding.memory import chunk_of
from rlx.decoding.scheduling import Job, scheduler_of
from rlx.decoding.state import Guide
from rlx.decoding.uniforms import sample_keys
from rlx.nn.aux import Aux
from rlx.nn.cache import Cache
from rlx.nn.decoder import Decoder


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of autocast, where it is on."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def chosen_experts(aux: Aux) -> Tensor:
    """[B, T, L, K] int16, experts of all routed layers."""
    return torch.stack([each.chosen for each in aux.routing], dim=2).short()


@dataclass(slots=True)
class Taken:
    """Samples that begin, and the prompts' states that they begin from."""

    cache: Cache
    source: Tensor  # [N] int64, rows of `cache`
    lengths: Tensor  # [N] int64
    logits: Tensor  # [N, V]
    ids: Tensor | None  # [N] int64, coupled positions that are predicted
    keys: Tensor  # [N] int64
    place: Tensor  # [N] int64
    routing: Tensor | None  # [N, W, L, K] int16


class Waiting:
    """Samples that do not run: those that have not begun, whose prompts are passed through the model a chunk at a time,
    and those that were set aside."""

    def __init__(
        self,
        model: Decoder,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[int],
        samples: int,
        pad_id: int,
        *,
        guide: Guide | None,
        decode: DecodeConfig,
        lengths: LengthProbe | None,
        routing: bool = False,
    ) -> None:
        self.guide, self.routed = guide, routing
        self.model, self.prompts, self.samples, self.pad_id = model, prompts, samples, pad_id
        self.device = model.embed.weight.device
        self.keys = sample_keys(torch.tensor(list(keys), dtype=torch.int64, device=self.device), samples)
        self.scheduler, self.forecast = scheduler_of(decode), None
        if lengths is not None and decode.scheduler is Scheduling.trail:
            self.forecast = lengths.forecast(self.keys)
        longest = max(len(prompt) for prompt in prompts)
        self.chunk = chunk_of(decode.rows, 1 if self.ranks else samples, longest)
        self.jobs: dict[int, Job] = {}
        """Samples whose prompts were passed, by number."""
        self.shelved: dict[int, int] = {}
        """The shelf's rows of those that were set aside, by number."""
        self.first = 0
        """Of the prompts whose states are at hand."""

    @property
    def ranks(self) -> bool:
        """Samples are told apart by what is predicted of them."""
        return self.forecast is not None and self.forecast.knows

    def __bool__(self) -> bool:
        return len(self.scheduler) > 0 or len(self.jobs) < len(self.keys)

    def take(self, most: int) -> list[Job]:
        """The next samples, at most `most`; a new chunk of prompts is passed where all of the last one have begun."""
        if len(self.scheduler) == len(self.shelved) and len(self.jobs) < len(self.keys):
            self._prefill(len(self.jobs) // self.samples)
            self._come(len(self.jobs), min(len(self.jobs) + self.chunk * self.samples, len(self.keys)))
        return [self.scheduler.next() for _ in range(min(most, len(self.scheduler)))]

    def known(self, place: Tensor, drawn: Tensor) -> list[Job]:
        """The samples `place` [N] int64 with what is predicted of them now; they have `drawn` [N] tokens."""
        assert self.forecast is not None
        found = [self.jobs[number] for number in place.tolist()]
        for job, left, age in zip(found, self.forecast.left[place].tolist(), drawn.tolist(), strict=True):
            job.left, job.age = left, age
        return found

    def begun(self, place: Tensor) -> Taken:
        """The samples `place` [N] int64, of the chunk at hand."""
        source = place // self.samples - self.first
        return Taken(
            cache=self.cache,
            source=source,
            lengths=self.lengths[source],
            logits=self.logits[source],
            ids=None if self.ids is None else self.ids[source],
            keys=self.keys[place],
            place=place,
            routing=None if self.routing is None else self.routing[source],
        )

    def _come(self, first: int, last: int) -> None:
        """The samples from `first` up to `last` wait from now on."""
        jobs = [Job(number) for number in range(first, last)]
        self.jobs.update(enumerate(jobs, first))
        if self.forecast is not None:
            place = torch.arange(first, last, device=self.device)
            self.forecast.begin(place, self.states[place // self.samples - self.first])
            for job, tokens in zip(self.known(place, place - place), self.forecast.first[place].tolist(), strict=True):
                job.first = tokens
        for job in jobs:
            self.scheduler.wait(job)

    def _prefill(self, first: int) -> None:
        """The cache of the next prompts, and the logits after each."""
        self.first, prompts = first, self.prompts[first : first + self.chunk]
        self.lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)  # [P]
        width = int(self.lengths.max())
        padded = [[*prompt, *[self.pad_id] * (width - len(prompt))] for prompt in prompts]
        tokens = torch.tensor(padded, device=self.device)  # [P, W]
        self.cache = self.model.new_cache(len(prompts), width, dtype=autocast_dtype(self.device))
        places = None if self.guide is None else self.guide.ids[first : first + self.chunk, :width]  # [P, W]
        look = None if self.forecast is None else middle_layer(len(self.model.blocks))
        hidden, aux = self.model(tokens, cache=self.cache, slots=width, lengths=self.lengths, places=places, look=look)
        self.routing = None
        if self.routed:
            padding = torch.arange(width, device=self.device) >= self.lengths[:, None]  # [P, W]
            self.routing = chosen_experts(aux).masked_fill(padding[..., None, None], -1)
        ends = (torch.arange(len(prompts), device=self.device), self.lengths - 1)
        last = hidden[ends]  # [P, D]
        self.states = last if aux.looked is None else aux.looked[ends]  # [P, D]
        self.logits = self.model.logits(last)  # [P, V]
        self.ids = None if self.model.places is None else self.model.places.predicted(last)
