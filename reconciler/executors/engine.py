"""What a module for one engine provides: how an attempt is placed there, looked at, ended and found again.

An *engine* is a scheduler of compute that is there already (Slurm, Kubernetes), or processes of this machine. It is
given a *submission* a attempt: a program with arguments, which fetches its order by git, executes the attempt and hands
back what became of it by git (`courier`). So an engine needs to know nothing of runs but names.

A name is its own memory: the *handle* is derived from the repository, the run and the number of the attempt
(`work.handle_of`) and recorded in the claim before anything is submitted. Whoever submits twice finds the first;
whoever has lost everything asks for what there is (`adopt`).

Third parties register an engine as an entry point of the group `reconciler.executors`: a callable that takes an
`Opening` and returns an `Engine`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from reconciler.errors import TransientError
from reconciler.places import Resources, Sighting, Standing
from reconciler.values import frozen

__all__ = [
    "CALL_S",
    "FILE_SUFFIX",
    "GROUP",
    "Engine",
    "EngineSilent",
    "Opening",
    "Renewing",
    "Sighting",
    "Standing",
    "Submission",
    "Turned",
]

GROUP = "reconciler.executors"
"""The group of entry points that engines are looked for in."""
CALL_S = 20.0
"""How long one call of an engine may take in all, if it does not say otherwise."""
FILE_SUFFIX = "_FILE"
"""A secret NAME that may change is in a file, and the environment variable NAME_FILE says in which."""


class EngineSilent(TransientError):
    """An engine cannot be asked: it does not answer, not in time, or with something that is no answer. What it was told
    may have been done."""


@frozen
class Opening:
    """What an engine is made with: the name of its executor, the `options` of that in the settings (checked against
    the engine's own schema before), and a directory of this host for what it keeps. `withheld` are environment
    variables that hold credentials of the reconciler's own: nothing that executes attempts inherits them."""

    executor: str
    options: Mapping[str, Any]
    directory: Path
    withheld: tuple[str, ...] = ()


@frozen
class Submission:
    """One attempt to be placed. `arguments` follow the program that the engine knows (`-m reconciler.executors.courier`
    by default). `secrets` are environment variables that nobody but the attempt may see: they never stand in what an
    engine shows to others, in a log, or in a manifest. `renewed` are secrets that may change while the attempt is
    there: only an engine that is `Renewing` is given any, and the attempt finds each in a file that nobody else may
    read, whose path is in the environment (`FILE_SUFFIX`). `repository` is the digest by which `adopt` finds it again.
    `grace_s` is how long it may take to end after TERM."""

    handle: str
    repository: str
    run_id: str
    task_id: str
    number: int
    arguments: tuple[str, ...]
    secrets: Mapping[str, str] = field(default_factory=dict)
    renewed: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    grace_s: float = 10.0


@frozen
class Turned:
    """A submission that the engine did not take. `settled` is True where only a person can change that (a partition
    that does not exist); else it is tried again later (a queue that is full, a rate that is limited)."""

    reason: str
    settled: bool = False


class Engine(Protocol):
    """One engine. Every method may take `CALL_S` and raises EngineSilent if the engine cannot be asked. It is used by
    one thread at a time, and not always the same: `observe` may be called in one of its own."""

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Turned]:
        """Place attempts; return by handle those that were not taken. One whose handle is there already, in whatever
        standing, is not placed again. After EngineSilent some may have been placed: submit again."""
        ...

    def observe(self, handles: Collection[str]) -> Mapping[str, Sighting]:
        """Return what is known of these handles, every one of them, in one call for many."""
        ...

    def cancel(self, handles: Collection[str]) -> None:
        """Have these ended, with TERM and after their grace by force. Those that ended or are absent stay so. Returns
        when the engine has been told: whether they are gone is for `observe`."""
        ...

    def adopt(self, repository: str) -> Mapping[str, Mapping[str, str]]:
        """Return what there is of a repository: its secrets by handle, empty where the engine does not tell them. What
        has ended is told of for as long as the engine has it: its last word may lie at its ref, and who comes late
        needs the key to believe it."""
        ...

    def logs(self, handle: str, bytes_max: int) -> bytes:
        """Return the end of what a submission has printed, at most so much; empty where there is nothing."""
        ...


@runtime_checkable
class Renewing(Protocol):
    """What an engine does beside that can change a secret of an attempt which is there already."""

    def renew(self, secrets: Mapping[str, Mapping[str, str]]) -> Collection[str]:
        """Let attempts find these secrets from now on, by handle and name; return the handles for which that is done,
        or of no use any more because the attempt has ended or is absent. The others are told later. Done twice, it is
        done once. Raise EngineSilent as the other methods do; then some may have been done."""
        ...
