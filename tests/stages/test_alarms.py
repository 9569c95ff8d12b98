"""A run that goes wrong says what, since when and why: each alarm is provoked by a run that deserves it."""

import json
import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from rlx.signals import stop
from rlx.stages.modules.alarms import SPELL, WINDOW, Alarms, Probe, Setting, conclusion, preflight
from tests.stages.runs import place, record, rows, status

EASY = ("task=countdown", "task.numbers=3", "task.trace=operations", "task.max_number=4", "task.min_target=1",
        "task.max_target=3", "scale=smoke", "trainer.threads=1", "checkpoint.every=1000")  # fmt: skip
"""33 problems, which a small model learns in seconds."""
LEARN = (*EASY, "stage=sft", "stage.batch_tokens=512", "stage.row_tokens=32", "stage.val_every=0", "optim=muon",
         "optim.lr=3e-2", "optim.adamw_lr=1e-2")  # fmt: skip


@pytest.fixture
def solver(door, tmp_path_factory) -> Path:
    """A start that solves some problems in one sample and most in eight; trained by the first test that asks."""
    folder = tmp_path_factory.getbasetemp() / "solver"
    made = list(folder.glob("*/seed0"))
    return made[0] if made else place(door(*LEARN, "stage.steps=200", f"runs_dir={folder}").out)


def rl(start: Path | str, *more: str) -> list[str]:
    return [*EASY, "stage=rl", "algorithm=grpo", f"init_from={start}", "decode.max_tokens=20", "stage.prompts=4",
            "algorithm.group_size=4", "stage.val_every=0", "stage.preflight_problems=8", *more]  # fmt: skip


def alarms_of(done) -> list[str]:
    """The alarms of a run that ended: said on the screen once each, and kept in run.json."""
    assert done.code == 0, done.err
    kept = record(place(done.out))["alarms"]
    said = [line.split("alarm: ")[1] for line in done.out.splitlines() if "alarm: " in line]
    assert said == kept
    return kept


def test_a_healthy_run_says_nothing(door, solver):
    more = ["stage.steps=30", "stage.prompts=8", "algorithm.group_size=8", "stage.preflight_problems=32"]
    done = door(*rl(solver, *more, "optim.lr=1e-3"))
    assert alarms_of(done) == []
    found = record(place(done.out))["preflight"]
    assert 0.05 < found["rewards/verifier/mean"] < 0.9 and len(found["said"]) == 2
    assert found["said"][0].startswith("preflight: pass@1 ") and "(32 problems, 8 samples each)" in found["said"][0]
    assert found["pass@1"] == pytest.approx(found["rewards/verifier/mean"])
    assert found["pass@1"] < found["pass@2"] < found["pass@4"] < found["pass@8"]
    assert found["pass@8"] == pytest.approx(found["rewards/verifier/any_of_group"])
    assert found["signal@2"] < found["signal@4"] < found["signal@8"] == pytest.approx(1 - found["frac_reward_zero_std"])
    assert found["said"][1].startswith("of the 8 groups that an iteration draws, about ")


EQUAL = [f"algorithm.rewards.{name}=1" for name in ("wrong", "illegal", "malformed", "truncated")]
OTHER_FORMAT = ["task.trace=direct", "decode.max_tokens=300", "stage.preflight_problems=2", "stage.prompts=1"]
HOPELESS = {
    "all wrong": (["task.min_target=4", "task.max_target=8"], "no sample was right (",
                  "train the start longer, take easier problems, or raise algorithm.group_size"),
    "another format": (OTHER_FORMAT, "the start does not know the format (",
                       "it was trained on task=countdown task.trace=operations, this run asks for task=countdown "
                       "task.trace=direct"),
    "all cut": (["decode.max_tokens=1"], "every completion is cut: solutions of task=countdown task.trace=operations "
                "have up to 12 tokens, decode.max_tokens=1 cuts them", "raise it to 12 or more"),
    "all worth the same": (EQUAL, "every verdict is worth 1 (algorithm.rewards)", "so no sample beats another"),
}  # fmt: skip


