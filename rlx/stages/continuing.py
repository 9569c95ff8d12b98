"""`init.state=all`: a run that goes on where its parent stands, as if the two were one.

1. Steps are counted on: rows begin after the parent's last step, and `stage.steps`, the schedule, the order of the data
   and the log-spaced checkpoints know the whole. Rates, decays, batch and data are those of the new command.
2. Tokens, FLOPs, wall time and `stage.max_flops` are the new run's own, as in any run; the lineage adds the parent's.
3. The new run's record of its best step, and of what went wrong, begins empty.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlx.errors import CheckpointError, ConfigError
from rlx.options import option_of, plain_value
from rlx.runs.checkpoints import load_trainer_state
from rlx.runs.files import TRAINER_STATE

if TYPE_CHECKING:
    from rlx.config import Config

FORMAT = 1
"""Of what trainer/state.pt holds; raised when a run could not go on from what an earlier one wrote."""


def parent_state(folder: Path) -> dict[str, Any]:
    """What the parent's checkpoint holds for going on from it.

    Raises:
        CheckpointError: nothing, or it is damaged.
    """
    if not (folder / TRAINER_STATE).is_file():
        raise CheckpointError(
            f"{folder} has no {TRAINER_STATE}, which init.state=all goes on from; name a checkpoint of a pretrain, sft "
            "or rl run, or take init.state=weights"
        )
    return checked_state(load_trainer_state(folder), folder)


def checked_state(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The state, when it is one that this code wrote.

    Raises:
        ConfigError: another version wrote it.
    """
    if state.get("format") != FORMAT:
        raise ConfigError(
            f"{folder / TRAINER_STATE} was written by another version of rlx; go on with that one, or start in a new "
            "place with rerun=<label>"
        )
    return state


def adapter_of(config: "Config") -> dict[str, Any] | None:
    """The adapter that is trained, as trainer/state.pt remembers it."""
    if config.adapter is None:
        return None
    return {"adapter": option_of(config.adapter).name, **plain_value(config.adapter)}


def check_continues(config: "Config", folder: Path) -> None:
    """Raise ConfigError unless this run can go on where the parent's checkpoint stands."""
    state = parent_state(folder)["run"]
    asked, made = adapter_of(config), state.get("adapter")
    if asked != made:
        mine, theirs = asked or {"adapter": "null"}, made or {"adapter": "null"}
        other = next(key for key in mine if mine[key] != theirs.get(key))
        name = "adapter" if other == "adapter" else f"adapter.{other}"
        now, then = (str(found[other]).replace("'", "").replace(" ", "") for found in (mine, theirs))
        raise ConfigError(
            f"{name}={now} but {folder} was made with {name}={then}, and init.state=all goes on with the same; give "
            f"{name}={then}, or take init.state=weights"
        )
    for name, asked in (
        ("stage", option_of(config.stage).name),
        ("optim", option_of(config.optim).name),
        ("seed", config.seed),
    ):
        if asked != state[name]:
            raise ConfigError(
                f"{name}={asked} but {folder} was made with {name}={state[name]}, and init.state=all goes on with the "
                f"same; give {name}={state[name]}, or take init.state=weights"
            )
    steps, made = getattr(config.stage, "steps", None), state["step"]
    if steps is not None and steps <= made:
        raise ConfigError(
            f"stage.steps={steps} counts the {made} steps that {folder} has made already (init.state=all); give more, "
            f"such as stage.steps={2 * made}"
        )
