"""What every stage's config has; light enough for the root config."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from rlx.config import Config
    from rlx.stages.base import Context
    from rlx.stages.planning import Unfolded


TRAINING_KEYS = frozenset({"init", "eval"})
"""Keys beside the groups that only a stage that trains reads."""


@dataclass(kw_only=True, slots=True)
class StageConfig:
    """One thing that `rlx` does."""

    uses: ClassVar[frozenset[str]] = frozenset()
    """Groups that this stage reads; naming another one on the command line is an error."""
    requires: ClassVar[frozenset[str]] = frozenset()
    """Groups that must be given, whatever else is."""
    measures: ClassVar[frozenset[str]] = frozenset()
    """Groups that are read only for eval.every: they change no weights, so they are not in the hash."""
    trains: ClassVar[bool] = False
    """Steps are made, with checkpoints on the way."""
    measure: ClassVar[str] = ""
    """The metric that the best checkpoint goes by, where checkpoint.best names no other."""

    def needed(self, config: "Config") -> frozenset[str]:
        """Groups that must be given in this command."""
        return self.requires

    def unfold(self, config: "Config", context: "Context") -> "Unfolded | None":
        """The runs of a stage that is a plan itself; None for all others."""
        return None

    def carry_out(self, config: "Config", context: "Context") -> None:
        """Do it, where `config` is the whole config."""
        raise NotImplementedError
