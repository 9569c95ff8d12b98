"""Episodes played by the engine: an environment's text as tokens, and the model's tokens as turns.

    begin, prompt | turn, end mark, turn mark, reply, turn mark, turn, end mark, ...

1. A turn ends with the end mark, or with a token that has one of the environment's stop characters.
2. A reply stands between turn marks, of tokenizers that have one. A model that draws one itself has written a special
   token: the turn is not clean.
3. A turn without its mark is truncated, whatever it says; one with another special token, which its text would not
   show, is malformed. So is one that the verifier fails on, which the verdict's `failure` says.
4. Processes that train together share the problems out, and all get all episodes (`rlx.evaluation.ranks`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlx.data.tokenizers.base import Tokenizer, text_of
from rlx.decoding.base import DecodeConfig
from rlx.decoding.completions import Completions, Reply
from rlx.decoding.engine import Engine
from rlx.environments.base import Answer, Assess, Environment, Episode, Turn
from rlx.evaluation.judge import Judge
from rlx.evaluation.ranks import Heard, all_rows, own_share
from rlx.types import Example, Outcome, Verdict


@dataclass(slots=True, kw_only=True)
class Played:
    """Episodes of P problems x G samples, problem by problem."""

    completions: Completions
    episodes: list[Episode]
    """One a row, over."""
    verdicts: list[Verdict]
    """One a row."""
    texts: list[str]
    """One a row: what the model wrote, and in an interaction what it was answered, behind `> `."""
    prompts: list[list[int]]
    """One a problem: token ids."""
    seconds: float
    """Spent on asking the environment and the verifier, within the call."""

    @property
    def lengths(self) -> Tensor:
        """[N] int64, tokens that the model drew."""
        return self.completions.sampled.sum(-1)


class Player:
    """Plays an environment's episodes with one model.

    Raises:
        UnknownTextError: the tokenizer lacks a token for what the environment says.
    """

    def __init__(self, environment: Environment, tokenizer: Tokenizer, judge: Judge) -> None:
        self.environment, self.tokenizer, self.judge = environment, tokenizer, judge
        self.ends = _ends(environment, tokenizer)
        with text_of("the environment"):
            for word in environment.words():
                tokenizer.encode(word)

    def play(
        self,
        engine: Engine,
        examples: Sequence[Example],
        *,
        keys: Sequence[int],
        samples: int,
        decode: DecodeConfig,
        training: bool,
        places: Sequence[Sequence[int]] | None = None,
        routing: bool = False,
    ) -> Played:
        """`samples` episodes of every problem; the other arguments as `Engine.complete`.

        Raises:
            Stopped: the process was asked to stop.
            DivergedError: the model gives NaN.
            UnknownTextError: the tokenizer lacks a token for what the environment says.
        """
        own = own_share(len(examples))
        table = _Table(self)
        for number in own:
            table.open(examples[number], keys[number], samples, training=training)
        prompts = [self._prompt_ids(episode) for episode in table.episodes[::samples]]
        talks = self.environment.turns > 1 or any(episode.budget is not None for episode in table.episodes)
        found = engine.complete(
            prompts,
            keys=[keys[number] for number in own],
            samples=samples,
            decode=decode,
            places=None if places is None else [places[number] for number in own],
            routing=routing,
            exchange=table if talks else None,
        )
        began = time.perf_counter()
        if not talks:
            table.hear(found)
        if len(own) < len(examples):
            found, heard = all_rows(found, table.heard, samples, self.tokenizer.pad_id)
            seconds, table = table.seconds, _Table(self, heard)
            for example, key in zip(examples, keys, strict=True):
                table.open(example, key, samples, training=training)
            table.hear(found)
            table.seconds = seconds
            prompts = [self._prompt_ids(episode) for episode in table.episodes[::samples]]
        for episode in table.episodes:
            episode.cut = bool(episode.turns[-1].reply)  # an answer to the last turn that there is did not fit
        return Played(
            completions=found,
            episodes=table.episodes,
            verdicts=[episode.verdict for episode in table.episodes],
            texts=[dialogue(episode) for episode in table.episodes],
            prompts=prompts,
            seconds=table.seconds + time.perf_counter() - began,
        )

    def longest(self, examples: Sequence[Example]) -> int:
        """Tokens of the longest prompt."""
        opened = [self.environment.open(example, self.assess, key=0, training=False) for example in examples]
        return max(len(self._prompt_ids(episode)) for episode in opened)

    def _prompt_ids(self, episode: Episode) -> list[int]:
        return [self.tokenizer.begin_id, *self.tokenizer.encode(episode.prompt)]

    def assess(self, example: Example, turn: Turn) -> Verdict:
        """What a turn is as an answer to the example."""
        if not turn.ended:
            return Verdict(Outcome.truncated, "no end mark")
        if not turn.clean:
            return Verdict(Outcome.malformed, "a special token before the end mark")
        return self.judge.verify(example, turn.text)


class _Table:
    """The episodes of one call, as the engine's exchange.

    Args:
        known: verdicts of every row, in the order in which they are asked for; None: the verifier is asked.
    """

    def __init__(self, player: Player, known: Heard | None = None) -> None:
        self.player, self.known = player, known
        self.episodes: list[Episode] = []
        self.heard: Heard = []
        """By row: what was found of its turns."""
        self.ends = player.ends
        self.seconds = 0.0

    def open(self, example: Example, key: int, samples: int, *, training: bool) -> None:
        """Episodes of one more problem."""
        for _ in range(samples):
            assess = self._assessor(len(self.episodes))
            self.episodes.append(self.player.environment.open(example, assess, key=key, training=training))

    def _assessor(self, place: int) -> Assess:
        """What the episode at a place asks; it does not hold the table, which holds the episode."""
        player, heard = self.player, []
        self.heard.append(heard)
        left = None if self.known is None else iter(self.known[place])

        def assess(example: Example, turn: Turn) -> Verdict:
            verdict = player.assess(example, turn) if left is None else next(left)
            heard.append(verdict)
            return verdict

        return assess

    def hear(self, found: Completions) -> None:
        """Take all turns of rows that are complete."""
        lengths, ends = found.lengths.tolist(), set() if self.ends is None else set(self.ends.nonzero()[:, 0].tolist())
        ends.add(self.player.tokenizer.end_id)
        drawn = found.turns.masked_fill(~found.sampled, -1).tolist()
        for row, (ids, turns) in enumerate(zip(found.tokens.tolist(), drawn, strict=True)):
            for turn in range(max(turns) + 1):
                said = [token for token, of in zip(ids[: lengths[row]], turns, strict=False) if of == turn]
                self.take(row, said, said[-1] in ends)

    def budget(self, place: int) -> int | None:
        return self.episodes[place].budget

    def reply(self, place: int, tokens: list[int], ended: bool) -> Reply | None:
        began = time.perf_counter()
        answer = self.take(place, tokens, ended)
        self.seconds += time.perf_counter() - began
        if answer is None:
            return None
        return Reply(tokens=self.player.tokenizer.reply_ids(answer.text), budget=answer.budget)

    def take(self, place: int, tokens: list[int], ended: bool) -> Answer | None:
        tokenizer = self.player.tokenizer
        said = tokens[:-1] if ended and tokens[-1] == tokenizer.end_id else tokens
        clean = tokenizer.special_ids.isdisjoint(said)
        return self.episodes[place].take(Turn(text=tokenizer.decode(said), ended=ended, clean=clean))


def dialogue(episode: Episode) -> str:
    """What was said, to be read."""
    if len(episode.turns) == 1:
        return episode.turns[0].text
    return "\n".join(part for turn in episode.turns for part in (turn.text, turn.reply and f"> {turn.reply}") if part)


def turns_of(episode: Episode) -> list[dict[str, Any]]:
    """What samples.jsonl says of the turns of an episode that has several: what kind of turn it is, what the model
    wrote, what that is, what it earned (0 where nothing is paid), and what it was answered."""
    if len(episode.turns) == 1:
        return []
    return [
        {
            "name": turn.name,
            "text": turn.text,
            "verdict": turn.verdict and turn.verdict.outcome.value,
            "reward": turn.reward,
            "reply": turn.reply,
        }
        for turn in episode.turns
    ]


def _ends(environment: Environment, tokenizer: Tokenizer) -> Tensor | None:
    """[V] bool, tokens that end a turn besides the end mark."""
    if not environment.stops:
        return None
    found = torch.zeros(tokenizer.vocab_size, dtype=torch.bool)
    found[[n for n in range(tokenizer.vocab_size) if set(environment.stops) & set(tokenizer.decode([n]))]] = True
    return found
