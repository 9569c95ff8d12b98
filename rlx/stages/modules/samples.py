"""Rows of samples.jsonl: completions drawn for training, and those of a few held-out problems that are followed.

The followed problems are completed with the same random numbers at every validation, so that what differs from step to
step is the policy. Their rows wait until the measurements of a step are whole: a stop that abandons one leaves none.
"""

from dataclasses import dataclass, field
from typing import Any

from rlx.evaluation.episodes import turns_of
from rlx.runs.run import Run
from rlx.stages.modules.rollouts import Rollout

SAMPLES_LOGGED = 2
"""Groups an iteration whose first completion is kept, every `SAMPLES_EVERY` iterations."""
SAMPLES_EVERY = 10


@dataclass(slots=True)
class SampleLog:
    """Writes the rows of a run."""

    run: Run
    followed: int
    """Held-out problems whose first completion is kept at every validation, and of the start."""
    waiting: list[dict[str, Any]] = field(default_factory=list)
    """Rows of followed problems of a measurement that is not whole yet."""

    def drawn(self, rollout: Rollout, step: int) -> None:
        """Write rows of a rollout that was trained on, of the first step and of every tenth."""
        if step % SAMPLES_EVERY and step != 1:
            return
        for row in self.first_of_groups(rollout, SAMPLES_LOGGED, step, "drawn"):
            self.run.samples.append(row)

    def follow(self, rollout: Rollout, step: int) -> None:
        """Take the followed problems of a validation after a step; 0 is the start."""
        self.waiting = self.first_of_groups(rollout, self.followed, step, "followed")

    def write(self) -> None:
        """Write what waits."""
        for row in self.waiting:
            self.run.samples.append(row)
        self.waiting = []

    def first_of_groups(self, rollout: Rollout, count: int, step: int, kind: str) -> list[dict[str, Any]]:
        """What samples.jsonl says of the first completion of each of the first `count` problems; `kind` is drawn (for
        training) or followed (held out: the reward is the verifier's alone). One that has several turns tells each."""
        rewards = rollout.batch.returns().tolist()
        rows = []
        for number, example in enumerate(rollout.examples[:count]):
            row = number * rollout.group_size
            verdict, episode = rollout.verdicts[row], rollout.episodes[row]
            turns = turns_of(episode)
            rows.append(
                {
                    "step": step,
                    "kind": kind,
                    "id": example.id,
                    "prompt": episode.prompt,
                    "completion": rollout.texts[row],
                    "verdict": verdict.outcome.value,
                    "detail": verdict.detail,
                    "reward": rewards[row],
                    "parts": reward_parts(rollout, row),
                    "length": int(rollout.lengths[row]),
                    "finished": bool(rollout.batch.finished[row]),
                    **({"turns": turns} if turns else {}),
                }
            )
        return rows


def reward_parts(rollout: Rollout, row: int) -> dict[str, float]:
    """What the reward of a row is the sum of, by name; `verifier` is what its turns earned."""
    parts = {name: float(part[row]) for name, part in rollout.parts.items()}
    return {"verifier": sum(turn.reward for turn in rollout.episodes[row].turns), **parts}
