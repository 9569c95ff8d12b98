"""`stage=export`: a model as a folder that transformers opens, in the Llama layout or (with qk_norm) Qwen3's.

1. No run is made. The folder holds the weights in float32, the tokenizer, and which of its tokens begin, end and pad;
   `generate` stops at the end mark.
2. The tokenizer adds nothing to a text, as in rlx. A document begins with the begin mark, so a prompt is
   `tokenizer(tokenizer.bos_token + text)`.
3. The padding token is not in config.json: transformers gives its embedding no gradient, and it may be the end mark.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rlx.errors import ConfigError
from rlx.options import option
from rlx.runs.files import GENERATION_CONFIG, TOKENIZER_CONFIG, atomic_directory, write_json
from rlx.runs.model_directory import save_model_directory
from rlx.runs.references import parse_reference, resolve
from rlx.stages.base import Context
from rlx.stages.config import StageConfig
from rlx.stages.start import load_start
from rlx.stages.targets import make_room, new_folder

if TYPE_CHECKING:
    from rlx.config import Config


@option("stage", "export")
@dataclass(kw_only=True, slots=True)
class ExportConfig(StageConfig):
    """A model folder for transformers."""

    uses: ClassVar[frozenset[str]] = frozenset()

    to: str | None = None
    """The folder to make; what is there already is never overwritten."""
    max_length: int = 2048
    """Longest text (tokens) that other programs are told to give the model; rlx has no limit to go by."""

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ConfigError(f"stage.max_length={self.max_length} must be at least 1")

    def carry_out(self, config: "Config", context: Context) -> None:
        from rlx.models.folder import exported, weights_of

        if config.init_from in (None, "random"):
            raise ConfigError("stage=export needs a model: init_from=<run>")
        target, shown = new_folder(self.to, "export")
        start = load_start(resolve(parse_reference(str(config.init_from))))
        tokenizer = start.tokenizer
        description, theirs = exported(start.model_config, tokenizer.vocab_size, weights_of(start.model))
        ids = {"bos_token_id": tokenizer.begin_id, "eos_token_id": tokenizer.end_id}
        length = {"max_position_embeddings": self.max_length}
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokenizer.tokens["begin"],
            "eos_token": tokenizer.tokens["end"],
            "pad_token": tokenizer.tokens["pad"],
            "model_max_length": self.max_length,
            "clean_up_tokenization_spaces": False,
        }
        make_room(target)
        with atomic_directory(target) as folder:
            save_model_directory(folder, theirs, {**description, **length, **ids}, tokenizer.to_json())
            write_json(folder / GENERATION_CONFIG, {**ids, "pad_token_id": tokenizer.pad_id})
            write_json(folder / TOKENIZER_CONFIG, settings)
        opening = f'AutoModelForCausalLM.from_pretrained("{shown}") and AutoTokenizer open it'
        print(f"exported: {shown}; {opening}, and so does init_from=hf:{shown}", flush=True)
