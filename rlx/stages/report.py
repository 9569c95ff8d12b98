"""`stage=report`: a page from run directories, or from a plan's folder; nothing is trained or sent anywhere.

    rlx stage=report stage.runs=[runs]                                       every run of a folder
    rlx stage=report 'stage.runs=[runs/countdown-*-rl-*]' stage.out=rl.html  a pattern, quoted for the shell

Runs of one config are one arm over its seeds; arms are called by what differs between them. Curves are drawn against
steps, tokens and FLOPs. A run that failed, was blocked or still runs is shown as what it is.

The same command writes the same page again, with what the runs have become. A page of other runs, and any file that
rlx did not write, is refused, not written over.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rlx.errors import ConfigError
from rlx.options import option
from rlx.runs.files import REPORT
from rlx.stages.base import Context
from rlx.stages.config import StageConfig

if TYPE_CHECKING:
    from rlx.config import Config


@option("stage", "report")
@dataclass(kw_only=True, slots=True)
class ReportConfig(StageConfig):
    """Tables and figures in one self-contained HTML file."""

    uses: ClassVar[frozenset[str]] = frozenset()

    plan: str | None = None
    """Folder of a plan or study; its report.html is made again."""
    runs: list[str] = field(default_factory=list)
    """What to report on where there is no plan: run directories, folders of seeds, folders of runs, and patterns such
    as runs/countdown-*; a run named twice counts once."""
    out: str | None = None
    """The page; null: report.html in the plan's folder, or here. Its figures go beside it."""

    def carry_out(self, config: "Config", context: Context) -> None:
        from rlx.report.page import write_report, write_runs_report

        if (self.plan is None) == (not self.runs):
            raise ConfigError("stage=report needs either stage.plan=<folder> or stage.runs=[<run>,<pattern>]")
        out = Path(self.out) if self.out else None
        if self.plan is not None:
            path = write_report(Path(self.plan), out=out)
        else:
            path = write_runs_report(self.runs, out or Path(REPORT))
        print(f"report: {path}", flush=True)
