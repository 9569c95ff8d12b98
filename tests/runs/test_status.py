import pytest

from rlx.runs import status
from rlx.runs.lease import Lease
from rlx.runs.status import State, Status, read_status, state_of, write_status


def test_status_comes_back_with_its_extras(tmp_path):
    write_status(tmp_path, State.stopped, "SIGTERM", step=100)
    assert read_status(tmp_path) == Status(State.stopped, "SIGTERM", {"step": 100})
    write_status(tmp_path, State.finished)
    assert state_of(tmp_path) is State.finished


@pytest.mark.parametrize("place", ["", "missing", "file"])
def test_no_file_is_absent(tmp_path, place):
    (tmp_path / "file").write_text("")
    assert state_of(tmp_path / place) is State.absent


def test_running_without_a_living_owner_is_interrupted(tmp_path):
    with Lease.acquire(tmp_path):
        write_status(tmp_path, State.running)
        assert state_of(tmp_path) is State.running
    assert state_of(tmp_path) is State.interrupted
    assert read_status(tmp_path).state is State.running


def test_a_run_that_ends_between_the_looks_is_not_interrupted(tmp_path, monkeypatch):
    write_status(tmp_path, State.running)

    def ends(folder):
        write_status(folder, State.finished)
        return False

    monkeypatch.setattr(status, "is_held", ends)
    assert state_of(tmp_path) is State.finished


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "sleeping"}', "{}"])
def test_a_damaged_file_counts_as_failed_and_says_so(tmp_path, text):
    (tmp_path / "status").write_text(text)
    found = read_status(tmp_path)
    assert found.state is State.failed and "damaged" in found.reason


@pytest.mark.parametrize("state", [State.absent, State.interrupted])
def test_what_is_found_is_never_written(tmp_path, state):
    with pytest.raises(ValueError, match="never written"):
        write_status(tmp_path, state)