@pytest.mark.parametrize("more, why, remedy", HOPELESS.values(), ids=HOPELESS.keys())
def test_a_run_that_cannot_learn_says_why(door, solver, more, why, remedy):
    done = door(*rl(solver, "stage.steps=1", *more))
    assert done.code == 0, done.err
    assert f"this run cannot learn: {why}" in done.out and remedy in done.out
    assert any(why in sentence for sentence in record(place(done.out))["preflight"]["said"])


def test_random_weights_cannot_learn(door):
    done = door(*rl("random", "stage.steps=1", "stage.preflight_problems=4", "model.d_model=16"))
    assert "this run cannot learn: the start does not know the format (" in done.out
    assert "its weights are random; fine-tune it on task=countdown task.trace=operations first" in done.out


def test_a_start_that_knows_everything_cannot_learn(door):
    """One problem, learnt by heart."""
    one = "task.train_examples=1"
    start = place(door(*LEARN, one, "stage.steps=60").out)
    done = door(*rl(start, one, f"stage.steps={WINDOW}", "stage.prompts=1", "decode.temperature=0.2"))
    assert "this run cannot learn: every sample is right already, take harder problems" in done.out
    assert "(1 problems, 4 samples each)" in done.out
    (alarm,) = alarms_of(done)
    assert alarm.startswith(f"from step 1: no signal for {WINDOW} iterations") and "every sample is right" in alarm


def test_preflight_can_stop_the_run(door, solver):
    """The run fails before its first step, and goes on in the same place when it is told to."""
    arguments = rl(solver, "stage.steps=2", "decode.max_tokens=1")
    done = door(*arguments, "stage.preflight=stop")
    assert done.code == 1 and "this run cannot learn: every completion is cut" in done.err
    assert len(done.err.strip().splitlines()) == 1 and "stage.preflight=warn" in done.err
    run = place(done.out)
    assert status(run)["state"] == "failed" and not rows(run)
    done = door(*arguments)
    assert done.code == 0 and place(done.out) == run and len(rows(run)) == 2
    healthy = door(*rl(solver, "stage.steps=2", "stage.preflight=stop"))
    assert healthy.code == 0


DESERVED = {
    "equal rewards": ([f"stage.steps={WINDOW}", "stage.prompts=2", "stage.preflight_problems=2", *EQUAL],
                      f"from step 1: no signal for {WINDOW} iterations", "every verdict is worth the same"),
    "too few tokens": ([f"stage.steps={SPELL}", "decode.max_tokens=1"],
                       "from step 1: every completion is cut at decode.max_tokens=1 and none can be right",
                       "raise it"),
    "answers without end": (["stage.steps=30", "stage.prompts=2", "algorithm.rewards.truncated=3", "optim.lr=2e-2",
                             "schedule=constant", "decode.temperature=1.5", "decode.max_tokens=14"],
                            "every completion is cut at decode.max_tokens=14", "the policy ends its answers no more"),
    "collapse": ([f"stage.steps={WINDOW + SPELL}", "optim.lr=0.1", "algorithm.group_size=8",
                  "stage.preflight_problems=32"], "the policy collapsed: mean reward fell from 0.",
                 "optim.lr=0.1 is probably too high, try 0.02"),
    "lost entropy": (["stage.steps=27", "optim.lr=1e-2", "algorithm.entropy_coefficient=-10", "decode.temperature=2"],
                     "entropy fell below a tenth of its start", "algorithm.entropy_coefficient"),
    "drift": (["stage.steps=6", "optim.lr=1e-2", "algorithm.epochs=4", "algorithm.minibatches=4",
               "algorithm.entropy_coefficient=1e-6", "algorithm.group_size=8", "algorithm.clip_high=10"],
              "the policy moves more than 0.1 nats a token from the one that sampled (approx_kl)",
              "lower algorithm.epochs, algorithm.minibatches or optim.lr=0.01"),
}  # fmt: skip


@pytest.mark.parametrize("more, says, remedy", DESERVED.values(), ids=DESERVED.keys())
def test_an_alarm_that_a_run_deserves(door, solver, more, says, remedy):
    (alarm,) = [sentence for sentence in alarms_of(door(*rl(solver, *more))) if says in sentence]
    assert remedy in alarm and alarm.startswith("from step ")


