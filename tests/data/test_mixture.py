"""corpus=mixture: shares of tokens, repeats, streams of its sources, and what is refused."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from rlx.data.corpora.mixture import MixtureConfig, SourceConfig
from rlx.data.corpora.task import TaskCorpusConfig
from rlx.data.tokenizers.base import Tokenizer
from rlx.data.tokenizers.char import CharConfig
from rlx.errors import ConfigError, RunError
from rlx.runs.identity import described
from rlx.tasks.copy import CopyConfig
from rlx.tasks.countdown import CountdownConfig
from rlx.tasks.countdown_traces import Trace
from rlx.types import Split

OWN = CountdownConfig(trace=Trace.operations)
THREE = {
    "own": {"weight": 6},
    "direct": {"task": "countdown", "settings": {"trace": "direct", "numbers": 3}, "weight": 3},
    "copy": {"task": "copy", "weight": 1},
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return CharConfig().build()


def mixture(tokenizer: Tokenizer, sources: dict[str, Any], split: Split = Split.train, *key: object) -> Any:
    return MixtureConfig(sources=sources).build(OWN.build(), tokenizer, split=split, whole=True, key=key)


def bounded(task: str, size: int, repeats: float) -> dict[str, Any]:
    return {"task": task, "settings": {"train_examples": size}, "repeats": repeats}


def test_weights_are_shares_of_tokens(tokenizer: Tokenizer) -> None:
    """Although a copy has several times the tokens of a direct answer. Lengths are measured on 256 documents, whose
    mean is within about 2 % of that of all."""
    found = mixture(tokenizer, THREE)
    tokens: Counter[int] = Counter()
    for position in range(20_000):
        document = found.document(position)
        tokens[document.source] += len(document.ids)
    names = MixtureConfig(sources=THREE).names()
    assert names == ["copy", "direct", "own"]
    shares = {name: tokens[number] / tokens.total() for number, name in enumerate(names)}
    assert shares == pytest.approx({"copy": 0.1, "direct": 0.3, "own": 0.6}, rel=0.06)


def test_each_source_is_the_stream_that_it_is_alone(tokenizer: Tokenizer) -> None:
    found = mixture(tokenizer, THREE, Split.train, 3, "sft")
    documents = [found.document(position) for position in range(300)]
    tasks = {"own": OWN, "direct": CountdownConfig(trace=Trace.direct, numbers=3), "copy": CopyConfig()}
    for number, name in enumerate(sorted(THREE)):
        key = (3, "sft", name)
        alone = TaskCorpusConfig().build(tasks[name].build(), tokenizer, split=Split.train, whole=True, key=key)
        ids = [document.ids for document in documents if document.source == number]
        assert ids and ids == [alone.document(place).ids for place in range(len(ids))]


def test_the_order_of_writing_counts_for_nothing(tokenizer: Tokenizer) -> None:
    turned = dict(reversed(THREE.items()))
    one, other = mixture(tokenizer, THREE), mixture(tokenizer, turned)
    assert all(one.document(n) == other.document(n) for n in range(100))
    assert described(MixtureConfig(sources=THREE)) == described(MixtureConfig(sources=turned))


def test_repeats_are_walks_through_each_source(tokenizer: Tokenizer) -> None:
    found = mixture(tokenizer, {"a": bounded("copy", 40, 3), "b": bounded("cpm3", 60, 0.5)})
    assert found.size == 150
    seen = Counter((document.source, tuple(document.ids)) for document in map(found.document, range(150)))
    often = [count for (source, _), count in seen.items() if source == 0]
    once = [count for (source, _), count in seen.items() if source == 1]
    assert len(often) == 40 and set(often) <= {2, 3, 4} and abs(sum(often) - 120) <= 2
    assert set(once) == {1} and abs(len(once) - 30) <= 2


def test_held_out_documents_are_measured_apart(tokenizer: Tokenizer) -> None:
    task = OWN.build()
    parts = MixtureConfig(sources=THREE).validation(task, tokenizer, whole=False, key=(0,))
    assert {part.name: part.share for part in parts} == pytest.approx({"copy": 0.1, "direct": 0.3, "own": 0.6})
    own = TaskCorpusConfig().build(task, tokenizer, split=Split.val, whole=False, key=())
    assert [parts[2].corpus.document(n) for n in range(20)] == [own.document(n) for n in range(20)]
    repeated = MixtureConfig(sources={"a": bounded("copy", 40, 3), "b": bounded("copy", 40, 1)})
    shares = [part.share for part in repeated.validation(task, tokenizer, whole=False, key=(0,))]
    assert shares == pytest.approx([0.75, 0.25], rel=0.05)


def test_coupled_positions_stay_with_their_documents(tokenizer: Tokenizer) -> None:
    sums = {"task": "arithmetic", "settings": {"trace": "reversed"}, "weight": 1}
    found = mixture(tokenizer, {"a": sums, "b": {**sums, "settings": {"trace": "reversed", "max_digits": 3}}})
    documents = [found.document(position) for position in range(40)]
    assert {document.source for document in documents} == {0, 1}
    assert all(document.places and len(document.places) == len(document.ids) for document in documents)


def test_only_held_out_documents_of_weighted_sources_have_an_end(tokenizer: Tokenizer) -> None:
    sources = {
        "a": {"task": "copy", "settings": {"train_examples": 30, "val_examples": 90}, "weight": 1},
        "b": {"task": "copy", "settings": {"val_examples": 200}, "weight": 1},
    }
    assert mixture(tokenizer, sources).size is None
    held_out = mixture(tokenizer, sources, Split.val)
    assert held_out.size == pytest.approx(180, rel=0.05)
    seen = Counter(held_out.document(position).source for position in range(held_out.size))
    assert seen[0] <= 91 and abs(seen[0] - seen[1]) < 15


def test_a_source_alone_can_be_cut(tokenizer: Tokenizer) -> None:
    found = mixture(tokenizer, {"a": {"task": "copy", "max_tokens": 8, "weight": 1}})
    assert {len(found.document(n).ids) for n in range(50)} == {8}


def test_words_and_texts_are_those_of_all_sources() -> None:
    config = MixtureConfig(sources=THREE)
    words = set(config.words(OWN.build()))
    assert words == {*OWN.build().words(), *CopyConfig().build().words(), *CountdownConfig(numbers=3).build().words()}
    copies = set(islice(TaskCorpusConfig().texts(CopyConfig().build()), 2000))
    size = {True: 0, False: 0}
    for text in islice(config.texts(OWN.build()), 3000):
        size[text in copies] += len(text)
    assert size[True] / sum(size.values()) == pytest.approx(0.1, rel=0.05)
    bounded_texts = MixtureConfig(sources={"a": bounded("copy", 3, 1), "b": bounded("cpm3", 4, 1)}).texts(None)
    assert len(list(bounded_texts)) == 7


@pytest.mark.parametrize(
    "sources, says",
    [
        ({}, "no sources; try"),
        ({"a": 3}, "sources.a: expected a source, as in"),
        ({"a b": {"weight": 1}}, "'a b' stands in metrics"),
        ({"a": {"wieght": 1}}, "did you mean weight"),
        ({"a": {"weight": "x"}}, "weight='x' is not float"),
        ({"a": {"weight": 0}}, "weight must be a number above 0, got 0"),
        ({"a": {"weight": float("inf")}}, "weight must be a number above 0, got inf"),
        ({"a": {"task": "copy", "settings": {1: 2}, "weight": 1}}, "task=copy has no 1"),
        ({"a": {}}, "expected weight or repeats, none is given"),
        ({"a": {"weight": 1, "repeats": 1}}, "both are given"),
        ({"a": {"weight": 1}, "b": {"task": "copy", "repeats": 1}}, "all the one or the other"),
        ({"a": {"task": "copi", "weight": 1}}, "no task; did you mean copy"),
        ({"a": {"task": "copy", "path": "x", "weight": 1}}, "both given; leave one out"),
        ({"a": {"settings": {"trace": "dfs"}, "weight": 1}}, "settings are given without a task"),
        ({"a": {"task": "countdown", "settings": {"trac": "dfs"}, "weight": 1}}, "has no trac; did you mean trace"),
        ({"a": {"task": "countdown", "settings": {"trace": "dsf"}, "weight": 1}}, "not one of direct, operations, dfs"),
        ({"a": {"task": "countdown", "settings": {"numbers": 99}, "weight": 1}}, "sources.a: task.numbers"),
        ({"a": {"task": "copy", "max_tokens": 1, "weight": 1}}, "max_tokens must be at least 2"),
    ],
)
def test_what_is_wrong_is_one_line(sources: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        MixtureConfig(sources=sources)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_text_is_a_source_like_others(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Its fields are settings; a walk through it is as long as it has documents."""
    for name in ("one.md", "two.md", "three.txt"):
        (tmp_path / name).write_text("".join(f"{name} line {number}.\n" for number in range(400)))
    text = {"path": str(tmp_path), "settings": {"pattern": "*.md", "held_out": 4, "max_tokens": 50}, "repeats": 2}
    config = MixtureConfig(sources={"a": bounded("copy", 40, 1), "b": text})
    config.check(None)
    found = config.build(None, tokenizer, split=Split.train, whole=True, key=())
    texts = [tokenizer.decode(found.document(n).ids) for n in range(found.size) if found.document(n).source == 1]
    assert found.size - 40 == pytest.approx(len(texts), abs=2) and len(texts) > 100
    assert set(Counter(texts).values()) <= {1, 2, 3} and not any("three" in text for text in texts)
    assert {part.name for part in config.validation(None, tokenizer, whole=True, key=())} == {"a", "b"}
    with pytest.raises(ConfigError, match=r"corpus\.sources\.b: .*none is not there"):
        MixtureConfig(sources={"b": {**text, "path": str(tmp_path / "none")}}).check(None)
    with pytest.raises(ConfigError, match=r"sources\.b: corpus=text has no patern; did you mean pattern"):
        MixtureConfig(sources={"b": {**text, "settings": {"patern": "*"}}})


