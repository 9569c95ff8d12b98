"""What an environment asks of the policy itself: how likely turns are as answers to other prompts."""

from rlx.batches import Extent
from rlx.data.documents import Document
from rlx.data.tokenizers.base import Tokenizer
from rlx.environments.base import Episode, Turn
from rlx.nn.decoder import Decoder
from rlx.stages.modules.looking import Looker
from rlx.stages.modules.texts import as_rows


def add_likelihoods(
    episodes: list[Episode], model: Decoder, tokenizer: Tokenizer, looker: Looker
) -> tuple[list[float], Extent]:
    """Add to the rewards of turns what they earn by their likelihood; what was added, by the episode ([B]), and what
    went through the model for it."""
    asked = [(row, turn) for row, episode in enumerate(episodes) for turn in episode.turns if turn.likelihood]
    added = [0.0] * len(episodes)
    if not asked:
        return added, Extent()
    documents = [_document(turn, tokenizer) for _, turn in asked]
    batch = as_rows(documents, pad_id=tokenizer.pad_id, device=model.embed.weight.device)
    found = (looker.logprobs(model, batch) * batch.loss_mask).sum(-1).tolist()
    for (row, turn), logprob in zip(asked, found, strict=True):
        assert turn.likelihood is not None
        turn.reward += turn.likelihood.weight * logprob
        added[row] += turn.likelihood.weight * logprob
    return added, batch.extent()


def _document(turn: Turn, tokenizer: Tokenizer) -> Document:
    """The prompt that is asked about, with the turn's text and end mark as its completion."""
    assert turn.likelihood is not None
    prompt = [tokenizer.begin_id, *tokenizer.encode(turn.likelihood.prompt)]
    return Document([*prompt, *tokenizer.encode(turn.text), tokenizer.end_id], len(prompt))
