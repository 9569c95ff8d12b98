"""A Slurm cluster of one node for tests: its own munged, slurmctld and slurmd, in a folder of its own.

It touches nothing else on the machine: key, sockets, ports and state are its own, it needs no cgroups and no systemd,
and what it left behind when it was killed is removed by the next one. Every process of it, jobs included, carries
SLURM_CONF with its folder's path in its environment, and is found and ended by that.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from rlx.runs.processes import is_alive, start_time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel", "setpriv")
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))  # where daemons are, on few users' PATH
_PREFIX = "rlx-slurm-"
_PARAMETERS = "sched_interval=1,sched_min_interval=1000,batch_sched_delay=0,bf_interval=1"
_SETTINGS = {
    "ClusterName": "test",
    "AuthType": "auth/munge",
    "CredType": "cred/munge",
    "SlurmUser": "root",
    "SlurmdUser": "root",
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "SwitchType": "switch/none",
    "MpiDefault": "none",
    "AccountingStorageType": "accounting_storage/none",
    "JobAcctGatherType": "jobacct_gather/none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_CPU",
    "SchedulerParameters": _PARAMETERS,
    "SlurmdParameters": "config_overrides",  # more CPUs than there are
    "ReturnToService": "2",
    "JobRequeue": "1",
    "KillWait": "30",
    "MinJobAge": "3600",
    "MaxArraySize": "12",
    "SlurmdTimeout": "0",  # a busy machine is not a dead node
}


def missing() -> str:
    """Why no cluster can be started here; empty where one can."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]
    if absent:
        return f"needs Slurm's programs ({', '.join(absent)} not found); on Debian: apt install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "a Slurm cluster is started as root"


