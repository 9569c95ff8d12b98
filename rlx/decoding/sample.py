"""`decode=sample`: draw from the model's distribution."""

from dataclasses import dataclass

from rlx.decoding.base import DecodeConfig
from rlx.options import option


@option("decode", "sample")
@dataclass(kw_only=True, slots=True)
class SampleConfig(DecodeConfig):
    """Temperature 1 and the whole vocabulary: the distribution that the trainer trains."""
