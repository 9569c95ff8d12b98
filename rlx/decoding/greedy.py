"""`decode=greedy`: the most likely token at every step."""

from dataclasses import dataclass

from rlx.decoding.base import DecodeConfig
from rlx.options import option


@option("decode", "greedy")
@dataclass(kw_only=True, slots=True)
class GreedyConfig(DecodeConfig):
    """One completion per prompt, no randomness."""

    temperature: float = 0.0
    """0: the most likely token."""