def test_several_updates_a_rollout_are_no_drift(door, solver):
    more = ["stage.steps=8", "optim.lr=5e-4", "algorithm.epochs=2", "algorithm.minibatches=4"]
    done = door(*rl(solver, "algorithm.entropy_coefficient=1e-6", *more))
    assert alarms_of(done) == []
    assert all(0 < row["approx_kl"] < 0.05 for row in rows(place(done.out)))


DIVERGED = {
    "loss": (["algorithm.minibatches=2"], "step 1: the loss is nan"),
    "gradient": (["algorithm.minibatches=2", "optim.weight_decay=0"], "step 1: the gradient is nan"),
    "probabilities": ([], "step 2: the model's probabilities are not finite (NaN)"),
}


@pytest.mark.parametrize("more, says", DIVERGED.values(), ids=DIVERGED.keys())
def test_numbers_that_are_not_finite_end_the_run(door, solver, more, says):
    hot = ["optim.lr=3e38", "optim.weight_decay=100", "algorithm.entropy_coefficient=1e-6"]
    done = door(*rl(solver, "stage.steps=5", *hot, *more))
    run = place(done.out)
    assert done.code == 1 and status(run)["state"] == "failed"
    (line,) = done.err.strip().splitlines()
    (alarm,) = record(run)["alarms"]
    assert alarm.startswith(says) and alarm.endswith("a lower optim.lr (now 3e+38) is the usual remedy")
    assert alarm in line


@pytest.fixture
def unresolved(solver, tmp_path) -> Path:
    """A start whose logits share a large constant: bf16 rounds away what they differ in."""
    from rlx.models.folder import describe
    from rlx.runs.checkpoints import list_checkpoints
    from rlx.runs.model_directory import save_model_directory
    from rlx.stages.start import read_model

    tensors, config, tokenizer = read_model(list_checkpoints(solver)[-1][1])
    tensors["embed.weight"] = tensors["embed.weight"] + 20
    folder = tmp_path / "unresolved"
    folder.mkdir()
    save_model_directory(folder, tensors, describe(config, tokenizer.vocab_size), tokenizer.to_json())
    return folder


def test_rounding_that_makes_rollouts_off_policy(door, unresolved, monkeypatch):
    """Completions drawn in float32 for a trainer in bf16, as engines of their own do it."""
    monkeypatch.setattr("rlx.stages.modules.rollouts.arithmetic", lambda trainer: nullcontext())
    arguments = rl(unresolved, "stage.steps=2", "algorithm.entropy_coefficient=1e-6", "stage.preflight_problems=4")
    (alarm,) = alarms_of(door(*arguments, "trainer.precision=bf16"))
    assert alarm.startswith("from step 1: sampled and trained log-probabilities differ by more than 0.02 nats")
    assert "algorithm.importance_sampling_cap=2" in alarm and "trainer.precision=fp32" in alarm
    (alarm,) = alarms_of(door(*arguments, "trainer.precision=bf16", "algorithm.importance_sampling_cap=2"))
    assert "algorithm.importance_sampling_cap corrects for it; trainer.precision=fp32 removes it" in alarm


def test_alarms_survive_resumes(door, solver, monkeypatch):
    """A spell that began before a stop counts on after it, and what was said is not said again."""
    check, stops = Alarms.check, [7, WINDOW + 2]

    def stopping(watch, row):
        if row["step"] in stops:
            stops.remove(row["step"])
            stop.signal = 15
        return check(watch, row)

    monkeypatch.setattr(Alarms, "check", stopping)
    arguments = rl(solver, *DESERVED["equal rewards"][0], f"stage.steps={WINDOW + 4}")
    said = []
    for code in (75, 75, 0):
        done = door(*arguments)
        assert done.code == code, done.err
        said.append(done.out.count("alarm: "))
    assert said == [0, 1, 0]
    (alarm,) = record(place(done.out))["alarms"]
    assert alarm.startswith("from step 1: no signal")
    assert "preflight" not in done.out and record(place(done.out))["preflight"]["said"]


WORTH = {"correct": 1.0, "wrong": 0.0, "illegal": 0.0, "malformed": 0.0, "truncated": 0.0}


