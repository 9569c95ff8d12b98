"""What a layout is: a config.json of theirs and ours, and where each of our tensors stands in their folder."""

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlx.errors import CheckpointError
from rlx.models.base import TIED, ModelConfig

_ROOM = "rlx.models.layouts"
_NO_WEIGHT = ".rotary_emb.inv_freq"
"""End of a name that old folders hold and that says nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of our tensors is in their folder."""

    theirs: tuple[str, ...]
    """Their tensors, which stand one above the other in ours; none: ours is zero, of `shape`."""
    rows: tuple[int, ...] = ()
    """Rows of each; empty for one that is ours as it is."""
    shape: tuple[int, ...] | None = None
    """Shape of ours, where it is not theirs laid one above the other."""
    their_shape: tuple[int, ...] | None = None
    """Shape of each of theirs, where rows of ours are not it."""

    def ours(self, parts: list[Tensor]) -> Tensor:
        """Our tensor of theirs; bfloat16 and float16 are widened to float32."""
        if not self.theirs and self.shape is not None:
            return torch.zeros(self.shape)
        wide = [part.float() if part.is_floating_point() else part for part in parts]
        whole = wide[0] if len(wide) == 1 else torch.cat(wide)
        return whole if self.shape is None else whole.reshape(self.shape)

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Their tensors of ours."""
        if not self.theirs:
            return []
        if self.shape is not None:
            tensor = tensor.reshape(-1, tensor.shape[-1])
        parts = list(tensor.split(list(self.rows))) if len(self.theirs) > 1 else [tensor]
        return parts if self.their_shape is None else [part.reshape(self.their_shape) for part in parts]

    def shape_of(self, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
        """Shape of ours from theirs."""
        if self.shape is not None:
            return self.shape
        return shapes[0] if len(shapes) == 1 else (sum(shape[0] for shape in shapes), *shapes[0][1:])


class Layout:
    """One family of their classes, and the option of ours that holds its models."""

    option: ClassVar[str]
    """Our model= option."""
    classes: ClassVar[Mapping[str, str]]
    """Their `model_type` and class."""
    embedding: ClassVar[str] = "model.embed_tokens.weight"
    """Their name of the embedding."""
    head: ClassVar[str] = "lm_head.weight"
    """Their name of the head."""

    def fields_of(self, theirs: dict[str, Any]) -> dict[str, Any]:
        """Fields of our config from their config.json; types are not looked at.

        Raises:
            CheckpointError: a field that is missing, or whose value our decoder cannot represent.
        """
        raise NotImplementedError

    def shortened(self, config: Any) -> ModelConfig:
        """The config with fields null where they follow from the others, as rlx writes its own."""
        return config

    def to_config(self, config: Any, vocab_size: int) -> dict[str, Any]:
        """Their config.json, without token ids and lengths.

        Raises:
            ConfigError: a field that their layout cannot express.
        """
        raise NotImplementedError

    def places(self, config: Any) -> dict[str, Place]:
        """Our tensors' names, each with its place in their folder."""
        raise NotImplementedError

    def stacks(self, config: Any) -> dict[str, str]:
        """Our stacks of matrices that transformers stacks too, with the names of its parameters in memory, in order."""
        return {}

    @property
    def name(self) -> str:
        """What it is called in a sentence."""
        return " and ".join(name.removesuffix("ForCausalLM") for name in self.classes.values())

    def check_names(self, names: Iterable[str], config: ModelConfig) -> None:
        """Compare the names of a folder's tensors with those of the config.

        Raises:
            CheckpointError: a tensor that the config calls for is missing, or one is left over (such as a bias), named.
        """
        found = {name: None for name in names if not name.endswith(_NO_WEIGHT)}
        wanted = {name: None for place in self.places(config).values() for name in place.theirs}
        for name in wanted:
            if name not in found:
                raise CheckpointError(f"the weights lack {name}, which the model's config calls for")
        for name in found:
            if name not in wanted and not (config.tie_embeddings and name == self.head):
                raise CheckpointError(
                    f"the weights have {name}, which has no place in the {self.option} model of this config"
                )

    def from_theirs(self, tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """Our names and tensors, in float32, from theirs.

        Raises:
            CheckpointError: as `check_names`; or a tied model's head is not its embedding.
        """
        self.check_names(tensors, config)
        head = tensors.get(self.head)
        if config.tie_embeddings and head is not None and not torch.equal(head, tensors[self.embedding]):
            raise CheckpointError(f"tie_word_embeddings is true, but {self.head} is not the embedding; set it to false")
        return {
            ours: place.ours([tensors[name] for name in place.theirs]) for ours, place in self.places(config).items()
        }

    def to_theirs(self, tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """Their names and tensors from ours.

        Raises:
            CheckpointError: a tensor of ours that their layout has no place for, named.
        """
        known, out = self.places(config), {}
        for name, tensor in tensors.items():
            if name not in known:
                raise CheckpointError(f"{name} has no place in the {self.name} layouts")
            out.update(zip(known[name].theirs, known[name].split(tensor), strict=True))
        return out

    def outer(self, config: ModelConfig, norm: str) -> dict[str, Place]:
        """Places of embedding, last norm (which they call `norm`) and head."""
        found = {"embed.weight": Place((self.embedding,)), "norm.weight": Place((norm,))}
        return found if config.tie_embeddings else {**found, TIED: Place((self.head,))}


@cache
def layouts() -> list[Layout]:
    """All layouts: `LAYOUT` of every module of the folder."""
    room = importlib.import_module(_ROOM)
    modules = [importlib.import_module(f"{_ROOM}.{module.name}") for module in pkgutil.iter_modules(room.__path__)]
    return [module.LAYOUT for module in modules if hasattr(module, "LAYOUT")]


def layout_of(kind: str) -> Layout | None:
    """The layout that has their `model_type`."""
    return next((layout for layout in layouts() if kind in layout.classes), None)
