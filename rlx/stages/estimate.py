"""What runs that were not started will take: operations, as their ledgers will count them, and time.

1. A model is built without numbers, so that one of any size costs milliseconds. What a stage does with it is said by
   the stage (`RunStageConfig.cost`).
2. Lengths are those of the first examples of `train`, which `val` is drawn like, or of `test`; where they are packed,
   the packer packs them.
3. A model that was trained writes completions as long as the task's solutions. Fresh weights draw evenly, so that each
   token ends the completion with probability 1 / V, and repeat themselves without end where the likeliest is taken.
4. In rl `SIGNAL` of the groups have a signal, where the others are left out of the update.
5. A parent whose best step is taken stands at its last one.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlx.batches import Extent
from rlx.config import InitState
from rlx.data.tokenizers.base import text_of
from rlx.errors import RlxError
from rlx.options import option_of
from rlx.runs.files import MODEL_TOKENIZER
from rlx.runs.references import Reference, parse_reference, resolve
from rlx.stages.base import RunStageConfig
from rlx.stages.lengths import Lengths
from rlx.stages.material import material_of, source_of
from rlx.stages.pace import GUESS, Pace
from rlx.types import Split

if TYPE_CHECKING:
    import numpy as np

    from rlx.adapters.base import AdapterConfig
    from rlx.config import Config
    from rlx.data.tokenizers.base import Tokenizer
    from rlx.models.base import ModelConfig
    from rlx.models.size import Operations

MOST_ROWS = 8
"""Rows that they have at most: more are filled alike."""
SIGNAL = 0.5
"""Share of groups whose rewards differ: most of them where the policy is right half the time, few where it never is."""
NOT_OF_SIZE = frozenset({"init_std"})
"""Fields of every model that change no shape, besides its `tensor_free` ones."""


class Completions(NamedTuple):
    """Completions of some problems."""

    prefilled: Extent
    """What the engine passes of prompts."""
    decoded: Extent
    """What it passes one token a step."""
    rows: Extent
    """Of a pass over all prompts and completions."""
    tokens: float
    """Tokens drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a run is expected to spend itself: operations by purpose, as in `rlx.runs.ledger`."""

    train: float = 0.0
    rollout: float = 0.0
    eval: float = 0.0
    decoding: float = 0.0
    """Of these, what the engine spends on decoding, which is slower than passes over whole rows."""
    tokens: float = 0.0
    """As run.json counts them: trained on, in rl and eval drawn."""
    steps: int = 0
    """Steps of the run itself."""

    @property
    def flops(self) -> float:
        """All operations."""
        return self.train + self.rollout + self.eval

    @property
    def charged(self) -> float:
        """Operations that a budget counts."""
        return self.train + self.rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is told of a run beforehand."""

    cost: Cost | None = None
    """None where nothing can be told."""
    seconds: float | None = None
    """In a process that has started."""
    alike: int = 0
    """Finished runs that the time is told by; 0: it is a guess."""
    why: str = ""
    """Why nothing can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outset:
    """Where a run that was not started will start: the shape of its model, and what is known around it."""

    model: "ModelConfig"
    shape: "Shape"
    tokenizer: "Tokenizer"
    trained: bool
    """The weights are not fresh."""
    made: int = 0
    """Steps behind the weights that are counted on (init.state=all)."""
    lengths: Lengths
    planned: Mapping[str, Cost] = field(default_factory=dict)
    """Runs of the plan that come before, by directory."""

    def forward(self, extent: Extent) -> float:
        """Operations of a forward pass over whole rows."""
        return self.shape.operations.forward(extent)

    def training(self, extent: Extent) -> float:
        """Operations of a forward and a backward pass."""
        return self.shape.operations.training(extent)

    def decoding(self, drawn: Completions) -> float:
        """Operations of the engine."""
        operations = self.shape.operations
        return operations.forward(drawn.prefilled) + operations.forward(drawn.decoded, cached=True)

    def charged(self, reference: str) -> float | None:
        """What a planned run is charged with; None for one that is not of the plan."""
        cost = self.planned.get(_place(parse_reference(reference)))
        return None if cost is None else cost.charged

    def batch(self, config: "Config", split: Split, *, tokens: int, length: int) -> Extent:
        """Of the tokens that are not padding of a batch of `tokens` in rows of `length`.

        Raises:
            ConfigError: a document is longer than a row.
        """
        rows = max(1, tokens // length)
        found = self.lengths.packed(config, self.tokenizer, split, rows=min(rows, MOST_ROWS), length=length)
        return found * (rows / min(rows, MOST_ROWS))

    def completions(
        self,
        config: "Config",
        split: Split,
        *,
        problems: int,
        samples: int,
        again: bool = False,
        greedy: bool = False,
    ) -> Completions:
        """Of `problems` problems `samples` completions each.

        Args:
            again: they are trained on: problems are drawn round and round; else there are no more than the split has.
            greedy: the most likely token is taken.
        """
        assert config.task is not None and config.decode is not None and config.environment is not None
        task, prompt, solution = self.lengths.problems(
            config.task, self.tokenizer, split, config.environment, training=again
        )
        size, limit = task.size(split), config.decode.max_tokens
        if size is not None and not again:
            problems = min(problems, size)
        if greedy and not self.trained:
            drawn = prompt * 0 + limit
        else:
            drawn = (solution if self.trained else _evenly(len(prompt), self.tokenizer.vocab_size)).clip(max=limit)
        whole, rows, share = prompt + drawn, problems * samples, 1 / len(prompt)
        return Completions(
            prefilled=_spans(1, prompt) * (problems * share),
            decoded=_spans(prompt + 1, whole - 1) * (rows * share),  # the last token drawn is not passed any more
            rows=_spans(1, whole) * (rows * share),
            tokens=rows * float(drawn.mean()),
        )

    def evaluation(self, config: "Config", split: Split, *, problems: int, samples: int) -> tuple[float, float]:
        """Operations of an evaluation: a greedy completion and `samples` drawn ones a problem; and tokens drawn."""
        best = self.completions(config, split, problems=problems, samples=1, greedy=True)
        drawn = self.completions(config, split, problems=problems, samples=samples)
        return self.decoding(best) + self.decoding(drawn), drawn.tokens

    def evaluations(self, config: "Config", steps: int) -> float:
        """Operations of the evaluations on the way (eval.every) of a run that makes `steps` steps."""
        each = config.eval
        times = measurements(self.made, self.made + steps, each.every)
        if not times:
            return 0.0
        return times * self.evaluation(config, each.split, problems=each.problems, samples=each.samples)[0]

    def steps(self, asked: int | None, budget: float | None, each: float) -> int:
        """Steps that a run makes: up to the `asked`-th, or until steps of `each` operations reach the budget."""
        left = math.inf if asked is None else max(0, asked - self.made)
        return int(min(left, math.inf if budget is None else max(1, math.ceil(budget / each))))

    def validations(self, steps: int, every: int) -> int:
        """How often the held-out measure is taken by a run that makes `steps` steps: after its very first one too."""
        first = self.made == 0 and every > 1 and steps > 1
        return measurements(self.made, self.made + steps, every) + first


def measurements(first: int, last: int, every: int) -> int:
    """How many of the steps after `first` up to `last` are measured: every `every`-th and the last; 0: none."""
    if not every or last <= first:
        return 0
    return last // every - first // every + (last % every > 0)


def _evenly(count: int, vocab_size: int) -> "np.ndarray":
    """Lengths [N] that stand for completions whose every token is the end mark with probability 1 / V: quantiles."""
    import numpy as np

    share = (np.arange(count) + 0.5) / count
    return np.ceil(np.log1p(-share) / np.log1p(-1 / vocab_size))


def _spans(first: "np.ndarray | int", last: "np.ndarray") -> Extent:
    import torch

    ends = torch.from_numpy(last).long()
    return Extent.spans(torch.ones_like(ends) if isinstance(first, int) else torch.from_numpy(first).long(), ends)


class Estimator:
    """Estimates runs of a plan, which are given one by one, parents first."""

    def __init__(self, runs_dir: str | Path) -> None:
        self.pace = Pace(runs_dir)
        self.lengths = Lengths()
        self._costs: dict[str, Cost] = {}
        self._outsets: dict[str, Outset] = {}
        self._shapes: dict[str, Shape] = {}
        self._tokenizers: dict[str, Tokenizer] = {}
        self._folders: dict[str, Outset] = {}

    def estimate(self, place: str | Path, config: "Config") -> Estimate:
        """What the run at `place` will take when it is made from its first step on.

        A parent that was given before counts as planned, any other is looked up on the disk.
        """
        stage = config.stage
        if not isinstance(stage, RunStageConfig):
            return Estimate(why="it is no run")
        try:
            with text_of(source_of(config)):
                outset = self._outset(config, stage)
                self._outsets[os.path.abspath(place)] = outset
                outset = self._adapted(config, outset)
                cost = stage.cost(config, outset)
        except RlxError as error:
            return Estimate(why=str(error))
        if cost is None:
            return Estimate(why=f"stage={option_of(stage).name} has no estimate")
        self._costs[os.path.abspath(place)] = cost
        size = outset.shape.parameters
        seconds, alike = self.pace.seconds(config, place, size, flops=cost.flops, decoding=cost.decoding)
        return Estimate(cost=cost, seconds=seconds, alike=alike)

    def _outset(self, config: "Config", stage: RunStageConfig) -> Outset:
        """
        Raises:
            RlxError: the parent is neither planned nor on the disk, or cannot be read.
        """
        parents = [parse_reference(reference) for reference in stage.parents(config)]
        if not parents:
            assert config.model is not None and config.tokenizer is not None
            name = f"{config.tokenizer!r} {_material(config)}"
            if name not in self._tokenizers:
                self._tokenizers[name] = config.tokenizer.build(material_of(config))
            return self._start(config.model, self._tokenizers[name], trained=False)
        start = self._of(parents[0])
        if config.init.grow is not None:
            from rlx.models.growth import grown_config

            assert config.model is not None
            grown = grown_config(start.model, config.model.n_layers, config.init.grow)
            start = self._start(grown, start.tokenizer, trained=True)
        if config.tokenizer is not None and config.tokenizer.extend:
            tokenizer = self._extended(start.tokenizer, config)
            start = replace(start, tokenizer=tokenizer, shape=self._shape(start.model, tokenizer.vocab_size))
        return start if config.init.state is InitState.all else replace(start, made=0)

    def _extended(self, tokenizer: "Tokenizer", config: "Config") -> "Tokenizer":
        """A parent's tokenizer with what the run needs and it lacks."""
        from rlx.data.tokenizers.extension import extended, missing

        name = f"{id(tokenizer)} {_material(config)}"  # all are kept here: no two have one id
        if name not in self._tokenizers:
            self._tokenizers[name] = extended(tokenizer, missing(tokenizer, material_of(config)))
        return self._tokenizers[name]

    def _of(self, parent: Reference) -> Outset:
        """Where a child of `parent` starts, with the steps that the parent has made."""
        place = _place(parent)
        if place not in self._outsets:
            if parent.text not in self._folders:
                self._folders[parent.text] = self._on_disk(resolve(parent))
            return self._folders[parent.text]
        outset, cost = self._outsets[place], self._costs.get(place, Cost())
        made = parent.step if parent.step is not None else outset.made + cost.steps
        return replace(outset, made=made, trained=outset.trained or cost.train > 0)

    def _on_disk(self, folder: Path) -> Outset:
        from rlx.data.tokenizers.base import Tokenizer
        from rlx.models.folder import config_of, is_foreign
        from rlx.runs.model_directory import read_model_config, read_token_settings

        description, path = read_model_config(folder), folder / MODEL_TOKENIZER
        model, vocab_size = config_of(description, folder)
        name = f"{description.get('tokens')} {vocab_size} {path.read_text() if path.is_file() else ''}"
        if name not in self._tokenizers:
            if is_foreign(description):
                found = Tokenizer.load_foreign(path, read_token_settings(folder), vocab_size)
            else:
                found = Tokenizer.load(path, description.get("tokens"), vocab_size)
            self._tokenizers[name] = found
        made = parse_reference(str(folder)).step or 0
        return self._start(model, self._tokenizers[name], trained=True, made=made)

    def _adapted(self, config: "Config", outset: Outset) -> Outset:
        """The outset of a run with its adapter, which its children know as part of the weights."""
        if config.adapter is None:
            return outset
        return replace(outset, shape=self._shape(outset.model, outset.tokenizer.vocab_size, config.adapter))

    def _shape(self, model: "ModelConfig", vocab_size: int, adapter: "AdapterConfig | None" = None) -> "Shape":
        """What is read of the model, once a shape."""
        unread = model.tensor_free | NOT_OF_SIZE
        sizes = {f.name: getattr(model, f.name) for f in fields(model) if f.name not in unread}
        key = f"{type(model).__name__} {sizes} {vocab_size} {adapter}"
        if key not in self._shapes:
            self._shapes[key] = shape_of(model, vocab_size, adapter)
        return self._shapes[key]

    def _start(self, model: "ModelConfig", tokenizer: "Tokenizer", *, trained: bool, made: int = 0) -> Outset:
        return Outset(
            model=model,
            shape=self._shape(model, tokenizer.vocab_size),
            tokenizer=tokenizer,
            trained=trained,
            made=made,
            lengths=self.lengths,
            planned=self._costs,
        )


