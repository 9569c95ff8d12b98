"""How long examples and documents of a setting are; each setting is looked at once."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlx.batches import Extent
from rlx.types import Split

if TYPE_CHECKING:
    import numpy as np

    from rlx.config import Config
    from rlx.data.documents import Document
    from rlx.data.tokenizers.base import Tokenizer
    from rlx.environments.base import EnvironmentConfig
    from rlx.tasks.base import Task, TaskConfig

EXAMPLES = {Split.train: 64, Split.test: 16}
"""Examples whose lengths stand for all; a held-out one takes up to a hundred times as long to find (5 ms)."""
BATCHES = 8
"""Batches packed of them."""


class Lengths:
    """Lengths of examples and documents; each setting is looked at once."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._problems: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = {}
        self._documents: dict[tuple[Any, ...], list[Document]] = {}
        self._packed: dict[tuple[Any, ...], Extent] = {}

    def problems(
        self,
        config: "TaskConfig",
        tokenizer: "Tokenizer",
        split: Split,
        environment: "EnvironmentConfig",
        *,
        training: bool,
    ) -> "tuple[Task, np.ndarray, np.ndarray]":
        """The task; and of examples the tokens of prompt and solution, begin and end mark included, each [N] float. In
        an interaction they are those of the episodes that the environment demonstrates, replies included, as it opens
        them in training or for a model that is measured."""
        import numpy as np

        from rlx.data.corpora.dialogues import demonstrated, dialogue_of

        name, task = self._task(config)
        key = (name, repr(environment), training, tokenizer, split := _sampled(split))
        if key not in self._problems:
            size, count, shown = task.size(split), EXAMPLES[split], environment.build()
            numbers = range(count if size is None else min(size, count))
            episodes = [demonstrated(shown, task, split, n, training=training) for n in numbers]
            found = [dialogue_of(episode, shown, tokenizer, whole=False) for episode in episodes]
            prompts = [float(document.given) for document in found]
            solutions = [float(len(document.ids) - document.given) for document in found]
            self._problems[key] = np.array(prompts), np.array(solutions)
        return task, *self._problems[key]

    def packed(self, config: "Config", tokenizer: "Tokenizer", split: Split, *, rows: int, length: int) -> Extent:
        """The mean of batches of `rows` rows of `length` tokens."""
        from rlx.data.packing import Packer

        documents = self._of_corpus(config, tokenizer, split)
        key = (id(documents), rows, length)
        if key not in self._packed:
            packer = Packer(
                lambda place: documents[place % len(documents)], rows=rows, length=length, pad_id=tokenizer.pad_id
            )
            whole = sum((packer.next().extent() for _ in range(BATCHES)), Extent())
            self._packed[key] = whole * (1 / BATCHES)
        return self._packed[key]

    def _of_corpus(self, config: "Config", tokenizer: "Tokenizer", split: Split) -> "list[Document]":
        assert config.corpus is not None
        name, task = self._task(config.task) if config.task is not None else ("", None)
        key = (name, repr(config.corpus), tokenizer, split := _sampled(split))
        if key not in self._documents:
            self._documents[key] = config.corpus.sample(task, tokenizer, split=split, count=EXAMPLES[split])
        return self._documents[key]

    def _task(self, config: "TaskConfig") -> "tuple[str, Task]":
        """The task, and what it is known by; a plan over seeds of the generator is one task."""
        config = replace(config, seed=0)
        name = repr(config)
        if name not in self._tasks:
            self._tasks[name] = config.build()
        return name, self._tasks[name]


def _sampled(split: Split) -> Split:
    """The split that is looked at for a split's lengths."""
    return Split.train if split is Split.val else split
