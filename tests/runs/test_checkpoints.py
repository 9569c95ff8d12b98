import enum
import errno
import os
import pickle
import random
from collections import OrderedDict, defaultdict

import pytest
import torch

from rlx.errors import CheckpointError, ConfigError, RunError
from rlx.runs import checkpoints
from rlx.runs.checkpoints import (
    CheckpointPlan,
    Keep,
    best_step,
    checkpoint_path,
    list_checkpoints,
    load_trainer_state,
    log_steps,
    nearest_whole,
    new_checkpoint,
    prune,
    save_trainer_state,
    set_aside,
    write_best,
)
from rlx.runs.model_directory import save_model_directory


def make(run, *steps):
    for step in steps:
        folder = checkpoint_path(run, step)
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_text("{}")


def there(run) -> list[int]:
    return [step for step, _ in list_checkpoints(run)]


def test_names_have_six_digits_and_grow(tmp_path):
    assert [checkpoints.checkpoint_name(step) for step in (0, 100, 1_234_567)] == [
        "step-000000",
        "step-000100",
        "step-1234567",
    ]
    assert checkpoints.step_of("step-000100") == 100
    assert [checkpoints.step_of(name) for name in ("step-100", "step-0000100", ".tmp-step-000100-1", "last")] == [
        None
    ] * 4


def test_only_whole_checkpoints_are_listed_in_the_order_of_steps(tmp_path):
    assert there(tmp_path) == []
    make(tmp_path, 1_000_000, 999_999, 20)
    (tmp_path / "checkpoints" / ".tmp-step-000030-1").mkdir()
    checkpoint_path(tmp_path, 40).mkdir()
    (checkpoint_path(tmp_path, 40) / "config.json").write_text("{}")
    assert there(tmp_path) == [20, 999_999, 1_000_000]
    assert [step for step, _ in list_checkpoints(tmp_path, partial=True)] == [20, 40, 999_999, 1_000_000]


def test_new_checkpoint_is_atomic_keeps_a_whole_one_and_replaces_half_a_one(tmp_path):
    def write(text, replace=False):
        with new_checkpoint(tmp_path, 5, replace=replace) as folder:
            for name in ("config.json", "model.safetensors"):
                (folder / name).write_text(text)

    half = checkpoint_path(tmp_path, 5)
    half.mkdir(parents=True)
    (half / "config.json").write_text("half")
    write("first")
    write("second")
    assert (half / "config.json").read_text() == "first"
    write("third", replace=True)
    assert (half / "config.json").read_text() == "third"
    assert os.listdir(tmp_path / "checkpoints") == ["step-000005"]


def test_what_cannot_be_used_is_moved_and_the_nearest_whole_one_named(tmp_path):
    for step in (10, 20, 30):
        with new_checkpoint(tmp_path, step) as folder:
            save_model_directory(folder, {}, {}, None)
    (tmp_path / "logs").mkdir()
    (checkpoint_path(tmp_path, 20) / "config.json").write_text("{ }")
    assert nearest_whole(tmp_path, 20, trainer=False) == 10
    assert nearest_whole(tmp_path, 20, trainer=True) is None
    assert set_aside(tmp_path, 20, 3) == tmp_path / "logs" / "attempt-3.dropped-step-000020"
    assert there(tmp_path) == [10, 30] and os.listdir(tmp_path / "logs") == ["attempt-3.dropped-step-000020"]


def test_what_is_moved_away_stays_so_when_the_power_goes(tmp_path, monkeypatch):
    make(tmp_path, 20)
    (tmp_path / "logs").mkdir()
    synced = []
    monkeypatch.setattr(checkpoints, "sync_folder", synced.append)
    set_aside(tmp_path, 20, 3)
    assert synced == [tmp_path / "logs", tmp_path / "checkpoints"]  # it is in both rather than in none


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("last:2", Keep(last=2)),
        ("log:15", Keep(log=15)),
        ("all", Keep(all=True)),
        ("last:1,log:15", Keep(last=1, log=15)),
        ("log:15+last:1", Keep(last=1, log=15)),
    ],
)
def test_keep_is_parsed(text, keep):
    assert Keep.parse(text) == keep


@pytest.mark.parametrize("text", ["", "last", "last:0", "last:-1", "log:x", "every:5", "last:1,last:2", "last:1,"])
def test_a_wrong_keep_is_one_line(text):
    with pytest.raises(ConfigError, match="last:<n>") as error:
        Keep.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("total", "n"), [(1, 1), (10, 3), (100, 15), (20, 20), (21, 20), (5, 9), (10**6, 15), (7, 0)])
def test_log_steps_are_distinct_rising_and_end_at_the_total(total, n):
    steps = log_steps(total, n)
    assert len(steps) == min(n, total) and steps == sorted(set(steps))
    assert n == 0 or steps[-1] == total
    assert n < 2 or steps[0] == 1


def test_log_steps_are_evenly_spaced_in_the_logarithm():
    assert log_steps(10_000, 5) == [1, 10, 100, 1000, 10_000]


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ("last:2", [90, 100]),
        ("all", list(range(10, 101, 10))),
        ("last:1", [100]),
        ("last:1,log:3", [10, 100]),
        ("log:3", [10, 100]),
    ],
)
def test_prune_keeps_what_it_should(tmp_path, keep, left):
    """Checkpoints of stops, at steps that the plan does not make, go."""
    make(tmp_path, *range(0, 101, 10), 7, 95)
    gone = prune(tmp_path, CheckpointPlan.of(10, keep, 100))
    assert there(tmp_path) == left
    assert sorted(gone + left) == sorted([*range(0, 101, 10), 7, 95])
    assert len(os.listdir(tmp_path / "checkpoints")) == len(left)


