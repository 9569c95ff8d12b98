"""Folders as transformers saves them: tiny models with random weights, and tokenizers with tokens of their own."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

SIZES = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4}
ROWS = 300
"""Rows of the models; the tokenizers have fewer tokens."""


def randomised(model: Any) -> Any:
    """The model with weights, norms included, that make its logits spread."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if parameter.dim() == 1 else 0.2 * noise)
    return model.eval()


def a_model(kind: str = "llama", **sizes: Any) -> Any:
    """A model of transformers by its `model_type`."""
    transformers = pytest.importorskip("transformers")
    config, model = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "mixtral": (transformers.MixtralConfig, transformers.MixtralForCausalLM),
        "qwen3_moe": (transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM),
    }[kind]
    return randomised(model(config(**{"vocab_size": ROWS, **SIZES, **sizes})))


def a_tokenizer(**names: Any) -> Any:
    """A byte-level BPE tokenizer with `<|endoftext|>` and `<|im_end|>`; `names` as `eos_token="<|im_end|>"`."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner: Any = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        show_progress=False,
    )  # pyright: ignore[reportCallIssue]
    inner.train_from_iterator(["3 5 7 25 -> 40\n(25-5)*7 = 140"] * 3, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **(names or {"eos_token": "<|endoftext|>"}))


def saved(folder: Path, kind: str = "llama", *, shards: bool = False, half: bool = False, **sizes: Any) -> Any:
    """Save a model and a tokenizer as users do; returns the model, in float32."""
    model = a_model(kind, **sizes)
    if half:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.bfloat16())
    stored = copy.deepcopy(model).to(torch.bfloat16) if half else model
    stored.save_pretrained(folder, max_shard_size="50KB" if shards else "5GB")
    a_tokenizer(eos_token="<|im_end|>", pad_token="<|endoftext|>").save_pretrained(folder)
    return model
