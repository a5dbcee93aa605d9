"""What Kubernetes says, and what it means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.executors.engine import Sighting, Standing, Turned
from reconciler.executors.kubernetes_job import CAUSE, DETAIL, HANDLE_LABEL
from reconciler.executors.kubernetes_words import (
    has_ended,
    instant_s,
    is_final,
    job_seen,
    pod_seen,
    said_by,
    sighting,
    stuck,
    turned,
)
from reconciler.places import Cause

NOW_S = 1_800_000_000.0
AT = "2027-01-15T08:00:00Z"
assert instant_s(AT) == NOW_S


def job(*conditions: dict[str, Any], **parts: Any) -> Any:
    metadata = {"name": "a-1", **parts.pop("metadata", {})}
    return job_seen({"metadata": metadata, "spec": parts, "status": {"conditions": list(conditions)}})


def holds(type_: str, reason: str = "", message: str = "", at: str = AT) -> dict[str, Any]:
    return {"type": type_, "status": "True", "reason": reason, "message": message, "lastTransitionTime": at}


def pod(phase: str, state: dict[str, Any] | None = None, *conditions: dict[str, Any], **parts: Any) -> Any:
    metadata = {"name": "a-1-x", "labels": {HANDLE_LABEL: "a-1"}, **parts.pop("metadata", {})}
    status = {"phase": phase, "conditions": list(conditions), **parts}
    if state is not None:
        status["containerStatuses"] = [{"name": "sidecar", "state": {}}, {"name": "attempt", "state": state}]
    return pod_seen({"metadata": metadata, "spec": {"nodeName": "node-1"}, "status": status})


def over(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


FAILED = holds("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
LATE = holds("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
TAKEN = holds("Failed", "PodFailurePolicy", "Pod runs/a-1-x has condition DisruptionTarget")


def disrupted(reason: str) -> dict[str, Any]:
    return holds("DisruptionTarget", reason, "somebody did it")


@pytest.mark.parametrize(
    ("said", "of_pod", "cause", "detail"),
    [
        (holds("Complete"), pod("Succeeded", over(0, "Completed")), None, "exit status 0"),
        (FAILED, pod("Failed", over(77)), None, "exit status 77"),
        (FAILED, pod("Failed", over(127, "StartError", "no such file")), None, "exit status 127: StartError: no such file"),
        (FAILED, pod("Failed", over(137, "OOMKilled")), Cause.OUT_OF_MEMORY, None),
        (FAILED, pod("Failed", over(137), reason="Evicted", message="low on memory"), Cause.EVICTED, "Evicted: low on memory"),
        (FAILED, pod("Failed", over(137), reason="Preempting"), Cause.PREEMPTED, "Preempting"),
        (FAILED, pod("Failed", over(143), reason="Terminated", message="node shutdown"), Cause.NODE_FAILED, None),
        (FAILED, pod("Failed", None, reason="OutOfcpu", message="no room"), Cause.NODE_FAILED, "OutOfcpu: no room"),
        (FAILED, pod("Unknown", None, reason="NodeLost"), Cause.NODE_FAILED, "NodeLost"),
        (FAILED, pod("Failed", over(143), disrupted("EvictionByEvictionAPI")), Cause.EVICTED, None),
        (FAILED, pod("Failed", over(143), disrupted("PreemptionByScheduler")), Cause.PREEMPTED, None),
        (FAILED, pod("Failed", over(143), disrupted("DeletionByTaintManager")), Cause.NODE_FAILED, None),
        (FAILED, pod("Failed", over(143), disrupted("DeletionByPodGC")), Cause.NODE_FAILED, None),
        (FAILED, pod("Failed", over(143), disrupted("SomethingNew")), Cause.EVICTED, None),
        (LATE, None, Cause.TIME_LIMIT, "Job was active longer than specified deadline"),
        (LATE, pod("Failed", over(143)), Cause.TIME_LIMIT, None),
        (TAKEN, None, Cause.EVICTED, "Pod runs/a-1-x has condition DisruptionTarget"),
        (TAKEN, pod("Failed", over(143), disrupted("PreemptionByScheduler")), Cause.PREEMPTED, None),
        (FAILED, None, None, "BackoffLimitExceeded: Job has reached the specified backoff limit"),
        (holds("Complete"), None, None, ""),
    ],
)  # fmt: skip
def test_ends_are_told_apart(said: dict[str, Any], of_pod: Any, cause: Cause | None, detail: str | None) -> None:
    found = sighting(job(said), of_pod, NOW_S)
    assert (found.standing, found.cause) == (Standing.ENDED, cause)
    assert detail is None or found.detail == detail


def test_what_we_ended_is_known_by_what_we_wrote() -> None:
    seen = job(LATE, metadata={"annotations": {CAUSE: "no_image", DETAIL: "ErrImagePull: gone"}})
    wanted = Sighting(standing=Standing.ENDED, cause=Cause.NO_IMAGE, detail="ErrImagePull: gone")
    assert sighting(seen, None, NOW_S) == wanted
    assert sighting(job(LATE, metadata={"annotations": {CAUSE: "because"}}), None, NOW_S).cause is Cause.TIME_LIMIT


@pytest.mark.parametrize(
    ("of_job", "of_pod", "standing", "detail"),
    [
        (None, None, Standing.ABSENT, ""),
        (job(), None, Standing.QUEUED, "no pod yet; a quota of the namespace may hold it back"),
        (job(suspend=True), None, Standing.QUEUED, "the Job is suspended; a queue of the cluster may hold it back"),
        (job(), pod("Pending", {"waiting": {"reason": "ContainerCreating"}}), Standing.QUEUED, "ContainerCreating"),
        (job(), pod("Running", {"running": {}}), Standing.RUNNING, ""),
        (job(), pod("Failed", over(1)), Standing.RUNNING, ""),
        (job(metadata={"deletionTimestamp": AT}), None, Standing.RUNNING, "it is being deleted"),
        (job({"type": "Failed", "status": "False"}), pod("Running"), Standing.RUNNING, ""),
        (job(holds("FailureTarget"), holds("SuccessCriteriaMet")), pod("Running"), Standing.RUNNING, ""),
    ],
)
def test_where_an_attempt_stands(of_job: Any, of_pod: Any, standing: Standing, detail: str) -> None:
    found = sighting(of_job, of_pod, NOW_S)
    assert (found.standing, found.detail) == (standing, detail)


def test_why_it_is_queued_is_said() -> None:
    said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}
    assert sighting(job(), pod("Pending", None, said), NOW_S).detail == "Unschedulable: 0/3 nodes are available"


@pytest.mark.parametrize(("later_s", "standing"), [(60, Standing.RUNNING), (600, Standing.ENDED)])
def test_a_pod_that_should_be_gone_is_on_a_node_that_is_lost(later_s: float, standing: Standing) -> None:
    leaving = pod("Running", {"running": {}}, metadata={"deletionTimestamp": AT})
    found = sighting(job(), leaving, NOW_S + later_s)
    assert found.standing is standing
    assert (found.cause is Cause.NODE_FAILED) == (standing is Standing.ENDED)


@pytest.mark.parametrize(
    ("word", "later_s", "cause"),
    [
        ("ErrImagePull", 10, None),
        ("ErrImagePull", 301, Cause.NO_IMAGE),
        ("ImagePullBackOff", 301, Cause.NO_IMAGE),
        ("InvalidImageName", 0, Cause.NO_IMAGE),
        ("ErrImageNeverPull", 0, Cause.NO_IMAGE),
        ("CreateContainerConfigError", 301, Cause.ENGINE_CANCELLED),
        ("ContainerCreating", 100_000, None),
    ],
)
def test_what_will_not_start_is_hopeless_after_a_while(word: str, later_s: float, cause: Cause | None) -> None:
    waiting = pod("Pending", {"waiting": {"reason": word, "message": "why"}}, holds("PodScheduled"))
    found = stuck(job(), waiting, NOW_S + later_s, 300)
    assert found == ((cause, f"{word}: why") if cause else None)
    assert stuck(job(FAILED), waiting, NOW_S + later_s, 300) is None


def test_a_pod_that_has_no_node_yet_is_not_hopeless() -> None:
    waiting = pod("Pending", {"waiting": {"reason": "ErrImagePull"}})
    assert stuck(job(), waiting, NOW_S * 2, 300) is None


def test_the_end_of_a_job_may_be_known_before_that_of_its_pod() -> None:
    assert not is_final(None) and not is_final(pod("Running"))
    assert is_final(pod("Failed")) and is_final(pod("Succeeded")) and is_final(pod("Running", None, disrupted("x")))


@pytest.mark.parametrize(
    ("status", "document", "wanted"),
    [
        (403, {"message": "exceeded quota: a"}, Turned(reason="Kubernetes answered 403: exceeded quota: a")),
        (403, {"message": "namespace is being terminated"}, Turned(reason="Kubernetes answered 403: namespace is being terminated")),
        (403, {"message": "no"}, Turned(reason="Kubernetes answered 403: no", settled=True)),
        (422, {"reason": "Invalid"}, Turned(reason="Kubernetes answered 422: Invalid", settled=True)),
        (429, {}, Turned(reason="Kubernetes answered 429")),
        (500, {}, None),
        (409, {}, None),
    ],
)  # fmt: skip
def test_refusals(status: int, document: object, wanted: Turned | None) -> None:
    assert turned(status, document) == wanted


KEYS = st.sampled_from(
    ["metadata", "name", "labels", HANDLE_LABEL, "status", "conditions", "type", "spec", "state", "terminated",
     "containerStatuses", "exitCode", "phase", "reason", "annotations", CAUSE, "deletionTimestamp"]
)  # fmt: skip
VALUES: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([AT, "True", "Failed", "attempt"])
)
for _ in range(4):
    VALUES = VALUES | st.lists(VALUES, max_size=2) | st.dictionaries(KEYS, VALUES, max_size=4)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES, VALUES, st.floats(0, 4e9))
def test_whatever_a_server_says_is_survived(one: object, other: object, now_s: float) -> None:
    of_job, of_pod = job_seen(one), pod_seen(other)
    found = sighting(of_job, of_pod, now_s)
    assert len(found.detail) <= 300 and "\n" not in found.detail
    assert (found.standing is Standing.ABSENT) == (of_job is None)
    stuck(of_job, of_pod, now_s, 300)
    assert of_job is None or has_ended(of_job) in (True, False)
    assert len("".join(said_by(one))) <= 600


@pytest.mark.parametrize("text", ["", "yesterday", "2027-01-15T08:00:00", 3, None, "9" * 50])
def test_what_is_no_instant(text: object) -> None:
    assert instant_s(text) is None
