"""Problems with answers from files: GSM8K, MATH, and others of their kind.

A source is what `rlx.rows` reads: a file, a folder with train and test, `hf:<owner>/<name>:<config>`. A row has
- a question: `question`, `problem`, `prompt` or `query`;
- an answer: `answer`, `final_answer`, `expected_answer` or `target`; without one, what its solution ends in;
- perhaps a solution: `solution`, `generated_solution`, `rationale`, `response` or `output`. An answer of several lines,
  or that says where the answer is, is a solution too: GSM8K has it in `answer`, before `#### 72`.
Difficulty is what every row of a source has of `level` ("Level 3", or a number), `subject` (or `type`), and `steps`,
the lines of a solution that ends in `####`; a field of more than `VALUES` values is left out.

Where sources differ, or leave a choice, this file does:
1. Text is printable ASCII and line ends: characters by the table `PLAIN`, accents dropped, other forms of letters and
   digits by their plain ones (NFKD). A record with others left is dropped (none of GSM8K).
2. A division into train, val and test is kept. A question that is in test or val is dropped from train, and of those
   that come twice the first stays; questions are the same when they differ in case and blanks alone. Val and test,
   where the source lacks one, are drawn from train by a hash of the question, one in `SHARE` each and at least one:
   so is a single file divided. A source without train is not.
3. A record without an answer, or with one of more than 300 characters, or with a longer question or solution than
   `LONGEST`, is dropped. How many were dropped, and why, stands in `Records.dropped`.
4. The line of a solution that begins with `####` is the answer's and not in `solution`; its calculators
   (`<<48/2=24>>`) are. Commas in whole numbers go: `1,080` is the answer `1080`.
5. A source of more than `MOST` records, or `MOST_TEXT` characters, is refused: they are kept in memory.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlx.errors import ConfigError
from rlx.rows import rows, splits
from rlx.tasks.base import split_of, stable_hash
from rlx.tasks.math_answers import LONGEST as LONGEST_ANSWER
from rlx.tasks.math_answers import final_answer
from rlx.types import Split

SHARE = 32
"""One question in so many is drawn for `val`, and one for `test`, where the source has none."""
LONGEST = 10_000
"""Characters of the longest question, and of the longest solution."""
MOST = 1_000_000
MOST_TEXT = 1 << 29
VALUES = 32
CALCULATOR = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
"""An expression and its value."""

QUESTION = ("question", "problem", "prompt", "query")
ANSWER = ("answer", "final_answer", "expected_answer", "target")
SOLUTION = ("solution", "generated_solution", "rationale", "response", "output")
_MARKS = ("\n", "####", "\\boxed", "answer is")
_NAMES = {
    "train": Split.train,
    "test": Split.test,
    **dict.fromkeys(("val", "valid", "validation", "dev"), Split.val),
}

PLAIN = {
    "\t\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000": " ",
    "\r\u0085\u2028\u2029": "\n",
    "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff™®©": "",
    "‘’‚‛′´": "'",
    "“”„‟″«»": '"',
    "‐‑‒–—―−": "-",
    "…": "...",
    "×·⋅∙•": "*",
    "÷⁄∕": "/",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "±": "+-",
    "√": "sqrt",
    "∞": "infinity",
    "→": "->",
    "°": " degrees",
    "¢": " cents",
    "€": "EUR ",
    "£": "GBP ",
    "¥": "JPY ",
    "₹": "INR ",
    "π": "pi",
}
"""Characters, and what is written for each of them."""
_PLAIN = {
    **{ord(character): plain for characters, plain in PLAIN.items() for character in characters},
    **{ord(character): f"^{digit}" for digit, character in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **dict(zip(map(ord, "АВЕКМНОРСТХаеорсух"), "ABEKMHOPCTXaeopcyx", strict=True)),  # Cyrillic, typed by mistake
}
_MIXED = re.compile(r"(?<=[0-9])(?=[¼½¾⅐-⅞])")
_PRINTABLE = re.compile(r"[ -~\n]*")


class Record(NamedTuple):
    """A problem, in ASCII."""

    question: str
    answer: str
    solution: str
    """Its working, empty where the source has none."""
    difficulty: Mapping[str, int | str]
    """The same names in all records of a source."""


@dataclass(frozen=True, slots=True)
class Records:
    """What a source holds."""

    parts: Mapping[Split, Sequence[Record]]
    """In the order of the source; of a source that is all test, train and val are empty."""
    dropped: Mapping[str, int]
    """How many records are left out, by reason."""


def read_records(source: str, *, question: str = "question", answer: str = "answer") -> Records:
    """All records of a source.

    Args:
        question: the field that is looked for first; alone, where it is none of the usual names.
        answer: the same for answers.

    Raises:
        ConfigError: it cannot be read, a row has no field for a question or an answer, it has too many records, or
            none that can be used.
    """
    named = _divided(source)
    drawn = tuple(split for split in (Split.val, Split.test) if Split.train in named and split not in named)
    reader = _Reader(source, _first(question, QUESTION), _first(answer, ANSWER))
    parts: dict[Split, list[Record]] = {split: [] for split in Split}
    for split in (Split.test, Split.val, Split.train):  # what is held out comes first: train gives way to it
        for name in named.get(split, ()):
            for record in reader.read(name):
                place = split_of(_key(record), SHARE)
                parts[place if place in drawn and split is Split.train else split].append(record)
    for split in drawn:
        if not parts[split] and len(parts[Split.train]) > len(drawn):
            least = min(parts[Split.train], key=lambda record: stable_hash(split.value, _key(record)))
            parts[Split.train].remove(least)
            parts[split].append(least)
    if not any(parts.values()):
        why = ", ".join(f"{count} {reason}" for reason, count in reader.dropped.items()) or "it is empty"
        raise ConfigError(f"{source} has no record that can be used: {why}")
    kept = _common(parts)
    shown = {split: [_with(record, kept) for record in records] for split, records in parts.items()}
    return Records(shown, dict(reader.dropped))


def _divided(source: str) -> dict[Split, list[str | None]]:
    """Names of the source's splits by ours; without any, the whole is train."""
    names = splits(source)
    found: dict[Split, list[str | None]] = {}
    for name in names:
        if name in _NAMES:
            found.setdefault(_NAMES[name], []).append(name)
    if not found and len(names) > 1:
        raise ConfigError(f"{source} has the splits {', '.join(names)}; expected train, val or test among them")
    return found or {Split.train: [None]}


