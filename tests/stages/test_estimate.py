"""What is expected of a run beforehand, against what the run then spends, and the time by runs that have finished."""

import copy
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlx.batches import Extent
from rlx.data.packing import Packer
from rlx.models.base import ModelConfig
from rlx.models.dense import DenseConfig
from rlx.models.size import Operations, parameter_count
from rlx.options import discover
from rlx.runs.status import State
from rlx.stages import lengths
from rlx.stages.base import RunStageConfig, place_of
from rlx.stages.estimate import Cost, Estimate, Estimator, basis, measurements, shape_of
from rlx.stages.pace import RUN_S, Pace
from rlx.tasks.countdown import CountdownConfig
from tests.conftest import COUNTDOWN
from tests.runs.folders import make
from tests.stages.runs import PRETRAIN, evaluation, merge, place, record, rl, sft

FRESH = [*COUNTDOWN, "stage=eval", "init_from=random", "stage.problems=40", "stage.samples=4", "decode.max_tokens=80"]
CUT = "decode.max_tokens=6"
"""Every completion of a model that has learnt the form is longer than this, so lengths are no guess."""


@pytest.fixture
def told(door, monkeypatch) -> Callable[..., tuple[Estimate, dict]]:
    """Make a run; what was expected of it, and its run.json. All runs of a test are one plan."""
    estimator, whole = Estimator("runs"), RunStageConfig.carry_out

    def tell(*arguments: str) -> tuple[Estimate, dict]:
        found = []

        def carry_out(stage, config, context):
            path, typed = place_of(config, context), copy.deepcopy(config)
            planned, from_disk = estimator.estimate(path, typed), Estimator("runs").estimate(path, typed)
            assert planned.cost == from_disk.cost
            found.append(planned)
            whole(stage, config, context)

        with monkeypatch.context() as patch:
            patch.setattr(RunStageConfig, "carry_out", carry_out)
            done = door(*arguments)
        assert done.code == 0, done.err
        return found[0], record(place(done.out))

    return tell


def near(expected: float, actual: float, share: float) -> bool:
    return abs(expected - actual) <= share * actual


def run_of(made: dict) -> str:
    return made["run"]


def test_estimates_against_the_ledger(told):
    """Training and held-out losses within 5 %; what hangs on the length of completions within the factors below."""
    expected, start = told(*PRETRAIN)
    assert expected.cost and expected.cost.steps == start["steps"] == 12
    assert near(expected.cost.train, start["flops"]["train"], 0.05)
    assert near(expected.cost.eval, start["flops"]["eval"], 0.05)
    assert near(expected.cost.tokens, start["tokens"], 0.05)

    inside = ("eval.every=6", "eval.problems=8", "eval.samples=2", CUT)
    expected, tuned = told(*sft(run_of(start), *inside))
    assert expected.cost and near(expected.cost.train, tuned["flops"]["train"], 0.05)
    assert near(expected.cost.eval, tuned["flops"]["eval"], 0.05)
    assert expected.cost.decoding < expected.cost.eval

    expected, policy = told(*rl(run_of(tuned)))
    spent = policy["flops"]
    assert expected.cost and expected.cost.steps == 6
    assert spent["rollout"] / 1.2 < expected.cost.rollout < 1.2 * spent["rollout"]
    assert spent["eval"] / 1.2 < expected.cost.eval < 1.2 * spent["eval"]
    assert spent["train"] / 2.2 < expected.cost.train  # half of the groups are taken to have a signal

    expected, merged = told(*merge(run_of(start), run_of(tuned)))
    assert expected.cost and expected.cost.steps == 0 and near(expected.cost.eval, merged["flops"]["eval"], 0.05)

    expected, measured = told(*evaluation(run_of(merged)))
    assert expected.cost and near(expected.cost.eval, measured["flops"]["eval"], 0.05)
    assert near(expected.cost.tokens, measured["tokens"], 0.05)


