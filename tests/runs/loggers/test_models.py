"""logger.artifacts: which checkpoints go to W&B as models, when, and how often."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import rlx.runs.loggers.models as models
from rlx.errors import RunError, Stopped
from rlx.runs.checkpoints import new_checkpoint, save_trainer_state, write_best
from rlx.runs.files import remove_directory
from rlx.runs.loggers.models import Artifacts, Models, artifact_name
from rlx.runs.loggers.wandb import Mode
from rlx.runs.model_directory import is_model_directory, save_model_directory
from tests.runs.loggers.uploads import append, opened, unsynced, wait_for

FILES = ["config.json", "model.safetensors", "tokenizer.json"]


def checkpoint(run: Any, *steps: int, best: int | None = None) -> None:
    for step in steps:
        with new_checkpoint(run.path, step) as folder:
            save_model_directory(folder, {"weight": torch.full((3,), float(step))}, {"width": 3}, "{}")
            save_trainer_state(folder, {"step": step})
        append(run, step)
    if best is not None:
        write_best(run.path, {"step": best, "metric": "val/loss", "value": 1.0})


class Account:
    """A W&B run that takes down the models that are logged to it."""

    def __init__(self) -> None:
        self.taken: list[tuple[list[str], str]] = []
        """Aliases and digest of each."""

    def log_artifact(self, artifact: Any, aliases: list[str]) -> None:
        self.taken.append((sorted(aliases), artifact.digest))


def write_checkpoint(run: Path, step: int, value: float = 0.0, *, replace: bool = False) -> Path:
    with new_checkpoint(run, step, replace=replace) as folder:
        save_model_directory(folder, {"weight": torch.full((3,), value)}, {"width": 3}, "{}")
    return run / f"checkpoints/step-{step:06d}"


def prune(run: Any, step: int) -> None:
    remove_directory(run.path / f"checkpoints/step-{step:06d}")


def linked(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("wandb/models/step-*"))


@pytest.mark.parametrize(
    "which, aliases",
    [
        (Artifacts.none, []),
        (Artifacts.best, [["best", "latest", "step-000002"]]),
        (Artifacts.last, [["last", "latest", "step-000003"]]),
    ],
)
def test_one_or_none_is_sent_at_the_end(tmp_path, which, aliases):
    with opened(tmp_path / "task-dense-sft" / "seed0", artifacts=which) as run:
        checkpoint(run, 1, 2, 3, best=2)
    (sent,) = unsynced(run.path)
    assert [found[1:] for found in sent.artifacts] == [(each, FILES) for each in aliases]
    assert {name for name, *_ in sent.artifacts} <= {"task-dense-sft-seed0"}
    folders = list(run.path.glob("wandb/models/step-*"))
    assert len(folders) == len(aliases) and all(map(is_model_directory, folders))  # init_from= takes what is sent


@pytest.mark.parametrize("which", [Artifacts.best, Artifacts.last])
def test_a_run_that_is_stopped_has_no_best_and_no_last_yet(tmp_path, which):
    with pytest.raises(Stopped), opened(tmp_path, artifacts=which) as run:
        checkpoint(run, 1, best=1)
        raise Stopped
    assert not unsynced(tmp_path)[0].artifacts
    with pytest.raises(RunError), opened(tmp_path, artifacts=which) as run:
        checkpoint(run, 2)
        raise RunError("the run has diverged")
    assert len(unsynced(tmp_path)[0].artifacts) == 1


def test_offline_what_was_pruned_is_there_for_the_upload(tmp_path):
    with pytest.raises(Stopped), opened(tmp_path, artifacts=Artifacts.all) as run:
        checkpoint(run, 1, 2)
        wait_for(lambda: len(linked(tmp_path)) == 2)
        prune(run, 1)
        raise Stopped
    with opened(tmp_path, artifacts=Artifacts.all) as run:
        checkpoint(run, 3, best=3)
    (sent,) = unsynced(tmp_path)
    ends = [["latest", f"step-00000{step}"] for step in (1, 2)]
    assert [aliases for _, aliases, _ in sent.artifacts] == [*ends, ["best", "last", "latest", "step-000003"]]


def test_online_each_is_sent_once_and_its_link_goes(tmp_path, server, capfd):
    with pytest.raises(Stopped), opened(tmp_path, mode=Mode.online, artifacts=Artifacts.all) as run:
        checkpoint(run, 1, 2, best=2)
        wait_for(lambda: (tmp_path / "wandb/models/uploaded.json").exists() and not linked(tmp_path))
        prune(run, 1)
        raise Stopped
    assert server.models() == [["latest", "step-000001"], ["best", "last", "latest", "step-000002"]]
    assert sorted(name for name in server.uploads if name in FILES) == sorted(2 * FILES)
    assert not any("state.pt" in name for name in server.uploads)
    with opened(tmp_path, mode=Mode.online, artifacts=Artifacts.all) as run:
        checkpoint(run, 3, best=2)
    assert server.models()[2:] == [["last", "latest", "step-000003"]] and server.received == [1, 2, 3]
    assert not linked(tmp_path) and len(capfd.readouterr().out.splitlines()) == 2


def test_a_checkpoint_that_was_made_anew_is_another(tmp_path, server):
    for width in (3, 4):
        with opened(tmp_path, mode=Mode.online, artifacts=Artifacts.last) as run:
            with new_checkpoint(run.path, 1, replace=True) as folder:
                save_model_directory(folder, {"weight": torch.ones(width)}, {}, "{}")
            append(run, 1)
    assert server.models() == 2 * [["last", "latest", "step-000001"]]


def test_a_checkpoint_waits_for_the_next_look_so_that_the_best_is_known(tmp_path):
    """A run writes a checkpoint first, and then that it is the best."""
    account, sent = Account(), Models(tmp_path, tmp_path / "wandb", Artifacts.all, online=False)
    write_checkpoint(tmp_path, 1)
    sent.send(account, last=False, ended=False)
    assert linked(tmp_path) and not account.taken
    write_best(tmp_path, {"step": 1, "metric": "val/loss", "value": 1.0})
    for _ in range(2):
        sent.send(account, last=False, ended=False)
    assert [aliases for aliases, _ in account.taken] == [["best", "last", "step-000001"]]
    write_checkpoint(tmp_path, 2)
    sent.send(account, last=True, ended=True)
    assert [aliases for aliases, _ in account.taken[1:]] == [["last", "step-000002"]]


@pytest.mark.parametrize("anew", [False, True], ids=["one attempt", "another attempt"])
def test_a_checkpoint_made_anew_of_equal_size_is_sent_again(tmp_path, anew):
    account, sent = Account(), Models(tmp_path, tmp_path / "wandb", Artifacts.all, online=False)
    for value in (1.0, 2.0):
        made = write_checkpoint(tmp_path, 1, value, replace=True)
        sent.send(account, last=True, ended=False)
        (link,) = (tmp_path / "wandb/models").glob("step-*")
        assert (link / "model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()
        if anew:
            sent = Models(tmp_path, tmp_path / "wandb", Artifacts.all, online=False)
    (_, first), (_, second) = account.taken
    assert first != second


def test_what_the_server_refused_is_kept_and_sent_by_the_next_attempt(tmp_path, monkeypatch):
    """Nothing says that it was uploaded; what was taken beside it is noted all the same."""

    def answer(artifact: Any) -> None:
        if artifact.metadata["step"] == 1:
            raise ValueError("no room")

    monkeypatch.setattr("wandb.Artifact.wait", answer)
    account, sent = Account(), Models(tmp_path, tmp_path / "wandb", Artifacts.all, online=True)
    for step in (1, 2):
        write_checkpoint(tmp_path, step, float(step))
    sent.send(account, last=True, ended=False)
    with pytest.raises(ValueError, match="no room"):
        sent.settle(10)
    uploaded = tmp_path / "wandb/models/uploaded.json"
    assert [key.split()[0] for key in json.loads(uploaded.read_text())] == ["step-000002"]
    assert linked(tmp_path) == ["step-000001"]

    monkeypatch.setattr("wandb.Artifact.wait", lambda artifact: None)
    again = Models(tmp_path, tmp_path / "wandb", Artifacts.all, online=True)
    again.send(account, last=True, ended=False)
    again.settle(10)
    assert [aliases for aliases, _ in account.taken[2:]] == [["step-000001"]]
    assert len(json.loads(uploaded.read_text())) == 2 and not linked(tmp_path)


def test_a_checkpoint_pruned_meanwhile_is_passed_over(tmp_path, monkeypatch, capfd):
    take, gone = models.model_files, []

    def pruned(folder: Path) -> list[Path]:
        if folder.name == "step-000001" and not gone:
            gone.append(folder)
            remove_directory(folder)
        return take(folder)

    monkeypatch.setattr(models, "model_files", pruned)
    with opened(tmp_path, artifacts=Artifacts.all) as run:
        checkpoint(run, 1, 2)
    assert gone and not capfd.readouterr().out
    assert [aliases for _, aliases, _ in unsynced(tmp_path)[0].artifacts] == [["last", "latest", "step-000002"]]


def test_without_hard_links_models_are_copied(tmp_path, monkeypatch):
    link = models.os.link

    def refuse(*_: Any) -> None:
        raise PermissionError(1, "no links here")

    with opened(tmp_path, artifacts=Artifacts.all) as run:
        monkeypatch.setattr(models.os, "link", refuse)  # the lease is taken by now
        checkpoint(run, 1)
        wait_for(lambda: linked(tmp_path))
        prune(run, 1)
        monkeypatch.setattr(models.os, "link", link)
    assert len(unsynced(tmp_path)[0].artifacts) == 1


def test_a_server_that_takes_no_artifacts_gets_the_rows(tmp_path, server, monkeypatch, capfd):
    monkeypatch.setattr(server, "answer_artifact", lambda operation, given: {})
    with opened(tmp_path, mode=Mode.online, artifacts=Artifacts.all) as run:
        checkpoint(run, 1, 2)
        wait_for(lambda: "without artifacts" in (tmp_path / "logs/attempt-1.log").read_text())
        append(run, 3)
    assert len(capfd.readouterr().out.splitlines()) == 2
    assert server.received == [1, 2, 3] and server.exits == [0]


@pytest.mark.parametrize(
    "folder, name",
    [("runs/a-b-c/seed0", "a-b-c-seed0"), ("x y/a:b", "x-y-a-b"), (f"{'n' * 200}/seed1", f"{'n' * 122}-seed1")],
)
def test_names_are_legal(folder, name):
    from wandb.sdk.artifacts._validators import validate_artifact_name

    assert artifact_name(folder) == validate_artifact_name(name)
