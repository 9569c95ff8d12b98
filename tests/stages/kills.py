"""Runs that die at a chosen place, and all that must be equal once they were let end.

Importing everything takes seconds and the smallest run less than one, so a server process imports, composes a command
when it is first given, and forks a child that carries it out (a single thread is what makes that safe). The child dies
by a signal that it sends itself at the n-th passing of a place, or that the server sends after some time. It flushes
nothing to the disk: a process that dies loses nothing of what it wrote.
"""

import fnmatch
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce, wraps
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from rlx.runs.lease import is_held
from tests.conftest import Done, environment
from tests.stages.runs import digest, record, rows, status

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Place:
    """Calls of functions, passed just before they begin or just after they ended."""

    targets: tuple[str, ...]
    """As `module:name` or `module:Class.name`."""
    after: bool = False
    named: str = "*"
    """Only calls whose last argument is a path with a name like this."""
    half: bool = False
    """The functions write bytes, and half of them are written before the process dies."""


def _at(*targets: str, **more: Any) -> Place:
    return Place(targets, **more)


def _renamed(named: str, **more: Any) -> Place:
    return Place(("os:rename", "os:replace"), named=named, **more)


_VALIDATE = (
    "rlx.stages.modules.supervised:SupervisedModule.validate",
    "rlx.stages.modules.policy:PolicyModule.validate",
)
PLACES = {
    "half a lease": _at("os:write", half=True),
    "lease taken": _at("rlx.runs.lease:Lease.acquire", after=True),
    "lease being broken": _renamed(".tmp-lease.json-*"),
    "lease broken": _renamed(".tmp-lease.json-*", after=True),
    "leftovers removed": _at("rlx.runs.files:remove_stale", after=True),
    "status": _renamed("status"),
    "status written": _renamed("status", after=True),
    "run.json": _renamed("run.json"),
    "run.json written": _renamed("run.json", after=True),
    "state loaded": _at("rlx.runs.checkpoints:load_trainer_state", after=True),
    "rows to drop": _at("rlx.runs.metrics:MetricsLog.rewind"),
    "rows kept elsewhere": _renamed("*.dropped.jsonl", after=True),
    "rows dropped": _at("rlx.runs.metrics:MetricsLog.rewind", after=True),
    "forward pass": _at("rlx.nn.decoder:Decoder.logits"),
    "minibatch": _at("rlx.stages.modules.loop:StepModule.manual_backward"),
    "update": _at("rlx.stages.modules.step:stepped", after=True),
    "sampling": _at("rlx.decoding.engine:Engine.complete"),
    "sampled": _at("rlx.decoding.engine:Engine.complete", after=True),
    "verified": _at("rlx.evaluation.episodes:Player.play", after=True),
    "validation": _at(*_VALIDATE),
    "validated": _at(*_VALIDATE, after=True),
    "evaluated inside": _at("rlx.stages.modules.measuring:EvalInside.__call__", after=True),
    "row": _at("rlx.runs.metrics:MetricsLog.append"),
    "half a row": _at("rlx.runs.metrics:_write_all", half=True),
    "row written": _at("rlx.runs.metrics:MetricsLog.append", after=True),
    "rows synced": _at("rlx.runs.metrics:MetricsLog.sync", after=True),
    "weights": _at("rlx.runs.model_directory:save_model_directory"),
    "weights written": _at("rlx.runs.model_directory:save_model_directory", after=True),
    "half the tensors": _at("rlx.runs.tensor_files:_write_all"),
    "tensors written": _at("rlx.runs.model_directory:stream_file", after=True),
    "state written": _at("rlx.runs.checkpoints:save_trainer_state", after=True),
    "sums written": _at("rlx.runs.checksums:write_checksums", after=True),
    "checkpoint named": _renamed("step-*"),
    "checkpoint made": _renamed("step-*", after=True),
    "best.json": _renamed("best.json"),
    "best.json written": _renamed("best.json", after=True),
    "pruning": _at("rlx.runs.checkpoints:prune"),
    "checkpoint to delete": _renamed(".tmp-step-*", after=True),
    "pruned": _at("rlx.runs.checkpoints:prune", after=True),
    "conclusion": _at("rlx.stages.modules.policy:PolicyModule.conclude", after=True),
    "eval.json": _renamed("eval.json"),
    "eval.json written": _renamed("eval.json", after=True),
    "chunks removed": _at("os:unlink", named="eval.partial.jsonl", after=True),
    "lease released": _at("rlx.runs.lease:Lease.release", after=True),
}
"""Where a run can be hit, about in the order in which it comes by."""