def setting(
    updates: int = 1,
    clip_high: float = 0.2,
    normalization: str | None = None,
    knobs: frozenset[str] = frozenset(),
    **worth: float,
) -> Setting:
    worths = {**WORTH, **worth}
    return Setting(lr=3e-4, max_tokens=20, group_size=8, worth=worths, corrected=False, updates=updates,
                   clip_high=clip_high, normalization=normalization, knobs=knobs)  # fmt: skip


def row(step: int = 1, /, **more: Any) -> dict[str, Any]:
    return {"step": step, "reward": 0.5, "frac_reward_zero_std": 0.2, "entropy": 1.0, "completions/clipped_ratio": 0.0,
            "sampling/sampling_logp_difference/mean": 0.0, "rewards/verifier/mean": 0.5,
            "rewards/verifier/any_of_group": 0.9, **{f"outcomes/{name}": 0.0 for name in WORTH}, **more}  # fmt: skip


def watch(made: list[dict], worth: dict[str, float] | None = None, **settings: Any) -> list[str]:
    alarms = Alarms(setting(**(worth or {}), **settings))
    return [sentence for step, seen in enumerate(made, start=1) for sentence in alarms.check({**seen, "step": step})]


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_noise_is_no_collapse(share):
    """Rewards of 8 samples an iteration, of a policy that never changes."""
    draw = random.Random(0)
    for _ in range(10):
        rewards = [sum(draw.random() < share for _ in range(8)) / 8 for _ in range(500)]
        assert watch([row(reward=reward) for reward in rewards]) == []


@pytest.mark.parametrize("shift", [0.0, -1.0, 2.0], ids=["from 0", "below 0", "above 0"])
def test_a_collapse_is_measured_from_the_lowest_reward(shift):
    worth = {name: value + shift for name, value in WORTH.items()}
    high, low = row(reward=0.3 + shift), row(reward=0.01 + shift)
    assert watch([high] * 60, worth) == []
    (said,) = watch([high] * WINDOW + [low] * WINDOW, worth)
    assert f"fell from {0.3 + shift:.3f}" in said and "optim.lr=0.0003 is probably too high, try 6e-05" in said


def test_a_collapse_in_the_first_steps_is_seen_from_the_preflight():
    alarms = Alarms(setting())
    alarms.begin([0.3, 0.4, 0.2, 0.3] * 8)
    said = [sentence for step in range(1, 30) for sentence in alarms.check(row(step, reward=0.01))]
    assert len(said) == 1 and said[0].startswith(f"from step {WINDOW}: the policy collapsed: mean reward fell from 0.3")


def test_spells_are_broken_by_what_contradicts_them():
    cut, whole = row(**{"completions/clipped_ratio": 1.0}), row()
    assert watch([cut] * (SPELL - 1) + [whole] + [cut] * (SPELL - 1)) == []
    (said,) = watch([whole] * 3 + [cut] * SPELL)
    assert said.startswith("from step 4: ") and "0% were at first" in said and "lower optim.lr" in said
    (said,) = watch([cut] * SPELL)
    assert said.startswith("from step 1: ") and "raise it, or train the start until" in said
    dead = row(frac_reward_zero_std=1.0)
    assert watch(([dead] * (WINDOW - 1) + [whole]) * 2) == []


def test_lost_entropy_of_a_policy_that_is_right_is_no_alarm():
    low, right = row(entropy=0.05), row(entropy=0.05, **{"rewards/verifier/mean": 0.95})
    assert len(watch([row()] + [low] * SPELL)) == 1
    assert watch(([row()] * (SPELL - 2) + [low] * 2) * 3) == []  # what a few iterations show by chance
    assert watch([row()] + [right] * 3 * SPELL) == []
    without = {name: value for name, value in row().items() if name != "entropy"}
    assert watch([row(), low, low, without, without, without]) == []


def test_what_is_advised_is_there():
    """dpo and npo have neither coefficients nor weights."""
    gap = {"sampling/sampling_logp_difference/mean": 0.1}
    for knobs, there in ((frozenset(), False), (frozenset({"importance_sampling_cap", "kl_coefficient"}), True)):
        off, low = watch([row()] + [row(entropy=0.05, **gap)] * SPELL, knobs=knobs)
        assert "nats on average" in off and "trainer.precision=fp32" in off and "entropy fell" in low
        assert ("algorithm.importance_sampling_cap=2" in off, "algorithm.kl_coefficient" in low) == (there, there)
        assert "algorithm.entropy_coefficient" not in low and "a lower optim.lr" in low