class Cluster:
    """Runs while its `with` block does; `partitions` and `settings` are as in slurm.conf, the first is the default."""

    def __init__(self, *, cpus: int = 4, partitions: Sequence[str] = ("debug",), **settings: str) -> None:
        self.cpus = cpus
        self.partitions = partitions
        self.settings = {**_SETTINGS, **settings}
        self.folder = Path()
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Cluster":
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self.folder.chmod(0o755)  # munge wants its socket within everyone's reach
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _kill_all(self.folder)
        for daemon in self._daemons:
            daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def env(self) -> dict[str, str]:
        """The environment of a process that shall see this cluster and no other, nor a job that it may be part of."""
        foreign = ("SLURM", "SBATCH", "SQUEUE", "SCANCEL", "SCONTROL", "SACCT", "SINFO", "SALLOC", "SRUN")
        own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return {**own, "PATH": _PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *arguments: str) -> str:
        """What a Slurm command prints; raises with its message when it fails."""
        done = subprocess.run(arguments, env=self.env, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    def sbatch(self, *arguments: str) -> str:
        """Submit; returns the id of the job or array."""
        return self.run("sbatch", "--parsable", *arguments).partition(";")[0]

    def states(self) -> dict[str, str]:
        """State of each job ("7") and array task ("7_2") that the controller remembers, ended ones too."""
        lines = self.run("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T").splitlines()
        return dict(line.split("|") for line in lines)

    def wait_for(self, job: str, *states: str, seconds: float = 30) -> str:
        """Wait until a job or array task is in one of the states, and return it."""
        seen = ""

        def reached() -> bool:
            nonlocal seen
            seen = self.states().get(job, "")
            return seen in states

        self.wait(reached, f"{job} to be {' or '.join(states)}", seconds)
        return seen

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
        """Wait until a condition holds; raises with the daemons' last words when it does not in time."""
        start = time.monotonic()
        while not condition():
            waited = time.monotonic() - start
            if waited > seconds or any(daemon.poll() is not None for daemon in self._daemons):
                logs = (f"{log.name}:\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))
                raise TimeoutError("\n".join((f"waited {waited:.1f} s for {what}", *logs)))
            time.sleep(0.1)

    def release(self, job: str) -> None:
        """Let a requeued task start again soon; Slurm holds it back for two minutes.

        Not in the second of its end: slurmd takes a start then for the one that was ended, and the task fails.
        """
        self.wait_for(job, "PENDING")
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    def pids(self, job: str) -> list[int]:
        """The batch script's process of a running job or array task, then those it started, oldest first."""
        array, _, task = job.partition("_")
        wanted = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={task}"} if task else {f"SLURM_JOB_ID={job}"}
        return [pid for pid, variables in processes_of(self.folder) if wanted <= variables]

    def _start(self) -> None:
        for name in ("spool", "state"):
            (self.folder / name).mkdir()
        (self.folder / "slurm.conf").write_text(self._configuration())
        (self.folder / "cgroup.conf").write_text(_without_cgroups())
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        own = {"socket": "munge.socket", "key-file": key.name, "pid-file": "munged.pid", "seed-file": "munged.seed"}
        self._daemon("munged", "--foreground", "--force", *(f"--{k}={self.folder / v}" for k, v in own.items()))
        self.wait((self.folder / "munge.socket").exists, "munged")
        self._daemon("slurmctld", "-D", "-i")
        self.wait(lambda: self._answers("scontrol", "ping"), "slurmctld")
        self._daemon("slurmd", "-D")
        self.wait(lambda: self.run("sinfo", "--noheader", "--format=%T").startswith("idle"), "slurmd")

    def _configuration(self) -> str:
        host = socket.gethostname().partition(".")[0]
        own = {
            "SlurmctldHost": f"{host}(127.0.0.1)",  # a container's name need not resolve
            "AuthInfo": f"socket={self.folder / 'munge.socket'}",
            "SlurmctldPort": str(_free_port()),
            "SlurmdPort": str(_free_port()),
            "StateSaveLocation": str(self.folder / "state"),
            "SlurmdSpoolDir": str(self.folder / "spool"),
            "SlurmctldPidFile": str(self.folder / "slurmctld.pid"),
            "SlurmdPidFile": str(self.folder / "slurmd.pid"),
            "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs={self.cpus} State=UNKNOWN",
        }
        lines = [f"{name}={value}" for name, value in (own | self.settings).items()]
        lines += [f"PartitionName={partition} Nodes=ALL State=UP" for partition in self.partitions]
        lines[-len(self.partitions)] += " Default=YES"
        return "\n".join((*lines, ""))

    def _daemon(self, *command: str) -> None:
        """Start a daemon that dies with this process, however that ends."""
        with (self.folder / f"{command[0]}.log").open("wb") as log:
            tied = ("setpriv", "--pdeathsig", "KILL", *command)
            self._daemons.append(subprocess.Popen(tied, env=self.env, cwd=self.folder, stdout=log, stderr=log))

    def _answers(self, *command: str) -> bool:
        return subprocess.run(command, env=self.env, capture_output=True).returncode == 0


def _without_cgroups() -> str:
    """What cgroup.conf says so that slurmd starts where there are none; `disabled` is known since Slurm 23.02.

    Before, slurmd loads a plugin for them in any case, and the first version's looks for nothing until it is used.
    """
    version = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, env={"PATH": _PATH}).stdout.split()[-1]
    major, minor = version.split(".")[:2]
    return f"CgroupPlugin={'disabled' if (int(major), int(minor)) >= (23, 2) else 'cgroup/v1'}\n"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processes_of(folder: Path) -> list[tuple[int, set[str]]]:
    """Number and environment of each process of the cluster in a folder, oldest first; never this one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "environ").read_text(errors="replace")
        except OSError:
            continue  # ended meanwhile
        if f"SLURM_CONF={folder}/" in text and int(entry.name) != os.getpid():
            found.append((int(entry.name), set(text.split("\0"))))
    return sorted(found, key=lambda process: (int(start_time(process[0]) or 0), process[0]))


def _kill_all(folder: Path) -> None:
    """End daemons, steps and jobs, until none is left that might start another."""
    while found := processes_of(folder):
        for pid, _ in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _sweep() -> None:
    """End and remove the clusters of test processes that are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not is_alive(int(owner)):
            _kill_all(folder)
            shutil.rmtree(folder, ignore_errors=True)
