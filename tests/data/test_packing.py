"""Packing: every document once, whole, with its boundaries; a resumed packer goes on with the same rows."""

import hashlib
import random
from collections import Counter
from typing import Any

import pytest
import torch

from rlx.batches import Batch
from rlx.data.corpora.task import TaskCorpus, TaskCorpusConfig
from rlx.data.documents import Document
from rlx.data.packing import Packer
from rlx.data.tokenizers.char import CharConfig
from rlx.errors import ConfigError
from rlx.tasks.countdown import CountdownConfig
from rlx.tasks.countdown_traces import Trace
from rlx.types import Split


def numbered(position: int, *, longest: int = 20, shortest: int = 2) -> Document:
    """A document that says where it came from: its position, then its place in itself."""
    source = random.Random(position)
    size = source.randrange(shortest, longest + 1)
    return Document([1000 * (position + 1) + place for place in range(size)], source.randrange(1, size + 1))


def packer_of(document: Any = numbered, *, rows: int = 4, length: int = 32) -> Packer:
    return Packer(document, rows=rows, length=length, pad_id=0)


def documents_of(batch: Batch) -> list[tuple[int, ...]]:
    """The documents of a batch, row by row, by their numbers."""
    found = []
    for row in range(len(batch.tokens)):
        for number in range(int(batch.documents[row].max()) + 1):
            found.append(tuple(batch.tokens[row][batch.documents[row] == number].tolist()))
    return found


def same(one: Batch, other: Batch) -> None:
    assert one.places is other.places is None
    for name in ("tokens", "positions", "documents", "loss_mask"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize(
    ("rows", "length", "longest"), [(4, 32, 20), (1, 20, 20), (3, 64, 8), (16, 21, 20), (2, 3, 3)], ids=str
)
def test_no_document_is_cut_lost_or_repeated(rows: int, length: int, longest: int) -> None:
    packer = packer_of(lambda position: numbered(position, longest=longest), rows=rows, length=length)
    seen: Counter[tuple[int, ...]] = Counter()
    for _ in range(60):
        seen.update(documents_of(packer.next()))
    state = packer.state_dict()
    taken = set(range(state["position"])) - set(state["carried"])
    assert seen == Counter(tuple(numbered(position, longest=longest).ids) for position in taken)
    assert len(state["carried"]) == len(set(state["carried"])) <= 8


def test_a_row_by_hand() -> None:
    made = [Document([11, 12, 13], 2), Document([21, 22, 23, 24, 25, 26], 1), Document([31, 32], 1)]
    long = Document([90] * 8, 1)
    batch = packer_of(lambda n: made[n] if n < 3 else long, rows=2, length=8).next()
    assert batch.tokens.tolist() == [[11, 12, 13, 31, 32, 0, 0, 0], [21, 22, 23, 24, 25, 26, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0, 0, 0], [0, 1, 2, 3, 4, 5, 0, 0]]
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1, -1, -1, -1], [0, 0, 0, 0, 0, 0, -1, -1]]
    assert batch.loss_mask.tolist() == [[0, 0, 1, 0, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 0, 0]]
    dtypes = (batch.tokens.dtype, batch.positions.dtype, batch.documents.dtype, batch.loss_mask.dtype)
    assert dtypes == (torch.int64, torch.int64, torch.int64, torch.float32)


def test_masks_and_positions_of_many_rows() -> None:
    packer = packer_of()
    for _ in range(20):
        batch = packer.next()
        for row in range(4):
            real = batch.documents[row] >= 0
            assert torch.equal(real, batch.tokens[row] > 0), "padding is what no document fills"
            origin = batch.tokens[row] // 1000 - 1
            place = batch.tokens[row] % 1000
            assert torch.equal(batch.positions[row][real], place[real])
            given = torch.tensor([numbered(int(n)).given if n >= 0 else 0 for n in origin])
            assert torch.equal(batch.loss_mask[row].bool(), (place >= given) & real)


@pytest.mark.parametrize("longest", [20, 31])
def test_a_resumed_packer_makes_the_same_rows(longest: int) -> None:
    packer = packer_of(lambda position: numbered(position, longest=longest))
    for _ in range(5):
        packer.next()
    state = packer.state_dict()
    assert state["carried"], "a state worth testing"
    other = packer_of(lambda position: numbered(position, longest=longest))
    other.load_state_dict(state)
    kept = {"position": state["position"], "carried": list(state["carried"])}
    for _ in range(5):
        same(other.next(), packer.next())
    assert state == kept, "a state is a copy"


