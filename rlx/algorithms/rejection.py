"""Fine-tuning on verified samples of one's own: what expert iteration and rejection fine-tuning share.

Completions are sampled, the right ones are kept, exact duplicates dropped, and what is left is trained on with the
negative log-likelihood, a mean over their tokens. Sampled by the policy that is trained, once, without dropping
duplicates, that is a REINFORCE step with advantage 1 for right completions and 0 for others, over the share of tokens
that right ones have. Dropping duplicates is more than saving work: what is drawn often counts once, so that the policy
stays broader than its samples, and less sure of the best of them.

The likelihood is the model's own, as in `stage=sft`, whatever decode.temperature the samples were drawn at.
What is kept waits in memory, and in the trainer/state.pt of every checkpoint: 28 bytes a token (36 with coupled
positions), prompts and padding to the longest of an iteration's rows included, and 2 more for every expert chosen
(stage.replay_routing). 10,000 rows of 500 tokens are 0.14 GB. It is the right completions since the last round of
training, all of the run's where there is one round (`rft`) or `buffer_rounds=null`.
"""

from collections import Counter
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from rlx.algorithms.base import Algorithm, AlgorithmConfig, Gathering, Normalization, Totals, listed, reduce
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import ConfigError


class Whose(str, Enum):
    """Which weights."""

    start = "start"
    """Those that the run began with."""
    latest = "latest"
    """Those of the last round."""


@dataclass(kw_only=True, slots=True)
class RejectionConfig(AlgorithmConfig):
    """Fields of both."""

    epochs: int = 2
    """Passes over a round's samples."""
    generator: Whose = Whose.latest
    """Which weights sample: start or latest."""
    train_from: Whose = Whose.start
    """Which weights a round of training begins with: start (with a schedule and an optimizer of its own) or latest (the
    run's go on, a round's steps at the rates of the iterations that sampled for it)."""
    round_iterations: int | None = 20
    """Iterations that sample for a round of training; null: all of the run are one round."""
    buffer_rounds: int | None = 1
    """Rounds whose samples are trained on, the newest ones; null: all."""
    batch_rows: int = 64
    """Samples an optimizer step."""
    deduplicate: bool = True
    """Of equal completions of equal prompts one is kept."""
    max_per_prompt: int | None = None
    """Completions kept of a prompt, the first ones; null: all."""

    def __post_init__(self) -> None:
        AlgorithmConfig.__post_init__(self)
        for name in ("round_iterations", "buffer_rounds", "batch_rows", "max_per_prompt"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"algorithm.{name}={value} must be at least 1")
        if self.round_iterations is None and self.buffer_rounds is not None:
            self.check_unread("there is one round; give algorithm.round_iterations", "buffer_rounds")
        if self.minibatches != 1:
            raise ConfigError(
                f"algorithm.minibatches={self.minibatches}: how many steps a pass has follows from the samples kept; "
                "give algorithm.batch_rows, and leave it out"
            )

    def build(self) -> "Rejection":
        return Rejection(self)


class Rejection(Algorithm):
    """The algorithm at one setting."""

    undivided = "keeps whole completions that are right"

    def __init__(self, config: RejectionConfig) -> None:
        self.config = config
        self.gathering = Gathering(
            iterations=config.round_iterations,
            rounds=config.buffer_rounds,
            batch_rows=config.batch_rows,
            start_samples=config.generator is Whose.start,
            start_trains=config.train_from is Whose.start,
        )

    def select(self, batch: RolloutBatch) -> RolloutBatch:
        right = batch.correct & batch.loss_mask.any(-1)
        batch = batch.rows(right.nonzero().squeeze(1))
        return batch.rows(kept(batch, self.config.deduplicate, self.config.max_per_prompt))

    def advantages(self, batch: RolloutBatch) -> Tensor:
        return batch.loss_mask.clone()

    def losses(
        self, out: PolicyOutput, batch: RolloutBatch, advantages: Tensor, totals: Totals
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        loss = reduce(-advantages * out.logprobs, batch.loss_mask, Normalization.token, totals)
        return {"policy": loss}, {}


def kept(batch: RolloutBatch, deduplicate: bool, most: int | None) -> Tensor:
    """Numbers [N] int64 of the rows that stay: the first of each completion of a prompt, and the first `most` a prompt;
    prompts are equal when their tokens are."""
    place = torch.arange(1, batch.tokens.shape[1] + 1, device=batch.tokens.device)
    lasts = (batch.loss_mask * place).amax(-1).long() if len(batch.tokens) else place[:0]
    begins: list[int] = listed((batch.loss_mask > 0).int().argmax(-1))  # the first sampled token ends the prompt
    ends: list[int] = listed(lasts)
    rows: list[list[int]] = listed(batch.tokens)
    seen: set[tuple[int, ...]] = set()
    count: Counter[tuple[int, ...]] = Counter()
    found: list[int] = []
    for row, tokens in enumerate(rows):
        prompt, whole = tuple(tokens[: begins[row]]), (begins[row], *tokens[: ends[row]])
        if (deduplicate and whole in seen) or (most is not None and count[prompt] >= most):
            continue
        seen.add(whole)
        count[prompt] += 1
        found.append(row)
    return torch.tensor(found, dtype=torch.int64, device=batch.tokens.device)
