"""Run requests of other versions as version 2: our own flat first one, and those of the Node orchestrator. Pure.

A flat request, version 1, is a shape of ours that nothing writes any more. It is one object: `requestId` or `runId`,
`taskId`, `taskTitle`, `pipelineId`, `pipelineVersion`, `pipelineTitle`, `stages` (ids, or objects with an id),
`capabilities` or `tags`, `privacyLevel`, `requestedAt`, `requestedBy` (a name or an object). A request of the Node
orchestrator has the schema `codex.control-plane.run-request` and the sections of version 2 with keys in camel case.
What has no place in version 2 is told, and never carried along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler import codec
from reconciler.control.request import DIMENSIONS, SCHEMA, VERSION, line, streaming
from reconciler.control.rules import pointer
from reconciler.errors import ContentError
from reconciler.values import frozen

NODE_SCHEMA = "codex.control-plane.run-request"
GENERAL = "general"
"""The capability of a request that names none, as the Node orchestrator calls it."""
KINDS = {"command": "command", "subpipeline": "pipeline", "pipeline": "pipeline", "agent": "agent", "guard": "guard"}
RECOVERY = {"heartbeat_interval_s": 30.0, "heartbeat_timeout_s": 120.0, "retries_max": 3}
"""What the Node orchestrator wrote where nobody said anything."""
INTERVAL_S = 30.0
STAGES_MAX = 200
DROPPED_MAX = 50

Document = Mapping[str, Any]


@frozen
class Converted:
    """A run request of version 2, which its rules have yet to be held against, and the places of the old one that have
    no equivalent."""

    document: Mapping[str, Any]
    dropped: tuple[str, ...]


@dataclass(slots=True)
class Reader:
    """An object of an old request at a place; it remembers what was read of it, so that the rest can be told."""

    value: Document
    place: tuple[str | int, ...] = ()
    read: set[str] = field(default_factory=set)
    inner: list[Reader] = field(default_factory=list)

    def get(self, *names: str, default: Any = None) -> Any:
        """Return what the first of these keys says that is there and not null."""
        self.read.update(names)
        return next((self.value[each] for each in names if self.value.get(each) is not None), default)

    def section(self, name: str) -> Reader:
        """Return an object within, an empty one where there is none."""
        found = self.get(name)
        made = Reader(found if isinstance(found, Mapping) else {}, (*self.place, name))
        self.inner.append(made)
        return made

    def rows(self, name: str) -> list[Reader]:
        """Return the objects of a list; a text in it is taken for the id of one."""
        found = self.get(name, default=())
        listed = list(found)[:STAGES_MAX] if isinstance(found, Sequence) and not isinstance(found, str) else []
        whole = ({"id": each} if isinstance(each, str) else each for each in listed)
        made = [
            Reader(each, (*self.place, name, index)) for index, each in enumerate(whole) if isinstance(each, Mapping)
        ]
        self.inner += made
        return made

    def left(self) -> Iterable[str]:
        """Yield the places of which nothing was read."""
        yield from (pointer((*self.place, each)) for each in self.value if each not in self.read)
        for each in self.inner:
            yield from each.left()


def convert(old: object, *, at: str) -> Converted:
    """Return an old run request as version 2; `at` is when it was asked for where it does not say. Raise ContentError
    for what is no run request."""
    if not isinstance(old, Mapping):
        raise ContentError("the document is no run request; a mapping is expected")
    if old.get("schema") == SCHEMA:
        return Converted(document=old, dropped=())
    reader = Reader(old)
    made = _of_node(reader, at) if old.get("schema") == NODE_SCHEMA else _of_flat(reader, at)
    return Converted(document=codec.dump(made), dropped=tuple(reader.left())[:DROPPED_MAX])


# ------------------------------------------------------------------------------------------------ flat


def _of_flat(old: Reader, at: str) -> dict[str, Any]:
    named = old.get("requestId", "runId")
    if named is None or old.get("pipelineId") is None:
        cure = "version 1 has requestId (or runId), taskId and pipelineId"
        raise ContentError(f"the document is no run request that is known; {cure}")
    old.get("schema", "version")
    capabilities = _capabilities(old.get("capabilities", "tags"))
    stages = [_stage(each) for each in old.rows("stages")] or [_whole(str(old.get("pipelineId")))]
    by = old.get("requestedBy")
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "request_id": named,
        "parent_request_id": old.get("parentRunId"),
        "task": {
            "id": old.get("taskId", default=""),
            "title": _title(old.get("taskTitle", "taskId", default="")),
            "tags": [],
        },
        "pipeline": _pipeline(
            old.get("pipelineId"), old.get("pipelineVersion"), old.get("pipelineTitle"), capabilities, stages
        ),
        "schedule": _placement(capabilities, len(stages)),
        "streaming": streaming(),
        "constraints": _constraints(old.get("privacyLevel"), old.get("policyVersion"), None),
        "metrics": {"interval_s": INTERVAL_S, "dimensions": list(DIMENSIONS)},
        "requested_at": old.get("requestedAt", "startedAt", default=at),
        "requested_by": _actor(by if isinstance(by, Mapping) else {"actorId": by}),
        "source": None,
    }


def _whole(pipeline: str) -> dict[str, Any]:
    """Return the one stage of a request that names none: the pipeline as a whole."""
    return {
        "id": pipeline, "kind": "pipeline", "title": _title(pipeline), "selected": True, "optional": False,
        "needs": [], "capabilities": [],
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ Node


def _of_node(old: Reader, at: str) -> dict[str, Any]:
    old.get("schema", "version")
    task, pipeline, schedule = old.section("task"), old.section("pipeline"), old.section("schedule")
    constraints, metrics = old.section("constraints"), old.section("metrics")
    capabilities = _capabilities(pipeline.get("capabilities"))
    stages = [_stage(each) for each in pipeline.rows("stages")]
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "request_id": old.get("requestId", default=""),
        "parent_request_id": None,
        "task": {
            "id": task.get("id", default=""),
            "title": _title(task.get("title", default="")),
            "tags": _texts(task.get("tags")),
        },
        "pipeline": _pipeline(pipeline.get("id"), pipeline.get("version"), pipeline.get("title"), capabilities, stages),
        "schedule": _node_schedule(schedule, capabilities),
        "streaming": _node_streaming(old.section("streaming")),
        "constraints": _constraints(
            constraints.get("privacyLevel"), constraints.get("policyVersion"), constraints.get("dataResidency")
        ),
        "metrics": {
            "interval_s": metrics.get("emitIntervalSeconds", default=INTERVAL_S),
            "dimensions": _texts(metrics.get("requiredDimensions")) or list(DIMENSIONS),
        },
        "requested_at": old.get("requestedAt", default=at),
        "requested_by": _actor(old.section("requestedBy")),
        "source": None,
    }


def _node_schedule(old: Reader, capabilities: list[str]) -> dict[str, Any]:
    recovery = old.section("recovery")
    rows = [
        {
            "capability": _capability(each.get("capability", default="")),
            "weight": each.get("weight", default=1.0),
            "concurrency_max": each.get("maxConcurrency", default=1),
        }
        for each in old.rows("fanOut")
    ]
    return {
        "strategy": old.get("strategy", default="auto"),
        "instances_min": old.get("minInstances", default=1),
        "instances_max": old.get("maxInstances", default=1),
        "fan_out": rows or _placement(capabilities, 1)["fan_out"],
        "recovery": {
            "heartbeat_interval_s": recovery.get("heartbeatIntervalSeconds", default=30.0),
            "heartbeat_timeout_s": recovery.get("missingHeartbeatTimeoutSeconds", default=120.0),
            "retries_max": recovery.get("maxRetries", default=3),
        },
    }


def _node_streaming(old: Reader) -> dict[str, Any]:
    observers = old.section("observers")
    ours = codec.dump(streaming())
    return {
        "handles": old.get("handles", default=ours["handles"]),
        "resume_supported": old.get("resumeSupported", default=ours["resume_supported"]),
        "observers": {
            "subscribers_max": observers.get("maxSubscribers", default=ours["observers"]["subscribers_max"]),
            "backpressure_ms": observers.get("defaultBackpressureMs", default=ours["observers"]["backpressure_ms"]),
        },
    }


# ------------------------------------------------------------------------------------------------ small parts


def _pipeline(
    named: object, version: object, title: object, capabilities: list[str], stages: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the section of a pipeline; it offers what its stages need, whether the old one said so or not."""
    needed = [each for stage in stages for each in stage["capabilities"]]
    return {
        "id": named if named is not None else "",
        "version": version if version is not None else "1.0.0",
        "title": _title(title if title is not None else named),
        "digest": None,
        "capabilities": list(dict.fromkeys([*capabilities, *needed])),
        "stages": stages,
    }


