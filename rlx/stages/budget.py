"""A budget of operations: a number of them, or as many as another run took."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlx.errors import ConfigError
from rlx.options import recorded
from rlx.runs.identity import RunName
from rlx.runs.references import parse_reference
from rlx.runs.run import read_record
from rlx.runs.status import State, state_of
from rlx.stages.base import RunStageConfig

if TYPE_CHECKING:
    from rlx.config import Config
    from rlx.stages.estimate import Outset


@dataclass(kw_only=True, slots=True)
class BudgetConfig(RunStageConfig):
    """Fields of the stages that can end at a budget."""

    max_flops: float | None = None
    """Operations of this run's training and rollouts; the first step (iteration) that reaches them is the last, unless
    steps end it before."""
    match_flops: str | None = recorded(None)
    """A finished run: spend as many operations as its training and rollouts took, in place of max_flops."""

    def check_budget(self) -> None:
        """Raise ConfigError for a budget that is none, or given twice."""
        if self.max_flops is not None and self.match_flops is not None:
            raise ConfigError("stage.max_flops and stage.match_flops are both given; leave one out")
        if self.max_flops is not None and not self.max_flops > 0:
            raise ConfigError(f"stage.max_flops={self.max_flops} must be above 0")

    def check(self, config: "Config") -> None:
        if self.match_flops is not None and RunName.of(parse_reference(self.match_flops).run) is None:
            self.budget()  # refuses it: only a run by its own name can be one that is still to be made

    def check_runs(self, config: "Config") -> None:
        self.budget()

    def also_from(self, config: "Config") -> dict[str, str]:
        return {"match_flops": self.match_flops} if self.match_flops else {}

    def budget(self) -> float | None:
        """Operations that the run may spend on training and rollouts; None when its steps are given alone."""
        if self.match_flops is None:
            return self.max_flops
        record = read_record(parse_reference(self.match_flops).run)
        if record is None or state_of(self.match_flops) is not State.finished:
            raise ConfigError(f"stage.match_flops={self.match_flops} must be a finished run")
        return record["flops"]["train"] + record["flops"]["rollout"]

    def planned_budget(self, outset: "Outset") -> float | None:
        """As `budget`, where the run to match may be one that is planned."""
        if self.match_flops is not None and state_of(parse_reference(self.match_flops).run) is not State.finished:
            planned = outset.charged(self.match_flops)
            if planned is not None:
                return planned
        return self.budget()
