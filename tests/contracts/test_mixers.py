"""What every model's mixers promise, run over all options of `model=`: causality, packing, caches, gradients.

`VARIANTS` of an option's own test are settings worth testing besides its defaults.
"""

import copy
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
import torch

from rlx.adapters.lora import LoraConfig
from rlx.data.documents import Document
from rlx.data.packing import Packer
from rlx.models.base import ModelConfig
from rlx.nn.decoder import Decoder
from rlx.nn.lora import attached, folded_tensors, without_adapters
from rlx.options import discover

VOCAB = 23


@dataclass
class Variant:
    config: type[ModelConfig]
    settings: dict[str, Any]

    def build(self) -> Decoder:
        """A small decoder whose weights are large enough for every position to matter."""
        torch.manual_seed(0)
        sizes = {"d_model": 32, "n_layers": 3, "init_std": 0.3}
        model = self.config(**{**sizes, **self.settings}).build(VOCAB)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.2 * torch.randn(parameter.shape))
        return model.eval()


def variants() -> list[Any]:
    found = []
    for name, option in discover("model").items():
        for settings in [{}, *import_module(f"tests.models.test_{name}").VARIANTS]:
            label = "-".join([name, *(f"{key}={value}" for key, value in settings.items())])
            found.append(pytest.param(Variant(option.config, settings), id=label))
    return found


@pytest.fixture(params=variants())
def model(request: pytest.FixtureRequest) -> Decoder:
    return request.param.build()


