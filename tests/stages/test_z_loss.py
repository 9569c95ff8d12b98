"""model.z_loss and model.logit_cap in runs, and the loss against its formula."""

import pytest
import torch

from rlx.batches import Batch
from rlx.models.dense import DenseConfig
from rlx.stages.modules.supervised import _losses, _row_losses, negative_log_likelihood
from tests.stages.runs import PRETRAIN, place, rl, rows


@pytest.mark.parametrize("cap", [None, 4.0])
def test_the_loss_is_the_formula(cap):
    """-log p + z (log Z)^2 of the tokens that count, and its gradient."""
    torch.manual_seed(0)
    model = DenseConfig(d_model=32, n_layers=1, init_std=0.5, logit_cap=cap).build(23)
    tokens, mask = torch.randint(23, (2, 9)), torch.rand(2, 9).round()
    mask[:, 0] = 0
    positions = torch.arange(9).expand(2, -1)
    batch = Batch(tokens=tokens, positions=positions, documents=torch.zeros_like(tokens), loss_mask=mask)
    plain, penalty, log_z, *_ = _losses(model, batch, _row_losses, 0.3)
    loss = plain + penalty
    (found,) = torch.autograd.grad(loss, [model.embed.weight])
    logits = model.logits(model(tokens)[0])[:, :-1]
    each = logits.logsumexp(-1)  # [B, T-1]
    nll = each - logits.gather(-1, tokens[:, 1:, None]).squeeze(-1)
    expected = ((nll + 0.3 * each**2) * mask[:, 1:]).sum()
    (gradient,) = torch.autograd.grad(expected, [model.embed.weight])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_z, (each * mask[:, 1:]).sum(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain, (nll * mask[:, 1:]).sum(), rtol=1e-5, atol=1e-5)
    assert torch.equal(plain, negative_log_likelihood(model, batch))
    assert _losses(model, batch, _row_losses, 0.0)[1:3] == (0, 0)


def test_runs_with_both(door):
    """The losses that are logged have no penalty; what a capped model samples has the trainer's log-probabilities."""
    plain = rows(place(door(*PRETRAIN, "stage.steps=4").out))
    run = place(door(*PRETRAIN, "stage.steps=4", "model.z_loss=0.1").out)
    found = rows(run)
    assert all("train/log_z" not in row for row in plain)
    assert found[0]["train/log_z"] == pytest.approx(4.72, abs=0.05)  # the log of 112, with small weights
    assert found[0]["train/loss"] == plain[0]["train/loss"]
    assert found[0]["train/grad_norm"] != plain[0]["train/grad_norm"]
    assert found[-1]["train/log_z"] < found[0]["train/log_z"] and abs(found[0]["val/loss"] - plain[0]["val/loss"]) < 0.1
    done = door(*rl(run, "model.logit_cap=1.5", "stage.steps=2"))  # in float32 a gap above 1e-5 fails it
    assert done.code == 0, done.err
    capped, free = rows(place(done.out))[0], rows(place(door(*rl(run, "stage.steps=2")).out))[0]
    assert capped["entropy"] != free["entropy"]
