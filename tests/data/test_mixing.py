"""Which source stands where: evenly, in every block, and the same from wherever one begins."""

from itertools import pairwise

import numpy as np
import pytest

from rlx.data.mixing import BLOCK, STRETCH, Mixing

RATES = {
    "one": [3.0],
    "equal": [1.0, 1.0],
    "three": [0.7, 0.2, 0.1],
    "rare": [1.0, 1e-4, 5e-4],
    "rare last": [5.0, 2.0, 1e-3],
    "many": [1.0 / n for n in range(1, 40)],
}


def walked(rates: list[float], count: int, *key: object) -> list[tuple[int, int]]:
    mixing = Mixing(rates, *key)
    return [mixing[position] for position in range(count)]


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
def test_each_source_walks_its_own_stream_from_the_start(rates: list[float]) -> None:
    found = walked(rates, 5 * BLOCK, 0)
    for source in range(len(rates)):
        places = [place for each, place in found if each == source]
        assert places == list(range(len(places)))


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES)
def test_every_block_has_within_one_of_each_rate(rates: list[float]) -> None:
    sources = np.array([source for source, _ in walked(rates, 40 * BLOCK, "seed")]).reshape(40, BLOCK)
    wanted = BLOCK * np.array(rates) / sum(rates)
    counts = np.stack([np.bincount(block, minlength=len(rates)) for block in sources])
    assert (abs(counts - wanted) < 1).all()
    assert (abs(counts.sum(0) - 40 * wanted) < 3).all()


def test_rare_sources_get_their_share_over_many_blocks() -> None:
    """A rate of one in ten blocks: ten times in a hundred of them, and never long away."""
    rates = [1.0, 0.1 / BLOCK]
    found = walked(rates, 300 * BLOCK, 7)
    seen = [position // BLOCK for position, (source, _) in enumerate(found) if source == 1]
    assert abs(len(seen) - 30) <= 2
    assert max(later - sooner for sooner, later in pairwise(seen)) <= 20


def test_any_position_can_be_asked_for_first() -> None:
    last = (STRETCH + 3) * BLOCK + 17
    near = Mixing([0.6, 0.3, 0.1], 1)
    counts = [0, 0, 0]
    for position in range(last + 1):
        source, place = near[position]
        assert place == counts[source]
        counts[source] += 1
    far = Mixing([0.6, 0.3, 0.1], 1)
    assert far[last] == near[last] and far[5] == near[5] and far[BLOCK + 1] == near[BLOCK + 1]


@pytest.mark.parametrize("size", [7, 208, BLOCK, 1500, 5000])
def test_shares_come_out_at_the_end_of_a_walk(size: int) -> None:
    """Within one of each rate, and a few of the walk's last positions that fill no block."""
    mixing = Mixing([0.6, 0.4], 3, size=size)
    first = sum(mixing[position][0] == 0 for position in range(size))
    left = size % mixing.block
    assert mixing.block > size / 2 or mixing.block > BLOCK / 2
    assert abs(first - 0.6 * size) < 2 + left


def test_sources_are_shuffled_and_the_key_says_how() -> None:
    first, same, other = (walked([0.5, 0.5], BLOCK, key) for key in (0, 0, 1))
    assert first == same != other
    changes = sum(one != next_ for (one, _), (next_, _) in pairwise(first))
    assert 0.4 * BLOCK < changes < 0.6 * BLOCK
