"""`gssm`: Mamba-2's mixer, a scan with a state of fixed size."""

import math
from dataclasses import dataclass

from rlx.errors import ConfigError
from rlx.models.base import Layer, ModelConfig, check_divides, check_positive, heads_of, layer
from rlx.nn.gssm import GSSM

HEAD, LEAST_HEADS = 64, 4
"""Channels of a head, as Mamba-2 has them, but so many heads at least: a head has one decay."""
MOST_STATE = 128


@layer("gssm")
@dataclass(kw_only=True)
class WithGssm(ModelConfig):
    """Settings of the scan. As they are, a layer has about as many parameters as one of attention: 4 d_model^2."""

    gssm_expand: int = 1
    """Inner width over d_model; Mamba-2's own blocks, which have no feed-forward, have 2."""
    gssm_heads: int | None = None
    """Heads, each with a decay; must divide the inner width. null: of 64 channels, but at least 4."""
    gssm_state: int | None = None
    """Numbers kept per channel; null: d_model / 2, at most 128."""
    gssm_groups: int = 1
    """Groups of heads that share B and C (keys and queries); must divide the heads."""
    gssm_conv: int = 4
    """Tokens that the short convolution sees."""
    gssm_dt_min: float = 0.0
    """Least step size, after softplus."""
    gssm_dt_max: float | None = None
    """Largest step size, after softplus; null: no limit."""

    def check_gssm(self) -> None:
        for name in ("gssm_expand", "gssm_conv"):
            check_positive(f"model.{name}", getattr(self, name))
        if self.gssm_state is not None:
            check_positive("model.gssm_state", self.gssm_state)
        check_divides("model.gssm_heads", self.scan_heads(), "gssm_expand x d_model", self.scan_width())
        check_divides("model.gssm_groups", self.gssm_groups, "model.gssm_heads", self.scan_heads())
        if self.gssm_dt_min < 0 or self.gssm_dt_min >= self._dt_limits()[1]:
            raise ConfigError(
                f"model.gssm_dt_min={self.gssm_dt_min} must be at least 0 and below gssm_dt_max={self.gssm_dt_max}"
            )

    def scan_width(self) -> int:
        """Inner width."""
        return self.gssm_expand * self.d_model

    def scan_heads(self) -> int:
        """Heads of the scan."""
        return heads_of(self.scan_width(), HEAD, LEAST_HEADS) if self.gssm_heads is None else self.gssm_heads

    def scan_state(self) -> int:
        """Numbers kept per channel."""
        return min(MOST_STATE, -(-self.d_model // 2)) if self.gssm_state is None else self.gssm_state

    def _dt_limits(self) -> tuple[float, float]:
        return self.gssm_dt_min, math.inf if self.gssm_dt_max is None else self.gssm_dt_max

    def build_gssm(self, layer: Layer) -> GSSM:
        return GSSM(
            d_model=self.d_model,
            width=self.scan_width(),
            heads=self.scan_heads(),
            groups=self.gssm_groups,
            state=self.scan_state(),
            conv=self.gssm_conv,
            norm_eps=self.norm_eps,
            dt_limits=self._dt_limits(),
        )