Hit = Callable[[Callable[[], Any]], None]
"""Called at each passing, with what is to be done before dying there."""


def watch(place: Place, hit: Hit) -> None:
    """Have `hit` called at every passing of a place, in every module of rlx that holds one of its functions."""
    for target in place.targets:
        module, _, path = target.partition(":")
        *owners, name = path.split(".")
        owner = reduce(getattr, owners, import_module(module))
        function = owner.__dict__.get(name) or getattr(owner, name)
        method = isinstance(function, classmethod)
        watched = _watched(function.__func__ if method else function, place, hit)
        for holder in _holders(owner, name, function):
            setattr(holder, name, classmethod(watched) if method else watched)


def _holders(owner: Any, name: str, function: Any) -> list[Any]:
    if not isinstance(owner, ModuleType):
        return [owner]
    modules = [module for key, module in sys.modules.items() if key.startswith("rlx.")]
    return [owner, *(module for module in modules if getattr(module, name, None) is function)]


def _watched(function: Callable[..., Any], place: Place, hit: Hit) -> Callable[..., Any]:
    @wraps(function)
    def watched(*given: Any, **named: Any) -> Any:
        if place.named != "*" and not fnmatch.fnmatch(os.path.basename(given[-1]), place.named):
            return function(*given, **named)
        if place.after:
            found = function(*given, **named)
            hit(lambda: None)
            return found
        hit((lambda: os.write(given[0], given[1][: len(given[1]) // 2])) if place.half else lambda: None)
        return function(*given, **named)

    return watched


class Server:
    """Runs commands in children of a process that has imported everything; use as a context manager."""

    def __enter__(self) -> "Server":
        environ = environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", PYTHONUNBUFFERED="1")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.stages.kills"],
            cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def run(
        self,
        arguments: Sequence[str],
        *,
        folder: Path | None = None,
        place: str | None = None,
        count: int = 1,
        number: int = signal.SIGKILL,
        seconds: float | None = None,
    ) -> Done:
        """Carry out a command in a new process.

        Args:
            arguments: overrides.
            folder: where it is given; by default here.
            place: a name of PLACES, at whose `count`-th passing the process sends itself the signal `number`.
            seconds: when the server kills the process, if it still runs.

        Returns:
            Exit code (below 0: the signal that it died of) and what was printed.
        """
        where = str(Path(folder or ".").absolute())
        return Done(**self._ask(arguments=list(arguments), folder=where, place=place, count=count, number=number,
                                seconds=seconds)["done"])  # fmt: skip

    def passings(self, arguments: Sequence[str], folder: Path) -> tuple[Done, dict[str, int]]:
        """Run a command to its end, and say how often it came by each place."""
        found = self._ask(arguments=list(arguments), folder=str(folder.absolute()))
        return Done(**found["done"]), found["passings"]

    def _ask(self, **job: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the server ended with {self.process.wait()}"
        return json.loads(answer)


_IMPORTED = ("rlx.cli", "rlx.explain", "rlx.evaluation.evaluate", "rlx.stages.modules.measuring",
             "rlx.stages.modules.policy", "rlx.stages.modules.supervised", "safetensors.torch")  # fmt: skip
"""What commands import sooner or later."""


def serve() -> None:
    """The server's process: a job a line, an answer a line."""
    import torch

    for name in _IMPORTED:
        import_module(name)
    torch.set_num_threads(1)
    threads = len(os.listdir("/proc/self/task")) if Path("/proc/self/task").exists() else 1
    assert threads == 1, f"{threads} threads: a fork would leave all but one behind"
    commands: dict[tuple[str, ...], Any] = {}
    for line in sys.stdin:
        job = json.loads(line)
        command = tuple(job["arguments"])
        if command not in commands:
            commands[command] = _composed(command)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            said = [folder / "out", folder / "err"]
            for path in said:
                path.touch()
            child = os.fork()
            if child == 0:
                _child(job, commands[command], folder)
            code = os.waitstatus_to_exitcode(_wait(child, job.get("seconds")))
            out, err = (path.read_text(errors="replace") for path in said)
            passings = folder / "passings"
            answer = {"done": {"code": code, "out": out, "err": err}}
            if passings.exists():
                answer["passings"] = json.loads(passings.read_text())
        print(json.dumps(answer), flush=True)
    os._exit(0)  # Python's own end takes seconds with so much imported


def _wait(child: int, seconds: float | None) -> int:
    """The child's wait status; it is killed after so many seconds."""
    end = None if seconds is None else time.monotonic() + seconds
    while end is not None and time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.001)
    if end is not None:
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def _composed(arguments: Sequence[str]) -> Any:
    """Config and context of a command, as the door makes them."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    from rlx.cli import _compose
    from rlx.store import register

    GlobalHydra.instance().clear()
    register()
    with initialize_config_module("rlx.conf", version_base="1.3"):
        return _compose(arguments)


def _child(job: dict[str, Any], composed: Any, folder: Path) -> None:
    """What a forked process does: it never returns."""
    from rlx.cli import _report

    for number, name in enumerate(("out", "err"), start=1):
        os.dup2(os.open(folder / name, os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(job["folder"])
    os.fsync = lambda descriptor: None
    seen: Counter[str] = Counter()
    if "place" not in job:
        for name, place in PLACES.items():
            watch(place, lambda last, name=name: seen.update([name]))
    elif job["place"] is not None:
        watch(PLACES[job["place"]], _dying(job["count"], job["number"]))
    config, context = composed
    context.stop.install()
    code = 0
    try:
        config.stage.carry_out(config, context)
    except BaseException as error:
        code = _report(error)
    if seen:
        (folder / "passings").write_text(json.dumps(seen))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _dying(count: int, number: int) -> Hit:
    left = count

    def hit(last: Callable[[], Any]) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            if number == signal.SIGKILL:
                last()
            os.kill(os.getpid(), number)

    return hit


UNCOMPARED = ("wall", "offsets")
"""Keys of a checkpoint's state: the time, and the bytes of rows, which depend on how many digits their clocks have."""
PROVENANCE = ("wall_s", "versions", "git", "hardware", "earlier", "run", "command", "lineage")
"""Keys of run.json that say when, where and by whom; `flops` has the sum of the lineage."""


def outcome(run: Path) -> dict[str, Any]:
    """All that a run leaves and that no kill may change; and what it should not leave."""
    found: dict[str, Any] = {
        "status": status(run)["state"],
        "held": is_held(run),
        "rows": rows(run),
        "record": {key: value for key, value in record(run).items() if key not in PROVENANCE},
        "leftovers": sorted(path.name for path in run.rglob("*") if _is_leftover(path)),
    }
    found.update({f"weights {name}": value for name, value in digest(run).items()})
    for state in sorted(run.glob("checkpoints/*/trainer/state.pt")):
        found[f"state {state.parts[-3]}"] = _plain_state(state)
    for name in ("samples.jsonl", "eval.json", "best.json"):
        if (run / name).exists():
            found[name] = (run / name).read_text()
    return found


def differences(run: Path, whole: Path) -> list[str]:
    """Which parts of two runs differ; [] when a run was worth as much as an unbroken one."""
    mine, theirs = outcome(run), outcome(whole)
    return [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]


def _is_leftover(path: Path) -> bool:
    return path.name.startswith((".tmp-", ".lease-break-")) or path.name == "eval.partial.jsonl"


def _plain_state(path: Path) -> Any:
    import torch

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return [str(value.dtype), list(value.shape), hashlib.sha256(value.numpy().tobytes()).hexdigest()]
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items() if key not in UNCOMPARED}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(torch.load(path, map_location="cpu", weights_only=True))


if __name__ == "__main__":
    serve()
