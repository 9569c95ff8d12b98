"""The published equations as loops over the tokens of completions, in float64, without rlx's code.

Nothing is padded or masked here: a completion is as long as its lists. Numbers are floats, and what is differentiated
are scalar tensors, so that autograd gives the derivative of an equation as it is written.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import torch
from torch import Tensor

LONGEST = 7
"""Most tokens that a completion may have."""


@dataclass(kw_only=True)
class Completion:
    """One sampled completion; lists have an entry a token, log-probabilities are nats."""

    group: int
    reward: float
    sampled: list[float]
    """Recorded by the policy that drew it."""
    now: list[Tensor]
    """Of the policy that is trained."""
    reference: list[float]
    trainer: list[float]
    """The trainer's own before its first update."""
    entropy: list[float]
    finished: bool = True
    correct: bool = False

    def __len__(self) -> int:
        return len(self.sampled)


def scalar(value: float) -> Tensor:
    """What is differentiated."""
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def completion(
    reward: float, length: int = 1, *, group: int = 0, ratio: float = 1.0, finished: bool = True
) -> Completion:
    """One whose policies agree on log 1/4 for every token, the trained one `ratio` times as likely."""
    same = [math.log(0.25)] * length
    return Completion(
        group=group,
        reward=reward,
        sampled=list(same),
        now=[scalar(value + math.log(ratio)) for value in same],
        reference=list(same),
        trainer=list(same),
        entropy=[0.0] * length,
        finished=finished,
        correct=reward > 0,
    )


def drawn(
    seed: int = 0, sizes: Sequence[int] = (3, 4, 5), *, scale: float = 1.0, apart: float = 0.5
) -> list[Completion]:
    """Groups of such sizes, their rows in any order; policies are about `apart` from the one that sampled."""
    made = random.Random(seed)
    groups = [number for number, size in enumerate(sizes) for _ in range(size)]
    made.shuffle(groups)
    rows = []
    for group in groups:
        sampled = [-abs(made.gauss(0, 1)) - 0.1 for _ in range(made.randint(1, LONGEST))]
        reward = scale * made.gauss(0, 1)
        near = [[value + made.gauss(0, apart) for value in sampled] for _ in range(3)]
        rows.append(
            Completion(
                group=group,
                reward=reward,
                sampled=sampled,
                now=[scalar(value) for value in near[0]],
                reference=near[1],
                trainer=near[2],
                entropy=[made.random() for _ in sampled],
                finished=len(sampled) < LONGEST,
                correct=reward > 0,
            )
        )
    return rows


# -- advantages: one a row, or a list of one a token


def siblings(rows: Sequence[Completion], row: Completion) -> list[float]:
    """Rewards of the row's group, its own among them."""
    return [other.reward for other in rows if other.group == row.group]


def centred(rows: Sequence[Completion]) -> list[float]:
    """Dr. GRPO: r - mean of the group."""
    return [row.reward - fmean(siblings(rows, row)) for row in rows]


def by_group(rows: Sequence[Completion], eps: float = 1e-4) -> list[float]:
    """GRPO: (r - mean) / (standard deviation + eps) of the group, with Bessel's correction."""
    return [a / (stdev(siblings(rows, row)) + eps) for a, row in zip(centred(rows), rows, strict=True)]


def by_batch(rows: Sequence[Completion], eps: float = 1e-4) -> list[float]:
    """Lite PPO: the group's mean, the standard deviation of all."""
    whole = stdev(row.reward for row in rows)
    return [a / (whole + eps) for a in centred(rows)]


def leave_one_out(rows: Sequence[Completion]) -> list[float]:
    """RLOO: r - mean of the others of the group."""
    found = []
    for place, row in enumerate(rows):
        others = [other.reward for n, other in enumerate(rows) if other.group == row.group and n != place]
        found.append(row.reward - fmean(others))
    return found


