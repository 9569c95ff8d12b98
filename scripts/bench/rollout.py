"""Rollouts: the engine against transformers' `generate` on the same weights.

python scripts/bench/rollout.py [--models dense,moe,iha,gssm] [--sizes 0.8M,4.7M] [--repeats 7] [--cases natural]
python scripts/bench/rollout.py --device cuda [--rows 256,512] ...

1. fixed: 256 rows (32 prompts of 16 tokens, 8 samples each), 64 new tokens, no early end.
2. prompts: the same with 256 different prompts, where the engine saves no prefill.
3. natural: 1,024 samples of 128 prompts whose ends are geometric with a mean of half the cap; the engine keeps 256 rows
   busy by refill, `generate` passes 256 rows at a time to its longest. Both end at the same lengths: in place of an end
   mark, which untrained weights do not draw at a chosen rate, the length of every sample is drawn beforehand.

`generate` is timed in fp32 and in bf16 (weights in bf16); ratios are to the faster one. All in turn, medians. A model
that transformers has no equal of (iha) is compared with its Llama of the same widths. Before anything is timed, greedy
tokens of both sides are compared in float32, on a few prompts.

On a GPU the baseline is `generate` with a static cache in bf16, ours is in bf16 with recorded steps; told besides are
bytes that a step must read (weights once, every row's cache up to its length) over its time, and over the bandwidth
that copies reach in the same run.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import _results
import _sizes
import torch
from architectures import config
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM, StoppingCriteria

from rlx.decoding import engine as engine_module
from rlx.decoding.engine import Engine
from rlx.decoding.greedy import GreedyConfig
from rlx.decoding.memory import state_bytes
from rlx.decoding.sample import SampleConfig
from rlx.models.base import ModelConfig
from rlx.models.layouts.base import layout_of
from rlx.nn.decoder import Decoder

VOCAB, PROMPT, NEW, ROWS, NATURAL = 112, 16, 64, 256, 1024
LAYOUTS = {"dense": "llama", "moe": "mixtral", "gssm": "mamba2"}
CASES = {"fixed": (32, 8, False), "prompts": (256, 1, False), "natural": (128, 8, True)}
"""Prompts and samples of each at 256 rows, and whether samples end by themselves."""
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


class DrawnEnds(Engine):
    """The engine, ending each sample at its own length."""

    lengths: torch.Tensor

    def is_over(self, place: torch.Tensor, tokens: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return drawn >= self.lengths[place]


def shaped(name: str, size: str) -> ModelConfig:
    """The model at a size; gssm as Mamba-2 is, without channel mixers and of twice the layers."""
    found = config(name, size)
    return replace(found, layers=["gssm+none"], n_layers=2 * found.n_layers) if name == "gssm" else found


def ours(name: str, size: str) -> Decoder:
    torch.manual_seed(0)
    return shaped(name, size).build(VOCAB).eval()


def theirs(name: str, size: str) -> Any:
    """transformers' model with the same weights; of what it has none of, its Llama of equal widths."""
    if name not in LAYOUTS:
        torch.manual_seed(0)
        return LlamaForCausalLM(_sizes.llama(size, VOCAB, PROMPT + NEW)).eval()
    layout, own = layout_of(LAYOUTS[name]), shaped(name, size)
    assert layout is not None
    weights = {key: value for key, value in ours(name, size).state_dict().items() if key != "head.weight"}  # it is tied
    with TemporaryDirectory() as folder:
        save_file(layout.to_theirs(weights, own), Path(folder) / "model.safetensors", metadata={"format": "pt"})
        (Path(folder) / "config.json").write_text(json.dumps(layout.to_config(own, VOCAB)))
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def settings(**more: Any) -> dict[str, Any]:
    return dict(do_sample=True, top_k=0, top_p=1.0, max_new_tokens=NEW, pad_token_id=0, eos_token_id=None, **more)


def same_greedy(name: str, size: str, device: str) -> bool:
    """Whether both sides draw the same tokens in float32, on 8 prompts."""
    given = prompts(8).to(device)
    engine = Engine(ours(name, size).to(device), end_id=-1, pad_id=0)
    found = engine.complete(given.tolist(), keys=range(8), samples=1, decode=GreedyConfig(max_tokens=NEW)).tokens
    with torch.no_grad():
        out = theirs(name, size).to(device).generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=NEW, pad_token_id=0,
            eos_token_id=None,
        )  # fmt: skip
    return torch.equal(out[:, PROMPT:], found)


