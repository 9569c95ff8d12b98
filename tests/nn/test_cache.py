"""The key/value cache: slot s of a row holds its position s."""

import torch

from rlx.nn.cache import KeyValueCache


def test_writes_go_to_the_positions_of_each_row() -> None:
    cache = KeyValueCache.empty((2, 3, 6, 4), dtype=torch.float32, device=torch.device("cpu"))
    keys = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    cache.write(keys, -keys, torch.tensor([[0, 1], [4, 5]]))
    found, values = cache.read(6)
    found = found.transpose(-1, -2)
    assert torch.equal(found[0, :, :2], keys[0]) and torch.equal(found[1, :, 4:], keys[1])
    assert torch.equal(values, -found)
    assert found[0, :, 2:].abs().sum() == 0 and found[1, :, :4].abs().sum() == 0


def test_rows_are_copies() -> None:
    cache = KeyValueCache.empty((2, 1, 3, 2), dtype=torch.float32, device=torch.device("cpu"))
    cache.write(torch.ones(2, 1, 1, 2), torch.ones(2, 1, 1, 2), torch.tensor([[0], [1]]))
    picked = cache.rows(torch.tensor([1, 1, 0]))
    assert torch.equal(picked.keys, cache.keys[[1, 1, 0]])
    picked.write(torch.full((3, 1, 1, 2), 5.0), torch.zeros(3, 1, 1, 2), torch.tensor([[2], [0], [0]]))
    assert cache.keys.max() == 1 and torch.equal(picked.keys[0, 0, 0], torch.tensor([0.0, 1.0, 5.0]))
    assert torch.equal(picked.keys[1, 0, 0], torch.tensor([5.0, 1.0, 0.0]))
