"""Memory of training on a CPU: the whole model against a LoRA adapter on its frozen base.

python scripts/bench/lora_memory.py [--widths 512,1024] [--ranks 8,32] [--rows 2]

A process each: a decoder of 8 layers, fused AdamW, steps of forward, backward, clipping and update on rows of 128
tokens. `tensors_mb` counts the bytes of weights, gradients and optimizer state after a step; `step_mb` is what the
process's peak (ru_maxrss) grew by from before the model was built to after the last step, so activations are in it.
"""

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

import _results

LENGTH = 128
STEPS = 3
BASELINE = 0
"""In place of a rank, there and in the results: the whole model is trained."""


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(width: int, rank: int, rows: int) -> dict[str, Any]:
    """One process's numbers."""
    import torch

    from rlx.adapters.lora import LoraConfig
    from rlx.models.dense import DenseConfig
    from rlx.optim.adamw import AdamWConfig

    torch.manual_seed(0)
    tokens = torch.randint(0, 512, (rows, LENGTH))
    warm = torch.nn.Linear(64, 64)
    torch.optim.AdamW(warm.parameters(), fused=True)
    warm(torch.zeros(1, 64)).sum().backward()  # what torch loads at its first step is no part of the model
    before = peak_mb()
    model = DenseConfig(d_model=width, n_layers=8, n_heads=width // 64).build(512)
    if rank != BASELINE:
        LoraConfig(rank=rank).attach(model)
    optimizer = AdamWConfig().build(model)
    for _ in range(STEPS):
        logits = model.logits(model(tokens)[0])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        kept = [*model.parameters(), *gradients, *(t for s in optimizer.state.values() for t in s.values())]
        held = sum(tensor.numel() * tensor.element_size() for tensor in kept)
        del gradients, kept
        optimizer.zero_grad()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    return {"total": total, "trained": trained, "tensors_mb": held / 2**20, "step_mb": peak_mb() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="512,1024")
    parser.add_argument("--ranks", default="8,32")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        width, rank = map(int, arguments.one.split(","))
        print(json.dumps(measure(width, rank, arguments.rows)))
        return
    rows: list[dict[str, Any]] = []
    whole: dict[str, Any] = {}
    for width in map(int, arguments.widths.split(",")):
        for rank in (BASELINE, *map(int, arguments.ranks.split(","))):
            command = [sys.executable, __file__, "--one", f"{width},{rank}", "--rows", str(arguments.rows)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            whole = found if rank == BASELINE else whole
            row = {"d_model": width, "rank": rank, **found}
            rows.append({**row, "of_whole": found["step_mb"] / whole["step_mb"]})
            print(_results.table(rows[-1:]), flush=True)
    print(_results.table(rows))
    _results.append("lora_memory", rows, length=LENGTH, rows_of_a_step=arguments.rows, steps=STEPS)


if __name__ == "__main__":
    main()
