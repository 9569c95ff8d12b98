"""What decoding takes of memory, told before it is taken.

1. The cache, the prompts' states and the output are counted exactly; what a pass computes in between is estimated from
   its largest tensors: scores of attention, activations, and probabilities over the vocabulary. What is told is within
   30 % of what a process was seen to take, or 32 MB (`tests/decoding/test_memory.py`).
2. With decode.scheduler=trail as many prompts are passed as there are rows, to tell which of their samples are short,
   and samples that are set aside have rows of their own.
3. Prompts are passed `chunk` at a time, so that the square of their lengths stays bounded, however many there are.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlx.decoding.base import DecodeConfig
from rlx.decoding.scheduling import shelf_rows
from rlx.errors import ConfigError
from rlx.nn.cache import KeyValueCache, StateCache
from rlx.nn.decoder import Decoder
from rlx.nn.experts import routed_layers

PAIRS = 1 << 22
"""Pairs of tokens that a chunk of prompts has at most, where one prompt alone has not more."""
SHARE = 0.9
"""Of the memory that is free this much may be used."""
GIB = 2.0**30
_TEMPORARIES = 3
"""Tensors of scores that are held at once: as computed, masked, and their exponentials."""
_VOCABULARY = 40
"""Bytes a row and entry of the vocabulary while a token is drawn: logits, log-probabilities, and in float64 what is
summed."""
_RESTRICTED = 28
"""Bytes more where top-k or top-p drop some: sorted, with their order, and their sums."""
_OUTPUT = 8 + 4 + 1 + 8
"""Bytes of a token of the output: its id, log-probability, mask and turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """A call of the engine.

    Args:
        prompts: how many there are.
        samples: completions a prompt.
        longest: tokens of the longest prompt.
        dtype: of the cache; None: that of the weights.
        routing: the experts that were chosen are written down.
        ranks: samples are told apart by their predicted lengths.
        copied: the weights are copied first, as they are or in `dtype`.
        rows_of: how many rows there are of at most so many, for so many samples.
        length_of: how many slots a row has of so many that are needed.
        kept_sizes: numbers of slots, evenly up to all, for each of which a library keeps work space as large as a
            layer's keys.
    """

    prompts: int
    samples: int
    longest: int
    decode: DecodeConfig
    dtype: torch.dtype | None = None
    routing: bool = False
    ranks: bool = False
    copied: bool = False
    rows_of: Callable[[int, int], int] = min
    length_of: Callable[[int], int] = int
    kept_sizes: int = 0

    def rows(self, most: int) -> int:
        """Rows side by side, at most `most`."""
        return self.rows_of(most, self.prompts * self.samples)

    def bytes(self, model: Decoder, *, rows: int | None = None, max_tokens: int | None = None) -> int:
        """Bytes taken at the most, for other decode.rows or decode.max_tokens where they are given."""
        tokens = self.decode.max_tokens if max_tokens is None else max_tokens
        rows = self.rows(self.decode.rows if rows is None else rows)
        length, count = self.length_of(self.longest + tokens), self.prompts * self.samples
        chunk = min(self.prompts, chunk_of(rows, 1 if self.ranks else self.samples, self.longest))
        aside = shelf_rows(rows, self.decode) if self.ranks and count > rows else 0
        state = (rows + aside) * state_bytes(model, length, self.dtype)
        state += chunk * state_bytes(model, self.longest, self.dtype)
        if self.kept_sizes:  # sizes of 1, 2, ... of so many parts are so many halves, and a half, of the largest
            state += rows * _keys_bytes(model, self.longest + tokens, self.dtype) * (self.kept_sizes + 1) // 2
        output = _OUTPUT * (count + 1) * tokens
        if self.routing:
            layers = routed_layers(model)
            output += 2 * (count + 1) * length * len(layers) * layers[0].top_k
        vocabulary, width = model.vocab_size, model.embed.weight.shape[1]
        drawing = _VOCABULARY + (_RESTRICTED if self.decode.truncates else 0)
        step = rows * (
            drawing * vocabulary + _scores(model, 1, length) + 16 * width + 3 * _fixed_bytes(model, self.dtype)
        )
        prefill = chunk * (_scores(model, self.longest, self.longest) + _activations(model) * self.longest)
        return self._copy_bytes(model) + state + 2 * output + step + prefill

    def _copy_bytes(self, model: Decoder) -> int:
        """Of the copy of the weights."""
        if not self.copied:
            return 0
        return sum(weight.numel() for weight in model.parameters()) * (4 if self.dtype is None else self.dtype.itemsize)


