"""What enters a run's hash, and what does not."""

from dataclasses import dataclass

import pytest

from rlx.errors import ConfigError
from rlx.options import content, recorded
from rlx.runs.identity import changed, digest


@dataclass(kw_only=True, slots=True)
class Example:
    path: str | None = content()
    size: int = 3
    every: int = recorded(1)


def identity(**fields):
    return changed(Example(**fields), Example)


def test_fields_at_their_defaults_and_recorded_ones_do_not_enter():
    assert identity() == identity(every=7) == {}
    assert identity(size=4) == {"size": 4}


def test_a_data_file_enters_by_its_content(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n')
    before = identity(path=str(path))
    assert set(before) == {"path"} and str(tmp_path) not in str(before)
    monkeypatch.chdir(tmp_path)
    assert identity(path="a.jsonl") == before
    moved = path.rename(tmp_path / "b.jsonl")
    assert identity(path="b.jsonl") == before
    moved.write_text('{"a": 2}\n')
    assert digest(identity(path="b.jsonl")) != digest(before)
    with pytest.raises(ConfigError, match=r"a\.jsonl is not there"):
        identity(path="a.jsonl")


@dataclass(kw_only=True, slots=True)
class Texts:
    path: str | None = content("pattern", "exclude")
    pattern: str | None = recorded(None)
    exclude: list[str] = recorded([])  # noqa: RUF009


def test_texts_enter_by_the_files_that_are_chosen(tmp_path):
    def seen(**fields):
        return changed(Texts(path=str(tmp_path), **fields), Texts)

    for name in ("a.txt", "a.md", "b.md"):
        (tmp_path / name).write_text(name)
    before = seen(pattern="*.md"), seen(pattern="*.md", exclude=["b*"]), seen()
    assert len({digest(each) for each in before}) == 3 and all(set(each) == {"path"} for each in before)
    (tmp_path / "b.md").write_text("other")
    after = seen(pattern="*.md"), seen(pattern="a.md"), seen()
    assert after[0] != before[0] and after[1:] == before[1:]
    assert changed(Texts(), Texts) == {}


def test_a_data_set_of_the_hub_enters_as_written():
    assert identity(path="hf:openai/gsm8k:main@e53f048") == {"path": "hf:openai/gsm8k:main@e53f048"}


def test_a_missing_data_file_is_one_line_at_the_door_and_nothing_is_written(rlx, tmp_path):
    done = rlx("stage=pretrain", "task=math", "task.path=problems.jsonl", "scale=smoke")
    assert done.code == 2 and not list(tmp_path.iterdir())
    assert done.err.startswith(f"rlx: problems.jsonl is not there (looked in {tmp_path});")
    assert done.err.count("\n") == 1
