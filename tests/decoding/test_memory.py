"""What decoding takes of memory, against what a process of its own was seen to take."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlx.decoding import memory
from rlx.decoding.base import DecodeConfig, Scheduling
from rlx.decoding.engine import Engine
from rlx.decoding.memory import GIB, PAIRS, SHARE, Decoding, check_room, chunk_of, free_bytes, left_in_group
from rlx.errors import ConfigError
from rlx.models.dense import DenseConfig
from rlx.models.gssm import GssmConfig
from rlx.nn.compiled import roomy
from rlx.nn.decoder import Decoder
from tests.conftest import environment

TAKEN = """
import sys, threading, time, torch
from rlx.decoding.engine import Engine
from rlx.decoding.sample import SampleConfig
from rlx.options import discover

torch.set_num_threads(1)
kind, half = sys.argv[1], sys.argv[2] == "bf16"
prompts, samples, longest, rows, most = map(int, sys.argv[3:])
model = discover("model")[kind].config(d_model=64, n_layers=4).build(112)
engine, decode = Engine(model, end_id=-1, pad_id=0), SampleConfig(max_tokens=most, rows=rows)

def taken():  # its own: pages of libraries come as code is met, and go
    (line,) = (line for line in open("/proc/self/status") if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024

class Watch(threading.Thread):
    most, over = 0, False

    def run(self):
        while not self.over:
            self.most = max(self.most, taken())
            time.sleep(5e-4)

with torch.autocast("cpu", torch.bfloat16, enabled=half):
    engine.complete([[5] * 8] * 2, keys=[0, 1], samples=2, decode=SampleConfig(max_tokens=4, rows=4))
    engine.check_room(prompts, samples, longest, decode)
    before, watch = taken(), Watch()
    watch.start()
    engine.complete([[5] * longest] * prompts, keys=range(prompts), samples=samples, decode=decode)
    watch.over = True
    watch.join()
print(engine.needed, watch.most - before)
"""
CASES = {
    "many rows": ("dense", "fp32", 64, 4, 64, 256, 48),
    "long prompts": ("dense", "fp32", 8, 4, 512, 32, 8),
    "bf16": ("dense", "bf16", 64, 4, 64, 256, 48),
    "interleaved": ("iha", "fp32", 64, 4, 64, 128, 32),
    "few sizes": ("dense", "bf16", 257, 1, 8, 512, 128),
    "a state": ("gssm", "fp32", 64, 64, 64, 4096, 12),
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("case", CASES)
def test_what_is_told_is_what_is_taken(case: str) -> None:
    command = [sys.executable, "-c", TAKEN, *map(str, CASES[case])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment())
    assert done.returncode == 0, done.stderr
    told, taken = map(int, done.stdout.split())
    allowed = max(0.3 * told, 32e6)  # libraries set up some MB of their own, whatever the size
    assert abs(taken - told) < allowed, f"told {told / 1e6:.0f} MB, taken {taken / 1e6:.0f} MB"


@pytest.fixture(scope="module")
def model() -> Decoder:
    return DenseConfig(d_model=32, n_layers=2, n_heads=4).build(20)


def call(rows: int = 256, most: int = 1000, **more: Any) -> Decoding:
    return Decoding(
        **{"prompts": 64, "samples": 8, "longest": 24, "decode": DecodeConfig(rows=rows, max_tokens=most), **more}
    )


def test_the_cache_by_hand(model: Decoder) -> None:
    """Keys and values of two layers, float32: 2 * 2 * 32 * 4 bytes a position; as much again of what is fixed."""
    small, large = (call(most=most).bytes(model) for most in (1000, 2000))
    cache = 256 * 1000 * 2 * 2 * 32 * 4
    output, scores = 2 * 513 * 1000 * 21, 256 * 4 * 1000 * 12
    assert large - small == cache + output + scores
    half = call(dtype=torch.bfloat16).bytes(model)
    assert call().bytes(model) - half == (256 * 1024 + 32 * 24) * 2 * 2 * 32 * 2


def test_what_is_set_aside_is_counted(model: Decoder) -> None:
    """A quarter of the rows once more, where samples wait; and all prompts' states, of which half are passed else."""
    trail: dict[str, Any] = dict(rows=256, max_tokens=1000, scheduler=Scheduling.trail)
    assert call(decode=DecodeConfig(**trail)).bytes(model) == call().bytes(model), "nothing predicts lengths"
    more = call(decode=DecodeConfig(**trail), ranks=True).bytes(model) - call().bytes(model)
    passed = 32 * (4 * 3 * 4 * 24 * 24 + 4 * 16 * 32 * 24)  # scores and activations of the other half
    assert more == (64 * 1024 + 32 * 24) * 2 * 2 * 32 * 4 + passed
    never = call(decode=DecodeConfig(**trail, preempt=0.0), ranks=True).bytes(model) - call().bytes(model)
    assert never == 32 * 24 * 2 * 2 * 32 * 4 + passed
    one_a_row = [call(prompts=32, decode=DecodeConfig(**trail), ranks=ranks) for ranks in (True, False)]
    assert one_a_row[0].bytes(model) == one_a_row[1].bytes(model)


def test_a_state_of_fixed_size_takes_no_more_for_more_tokens() -> None:
    model = GssmConfig(d_model=32, n_layers=2).build(20)
    assert call(most=2000).bytes(model) - call().bytes(model) == 2 * 513 * 1000 * 21


def test_one_that_does_not_fit_says_what_does(model: Decoder) -> None:
    asked = call(rows=256, most=4000)
    free = asked.bytes(model) // 3
    with pytest.raises(ConfigError) as error:
        check_room(model, asked, free=free)
    told = str(error.value)
    assert "decode.rows=256 with decode.max_tokens=4000 takes about" in told and "\n" not in told
    assert f"{asked.bytes(model) / GIB:.3g} GiB" in told and f"{free / GIB:.3g} GiB" in told
    offers = [part.split(" ")[0] for part in told.split("try ")[1].split(" or ")]
    values = {name.split("=")[0]: int(name.split("=")[1]) for name in offers}
    assert check_room(model, call(rows=values["decode.rows"], most=4000), free=free) <= SHARE * free
    assert check_room(model, call(rows=256, most=values["decode.max_tokens"]), free=free) <= SHARE * free
    assert asked.bytes(model, rows=2 * values["decode.rows"]) > SHARE * free
    assert asked.bytes(model, max_tokens=2 * values["decode.max_tokens"]) > SHARE * free


def test_a_copy_of_the_weights_is_counted_once(model: Decoder) -> None:
    weights = sum(each.numel() for each in model.parameters())
    half = {"dtype": torch.bfloat16}
    assert call(copied=True, **half).bytes(model) - call(**half).bytes(model) == 2 * weights
    assert call(copied=True).bytes(model) - call().bytes(model) == 4 * weights


def test_the_engine_says_what_it_does_with_sizes(model: Decoder) -> None:
    """257 samples in bf16 have 512 rows, and 24 + 1001 slots are 1,536."""
    engine = Engine(model, end_id=1, pad_id=0)
    decode = DecodeConfig(rows=512, max_tokens=1001)
    with torch.autocast("cpu", torch.bfloat16):
        engine.check_room(257, 1, 24, decode)
    by_hand = call(
        prompts=257, samples=1, decode=decode, dtype=torch.bfloat16, copied=True, rows_of=lambda *_: 512,
        length_of=lambda _: 1536, kept_sizes=8,
    )  # fmt: skip
    assert engine.needed == by_hand.bytes(model)
    assert [roomy(size, 32) for size in (1, 32, 33, 65, 97, 129, 193, 1024, 1025)] == [
        32, 32, 64, 96, 128, 192, 256, 1024, 1536
    ]  # fmt: skip


def test_work_space_of_each_size_is_counted(model: Decoder) -> None:
    """Of 2 sizes, half and all of 1,024 slots: one and a half times a layer's keys, 32 numbers a slot and row."""
    more = call(kept_sizes=2).bytes(model) - call().bytes(model)
    assert more == 1.5 * 256 * 1024 * 32 * 4
    assert call(kept_sizes=8).bytes(GssmConfig(d_model=32, n_layers=2).build(20)) == call().bytes(
        GssmConfig(d_model=32, n_layers=2).build(20)
    )


def test_where_nothing_fits_another_model_is_named(model: Decoder) -> None:
    with pytest.raises(ConfigError, match="try a smaller model"):
        check_room(model, call(), free=1000)


def test_no_more_rows_are_counted_than_there_are_samples(model: Decoder) -> None:
    assert call(rows=10_000).bytes(model) == call(rows=512).bytes(model)


@pytest.mark.parametrize(("longest", "chunk"), [(16, 64), (256, 64), (1024, 4), (2048, 1), (9999, 1)])
def test_prompts_are_passed_in_chunks_whose_square_is_bounded(longest: int, chunk: int) -> None:
    assert chunk_of(512, 8, longest) == chunk
    assert chunk * longest**2 <= PAIRS or chunk == 1


def test_the_engine_looks_once_for_each_larger_call(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    engine = Engine(model, end_id=1, pad_id=0)
    monkeypatch.setattr("rlx.decoding.engine.check_room", lambda model, call: looked.append(call.decode.rows))
    for rows in (4, 4, 8, 4):
        engine.complete([[5]] * 8, keys=range(8), samples=1, decode=DecodeConfig(rows=rows, max_tokens=2))
    assert looked == [4, 8]


def test_limits_of_control_groups_are_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"memory.max": "1000000", "memory.current": "700000", "memory.stat": "anon 5\ninactive_file 200000\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert left_in_group(tmp_path) == 500_000
    monkeypatch.setattr(memory, "_groups", lambda: iter([tmp_path]))
    assert free_bytes(torch.device("cpu")) == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert left_in_group(tmp_path) is None
    old = {"memory.limit_in_bytes": "900", "memory.usage_in_bytes": "600", "memory.stat": "total_inactive_file 50\n"}
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    assert left_in_group(tmp_path) == 350


def test_a_run_that_does_not_fit_says_so_before_its_first_step(door, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.stages.runs import PRETRAIN, place, rl

    start = place(door(*PRETRAIN).out)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 300_000)
    done = door(*rl(start))
    assert done.code == 2 and "decode.rows=" in done.err and "GiB" in done.err and "Traceback" not in done.err
    monkeypatch.undo()
