"""python -m rlx.report FOLDER...: writes the page of one plan folder, or of runs, and prints its path."""

import sys
from pathlib import Path

from rlx.errors import RlxError
from rlx.report.page import write_report, write_runs_report
from rlx.runs.files import MANIFEST, REPORT


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    folders = [Path(argument) for argument in arguments]
    try:
        if not folders:
            raise RlxError("python -m rlx.report needs a plan folder, or runs: their directories or folders")
        one_plan = len(folders) == 1 and (folders[0] / MANIFEST).exists()
        print(write_report(folders[0]) if one_plan else write_runs_report(folders, Path(REPORT)))
    except RlxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
