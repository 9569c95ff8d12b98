"""Numbers in more digits than they come in."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """In float32, or float64 where it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