def test_problems_without_end_cannot_be_repeated() -> None:
    task = OWN.build()
    with pytest.raises(ConfigError, match=r"repeats: 2 of a task whose .*its settings: \{train_examples"):
        MixtureConfig(sources={"a": {"task": "copy", "repeats": 2}}).check(task)
    with pytest.raises(ConfigError, match=r"give task\.train_examples=10000"):
        MixtureConfig(sources={"a": {"repeats": 2}}).check(task)
    MixtureConfig(sources={"a": bounded("copy", 40, 3)}).check(None)


def test_the_run_s_own_task_is_needed_only_where_it_is_a_source() -> None:
    assert MixtureConfig(sources=THREE).needs_task()
    assert not MixtureConfig(sources={"a": {"task": "copy", "weight": 1}}).needs_task()


def test_a_hash_sees_what_sources_are(tmp_path: Path) -> None:
    """Defaults left out, an option's version in, files by their content."""

    def seen(**source: Any) -> Any:
        return described(MixtureConfig(sources={"a": {"weight": 1, **source}}))

    plain = seen(task="countdown")
    assert plain == seen(task="countdown", settings={"trace": CountdownConfig().trace.name})
    assert plain != seen(task="countdown", settings={"trace": "dfs"}) != seen(task="copy")
    assert plain["sources"]["a"]["task"] == {"option": "countdown", "version": plain["sources"]["a"]["task"]["version"]}
    boards = json.dumps({"question": "1 + 1?", "answer": "#### 2"}) + "\n"
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text(boards)
    (tmp_path / "three.jsonl").write_text(boards + boards)
    one, two, three = (
        seen(task="math", settings={"path": str(tmp_path / f"{name}.jsonl")}) for name in ("one", "two", "three")
    )
    assert one == two != three


