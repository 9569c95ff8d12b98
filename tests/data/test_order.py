"""The walk through a task: permutations of bounded sets, streams of their own for every key."""

from itertools import combinations, pairwise

import pytest

from rlx.data.order import BLOCK, Order

SIZES = [1, 5, 1024, 1025, 3000, 3072]


@pytest.mark.parametrize("size", SIZES)
def test_each_epoch_is_a_permutation(size: int) -> None:
    order = Order(size, 0, "rl")
    for epoch in range(3):
        assert sorted(order[epoch * size + place] for place in range(size)) == list(range(size))


@pytest.mark.parametrize("size", [5, 1025, 3000])
def test_epochs_and_keys_differ(size: int) -> None:
    orders = [Order(size, 0, "rl"), Order(size, 1, "rl"), Order(size, 0, "sft"), Order(size, 0, "rl", 2)]
    walks = [tuple(order[place] for place in range(size)) for order in orders]
    walks.append(tuple(orders[0][size + place] for place in range(size)))
    assert len(set(walks)) == len(walks)


@pytest.mark.parametrize("size", [5, 3000, None])
def test_a_walk_is_a_function_of_its_position(size: int | None) -> None:
    forwards = [Order(size, 3)[place] for place in range(0, 9000, 37)]
    order = Order(size, 3)
    assert [order[place] for place in reversed(range(0, 9000, 37))] == forwards[::-1]


def test_neighbours_are_walked_together() -> None:
    """Sets that are made block by block are made once an epoch."""
    order = Order(4 * BLOCK + 100, 0)
    blocks = [order[place] // BLOCK for place in range(4 * BLOCK + 100)]
    changes = sum(one != other for one, other in pairwise(blocks))
    assert changes == 4


def test_unbounded_streams_do_not_overlap() -> None:
    length = 1_000_000
    starts = [Order(None, seed, stage)[0] for seed in range(20) for stage in ("pretrain", "sft", "rl")]
    assert all(abs(one - other) > length for one, other in combinations(starts, 2))
    order = Order(None, 0, "rl")
    assert [order[place] - order[0] for place in (0, 1, 2, 10**6)] == [0, 1, 2, 10**6]


def test_the_order_never_changes() -> None:
    """Resumed runs and paired arms rely on it."""
    assert [Order(10, 0, "rl")[place] for place in range(10)] == [7, 9, 3, 1, 4, 6, 2, 8, 0, 5]
    assert Order(None, 0, "rl")[5] == 78803363845