def test_dialogues_are_expected_as_the_environment_shows_them(told):
    """A start that has learnt their form errs more often than the demonstrations do: within a factor of three."""
    task = ("task=arithmetic", "task.max_digits=2", "scale=smoke", "trainer.threads=1")
    talk = ("environment=multi_attempt", "environment.attempts=3", "environment.turn_tokens=6", "decode.max_tokens=80")
    corpus = ("corpus=dialogues", "corpus.environment={name:multi_attempt,attempts:3}")
    _, start = told(*task, "stage=sft", *corpus, "stage.steps=60", "stage.val_every=0")
    alone, _ = told(*task, "stage=eval", f"init_from={run_of(start)}", "stage.problems=20", "decode.max_tokens=80")
    expected, made = told(*task, "stage=eval", f"init_from={run_of(start)}", "stage.problems=20", *talk)
    assert expected.cost and alone.cost and expected.cost.eval > 1.5 * alone.cost.eval
    assert made["flops"]["eval"] / 3 < expected.cost.eval < 3 * made["flops"]["eval"]


def test_fresh_weights_end_anywhere(told):
    expected, made = told(*FRESH)
    assert expected.cost and near(expected.cost.tokens, made["tokens"], 0.1)
    assert near(expected.cost.eval, made["flops"]["eval"], 0.1)


def test_a_budget_that_a_planned_run_sets(asked, door):
    estimator = Estimator("runs")
    start, config = asked(*PRETRAIN)
    estimator.estimate(start, config)
    policy, config = asked(*rl(start))
    planned = estimator.estimate(policy, config).cost
    more, config = asked(*sft(start, f"stage.match_flops={policy}", "stage.steps=null", "stage.val_every=0"))
    found = estimator.estimate(more, config).cost
    assert planned and found and found.steps > 1
    assert planned.charged <= found.flops < planned.charged * (1 + 1 / (found.steps - 1))
    again, config_again = asked(*rl(start, f"stage.match_flops={policy}", "stage.steps=100", "stage.val_every=0"))
    as_many = estimator.estimate(again, config_again).cost
    assert as_many and as_many.steps == 6 and near(as_many.charged, planned.charged, 0.01)
    nothing = Estimator("runs").estimate(more, config)
    assert nothing.cost is None and nothing.seconds is None and start in nothing.why

    door(*PRETRAIN)
    door(*rl(start))
    spent = record(Path(policy))["flops"]
    found = estimator.estimate(more, config).cost  # what the finished run took counts, not what it was to take
    assert found and near(found.flops, spent["train"] + spent["rollout"], 0.3)
    most, config = asked(*sft(start, f"stage.max_flops={found.flops / 2}", "stage.steps=100"))
    half = estimator.estimate(most, config).cost
    assert half and abs(half.steps - found.steps / 2) <= 1
    short = estimator.estimate(*asked(*sft(start, f"stage.max_flops={found.flops}", "stage.steps=3"))).cost
    assert short and short.steps == 3


def test_what_algorithms_add(asked):
    """In passes over an iteration's samples: of each kind no more and no fewer than the stage makes."""
    estimator = Estimator("runs")
    start, config = asked(*PRETRAIN)
    estimator.estimate(start, config)

    def cost(*more: str) -> Cost:
        found = estimator.estimate(*asked(*rl(start, "algorithm.minibatches=1", *more))).cost
        assert found is not None
        return found

    plain = cost("algorithm.kl_coefficient=0.1")  # one update, one look of the reference
    look, update = plain.train / 4, 0.75 * plain.train
    assert cost("algorithm.entropy_coefficient=0.1").train == pytest.approx(update)
    again = ("algorithm.importance_sampling_cap=2", "algorithm.epochs=2")
    assert cost("algorithm.kl_coefficient=0.1", *again).train == pytest.approx(2 * update + 2 * look)
    critic = cost("algorithm=ppo", *again).train
    assert critic == pytest.approx(2 * (2 * update + look), rel=0.01)  # its head is smaller than the policy's
    redrawn = cost("algorithm.kl_coefficient=0.1", "algorithm.dynamic_sampling=true")
    assert redrawn.train == pytest.approx(plain.train)
    assert (redrawn.rollout, redrawn.tokens) == pytest.approx((2 * plain.rollout, 2 * plain.tokens))
    once = cost("algorithm.kl_coefficient=0.1", "algorithm.dynamic_sampling=true", "algorithm.max_draws=1")
    assert (once.rollout, once.train) == pytest.approx((plain.rollout, plain.train / 2))
    gathered = ("algorithm=expert_iteration", "algorithm.round_iterations=2")
    rounds = [cost(*gathered, f"algorithm.buffer_rounds={kept}").train for kept in (1, 2, "null")]
    assert rounds == pytest.approx([rounds[0], rounds[0] * (1 + 2 + 2) / 3, rounds[0] * (1 + 2 + 3) / 3])


