"""What every plan's config has; light enough for the root config."""

import re
from dataclasses import dataclass, field
from typing import Any

from rlx.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(kw_only=True, slots=True)
class PlanConfig:
    """Of a sweep (-m) or a study: what it is called, and what is done with it."""

    name: str | None = None
    """Its folder in <runs_dir>/plans; null: a name made of its runs, so that the same sweep finds its folder again."""
    either: list[str] = field(default_factory=list)
    """A union of sweeps: each text is overrides to sweep over, together with those typed beside it."""
    dry: bool = False
    """Show the plan and what it will cost, and stop."""

    def __post_init__(self) -> None:
        if self.name is not None and (not _NAME.fullmatch(self.name) or self.name[0] == "."):
            raise ConfigError(f"plan.name={self.name}: expected letters, digits, _, - and dots")


@dataclass(kw_only=True)
class PlanSweeperConfig:
    """`hydra/sweeper=plan`: every combination, as one plan."""

    _target_: str = "hydra_plugins.rlx.PlanSweeper"
    params: dict[str, Any] | None = None
    """Axes of a preset: key to values, as they would be typed."""
