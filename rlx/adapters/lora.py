"""`adapter=lora`: low-rank matrices beside linear layers (Hu et al., arXiv 2106.09685), `rlx/nn/lora.py`.

1. `adapter.targets` are names of parts (q, k, v, gate, up: where a model holds several projections in one matrix) and
   of linear layers as their modules call them (out, down, in_proj, head, qkv ...).
2. Of routed experts there are gate_up, one adapter for both projections (as PEFT has it), and down; `experts` is both.
   `down`, `gate` and `up` are also those of an mlp and of shared experts.
3. `all` is every linear layer of the blocks, experts included. Routers are never adapted: one that moves undoes what
   the frozen experts are for. The bias by which it is balanced stays as well.
4. There is no dropout: rlx has none.
"""

from dataclasses import dataclass, field

from rlx.adapters.base import AdapterConfig
from rlx.errors import ConfigError, nearest
from rlx.nn.decoder import Decoder
from rlx.nn.lora import Site, Strength, attach, sites
from rlx.options import option

ALL = "all"
EXPERTS = "experts"
_HEAD = "head"


@option("adapter", "lora")
@dataclass(kw_only=True, slots=True)
class LoraConfig(AdapterConfig):
    """Low-rank adapters; the model itself is frozen."""

    rank: int = 8
    """Rank of each product B A."""
    alpha: float = 16.0
    """B A is multiplied with alpha / rank."""
    targets: list[str] = field(default_factory=lambda: ["all"])
    """What is adapted: q, k, v, out, gate, up, down, head ...; of routed experts gate_up, down, or experts (both); or
    all (all but the head and routers)."""
    rslora: bool = False
    """alpha / sqrt(rank) in place of alpha / rank (Kalajdzievski, arXiv 2312.03732)."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"adapter.rank={self.rank} must be at least 1")
        if not self.alpha > 0:
            raise ConfigError(f"adapter.alpha={self.alpha} must be above 0")
        if not self.targets:
            raise ConfigError("adapter.targets is empty; name what is adapted, such as [q,v] or [all]")
        self.targets = sorted(set(self.targets))  # one way to write equal adapters

    def attach(self, model: Decoder) -> None:
        attach(model, self._chosen(model), Strength(self.rank, self.alpha, self.rslora))

    def _chosen(self, model: Decoder) -> list[tuple[Site, list[str]]]:
        """The sites with the parts that are adapted."""
        names = {site: {part: _names(site, part) for part in site.parts} for site in sites(model)}
        known = {name for parts in names.values() for each in parts.values() for name in each}
        for target in self.targets:
            if target not in known:
                raise ConfigError(
                    f"adapter.targets has {target}, which is no linear layer of this model{nearest(target, known)}"
                )
        if model.tied and _HEAD in self.targets:
            raise ConfigError(
                "adapter.targets has head, but the head of this model is its embedding (model.tie_embeddings=true); "
                "leave head out"
            )
        wanted = set(self.targets)
        chosen = [(site, [part for part, each in parts.items() if each & wanted]) for site, parts in names.items()]
        return [(site, parts) for site, parts in chosen if parts]


def _names(site: Site, part: str) -> set[str]:
    """What a part may be called in `targets`."""
    found = {part, site.name}
    if site.stacked:
        found.add(EXPERTS)
    if site.owner:
        found.add(ALL)
    return found