def some_tokens(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def places_of(model: Decoder, tokens: torch.Tensor) -> torch.Tensor | None:
    """Ids for a model that embeds them: any will do that follow from the token."""
    return None if model.places is None else tokens % (model.places.most + 1)


def hidden_of(model: Decoder, tokens: torch.Tensor, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens, places=places_of(model, tokens), **inputs)[0]


def is_routed(model: Decoder) -> bool:
    return any(hasattr(block.channel, "rebalance") for block in model.blocks)


def assert_unchanged(model: Decoder, after: torch.Tensor, before: torch.Tensor) -> None:
    """To the bit; but a matrix product of fewer rows may round otherwise, and how many rows an expert has hangs on all
    tokens."""
    if is_routed(model):
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(after, before)


@pytest.mark.parametrize("place", [0, 1, 11, 24])
def test_a_token_changes_nothing_before_it(model: Decoder, place: int) -> None:
    tokens = some_tokens(2, 25)
    before = hidden_of(model, tokens)
    tokens[:, place] = (tokens[:, place] + 1) % VOCAB
    after = hidden_of(model, tokens)
    assert_unchanged(model, after[:, :place], before[:, :place])
    assert (after[:, place:] - before[:, place:]).abs().amax(-1).min() > 1e-4, "and every place after it sees it"


def test_a_token_changes_nothing_before_it_in_packed_rows(model: Decoder) -> None:
    tokens, documents = some_tokens(1, 20), torch.tensor([[0] * 8 + [1] * 12])
    before = hidden_of(model, tokens, documents=documents)
    tokens[:, 10] = (tokens[:, 10] + 1) % VOCAB
    after = hidden_of(model, tokens, documents=documents)
    assert_unchanged(model, after[:, :10], before[:, :10])
    assert (after[:, 10] - before[:, 10]).abs().max() > 1e-4


def test_packed_documents_are_as_alone(model: Decoder) -> None:
    generator = torch.Generator().manual_seed(3)
    lengths = [2, 9, 5, 7, 3, 12, 4, 6, 2, 8, 3, 5, 4, 20, 2, 6, 7, 3, 3, 5]
    made = [torch.randint(VOCAB, (length,), generator=generator).tolist() for length in lengths]
    packer = Packer(lambda n: Document(made[n % len(made)], 1), rows=2, length=24, pad_id=0)
    batch = packer.next()
    packed = hidden_of(model, batch.tokens, positions=batch.positions, documents=batch.documents)
    assert packed.isfinite().all(), "padding is finite too"
    seen = 0
    for row in range(2):
        for number in range(int(batch.documents[row].max()) + 1):
            inside = batch.documents[row] == number
            alone = hidden_of(model, batch.tokens[row, inside][None])[0]
            torch.testing.assert_close(packed[row, inside], alone, atol=3e-5, rtol=1e-5)  # chunks fall otherwise
            seen += 1
    assert seen >= 4


def test_padding_does_not_leak(model: Decoder) -> None:
    tokens = some_tokens(1, 16)
    positions = torch.tensor([[*range(10), *[0] * 6]])
    documents = torch.tensor([[0] * 10 + [-1] * 6])
    before = hidden_of(model, tokens, positions=positions, documents=documents)
    tokens[:, 10:] = (tokens[:, 10:] + 5) % VOCAB
    after = hidden_of(model, tokens, positions=positions, documents=documents)
    assert_unchanged(model, after[:, :10], before[:, :10])
    torch.testing.assert_close(before[:, :10], hidden_of(model, tokens[:, :10]), atol=1e-5, rtol=1e-5)


def test_cached_decoding_is_the_full_pass(model: Decoder) -> None:
    """Prompts of unequal length, padded on the right, then one token at a time."""
    tokens, given = some_tokens(3, 21), torch.tensor([2, 9, 5])
    whole = hidden_of(model, tokens)
    cache = model.new_cache(3, 30)
    padded = tokens[:, :9].clone()
    padded[torch.arange(9) >= given[:, None]] = 0
    prompt = hidden_of(model, padded, cache=cache, slots=9, lengths=given)
    for row, length in enumerate(given):
        torch.testing.assert_close(prompt[row, :length], whole[row, :length], atol=1e-5, rtol=1e-5)
    for step in range(12):
        place = given + step
        new = tokens.gather(1, place[:, None])
        found = hidden_of(model, new, positions=place[:, None], cache=cache, slots=int(place.max()) + 1)
        torch.testing.assert_close(found[:, 0], whole[torch.arange(3), place], atol=1e-5, rtol=1e-5)


def test_several_tokens_go_through_a_cache_at_once(model: Decoder) -> None:
    tokens = some_tokens(2, 12)
    whole, cache = hidden_of(model, tokens), model.new_cache(2, 12)
    for start, end in [(0, 5), (5, 6), (6, 12)]:
        positions = torch.arange(start, end).expand(2, -1)
        found = hidden_of(model, tokens[:, start:end], positions=positions, cache=cache)
        torch.testing.assert_close(found, whole[:, start:end], atol=1e-5, rtol=1e-5)


def test_rows_of_a_cache_go_on_apart(model: Decoder) -> None:
    """Copies of a prompt's state continue differently; dropped rows leave the others as they are."""
    tokens = some_tokens(5, 14)
    tokens[:, :6] = tokens[[0, 0, 1, 1, 1], :6]  # two prompts of six tokens, two and three continuations
    whole, cache = hidden_of(model, tokens), model.new_cache(2, 14)
    hidden_of(model, tokens[[0, 2], :6], cache=cache, slots=6)
    cache = cache.rows(torch.tensor([0, 0, 1, 1, 1]))
    alive = torch.arange(5)
    for place in range(6, 14):
        if place == 10:
            cache, alive = cache.rows(torch.tensor([3, 0])), torch.tensor([3, 0])
        positions = torch.full((len(alive), 1), place)
        found = hidden_of(model, tokens[alive, place, None], positions=positions, cache=cache, slots=place + 1)
        torch.testing.assert_close(found[:, 0], whole[alive, place], atol=1e-5, rtol=1e-5)


def test_float64_stays_float64(model: Decoder) -> None:
    """Full passes, packed rows and steps from a cache differ by its roundings only; documents of one token too."""
    tokens, model = some_tokens(2, 40), model.double()
    lengths = [1, 1, 5, 1, 20, 12]
    documents = torch.arange(6).repeat_interleave(torch.tensor(lengths)).expand(2, -1)
    positions = torch.cat([torch.arange(length) for length in lengths]).expand(2, -1)
    packed = hidden_of(model, tokens, positions=positions, documents=documents)
    assert packed.dtype is torch.float64
    for number in range(6):
        inside = documents[0] == number
        torch.testing.assert_close(packed[:, inside], hidden_of(model, tokens[:, inside]), atol=1e-10, rtol=1e-10)
    whole, cache, given = hidden_of(model, tokens), model.new_cache(2, 40), torch.tensor([1, 35])
    prompt = hidden_of(model, tokens[:, :35], cache=cache, slots=35, lengths=given)
    torch.testing.assert_close(prompt[1], whole[1, :35], atol=1e-10, rtol=1e-10)
    for step in range(3):
        place = (given + step)[:, None]
        found = hidden_of(model, tokens.gather(1, place), positions=place, cache=cache)
        torch.testing.assert_close(found[:, 0], whole[torch.arange(2), place[:, 0]], atol=1e-10, rtol=1e-10)


def test_gradients_reach_every_parameter(model: Decoder) -> None:
    tokens = some_tokens(2, 12)
    hidden, _ = model(tokens, places=places_of(model, tokens))
    loss = torch.nn.functional.cross_entropy(model.logits(hidden).flatten(0, 1), some_tokens(2, 12, 9).flatten())
    if model.places is not None and model.places.head is not None:
        loss = loss + model.places.head(hidden).logsumexp(-1).mean()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_adapters_do_in_training_what_they_do_folded(model: Decoder) -> None:
    """Beside every linear layer and every stack: what is sampled from has them in its weights."""
    tokens = some_tokens(2, 12)
    precise = copy.deepcopy(model).double()  # in float32 the order of a CPU's sums may hang on where a tensor stands
    before = hidden_of(precise, tokens)
    LoraConfig(rank=2).attach(precise)
    torch.testing.assert_close(hidden_of(precise.double(), tokens), before, atol=1e-12, rtol=0)
    LoraConfig(rank=2).attach(model)
    torch.manual_seed(0)
    for each in attached(model):
        torch.nn.init.normal_(each.adapter.factors()[1], std=0.1)
    adapted, _ = model(tokens, places=places_of(model, tokens))
    ids = 0.0 if model.places is None or model.places.head is None else model.places.head(adapted).sum()
    (adapted.square().sum() + ids).backward()
    for each in attached(model):
        assert all(factor.grad is not None and factor.grad.abs().max() > 0 for factor in each.adapter.factors())
    plain = without_adapters(model)
    plain.load_state_dict(folded_tensors(model))
    torch.testing.assert_close(hidden_of(plain, tokens), adapted.detach(), atol=1e-4, rtol=1e-4)


def test_gradients_cross_no_document(model: Decoder) -> None:
    tokens, documents = some_tokens(1, 16), torch.tensor([[0] * 7 + [1] * 9])
    seen = {}
    model.embed.register_forward_hook(lambda _, __, out: seen.update(out=out.detach().requires_grad_()) or seen["out"])
    hidden, _ = model(tokens, documents=documents, places=places_of(model, tokens))
    hidden[:, 7:].sum().backward()
    assert seen["out"].grad[:, :7].abs().max() == 0
    assert seen["out"].grad[:, 7:].abs().min(dim=-1).values.max() > 0


@pytest.mark.parametrize("length", [1, 13, 40])
def test_state_is_as_large_as_it_says(model: Decoder, length: int) -> None:
    cache = model.new_cache(3, length)
    for block, layer in zip(model.blocks, cache.layers, strict=True):
        kept = sum(value.numel() for value in vars(layer).values() if isinstance(value, torch.Tensor))
        assert block.mixer.state_numel(length) * 3 == kept
