"""The counter-based generator against plain-Python SplitMix64, and its statistics."""

import pytest
import torch

from rlx.decoding.uniforms import mix, sample_keys, uniforms

MASK = 2**64 - 1


class SplitMix64:
    """The generator of the paper, with Python's integers."""

    def __init__(self, seed: int) -> None:
        self.state = seed & MASK

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)


def finalizer(x: int) -> int:
    """The output function alone: the generator's first number at the seed one golden ratio before."""
    return SplitMix64(x - 0x9E3779B97F4A7C15).next()


def signed(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x


KEYS = [0, 1, -1, 42, 2**63 - 1, -(2**63), 0x0123456789ABCDEF]


def test_reference_has_the_published_numbers() -> None:
    """First outputs for seed 1234567, as Rosetta Code and the generator's ports list them."""
    generator = SplitMix64(1234567)
    assert [generator.next() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_mix_is_the_output_function() -> None:
    assert mix(torch.tensor(KEYS)).tolist() == [signed(finalizer(key)) for key in KEYS]


def test_uniforms_are_the_generator_seeded_with_the_mixed_key() -> None:
    streams = [SplitMix64(finalizer(key)) for key in KEYS]
    for step in range(20):
        expected = [((stream.next() >> 12) + 0.5) / 2**52 for stream in streams]
        assert uniforms(torch.tensor(KEYS), step).tolist() == expected


def test_sample_keys_are_the_generator_seeded_with_the_mixed_key() -> None:
    expected = []
    for key in KEYS:
        stream = SplitMix64(finalizer(key))
        expected += [signed(stream.next()) for _ in range(3)]
    found = sample_keys(torch.tensor(KEYS), 3)
    assert found.tolist() == expected
    assert len(set(expected)) == len(expected)


def test_the_ends_are_never_reached() -> None:
    """The smallest and the largest number that the conversion can give."""
    bits = torch.tensor([0, 2**52 - 1])
    ends = (bits.double() + 0.5) * 2.0**-52
    assert ends[0] > 0 and ends[1] < 1


@pytest.mark.parametrize("kind", ["neighbouring keys", "consecutive steps", "samples of a prompt"])
def test_numbers_look_uniform_and_independent(kind: str) -> None:
    count = 10_000
    if kind == "neighbouring keys":
        numbers = uniforms(torch.arange(count), 0)
    elif kind == "consecutive steps":
        numbers = torch.cat([uniforms(torch.tensor([7]), step) for step in range(count)])
    else:
        numbers = uniforms(sample_keys(torch.tensor([3]), count), 5)
    assert abs(numbers.mean() - 1 / 2) < 4 * (1 / 12 / count) ** 0.5
    assert abs(numbers.var() - 1 / 12) < 4 * (1 / 180 / count) ** 0.5
    scaled = (numbers - 0.5) * 12**0.5
    for lag in (1, 2, 3, 16):
        assert abs((scaled[:-lag] * scaled[lag:]).mean()) < 4 / count**0.5, lag
    pairs = (numbers[:-1] * 16).long() * 16 + (numbers[1:] * 16).long()
    observed = torch.bincount(pairs, minlength=256).double()
    chi_square = ((observed - observed.mean()) ** 2 / observed.mean()).sum().item()
    assert abs(chi_square - 255) < 5 * (2 * 255) ** 0.5


def test_steps_of_neighbouring_keys_do_not_follow_each_other() -> None:
    numbers = torch.stack([uniforms(torch.arange(64), step) for step in range(64)])
    assert numbers.flatten().unique().numel() == numbers.numel()
