"""logger=wandb, read back from W&B's own files and from a small server: every row once, whatever happens."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rlx.runs.loggers.wandb as mirror
from rlx.errors import ConfigError, RunError, Stopped
from rlx.runs.loggers.wandb import Mode, WandbConfig
from rlx.runs.run import open_run
from rlx.runs.status import State, read_status
from tests.conftest import COUNTDOWN, command, environment, only
from tests.runs.loggers.uploads import KEY, append, check_rows, opened, unsynced, wait_for
from tests.stages.runs import PRETRAIN, place, record, rl


def test_an_rl_run_arrives_whole(rlx):
    texts = ("logger.tags=[mine]", "logger.notes='a note, with a comma'", "logger.artifacts=all")
    wandb = ("logger=wandb", "logger.mode=offline", "logger.project=reasoning", *texts)
    arguments = rl("random", "stage.steps=3")
    done = rlx(*arguments, *wandb)
    run = place(done.out)
    assert done.code == 0 and "wandb" not in done.err.lower() and "wandb:" not in done.out
    (sent,) = unsynced(run)
    check_rows(run, sent.rows)
    assert sent.run.run_id == record(run)["wandb"]["id"] and sent.exit == 0
    assert (sent.run.project, sent.run.job_type, sent.run.run_group) == ("reasoning", "rl", run.parent.name)
    assert sent.run.notes == "a note, with a comma"
    assert set(sent.run.tags) == {"countdown", "dense", "rl", "grpo", "smoke", "mine"}
    assert sent.run.display_name == f"{run.parent.name}-seed0" and not sent.run.git.commit
    assert sent.config["stage"]["steps"] == 3 and sent.config["options"]["algorithm"] == "grpo"
    check_summary(run, sent.summary)
    assert sent.summary["conclusion"] == record(run)["conclusion"]
    assert all(axis in row for row in sent.rows for axis in ("step", "tokens", "wall", "flops/total", "reward"))
    kept = [path.name for path in sorted(run.glob("checkpoints/*"))]
    names = {alias for _, aliases, _ in sent.artifacts for alias in aliases}
    assert {*kept, "last", "best"} <= names and sent.artifacts[0][2] == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    table = json.loads(max(run.glob("wandb/*/files/media/table/*.json"), key=os.path.getsize).read_text())
    assert [dict(zip(table["columns"], row, strict=True)) for row in table["data"]] == arranged(samples) and samples
    assert sent.summary["samples/_type"] == "table-file" and any("samples/_type" in row for row in sent.rows)
    assert "finished already" in rlx(*arguments).out  # the logger is not in the hash


def arranged(samples: list[dict]) -> list[dict]:
    """The problems that are followed, each through its steps, before what was drawn."""
    followed = [row for row in samples if row["kind"] == "followed"]
    names = list(dict.fromkeys(row["id"] for row in followed))
    assert len(names) == 4 and len(followed) > 4
    by_problem = [row for name in names for row in followed if row["id"] == name]
    return [*by_problem, *(row for row in samples if row["kind"] == "drawn")]


def test_of_too_many_samples_those_that_were_drawn_are_thinned(monkeypatch):
    monkeypatch.setattr(mirror, "TABLE_ROWS", 10)
    followed = [{"step": step, "kind": "followed", "id": name} for step in (1, 2) for name in ("b", "a")]
    drawn = [{"step": step, "kind": "drawn", "id": f"{step}"} for step in range(1, 31)]
    found = mirror._arranged([*followed[:2], *drawn, *followed[2:]])
    assert [(row["id"], row["step"]) for row in found[:4]] == [("b", 1), ("b", 2), ("a", 1), ("a", 2)]
    assert [row["step"] for row in found[4:]] == [5, 10, 15, 20, 25, 30]
    assert len(mirror._arranged(followed * 10)) == 10 and mirror._arranged(drawn[:3]) == drawn[:3]


def check_summary(run: Path, summary: dict[str, Any]) -> None:
    """The ledger with all its purposes, and what the files say at the end."""
    truth = record(run)
    ledger = {name: summary[f"flops/{name}"] for name in ("train", "rollout", "verify", "eval", "total", "lineage")}
    assert ledger == pytest.approx(truth["flops"]) and ledger["total"] > 0
    assert (summary["tokens"], summary["wall"]) == pytest.approx((truth["tokens"], truth["wall_s"]))
    assert summary["parameters/total"] == truth["parameters"]["total"] and summary["state"] == "finished"
    if (run / "best.json").exists():
        best = json.loads((run / "best.json").read_text())
        assert {name: summary[f"best/{name}"] for name in best} == best


def test_stages_without_steps_are_mirrored_too(rlx):
    starts = [place(rlx(*PRETRAIN, "stage.steps=1", f"seed={seed}").out) for seed in (0, 1)]
    wandb = ("logger=wandb", "logger.mode=offline", *COUNTDOWN, "trainer.threads=1")
    small = ("stage.problems=2", "stage.samples=2", "decode.max_tokens=8")
    done = rlx("stage=eval", f"init_from={starts[0]}", *small, *wandb)
    run = place(done.out)
    (sent,) = unsynced(run)
    check_rows(run, sent.rows)
    check_summary(run, sent.summary)
    metrics = json.loads((run / "eval.json").read_text())["metrics"]
    assert metrics and {name: sent.summary[name] for name in metrics} == pytest.approx(metrics)
    assert sent.steps() == [0] and sent.run.job_type == "eval" and "samples/_type" in sent.rows[0]
    models = f"merge.models=[{starts[0]},{starts[1]}]"
    done = rlx("stage=merge", "merge=linear", models, "stage.val_tokens=640", "logger.artifacts=best", *wandb)
    run = place(done.out)
    (sent,) = unsynced(run)
    check_rows(run, sent.rows)
    check_summary(run, sent.summary)
    assert [aliases for _, aliases, _ in sent.artifacts] == [["last", "latest", "step-000000"]]
    assert sent.summary["merge/barrier"] == pytest.approx(record(run)["barrier"]) and "linear" in sent.run.tags


KILL = """
import os, signal, sys, time
import rlx.runs.loggers.wandb as mirror
from rlx.runs.metrics import MetricsLog
last = int(sys.argv[1])
sys.argv = ["rlx", *sys.argv[2:]]
mirror.PERIOD_S = 0.05
append, made = MetricsLog.append, 0

