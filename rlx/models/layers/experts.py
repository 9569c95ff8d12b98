"""`experts`: a sparse mixture of SwiGLU experts."""

from dataclasses import dataclass
from typing import ClassVar

from rlx.errors import ConfigError
from rlx.models.base import Layer, check_positive, layer
from rlx.models.layers.mlp import WithMlp
from rlx.nn.experts import Experts, Router


@layer("experts", channel=True, routed=True)
@dataclass(kw_only=True)
class WithExperts(WithMlp):
    """Settings of experts; where d_expert is null, the experts of a token are as wide together as one feed-forward."""

    tensor_free: ClassVar[frozenset[str]] = WithMlp.tensor_free | {
        "router", "renormalise", "balance_loss", "router_z_loss", "balance_rate"
    }  # fmt: skip

    n_experts: int = 8
    """Experts of a layer, from which each token gets top_k."""
    top_k: int = 2
    """Experts of a token."""
    d_expert: int | None = None
    """Width of an expert; null: d_ff over top_k + n_shared_experts, to the nearest whole number, so that a token meets
    as many weights as in model=dense."""
    n_shared_experts: int = 0
    """Experts that every token gets besides, with a gate of 1."""
    router: Router = Router.softmax
    """How logits become scores: softmax over the experts, or sigmoid."""
    renormalise: bool | None = None
    """The gates of a token are divided by their sum; null: where it has several, as a single one would always be 1 and
    teach the router nothing."""
    balance_loss: float = 0.01
    """Weight of the balance loss (1 at an even load) of each layer."""
    router_z_loss: float = 0.001
    """Weight of the mean squared logsumexp of each layer's router logits."""
    balance_rate: float = 0.0
    """Step of the bias that evens the load without a loss, after every optimizer step; DeepSeek-V3 has 0.001."""

    def check_experts(self) -> None:
        self.check_mlp()
        check_positive("model.n_experts", self.n_experts)
        check_positive("model.top_k", self.top_k)
        if self.top_k > self.n_experts:
            raise ConfigError(
                f"model.top_k={self.top_k} is more than model.n_experts={self.n_experts}; a token takes an expert once"
            )
        if self.d_expert is not None:
            check_positive("model.d_expert", self.d_expert)
        if self.n_shared_experts < 0:
            raise ConfigError(f"model.n_shared_experts={self.n_shared_experts} must be at least 0")
        if self.renormalise and self.top_k == 1 and self.n_experts > 1:
            raise ConfigError(
                "model.renormalise=true with model.top_k=1 makes every gate 1 and the router learns nothing; "
                "leave model.renormalise out"
            )
        for name in ("balance_loss", "router_z_loss", "balance_rate"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"model.{name}={getattr(self, name)} must be at least 0")

    def expert_width(self) -> int:
        parts = self.top_k + self.n_shared_experts
        return self.d_expert or max(1, round(self.feed_forward_width() / parts))

    def build_experts(self, layer: Layer) -> Experts:
        return Experts(
            d_model=self.d_model,
            n_experts=self.n_experts,
            top_k=self.top_k,
            width=self.expert_width(),
            shared_width=self.n_shared_experts * self.expert_width(),
            router=self.router,
            renormalise=self.top_k > 1 if self.renormalise is None else self.renormalise,
            balance_loss=self.balance_loss,
            router_z_loss=self.router_z_loss,
            balance_rate=self.balance_rate,
            number=layer.routed,
        )
