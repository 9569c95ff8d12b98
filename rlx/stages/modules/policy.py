"""Policy-gradient training on rollouts: one `training_step` is one iteration."""

import copy
import time
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from rlx.algorithms.base import Totals, importance_weights
from rlx.batches import PolicyOutput, RolloutBatch
from rlx.errors import CheckpointError, DivergedError, RunError, Stopped
from rlx.evaluation.leaks import unearned
from rlx.evaluation.verdicts import first_failure, heard
from rlx.nn.aux import Aux
from rlx.nn.decoder import Decoder
from rlx.options import option_of
from rlx.runs.files import METRICS
from rlx.runs.identity import RunName
from rlx.runs.metrics import MetricsLog
from rlx.runs.run import read_config
from rlx.stages.modules.alarms import WINDOW, Alarms, Probe, Setting, conclusion, preflight, verifier_failed
from rlx.stages.modules.companion import Companion, Critic, averaged, copied, trained
from rlx.stages.modules.gathered import Gathered
from rlx.stages.modules.likelihoods import add_likelihoods
from rlx.stages.modules.looking import Looker
from rlx.stages.modules.outlook import outlook, prospects
from rlx.stages.modules.rollouts import Rollout, RolloutSource, Sampler, rollout_metrics
from rlx.stages.modules.samples import SampleLog
from rlx.stages.modules.step import StepModule, stepped, with_peaks
from rlx.stages.start import Start, load_start, seed_for
from rlx.trainers.base import Precision
from rlx.types import Example, Outcome, Split

__all__ = ["PolicyModule", "RolloutSource", "Sampler"]

GAP_FP32 = 1e-5
"""Largest mean gap (nats) between sampled and trained log-probabilities in float32: more is a fault of ours."""


