"""Documents as a folder that `datasets` opens: parquet files by split, and a card.

Columns: `source` (of a mixture its name, else empty), `id` of the problem (empty for text), `prompt` and `completion`
(of a problem whole, even where its document is cut; of text the prompt is empty), `tokens` (of the document, begin and
end mark included), `difficulty` (the problem's named fields as JSON); of dialogues also `turns`, messages with a `role`
and a `text` each: what is said to the model, its prompt first, is the user's, the rest the assistant's; empty where a
document is no dialogue. The completion of a dialogue is its last turn. With `ids` there are `input_ids` and
`loss_mask` too, one number a token.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlx.data.corpora.base import Corpus
from rlx.data.tokenizers.base import Tokenizer
from rlx.environments.base import Episode
from rlx.options import plain_value

CHUNK = 1000
"""Rows held in memory."""
SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""Our splits as `datasets` calls them."""


@dataclass(slots=True)
class Counted:
    """What was written of one source in one split."""

    documents: int = 0
    tokens: int = 0
    longest: int = 0


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one split.

    Args:
        names: of the sources, in the order of `Document.source`; empty where there is but one.
        ids: with token ids and loss mask.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    count: int
    names: Sequence[str]
    ids: bool = False
    counted: dict[str, Counted] = field(default_factory=dict)
    """By source, filled while the rows are read."""

    @property
    def has_turns(self) -> bool:
        """The corpus is one of dialogues."""
        return hasattr(self.corpus, "episode")

    def episode(self, position: int) -> Episode | None:
        """The dialogue at a position, where it is one."""
        of: Callable[[int], Episode | None] | None = getattr(self.corpus, "episode", None)
        return None if of is None else of(position)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for position in range(self.count):
            document = self.corpus.document(position)
            episode = self.episode(position)
            example = self.corpus.example(position) if episode is None else episode.example
            source = self.names[document.source] if self.names else ""
            row: dict[str, Any] = {
                "source": source,
                "id": "" if example is None else example.id,
                "prompt": self.tokenizer.decode(document.ids[: document.given]) if example is None else example.prompt,
                "completion": (
                    self.tokenizer.decode(document.ids[document.given :]) if example is None else example.solution
                ),
                "tokens": len(document.ids),
                "difficulty": "{}" if example is None else json.dumps(plain_value(dict(example.difficulty))),
            }
            if episode is not None:
                row |= {"prompt": episode.prompt, "completion": episode.turns[-1].text}
            if self.has_turns:
                row["turns"] = [] if episode is None else messages(episode)
            if self.ids:
                row["input_ids"] = document.ids
                row["loss_mask"] = [int(counts) for counts in document.counted()]
            so_far = self.counted.setdefault(source, Counted())
            so_far.documents += 1
            so_far.tokens += len(document.ids)
            so_far.longest = max(so_far.longest, len(document.ids))
            yield row


def messages(episode: Episode) -> list[dict[str, str]]:
    """A dialogue as messages: the prompt, and each turn with what it is answered."""
    found = [{"role": "user", "text": episode.prompt}]
    for turn in episode.turns:
        found.append({"role": "assistant", "text": turn.text})
        if turn.reply:
            found.append({"role": "user", "text": turn.reply})
    return found


def write_rows(path: Path, rows: Rows, told: Callable[[int], None]) -> None:
    """Write a parquet file, a chunk at a time; `told` is called with the rows that are written so far."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    kinds: dict[str, Any] = dict.fromkeys(("source", "id", "prompt", "completion"), pyarrow.string())
    kinds |= {"tokens": pyarrow.int32(), "difficulty": pyarrow.string()}
    if rows.has_turns:
        kinds["turns"] = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("text", pyarrow.string())]))
    if rows.ids:
        kinds |= {"input_ids": pyarrow.list_(pyarrow.int32()), "loss_mask": pyarrow.list_(pyarrow.int8())}
    schema = pyarrow.schema(list(kinds.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    with ParquetWriter(path, schema) as writer:
        chunk: list[dict[str, Any]] = []
        for number, row in enumerate(rows, start=1):
            chunk.append(row)
            if len(chunk) == CHUNK or number == rows.count:
                writer.write_table(pyarrow.Table.from_pylist(chunk, schema=schema))
                told(number)
                chunk = []


def card(*, title: str, command: str, splits: Mapping[str, Rows], notes: Sequence[str], sample: Sequence[str]) -> str:
    """The README.md of the folder: what `datasets` reads first, then what people read."""
    files = [f"  - split: {SPLITS[name]}\n    path: data/{SPLITS[name]}-*.parquet" for name in splits]
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *files,
        f"pretty_name: {json.dumps(title)}",
        "---",
        "",
    ]
    lines += [f"# {title}", "", "Made by rlx with", "", "```", command, "```", ""]
    lines += [*(f"- {note}" for note in notes), ""]
    lines += ["| split | source | documents | tokens | mean tokens | longest |", "|---|---|---|---|---|---|"]
    for split, rows in splits.items():
        for source, found in sorted(rows.counted.items()):
            mean = found.tokens / max(found.documents, 1)
            cells = (SPLITS[split], source or "-", found.documents, found.tokens, f"{mean:.1f}", found.longest)
            lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "The first training document; `^` stands under what counts in the loss:",
        "",
        "```",
        *sample,
        "```",
        "",
    ]
    return "\n".join(lines)
