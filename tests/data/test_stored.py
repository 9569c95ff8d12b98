"""Stores of documents: what comes back, whole or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlx.data.documents import Document
from rlx.data.stored import Store, cache_folder, stored
from rlx.errors import RunError

DOCUMENTS = [Document([1, 5, 60_000, 2], 1), Document([1, 2], 2), Document(list(range(300)), 7)]
PLACED = [Document([1, 5, 2], 1, (0, 4, 0)), Document([1, 2], 1, (0, 300_000))]


@pytest.mark.parametrize("vocab_size", [65_536, 65_537], ids=["two bytes", "four bytes"])
def test_documents_come_back(tmp_path: Path, vocab_size: int) -> None:
    found = stored(tmp_path / "a" / "b", DOCUMENTS, vocab_size=vocab_size)
    assert [found[n] for n in range(len(found))] == DOCUMENTS and found.tokens == 306
    assert {type(token) for token in found[0].ids} == {int}
    size = (2, 4)[vocab_size > 65_536]
    assert sum(path.stat().st_size for path in (tmp_path / "a" / "b").glob("ids.u*")) == 306 * size
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_coupled_positions_come_back(tmp_path: Path) -> None:
    found = stored(tmp_path / "a", PLACED, vocab_size=112)
    assert [found[n] for n in range(2)] == PLACED


def test_none_is_a_store_too(tmp_path: Path) -> None:
    assert len(stored(tmp_path / "a", [], vocab_size=9)) == 0


def test_more_than_is_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlx.data.stored.FLUSH", 3)
    found = stored(tmp_path / "a", DOCUMENTS, vocab_size=60_001)
    assert [found[n] for n in range(3)] == DOCUMENTS


def test_others_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        stored(tmp_path / "a", DOCUMENTS, vocab_size=60_001)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755


def test_it_is_made_once(tmp_path: Path) -> None:
    stored(tmp_path / "a", DOCUMENTS, vocab_size=60_001)
    again = stored(tmp_path / "a", iter([]), vocab_size=60_001)
    assert len(again) == 3


def test_half_of_one_is_none(tmp_path: Path) -> None:
    def broken() -> Iterator[Document]:
        yield DOCUMENTS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path / "a", broken(), vocab_size=60_001)
    assert not list(tmp_path.iterdir())


def test_the_second_of_two_makers_takes_the_first_s(tmp_path: Path) -> None:
    def slow() -> Iterator[Document]:
        yield from DOCUMENTS[:1]
        stored(tmp_path / "a", DOCUMENTS, vocab_size=60_001)
        yield from DOCUMENTS[1:]

    assert len(stored(tmp_path / "a", slow(), vocab_size=60_001)) == 3


@pytest.mark.parametrize("name", ["ids.u16", "ends.npy", "given.npy"])
def test_a_damaged_one_is_one_line(tmp_path: Path, name: str) -> None:
    stored(tmp_path / "a", DOCUMENTS, vocab_size=60_001)
    path = tmp_path / "a" / name
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RunError, match="remove it, and it is made again"):
        Store(tmp_path / "a")
    path.unlink()
    with pytest.raises(RunError, match="remove it, and it is made again"):
        Store(tmp_path / "a")


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLX_CACHE", str(tmp_path))
    assert cache_folder("tokens") == tmp_path / "tokens"
    monkeypatch.setenv("RLX_CACHE", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder("tokens") == Path("/home/someone/.cache/rlx/tokens")
