"""Fields that every logger has."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlx.runs.run import Run


@dataclass(kw_only=True, slots=True)
class LoggerConfig:
    """Mirrors of metrics.jsonl, which is written whatever is chosen."""

    def mirror(self, run: "Run") -> AbstractContextManager[None]:
        """What stands around the work of a run: entered before its first row, left when its status is written."""
        return nullcontext()
