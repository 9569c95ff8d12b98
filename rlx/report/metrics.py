"""Which metrics a page shows of a stage, in which order and by which words."""

from collections.abc import Iterable

THROUGHPUT = "train/tok_per_sec"
AXES = {"step": "steps", "tokens": "tokens", "flops": "FLOPs"}
COLUMNS = {"step": "step", "tokens": "tokens", "flops": "flops/total"}
LOSSES = {
    "val/loss": "validation loss, nats a token",
    "train/loss": "training loss, nats a token",
    THROUGHPUT: "tokens a second",
    "train/mfu": "model FLOPs utilization",
    "train/grad_norm": "gradient norm",
}
RL = {
    "reward": "reward",
    "val/pass@1": "held-out pass@1",
    "rewards/verifier/mean": "right among the samples",
    "reward_std": "reward, std in a group",
    "frac_reward_zero_std": "groups with equal rewards",
    "kl": "KL to the reference, nats",
    "entropy": "entropy, nats",
    "completions/mean_length": "completion length, tokens",
    "completions/mean_length_wrong": "length of wrong ones, tokens",
    "completions/clipped_ratio": "completions cut off",
    "clip_ratio/low_mean": "ratios clipped below",
    "clip_ratio/high_mean": "ratios clipped above",
    "clip_ratio/region_mean": "ratios clipped",
    "val/loss": "validation loss",
    THROUGHPUT: "tokens a second",
}
NORMALISED = "merge/normalised_accuracy"
MERGE = {
    "val/loss": "loss, nats",
    NORMALISED: "of best parent, %",
    "merge/barrier": "barrier, nats",
    "merge/cosine": "cosine",
    "merge/cka": "CKA, mean",
    "merge/barrier_height": "barrier height, nats",
    "merge/convexity_gap": "convexity gap, nats",
}
IN_TABLES = (
    "val/loss", "train/loss", "reward", "val/pass@1", "kl", "entropy", "completions/mean_length", "merge/barrier"
)  # fmt: skip
FROM_ZERO = {"reward_std", "frac_reward_zero_std", "entropy", "completions/clipped_ratio", THROUGHPUT}
SHARES = {"outcomes/": "verdicts", "measures/format_": "formats"}
"""Beginnings of the names of shares that are drawn together, and what they are shares of."""
CLIPS = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")
JUDGED = ("pass@1", "val/pass@1", "reward", "val/loss", "train/loss", "greedy")
MOST_ACCURACIES = 2


def is_kept(key: str) -> bool:
    """True for what figures and tables show, and what they show it against."""
    return key in _KNOWN or key.startswith(("eval/", *SHARES))


def panels(stage: str, logged: Iterable[str]) -> dict[str, str]:
    """Metrics with their titles: what the stage is known for, and second the accuracies measured on the way."""
    logged = list(logged)
    known = {key: title for key, title in _of(stage, logged).items() if key in logged}
    accuracies = {key: key.removeprefix("eval/") for key in logged if key.startswith("eval/") and is_accuracy(key)}
    measured = dict(sorted(accuracies.items(), key=lambda item: _rank(item[0]))[:MOST_ACCURACIES])
    first = dict(list(known.items())[:1])
    return {**first, **measured, **known}


def judged(stage: str, logged: Iterable[str]) -> str:
    """The metric that arms of a stage are ranked by; empty where there is none."""
    logged = list(logged)
    if stage == "merge" and NORMALISED in logged:
        return NORMALISED
    for wanted in JUDGED:
        found = [key for key in logged if key == wanted or (key.startswith("eval/") and key.endswith(f"/{wanted}"))]
        if found and not (wanted == "train/loss" and _is_rl(stage, logged)):
            return found[0]
    return ""


def is_accuracy(key: str) -> bool:
    """True for a share of problems solved."""
    return key.rpartition("/")[2].startswith(("greedy", "pass@", "maj@", "mean@"))


def in_table(shown: Iterable[str]) -> list[str]:
    """Those of a stage's metrics that its table has room for."""
    return [key for key in shown if key in IN_TABLES or key.startswith("eval/")]


def title(key: str) -> str:
    """A metric as a table's heading."""
    return key.rpartition("/")[2] if key.startswith(("eval/", "completions/", "merge/")) else key


def _rank(key: str) -> int:
    """pass@1 and greedy before the others."""
    return next((number for number, name in enumerate(("pass@1", "greedy", "maj@")) if f"/{name}" in key), 9)


def _is_rl(stage: str, logged: list[str]) -> bool:
    return stage == "rl" or "reward" in logged


def _of(stage: str, logged: list[str]) -> dict[str, str]:
    return RL if _is_rl(stage, logged) else MERGE if stage == "merge" else LOSSES


_KNOWN = {*LOSSES, *RL, *MERGE, *COLUMNS.values(), "wall"}
