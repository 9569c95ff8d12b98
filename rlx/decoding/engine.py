"""The rollout engine: prompts in, completions with their log-probabilities out.

1. One prefill per prompt; its state is copied to the prompt's samples.
2. The cache is allocated once per wave of `decode.rows` rows. Slot s of a row holds position s, so prompts are padded
   on the right: what a padded slot holds is never seen before it is overwritten.
3. Rows that ended are dropped when fewer than three quarters of a wave are alive.
4. Every row draws from its own key (`uniforms`), so its sample does not depend on its neighbours (up to the last
   bits of the logits, which matrix products of another shape may round differently).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlx.decoding.base import DecodeConfig
from rlx.decoding.logprobs import log_softmax
from rlx.decoding.uniforms import sample_keys, uniforms
from rlx.errors import RunError, Stopped
from rlx.nn.cache import Cache
from rlx.nn.decoder import Decoder

ALIVE_SHARE = 0.75
"""Rows are compacted when fewer than this share of them is alive."""


@dataclass(slots=True, kw_only=True)
class Completions:
    """Completions of P prompts x G samples, prompt by prompt: N = P * G rows, M = decode.max_tokens columns."""

    tokens: Tensor
    """[N, M] int64, the end mark included, padded after it."""
    logprobs: Tensor
    """[N, M] float32, of the drawn token at the sampling temperature over the whole vocabulary; 0 on padding."""
    lengths: Tensor
    """[N] int64, tokens drawn, the end mark included."""
    finished: Tensor
    """[N] bool, True when the end mark was drawn."""
    passed: int = 0
    """Tokens that went through the model, prompts included (once per group)."""
    context: int = 0
    """Sum over those tokens of how many positions each attended."""


def never() -> bool:
    """The stop flag of who cannot be stopped."""
    return False


class Engine:
    """Draws completions from a decoder.

    Args:
        model: the decoder; the weights it has at the call are used.
        end_id: the end mark's token id.
        pad_id: the id that fills unused places.
        stop: polled between decode steps; True abandons the call with `Stopped`.
    """

    def __init__(self, model: Decoder, *, end_id: int, pad_id: int, stop: Callable[[], bool] = never) -> None:
        self.model, self.end_id, self.pad_id, self.stop = model, end_id, pad_id, stop

    @torch.no_grad()
    def complete(
        self, prompts: Sequence[Sequence[int]], *, keys: Sequence[int], samples: int, decode: DecodeConfig
    ) -> Completions:
        """Draw `samples` completions of every prompt (token ids); `keys` (int64) are the prompts' random keys.

        Raises:
            Stopped: `stop` became true; nothing was changed.
            RunError: the model gives NaN.
        """
        if not prompts:
            return _empty(0, decode.max_tokens, self.pad_id, self.model.embed.weight.device)
        was_training = self.model.training
        self.model.eval()
        try:
            per_wave = max(1, decode.rows // samples)
            waves = [
                self._wave(prompts[start : start + per_wave], keys[start : start + per_wave], samples, decode)
                for start in range(0, len(prompts), per_wave)
            ]
        finally:
            self.model.train(was_training)
        out = _join(waves)
        if not torch.isfinite(out.logprobs).all():
            raise RunError("the model's probabilities are not finite (NaN): its weights have diverged")
        return out

    def _wave(
        self, prompts: Sequence[Sequence[int]], keys: Sequence[int], samples: int, decode: DecodeConfig
    ) -> Completions:
        device = self.model.embed.weight.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)  # [P]
        cache, logits = self._prefill(prompts, lengths, decode.max_tokens)
        parents = torch.arange(len(prompts), device=device).repeat_interleave(samples)  # [N]
        state = _Wave(
            cache=cache if samples == 1 else cache.rows(parents),
            logits=logits[parents],
            positions=lengths[parents],
            keys=sample_keys(torch.tensor(list(keys), dtype=torch.int64, device=device), samples),
            row=torch.arange(len(parents), device=device),
        )
        out = _empty(len(parents), decode.max_tokens, self.pad_id, device)
        out.passed, out.context = int(lengths.sum()), int((lengths * (lengths + 1) // 2).sum())
        for step in range(decode.max_tokens):
            if self.stop():
                raise Stopped
            if not self._step(state, out, step, decode):
                break
        return out

    def _prefill(self, prompts: Sequence[Sequence[int]], lengths: Tensor, room: int) -> tuple[Cache, Tensor]:
        """The prompts' cache, with `room` more positions, and the logits [P, V] after each prompt."""
        width = int(lengths.max())
        padded = [[*prompt, *[self.pad_id] * (width - len(prompt))] for prompt in prompts]
        tokens = torch.tensor(padded, device=lengths.device)  # [P, W]
        cache = self.model.new_cache(len(prompts), width + room)
        hidden, _ = self.model(tokens, cache=cache, slots=width)
        last = hidden[torch.arange(len(prompts), device=lengths.device), lengths - 1]  # [P, D]
        return cache, self.model.logits(last)

    def _step(self, state: "_Wave", out: Completions, step: int, decode: DecodeConfig) -> bool:
        """Draw one token for every alive row; False when none is left to decode."""
        tokens, logprobs = draw(state.logits, uniforms(state.keys, step), decode)
        alive = ~out.finished[state.row]
        rows = state.row[alive]
        out.tokens[rows, step], out.logprobs[rows, step] = tokens[alive], logprobs[alive]
        out.lengths[rows] += 1
        out.finished[rows] = tokens[alive] == self.end_id
        alive = ~out.finished[state.row]
        left = int(alive.sum())
        if left == 0 or step + 1 == decode.max_tokens:
            return False
        if left < ALIVE_SHARE * len(alive):
            index = alive.nonzero().squeeze(1)
            state.keep(index)
            tokens, alive = tokens[index], alive[index]
        out.passed += left
        out.context += int((state.positions[alive] + 1).sum())
        slots = int(state.positions.max()) + 1
        hidden, _ = self.model(
            tokens[:, None], positions=state.positions[:, None], cache=state.cache, slots=slots
        )  # [N, 1, D]
        state.logits = self.model.logits(hidden[:, 0])
        state.positions = state.positions + 1
        return True


