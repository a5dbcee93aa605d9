"""The one impure value: the repository, its runs, the workers and the clock.

A function that takes a `World` may touch things; one that does not, may not.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler import process
from reconciler.contracts import Contracts
from reconciler.disk import DISK, Disk
from reconciler.errors import UsageError
from reconciler.git import Repository, open_repository
from reconciler.host import machine_of, read_host
from reconciler.model import ExecutorSettings, HostId, Instant, Rejection, Settings, Source
from reconciler.process import Chance, Processes, Workers
from reconciler.remote import NETWORK_TIMEOUT_S, Remote, open_remote
from reconciler.rundir import Runs
from reconciler.signals import undisturbed
from reconciler.values import frozen

CAPABILITY = re.compile(r"[a-z0-9](\.?[a-z0-9_-])*")
CAPABILITY_CHARACTERS_MAX = 100
CAPABILITIES_MAX = 50


@frozen
class World:
    repository: Repository
    disk: Disk
    runs: Runs
    processes: Processes
    workers: Workers
    contracts: Contracts
    chance: Chance
    now: Callable[[], Instant]
    machine: str = ""
    cpus: int = os.cpu_count() or 1
    remote: Remote | None = None
    sleep: Callable[[float], None] = time.sleep
    suspended_s: Callable[[], float] = process.suspended_s
    undisturbed: Callable[[], AbstractContextManager[None]] = undisturbed
    """Within it no signal breaks off what has been begun."""
    node: str = os.uname().nodename
    capabilities: tuple[str, ...] = ()
    open_engine: Callable[[str, ExecutorSettings, Path], Any] | None = None
    """What opens engines instead of `executors.opening`, in a simulated world."""
    beside: Any = None
    """How engines are looked at beside the passes (`looks.Beside`), in a simulated world."""

    def host(self) -> HostId | None:
        """Return the name of this host among those that share the remote, None if it has none yet."""
        return read_host(self.disk, self.repository.state, self.machine)

    def lease_now(self) -> Instant:
        """Return this moment on the clock by which a host measures its own lease: it goes on while the machine is
        suspended, as the clocks of others do."""
        now = self.now()
        return replace(now, monotonic_s=now.monotonic_s + self.suspended_s())

    @property
    def checkout(self) -> Path:
        """The repository's own directory, above `.runs`, whichever worktree of it one stands in."""
        return self.runs.root.parent


def open_world(directory: Path, workers: Workers | None = None) -> World:
    """Return the world around the repository that `directory` is in. Raise UsageError if it is in none."""
    repository, contracts = open_repository(directory), Contracts()
    return World(
        repository=repository,
        disk=DISK,
        processes=Processes(),
        chance=Chance(),
        runs=Runs(_root(repository) / ".runs", repository.state),
        workers=workers or Workers(),
        contracts=contracts,
        now=process.instant,
        machine=machine_of(repository.common),
        remote=_remote(repository, contracts),
        capabilities=capabilities_here(os.environ.get("RECONCILER_CAPABILITIES", "")),
    )


def capabilities_here(said: str) -> tuple[str, ...]:
    """Return what this host offers beside what settings say of its executors: $RECONCILER_CAPABILITIES, separated by
    commas. Raise UsageError for what is no capability."""
    words = tuple(sorted({each for part in said.split(",") if (each := part.strip())}))
    for each in words:
        if len(each) > CAPABILITY_CHARACTERS_MAX or not CAPABILITY.fullmatch(each):
            cure = "lower-case letters, digits, '.', '_' and '-', for example gpu,docker"
            raise UsageError(f"RECONCILER_CAPABILITIES: {each[:100]!r} is no capability; {cure}")
    if len(words) > CAPABILITIES_MAX:
        raise UsageError(f"RECONCILER_CAPABILITIES: {len(words)} capabilities; at most {CAPABILITIES_MAX} are allowed")
    return words


def _remote(repository: Repository, contracts: Contracts) -> Remote | None:
    """Return the remote that is shared with other machines, None if there is none."""
    found = open_remote(repository, _remote_name(repository, contracts))
    return None if found is None else replace(found, timeout_s=_remote_timeout_s())


def _remote_timeout_s() -> float:
    """Return how long one question to the remote may take: $RECONCILER_REMOTE_TIMEOUT in seconds, if it is set."""
    said = os.environ.get("RECONCILER_REMOTE_TIMEOUT", "")
    try:
        seconds = float(said) if said else NETWORK_TIMEOUT_S
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"RECONCILER_REMOTE_TIMEOUT: {said!r} is no number of seconds above 0; for example 60")
    return seconds


def _remote_name(repository: Repository, contracts: Contracts) -> str | None:
    """Return the remote that `reconciler.yaml` at HEAD names; what is wrong with that file is said elsewhere."""
    settings = settings_at(repository, contracts, "HEAD")
    return Settings().remote if settings is None or isinstance(settings, Rejection) else settings.remote


def settings_at(repository: Repository, contracts: Contracts, revision: str) -> Settings | Rejection | None:
    """Return what `reconciler.yaml` says at a revision, or what is wrong with it, None if there is none."""
    oid = repository.look_up([f"{revision}:reconciler.yaml"])[0]
    if oid is None:
        return None
    from reconciler.settings import parse_settings

    _, data = next(repository.blobs([oid]))
    return parse_settings(data, Source(path="reconciler.yaml", blob=oid), contracts)


def _root(repository: Repository) -> Path:
    """Return where live records are kept: one place for all worktrees of a repository."""
    if repository.bare:
        return repository.state
    return repository.common.parent if repository.common.name == ".git" else repository.directory
