"""The root config: what `rlx` reads after Hydra has composed it, as plain dataclasses.

Past `rlx.cli` there is no Hydra: every stage is handed a `Config`.
"""

from dataclasses import dataclass, field

from rlx.algorithms.base import AlgorithmConfig
from rlx.data.corpora.base import CorpusConfig
from rlx.data.tokenizers.base import TokenizerConfig
from rlx.decoding.base import DecodeConfig
from rlx.errors import ConfigError
from rlx.merges.base import MergeConfig
from rlx.models.base import ModelConfig
from rlx.optim.base import OptimConfig
from rlx.optim.schedules.base import ScheduleConfig
from rlx.options import recorded
from rlx.runs.checkpoints import Keep
from rlx.runs.loggers.base import LoggerConfig
from rlx.stages.config import StageConfig
from rlx.studies.base import StudyConfig
from rlx.tasks.base import TaskConfig
from rlx.trainers.base import TrainerConfig


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """When checkpoints are made and which stay."""

    every: int = recorded(200)
    """Steps between checkpoints; the last step always makes one."""
    keep: str = recorded("last:2")
    """Which stay: last:<n>, log:<n> (log-spaced over the run), all, or two joined by `+`."""

    def __post_init__(self) -> None:
        Keep.parse(self.keep)
        if self.every < 1:
            raise ConfigError(f"checkpoint.every={self.every} must be at least 1")


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
    """What is done: pretrain, sft, rl, merge, eval, report, study."""
    task: TaskConfig | None = None
    """What the model is evaluated on, and by default trained on."""
    model: ModelConfig | None = None
    """Architecture of fresh weights."""
    corpus: CorpusConfig | None = None
    """What pretrain and sft train on."""
    tokenizer: TokenizerConfig | None = None
    """Text to tokens, for fresh weights."""
    algorithm: AlgorithmConfig | None = None
    """Rewards to loss, for rl."""
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
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are made and which stay."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed} must be at least 0")
        if self.init_from == "":
            raise ConfigError("init_from= is empty; give a run, a checkpoint, or random for fresh weights")
