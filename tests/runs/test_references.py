import shutil

import pytest

from rlx.errors import CheckpointError
from rlx.runs.checkpoints import checkpoint_path, write_best
from rlx.runs.lease import Lease
from rlx.runs.references import Kind, format_reference, is_pasteable, parse_reference, resolve
from rlx.runs.status import State, write_status

RUN = "runs/countdown-dense-pretrain-1a2b3c/seed0"


def model(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("")
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run below the current folder, with three checkpoints and a best one."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / RUN
    for step in (10, 50, 100):
        model(checkpoint_path(folder, step))
    (folder / "config.yaml").write_text("")
    write_status(folder, State.finished)
    write_best(folder, {"step": 50, "metric": "val/loss", "value": 1.0})
    return folder


def refusal(text: str) -> str:
    with pytest.raises(CheckpointError) as error:
        resolve(parse_reference(text))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "kind", "run", "at"),
    [
        ("random", Kind.random, "", None),
        ("hf:org/model@v1", Kind.hf, "org/model@v1", None),
        ("runs/a/seed0", Kind.run, "runs/a/seed0", None),
        ("runs/a/seed0/", Kind.run, "runs/a/seed0", None),
        ("runs/a/seed0@100", Kind.run, "runs/a/seed0", 100),
        ("runs/a/seed0/@000100", Kind.run, "runs/a/seed0", 100),
        ("runs/a/seed0@step-000100", Kind.run, "runs/a/seed0", 100),
        ("runs/a/seed0@last", Kind.run, "runs/a/seed0", "last"),
        ("runs/a/seed0@best", Kind.run, "runs/a/seed0", "best"),
        ("runs/a/checkpoints/step-000100/", Kind.run, "runs/a", 100),
        ("checkpoints/step-000100", Kind.run, ".", 100),
        ("/home/me@host/a", Kind.run, "/home/me@host/a", None),
        ("/home/me@host/a@5", Kind.run, "/home/me@host/a", 5),
    ],
)
def test_references_are_read(text, kind, run, at):
    reference = parse_reference(text)
    assert (reference.kind, reference.run, reference.at, reference.text) == (kind, run, at, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a@lst", "did you mean @last"),
        ("a@", "expected @<step>"),
        ("@5", "names no folder"),
        ("hf:", "names no folder"),
    ],
)
def test_what_cannot_be_read_is_one_line(text, words):
    assert words in refusal(text)


def test_nothing_is_not_a_reference():
    assert "names no folder" in refusal("  ")


@pytest.mark.parametrize(("point", "step"), [("", 100), ("@last", 100), ("@best", 50), ("@10", 10)])
def test_a_finished_run_resolves(run, point, step):
    found = resolve(parse_reference(RUN + point))
    assert found.resolve() == checkpoint_path(run, step)


def test_a_checkpoint_and_a_model_folder_resolve_to_themselves(run, tmp_path):
    checkpoint = checkpoint_path(run, 10)
    assert resolve(parse_reference(str(checkpoint))) == checkpoint
    merged = model(tmp_path / "merged")
    assert resolve(parse_reference(str(merged))) == merged
    assert "leave out @last" in refusal("merged@last")


def test_a_run_is_known_by_its_checkpoints_too(run):
    (run / "config.yaml").unlink()
    assert "there are steps 10, 50, 100" in refusal(f"{RUN}@70")


