"""Log-probabilities and entropy of given tokens, against torch's distributions."""

import pytest
import torch

from rlx.decoding.logprobs import log_softmax, token_logprobs, token_logprobs_and_entropy


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
def test_against_torch_distributions(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 7, 11, generator=generator)
    tokens = torch.randint(11, (2, 7), generator=generator)
    before = torch.distributions.Categorical(logits=logits[:, :-1] / temperature)
    logprobs, entropy = token_logprobs_and_entropy(logits, tokens, temperature)
    assert torch.equal(logprobs, token_logprobs(logits, tokens, temperature))
    assert logprobs[:, 0].tolist() == entropy[:, 0].tolist() == [0.0, 0.0]
    torch.testing.assert_close(logprobs[:, 1:], before.log_prob(tokens[:, 1:]))
    torch.testing.assert_close(entropy[:, 1:], before.entropy())


def test_bfloat16_logits_give_float32_and_temperature_0_counts_as_1() -> None:
    logits = torch.randn(4, 11, generator=torch.Generator().manual_seed(0))
    assert log_softmax(logits.bfloat16(), 1.0).dtype is torch.float32
    assert torch.equal(log_softmax(logits, 0.0), torch.log_softmax(logits, -1))
