"""`python -m rlx.plans status|watch|retry|cancel|collect <plan>`: what becomes of a sweep or a study.

`task` and `conclude` are what batch scripts call.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from rlx.errors import ConfigError, RlxError, RunError, Stopped
from rlx.plans import slurm
from rlx.plans.collect import collect
from rlx.plans.drivers import ask_to_stop, drivers
from rlx.plans.launchers.base import Hands, LauncherConfig
from rlx.plans.plan import Plan, PlannedRun, read_settings, with_levels
from rlx.plans.relaunch import go_home, launcher_of
from rlx.plans.standing import AGAIN, ORDER, Standing, elsewhere, standings
from rlx.plans.submissions import key_of, live_conclusions, queue_of, submissions
from rlx.plans.table import Screen, counts, table
from rlx.plans.task import carry_out_task, runs_of_task
from rlx.plans.watch import size_of_screen, watch
from rlx.runs.references import format_reference
from rlx.runs.status import read_status
from rlx.signals import stop

PROGRAM = "python -m rlx.plans"


class Parser(argparse.ArgumentParser):
    """A command line whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} -h")


def main(arguments: Sequence[str]) -> int:
    """Carry out one command and return its exit code."""
    try:
        known = parsers()
        name = arguments[0] if arguments else "-h"
        if name in ("-h", "--help"):
            print(overview(known))
            return 0 if arguments else RlxError.exit_code
        if name not in known:
            raise ConfigError(f"there is no command {name}; there are {', '.join(shown(known))}")
        asked = known[name].parse_intermixed_args(arguments[1:])
        return asked.action(asked)
    except RlxError as error:
        print(f"rlx: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return error.exit_code
    except Stopped:
        print("stopped; the same command goes on from here", file=sys.stderr, flush=True)
        return Stopped.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # Python would complain of the pipe once more
        return 0


def parsers() -> dict[str, Parser]:
    """The commands; those without a description are for batch scripts."""
    made: dict[str, Parser] = {}

    def command(name: str, action: Callable[[argparse.Namespace], int], about: str | None) -> Parser:
        made[name] = Parser(prog=f"{PROGRAM} {name}", description=about, allow_abbrev=False)
        made[name].set_defaults(action=action)
        return made[name]

    looked = command("status", status, "a table of its runs: what goes on, what failed and why")
    watched = command("watch", lambda asked: watch(asked.plan), "the same, live, until nothing more happens")
    again = command("retry", retry, "make again what did not finish, by the launcher that the plan had")
    ended = command("cancel", cancel, "take its tasks out of the queue, and have its runs save their state and stop")
    collected = command("collect", collect_plan, "one table of configs and final metrics, as parquet and CSV")
    for each in (looked, watched, again, ended, collected, command("conclude", conclude, None)):
        each.add_argument("plan", type=_folder, help="its folder: <runs_dir>/plans/<name>")
    looked.add_argument("--json", action="store_true", help="one JSON object a run")
    looked.add_argument("--rows", type=int, metavar="N", help="show so many runs; the counts are of all")
    again.add_argument("changes", nargs="*", metavar="field=value", help="of the launcher: time=8:00:00 mem=64G")
    again.add_argument("--launcher", metavar="NAME", help="another launcher: sequential, parallel, slurm_array")
    for each in (again, ended):
        each.add_argument("--state", metavar="A,B", help=f"only runs in these states, of {', '.join(ORDER)}")
        each.add_argument("--match", metavar="TEXT", default="", help="only runs whose name or directory has this text")
    task = command("task", carry_out, None)
    task.add_argument("tasks", type=Path)
    task.add_argument("number", type=int)
    return made


def _folder(text: str) -> Path:
    """A plan's folder as typed, perhaps `.` or the name alone from beside it."""
    return Path(os.path.abspath(text))


def shown(known: dict[str, Parser]) -> list[str]:
    """Names of the commands that are for people."""
    return [name for name, parser in known.items() if parser.description]


def overview(known: dict[str, Parser]) -> str:
    """The help page."""
    lines = [f"  {name:<9} {known[name].description}" for name in shown(known)]
    usage = f"usage: {PROGRAM} <command> <plan>, where a plan is a folder <runs_dir>/plans/<name>"
    return "\n".join([usage, "", *lines, "", f"more of each: {PROGRAM} <command> -h"])


def status(asked: argparse.Namespace) -> int:
    plan = Plan.read(asked.plan)
    found = standings(plan)
    if told := elsewhere(found):
        print(f"rlx: {told}: what goes on there is not shown", file=sys.stderr)
    if asked.json:
        for standing in found:
            print(json.dumps(standing.as_json()))
        return 0
    screen = Screen(width=size_of_screen().width)
    print(table(plan, found, drivers(asked.plan), most=asked.rows, screen=screen))
    return 0


def retry(asked: argparse.Namespace) -> int:
    plan = go_home(asked.plan)
    found = standings(plan)
    chosen = picked(found, asked, AGAIN)
    if not chosen:
        other = [state for state in ("cancelled", "unknown") if not asked.state and picked(found, asked, [state])]
        how = f" (retry those with --state {','.join(other)})" if other else ""
        print(f"nothing to retry{f' that has {asked.match}' if asked.match else ''}: {counts(found)}{how}")
        return 0
    must_be_here(chosen)
    settings = read_settings(plan.folder).get("launcher", {})
    launcher = launcher_of(settings, asked.launcher, asked.changes)
    print(f"retrying {len(chosen)} of {len(plan.runs)} runs: {counts(chosen)}", flush=True)
    runs = with_levels(standing.planned for standing in chosen)
    return carried(Plan(folder=plan.folder, runs=runs, command=plan.command, conclusions=plan.conclusions), launcher)


def must_be_here(chosen: Sequence[Standing]) -> None:
    """Raise ConfigError where a run was handed to another cluster, which may still be at work on it."""
    if told := elsewhere(chosen):
        raise ConfigError(f"{told}; type the command there (where it is gone, remove its folder of <plan>/submissions)")


def carried(plan: Plan, launcher: LauncherConfig) -> int:
    """Make a plan's runs, then its conclusions, where they end here; returns the exit code."""
    from rlx.cli import run

    def execute(planned: PlannedRun, label: str) -> None:
        print(f"{label}: {planned.command}", flush=True)
        code = run(planned.arguments)
        if code == Stopped.exit_code:
            raise Stopped
        if code:
            raise RunError(read_status(planned.run).reason or f"exit code {code}")

    launcher.check(plan.runs)
    stop.install()
    outcome = launcher.carry_out(plan, Hands(execute=execute, command=run, stop=stop))
    if not outcome.ended:
        return 0
    codes = [run(arguments) for arguments in plan.conclusions]
    return max([1 if outcome.problems else 0, *codes])


def cancel(asked: argparse.Namespace) -> int:
    plan, by = Plan.read(asked.plan), drivers(asked.plan)
    concluding: list[str] = []
    if submissions(plan.folder):
        try:
            concluding = live_conclusions(plan.folder, queue_of(plan.folder))
        except RunError:
            if not by:  # `standings` shows what it can, and would miss what is in the queue
                raise
    found = standings(plan)
    part = asked.state or asked.match
    chosen = picked(found, asked, [state for state in ORDER if state != "finished"]) if part else found
    if not by:
        must_be_here(chosen)
    tasks = tasks_of(chosen, found)
    runs = {key_of(each.planned.run) for each in chosen}
    for begin in range(0, len(tasks), slurm.AT_ONCE):
        some = tasks[begin : begin + slurm.AT_ONCE]
        note_cancelled(plan, runs, set(some))
        slurm.cancel(some)
    if not asked.state and not asked.match:
        with suppress(RunError):  # they have just ended
            slurm.cancel(concluding)
        for holder in ask_to_stop(asked.plan):
            print(f"asked {holder} to stop; its runs save their state")
    elif by:
        print(f"rlx: {by[0]} is asked to stop only without --state and --match: it stops as a whole", file=sys.stderr)
    if tasks or not by:
        print(f"cancelled {len(tasks)} tasks" if tasks else f"nothing to cancel: {counts(found)}")
    return 0


def note_cancelled(plan: Plan, runs: Container[str], tasks: Container[str]) -> None:
    """Write down which runs are cancelled; before they are, since who does it may be killed over it. Where scancel
    refuses then, a task in the queue is still shown as that.
    """
    for submission in submissions(plan.folder):
        own = [run for run, task in submission.places() if run in runs and task in tasks]
        if own:
            submission.cancelled += own
            submission.save()


def tasks_of(chosen: Sequence[Standing], found: Sequence[Standing]) -> list[str]:
    """Slurm's tasks that may yet make the chosen runs, but for those that have others to make, which were not asked
    for.
    """
    alive = [each for each in chosen if each.task is not None and each.task.live and each.place]
    for lent in sorted({each.lent for each in alive} - {""}):
        count = sum(each.lent == lent for each in alive)
        print(f"rlx: {count} runs are in the queue by the plan {lent}; cancel them there", file=sys.stderr)
    live = {each.place.task: each for each in alive if each.place and not each.lent}
    asked_for = {each.planned.run for each in chosen}
    others = [each for each in found if each.state != "finished" and each.planned.run not in asked_for]
    spared = {each.place.task for each in others if each.place}
    for task in sorted(live.keys() & spared):
        print(f"rlx: task {task} has other runs too, and is left alone", file=sys.stderr)
    return [task for task in live if task not in spared]


def picked(found: Sequence[Standing], asked: argparse.Namespace, states: Sequence[str]) -> list[Standing]:
    """Runs in the states asked for (else in `states`) that match.

    Raises:
        ConfigError: there is no such state.
    """
    wanted = asked.state.split(",") if asked.state else states
    for state in wanted:
        if state not in ORDER:
            raise ConfigError(f"--state {state}: expected {', '.join(ORDER)}")
    return [
        each for each in found
        if each.state in wanted and (asked.match in each.planned.label or asked.match in each.planned.run)
    ]  # fmt: skip


def collect_plan(asked: argparse.Namespace) -> int:
    found = standings(Plan.read(asked.plan))
    paths = collect(asked.plan, found)
    print(f"{len(found)} runs ({counts(found)}): {' and '.join(map(format_reference, paths))}")
    return 0


def carry_out(asked: argparse.Namespace) -> int:
    from rlx.cli import run

    stop.install()
    return carry_out_task(runs_of_task(asked.tasks, asked.number), run, stop)


def conclude(asked: argparse.Namespace) -> int:
    """What ends a plan, whatever became of its runs."""
    from rlx.cli import run

    return max((run(arguments) for arguments in Plan.read(asked.plan).conclusions), default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
