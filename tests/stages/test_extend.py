"""tokenizer.extend: a continued run that meets text its parent cannot write; and tokenizers beside char through the
door.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlx.data.tokenizers.base import Tokenizer
from rlx.stages.base import RunStageConfig
from rlx.stages.estimate import Estimator
from rlx.stages.planning import job_of
from rlx.stages.start import load_start
from rlx.tasks.countdown import Countdown
from tests.conftest import COUNTDOWN, SMALL, only
from tests.stages.runs import PRETRAIN, digest, evaluation, merge, place, record, rl, rows, sft
from tests.stages.test_export import last, opened, same_model
from tests.stages.test_grow import STILL
from tests.stages.test_lost_parent import break_off

START = (*PRETRAIN, "tokenizer=word", "stage.steps=2", "stage.val_every=0")
COPY = ("task=copy", "scale=smoke", *SMALL)
EXTEND = "tokenizer.extend=true"


def child(start: Path | str, *more: str) -> list[str]:
    """A run on a task whose words the parent's tokenizer lacks."""
    return [*COPY, "stage=sft", f"init_from={start}", "stage.steps=4", "stage.val_every=0", "checkpoint.every=2", *more]


@pytest.fixture
def start(door) -> Path:
    return place(door(*START).out)


def accent(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on countdown writes an equals sign which is no ASCII, and does not say so in its words."""
    whole = Countdown.example

    def example(task, split, index):
        found = whole(task, split, index)
        return dataclasses.replace(found, solution=found.solution.replace("=", "≡"))

    monkeypatch.setattr(Countdown, "example", example)


def tokenizer_of(run: Path) -> Tokenizer:
    return Tokenizer.load(last(run) / "tokenizer.json")


def one_line(done, *parts: str) -> None:
    assert done.code in (1, 2) and len(done.err.strip().splitlines()) == 1
    assert all(part in done.err for part in parts), done.err


def test_words_are_added_and_recorded(door, start):
    done = door(*child(start, EXTEND, *STILL))
    assert done.code == 0, done.err
    run = place(done.out)
    added, before, after = record(run)["added_tokens"], tokenizer_of(start), tokenizer_of(run)
    assert added == sorted(added) and {"a", "z", "|"} <= set(added)
    assert f"tokenizer: {len(added)} tokens added ('a', 'b', " in done.out and f"{after.vocab_size} in all" in done.out
    names = [after.inner.id_to_token(n) for n in range(after.vocab_size)]
    assert names == [*(before.inner.id_to_token(n) for n in range(before.vocab_size)), *added]
    assert "extend: true" in (run / "config.yaml").read_text()
    old, new = (load_file(last(of) / "model.safetensors")["embed.weight"] for of in (start, run))
    assert (new[: before.vocab_size] - old).abs().max() < 1e-9
    assert (new[before.vocab_size :] - old.mean(dim=0)).abs().max() < 1e-9
    assert json.loads((last(run) / "config.json").read_text())["vocab_size"] == after.vocab_size
    assert load_start(last(run)).tokenizer.encode("3|a")


def test_old_rows_are_the_same_bits(door, start, monkeypatch):
    """Before the first step, of a head of its own as well."""
    run = place(door(*START, "model.tie_embeddings=false").out)
    for parent in (start, run):
        old = load_start(last(parent))
        made = load_start(last(parent), extended=lambda tokenizer: _with(tokenizer, "xy"))
        for mine, theirs in ((made.model.embed, old.model.embed), (made.model.head, old.model.head)):
            assert torch.equal(mine.weight[:-1], theirs.weight) and len(mine.weight) == old.model.vocab_size + 1


def _with(tokenizer: Tokenizer, token: str) -> Tokenizer:
    from rlx.data.tokenizers.extension import extended

    return extended(tokenizer, [token])


def test_words_that_were_several_tokens_are_told_of(door, start, monkeypatch):
    whole = Countdown.words
    monkeypatch.setattr(Countdown, "words", lambda task: [*whole(task), "10"])
    done = door(*sft(start, EXTEND, "stage.steps=1"))
    assert done.code == 0, done.err
    assert "1 token added ('10')" in done.out and "1 of them ('10') were several tokens before" in done.out


STAGES = {
    "sft": lambda start: child(start),
    "eval": lambda start: evaluation(start, *COPY[:1], "task.numbers=null")[3:],
    "rl": lambda start: rl(start, *COPY[:1])[3:],
}


@pytest.mark.parametrize("stage", STAGES)
def test_text_that_cannot_be_encoded_names_character_and_task(door, start, stage):
    arguments = [text for text in STAGES[stage](start) if not text.startswith("task.")]
    done = door(*dict.fromkeys([*COPY[:2], *arguments]))
    one_line(done, "no token for '", "task=copy", EXTEND, "tokenizer=bpe")
    status = json.loads(only("runs/copy-*/seed0/status").read_text())
    assert "task=copy" in json.dumps(status)


def test_a_problem_evaluated_on_the_way_is_named_by_its_task(door, start):
    """Where the documents are those of something else, and can be written."""
    own = "corpus.sources={numbers:{task:countdown,settings:{numbers:3,trace:operations},weight:1}}"
    done = door(*child(start, "corpus=mixture", own, "eval.every=1"))
    one_line(done, "which task=copy writes")


def test_a_source_of_a_mixture_is_named(door, start):
    two = "corpus.sources={own:{weight:1},letters:{task:copy,weight:1}}"
    one_line(door(*sft(start, "corpus=mixture", two)), "which corpus.sources.letters (task=copy) writes")
    done = door(*sft(start, "corpus=mixture", two, EXTEND, "stage.steps=1"))
    assert done.code == 0 and "tokens added ('a', " in done.out, done.err


def test_documents_that_are_only_looked_at_are_named_too(door, monkeypatch):
    accent(monkeypatch)
    one_line(door(*COUNTDOWN[:3], "stage=data"), "no token for '≡'", "which task=countdown writes")
    assert "≡" in door(*COUNTDOWN[:3], "stage=data", EXTEND).out


def test_what_is_expected_of_an_extended_run(asked, start):
    """Its vocabulary counts; without it the estimate says what stands in the way."""
    place, config = asked(*child(start, EXTEND))
    found = Estimator("runs").estimate(place, config)
    assert found.cost is not None and found.cost.tokens > 0
    place, config = asked(*child(start))
    assert "which task=copy writes" in Estimator("runs").estimate(place, config).why


def test_it_is_refused_as_a_plan_is_made(door, start, monkeypatch):
    """Not when its turn comes, after hours of others."""
    monkeypatch.setattr(RunStageConfig, "carry_out", lambda stage, *given: print(job_of(*given).planned.run))
    arguments = (*COPY[:2], "stage=eval", f"init_from={start}")
    assert door(*arguments).code == 0
    one_line(door(*arguments, EXTEND), "stage=eval trains nothing")


def test_fresh_weights_without_a_corpus_learn_from_the_task(door):
    done = door("task=copy", "trainer.threads=1", "stage=eval", "init_from=random", "scale=smoke", "stage.problems=2",
                "decode.max_tokens=2", "tokenizer=bpe", "tokenizer.sample_characters=2000")  # fmt: skip
    assert done.code == 0 and "learnt from" in done.out, done.err


def test_a_continued_run_ends_with_the_same_bits_and_is_another_run(door, start):
    arguments = child(start, EXTEND)
    whole = place(door(*arguments, "runs_dir=whole").out)
    break_off(door, arguments, 3)
    done = door(*arguments)
    assert done.code == 0 and "going on from step 2" in done.out, done.err
    run = place(done.out)
    assert digest(run) == digest(whole) and rows(run) == rows(whole)
    assert record(run)["added_tokens"] == record(whole)["added_tokens"]
    assert door(*arguments).out.startswith("finished already")


def test_what_an_earlier_attempt_added_is_added_again(door, start, monkeypatch):
    """And not looked for anew: what is read may have changed its length of reading."""
    arguments = child(start, EXTEND)
    break_off(door, arguments, 3)
    monkeypatch.setattr("rlx.data.tokenizers.extension.missing", None)
    done = door(*arguments)
    assert done.code == 0, done.err


def test_without_its_parent_it_goes_on_with_the_tokens_that_it_has(door, start):
    import shutil

    arguments = child(start, EXTEND)
    whole = place(door(*arguments, "runs_dir=whole").out)
    break_off(door, arguments, 3)
    shutil.rmtree(last(start))
    done = door(*arguments)
    assert done.code == 0 and "goes on without" in done.out, done.err
    assert digest(place(done.out)) == digest(whole)


def test_the_place_tells_it_apart(asked, start):
    plain, _ = asked(*child(start))
    extends, _ = asked(*child(start, EXTEND))
    assert plain != extends
    assert asked(*child(start, "tokenizer.extend=false"))[0] == plain


def test_where_nothing_is_missing_the_run_is_the_same(door, start):
    plain = place(door(*sft(start)).out)
    done = door(*sft(start, EXTEND))
    assert done.code == 0 and "tokenizer: it lacks nothing, none added" in done.out
    run = place(done.out)
    assert run != plain and digest(run) == digest(plain) and rows(run) == rows(plain)
    assert record(run)["added_tokens"] == []


def test_children_of_it_load_everywhere(door, start):
    run = place(door(*child(start, EXTEND, "stage.steps=2")).out)
    size = tokenizer_of(run).vocab_size
    tuned = place(door(*child(run, "stage.steps=1")).out)
    assert tokenizer_of(tuned).vocab_size == size
    assert door(*evaluation(run)).code == 0
    assert door("task=copy", "trainer.threads=1", "stage=eval", f"init_from={run}", "stage.problems=4",
                "decode.max_tokens=4").code == 0  # fmt: skip
    assert door(*merge(tuned, run)).code == 0
    done = door("stage=size", f"init_from={run}")
    assert f"vocabulary {size}" in done.out
    one_line(door(*merge(start, run)), "another tokenizer than", str(start))


def test_an_extended_model_opens_in_transformers(door, start):
    for name, more in (("tied", ()), ("untied", ("model.tie_embeddings=false",))):
        parent = place(door(*START, *more).out)
        run = place(door(*child(parent, EXTEND, "stage.steps=1")).out)
        assert door("stage=export", f"init_from={run}", f"stage.to={name}").code == 0
        theirs, tokenizer = opened(name)
        ours = load_start(last(run))
        same_model(ours, theirs)
        for text in ("abc|", "3*1=", "za10"):
            assert tokenizer(text).input_ids == ours.tokenizer.encode(text)
            assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_reference_policy_gets_the_same_rows(door, start):
    """Else there would be no divergence between them to measure; begun anew, and going on from an extended run."""
    arguments = ["algorithm.kl_coefficient=0.1", "stage.steps=1", "stage.val_every=0", "stage.preflight_problems=0",
                 "task=copy", "task.min_length=2", "task.max_length=4"]  # fmt: skip
    made = [text for text in rl(start, *arguments) if text not in COUNTDOWN[:3]]
    done = door(*made, "scale=smoke", EXTEND)
    assert done.code == 0, done.err
    run = place(done.out)
    assert abs(rows(run)[0]["kl"]) < 1e-6
    more = [text for text in made if not text.startswith(("init_from", "stage.steps"))]
    done = door(*more, "scale=smoke", f"init_from={run}", "init.state=all", "stage.steps=2")
    assert done.code == 0, done.err


REFUSED = {
    "evaluation": (lambda start: [*COPY[:2], "stage=eval", f"init_from={start}"], "stage=eval trains nothing"),
    "merge": (lambda start: merge(start, start), "stage=merge trains nothing"),
    "all": (lambda start: [*START, f"init_from={start}", "init.state=all", "stage.steps=4"], "init.state=all"),
    "adapter": (lambda start: child(start, "adapter=lora"), "adapter="),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_would_not_be_trained_are_refused(door, start, case):
    arguments, message = REFUSED[case]
    arguments = [text for text in arguments(start) if text != "tokenizer=word"]
    before = sorted(Path("runs").iterdir())
    one_line(door(*arguments, EXTEND), "tokenizer.extend=true adds rows to train", message)
    assert sorted(Path("runs").iterdir()) == before


def test_other_settings_of_the_tokenizer_stay_the_parents(door, start):
    for typed in ("tokenizer=char", "tokenizer=word", "tokenizer.tasks=[copy]"):
        more = ["tokenizer=word"] if typed.startswith("tokenizer.") else []
        one_line(door(*child(start, EXTEND, *more, typed)), "cannot be set with init_from", "tokenizer.extend=true")


def test_depth_and_vocabulary_grow_together(door, start):
    done = door(*child(start, EXTEND, "init.grow=stack", "model.n_layers=4", "stage.steps=1"))
    assert done.code == 0, done.err
    made = load_start(last(place(done.out)))
    assert made.model_config.n_layers == 4 and made.model.vocab_size > tokenizer_of(start).vocab_size


def test_characters_of_texts_are_added_to_fresh_and_to_trained_ones(door, monkeypatch):
    parent = place(door(*PRETRAIN, "stage.steps=1").out)
    accent(monkeypatch)
    one_line(door(*PRETRAIN, "stage.steps=1", "rerun=again"), "no token for '≡'", "task=countdown")
    one_line(door(*sft(parent)), "no token for '≡'", "task=countdown")
    for command in ([*PRETRAIN, "stage.steps=1", "rerun=fresh"], sft(parent, "stage.steps=1")):
        done = door(*command, EXTEND)
        assert done.code == 0 and "tokenizer: 1 token added ('≡'), 113 in all" in done.out, done.err
        run = place(done.out)
        assert record(run)["added_tokens"] == ["≡"] and tokenizer_of(run).encode("≡") == [112]


def test_a_tokenizer_of_bytes_lacks_nothing(door, monkeypatch):
    accent(monkeypatch)
    run = place(door(*PRETRAIN, "tokenizer=bpe", "tokenizer.sample_characters=5000", "stage.steps=1").out)
    done = door(*child(run, EXTEND, "stage.steps=1"))
    assert done.code == 0 and "it lacks nothing" in done.out, done.err
    assert tokenizer_of(run).to_json() == tokenizer_of(place(done.out)).to_json()


def test_tokenizers_are_runs_apart(asked):
    places = [asked(*PRETRAIN, *more)[0] for more in (
        (), ("tokenizer=word",), ("tokenizer=word", "tokenizer.tasks=[copy]"), ("tokenizer=bpe",),
        ("tokenizer=bpe", "tokenizer.vocab_size=512"), (EXTEND,))]  # fmt: skip
    assert len(set(places)) == len(places)
    assert asked(*PRETRAIN, "tokenizer=char")[0] == places[0]


def test_sizes_by_tokenizer(door):
    small = ("stage=size", *COUNTDOWN, "tokenizer.sample_characters=2000")
    done = door(*small, "tokenizer=bpe", "tokenizer.vocab_size=280")
    assert done.code == 0 and "vocabulary 2" in done.out, done.err
    words = len(set(Countdown.words(_countdown())))
    assert f"vocabulary {16 + words}" in door("stage=size", *COUNTDOWN, "tokenizer=word").out
    one_line(door("stage=size", "tokenizer=word"), "no words")


def _countdown() -> Countdown:
    from rlx.tasks.countdown import CountdownConfig, Trace

    return CountdownConfig(numbers=3, trace=Trace.operations).build()


def test_coupled_positions_need_characters(door):
    """Words of another task may join what are characters in this one's texts."""
    reversed_sums = ("task=arithmetic", "task.trace=reversed", "scale=smoke", "stage=pretrain", "stage.steps=1")
    done = door(*reversed_sums, "model.position=coupled", "tokenizer=word", "tokenizer.tasks=[graph]")
    one_line(done, "a token is not a character (tokenizer=char)")
    assert done.code == 2


def test_nothing_is_written_where_no_vocabulary_can_be_made(door):
    Path("rows.jsonl").write_text('{"question": "1"}\n')
    one_line(door(*PRETRAIN, "tokenizer=bpe", "tokenizer.path=rows.jsonl"), "tokenizer.column=text")
    one_line(door(*PRETRAIN, "tokenizer=word", "tokenizer.tasks=[grap]"), "did you mean graph?")
    assert not Path("runs").exists()
