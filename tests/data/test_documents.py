"""Coupled positions of documents: where they stand, how they are moved, how they are packed."""

from collections import Counter

import pytest
import torch

from rlx.data.documents import Document, coupled, coupled_stream, document_of, guides, moved
from rlx.data.packing import Packer
from rlx.data.tokenizers.char import CharConfig
from rlx.errors import ConfigError
from rlx.tasks.arithmetic import ArithmeticConfig
from rlx.tasks.arithmetic_traces import Trace
from rlx.types import Example, Split

SUM = Example("x", "29+57=", "680", places=(3, 2, 1, 3, 2, 1, 2, 3, 4, 0))


def numbered(position: int) -> Document:
    size = 2 + position % 5
    return Document([10 * position + place for place in range(size)], 1, (0, *range(1, size)))


def test_the_begin_mark_has_none() -> None:
    document = document_of(SUM, CharConfig().build(), whole=True)
    assert document.places == (0, *SUM.places) and len(document.ids) == 11
    assert document.cut(4).places == (0, 3, 2, 1)
    assert document_of(Example("x", "1", "2"), CharConfig().build(), whole=True).places is None


def test_ids_that_are_not_one_a_token_are_none() -> None:
    wrong = Example("x", "29+57=", "680", places=(1, 2))
    assert document_of(wrong, CharConfig().build(), whole=True).places is None


def test_moved_ids_keep_their_distances_and_reach_every_start() -> None:
    """Of ids up to 4 in 7: starts at 1, 2, 3 and 4, evenly; 0 stays."""
    starts = Counter()
    for draw in range(4000):
        found = moved((0, 1, 4, 0, 2), 7, "seed", draw)
        by = found[1] - 1
        assert found == (0, 1 + by, 4 + by, 0, 2 + by)
        starts[found[1]] += 1
    assert set(starts) == {1, 2, 3, 4} and min(starts.values()) > 900
    assert moved((1, 4), 4, "seed") == (1, 4)
    assert moved((1, 2), 500, 1) == moved((1, 2), 500, 1) != moved((1, 2), 500, 2)


def test_a_stream_moves_where_it_is_told_to() -> None:
    still = coupled_stream(numbered, 300, key=None)
    assert all(still(n) == numbered(n) for n in range(20))
    moving = coupled_stream(numbered, 300, key=("train",))
    assert len({moving(n).places[1] for n in range(20)}) > 15 and moving(3) == moving(3)
    assert moving(3).ids == numbered(3).ids


def test_completions_are_guided_from_the_start_they_are_given() -> None:
    tokenizer = CharConfig().build()
    assert guides([SUM], tokenizer, 100, key=None) == [(0, *SUM.places)]
    (one,) = guides([SUM], tokenizer, 100, key=(3,))
    assert one == moved((0, *SUM.places), 100, 3, 0)


def test_documents_that_do_not_fit_are_one_line() -> None:
    for document, says in ((Document([1, 2], 1), "have no coupled positions"), (numbered(4), "model.max_position=10")):
        with pytest.raises(ConfigError, match=says) as error:
            coupled(document, 4)
        assert "\n" not in str(error.value)


def test_ids_are_packed_with_their_tokens() -> None:
    """A token says which document it is of and where it stands there; the id was the same place."""
    batch = Packer(numbered, rows=3, length=23, pad_id=0, coupled=True).next()
    real = batch.documents >= 0
    assert torch.equal(batch.places[real], batch.tokens[real] % 10) and (batch.places[~real] == 0).all()
    assert (~real).any()
    assert all(torch.equal(part.places, rows) for part, rows in zip(batch.split(2), batch.places.split(2), strict=True))
    assert Packer(numbered, rows=3, length=20, pad_id=0).next().places is None


def test_sums_of_the_task_are_documents_with_ids() -> None:
    task, tokenizer = ArithmeticConfig(trace=Trace.reversed).build(), CharConfig().build()
    document = document_of(task.example(Split.train, 0), tokenizer, whole=False)
    assert document.places is not None and len(document.places) == len(document.ids)
