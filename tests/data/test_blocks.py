"""Examples kept on the disk: the documents that the task would make, whoever made them, or none at all."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Inner

from rlx.data import blocks as module
from rlx.data.blocks import Blocks
from rlx.data.corpora.mixture import MixtureConfig
from rlx.data.corpora.task import TaskCorpus, TaskCorpusConfig
from rlx.data.documents import document_of
from rlx.data.order import BLOCK, Order
from rlx.data.tokenizers.base import Tokenizer
from rlx.data.tokenizers.char import CharConfig
from rlx.errors import ConfigError, RunError
from rlx.options import option_of
from rlx.tasks.arithmetic import ArithmeticConfig
from rlx.tasks.arithmetic_traces import Trace as ArithmeticTrace
from rlx.tasks.base import TaskConfig, is_costly
from rlx.tasks.countdown import CountdownConfig
from rlx.tasks.countdown_traces import Trace
from rlx.tasks.graph import GraphConfig
from rlx.tasks.sudoku import SudokuConfig
from rlx.tasks.sudoku_traces import Trace as SudokuTrace
from rlx.types import Split

KEY = (0, "pretrain")
MANY = 10**9
"""Tokens of a walk as long as any."""
TASKS = {
    "sudoku": SudokuConfig(train_examples=70),
    "sudoku search": SudokuConfig(train_examples=70, size=6, trace=SudokuTrace.search),
    "countdown search": CountdownConfig(train_examples=40, numbers=3, trace=Trace.dfs),
    "coupled positions": ArithmeticConfig(train_examples=70, trace=ArithmeticTrace.reversed, max_digits=3),
    "two blocks": ArithmeticConfig(train_examples=BLOCK + 5),
    "without end": ArithmeticConfig(),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return CharConfig().build()


def corpus_of(config: TaskConfig, tokenizer: Tokenizer, *, whole: bool = True, **fields: Any) -> TaskCorpus:
    task = config.build()
    return TaskCorpusConfig(**{"cache": True, **fields}).build(task, tokenizer, split=Split.train, whole=whole, key=KEY)


def prepared(config: TaskConfig, tokenizer: Tokenizer, tokens: int = MANY, **fields: Any) -> TaskCorpus:
    """A corpus whose documents were made ahead; what its task makes itself from then on is an error."""
    corpus = corpus_of(config, tokenizer, **fields)
    corpus.prepare(0, tokens, processes=2, stop=lambda: False)

    def example(split: Split, index: int) -> Any:
        raise AssertionError(f"{split} {index} is not read")

    corpus.task.example = example
    return corpus


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("examples/*/*"))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "solution"])
@pytest.mark.parametrize("config", TASKS.values(), ids=TASKS)
def test_a_document_that_is_read_is_the_one_that_is_made(config: TaskConfig, tokenizer: Tokenizer, whole: bool) -> None:
    tokens = 5 * BLOCK * 14 if config.train_examples is None else MANY
    found = prepared(config, tokenizer, tokens, whole=whole)
    task, order = config.build(), Order(config.train_examples, *KEY)
    for position in (*range(50), *range(1000, 1040), *range(2000, 2040)):
        example = task.example(Split.train, order[position])
        assert found.document(position) == document_of(example, tokenizer, whole=whole)


def test_documents_are_kept_whole_and_cut_when_they_are_read(tokenizer: Tokenizer) -> None:
    config = TASKS["sudoku"]
    cut, whole = prepared(config, tokenizer, max_tokens=20), prepared(config, tokenizer)
    assert cut.blocks is not None and whole.blocks is not None and cut.blocks.folder == whole.blocks.folder
    assert [cut.document(n) for n in range(70)] == [whole.document(n).cut(20) for n in range(70)]


def test_only_slow_tasks_are_kept_unless_it_is_said(tokenizer: Tokenizer) -> None:
    slow = [SudokuConfig(), *(CountdownConfig(trace=trace) for trace in (Trace.dfs, Trace.bfs, Trace.mix, Trace.think))]
    fast = [ArithmeticConfig(), GraphConfig(), CountdownConfig(), CountdownConfig(trace=Trace.operations)]
    for config in slow + fast:
        assert is_costly(config.build()) is (config in slow)
        assert (corpus_of(config, tokenizer, cache=None).blocks is not None) is (config in slow)
        assert corpus_of(config, tokenizer, cache=False).blocks is None


def test_held_out_documents_are_made_as_they_are_needed(tokenizer: Tokenizer) -> None:
    corpus = TaskCorpusConfig(cache=True).build(SudokuConfig().build(), tokenizer, split=Split.val, whole=True, key=KEY)
    assert isinstance(corpus, TaskCorpus) and corpus.blocks is None


def test_a_short_walk_makes_nothing(cache: Path, tokenizer: Tokenizer) -> None:
    """4096 documents of 50 tokens are enough."""
    for tokens in (1, 100_000, 180_000):
        corpus_of(SudokuConfig(), tokenizer).prepare(0, tokens, processes=2, stop=lambda: False)
    assert not cache.exists()


def test_what_is_made_is_what_is_read_to_its_end(cache: Path, tokenizer: Tokenizer) -> None:
    """About 14 tokens a document: five blocks and a half."""
    first = Order(None, *KEY)[0] // BLOCK
    prepared(ArithmeticConfig(), tokenizer, int(5.5 * BLOCK * 13.6))
    assert kept(cache) == sorted(f"train-{first + n}" for n in range(5))
    corpus_of(ArithmeticConfig(), tokenizer).prepare(
        int(100 * BLOCK * 13.6), int(4.7 * BLOCK * 13.6), processes=1, stop=lambda: False
    )
    later = {int(name.split("-")[1]) - first for name in kept(cache)} - set(range(5))
    assert len(later) == 4 and min(later) in range(95, 106) and max(later) == min(later) + 3


def test_no_more_is_made_than_is_allowed(cache: Path, tokenizer: Tokenizer) -> None:
    """A block is 1024 documents of about 14 tokens of 2 bytes."""
    prepared(ArithmeticConfig(), tokenizer, 10**7, cache_gib=2.5 * BLOCK * 13.6 * 2 / 2**30)
    assert len(kept(cache)) == 2
    prepared(ArithmeticConfig(seed=1), tokenizer, 10**7, cache_gib=0)
    assert len(kept(cache)) == 2


def test_what_is_there_is_not_made_again(cache: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TASKS["two blocks"]
    corpus = prepared(config, tokenizer)
    assert kept(cache) == ["train-0", "train-1"]
    monkeypatch.setattr(module._Maker, "make", lambda *_: pytest.fail("made again"))
    again = corpus_of(config, tokenizer)
    again.prepare(0, MANY, processes=2, stop=lambda: False)
    assert again.document(3) == corpus.document(3)


def test_what_is_not_there_is_made_as_it_is_needed(cache: Path, tokenizer: Tokenizer) -> None:
    config = TASKS["two blocks"]
    prepared(config, tokenizer)
    (gone,) = cache.glob("examples/*/train-1")
    gone.rename(cache / "gone")
    corpus, plain = corpus_of(config, tokenizer), corpus_of(config, tokenizer, cache=False)
    assert [corpus.document(n) for n in range(BLOCK + 5)] == [plain.document(n) for n in range(BLOCK + 5)]


def test_a_damaged_block_is_one_line(cache: Path, tokenizer: Tokenizer) -> None:
    corpus = prepared(TASKS["sudoku"], tokenizer)
    (block,) = cache.glob("examples/*/train-0")
    (block / "ids.u16").write_bytes(b"")
    with pytest.raises(RunError, match=r"train-0 is damaged.*remove it"):
        corpus.document(0)


def test_other_examples_have_another_place(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(config: TaskConfig, by: Tokenizer = tokenizer) -> Path:
        return Blocks(config, None, by, Split.train).folder

    own = place(SudokuConfig())
    assert place(SudokuConfig(verify_seconds=9.0)) == own, "what is only recorded changes no example"
    others = [place(SudokuConfig(seed=1)), place(SudokuConfig(size=6)), place(SudokuConfig(trace=SudokuTrace.direct))]
    other, swapped = CharConfig().build(), json.loads(tokenizer.to_json())
    other.vocab_size += 1
    vocab = swapped["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    others += [place(SudokuConfig(), by) for by in (other, Tokenizer(Inner.from_str(json.dumps(swapped))))]
    file = tmp_path / "puzzles.csv"
    for text in ("puzzle\n1\n", "puzzle\n2\n"):
        file.write_text(text)
        others.append(place(SudokuConfig(path=str(file))))
    option = option_of(SudokuConfig())
    changes = {"_code": lambda: "other", "FORMAT": 0, "option_of": lambda config: replace(option, version=9)}
    for name, value in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            others.append(place(SudokuConfig()))
    assert len({own, *others}) == 1 + len(others)


def test_the_code_of_every_task_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(module, "fingerprint", lambda path: read.append(Path(path)) or "x")
    module._code.__wrapped__()
    home = Path(module.__file__).parents[1]
    assert set((home / "tasks").glob("*.py")) < set(read)
    assert {home / "data/documents.py", home / "data/tokenizers/base.py"} < set(read)


def test_a_stop_leaves_whole_blocks_only(cache: Path, tokenizer: Tokenizer) -> None:
    def half() -> bool:
        return any(name.startswith(".") for name in kept(cache))

    corpus = corpus_of(CountdownConfig(trace=Trace.dfs), tokenizer)
    corpus.prepare(0, MANY, processes=2, stop=half)
    assert kept(cache) == [], "a block takes seconds"


WRITTEN = """
import os
from dataclasses import dataclass
from rlx.tasks.sudoku import Sudoku, SudokuConfig

