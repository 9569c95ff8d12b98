"""corpus=dialogues: documents have the form that episodes are played in, and the right tokens count."""

from random import Random
from typing import Any

import pytest

from rlx.data.corpora.dialogues import DialoguesConfig
from rlx.data.packing import Packer
from rlx.data.tokenizers.base import TURN
from rlx.data.tokenizers.char import CharConfig
from rlx.data.tokenizers.word import WordConfig
from rlx.environments.base import mistake
from rlx.errors import ConfigError
from rlx.options import option_of
from rlx.runs.identity import described
from rlx.stages.material import Material
from rlx.tasks.arithmetic import ArithmeticConfig
from rlx.tasks.base import assessed
from rlx.types import Example, Failure, Outcome, Split

TOKENIZER = CharConfig().build()
TASK = ArithmeticConfig(max_digits=2).build()


def corpus(*, whole: bool = False, tokenizer: Any = TOKENIZER, **settings: Any):
    config = DialoguesConfig(**{"environment": {"name": "multi_attempt", "attempts": 3}, **settings})
    return config.build(TASK, tokenizer, split=Split.train, whole=whole, key=("test",))


def pieces(ids: list[int]) -> list[str]:
    """Text between special tokens, and the names of these."""
    names = {TOKENIZER.begin_id: "begin", TOKENIZER.end_id: "end", TOKENIZER.turn_id: "turn"}
    found = [""]
    for number in ids:
        if number in names:
            found += [names[number], ""]
        else:
            found[-1] += TOKENIZER.decode([number])
    return [piece for piece in found if piece]


def test_a_document_is_an_episode_and_mistakes_and_replies_do_not_count() -> None:
    stream, turns = corpus(), set()
    for position in range(50):
        document = stream.document(position)
        said = pieces(document.ids)
        example = TASK.example(Split.train, stream.order[position])
        tries = int(said[1][0])
        count = said.count("turn") // 2
        turns.add(count)
        assert said[0] == "begin" and said[1].startswith(f"{tries} tries\n{example.prompt}")
        assert 1 <= tries <= 3 and count < tries
        assert said[-1] == "end" and said[-2].endswith(example.solution)
        told = [f"wrong, {tries - n - 1} left" for n in range(count)]
        assert [piece for piece in said if piece.startswith("wrong")] == told
        counted = [number for number, counts in zip(document.ids, document.counted(), strict=True) if counts]
        assert pieces(counted) == [example.solution, "end"]
    assert turns == {0, 1, 2}


def test_all_but_the_begin_mark_counts_in_pretraining() -> None:
    document = corpus(whole=True).document(3)
    assert document.counted() == [False, *[True] * (len(document.ids) - 1)]


def test_the_packer_masks_what_does_not_count() -> None:
    stream = corpus()
    batch = Packer(stream.document, rows=3, length=96, pad_id=0).next()
    for row in range(3):
        for number in range(int(batch.documents[row].max()) + 1):
            own = batch.documents[row] == number
            ids = batch.tokens[row, own].tolist()
            (place,) = (n for n in range(50) if stream.document(n).ids == ids)
            assert batch.loss_mask[row, own].bool().tolist() == stream.document(place).counted()
    assert 0 < batch.loss_mask.sum() < (batch.documents >= 0).sum() / 2


def test_a_cut_document_keeps_its_mask() -> None:
    document = next(d for d in map(corpus().document, range(50)) if len(d.told) > 1)
    for size in range(1, len(document.ids)):
        assert document.cut(size).counted() == document.counted()[:size]


def test_a_share_of_the_documents_are_dialogues() -> None:
    stream = corpus(share=0.25)
    found = [TOKENIZER.decode(stream.document(n).ids).startswith(("1 t", "2 t", "3 t")) for n in range(400)]
    assert 60 < sum(found) < 140
    assert [stream.example(n) is None for n in range(400)] == found
    assert stream.document(7) == stream.document(7)


def test_words_have_what_the_environment_says() -> None:
    config = DialoguesConfig(environment="multi_attempt")
    words = WordConfig().build(Material(words=lambda: config.words(TASK)))
    documents = map(corpus(tokenizer=words).document, range(20))
    assert "wrong, 1 left" in "".join(words.decode(document.ids) for document in documents)
    assert words.inner.token_to_id(TURN) == words.turn_id


