"""Numbers as people say them: 1.2 PFLOP, 3.4M tokens, 2 min 10 s, 62.5 %."""

import math

from rlx.statistics import Estimate

NOTHING = "–"
FLOP_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def count(value: float | None) -> str:
    """3400000 → 3.4M."""
    return NOTHING if value is None else "".join(_scaled(value, ("", "K", "M", "B", "T")))


def flops(value: float | None) -> str:
    """1.2e15 → 1.2 PFLOP."""
    if value is None:
        return NOTHING
    number, prefix = _scaled(value, FLOP_PREFIXES)
    return f"{number} {prefix}FLOP"


def flop_scale(largest: float) -> tuple[float, str]:
    """The divisor and the unit for an axis that ends at `largest`."""
    power = min(len(FLOP_PREFIXES) - 1, max(0, int(math.log10(largest) // 3))) if largest > 0 else 0
    return 1000.0**power, FLOP_PREFIXES[power] + "FLOP"


def duration(seconds: float | None) -> str:
    """130 → 2 min 10 s."""
    if seconds is None:
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    for size, unit, part, part_unit in ((60, "min", 1, "s"), (3600, "h", 60, "min"), (86400, "d", 3600, "h")):
        whole, rest = divmod(round(seconds / part), size // part)
        if whole < (24 if unit == "h" else 60) or unit == "d":
            return f"{whole} {unit} {rest} {part_unit}" if rest else f"{whole} {unit}"
    return NOTHING


def number(value: float | None) -> str:
    """Three figures: 0.123, 12.3, 1,234."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def ends(low: float, high: float, value: float) -> str:
    """An interval with as many decimals as its value has."""
    decimals = len(number(value).partition(".")[2]) if "e" not in number(value) else 0
    return f"[{low:,.{decimals}f}, {high:,.{decimals}f}]" if "e" not in number(value) else f"[{low:.3g}, {high:.3g}]"


def percent(value: float) -> str:
    """0.625 → 62.5."""
    return f"{100 * value:.1f}"


def interval(estimate: Estimate) -> str:
    """The ends in percent, or nothing where they are not known."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return f"[{percent(estimate.low)}, {percent(estimate.high)}]"


def _scaled(value: float, prefixes: tuple[str, ...]) -> tuple[str, str]:
    power = 0
    while power < len(prefixes) - 1 and float(f"{abs(value):.3g}") >= 1000:
        value, power = value / 1000, power + 1
    return number(value), prefixes[power]
