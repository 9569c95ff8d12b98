"""Policy-gradient training on rollouts: one `training_step` is one iteration."""

import time
from typing import Any

import torch
from torch import Tensor

from rlx.algorithms.base import Totals
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.decoding.logprobs import token_logprobs_and_entropy
from rlx.errors import RunError, Stopped
from rlx.models.size import TRAINING_PASSES, forward_flops
from rlx.nn.decoder import Decoder
from rlx.runs.files import METRICS
from rlx.runs.metrics import MetricsLog
from rlx.stages.base import Start, load_start, seed_for
from rlx.stages.modules.alarms import WINDOW, Alarms, conclusion, preflight
from rlx.stages.modules.loop import StepModule
from rlx.stages.modules.rollouts import Rollout, RolloutSource, Sampler, rollout_metrics
from rlx.trainers.base import Precision

__all__ = ["PolicyModule", "RolloutSource", "Sampler"]

SAMPLES_LOGGED = 2
"""Groups an iteration whose first completion goes to samples.jsonl, every `SAMPLES_EVERY` iterations."""
SAMPLES_EVERY = 10
GAP_FP32 = 1e-5
"""Largest mean gap (nats) between sampled and trained log-probabilities in float32: more is a fault of ours."""


class PolicyModule(StepModule):
    """Epochs x minibatches of updates on each rollout.

    The gap between recorded and recomputed log-probabilities is measured before the first update of an iteration,
    where both come from the same weights. Rows without an advantage are left out of the update where the algorithm
    allows it; entropy and the gap are then means over the rows trained on, and absent when there are none.
    """

    def __init__(self, start: Start, config: Any, run: Any, sampler: Sampler, *, total: int, clip_norm: float) -> None:
        super().__init__(start, config, run, total=total, clip_norm=clip_norm)
        self.sampler = sampler
        self.stage, self.settings, self.decode = config.stage, config.algorithm, config.decode
        self.algorithm = config.algorithm.build()
        self.precision = config.trainer.precision
        self.watch = Alarms(config.optim.lr)
        self.preflight: dict[str, float] | None = None
        self._reference = self._load_reference()

    def _load_reference(self) -> list[Decoder]:
        """The starting policy, where the algorithm needs it; in a list, so that it is no part of the module."""
        if "reference" not in self.algorithm.needs:
            return []
        first = self.run.record["parents"]
        if not first:
            raise RunError("algorithm.kl_coefficient needs a starting policy; give init_from=<run>")
        from pathlib import Path

        model = load_start(Path(first[0]["folder"]), model_config=self.config.model).model
        return [model.eval().requires_grad_(False)]

    def on_train_start(self) -> None:
        for model in self._reference:
            model.to(self.device)
        count = self.stage.preflight_problems
        if self.position == 0 and self.preflight is None and count:
            examples = self.sampler.held_out_examples(count)
            try:
                rollout = self.sampler.sample(examples, "preflight", version=0, purpose="eval")
            except Stopped:
                return
            self.preflight = rollout_metrics(rollout)
            for sentence in preflight(self.preflight, self.settings.group_size):
                self.run.say(f"  {sentence}")
            self.run.save_record(preflight=self.preflight)

    def training_step(self, rollout: Rollout | None, index: int) -> None:
        assert rollout is not None, "Lightning makes no step of None"
        assert rollout.version == self.position, "a rollout must come from the policy that it trains"
        began = time.perf_counter()
        batch = self.algorithm.select(rollout.batch)
        self._refer(batch)
        advantages = self.algorithm.advantages(batch)
        figures = self._train(batch, advantages)
        self.tokens = int(rollout.lengths.sum())
        self.row = {**rollout_metrics(rollout), **figures, "train/lr": self.learning_rate()}
        self.row.update({f"timing_s/{name}": seconds for name, seconds in rollout.seconds.items()})
        self.row["timing_s/update"] = time.perf_counter() - began
        self._log_samples(rollout)
        self.done = True

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch

    def _refer(self, batch: RolloutBatch) -> None:
        """Fill in the reference policy's log-probabilities, where the algorithm needs them."""
        for model in self._reference:
            with torch.no_grad():
                parts = [self._look(model, batch.rows(rows)).logprobs for rows in self._parts(len(batch.tokens))]
            batch.reference_logprobs = torch.cat(parts)
            self.run.ledger.train += forward_flops(self.model, *_size(batch))

    def _train(self, batch: RolloutBatch, advantages: Tensor) -> dict[str, float]:
        """All updates of the iteration, and their metrics."""
        algorithm, figures = self.settings, []
        for epoch in range(algorithm.epochs):
            order = self._order(len(batch.tokens), epoch)
            for number, rows in enumerate(order.chunk(algorithm.minibatches)):
                first = epoch == 0 and number == 0
                figures.append(self._update(batch.rows(rows), advantages[rows], measure_gap=first))
        names = dict.fromkeys(name for figure in figures for name in figure)
        means = {}
        for name in names:
            values = [figure[name] for figure in figures if name in figure]
            means[name] = sum(values) / len(values)
        return means

    def _order(self, rows: int, epoch: int) -> Tensor:
        """Rows in the order of the minibatches: as sampled when there is one, else shuffled."""
        if self.settings.minibatches == 1:
            return torch.arange(rows)
        generator = torch.Generator().manual_seed(seed_for(self.config.seed, "minibatches", self.position, epoch))
        return torch.randperm(rows, generator=generator)

    def _update(self, batch: RolloutBatch, advantages: Tensor, *, measure_gap: bool) -> dict[str, float]:
        """One optimizer step on a minibatch, computed in parts of `micro_rows` rows."""
        optimizer: Any = self.optimizers()
        totals = Totals.of(batch, self.decode.max_tokens)
        if self.algorithm.silent_at_zero:
            heard = advantages.any(-1).nonzero().squeeze(1)
            batch, advantages = batch.rows(heard), advantages[heard]
        self.run.ledger.train += TRAINING_PASSES * forward_flops(self.model, *_size(batch))
        sampled = max(float(batch.loss_mask.sum()), 1.0)
        found: dict[str, float] = {"train/loss": 0.0}
        gaps = []
        for rows in self._parts(len(batch.tokens)):
            part = batch.rows(rows)
            out = self._look(self.model, part)
            losses, metrics = self.algorithm.losses(out, part, advantages[rows], totals)
            loss = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(loss):
                raise RunError(f"the loss at iteration {self.position + 1} is {loss.item()}: the run has diverged")
            self.manual_backward(loss)
            metrics = {**metrics, "train/loss": loss, "entropy": _share(out.entropy, part.loss_mask, sampled)}
            for name, value in metrics.items():
                found[name] = found.get(name, 0.0) + float(value.detach())
            gaps.append(((out.logprobs.detach() - part.logprobs) * part.loss_mask).abs())
        found["train/grad_norm"] = self.update(optimizer).item()
        if measure_gap and gaps:
            found.update(self._gap(gaps, sampled))
        return found

    def _gap(self, gaps: list[Tensor], sampled: float) -> dict[str, float]:
        """How far recorded log-probabilities are from the trainer's, on the policy's own samples.

        Raises:
            RunError: in float32 on a CPU the mean gap is above 1e-5.
        """
        mean = sum(gap.sum().item() for gap in gaps) / sampled
        largest = max(gap.max().item() for gap in gaps)
        precise = self.precision is Precision.fp32 and self.device.type == "cpu"
        if precise and mean > GAP_FP32:
            raise RunError(
                f"sampled and trained log-probabilities differ by {mean:.2e} nats on average (float32 should be below "
                f"{GAP_FP32:g}): a fault in the model's cache; please report it"
            )
        return {"sampling/sampling_logp_difference/mean": mean, "sampling/sampling_logp_difference/max": largest}

    def _look(self, model: Decoder, batch: RolloutBatch) -> PolicyOutput:
        hidden, _ = model(batch.tokens)
        temperature = self.decode.temperature
        logprobs, entropy = token_logprobs_and_entropy(model.logits(hidden), batch.tokens, temperature)
        return PolicyOutput(logprobs=logprobs, entropy=entropy)

    def _parts(self, rows: int) -> tuple[Tensor, ...]:
        """Row numbers in parts that go through the model at once."""
        return torch.arange(rows).split(self.stage.micro_rows) if rows else ()

    def _log_samples(self, rollout: Rollout) -> None:
        if (self.position + 1) % SAMPLES_EVERY and self.position:
            return
        rewards, samples = rollout.batch.returns().tolist(), self.settings.group_size
        for number in range(min(SAMPLES_LOGGED, len(rollout.examples))):
            example, row = rollout.examples[number], number * samples
            verdict = rollout.verdicts[row]
            self.run.samples.append(
                {
                    "step": self.position + 1,
                    "id": example.id,
                    "prompt": example.prompt,
                    "completion": rollout.texts[row],
                    "verdict": verdict.outcome.value,
                    "detail": verdict.detail,
                    "reward": rewards[row],
                }
            )

    def validate(self) -> dict[str, float]:
        examples = self.sampler.held_out_examples(self.stage.val_problems)
        # The step is made and its row waits for this number: a stop is heeded after it.
        rollout = self.sampler.sample(examples, "val", version=self.position, purpose="eval", heed_stop=False)
        found = rollout_metrics(rollout)
        return {"val/pass@1": found["rewards/verifier/mean"]}

    def alarms(self, row: dict[str, Any]) -> list[str]:
        return self.watch.check(row)

    def note(self) -> str:
        return f"reward {self.row['reward']:.3f}"

    def state(self) -> dict[str, Any]:
        return {"alarms": self.watch.state(), "preflight": self.preflight}

    def restore(self, state: dict[str, Any]) -> None:
        self.watch.restore(state["alarms"])
        self.preflight = state["preflight"]

    def conclude(self) -> None:
        """Say what came of the run, by the rewards of its first and last iterations."""
        rewards = [row["reward"] for row in MetricsLog.read(self.run.path / METRICS)]
        window = max(1, min(WINDOW, len(rewards) // 2))
        sentence = conclusion(rewards[:window], rewards[-window:])
        self.run.say(f"  {sentence}")
        self.run.save_record(conclusion=sentence)


def _size(batch: RolloutBatch) -> tuple[int, int]:
    """Tokens that are not padding (up to each row's last sampled token), and the positions that they attend."""
    width = batch.tokens.shape[1]
    lengths = (batch.loss_mask * torch.arange(1, width + 1, device=batch.tokens.device)).amax(-1).long()
    return int(lengths.sum()), int((lengths * (lengths + 1) // 2).sum())


def _share(entropy: Tensor | None, mask: Tensor, sampled: float) -> Tensor:
    """This part's share of the mean entropy over the `sampled` tokens trained on."""
    assert entropy is not None
    return (entropy.detach() * mask).sum() / sampled
