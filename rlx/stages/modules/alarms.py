"""What an RL run says of itself: whether it can learn before it starts, what goes wrong on the way, what came of it.

Each sentence names its likely cause and what to change. Thresholds are judged on spells of iterations, against the
noise of sampled rewards, and are not tuned to a task. Numbers that are not finite end a run; `loop.fit` says so.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, variance
from typing import Any

from rlx.stages.modules.trends import WINDOW, Trends

SPELL = 5
"""Iterations of which most must show what a single one may show by chance."""
GAP_LIMIT = 0.02
"""Mean gap (nats) between sampled and trained log-probabilities above which rollouts are off-policy."""
DRIFT_LIMIT = 0.1
"""Divergence (nats a token) of the policy at an iteration's last update from the one that sampled: stale data."""
NOISE = 5.0
"""Standard errors that the reward must have fallen by: the best of many windows is high by chance."""
ENTROPY_SHARE = 0.1
"""Entropy below this share of the first iteration's is a collapse, unless most samples are right."""
LONGER = 1.25
"""Growth of the mean length of wrong answers over that of right ones that is no longer taken for harder problems."""
WIDE = 0.5
"""A clip beyond this (as weights of CISPO have it) need never be met."""
CLIPPED_LIMIT = 0.3
"""Share of tokens whose ratio is clipped above which updates are too many or too large."""
VERIFIED = "rewards/verifier/mean"
LENGTH_RIGHT, LENGTH_WRONG = "completions/mean_length_correct", "completions/mean_length_wrong"
MOSTLY = 0.9
"""A share of samples or groups that counts as nearly all."""


@dataclass(slots=True, kw_only=True)
class Setting:
    """What the sentences name of a run's config."""

    lr: float
    max_tokens: int
    group_size: int
    worth: dict[str, float]
    """Reward of each verdict, by its name."""
    corrected: bool
    """Importance weights correct for rollouts that are off-policy."""
    compares: bool = True
    """The algorithm compares a prompt's samples with each other; else those of all prompts."""
    knobs: frozenset[str] = frozenset()
    """Fields of the algorithm's config, those that a sentence may advise."""
    updates: int = 1
    """Optimizer steps an iteration."""
    talks: bool = False
    """Completions are interactions, of several turns each."""
    budgets: tuple[str, ...] = ()
    """What else cuts them than decode.max_tokens, as typed: `environment.turn_tokens=8`."""
    clip_high: float | None = None
    """How far above 1 a ratio is clipped, where the algorithm clips them."""
    warmup: int = 0
    """Steps in which the rate rises to its peak, where every round of training has a schedule of its own."""
    normalization: str | None = None
    """How the per-token loss becomes one number, where the algorithm can choose."""


@dataclass(slots=True, kw_only=True)
class Probe:
    """What the preflight looked at, besides the metrics of its rollout."""

    problems: int
    """Problems sampled, `group_size` times each."""
    longest: int
    """Tokens of the longest of their solutions as the task writes them, the end mark included; in an interaction, of
    the environment's demonstrations."""
    asked: str
    """Task and format of this run, as typed: `task=countdown task.trace=direct`."""
    trained: str | None
    """The same of the run that made the start; empty for random weights, None where it is not known."""

    def format_hint(self) -> str:
        """Why the start may not know the format, and what to do."""
        if self.trained == "":
            return f"its weights are random; fine-tune it on {self.asked} first (stage=sft)"
        if self.trained is not None and self.trained != self.asked:
            return f"it was trained on {self.trained}, this run asks for {self.asked}; use the same, or fine-tune first"
        if self.trained is None:
            return f"fine-tune it on {self.asked} first (stage=sft)"
        return f"train it longer on {self.asked}"