@dataclass(kw_only=True, slots=True)
class FailingConfig(SudokuConfig):
    def build(self):
        return Failing(self)

class Failing(Sudoku):
    def example(self, split, index):
        if index % 64 == 63 and os.environ.get("FAILS"):
            {failure}
        return super().example(split, index)
"""
FAILURES = {
    "os._exit(3)": r"ended \(exit code 3\)",
    "raise ValueError('one\\ntwo')": "^ValueError: one two$",
    "print('noise'); raise SystemExit(4)": r"ended \(exit code 4\)",
}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """A task of the user's own, in a module outside of rlx."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(failure: str) -> Any:
        (tmp_path / "failing_task.py").write_text(WRITTEN.format(failure=failure))
        importlib.invalidate_caches()
        sys.modules.pop("failing_task", None)
        return importlib.import_module("failing_task").FailingConfig

    yield write
    sys.modules.pop("failing_task", None)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda text: text.split("(")[0])
def test_a_process_that_fails_is_one_line(
    cache: Path, tokenizer: Tokenizer, written: Callable[[str], Any], failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = written(failure)(train_examples=500)
    corpus = corpus_of(config, tokenizer)
    monkeypatch.setenv("FAILS", "1")
    corpus.task = SudokuConfig(train_examples=500).build()  # here it is well
    with pytest.raises(RunError, match=FAILURES[failure]) as error:
        corpus.prepare(0, MANY, processes=2, stop=lambda: False)
    assert "\n" not in str(error.value)
    assert all(not name.startswith(".") for name in kept(cache)) or "exit" in failure


def test_the_code_of_a_task_from_elsewhere_counts(tokenizer: Tokenizer, written: Callable[[str], Any]) -> None:
    places = [Blocks(written(text)(), None, tokenizer, Split.train).folder for text in ("pass", "pass  ")]
    assert places[0] != places[1]


def test_a_task_from_elsewhere_is_found_there(tokenizer: Tokenizer, written: Callable[[str], Any]) -> None:
    config = written("pass")(train_examples=70)
    plain = corpus_of(SudokuConfig(train_examples=70), tokenizer, cache=False)
    assert [prepared(config, tokenizer).document(n) for n in range(9)] == [plain.document(n) for n in range(9)]


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match=r"cannot be written.*RLX_CACHE"):
        corpus_of(TASKS["sudoku"], tokenizer).prepare(0, MANY, processes=1, stop=lambda: False)


