"""A queue with one server that drives a scheduler of the engine, and what theory says of it.

Arrivals are Poisson, sizes exponential with mean 1, predictions the size times exp(sigma Z). Theory: the mean response
time of a job is what SOAP (Scully, Harchol-Balter and Scheller-Wolf, 2018) says of the rank "prediction less age until
the age is C times the prediction, then the least there is".
"""

from dataclasses import dataclass

import numpy as np

from rlx.decoding.scheduling import FirstCome, Job


@dataclass
class Queue:
    """Means over the jobs of one simulation."""

    response: float
    """From coming to going."""
    preemptions: float
    """Times a job was set aside."""
    held: float
    """Ages of all jobs that had begun and were not over, found by a job that came."""


def workload(jobs: int, load: float, sigma: float, seed: int = 0) -> tuple[list[float], list[float], list[float]]:
    """Times of coming, sizes and predictions; the former two are those of every sigma. Their means are made exact: by
    how far they are off most of what is measured would be."""
    random = np.random.default_rng(seed)
    gaps, sizes = random.exponential(1.0, jobs), random.exponential(1.0, jobs)
    arrivals, sizes = (gaps / gaps.mean() / load).cumsum(), sizes / sizes.mean()
    return arrivals.tolist(), sizes.tolist(), (sizes * np.exp(sigma * random.standard_normal(jobs))).tolist()


def simulate(scheduler: FirstCome, arrivals: list[float], sizes: list[float], predictions: list[float]) -> Queue:
    """One server, and whoever the scheduler has run."""
    running: Job | None = None
    now = total = aside = held = 0.0
    preemptions = 0
    coming = zip(arrivals, predictions, strict=True)
    number, (arrival, predicted) = 0, next(coming)
    while True:
        ends = np.inf if running is None else now + sizes[running.number] - running.age
        if ends == np.inf and arrival == np.inf:
            break
        if running is not None:
            served = min(ends, arrival) - now
            running.age += served
            running.left -= served
        now = min(ends, arrival)
        if ends <= arrival:
            assert running is not None
            total += now - arrivals[running.number]
            running = scheduler.next() if len(scheduler) else None
            aside -= running.age if running is not None else 0.0
            continue
        held += aside + (0.0 if running is None else running.age)
        scheduler.wait(Job(number, first=predicted, left=predicted))
        number, (arrival, predicted) = number + 1, next(coming, (np.inf, np.inf))
        if running is None:
            running = scheduler.next()
        for goes, comes in scheduler.displace([running]):
            preemptions, running = preemptions + 1, comes
            aside += goes.age - comes.age
    return Queue(total / number, preemptions / number, held / number)


def shortest_remaining(load: float, points: int = 200_000, end: float = 40.0) -> float:
    """Mean response time under SRPT (Schrage and Miller, 1966), by the trapezoidal rule."""
    x = np.linspace(0, end, points)
    density = np.exp(-x)
    below = load * _running(x * density, x)
    waits = (load * _running(x**2 * density, x) + load * x**2 * np.exp(-x)) / (2 * (1 - below) ** 2)
    return float(np.trapezoid((waits + _running(1 / (1 - below), x)) * density, x))


def limited(load: float, preempt: float, sigma: float, *, sizes: int = 800, errors: int = 41) -> float:
    """Mean response time with preemption up to an age of `preempt` times the prediction.

    A job with prediction r waits for what old ones hold at its coming that rank no higher: all of those predicted
    below r, and of another (y, s) what is left of it once it ranks so, by having run s - r or by being kept. Then for
    what comes and ranks below it while it runs.
    """
    quantiles = (np.arange(sizes) + 0.5) / sizes
    y = -np.log1p(-quantiles)
    z, weights = np.polynomial.hermite_e.hermegauss(errors) if sigma else (np.zeros(1), np.ones(1))
    s = y[:, None] * np.exp(sigma * z)  # [sizes, errors]
    share = np.broadcast_to(weights / weights.sum() / sizes, s.shape)
    y = np.broadcast_to(y[:, None], s.shape)
    order = s.ravel().argsort()
    s, y, share = s.ravel()[order], y.ravel()[order], share.ravel()[order]
    work = load * np.concatenate(([0.0], (share * y).cumsum()))  # predicted below the n-th
    grid = np.quantile(s, np.linspace(0, 1, 400), method="inverted_cdf", weights=share)
    grid = np.unique(np.concatenate((np.linspace(0, grid[-1], 200), grid)))
    below = work[np.searchsorted(s, grid)]
    waits = np.empty_like(grid)
    for n, r in enumerate(grid):
        later = np.clip(y - np.minimum(s - r, preempt * s), 0, None)
        second = load * (share * np.where(s < r, y, later) ** 2).sum()
        waits[n] = second / 2 / (1 - below[n]) ** 2
    slowed = _running(1 / (1 - below), grid)  # of ages, each at the rank that is left
    run = np.minimum(y, preempt * s)
    residence = np.interp(s, grid, slowed) - np.interp(s - run, grid, slowed) + y - run
    return float((share * (np.interp(s, grid, waits) + residence)).sum())


def _running(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The integral up to each point."""
    return np.concatenate(([0.0], ((values[1:] + values[:-1]) / 2 * np.diff(x)).cumsum()))
