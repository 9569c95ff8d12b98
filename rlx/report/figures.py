"""Which figures a plan has, in the order of the page, each with a caption and the runs behind it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rlx.report import theme
from rlx.report.curves import loss_figure, rl_figure
from rlx.report.models import Model, read_models
from rlx.report.panels import compute_figure, outcome_figure, pass_figure, slice_figure
from rlx.report.read import Entry, Plan
from rlx.report.table import Table
from rlx.report.tables import slice_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGES = ("pretrain", "sft", "rl", "merge")
INTERVAL = "95 % intervals over problems, and over seeds where there are several"
SEEDS = "Lines are means over seeds, bands reach from the lowest seed to the highest."

PASS_CAPTION = f"pass@k by the unbiased estimator, with {INTERVAL}. k on a log scale."
COMPUTE_CAPTION = f"""Each point is a model; its FLOPs include rollouts, verification and every ancestor's. Bars are
{INTERVAL}. Grey lines lead from parent to child."""
SLICES_CAPTION = f"Accuracy for each value of each difficulty field of the task, with {INTERVAL}."
OUTCOMES_CAPTION = "Shares of all sampled completions, in percent; means over seeds."
LOSS_CAPTION = f"Left: by optimizer step. Right: by FLOPs, those of the run's ancestors included. {SEEDS}"
RL_CAPTION = f"What the runs logged at each step. {SEEDS}"


@dataclass(frozen=True)
class Drawing:
    """A figure with what the page says of it."""

    slug: str  # its file name and the prefix of its ids
    title: str
    caption: str
    figure: "Figure"
    entries: list[Entry]
    tables: Sequence[Table] = ()


def drawings(plan: Plan) -> Iterator[Drawing]:
    """Every figure for which the plan has data."""
    looks = theme.looks(_names(plan))
    models = read_models(plan)
    for task in dict.fromkeys(model.task for model in models):
        yield from _evaluated(plan, [model for model in models if model.task == task], looks, task)
    yield from _trained(plan, looks)


def _names(plan: Plan) -> list[str]:
    """Names that get a look: the models first, evaluations of something outside the plan last."""
    names = [name for name, entries in plan.groups.items() if entries[0].stage != "eval"]
    return list(dict.fromkeys([*names, *(model.name for model in read_models(plan))]))


def _evaluated(plan: Plan, models: list[Model], looks: dict[str, theme.Look], task: str) -> Iterator[Drawing]:
    of, tail = (f" on {task}" if task else ""), "".join(f"-{word}" for word in _slug(task))
    entries = [entry for model in models for entry in model.evals]
    found = (
        ("pass-at-k", f"Problems solved with k samples{of}", PASS_CAPTION, partial(pass_figure, models, looks)),
        (
            "accuracy-flops",
            f"Accuracy against compute{of}",
            COMPUTE_CAPTION,
            partial(compute_figure, plan, models, looks),
        ),
        ("slices", f"Accuracy by difficulty{of}", SLICES_CAPTION, partial(slice_figure, models, looks)),
        ("outcomes", f"What became of the completions{of}", OUTCOMES_CAPTION, partial(outcome_figure, models)),
    )
    for slug, title, caption, draw in found:
        with theme.applied(slug + tail):
            figure = draw()
        if figure is not None:
            tables = _slice_tables(models) if slug == "slices" else []
            yield Drawing(slug + tail, title, caption, figure, entries, tables)


def _slice_tables(models: list[Model]) -> list[Table]:
    names = dict.fromkeys(name for model in models for name in model.difficulties)
    return [slice_table(models, name) for name in names]


def _trained(plan: Plan, looks: dict[str, theme.Look]) -> Iterator[Drawing]:
    stages = dict.fromkeys([*STAGES, *(entry.stage for entry in plan.entries)])
    for stage in (stage for stage in stages if stage not in ("rl", "eval", "report", "study")):
        slug = "-".join(("loss", *_slug(stage)))
        with theme.applied(slug):
            figure = loss_figure(plan, stage, looks)
        if figure is not None:
            entries = [entry for entry in plan.entries if entry.stage == stage]
            yield Drawing(slug, f"Loss in {stage or 'training'}", LOSS_CAPTION, figure, entries)
    with theme.applied("rl"):
        figure = rl_figure(plan, looks)
    if figure is not None:
        entries = [entry for entry in plan.entries if any("reward" in row for row in entry.run.rows)]
        yield Drawing("rl", "Reinforcement learning", RL_CAPTION, figure, entries)


def _slug(text: str) -> list[str]:
    """The words of a text that may stand in a file name."""
    return "".join(letter.lower() if letter.isascii() and letter.isalnum() else " " for letter in text).split()