def preflight(row: dict[str, float], setting: Setting, probe: Probe) -> tuple[list[str], str]:
    """What the metrics of one rollout before the first step tell of the start.

    Returns:
        Sentences, the first with the numbers; and why no group has a signal, empty where some group has one.
    """
    cut = row["completions/clipped_ratio"]
    groups = f", groups without signal {row['frac_reward_zero_std']:.1%}" if setting.compares else ""
    said = [
        f"preflight: {', '.join(_passes(row, setting))} ({probe.problems} problems, {setting.group_size} "
        f"samples each){groups}, completions cut {cut:.1%}"
    ]
    if is_silent(row, setting):
        what = "no group has a signal" if setting.compares else "all rewards are equal"
        return said, f"{_cause(row, setting, probe)}; {what}"
    if probe.longest > setting.max_tokens:
        said.append(_too_short(setting, probe))
    elif cut > 0.5:
        said.append(f"{cut:.0%} of the completions are cut: {_never_ends(setting)}")
    if row["outcomes/malformed"] > 0.5:
        said.append(f"{row['outcomes/malformed']:.0%} of the completions are malformed: {probe.format_hint()}")
    others = {name: worth for name, worth in setting.worth.items() if name != "correct"}
    best = max(others, key=lambda name: others[name])
    if others[best] >= setting.worth["correct"]:
        said.append(
            f"algorithm.rewards.{best}={others[best]:g} is worth no less than a correct answer "
            f"({setting.worth['correct']:g}): the policy may learn to give that instead"
        )
    return said, ""


def is_silent(row: dict[str, Any], setting: Setting) -> bool:
    """True where the rewards of an iteration have nothing to teach: equal in every group, or equal in all of them where
    samples are not compared within groups."""
    return row["frac_reward_zero_std"] >= 1 if setting.compares else row["reward_min"] == row["reward_max"]


def verifier_failed(count: str, how: str) -> str:
    """What is said of a verifier that failed on so many completions or turns; `how` is `first_failure`."""
    return f"the verifier failed on {count}, which count as malformed: {how or 'see verifier/errors'}"


def _passes(row: dict[str, float], setting: Setting) -> list[str]:
    """pass@k of the start, as far as the row has it."""
    found = {1: row[VERIFIED], setting.group_size: row["rewards/verifier/any_of_group"]}
    found |= {int(name.removeprefix("pass@")): value for name, value in row.items() if name.startswith("pass@")}
    return [f"pass@{k} {found[k]:.1%}" for k in sorted(found)]


def _cause(row: dict[str, float], setting: Setting, probe: Probe) -> str:
    """Why the samples of every group got the same reward."""
    solved, cut = row["rewards/verifier/mean"], row["completions/clipped_ratio"]
    if len(set(setting.worth.values())) == 1:
        return f"every verdict is worth {setting.worth['correct']:g} (algorithm.rewards), so no sample beats another"
    if solved == 1:
        return "every sample is right already, take harder problems"
    if cut == 1 and probe.longest > setting.max_tokens:
        return f"every completion is cut: {_too_short(setting, probe)}"
    if cut == 1 and probe.trained == probe.asked:
        return f"every completion is cut: {_never_ends(setting)}"
    shares = ", ".join(f"{name} {row[f'outcomes/{name}']:.0%}" for name in setting.worth if row[f"outcomes/{name}"])
    if row["outcomes/malformed"] + row["outcomes/truncated"] >= MOSTLY:
        return f"the start does not know the format ({shares}): {probe.format_hint()}"
    if solved == 0:
        return (
            f"no sample was right ({shares}): train the start longer, take easier problems, or raise "
            "algorithm.group_size"
        )
    return f"the samples of each group are worth the same ({shares}): raise algorithm.group_size or decode.temperature"


def _too_short(setting: Setting, probe: Probe) -> str:
    return (
        f"solutions of {probe.asked} have up to {probe.longest} tokens, decode.max_tokens={setting.max_tokens} cuts "
        f"them; raise it to {probe.longest} or more"
    )


def _never_ends(setting: Setting) -> str:
    return f"{_limits(setting)} is too low, or the start does not end its answers"


def _limits(setting: Setting) -> str:
    """What cuts completions."""
    limit = f"decode.max_tokens={setting.max_tokens}"
    return f"{', '.join(setting.budgets)} or {limit}" if setting.budgets else limit


