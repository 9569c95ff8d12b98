"""Training on a CPU: the whole Lightning stage against a plain loop over an equal transformers Llama.

python scripts/bench/training.py [--shapes 0.8M:128,4.7M:128,0.8M:512,4.7M:512] [--repeats 9]

Both train on the same batches of 8,192 tokens, one document a row, so that plain causal attention is equal work. Ours
is `stage=pretrain` as it runs: Lightning, packing, the metrics row of every step. The loop does nothing but forward,
backward, clipping and fused AdamW on batches that are there already. It is searched over {fp32, bf16} x {eager,
compiled} x {sdpa, eager attention}, and its eager fp32 SDPA setting and its fastest one are then timed in turn with
ours, in one process: blocks of steps of each, medians over blocks.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import _results
import _sizes
import torch
from transformers import LlamaForCausalLM

from rlx.config import CheckpointConfig, Config
from rlx.data.documents import Document
from rlx.data.packing import Packer
from rlx.data.tokenizers.char import CharConfig
from rlx.optim.adamw import AdamWConfig
from rlx.optim.schedules.constant import ConstantConfig
from rlx.runs.run import open_run
from rlx.signals import stop
from rlx.stages.arithmetic import prepare
from rlx.stages.base import Context
from rlx.stages.modules.loop import LoopConfig, fit
from rlx.stages.modules.supervised import PackedSource, SupervisedModule
from rlx.stages.pretrain import PretrainConfig
from rlx.stages.start import Start
from rlx.trainers.base import Precision
from rlx.trainers.cpu import CpuConfig

TOKENS = 8192
SEARCH = [(precision, compiled, attention) for precision in ("fp32", "bf16") for compiled in (False, True)
          for attention in ("sdpa", "eager")]  # fmt: skip
Step = Callable[[], None]


def documents(length: int, vocab: int) -> Callable[[int], Document]:
    """Documents of exactly a row: made beforehand, so that what is timed is packing and not a task."""
    generator = torch.Generator().manual_seed(0)
    made = torch.randint(16, vocab, (4096, length), generator=generator).tolist()
    return lambda position: Document(made[position % len(made)], 1)


def baseline(size: str, tokens: torch.Tensor, vocab: int, precision: str, compiled: bool, attention: str) -> Step:
    """One step of the plain loop."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(_sizes.llama(size, vocab, tokens.shape[1], use_cache=False, attn_implementation=attention))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model, dynamic=False) if compiled else model

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = forward(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(step: Step, count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - began) / count


class Alternating(PackedSource):
    """A source that times the stage between two of its items, and the rivals' blocks in between."""

    def __init__(self, packer: Packer, rivals: dict[str, Step], *, block: int, repeats: int) -> None:
        warm = 4
        super().__init__(packer, micro_batches=1, total=warm + block * repeats)
        self.rivals, self.block, self.warm, self.repeats = rivals, block, warm, repeats
        self.times: dict[str, list[float]] = {name: [] for name in (*rivals, "ours")}

    def __iter__(self) -> Iterator[Any]:
        inner = super().__iter__()
        for _ in range(self.warm):
            yield next(inner)
        for _ in range(self.repeats):
            for name, step in self.rivals.items():
                self.times[name].append(seconds(step, self.block))
            began = time.perf_counter()
            for _ in range(self.block):
                yield next(inner)
            self.times["ours"].append((time.perf_counter() - began) / self.block)


def ours(size: str, length: int, precision: str, rivals: dict[str, Step], block: int, repeats: int) -> dict[str, float]:
    """Median seconds a step of the whole stage, and of each rival between its blocks."""
    tokenizer = CharConfig().build()
    trainer = CpuConfig(precision=Precision[precision], compile=True)
    model_config = _sizes.dense(size)
    config = Config(
        stage=PretrainConfig(batch_tokens=TOKENS, row_tokens=length, val_every=0), model=model_config,
        optim=AdamWConfig(lr=1e-4), schedule=ConstantConfig(), trainer=trainer,
        checkpoint=CheckpointConfig(every=10**6),
    )  # fmt: skip
    torch.manual_seed(0)
    start = Start(
        model=model_config.build(tokenizer.vocab_size), model_config=model_config, tokenizer=tokenizer, depth=0
    )
    packer = Packer(
        documents(length, tokenizer.vocab_size), rows=TOKENS // length, length=length, pad_id=tokenizer.pad_id
    )
    source = Alternating(packer, rivals, block=block, repeats=repeats)
    record = {"stage": "pretrain", "task": "none", "model": "dense", "seed": 0, "parents": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        open_run(Path(folder) / "none-dense-pretrain-h0/seed0", config={}, command="", record=record) as run,
    ):
        prepare(config, run)
        module = SupervisedModule(start, config, run, total=source.total, clip_norm=1.0)
        module.held_out = []
        loop = LoopConfig(val_every=0, max_flops=None, metric="val/loss")
        fit(module, source, loop, Context(overrides=[], compose=lambda _: None, stop=stop))  # pyright: ignore
    return {name: median(values) for name, values in source.times.items()}


def measure(name: str, length: int, repeats: int) -> list[dict[str, Any]]:
    vocab = CharConfig().build().vocab_size
    document = documents(length, vocab)
    tokens = torch.tensor([document(row).ids for row in range(TOKENS // length)])
    steps, found = {}, {}
    for setting in SEARCH:
        label = f"{setting[0]} {'compiled' if setting[1] else 'eager'} {setting[2]}"
        steps[label] = baseline(name, tokens, vocab, *setting)
        seconds(steps[label], 2)
        print(f"  {name} T={length} transformers {label}: warm", flush=True)
    block = max(1, round(0.4 / seconds(steps["bf16 compiled eager"], 2)))
    for label, step in [*steps.items()] * 3:
        found.setdefault(label, []).append(seconds(step, block))
    best = min(found, key=lambda label: median(found[label]))
    rivals = {label: steps[label] for label in dict.fromkeys(("fp32 eager sdpa", best))}
    rows = []
    for precision in ("fp32", "bf16"):
        times = ours(name, length, precision, rivals, block, repeats)
        rows.append(
            {
                "model": name, "T": length, "ours": f"{precision} compiled", "ours_ms": 1e3 * times["ours"],
                "plain_ms": 1e3 * times["fp32 eager sdpa"], "best": best, "best_ms": 1e3 * times[best],
                "over_plain": times["fp32 eager sdpa"] / times["ours"], "over_best": times[best] / times["ours"],
            }
        )  # fmt: skip
        print(_results.table(rows[-1:]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="0.8M:128,4.7M:128,0.8M:512,4.7M:512")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    for shape in arguments.shapes.split(","):
        name, length = shape.split(":")
        torch._dynamo.reset()
        rows += measure(name, int(length), arguments.repeats)
    print(_results.table(rows))
    _results.append("training", rows, tokens=TOKENS, threads=torch.get_num_threads(), repeats=arguments.repeats)


if __name__ == "__main__":
    main()