def _stage(old: Reader) -> dict[str, Any]:
    """Return a stage. The old ones stand in a row and do not say what they need."""
    named = old.get("id", default="")
    kind = old.get("kind", default="command")
    return {
        "id": named,
        "kind": KINDS.get(kind, kind) if isinstance(kind, str) else kind,
        "title": _title(old.get("title", default=named)),
        "selected": True,
        "optional": old.get("optional", "allowFailure", default=False),
        "needs": [],
        "capabilities": [_capability(each) for each in _texts(old.get("capabilities"))],
    }


def _placement(capabilities: list[str], stages: int) -> dict[str, Any]:
    return {
        "strategy": "auto",
        "instances_min": 1,
        "instances_max": 1,
        "fan_out": [{"capability": each, "weight": 1.0, "concurrency_max": max(1, stages)} for each in capabilities],
        "recovery": dict(RECOVERY),
    }


def _constraints(privacy_level: object, policy_version: object, residency: object) -> dict[str, Any]:
    return {
        "privacy_level": "standard" if privacy_level is None else privacy_level,
        "policy_version": "1" if policy_version is None else policy_version,
        "redaction": "enforce",
        "data_residency": residency,
    }


def _actor(old: Reader | Document) -> dict[str, Any]:
    get = old.get if isinstance(old, Reader) else Reader(old).get
    return {
        "actor": get("actorId", "actor", "id", default="unknown"),
        "channel": get("channel", default="cli"),
        "name": get("name"),
    }


def _capabilities(said: object) -> list[str]:
    return list(dict.fromkeys(_capability(each) for each in _texts(said))) or [GENERAL]


def _capability(said: object) -> str:
    """Return a capability as version 2 spells it: lower case, and what it does not know as `-`."""
    return re.sub(r"[^a-z0-9._:/-]", "-", str(said).lower())[:120]


def _texts(said: object) -> list[str]:
    listed = said if isinstance(said, Sequence) and not isinstance(said, str) else ()
    return list(dict.fromkeys(str(each) for each in listed))[:STAGES_MAX]


def _title(said: object) -> str:
    return line(str(said)) if said is not None else ""