def lengths(wrong: float, right: float | None = 10.0, **more: Any) -> dict[str, Any]:
    """A row with mean lengths of wrong and of right answers; None where there are none."""
    found = {"completions/mean_length_wrong": wrong, "completions/mean_length_correct": right}
    return row(**{name: value for name, value in found.items() if value is not None}, **more)


def test_wrong_answers_that_grow_longer():
    """Judged against right ones, which grow too where the problems that are left need more words."""
    short, long = [lengths(12.0)] * WINDOW, [lengths(16.0)] * (2 * WINDOW)
    (said,) = watch(short + long, normalization="sequence")
    assert "wrong answers grow longer (12.0 → 16.0 tokens), more than right ones (10.0 → 10.0)" in said
    assert "algorithm.normalization=sequence divides the blame" in said and "constant takes this away" in said
    assert said.startswith(f"from step {2 * WINDOW}: ")  # the first that has a window of its own
    (other,) = watch(short + long, normalization="constant")
    assert "algorithm.normalization" not in other and "look at samples.jsonl" in other
    assert watch(short + [lengths(14.0)] * (2 * WINDOW)) == []  # a sixth more
    assert watch(short + [lengths(16.0, 13.0)] * (2 * WINDOW)) == []  # and right ones by as much
    assert watch([lengths(12.0, None)] * WINDOW + [lengths(16.0, None)] * (2 * WINDOW))  # nothing was ever right
    assert watch(short + long[: WINDOW + SPELL - 2]) == []  # not yet a spell
    draw = random.Random(0)
    noisy = [lengths(max(1.0, draw.gauss(12 if step < 30 else 15.5, 12))) for step in range(60)]
    assert watch(noisy, normalization="sequence") == []  # what a few answers an iteration show by chance


def paid(reward: float, right: float, illegal: float = 0.0) -> dict[str, Any]:
    return row(reward=reward, **{"rewards/verifier/mean": right, "outcomes/illegal": illegal})


def test_a_reward_for_something_else_than_right_answers():
    worth = {"illegal": 0.8}
    draw = random.Random(0)
    noise = [draw.gauss(0, 0.02) for _ in range(4 * WINDOW)]
    before = [paid(0.46 + n, 0.3 + n, 0.2) for n in noise[:WINDOW]]
    after = [paid(0.74 + n, 0.1 + n, 0.8) for n in noise[: 2 * WINDOW]]
    (said,) = watch(before + after, worth)
    assert "the reward rises (0.457 → 0.739) while fewer answers are right (29.7% → 9.9%)" in said
    assert said.endswith("what algorithm.rewards.illegal=0.8 pays for (illegal 20% → 80% of the answers); lower it")
    (other,) = watch(before + after)  # the verdict pays nothing: it must be something besides
    assert "something besides the verdicts is paid for" in other
    assert watch(before + [paid(0.74 + n, 0.6 + n, 0.2) for n in noise[: 2 * WINDOW]], worth) == []
    assert watch(before + [paid(0.46 + n, 0.1 + n, 0.2) for n in noise[: 2 * WINDOW]], worth) == []
    still = [paid(0.46 + a, 0.3 + b) for a, b in zip(noise, reversed(noise), strict=True)]
    assert watch(still, worth) == []


def clipped(low: float, high: float = 0.0) -> dict[str, Any]:
    return row(**{"clip_ratio/low_mean": low, "clip_ratio/high_mean": high})


def test_ratios_that_are_clipped_too_much_or_never():
    much, some, none = clipped(0.2, 0.15), clipped(0.1, 0.1), clipped(0.0)
    (said,) = watch([some] * 3 + [much] * SPELL, updates=4)
    assert "more than 30% of the tokens have a ratio that is clipped" in said and "4 updates an iteration" in said
    (region,) = watch([row(**{"clip_ratio/region_mean": 0.35, "clip_ratio/low_mean": 0.35})] * SPELL, updates=4)
    assert region == said.replace("from step 6", "from step 5")
    assert watch([some, some, much, much, some] * 5, updates=4) == []
    (said,) = watch([some] * 3 + [none] * WINDOW, updates=4)
    assert said.startswith("from step 4: no ratio was clipped in 20 iterations of 4 updates each")
    assert watch(([none] * (WINDOW - 1) + [some]) * 2, updates=4) == []
    assert watch([row()] * 2 * WINDOW, updates=4) == []  # an algorithm that clips none
    assert watch([none] * 2 * WINDOW, updates=4, clip_high=4.0) == []  # a clip that need never be met
    assert watch([none] * 2 * WINDOW) == []  # with one update the ratio is 1


