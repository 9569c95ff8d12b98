"""How fast runs are: by finished ones that are most like them, or a guess."""

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlx.options import option_of
from rlx.runs.identity import RunName
from rlx.runs.listing import ListedRun, find_runs, is_number
from rlx.runs.status import State

if TYPE_CHECKING:
    from rlx.config import Config

RUN_S = 0.5
"""Seconds of a run that are no arithmetic: its directory, the model, checkpoints (0.3 to 0.7 measured)."""
ALIKE = 3.0
"""A finished run is like one with parameters up to so many times more or fewer."""
MOST_ALIKE = 5
"""Finished runs that a pace is the median of: of those nearest in parameters the nearest in operations."""
SHORT = 10.0
"""A run that did so many times less than this one will, or than another, tells more of starting than of the pace."""
GUESS = "guesses: none like them has finished here"

GUESSES: dict[str, dict[str, dict[float, float]]] = {
    "cpu": {
        "passes": {3e4: 1.4e10, 2.2e5: 1.8e10, 4.8e6: 5.7e10},
        "decoding": {3e4: 1.5e9, 2.2e5: 1.1e10, 4.8e6: 2.0e10},
    },
    "cuda": {
        "passes": {2.2e5: 1e12, 2.5e7: 3e13, 1e9: 2e14},
        "decoding": {2.2e5: 5e10, 2.5e7: 3e12, 1e9: 2e13},
    },
}
"""Operations a second by accelerator, kind of work and parameters. For cpu measured in float32 on 2 cores (smoke and
cpu scale, countdown's searches); for cuda not measured: what one large GPU may do in bf16."""


class Pace:
    """How fast finished runs were; each folder's are read once, those of a stage and model when they are asked for."""

    def __init__(self, runs_dir: str | Path) -> None:
        self._runs = find_runs(runs_dir) if Path(runs_dir).is_dir() else []
        self._finished: dict[tuple[str, str], list[ListedRun]] = {}

    def seconds(
        self, config: "Config", place: str | Path, parameters: int, *, flops: float, decoding: float
    ) -> tuple[float, int]:
        """Time of a run in a process that has started, and by how many finished runs; 0: it is a guess.

        Args:
            flops: operations of the run, `decoding` of them the engine's.
        """
        found = self._alike(config, place, parameters, flops)
        if not found:
            return RUN_S + self._guess(config, parameters, flops=flops, decoding=decoding), 0
        speed = statistics.median(map(_speed, found))
        return RUN_S + flops / speed, len(found)

    def _alike(self, config: "Config", place: str | Path, parameters: int, flops: float) -> list[ListedRun]:
        """The runs that are most like it: stage, model and what it is computed with are the same."""
        name, trainer = RunName.of(place), config.trainer
        if name is None or trainer is None or not flops:
            return []
        wanted = {
            "trainer": option_of(trainer).name,
            "accelerator": trainer.accelerator,
            "precision": trainer.precision.value,
            "compiled": trainer.compile,
        }
        found = [run for run in self._of(name.stage, name.model) if _computed_with(run) == wanted]
        found = [run for run in found if _far(_parameters(run), parameters) <= math.log(ALIKE)]
        nearest = min((_far(_parameters(run), parameters) for run in found), default=0.0)
        found = [run for run in found if _far(_parameters(run), parameters) == nearest]
        enough = min(flops, max((_total(run) for run in found), default=0.0)) / SHORT
        found = [run for run in found if _total(run) >= enough]
        return sorted(found, key=lambda run: _far(_total(run), flops))[:MOST_ALIKE]

    def _of(self, stage: str, model: str) -> list[ListedRun]:
        """All finished runs of a stage and model that say what they spent."""
        if (stage, model) not in self._finished:
            runs = (run for run in self._runs if (run.name.stage, run.name.model) == (stage, model))
            self._finished[stage, model] = [run for run in runs if _tells(run)]
        return self._finished[stage, model]

    def _guess(self, config: "Config", parameters: int, *, flops: float, decoding: float) -> float:
        guesses = GUESSES[config.trainer.accelerator if config.trainer is not None else "cpu"]
        passes = (flops - decoding) / _between(guesses["passes"], parameters)
        return passes + decoding / _between(guesses["decoding"], parameters)


def _tells(run: ListedRun) -> bool:
    """True for a finished run that says how much it did, and how long it took."""
    said = _total(run), _parameters(run), run.record.get("wall_s")
    return all(is_number(value) and value > 0 for value in said) and run.state is State.finished


def _total(run: ListedRun) -> Any:
    return run.part("flops").get("total")


def _parameters(run: ListedRun) -> Any:
    return run.part("parameters").get("total")


def _computed_with(run: ListedRun) -> dict[str, Any]:
    noted = run.part("arithmetic")
    names = ("accelerator", "precision", "compiled")
    return {"trainer": run.part("options").get("trainer"), **{name: noted.get(name) for name in names}}


def _speed(run: ListedRun) -> float:
    """Operations a second, of the time that is not the same for a run of any length: of its steps, where it has some.
    What comes before the first is longer for the first run of a process, which imports libraries.
    """
    wall, steps = run.record["wall_s"], run.record.get("steps")
    if run.pace and is_number(steps) and steps > 0:
        return _total(run) / (steps * run.pace)
    return _total(run) / max(wall - RUN_S, wall / 2)


def _far(one: float, other: float) -> float:
    """How far apart two counts are: the logarithm of their ratio."""
    return abs(math.log(one / other))


def _between(points: Mapping[float, float], parameters: float) -> float:
    """The value at `parameters`, on straight lines between the points' logarithms, level beyond them."""
    import numpy as np

    sizes, rates = ([math.log(number) for number in column] for column in (points.keys(), points.values()))
    return math.exp(float(np.interp(math.log(parameters), sizes, rates)))