def basis(estimates: Iterable[Estimate]) -> str:
    """What the times of several runs are told by, in a few words, and why of some there is none."""
    told, untold = [], []
    for estimate in estimates:
        (untold if estimate.seconds is None else told).append(estimate)
    guessed = sum(not estimate.alike for estimate in told)
    parts = [f"times of {guessed} of {len(told)} are {GUESS}"] if guessed else []
    parts += ["times by finished runs like them"] if told and not guessed else []
    parts += [f"nothing is known of {len(untold)}: {untold[0].why}"] if untold else []
    return "; ".join(parts)


def _material(config: "Config") -> str:
    """What a vocabulary is made of, with one seed for all, as `Lengths` has it."""
    task = None if config.task is None else replace(config.task, seed=0)
    return f"{task!r} {config.corpus!r}"


def _place(reference: Reference) -> str:
    return os.path.abspath(reference.run)


@dataclass(frozen=True, slots=True)
class Shape:
    """What is read of a model of some size."""

    parameters: int
    operations: "Operations"


def shape_of(model: "ModelConfig", vocab_size: int, adapter: "AdapterConfig | None" = None) -> Shape:
    """Parameters, and what counts operations."""
    from rlx.models.adapters import without_numbers
    from rlx.models.size import Operations, parameter_count

    decoder = without_numbers(model, vocab_size)
    if adapter is not None:
        adapter.attach(decoder)
    return Shape(parameter_count(decoder), Operations(decoder))
