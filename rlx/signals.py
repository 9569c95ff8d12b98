"""Stopping on request: SIGTERM, SIGUSR1 and Ctrl-C set a flag that the run looks at between steps.

Nothing is done inside a handler: a checkpoint made there may find the weights half written. A second Ctrl-C ends at
once.
"""

import signal
import threading
from types import FrameType


class StopFlag:
    """Set by a signal; calling it says whether the run should stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    def install(self) -> None:
        """Take SIGTERM, SIGUSR1 and SIGINT (main thread only; elsewhere nothing happens)."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                signal.signal(number, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.signal = number


stop = StopFlag()
"""The process's flag."""