def test_the_hash_sees_the_environment_and_not_how_it_is_written() -> None:
    def seen(environment: Any) -> Any:
        return described(DialoguesConfig(environment=environment))

    named = seen("multi_attempt")
    assert named == seen({"name": "multi_attempt"}) == seen({"name": "multi_attempt", "attempts": 5})
    assert named == seen({"name": "multi_attempt", "settings": {"attempts": 5}})
    assert named != seen({"name": "multi_attempt", "attempts": 4}) and named != seen("single")
    assert option_of(DialoguesConfig(environment="single")).name == "dialogues"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"environment": None}, "needs an environment; try corpus.environment=multi_attempt"),
        ({"environment": "multi_atempt"}, "multi_atempt is no environment; did you mean multi_attempt"),
        ({"environment": "name:multi_attempt"}, "a shell took the braces apart; quote them"),
        ({"environment": 3}, "expected a name"),
        ({"environment": {"attempts": 3}}, "expected a name"),
        ({"environment": {"name": "multi_attempt", "atempts": 3}}, "^corpus.environment=multi_attempt has no atempts"),
        (
            {"environment": {"name": "multi_attempt", "attempts": "x"}},
            "^corpus.environment=multi_attempt: attempts='x'",
        ),
        ({"environment": {"name": "tool", "settings": 3}}, "^corpus.environment.settings=3: expected fields"),
        ({"environment": {"name": "multi_attempt", "least": 6}}, "^corpus.environment.least=6 and attempts=5"),
        ({"environment": {"name": "tool", "flaws": 2.0}}, r"^corpus.environment.flaws=2 must be in"),
        ({"environment": "single", "share": 0}, r"corpus.share=0 must be in"),
        ({"environment": "single", "share": 1.5}, r"corpus.share=1.5 must be in"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        DialoguesConfig(**settings)
    assert "\n" not in str(error.value)


def test_a_field_without_its_environment_is_told_where_it_goes(door) -> None:
    for named in ([], ["corpus.environment=multi_attempt"]):
        done = door("stage=sft", "task=arithmetic", "corpus=dialogues", *named, "corpus.environment.attempts=3")
        assert done.code == 2 and "'corpus.environment={name:multi_attempt,attempts:...}'" in done.err


def test_a_dialogue_that_does_not_fit_a_row_is_told_what_helps() -> None:
    with pytest.raises(ConfigError, match="corpus=dialogues has none, take fewer turns there"):
        Packer(corpus().document, rows=1, length=8, pad_id=0).next()


class Broken:
    """A task whose verifier fails, on solutions as on others."""

    def __init__(self, fail: Any) -> None:
        self.verify = lambda example, text: fail()

    def size(self, split: Split) -> int | None:
        return None

    def example(self, split: Split, index: int) -> Example:
        return Example(id=str(index), prompt=f"{index}=", solution=str(index))


def ends() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("fail", [lambda: 1 / 0, lambda: "right", ends], ids=["raises", "junk", "ends"])
@pytest.mark.parametrize("name", ["multi_attempt", "thinker", "tool"])
def test_a_verifier_that_fails_is_contained(name: str, fail: Any) -> None:
    config = DialoguesConfig(environment=name)
    task: Any = Broken(fail)
    stream = config.build(task, TOKENIZER, split=Split.train, whole=False, key=("test",))
    assert all(stream.document(position).ids for position in range(20))
    assert mistake(task, task.example(Split.train, 0), Random(0))
    verdict = assessed(task, task.example(Split.train, 0), "0")
    assert (verdict.outcome, verdict.failure) == (Outcome.malformed, Failure.error)


def test_what_a_verifier_asks_of_the_user_is_told() -> None:
    def asks() -> None:
        raise ConfigError("install it")

    task: Any = Broken(asks)
    with pytest.raises(ConfigError, match="install it"):
        assessed(task, task.example(Split.train, 0), "0")


def test_a_run_learns_from_dialogues(door) -> None:
    done = door(
        "stage=sft", "task=arithmetic", "scale=smoke", "stage.steps=2", "corpus=dialogues",
        "corpus.environment=multi_attempt",
    )  # fmt: skip
    assert done.code == 0, done.err
    shown = door(
        "stage=data", "task=arithmetic", "corpus=dialogues", "corpus.environment=multi_attempt", "stage.show=1"
    )
    assert "tries" in shown.out and "^" in shown.out