def killing(log, row):
    global made
    made += 1
    if made == last:
        time.sleep(1.5)  # what was read is on the disk
        os.kill(os.getpid(), signal.SIGKILL)
    append(log, row)

MetricsLog.append = killing
from rlx.cli import main
main()
"""


def test_killed_and_resumed_every_row_is_there_once(rlx):
    arguments = [*PRETRAIN, "logger=wandb", "logger.mode=offline"]
    killed = [command()[0], "-c", KILL, "12", *arguments]
    assert subprocess.run(killed, env=environment(), timeout=120).returncode == -signal.SIGKILL
    run = only("runs/*/seed0")
    (first,) = unsynced(run)
    assert 0 < len(first.rows) <= 11 and first.exit is None
    done = rlx(*arguments)
    assert done.code == 0, done.err
    assert "going on from step" in done.out and (run / "logs/attempt-1.dropped.jsonl").exists()
    (second,) = unsynced(run)
    check_rows(run, second.rows)
    assert second.run.run_id == first.run.run_id and second.exit == 0 and len(second.rows) == 12


KILL_ONLINE = """
import os, signal, sys, time
from pathlib import Path
import rlx.runs.loggers.wandb as mirror
from tests.runs.loggers.uploads import append, opened, wait_for
mirror.PERIOD_S = 0.05
with opened(Path(sys.argv[1]), mode=mirror.Mode.online) as run:
    append(run, 1, 2, 3, 4, 5)
    wait_for(lambda: "url" in run.record["wandb"])
    time.sleep(0.5)
    append(run, 6)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_online_the_server_has_every_row_once(tmp_path, server, capfd):
    killed = [sys.executable, "-c", KILL_ONLINE, str(tmp_path)]
    assert subprocess.run(killed, env=environment(), timeout=60).returncode == -signal.SIGKILL
    cut = len(b"".join((tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:3]))
    with opened(tmp_path, mode=Mode.online) as run:
        assert run.metrics.rewind(cut, 1) == 3
        append(run, 4, 5, 6, 7)
    check_rows(tmp_path, server.history())
    assert "breaking the lease" in capfd.readouterr().err and server.exits[-1] == 0