def test_the_state_is_plain_and_whole():
    """Whatever was seen before a resume, what is said after it is the same."""
    made = [row(reward=0.4, approx_kl=0.2)] * SPELL + [row(reward=0.4)] * WINDOW + [row(reward=0.0)] * WINDOW
    made += [row(entropy=0.01, frac_reward_zero_std=1.0, **{"completions/clipped_ratio": 1.0})] * WINDOW
    made += [lengths(40.0, reward=0.5)] * WINDOW
    made = [{**lengths(12.0), **seen} for seen in made]
    whole = watch(made)
    assert len(whole) == 6
    for cut in (1, SPELL - 1, SPELL, WINDOW, 2 * WINDOW, 3 * WINDOW, 4 * WINDOW + 3):
        first, second = Alarms(setting()), Alarms(setting())
        first.begin([0.4, 0.4])
        seen = [s for step, r in enumerate(made[:cut], start=1) for s in first.check({**r, "step": step})]
        second.restore(json.loads(json.dumps(first.state())))
        seen += [s for step, r in enumerate(made[cut:], start=cut + 1) for s in second.check({**r, "step": step})]
        assert seen == whole


def said_of(seen: dict, *, longest: int = 12, trained: str | None = None, **worth: float) -> str:
    probe = Probe(problems=64, longest=longest, asked="task=x task.trace=a", trained=trained)
    said, hopeless = preflight(seen, setting(**worth), probe)
    return " | ".join([*said, hopeless])


def test_preflight_warns_of_what_makes_learning_slow():
    assert said_of(row()).endswith("completions cut 0.0% | ")
    nothing = row(frac_reward_zero_std=1.0, **{"completions/clipped_ratio": 1.0, "outcomes/truncated": 1.0})
    assert "the start does not know the format (truncated 100%): fine-tune it on" in said_of(nothing)
    assert "cut: decode.max_tokens=20 is too low, or the start" in said_of(nothing, trained="task=x task.trace=a")
    cut = row(**{"completions/clipped_ratio": 0.9})
    assert "decode.max_tokens=20 is too low, or the start does not end its answers" in said_of(cut)
    assert "have up to 25 tokens, decode.max_tokens=20 cuts them; raise it to 25" in said_of(row(), longest=25)
    assert "does not end its answers" not in said_of(cut, longest=25)  # one cause is enough
    malformed = row(**{"outcomes/malformed": 0.8})
    assert "80% of the completions are malformed: fine-tune it on task=x task.trace=a" in said_of(malformed)
    assert "train it longer on task=x" in said_of(malformed, trained="task=x task.trace=a")
    assert "algorithm.rewards.illegal=1.5 is worth no less than a correct answer (1)" in said_of(row(), illegal=1.5)
    assert "algorithm.rewards.wrong=1 is worth no less" in said_of(row(), wrong=1.0)


def test_conclusions_speak_plainly():
    low, high = [0.2, 0.25, 0.15] * 5, [0.4, 0.45, 0.35] * 5
    assert conclusion(low, high).startswith("reward rose: 0.200 → 0.400")
    assert "FELL" in conclusion(high, low)
    assert "did not move" in conclusion(low, [value + 0.005 for value in low])
    assert "did not move" in conclusion([0.0, 1.0] * 5, [0.8] * 10)  # the noise of either end counts
    assert "did not move" in conclusion([0.8] * 10, [0.0, 1.0] * 5)
    negative = [value - 2 for value in low]  # rewards need not be shares
    assert "did not move" in conclusion(negative, [value - 0.005 for value in negative])
    assert "too few iterations" in conclusion([0.1], [0.9])