def test_tasks_without_a_config_are_not_kept(tokenizer: Tokenizer) -> None:
    task = SudokuConfig().build()
    task.config = None
    with pytest.raises(ConfigError, match=r"Sudoku has not; try corpus\.cache=false"):
        TaskCorpusConfig().build(task, tokenizer, split=Split.train, whole=True, key=KEY)


def test_the_processes_import_no_torch() -> None:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", "import sys, rlx.data.blocks, rlx.tasks.sudoku; sys.exit('torch' in sys.modules)"]
    )
    assert done.returncode == 0


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ConfigError, match="cache_gib=-1"):
        TaskCorpusConfig(cache_gib=-1)


def test_sources_of_a_mixture_are_made_ahead_by_their_tokens(
    cache: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of the tokens are boards', all of whose 70 are read many times; a copy is made as it is needed."""
    seen: dict[str, tuple[int, int]] = {}
    made = TaskCorpus.prepare

    def prepare(corpus: TaskCorpus, after: int, tokens: int, **more: Any) -> None:
        seen[type(corpus.task).__name__] = after, tokens
        made(corpus, after, tokens, **more)

    monkeypatch.setattr(TaskCorpus, "prepare", prepare)
    boards = {"task": "sudoku", "settings": {"train_examples": 70}, "weight": 1}
    sources: Any = {"boards": boards, "copies": {"task": "copy", "weight": 3}}
    mixture = MixtureConfig(sources=sources).build(None, tokenizer, split=Split.train, whole=True, key=KEY)
    before = [mixture.document(position) for position in range(100)]
    mixture.prepare(10**6, 4 * 10**6, processes=1, stop=lambda: False)
    assert kept(cache) == ["train-0"]
    assert seen["Sudoku"] == pytest.approx((250_000, 10**6), rel=0.3)
    assert seen["Copy"] == pytest.approx((750_000, 3 * 10**6), rel=0.3)
    again = MixtureConfig(sources=sources).build(None, tokenizer, split=Split.train, whole=True, key=KEY)
    assert [again.document(position) for position in range(100)] == before
