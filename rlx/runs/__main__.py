"""python -m rlx.runs [FILTER ...]: what runs there are; python -m rlx.runs prune FILTER ...: what can go of them."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from rlx.errors import ConfigError, RlxError
from rlx.runs import listing, pruning
from rlx.runs.checkpoints import Keep
from rlx.runs.listing import COLUMNS, Filter, ListedRun, find_runs, nothing_found, select


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    try:
        if "prune" in arguments:
            rest = [argument for argument in arguments if argument != "prune"]
            prune(_prune_parser().parse_intermixed_args(rest))
        else:
            show(_list_parser().parse_intermixed_args(arguments))
    except RlxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what is gone is gone, the rest is whole", file=sys.stderr)
        return 130
    return 0


def show(options: argparse.Namespace) -> None:
    """Print the runs that the filters pick."""
    found = _picked(find_runs(options.runs_dir), options.filters)
    if options.sort:
        found.sort(key=lambda run: _order(COLUMNS[options.sort](run)))
    if options.json:
        print("".join(json.dumps(run.as_json()) + "\n" for run in found), end="")
    elif options.paths:
        print("".join(f"{run.shown}\n" for run in found), end="")
    elif found:
        print(listing.table(found))


def prune(options: argparse.Namespace) -> None:
    """Show what would go, or remove it.

    Raises:
        ConfigError: nothing was named that could go, or everything.
    """
    rule = pruning.Rule(
        keep=_keep(options.keep),
        trainer_state=options.trainer_state,
        whole=options.runs,
        even_parents=options.even_parents,
    )
    if not (rule.keep or rule.trainer_state or rule.whole):
        raise ConfigError("nothing to prune was named; give --keep last:1, --trainer-state or --runs")
    if rule.whole and not options.filters:
        raise ConfigError("--runs without a filter would remove every run; give one, such as state=failed")
    runs = find_runs(options.runs_dir)
    removals = pruning.plan(_picked(runs, options.filters), pruning.needs_of(options.runs_dir, runs), rule)
    rows = [
        (removal.run.shown, f"{listing.scaled(removal.size)}B", _said(removal))
        for removal in removals
        if removal.folders or removal.stays
    ]
    if rows:
        print(listing.columns([("run", "frees", "what goes, and what stays"), *rows]))
    changed, size = sum(bool(removal.folders) for removal in removals), sum(removal.size for removal in removals)
    if not options.yes:
        print(f"{listing.scaled(size)}B of {changed} run{'s' if changed != 1 else ''} would go; --yes removes it")
        return
    freed = pruning.tidy(options.runs_dir, runs)
    freed += pruning.carry_out(removals, lambda line: print(line, file=sys.stderr))
    print(f"freed {listing.scaled(freed)}B")


def _picked(runs: Sequence[ListedRun], texts: Sequence[str]) -> list[ListedRun]:
    filters = [Filter.parse(text) for text in texts]
    found = select(runs, filters)
    if not found:
        print(nothing_found(runs, filters), file=sys.stderr)
    return found


def _said(removal: pruning.Removal) -> str:
    stays = (f"(stays, {reason})" for reason in removal.stays)
    return " ".join([", ".join(removal.what), *stays]).strip()


def _order(value: object) -> tuple[bool, object]:
    """None first."""
    return value is not None, value


def _keep(text: str | None) -> Keep | None:
    try:
        return None if text is None else Keep.parse(text)
    except ConfigError as error:
        raise ConfigError(str(error).replace("checkpoint.keep=", "--keep ")) from error


def _list_parser() -> argparse.ArgumentParser:
    parser = _parser(
        "python -m rlx.runs",
        f"{listing.__doc__}\nThe word prune removes what is not needed: python -m rlx.runs prune --help.",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a JSON object a line")
    form.add_argument("--paths", action="store_true", help="only the run directories, for loops of a shell")
    parser.add_argument("--sort", choices=COLUMNS, metavar="COLUMN", help="order by a column, the largest last")
    return parser


def _prune_parser() -> argparse.ArgumentParser:
    text = f"{pruning.__doc__}\nFilters are those of python -m rlx.runs --help. Without --yes nothing is removed."
    parser = _parser("python -m rlx.runs prune", text)
    parser.add_argument("--keep", metavar="RULE", help="remove checkpoints but these: last:1, log:5, last:1+log:5")
    parser.add_argument("--trainer-state", action="store_true", help="remove what finished runs would be resumed from")
    parser.add_argument("--runs", action="store_true", help="remove whole runs")
    parser.add_argument("--even-parents", action="store_true", help="also what other runs name as their parent")
    parser.add_argument("--yes", action="store_true", help="do it")
    return parser


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filters", nargs="*", metavar="FILTER", help="key=value, or a part of the path")
    parser.add_argument("--runs-dir", default="runs", help="the folder of all runs (default: runs)")
    return parser


if __name__ == "__main__":
    if "--yes" not in sys.argv and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it quietly
    sys.exit(main(sys.argv[1:]))
