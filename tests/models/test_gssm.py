"""`model=gssm`."""

from typing import Any

VARIANTS: list[dict[str, Any]] = [
    {"layers": ["gssm+none"], "gssm_expand": 2, "gssm_groups": 2, "gssm_dt_max": 0.05},
    {"layers": ["attention", "gssm"], "gssm_heads": 2, "gssm_conv": 2},
    {"layers": ["delta"]},
    {"layers": ["lstm"]},
]
"""Settings that the contract of mixers is tested with."""