def test_a_resume_cuts_the_file_before_it_is_read(tmp_path):
    with opened(tmp_path) as run:
        append(run, 1, 2, 3, 4, 5)
        cut = len(b"".join((tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:3]))
    with opened(tmp_path) as run:
        time.sleep(0.8)  # the mirror has started and looked several times
        run.metrics.rewind(cut, 1)
        append(run, 4, 5, 6, loss=12345.678)
    (sent,) = unsynced(tmp_path)
    check_rows(tmp_path, sent.rows)
    assert sent.steps() == [1, 2, 3, 4, 5, 6]


def test_a_row_that_is_half_there_is_read_when_it_is_whole(tmp_path, monkeypatch, capfd):
    sends, send = [], mirror.Mirror._send
    monkeypatch.setattr(mirror.Mirror, "_send", lambda self, last=False: (sends.append(last), send(self, last=last)))
    with opened(tmp_path) as run:
        append(run, 1)
        with open(tmp_path / "metrics.jsonl", "ab", buffering=0) as file:
            file.write(b'{"step": 2, "train/l')
            wait_for(lambda: len(sends) > 1)
            file.write(b'oss": 0.5}\n')
    (sent,) = unsynced(tmp_path)
    check_rows(tmp_path, sent.rows)
    assert sent.steps() == [1, 2] and not capfd.readouterr().out


def test_earlier_attempts_stay_until_the_newest_has_their_rows(tmp_path):
    with opened(tmp_path) as run:
        append(run, 1, 2)
    with opened(tmp_path) as run:
        wait_for(lambda: len(list(tmp_path.glob("wandb/*"))) == 2)
        time.sleep(0.5)
        assert len(unsynced(tmp_path)) == 2
        append(run, 3)
        wait_for(lambda: len(unsynced(tmp_path)) == 1)
        assert unsynced(tmp_path)[0].steps()[:2] == [1, 2]
    assert unsynced(tmp_path)[0].steps() == [1, 2, 3]


def test_numbers_that_json_lacks_and_a_table_that_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror, "TABLE_ROWS", 50)
    monkeypatch.setattr(mirror, "PERIOD_S", 0.02)
    sizes, send = [], mirror.Mirror._send_samples
    monkeypatch.setattr(
        mirror.Mirror, "_send_samples", lambda self, found: (sizes.append(len(found)), send(self, found))
    )
    with opened(tmp_path) as run:
        for step in range(1, 101):
            run.samples.append({"step": step, "completion": "nan", "reward": float("nan")})
            run.metrics.append({"step": step, "kl": float("nan" if step % 2 else "inf")})
            wait_for(lambda: sizes)
            time.sleep(0.01)
    (sent,) = unsynced(tmp_path)
    assert sent.rows[0]["kl"] != sent.rows[0]["kl"] and sent.rows[1]["kl"] == float("inf")
    tables = [json.loads(file.read_text()) for file in tmp_path.glob("wandb/*/files/media/table/*.json")]
    largest = max(tables, key=lambda table: len(table["data"]))
    assert [row[0] for row in largest["data"]] == list(range(2, 101, 2))  # thinned, the newest kept
    assert len(sizes) > 1 and sizes[-1] == 100  # sent when there are twice as many, and at the end
    assert all(after > 1.8 * before for before, after in pairwise(sizes[:-1]))


