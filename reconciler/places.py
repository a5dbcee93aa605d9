"""Where attempts are executed, in words: executors, their instances, quotas, and what is recorded of a choice.

An *executor* is a named number of slots for runs with capabilities of their own; an *instance* is one place where it
starts workers. Of the executor here, `local`, every host that shares the repository is an instance. An executor with an
*engine* has its workers started elsewhere, and that engine is its one instance. How one is chosen is for `placement`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum

from reconciler.values import frozen

LOCAL = "local"
ENGINES = ("process", "slurm", "kubernetes")
"""The engines that are ours; others come as entry points."""
RENEWING = ("process", "kubernetes")
"""Those of them that can change a secret of an attempt which is there."""


class Cause(StrEnum):
    """What happened to an attempt that another one had to follow. Each is said only where it was seen."""

    WORKER_DIED = "worker_died"
    SILENT = "silent"
    REBOOTED = "rebooted"
    INTERRUPTED = "interrupted"
    NOT_STARTED = "not_started"
    RECORD_LOST = "record_lost"
    HOST_SILENT = "host_silent"
    PREEMPTED = "preempted"
    REQUEUED = "requeued"
    NODE_FAILED = "node_failed"
    EVICTED = "evicted"
    TIME_LIMIT = "time_limit"
    OUT_OF_MEMORY = "out_of_memory"
    NO_IMAGE = "no_image"
    ENGINE_FORGOT = "engine_forgot"
    ENGINE_CANCELLED = "engine_cancelled"


FINAL = (Cause.TIME_LIMIT, Cause.OUT_OF_MEMORY, Cause.NO_IMAGE)
"""Ends that another attempt on the same resources would come to as well: the run fails, and a person raises a bound."""


class Where(StrEnum):
    """Where a run may be executed: at any executor, at one that this host is, or at the one named `cloud`."""

    ANYWHERE = "anywhere"
    HERE = "here"
    CLOUD = "cloud"


class Standing(StrEnum):
    """Where an attempt stands at an engine. `absent` says that the engine answers and knows nothing of it: it was never
    there, or it ended so long ago that it is forgotten."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    ABSENT = "absent"


@frozen
class Sighting:
    """What an engine says of one attempt now. `cause` is why it ended where that was not the program's own end;
    `detail` is one line for people (why it is queued, how it ended); `place` is the node it is on, "" where unknown."""

    standing: Standing
    cause: Cause | None = None
    detail: str = ""
    place: str = ""


@frozen
class Instance:
    """One place where an executor starts workers; `silent_s` is for how long nothing was heard of it."""

    name: str
    silent_s: float = 0.0


@frozen
class Executor:
    """Where runs may be placed. `runs_max` bounds all its instances together, `instance_runs_max` each of them, None
    for no bound. An instance that is silent for longer than `silent_max_s` gets nothing. Of `weight` 0, it takes only
    what fits nowhere else. `engine` is what executes elsewhere, "" where this host does; `refusal` says why nothing can
    be placed there now, "" if it can."""

    name: str
    capabilities: tuple[str, ...] = ()
    weight: int = 1
    runs_max: int | None = None
    instance_runs_max: int | None = None
    instances: tuple[Instance, ...] = ()
    silent_max_s: float = float("inf")
    engine: str = ""
    refusal: str = ""


@frozen
class Resources:
    """What an attempt gets of an engine; None leaves it to the engine. `gpus` are counted, `time_s` is how long the
    attempt may be there. `partition`, `account`, `qos` and `reservation` are words of Slurm, and of no other engine."""

    cpus: int | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    time_s: float | None = None
    partition: str = ""
    account: str = ""
    qos: str = ""
    reservation: str = ""


@frozen
class Quotas:
    """How many runs may be under way at once: of a task, by its id or `*` for every other one, and with a label."""

    tasks: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)


@frozen
class Placement:
    """Where an attempt is executed, and why there. `asked` are the capabilities that its run needs, `offered` those of
    the executor; `at` is when it was claimed there, "" before; `handle` is its name at the engine of the executor, ""
    where this host executes it itself."""

    executor: str
    instance: str
    asked: tuple[str, ...]
    offered: tuple[str, ...]
    weight: int
    reason: str
    at: str = ""
    handle: str = ""


@frozen
class Recovery:
    """What became of attempt `lost`, so that another one had to be made. `silent_s` is the silence that was measured,
    None where the cause is another one; `executor` and `instance` say where it was, "" where nobody wrote that down."""

    lost: int
    cause: Cause
    silent_s: float | None
    executor: str
    instance: str
    detail: str
