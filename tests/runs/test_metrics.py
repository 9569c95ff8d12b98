import errno
import json
import os

import pytest

from rlx.errors import CheckpointError, RunError
from rlx.runs import files, metrics
from rlx.runs.metrics import MetricsLog


def filled(path, steps) -> MetricsLog:
    log = MetricsLog(path)
    for step in steps:
        log.append({"step": step})
    return log


def steps(path) -> list[int]:
    return [row["step"] for row in MetricsLog.read(path)]


def test_rows_come_back_and_survive_reopening(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with filled(path, range(2)) as log:
        assert log.offset == path.stat().st_size
    with filled(path, [2]) as log:
        log.sync()
    assert steps(path) == [0, 1, 2]
    assert MetricsLog.read(tmp_path / "none.jsonl") == []


def test_what_json_lacks_is_text_and_lines_stay_strict_json(tmp_path):
    with MetricsLog(tmp_path / "m.jsonl") as log:
        log.append({"loss": float("nan"), "kl": float("inf"), "text": "a\nb\u2028\ud800", "lr": 1e-4})

    def no_constants(name):
        raise AssertionError(name)

    row = json.loads((tmp_path / "m.jsonl").read_text(), parse_constant=no_constants)
    assert row == {"loss": "nan", "kl": "inf", "text": "a\nb\u2028\ud800", "lr": 1e-4}
    assert MetricsLog.read(tmp_path / "m.jsonl") == [row]


def test_a_row_is_one_write(tmp_path, monkeypatch):
    written: list[bytes] = []
    write = os.write
    monkeypatch.setattr(metrics.os, "write", lambda file, data: (written.append(data), write(file, data))[1])
    filled(tmp_path / "m.jsonl", [1]).close()
    assert written == [b'{"step": 1}\n']


@pytest.mark.parametrize("tail", [b'{"step": ', b"\0\0\0", b"17"], ids=["half", "zeros", "number"])
def test_only_a_torn_last_line_is_forgiven(tmp_path, tail):
    path = tmp_path / "m.jsonl"
    filled(path, range(3)).close()
    with open(path, "ab") as file:
        file.write(tail)
    assert steps(path) == [0, 1, 2]
    filled(path, [3]).close()
    assert steps(path) == [0, 1, 2, 3]


def test_a_whole_last_row_without_its_newline_counts(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1}')
    assert steps(path) == [0, 1]
    filled(path, [2]).close()
    assert steps(path) == [0, 1, 2]


def test_a_torn_line_longer_than_a_block_is_cut(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 0}\n{"text": "' + b"x" * 200_000)
    filled(path, [1]).close()
    assert steps(path) == [0, 1]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(CheckpointError, match=r"m\.jsonl line 2"):
        MetricsLog.read(path)


def test_rewind_moves_the_younger_rows(tmp_path):
    log = filled(tmp_path / "metrics.jsonl", range(3))
    offset = log.offset
    log.append({"step": 3})
    log.append({"step": 4})
    assert log.rewind(offset, attempt=2) == 2
    assert log.offset == offset
    log.append({"step": 33})
    assert steps(tmp_path / "metrics.jsonl") == [0, 1, 2, 33]
    assert steps(tmp_path / "logs" / "attempt-2.dropped.jsonl") == [3, 4]
    assert log.rewind(log.offset, attempt=2) == 0


def test_rewind_of_samples_has_its_own_file(tmp_path):
    filled(tmp_path / "samples.jsonl", range(2)).rewind(0, attempt=1)
    assert steps(tmp_path / "logs" / "attempt-1.samples.dropped.jsonl") == [0, 1]
    assert steps(tmp_path / "samples.jsonl") == []


@pytest.mark.parametrize(
    ("module", "call"),
    [(files, "replace"), (metrics, "ftruncate")],
    ids=["before the rows are kept", "before the file is cut"],
)
def test_rewind_killed_in_the_middle_runs_again(tmp_path, monkeypatch, module, call):
    path = tmp_path / "metrics.jsonl"
    log = filled(path, range(5))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "attempt-1.dropped.jsonl").write_text('{"step": 99}\n')

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.os, call, killed)
        with pytest.raises(KeyboardInterrupt):
            log.rewind(12, attempt=1)
    log.close()
    assert steps(path) == [0, 1, 2, 3, 4]
    with MetricsLog(path) as again:
        again.rewind(12, attempt=1)
    assert steps(path) == [0]
    assert steps(tmp_path / "logs" / "attempt-1.dropped.jsonl") == [99, 1, 2, 3, 4]


@pytest.mark.parametrize("offset", [-1, 5, 1000], ids=["negative", "inside a row", "past the end"])
def test_rewind_refuses_an_offset_that_is_not_there(tmp_path, offset):
    log = filled(tmp_path / "metrics.jsonl", range(3))
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl.*rerun="):
        log.rewind(offset, attempt=1)
    assert steps(tmp_path / "metrics.jsonl") == [0, 1, 2]


def test_a_full_disk_leaves_whole_rows(tmp_path, monkeypatch):
    log = filled(tmp_path / "m.jsonl", range(3))
    write, calls = os.write, iter(range(2))

    def nearly_full(file, data):
        if next(calls):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:5])

    with monkeypatch.context() as patch:
        patch.setattr(metrics.os, "write", nearly_full)
        with pytest.raises(RunError, match=r"m\.jsonl: the disk is full"):
            log.append({"step": 3})
    assert (tmp_path / "m.jsonl").read_bytes().endswith(b'{"step": 2}\n')
    log.append({"step": 3})
    assert steps(tmp_path / "m.jsonl") == [0, 1, 2, 3]


def test_a_value_that_json_cannot_hold_is_named_and_nothing_written(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl")
    with pytest.raises(TypeError, match="reward is a object"):
        log.append({"step": 1, "reward": object()})
    assert log.offset == 0
