"""`model=gssm`: mixers with a state of fixed size (generalised state-space models, Jelassi et al., arXiv 2402.01032).

Its own layer is Mamba-2's mixer and the dense model's feed-forward: one thing is swapped, the rest stays.
`model.layers=[gssm+none] model.gssm_expand=2` is Mamba-2's own block, with transformers' layout
(`rlx/models/layouts/gssm.py`). `delta` is the gated delta rule, `lstm` the classic baseline, and with `attention` it is
a hybrid: `model.layers=[gssm*3,attention]`.
"""

from dataclasses import dataclass
from typing import ClassVar

from rlx.models.layers.attention import WithAttention
from rlx.models.layers.delta import WithDelta
from rlx.models.layers.gssm import WithGssm
from rlx.models.layers.lstm import WithLstm
from rlx.models.layers.mlp import WithMlp
from rlx.options import option


@option("model", "gssm")
@dataclass(kw_only=True, slots=True)
class GssmConfig(WithAttention, WithMlp, WithGssm, WithDelta, WithLstm):
    """Mamba-2's scan, the gated delta rule, an LSTM, attention between them, and SwiGLU."""

    plain: ClassVar[str] = "gssm+mlp"
