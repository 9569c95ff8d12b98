"""Recall: values found by reading the prompt."""

import re
from collections import Counter
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.tasks.recall import FILLING, Question, Recall, RecallConfig
from rlx.types import Example, Outcome, Split


def recall(question: Question = Question.pairs, **fields: Any) -> Recall:
    return RecallConfig(question=question, **fields).build()


def examples(task: Recall, count: int = 200, split: Split = Split.train) -> list[Example]:
    return [task.example(split, index) for index in range(count)]


@pytest.mark.parametrize("queries", [1, 3])
def test_answers_repeat_keys_with_their_values(queries: int) -> None:
    for example in examples(recall(queries=queries)):
        listed, asked = example.prompt.removesuffix(" = ").split(" ? ")
        pairs = dict((word[:2], word[2:]) for word in listed.split(" "))
        assert 4 <= len(pairs) <= 16 and len(pairs) == len(listed.split(" "))
        keys = asked.split(" ")
        assert len(set(keys)) == queries
        assert example.solution == " ".join(key + pairs[key] for key in keys)


def test_needles_are_among_sentences() -> None:
    places = Counter[int]()
    for example in examples(recall(Question.needle, needles=3, queries=2, min_length=9, max_length=9), 600):
        text, asked = example.prompt.removesuffix(" = ").split(" ? ")
        sentences = re.findall(r"[^.]+\.", text)
        found = [re.fullmatch(r" ?The number of ([a-z]{2}) is ([0-9]{2})\.", sentence) for sentence in sentences]
        assert len(sentences) == 9 and sum(map(bool, found)) == 3
        assert all(sentence.strip() in FILLING for sentence, match in zip(sentences, found, strict=True) if not match)
        values = {match[1]: match[2] for match in found if match}
        assert example.solution == " ".join(key + values[key] for key in asked.split(" "))
        first = next(place for place, match in enumerate(found) if match and match[1] == asked[:2])
        assert example.difficulty["first"] == ("first third", "second third", "last third")[first // 3]
        places[first] += 1
    assert len(places) == 9 and min(places.values()) > 35


def test_longer_lists_are_tested_on() -> None:
    task = recall(max_length=8, test_min_length=64, test_max_length=64)
    assert all(len(example.prompt.split(" ? ")[0].split(" ")) == 64 for example in examples(task, 5, Split.test))


def test_verdicts() -> None:
    task = recall(queries=2)
    example = Example(id="", prompt="", solution="", truth=([("zz", "03"), ("kd", "17")], "42"))
    assert task.verify(example, "zz03 kd17 ").correct
    for text in ("zz03 kd42", "zz03 af17", "kd17 zz03"):
        assert task.verify(example, text).outcome is Outcome.wrong
    assert task.verify(example, "zz03 kd42").measures == {"values": 0.5}
    for text in ("zz03", "zz03 kd17 af42", "zz3 kd17", "zz03 kd\u0661\u0662", "zz03,kd17"):
        assert task.verify(example, text).outcome is Outcome.malformed
    assert task.guess(example) == "zz42 kd42" and task.chance(example) == 1e-4


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"queries": 5}, "task.queries must be 1 to 4"),
        ({"queries": 3, "question": Question.needle}, "task.queries must be 1 to 2"),
        ({"needles": 5, "question": Question.needle}, "task.needles must be 1 to 4"),
        ({"key_letters": 1}, "makes too few keys for 16; try task.key_letters=2"),
        ({"value_digits": 0}, "task.value_digits must be 1 to 16"),
    ],
)
def test_settings_that_cannot_be_are_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RecallConfig(**fields)
