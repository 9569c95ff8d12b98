"""Coupled and predicted positions through the stages: what is trained on, sampled, evaluated, refused."""

import json
from pathlib import Path

import pytest
import torch

from rlx.batches import Batch
from rlx.data.documents import document_of
from rlx.data.packing import Packer
from rlx.data.tokenizers.char import CharConfig
from rlx.models.dense import DenseConfig
from rlx.models.layers.attention import Position
from rlx.nn.decoder import Decoder
from rlx.stages.modules import policy, rollouts, supervised
from rlx.stages.modules.supervised import held_out_sums, negative_log_likelihood
from rlx.tasks.arithmetic import ArithmeticConfig
from rlx.tasks.arithmetic_traces import Trace
from rlx.types import Split
from tests.stages.runs import place, rows

SUMS = ("task=arithmetic", "task.trace=reversed", "task.max_digits=2", "scale=smoke", "trainer.threads=1")
PRETRAIN = (*SUMS, "stage=pretrain", "stage.steps=2", "stage.batch_tokens=256", "stage.row_tokens=64",
            "stage.val_tokens=256", "stage.val_every=1", "model.max_position=40")  # fmt: skip
LARGEST = 4
"""Of two digits the sum has three, whose ids are 2, 3 and 4."""


def rl(start: Path, *more: str) -> list[str]:
    return [*SUMS, "stage=rl", "algorithm=grpo", f"init_from={start}", "decode.max_tokens=8", "stage.steps=2",
            "stage.prompts=4", "algorithm.group_size=4", "stage.val_every=1", "stage.val_problems=4",
            "stage.preflight_problems=4", "algorithm.rewards.truncated=1", "algorithm.rewards.malformed=0.5",
            *more]  # fmt: skip


def batch_of(rows: int = 2) -> Batch:
    task, tokenizer = ArithmeticConfig(trace=Trace.reversed, max_digits=3).build(), CharConfig().build()
    return Packer(
        lambda n: document_of(task.example(Split.train, n), tokenizer, whole=False),
        rows=rows,
        length=48,
        pad_id=tokenizer.pad_id,
        coupled=True,
    ).next()


def test_the_loss_of_predicted_ids_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = DenseConfig(
        d_model=32, n_layers=1, init_std=0.3, position=Position.predicted, max_position=9, position_weight=0.5
    )
    model, batch = config.build(CharConfig().build().vocab_size), batch_of()
    with torch.no_grad():
        hidden, _ = model(batch.tokens, positions=batch.positions, documents=batch.documents, places=batch.places)
    assert model.places is not None and model.places.head is not None and batch.places is not None
    tokens, ids, right = 0.0, 0.0, 0
    for row, at in batch.loss_mask.nonzero().tolist():
        before = hidden[row, at - 1].double()
        logits, id_logits = (
            weight.detach().double() @ before for weight in (model.head.weight, model.places.head.weight)
        )
        tokens += float(logits.exp().sum().log() - logits[batch.tokens[row, at]])
        ids += float(id_logits.exp().sum().log() - id_logits[batch.places[row, at]])
        right += int(id_logits.argmax() == batch.places[row, at])
    assert negative_log_likelihood(model, batch).item() == pytest.approx(tokens, rel=1e-5)
    loss, penalty, *_ = supervised._losses(model, batch, supervised._trained_losses, 0.0)
    assert loss.item() == pytest.approx(tokens, rel=1e-5), "train/loss is every model's same quantity"
    assert torch.as_tensor(penalty).item() == pytest.approx(0.5 * ids, rel=1e-5)
    run, passes = Decoder.run, []
    monkeypatch.setattr(Decoder, "run", lambda *a: passes.append(a[1]) or run(*a))
    found = held_out_sums(model, batch)
    assert len(passes) == 1, "the ledger has one pass"
    assert found["val/loss"] == negative_log_likelihood(model, batch).item()
    assert found["val/id_loss"] == pytest.approx(ids, rel=1e-5) and found["val/id_accuracy"] == right


@pytest.mark.parametrize("position", ["coupled", "predicted"])
def test_through_the_stages(door, monkeypatch, position):
    """Starts are drawn in training and in rollouts, and are 1 where something is measured; the policy sampled is the
    policy trained."""
    trained, measured, sampled = [], [], []
    losses, complete, gather = supervised._trained_losses, rollouts.Engine.complete, policy.rollout_metrics
    monkeypatch.setattr(supervised, "_trained_losses", lambda *a: trained.append(a[2].places) or losses(*a))
    plain = supervised.held_out_sums
    monkeypatch.setattr(supervised, "held_out_sums", lambda *a: measured.append(a[1].places) or plain(*a))
    done = door(*PRETRAIN, f"model.position={position}")
    assert done.code == 0, done.err
    run = place(done.out)
    assert {int(ids.max()) for ids in measured} == {LARGEST}
    assert len(set(torch.cat(trained).flatten().tolist())) > 30
    row = rows(run)[-1]
    assert ("val/id_accuracy" in row) == ("val/id_loss" in row) == (position == "predicted")

    def watched(engine, prompts, **named):
        sampled.append(named["places"])
        return complete(engine, prompts, **named)

    seen = []
    monkeypatch.setattr(rollouts.Engine, "complete", watched)
    monkeypatch.setattr(policy, "rollout_metrics", lambda rollout: seen.append(rollout.batch) or gather(rollout))
    done = door(*rl(run))
    assert done.code == 0, done.err
    found = rows(place(done.out))
    assert max(row["sampling/sampling_logp_difference/mean"] for row in found) <= 1e-5
    assert any(row["train/grad_norm"] > 0 for row in found)
    # ahead, followed, train, val, train, val
    starts = [{min(id for id in ids if id) for ids in drawn} for drawn in sampled]
    assert [one == {1} for one in starts] == [True, True, False, True, False, True]
    for batch in seen:
        given = batch.loss_mask.argmax(-1)
        for n, first in enumerate(given.tolist()):
            assert (batch.places[n, 1:first] > 0).all() and batch.places[n, 0] == 0
    done = door(*SUMS, "stage=eval", f"init_from={run}", "decode.max_tokens=6", "stage.problems=4", "stage.samples=2")
    assert done.code == 0 and {min(id for id in ids if id) for drawn in sampled[5:] for ids in drawn} == {1}
    assert json.loads((place(done.out) / "eval.json").read_text())["n_problems"] > 0


def test_what_cannot_be_coupled_is_one_line_and_no_run(door):
    for arguments, says in (
        (["task=graph", "scale=smoke", "stage=pretrain", "model.position=coupled"], "task=graph gives no coupled"),
        ([*PRETRAIN, "task.trace=plain", "model.position=predicted"], "task=arithmetic gives no coupled"),
        ([*PRETRAIN, "model.position=coupled", "model.max_position=3"], f"coupled positions up to {LARGEST} at least"),
        ([*PRETRAIN, "model.position=coupled", "model.max_position=0"], "model.max_position=0 must be at least 1"),
    ):
        done = door(*arguments)
        assert done.code == 2 and says in done.err and done.err.count("\n") == 1, done.err
        assert not Path("runs").exists()


def test_a_run_goes_on_with_the_positions_it_began_with(door):
    run = place(door(*PRETRAIN, "model.position=alibi").out)
    done = door(*PRETRAIN[:-1], f"init_from={run}", "model.position=hard_alibi")
    assert done.code == 2
    assert "model.position=hard_alibi but" in done.err and "has alibi, which stays" in done.err
