"""Rollouts of several processes are those of one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from rlx.data.tokenizers.char import CharConfig
from rlx.decoding.base import Scheduling
from rlx.decoding.completions import Completions
from rlx.decoding.engine import Engine
from rlx.decoding.lengths import LengthProbe
from rlx.decoding.sample import SampleConfig
from rlx.environments.multi_attempt import MultiAttemptConfig
from rlx.environments.single import Single
from rlx.evaluation.episodes import Played, Player
from rlx.evaluation.judge import Judge
from rlx.models.moe import MoeConfig
from rlx.tasks.arithmetic import ArithmeticConfig
from rlx.types import Split, Verdict

TOKENIZER = CharConfig().build()
TASK = ArithmeticConfig(max_digits=2).build()


class Counting(Judge):
    """Counts what it is asked."""

    asked = 0

    def verify(self, example: Any, text: str) -> Verdict:
        self.asked += 1
        return super().verify(example, text)


def play(problems: int, talks: bool) -> tuple[Played, int]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = MoeConfig(d_model=32, n_layers=1, n_heads=2, init_std=0.3).build(TOKENIZER.vocab_size)
    environment = MultiAttemptConfig(attempts=3, turn_tokens=4).build() if talks else Single()
    judge = Counting(TASK)
    lengths = LengthProbe(32, 60, seed=1, device=torch.device("cpu"))
    lengths.made = 1
    engine = Engine(model, end_id=TOKENIZER.end_id, pad_id=TOKENIZER.pad_id, lengths=lengths)
    examples = [TASK.example(Split.train, number) for number in range(problems)]
    played = Player(environment, TOKENIZER, judge).play(
        engine, examples, keys=[7 * n for n in range(problems)], samples=3, training=True, routing=True,
        decode=SampleConfig(max_tokens=60, rows=4, scheduler=Scheduling.trail),
    )  # fmt: skip
    return played, judge.asked


def plain(played: Played) -> dict[str, Any]:
    done = played.completions
    names = ("tokens", "lengths", "finished", "sampled", "turns", "logprobs", "routing")
    return {
        **{name: getattr(done, name) for name in names},
        "passed": (done.prefilled.plain(), done.decoded.plain()),
        "texts": played.texts,
        "prompts": played.prompts,
        "verdicts": [(v.outcome.value, v.detail, dict(v.measures)) for v in played.verdicts],
        "turns of": [[(t.text, t.ended, t.clean, t.name, t.reply) for t in e.turns] for e in played.episodes],
        "seen": seen_of(done),
        "cut": [episode.cut for episode in played.episodes],
    }


def seen_of(done: Completions) -> dict[str, Any]:
    """What lengths are learnt from, sample by sample; it is chosen by the samples' keys and how many there are."""
    seen = done.seen
    assert seen is not None and len(seen) > 0
    order = sorted(range(len(seen)), key=lambda row: (int(seen.request[row]), int(seen.drawn[row])))
    return {"rows": [(int(seen.request[n]), int(seen.drawn[n]), int(seen.left[n])) for n in order],
            "predictions": done.predictions}  # fmt: skip


def work(rank: int, size: int, folder: str, problems: int, talks: bool) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    played, asked = play(problems, talks)
    torch.save({**plain(played), "asked": asked}, f"{folder}/{rank}.pt")
    dist.barrier()  # nobody leaves while another still reads from it
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "problems", "talks"), [(2, 5, True), (3, 4, False), (3, 2, True)])
def test_all_ranks_get_what_one_process_gets(size: int, problems: int, talks: bool, tmp_path: Path) -> None:
    started: Callable[..., Any] = multiprocessing.spawn
    started(work, args=(size, str(tmp_path), problems, talks), nprocs=size, join=True)
    played, asked = play(problems, talks)
    expected, counts = plain(played), []
    for rank in range(size):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        counts.append(found.pop("asked"))
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                width = min(value.shape[1:2] + found[name].shape[1:2], default=None)
                for mine, theirs in ((found[name], value),):
                    mine, theirs = (x if width is None else x[:, :width] for x in (mine, theirs))
                    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
            else:
                assert found[name] == value, name
    assert sum(counts) == (asked if problems >= size else size * asked), "each turn is verified once"
