"""`merge=breadcrumbs`: differences without the smallest and the largest (Davari & Belilovsky, arXiv 2312.06795).

Of each delta W_i - W0 the `gamma` of largest magnitude is dropped, then the smallest, until `density` is left; W0 +
scale times the weighted sum.

1. Numbers of entries are rounded down, and one at least is kept: a small tensor, whose gamma comes to no entry, loses
   none at the top. mergekit 0.1.4 dropped all of such a tensor; 0.1.5 does not, but a tensor of fewer than 1 / density
   entries loses all there.
2. Where density + gamma is above 1, gamma gives way (mergekit): a density of 1 is task arithmetic.
3. Entries equal to the largest or to the smallest that is kept are kept too, so that no order of entries enters;
   mergekit keeps an exact number.
4. `consensus=ties` elects signs (mergekit's breadcrumbs_ties, which does not divide: `divide=none`).
"""

from dataclasses import dataclass

from torch import Tensor

from rlx.errors import ConfigError
from rlx.merges.base import Given
from rlx.merges.consensus import AgreeConfig, EitherConfig, blocks, kept, smallest
from rlx.options import option


@option("merge", "breadcrumbs")
@dataclass(kw_only=True, slots=True)
class BreadcrumbsConfig(EitherConfig):
    """Differences that are neither small nor outliers."""

    density: float = 0.1
    """Share of each delta's entries that is kept."""
    gamma: float = 0.01
    """Share of each delta's entries that is dropped at the top."""

    def __post_init__(self) -> None:
        AgreeConfig.__post_init__(self)
        if not 0 <= self.gamma < 1:
            raise ConfigError(f"merge.gamma={self.gamma} must be at least 0 and below 1; it is the share dropped")

    def thinned(self, delta: Tensor, given: Given) -> Tensor:
        count = delta.numel()
        if self.density >= 1 or count == 0:
            return delta
        left = kept(self.density, count)
        top = min(int(self.gamma * count), count - left)
        magnitudes = delta.abs()
        least, most = smallest(magnitudes, count - top - left + 1), smallest(magnitudes, count - top)
        for place in blocks(count):
            size = magnitudes[place]
            delta[place].mul_((size >= least).logical_and_(size <= most))
        return delta
