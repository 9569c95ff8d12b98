"""Rollouts: prompts drawn, completed by the engine, verified, as one `RolloutBatch` an iteration."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlx.algorithms.base import Algorithm
from rlx.batches import RolloutBatch
from rlx.config import Config
from rlx.data.corpora.dialogues import demonstrated, dialogue_of
from rlx.data.documents import Document, coupled_stream, document_of, guides
from rlx.data.order import Order
from rlx.decoding.base import Scheduling
from rlx.decoding.engine import Engine
from rlx.decoding.lengths import BATCH, LengthProbe, Seen
from rlx.environments.base import Episode
from rlx.environments.single import Single
from rlx.errors import Stopped
from rlx.evaluation.episodes import Played, Player
from rlx.evaluation.judge import Judge
from rlx.evaluation.verdicts import failure_counts, heard, mean_by_name, mean_measures
from rlx.models.size import Operations
from rlx.nn.decoder import Decoder
from rlx.runs.run import Run
from rlx.stages.arithmetic import arithmetic, compiles
from rlx.stages.modules.texts import as_rows
from rlx.stages.start import Start, seed_for
from rlx.tasks.base import stable_hash
from rlx.types import Example, Outcome, Split, Verdict


@dataclass(slots=True, kw_only=True)
class Rollout:
    """What one iteration trains on, and what it was made of."""

    batch: RolloutBatch
    examples: list[Example]
    """One a prompt."""
    texts: list[str]
    """One a row: what the model wrote, and what it was answered."""
    episodes: list[Episode]
    """One a row."""
    verdicts: list[Verdict]
    """One a row."""
    prompt_lengths: Tensor
    """[B] int64."""
    lengths: Tensor
    """[B] int64, sampled tokens."""
    version: int
    """Steps that the sampling policy had made."""
    seconds: dict[str, float]
    """Time spent: generate, verify."""
    flops: float
    """Operations of the sampling."""
    parts: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """[B] each: parts of the reward besides the verifier's, by name."""
    rows: Tensor | None = None
    """[N] int64, the rows to be trained on; None: all."""
    draws: int = 1
    """Times that prompts were drawn."""
    talks: bool = False
    """It is of an interaction."""
    filters_void: bool = False
    """Void episodes are not trained on."""
    seen: Seen | None = None
    """What the predictor of lengths is to learn from, where there is one."""
    preempted: int = 0
    """Times that a running sample was set aside for a shorter one."""

    @property
    def group_size(self) -> int:
        """Samples a prompt."""
        return len(self.verdicts) // max(len(self.examples), 1)

    def shape(self, algorithm: Algorithm, max_tokens: int) -> None:
        """Add the algorithm's parts of the reward, on each row's last sampled token."""
        self.parts = algorithm.shape(self.batch, max_tokens)
        mask = self.batch.loss_mask
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)
        for part in self.parts.values():
            self.batch.rewards[torch.arange(len(last)), last] += part

    def reward_again(self) -> None:
        """Rewards as the turns have them now."""
        self.batch.rewards = earned(self.episodes, self.batch.loss_mask > 0, self.batch.turn)

    def trained(self) -> RolloutBatch:
        """What is trained on, once the rewards are whole: a void row that is filtered keeps them, so that it counts in
        its group, and has no mask, so that it is in no loss of policy or critic, and in no denominator of one."""
        batch = self.batch
        if self.filters_void:
            heard = torch.tensor([not episode.void for episode in self.episodes], device=batch.loss_mask.device)
            batch = batch.masked(heard)
        return batch if self.rows is None else batch.rows(self.rows)

    def mixed(self) -> Tensor:
        """[P] bool: prompts with right and wrong samples."""
        right = self.batch.correct.view(len(self.examples), -1)
        return right.any(-1) & ~right.all(-1)


