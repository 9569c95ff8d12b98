"""Which figures a plan has, in the order of the page, each with a caption and the runs behind it.

Of many arms or models a figure names the best and shows the others in grey, or leaves them to the tables; it says so.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from rlx.report import theme
from rlx.report.alike import cka_figure
from rlx.report.arms import MOST_NAMED, Choice, chosen, noted, trained
from rlx.report.curves import MOST_POINTS, training_figure
from rlx.report.effects import effects_figure
from rlx.report.labels import differing, stage_order
from rlx.report.merges import WEIGHT, is_measured, read_merges
from rlx.report.metrics import AXES, CLIPS, SHARES, panels
from rlx.report.models import Model, read_models
from rlx.report.panels import compute_figure, outcome_figure, pass_figure, slice_figure
from rlx.report.read import Entry, Plan
from rlx.report.shares import MOST_ARMS, shares_figure
from rlx.report.table import Table
from rlx.report.tables import slice_table
from rlx.report.ways import chosen_lines, said_of, way_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_MODELS = 16
NOISY_POINTS = 40  # of a line of rl: what an iteration draws is noise, which the means of more of them take away
INTERVAL = "95 % intervals over problems, and over seeds where there are several"
SEEDS = "Lines are means over seeds, bands reach from the lowest seed to the highest."

PASS_CAPTION = f"pass@k by the unbiased estimator, with {INTERVAL}. k on a log scale."
COMPUTE_CAPTION = f"""Each point is a model; its FLOPs include rollouts, verification and every ancestor's. Bars are
{INTERVAL}. Grey lines lead from parent to child."""
SLICES_CAPTION = f"Accuracy for each value of each difficulty field of the task, with {INTERVAL}."
OUTCOMES_CAPTION = "Shares of all sampled completions, in percent; means over seeds."
SHARES_CAPTION = "Shares of the completions that an iteration draws, in percent."
EFFECTS_CAPTION = """The last value of every arm, a mean over its seeds, by each thing that arms differ in. Lines
lead through the means of the arms that share a value."""
WAY, CKA, DIFFERENCES = "merge-way", "merge-cka", "merge-differences"
WAY_CAPTION = """What merges get on held-out problems and documents, against merge.weight: the share of the second
parent. Faint ends of the lines lead to the parents, marked at 0 and 1, which not every method gives back there."""
CKA_CAPTION = """Linear CKA (unbiased) of the parents' activations behind each layer, on held-out documents: 1 where
they are equal but for a rotation, a scale and a shift."""
AXIS_CAPTIONS = {
    "step": "Against optimizer steps.",
    "tokens": "Against the tokens that the run itself used.",
    "flops": "Against FLOPs, rollouts and those of the run's ancestors included.",
}


@dataclass(frozen=True)
class Drawing:
    """A figure with what the page says of it."""

    slug: str  # its file name and the prefix of its ids
    title: str
    caption: str
    figure: "Figure"
    entries: list[Entry]
    tables: Sequence[Table] = ()
    stage: str | None = None  # of a figure of training
    axis: str = ""  # what curves are drawn against


def drawings(plan: Plan) -> Iterator[Drawing]:
    """Every figure for which the plan has data."""
    models = _apart(read_models(plan))
    looks = theme.looks(_names(plan, models))
    for task in dict.fromkeys(model.task for model in models):
        yield from _evaluated(plan, [model for model in models if model.task == task], looks, task)
    untrained = {"eval", "merge", "report", "study"}
    for stage in sorted({entry.stage for entry in plan.entries} - untrained, key=stage_order):
        yield from _trained(plan, stage, looks)
    yield from _merged(plan)


def _names(plan: Plan, models: list[Model]) -> list[str]:
    """Names that get a look: the models first, evaluations of something outside the plan last."""
    names = [name for name, entries in plan.groups.items() if entries[0].stage != "eval"]
    return list(dict.fromkeys([*names, *(model.name for model in models)]))


def _apart(models: list[Model]) -> list[Model]:
    """Models with a name each: one that was evaluated in several ways is several."""
    seen: set[str] = set()
    named = []
    for model in models:
        named.append(replace(model, name=model.evals[0].name) if model.name in seen else model)
        seen.add(model.name)
    return named


def _best(models: list[Model]) -> list[Model]:
    """As many models as a figure can name, in their order."""
    if len(models) <= MOST_MODELS:
        return models
    accuracies = {model.name: estimate.value for model in models if (estimate := model.accuracy()) is not None}
    ranked = sorted(models, key=lambda model: -accuracies.get(model.name, -1.0))[:MOST_MODELS]
    return [model for model in models if model in ranked]


def _evaluated(plan: Plan, models: list[Model], looks: dict[str, theme.Look], task: str) -> Iterator[Drawing]:
    of, tail = (f" on {task}" if task else ""), "".join(f"-{word}" for word in _slug(task))
    best = _best(models)
    if len(best) < len(models):
        looks = theme.looks([model.name for model in best])
        note = f" The {len(best)} of {len(models)} models with the highest accuracy; the table above has all."
    else:
        note = ""
    entries = [entry for model in best for entry in model.evals]
    found = (
        ("pass-at-k", f"Problems solved with k samples{of}", PASS_CAPTION, partial(pass_figure, best, looks)),
        (
            "accuracy-flops",
            f"Accuracy against compute{of}",
            COMPUTE_CAPTION,
            partial(compute_figure, plan, best, looks),
        ),
        ("slices", f"Accuracy by difficulty{of}", SLICES_CAPTION, partial(slice_figure, best, looks)),
        ("outcomes", f"What became of the completions{of}", OUTCOMES_CAPTION, partial(outcome_figure, best)),
    )
    for slug, title, caption, draw in found:
        with theme.applied(slug + tail):
            figure = draw()
        if figure is not None:
            tables = _slice_tables(best) if slug == "slices" else []
            yield Drawing(slug + tail, title, caption + note, figure, entries, tables)


def _slice_tables(models: list[Model]) -> list[Table]:
    names = dict.fromkeys(name for model in models for name in model.difficulties)
    return [slice_table(models, name) for name in names]


def _trained(plan: Plan, stage: str, looks: dict[str, theme.Look]) -> Iterator[Drawing]:
    """What a stage logged, a figure for each axis; and what came of what its arms differ in."""
    arms = trained(plan, stage)
    entries = [entry for found in arms.values() for entry in found]
    logged = dict.fromkeys(key for entry in entries for key in entry.run.history.columns)
    choice = chosen(arms, stage, list(logged))
    if choice.others:
        looks = theme.looks(list(choice.shown))
    points = NOISY_POINTS if "reward" in logged else MOST_POINTS
    called, shown = stage or "training", panels(stage, _informative(logged, entries))
    notes = f"{SEEDS}{_left_out(choice)}{noted(entries)}"
    found = [
        (axis, axis, f"{called} against {AXES[axis]}", f"{AXIS_CAPTIONS[axis]} {notes}",
         partial(training_figure, choice.shown, choice.drawn, shown, axis, looks, points))
        for axis in AXES
    ]  # fmt: skip
    first = _first_of(len(choice.shown))
    for prefix, kinds in SHARES.items():
        shares = partial(shares_figure, choice.shown, prefix)
        found.append(("", kinds, f"{called}: {kinds}", f"{SHARES_CAPTION} {SEEDS}{first}", shares))
    effects = partial(effects_figure, arms, differing(entries), choice.metric)
    found.append(("", "differences", f"{called}: what differs", EFFECTS_CAPTION, effects))
    for axis, name, title, caption, draw in found:
        slug = "-".join((*(_slug(stage) or ["training"]), name))
        with theme.applied(slug):
            figure = draw()
        if figure is not None:
            yield Drawing(slug, title, caption, figure, entries, stage=stage, axis=axis)


def _merged(plan: Plan) -> Iterator[Drawing]:
    """The way between two parents, how alike they are layer by layer, and what came of what the arms differ in."""
    merges = read_merges(plan)
    if not is_measured(merges):
        return
    lines, entries = chosen_lines(merges), merges.entries
    logged = dict.fromkeys(key for entry in entries for key in entry.run.history.columns)
    told = {key: values for key, values in differing(entries).items() if key not in ("merge", WEIGHT)}
    effects = partial(effects_figure, merges.arms, told, chosen(merges.arms, "merge", list(logged)).metric)
    found = (
        (WAY, "Along the way between two parents", f"{WAY_CAPTION} {said_of(merges, lines)} {SEEDS}",
         partial(way_figure, merges, lines)),
        (CKA, "How alike the parents are, layer by layer", f"{CKA_CAPTION}{_first_pairs(len(merges.pairs))} {SEEDS}",
         partial(cka_figure, merges.pairs)),
        (DIFFERENCES, "What differs between merges", EFFECTS_CAPTION, effects),
    )  # fmt: skip
    for slug, title, caption, draw in found:
        with theme.applied(slug):
            figure = draw()
        if figure is not None:
            yield Drawing(slug, title, caption, figure, entries, stage="merge")


def _first_pairs(pairs: int) -> str:
    return f" The first {MOST_NAMED} of {pairs} pairs have colours." if pairs > MOST_NAMED else ""


def _informative(logged: Iterable[str], entries: list[Entry]) -> list[str]:
    """What was logged, without what tells nothing in any run: ratios that were never clipped, and verdicts that are
    worth what they are counted as, so that the reward says the same."""
    columns = [entry.run.history.columns for entry in entries]
    never = {key for key in CLIPS if not any(np.nansum(of[key]) for of in columns if key in of)}
    paid, right = "reward", "rewards/verifier/mean"
    both = [of for of in columns if paid in of and right in of]
    if all(np.allclose(of[paid], of[right], rtol=0, atol=1e-6, equal_nan=True) for of in both):
        never.add(right)
    return [key for key in logged if key not in never]


def _first_of(arms: int) -> str:
    return f" The first {MOST_ARMS} of {arms} arms." if arms > MOST_ARMS else ""


def _left_out(choice: Choice) -> str:
    """Which arms have no colour, and which are not drawn."""
    if not choice.others:
        return ""
    count, drawn = len(choice.others), len(choice.drawn)
    grey = f"the other {count} are grey" if drawn == count else f"{drawn} of the other {count} are grey"
    return f" The {len(choice.shown)} arms with the best last {choice.metric or 'values'} have colours; {grey}."


def _slug(text: str) -> list[str]:
    """The words of a text that may stand in a file name."""
    return "".join(letter.lower() if letter.isascii() and letter.isalnum() else " " for letter in text).split()