def test_a_run_that_goes_on_makes_the_steps_that_are_left(asked):
    estimator = Estimator("runs")
    start, config = asked(*PRETRAIN)
    first = estimator.estimate(start, config).cost
    second, config = asked(*PRETRAIN, f"init_from={start}", "init.state=all", "stage.steps=20")
    left = estimator.estimate(second, config).cost
    third, config = asked(*PRETRAIN, f"init_from={second}@16", "init.state=all", "stage.steps=20")
    assert first and left and (first.steps, left.steps) == (12, 8)
    assert left.train == pytest.approx(first.train * 8 / 12)
    assert left.eval == pytest.approx(first.eval * 2 / 4)  # after 16 and 20, for after 1, 4, 8 and 12
    last = estimator.estimate(third, config).cost
    assert last and last.steps == 4


def test_a_thousand_estimates_look_once_at_what_is_equal(asked, monkeypatch):
    counts: Counter[str] = Counter()

    def counted(owner: Any, name: str, what: str) -> None:
        whole = getattr(owner, name)

        def count(*given: Any, **named: Any) -> Any:
            counts[what] += 1
            return whole(*given, **named)

        monkeypatch.setattr(owner, name, count)

    start, first = asked(*PRETRAIN)
    _, second = asked(*rl(start))
    counted(ModelConfig, "build", "models")
    counted(CountdownConfig, "build", "tasks")
    counted(Packer, "next", "batches")
    estimator, told = Estimator("runs"), []
    estimator.estimate(start, first)
    for number in range(500):
        first.model.n_layers, second.stage.prompts = 1 + number % 20, 1 + number
        first.seed = first.task.seed = number
        first.optim.lr, first.model.init_std, first.model.rope_theta = 1e-3 * number, 0.01 * number, 100.0 + number
        told += [estimator.estimate(f"{start}{number}", first), estimator.estimate(f"runs/rl{number}", second)]
    assert all(each.cost is not None for each in told)
    assert dict(counts) == {"models": 20, "tasks": 1, "batches": lengths.BATCHES}


@pytest.mark.parametrize("name", discover("model"))
def test_models_without_numbers_count_as_those_with(name):
    config = discover("model")[name].config(d_model=32, n_layers=2)
    shape, model, extent = shape_of(config, 112), config.build(112), Extent.of(torch.tensor([1, 2, 3, 300, 300]))
    assert shape.parameters == parameter_count(model)
    assert shape.operations.training(extent) == Operations(model).training(extent) > 0
    assert shape.operations.forward(extent, cached=True) == Operations(model).forward(extent, cached=True) > 0


def test_models_of_any_size_are_built_and_nothing_is_drawn():
    state = torch.get_rng_state()
    huge = shape_of(DenseConfig(d_model=16384, n_layers=8, n_heads=128), 128_000)  # 130 GB of float32
    assert huge.parameters > 2e10 and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("first, last, every", [(0, 12, 4), (0, 12, 5), (0, 3, 4), (12, 20, 8), (7, 9, 1), (5, 5, 2)])
def test_how_often_something_is_measured(first, last, every):
    due = [step for step in range(first + 1, last + 1) if step % every == 0 or step == last]
    assert measurements(first, last, every) == len(due)
    assert measurements(first, last, 0) == 0