def chunk_of(rows: int, samples: int, longest: int) -> int:
    """Prompts that are passed at once: as many as fill the rows, within `PAIRS`."""
    return max(1, min(rows // samples, PAIRS // longest**2))


def state_bytes(model: Decoder, length: int, dtype: torch.dtype | None) -> int:
    """Bytes of one row's cache of `length` slots."""
    kind, place = dtype or model.embed.weight.dtype, torch.device("meta")
    caches = [block.mixer.new_cache(1, length, dtype=kind, device=place) for block in model.blocks]
    kept = [value for cache in caches for value in vars(cache).values() if isinstance(value, Tensor)]
    return sum(value.numel() * value.element_size() for value in kept)


def _keys_bytes(model: Decoder, length: int, dtype: torch.dtype | None) -> int:
    """Bytes of one row's keys of `length` slots, of the layer that has most."""
    kind, place = dtype or model.embed.weight.dtype, torch.device("meta")
    caches = [block.mixer.new_cache(1, length, dtype=kind, device=place) for block in model.blocks]
    keys = [cache.keys for cache in caches if isinstance(cache, KeyValueCache)]
    return max((each.numel() * each.element_size() for each in keys), default=0)


def _fixed_bytes(model: Decoder, dtype: torch.dtype | None) -> int:
    """Bytes of one row's state of fixed size, of the layer that has most: a step makes the new one beside the old."""
    kind, place = dtype or model.embed.weight.dtype, torch.device("meta")
    caches = [block.mixer.new_cache(1, 1, dtype=kind, device=place) for block in model.blocks]
    found = [vars(cache).values() for cache in caches if isinstance(cache, StateCache)]
    return max((sum(each.numel() * each.element_size() for each in layer) for layer in found), default=0)


def _activations(model: Decoder) -> int:
    """Bytes a token of what a layer holds at once; scans hold more of them than attention."""
    scans = any(not hasattr(block.mixer, "n_heads") for block in model.blocks)
    return 4 * (32 if scans else 16) * model.embed.weight.shape[1]


def _scores(model: Decoder, tokens: int, length: int) -> int:
    """Bytes of the largest layer's scores between `tokens` and `length` slots, of layers that have any."""
    heads = [getattr(block.mixer, "n_heads", 0) * getattr(block.mixer, "pseudo", 1) ** 2 for block in model.blocks]
    return 4 * _TEMPORARIES * max(heads, default=0) * tokens * length


def check_room(model: Decoder, decoding: Decoding, *, free: int | None = None) -> int:
    """Bytes that a call will take.

    Args:
        free: bytes that are free; None: what there is.

    Raises:
        ConfigError: they are not there; says what would fit.
    """
    device = model.embed.weight.device
    needed, free = decoding.bytes(model), free_bytes(device) if free is None else free
    if needed <= SHARE * free:
        return needed
    decode, rows = decoding.decode, decoding.rows(decoding.decode.rows)
    place = "this machine" if device.type == "cpu" else "the GPU"
    offers = [
        _offer("decode.rows", rows, lambda value: decoding.bytes(model, rows=value), SHARE * free),
        _offer("decode.max_tokens", decode.max_tokens, lambda v: decoding.bytes(model, max_tokens=v), SHARE * free),
    ]
    told = " or ".join(offer for offer in offers if offer) or "a smaller model, or one whose state is of fixed size"
    raise ConfigError(
        f"decode.rows={decode.rows} with decode.max_tokens={decode.max_tokens} takes about {needed / GIB:.3g} GiB "
        f"({rows} rows of {decoding.longest + decode.max_tokens} tokens), and {free / GIB:.3g} GiB of {place} are "
        f"free; try {told}"
    )


def _offer(name: str, value: int, needed: Callable[[int], int], free: float) -> str:
    """The largest value that halving leads to and that fits; empty where none does."""
    while value > 1:
        value //= 2
        if needed(value) <= free:
            return f"{name}={value} ({needed(value) / GIB:.3g} GiB)"
    return ""


def free_bytes(device: torch.device) -> int:
    """Bytes that this process may still take: of a GPU's memory, or of the machine's and its control group's."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min([_available(), *(left for folder in _groups() if (left := left_in_group(folder)) is not None)])


def _available() -> int:
    """What the system would give without swapping; where it does not say, all that there is."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def left_in_group(folder: Path) -> int | None:
    """Bytes left under the limit of a control group (of version 1 or 2), as containers and Slurm set them; files that
    can be read again are not counted as taken. None where there is no limit."""
    for limit, taken, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, used = int((folder / limit).read_text()), int((folder / taken).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no limit is the word `max`
            continue
        return most - used + int(stat.get(cached, 0))
    return None


def _groups() -> Iterator[Path]:
    """The process's control groups and those above them, as far as they are seen from here."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, kinds, path in (line.split(":", 2) for line in lines):
        if kinds in ("", "memory"):
            inner = Path(path.lstrip("/"))
            yield from (root / kinds / part for part in (inner, *inner.parents))
