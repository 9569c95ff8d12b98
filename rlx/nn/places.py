"""Position coupling: learned embeddings of ids that the task gives its tokens, and a head that predicts the ids.

Tokens that belong together in the task's structure (the digits of a column) share an id (Position Coupling, arXiv
2405.20671); 0 says that a token has none. With a head (Predictive Position Coupling, arXiv 2502.16792) the model tells
the next token's id as it tells the next token, from the same hidden state.
"""

from torch import Tensor, nn


class Places(nn.Module):
    """Ids 0 to `most`: what they add to the token embeddings, and their logits."""

    def __init__(self, most: int, *, d_model: int, predicted: bool, weight: float) -> None:
        super().__init__()
        self.most, self.weight = most, weight
        """The largest id, and what a nat of a predicted id's loss counts beside one of a token's."""
        self.embed = nn.Embedding(most + 1, d_model)
        self.head = nn.Linear(d_model, most + 1, bias=False) if predicted else None

    def forward(self, ids: Tensor | None) -> Tensor:
        """[B, T, D] of ids [B, T] int64."""
        assert ids is not None, "a model with coupled positions needs the tokens' ids"
        return self.embed(ids)

    def predicted(self, hidden: Tensor) -> Tensor | None:
        """[...] int64, the likeliest id of the token after each of hidden [..., D]; None where ids are given."""
        return None if self.head is None else self.head(hidden).argmax(-1)
