"""Rollouts on a CPU: the engine against transformers' `generate` on an equal Llama.

python scripts/bench/rollouts.py [--sizes 0.8M,4.7M] [--repeats 7]

1. Fixed length: 256 rows (32 prompts of 16 tokens, 8 samples each), 64 new tokens, no early end.
2. The same with 256 different prompts, where the engine saves no prefill.
3. Natural ends: 1,024 samples of 128 prompts whose ends are geometric with a mean of half the cap; the engine keeps
   256 rows busy by refill, `generate` passes 256 rows at a time to its longest. Both end at the same lengths: in place
   of an end mark, which untrained weights do not draw at a chosen rate, the length of every sample is drawn beforehand.

`generate` is timed in fp32 and in bf16 (weights in bf16); ratios are to the faster one. All in turn, medians.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import _results
import _sizes
import torch
from transformers import LlamaForCausalLM, StoppingCriteria

from rlx.decoding import engine as engine_module
from rlx.decoding.engine import Engine
from rlx.decoding.sample import SampleConfig

VOCAB, PROMPT, NEW, ROWS, NATURAL = 112, 16, 64, 256, 1024
Run = Callable[[], None]


def prompts(count: int) -> torch.Tensor:
    return torch.randint(16, VOCAB, (count, PROMPT), generator=torch.Generator().manual_seed(0))


def ends(count: int) -> torch.Tensor:
    """[count] int64: geometric lengths, cut at the cap, whose mean is half the cap."""
    uniform = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    low, high = 1.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        lengths = (-uniform.log() * middle).ceil().clamp(1, NEW)
        low, high = (middle, high) if lengths.mean() < NEW / 2 else (low, middle)
    return (-uniform.log() * low).ceil().clamp(1, NEW).long()


class DrawnLengths(StoppingCriteria):
    """Ends each row of a `generate` call at its own length."""

    def __init__(self, lengths: torch.Tensor) -> None:
        self.lengths = lengths

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return input_ids.shape[1] - PROMPT >= self.lengths


def transformers_side(size: str, half: bool, given: torch.Tensor, group: int, lengths: torch.Tensor | None) -> Run:
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(_sizes.llama(size, VOCAB, PROMPT + NEW)).eval()
    model = model.bfloat16() if half else model
    settings: Any = dict(do_sample=True, top_k=0, top_p=1.0, max_new_tokens=NEW, pad_token_id=0, eos_token_id=None)

    @torch.no_grad()
    def run() -> None:
        for start in range(0, len(given) * group, ROWS):
            part = given[start // group : (start + ROWS) // group]
            criteria = None if lengths is None else [DrawnLengths(lengths[start : start + ROWS])]
            out = model.generate(
                part, attention_mask=torch.ones_like(part), num_return_sequences=group,
                stopping_criteria=criteria, **settings,
            )  # fmt: skip
            assert len(out) == ROWS and (lengths is not None or out.shape[1] == PROMPT + NEW)

    return run


class DrawnEnds(Engine):
    """The engine, ending each sample at its own length."""

    lengths: torch.Tensor

    def is_over(self, place: torch.Tensor, tokens: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return drawn >= self.lengths[place]


def engine_side(size: str, half: bool, given: torch.Tensor, group: int, lengths: torch.Tensor | None) -> Run:
    torch.manual_seed(0)
    model = _sizes.dense(size).build(VOCAB)
    engine = (Engine if lengths is None else DrawnEnds)(model, end_id=-1, pad_id=0, compile=True)
    if lengths is not None:
        engine.lengths = lengths  # pyright: ignore[reportAttributeAccessIssue]
    texts, keys, decode = given.tolist(), list(range(len(given))), SampleConfig(max_tokens=NEW, rows=ROWS)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            done = engine.complete(texts, keys=keys, samples=group, decode=decode)
        expected = len(given) * group * NEW if lengths is None else int(lengths.sum())
        assert int(done.lengths.sum()) == expected

    return run


def medians(runs: dict[str, Run], repeats: int) -> dict[str, float]:
    for run in runs.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: median(values) for name, values in times.items()}


def measure(name: str, repeats: int) -> list[dict[str, Any]]:
    rows = []
    cases = {
        "fixed length, groups of 8": (prompts(ROWS // 8), 8, None),
        "fixed length, 256 prompts": (prompts(ROWS), 1, None),
        "natural ends, groups of 8": (prompts(NATURAL // 8), 8, ends(NATURAL)),
    }
    for case, (given, group, lengths) in cases.items():
        sides = {"transformers": transformers_side, "ours": engine_side}
        runs = {
            f"{side} {'bf16' if half else 'fp32'}": make(name, half, given, group, lengths)
            for side, make in sides.items()
            for half in (False, True)
        }
        found = medians(runs, repeats)
        best = min(found["transformers fp32"], found["transformers bf16"])
        for half in ("fp32", "bf16"):
            rows.append(
                {
                    "model": name, "case": case, "ours": half, "ours_ms": 1e3 * found[f"ours {half}"],
                    "fp32_ms": 1e3 * found["transformers fp32"], "bf16_ms": 1e3 * found["transformers bf16"],
                    "ratio": best / found[f"ours {half}"],
                }
            )  # fmt: skip
        print(_results.table(rows[-2:]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0.8M,4.7M")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = [row for name in arguments.sizes.split(",") for row in measure(name, arguments.repeats)]
    print(_results.table(rows))
    _results.append(
        "rollouts", rows, side_by_side=ROWS, prompt=PROMPT, new=NEW, threads=torch.get_num_threads(),
        refill_share=engine_module.REFILL_SHARE, repeats=arguments.repeats,
    )  # fmt: skip


if __name__ == "__main__":
    main()
