"""The two decoders that are measured, and transformers' Llama of the same shape."""

from typing import Any

from transformers import LlamaConfig

from rlx.models.dense import DenseConfig

SIZES: dict[str, dict[str, Any]] = {
    "0.8M": {"d_model": 128, "n_layers": 4, "n_heads": 4},
    "4.7M": {"d_model": 256, "n_layers": 6, "n_heads": 8},
}


def dense(size: str) -> DenseConfig:
    """Ours, by the size's name."""
    return DenseConfig(**SIZES[size])


def llama(size: str, vocab_size: int, length: int, **more: Any) -> LlamaConfig:
    """transformers' of equal widths, for rows of `length` tokens."""
    ours = dense(size)
    fields = {
        "vocab_size": vocab_size,
        "hidden_size": ours.d_model,
        "num_hidden_layers": ours.n_layers,
        "num_attention_heads": ours.n_heads,
        "intermediate_size": ours.feed_forward_width(),
        "max_position_embeddings": length,
        "tie_word_embeddings": True,
        **more,
    }
    return LlamaConfig(**fields)
