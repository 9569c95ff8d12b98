import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlx.errors import RunError
from rlx.runs import files


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_text_replaces_and_leaves_nothing_beside(tmp_path):
    files.write_text(tmp_path / "status", "a")
    files.write_text(tmp_path / "status", "é")
    assert (tmp_path / "status").read_text(encoding="utf-8") == "é"
    assert names(tmp_path) == ["status"]


def test_a_kill_before_the_rename_leaves_the_old_text(tmp_path, monkeypatch):
    files.write_text(tmp_path / "status", "old")
    monkeypatch.setattr(files.os, "replace", _raise(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        files.write_text(tmp_path / "status", "new")
    assert (tmp_path / "status").read_text() == "old"
    assert names(tmp_path) == ["status"]


@pytest.mark.parametrize(
    ("number", "word"),
    [(errno.ENOSPC, "full"), (errno.EDQUOT, "quota"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")],
    ids=["full", "quota", "read-only", "permission"],
)
def test_a_disk_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, number, word):
    monkeypatch.setattr(files.os, "fsync", _raise(OSError(number, os.strerror(number))))
    with pytest.raises(RunError, match=word) as error:
        files.write_json(tmp_path / "run.json", {})
    assert str(tmp_path / "run.json") in str(error.value)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []


def test_other_errors_of_the_system_pass(tmp_path):
    (tmp_path / "status").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_text(tmp_path / "status", "a")


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(RunError, match="gone or cannot be made"):
        files.write_text(tmp_path / "missing" / "status", "a")


def test_plain_writes_what_json_lacks_as_text():
    assert files.plain({"a": float("nan"), "b": (float("inf"), -float("inf")), 3: True}) == {
        "a": "nan",
        "b": ["inf", "-inf"],
        "3": True,
    }


def test_plain_takes_numpy_scalars():
    numpy = pytest.importorskip("numpy")
    value = files.plain([numpy.float32(0.5), numpy.int64(3), numpy.float64("nan")])
    assert value == [0.5, 3, "nan"]
    assert [type(item) for item in value] == [float, int, str]


def test_plain_names_the_key_it_cannot_write():
    with pytest.raises(TypeError, match=r"a\.b\[1\] is a set"):
        files.plain({"a": {"b": [1, {2}]}})


def test_atomic_directory_is_whole(tmp_path):
    with files.atomic_directory(tmp_path / "step") as folder:
        (folder / "trainer").mkdir()
        (folder / "trainer" / "state.pt").write_text("x")
        assert names(tmp_path) == [f".tmp-step-{os.getpid()}"]
    assert names(tmp_path) == ["step"]
    assert (tmp_path / "step" / "trainer" / "state.pt").read_text() == "x"


def test_atomic_directory_syncs_every_file_before_the_rename(tmp_path, monkeypatch):
    events: list[str] = []
    sync, rename = files.sync_file, os.rename
    monkeypatch.setattr(files, "sync_file", lambda path: (events.append(Path(path).name), sync(path)))
    monkeypatch.setattr(files.os, "rename", lambda a, b: (events.append("rename"), rename(a, b)))
    with files.atomic_directory(tmp_path / "step") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("x")
        (folder / "b").write_text("x")
    assert events == ["a", "sub", "b", f".tmp-step-{os.getpid()}", "rename", tmp_path.name]


@pytest.mark.parametrize("filled", [True, False], ids=["filled", "empty"])
def test_atomic_directory_keeps_an_existing_target(tmp_path, filled):
    (tmp_path / "step").mkdir()
    if filled:
        (tmp_path / "step" / "a").write_text("old")
    with files.atomic_directory(tmp_path / "step") as folder:
        (folder / "a").write_text("new")
    assert names(tmp_path) == ["step"]
    assert [path.read_text() for path in (tmp_path / "step").iterdir()] == ["old"] * filled


def test_atomic_directory_replaces_only_what_is_written_out(tmp_path, monkeypatch):
    """At every moment the old folder or the whole new one is there; only one rename lies between them."""
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "a").write_text("old")
    events: list[str] = []
    sync, rename, delete = files.sync_file, os.rename, files.shutil.rmtree
    monkeypatch.setattr(files, "sync_file", lambda path: (events.append("sync"), sync(path)))
    monkeypatch.setattr(files.os, "rename", lambda a, b: (events.append(f"to {Path(b).name}"), rename(a, b)))
    monkeypatch.setattr(files.shutil, "rmtree", lambda path, **_: (events.append("delete"), delete(path, **_)))
    with files.atomic_directory(tmp_path / "step", replace=True) as folder:
        (folder / "a").write_text("new")
        events.clear()
    aside = f"to .tmp-step-replaced-{os.getpid()}"
    assert [event for event in events if event != "delete"] == ["sync", "sync", aside, "to step", "sync"]
    assert events[events.index("to step") + 1] == "delete"
    assert (tmp_path / "step" / "a").read_text() == "new" and names(tmp_path) == ["step"]
    with pytest.raises(RunError, match="full"), files.atomic_directory(tmp_path / "step", replace=True):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "step" / "a").read_text() == "new" and names(tmp_path) == ["step"]


def test_what_cannot_be_replaced_stays(tmp_path, monkeypatch):
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "a").write_text("old")
    rename = os.rename

    def failing(a, b):
        if Path(b).name == "step" and Path(a).name == f".tmp-step-{os.getpid()}":
            raise OSError(errno.EDQUOT, "quota")
        rename(a, b)

    monkeypatch.setattr(files.os, "rename", failing)
    with pytest.raises(RunError), files.atomic_directory(tmp_path / "step", replace=True) as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / "step" / "a").read_text() == "old" and names(tmp_path) == ["step"]


