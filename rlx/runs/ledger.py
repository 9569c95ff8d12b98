"""What a run spends, in floating point operations, by purpose."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Ledger:
    """Operations (a multiply-add counts as two) of one run, its parents' not included."""

    train: float = 0.0
    rollout: float = 0.0
    verify: float = 0.0
    """Always 0 so far: the verifiers are no models."""
    eval: float = 0.0

    @property
    def total(self) -> float:
        return self.train + self.rollout + self.verify + self.eval

    def row(self) -> dict[str, float]:
        """Entries of a metrics row: flops/train, flops/rollout, flops/verify, flops/eval, flops/total."""
        return {**{f"flops/{name}": value for name, value in asdict(self).items()}, "flops/total": self.total}

    def state_dict(self) -> dict[str, float]:
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def lineage(own: float, place: str, parents: list[Mapping]) -> dict[str, float]:
    """FLOPs by run directory of a run and all its ancestors, each once; `parents` are their run.json."""
    found: dict[str, float] = {}
    for parent in parents:
        found.update(parent.get("lineage", {}))
    return {**found, place: own}
