"""A step whose numbers are not finite leaves what it was made of, and the run goes on from its last checkpoint."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rlx.errors import DivergedError, RunError
from rlx.evaluation.episodes import turns_of
from rlx.runs.metrics import MetricsLog
from rlx.stages.modules import supervised
from rlx.stages.modules.policy import PolicyModule
from rlx.stages.modules.rollouts import Sampler
from rlx.stages.modules.supervised import SupervisedModule
from tests.stages.runs import PRETRAIN, digest, place, rl, rows, status

STEPS = (*PRETRAIN, "stage.micro_batches=2", "stage.steps=4", "checkpoint.every=2", "stage.val_every=0")
LEARN = ("stage.steps=4", "stage.val_every=0", "stage.preflight_problems=0")


def poison(model: nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)


def left(run: Path, attempt: int = 1) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[dict[str, Any]]]:
    """The numbers, tensors and rows that were kept."""
    folder = run / f"logs/attempt-{attempt}.diverged"
    found = json.loads((folder / "step.json").read_text())
    assert sorted([*found["files"], "step.json"]) == sorted(path.name for path in folder.iterdir())
    batch = folder / "batch.pt"
    tensors = torch.load(batch, weights_only=True) if batch.exists() else {}
    return found, tensors, MetricsLog.read(folder / "rollouts.jsonl")


def diverged(done: Any, step: int, what: str) -> Path:
    """The run of a command that ended for it, told in one line that names the folder."""
    assert done.code == 1 and len(done.err.strip().splitlines()) == 1, done.err
    run = place(done.out)
    folder = run / "logs/attempt-1.diverged"
    assert done.err.startswith(f"rlx: step {step}: {what}") and f"the step's data are in {folder};" in done.err
    assert done.err.strip().endswith("is the usual remedy") and status(run)["state"] == "failed"
    assert json.loads((run / "run.json").read_text())["alarms"] == [done.err.strip().removeprefix("rlx: ")]
    return run


def ends_equal(door: Any, command: Any, run: Path) -> None:
    """The same command goes on, and ends as if nothing had been."""
    done = door(*command)
    assert done.code == 0 and "going on from step 2" in done.out, done.err
    whole = place(door(*command, "runs_dir=whole").out)
    assert rows(run) == rows(whole) and digest(run) == digest(whole)


@pytest.fixture
def seen(monkeypatch) -> list[Any]:
    """Items of the steps in their order; the third step begins with weights that are NaN."""
    items: list[Any] = []
    for kind in (SupervisedModule, PolicyModule):

        def step(self: Any, item: Any, index: int, whole: Any = kind.training_step) -> None:
            items.append(item)
            if len(items) == 3:
                poison(self.model)
            whole(self, item, index)

        monkeypatch.setattr(kind, "training_step", step)
    return items


def test_pretraining_keeps_the_tokens_of_the_step(door, seen):
    run = diverged(door(*STEPS), 3, "the loss is nan")
    found, tensors, lines = left(run)
    assert found["step"] == 3 and (found["phase"], found["part"]) == ("update", "loss")
    assert math.isnan(float(found["loss"])) and math.isnan(float(found["grad_norm"])) and not lines
    assert len(seen[2]) == 2
    for name in ("tokens", "positions", "documents", "loss_mask"):
        assert torch.equal(tensors[name], torch.cat([getattr(part, name) for part in seen[2]]))
    assert tensors["tokens"].shape == (4, 64) and len(rows(run)) == 2
    ends_equal(door, STEPS, run)


def test_a_loss_that_is_not_finite_stops_also_where_its_gradient_is(door, monkeypatch):
    whole, calls = supervised._trained_losses, []

    def losses(*given: Any) -> Any:
        loss, *rest = whole(*given)
        calls.append(loss)
        return loss + (math.inf if len(calls) == 6 else 0.0), *rest

    monkeypatch.setattr(supervised, "_trained_losses", losses)
    run = diverged(door(*STEPS), 3, "the loss is inf")
    found, tensors, _ = left(run)
    assert found["part"] == "loss" and found["loss"] == "inf" and 0 < found["grad_norm"] < 100 and tensors


def test_a_gradient_that_is_not_finite_says_so(door, monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    found, tensors, _ = left(diverged(door(*STEPS), 1, "the gradient is inf"))
    assert (found["part"], found["grad_norm"]) == ("gradient", "inf") and 0 < found["loss"] < 10 and tensors


def test_rl_keeps_what_was_sampled(door, seen):
    command = rl("random", *LEARN)
    run = diverged(door(*command), 3, "the loss is nan")
    found, tensors, lines = left(run)
    assert (found["step"], found["phase"], found["part"]) == (3, "update", "loss")
    rollout = seen[2]
    for name in ("tokens", "loss_mask", "logprobs", "rewards", "group", "finished"):
        assert torch.equal(tensors[name], getattr(rollout.batch, name)), name
    assert [line["completion"] for line in lines] == rollout.texts and len(lines) == 16
    assert [line["prompt"] for line in lines] == [example.prompt for example in rollout.examples for _ in range(4)]
    assert [line["reward"] for line in lines] == rollout.batch.rewards.sum(-1).tolist()
    ends_equal(door, command, run)


def test_it_keeps_the_dialogues_that_were_played(door, seen):
    talk = ("environment=multi_attempt", "environment.attempts=3", "environment.turn_tokens=3", "decode.max_tokens=60",
            "algorithm.entropy_coefficient=0.1")  # fmt: skip
    lines = left(diverged(door(*rl("random", *LEARN, *talk)), 3, "the loss is nan"))[2]
    assert [line["prompt"] for line in lines] == [episode.prompt for episode in seen[2].episodes]
    assert len({line["prompt"][0] for line in lines}) > 1 and all(" tries\n" in line["prompt"] for line in lines)
    assert [line.get("turns", []) for line in lines] == [turns_of(episode) for episode in seen[2].episodes]
    assert any("turns" in line for line in lines)


def test_a_rollout_that_failed_leaves_the_prompts_it_would_have_played(door, monkeypatch):
    whole, opened = Sampler.sample, []

    def broken(sampler: Any, examples: Any, *key: Any, **more: Any) -> Any:
        found = whole(sampler, examples, *key, **more)
        opened.append([episode.prompt for episode in found.episodes[:: found.group_size]])
        if len(opened) == 2:
            raise DivergedError("the model's probabilities are NaN", part="probabilities")
        return found

    monkeypatch.setattr(Sampler, "sample", broken)
    talk = ("environment=multi_attempt", "environment.attempts=9", "environment.turn_tokens=3", "decode.max_tokens=90")
    lines = left(diverged(door(*rl("random", *LEARN, *talk)), 2, "the model's probabilities"))[2]
    assert [line["prompt"] for line in lines] == opened[1]


@pytest.mark.parametrize("phase", ["rollout", "measurement"])
def test_weights_that_an_update_broke_are_found_where_they_are_used_next(door, monkeypatch, phase):
    """By the next rollout, of which there are only the prompts, or by the measurement that follows the step."""
    whole, examples = PolicyModule.training_step, []

    def breaking(self: Any, *given: Any) -> None:
        whole(self, *given)
        poison(self.model)
        examples.extend(self.sampler.training_examples(4, 4))

    monkeypatch.setattr(PolicyModule, "training_step", breaking)
    measured = phase == "measurement"
    more = ("stage.val_every=1",) if measured else ()
    run = diverged(door(*rl("random", *LEARN, *more)), 1 if measured else 2, "the model's probabilities")
    found, tensors, lines = left(run)
    assert (found["phase"], found["part"]) == (phase, "probabilities")
    if measured:
        assert len(lines) == 16 and tensors["tokens"].shape[0] == 16
    else:
        assert not tensors and lines == [{"id": each.id, "prompt": each.prompt} for each in examples]


def test_a_full_disk_takes_nothing_from_the_line(door, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise RunError("cannot write there: the disk is full")

    monkeypatch.setattr("rlx.stages.modules.evidence.atomic_directory", full)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(math.nan))
    done = door(*STEPS)
    assert done.code == 1 and "step 1: the gradient is nan: the run has diverged" in done.err
    assert "could not be saved (cannot write there: the disk is full)" in done.err
    assert not list(place(done.out).glob("logs/*diverged*"))
