"""Training on a mixture, through the door: a loss and a count for each source, the same bits after a stop."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlx.batches import Batch
from rlx.data.corpora.mixture import MixtureConfig
from rlx.data.packing import Packer
from rlx.data.tokenizers.char import CharConfig
from rlx.stages.modules.mixing import SourceLog
from rlx.stages.pretrain import PretrainConfig
from rlx.tasks.countdown import CountdownConfig
from rlx.tasks.countdown_traces import Trace
from rlx.types import Split
from tests.conftest import COUNTDOWN, SMALL
from tests.stages.runs import place, record, rows, sft

SOURCES = "corpus.sources={own:{weight:0.7},other:{task:cpm3,weight:0.3}}"
MIXED = (*COUNTDOWN, *SMALL, "stage=pretrain", "stage.steps=12", "stage.val_every=4", "corpus=mixture", SOURCES)


def test_each_source_has_a_loss_and_a_count(door):
    done = door(*MIXED)
    assert done.code == 0, done.err
    found = rows(place(done.out))
    for row in found:
        assert row["train/tokens/own"] + row["train/tokens/other"] == row["tokens"]
    last = found[-1]
    assert last["train/tokens/other"] / last["tokens"] == pytest.approx(0.3, abs=0.06)
    parts = last["val/loss/own"], last["val/loss/other"]
    assert last["val/loss"] == pytest.approx(0.7 * parts[0] + 0.3 * parts[1], rel=1e-6)
    assert min(parts) < last["train/loss"] + 0.5
    losses = [last[f"train/loss/{name}"] for name in ("own", "other")]
    assert min(losses) <= last["train/loss"] <= max(losses)


def test_a_mixture_needs_no_task_of_its_own(door):
    alone = [each for each in MIXED if not each.startswith(("task", "corpus.sources"))]
    found = door(*alone, "corpus.sources={a:{task:copy,weight:1},b:{task:cpm3,weight:2}}", "stage.steps=2")
    assert found.code == 0, found.err
    assert place(found.out).parent.name.startswith("mixture-dense-pretrain-h")
    assert "needs task=" in door(*alone, SOURCES).err
    assert "needs task=" in door(*alone, "corpus.sources={a:{task:copy,weight:1}}", "eval.every=1").err


def test_a_child_of_a_mixture_counts_anew(door):
    start = place(door(*MIXED, "stage.steps=3").out)
    child = door(*sft(start, "corpus=mixture", SOURCES, "stage.steps=2"))
    assert child.code == 0, child.err
    first = rows(place(child.out))[0]
    assert first["train/tokens/own"] + first["train/tokens/other"] == first["tokens"]
    assert record(place(child.out))["depth"] == 2


def test_a_run_that_goes_on_from_its_parent_counts_anew(door):
    start = place(door(*MIXED, "stage.steps=3").out)
    child = door(*MIXED, f"init_from={start}", "init.state=all", "stage.steps=5")
    assert child.code == 0, child.err
    first = rows(place(child.out))[0]
    assert first["step"] == 4 and first["train/tokens/own"] + first["train/tokens/other"] == first["tokens"]


def test_held_out_rows_are_shared_out():
    """Ten rows by 0.72 and 0.26, and one for what has less than a row, in parts no larger than a step's."""
    sources = {"a": {"weight": 72}, "b": {"task": "copy", "weight": 26}, "c": {"task": "cpm3", "weight": 2}}
    config: Any = SimpleNamespace(
        task=CountdownConfig(trace=Trace.direct, numbers=3), corpus=MixtureConfig(sources=sources), seed=0
    )
    start: Any = SimpleNamespace(tokenizer=CharConfig().build(), depth=0, model=SimpleNamespace(places=None))
    stage = PretrainConfig(row_tokens=512, batch_tokens=2048, val_tokens=5120)
    found = {each.name: [len(batch.tokens) for batch in each.batches] for each in stage.held_out(config, start)}
    assert found == {"a": [4, 3], "b": [3], "c": [1]}


def test_what_cannot_be_mixed_writes_nothing(door, tmp_path):
    for sources in ("{a:{task:copy,repeats:2}}", "{a:{weight:-1}}", "{}"):
        found = door(*COUNTDOWN, *SMALL, "stage=pretrain", "corpus=mixture", f"corpus.sources={sources}")
        assert found.code == 2 and found.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_sources_are_swept_and_changed_one_by_one(rlx):
    """A key of one source can be typed after the others, and a plan has a run for each value."""
    found = rlx("-m", *MIXED, "stage.steps=1", "stage.val_every=0", "corpus.sources.other.weight=0.1,0.9")
    assert found.code == 0, found.err
    assert found.out.count("pretrain-h") >= 2


def batch() -> Batch:
    sources = {
        "a": {"task": "copy", "weight": 1},
        "b": {"task": "cpm3", "weight": 1},
        "c": {"task": "copy", "weight": 1},
    }
    tokenizer = CharConfig().build()
    corpus = MixtureConfig(sources=sources).build(None, tokenizer, split=Split.train, whole=False, key=())
    return Packer(corpus.document, rows=8, length=256, pad_id=tokenizer.pad_id, mixed=True).next()


def test_sums_by_source_against_a_loop():
    made = batch()
    assert made.sources is not None
    logprobs = -torch.rand(made.tokens.shape, generator=torch.Generator().manual_seed(0))
    sums, counts, tokens = [0.0] * 3, [0] * 3, [0] * 3
    for row in range(8):
        for place_ in range(256):
            source = int(made.sources[row, place_])
            if made.documents[row, place_] >= 0:
                tokens[source] += 1
            if made.loss_mask[row, place_]:
                sums[source] -= float(logprobs[row, place_])
                counts[source] += 1
    log = SourceLog(["a", "b", "c"])
    for part in range(2):  # micro-batches
        log.add(made.split(4)[part], logprobs[4 * part : 4 * part + 4])
    row = log.row()
    for number, name in enumerate("abc"):
        assert row[f"train/loss/{name}"] == pytest.approx(sums[number] / counts[number], rel=1e-6)
        assert row[f"train/tokens/{name}"] == tokens[number] > 0
    log.add(made, logprobs)
    assert log.row()["train/tokens/a"] == 2 * tokens[0]
    again = SourceLog(["a", "b", "c"])
    again.load_state_dict(log.state_dict())
    again.add(made, logprobs)
    assert again.row()["train/tokens/a"] == 3 * tokens[0]
    again.clear()
    assert again.tokens == [0, 0, 0] and again.row() == {}


def test_a_source_without_a_token_that_counts_has_no_loss():
    made = batch()
    assert made.sources is not None
    made.loss_mask = made.loss_mask * (made.sources != 1)
    log = SourceLog(["a", "b", "c"])
    log.add(made, torch.zeros(made.tokens.shape))
    row = log.row()
    assert "train/loss/b" not in row and row["train/tokens/b"] > 0 and row["train/loss/a"] == 0


def test_documents_of_one_source_are_not_marked(door):
    found = rows(place(door(*COUNTDOWN, *SMALL, "stage=pretrain", "stage.steps=1").out))
    assert not [name for name in found[0] if name.startswith(("train/loss/", "train/tokens/", "val/loss/"))]
