"""What an adapter is: it freezes a decoder and puts beside its weights what is trained instead."""

from dataclasses import dataclass

from rlx.nn.decoder import Decoder


@dataclass(kw_only=True, slots=True)
class AdapterConfig:
    """Fields that every adapter has: none so far."""

    def attach(self, model: Decoder) -> None:
        """Freeze the decoder and attach fresh adapters, from torch's global generator.

        Raises:
            ConfigError: the model has not what is asked for.
        """
        raise NotImplementedError
