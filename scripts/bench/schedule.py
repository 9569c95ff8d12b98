"""Predicted lengths on traces of a trained model, and what a scheduler makes of them in the engine.

python scripts/bench/schedule.py CHECKPOINT [--task countdown] [--max-tokens 1024] [--problems 160] [--new 24]
    [--samples 4] [--rows 32]

CHECKPOINT is one of a run that pretrained on countdown's search traces, whose lengths are hard to foresee, or on copies
(--task copy --max-tokens 64), whose lengths the prompt tells; for instance the last of

rlx stage=pretrain task=countdown task.numbers=3 task.trace=dfs tokenizer=word scale=cpu optim=muon optim.lr=1e-2 \
    stage.steps=450 stage.row_tokens=1024 stage.batch_tokens=8192 corpus.max_tokens=1024
rlx stage=pretrain task=copy task.min_length=2 task.max_length=60 scale=cpu optim=muon optim.lr=1e-2 \
    stage.steps=250 stage.row_tokens=256 stage.batch_tokens=4096

1. Mean absolute error (tokens) of the remaining length on held-out requests, one sample a problem: the network of each
   layer, filtered and not; the best constant that knows the age; and one that reads the prompt's end alone, less the
   age. The same network where steps, not requests, are parted: the leak.
2. `new` other problems with several samples each, in fewer rows than samples: when a sample is over on average, and
   the last of all, in steps, by first come, by the network's predictions, and by lengths that are known. All are there
   when it begins, as in a rollout; the longest first is what its end asks for. Milliseconds a step beside it.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import _results
import torch
from torch import Tensor

from rlx.decoding.base import Scheduling
from rlx.decoding.engine import Engine
from rlx.decoding.lengths import Forecast, LengthProbe, Seen, filtered, middle_layer
from rlx.decoding.sample import SampleConfig
from rlx.stages.start import load_start
from rlx.tasks.copy import CopyConfig
from rlx.tasks.countdown import CountdownConfig, Trace
from rlx.types import Split

TASKS = {
    "countdown": CountdownConfig(numbers=3, trace=Trace.dfs),
    "copy": CopyConfig(min_length=2, max_length=60),
}
FIT, AGES = 2000, 32
"""Optimizer steps on all rows of the requests learnt from; tokens of an age of the constant."""


class Counted(Engine):
    """Counts its steps, and when each sample was over."""

    steps = 0

    def _step(self, *given: Any) -> None:
        self.steps += 1
        super()._step(*given)

    def is_over(self, place: Tensor, tokens: Tensor, drawn: Tensor) -> Tensor:
        ended = super().is_over(place, tokens, drawn)
        over = (ended | (drawn == self.most)) & (self.over[place] < 0)
        self.over[place[over]] = self.steps
        return ended

    def begin(self, count: int, most: int) -> None:
        self.steps, self.most, self.over = 0, most, torch.full((count + 1,), -1)


class Known(Forecast):
    """Lengths that are known, times `sign`."""

    knows = True  # pyright: ignore[reportAssignmentType]
    lengths: Tensor
    sign = 1

    def begin(self, place: Tensor, states: Tensor) -> None:
        self.left[place] = self.sign * self.lengths[place].float()
        self.first[place] = self.lengths[place].float()

    def go_on(self, place: Tensor, drawn: Tensor, states: Tensor) -> None:
        own = place < self.idle
        self.left[place[own]] = self.sign * (self.lengths[place[own]] - drawn[own]).float()


def prompts(start: Any, task: Any, first: int, count: int) -> list[list[int]]:
    examples = [task.example(Split.val, first + n) for n in range(count)]
    return [[start.tokenizer.begin_id, *start.tokenizer.encode(example.prompt)] for example in examples]


@torch.no_grad()
def traces(model: Any, given: list[list[int]], done: Any) -> list[Seen]:
    """Rows of every layer: the states of all samples, one a problem, at all of their tokens but the last."""
    found: list[list[Seen]] = [[] for _ in model.blocks]
    for number, prompt in enumerate(given):
        length = int(done.lengths[number])
        tokens = torch.tensor([prompt + done.tokens[number, : length - 1].tolist()])
        drawn = torch.arange(length)
        for layer in range(len(model.blocks)):
            states = model(tokens, look=layer)[1].looked[0, len(prompt) - 1 :]
            found[layer].append(
                Seen(
                    states=states, left=length - drawn, drawn=drawn, predicted=torch.zeros(length),
                    request=torch.full((length,), number),
                )
            )  # fmt: skip
    return [Seen.joined(parts) for parts in found]


def fitted(rows: Seen, most: int) -> LengthProbe:
    probe = LengthProbe(rows.states.shape[1], most, seed=0, device=torch.device("cpu"))
    probe.kept = rows
    probe.fit(FIT)
    return probe


@torch.no_grad()
def raw_and_filtered(probe: LengthProbe, test: Seen) -> tuple[float, float]:
    """Mean absolute errors of what each state says alone, and of the beliefs."""
    now = torch.softmax(probe.logits(test.states), -1)
    raw, beliefs = probe.mean(now), now.clone()
    for row in range(1, len(test)):
        if test.request[row] == test.request[row - 1]:
            beliefs[row] = filtered(beliefs[row - 1 : row], now[row : row + 1], probe.bin)[0]
    return error(raw, test), error(probe.mean(beliefs), test)


def error(predicted: Tensor, test: Seen) -> float:
    return (predicted - test.left).abs().mean().item()


@torch.no_grad()
def prompt_alone(probe: LengthProbe, test: Seen) -> Tensor:
    """What the state at the prompt's end says, less the age."""
    first = test.rows(test.drawn == 0)
    whole = torch.zeros(int(test.request.max()) + 1)
    whole[first.request] = probe.mean(torch.softmax(probe.logits(first.states), -1))
    return (whole[test.request] - test.drawn).clamp(min=0)


