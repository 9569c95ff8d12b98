"""What a model says of a rollout's tokens, against the model's own logits."""

import pytest
import torch

from rlx.models.dense import DenseConfig
from rlx.stages.modules.looking import Looker
from tests.algorithms.plain import completion
from tests.algorithms.rollouts import batch_of


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_every_model_is_asked_at_the_sampling_temperature(temperature: float) -> None:
    """A policy, with gradient, and a reference, without, in parts of two rows: log softmax(logits / temperature)."""
    torch.manual_seed(0)
    model = DenseConfig(d_model=16, n_layers=1, n_heads=2, n_kv_heads=1, init_std=0.5).build(11)
    batch = batch_of([completion(1.0, length) for length in (3, 1, 4, 2, 2)], extra=1)
    batch.tokens = torch.randint(11, batch.tokens.shape, generator=torch.Generator().manual_seed(0))
    looker = Looker(pad_id=0, micro_rows=2, temperature=temperature, routed=False, compile=False)
    with torch.no_grad():
        before = torch.distributions.Categorical(logits=model.logits(model(batch.tokens)[0])[:, :-1] / temperature)
    expected = before.log_prob(batch.tokens[:, 1:])

    reference = looker.logprobs(model, batch)
    assert reference[:, 0].tolist() == [0.0] * 5 and not reference.requires_grad
    torch.testing.assert_close(reference[:, 1:], expected)
    out, _ = looker.policy(model, batch)
    assert out.logprobs.requires_grad and out.entropy is not None
    torch.testing.assert_close(out.logprobs[:, 1:], expected)
    torch.testing.assert_close(out.entropy[:, 1:], before.entropy())