@pytest.mark.parametrize(
    ("trace", "rows", "length", "split", "whole", "examples", "digest"),
    [
        (Trace.direct, 12, 640, Split.train, True, None, "ced05528370dffdd"),
        (Trace.operations, 64, 128, Split.train, True, None, "d4d72728f10694d6"),
        (Trace.operations, 64, 128, Split.val, False, None, "c1345c168148b6fb"),
        (Trace.operations, 64, 128, Split.train, False, 500, "768271a18f941c13"),
    ],
    ids=["direct", "operations", "held out", "epochs"],
)
def test_first_rows_are_pinned(
    trace: Trace, rows: int, length: int, split: Split, whole: bool, examples: int | None, digest: str
) -> None:
    """Problems, their order, texts, tokens and places: a change here changes every training run."""
    task, tokenizer = CountdownConfig(trace=trace, train_examples=examples).build(), CharConfig().build()
    corpus = TaskCorpusConfig().build(task, tokenizer, split=split, whole=whole, key=(0, "pretrain", 0))
    packer = Packer(corpus.document, rows=rows, length=length, pad_id=tokenizer.pad_id)
    found = hashlib.sha256()
    for _ in range(4):
        batch = packer.next()
        for tensor in (batch.tokens, batch.positions, batch.documents, batch.loss_mask):
            found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    found.update(repr(packer.state_dict()).encode())
    assert found.hexdigest()[:16] == digest


def test_documents_that_wait_are_made_once() -> None:
    """They are made again only by a packer that was resumed."""
    made: Counter[int] = Counter()

    def document(position: int) -> Document:
        made[position] += 1
        return numbered(position)

    packer = packer_of(document)
    for _ in range(10):
        packer.next()
    assert set(made.values()) == {1}
    other = packer_of(document)
    state = packer.state_dict()
    other.load_state_dict(state)
    other.next()
    assert all(made[position] == 2 for position in state["carried"])


def test_a_packer_that_goes_back_makes_the_same_rows() -> None:
    packer = packer_of()
    packer.next()
    state = packer.state_dict()
    first = packer.next()
    packer.next()
    packer.load_state_dict(state)
    same(packer.next(), first)


def test_rows_are_well_filled() -> None:
    packer = packer_of(rows=16, length=128)
    filled = torch.cat([packer.next().documents >= 0 for _ in range(20)]).float().mean()
    assert filled > 0.95


def test_rows_of_three_tokens_are_all_used() -> None:
    batch = packer_of(lambda position: Document([1, 2, 3], 1), rows=4, length=3).next()
    assert (batch.documents == 0).all()


def test_a_document_as_long_as_a_row_fits_and_a_longer_one_is_one_line() -> None:
    batch = packer_of(lambda position: Document([7] * 32, 1)).next()
    assert (batch.tokens == 7).all()
    with pytest.raises(ConfigError, match=r"33 tokens does not fit stage\.row_tokens=32") as error:
        packer_of(lambda position: Document([7] * 33, 1)).next()
    assert "\n" not in str(error.value)


def test_a_corpus_cuts_long_documents_to_fit() -> None:
    """Depth-first traces of 300 characters and more; a cut one has no end mark, and its prompt does not count."""
    task, tokenizer = CountdownConfig(trace=Trace.dfs, numbers=3).build(), CharConfig().build()

    def corpus(max_tokens: int | None) -> TaskCorpus:
        return TaskCorpusConfig(max_tokens=max_tokens).build(
            task, tokenizer, split=Split.train, whole=False, key=(0, "sft", 0)
        )

    whole, cut = ([corpus(size).document(position) for position in range(40)] for size in (None, 800))
    assert [document.ids[:800] for document in whole] == [document.ids for document in cut]
    assert [document.given for document in whole] == [document.given for document in cut]
    assert {document.ids[-1] == tokenizer.end_id for document in cut} == {True, False}
    assert corpus(5).document(0).given == 5
    batch = Packer(corpus(800).document, rows=4, length=800, pad_id=tokenizer.pad_id).next()
    assert batch.tokens.shape == (4, 800)
    with pytest.raises(ConfigError, match=r"try stage\.row_tokens=2048 .* or corpus\.max_tokens=800"):
        Packer(corpus(None).document, rows=4, length=800, pad_id=tokenizer.pad_id).next()
    with pytest.raises(ConfigError, match=r"corpus\.max_tokens must be at least 2, got 1; try"):
        TaskCorpusConfig(max_tokens=1)
