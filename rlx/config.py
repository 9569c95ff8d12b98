"""The root config: what `rlx` reads after Hydra has composed it, as plain dataclasses.

Past `rlx.cli` there is no Hydra: every stage is handed a `Config`.
"""

from dataclasses import dataclass, field
from enum import Enum

from rlx.adapters.base import AdapterConfig
from rlx.algorithms.base import AlgorithmConfig
from rlx.data.corpora.base import CorpusConfig
from rlx.data.tokenizers.base import TokenizerConfig
from rlx.decoding.base import DecodeConfig
from rlx.environments.base import EnvironmentConfig
from rlx.errors import ConfigError
from rlx.merges.base import MergeConfig
from rlx.models.base import Grow, ModelConfig
from rlx.optim.base import OptimConfig
from rlx.optim.schedules.base import ScheduleConfig
from rlx.options import recorded
from rlx.plans.base import PlanConfig
from rlx.runs.checkpoints import Keep
from rlx.runs.loggers.base import LoggerConfig
from rlx.stages.config import StageConfig
from rlx.studies.base import StudyConfig
from rlx.tasks.base import TaskConfig
from rlx.trainers.base import TrainerConfig
from rlx.types import Split


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """When checkpoints are made and which stay."""

    every: int = recorded(200)
    """Steps between checkpoints; the last step always makes one."""
    keep: str = recorded("last:2")
    """Which stay: last:<n>, log:<n> (log-spaced over the run), all, or two joined by `+`; and the best, always."""
    best: str | None = None
    """The metric that `@best` goes by, such as eval/countdown/greedy; null: val/loss, in rl val/pass@1."""

    def __post_init__(self) -> None:
        Keep.parse(self.keep)
        if self.every < 1:
            raise ConfigError(f"checkpoint.every={self.every} must be at least 1")


class InitState(Enum):
    """What is taken from the checkpoint after `init_from=`."""

    weights = "weights"
    """The weights: optimizer, schedule and data begin anew."""
    all = "all"
    """Optimizer, schedule, data position and random generators too: the steps are counted on from the parent's."""


@dataclass(kw_only=True, slots=True)
class InitConfig:
    """How a run starts from its parent."""

    state: InitState = InitState.weights
    """weights, or all: the run goes on where the parent stands, and stage.steps counts the parent's steps too."""
    grow: Grow | None = None
    """How the parent gets as many layers as model.n_layers says: stack, interleave, zero, random; null: it does not."""

    def __post_init__(self) -> None:
        if self.grow is not None and self.state is InitState.all:
            raise ConfigError(
                f"init.grow={self.grow.name} takes the weights alone, since the parent's optimizer state fits no other "
                "depth; leave init.state=all out"
            )


@dataclass(kw_only=True, slots=True)
class EvalInsideConfig:
    """Problems completed and verified while a model is trained; decode= says how. It changes no weights."""

    every: int = recorded(0)
    """Steps between evaluations, with one after the last step; 0: none."""
    split: Split = Split.val
    """Which problems: val, test or train."""
    problems: int = recorded(64)
    """Problems drawn: the first of the split."""
    samples: int = recorded(8)
    """Completions drawn a problem, besides the greedy one."""

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ConfigError(f"eval.every={self.every} must be at least 0")
        if self.problems < 1 or self.samples < 1:
            raise ConfigError(f"eval.problems={self.problems} and eval.samples={self.samples} must be at least 1")


@dataclass(kw_only=True, slots=True)
class Config:
    """Everything that one command says."""

    seed: int = recorded(0)
    """Drives weights, order and sampling; names the folder `seed<n>`, so it is not in the hash."""
    runs_dir: str = recorded("runs")
    """Folder of all run directories."""
    rerun: str | None = None
    """A label that makes a new place for a run that is already there."""
    init_from: str | None = None
    """Where weights come from: a run, a checkpoint, <run>@<step>|@last|@best, hf:<folder>, random."""
    stage: StageConfig | None = None
    """What is done: pretrain, sft, rl, merge, eval, export, report, size, data, study."""
    task: TaskConfig | None = None
    """What the model is evaluated on, and by default trained on."""
    model: ModelConfig | None = None
    """Architecture of fresh weights."""
    corpus: CorpusConfig | None = None
    """What pretrain and sft train on."""
    tokenizer: TokenizerConfig | None = None
    """Text to tokens, for fresh weights."""
    adapter: AdapterConfig | None = None
    """What is trained beside a frozen model, for pretrain, sft and rl; null: the model itself is trained."""
    algorithm: AlgorithmConfig | None = None
    """Rewards to loss, for rl."""
    environment: EnvironmentConfig | None = None
    """What a model is told between its turns, for rl and eval."""
    merge: MergeConfig | None = None
    """How parents become one model, for merge."""
    decode: DecodeConfig | None = None
    """How completions are drawn."""
    optim: OptimConfig | None = None
    """Optimizer."""
    schedule: ScheduleConfig | None = None
    """Learning rate over the run."""
    trainer: TrainerConfig | None = None
    """Device, precision, threads."""
    logger: LoggerConfig | None = None
    """Where metrics go besides metrics.jsonl."""
    study: StudyConfig | None = None
    """A plan of runs with claims."""
    init: InitConfig = field(default_factory=InitConfig)
    """What is taken from the parent, for pretrain, sft and rl."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are made and which stay."""
    eval: EvalInsideConfig = field(default_factory=EvalInsideConfig)
    """Evaluation on the way, for pretrain, sft and rl."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """Of a sweep or a study: what it is called, and what is done with it."""
    optimized_metric: str | None = recorded(None)
    """The metric that a sweeper which searches (hydra/sweeper=optuna) is told, such as val/loss."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must be at least 0")
        if self.init_from == "":
            raise ConfigError("init_from= is empty; give a run, a checkpoint, or random for fresh weights")
