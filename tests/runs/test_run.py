"""run.json goes on from attempt to attempt, and is written by who holds the lease alone."""

import json

import pytest

from rlx.errors import RunError
from rlx.runs.run import open_run, read_record


def opened(path):
    return open_run(path, config={"seed": 0}, command="rlx", record={"parents": []})


def test_a_later_attempt_keeps_what_is_known_and_the_code_of_the_first(tmp_path):
    with opened(tmp_path) as run:
        run.save_record(preflight=1)
    first = read_record(tmp_path)
    assert "earlier" not in first
    with opened(tmp_path) as run:
        run.save_record()
    assert "earlier" not in read_record(tmp_path)  # the same code on the same machine
    old = {**first["git"], "commit": "0123"}
    (tmp_path / "run.json").write_text(json.dumps({**first, "git": old}))
    with opened(tmp_path) as run:
        run.save_record()
    found = read_record(tmp_path)
    assert found["preflight"] == 1 and found["git"] == first["git"]
    assert [attempt["git"] for attempt in found["earlier"]] == [old]


def test_a_record_is_not_written_without_the_lease(tmp_path):
    with pytest.raises(RunError, match="removed"), opened(tmp_path) as run:
        run.save_record(steps=1)
        (tmp_path / "lease.json").unlink()
        run.save_record(steps=2)
    assert read_record(tmp_path)["steps"] == 1 and json.loads((tmp_path / "status").read_text())["state"] == "running"
