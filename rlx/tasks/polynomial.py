"""Polynomial: a vector times the powers of a matrix that is never shown, modulo a number.

Source: "Interleaved Head Attention" (arXiv 2602.21371), the polynomial filter of its theory: for a fixed N by N matrix
A and an input X, the outputs X, AX, ..., A^(k-1) X, for which attention's known constructions need k heads and
interleaved heads about the square root of k.

Where sources differ, or leave a choice, this file does:

1. The paper's are real numbers that a layer gives as vectors; here entries are numbers modulo `modulus`, drawn evenly
   and written as text, so that an answer is right or not. X is one vector (d = 1) and is not written again: the answer
   is AX to A^(k-1) X, with k = `powers`.
2. The matrix is fixed by `matrix`, its number, and is the same for all splits and seeds. It is drawn evenly from those
   that are invertible modulo `modulus` (a prime), so that no power loses what was there; it has to be learnt.
3. `measures.entries` is the share of all entries that are right.
4. Splits go by a hash of the vector.

Worked example with `size=2 modulus=5 powers=3`, were the matrix [[1, 2], [3, 4]]: for (1, 3) AX is (7, 15) = (2, 0),
and A AX (2, 6) = (2, 1), so the prompt is `1 3 : ` and the solution `2 0 ; 2 1`."""

from dataclasses import dataclass
from random import Random

from rlx.errors import ConfigError
from rlx.options import option
from rlx.tasks.base import Sized, TaskConfig, compared, split_of, stable_hash
from rlx.types import Example, Outcome, Split, Verdict

ATTEMPTS = 5_000
"""Vectors drawn for one example before the setting is said to have none in the split."""
MOST = {"size": 64, "modulus": 997, "powers": 64}
BETWEEN = " ; "
NOTHING = {"entries": 0.0}
"""Measures of text that is no list of vectors."""
Matrix = list[list[int]]


@option("task", "polynomial")
@dataclass(kw_only=True, slots=True)
class PolynomialConfig(TaskConfig):
    """Powers of a fixed matrix, times a vector."""

    size: int = 4
    """N, entries of a vector: 2 to 64."""
    modulus: int = 5
    """A prime, 2 to 997."""
    powers: int = 4
    """k: the answer has the powers 1 to k - 1."""
    matrix: int = 0
    """Number of the matrix."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        for name, most in MOST.items():
            if not 2 <= getattr(self, name) <= most:
                raise ConfigError(f"task.{name} must be 2 to {most}, got {getattr(self, name)}; try task.{name}=5")
        if any(self.modulus % factor == 0 for factor in range(2, int(self.modulus**0.5) + 1)):
            raise ConfigError(f"task.modulus must be a prime, got {self.modulus}; try task.modulus=5")

    def build(self) -> "Polynomial":
        return Polynomial(self)


class Polynomial(Sized):
    """Vectors of one setting, their products and their verifier."""

    bounded = True
    baseline = "writes the vector again"

    def __init__(self, config: PolynomialConfig) -> None:
        super().__init__(config)
        self.config = config
        self.matrix = invertible(config.size, config.modulus, config.matrix)
        vector = config.size * (len(str(config.modulus - 1)) + 1)
        self.longest = 100 + 4 * (config.powers - 1) * (vector + len(BETWEEN))
        """Characters of the longest text that is read."""

    def example(self, split: Split, index: int) -> Example:
        """The example at `index`: same arguments, same example.

        Raises:
            IndexError: `index` is negative or not below the split's size.
            ConfigError: (almost) no vectors of this setting belong to the split.
        """
        vector = self._draw(Random(stable_hash("polynomial", split.value, self.seed_at(split, index), index)), split)
        products: list[list[int]] = []
        last = vector
        for _ in range(self.config.powers - 1):
            last = times(self.matrix, last, self.config.modulus)
            products.append(last)
        written = " ".join(map(str, vector))
        return Example(
            id=f"polynomial/{stable_hash(self.config.modulus, self.config.matrix, self.config.powers, written):016x}",
            prompt=f"{written} : ",
            solution=BETWEEN.join([" ".join(map(str, product)) for product in products]),
            truth=(vector, products),
            difficulty={"zeros": vector.count(0)},
        )

    def verify(self, example: Example, completion: str) -> Verdict:
        """What `completion` is: correct, wrong (other entries) or malformed.

        Text longer than four times any solution is malformed unread.
        """
        if len(completion) > self.longest:
            return Verdict(Outcome.malformed, f"longer than {self.longest} characters", NOTHING)
        wanted = [str(entry) for product in example.truth[1] for entry in product]
        given = [part.split(" ") for part in completion.rstrip(" \t\r\n").split(BETWEEN)]
        size, powers = self.config.size, self.config.powers
        numbers = [word for part in given for word in part]
        if (
            len(given) != powers - 1
            or any(len(part) != size for part in given)
            or not all(word.isascii() and word.isdigit() for word in numbers)
        ):
            return Verdict(Outcome.malformed, f"not {powers - 1} vectors of {size} numbers", NOTHING)
        return compared(numbers, wanted, "entries")

    def chance(self, example: Example) -> float:
        """Entries drawn evenly."""
        return float(self.config.modulus) ** -(self.config.size * (self.config.powers - 1))

    def guess(self, example: Example) -> str:
        """The vector itself for each product."""
        return BETWEEN.join([" ".join(map(str, example.truth[0]))] * (self.config.powers - 1))

    def words(self) -> list[str]:
        """Digits and marks."""
        return [*"0123456789:; "]

    def _draw(self, random: Random, split: Split) -> list[int]:
        size, modulus, draw = self.config.size, self.config.modulus, random.random
        for _ in range(ATTEMPTS):
            vector = [int(draw() * modulus) for _ in range(size)]
            if split_of(f"polynomial {modulus} {vector}") is split:
                return vector
        raise ConfigError(
            f"task.size={size} with modulus={modulus} has (almost) no vectors for {split.value}; "
            "try larger ones: task.size=4 task.modulus=5"
        )


def times(matrix: Matrix, vector: list[int], modulus: int) -> list[int]:
    """The product [N] of a matrix [N, N] and a vector [N], modulo `modulus`."""
    return [sum([a * b for a, b in zip(row, vector, strict=True)]) % modulus for row in matrix]


def invertible(size: int, modulus: int, number: int) -> Matrix:
    """An invertible matrix [size, size] modulo a prime, drawn evenly by its number."""
    random = Random(stable_hash("matrix", size, modulus, number))
    while True:
        matrix = [[int(random.random() * modulus) for _ in range(size)] for _ in range(size)]
        if _is_invertible(matrix, modulus):
            return matrix


def _is_invertible(matrix: Matrix, modulus: int) -> bool:
    rows = [list(row) for row in matrix]
    for place in range(len(rows)):
        pivot = next((n for n in range(place, len(rows)) if rows[n][place]), None)
        if pivot is None:
            return False
        rows[place], rows[pivot] = rows[pivot], rows[place]
        inverse = pow(rows[place][place], -1, modulus)
        for n in range(place + 1, len(rows)):
            by = rows[n][place] * inverse % modulus
            rows[n] = [(x - by * y) % modulus for x, y in zip(rows[n], rows[place], strict=True)]
    return True