class _Reader:
    """Rows of a source as records, without those that cannot be used."""

    def __init__(self, source: str, question: Sequence[str], answer: Sequence[str]) -> None:
        self.dropped: Counter[str] = Counter()
        self._source, self._question, self._answer = source, question, answer
        self._seen: set[int] = set()
        self._text = 0

    def read(self, split: str | None) -> "Iterator[Record]":
        """Records of a split that can be used."""
        for number, row in enumerate(rows(self._source, split=split), 1):
            where = f"{self._source}{'' if split is None else f' ({split})'}, row {number}"
            record = self._record(row, where)
            if isinstance(record, str):
                self.dropped[record] += 1
                continue
            seen = stable_hash("question", _key(record))
            if seen in self._seen:
                self.dropped["seen before"] += 1
                continue
            self._seen.add(seen)
            self._text += len(record.question) + len(record.solution)
            if len(self._seen) > MOST or self._text > MOST_TEXT:
                raise ConfigError(
                    f"{where}: more than {MOST} records, or {MOST_TEXT} characters; name a file with a part of them"
                )
            yield record

    def _record(self, row: Mapping[str, Any], where: str) -> "Record | str":
        """The record of a row, or why there is none."""
        question, given = _field(row, self._question, where), _field(row, self._answer, where)
        solution = _field(row, SOLUTION, where)
        if question is None or (given is None and solution is None):
            lacks, names = ("question", self._question) if question is None else ("answer", (*self._answer, *SOLUTION))
            raise ConfigError(f"{where} has no {lacks}: expected {'|'.join(names)}, got {'|'.join(row) or 'no field'}")
        texts = [plain_text(text) for text in (question, given or "", solution or "")]
        if any(text is None for text in texts):
            return "not in ASCII"
        question, given, solution = (text or "" for text in texts)
        difficulty = _difficulty(row)
        if not given or any(mark in given for mark in _MARKS):
            solution = solution or given
            given = final_answer(given or solution) or ""
        if "####" in solution:
            solution = solution.rpartition("####")[0].rstrip()
            difficulty["steps"] = sum(1 for line in solution.split("\n") if line.strip())
        if not question:
            return "without a question"
        if not given:
            return "without an answer"
        if len(given) > LONGEST_ANSWER or len(question) > LONGEST or len(solution) > LONGEST:
            return "too long"
        return Record(question, _without_commas(given), solution, difficulty)


def _first(name: str, usual: Sequence[str]) -> list[str]:
    return [name, *(other for other in usual if other != name)] if name in usual else [name]


def _key(record: Record) -> str:
    """Equal for questions that are the same."""
    return " ".join(record.question.lower().split())


def plain_text(text: str) -> str | None:
    """`text` in printable ASCII and line ends, without blanks around it; None where it has other characters left."""
    text = text.replace("\r\n", "\n").strip()
    if not _PRINTABLE.fullmatch(text):
        text = _MIXED.sub(" ", text).translate(_PLAIN)
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text).translate(_PLAIN)
        text = "".join(character for character in parts if not unicodedata.combining(character))
    text = text.strip()
    return text if _PRINTABLE.fullmatch(text) else None


def _field(row: Mapping[str, Any], names: Sequence[str], where: str) -> str | None:
    """The first of the fields that the row has, as text."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if value is not None:
            raise ConfigError(f"{where}: {name} is a {type(value).__name__}; expected text")
    return None


def _without_commas(answer: str) -> str:
    return answer.replace(",", "") if re.fullmatch(r"-?[0-9]{1,3}(,[0-9]{3})+", answer) else answer


def _difficulty(row: Mapping[str, Any]) -> dict[str, int | str]:
    """What the row says of level and subject."""
    found: dict[str, int | str] = {}
    for name, value in {"level": row.get("level"), "subject": row.get("subject", row.get("type"))}.items():
        text = plain_text(str(value)) if isinstance(value, str | int) else None
        if text and len(text) <= 60:
            digits = re.fullmatch(r"(?:level *)?([0-9]{1,3})", text, re.IGNORECASE)
            found[name] = int(digits[1]) if digits else text
    return found


def _common(parts: Mapping[Split, Sequence[Record]]) -> list[str]:
    """Difficulty fields that all records have, of few values."""
    records = [record for part in parts.values() for record in part]
    names = list(records[0].difficulty)
    values = {name: {record.difficulty.get(name) for record in records} for name in names}
    return [name for name in names if None not in values[name] and len(values[name]) <= VALUES]


def _with(record: Record, names: Sequence[str]) -> Record:
    if len(record.difficulty) == len(names):
        return record
    return record._replace(difficulty={name: record.difficulty[name] for name in names})
