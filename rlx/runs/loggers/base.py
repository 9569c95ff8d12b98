"""Fields that every logger has."""

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class LoggerConfig:
    """Mirrors of metrics.jsonl (none yet besides the file itself)."""