@dataclass(slots=True)
class _Wave:
    """Rows being decoded side by side."""

    cache: Cache
    logits: Tensor  # [N, V]
    positions: Tensor  # [N] int64, where the next token goes
    keys: Tensor  # [N] int64
    row: Tensor  # [N] int64, place of the row in the output

    def keep(self, index: Tensor) -> None:
        """Go on with the rows in `index` only."""
        self.cache = self.cache.rows(index)
        self.positions, self.keys, self.row = self.positions[index], self.keys[index], self.row[index]


def draw(logits: Tensor, uniform: Tensor, decode: DecodeConfig) -> tuple[Tensor, Tensor]:
    """One token per row by inverting the cumulative distribution at `uniform`.

    Args:
        logits: [N, V].
        uniform: [N] float64 in (0, 1).
        decode: temperature 0 takes the most likely token; top-k and top-p restrict what is drawn.

    Returns:
        tokens [N] int64, and their log-probabilities [N] float32 over the whole vocabulary at the temperature.
    """
    logs = log_softmax(logits, decode.temperature)  # [N, V]
    if decode.temperature == 0:
        tokens = logs.argmax(-1)
    else:
        cumulative = restrict(logs, decode).double().exp().cumsum(-1)  # [N, V]
        point = uniform[:, None] * cumulative[:, -1:]  # below the total, so a token of weight 0 is never drawn
        tokens = torch.searchsorted(cumulative, point, right=True).squeeze(1).clamp(max=logs.shape[-1] - 1)
    return tokens, logs.gather(1, tokens[:, None]).squeeze(1)


def restrict(logs: Tensor, decode: DecodeConfig) -> Tensor:
    """Log-probabilities [N, V] with -inf where top-k or top-p drop a token; ties go to the lower token id."""
    if not decode.truncates:
        return logs
    ordered, order = logs.sort(dim=-1, descending=True, stable=True)
    drop = torch.zeros_like(ordered, dtype=torch.bool)
    if decode.top_k is not None:
        drop[:, decode.top_k :] = True
    if decode.top_p < 1:
        before = ordered.exp().cumsum(-1) - ordered.exp()
        drop |= before >= decode.top_p
    return logs.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), -torch.inf)


def _empty(rows: int, columns: int, pad_id: int, device: torch.device) -> Completions:
    return Completions(
        tokens=torch.full((rows, columns), pad_id, dtype=torch.int64, device=device),
        logprobs=torch.zeros(rows, columns, device=device),
        lengths=torch.zeros(rows, dtype=torch.int64, device=device),
        finished=torch.zeros(rows, dtype=torch.bool, device=device),
    )


def _join(waves: list[Completions]) -> Completions:
    return Completions(
        tokens=torch.cat([wave.tokens for wave in waves]),
        logprobs=torch.cat([wave.logprobs for wave in waves]),
        lengths=torch.cat([wave.lengths for wave in waves]),
        finished=torch.cat([wave.finished for wave in waves]),
        passed=sum(wave.passed for wave in waves),
        context=sum(wave.context for wave in waves),
    )