class Sampler:
    """Samples and verifies completions of a task's problems with the weights of the moment."""

    def __init__(self, start: Start, config: Config, run: Run, stop: Callable[[], bool]) -> None:
        assert config.task is not None and config.algorithm is not None and config.decode is not None
        self.start, self.config, self.run = start, config, run
        assert config.environment is not None
        self.task, self.algorithm, self.decode = config.task.build(), config.algorithm, config.decode
        self.judge = Judge(self.task, config.task, stop=stop)
        self.environment = config.environment.build()
        self.player = Player(self.environment, start.tokenizer, self.judge)
        self.operations = Operations(start.model)
        self.replays = getattr(config.stage, "replay_routing", False)
        self.stop = stop
        self.lengths = self._lengths(start.model)
        """What decode.scheduler=trail predicts with."""
        self.engine = self._engine(start.model)
        self.generator = self.engine
        """What training completions are drawn with."""
        self.told = ""
        """Why decode steps are not recorded, once it was said."""
        size = self.task.size(Split.train)
        self.order = Order(size, config.seed, "rl", start.depth)
        self.demonstrated = Order(size, config.seed, "demonstrations", start.depth)

    def _engine(self, model: Decoder) -> Engine:
        tokenizer = self.start.tokenizer
        return Engine(
            model,
            end_id=tokenizer.end_id,
            pad_id=tokenizer.pad_id,
            stop=self.stop,
            compile=compiles(self.config.trainer),
            lengths=self.lengths,
        )

    def _lengths(self, model: Decoder) -> LengthProbe | None:
        if self.decode.scheduler is not Scheduling.trail:
            return None
        weight, seed = model.embed.weight, seed_for(self.config.seed, "lengths")
        return LengthProbe(weight.shape[1], self.decode.max_tokens, seed=seed, device=weight.device)

    def learn_lengths(self, rollout: Rollout) -> dict[str, float]:
        """Have the predictor learn from a rollout that is trained on; metrics, none where there is no predictor."""
        if self.lengths is None or rollout.seen is None:
            return {}
        before = self.lengths.made
        figures = self.lengths.learn(rollout.seen)
        self.run.ledger.train += 3 * self.lengths.flops * BATCH * (self.lengths.made - before)
        return {**figures, "lengths/preempted": rollout.preempted / len(rollout.verdicts)}

    def generate_with(self, model: Decoder) -> None:
        """Draw training completions with another model's weights; what is measured stays the policy's."""
        self.generator = self._engine(model)

    def check_room(self, prompts: int, held_out: int) -> None:
        """Look whether rollouts of `prompts` problems, and of so many held-out ones, have room in memory, by the
        prompts of the first ones.

        Raises:
            ConfigError: they have not; says what would fit.
        """
        train, samples = self.training_examples(0, prompts), self.algorithm.group_size
        with arithmetic(self.config.trainer):
            for examples in (train, self.held_out_examples(held_out) if held_out else []):
                if examples:
                    longest = self.player.longest(examples)
                    self.engine.check_room(len(examples), samples, longest, self.decode, routing=self.replays)
        self.run.save_record(rollout_gib=round(self.engine.needed / 2**30, 3))

    def training_examples(self, first: int, count: int) -> list[Example]:
        """`count` problems from the `first` (0, 1, 2, ...) on."""
        return [self.task.example(Split.train, self.order[first + n]) for n in range(count)]

    def shown(self, index: int) -> Document:
        """A training problem with its solution as the task writes it, or as the environment's demonstration."""
        if isinstance(self.environment, Single):
            return document_of(self.task.example(Split.train, index), self.start.tokenizer, whole=False)
        episode = demonstrated(self.environment, self.task, Split.train, index)
        return dialogue_of(episode, self.environment, self.start.tokenizer, whole=False)

    def demonstrations(self, first: int, count: int) -> RolloutBatch:
        """Problems as `shown`, from the `first` of an order of their own on; nothing in the batch but tokens, mask and
        coupled positions is meant to be read."""
        model, tokenizer = self.start.model, self.start.tokenizer

        def written(position: int) -> Document:
            return self.shown(self.demonstrated[position])

        stream = written
        if model.places is not None:
            stream = coupled_stream(written, model.places.most, key=(self.config.seed, "demonstrations"))
        documents = [stream(first + n) for n in range(count)]
        device = model.embed.weight.device
        return as_rows(documents, pad_id=tokenizer.pad_id, device=device, coupled=model.places is not None)

    def held_out_examples(self, count: int) -> list[Example]:
        """The first problems of the validation split."""
        size = self.task.size(Split.val)
        return [self.task.example(Split.val, n) for n in range(count if size is None else min(count, size))]

    def sample(
        self,
        examples: Sequence[Example],
        *key: object,
        version: int,
        purpose: str = "rollout",
        training: bool = True,
    ) -> Rollout:
        """Draw a group of completions for every problem; `key` names the draw, `purpose` its entry in the ledger.

        Coupled positions are moved at random in rollouts, as in other training, a group's alike. `training` says
        whether an environment goes by what it does in training, or by what it does with a model that is measured.

        Raises:
            Stopped: the process was asked to stop; the run's state is untouched.
        """
        began = time.perf_counter()
        base, keys = self._keys(len(examples), *key)
        coupled, places = self.start.model.places, None
        if coupled is not None:
            moved = (base,) if purpose == "rollout" else None
            places = guides(examples, self.start.tokenizer, coupled.most, key=moved)
        with arithmetic(self.config.trainer):
            engine = self.generator if purpose == "rollout" else self.engine
            played = self.player.play(
                engine,
                examples,
                keys=keys,
                samples=self.algorithm.group_size,
                decode=self.decode,
                training=training,
                places=places,
                routing=self.replays and purpose == "rollout",
            )
        if purpose == "rollout":
            self.environment.count(played.episodes, version)
        if engine.unrecorded and not self.told:
            self.told = engine.unrecorded
            self.run.say(f"  decode steps are not recorded as CUDA graphs, so they are slower: {self.told}")
            self.run.save_record(unrecorded=self.told)
        self.environment.rewards(played.episodes, self.algorithm.reward)
        flops = self.operations.forward(played.completions.prefilled)
        flops += self.operations.forward(played.completions.decoded, cached=True)
        if self.lengths is not None:
            flops += self.lengths.flops * played.completions.predictions
        setattr(self.run.ledger, purpose, getattr(self.run.ledger, purpose) + flops)
        seconds = {"generate": time.perf_counter() - began - played.seconds, "verify": played.seconds}
        lengths = torch.tensor([len(prompt) for prompt in played.prompts])
        return Rollout(
            batch=self._batch(played, places),
            examples=list(examples),
            texts=played.texts,
            episodes=played.episodes,
            verdicts=played.verdicts,
            prompt_lengths=lengths.repeat_interleave(self.algorithm.group_size),
            lengths=played.lengths,
            version=version,
            seconds=seconds,
            flops=flops,
            talks=self.environment.turns > 1,
            filters_void=self.environment.filters_void,
            seen=played.completions.seen,
            preempted=played.completions.preempted,
        )

    def opened(self, examples: Sequence[Example], *key: object) -> list[Episode]:
        """An episode of each problem as `sample` would open it for training."""
        keys = self._keys(len(examples), *key)[1]
        pairs = zip(examples, keys, strict=True)
        return [self.environment.open(each, self.player.assess, key=key, training=True) for each, key in pairs]

    def _keys(self, count: int, *key: object) -> tuple[int, list[int]]:
        """Of a draw, and of its problems."""
        base = seed_for(self.config.seed, "rollout", *key)
        return base, [(base ^ stable_hash("prompt", n)) % 2**63 for n in range(count)]

    def _batch(self, played: Played, guided: Sequence[Sequence[int]] | None) -> RolloutBatch:
        """Prompts and completions in rows of equal length; what a turn earned stands on its last sampled token."""
        completions, prompts = played.completions, played.prompts
        samples, device = self.algorithm.group_size, completions.tokens.device
        given = torch.tensor([len(prompt) for prompt in prompts], device=device).repeat_interleave(samples)  # [B]
        ends = given + completions.lengths
        width = int(ends.max())
        place = torch.arange(width, device=device).expand(len(given), width)  # [B, T]
        made = (place >= given[:, None]) & (place < ends[:, None])
        source = (place - given[:, None]).clamp(0, completions.tokens.shape[1] - 1)

        def spread(values: Tensor) -> Tensor:
            """[B, T] from what the engine found [B, M]; 0 on prompts and padding."""
            return torch.where(made, values.gather(1, source), torch.zeros_like(values[:1, :1]))

        def whole(of_prompts: Sequence[Sequence[int]], found: Tensor, empty: int) -> Tensor:
            padded = [[*row, *[empty] * (width - len(row))] for row in of_prompts]
            before = torch.tensor(padded, device=device).repeat_interleave(samples, dim=0)
            return torch.where(made, found.gather(1, source), before)

        places = None
        if guided is not None and completions.places is not None:
            asked = [row[: len(prompt)] for row, prompt in zip(guided, prompts, strict=True)]
            places = whole(asked, completions.places, 0)
        sampled, turn = spread(completions.sampled), spread(completions.turns)
        return RolloutBatch(
            tokens=whole(prompts, completions.tokens, self.engine.pad_id),
            loss_mask=sampled.float(),
            logprobs=spread(completions.logprobs),
            rewards=earned(played.episodes, sampled, turn),
            group=torch.arange(len(prompts), device=device).repeat_interleave(samples),
            turn=turn,
            finished=completions.finished,
            correct=torch.tensor([verdict.correct for verdict in played.verdicts], device=device),
            credit=torch.where(sampled, turn, -1) if self.environment.apart else None,
            places=places,
            routing=None if completions.routing is None else completions.routing[:, :width],
        )


