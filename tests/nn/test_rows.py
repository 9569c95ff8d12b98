"""Who may see whom, on hand-worked rows."""

import torch

from rlx.nn.rows import cache_mask, document_mask


def test_document_mask_by_hand() -> None:
    documents = torch.tensor([[0, 0, 1, 1, -1]])
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert document_mask(documents).int().tolist() == [[expected]]


def test_a_document_number_used_again_later_is_the_same_document() -> None:
    assert document_mask(torch.tensor([[0, 1, 0]]))[0, 0, 2].tolist() == [True, False, True]


def test_cache_mask_by_hand() -> None:
    found = cache_mask(torch.tensor([[0, 1], [2, 3]]), 4).int().tolist()
    assert found == [[[[1, 0, 0, 0], [1, 1, 0, 0]]], [[[1, 1, 1, 0], [1, 1, 1, 1]]]]