def transformers_side(
    name: str, size: str, half: bool, given: torch.Tensor, group: int, lengths: Any, rows: int, device: str
) -> Run:
    model = theirs(name, size).to(device)
    model = model.bfloat16() if half else model
    asked = settings() if device == "cpu" else settings(cache_implementation="static")
    given = given.to(device)

    @torch.no_grad()
    def run() -> None:
        for start in range(0, len(given) * group, rows):
            part = given[start // group : (start + rows) // group]
            criteria = None if lengths is None else [DrawnLengths(lengths[start : start + rows].to(device))]
            out = model.generate(
                part, attention_mask=torch.ones_like(part), num_return_sequences=group,
                stopping_criteria=criteria, **asked,
            )  # fmt: skip
            assert len(out) == rows and (lengths is not None or out.shape[1] == PROMPT + NEW)

    return run


def engine_side(
    name: str, size: str, half: bool, given: torch.Tensor, group: int, lengths: Any, rows: int, device: str
) -> Run:
    model = ours(name, size).to(device)
    engine = (Engine if lengths is None else DrawnEnds)(model, end_id=-1, pad_id=0, compile=True)
    if lengths is not None:
        engine.lengths = torch.cat((lengths, lengths[:1])).to(device)  # pyright: ignore[reportAttributeAccessIssue]
    texts, keys, decode = given.tolist(), list(range(len(given))), SampleConfig(max_tokens=NEW, rows=rows)

    def run() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            done = engine.complete(texts, keys=keys, samples=group, decode=decode)
        expected = len(given) * group * NEW if lengths is None else int(lengths.sum())
        assert int(done.lengths.sum()) == expected
        assert not engine.unrecorded, engine.unrecorded

    return run


def medians(runs: dict[str, Run], repeats: int, device: str) -> dict[str, float]:
    for run in runs.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            if device != "cpu":
                torch.cuda.synchronize()
            began = time.perf_counter()
            run()
            if device != "cpu":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - began)
    return {name: median(values) for name, values in times.items()}


def measure(name: str, size: str, cases: list[str], repeats: int, rows: int, device: str) -> list[dict[str, Any]]:
    found = []
    for case in cases:
        count, group, natural = CASES[case]
        given = prompts(count * rows // ROWS)
        lengths = ends(len(given) * group) if natural else None
        sides = {"transformers": transformers_side, "ours": engine_side}
        halves = (False, True) if device == "cpu" else (True,)
        runs = {
            f"{side} {'bf16' if half else 'fp32'}": make(name, size, half, given, group, lengths, rows, device)
            for side, make in sides.items()
            for half in halves
        }
        times = medians(runs, repeats, device)
        best = min(times[key] for key in times if key.startswith("transformers"))
        for half in ("fp32", "bf16")[-len(halves) :]:
            row = {
                "model": name, "size": size, "case": case, "rows": rows, "ours": half,
                "ours_ms": 1e3 * times[f"ours {half}"],
                **{f"{each}_ms": 1e3 * times[f"transformers {each}"] for each in ("fp32", "bf16")[-len(halves) :]},
                "ratio": best / times[f"ours {half}"],
            }  # fmt: skip
            if device != "cpu" and not natural:
                row |= bandwidth(ours(name, size), rows, times[f"ours {half}"], device)
            found.append(row)
        print(_results.table(found[-len(halves) :]), flush=True)
    return found


def bandwidth(model: Decoder, rows: int, seconds: float, device: str) -> dict[str, float]:
    """GB/s that the steps of a call must read, in bf16, and the share of what copies reach."""
    weights = 2 * sum(each.numel() for each in model.parameters())
    caches = sum(rows * state_bytes(model, PROMPT + step, torch.bfloat16) for step in range(NEW))
    block = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    target.copy_(block)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        target.copy_(block)
    torch.cuda.synchronize()
    copied = 20 * len(block) / (time.perf_counter() - began)
    reached = (NEW * weights + caches) / seconds
    return {"gb_per_s": reached / 1e9, "of_copies": reached / copied}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="dense,moe,iha,gssm")
    parser.add_argument("--sizes", default="0.8M,4.7M")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rows", default=str(ROWS), help="rows side by side, multiples of 256")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    for name in arguments.models.split(","):
        for size in arguments.sizes.split(","):
            if name in LAYOUTS:
                if not same_greedy(name, size, arguments.device):
                    raise SystemExit(f"{name} {size}: greedy tokens of the two sides differ")
                print(f"{name} {size}: greedy tokens of both sides are equal", flush=True)
            for side_by_side in map(int, arguments.rows.split(",")):
                cases, device = arguments.cases.split(","), arguments.device
                rows += measure(name, size, cases, arguments.repeats, side_by_side, device)
    print(_results.table(rows))
    _results.append(
        "rollout", rows, device=arguments.device, prompt=PROMPT, new=NEW, threads=torch.get_num_threads(),
        refill_share=engine_module.REFILL_SHARE, repeats=arguments.repeats,
    )  # fmt: skip


if __name__ == "__main__":
    main()