def test_what_cannot_be_told_is_a_line(asked):
    where, config = asked(*FRESH)
    config.init_from = "hf:nowhere"
    found = Estimator("runs").estimate(where, config)
    assert found.cost is None and found.seconds is None and "nowhere" in found.why
    where, config = asked(*PRETRAIN, "stage.row_tokens=8", "stage.batch_tokens=8")
    assert "does not fit stage.row_tokens=8" in Estimator("runs").estimate(where, config).why
    assert basis([found]).startswith("nothing is known of 1: hf:nowhere is no folder")


CPU = {"accelerator": "cpu", "precision": "fp32", "compiled": False}
PLACE = "runs/countdown-dense-pretrain-h0123456789/seed9"


def finished(
    number: int, speed: float, *, flops: float = 1e12, size: int = 220_000, name: str = "", **more: Any
) -> None:
    """A run directory whose arithmetic went at `speed` operations a second."""
    options = {"stage": "pretrain", "model": "dense", "trainer": more.pop("trainer", "cpu")}
    make(
        name or f"countdown-dense-pretrain-h{number:010x}/seed0",
        state=more.pop("state", State.finished),
        options=options,
        arithmetic={**CPU, **more},
        parameters={"total": size},
        flops={"total": flops},
        wall_s=RUN_S + flops / speed,
    )


@pytest.fixture
def config(asked) -> Any:
    """Of a pretrain run on a CPU, in an empty folder."""
    return asked(*PRETRAIN)[1]


def seconds(config: Any, *, flops: float = 1e12, size: int = 220_000) -> tuple[float, int]:
    return Pace("runs").seconds(config, PLACE, size, flops=flops, decoding=0.0)


def test_time_by_finished_runs(config):
    for number, speed in enumerate((1e10, 2e10, 9e10)):
        finished(number, speed)
    time, alike = seconds(config, flops=4e12)
    assert alike == 3 and time == pytest.approx(RUN_S + 4e12 / 2e10)


def test_only_runs_like_it_count(config):
    finished(0, 1e10)
    finished(1, 9e10, trainer="gpu", accelerator="cuda")
    finished(2, 9e10, precision="bf16")
    finished(3, 9e10, compiled=True)
    finished(4, 9e10, state=State.failed)
    finished(5, 9e10, size=500_000)  # one of its own size is nearer
    finished(6, 9e10, flops=1e10)  # too short to tell
    finished(7, 9e10, name="countdown-dense-sft-h0000000007/seed0")
    finished(8, 9e10, name="countdown-moe-pretrain-h0000000008/seed0")
    make("countdown-dense-pretrain-h0000000009/seed0")  # by an earlier version: nothing noted
    assert seconds(config) == (pytest.approx(RUN_S + 1e12 / 1e10), 1)
    assert seconds(config, size=600_000) == (pytest.approx(RUN_S + 1e12 / 9e10), 1)


def test_runs_of_about_its_length_tell_best(config):
    for number in range(8):
        finished(number, 1e9, flops=1e10)
        finished(10 + number, 2e10, flops=1e12)
    assert seconds(config, flops=2e12) == (pytest.approx(RUN_S + 100), 5)
    assert seconds(config, flops=1e10) == (pytest.approx(RUN_S + 10), 5)


DAMAGED = {"flops": None, "wall_s": "nan", "parameters": [], "arithmetic": None, "options": "none"}


@pytest.mark.parametrize("name, value", DAMAGED.items(), ids=DAMAGED.keys())
def test_a_damaged_run_tells_nothing(config, name, value):
    finished(0, 1e10)
    path = Path("runs/countdown-dense-pretrain-h0000000000/seed0/run.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    assert seconds(config)[1] == 0


@pytest.mark.parametrize("size", [220_000, 10**9])
def test_a_guess_is_marked(config, size):
    finished(0, 1e10, size=size // 10)
    time, alike = seconds(config, size=size)
    assert alike == 0 and 1 < time < 1000
    config.trainer.accelerator = "cuda"
    assert seconds(config, size=size)[0] < time
    estimate = Estimator("runs").estimate(PLACE, config)
    assert basis([estimate]).startswith("times of 1 of 1 are guesses")