def test_online_the_run_goes_on_where_the_server_is(tmp_path, server, capfd):
    with pytest.raises(Stopped), opened(tmp_path, mode=Mode.online) as run:
        run.samples.append({"step": 1, "completion": "early"})
        append(run, 1, 2, 3)
        raise Stopped
    assert server.received == [1, 2, 3] and server.exits == [75] and server.preempting
    assert server.tables == [[[1, "early"]]]
    name = record(tmp_path)["wandb"]["id"]
    assert f"W&B: {server.url}/group/rlx/runs/{name}" in capfd.readouterr().out
    # Two rows more had reached the server when a second attempt was killed; its checkpoint is that of step 3.
    for step in (4, 5):
        line = json.dumps({"_step": step, "step": step, "train/loss": 1 / step})
        server.files["wandb-history.jsonl"][step - 1] = line
    with opened(tmp_path, mode=Mode.online) as run:
        append(run, 4, 5, 6, 7)
    assert server.received == [1, 2, 3, 6, 7] and server.exits == [75, 0]
    check_rows(tmp_path, server.history())
    assert record(tmp_path)["wandb"]["id"] == name
    assert len(unsynced(tmp_path)) == 1
    with opened(tmp_path, mode=Mode.online) as run:
        run.samples.append({"step": 7, "completion": "late"})
    assert server.received == [1, 2, 3, 6, 7] and "samples" in json.loads(server.files["wandb-summary.json"][0])
    assert server.tables[-1] == [[1, "early"], [7, "late"]]


def test_a_server_that_takes_no_tables_gets_the_rows(tmp_path, server, monkeypatch, capfd):
    monkeypatch.setattr(server, "answer_artifact", lambda operation, given: {})
    with opened(tmp_path, mode=Mode.online) as run:
        run.samples.append({"step": 1, "completion": "x"})
        append(run, 1)
        time.sleep(0.3)
        append(run, 2)
    _, line = capfd.readouterr().out.splitlines()
    assert "without the table" in line and server.received == [1, 2] and server.exits == [0]


def refused() -> Iterator[str]:
    yield "http://127.0.0.1:9"


def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("address", [refused, silent], ids=["refused", "silent"])
def test_a_server_that_is_not_there_costs_one_line(tmp_path, monkeypatch, capfd, address):
    began = time.monotonic()
    for url in address():
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        with opened(tmp_path, mode=Mode.online, init_timeout=0.5) as run:
            append(run, 1, 2, 3)
    captured = capfd.readouterr()
    (line,) = captured.out.splitlines()
    assert "going on offline" in line and "wandb sync" in line and not captured.err
    assert time.monotonic() - began < 10  # the half second, and twice the start and end of wandb's service
    (sent,) = unsynced(tmp_path)
    check_rows(tmp_path, sent.rows)
    assert sent.exit == 0 and sent.file.parent.name.startswith("offline-run-")
    assert read_status(tmp_path).state is State.finished


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_wait_that_is_none_is_refused(seconds):
    with pytest.raises(ConfigError, match=r"logger\.init_timeout"):
        WandbConfig(init_timeout=seconds)


def test_the_newest_attempt_is_the_one_to_upload(tmp_path):
    for name, age in (("run-b", 2), ("run-a", 1), ("offline-run-c", 3)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, times=(1000 - age, 1000 - age))
    found: Any = SimpleNamespace(folder=tmp_path)
    assert mirror.Mirror._upload(found) == f"wandb sync --include-online {tmp_path}/run-a"


