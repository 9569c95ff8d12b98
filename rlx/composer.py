"""Many commands composed at once, as Hydra would compose each alone.

Hydra takes a tenth of a second a command, most of it for finding, reading and merging files. Which files those are
depends on the options of groups alone; values are applied afterwards, in the order in which they stand.

1. The files are merged once for each set of options. `Memory` keeps which folder has a file, and what is in it.
2. The values of a command are applied by Hydra's own function, to the merged config itself: copying it takes longer
   than everything else. What they changed is put back. Only what adds or deletes keys is applied to a copy.

tests/test_composer.py compares every kind of override with `hydra.compose`.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import RunMode
from omegaconf import DictConfig, flag_override


class Composer:
    """Composes commands by one loader of Hydra."""

    def __init__(
        self, loader: Any, check: Callable[[DictConfig], None], ready: Callable[[], None] | None = None
    ) -> None:
        """
        Args:
            check: called once for each set of options, and for commands that add keys; it raises what it finds.
            ready: what a process must have called before it composes.
        """
        self.loader, self.check, self.name = loader, check, "config"
        loader.repository = Memory(loader.config_search_path)
        loader.repository.ready = ready
        self.idle: dict[tuple[str, ...], list[tuple[DictConfig, dict[str, str]]]] = {}
        self.repositories: dict[tuple[str, ...], Any] = {}

    @contextmanager
    def compose(self, overrides: Sequence[str]) -> Iterator[tuple[DictConfig, dict[str, str]]]:
        """The config of a command, without Hydra's own part, and the option of each group.

        The config may be read until the block ends.

        Raises:
            HydraException: what Hydra raises for that command.
        """
        parsed = [parse(text) for text in overrides]
        if any(each.is_sweep_override() for each in parsed):
            self.loader.validate_sweep_overrides_legal(parsed, run_mode=RunMode.RUN, from_shell=False)
        repository = self._repository(parsed)
        groups, values = [], []
        for each in parsed:
            (groups if chooses_files(each, repository) else values).append(each)
        with self._base(tuple(each.input_line or "" for each in groups)) as (base, choices):
            before = kept(base, values)
            if before is None:
                config = copy.deepcopy(base)
                ConfigLoaderImpl._apply_overrides_to_config(values, config)
                self.check(config)
                yield config, choices
                return
            try:
                ConfigLoaderImpl._apply_overrides_to_config(values, base)
                yield base, choices
            finally:
                for parent, key, node in before:
                    parent.__dict__["_content"][key] = node

    @contextmanager
    def _base(self, groups: tuple[str, ...]) -> Iterator[tuple[DictConfig, dict[str, str]]]:
        """The merged files; while somebody has them, another one who asks gets others."""
        idle = self.idle.setdefault(groups, [])
        lent = idle.pop() if idle else self._load(groups)
        try:
            yield lent
        finally:
            idle.append(lent)

    def _load(self, groups: tuple[str, ...]) -> tuple[DictConfig, dict[str, str]]:
        config = self.loader.load_configuration(self.name, list(groups), run_mode=RunMode.RUN, from_shell=False)
        choices = {name: str(value) for name, value in config.hydra.runtime.choices.items()}
        with flag_override(config, ["struct", "readonly"], False):
            del config["hydra"]
        self.check(config)
        return config, choices

    def _repository(self, overrides: Sequence[Override]) -> Any:
        """Where files are looked for; `hydra.searchpath=[..]` adds folders."""
        typed = tuple(each.input_line or "" for each in overrides if each.key_or_group == "hydra.searchpath")
        if typed not in self.repositories:
            _, self.repositories[typed] = self.loader._parse_overrides_and_create_caching_repo(self.name, list(typed))
        return self.repositories[typed]


def chooses_files(override: Override, repository: Any) -> bool:
    """True for `model=moe`, `model@x=moe`, `~algorithm`, and what only looks like it; False for a value."""
    if override.package is not None or override.is_hydra_override():
        return True
    group = override.key_or_group
    return "." not in group and not isinstance(override.value(), dict) and repository.group_exists(group)


def kept(config: DictConfig, values: Sequence[Override]) -> list[tuple[DictConfig, str, Any]] | None:
    """What values replace, to be put back: the node that holds it, its name there, and a copy of it.

    None where putting back is not enough: keys may be added or deleted, or are none that there are, or a reference
    leads to another place.
    """
    found: list[tuple[DictConfig, str, Any]] = []
    for override in values:
        changes = override.type is OverrideType.CHANGE
        if not changes and (override.type is not OverrideType.FORCE_ADD or isinstance(override.value(), dict)):
            return None
        parent: DictConfig = config
        names = override.key_or_group.split(".")
        for number, name in enumerate(names, start=1):
            node = parent.__dict__["_content"].get(name)
            if node is None or node._is_interpolation():
                return None
            inner = isinstance(node, DictConfig) and not node._is_none() and not node._is_missing()
            if number < len(names) and inner:
                parent = node
                continue
            if number < len(names) and not changes:
                return None
            found.append((parent, name, copy.deepcopy(node)))
            break
    return found


@cache
def parse(text: str) -> Override:
    """One override, read by Hydra's parser.

    Raises:
        OverrideParseException: it cannot be read.
    """
    (override,) = OverridesParser.create().parse_overrides([text])
    return override


class Memory(ConfigRepository):
    """Hydra's files, each looked for and read once. Another search path begins another memory."""

    ready: Callable[[], None] | None = None
    """Called in every process that the memory is handed to: a function of a module."""

    def initialize_sources(self, config_search_path: Any) -> None:
        super().initialize_sources(config_search_path)
        self.found: dict[tuple[Any, Any], Any] = {}
        self.read: dict[str, Any] = {}

    def __deepcopy__(self, memo: Any) -> "Memory":
        """What Hydra does before each command: the copy, which it does not change, shares the memory."""
        made = object.__new__(Memory)
        vars(made).update(vars(self))
        return made

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a process that another launcher has begun."""
        for name, value in state.items():
            setattr(self, name, value)
        if self.ready is not None:
            self.ready()

    def _find_object_source(self, config_path: str, object_type: Any) -> Any:
        asked = (config_path, object_type)
        if asked not in self.found:
            self.found[asked] = super()._find_object_source(config_path, object_type)
        return self.found[asked]

    def load_config(self, config_path: str) -> Any:
        if config_path not in self.read:
            self.read[config_path] = super().load_config(config_path)
        return copy.deepcopy(self.read[config_path])  # merging may take nodes out of it