@pytest.mark.parametrize(("ended", "left"), [(False, [20, 30, 33]), (True, [30, 33])], ids=["stopped", "ended"])
def test_the_newest_stays_and_counts_when_it_is_the_last(tmp_path, ended, left):
    make(tmp_path, 10, 20, 25, 30, 33)
    prune(tmp_path, CheckpointPlan.of(10, "last:2", 100), ended=ended)
    assert there(tmp_path) == left


def test_an_incomplete_one_neither_counts_nor_goes(tmp_path):
    make(tmp_path, 10, 20, 30, 40)
    for step in (10, 40):
        (checkpoint_path(tmp_path, step) / "model.safetensors").unlink()
    assert prune(tmp_path, CheckpointPlan.of(10, "last:1", 100)) == [20]
    assert [step for step, _ in list_checkpoints(tmp_path, partial=True)] == [10, 30, 40]


@pytest.mark.parametrize("every", [1, 2, 7])
def test_planned_checkpoints_stay_whatever_the_history(tmp_path, every):
    plan = CheckpointPlan.of(1000, "log:4", 30)
    for step in range(1, 31):
        make(tmp_path, step)
        if step % every == 0:
            prune(tmp_path, plan)
        assert there(tmp_path)[-1] == step
    prune(tmp_path, plan)
    assert there(tmp_path) == log_steps(30, 4)


def test_the_plan_of_a_continued_run_spaces_its_own_steps():
    plan = CheckpointPlan.of(5, "log:3", 120, first=20)
    assert plan.planned == {21, 30, 120}
    assert [step for step in range(31) if plan.makes(step)] == [5, 10, 15, 20, 21, 25, 30]


def test_prune_spares_the_best(tmp_path):
    plan = CheckpointPlan.of(1, "last:1", 3)
    make(tmp_path, 1, 2, 3)
    write_best(tmp_path, {"step": 1, "metric": "val/loss", "value": 0.5})
    prune(tmp_path, plan)
    assert there(tmp_path) == [1, 3] and best_step(tmp_path) == 1
    for damaged in ("{}", '{"step": "1"}'):
        (tmp_path / "best.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"best\.json"):
            best_step(tmp_path)
    write_best(tmp_path, None)
    write_best(tmp_path, None)
    prune(tmp_path, plan)
    assert there(tmp_path) == [3]


def trainer_state() -> dict:
    return {
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2), "step": torch.tensor(3.0)}}, "lr": (0.9, 0.95)},
        "random": random.Random(0).getstate(),
        "generator": torch.Generator().get_state(),
        "ordered": OrderedDict(a=[1, None, True, "x", b"bytes"]),
        "set": {1, 2},
        "wide": 2**100,
        "parameter": torch.nn.Parameter(torch.zeros(1)),
    }


def test_a_trainer_state_comes_back(tmp_path):
    save_trainer_state(tmp_path, trainer_state())
    assert (tmp_path / "trainer" / "state.pt").is_file()
    read = load_trainer_state(tmp_path)
    assert list(read) == list(trainer_state())
    for name in ("random", "ordered", "set", "wide"):
        assert read[name] == trainer_state()[name]
    assert torch.equal(read["optimizer"]["state"][0]["exp_avg"], torch.ones(2))


class Colour(enum.Enum):
    red = "red"


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (defaultdict(int), r"state\['a'\] is a defaultdict"),
        ([{"b": Colour.red}], r"state\['a'\]\[0\]\['b'\] is a Colour"),
        ({(1, Colour.red): 1}, r"state\['a'\]: key .*\[1\] is a Colour"),
        (os.stat_result(range(10)), "stat_result"),
        (torch.float32, "dtype"),
    ],
    ids=["defaultdict", "enum", "key", "named tuple", "dtype"],
)
def test_what_weights_only_refuses_is_named_when_saving(tmp_path, value, where):
    with pytest.raises(TypeError, match=where):
        save_trainer_state(tmp_path, {"a": value})
    assert not (tmp_path / "trainer").exists()


def test_numpy_scalars_are_refused(tmp_path):
    numpy = pytest.importorskip("numpy")
    with pytest.raises(TypeError, match="float64"):
        save_trainer_state(tmp_path, {"a": numpy.float64(1.0)})


class Evil:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_a_pickle_that_would_run_code_is_not_loaded(tmp_path):
    (tmp_path / "trainer").mkdir()
    torch.save({"a": Evil()}, tmp_path / "trainer" / "state.pt")
    with pytest.raises(CheckpointError, match=r"state\.pt.*plain values$"):
        load_trainer_state(tmp_path)
    (tmp_path / "trainer" / "state.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        load_trainer_state(tmp_path)


@pytest.mark.parametrize("share", [None, 0.0, 0.1, 0.5, 0.99])
def test_a_missing_or_truncated_state_is_one_line(tmp_path, share):
    save_trainer_state(tmp_path, trainer_state())
    path = tmp_path / "trainer" / "state.pt"
    data = path.read_bytes()
    path.unlink()
    if share is not None:
        path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"state\.pt") as error:
        load_trainer_state(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("elements", [10, 1_000_000])
def test_a_full_disk_while_saving_the_state_is_one_line(tmp_path, elements):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "state.pt").symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"state\.pt: the disk is full"):
        save_trainer_state(tmp_path, {"a": torch.zeros(elements)})


def test_a_full_disk_inside_a_checkpoint_leaves_the_earlier_ones(tmp_path):
    make(tmp_path, 1)
    with pytest.raises(RunError, match="full"), new_checkpoint(tmp_path, 2):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert os.listdir(tmp_path / "checkpoints") == ["step-000001"]
