"""Policy-gradient training on rollouts: one `training_step` is one iteration."""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithms.base import Totals, importance_weights
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.decoding.logprobs import token_logprobs_and_entropy
from rlx.errors import CheckpointError, DivergedError, RunError, Stopped
from rlx.nn.aux import Aux
from rlx.nn.compiled import compiled, halved, rounded
from rlx.nn.decoder import Decoder
from rlx.nn.rows import Rows
from rlx.runs.files import METRICS
from rlx.runs.identity import RunName
from rlx.runs.metrics import MetricsLog
from rlx.runs.run import read_config
from rlx.stages.modules.alarms import WINDOW, Alarms, Probe, Setting, conclusion, preflight
from rlx.stages.modules.rollouts import Rollout, RolloutSource, Sampler, rollout_metrics
from rlx.stages.modules.step import StepModule
from rlx.stages.start import Start, load_start, seed_for
from rlx.trainers.base import Precision
from rlx.types import Example, Outcome, Split

__all__ = ["PolicyModule", "RolloutSource", "Sampler"]

SAMPLES_LOGGED = 2
"""Groups an iteration whose first completion goes to samples.jsonl, every `SAMPLES_EVERY` iterations."""
SAMPLES_EVERY = 10
SMALLEST_ROWS = 32
"""Rows that a compiled pass has at least."""
GAP_FP32 = 1e-5
"""Largest mean gap (nats) between sampled and trained log-probabilities in float32: more is a fault of ours."""


