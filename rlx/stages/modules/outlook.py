"""What a start's samples say of the training to come: how often k samples have a right one, and how many groups of G
samples would teach something.

Both are unbiased for every size up to the number of samples a problem has, by counting the subsets of its samples:
pass@k = 1 - C(n-c, k) / C(n, k) of a problem with c right ones of n (arXiv 2107.03374), and a group has a signal unless
all its rewards are equal, 1 - sum over rewards of C(n_r, G) / C(n, G), where n_r samples got reward r. With rewards of
two kinds that is 1 - C(c, G) / C(n, G) - C(n-c, G) / C(n, G).
"""

from collections import Counter
from collections.abc import Sequence
from math import comb

from rlx.statistics import pass_at_k

SMALL = 0.3
"""Share of groups with a signal below which most of an iteration is spent in vain."""
GROWS = 1.4
"""A larger group helps where the last doubling multiplied the share of groups with a signal by this."""


def sizes(samples: int) -> list[int]:
    """1, 2, 4, ... and the number of samples itself."""
    powers = [2**n for n in range(samples.bit_length()) if 2**n < samples]
    return [*powers, samples]


def signal(rewards: Sequence[Sequence[float]], size: int) -> float:
    """The expected share of groups of `size` samples whose rewards are not all equal.

    rewards: one row a problem, one reward a sample; equal means equal as a number.

    Raises:
        ValueError: a problem has fewer samples than `size`, or `size` is below 1.
    """
    fewest = min(map(len, rewards))
    if not 1 <= size <= fewest:
        raise ValueError(f"groups of {size} need 1 to n samples of each problem; the fewest is n={fewest}")
    dead = [sum(comb(count, size) for count in Counter(row).values()) / comb(len(row), size) for row in rewards]
    return 1.0 - sum(dead) / len(dead)


def outlook(rewards: Sequence[Sequence[float]], right: Sequence[Sequence[bool]]) -> dict[str, float]:
    """pass@k for k = 1, 2, 4, ... and signal@G for G = 2, 4, ..., up to all the samples of a problem.

    rewards, right: one row a problem, one entry a sample, as many of each problem.
    """
    samples = len(right[0])
    counts = [sum(row) for row in right]
    found = {f"pass@{k}": float(pass_at_k(counts, samples, k).mean()) for k in sizes(samples)}
    return found | {f"signal@{size}": signal(rewards, size) for size in sizes(samples) if size > 1}


def prospects(found: dict[str, float], *, prompts: int, samples: int) -> str:
    """How many of an iteration's `prompts` groups of `samples` will have a signal, and what to change where few do."""
    shares = {size: found[f"signal@{size}"] for size in sizes(samples) if size > 1}
    if not shares:
        return "groups of 1 have no sample to be compared with: rewards teach by their sign alone"
    share = shares[samples]
    by_size = ", ".join(f"{size}: {value:.0%}" for size, value in shares.items())
    said = (
        f"of the {prompts} groups that an iteration draws, about {prompts * share:.3g} will have a signal, rewards "
        f"that differ ({share:.0%}; by group size {by_size})"
    )
    if share >= SMALL:
        return said
    return f"{said}: {_remedy(found, shares, samples)}"


def _remedy(found: dict[str, float], shares: dict[int, float], samples: int) -> str:
    half = max((value for size, value in shares.items() if size < samples), default=0.0)
    if found["pass@1"] > 0.5:
        return "most samples are right already; harder problems would teach more, a higher decode.temperature too"
    if shares[samples] >= GROWS * half:
        return (
            f"algorithm.group_size={2 * samples} would find more (groups of {samples} have {shares[samples]:.0%}, half "
            f"as large {half:.0%}), as would easier problems or a start that was trained longer"
        )
    return (
        "larger groups would find little more; easier problems, a start that was trained longer, or a higher "
        "decode.temperature would"
    )
