"""Adapters as PEFT's folders hold them: adapter_config.json, and A and B by the names of the modules that they adapt.

1. Where a model has a layout of transformers the modules' names are that layout's, so that
   `PeftModel.from_pretrained(<the exported base>, <the checkpoint's folder>)` opens a checkpoint. Other models have
   names of ours, a part of a fused layer behind the layer's own (blocks.0.mixer.qkv.q).
2. What is read may be any LoRA of PEFT whose sum with the base is W + scale B A: other kinds (DoRA, biases, whole
   modules saved) are refused. Its rank is that of its tensors, so adapters of several ranks are read too.
3. A stack of experts is a parameter that PEFT names in `target_parameters`, as transformers 5 has experts in memory.
   The A's of the experts stand above each other, and the B's side by side, expert by expert in each rank. They have the
   name of the module that has the parameter: its own name for the last parameter of those adapted, and one `base_layer`
   more for each before it. A model without a layout has names of ours, which no PEFT opens.
4. Of a router PEFT can adapt the matrix, rlx cannot: such an adapter is refused.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rlx.errors import CheckpointError, ConfigError
from rlx.models.base import ModelConfig
from rlx.models.layouts.base import Layout, layouts
from rlx.nn.decoder import Decoder
from rlx.nn.lora import Site, add_product, attached, sites
from rlx.options import option_of

PREFIX = "base_model.model."
"""What PEFT puts before a module's name."""
_ONLY = {
    "bias": "none",
    "use_dora": False,
    "lora_bias": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "layer_replication": None,
    "trainable_token_indices": None,
    "use_qalora": False,
    "alora_invocation_tokens": None,
}
"""Fields of adapter_config.json that may have one value, or be null, empty or left out."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where PEFT keeps the adapter of a part of one of our tensors."""

    module: str
    rows: slice
    shape: tuple[int, ...]
    """Of the adapted part: [O, I], or [E, O, I] of a stack."""
    parameter: str = ""
    """What `target_parameters` call it, where it is no linear layer; `module` is then the module that has it."""

    @property
    def key(self) -> str:
        """What PEFT's patterns are compared with."""
        return self.parameter or self.module


@dataclass(frozen=True, slots=True)
class Product:
    """What an adapter adds to one of our tensors: scale B A, to some of its rows."""

    tensor: str
    rows: slice
    a: Tensor
    """[R, I], or [E, R, I]."""
    b: Tensor
    """[O, R], or [E, O, R]."""
    scale: float


def without_numbers(model: ModelConfig, vocab_size: int) -> Decoder:
    """The decoder on torch's meta device: nothing is allocated, and nothing drawn from a generator."""

    class Undrawn(TorchFunctionMode):
        """Leaves `normal_` out: without numbers it does nothing, but imports torch._dynamo, which takes a second."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.nn.init.normal_, torch.Tensor.normal_):
                return args[0] if args else kwargs["tensor"]
            return func(*args, **(kwargs or {}))

    with torch.device("meta"), Undrawn():
        return model.build(vocab_size)


def to_peft(model: Decoder, config: ModelConfig) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """adapter_config.json and the tensors of a model's adapters."""
    products, strength = [], None
    for each in attached(model):
        strength = each.adapter.strength
        products.append(Product(each.tensor, each.rows, *each.adapter.factors(), strength.scale))
    assert strength is not None, "a model without adapters has none to be saved"
    described, tensors, _ = _written(products, config, model.vocab_size)
    return {
        **described,
        "r": strength.rank,
        "lora_alpha": _whole(strength.alpha),
        "use_rslora": strength.rslora,
    }, tensors


