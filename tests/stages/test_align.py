"""stage=merge with merge.align: what is said, and what the result is."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import COUNTDOWN
from tests.stages.runs import PRETRAIN, place, rows

MERGE = (*COUNTDOWN, "trainer.threads=1", "stage=merge", "stage.val_tokens=640", "stage.problems=0",
         "stage.path_points=3")  # fmt: skip


def weights(run: Any) -> dict[str, torch.Tensor]:
    return load_file(sorted(run.glob("checkpoints/*/model.safetensors"))[-1])


@pytest.mark.parametrize("how", ["weights", "activations"])
def test_parents_trained_apart(door: Any, how: str) -> None:
    """The result is that of the aligned parents, and the way between these is what is measured."""
    one, other = (place(door(*PRETRAIN, f"seed={seed}").out) for seed in (0, 1))
    models = f"merge.models=[{one},{other}]"
    plain, aligned = (place(door(*MERGE, "merge=linear", models, *more).out) for more in ([], [f"merge.align={how}"]))
    (before,), (after,) = rows(plain), rows(aligned)
    assert after["merge/cosine"] > before["merge/cosine"] + (0.01 if how == "weights" else 0)
    assert after["merge/parent_1/val_loss"] == pytest.approx(before["merge/parent_1/val_loss"], abs=1e-5)
    assert after["merge/barrier_height"] != before["merge/barrier_height"]
    assert after["flops/eval"] > before["flops/eval"]
    (told,) = json.loads((aligned / "merge.json").read_text())["alignment"]
    assert told["parent"] == 1 and told["after"] > told["before"] and sum(told["moved"].values()) > 0
    if how == "weights":
        assert told["after"] == pytest.approx(after["merge/cosine"], abs=1e-5)
    assert "alignment" not in json.loads((plain / "merge.json").read_text())
    embeds = [weights(run)["embed.weight"] for run in (one, other, aligned)]
    moved = 2 * embeds[2] - embeds[0]  # the second parent's columns, in another order
    torch.testing.assert_close(moved.sort(1).values, embeds[1].sort(1).values, atol=1e-6, rtol=0)
    assert not torch.equal(embeds[2], weights(plain)["embed.weight"])


def test_a_child_is_left_as_it_is_and_the_base_is_not_looked_at(door: Any) -> None:
    one = place(door(*PRETRAIN).out)
    tuned = place(door(*PRETRAIN, f"init_from={one}", "stage.steps=2").out)
    done = door(*MERGE, "merge=linear", "merge.align=weights", f"merge.models=[{one},{tuned}]")
    assert done.code == 0, done.err
    report = json.loads((place(done.out) / "merge.json").read_text())
    assert report["base"] is None and report["likeness"]["of"] == "weights"
    assert not any(report["alignment"][0]["moved"].values())


def test_without_documents_weights_can_be_aligned_and_activations_not(door: Any) -> None:
    one, other = (place(door(*PRETRAIN, f"seed={seed}", "stage.steps=2").out) for seed in (0, 1))
    command = ["scale=smoke", "stage=merge", "merge=linear", f"merge.models=[{one},{other}]"]
    assert door(*command, "merge.align=weights").code == 0
    done = door(*command, "merge.align=activations")
    assert done.code == 2 and done.err.count("\n") == 1 and "looks at documents" in done.err
    done = door(*command, "merge.align=weights", f"merge.base={one}")
    assert done.code == 2 and done.err.count("\n") == 1 and "another order than the base's" in done.err
