"""`stage=merge`: one model from several by `merge=`, with what was measured of the parents and of the result.

1. Before anything is merged the parents are compared: the cosine of their differences from the base, CKA layer by
   layer, and the held-out loss on the straight way between two of them (barrier height and convexity gap of Juneja et
   al., arXiv 2205.12411). Parents that share no ancestor, and a gap above 0.2 nats, are told as alarms. It is no
   veto: a merge that makes no sense is a control.
2. `merge/barrier` is the result's held-out loss minus the mean of its parents' (Frankle et al., arXiv 1912.05671,
   measure the same at the midpoint of two).
3. Held-out loss and accuracy are those of the run's own task and of the tasks of a `corpus=mixture`; what is measured
   of the parents is kept (`rlx.stages.merging.kept`), so that a sweep over weights or methods measures them once.
4. Without a task nothing is measured: weights alone are merged, those of any folder of safetensors.
5. Methods of adapters (`merge=lora_...`) write one adapter beside the base that the parents share, and may learn its
   weights on the run's corpus: these steps are the run's, with a row of metrics each.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rlx.errors import ConfigError
from rlx.merges.base import Align
from rlx.options import option, option_of, recorded
from rlx.runs.checkpoints import checkpoint_path, list_checkpoints, new_checkpoint
from rlx.runs.checksums import check_whole
from rlx.runs.files import MERGE, STATISTICS, remove_directory, write_json
from rlx.runs.references import format_reference, parse_reference, resolve
from rlx.runs.run import Run
from rlx.stages.arithmetic import prepare
from rlx.stages.base import Context, RunStageConfig
from rlx.stages.estimate import Cost, Outset
from rlx.stages.merging.descent import base_of, strangers, unrelated
from rlx.stages.merging.findings import basins, rows_of, summary, write_eval
from rlx.stages.start import depth_of, load_start, parent_model, parent_record, read_described, typed_fields
from rlx.types import Split

if TYPE_CHECKING:
    from rlx.config import Config
    from rlx.merges.base import MergeConfig
    from rlx.models.base import ModelConfig
    from rlx.stages.merging.measuring import Meter
    from rlx.stages.merging.parents import Parents
    from rlx.stages.merging.statistics import Gathered


@option("stage", "merge")
@dataclass(kw_only=True, slots=True)
class MergeStageConfig(RunStageConfig):
    """Merge, and measure parents and result."""

    uses: ClassVar[frozenset[str]] = frozenset(
        {"task", "model", "tokenizer", "corpus", "merge", "decode", "trainer", "logger"}
    )
    requires: ClassVar[frozenset[str]] = frozenset({"merge"})

    val_tokens: int = 8192
    """Tokens of held-out documents that the losses are measured on, and merge.align=activations looks at."""
    row_tokens: int = 640
    """Tokens a row; the longest document must fit."""
    compare: bool = True
    """Compare the parents before they are merged: cosine, CKA, the loss on the way."""
    path_points: int = 10
    """Places on the way from one parent to another at which the loss is measured, both ends included, of the first six
    pairs of parents; 0: none."""
    problems: int = 200
    """Problems of each task that parents and result are evaluated on; 0: none."""
    samples: int = 8
    """Completions drawn a problem, besides the greedy one."""
    split: Split = Split.test
    """Which problems: test, val or train."""
    ceiling: str | None = recorded(None)
    """A model to be measured beside them, such as one that was trained on all tasks."""

    def __post_init__(self) -> None:
        for name, least in (("val_tokens", 1), ("row_tokens", 2), ("problems", 0), ("samples", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"stage.{name}={getattr(self, name)} must be at least {least}")
        if self.path_points < 0 or self.path_points == 1:
            raise ConfigError(f"stage.path_points={self.path_points} must be 0, or at least 2 for the two ends")

    def parents(self, config: "Config") -> list[str]:
        merge = config.merge
        assert merge is not None
        count = len(merge.models)
        if count < merge.least or (merge.most is not None and count > merge.most):
            name, wants = option_of(merge).name, _wanted(merge.least, merge.most)
            raise ConfigError(f"merge={name} needs {wants}, got {count}; merge.models=[<run>,<run>]")
        if config.init_from is not None:
            raise ConfigError("stage=merge takes its parents from merge.models=[...]; leave init_from out")
        return list(merge.models)

    def opened(self, config: "Config") -> "tuple[MergeConfig, list[Path]]":
        """The merge with each of its parents named, where one run stands for several checkpoints, and their folders."""
        first = Path(parse_reference(self.parents(config)[0]).run).expanduser()
        assert config.merge is not None
        merge = config.merge.spelled([step for step, _ in list_checkpoints(first)])
        return merge, [resolve(parse_reference(reference)) for reference in merge.models]

    def also_from(self, config: "Config") -> dict[str, str]:
        base = None if config.merge is None else config.merge.base
        found = {"ceiling": self.ceiling, "base": base}
        return {name: reference for name, reference in found.items() if reference is not None}

    def check_start(self, config: "Config") -> None:
        from rlx.stages.merging.adapters import finds_weights, merged_of
        from rlx.stages.merging.alignment import check_alignment
        from rlx.stages.merging.measuring import tasks_of
        from rlx.stages.merging.parents import open_parents

        merge, folders = self.opened(config)
        base = base_of(merge, folders)
        beside = [] if self.ceiling is None else [resolve(parse_reference(self.ceiling))]
        for folder in beside if base is None else [base, *beside]:
            check_whole(folder, trainer=False)  # as the parents were
        tasks_of(config)  # which refuses names that stand for two
        self.check_gathering(config)
        with open_parents(folders, base, merge) as parents:
            self.check_ceiling(config, parents)
            check_alignment(merge, parents, measured=self.measured(config))
            made = merged_of(merge, parents, config.seed)
        if finds_weights(merge) and not self.measured(config):
            raise ConfigError(f"merge={option_of(merge).name} finds its weights on documents; give task= or corpus=")
        if config.model is not None and made.model is not None:
            config.model = made.model  # config.yaml has the result's, which methods make another than the parents'

    def check_ceiling(self, config: "Config", parents: "Parents") -> None:
        """Raise ConfigError where `stage.ceiling` cannot be measured beside the parents."""
        if self.ceiling is None:
            return
        if not self.measured(config):
            raise ConfigError(
                "stage.ceiling is measured beside the parents; give task= or corpus=text, or leave it out"
            )
        _, tokenizer = read_described(resolve(parse_reference(self.ceiling)))
        assert parents.tokenizer is not None
        if (tokenizer.to_json(), tokenizer.tokens) != (parents.tokenizer.to_json(), parents.tokenizer.tokens):
            raise ConfigError(f"stage.ceiling={self.ceiling} has another tokenizer than the result; leave it out")

    def check_gathering(self, config: "Config") -> None:
        """Raise ConfigError where the method asks for what cannot be gathered of the parents."""
        from rlx.stages.merging.statistics import check_sources

        assert config.merge is not None
        if config.merge.gathers() and not self.measured(config):
            name = option_of(config.merge).name
            raise ConfigError(f"merge={name} measures the parents on documents; give task= or corpus=text")
        check_sources(config)

    def model_of(self, config: "Config", context: Context, folder: Path, *, begun: bool) -> "ModelConfig | None":
        from rlx.stages.merging.parents import check_known

        if typed := typed_fields(context):
            raise ConfigError(f"model.{typed[0]} says nothing to stage=merge: the parents make the model; leave it out")
        if not self.measured(config):
            return None
        folders = [resolve(parse_reference(reference)) for reference in self.parents(config)]
        check_known(folders, "it cannot be measured; leave task= and corpus= out to merge it unmeasured")
        return parent_model(config, context, folder, begun=begun)

    def measured(self, config: "Config") -> bool:
        """There is something to measure the models on."""
        return config.task is not None or (config.corpus is not None and not config.corpus.needs_task())

    def cost(self, config: "Config", outset: Outset) -> Cost:
        from dataclasses import replace

        from rlx.stages.merging.measuring import MOST_PAIRS, tasks_of

        if not self.measured(config):
            return Cost()
        assert config.merge is not None
        count = config.merge.count()
        models = count + 1 + (self.ceiling is not None)
        passes = models
        if self.compare:
            passes += count + self.path_points * min(MOST_PAIRS, count * (count - 1) // 2)
        held_out = outset.batch(config, Split.val, tokens=self.val_tokens, length=self.row_tokens)
        flops = passes * outset.forward(held_out) + count * self._gathering(config, outset)
        decoding = 0.0
        for task in tasks_of(config).values() if self.problems else ():
            each, _ = outset.evaluation(
                replace(config, task=task), self.split, problems=self.problems, samples=self.samples
            )
            decoding += models * each
        return replace(self.cost_of_weights(config, outset), eval=flops + decoding, decoding=decoding)

    def cost_of_weights(self, config: "Config", outset: Outset) -> Cost:
        """What it takes to learn or to search the weights of adapters."""
        from rlx.merges.adapters import AdapterMergeConfig, Learning

        found = config.merge.found_by() if isinstance(config.merge, AdapterMergeConfig) else None
        if found is None:
            return Cost()
        batch = outset.batch(config, Split.train, tokens=found.batch_tokens, length=self.row_tokens)
        if isinstance(found, Learning):
            steps = found.steps
            return Cost(train=steps * outset.training(batch), tokens=steps * batch.tokens, steps=steps)
        return Cost(train=found.evaluations * outset.forward(batch))

    def _gathering(self, config: "Config", outset: Outset) -> float:
        """Operations of the passes that gather statistics of a parent; products of inputs, and those of a matching, are
        not foreseen."""
        assert config.merge is not None
        what = config.merge.gathers()
        if not what:
            return 0.0
        extent = outset.batch(config, Split.train, tokens=config.merge.stat_tokens, length=self.row_tokens)
        return outset.training(extent) if what == "fisher" else outset.forward(extent)

    def run(self, config: "Config", context: Context, run: Run) -> None:
        from rlx.models.size import parameter_counts
        from rlx.stages.merging.adapters import MergedAdapters, merged_of
        from rlx.stages.merging.alignment import align
        from rlx.stages.merging.learning import Learner
        from rlx.stages.merging.parents import open_parents

        prepare(config, run)
        merge, folders = self.opened(config)
        base = base_of(merge, folders)
        report: dict[str, Any] = {}
        row: dict[str, Any] = {"step": 0, "tokens": 0}
        run.metrics.rewind(0, run.attempt - 1)
        for _, path in list_checkpoints(run.path, partial=True):
            remove_directory(path)  # an attempt that was killed left it, perhaps with other parents or other code
        pairs = strangers(folders)
        report |= {"models": list(merge.models), "unrelated": pairs}
        alarms = unrelated(merge.models, folders, pairs)
        if config.merge is not None and merge.models != config.merge.models:  # one run stood for several checkpoints
            run.record["parents"] = [parent_record(reference) for reference in merge.models]
        with open_parents(folders, base, merge) as parents:
            made = merged_of(merge, parents, config.seed)
            report["base"] = None if parents.base is None else format_reference(parents.base.folder)
            if merge.draws:
                report["seeds"] = made.seeds()
            meter = self.meter(config, context, parents) if self.measured(config) else None
            if merge.align is not Align.none:
                report["alignment"], spent = align(parents, merge.align, config.seed, context.stop, meter)
                run.ledger.eval += spent
            if meter is not None and self.compare:
                report["likeness"] = self.compared(meter, parents, folders, base)
                alarms += basins(report["likeness"], merge.models)
                row.update(summary(report["likeness"]))
            if base is not None and merge.needs_base:
                run.say(f"  base: {report['base']}")
            for sentence in alarms:
                run.say(f"  alarm: {sentence}")
            if isinstance(made, MergedAdapters):
                row.update(made.find(Learner(config, context.stop, run, self.row_tokens)))
                report["adapter"] = made.report()
                row["merge/sum_error"] = report["adapter"]["sum_error"]
                run.say(f"  adapter: {made.told()}")
            path, step = checkpoint_path(run.path, row["step"]), row["step"]
            sums: dict[str, str] = {}
            kept = new_checkpoint(run.path, step, sums=sums)
            with self.gathered(meter, parents, run) as made.statistics, kept as folder:
                sums |= made.write(folder, context.stop)
            if meter is not None:
                found = self.measure(config, meter, parents, folders, path)
                report["losses"] = {name: each["losses"] for name, each in found.items()}
                row.update(rows_of(found))
                write_eval(run, found, merge.models)
        more: dict[str, Any] = {}
        if meter is not None:
            run.ledger.eval += meter.flops
            more["parameters"] = parameter_counts(load_start(path).model)
            more["barrier"] = row["merge/barrier"]
        more.update(steps=row["step"], tokens=row["tokens"], depth=1 + max(map(depth_of, folders)))
        run.metrics.append({**row, **run.ledger.row(), "wall": round(run.wall, 3)})
        write_json(run.path / MERGE, report)
        run.save_record(**more, **({"alarms": alarms} if alarms else {}))
        if meter is None:
            run.say("  weights alone: without task= or a corpus of its own nothing is measured")
            return
        run.say(f"  held-out loss {row['val/loss']:.4f}, barrier {row['merge/barrier']:+.4f} nats")

    def meter(self, config: "Config", context: Context, parents: "Parents") -> "Meter":
        """What measures the models."""
        from rlx.models.adapters import without_numbers
        from rlx.stages.merging.measuring import Meter, held_out_of, tasks_of

        tokenizer, first = parents.tokenizer, parents.members[0]
        assert tokenizer is not None and first.config is not None
        shape = without_numbers(first.config, tokenizer.vocab_size)
        return Meter(
            config=config,
            tokenizer=tokenizer,
            stop=context.stop,
            held_out=held_out_of(config, shape, tokenizer, tokens=self.val_tokens, length=self.row_tokens),
            tasks=tasks_of(config) if self.problems else {},
            problems=self.problems,
            samples=self.samples,
            split=self.split,
        )

    def gathered(
        self, meter: "Meter | None", parents: "Parents", run: Run
    ) -> "AbstractContextManager[Gathered | None]":
        """What the method wants to know of the parents besides their weights."""
        from rlx.stages.merging.statistics import gathered

        if meter is None or meter.config.merge is None or not meter.config.merge.gathers():
            return nullcontext()
        return gathered(meter, parents, run.path / STATISTICS, self.row_tokens)

    def compared(self, meter: "Meter", parents: "Parents", folders: Sequence[Path], base: Path | None) -> Any:
        """How alike the parents are (`likeness`), kept."""
        from rlx.stages.merging.kept import kept, weights_hash
        from rlx.stages.merging.measuring import charged, counted, likeness

        asked = {key: value for key, value in meter.asked().items() if key in ("held_out", "tokenizer", "arithmetic")}
        of = [[weights_hash(folder) for folder in folders], None if base is None else weights_hash(base)]

        def make() -> dict[str, Any]:
            return counted(meter, lambda: likeness(meter, parents, self.path_points))

        return charged(meter, kept(["likeness", asked, of, _policies(meter.config), self.path_points], make))

    def measure(
        self, config: "Config", meter: "Meter", parents: "Parents", folders: Sequence[Path], result: Path
    ) -> dict[str, dict[str, Any]]:
        """Losses and evaluations of each parent, of the ceiling where there is one, and of the result."""
        from rlx.stages.merging.kept import kept, weights_hash
        from rlx.stages.merging.measuring import charged, measured_of

        found: dict[str, dict[str, Any]] = {}
        filled = any(parent.rows is not None for parent in parents.members)
        others = [weights_hash(folder) for folder in folders] if filled else []  # rows of tokens come from them
        for number, folder in enumerate(folders):

            def make(number: int = number) -> dict[str, Any]:
                return measured_of(meter, parents.start(number), f"parent {number}")

            parts = ["model", meter.asked(), weights_hash(folder), others, _policies(config)]
            found[f"parent_{number}"] = charged(meter, kept(parts, make))
        if self.ceiling is not None:
            folder = resolve(parse_reference(self.ceiling))
            parts = ["ceiling", meter.asked(), weights_hash(folder)]
            make_ceiling = partial(measured_of, meter, load_start(folder).model, "ceiling")
            found["ceiling"] = charged(meter, kept(parts, make_ceiling))
        found["result"] = charged(meter, measured_of(meter, load_start(result).model, "result"))
        return found


def _policies(config: "Config") -> list[Any]:
    """What decides what a parent's tokens are, and how its units are put in order."""
    merge = config.merge
    assert merge is not None
    aligned = [] if merge.align is Align.none else [merge.align.value, config.seed]
    return [merge.tokens.value, merge.tied.value, *aligned]


def _wanted(least: int, most: int | None) -> str:
    if most is None:
        return f"at least {least} parent{'s' if least > 1 else ''}"
    return f"{most} parent{'s' if most > 1 else ''}" if least == most else f"{least} to {most} parents"
