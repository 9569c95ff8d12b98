"""Small model folders to be merged."""

from pathlib import Path
from typing import Any

import torch

from rlx.data.tokenizers.base import Material, Tokenizer
from rlx.data.tokenizers.char import CharConfig
from rlx.data.tokenizers.word import WordConfig
from rlx.models.base import ModelConfig
from rlx.models.dense import DenseConfig
from rlx.models.folder import describe, weights_of
from rlx.runs.model_directory import save_model_directory

DENSE: dict[str, Any] = {"d_model": 16, "n_layers": 2, "n_heads": 2}


def words(*names: str) -> Tokenizer:
    """A tokenizer of these words."""
    return WordConfig().build(Material(words=lambda: names))


def saved(
    folder: Path,
    seed: int = 0,
    *,
    tokenizer: Tokenizer | None = None,
    config: ModelConfig | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A folder with a fresh model of ours."""
    torch.manual_seed(seed)
    config, tokenizer = config or DenseConfig(**DENSE), tokenizer or CharConfig().build()
    model = config.build(tokenizer.vocab_size)
    tensors = {name: tensor.to(dtype) for name, tensor in weights_of(model).items()}
    description = describe(config, tokenizer.vocab_size, tokenizer.tokens)
    save_model_directory(folder, tensors, description, tokenizer.to_json())
    return folder