def test_atomic_directory_goes_away_with_an_error(tmp_path):
    with pytest.raises(ValueError, match="mine"), files.atomic_directory(tmp_path / "step"):
        raise ValueError("mine")
    assert names(tmp_path) == []


def test_a_full_disk_inside_atomic_directory_is_one_line(tmp_path):
    with pytest.raises(RunError, match="full"), files.atomic_directory(tmp_path / "step"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


def test_a_killed_atomic_directory_is_swept_and_written_again(tmp_path):
    code = (
        "import os, sys\nfrom rlx.runs import files\nfiles.os.rename = lambda *_: os.kill(os.getpid(), 9)\n"
        "with files.atomic_directory(sys.argv[1] + '/checkpoints/step') as f: (f / 'a').write_text('x')\n"
    )
    (tmp_path / "checkpoints").mkdir()
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    assert process.wait() == -9
    left = tmp_path / "checkpoints" / f".tmp-step-{process.pid}"
    assert left.is_dir()
    assert files.remove_stale(tmp_path) == [left]
    assert names(tmp_path / "checkpoints") == []


def test_remove_stale_spares_the_living_and_other_names(tmp_path):
    dead, living = dead_pid(), os.getppid()
    for name in (f".tmp-a-{dead}", f".tmp-b-{living}", ".tmp-c", "d", f".tmp-status-{os.getpid()}"):
        (tmp_path / name).write_text("")
    with files.atomic_directory(tmp_path / "mine") as folder:
        files.remove_stale(tmp_path)
        assert folder.is_dir()
    assert names(tmp_path) == sorted([f".tmp-b-{living}", ".tmp-c", "d", "mine"])


def test_remove_directory_renames_first(tmp_path, monkeypatch):
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "a").write_text("x")
    monkeypatch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
    files.remove_directory(tmp_path / "step")
    assert names(tmp_path) == [f".tmp-step-{os.getpid()}"]


def test_attempts_count_up(tmp_path):
    assert files.next_attempt(tmp_path) == 1
    for name in ("attempt-2.log", "attempt-10.dropped.jsonl", "attempt-x.log"):
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "logs" / name).write_text("")
    assert files.next_attempt(tmp_path) == 11
    assert files.attempt_log(tmp_path, 11) == tmp_path / "logs" / "attempt-11.log"


def _raise(error: BaseException):
    def function(*_, **__):
        raise error

    return function
