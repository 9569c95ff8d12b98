"""Threads and precision of this process, as run.json records them."""

from typing import TYPE_CHECKING

from rlx.runs.provenance import available_cores
from rlx.runs.run import Run

if TYPE_CHECKING:
    from rlx.config import Config


def prepare(config: "Config", run: Run) -> None:
    """Set the threads of CPU arithmetic and note what the run computes with."""
    import torch

    assert config.trainer is not None
    threads = config.trainer.threads or available_cores()
    torch.set_num_threads(threads)
    run.record["arithmetic"] = {
        "precision": config.trainer.precision.value,
        "accelerator": config.trainer.accelerator,
        "threads": threads,
        "attention": "torch scaled_dot_product_attention",
    }
