"""The root-mean-square norm against its formula in float64."""

import pytest
import torch

from rlx.nn.norm import RMSNorm


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-6), (torch.bfloat16, 2**-8), (torch.float64, 1e-13)],
    ids=["fp32", "bf16: half a last place", "fp64"],
)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_norm_is_its_formula(dtype: torch.dtype, tolerance: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(63, eps=1e-5)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(63, generator=generator))
    x = (scale * torch.randn(4, 63, generator=generator)).to(dtype)
    wide = x.double()
    expected = wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight.double()
    found = norm(x)
    assert found.dtype is dtype
    torch.testing.assert_close(found.double(), expected, atol=min(1e-6, tolerance), rtol=tolerance)