def of_age(train: Seen, test: Seen) -> Tensor:
    """The median of what was left at that age."""
    age, most = train.drawn // AGES, int(test.drawn.max()) // AGES
    medians = [train.left[age == n].float() for n in range(most + 1)]
    last, found = 0.0, []
    for left in medians:
        last = float(left.median()) if len(left) else last
        found.append(last)
    return torch.tensor(found)[test.drawn // AGES]


def errors(layers: list[Seen], most: int) -> tuple[list[dict[str, Any]], LengthProbe]:
    """The table of errors, and the network of the middle layer."""
    rows, chosen = [], None
    for layer, seen in enumerate(layers):
        train, test = seen.parted(0.8)
        probe = fitted(train, most)
        raw, beliefs = raw_and_filtered(probe, test)
        rows.append({"layer": layer, "predictor": "state", "mae": raw})
        rows.append({"layer": layer, "predictor": "filtered", "mae": beliefs})
        if layer != middle_layer(len(layers)):
            continue
        chosen = probe
        every = torch.arange(len(seen)) % 5 == 0
        leak = fitted(seen.rows(~every), most)
        with torch.no_grad():
            found = leak.mean(torch.softmax(leak.logits(seen.rows(every).states), -1))
        rows.append({"layer": layer, "predictor": "state, split by step", "mae": error(found, seen.rows(every))})
        alone = fitted(train.rows(train.drawn == 0), most)
        rows += [
            {"layer": layer, "predictor": "prompt's end less age", "mae": error(prompt_alone(alone, test), test)},
            {"layer": "", "predictor": "constant of the age", "mae": error(of_age(train, test), test)},
        ]
    assert chosen is not None
    return rows, chosen


def scheduled(start: Any, probe: LengthProbe, given: list[list[int]], samples: int, rows: int) -> list[dict[str, Any]]:
    found, most = [], probe.most

    def run(name: str, scheduler: Scheduling, kind: Any = None, preempt: float = 0.8) -> Tensor:
        probe.forecast = lambda requests: (kind or Forecast)(probe, requests)
        engine = Counted(start.model, end_id=start.tokenizer.end_id, pad_id=start.tokenizer.pad_id, lengths=probe)
        engine.begin(len(given) * samples, most)
        began = time.perf_counter()
        decode = SampleConfig(max_tokens=most, rows=rows, scheduler=scheduler, preempt=preempt)
        done = engine.complete(given, keys=list(range(len(given))), samples=samples, decode=decode)
        seconds = time.perf_counter() - began
        over = engine.over[:-1].float()
        found.append(
            {"scheduler": name, "mean_end": over.mean().item(), "last_end": over.max().item(), "steps": engine.steps,
             "preempted": done.preempted, "ms_a_step": 1e3 * seconds / engine.steps}
        )  # fmt: skip
        return done.lengths

    lengths = run("first come", Scheduling.fcfs)
    run("trail, C=0.8", Scheduling.trail)
    run("trail, C=0", Scheduling.trail, preempt=0.0)
    shortest = type("Shortest", (Known,), {"lengths": lengths})
    run("known lengths, shortest first", Scheduling.trail, shortest)
    longest = type("Longest", (Known,), {"lengths": lengths, "sign": -1})
    run("known lengths, longest first", Scheduling.trail, longest, preempt=0.0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--task", choices=TASKS, default="countdown")
    parser.add_argument("--problems", type=int, default=160)
    parser.add_argument("--new", type=int, default=24)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=1024)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = load_start(arguments.checkpoint)
    task = TASKS[arguments.task].build()
    start.model.eval()
    given = prompts(start, task, 0, arguments.problems)
    decode = SampleConfig(max_tokens=arguments.max_tokens, rows=64)
    engine = Engine(start.model, end_id=start.tokenizer.end_id, pad_id=start.tokenizer.pad_id)
    done = engine.complete(given, keys=list(range(len(given))), samples=1, decode=decode)
    print(f"{len(given)} traces of {done.lengths.float().mean():.0f} tokens, {done.finished.float().mean():.2f} ended")
    rows, probe = errors(traces(start.model, given, done), arguments.max_tokens)
    print(_results.table(rows), flush=True)
    new = prompts(start, task, arguments.problems, arguments.new)
    table = scheduled(start, probe, new, arguments.samples, arguments.rows)
    print(_results.table(table))
    _results.append(
        "schedule", [*rows, *table], task=arguments.task, problems=arguments.problems, new=arguments.new,
        samples=arguments.samples, side_by_side=arguments.rows, max_tokens=arguments.max_tokens,
        mean_length=done.lengths.float().mean().item(), threads=1,
    )  # fmt: skip


if __name__ == "__main__":
    main()
