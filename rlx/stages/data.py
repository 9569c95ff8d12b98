"""`stage=data`: documents of a task or a mixture, to look at and to publish; no run is made.

1. What is shown are the documents that a training run would pack, in an order of the seed's, with the tokens that count
   in the loss marked: of pretrain (`stage.loss=whole`) or of sft (`solution`).
2. What is written is a folder that `datasets.load_dataset` opens, with a card; splits are those of the task, held out
   by a hash of the problem.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from rlx.data.tokenizers.base import text_of
from rlx.errors import ConfigError
from rlx.options import option, option_of
from rlx.progress import Progress
from rlx.runs.files import atomic_directory, write_text
from rlx.stages.base import Context
from rlx.stages.config import StageConfig
from rlx.stages.material import material_of, source_of
from rlx.stages.targets import make_room, new_folder
from rlx.types import Split

if TYPE_CHECKING:
    from pathlib import Path

    from rlx.config import Config
    from rlx.data.corpora.base import Corpus
    from rlx.data.tokenizers.base import Tokenizer
    from rlx.data.written import Rows
    from rlx.tasks.base import Task

SAMPLED = 200
"""Held-out problems that chance and the short cut are measured on."""


class Loss(Enum):
    """Which tokens of a document count."""

    solution = "solution"
    """What comes after the prompt, as in sft."""
    whole = "whole"
    """All but the begin mark, as in pretrain."""


@option("stage", "data")
@dataclass(kw_only=True, slots=True)
class DataConfig(StageConfig):
    """Documents of `corpus=` (of `task=` alone, by default)."""

    uses: ClassVar[frozenset[str]] = frozenset({"task", "corpus", "tokenizer"})
    requires: ClassVar[frozenset[str]] = frozenset({"corpus"})

    to: str | None = None
    """The folder to make; what is there already is never overwritten; null: documents are only shown."""
    examples: int = 10000
    """Training documents written; all of them where there are fewer."""
    held_out: int = 1000
    """Documents written of val, and of test; all of them where there are fewer."""
    show: int = 3
    """Training documents shown, with marks under what counts in the loss."""
    loss: Loss = Loss.solution
    """What counts in the loss: solution (as in sft), whole (as in pretrain)."""
    ids: bool = False
    """Token ids and loss mask are written too."""

    def __post_init__(self) -> None:
        for name, least in (("examples", 1), ("held_out", 0), ("show", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"stage.{name}={getattr(self, name)} must be at least {least}")

    def needed(self, config: "Config") -> frozenset[str]:
        needs = config.corpus is not None and config.corpus.needs_task()
        return self.requires | {"task"} if needs else self.requires

    def carry_out(self, config: "Config", context: Context) -> None:
        with text_of(source_of(config)):
            self._carry_out(config, context)

    def _carry_out(self, config: "Config", context: Context) -> None:
        from rlx.data.shown import show

        assert config.corpus is not None and config.tokenizer is not None
        if config.init_from is not None:
            raise ConfigError("stage=data reads no model, nor its tokenizer; leave init_from out")
        target = new_folder(self.to, "data") if self.to is not None else None
        task = config.task.build() if config.task is not None else None
        config.corpus.check(task)
        tokenizer = config.tokenizer.build(material_of(config))
        corpora = {split: self._corpus(config, task, tokenizer, split) for split in Split}
        train, names = corpora[Split.train], config.corpus.names()
        for position in range(self.show if train.size is None else min(self.show, train.size)):
            document = train.document(position)
            counted = sum(document.counted())
            told = f"{names[document.source]}, " if names else ""
            print(f"document {position}: {told}{len(document.ids)} tokens, {counted} count in the loss")
            print("\n".join(["", *show(document, tokenizer), ""]), flush=True)
        if target is not None:
            splits = self._rows(config, tokenizer, corpora)
            make_room(target[0])
            with atomic_directory(target[0]) as folder:
                self._write(config, context, folder, splits, task)
            read = f'datasets.load_dataset("{target[1]}") opens it'
            print(f"written: {target[1]}; {read}", flush=True)

    def _corpus(self, config: "Config", task: "Task | None", tokenizer: "Tokenizer", split: Split) -> "Corpus":
        assert config.corpus is not None
        whole = self.loss is Loss.whole
        return config.corpus.build(task, tokenizer, split=split, whole=whole, key=(config.seed, "data"))

    def _rows(self, config: "Config", tokenizer: "Tokenizer", corpora: "dict[Split, Corpus]") -> "dict[str, Rows]":
        """Rows of each split that has any."""
        from rlx.data.written import Rows

        assert config.corpus is not None
        found = {}
        for split, corpus in corpora.items():
            asked = self.examples if split is Split.train else self.held_out
            count = asked if corpus.size is None else min(asked, corpus.size)
            if count:
                found[split.value] = Rows(corpus, tokenizer, count, config.corpus.names(), self.ids)
        return found

    def _write(
        self, config: "Config", context: Context, folder: "Path", splits: "dict[str, Rows]", task: "Task | None"
    ) -> None:
        from rlx.data.shown import show
        from rlx.data.written import SPLITS, card, write_rows

        total, before = sum(rows.count for rows in splits.values()), 0
        progress = Progress("writing", total)
        for split, rows in splits.items():

            def told(count: int, before: int = before) -> None:
                context.heed_stop()
                progress.update(before + count, "documents")

            write_rows(folder / "data" / f"{SPLITS[split]}-00000-of-00001.parquet", rows, told)
            before += rows.count
        progress.close()
        first = next(iter(splits.values()))
        text = card(
            title=self._title(config),
            command=context.command,
            splits=splits,
            notes=list(self._notes(config, task, dialogues=first.has_turns)),
            sample=show(first.corpus.document(0), first.tokenizer),
        )
        write_text(folder / "README.md", text)

    def _title(self, config: "Config") -> str:
        names = config.corpus.names() if config.corpus is not None else []
        name = option_of(config.task or config.corpus).name
        return f"{name}: {', '.join(names)}" if names else name

    def _notes(self, config: "Config", task: "Task | None", *, dialogues: bool) -> Iterator[str]:
        """What else the card says."""
        own = "the assistant's turns, but for those that show a mistake" if dialogues else "the completion"
        loss = "every token after the begin mark" if self.loss is Loss.whole else own
        yield f"Tokens of tokenizer={option_of(config.tokenizer).name}; the loss is on {loss}."
        if task is None:
            return
        size = task.size(Split.val)
        count = SAMPLED if size is None else min(SAMPLED, size)
        examples = [task.example(Split.val, index) for index in range(count)]
        chance = sum(map(task.chance, examples)) / count
        right = sum(task.verify(each, task.guess(each)).correct for each in examples) / count
        yield f"An answer drawn evenly from those of the right form is correct {100 * chance:.3g} % of the time."
        yield f"A solver that {task.baseline} is correct {100 * right:.3g} % of the time ({count} held-out problems)."
