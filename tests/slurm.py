"""A cluster of Slurm on this machine, for tests: munged, slurmctld and one slurmd of our own, without systemd.

Everything is in one directory and on ports that were free: configuration, key, sockets, state, spool. What is ended is
ended by pid. Several clusters do not see each other. A slurmd must be root, so without that the tests skip.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reconciler.contracts import Contracts
from reconciler.executors.engine import CALL_S
from reconciler.executors.slurm import Slurm
from reconciler.executors.slurm_words import options_of

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE_S = 60.0
MEMORY_MB = 4000
CPUS = 64

CONFIGURATION = """
ClusterName=tests
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser=root
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=10000,batch_sched_delay=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
KillWait=2
MinJobAge=300
SlurmdTimeout=60
SlurmctldTimeout=60
MessageTimeout=5
DefMemPerNode=10
MaxJobCount=1000
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} State=UNKNOWN
PartitionName=main Nodes={node} Default=YES PriorityTier=1 PreemptMode=CANCEL
PartitionName=again Nodes={node} PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes={node} PriorityTier=10 PreemptMode=OFF
PartitionName=drained Nodes={node} State=DRAIN
PartitionName=down Nodes={node} State=DOWN
"""


@dataclass
class Cluster:
    """A cluster that answers. `config` is what its commands need to know of it."""

    place: Path
    node: str
    started: dict[str, int] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.place / "slurm.conf"

    def engine(self, call_s: float = CALL_S, **options: object) -> Slurm:
        """Return a client of this cluster, whose attempts are executed by `sh`."""
        given = {"program": ["/bin/sh"], "config": str(self.config), "output": str(self.place / "output"), **options}
        assert Contracts().check("executors/slurm", given) == ()
        return Slurm(options_of(given), call_s)

    def ask(self, *words: str, check: bool = True) -> str:
        """Return what one of its commands prints."""
        done = subprocess.run(words, capture_output=True, text=True, env=self._environment(), timeout=PATIENCE_S)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def start(self, name: str) -> None:
        """Start slurmctld or slurmd, and wait until it has written down who it is."""
        pid_file = self.place / f"{name}.pid"
        pid_file.unlink(missing_ok=True)
        words = ("-N", self.node) if name == "slurmd" else ()
        self._run(name, "-f", str(self.config), *words)
        self.started[name] = int(wait_for(lambda: _number(pid_file), f"{name} does not start"))

    def kill(self, name: str) -> None:
        """SIGKILL one of its daemons, with what it has started for itself."""
        pid = self.started.pop(name)
        for each in (*(() if name == "slurmd" else _children(pid)), pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{pid}").exists() or _is_dead(pid), f"{name} does not end")

    def wait_until_idle(self) -> None:
        """Wait until its node takes work."""
        wait_for(lambda: self.ask("sinfo", "-h", "-p", "main", "-o", "%T", check=False).strip() in ("idle", "mixed"),
                 f"the node does not come up: {_tail(self.place / 'slurmd.log')}")  # fmt: skip

    def begin(self) -> None:
        """Start all of it."""
        for each in ("munge", "state", "spool", "output"):
            (self.place / each).mkdir(mode=0o755)
        (self.place / "munge" / "key").write_bytes(os.urandom(128))
        (self.place / "munge" / "key").chmod(0o600)
        self._run("munged", *(f"--{each}-file={self.place}/munge/{each}" for each in ("key", "pid", "log", "seed")),
                  f"--socket={self.place}/munge/socket", "--num-threads=2")  # fmt: skip
        self.started["munged"] = int(wait_for(lambda: _number(self.place / "munge/pid"), "munged does not start"))
        with socket.socket() as one, socket.socket() as other:
            for each in (one, other):
                each.bind(("127.0.0.1", 0))
            ports = [each.getsockname()[1] for each in (one, other)]
        self.config.write_text(
            CONFIGURATION.format(place=self.place, node=self.node, controller_port=ports[0], node_port=ports[1],
                                 cpus=CPUS, memory_mb=MEMORY_MB, user="root")
        )  # fmt: skip
        self.start("slurmctld")
        self.start("slurmd")
        self.wait_until_idle()

    def end(self) -> None:
        """End all of it: what it executes first, by its own means, then its daemons."""
        if "slurmctld" in self.started and "slurmd" in self.started:
            self.ask("scancel", "--full", "--signal=KILL", "--me", check=False)
            self.ask("scancel", "--me", check=False)
            with contextlib.suppress(AssertionError):
                wait_for(lambda: not self.ask("squeue", "-h", "--me", check=False).strip(), "")
        for name in ("slurmd", "slurmctld", "munged"):
            if name in self.started:
                self.kill(name)

    def _run(self, *words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True, env=self._environment(), timeout=PATIENCE_S)
        assert done.returncode == 0, f"{words[0]}: {done.stderr}"

    def _environment(self) -> dict[str, str]:
        return {"PATH": PATH, "SLURM_CONF": str(self.config), "HOME": "/", "LC_ALL": "C", "TZ": "UTC"}


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a cluster, or skip and say exactly why there can be none. Its paths must be short: they name sockets."""
    _skip_without()
    import tempfile

    place = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    place.chmod(0o755)
    found = Cluster(place, socket.gethostname().partition(".")[0])
    try:
        found.begin()
        yield found
    finally:
        found.end()
        shutil.rmtree(place, ignore_errors=True)


def _skip_without() -> None:
    missing = [each for each in PROGRAMS if shutil.which(each, path=PATH) is None]
    if sys.platform != "linux":
        pytest.skip("Slurm is tested on Linux only")
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; install it with: make slurm")
    if os.geteuid() != 0:
        pytest.skip("slurmd must be started by root, and this is not root")
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        pytest.skip(f"the name of this machine, {socket.gethostname()}, has no address; put it into /etc/hosts")


def wait_for(found: object, otherwise: str, patience_s: float = PATIENCE_S) -> object:
    """Ask again and again until there is an answer, and return it."""
    deadline = time.monotonic() + patience_s
    while not (answer := found()):  # type: ignore[operator]
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)
    return answer


def _number(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _is_dead(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    return True


def _tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace")[-2000:]
    return ""