def costed(rows: Sequence[Completion], beta: float, estimate: Callable[[float], float]) -> list[list[float]]:
    """Rewards a token: -beta times an estimate of the divergence from reference - sampled, and the outcome's on the
    last."""
    found = []
    for row in rows:
        costs = [-beta * estimate(ref - own) for ref, own in zip(row.reference, row.sampled, strict=True)]
        costs[-1] += row.reward
        found.append(costs)
    return found


def to_go(rewards: Sequence[Sequence[float]]) -> list[list[float]]:
    """The sum of rewards from each token on."""
    return [[math.fsum(row[t:]) for t in range(len(row))] for row in rewards]


def whitened(values: Sequence[Sequence[float]], eps: float = 1e-8) -> list[list[float]]:
    """Less the mean, over the standard deviation (Bessel's correction) + eps, of all tokens of all rows together."""
    flat = [value for row in values for value in row]
    mean, spread = fmean(flat), stdev(flat) + eps
    return [[(value - mean) / spread for value in row] for row in values]


# -- losses of a token


def k1(gap):
    """Estimates of KL(policy || reference) from gap = log reference - log policy of a sample of the policy."""
    return -gap


def k2(gap):
    return gap * gap / 2


def k3(gap):
    return exp(gap) - 1 - gap


def exp(value):
    return value.exp() if isinstance(value, Tensor) else math.exp(value)


def clipped(ratio: Tensor, advantage: float, low: float, high: float, dual: float | None = None) -> Tensor:
    """PPO's: -min(rho A, clip(rho, 1 - low, 1 + high) A), for A < 0 at most -dual A."""
    inside = ratio if 1 - low <= ratio <= 1 + high else ratio.new_tensor(1 - low if ratio < 1 - low else 1 + high)
    loss = max(-ratio * advantage, -inside * advantage)
    if dual is not None and advantage < 0:
        loss = min(loss, ratio.new_tensor(-dual * advantage))
    return loss


# -- one number


def reduced(losses: Sequence[Sequence[Tensor]], how: str, longest: int = LONGEST) -> Tensor:
    """Per-token losses of all rows of an optimizer step as one number."""
    tokens = sum(len(row) for row in losses)
    if how == "token":
        return sum_of([sum_of(row) / tokens for row in losses])
    if how == "sequence":
        return sum_of([sum_of(row) / len(row) / len(losses) for row in losses])
    if how == "constant":
        return sum_of([sum_of(row) / longest / len(losses) for row in losses])
    assert how == "sum"
    return sum_of([sum_of(row) / len(losses) for row in losses])


def sum_of(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()


@dataclass(kw_only=True)
class Equation:
    """L = reduce[ w * surrogate + beta * KL - c * H ] with PPO's clipped surrogate, and what is in it."""

    how: str
    low: float = 0.2
    high: float = 0.2
    dual: float | None = None
    beta: float = 0.0
    estimate: Callable = k3
    entropy: float = 0.0
    cap: float | None = None
    longest: int = LONGEST
    losses: list[list[Tensor]] = field(default_factory=list)

    def of(self, rows: Sequence[Completion], advantages: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
        """The loss; advantages are one a row, or a list of one a token."""
        self.losses = [
            [self.token(row, t, a[t] if isinstance(a, Sequence) else a) for t in range(len(row))]
            for row, a in zip(rows, advantages, strict=True)
        ]
        return reduced(self.losses, self.how, self.longest)

    def token(self, row: Completion, t: int, advantage: float) -> Tensor:
        old = row.sampled[t] if self.cap is None else row.trainer[t]
        loss = clipped((row.now[t] - old).exp(), advantage, self.low, self.high, self.dual)
        if self.cap is not None:
            loss = min(math.exp(row.trainer[t] - row.sampled[t]), self.cap) * loss
        return loss + self.beta * self.estimate(row.reference[t] - row.now[t]) - self.entropy * row.entropy[t]
