"""Optimizers beside the policy's own: of a critic, and of the fine-tuning side of `algorithm=parallel`."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rlx.models.size import Operations
from rlx.nn.decoder import Decoder
from rlx.optim.base import OptimConfig
from rlx.stages.modules.step import put_settings, settings_of, stepped, with_peaks


class Companion:
    """An optimizer of the run's kind with a state of its own, on the policy's schedule.

    Args:
        lr: peak rate; None: the run's. Other rates that an optimizer has keep their share of it.
    """

    def __init__(self, model: nn.Module, optim: OptimConfig, *, lr: float | None, clip_norm: float) -> None:
        self.model, self.clip_norm = model, clip_norm
        still = lr == 0  # a rate that optimizers refuse, and that takes no step
        self.optimizer = with_peaks((optim if lr is None or still else optim.at(lr)).build(model))
        if still:
            for group in self.optimizer.param_groups:
                group["peak_lr"] = 0.0
        self._settings = settings_of(self.optimizer)

    def step(self, factor: float) -> Tensor:
        """Step with `factor` of the peak rate; returns the gradient's norm [] before clipping.

        Raises:
            DivergedError: the gradient is not finite.
        """
        return stepped(self.optimizer, self.model, factor, self.clip_norm)

    def state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state; rates and decays are those of this run's config."""
        self.optimizer.load_state_dict(state)
        put_settings(self.optimizer, self._settings)


class Critic(Companion):
    """A model that begins as the policy does, with a new head of one output that begins at 0.

    No part of the Lightning module: its weights are no part of a model directory, and go into trainer/state.pt.
    """

    model: Decoder

    def __init__(self, policy: Decoder, optim: OptimConfig, *, lr: float | None, clip_norm: float, since: int) -> None:
        model = copy.deepcopy(policy)
        model.head = nn.Linear(model.embed.embedding_dim, 1, bias=False, device=model.embed.weight.device)
        nn.init.zeros_(model.head.weight)
        model.tied, model.logit_cap = False, None
        super().__init__(model, optim, lr=lr, clip_norm=clip_norm)
        self.operations = Operations(model)
        self.since = since
        """Steps made before it began."""

    def state(self) -> dict[str, Any]:
        return {"weights": self.model.state_dict(), "optimizer": super().state(), "since": self.since}

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["weights"])
        super().restore(state["optimizer"])
        self.since = state["since"]


def trained(model: nn.Module) -> list[Tensor]:
    """The parameters that an optimizer moves."""
    return [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]


def copied(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's tensors, by name."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def averaged(model: nn.Module, before: list[Tensor], other: list[Tensor]) -> None:
    """Move the trained parameters from where they are to the middle between there and `other`; `before` says where both
    set out from, and what moved to neither stays there to the bit."""
    for parameter, start, there in zip(trained(model), before, other, strict=True):
        parameter.copy_(start + 0.5 * ((parameter - start) + (there - start)))
