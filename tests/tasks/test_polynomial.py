"""Polynomial by numpy's matrix powers."""

from typing import Any

import numpy as np
import pytest

from rlx.errors import ConfigError
from rlx.tasks.polynomial import Polynomial, PolynomialConfig, _is_invertible, invertible, times
from rlx.types import Outcome, Split


def polynomial(**fields: Any) -> Polynomial:
    return PolynomialConfig(**fields).build()


@pytest.mark.parametrize("fields", [{}, {"size": 7, "modulus": 97, "powers": 6}, {"powers": 2}])
def test_answers_are_powers_of_one_matrix(fields: dict[str, Any]) -> None:
    task = polynomial(**fields)
    modulus, matrix = task.config.modulus, np.array(task.matrix)
    for split in Split:
        for index in range(20):
            example = task.example(split, index)
            vector = np.array([int(word) for word in example.prompt.removesuffix(" : ").split(" ")])
            wanted = [np.linalg.matrix_power(matrix, k) @ vector % modulus for k in range(1, task.config.powers)]
            given = [[int(word) for word in part.split(" ")] for part in example.solution.split(" ; ")]
            assert np.array_equal(given, wanted)


def test_the_matrix_hangs_on_its_number_alone() -> None:
    assert polynomial().matrix == polynomial(seed=5).matrix != polynomial(matrix=1).matrix


def test_the_worked_example() -> None:
    assert times([[1, 2], [3, 4]], [1, 3], 5) == [2, 0] and times([[1, 2], [3, 4]], [2, 0], 5) == [2, 1]


def test_matrices_are_invertible_and_even_among_those() -> None:
    """Of the 16 matrices of two rows modulo 2, 6 are; and determinants modulo 5 by numpy."""
    drawn = {str(invertible(2, 2, number)) for number in range(200)}
    assert len(drawn) == 6
    random = np.random.default_rng(0)
    for _ in range(300):
        matrix = random.integers(0, 5, (3, 3))
        assert _is_invertible(matrix.tolist(), 5) == (round(np.linalg.det(matrix)) % 5 != 0)


def test_verdicts() -> None:
    task = polynomial()
    example = task.example(Split.train, 0)
    assert task.verify(example, task.guess(example)).outcome is Outcome.wrong
    for text in (example.solution.replace(" ; ", " "), example.solution + " ; 1 2 3 4", "a b c d", ""):
        assert task.verify(example, text).outcome is Outcome.malformed
    assert task.chance(example) == 5**-12


@pytest.mark.parametrize("fields", [{"modulus": 6}, {"modulus": 1}, {"size": 1}, {"powers": 1}])
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PolynomialConfig(**fields)


def test_a_split_without_vectors_is_one_line() -> None:
    with pytest.raises(ConfigError, match="no vectors for val"):
        polynomial(size=2, modulus=2).example(Split.val, 0)
