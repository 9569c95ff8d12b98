"""What Hydra is told before it composes: every option's schema, and what an override of a group means.

Schemas are stored as `schema/<group>/<name>`, the root config as `schema/config`.
"""

import shlex
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, get_origin, get_type_hints

from hydra._internal import defaults_list
from hydra._internal.defaults_list import OverrideMetadata
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import GroupDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, ValueType
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from rlx.config import Config
from rlx.options import OUTSIDE, ROOMS, discover
from rlx.plans.base import PlanSweeperConfig


def register() -> None:
    """Find all options and make their schemas known to Hydra."""
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config)
    for group in (*ROOMS, *OUTSIDE):
        for name, found in discover(group).items():
            store.store(group=f"schema/{group}", name=name, node=_schema(found.config))
    store.store(group="hydra/sweeper", name="plan", node=PlanSweeperConfig, provider="rlx")
    defaults_list.Overrides = GroupOverrides  # the class that Hydra 1.3 reads command lines with


def _schema(config: type) -> Any:
    """A config class for Hydra, of which a field that is a dict takes keys of its own, as in `corpus.sources.a=...`."""
    open_fields = [f.name for f in fields(config) if get_origin(get_type_hints(config)[f.name]) is dict]
    if not open_fields:
        return config
    found = OmegaConf.structured(config)
    for name in open_fields:
        found._get_node(name)._set_flag("struct", False)
    return found


class GroupOverrides(defaults_list.Overrides):
    """What was typed, with what Hydra's own class leaves out.

    1. `group=null` and `~group` unset a group that conf/config.yaml leaves at null, whatever a preset chose.
    2. The composition that precedes a sweep has the first option of a swept group, as the first run has it, and of a
       group that only texts of `plan.either` name; without any, a field of that group would be refused.
    """

    def __init__(self, repo: Any, overrides_list: list[Override]) -> None:
        first = repo.load_config("config")
        defaults = _groups(first.defaults_list) if first is not None else {}
        unset, others = [], []
        for override in [*_either(overrides_list, defaults), *overrides_list]:
            group = override.get_key_element().lstrip("+~")
            if group in defaults:
                override = _one_option(override, repo.get_group_options(group))
                if not override.is_sweep_override():
                    _check(override, group, defaults[group], repo)
                    if override.value() is None:
                        unset.append(group)
                        continue
            others.append(override)
        super().__init__(repo, others)
        for group in unset:
            self.override_choices[group] = None
            self.override_metadata[group] = OverrideMetadata(external_override=True)


def _groups(entries: Iterable[Any]) -> dict[str, Any]:
    """The option of each group in a defaults list."""
    return {str(each.group): each.value for each in entries if isinstance(each, GroupDefault) and not each.override}


def _either(overrides: list[Override], defaults: dict[str, Any]) -> list[Override]:
    """What the first text that names a group in `plan.either` says of it, for groups that are not typed beside it."""
    typed = {override.get_key_element().lstrip("+~") for override in overrides}
    texts = [override.value() for override in overrides if override.key_or_group == "plan.either"]
    found: dict[str, Override] = {}
    for text in texts[-1] if texts and isinstance(texts[-1], list) else []:
        for part in _words(str(text)):
            group, _, option = part.partition("=")
            if group in defaults.keys() - typed - found.keys() and option != "null":
                (found[group],) = OverridesParser.create().parse_overrides([part])
    return list(found.values())


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # told where the sweep is made
        return []


def _one_option(override: Override, options: list[str]) -> Override:
    """The first of a sweep's options; a number or a truth value, which names no option, as text."""
    value: Any = override.value()
    swept = value.filter(options) if isinstance(value, Glob) else value.list if isinstance(value, ChoiceSweep) else []
    value = swept[0] if swept else value
    value = str(value) if isinstance(value, bool | int | float) else value
    return replace(override, value_type=ValueType.ELEMENT, _value=value) if value is not override.value() else override


def _check(override: Override, group: str, default: str | None, repo: Any) -> None:
    """Raise for several options, for a group that cannot be unset, and for an option of a group that no folder has."""
    value = override.value()
    if isinstance(value, list):
        raise ConfigCompositionException(f"{override.input_line}: expected one option, as in {group}=<option>")
    if value is None and default is not None:
        choices = "|".join(repo.get_group_options(group))
        raise ConfigCompositionException(f"{group} cannot be null; choose {group}={choices}")
    if value is not None and not repo.group_exists(group):
        raise ConfigCompositionException(
            f"no {group}={value}: no folder that is read has {group}/{value}.yaml; give --config-dir <folder>"
        )
