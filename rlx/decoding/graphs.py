"""Steps that are recorded once a size and then played back: on a GPU one launch in place of hundreds.

What is recorded reads and writes tensors that stay where they are: the rows' state, the output, the cache, and the
weights, which an optimizer step changes in place. Nothing in it may be read back by the host.
"""

from collections.abc import Callable, Hashable

import torch

Step = Callable[[], None]


class Graphs:
    """Recorded steps by what they are recorded for.

    Args:
        record: gives what plays a step back, without doing it; raises RuntimeError where it cannot be recorded.
    """

    def __init__(self, record: Callable[[Step], Step]) -> None:
        self.record = record
        self._plays: dict[Hashable, Step | None] = {}
        self.refused = ""
        """Why steps are not recorded, where one could not be."""

    def run(self, key: Hashable, step: Step) -> None:
        """Do the step: the first one of a key as it is, which also warms up what it calls, the others recorded."""
        if self.refused or key not in self._plays:
            self._plays[key] = None
            step()
            return
        play = self._plays[key]
        if play is None:
            try:
                play = self._plays[key] = self.record(step)
            except RuntimeError as error:
                self.refused = str(error).splitlines()[0]
                self.clear()
                step()
                return
        play()

    def clear(self) -> None:
        """Forget what was recorded: the tensors are others now."""
        self._plays.clear()


def cuda_graphs() -> Graphs:
    """Steps as CUDA graphs, which share the memory of what they compute in between."""
    pool = torch.cuda.graph_pool_handle()

    def record(step: Step) -> Step:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=pool):
            step()
        return graph.replay

    return Graphs(record)