def test_without_a_key_nobody_is_asked_for_one(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("wandb.errors.term._sys_stdin_isatty", lambda: True)
    monkeypatch.setattr("wandb.errors.term._sys_stderr_isatty", lambda: True)
    with opened(tmp_path, mode=Mode.online) as run:
        append(run, 1)
    captured = capfd.readouterr()
    (line,) = captured.out.splitlines()
    assert "No API key" in line and not captured.err
    assert unsynced(tmp_path)[0].steps() == [1]


def test_a_server_that_is_lost_delays_the_end_and_no_more(tmp_path, server, monkeypatch, capfd):
    monkeypatch.setattr(mirror, "FINISH_S", 0.5)
    began = time.monotonic()
    with opened(tmp_path, mode=Mode.online) as run:
        append(run, 1)
        wait_for(lambda: server.started)
        server.shutdown()
        server.server_close()
        append(run, 2, 3)
    assert time.monotonic() - began < 15
    first, last = capfd.readouterr().out.splitlines()
    assert server.url in first and "took not everything" in last
    assert f"wandb sync --include-online {tmp_path}/wandb/run-" in last
    (sent,) = unsynced(tmp_path)
    check_rows(tmp_path, sent.rows)
    assert read_status(tmp_path).state is State.finished


def service() -> Any:
    """wandb's process, as the mirror finds it."""
    return sys.modules["wandb.sdk.wandb_setup"]._singleton._connection._proc._process


@pytest.mark.parametrize("way", ["the service dies", "a call fails"])
def test_a_mirror_that_fails_is_replaced_offline(tmp_path, server, monkeypatch, capfd, way):
    before = set(threading.enumerate())
    with opened(tmp_path, mode=Mode.online) as run:
        append(run, 1)
        wait_for(lambda: "url" in run.record["wandb"])
        if way == "the service dies":
            service().kill()
        else:
            failing = iter([RuntimeError("no such call"), None])
            monkeypatch.setattr(mirror, "with_numbers", lambda row: _raise_or(next(failing, None), row))
        append(run, 2, 3)
    _, line = capfd.readouterr().out.splitlines()
    assert "going on offline" in line
    (sent,) = unsynced(tmp_path)
    check_rows(tmp_path, sent.rows)
    assert sent.file.parent.name.startswith("offline-run-") and sent.exit == 0
    if way == "a call fails":  # a thread of a run that was not ended would ask its service once more, and fail loudly
        wait_for(lambda: not [t for t in set(threading.enumerate()) - before if t.name == "NetStatThr"], 2)


def _raise_or(error: Exception | None, row: Any) -> Any:
    if error is not None:
        raise error
    return row


def test_a_second_ctrl_c_does_not_wait(tmp_path, monkeypatch, capfd):
    """Nor does the W&B run end as if it had been told how."""
    sends, send = [], mirror.Mirror._send
    monkeypatch.setattr(mirror.Mirror, "_send", lambda self, last=False: (sends.append(last), send(self, last=last)))
    with pytest.raises(KeyboardInterrupt), opened(tmp_path) as run:
        append(run, 1)
        wait_for(lambda: sends)
        process = service()
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGKILL and True not in sends and not capfd.readouterr().out
    assert unsynced(tmp_path)[0].exit is None


@pytest.mark.parametrize("name", ["WAIT_S", "STOP_WAIT_S"])
def test_a_mirror_that_hangs_is_left_behind(tmp_path, monkeypatch, capfd, name):
    hang, hung, send = threading.Event(), [], mirror.Mirror._send

    def hanging(self: mirror.Mirror, *, last: bool = False) -> None:
        if self.run.path.name == "first":
            hung.append(threading.current_thread())
            hang.wait(60)
        send(self, last=last)

    monkeypatch.setattr(mirror, name, 0.3)
    monkeypatch.setattr(mirror.Mirror, "_send", hanging)
    began = time.monotonic()
    with suppress(Stopped), opened(tmp_path / "first") as run:
        append(run, 1)
        wait_for(lambda: hung)
        process = service()
        if name == "STOP_WAIT_S":
            raise Stopped
    assert time.monotonic() - began < 15 and process.returncode == -signal.SIGKILL
    assert "took too long" in capfd.readouterr().out
    monkeypatch.undo()
    with opened(tmp_path / "second") as run:  # the next of a sweep, while the first wakes up
        append(run, 1)
        wait_for(lambda: list(tmp_path.glob("second/wandb/*/*.wandb")))
        hang.set()
        hung[0].join(10)
        append(run, 2)
    assert not capfd.readouterr().out
    (sent,) = unsynced(tmp_path / "second")
    assert sent.steps() == [1, 2] and sent.exit == 0


def test_a_run_that_failed_is_failed_there_too(tmp_path):
    with pytest.raises(RunError), opened(tmp_path) as run:
        append(run, 1)
        run.save_record(alarms=["the policy collapsed", "the loss is nan"])
        raise RunError("the run has diverged")
    (sent,) = unsynced(tmp_path)
    assert sent.exit == 1 and sent.summary["alarms"] == "the policy collapsed; the loss is nan"


def test_another_process_s_run_is_not_ended(tmp_path, monkeypatch):
    sends, send = [], mirror.Mirror._send
    monkeypatch.setattr(mirror.Mirror, "_send", lambda self, last=False: (sends.append(last), send(self, last=last)))
    with pytest.raises(RunError, match="removed"), opened(tmp_path) as run:
        append(run, 1)
        wait_for(lambda: sends)
        (tmp_path / "lease.json").unlink()
    assert unsynced(tmp_path)[0].exit is None and True not in sends


def test_nothing_of_wandb_is_left_in_the_process(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_SERVICE", f"3-{os.getppid()}-unix-{tmp_path}/gone")  # a parent's, which has ended
    exits, threads = (sys.exit, sys.excepthook), set(threading.enumerate())
    with opened(tmp_path) as run:
        append(run, 1)
    assert (sys.exit, sys.excepthook) == exits and "WANDB_SERVICE" not in os.environ
    assert set(threading.enumerate()) <= threads and not capfd.readouterr().out
    assert unsynced(tmp_path)[0].steps() == [1]


def test_without_the_library_the_run_goes_on(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with opened(tmp_path) as run:
        append(run, 1)
    (line,) = capfd.readouterr().out.splitlines()
    assert "wandb" in line and "goes on without it" in line and read_status(tmp_path).state is State.finished


@pytest.mark.parametrize("word, there", [("disabled", False), ("offline", True), ("dryrun", True)])
def test_the_environment_has_the_last_word(tmp_path, monkeypatch, capfd, word, there):
    monkeypatch.setenv("WANDB_MODE", word)
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    with opened(tmp_path, mode=Mode.online) as run:
        append(run, 1)
    assert not capfd.readouterr().out
    assert [sent.run.project for sent in unsynced(tmp_path)] == (["theirs"] if there else [])


@pytest.mark.parametrize("word", ["", "online"])
def test_off_is_off(tmp_path, monkeypatch, capfd, word):
    monkeypatch.setenv("WANDB_MODE", word)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with opened(tmp_path, mode=Mode.off) as run:
        append(run, 1)
    assert not capfd.readouterr().out and not (tmp_path / "wandb").exists() and "wandb" not in run.record


def test_group_and_job_type_are_those_that_were_given(tmp_path):
    with opened(tmp_path, group="ablation", job_type="probe") as run:
        append(run, 1)
    (sent,) = unsynced(tmp_path)
    assert (sent.run.run_group, sent.run.job_type) == ("ablation", "probe")


def test_a_project_that_is_given_is_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    with opened(tmp_path, project="mine") as run:
        append(run, 1)
    assert [sent.run.project for sent in unsynced(tmp_path)] == ["mine"]


def test_tasks_of_an_array_do_not_call_at_once(monkeypatch):
    def waits(task: int) -> float:
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        return mirror._stagger()

    found = [waits(task) for task in range(1000)]
    assert len(set(found[:20])) == 20 and 0 <= min(found) < max(found) <= mirror.STAGGER_S
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    assert mirror._stagger() == 0


def test_a_run_that_was_local_first_keeps_its_totals(tmp_path):
    with open_run(tmp_path, config={}, command="rlx", record={"parents": []}) as run:
        run.ledger.train = 5.0
        run.save_record(steps=1)
    with opened(tmp_path):
        found = record(tmp_path)
        assert found["wandb"]["id"] and found["flops"]["train"] == 5.0
