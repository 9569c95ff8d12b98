"""Device, threads and precision of this process, as run.json records them."""

import ctypes
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from rlx.kernels.base import notes_of_a_run
from rlx.runs.provenance import available_cores
from rlx.runs.run import Run
from rlx.trainers.base import Precision, TrainerConfig

if TYPE_CHECKING:
    import torch

    from rlx.config import Config

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's <malloc.h>."""


def prepare(config: "Config", run: Run) -> None:
    """Set the threads of CPU arithmetic and note what the run computes with."""
    import torch

    assert config.trainer is not None
    threads = config.trainer.threads or available_cores()
    torch.set_num_threads(threads)
    keep_freed_memory()
    if config.trainer.compile:
        torch.compiler.reset()  # of an earlier run in this process
    run.record["kernels"] = notes_of_a_run()
    half_on_cpu = config.trainer.precision is Precision.bf16 and config.trainer.accelerator == "cpu"
    run.record["arithmetic"] = {
        "precision": config.trainer.precision.value,
        "accelerator": config.trainer.accelerator,
        "threads": threads,
        "compiled": config.trainer.compile,
        "attention": "matrix products" if half_on_cpu else "torch scaled_dot_product_attention",
    }


def keep_freed_memory() -> None:
    """Have glibc use again what tensors of up to 32 MiB leave, 1 GiB of it at most, where it would give all back to the
    system and have the next ones' pages filled with zeros. Larger tensors, whose holes the small ones would fill, stay
    with the system; with another C library nothing is done."""
    try:
        adjust = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    adjust(M_MMAP_THRESHOLD, 1 << 25)
    adjust(M_TRIM_THRESHOLD, 1 << 30)


def compiles(trainer: TrainerConfig | None) -> bool:
    """True when training and decoding steps are compiled."""
    assert trainer is not None
    return trainer.compile


def device_of(trainer: TrainerConfig | None) -> "torch.device":
    """Where a stage that is no fit of Lightning's computes."""
    import torch

    assert trainer is not None
    return torch.device("cuda" if trainer.accelerator == "cuda" else "cpu")


def arithmetic(trainer: TrainerConfig | None) -> AbstractContextManager[Any]:
    """The precision of everything that is not a training step: sampling, evaluation, held-out loss of a merge."""
    import torch

    assert trainer is not None
    bf16 = trainer.precision is Precision.bf16
    return torch.autocast(device_of(trainer).type, dtype=torch.bfloat16, enabled=bf16)