def test_a_tilde_is_the_home_folder(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(parse_reference(f"~/{RUN}@10")) == checkpoint_path(run, 10)
    assert resolve(parse_reference(f"hf:~/{RUN}/checkpoints/step-000010")) == checkpoint_path(run, 10)
    assert f"there are steps 10, 50, 100 (as in ~/{RUN}@100)" in refusal(f"~/{RUN}@70")


def test_a_missing_step_lists_those_there(run):
    line = refusal(RUN + "@70")
    assert "10, 50, 100" in line and f"{RUN}@100" in line


def test_a_missing_step_of_many_lists_the_ends(run):
    for step in range(200, 220):
        model(checkpoint_path(run, step))
    assert "10, 50, 100, 200, 201, 202, ..., 215, 216, 217, 218, 219" in refusal(RUN + "@70")


@pytest.mark.parametrize("point", ["", "@last"])
def test_the_last_checkpoint_is_not_an_older_one_because_it_lacks_a_file(run, point):
    (checkpoint_path(run, 100) / "model.safetensors").unlink()
    line = refusal(RUN + point)
    assert "step-000100 lacks a file" in line and f"there are steps 10, 50 (as in {RUN}@50)" in line


@pytest.mark.parametrize("point", ["", "@last", "@best"])
@pytest.mark.parametrize("state", [State.stopped, State.failed, State.blocked, State.running])
def test_an_unfinished_run_gives_only_named_steps(run, point, state):
    write_status(run, state)
    line = refusal(RUN + point)
    told = "interrupted" if state is State.running else state.value
    assert f"is {told}, not finished" in line and f"{RUN}@100" in line
    assert resolve(parse_reference(RUN + "@50")).name == "step-000050"


def test_a_running_parent_is_told_so(run):
    write_status(run, State.running)
    with Lease.acquire(run):
        assert "is running, not finished" in refusal(RUN)


def test_a_run_that_never_started_and_one_without_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("")
    assert "a is not started" in refusal("a")
    assert "no checkpoint yet" in refusal("a@5")
    write_status("a", State.finished)
    assert "no checkpoint" in refusal("a")


def test_an_evaluation_has_no_model(run):
    shutil.rmtree(run / "checkpoints")
    (run / "eval.json").write_text("{}")
    with pytest.raises(CheckpointError, match="name the run that it evaluated"):
        resolve(parse_reference(str(run)))


def test_a_file_is_no_run(run):
    assert "is a file; expected a run directory" in refusal(f"{RUN}/config.yaml")


def test_best_needs_its_file_and_its_checkpoint(run):
    write_best(run, {"step": 60, "metric": "val/loss", "value": 1.0})
    assert "step 60, which is not there" in refusal(RUN + "@best")
    (run / "best.json").unlink()
    assert "has no best.json" in refusal(RUN + "@best")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (RUN.replace("1a2b3c", "1a2b3d"), f"nearest: {RUN}"),
        (RUN.replace("seed0", "seed1"), f"nearest: {RUN}"),
        (RUN.replace("runs", "rnus"), f"nearest: {RUN}"),
        ("zzz", "nothing in . has a name like zzz"),
        ("runs/countdown-dense-pretrain-1a2b3c", f"runs in it: {RUN}"),
        ("runs/countdown-dense-pretrain-1a2b3c/seed0/checkpoints", "is not a run"),
    ],
    ids=["hash", "seed", "runs", "nothing near", "folder of seeds", "inside a run"],
)
def test_not_a_run_suggests_the_nearest(run, text, hint):
    assert hint in refusal(text)


def test_random_has_no_folder():
    assert "fresh weights" in refusal("random")


def test_hf_takes_a_folder_or_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = model(tmp_path / "saved")
    assert resolve(parse_reference(f"hf:{folder}")) == folder
    cached = tmp_path / "hub" / "models--org--tiny"
    snapshot = model(cached / "snapshots" / "abc123")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc123\n")
    assert resolve(parse_reference("hf:org/tiny")) == snapshot
    assert resolve(parse_reference("hf:org/tiny@abc123")) == snapshot
    (cached / "refs" / "v1").write_text("def456")
    tagged = model(cached / "snapshots" / "def456")
    assert resolve(parse_reference("hf:org/tiny@v1")) == tagged
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert resolve(parse_reference("hf:org/tiny")) == snapshot
    assert "hf download org/other" in refusal("hf:org/other")
    assert "no config.json" in refusal(f"hf:{tmp_path}")


def test_printed_references_paste_into_hydra(run, tmp_path):
    hydra = pytest.importorskip("hydra.core.override_parser.overrides_parser")
    parser = hydra.OverridesParser.create()
    for at in (None, 100, "last", "best"):
        text = format_reference(run, at)
        assert text == RUN + ("" if at is None else f"@{at}")
        assert is_pasteable(text)
        assert parser.parse_override(f"init_from={text}").value() == text
    assert parser.parse_override("init_from=hf:org/tiny-1.5@v1").value() == "hf:org/tiny-1.5@v1"
    assert not is_pasteable("runs/lr=3/seed0") and not is_pasteable("a b")


def test_a_run_outside_the_current_folder_prints_whole(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert format_reference("../there", 5) == f"{tmp_path}/there@5"