class Alarms:
    """Watches the rows of a run; each alarm is said once, with the first step of the spell that raised it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.rewards: deque[float] = deque(maxlen=WINDOW)
        self.best: tuple[float, float] | None = None
        """Highest mean reward so far, and the squared standard error of that mean."""
        self.entropy: float | None = None
        """Of the first iteration that trained on anything."""
        self.cut: float | None = None
        """Share of completions cut in the first iteration."""
        self.recent: dict[str, list[float]] = {"entropy": [], "approx_kl": [], "clip_ratio": []}
        """Last `SPELL` values of metrics that not every row has."""
        self.trends = Trends(
            ("reward", VERIFIED, LENGTH_WRONG, LENGTH_RIGHT, *(f"outcomes/{name}" for name in setting.worth))
        )
        self.since: dict[str, int] = {}
        """First step of the spell that each alarm's condition is in."""
        self.said: list[str] = []
        self.failed = ""
        """How the verifier failed last; empty where it did not."""

    def begin(self, rewards: Sequence[float]) -> None:
        """Take the reward of the start from its mean on each problem of the preflight."""
        if len(rewards) > 1:
            self.best = (fmean(rewards), variance(rewards) / len(rewards))

    def check(self, row: dict[str, Any]) -> list[str]:
        """New sentences for a row of metrics."""
        self.rewards.append(row["reward"])
        self.trends.add(row)
        if self.entropy is None:
            self.entropy = row.get("entropy")
        if self.cut is None:
            self.cut = row["completions/clipped_ratio"]
        checks: tuple[tuple[str, int, Callable[[dict[str, Any]], str | None]], ...] = (
            ("verifier", 1, self._verifier),
            ("collapse", SPELL, self._collapse),
            ("signal", WINDOW, self._signal),
            ("entropy", 1, self._entropy),
            ("clipped", SPELL, self._clipped),
            ("gap", 1, self._gap),
            ("drift", 1, self._drift),
            ("length", SPELL, self._length),
            ("hacking", SPELL, self._hacking),
            ("clipping", 1, self._clipping),
            ("unclipped", WINDOW, self._unclipped),
            ("warmup", 1, self._warmup),
        )
        return [sentence for check in checks if (sentence := self._new(*check, row))]

    def _new(
        self, name: str, length: int, condition: Callable[[dict[str, Any]], str | None], row: dict[str, Any]
    ) -> str:
        """The sentence of a condition that now holds for `length` rows in a row, if it was not said.

        A condition is empty where it does not hold and None where the row cannot tell: a spell then goes on.
        """
        sentence = condition(row)
        if sentence == "":
            self.since.pop(name, None)
        if not sentence or name in self.said:
            return ""
        first = self.since.setdefault(name, row["step"])
        if row["step"] - first + 1 < length:
            return ""
        self.said.append(name)
        return f"from step {first}: {sentence}"

    def _usual(self, name: str, row: dict[str, Any]) -> float | None:
        """The median of a metric's last values; None while there are too few, and where this row has none."""
        if name not in row:
            return None
        values = self.recent[name] = [*self.recent[name], row[name]][-SPELL:]
        return median(values) if len(values) == SPELL else None

    def _verifier(self, row: dict[str, Any]) -> str:
        count = row.get("verifier/errors", 0)
        what = "turns" if self.setting.talks else "completions"
        return verifier_failed(f"{count:g} {what}", self.failed) if count else ""

    def _collapse(self, row: dict[str, Any]) -> str:
        if len(self.rewards) < WINDOW:
            return ""
        mean, error = fmean(self.rewards), variance(self.rewards) / WINDOW
        best, best_error = self.best or (mean, error)
        if mean >= best:
            self.best = (mean, error)
        low = min(self.setting.worth.values())
        if mean - low < 0.5 * (best - low) and best - mean > NOISE * math.sqrt(error + best_error):
            lr = self.setting.lr
            return (
                f"the policy collapsed: mean reward fell from {best:.3f} to {mean:.3f}; optim.lr={lr:g} is probably "
                f"too high, try {lr / 5:.1g}"
            )
        return ""

    def _signal(self, row: dict[str, Any]) -> str:
        if not is_silent(row, self.setting):
            return ""
        solved = row["rewards/verifier/mean"]
        if len(set(self.setting.worth.values())) == 1:
            what = "every verdict is worth the same (algorithm.rewards)"
        elif solved == 1:
            what = "every sample is right; take harder problems"
        elif solved == 0:
            what = "no sample is right; the start is too weak for these problems, or the policy has collapsed"
        else:
            what = "the samples of each group are equal; raise decode.temperature, or the policy has collapsed"
        why = "every advantage is 0" if self.setting.compares else "all rewards are equal"
        return f"no signal for {WINDOW} iterations, {why} and the rewards teach nothing: {what}"

    def _entropy(self, row: dict[str, Any]) -> str | None:
        usual = self._usual("entropy", row)
        if usual is None or self.entropy is None:
            return None
        if usual >= ENTROPY_SHARE * self.entropy or row["rewards/verifier/mean"] >= MOSTLY:
            return ""
        theirs = [name for name in ("entropy_coefficient", "kl_coefficient") if name in self.setting.knobs]
        remedy = " or ".join(["a lower optim.lr", *(f"algorithm.{name}" for name in theirs)])
        return (
            f"entropy fell below a tenth of its start ({self.entropy:.3f}): samples of a group are nearly equal and "
            f"exploration ends; {remedy} may hold it up"
        )

    def _clipped(self, row: dict[str, Any]) -> str:
        if row["completions/clipped_ratio"] < 1:
            return ""
        setting, cut = self.setting, self.cut or 0.0
        what = f"every completion is cut at {_limits(setting)} and none can be right"
        if cut > 0.5:
            return f"{what}; raise it, or train the start until it ends its answers"
        return f"{what}, {cut:.0%} were at first: the policy ends its answers no more; lower optim.lr={setting.lr:g}"

    def _gap(self, row: dict[str, Any]) -> str | None:
        name = "sampling/sampling_logp_difference/mean"
        if name not in row:
            return None
        if row[name] <= GAP_LIMIT:
            return ""
        remedy = "trainer.precision=fp32 removes it"
        if self.setting.corrected:
            remedy = f"algorithm.importance_sampling_cap corrects for it; {remedy}"
        elif "importance_sampling_cap" in self.setting.knobs:
            remedy = "use truncated importance sampling (algorithm.importance_sampling_cap=2) or trainer.precision=fp32"
        return (
            f"sampled and trained log-probabilities differ by more than {GAP_LIMIT} nats on average: the rollouts are "
            f"off-policy; {remedy}"
        )

    def _drift(self, row: dict[str, Any]) -> str | None:
        usual = self._usual("approx_kl", row)
        if usual is None:
            return None
        if usual <= DRIFT_LIMIT:
            return ""
        return (
            f"the policy moves more than {DRIFT_LIMIT} nats a token from the one that sampled (approx_kl): too many "
            "updates a rollout, or too large ones; lower algorithm.epochs, algorithm.minibatches or "
            f"optim.lr={self.setting.lr:g}"
        )

    def _length(self, row: dict[str, Any]) -> str:
        """Wrong answers that grow: where right ones grow too, the problems that are left may just need more words."""
        wrong, right = self.trends.of(LENGTH_WRONG), self.trends.of(LENGTH_RIGHT)
        if wrong is None or self.trends.errors(LENGTH_WRONG) < NOISE:
            return ""
        if wrong[1] < LONGER * wrong[0] * max(1.0, right[1] / right[0] if right else 1.0):
            return ""
        grown = f"wrong answers grow longer ({wrong[0]:.1f} → {wrong[1]:.1f} tokens)"
        than = f", more than right ones ({right[0]:.1f} → {right[1]:.1f})" if right else ""
        if self.setting.normalization == "sequence":
            return (
                f"{grown}{than}: algorithm.normalization=sequence divides the blame of a wrong answer by its length; "
                "constant takes this away, token lessens it"
            )
        return (
            f"{grown}{than}: look at samples.jsonl for what they are filled with; a lower decode.max_tokens ends them, "
            f"a lower optim.lr={self.setting.lr:g} keeps the policy nearer to its start"
        )

    def _hacking(self, row: dict[str, Any]) -> str:
        """A reward that rises while fewer answers are right pays for something else."""
        trends = self.trends
        if min(trends.errors("reward"), -trends.errors(VERIFIED)) < NOISE:
            return ""
        (before, now), (right, fewer) = trends.of("reward") or (0, 0), trends.of(VERIFIED) or (0, 0)
        said = f"the reward rises ({before:.3f} → {now:.3f}) while fewer answers are right ({right:.1%} → {fewer:.1%})"
        means = {name: trends.of(f"outcomes/{name}") or (0, 0) for name in self.setting.worth if name != "correct"}
        gains = {name: self.setting.worth[name] * (last - first) for name, (first, last) in means.items()}
        most = max(gains, key=lambda name: gains[name])
        if gains[most] <= 0:
            return f"{said}: something besides the verdicts is paid for; look at samples.jsonl, and pay less for it"
        return (
            f"{said}: the policy learns what algorithm.rewards.{most}={self.setting.worth[most]:g} pays for "
            f"({most} {means[most][0]:.0%} → {means[most][1]:.0%} of the answers); lower it"
        )

    def _clipping(self, row: dict[str, Any]) -> str | None:
        share = _clip_share(row)
        usual = None if share is None else self._usual("clip_ratio", {"clip_ratio": share})
        if usual is None or self.setting.updates == 1:
            return None
        if usual <= CLIPPED_LIMIT:
            return ""
        return (
            f"more than {CLIPPED_LIMIT:.0%} of the tokens have a ratio that is clipped: {self.setting.updates} updates "
            "an iteration are too many, or too large, for algorithm.clip_low and clip_high; lower algorithm.epochs, "
            f"algorithm.minibatches or optim.lr={self.setting.lr:g}"
        )

    def _unclipped(self, row: dict[str, Any]) -> str | None:
        share = _clip_share(row)
        if share is None or self.setting.updates == 1 or (self.setting.clip_high or math.inf) > WIDE:
            return None
        if share:
            return ""
        return (
            f"no ratio was clipped in {WINDOW} iterations of {self.setting.updates} updates each: the policy hardly "
            f"moves between them; optim.lr={self.setting.lr:g} is probably low, or one update would do"
        )

    def _warmup(self, row: dict[str, Any]) -> str | None:
        made = row.get("buffer/updates")
        if made is None:
            return None
        if made >= self.setting.warmup:
            return ""
        return (
            f"a round of {made:g} updates ends in its warm-up: the rate gets no further than {made:g}/"
            f"{self.setting.warmup} of optim.lr={self.setting.lr:g}; lower schedule.warmup_steps, gather more "
            "(algorithm.round_iterations), or take smaller steps (algorithm.batch_rows)"
        )

    def state(self) -> dict[str, Any]:
        return {
            "rewards": list(self.rewards),
            "best": self.best,
            "entropy": self.entropy,
            "cut": self.cut,
            "recent": {name: list(values) for name, values in self.recent.items()},
            "since": dict(self.since),
            "said": list(self.said),
            "failed": self.failed,
            "trends": self.trends.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.rewards = deque(state["rewards"], maxlen=WINDOW)
        self.best = tuple(state["best"]) if state["best"] else None
        self.entropy, self.cut = state["entropy"], state["cut"]
        self.recent.update({name: list(values) for name, values in state["recent"].items()})
        self.since, self.said = dict(state["since"]), list(state["said"])
        self.failed = state.get("failed", "")  # checkpoints of earlier versions have none
        if "trends" in state:  # checkpoints made before there were any have none
            self.trends.restore(state["trends"])


def _clip_share(row: dict[str, Any]) -> float | None:
    """Share of tokens whose ratio was clipped on either side; None where none can be, or nothing was trained on."""
    if "clip_ratio/region_mean" in row:
        return row["clip_ratio/region_mean"]
    sides = [row[name] for name in ("clip_ratio/low_mean", "clip_ratio/high_mean") if name in row]
    return sum(sides) if sides else None


def conclusion(before: Sequence[float], after: Sequence[float]) -> str:
    """What came of the run, from the mean rewards of its first and of its last iterations.

    The change is called a move when it exceeds two standard errors, which the spread between iterations gives: each
    iteration draws its own problems, so it holds whatever rewards are worth and however alike a group's samples are.
    """
    first, last = sum(before) / len(before), sum(after) / len(after)
    change = f"{first:.3f} → {last:.3f}"
    if len(before) < 2 or len(after) < 2:
        return f"reward: {change} (too few iterations to tell from noise)"
    error = math.sqrt(variance(before) / len(before) + variance(after) / len(after))
    if last - first > 2 * error:
        return f"reward rose: {change}"
    if first - last > 2 * error:
        return f"reward FELL: {change}; optim.lr is probably too high"
    return (
        f"reward did not move: {change} (within noise of ±{2 * error:.3f}); look at frac_reward_zero_std (signal), "
        "optim.lr (too low?) and stage.steps (too few?)"
    )
