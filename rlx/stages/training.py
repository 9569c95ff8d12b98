"""What pretrain and sft share: packed documents, a next-token loss, one code path."""

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rlx.errors import ConfigError, RlxError, UnknownTextError
from rlx.runs.run import Run
from rlx.stages.arithmetic import prepare
from rlx.stages.base import Context, check_numbers, check_training
from rlx.stages.budget import BudgetConfig
from rlx.stages.estimate import Cost, Outset
from rlx.stages.start import Start, start_of
from rlx.types import Split

if TYPE_CHECKING:
    from rlx.config import Config
    from rlx.data.corpora.base import Corpus
    from rlx.data.packing import Packer
    from rlx.stages.modules.supervised import HeldOut
    from rlx.tasks.base import Task


AMPLE = 2
"""Under a budget alone the data lasts for so many times the steps that it is expected to pay for."""


@dataclass(kw_only=True, slots=True)
class TrainingConfig(BudgetConfig):
    """Fields of the stages that train on documents."""

    uses: ClassVar[frozenset[str]] = frozenset(
        {"task", "model", "corpus", "tokenizer", "adapter", "optim", "schedule", "trainer", "logger"}
    )
    requires: ClassVar[frozenset[str]] = frozenset({"corpus"})
    measures: ClassVar[frozenset[str]] = frozenset({"decode", "environment"})
    trains: ClassVar[bool] = True
    measure: ClassVar[str] = "val/loss"
    whole: ClassVar[bool] = True
    """Prompts count in the loss too."""

    steps: int | None = None
    """Optimizer steps, a continued parent's included (init.state=all); null: as many as max_flops pays for."""
    batch_tokens: int = 5120
    """Tokens a step, padding included; a multiple of row_tokens."""
    row_tokens: int = 640
    """Tokens a row; the longest document must fit."""
    micro_batches: int = 1
    """Parts that a step's rows are computed in, to save memory; the gradient is the same up to rounding, but for the
    balance loss of experts, which is the mean of that of each part."""
    clip_norm: float = 1.0
    """The gradient's norm is clipped to this."""
    val_every: int = 100
    """Steps between measurements of the held-out loss; 0: none."""
    val_tokens: int = 8192
    """Tokens of held-out documents measured each time, padding included; at least a row."""

    def __post_init__(self) -> None:
        if self.steps is None and self.max_flops is None and self.match_flops is None:
            raise ConfigError("stage.steps, max_flops and match_flops are all null; give one, such as stage.steps=1000")
        self.check_budget()
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"stage.steps={self.steps} must be at least 1")
        check_numbers(self, "val_every", "val_tokens")
        for name, least in (("row_tokens", 2), ("micro_batches", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"stage.{name}={getattr(self, name)} must be at least {least}")
        unit = self.row_tokens * self.micro_batches
        if self.batch_tokens < unit or self.batch_tokens % unit:
            raise ConfigError(
                f"stage.batch_tokens={self.batch_tokens} must be a multiple of row_tokens * micro_batches = {unit}; "
                f"try {max(unit, self.batch_tokens // unit * unit)}"
            )

    def needed(self, config: "Config") -> frozenset[str]:
        wants = config.eval.every > 0 or (config.corpus is not None and config.corpus.needs_task())
        return self.requires | {"task"} if wants else self.requires

    def run(self, config: "Config", context: Context, run: Run) -> None:
        from rlx.stages.modules.loop import LoopConfig, fit
        from rlx.stages.modules.supervised import PackedSource, SupervisedModule

        prepare(config, run)
        context.heed_stop()
        start = start_of(config, run)
        total = self.total_steps(config, start)
        run.remember(
            parameters=start.parameters(),
            depth=start.depth + 1,
            origin=start.origin and os.path.abspath(start.origin),
            steps_before=start.made,
            planned_steps=total,
        )
        if config.init.grow is not None:
            self._tell_growth(config, run, total)
        self.prepare_examples(config, start, run, context, total)
        module = SupervisedModule(start, config, run, total=total, clip_norm=self.clip_norm)
        module.held_out = self.held_out(config, start) if self.val_every else []
        most = total if self.budget() is None else self.steps or AMPLE * total
        source = PackedSource(self.packer(config, start, "train"), micro_batches=self.micro_batches, total=most)
        metric = config.checkpoint.best or self.measure
        loop = LoopConfig(val_every=self.val_every, max_flops=self.budget(), metric=metric)
        fit(module, source, loop, context)

    def _tell_growth(self, config: "Config", run: Run, total: int) -> None:
        """Say how many layers there are now, and what is known about when to add them."""
        from rlx.models.growth import advice

        assert config.init.grow is not None and config.model is not None
        parent = run.record["parents"][0].get("record") or {}
        spent, count = parent.get("tokens", 0), run.record["parameters"]["total"]
        run.say(f"  grown to {config.model.n_layers} layers (init.grow={config.init.grow.name})")
        if spent and "steps" in parent:
            run.say(f"  {advice(count, spent + total * self.batch_tokens, spent)}")

    def prepare_examples(self, config: "Config", start: Start, run: Run, context: Context, total: int) -> None:
        """Make ahead what the corpus keeps of the documents that the run reads; where it cannot, and that was not asked
        for, they are made as they are needed."""
        import torch

        assert config.corpus is not None
        task, key = self._task_and_key(config, start)
        corpus = config.corpus.build(task, start.tokenizer, split=Split.train, whole=self.whole, key=key)
        prepare = getattr(corpus, "prepare", None)
        if prepare is None:
            return
        after, tokens = start.made * self.batch_tokens, (total - start.made) * self.batch_tokens
        try:
            prepare(after, tokens, processes=torch.get_num_threads(), stop=context.stop)
        except UnknownTextError:
            raise
        except RlxError as error:
            if getattr(config.corpus, "cache", None):
                raise
            run.say(f"  {error}; examples are made as they are needed")
        context.heed_stop()

    def packer(self, config: "Config", start: Start, split: str) -> "Packer":
        """Batches of the corpus; each training stage of a lineage walks in an order of its own."""
        assert config.corpus is not None
        task, key = self._task_and_key(config, start)
        corpus = config.corpus.build(task, start.tokenizer, split=Split(split), whole=self.whole, key=key)
        rows = self.batch_tokens // self.row_tokens
        mixed = bool(config.corpus.names())
        return self._packer(corpus, start, rows, key=key if split == "train" else None, mixed=mixed)

    def held_out(self, config: "Config", start: Start) -> "list[HeldOut]":
        """The same held-out documents at every validation, whatever a step's size, in parts no larger than a step's; of
        several sources each has about its share of `val_tokens`, and a row at least."""
        from rlx.stages.modules.supervised import HeldOut

        assert config.corpus is not None
        task, key = self._task_and_key(config, start)
        rows, most = max(1, self.val_tokens // self.row_tokens), self.batch_tokens // self.row_tokens
        found = []
        for part in config.corpus.validation(task, start.tokenizer, whole=self.whole, key=key):
            packer = self._packer(part.corpus, start, max(1, round(part.share * rows)), key=None)
            found.append(HeldOut(part.name, part.share, packer.next().split(most // self.micro_batches)))
        return found

    def _task_and_key(self, config: "Config", start: Start) -> "tuple[Task | None, tuple[object, ...]]":
        task = config.task.build() if config.task is not None else None
        return task, (config.seed, type(self).__name__, start.depth)

    def _packer(
        self, corpus: "Corpus", start: Start, rows: int, *, key: tuple[object, ...] | None, mixed: bool = False
    ) -> "Packer":
        """Batches of documents, whose coupled positions move where `key` names the draws."""
        from rlx.data.documents import coupled_stream
        from rlx.data.packing import Packer

        document, places = corpus.document, start.model.places
        if places is not None:
            document = coupled_stream(document, places.most, key=key)
        return Packer(
            document,
            rows=rows,
            length=self.row_tokens,
            pad_id=start.tokenizer.pad_id,
            coupled=places is not None,
            mixed=mixed,
        )

    def check(self, config: "Config") -> None:
        BudgetConfig.check(self, config)
        check_training(config)

    def cost(self, config: "Config", outset: Outset) -> Cost:
        batch = outset.batch(config, Split.train, tokens=self.batch_tokens, length=self.row_tokens)
        each = outset.training(batch)
        steps = outset.steps(self.steps, self.planned_budget(outset), each)
        validated = 0.0
        if times := outset.validations(steps, self.val_every):
            held_out = outset.batch(config, Split.val, tokens=self.val_tokens, length=self.row_tokens)
            validated = times * outset.forward(held_out)
        evaluated = outset.evaluations(config, steps)
        return Cost(
            train=steps * each,
            eval=validated + evaluated,
            decoding=evaluated,
            tokens=steps * batch.tokens,
            steps=steps,
        )

    def total_steps(self, config: "Config", start: Start) -> int:
        """Steps of the run: `steps`, or about what the budget pays for, by the cost of typical batches."""
        budget = self.budget()
        if budget is None:
            assert self.steps is not None
            return self.steps
        from rlx.models.size import Operations

        packer = self.packer(config, start, "train")
        operations = Operations(start.model)
        costs = [operations.training(packer.next().extent()) for _ in range(8)]
        paid = start.made + max(1, math.ceil(budget / (sum(costs) / len(costs))))
        return paid if self.steps is None else min(paid, self.steps)
