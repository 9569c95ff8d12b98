"""Whether a task gives the coupled positions that a model embeds; looked at before anything is written."""

from typing import TYPE_CHECKING

from rlx.errors import ConfigError
from rlx.options import option_of
from rlx.stages.material import reads_environment
from rlx.types import Split

if TYPE_CHECKING:
    from rlx.config import Config

EXAMPLES = 16
"""Examples of each split that are looked at; a later one that does not fit ends the run when its turn comes."""


def check_coupling(config: "Config") -> None:
    """Compare `config.model` with examples of `config.task`; a model or task that is not there is not looked at.

    Raises:
        ConfigError: the task gives no coupled positions, or larger ones than the model embeds, or an environment says
            something in between, which has none.
    """
    most = None if config.model is None else config.model.largest_place()
    if most is None or config.task is None:
        return
    talks = config.environment is not None and not getattr(config.environment, "unnamed", False)
    if talks and reads_environment(config):
        raise ConfigError(
            f"environment={option_of(config.environment).name}: what a model is told has no coupled positions, which "
            "model.position=coupled|predicted needs; take environment=single, or a model of another position"
        )
    task, name, largest = config.task.build(), option_of(config.task).name, 0
    for split in Split:
        size = task.size(split)
        for index in range(EXAMPLES if size is None else min(EXAMPLES, size)):
            places = task.example(split, index).places
            if places is None:
                raise ConfigError(
                    f"task={name} gives no coupled positions as it is set, which model.position=coupled|predicted "
                    "needs; take model.position=rope, or task=arithmetic task.trace=reversed"
                )
            largest = max(largest, *places)
    if largest > most:
        raise ConfigError(
            f"model.max_position={most}, but problems of task={name} have coupled positions up to {largest} at least; "
            f"try model.max_position={4 * largest}"
        )
