"""`stage=rl`: sample completions of the task's prompts, verify them, and improve the policy by `algorithm=`."""

import os
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from rlx.errors import ConfigError
from rlx.options import option, option_of, recorded
from rlx.runs.run import Run
from rlx.stages.arithmetic import prepare
from rlx.stages.base import Context, check_numbers, check_training
from rlx.stages.budget import BudgetConfig
from rlx.stages.estimate import SIGNAL, Cost, Outset
from rlx.stages.start import start_of
from rlx.types import Split

if TYPE_CHECKING:
    from rlx.config import Config


class Preflight(str, Enum):
    """What a start without any signal means."""

    warn = "warn"
    """It is said, and the run goes on: what is rare may still be drawn."""
    stop = "stop"
    """The run fails before its first step."""


@option("stage", "rl")
@dataclass(kw_only=True, slots=True)
class RlConfig(BudgetConfig):
    """One step is one iteration: sample, verify, then epochs x minibatches of updates."""

    uses: ClassVar[frozenset[str]] = frozenset(
        {
            "task", "model", "tokenizer", "adapter", "algorithm", "environment", "decode", "optim", "schedule",
            "trainer", "logger",
        }
    )  # fmt: skip
    requires: ClassVar[frozenset[str]] = frozenset({"task", "algorithm"})
    trains: ClassVar[bool] = True
    measure: ClassVar[str] = "val/pass@1"

    steps: int = 200
    """Iterations, a continued parent's included (init.state=all)."""
    prompts: int = 32
    """Prompts an iteration; each gets algorithm.group_size samples."""
    micro_rows: int = 256
    """Rows that go through the model at once in an update; the gradient is the same up to rounding, but for the balance
    loss of experts, which is the mean of that of each part."""
    replay_routing: bool = False
    """Updates take the experts that sampling chose for every token (routing replay), with gates of the current router;
    for models with experts."""
    clip_norm: float = 1.0
    """The gradient's norm is clipped to this."""
    val_every: int = 50
    """Iterations between measurements of held-out pass@1; 0: none."""
    val_problems: int = 64
    """Held-out problems measured each time, with group_size samples each."""
    followed_problems: int = 4
    """Held-out problems of these whose first completion goes to samples.jsonl at every measurement, and before the
    first step (with a preflight); 0: none."""
    preflight_problems: int = 64
    """Training problems sampled before the first step to see whether there is a signal; 0: none."""
    preflight: Preflight = recorded(Preflight.warn)  # noqa: RUF009 (it is a field)
    """Where no group of the preflight has a signal: warn, or stop."""

    def __post_init__(self) -> None:
        for name in ("steps", "prompts", "micro_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"stage.{name}={getattr(self, name)} must be at least 1")
        self.check_budget()
        check_numbers(self, "val_every", "val_problems", "followed_problems", "preflight_problems")
        if self.preflight is Preflight.stop and not self.preflight_problems:
            raise ConfigError(
                "stage.preflight=stop: stage.preflight_problems=0 looks at nothing; give at least 1, or leave it out"
            )
        if self.val_every and not self.val_problems:
            raise ConfigError("stage.val_problems=0 measures nothing; give at least 1, or stage.val_every=0")

    def check(self, config: "Config") -> None:
        assert config.algorithm is not None and config.decode is not None
        if config.init_from is None:
            raise ConfigError("stage=rl needs a start: init_from=<run>, or init_from=random for fresh weights")
        built = config.algorithm.build()
        if config.init_from == "random" and "reference" in built.needs:
            raise ConfigError(
                f"{config.algorithm.asks_for_reference()} needs a starting policy to stay near; give init_from=<run>"
            )
        if built.undivided and config.environment is not None and config.environment.build().apart:
            raise ConfigError(
                f"algorithm={option_of(config.algorithm).name} {built.undivided}, and turns of environment="
                f"{option_of(config.environment).name} are rewarded apart; take algorithm=grpo, or ppo"
            )
        settings, rows = config.algorithm, self.prompts * config.algorithm.group_size
        if settings.minibatches > rows // built.unit:
            raise ConfigError(
                f"algorithm.minibatches={settings.minibatches} parts no more than {rows // built.unit}: an iteration "
                f"has {rows} samples (stage.prompts={self.prompts} x algorithm.group_size={settings.group_size})"
                + (f", taken {built.unit} at a time" if built.unit > 1 else "")
            )
        if getattr(settings, "critic_warmup", 0) >= self.steps:
            raise ConfigError(
                f"algorithm.critic_warmup={getattr(settings, 'critic_warmup', 0)}: in stage.steps={self.steps} the "
                "policy would never be trained; give more steps, or a shorter warm-up"
            )
        limit = "max_flops" if self.match_flops is None else "match_flops"
        if getattr(self, limit) is not None and built.gathering is not None and built.gathering.iterations is None:
            raise ConfigError(
                f"algorithm.round_iterations=null trains after the last of stage.steps, which stage.{limit} may never "
                f"reach; give algorithm.round_iterations, or leave stage.{limit} out"
            )
        if config.init.grow is not None:
            raise ConfigError(
                f"init.grow={config.init.grow.name} is for pretrain and sft, which mend what new layers break"
            )
        if config.decode.truncates and built.gathering is None:  # rounds fine-tune, whatever drew the samples
            raise ConfigError(
                f"decode.top_p={config.decode.top_p}, top_k={config.decode.top_k}: rl trains on the whole "
                "distribution; leave both out (sampled and trained log-probabilities would differ)"
            )
        if config.decode.temperature == 0:
            raise ConfigError("decode.temperature=0 draws the same completion for a whole group; use decode=sample")
        BudgetConfig.check(self, config)
        check_training(config)

    def check_start(self, config: "Config") -> None:
        if self.replay_routing and config.model is not None and not config.model.is_routed:
            raise ConfigError("stage.replay_routing=true: the model has no experts; leave it out")

    def cost(self, config: "Config", outset: Outset) -> Cost:
        algorithm = config.algorithm
        assert algorithm is not None
        group, built = algorithm.group_size, algorithm.build()
        drawn = outset.completions(config, Split.train, problems=self.prompts, samples=group, again=True)
        draws, kept = 1.0, 1.0
        heard = SIGNAL if built.silent_at_zero or built.gathering is not None else 1.0
        if getattr(algorithm, "dynamic_sampling", False):  # as many groups are drawn as it takes, and all of them teach
            draws = min(1 / SIGNAL, getattr(algorithm, "max_draws", 1))
            kept, heard = draws * SIGNAL, 1.0
        rollout = draws * outset.decoding(drawn)
        updates = algorithm.epochs * algorithm.minibatches
        passes, look = algorithm.epochs * outset.training(drawn.rows), outset.forward(drawn.rows)
        train = heard * (passes + look * ("old_logprobs" in built.needs and updates > 1))
        train += look * ("reference" in built.needs) + (passes + look) * ("values" in built.needs)  # like the policy
        train *= kept * (1.0 if built.gathering is None else built.gathering.times(self.steps))
        if built.demonstrations is not None:
            share = built.demonstrations.rows / (self.prompts * group)
            train += updates * share * outset.training(drawn.rows)
        steps = outset.steps(self.steps, self.planned_budget(outset), rollout + train)
        validations = outset.validations(steps, self.val_every)
        val = outset.completions(config, Split.val, problems=self.val_problems, samples=group)
        first = outset.completions(config, Split.train, problems=self.preflight_problems, samples=group)
        evaluated = outset.evaluations(config, steps) + validations * outset.decoding(val)
        if not outset.made:
            evaluated += outset.decoding(first)
            kept = min(self.followed_problems, self.val_problems) if self.preflight_problems and self.val_every else 0
            evaluated += outset.decoding(outset.completions(config, Split.val, problems=kept, samples=group))
        return Cost(
            train=steps * train,
            rollout=steps * rollout,
            eval=evaluated,
            decoding=steps * rollout + evaluated,
            tokens=steps * draws * drawn.tokens,
            steps=steps,
        )

    def run(self, config: "Config", context: Context, run: Run) -> None:
        from rlx.stages.modules.loop import LoopConfig, fit
        from rlx.stages.modules.policy import PolicyModule, RolloutSource, Sampler

        prepare(config, run)
        context.heed_stop()
        start = start_of(config, run)
        run.remember(
            parameters=start.parameters(),
            depth=start.depth + 1,
            origin=start.origin and os.path.abspath(start.origin),
            steps_before=start.made,
            planned_steps=self.steps,
        )
        sampler = Sampler(start, config, run, context.stop)
        sampler.check_room(self.prompts, self.val_problems if self.val_every else 0)
        module = PolicyModule(start, config, run, sampler, total=self.steps, clip_norm=self.clip_norm)
        source = RolloutSource(sampler, module, prompts=self.prompts, total=self.steps)
        metric = config.checkpoint.best or self.measure
        loop = LoopConfig(val_every=self.val_every, max_flops=self.budget(), metric=metric)
        fit(module, source, loop, context)
        module.conclude()
