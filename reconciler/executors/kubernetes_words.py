"""What Kubernetes says of Jobs and pods, and what that means for an attempt. Pure.

Answers come from a server and are taken as text that may say anything: of a document is read what is needed, each part
only if it has the form it must have, and all that is kept of it is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from reconciler.executors.engine import Sighting, Standing, Turned
from reconciler.executors.kubernetes_job import CAUSE, CONTAINER, DETAIL, HANDLE_LABEL
from reconciler.places import Cause
from reconciler.values import frozen

DETAIL_CHARACTERS_MAX = 300
CONDITIONS_MAX = 32
LOST_S = 120.0
"""A pod that was to be gone for longer than this and is still there is on a node that nobody hears."""
NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
NEVER = ("InvalidImageName", "ErrImageNeverPull")
"""What no waiting cures."""
NOT_MADE = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
LOST_NODE = ("NodeLost", "NodeShutdown", "Shutdown", "Terminated", "NodeAffinity", "UnexpectedAdmissionError")
"""Reasons of a pod whose node went, or did not take it: kubelet and the controllers say these."""
NO_ROOM = "OutOf"
"""So begin the reasons of a pod that its node had no room for when it came."""
DISRUPTIONS = {
    "EvictionByEvictionAPI": Cause.EVICTED,
    "PreemptionByScheduler": Cause.PREEMPTED,
    "PreemptionByKubeScheduler": Cause.PREEMPTED,
    "DeletionByTaintManager": Cause.NODE_FAILED,
    "DeletionByPodGC": Cause.NODE_FAILED,
    "TerminationByKubelet": Cause.EVICTED,
}
"""Reasons of the condition DisruptionTarget, by which a pod says who takes it away."""


class Change(StrEnum):
    """What the words of a watch say of an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    ERROR = "ERROR"


@frozen
class Condition:
    """One condition that holds: its type, the word for why, a sentence, and since when in seconds since 1970."""

    type: str
    reason: str = ""
    message: str = ""
    since_s: float | None = None


@frozen
class JobSeen:
    """What of a Job is kept. `leaving` is whether it is being deleted; `cause` is why we ended it, "" if not."""

    name: str
    uid: str = ""
    conditions: tuple[Condition, ...] = ()
    suspended: bool = False
    leaving: bool = False
    cause: str = ""
    detail: str = ""


@frozen
class PodSeen:
    """What of a pod is kept: `waiting` and `ended` are the word and the sentence for why its container waits or has
    ended, `exit_status` its end, None before. `scheduled_s` is when it got its node, in seconds since 1970."""

    name: str
    handle: str
    phase: str = ""
    reason: str = ""
    message: str = ""
    node: str = ""
    created_s: float = 0.0
    leaving_s: float | None = None
    scheduled_s: float | None = None
    waiting: tuple[str, str] = ("", "")
    ended: tuple[str, str] = ("", "")
    exit_status: int | None = None
    conditions: tuple[Condition, ...] = ()
    pending: Condition | None = None


# ------------------------------------------------------------------------------------------------ reading


def job_seen(document: object) -> JobSeen | None:
    """Return what of a Job is kept, None for what is no Job."""
    metadata, name = _metadata(document)
    if not name:
        return None
    about = _mapping(metadata.get("annotations"))
    spec, status = _mapping(_mapping(document).get("spec")), _mapping(_mapping(document).get("status"))
    return JobSeen(
        name=name,
        uid=_text(metadata.get("uid")),
        conditions=_holding(status),
        suspended=spec.get("suspend") is True,
        leaving=bool(metadata.get("deletionTimestamp")),
        cause=_text(about.get(CAUSE)),
        detail=_text(about.get(DETAIL)),
    )


def pod_seen(document: object) -> PodSeen | None:
    """Return what of a pod is kept, None for what is no pod of an attempt."""
    metadata, name = _metadata(document)
    handle = _text(_mapping(metadata.get("labels")).get(HANDLE_LABEL))
    if not name or not handle:
        return None
    spec, status = _mapping(_mapping(document).get("spec")), _mapping(_mapping(document).get("status"))
    container = _container(status)
    waiting, ended = _mapping(container.get("waiting")), _mapping(container.get("terminated"))
    holding = _holding(status)
    code = ended.get("exitCode")
    return PodSeen(
        name=name,
        handle=handle,
        phase=_text(status.get("phase")),
        reason=_text(status.get("reason")),
        message=_text(status.get("message")),
        node=_text(spec.get("nodeName")),
        created_s=instant_s(metadata.get("creationTimestamp")) or 0.0,
        leaving_s=instant_s(metadata.get("deletionTimestamp")),
        scheduled_s=next((each.since_s for each in holding if each.type == "PodScheduled"), None),
        waiting=(_text(waiting.get("reason")), _text(waiting.get("message"))),
        ended=(_text(ended.get("reason")), _text(ended.get("message"))),
        exit_status=code if isinstance(code, int) and not isinstance(code, bool) else None,
        conditions=holding,
        pending=next((each for each in _conditions(status, "False") if each.type == "PodScheduled"), None),
    )


