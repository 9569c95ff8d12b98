"""What every stage's config has; light enough for the root config."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from rlx.config import Config
    from rlx.stages.base import Context


@dataclass(kw_only=True, slots=True)
class StageConfig:
    """One thing that `rlx` does."""

    uses: ClassVar[frozenset[str]] = frozenset()
    """Groups that this stage reads; naming another one on the command line is an error."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """Groups that must be given."""

    def carry_out(self, config: "Config", context: "Context") -> None:
        """Do it, where `config` is the whole config."""
        raise NotImplementedError
