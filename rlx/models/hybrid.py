"""`model=hybrid`: layers of any kind, as `model.layers` says; it has the settings of all of them.

The other models have those of their own layers: `model=gssm model.layers=[attention,gssm]` needs no hybrid.
"""

from dataclasses import dataclass

from rlx.models.base import kinds
from rlx.options import option

_ALL = list(dict.fromkeys(kind.fields for kind in kinds().values()))
_OWN = [one for one in _ALL if not any(other is not one and issubclass(other, one) for other in _ALL)]
"""Settings that no other settings extend."""


@option("model", "hybrid")
@dataclass(kw_only=True, slots=True)
class HybridConfig(*_OWN):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
    """Any mixers and channel mixers, in any order; attention and a feed-forward where layers leave it open."""
