"""Architectures against the dense model of equal active parameters on a CPU: training steps, and decoding at a context.

python scripts/bench/architectures.py [--sizes 0.8M,4.7M] [--rows 128,512,packed] [--settings fp32] [--repeats 7]
    [--only moe,iha]

A training step is what `stage=pretrain` computes for 8,192 tokens: forward, loss, backward, clipping, fused AdamW, by
the stage's own code, without loading and logging. Rows hold one document each, or (packed) documents of 40 to 200
tokens in rows of 512. All models of a setting are timed in turn, a block of steps each, and a ratio is that of medians.
Compiled settings are warmed up before. Decoding is one step of 64 rows in float32 whose next token stands at a context
length, with the cache that the engine would have.
"""

import argparse
import itertools
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import _results
import _sizes
import torch

from rlx.batches import Batch
from rlx.data.documents import Document
from rlx.data.packing import Packer
from rlx.models.base import ModelConfig
from rlx.models.size import matrix_numel, parameter_count
from rlx.nn.compiled import compiled
from rlx.nn.decoder import Decoder
from rlx.optim.adamw import AdamWConfig
from rlx.options import discover
from rlx.stages.modules.supervised import _losses, _trained_losses

TOKENS, VOCAB, DECODED = 8192, 112, 64
SETTINGS = {"fp32": ("fp32", False), "fp32-compiled": ("fp32", True), "bf16-compiled": ("bf16", True)}
MODELS: dict[str, dict[str, Any]] = {
    "dense": {},
    "moe": {},
    "iha": {"pseudo_heads": 2},
    "gssm": {},
}
"""Options of `model=`, with what differs from their defaults."""
CONTEXTS = (64, 256, 1024, 4096)


def config(name: str, size: str) -> ModelConfig:
    """The model at a size; those without heads of attention's kind go without their number."""
    cls = discover("model")[name].config
    sizes = {key: value for key, value in _sizes.SIZES[size].items() if key in cls().read()}
    return cls(**sizes, **MODELS[name])


def batch(rows: str) -> Batch:
    """8,192 tokens in rows of equal documents, or of packed ones."""
    generator = torch.Generator().manual_seed(0)
    lengths = [int(rows)] if rows != "packed" else torch.randint(40, 201, (997,), generator=generator).tolist()
    made = [
        torch.randint(16, VOCAB, (length,), generator=generator).tolist() for length in lengths * (997 // len(lengths))
    ]
    width = 512 if rows == "packed" else int(rows)
    packer = Packer(lambda n: Document(made[n % len(made)], 1), rows=TOKENS // width, length=width, pad_id=0)
    return packer.next()


def step_of(model: Decoder, data: Batch, precision: str, compile: bool) -> Callable[[], None]:
    """One training step."""
    optimizer = AdamWConfig(lr=1e-4).build(model)
    core = compiled(_trained_losses) if compile else _trained_losses
    counted = data.loss_mask.sum()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss, _, _, aux, _ = _losses(model, data, core, 0.0)
        (loss / counted + sum(aux.losses.values())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(step: Callable[[], Any], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - began) / count


def training(
    names: list[str], size: str, rows: str, precision: str, compile: bool, repeats: int
) -> list[dict[str, Any]]:
    data, models, steps = batch(rows), {}, {}
    torch._dynamo.reset()
    for name in names:
        torch.manual_seed(0)
        models[name] = config(name, size).build(VOCAB)
        steps[name] = step_of(models[name], data, precision, compile)
        seconds(steps[name], 3)
    times: dict[str, list[float]] = {name: [] for name in names}
    block = max(1, round(0.5 / seconds(steps["dense"], 2)))
    for _, name in itertools.product(range(repeats), names):
        times[name].append(seconds(steps[name], block))
    active = matrix_numel(models["dense"])
    return [
        {
            "model": name, "size": size, "rows": rows, "arithmetic": f"{precision}{' compiled' if compile else ''}",
            "parameters": parameter_count(models[name]), "active_over_dense": matrix_numel(models[name]) / active,
            "ms": 1e3 * median(times[name]), "tokens_per_s": TOKENS / median(times[name]),
            "over_dense": median(times["dense"]) / median(times[name]),
        }
        for name in names
    ]  # fmt: skip


@torch.no_grad()
def decoding(names: list[str], size: str, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds a step, by context."""
    steps: dict[tuple[str, int], Any] = {}
    for name, context in itertools.product(names, CONTEXTS):
        torch.manual_seed(0)
        model = config(name, size).build(VOCAB).eval()
        cache, tokens = model.new_cache(DECODED, context), torch.zeros(DECODED, 1, dtype=torch.int64)
        positions = torch.full((DECODED, 1), context - 1)

        def step(model: Any = model, cache: Any = cache, tokens: Any = tokens, positions: Any = positions) -> None:
            rows = model.rows(tokens, positions=positions, cache=cache)
            hidden, _ = model.run(tokens, rows, cache)
            model.logits(hidden[:, 0])

        steps[name, context] = step
        seconds(step, 2)
    times: dict[tuple[str, int], list[float]] = {key: [] for key in steps}
    for _, (key, step) in itertools.product(range(repeats), steps.items()):
        times[key].append(seconds(step, 5))
    return [
        {
            "model": name, "size": size, "rows": DECODED,
            **{f"ms_at_{context}": 1e3 * median(times[name, context]) for context in CONTEXTS},
            "last_over_first": median(times[name, CONTEXTS[-1]]) / median(times[name, CONTEXTS[0]]),
        }
        for name in names
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0.8M,4.7M")
    parser.add_argument("--rows", default="128,512,packed")
    parser.add_argument("--settings", default=",".join(SETTINGS), help="bf16 only where the CPU has it")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default=",".join(MODELS), help="models besides dense")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    names = ["dense", *(name for name in arguments.only.split(",") if name != "dense")]
    trained, decoded = [], []
    for size in arguments.sizes.split(","):
        for rows, setting in itertools.product(arguments.rows.split(","), arguments.settings.split(",")):
            trained += training(names, size, rows, *SETTINGS[setting], arguments.repeats)
            print(_results.table(trained[-len(names) :]), flush=True)
        decoded += decoding(names, size, arguments.repeats)
        print(_results.table(decoded[-len(names) :]), flush=True)
    shared = {"tokens": TOKENS, "threads": torch.get_num_threads(), "repeats": arguments.repeats}
    _results.append("architectures", trained, part="training", **shared)
    _results.append("architectures", decoded, part="decoding", **shared)


if __name__ == "__main__":
    main()
