"""`lstm`: a long short-term memory, the classic baseline."""

from dataclasses import dataclass

from rlx.models.base import Layer, ModelConfig, check_positive, layer
from rlx.nn.lstm import LSTM


@layer("lstm")
@dataclass(kw_only=True)
class WithLstm(ModelConfig):
    """Settings of the recurrence."""

    lstm_width: int | None = None
    """Width of its state; null: d_model / 2, a layer then has 7/8 of attention's parameters."""

    def check_lstm(self) -> None:
        check_positive("model.lstm_width", self.memory_width())

    def memory_width(self) -> int:
        """Width of its state."""
        return -(-self.d_model // 2) if self.lstm_width is None else self.lstm_width

    def build_lstm(self, layer: Layer) -> LSTM:
        return LSTM(d_model=self.d_model, width=self.memory_width())
