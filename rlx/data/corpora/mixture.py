"""`corpus=mixture`: documents of several tasks and texts, by weight or by repeats.

    corpus=mixture 'corpus.sources={own:{weight:0.8},filler:{task:filler,weight:0.2}}'

1. A source is the run's own task as it is set (neither `task` nor `path`), another task with `settings` for its fields
   (its trace among them), or text: a `path` with `settings` for the fields of corpus=text, of which `hf:<owner>/<name>`
   is a data set of the hub.
2. `weight` is a share of the tokens, as pretraining mixtures are told in the literature (The Pile, arXiv 2101.00027,
   table 1): a source's documents are drawn at its weight over their mean length, which is measured on its first
   `MEASURED` documents. `repeats` says instead how often a source of known size is walked through in one walk through
   the mixture (epochs in Muennighoff et al., arXiv 2305.16264). All sources have the one or all have the other.
3. Which source stands where is a pure function of the position (`rlx.data.mixing`), and each source walks in an order
   of its own, as it would alone. The order in which sources are written counts for nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from itertools import chain
from math import inf
from statistics import fmean
from typing import Any

from rlx.data.corpora.base import Corpus, CorpusConfig, Part, made
from rlx.data.documents import Document
from rlx.data.mixing import Mixing
from rlx.data.tokenizers.base import Tokenizer, text_of
from rlx.errors import ConfigError, nearest
from rlx.options import content, discover, option
from rlx.tasks.base import Task, TaskConfig
from rlx.types import Example, Split

MEASURED = 256
"""Documents whose mean length stands for a source's."""


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """One source of a mixture."""

    task: str | None = None
    """A task; null, and no path: the run's own task, as it is set."""
    path: str | None = content()
    """Text in place of a task: a file, a folder or hf:<owner>/<name>, as corpus.path of corpus=text."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of that task, such as {trace: dfs}; of text those of corpus=text, such as {pattern: "*.py"}."""
    max_tokens: int | None = None
    """As corpus.max_tokens of the source alone."""
    weight: float | None = None
    """Share of the mixture's tokens, relative to the other weights."""
    repeats: float | None = None
    """Walks through this source in one through the mixture, where no source has a weight."""

    def needs_task(self) -> bool:
        """True for the run's own task."""
        return self.task is None and self.path is None

    def task_config(self) -> Any:
        """The config of the task that is named.

        Raises:
            ConfigError: there is no such task or field, or a value is none for it.
        """
        known = discover("task")
        if self.task not in known:
            raise ConfigError(f"task: {self.task} is no task{nearest(str(self.task), known)}")
        return made(known[self.task].config, self.settings, f"task={self.task}")

    def corpus_config(self) -> CorpusConfig:
        """The config of the corpus that this source would be alone."""
        given = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        if self.path is None:
            return discover("corpus")["task"].config(**given)
        return made(discover("corpus")["text"].config, {"path": self.path, **given, **self.settings}, "corpus=text")

    def stands_for(self) -> dict[str, Any]:
        found: dict[str, Any] = {"weight": self.weight, "repeats": self.repeats, "corpus": self.corpus_config()}
        return found if self.task is None else {**found, "task": self.task_config()}

    def check(self) -> None:
        """Raise ConfigError for what is wrong with this source, before anything is made of it."""
        if self.task is not None and self.path is not None:
            raise ConfigError("task and path are both given; leave one out")
        if self.needs_task() and self.settings:
            raise ConfigError("settings are given without a task; name it, as in task: countdown, or a path")
        for name in ("weight", "repeats"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise ConfigError(f"{name} must be a number above 0, got {value:g}; or leave the source out")
        if (self.weight is None) == (self.repeats is None):
            given = "both are" if self.weight is not None else "none is"
            raise ConfigError(f"expected weight or repeats, {given} given; try weight: 0.5")
        if self.task is not None:
            self.task_config()
        self.corpus_config()


def _source_of(values: Any) -> SourceConfig:
    """A source as the command line or a file has it, checked."""
    if isinstance(values, SourceConfig):
        return values
    if not isinstance(values, dict):
        raise ConfigError(f"expected a source, as in {{task: filler, weight: 0.2}}, got {values!r}")
    found = made(SourceConfig, values, "a source")
    found.check()
    return found


@option("corpus", "mixture")
@dataclass(kw_only=True, slots=True)
class MixtureConfig(CorpusConfig):
    """Sources by name; the names stand in metrics, as in train/loss/<name>."""

    sources: dict[str, Any] = field(default_factory=dict)
    """Each {task, path, settings, max_tokens, weight, repeats}; all have a weight, or all have repeats."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError(
                "corpus=mixture has no sources; try corpus.sources={own:{weight:0.8},filler:{task:filler,weight:0.2}}"
            )
        read = {}
        for name, values in self.sources.items():
            if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
                raise ConfigError(f"corpus.sources: the name {name!r} stands in metrics; expected letters, digits, _ -")
            try:
                read[name] = _source_of(values)
            except ConfigError as error:
                raise ConfigError(f"corpus.sources.{name}: {error}") from error
        self.sources = read
        if len({source.weight is None for source in read.values()}) > 1:
            raise ConfigError("corpus.sources: some have a weight and some have repeats; give all the one or the other")

    def needs_task(self) -> bool:
        return any(source.needs_task() for _, source in self._sources())

    def check(self, task: Task | None) -> None:
        for (name, source), (_, each) in zip(self._sources(), self._tasks(task), strict=True):
            try:
                source.corpus_config().check(each)
            except ConfigError as error:
                raise ConfigError(f"corpus.sources.{name}: {error}") from error
            if source.repeats is not None and each is not None and each.size(Split.train) is None:
                key = "task.train_examples=10000" if source.needs_task() else "its settings: {train_examples: 10000}"
                raise ConfigError(
                    f"corpus.sources.{name}: repeats: {source.repeats:g} of a task whose problems have no end; give "
                    f"{key}, or give all sources a weight"
                )

    def names(self) -> list[str]:
        return [name for name, _ in self._sources()]

    def source(
        self, name: str, task: Task | None, tokenizer: Tokenizer, *, split: Split, whole: bool, key: tuple[object, ...]
    ) -> Corpus:
        streams = self._streams(self._tasks(task), tokenizer, split=split, whole=whole, key=key)
        return streams[self.names().index(name)]

    def tasks(self) -> dict[str, TaskConfig]:
        return {name: source.task_config() for name, source in self._sources() if source.task is not None}

    def _sources(self) -> list[tuple[str, SourceConfig]]:
        """Names and sources, in the order of the names."""
        return sorted(self.sources.items())

    def build(
        self, task: Task | None, tokenizer: Tokenizer, *, split: Split, whole: bool, key: tuple[object, ...]
    ) -> "Mixture":
        tasks = self._tasks(task)
        found = self._streams(tasks, tokenizer, split=split, whole=whole, key=key)
        rates = self._rates(found, self._lengths(tasks, tokenizer, whole=whole))
        rates = [0.0 if corpus.size == 0 else rate for corpus, rate in zip(found, rates, strict=True)]
        if not any(rates):
            size = 0
        elif all(source.repeats is not None for _, source in self._sources()):
            size = max(1, round(sum(rates)))
        else:  # held-out documents come once, as long as no source has begun again
            sizes = [(corpus.size, rate) for corpus, rate in zip(found, rates, strict=True) if corpus.size]
            least = min((size * sum(rates) / rate for size, rate in sizes), default=None)
            size = None if split is Split.train or least is None else max(1, int(least))
        return Mixture(found, rates, size, key=(split.value, *key))

    def validation(
        self, task: Task | None, tokenizer: Tokenizer, *, whole: bool, key: tuple[object, ...]
    ) -> list[Part]:
        tasks = self._tasks(task)
        lengths = self._lengths(tasks, tokenizer, whole=whole)
        rates = self._rates(self._streams(tasks, tokenizer, split=Split.train, whole=whole, key=key), lengths)
        tokens = [rate * length for rate, length in zip(rates, lengths, strict=True)]
        found = self._streams(tasks, tokenizer, split=Split.val, whole=whole, key=key)
        parts = zip(self.names(), tokens, found, strict=True)
        return [Part(name, count / sum(tokens), corpus) for name, count, corpus in parts]

    def words(self, task: Task | None) -> list[str]:
        found = [source.corpus_config().words(each) for source, each in self._tasks(task)]
        return sorted({word for words in found for word in words})

    def all_texts(self, task: Task | None) -> Iterator[str]:
        return chain.from_iterable(source.corpus_config().all_texts(each) for source, each in self._tasks(task))

    def texts(self, task: Task | None) -> Iterator[str]:
        """Of each source as many characters as its weight (or its repeats) says, in turn."""
        ways = [
            (0.0, number, source.weight or source.repeats or 1.0, source.corpus_config().texts(each))
            for number, (source, each) in enumerate(self._tasks(task))
        ]
        heapify(ways)
        while ways:
            given, number, share, texts = ways[0]
            text = next(texts, None)
            if text is None:
                heappop(ways)
                continue
            heapreplace(ways, (given + len(text) / share, number, share, texts))
            yield text

    def _tasks(self, task: Task | None) -> list[tuple[SourceConfig, Task | None]]:
        """Sources in the order of their names, each with its task; text has none."""
        found = []
        for _, source in self._sources():
            own = task if source.needs_task() else None
            found.append((source, own if source.task is None else source.task_config().build()))
        return found

    def _streams(
        self,
        tasks: list[tuple[SourceConfig, Task | None]],
        tokenizer: Tokenizer,
        *,
        split: Split,
        whole: bool,
        key: tuple[object, ...],
    ) -> list["Named"]:
        """The stream of each source, in an order of its own."""
        found = []
        for name, (source, task) in zip(self.names(), tasks, strict=True):
            told = f"corpus.sources.{name}" + (f" (task={source.task})" if source.task is not None else "")
            try:
                with text_of(told):
                    build = source.corpus_config().build
                    corpus = build(task, tokenizer, split=split, whole=whole, key=(*key, name))
            except ConfigError as error:
                raise ConfigError(f"corpus.sources.{name}: {error}") from error
            found.append(Named(corpus, told))
        return found

    def _lengths(
        self, tasks: list[tuple[SourceConfig, Task | None]], tokenizer: Tokenizer, *, whole: bool
    ) -> list[float]:
        """Mean tokens of a document of each source: the same in every run, whatever its seed and its split."""
        found = self._streams(tasks, tokenizer, split=Split.train, whole=whole, key=("lengths",))
        return [fmean(len(corpus.document(place).ids) for place in range(MEASURED)) for corpus in found]

    def _rates(self, corpora: Sequence[Corpus], lengths: list[float]) -> list[float]:
        """Documents of each source: by weight relative to the others, by repeats in a walk through the mixture."""
        rates = []
        for (_, source), corpus, length in zip(self._sources(), corpora, lengths, strict=True):
            assert source.weight is not None or corpus.size is not None
            rates.append((source.repeats or 0.0) * (corpus.size or 0) or (source.weight or 0.0) / length)
        return rates


class Named:
    """The stream of a source; text that the tokenizer has no token for is told to be the source's."""

    def __init__(self, corpus: Corpus, name: str) -> None:
        self.corpus, self.name, self.size = corpus, name, corpus.size

    def document(self, position: int) -> Document:
        with text_of(self.name):
            return self.corpus.document(position)

    def prepare(self, after: int, tokens: int, *, processes: int, stop: Callable[[], bool]) -> None:
        """As the stream's own, where it has one (`TaskCorpus.prepare`)."""
        own = getattr(self.corpus, "prepare", None)
        if own is not None and not stop():
            with text_of(self.name):
                own(after, tokens, processes=processes, stop=stop)

    def example(self, position: int) -> Example | None:
        return self.corpus.example(position)


class Mixture:
    """Documents of several streams, each marked by the number of its source."""

    def __init__(
        self, corpora: Sequence[Named], rates: list[float], size: int | None, *, key: tuple[object, ...]
    ) -> None:
        self.corpora, self.size = corpora, size
        self._mixed = [number for number, rate in enumerate(rates) if rate]
        """Sources that have documents."""
        self._mixing = Mixing([rates[number] for number in self._mixed], *key, size=size) if self._mixed else None

    def _place(self, position: int) -> tuple[int, int]:
        """A source, and the position in its own stream."""
        assert self._mixing is not None
        number, place = self._mixing[position]
        return self._mixed[number], place

    def document(self, position: int) -> Document:
        source, place = self._place(position)
        found = self.corpora[source].document(place)
        return Document(found.ids, found.given, found.places, source)

    def prepare(self, after: int, tokens: int, *, processes: int, stop: Callable[[], bool]) -> None:
        """Make ahead what the walk reads of each source that keeps documents, as `TaskCorpus.prepare`."""
        first = [self.document(position) for position in range(MEASURED)]
        total = sum(len(document.ids) for document in first)
        for source, corpus in enumerate(self.corpora):
            size = sum(len(document.ids) for document in first if document.source == source)
            corpus.prepare(after * size // total, tokens * size // total, processes=processes, stop=stop)

    def example(self, position: int) -> Example | None:
        source, place = self._place(position)
        return self.corpora[source].example(place)
