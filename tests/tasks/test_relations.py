"""Relations: compositions by matrix products, the sheet's shares of bits and of its short cut."""

from typing import Any

import numpy as np
import pytest

from rlx.errors import ConfigError
from rlx.tasks.relations import Relations, RelationsConfig
from rlx.types import Example, Outcome, Split


def relations(**fields: Any) -> Relations:
    return RelationsConfig(**fields).build()


def table(text: str) -> np.ndarray:
    return np.array([[int(bit) for bit in row] for row in text.split("/")])


def examples(task: Relations, count: int, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


@pytest.mark.parametrize("hops", [2, 3])
def test_compositions_are_matrix_powers(hops: int) -> None:
    for split in Split:
        for example in examples(relations(hops=hops, min_things=3, max_things=9), 60, split):
            matrix = table(example.prompt.removesuffix("="))
            assert (table(example.solution) == (np.linalg.matrix_power(matrix, hops) > 0)).all()


def test_the_worked_example() -> None:
    task = relations(min_things=3, max_things=3)
    from rlx.tasks.relations import Truth, _after

    rows = [0b010, 0b100, 0b100]
    example = Example(id="", prompt="010/001/001=", solution="", truth=Truth(rows, _after(rows, rows)))
    assert task.verify(example, "001/001/001").correct
    found = task.verify(example, "011/001/000")
    assert found.outcome is Outcome.wrong and found.measures["bits"] == pytest.approx(7 / 9)
    for text in ("001/001", "001/001/0012", "0 1/001/001", "001/001/001/", ""):
        assert task.verify(example, text).outcome is Outcome.malformed


@pytest.mark.parametrize(
    ("hops", "least", "most", "ones", "short_cut"), [(2, 6, 10, 0.61, 0.78), (3, 5, 8, 0.50, 0.81)]
)
def test_shares_of_the_papers_sizes(hops: int, least: int, most: int, ones: float, short_cut: float) -> None:
    """The label balance, and what a predictor that counts bits of rows and columns reaches, as the sheet has them."""
    task = relations(hops=hops, min_things=least, max_things=most)
    found = examples(task, 1_500)
    bits = np.concatenate([table(example.solution).ravel() for example in found])
    assert abs(bits.mean() - ones) < 0.01
    right = np.concatenate([(table(example.solution) == table(task.guess(example))).ravel() for example in found])
    assert abs(right.mean() - short_cut) < 0.01


def test_the_likelier_bit_of_two_hops_by_enumeration() -> None:
    """Over all relations of three things with so many bits in the row and in the column."""
    task = relations(min_things=3, max_things=3)
    counts = np.zeros((4, 4, 2))
    for number in range(2**9):
        matrix = np.array([number >> place & 1 for place in range(9)]).reshape(3, 3)
        composed = matrix @ matrix > 0
        i, j = 0, 1  # apart, so that row and column share one bit
        counts[matrix[i].sum(), matrix[:, j].sum(), int(composed[i, j])] += 1
    for row in range(4):
        for column in range(4):
            no, yes = counts[row, column]
            if abs(no - yes) > 0.2 * (no + yes):
                assert task._likely(3, row, column) == (yes > no), (row, column)


def test_density_is_kept() -> None:
    found = [table(example.prompt[:-1]).mean() for example in examples(relations(min_things=6, density=0.5), 500)]
    assert abs(np.mean(found) - 0.5) < 0.02


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"hops": 4}, "task.hops must be 2 or 3"),
        ({"min_things": 2}, "3 <= min_things"),
        ({"min_things": 9, "max_things": 8}, "min_things <= max_things"),
        ({"density": 1.0}, "task.density must be above 0 and below 1"),
    ],
)
def test_settings_that_cannot_be_are_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RelationsConfig(**fields)