class PolicyModule(StepModule):
    """Epochs x minibatches of updates on each rollout.

    The gap between recorded and recomputed log-probabilities is measured before the first update of an iteration,
    where both come from the same weights. Rows without an advantage are left out of the update where the algorithm
    allows it; entropy and the gap are then means over the rows trained on, and absent when there are none. Where an
    iteration has several updates, approx_kl estimates KL(sampling policy || current) on its last minibatch, before that
    update: the mean of ratio - 1 - log ratio, of that expectation, never negative, and less noisy than log ratio alone.
    """

    def __init__(self, start: Start, config: Any, run: Any, sampler: Sampler, *, total: int, clip_norm: float) -> None:
        super().__init__(start, config, run, total=total, clip_norm=clip_norm)
        self.sampler = sampler
        self.stage, self.settings, self.decode = config.stage, config.algorithm, config.decode
        self.algorithm = config.algorithm.build()
        self.precision = config.trainer.precision
        self.is_compiled = config.trainer.compile
        self._outlook = compiled(_outlook) if self.is_compiled else _outlook
        self.setting = Setting(
            lr=config.optim.lr,
            max_tokens=config.decode.max_tokens,
            group_size=config.algorithm.group_size,
            worth={outcome.value: getattr(config.algorithm.rewards, outcome.value) for outcome in Outcome},
            corrected="old_logprobs" in self.algorithm.needs,
        )
        self.watch = Alarms(self.setting)
        self.preflight: dict[str, Any] | None = None
        self._reference = self._load_reference()

    def _load_reference(self) -> list[Decoder]:
        """The starting policy, where the algorithm needs it; in a list, so that it is no part of the module."""
        if "reference" not in self.algorithm.needs:
            return []
        if self.start.origin is None:
            raise RunError(
                "algorithm.kl_coefficient needs a starting policy, and this lineage began with random weights"
            )
        try:
            model = load_start(self.start.origin, model_config=self.config.model).model
        except CheckpointError as error:
            raise CheckpointError(
                f"algorithm.kl_coefficient needs the policy that the run began from: {error}"
            ) from error
        return [model.eval().requires_grad_(False)]

    def on_train_start(self) -> None:
        for model in self._reference:
            model.to(self.device)
        if self.position == 0 and self.preflight is None and self.stage.preflight_problems:
            self._look_ahead()

    def _look_ahead(self) -> None:
        """Sample the first training problems with the start's weights, and say what that tells.

        Raises:
            RunError: no group has a signal, and stage.preflight=stop.
        """
        size = self.sampler.task.size(Split.train)
        count = self.stage.preflight_problems
        examples = self.sampler.training_examples(0, count if size is None else min(count, size))
        try:
            rollout = self.sampler.sample(examples, "preflight", version=0, purpose="eval")
        except Stopped:
            return
        row = rollout_metrics(rollout)
        said, hopeless = preflight(row, self.setting, self._probe(examples))
        if hopeless:
            said.append(f"this run cannot learn: {hopeless}")
        for sentence in said:
            self.run.say(f"  {sentence}")
        self.watch.begin(rollout.batch.returns().view(len(examples), -1).mean(-1).tolist())
        self.preflight = {**row, "said": said}
        self.run.save_record(preflight=self.preflight)
        if hopeless and self.stage.preflight == "stop":
            raise RunError(f"{said[-1]} (stage.preflight=warn goes on all the same)")

    def _probe(self, examples: list[Example]) -> Probe:
        encode = self.start.tokenizer.encode
        name = RunName.of(self.run.path)
        return Probe(
            problems=len(examples),
            longest=max(len(encode(example.solution)) + 1 for example in examples),
            asked=_format(name.task if name else "?", getattr(self.config.task, "trace", None)),
            trained=self._trained_on(),
        )

    def _trained_on(self) -> str | None:
        """Task and format of the run that made the start; empty for random weights, None where they are not known."""
        parents = self.run.record["parents"]
        if not parents:
            return ""
        place = parents[0].get("run")
        name, config = RunName.of(place) if place else None, read_config(place) if place else {}
        return _format(name.task, (config.get("task") or {}).get("trace")) if name else None

    def training_step(self, rollout: Rollout | None, index: int) -> None:
        assert rollout is not None, "Lightning makes no step of None"
        assert rollout.version == self.position, "a rollout must come from the policy that it trains"
        began = time.perf_counter()
        batch = self.algorithm.select(rollout.batch)
        self._refer(batch)
        advantages = self.algorithm.advantages(batch)
        self._remember(batch, advantages)
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
                own = replace(batch, routing=None)  # another model's choices are its own
                parts = [self._look(model, own.rows(rows))[0].logprobs for rows in self._parts(len(batch.tokens))]
            batch.reference_logprobs = torch.cat(parts)
            self.run.ledger.train += self.operations.forward(batch.extent())

    def _remember(self, batch: RolloutBatch, advantages: Tensor) -> None:
        """Fill in the trainer's own log-probabilities of the rows that are trained on, where the algorithm needs them.

        With one update an iteration they are those of its forward pass: `_update` fills them in.
        """
        if "old_logprobs" not in self.algorithm.needs or self.settings.epochs * self.settings.minibatches == 1:
            return
        batch.old_logprobs = batch.logprobs.clone()
        heard = self._heard(advantages)
        for rows in heard.split(self.stage.micro_rows) if len(heard) else ():
            with torch.no_grad():
                batch.old_logprobs[rows] = self._look(self.model, batch.rows(rows))[0].logprobs
        self.run.ledger.train += self.operations.forward(batch.rows(heard).extent())

    def _heard(self, advantages: Tensor) -> Tensor:
        """Numbers [N] int64 of the rows that an update goes through."""
        if not self.algorithm.silent_at_zero:
            return torch.arange(len(advantages), device=advantages.device)
        return advantages.any(-1).nonzero().squeeze(1)

    def _train(self, batch: RolloutBatch, advantages: Tensor) -> dict[str, float]:
        """All updates of the iteration, and their metrics."""
        orders = [self._order(len(batch.tokens), epoch) for epoch in range(self.settings.epochs)]
        updates = [rows for order in orders for rows in order.chunk(self.settings.minibatches)]
        figures = [
            self._update(batch.rows(rows), advantages[rows], first=n == 0, last=n == len(updates) - 1)
            for n, rows in enumerate(updates)
        ]
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

    def _update(self, batch: RolloutBatch, advantages: Tensor, *, first: bool, last: bool) -> dict[str, float]:
        """One optimizer step on a minibatch, computed in parts of `micro_rows` rows."""
        optimizer: Any = self.optimizers()
        totals = Totals.of(batch, self.decode.max_tokens)
        heard = self._heard(advantages)
        batch, advantages = batch.rows(heard), advantages[heard]
        extent = batch.extent()
        self.run.ledger.train += self.operations.training(extent)
        sampled = max(float(batch.loss_mask.sum()), 1.0)
        found: dict[str, float] = {"train/loss": 0.0}
        gaps, drift, weights = [], 0.0, []
        for rows in self._parts(len(batch.tokens)):
            part = batch.rows(rows)
            out, aux = self._look(self.model, part)
            if "old_logprobs" in self.algorithm.needs and part.old_logprobs is None:
                part.old_logprobs = out.logprobs.detach()
            losses, metrics = self.algorithm.losses(out, part, advantages[rows], totals)
            loss = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(loss):
                raise DivergedError(f"the loss is {loss.item()}: the run has diverged")
            self.manual_backward(self.routing.added(loss, aux, part.extent().tokens / extent.tokens))
            metrics = {**metrics, "train/loss": loss, "entropy": _share(out.entropy, part.loss_mask, sampled)}
            for name, value in metrics.items():
                found[name] = found.get(name, 0.0) + float(value.detach())
            now = out.logprobs.detach()
            gaps.append(((now - part.logprobs) * part.loss_mask).abs())
            if part.old_logprobs is not None:
                weights.append(importance_weights(part, self.settings.importance_sampling_cap)[part.loss_mask > 0])
            moved = (now - (part.logprobs if part.old_logprobs is None else part.old_logprobs)).clamp(-20, 20)
            drift += float(((moved.exp() - 1 - moved) * part.loss_mask).sum())
        found["train/grad_norm"] = self.update(optimizer).item()
        found.update({name: float(value) for name, value in self.routing.row.items()})
        if first and gaps:
            found.update(self._gap(gaps, sampled))
        if first and weights:
            found.update(_ratios(torch.cat(weights)))
        if last and not first and gaps:
            found["approx_kl"] = drift / sampled
        return found

    def _gap(self, gaps: list[Tensor], sampled: float) -> dict[str, float]:
        """How far recorded log-probabilities are from the trainer's, on the policy's own samples.

        Raises:
            RunError: in float32 on a CPU the mean gap is above 1e-5. Not where experts are chosen anew: of two with
                nearly equal scores the last bits decide.
        """
        mean = sum(gap.sum().item() for gap in gaps) / sampled
        largest = max(gap.max().item() for gap in gaps)
        precise = self.precision is Precision.fp32 and self.device.type == "cpu"
        precise &= self.stage.replay_routing or not self.routing.layers
        if precise and mean > GAP_FP32:
            raise RunError(
                f"sampled and trained log-probabilities differ by {mean:.2e} nats on average (float32 should be below "
                f"{GAP_FP32:g}): a fault in the model's cache; please report it"
            )
        return {"sampling/sampling_logp_difference/mean": mean, "sampling/sampling_logp_difference/max": largest}

    def _look(self, model: Decoder, batch: RolloutBatch) -> tuple[PolicyOutput, Aux]:
        """What a model says of the batch's tokens; compiled for few shapes, to which the rows are padded."""
        count, width = batch.tokens.shape
        tokens, places, pad = batch.tokens, batch.places, torch.nn.functional.pad
        right = below = 0
        if self.is_compiled:
            right, below = rounded(width) - width, halved(self.stage.micro_rows, count, SMALLEST_ROWS) - count
            tokens = pad(tokens, (0, right, 0, below), value=self.start.tokenizer.pad_id)
        routed = bool(self.routing.layers)  # their loads and losses are of real tokens
        rows = model.rows(tokens, lengths=pad(_lengths(batch), (0, below)) if routed else None)
        rows.places = None if places is None else pad(places, (0, right, 0, below))
        if batch.routing is not None:
            rows.routing = pad(batch.routing, (0, 0, 0, 0, 0, right, 0, below), value=-1).permute(2, 0, 1, 3).long()
        logprobs, entropy, aux = self._outlook(model, tokens, rows, self.decode.temperature)
        return PolicyOutput(logprobs=logprobs[:count, :width], entropy=entropy[:count, :width]), aux

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
        rollout = self.sampler.sample(examples, "val", version=self.position, purpose="eval")
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

    def count_anew(self) -> None:
        self.watch.said.clear()

    def conclude(self) -> None:
        """Say what came of the run, by the rewards of its first and last iterations."""
        rewards = [row["reward"] for row in MetricsLog.read(self.run.path / METRICS)]
        window = max(1, min(WINDOW, len(rewards) // 2))
        sentence = conclusion(rewards[:window], rewards[-window:])
        self.run.say(f"  {sentence}")
        self.run.save_record(conclusion=sentence)


def _outlook(model: Decoder, tokens: Tensor, rows: Rows, temperature: float) -> tuple[Tensor, Tensor, Aux]:
    """Log-probabilities of tokens [B, T] and entropies, each [B, T], and what layers have to say besides: the part that
    is worth compiling."""
    hidden, aux = model.run(tokens, rows)
    return *token_logprobs_and_entropy(model.logits(hidden), tokens, temperature), aux


def _lengths(batch: RolloutBatch) -> Tensor:
    """[B] int64: tokens up to each row's last sampled one."""
    width = batch.tokens.shape[1]
    return (batch.loss_mask * torch.arange(1, width + 1, device=batch.tokens.device)).amax(-1).long()


def _format(task: str, trace: Any) -> str:
    """A task and the format of its texts, as typed."""
    return f"task={task}" + (f" task.trace={getattr(trace, 'value', trace)}" if trace is not None else "")


def _ratios(weights: Tensor) -> dict[str, float]:
    """Mean and extremes of the importance weights [N], truncated, under TRL's names."""
    name = "sampling/importance_sampling_ratio"
    return {
        f"{name}/mean": weights.mean().item(),
        f"{name}/min": weights.min().item(),
        f"{name}/max": weights.max().item(),
    }


def _share(entropy: Tensor | None, mask: Tensor, sampled: float) -> Tensor:
    """This part's share of the mean entropy over the `sampled` tokens trained on."""
    assert entropy is not None
    return (entropy.detach() * mask).sum() / sampled
