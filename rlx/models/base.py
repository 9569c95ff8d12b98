"""What a model's config promises: its layers, and the decoder they make."""

from dataclasses import dataclass
from typing import ClassVar

from rlx.errors import ConfigError
from rlx.nn.block import Block
from rlx.nn.decoder import Decoder

TIED = "head.weight"
"""Left out of a folder when the head is the embedding."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Fields that every model has."""

    tensor_free: ClassVar[frozenset[str]] = frozenset({"rope_theta", "norm_eps"})
    """Fields that may change with the weights kept."""

    d_model: int = 128
    """Width of the residual stream."""
    n_layers: int = 4
    """Number of blocks."""
    tie_embeddings: bool = True
    """The head is the embedding's transpose."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-5
    """Added to the mean square in norms."""
    init_std: float = 0.02
    """Standard deviation of fresh weights; projections into the residual stream get it over sqrt(2 n_layers)."""

    def __post_init__(self) -> None:
        check_positive("model.d_model", self.d_model)
        check_positive("model.n_layers", self.n_layers)
        if self.norm_eps < 0 or self.init_std < 0 or self.rope_theta <= 0:
            raise ConfigError(
                f"model.norm_eps={self.norm_eps} and init_std={self.init_std} must be at least 0, "
                f"rope_theta={self.rope_theta} above 0"
            )

    def blocks(self) -> list[Block]:
        """The layers, with fresh weights."""
        raise NotImplementedError

    def rotary_dim(self) -> int | None:
        """Width of a rotated head, None without rotary positions."""
        raise NotImplementedError

    def build(self, vocab_size: int) -> Decoder:
        """The decoder, with fresh weights from torch's global generator."""
        head_dim = self.rotary_dim()
        return Decoder(
            self.blocks(),
            vocab_size=vocab_size,
            d_model=self.d_model,
            norm_eps=self.norm_eps,
            tie_embeddings=self.tie_embeddings,
            init_std=self.init_std,
            rotary=None if head_dim is None else (head_dim, self.rope_theta),
        )


def check_positive(name: str, value: int) -> None:
    """One line when `value` is not a count.

    Raises:
        ConfigError: value < 1.
    """
    if value < 1:
        raise ConfigError(f"{name}={value} must be at least 1")


def check_divides(name: str, part: int, whole_name: str, whole: int) -> None:
    """One line when `part` does not divide `whole`.

    Raises:
        ConfigError: part < 1, or it does not divide.
    """
    if part < 1 or whole % part:
        near = [n for n in range(1, whole + 1) if whole % n == 0]
        near = sorted(sorted(near, key=lambda n: abs(n - part))[:2])
        tries = " or ".join(str(n) for n in near)
        raise ConfigError(f"{name}={part} does not divide {whole_name}={whole}; try {tries}")