def test_sources_are_what_config_yaml_says() -> None:
    config = MixtureConfig(sources={"a": {"task": "copy", "weight": 1}})
    assert config.sources["a"] == SourceConfig(task="copy", weight=1.0)
    assert MixtureConfig(sources=config.sources) == config


def test_a_source_without_held_out_texts_has_none_there(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Of two texts one is trained on and one is val; nothing is left for test."""
    (tmp_path / "two.jsonl").write_text("".join(json.dumps({"text": text * 3000}) + "\n" for text in "ab"))
    two = {"path": str(tmp_path / "two.jsonl"), "settings": {"max_tokens": 99}}
    for share in ("weight", "repeats"):
        alone = MixtureConfig(sources={"a": {**two, share: 1}})
        assert alone.build(None, tokenizer, split=Split.test, whole=True, key=()).size == 0
        sources = {"a": {**two, share: 1}, "b": {"task": "copy", "settings": {"train_examples": 50}, share: 1}}
        sources["z"] = dict(sources["a"])
        found = MixtureConfig(sources=sources).build(None, tokenizer, split=Split.test, whole=True, key=())
        assert found.size and {found.document(position).source for position in range(found.size)} == {1}


def test_what_is_wrong_inside_a_source_names_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("caf\u00e9\n" * 2000)
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*["some text"] * 300, 3]))
    for name, error, says in (
        ("a.txt", RunError, "corpus.sources.n"),
        ("b.jsonl", ConfigError, "sources.n: .*row 301"),
    ):
        config = MixtureConfig(sources={"n": {"path": str(tmp_path / name), "weight": 1}})
        with pytest.raises(error, match=says):
            config.build(None, tokenizer, split=Split.train, whole=True, key=())
