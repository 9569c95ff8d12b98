"""Stands in for a container in which tasks run: `held.py python -m rlx.plans ...`.

The smallest run is over before anything can hit it. Here each waits after the row of one step, until its directory has
a file `go` or it is asked to stop; nothing that it computes is changed.
"""

import sys
import time
from typing import Any

from rlx.plans.__main__ import main
from rlx.runs.files import METRICS
from rlx.runs.metrics import MetricsLog
from rlx.signals import stop

STEP = 7
"""The step after whose row a run waits."""


def append(self: MetricsLog, row: dict[str, Any]) -> None:
    whole(self, row)
    if self.path.name == METRICS and row["step"] == STEP:
        while not (self.path.parent / "go").exists() and not stop():
            time.sleep(0.05)


if __name__ == "__main__":
    whole, MetricsLog.append = MetricsLog.append, append
    sys.exit(main(sys.argv[4:]))