class PolicyModule(StepModule):
    """Epochs x minibatches of updates on each rollout, or on what several iterations gathered.

    The gap between recorded and recomputed log-probabilities is measured before the first update of an iteration,
    where both come from the same weights. Rows without an advantage are left out of the update where the algorithm
    allows it; entropy, kl and the gap are then means over the rows trained on, and absent when there are none. Where an
    iteration has several updates, approx_kl estimates KL(sampling policy || current) on its last minibatch, before that
    update: the mean of ratio - 1 - log ratio, of that expectation, never negative, and less noisy than log ratio alone.

    What is trained or kept beside the policy (critic, second optimizer, renewed reference, starting weights, gathered
    completions) is no part of the Lightning module: `state` gives it, and a resume takes it up.
    """

    def __init__(self, start: Start, config: Any, run: Any, sampler: Sampler, *, total: int, clip_norm: float) -> None:
        super().__init__(start, config, run, total=total, clip_norm=clip_norm)
        self.sampler = sampler
        self.stage, self.settings, self.decode = config.stage, config.algorithm, config.decode
        self.algorithm = config.algorithm.build()
        self.precision = config.trainer.precision
        self.looker = Looker(
            pad_id=start.tokenizer.pad_id,
            micro_rows=config.stage.micro_rows,
            temperature=config.decode.temperature,
            routed=bool(self.routing.layers),
            compile=config.trainer.compile,
        )
        gathering = self.algorithm.gathering
        self.setting = Setting(
            lr=config.optim.lr,
            max_tokens=config.decode.max_tokens,
            group_size=config.algorithm.group_size,
            worth={outcome.value: getattr(config.algorithm.rewards, outcome.value) for outcome in Outcome},
            corrected="old_logprobs" in self.algorithm.needs,
            compares=self.algorithm.compares,
            knobs=frozenset(each.name for each in fields(config.algorithm)),
            updates=self.settings.epochs * self.settings.minibatches,
            talks=sampler.environment.turns > 1,
            budgets=_budgets(config.environment),
            clip_high=getattr(self.settings, "clip_high", None),
            warmup=config.schedule.warmup_steps if gathering is not None and gathering.start_trains else 0,
            normalization=_name(getattr(self.settings, "normalization", None)),
        )
        self.watch = Alarms(self.setting)
        self.preflight: dict[str, Any] | None = None
        self.samples = SampleLog(run, config.stage.followed_problems)
        self._reference = self._make_reference()
        self._companions: dict[str, Companion] = {}
        self._add_companions()
        self._gathered: Gathered | None = None
        self._first_weights: dict[str, Tensor] = {}
        """What the run began with, where rounds begin there or sample with it."""
        self._generator: list[Decoder] = []
        self._add_gathering()

    @property
    def _renews_reference(self) -> bool:
        return "reference" in self.algorithm.needs and self.settings.reference_every is not None

    def _make_reference(self) -> list[Decoder]:
        """The reference policy, where the algorithm needs one; in a list, so that it is no part of the module."""
        if "reference" not in self.algorithm.needs:
            return []
        if self._renews_reference:
            return [copy.deepcopy(self.model).eval().requires_grad_(False)]
        if self.start.origin is None:
            asks = self.settings.asks_for_reference()
            raise RunError(f"{asks} needs a starting policy, and this lineage began with random weights")
        try:
            start = load_start(
                self.start.origin, model_config=self.config.model, extended=lambda tokenizer: self.start.tokenizer
            )
        except CheckpointError as error:
            raise CheckpointError(
                f"{self.settings.asks_for_reference()} needs the policy that the run began from: {error}"
            ) from error
        return [start.model.eval().requires_grad_(False)]

    def _add_companions(self) -> None:
        optim, demonstrations = self.config.optim, self.algorithm.demonstrations
        assert optim is not None
        if "values" in self.algorithm.needs:
            lr = self.settings.critic_lr
            since = self.start.made
            self._companions["critic"] = Critic(self.model, optim, lr=lr, clip_norm=self.clip_norm, since=since)
        if demonstrations is not None and demonstrations.averaged:
            self._companions["demonstrations"] = Companion(
                self.model, optim, lr=demonstrations.lr, clip_norm=self.clip_norm
            )

    def _add_gathering(self) -> None:
        gathering = self.algorithm.gathering
        if gathering is None:
            return
        pad_id = self.start.tokenizer.pad_id
        self._gathered = Gathered(gathering, self.algorithm, total=self.total, pad_id=pad_id)
        if gathering.start_samples or gathering.start_trains:
            self._first_weights = copied(self.model)
        if gathering.start_samples:
            self._generator = [copy.deepcopy(self.model).eval().requires_grad_(False)]
            self.sampler.generate_with(self._generator[0])

    @property
    def critic(self) -> Critic | None:
        """The critic, where the algorithm needs values."""
        found = self._companions.get("critic")
        return found if isinstance(found, Critic) else None

    def on_train_start(self) -> None:
        for model in [*self._reference, *self._generator, *([self.critic.model] if self.critic else [])]:
            model.to(self.device)
        if self.sampler.lengths is not None:
            self.sampler.lengths.to(self.device)
        if self.position == 0 and self.preflight is None and self.stage.preflight_problems:
            self._look_ahead()

    def _look_ahead(self) -> None:
        """Sample the first training problems with the start's weights, and say what that tells; keep the start's
        completions of the held-out problems that are followed.

        Raises:
            RunError: no group has a signal, and stage.preflight=stop.
        """
        size = self.sampler.task.size(Split.train)
        count = self.stage.preflight_problems
        examples = self.sampler.training_examples(0, count if size is None else min(count, size))
        spent = self.run.ledger.state_dict()
        try:
            rollout = self.sampler.sample(examples, "preflight", version=0, purpose="eval")
            if self.stage.val_every and self.stage.followed_problems:
                self._validation(min(self.stage.followed_problems, self.stage.val_problems))
            leaks = unearned(self.sampler.judge, examples)
        except Stopped:
            self.run.ledger.load_state_dict(spent)
            return
        self.samples.write()
        rollout.shape(self.algorithm, self.decode.max_tokens)
        rewards = rollout.batch.returns().view(len(examples), -1)
        right = rollout.batch.correct.view(len(examples), -1)
        row = {**rollout_metrics(rollout), **outlook(rewards.tolist(), right.tolist())}
        said, hopeless = preflight(row, self.setting, self._probe(examples))
        if failed := first_failure(*heard(rollout.episodes)):
            what = f"{'turns ' if rollout.talks else ''}of {len(rollout.verdicts)} completions"
            said.append(verifier_failed(f"{row['verifier/errors']:g} {what}", failed))
        said += leaks
        if hopeless:
            said.append(f"this run cannot learn: {hopeless}")
        elif self.algorithm.compares:
            said.insert(1, prospects(row, prompts=self.stage.prompts, samples=rollout.group_size))
        for sentence in said:
            self.run.say(f"  {sentence}")
        self.watch.begin(rewards.mean(-1).tolist())
        self.preflight = {**row, "said": said}
        self.run.save_record(preflight=self.preflight)
        if hopeless and self.stage.preflight == "stop":
            raise RunError(f"{said[-1]} (stage.preflight=warn goes on all the same)")

    def _probe(self, examples: list[Example]) -> Probe:
        name, sampler = RunName.of(self.run.path), self.sampler
        environment = self.config.environment
        shown = [sampler.shown(sampler.order[place]) for place in range(len(examples))]
        spoken = None if getattr(environment, "unnamed", False) else option_of(environment).name
        return Probe(
            problems=len(examples),
            longest=max(len(document.ids) - document.given for document in shown),
            asked=_format(name.task if name else "?", getattr(self.config.task, "trace", None), spoken),
            trained=self._trained_on(spoken),
        )

    def _trained_on(self, asked: str | None) -> str | None:
        """Task and format of the run that made the start; empty for random weights, None where they are not known, as
        an environment is of a run that read no corpus. `asked`: this run's environment."""
        parents = self.run.record["parents"]
        if not parents:
            return ""
        place = parents[0].get("run")
        name, config = RunName.of(place) if place else None, read_config(place) if place else {}
        if name is None or (asked is not None and not config.get("corpus")):
            return None
        known = _environments(config.get("corpus"))
        spoken = asked if asked in known else next(iter(known), None)
        return _format(name.task, (config.get("task") or {}).get("trace"), spoken if asked is not None else None)

    def training_step(self, rollout: Rollout | None, index: int) -> None:
        assert rollout is not None, "Lightning makes no step of None"
        assert rollout.version == self.position, "a rollout must come from the policy that it trains"
        began = time.perf_counter()
        self._shape(rollout)
        batch = rollout.trained()
        figures = self._improve(self.algorithm.select(batch)) if self._gathered is None else self._gather(batch)
        self.tokens = int(rollout.lengths.sum())
        self.watch.failed = first_failure(*heard(rollout.episodes)) or self.watch.failed
        self.row = {**rollout_metrics(rollout), **figures, **self.sampler.learn_lengths(rollout)}
        if self._gathered is None and "train/grad_norm" in figures:  # else the critic alone was trained
            self.row["train/lr"] = self.learning_rate()
        self.row.update({f"timing_s/{name}": seconds for name, seconds in rollout.seconds.items()})
        self.row["timing_s/update"] = time.perf_counter() - began
        self.samples.drawn(rollout, self.position + 1)
        self.done = True

    def _shape(self, rollout: Rollout) -> None:
        """Add to the rewards what the algorithm has, and what the environment asks of the policy that sampled."""
        added, extent = add_likelihoods(rollout.episodes, self.model, self.start.tokenizer, self.looker)
        if extent.tokens:
            self.run.ledger.train += self.operations.forward(extent)
            rollout.reward_again()
        rollout.shape(self.algorithm, self.decode.max_tokens)
        if extent.tokens:
            rollout.parts["likelihood"] = torch.tensor(added)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch

    def _gather(self, batch: RolloutBatch) -> dict[str, float]:
        """Keep what is worth it; where a round is due, train on what was kept."""
        assert self._gathered is not None and self.algorithm.gathering is not None
        figures = self._gathered.add(batch)
        if not self._gathered.is_due(self.position + 1):
            return figures
        kept = self._gathered.take(batch.rows(torch.zeros(0, dtype=torch.int64)))
        figures["buffer/trained_rows"] = float(len(kept.tokens))
        if not len(kept.tokens):  # the policy stays what it is, and samples for the next round
            return figures
        if not self.algorithm.gathering.start_trains:
            return {**figures, **self._improve(kept), "train/lr": self.learning_rate()}
        assert self.config.optim is not None
        self.model.load_state_dict(self._first_weights)
        optimizer = with_peaks(self.config.optim.build(self.model))
        return {**figures, **self._improve(kept, optimizer), "train/lr": optimizer.param_groups[0]["lr"]}

    def _improve(self, batch: RolloutBatch, optimizer: Any = None) -> dict[str, float]:
        """Train on the rows selected, with the run's optimizer or one that is the round's own."""
        self._renew_reference()
        sampled = batch.loss_mask.any(-1).nonzero().squeeze(1)  # the others were masked, and count in their group alone
        own = replace(batch.rows(sampled), routing=None)  # another model's choices are its own
        if self._reference:
            batch.reference_logprobs = torch.zeros_like(batch.logprobs)
            asked = batch.drawn().any(-1).nonzero().squeeze(1) if self.algorithm.charges else sampled
            whole = replace(batch.rows(asked), routing=None, loss_mask=batch.drawn()[asked])
            batch.reference_logprobs[asked] = self.looker.logprobs(self._reference[0], whole)
            self.run.ledger.train += self.operations.forward(whole.extent())
        if self.critic is not None:
            batch.values = torch.zeros_like(batch.logprobs)
            batch.values[sampled] = self.looker.all_values(self.critic.model, own)
            self.run.ledger.train += self.critic.operations.forward(own.extent())
        updates = self._updates(len(batch.tokens))
        advantages = self._advantages(batch, len(updates))
        figures: list[dict[str, float]] = []
        untouched = True
        for n, rows in enumerate(updates):
            factor = self._factor(n, len(updates), own=optimizer is not None)
            part, last = batch.rows(rows), n == len(updates) - 1
            figures.append(
                self._update(part, advantages[rows], optimizer, factor, number=n, first=untouched, last=last)
            )
            untouched &= "entropy" not in figures[-1] and self.algorithm.demonstrations is None
        names = dict.fromkeys(name for figure in figures for name in figure)
        means = {} if self._gathered is None else {"buffer/updates": float(len(updates))}
        for name in names:
            values = [figure[name] for figure in figures if name in figure]
            means[name] = sum(values) / len(values)
        return means

    def _renew_reference(self) -> None:
        """The reference becomes the policy of the moment, where it is time."""
        if self._renews_reference and self.position and self.position % self.settings.reference_every == 0:
            self._reference[0].load_state_dict(self.model.state_dict())

    def _factor(self, update: int, updates: int, *, own: bool) -> float:
        """What multiplies peak rates in an update: the iteration's on the run's schedule; in a round of training, the
        schedule of its `own`, or the run's over the iterations that sampled for it."""
        schedule, gathering = self.config.schedule, self.algorithm.gathering
        assert schedule is not None
        if own:
            return schedule.factor(update, updates)
        if gathering is None:
            return self.rate_factor()
        first = self.start.made
        if gathering.iterations is not None:
            first = max(first, self.position - self.position % gathering.iterations)
        return schedule.factor(first + update * (self.position + 1 - first) // updates, self.span)

    def _advantages(self, batch: RolloutBatch, updates: int) -> Tensor:
        """Advantages [B, T]; and the trainer's own log-probabilities of the rows that are trained on, where the
        algorithm needs them.

        With one update an iteration they are those of its forward pass: `_update` fills them in.
        """
        advantages = self.algorithm.advantages(batch)
        if "old_logprobs" in self.algorithm.needs and updates > 1:
            batch.old_logprobs = batch.logprobs.clone()
            heard = self._heard(batch, advantages)
            if len(heard):
                batch.old_logprobs[heard] = self.looker.logprobs(self.model, batch.rows(heard))
            self.run.ledger.train += self.operations.forward(batch.rows(heard).extent())
        return advantages

    def _updates(self, rows: int) -> list[Tensor]:
        """Row numbers of each optimizer step of the iteration, pass by pass, no unit of the algorithm's parted: as
        sampled when a pass is one step, else shuffled."""
        unit, gathering = self.algorithm.unit, self.algorithm.gathering
        found: list[Tensor] = []
        for epoch in range(self.settings.epochs):
            units = torch.arange(rows).view(-1, unit)
            if gathering is not None or self.settings.minibatches > 1:
                seed = seed_for(self.config.seed, "minibatches", self.position, epoch)
                units = units[torch.randperm(len(units), generator=torch.Generator().manual_seed(seed))]
            parts = (
                units.tensor_split(self.settings.minibatches)
                if gathering is None
                else units.split(max(gathering.batch_rows // unit, 1))
            )
            found += [part.flatten() for part in parts if len(part) or self.algorithm.demonstrations is not None]
        return found or [torch.arange(0)]

    def _heard(self, batch: RolloutBatch, advantages: Tensor) -> Tensor:
        """Numbers [N] int64 of the rows that an update goes through: not those whose tokens are all masked."""
        heard = batch.loss_mask.any(-1)
        if self.algorithm.silent_at_zero:
            heard &= advantages.any(-1)
        return heard.nonzero().squeeze(1)

    def _update(
        self,
        batch: RolloutBatch,
        advantages: Tensor,
        optimizer: Any,
        factor: float,
        *,
        number: int,
        first: bool,
        last: bool,
    ) -> dict[str, float]:
        """One optimizer step on a minibatch, computed in parts of `micro_rows` rows; `first`: no update of the
        iteration had a gradient before."""
        averages = self.algorithm.demonstrations is not None and self.algorithm.demonstrations.averaged
        before = [parameter.clone() for parameter in trained(self.model)] if averages else []
        found = self._backward(batch, advantages, first=first, last=last and number > 0)
        if self.algorithm.demonstrations is not None and not averages:
            found["train/sft_loss"] = self._demonstrate(number, self.algorithm.demonstrations.weight)
        found.update(self._step(optimizer, factor))
        if averages:
            found.update(self._average(before, number, factor))
        self.routing.stepped(self.position + 1)
        found.update({name: float(value) for name, value in self.routing.row.items()})
        return found

    def _step(self, optimizer: Any, factor: float) -> dict[str, float]:
        """Move the policy, and the critic; the latter alone in the iterations that are its warm-up."""
        critic, found = self.critic, {}
        if critic is not None:
            found["critic/grad_norm"] = critic.step(factor).item()
        if critic is not None and self.position - critic.since < self.settings.critic_warmup:
            self.model.zero_grad()
            return found
        own: Any = self.optimizers() if optimizer is None else optimizer
        found["train/grad_norm"] = stepped(own, self.model, factor, self.clip_norm).item()
        return found

    def _average(self, before: list[Tensor], number: int, factor: float) -> dict[str, float]:
        """Put the model in the middle between where the policy's step led and where one on demonstrations does."""
        after = [parameter.clone() for parameter in trained(self.model)]
        for parameter, value in zip(trained(self.model), before, strict=True):
            parameter.copy_(value)
        loss = self._demonstrate(number, 1.0)
        norm = self._companions["demonstrations"].step(factor)
        averaged(self.model, before, after)
        return {"train/sft_loss": loss, "train/sft_grad_norm": norm.item()}

    def _demonstrate(self, number: int, weight: float) -> float:
        """Add the gradient of `weight` times the mean negative log-likelihood of this update's solutions."""
        assert self.algorithm.demonstrations is not None
        rows, each = self.algorithm.demonstrations.rows, self.settings.epochs * self.settings.minibatches
        batch = self.sampler.demonstrations((self.position * each + number) * rows, rows)
        extent, counted, total = batch.extent(), float(batch.loss_mask.sum()), 0.0
        self.run.ledger.train += self.operations.training(extent)
        for part in (batch.rows(rows) for rows in self.looker.parts(rows)):
            out, aux = self.looker.policy(self.model, part, tempered=False)
            loss = -(out.logprobs * part.loss_mask).sum() / counted
            if not torch.isfinite(loss):
                raise DivergedError(f"the loss of solutions is {loss.item()}: the run has diverged", part="loss")
            self.manual_backward(self.routing.added(weight * loss, aux, part.extent().tokens / extent.tokens))
            total += loss.item()
        return total

    def _backward(self, batch: RolloutBatch, advantages: Tensor, *, first: bool, last: bool) -> dict[str, float]:
        """Add the gradient of the algorithm's losses on a minibatch; its metrics. `last`: the last of several."""
        totals = Totals.of(batch, self.decode.max_tokens)
        heard = self._heard(batch, advantages)
        batch, advantages = batch.rows(heard), advantages[heard]
        extent = batch.extent()
        self.run.ledger.train += self.operations.training(extent)
        if self.critic is not None:
            self.run.ledger.train += self.critic.operations.training(extent)
        totals.heard = float(batch.loss_mask.sum())
        sampled = max(totals.heard, 1.0)
        found: dict[str, float] = {"train/loss": 0.0}
        gaps, drift, weights = [], 0.0, []
        for rows in self.looker.parts(len(batch.tokens), self.algorithm.unit):
            part = batch.rows(rows)
            out, aux = self._look(part)
            if "old_logprobs" in self.algorithm.needs and part.old_logprobs is None:
                part.old_logprobs = out.logprobs.detach()
            losses, metrics = self.algorithm.losses(out, part, advantages[rows], totals)
            loss = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(loss):
                raise DivergedError(
                    f"the loss is {loss.item()}: the run has diverged",
                    part="loss",
                    **{f"loss/{name}": value.item() for name, value in losses.items()},
                )
            self.manual_backward(self.routing.added(loss, aux, part.extent().tokens / max(extent.tokens, 1.0)))
            metrics = {**metrics, "train/loss": loss, "entropy": _share(out.entropy, part.loss_mask, sampled)}
            if len(losses) > 1:
                metrics.update({f"train/{name}_loss": value for name, value in losses.items()})
            for name, value in metrics.items():
                found[name] = found.get(name, 0.0) + float(value.detach())
            now = out.logprobs.detach()
            gaps.append(((now - part.logprobs) * part.loss_mask).abs())
            if part.old_logprobs is not None:
                weights.append(importance_weights(part, self.settings.importance_sampling_cap)[part.loss_mask > 0])
            moved = (now - (part.logprobs if part.old_logprobs is None else part.old_logprobs)).clamp(-20, 20)
            drift += float(((moved.exp() - 1 - moved) * part.loss_mask).sum())
        if first and weights:
            found.update(_ratios(torch.cat(weights)))
        if self._gathered is None and gaps:  # what was gathered comes from other weights
            if first:
                found.update(self._gap(gaps, sampled))
            if last:
                found["approx_kl"] = drift / sampled
        return found

    def _look(self, batch: RolloutBatch) -> tuple[PolicyOutput, Aux]:
        out, aux = self.looker.policy(self.model, batch, tempered=self._gathered is None)
        if self.critic is not None:
            out.values = self.looker.values(self.critic.model, replace(batch, routing=None))
        return out, aux

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

    def validate(self) -> dict[str, float]:
        rollout = self._validation(self.stage.val_problems)
        return {"val/pass@1": rollout_metrics(rollout)["rewards/verifier/mean"]}

    def _validation(self, problems: int) -> Rollout:
        """The first held-out problems completed, with the same random numbers at every step."""
        examples = self.sampler.held_out_examples(problems)
        rollout = self.sampler.sample(examples, "val", version=self.position, purpose="eval", training=False)
        self.samples.follow(rollout, self.position)
        return rollout

    def measured(self) -> None:
        self.samples.write()

    def alarms(self, row: dict[str, Any]) -> list[str]:
        return self.watch.check(row)

    def note(self) -> str:
        return f"reward {self.row['reward']:.3f}"

    def state(self) -> dict[str, Any]:
        return {
            "alarms": self.watch.state(),
            "preflight": self.preflight,
            "algorithm": self.algorithm.state(),
            "environment": self.sampler.environment.state(),
            "lengths": None if self.sampler.lengths is None else self.sampler.lengths.state(),
            "companions": {name: companion.state() for name, companion in self._companions.items()},
            "reference": self._reference[0].state_dict() if self._renews_reference else None,
            "first_weights": self._first_weights,
            "gathered": None if self._gathered is None else self._gathered.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state; one of another algorithm (init.state=all) lacks what that one did not have, which then
        begins as in a new run."""
        self.watch.restore(state["alarms"])
        self.preflight = state["preflight"]
        self.algorithm.restore(state.get("algorithm", {}))
        self.sampler.environment.restore(state.get("environment", {}))
        if self.sampler.lengths is not None and state.get("lengths") is not None:
            self.sampler.lengths.restore(state["lengths"])
        for name, companion in self._companions.items():
            if name in state.get("companions", {}):
                companion.restore(state["companions"][name])
        if self._renews_reference and state.get("reference") is not None:
            self._reference[0].load_state_dict(state["reference"])
        if self._first_weights and state.get("first_weights"):
            self._first_weights = state["first_weights"]
            for model in self._generator:
                model.load_state_dict(self._first_weights)
        if self._gathered is not None and state.get("gathered") is not None:
            self._gathered.restore(state["gathered"], routed=self.stage.replay_routing)

    def count_anew(self) -> None:
        self.watch.said.clear()

    def conclude(self) -> None:
        """Say what came of the run, by the rewards of its first and last iterations."""
        rewards = [row["reward"] for row in MetricsLog.read(self.run.path / METRICS)]
        window = max(1, min(WINDOW, len(rewards) // 2))
        sentence = conclusion(rewards[:window], rewards[-window:])
        self.run.say(f"  {sentence}")
        self.run.save_record(conclusion=sentence)


def _format(task: str, trace: Any, spoken: str | None) -> str:
    """A task and the format of its texts, as typed; `spoken` is the environment that they are dialogues of."""
    form = f"task={task}" + (f" task.trace={getattr(trace, 'value', trace)}" if trace is not None else "")
    return form if spoken is None else f"{form} corpus=dialogues corpus.environment={spoken}"


def _environments(corpus: Any) -> list[str]:
    """Names of the environments in a corpus' config as it was written, a mixture's sources included."""
    if not isinstance(corpus, dict):
        return []
    found = corpus.get("environment")
    name = found.get("name") if isinstance(found, dict) else found
    rest = [each for key, value in corpus.items() if key != "environment" for each in _environments(value)]
    return [*([name] if isinstance(name, str) else []), *rest]


def _budgets(environment: Any) -> tuple[str, ...]:
    """An environment's limits of turns, as typed."""
    found = {each.name: getattr(environment, each.name) for each in fields(environment)}
    return tuple(f"environment.{name}={n}" for name, n in found.items() if name.endswith("_tokens") and n is not None)


def _name(value: Any) -> str | None:
    """An option's choice as typed."""
    return None if value is None else str(getattr(value, "value", value))


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