def products_to_peft(
    products: Sequence[Product], config: ModelConfig, vocab_size: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """adapter_config.json and the tensors of products, which may have several ranks and scales (PEFT's patterns)."""
    described, tensors, keys = _written(products, config, vocab_size)
    ranks = {key: each.a.shape[-2] for key, each in zip(keys, products, strict=True)}
    alphas = {key: _whole(each.scale * ranks[key]) for key, each in zip(keys, products, strict=True)}
    rank, alpha = (Counter(found.values()).most_common(1)[0][0] for found in (ranks, alphas))
    patterns = {
        "rank_pattern": {key: value for key, value in ranks.items() if value != rank},
        "alpha_pattern": {key: value for key, value in alphas.items() if value != alpha},
    }
    return {**described, "r": rank, "lora_alpha": alpha, "use_rslora": False, **patterns}, tensors


def module_names(products: Iterable[Product], config: ModelConfig, vocab_size: int) -> list[str]:
    """What PEFT calls the matrix that each product is added to."""
    homes = _by_rows(_homes(config, vocab_size, layout_for(config, vocab_size)))
    return [homes[each.tensor, each.rows.start].key for each in products]


def _written(
    products: Iterable[Product], config: ModelConfig, vocab_size: int
) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    """adapter_config.json without ranks and strengths, the tensors, and what PEFT's patterns call each product."""
    homes = _homes(config, vocab_size, layout_for(config, vocab_size))
    places = _by_rows(homes)
    chosen = [(each, places[each.tensor, each.rows.start]) for each in products]
    parameters = [home.parameter for _, home in chosen if home.parameter]
    tensors, names = {}, _names(homes.values(), set(parameters))
    for each, home in chosen:
        module, a, b = names[home.key], each.a, each.b
        if len(home.shape) > 2:
            a, b = a.flatten(0, 1), b.permute(1, 2, 0).flatten(1)  # [E*R, I], [O, R*E]
        tensors[f"{PREFIX}{module}.lora_A.weight"], tensors[f"{PREFIX}{module}.lora_B.weight"] = a, b
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": 0,
        "lora_alpha": 0,
        "use_rslora": False,
        "target_modules": _shortest(
            [home.module for _, home in chosen if not home.parameter],
            [home.module for home in homes.values() if not home.parameter],
        ),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    if parameters:
        described["target_parameters"] = _shortest(parameters, [home.parameter for home in homes.values()])
    return described, tensors, [home.key for _, home in chosen]


def _by_rows(homes: Mapping[tuple[str, str], Home]) -> dict[tuple[str, int | None], Home]:
    """By tensor and first row, as products have them."""
    return {(tensor, home.rows.start): home for (tensor, _), home in homes.items()}


def _whole(number: float) -> float:
    """As an int, where it is one."""
    return int(number) if number == int(number) else number


def from_peft(
    described: Mapping[str, Any], tensors: Mapping[str, Tensor], config: ModelConfig, vocab_size: int, where: object
) -> list[Product]:
    """What an adapter adds to the tensors of a model.

    Raises:
        CheckpointError: it is no LoRA that is a sum, or has tensors that the model has no place for; named.
    """
    try:
        _check(described)
        homes = _homes(config, vocab_size, layout_for(config, vocab_size))
        left, found = {name: tensor.float() for name, tensor in tensors.items()}, []
        asked = described.get("target_parameters") or []
        parameters = {home.parameter for home in homes.values() if home.parameter}
        names = _names(homes.values(), {each for each in parameters if any(_ends(each, end) for end in asked)})
        for (tensor, _), home in homes.items():
            if home.key not in names:
                continue
            a, b = (left.pop(f"{PREFIX}{names[home.key]}.lora_{which}.weight", None) for which in "AB")
            if a is not None and b is not None:
                found.append(_product(tensor, home, a, b, described))
            elif a is not None or b is not None:
                raise CheckpointError(f"of {home.key} only one of lora_A and lora_B is there")
        left = [name for name in left if not name.endswith(".base_layer.weight")]  # PEFT keeps a copy of some heads
        if left:
            raise CheckpointError(f"{left[0]} has no place in this model")
        return found
    except CheckpointError as error:
        raise CheckpointError(f"{where}: the adapter cannot be read: {error}") from error


def fold(tensors: dict[str, Tensor], products: Iterable[Product]) -> None:
    """Add an adapter to its base's tensors, in place."""
    for each in products:
        add_product(tensors[each.tensor], each.rows, each.a, each.b, each.scale)


@torch.no_grad()
def load_adapter_weights(model: nn.Module, products: Iterable[Product], where: object) -> None:
    """Put an adapter into a model that has adapters.

    Raises:
        CheckpointError: it adapts other parts, or in another strength; the model is as it was.
    """
    given = {(each.tensor, each.rows.start): each for each in products}
    own = {(each.tensor, each.rows.start): each for each in attached(model)}
    if given.keys() != own.keys():
        (name, _), *_ = sorted(given.keys() ^ own.keys(), key=str)
        raise CheckpointError(f"{where}: its adapter and adapter.targets differ at {name}")
    for key, each in own.items():
        theirs, strength = given[key], each.adapter.strength
        if theirs.a.shape != each.adapter.factors()[0].shape or not math.isclose(theirs.scale, strength.scale):
            raise CheckpointError(
                f"{where}: its adapter has rank {theirs.a.shape[-2]} and scale {theirs.scale:g}, expected "
                f"{strength.rank} and {strength.scale:g}"
            )
    for key, each in own.items():
        for mine, read in zip(each.adapter.factors(), (given[key].a, given[key].b), strict=True):
            mine.copy_(read)


def layout_for(config: ModelConfig, vocab_size: int) -> Layout | None:
    """The layout of transformers that a model can be exported in; None without one."""
    for layout in layouts():
        if layout.option == option_of(config).name:
            try:
                layout.to_config(config, vocab_size)
            except ConfigError:
                continue
            return layout
    return None


def _homes(config: ModelConfig, vocab_size: int, layout: Layout | None) -> dict[tuple[str, str], Home]:
    """Where each part of each tensor that can be adapted has its adapter."""
    model = without_numbers(config, vocab_size)
    places, stacks = ({}, {}) if layout is None else (layout.places(config), layout.stacks(config))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {}
    for site in sites(model):
        shape, place, first = shapes[site.tensor], places.get(site.tensor), 0
        if place is None or site.stacked or len(place.theirs) != len(site.parts):
            theirs = _own_names(site)
        else:
            theirs = [name.removesuffix(".weight") for name in place.theirs]
        for (part, rows), module in zip(site.parts.items(), theirs, strict=True):
            where = slice(first, first + rows) if len(theirs) > 1 else slice(None)
            parameter = stacks.get(site.tensor, "")
            owner = parameter.rpartition(".")[0] or module
            found[site.tensor, part] = Home(owner, where, (*shape[:-2], rows, shape[-1]), parameter)
            first += rows
    return found


def _own_names(site: Site) -> list[str]:
    if len(site.parts) == 1:
        return [site.path]
    return [f"{site.path}.{part}" for part in site.parts]


def _names(homes: Iterable[Home], parameters: Set[str]) -> dict[str, str]:
    """The modules by whose names factors are saved, by `key`; of parameters only for those that are adapted."""
    found, wrapped = {}, {}
    for home in reversed(list(homes)):
        if not home.parameter:
            found[home.key] = home.module
        elif home.parameter in parameters:
            found[home.key] = wrapped.get(home.module, home.module)
            wrapped[home.module] = f"{found[home.key]}.base_layer"
    return found


def _ends(name: str, end: str) -> bool:
    """True where PEFT takes `end` for the name."""
    return name == end or name.endswith(f".{end}")


def _shortest(modules: list[str], known: list[str]) -> list[str]:
    """The modules as `target_modules` names them: by their last word where that means no other, else in full."""
    chosen, found = set(modules), []
    for module in modules:
        last = module.rpartition(".")[2]
        plain = all(other in chosen for other in known if other.rpartition(".")[2] == last)
        found.append(last if plain else module)
    return list(dict.fromkeys(found))


def _check(described: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless the adapter is a LoRA that is a sum."""
    kind = described.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"peft_type={kind}; rlx reads LORA")
    for name, only in _ONLY.items():
        if described.get(name) and described[name] != only:
            raise CheckpointError(f"{name}={described[name]!r}; rlx has {name}={only!r} only")
    for name in ("r", "lora_alpha"):
        if not isinstance(described.get(name), int | float):
            raise CheckpointError(f"it has no {name}")


def _alpha(described: Mapping[str, Any], key: str) -> float:
    """The alpha of one adapter: that of the first pattern that fits, as PEFT has it."""
    patterns: Mapping[str, float] = described.get("alpha_pattern") or {}
    fitting = (alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", key))
    return next(fitting, described["lora_alpha"])


def _product(tensor: str, home: Home, a: Tensor, b: Tensor, described: Mapping[str, Any]) -> Product:
    """
    Raises:
        CheckpointError: the shapes are not those of the module.
    """
    *experts, outputs, inputs = home.shape
    stack = math.prod(experts)
    rank = a.shape[0] // stack
    if a.shape != (stack * rank, inputs) or b.shape != (outputs, stack * rank) or not rank:
        raise CheckpointError(
            f"{home.key} has A {tuple(a.shape)} and B {tuple(b.shape)}, which fit no {tuple(home.shape)}"
        )
    if experts:
        a, b = a.view(stack, rank, inputs), b.view(outputs, rank, stack).permute(2, 0, 1)
    by = math.sqrt(rank) if described.get("use_rslora") else rank
    return Product(tensor, home.rows, a, b, _alpha(described, home.key) / by)
