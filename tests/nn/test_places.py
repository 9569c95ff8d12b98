"""Coupled positions: what ids add to a decoder's embeddings, and which id it tells."""

import pytest
import torch

from rlx.models.dense import DenseConfig
from rlx.models.layers.attention import Position
from rlx.nn.places import Places


def test_every_id_adds_its_row_the_largest_too() -> None:
    places = Places(3, d_model=5, predicted=False, weight=1.0)
    ids = torch.tensor([[0, 3, 2], [1, 3, 0]])
    assert torch.equal(places(ids), torch.stack([torch.stack([places.embed.weight[n] for n in row]) for row in ids]))
    assert places.predicted(torch.randn(2, 5)) is None
    with pytest.raises(IndexError):
        places(torch.tensor([[4]]))


def test_the_likeliest_id_is_told() -> None:
    places = Places(3, d_model=4, predicted=True, weight=1.0)
    assert places.head is not None
    with torch.no_grad():
        places.head.weight.copy_(torch.eye(4))
    assert places.predicted(torch.tensor([[[0.0, 0.1, 0.0, 2.0], [3.0, -1.0, 0.0, 0.0]]])).tolist() == [[3, 0]]


@torch.no_grad()
def test_a_decoder_adds_them_to_its_embeddings() -> None:
    torch.manual_seed(0)
    model = DenseConfig(d_model=16, n_layers=1, n_heads=2, position=Position.coupled, max_position=4).build(7)
    assert model.places is not None
    tokens, ids = torch.tensor([[1, 5, 2]]), torch.tensor([[0, 4, 1]])
    plain = DenseConfig(d_model=16, n_layers=1, n_heads=2, position=Position.nope).build(7)
    plain.load_state_dict({name: x for name, x in model.state_dict().items() if not name.startswith("places.")})
    own = plain.embed.weight[tokens] + model.places.embed.weight[ids]
    plain.embed.register_forward_hook(lambda *_: own)
    assert torch.equal(model(tokens, places=ids)[0], plain(tokens)[0])
