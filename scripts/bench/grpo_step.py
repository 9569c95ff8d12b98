"""A GRPO step on a CPU: the whole `stage=rl` iteration against TRL's GRPOTrainer on an equal Llama.

python scripts/bench/grpo_step.py [--sizes 0.8M,4.7M] [--rounds 3]        (needs: pip install trl)

16 prompts of 16 tokens x 8 samples, 64 new tokens each (no early end), one update on the 128 rows; a reward that half
of the samples get, at no cost. TRL is timed in fp32 and in bf16, without gradient checkpointing and without a second
forward pass for old log-probabilities; ratios are to the faster one. Sides alternate in rounds; medians over all steps
but the first ones of a round.
"""

import argparse
import importlib.util
import random
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import cycle, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import _results
import _sizes
import torch

from rlx.algorithms.grpo import GrpoConfig
from rlx.config import CheckpointConfig, Config
from rlx.data.tokenizers.char import CharConfig
from rlx.decoding.sample import SampleConfig
from rlx.optim.adamw import AdamWConfig
from rlx.optim.schedules.constant import ConstantConfig
from rlx.runs.run import open_run
from rlx.signals import stop
from rlx.stages.arithmetic import prepare
from rlx.stages.base import Context
from rlx.stages.modules.loop import LoopConfig, fit
from rlx.stages.modules.policy import PolicyModule, RolloutSource, Sampler
from rlx.stages.rl import RlConfig
from rlx.stages.start import Start
from rlx.tasks.base import TaskConfig
from rlx.trainers.base import Precision
from rlx.trainers.cpu import CpuConfig
from rlx.types import Example, Outcome, Split, Verdict

PROMPTS, SAMPLES, PROMPT, NEW = 16, 8, 16, 64
WARM, STEPS = 3, 6


def text_of(index: int) -> str:
    """A prompt of `PROMPT` - 1 characters; the begin mark is the other token."""
    draw = random.Random(index)
    return "".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(PROMPT - 1))


def is_rewarded(completion: str) -> bool:
    return sum(map(ord, completion)) % 2 == 0


class Coin:
    """A task of prompts; what its samples are worth is the benchmark's to say."""

    def size(self, split: Split) -> int | None:
        return None

    def example(self, split: Split, index: int) -> Example:
        return Example(str(index), text_of(index), "")

    def verify(self, example: Example, completion: str) -> Verdict:
        return Verdict(Outcome.wrong)


class CoinConfig(TaskConfig):
    def build(self) -> Coin:
        return Coin()


class EveryOther(GrpoConfig):
    """Every other completion is worth 1: none ends, so a verifier would find all truncated, and rows of groups without
    a signal are not trained."""

    worth = cycle((0.0, 1.0))

    def reward(self, verdict: Verdict) -> float:
        return next(self.worth)


class Timed(RolloutSource):
    """A rollout source that keeps the time between two of its items."""

    def __iter__(self) -> Iterator[Any]:
        self.times: list[float] = []
        inner = super().__iter__()
        began = time.perf_counter()
        while (item := next(inner, None)) is not None:
            yield item
            now = time.perf_counter()
            self.times.append(now - began)
            began = now


def ours(size: str, precision: str) -> list[float]:
    """Seconds of each iteration of the stage."""
    total = WARM + STEPS
    tokenizer = CharConfig().build()
    config = Config(
        stage=RlConfig(steps=total, prompts=PROMPTS, val_every=0, preflight_problems=0), model=_sizes.dense(size),
        task=CoinConfig(), algorithm=EveryOther(group_size=SAMPLES), decode=SampleConfig(max_tokens=NEW, rows=128),
        optim=AdamWConfig(lr=1e-6), schedule=ConstantConfig(),
        trainer=CpuConfig(precision=Precision[precision], compile=True), checkpoint=CheckpointConfig(every=10**6),
    )  # fmt: skip
    torch.manual_seed(0)
    assert config.model is not None
    start = Start(
        model=config.model.build(tokenizer.vocab_size), model_config=config.model, tokenizer=tokenizer, depth=0
    )
    record = {"stage": "rl", "task": "none", "model": "dense", "seed": 0, "parents": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        open_run(Path(folder) / "none-dense-rl-h0/seed0", config={}, command="", record=record) as run,
    ):
        prepare(config, run)
        sampler = Sampler(start, config, run, stop)
        sampler.engine.end_id = -1
        module = PolicyModule(start, config, run, sampler, total=total, clip_norm=1.0)
        source = Timed(sampler, module, prompts=PROMPTS, total=total)
        loop = LoopConfig(val_every=0, max_flops=None, metric="val/loss")
        fit(module, source, loop, Context(overrides=[], compose=lambda _: None, stop=stop))  # pyright: ignore
    assert module.row["frac_reward_zero_std"] == 0 and module.row["train/grad_norm"] > 0, "all rows are trained"
    return source.times[WARM:]


def trl(size: str, precision: str) -> list[float]:
    """Seconds of each step of TRL's trainer."""
    from datasets import Dataset
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports, reportPrivateImportUsage]

    inner = CharConfig().build().inner
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|pad|>", padding_side="left"
    )
    config = _sizes.llama(
        size, len(tokenizer), PROMPT + NEW, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    times = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=precision == "bf16", per_device_train_batch_size=PROMPTS * SAMPLES,
            num_generations=SAMPLES, max_completion_length=NEW, max_steps=WARM + STEPS + 1, learning_rate=1e-6,
            gradient_checkpointing=False, report_to="none", save_strategy="no", logging_steps=10**6, disable_tqdm=True,
            generation_kwargs={"min_new_tokens": NEW}, seed=0,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=LlamaForCausalLM(config),
            processing_class=tokenizer,
            args=settings,
            train_dataset=Dataset.from_list([{"prompt": "<|begin|>" + text_of(n)} for n in range(512)]),
            reward_funcs=lambda completions, **_: [float(is_rewarded(text)) for text in completions],
            callbacks=[Clock()],
        )
        trainer.train()
    return [after - before for before, after in pairwise(times)][WARM:]


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    sides = {
        f"{side.__name__} {precision}": (side, precision) for side in (trl, ours) for precision in ("fp32", "bf16")
    }
    times: dict[str, list[float]] = {label: [] for label in sides}
    for _ in range(rounds):
        for label, (side, precision) in sides.items():
            times[label] += side(name, precision)
            print(f"  {name} {label}: {median(times[label]):.3f} s a step", flush=True)
    found = {label: median(values) for label, values in times.items()}
    best = min(found["trl fp32"], found["trl bf16"])
    return [
        {
            "model": name, "ours": precision, "ours_s": found[f"ours {precision}"], "trl_fp32_s": found["trl fp32"],
            "trl_bf16_s": found["trl bf16"], "ratio": best / found[f"ours {precision}"],
        }
        for precision in ("fp32", "bf16")
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0.8M,4.7M")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        print("nothing to compare with: pip install trl")
        return
    warnings.filterwarnings("ignore")
    rows = [row for name in arguments.sizes.split(",") for row in measure(name, arguments.rounds)]
    print(_results.table(rows))
    _results.append(
        "grpo_step", rows, completions=PROMPTS * SAMPLES, prompt=PROMPT, new=NEW, threads=torch.get_num_threads()
    )


if __name__ == "__main__":
    main()