def earned(episodes: Sequence[Episode], sampled: Tensor, turn: Tensor) -> Tensor:
    """[B, T] float32: the reward of every turn on its last sampled token; `sampled` and `turn` are [B, T]."""
    rewards = torch.zeros(sampled.shape, device=sampled.device)
    place, most = torch.arange(sampled.shape[1], device=sampled.device), max(len(each.turns) for each in episodes)
    for number in range(most):
        worth = [each.turns[number].reward if number < len(each.turns) else 0.0 for each in episodes]
        last = (sampled & (turn == number)).mul(place).amax(-1)  # 0, the begin mark, where there is no such turn
        rewards[torch.arange(len(episodes), device=sampled.device), last] += torch.tensor(worth, device=sampled.device)
    return rewards


class RolloutSource:
    """One rollout an iteration, sampled when it is asked for; None when the sampling was abandoned.

    Under dynamic sampling prompts are drawn until enough of them have right and wrong samples, in at most `max_draws`
    draws: after the first, as many as should do by the share that had so far. Those past `prompts` are not trained on.
    """

    def __init__(self, sampler: Sampler, policy: Any, *, prompts: int, total: int) -> None:
        self.sampler, self.policy, self.prompts, self.total = sampler, policy, prompts, total
        settings: Any = sampler.algorithm
        self.dynamic: bool = getattr(settings, "dynamic_sampling", False)
        self.most: int = settings.max_draws if self.dynamic else 1
        self.made = self.drawn = 0

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Rollout | None]:
        while self.made < self.total:
            ledger, environment = self.sampler.run.ledger, self.sampler.environment
            spent, counted = ledger.state_dict(), environment.state()
            try:
                rollout = self._rollout()
            except Stopped:
                ledger.load_state_dict(spent)
                environment.restore(counted)
                yield None
                return
            self.made += 1
            self.drawn += len(rollout.examples)
            yield rollout

    def problems(self) -> list[Episode]:
        """That the next rollout begins with."""
        return self.sampler.opened(self.sampler.training_examples(self.drawn, self.prompts), "train", self.made)

    def _rollout(self) -> Rollout:
        found: list[Rollout] = []
        drawn, mixed = 0, torch.zeros(0, dtype=torch.bool)
        for draw in range(self.most):
            missing = self.prompts - int(mixed.sum())
            count = math.ceil(missing * drawn / max(int(mixed.sum()), 1)) if draw else self.prompts
            count = min(count, self.prompts)
            examples = self.sampler.training_examples(self.drawn + drawn, count)
            key = ("train", self.made, draw) if draw else ("train", self.made)
            found.append(self.sampler.sample(examples, *key, version=self.policy.position))
            drawn += count
            mixed = torch.cat((mixed, found[-1].mixed().cpu()))
            if mixed.sum() >= self.prompts:
                break
        rollout = joined(found, self.sampler.engine.pad_id)
        if self.dynamic:
            groups = mixed.nonzero().squeeze(1)[: self.prompts]
            samples = torch.arange(rollout.group_size)
            rollout.rows = (groups[:, None] * len(samples) + samples).flatten()
        return rollout

    def state_dict(self) -> dict[str, Any]:
        return {"made": self.made, "drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.made = state["made"]
        self.drawn = state.get("drawn", self.made * self.prompts)


def joined(rollouts: Sequence[Rollout], pad_id: int) -> Rollout:
    """Several draws of an iteration as one."""
    if len(rollouts) == 1:
        return rollouts[0]
    names, seen = rollouts[0].seconds, [rollout.seen for rollout in rollouts if rollout.seen is not None]
    return Rollout(
        batch=RolloutBatch.joined([rollout.batch for rollout in rollouts], pad_id),
        examples=[example for rollout in rollouts for example in rollout.examples],
        texts=[text for rollout in rollouts for text in rollout.texts],
        episodes=[episode for rollout in rollouts for episode in rollout.episodes],
        verdicts=[verdict for rollout in rollouts for verdict in rollout.verdicts],
        prompt_lengths=torch.cat([rollout.prompt_lengths for rollout in rollouts]),
        lengths=torch.cat([rollout.lengths for rollout in rollouts]),
        version=rollouts[0].version,
        seconds={name: sum(rollout.seconds[name] for rollout in rollouts) for name in names},
        flops=sum(rollout.flops for rollout in rollouts),
        draws=len(rollouts),
        talks=rollouts[0].talks,
        filters_void=rollouts[0].filters_void,
        seen=Seen.joined(seen) if seen else None,
        preempted=sum(rollout.preempted for rollout in rollouts),
    )


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """Reward, groups, lengths, verdicts, under the names that TRL made known, and what else the verifier measured."""
    batch = rollout.batch
    rewards = batch.returns()
    grouped = rewards.view(-1, int((batch.group == batch.group[0]).sum()))
    spread = grouped.std(-1, correction=1) if grouped.shape[1] > 1 else torch.zeros(len(grouped))
    correct = torch.tensor([float(verdict.correct) for verdict in rollout.verdicts])
    lengths = rollout.lengths.float()
    done = batch.finished
    row = {
        "reward": rewards.mean().item(),
        "reward_std": spread.mean().item(),
        "reward_min": rewards.min().item(),
        "reward_max": rewards.max().item(),
        "frac_reward_zero_std": (grouped == grouped[:, :1]).all(-1).float().mean().item(),
        "rewards/verifier/mean": correct.mean().item(),
        "rewards/verifier/any_of_group": correct.view(grouped.shape).amax(-1).mean().item(),
        "completions/mean_length": lengths.mean().item(),
        "completions/min_length": lengths.min().item(),
        "completions/max_length": lengths.max().item(),
        "completions/clipped_ratio": 1.0 - done.float().mean().item(),
        "completions/mean_terminated_length": lengths[done].mean().item() if bool(done.any()) else 0.0,
    }
    lengths_of = {"correct": lengths[correct > 0], "wrong": lengths[correct == 0]}
    row.update({f"completions/mean_length_{name}": of.mean().item() for name, of in lengths_of.items() if len(of)})
    counts = Counter(verdict.outcome.value for verdict in rollout.verdicts)
    row.update({f"outcomes/{o.value}": counts[o.value] / len(rollout.verdicts) for o in Outcome})
    row.update({f"rewards/{name}/mean": part.mean().item() for name, part in rollout.parts.items()})
    if rollout.rows is not None:
        row["sampling/draws"] = float(rollout.draws)
        row["sampling/kept_ratio"] = len(rollout.rows) / len(rewards)
    row.update(failure_counts(heard(rollout.episodes)[0]))
    row.update(turn_metrics(rollout))
    row.update({f"measures/{name}": value for name, value in mean_measures(rollout.verdicts).items()})
    return row


def turn_metrics(rollout: Rollout) -> dict[str, float]:
    """Of an interaction: turns an episode, the share of tokens that are replies, and of each kind of turn how many an
    episode has, and over all of them the length (tokens that the model drew), what they earned and how often they were
    correct, where that was asked."""
    episodes, batch = rollout.episodes, rollout.batch
    if not rollout.talks:
        return {}
    counts = [float(len(episode.turns)) for episode in episodes]
    ends = (batch.tokens.shape[1] - batch.loss_mask.flip(-1).argmax(-1)).float()  # behind the last sampled token
    made = ends - rollout.prompt_lengths.to(ends.device)
    rows = []
    for row, episode in enumerate(episodes):
        for number, turn in enumerate(episode.turns):
            found: dict[str, float] = {}
            found[f"turns/{turn.name}/length"] = float((batch.loss_mask[row] * (batch.turn[row] == number)).sum())
            found[f"turns/{turn.name}/reward"] = turn.reward
            if turn.verdict is not None:
                found[f"turns/{turn.name}/correct"] = float(turn.verdict.correct)
            rows.append(found)
    names = Counter(turn.name for episode in episodes for turn in episode.turns)
    return {
        "turns/mean": sum(counts) / len(counts),
        "turns/max": max(counts),
        "turns/cut_ratio": sum(episode.cut for episode in episodes) / len(episodes),
        "turns/void_ratio": sum(episode.void for episode in episodes) / len(episodes),
        "turns/reply_ratio": float(1 - rollout.lengths.sum() / made.sum().clamp(min=1)),
        **{f"turns/{name}/share": count / len(episodes) for name, count in names.items()},
        **mean_by_name(rows),
    }
