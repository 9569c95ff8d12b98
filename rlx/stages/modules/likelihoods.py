"""What an environment asks of the policy itself: how likely turns are as answers to other prompts."""

import torch

from rlx.batches import Extent, RolloutBatch
from rlx.data.tokenizers.base import Tokenizer
from rlx.environments.base import Episode, Turn
from rlx.nn.decoder import Decoder
from rlx.stages.modules.looking import Looker


def add_likelihoods(
    episodes: list[Episode], model: Decoder, tokenizer: Tokenizer, looker: Looker
) -> tuple[list[float], Extent]:
    """Add to the rewards of turns what they earn by their likelihood; what was added, by the episode ([B]), and what
    went through the model for it."""
    asked = [(row, turn) for row, episode in enumerate(episodes) for turn in episode.turns if turn.likelihood]
    added = [0.0] * len(episodes)
    if not asked:
        return added, Extent()
    batch = _batch([turn for _, turn in asked], tokenizer, model.embed.weight.device)
    found = (looker.logprobs(model, batch) * batch.loss_mask).sum(-1).tolist()
    for (row, turn), logprob in zip(asked, found, strict=True):
        assert turn.likelihood is not None
        turn.reward += turn.likelihood.weight * logprob
        added[row] += turn.likelihood.weight * logprob
    return added, batch.extent()


def _batch(turns: list[Turn], tokenizer: Tokenizer, device: torch.device) -> RolloutBatch:
    """Prompts with the turns' texts and end marks as their completions, in rows of equal length."""
    prompts = [_prompt(turn, tokenizer) for turn in turns]
    whole = [
        [*prompt, *tokenizer.encode(turn.text), tokenizer.end_id] for prompt, turn in zip(prompts, turns, strict=True)
    ]
    width = max(map(len, whole))
    tokens = torch.tensor([[*row, *[tokenizer.pad_id] * (width - len(row))] for row in whole], device=device)
    given = torch.tensor([len(prompt) for prompt in prompts], device=device)
    lengths = torch.tensor([len(row) for row in whole], device=device)
    place = torch.arange(width, device=device)
    mask = ((place >= given[:, None]) & (place < lengths[:, None])).float()
    nothing, row = torch.zeros_like(mask), torch.zeros_like(given)
    return RolloutBatch(
        tokens=tokens,
        loss_mask=mask,
        logprobs=nothing,
        rewards=nothing,
        group=row,
        turn=torch.zeros_like(tokens),
        finished=row == 0,
        correct=row == 0,
    )


def _prompt(turn: Turn, tokenizer: Tokenizer) -> list[int]:
    assert turn.likelihood is not None
    return [tokenizer.begin_id, *tokenizer.encode(turn.likelihood.prompt)]
