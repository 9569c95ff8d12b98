"""Rows for new tokens: the mean of the old ones, which stay."""

import pytest
import torch

from rlx.models.dense import DenseConfig
from rlx.models.folder import load_weights, weights_of
from rlx.models.vocabulary import with_rows


@pytest.mark.parametrize("tied", [True, False])
def test_old_rows_stay_and_new_ones_are_their_mean(tied: bool) -> None:
    config = DenseConfig(d_model=16, n_layers=1, n_heads=2, tie_embeddings=tied)
    old = weights_of(config.build(10))
    model = config.build(13)
    load_weights(model, with_rows(old, 10, 13), "here")
    for own, before in ((model.embed.weight, old["embed.weight"]), (model.head.weight, old.get("head.weight"))):
        before = old["embed.weight"] if before is None else before
        assert torch.equal(own[:10], before)
        for row in own[10:]:
            torch.testing.assert_close(row, before.mean(dim=0), atol=1e-7, rtol=0)
    same = [name for name in old if name not in ("embed.weight", "head.weight")]
    assert same and all(torch.equal(weights_of(model)[name], old[name]) for name in same)


def test_the_logit_of_a_new_token_is_the_mean_of_all() -> None:
    config = DenseConfig(d_model=16, n_layers=1, n_heads=2, tie_embeddings=False)
    old, new = config.build(10), config.build(11)
    load_weights(new, with_rows(weights_of(old), 10, 11), "here")
    tokens = torch.arange(10)[None]
    before, after = (model.logits(model(tokens)[0]) for model in (old, new))
    torch.testing.assert_close(after[..., :10], before)
    torch.testing.assert_close(after[..., 10], before.mean(dim=-1))


def test_no_new_tokens_change_nothing() -> None:
    old = weights_of(DenseConfig(d_model=16, n_layers=1, n_heads=2).build(10))
    found = with_rows(old, 10, 10)
    assert all(found[name] is tensor for name, tensor in old.items())
