"""Schemas for Hydra: every option's dataclass under `schema/<group>/<name>`, the root config under `schema/config`."""

from hydra.core.config_store import ConfigStore

from rlx.config import Config
from rlx.options import ROOMS, discover


def register() -> None:
    """Find all options and make their schemas known to Hydra."""
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config)
    for group in ROOMS:
        for name, found in discover(group).items():
            store.store(group=f"schema/{group}", name=name, node=found.config)
