"""`logger=local`: metrics.jsonl in the run directory and nothing else."""

from dataclasses import dataclass

from rlx.options import option
from rlx.runs.loggers.base import LoggerConfig


@option("logger", "local")
@dataclass(kw_only=True, slots=True)
class LocalConfig(LoggerConfig):
    """The run directory alone."""
