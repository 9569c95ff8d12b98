"""`algorithm=ppo`: proximal policy optimization with a critic (Schulman et al., arXiv 1707.06347; GAE, arXiv
1506.02438).

    R_t     = 1[t last] r - kl_coefficient * k1_t
    delta_t = R_t + gamma V_{t+1} - V_t          (V = 0 after a row's last token)
    A_t     = delta_t + gamma lambda A_{t+1},    returns_t = A_t + V_t
    L       = clipped surrogate of A, whitened over the iteration's tokens
    L_V     = 1/2 mean_t max( (V - returns)^2, (clip(V, V_old - value_clip, V_old + value_clip) - returns)^2 )

Choices where sources differ:
1. The critic is a model of its own, which begins as the policy with a new head of zeros, has an optimizer of its own
   (critic_lr) and is clipped to the gradient norm of the stage on its own, as in verl and OpenRLHF; the two losses
   share no parameter, so no weight is put between them.
2. lambda is 1 (verl, OpenRLHF), where A is the return less the value; Echo Chamber's is 0.95.
3. Tokens that the model did not sample are skipped: values and advantages pass over them to the next sampled one.
4. Where turns are rewarded apart, V and A are 0 after a turn's last token too (gamma 0 at its end, as in Thinker, arXiv
   2505.21097), and advantages are whitened over the tokens of each turn.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlx.algorithms.base import Totals, whitened
from rlx.algorithms.policy_gradient import Clipped, ClippedConfig, by_credit
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError
from rlx.options import option


@option("algorithm", "ppo")
@dataclass(kw_only=True, slots=True)
class PpoConfig(ClippedConfig):
    """Clipped policy gradient on advantages over a critic."""

    gamma: float = 1.0
    """Discount a token."""
    gae_lambda: float = 1.0
    """Between the one-step error (0) and the whole return (1)."""
    value_clip: float | None = 0.2
    """The critic's value is clipped to so much around its old one; null: it is not."""
    whiten: bool = True
    """Advantages have mean 0 and standard deviation 1 over the iteration's tokens."""
    critic_lr: float | None = None
    """Peak learning rate of the critic; null: optim.lr."""
    critic_warmup: int = 0
    """Iterations at the beginning in which the critic alone is trained."""

    def __post_init__(self) -> None:
        ClippedConfig.__post_init__(self)
        if not (0 <= self.gamma <= 1 and 0 <= self.gae_lambda <= 1):
            raise ConfigError(f"algorithm.gamma={self.gamma} and gae_lambda={self.gae_lambda} must be in [0, 1]")
        if self.value_clip is not None and not self.value_clip > 0:
            raise ConfigError(f"algorithm.value_clip={self.value_clip} must be above 0; null does not clip")
        if self.critic_lr is not None and not self.critic_lr > 0:
            raise ConfigError(f"algorithm.critic_lr={self.critic_lr} must be above 0; null takes optim.lr")
        self.check_at_least_0("critic_warmup")

    def build(self) -> "Ppo":
        return Ppo(self)


class Ppo(Clipped[PpoConfig]):
    """The algorithm at one setting."""

    def __init__(self, config: PpoConfig) -> None:
        super().__init__(config)
        self.needs |= {"values"}
        self.silent_at_zero = False

    def estimate(self, batch: RolloutBatch) -> Tensor:
        found = self._gae(batch)
        return whitened(found, batch.loss_mask) if self.config.whiten else found

    def _gae(self, batch: RolloutBatch) -> Tensor:
        assert batch.values is not None, "the stage supplies what an algorithm needs"
        config = self.config
        return gae(self.rewards(batch), batch.values.double(), batch.loss_mask, config.gamma, config.gae_lambda)

    def _returns(self, batch: RolloutBatch) -> Tensor:
        assert batch.values is not None, "the stage supplies what an algorithm needs"
        return (by_credit(batch, self._gae) + batch.values).to(batch.loss_mask.dtype)

    def losses(
        self, out: PolicyOutput, batch: RolloutBatch, advantages: Tensor, totals: Totals
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        found, metrics = super().losses(out, batch, advantages, totals)
        assert out.values is not None and batch.values is not None, "the stage supplies what an algorithm needs"
        mask, count = batch.loss_mask, max(totals.tokens, 1.0)
        returns = self._returns(batch)
        error = (out.values - returns).square()
        if self.config.value_clip is not None:
            moved = (out.values - batch.values).clamp(-self.config.value_clip, self.config.value_clip)
            beyond = (batch.values + moved - returns).square()
            metrics["critic/clip_ratio"] = ((beyond > error) * mask).sum() / count
            error = torch.maximum(error, beyond)
        found["value"] = 0.5 * (error * mask).sum() / count
        metrics["critic/value"] = (out.values.detach() * mask).sum() / count
        metrics["critic/error"] = ((out.values.detach() - returns).square() * mask).sum() / count
        return found, metrics


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """[B, T] generalised advantages from rewards, values and mask [B, T], 0 where the mask is 0.

    Rewards on tokens that were not sampled (feedback of an environment) count for the sampled one before them.
    """
    found = torch.zeros_like(values)
    value, advantage, later = (values.new_zeros(len(values)) for _ in range(3))
    for t in reversed(range(values.shape[1])):
        sampled = mask[:, t] > 0
        reward = rewards[:, t] + later
        step = reward + gamma * value - values[:, t] + gamma * lam * advantage
        found[:, t] = torch.where(sampled, step, 0.0)
        advantage = torch.where(sampled, step, advantage)
        value = torch.where(sampled, values[:, t], value)
        later = torch.where(sampled, 0.0, reward)
    return found
