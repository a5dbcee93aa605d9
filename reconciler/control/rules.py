"""What is wrong with a run request, by JSON pointer: its schema first, then what a schema cannot say. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from reconciler import codec
from reconciler.model import Contract, ControlError, Expected, Violation

CONTRACT = "run-request-v2"
ERRORS_MAX = 50
PATH_CHARACTERS_MAX = 500
MESSAGE_CHARACTERS_MAX = 500

Document = Mapping[str, Any]


def errors_of(document: object, contract: Contract) -> tuple[ControlError, ...]:
    """Return everything that is wrong with a run request, at most 50; none means that it is valid."""
    broken = contract.check(CONTRACT, document)
    if broken:
        return tuple(error_of(each) for each in broken[:ERRORS_MAX])
    assert isinstance(document, Mapping)
    return tuple(islice(_rules(document), ERRORS_MAX))


def error_of(violation: Violation) -> ControlError:
    """Return a broken schema as an error of a control plane."""
    sentence = violation.reason + (f"; {violation.cure}" if violation.cure else "")
    return error(pointer(violation.path), sentence)


def error(path: str, message: str) -> ControlError:
    return ControlError(path=path[:PATH_CHARACTERS_MAX], message=message[:MESSAGE_CHARACTERS_MAX])


def pointer(path: Iterable[str | int]) -> str:
    """Return a way through a document as RFC 6901 writes it."""
    return "".join(f"/{str(each).replace('~', '~0').replace('/', '~1')}" for each in path)


def _rules(document: Document) -> Iterator[ControlError]:
    pipeline, schedule = document["pipeline"], document["schedule"]
    yield from _stages(pipeline["stages"], set(pipeline["capabilities"]))
    yield from _cycle(pipeline["stages"])
    yield from _fan_out(schedule["fan_out"], set(pipeline["capabilities"]))
    yield from _bounds(schedule)


def _stages(stages: list[Document], offered: set[str]) -> Iterator[ControlError]:
    """Yield what is wrong with single stages: their ids, what they need, and what they need of who executes them."""
    known = [each["id"] for each in stages]
    for index, stage in enumerate(stages):
        where = ("pipeline", "stages", index)
        if stage["id"] in known[:index]:
            yield error(pointer((*where, "id")), f"two stages are called '{stage['id']}'; an id is there once")
        for number, need in enumerate(stage["needs"]):
            if need not in known:
                message = f"it needs '{need}', and there is no such stage"
                yield error(pointer((*where, "needs", number)), message)
        for number, each in enumerate(stage["capabilities"]):
            if each not in offered:
                message = f"'{each}' is no capability of the pipeline; list it in /pipeline/capabilities"
                yield error(pointer((*where, "capabilities", number)), message)


def _cycle(stages: list[Document]) -> Iterator[ControlError]:
    """Yield the first stage that needs itself by way of others."""
    ahead = {each["id"]: set(each["needs"]) for each in stages}
    while free := [each for each, needs in ahead.items() if not needs & ahead.keys()]:
        ahead = {each: needs for each, needs in ahead.items() if each not in free}
    for index, stage in enumerate(stages):
        if stage["id"] in ahead:
            message = f"'{stage['id']}' needs itself by way of others, so it never begins"
            yield error(pointer(("pipeline", "stages", index, "needs")), message)
            return


def _fan_out(fan_out: list[Document], offered: set[str]) -> Iterator[ControlError]:
    seen: set[str] = set()
    for index, each in enumerate(fan_out):
        where = pointer(("schedule", "fan_out", index, "capability"))
        if each["capability"] in seen:
            yield error(where, f"'{each['capability']}' is there twice; one line a capability")
        elif each["capability"] not in offered:
            yield error(where, f"'{each['capability']}' is no capability of the pipeline")
        seen.add(each["capability"])


def _bounds(schedule: Document) -> Iterator[ControlError]:
    fewest, most, recovery = schedule["instances_min"], schedule["instances_max"], schedule["recovery"]
    if most < fewest:
        message = f"it is {most}, and instances_min is {fewest}; at least as many are needed"
        yield error("/schedule/instances_max", message)
    interval, silence = recovery["heartbeat_interval_s"], recovery["heartbeat_timeout_s"]
    if silence <= interval:
        message = f"it is {silence:g} s, and the interval {interval:g} s: every instance would look lost"
        yield error("/schedule/recovery/heartbeat_timeout_s", message)


# ------------------------------------------------------------------------------------------------ expectation


def expected_of(document: Document) -> Expected:
    """Return what the manifest of a valid run request is expected to say. Nothing of how many attempts it takes: each
    decision at a gate begins one."""
    stages = [each for each in document["pipeline"]["stages"] if each["selected"] and not each["optional"]]
    source = document["source"] or {}
    return Expected(
        task_id=document["task"]["id"],
        pipeline_id=document["pipeline"]["id"],
        commit=source.get("commit"),
        plan_digest=document["pipeline"]["digest"],
        redaction=document["constraints"]["redaction"],
        stages={each["id"]: "succeeded" for each in stages},
    )


def content_digest(document: Document) -> str:
    """Return the SHA-256 of what a run request asks for: when it was asked for is no part of it, so that asking again
    is asking for the same."""
    return codec.digest({key: value for key, value in document.items() if key != "requested_at"})