def version_of(document: object) -> str:
    """Return the resource version of an object or a list, "" if it has none."""
    return _text(_mapping(_mapping(document).get("metadata")).get("resourceVersion"))


def instant_s(text: object) -> float | None:
    """Return an instant of the API in seconds since 1970, None for what is none."""
    if not isinstance(text, str) or len(text) > 40:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.timestamp() if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _container(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state of the container of the attempt."""
    for each in _list(status.get("containerStatuses")):
        if _mapping(each).get("name") == CONTAINER:
            return _mapping(_mapping(each).get("state"))
    return {}


def _holding(status: Mapping[str, Any]) -> tuple[Condition, ...]:
    return _conditions(status, "True")


def _conditions(status: Mapping[str, Any], truth: str) -> tuple[Condition, ...]:
    found = [_mapping(each) for each in _list(status.get("conditions"))[:CONDITIONS_MAX]]
    return tuple(
        Condition(
            type=_text(each.get("type")),
            reason=_text(each.get("reason")),
            message=_text(each.get("message")),
            since_s=instant_s(each.get("lastTransitionTime")),
        )
        for each in found
        if each.get("status") == truth
    )


def _metadata(document: object) -> tuple[Mapping[str, Any], str]:
    metadata = _mapping(_mapping(document).get("metadata"))
    return metadata, _text(metadata.get("name"))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _text(value: object) -> str:
    """Return a text on one line and bounded, "" for what is none."""
    if not isinstance(value, str):
        return ""
    plain = value[:4096]
    if not plain.isprintable():
        plain = "".join(each if each.isprintable() else " " for each in plain)
    words = " ".join(plain.split())
    return words if len(words) <= DETAIL_CHARACTERS_MAX else f"{words[: DETAIL_CHARACTERS_MAX - 3]}..."


# ------------------------------------------------------------------------------------------------ where an attempt is


def has_ended(job: JobSeen) -> bool:
    """Return whether a Job is over: nothing of it is executed or will be."""
    return any(each.type in ("Complete", "Failed") for each in job.conditions)


def sighting(job: JobSeen | None, pod: PodSeen | None, now_s: float) -> Sighting:
    """Return where an attempt stands, by its Job and its newest pod. `now_s` is the time of the server, in seconds
    since 1970."""
    if job is None:
        return Sighting(standing=Standing.ABSENT)
    if has_ended(job):
        return _ended(job, pod)
    place = pod.node if pod is not None else ""
    if pod is not None and _is_lost(pod, now_s):
        detail = f"node {place} does not answer; whether the pod is still executed there cannot be known"
        return Sighting(standing=Standing.ENDED, cause=Cause.NODE_FAILED, detail=detail, place=place)
    if job.leaving:
        return Sighting(standing=Standing.RUNNING, detail="it is being deleted", place=place)
    return _alive(job, pod)


def _alive(job: JobSeen, pod: PodSeen | None) -> Sighting:
    if job.suspended:
        return Sighting(
            standing=Standing.QUEUED, detail="the Job is suspended; a queue of the cluster may hold it back"
        )
    if pod is None:
        return Sighting(standing=Standing.QUEUED, detail="no pod yet; a quota of the namespace may hold it back")
    if pod.phase in ("Running", "Succeeded", "Failed", "Unknown"):
        return Sighting(standing=Standing.RUNNING, detail=_joined(pod.reason, pod.message), place=pod.node)
    why = pod.waiting if pod.waiting[0] else ("", "")
    if not why[0] and pod.pending is not None:
        why = (pod.pending.reason, pod.pending.message)
    return Sighting(standing=Standing.QUEUED, detail=_joined(*why), place=pod.node)


def is_final(pod: PodSeen | None) -> bool:
    """Return whether all is known of how a Job ended: with what, its pod may still be saying."""
    return pod is not None and (pod.phase in ("Succeeded", "Failed") or disruption(pod) is not None)


def stuck(job: JobSeen | None, pod: PodSeen | None, now_s: float, patience_s: float) -> tuple[Cause, str] | None:
    """Return why an attempt will not start, once that has lasted for `patience_s`; None while it may."""
    if job is None or pod is None or has_ended(job) or job.leaving or pod.phase != "Pending":
        return None
    word, sentence = pod.waiting
    cause = Cause.NO_IMAGE if word in NO_IMAGE else Cause.ENGINE_CANCELLED if word in NOT_MADE else None
    if cause is None:
        return None
    waited_s = now_s - pod.scheduled_s if pod.scheduled_s is not None else 0.0
    return (cause, _joined(word, sentence)) if word in NEVER or waited_s > patience_s else None


def _is_lost(pod: PodSeen, now_s: float) -> bool:
    """Return whether a pod should be gone by now, with its grace: a node that is heard would have said so."""
    over = pod.phase in ("Succeeded", "Failed")
    return not over and pod.leaving_s is not None and now_s - pod.leaving_s > LOST_S


def _ended(job: JobSeen, pod: PodSeen | None) -> Sighting:
    """Return how a Job ended: by what we said, by what the Job says, by what its pod says."""
    place = pod.node if pod is not None else ""
    if job.cause in Cause.__members__.values():
        return Sighting(standing=Standing.ENDED, cause=Cause(job.cause), detail=job.detail, place=place)
    failed = next((each for each in job.conditions if each.type == "Failed"), None)
    if failed is not None and failed.reason == "DeadlineExceeded":
        detail = failed.message or "it took longer than its resources allow (time)"
        return Sighting(standing=Standing.ENDED, cause=Cause.TIME_LIMIT, detail=detail, place=place)
    cause, detail = _of_pod(pod) if pod is not None else (None, "")
    if failed is not None and cause is None and failed.reason == "PodFailurePolicy":
        cause, detail = Cause.EVICTED, failed.message
    if failed is not None and not detail:
        detail = _joined(failed.reason, failed.message)
    return Sighting(standing=Standing.ENDED, cause=cause, detail=detail, place=place)


def _of_pod(pod: PodSeen) -> tuple[Cause | None, str]:
    """Return why a pod ended where that was not the program's own end, and one line for people."""
    if pod.ended[0] == "OOMKilled":
        return Cause.OUT_OF_MEMORY, "OOMKilled: it used more memory than its resources allow (memory)"
    if pod.reason in ("Evicted", "Preempting", *LOST_NODE) or pod.reason.startswith(NO_ROOM):
        words = {"Evicted": Cause.EVICTED, "Preempting": Cause.PREEMPTED}
        return words.get(pod.reason, Cause.NODE_FAILED), _joined(pod.reason, pod.message)
    if (cause := disruption(pod)) is not None:
        said = next(each for each in pod.conditions if each.type == "DisruptionTarget")
        return cause, _joined(said.reason, said.message)
    if pod.exit_status is None:
        return None, _joined(pod.reason, pod.message)
    word = pod.ended[0] if pod.ended[0] not in ("", "Error", "Completed") else ""
    return None, _joined(f"exit status {pod.exit_status}", _joined(word, pod.ended[1]))


def disruption(pod: PodSeen) -> Cause | None:
    """Return who took a pod away, None if nobody did."""
    said = next((each for each in pod.conditions if each.type == "DisruptionTarget"), None)
    return DISRUPTIONS.get(said.reason, Cause.EVICTED) if said is not None else None


def _joined(*words: str) -> str:
    return _text(": ".join(filter(None, words)))


# ------------------------------------------------------------------------------------------------ refusals


def said_by(document: object) -> tuple[str, str]:
    """Return the word and the sentence of a refusal, "" for what it does not say."""
    status = _mapping(document)
    return _text(status.get("reason")), _text(status.get("message"))


def turned(status: int, document: object) -> Turned | None:
    """Return what a refusal of an order means, None where the order may be repeated at once or it is not known whether
    it was carried out."""
    word, sentence = said_by(document)
    reason = _joined(f"Kubernetes answered {status}", sentence or word)
    if status == 429:
        return Turned(reason=reason)
    if status == 403 and ("exceeded quota" in sentence or "being terminated" in sentence):
        # A namespace that is being terminated comes to an end by itself; a person may make it anew.
        return Turned(reason=reason)
    if status in (400, 403, 404, 405, 413, 415, 422):
        return Turned(reason=reason, settled=True)
    return None
