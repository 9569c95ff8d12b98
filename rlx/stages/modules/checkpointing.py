"""What a fit writes as a checkpoint, and how it is taken up again.

1. A checkpoint is a model directory; `trainer/state.pt` has under "run" what the run callback knows, and under
   "trainer" the rest of Lightning's checkpoint, without the counters of its loops: a resume is a new pass over a source
   that knows where it is.
2. A run goes on from the newest checkpoint that is whole and whose rows are all there. What is not is moved to logs/,
   never deleted, and the rows younger than the checkpoint are made again.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO

from rlx.errors import CheckpointError
from rlx.models.adapters import load_adapter_weights, to_peft
from rlx.models.folder import load_weights, weights_of
from rlx.runs.checkpoints import list_checkpoints, load_trainer_state, new_checkpoint, save_trainer_state, set_aside
from rlx.runs.checksums import check_whole
from rlx.runs.model_directory import load_model_directory, save_adapter, save_model_directory
from rlx.runs.run import Run
from rlx.stages.continuing import FORMAT, checked_state
from rlx.stages.start import Start, read_adapter

PREFIX = "model."
"""How Lightning names the decoder's tensors in a module that holds it as `model`."""
COUNTERS = ("epoch", "global_step", "loops")
"""What Lightning counts in an attempt: no part of the state."""


@dataclass(slots=True, kw_only=True)
class TakenUp:
    """A checkpoint that a run goes on from; its weights are in the model already."""

    folder: Path
    state: dict[str, Any]
    """{"format", "run", "trainer"}, as saved."""
    parents: bool = False
    """True when it is the parent's last word, False when it is the run's own."""


class ModelDirectoryIO(CheckpointIO):
    """Lightning's checkpoint as a model directory, with everything else in trainer/state.pt."""

    def __init__(self, start: Start, run: Run, taken: TakenUp | None, *, key: str) -> None:
        self.start, self.run, self.taken, self.key = start, run, taken, key

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        self.run.lease.ensure_held()
        checkpoint.pop("state_dict")
        own = checkpoint["callbacks"].pop(self.key)
        rest = {name: value for name, value in checkpoint.items() if name not in COUNTERS}
        step = int(Path(path).name.removeprefix("step-"))
        with new_checkpoint(self.run.path, step, replace=True) as folder:
            save_model_directory(
                folder,
                weights_of(self.start.model),
                self.start.description(),
                self.start.tokenizer.to_json(),
            )
            if self.start.adapter is not None:
                described, adapters = to_peft(self.start.model, self.start.model_config)
                save_adapter(folder, adapters, described)
            save_trainer_state(folder, {"format": FORMAT, "run": own, "trainer": rest})

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> dict:
        assert self.taken is not None and Path(path) == self.taken.folder
        state = self.taken.state
        named = {PREFIX + name: tensor for name, tensor in self.start.model.state_dict().items()}
        return {**state["trainer"], "callbacks": {self.key: state["run"]}, "state_dict": named}

    def remove_checkpoint(self, path: Any) -> None:
        raise NotImplementedError("checkpoints are pruned by rlx.runs")


def last_good(run: Run, start: Start) -> TakenUp | None:
    """The newest checkpoint that can be used, its weights in the start's model, and the rows younger moved away.

    None in a new run, and where no checkpoint can be used: all rows are then moved away.
    """
    model, taken, offsets = start.model, None, {"metrics": 0, "samples": 0}
    for step, folder in reversed(list_checkpoints(run.path, partial=True)):
        try:
            check_whole(folder)
            state = checked_state(load_trainer_state(folder), folder)
            tensors, _, _ = load_model_directory(folder)
            run.metrics.check_row_ends(state["run"]["offsets"]["metrics"])
            run.samples.check_row_ends(state["run"]["offsets"]["samples"])
            products = [] if start.adapter is None else read_adapter(folder, start.model_config, model.vocab_size)
            load_weights(model, tensors, folder)  # last: the model is untouched where no checkpoint can be used
            if start.adapter is not None:
                load_adapter_weights(model, products, folder)
        except CheckpointError as error:
            kept = set_aside(run.path, step, run.attempt)
            run.say(f"  {error}: the checkpoint of step {step} is moved to {kept.relative_to(run.path)}")
        else:
            run.say(f"  going on from step {step}")
            taken, offsets = TakenUp(folder=folder, state=state), state["run"]["offsets"]
            break
    run.metrics.rewind(offsets["metrics"], run.attempt - 1)
    run.samples.rewind(offsets["samples"], run.attempt - 1)
    return taken


def generators_state() -> dict[str, Any]:
    """State of torch's, Python's and numpy's global generators, as `weights_only` loading takes it."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    assert not isinstance(keys, str)
    return {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
    }


def restore_generators(state: dict[str, Any]) -> None:
    """Put the generators back to `generators_state`."""
    torch.set_rng_state(state["torch"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
