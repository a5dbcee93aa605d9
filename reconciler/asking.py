"""Ask a role that is not ours, inside the process that was started for it; see `role_protocols`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from reconciler import codec
from reconciler.installed import cure, entry_points
from reconciler.order import ANSWER_BYTES_MAX, Answer, Order, Verdict
from reconciler.role_protocols import METHODS, Planned, PlanningOrder, ReviewerAnswer, TesterAnswer

PLANNING_BYTES_MAX = 64 * 1024
"""So long an answer of a planner may be: it is frozen in every plan."""
RAISED_CHARACTERS_MAX = 300
ANSWERS: Mapping[str, type] = {"builder": Answer, "tester": TesterAnswer, "reviewer": ReviewerAnswer}


class Unanswered(Exception):
    """A role said nothing that can be used; the text is a sentence about it."""


def ask(order: Order) -> Answer:
    """Return what the role that an order names answers, a failure with the reason if that is no answer."""
    name = str(getattr(order.plan.roles, order.role))
    try:
        found = call(order.role, name, order, ANSWERS[order.role])
    except Unanswered as error:
        return Answer(verdict=Verdict.FAILED, reason="role-failed", summary=str(error))
    if isinstance(found, Answer):
        return found
    said = codec.dump(found)
    if len(codec.compact(said)) > PLANNING_BYTES_MAX:
        summary = f"{order.role} '{name}' returned more than {PLANNING_BYTES_MAX // 1024} KiB"
        return Answer(verdict=Verdict.FAILED, reason="answer-too-large", summary=summary)
    told = said.get("status", said.get("decision"))
    return Answer(verdict=Verdict.PASSED, summary=f"{order.role} '{name}': {told}", detail={"answer": said})


def call(role: str, name: str, order: object, wanted: type) -> Any:
    """Return what the role with this name returns. Raise Unanswered if it is not there, raises, or returns anything
    else than a `wanted` of sound values."""
    taker = _load(role, name)
    try:
        found = getattr(taker, METHODS[role])(order)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"[:RAISED_CHARACTERS_MAX]
        raise Unanswered(f"{role} '{name}' raised {said}") from None
    if not isinstance(found, wanted):
        raise Unanswered(f"{role} '{name}' returned {type(found).__name__}, not a {wanted.__name__}")
    try:
        return codec.load(wanted, codec.dump(found))
    except (codec.CodecError, RecursionError) as error:
        said = f"{error}"[:RAISED_CHARACTERS_MAX]
        raise Unanswered(f"{role} '{name}' returned a {wanted.__name__} that is none: {said}") from None


def _load(role: str, name: str) -> object:
    """Return the value that takes a role. Raise Unanswered if it is not installed, or cannot be imported or made."""
    points = entry_points(name)
    if not points:
        raise Unanswered(f"{role} '{name}' is not installed; {cure(name)}")
    try:
        found = points[0].load()
        taker = found() if isinstance(found, type) else found
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}"[:RAISED_CHARACTERS_MAX]
        raise Unanswered(f"{role} '{name}' cannot be loaded: {said}") from None
    if not callable(getattr(taker, METHODS[role], None)):
        raise Unanswered(f"{role} '{name}' has no method '{METHODS[role]}'")
    return taker


def plan_for_ever(name: str, answers: str, timeout_s: str) -> int:
    """Answer every planning order that arrives on standard input, a line each, on the descriptor of this number; return
    when there are no more. Whoever takes longer than `timeout_s` seconds is ended by the kernel."""
    descriptor = int(answers)
    os.set_inheritable(descriptor, False)
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as stream:
        for line in sys.stdin.buffer:
            signal.setitimer(signal.ITIMER_REAL, float(timeout_s))
            said = _planned(name, line)
            signal.setitimer(signal.ITIMER_REAL, 0)
            stream.write(codec.compact(said))
            stream.flush()
    return 0


def _planned(name: str, line: bytes) -> Mapping[str, object]:
    """Return what a planner answered, or why that is no answer."""
    try:
        found = call("planner", name, codec.parse(PlanningOrder, line), Planned)
    except Unanswered as error:
        return {"error": str(error)}
    except codec.CodecError as error:
        return {"error": f"planner '{name}' cannot be told of the request: {error}"}
    said = {"planned": codec.dump(found)}
    if len(codec.compact(said)) > min(PLANNING_BYTES_MAX, ANSWER_BYTES_MAX):
        return {"error": f"planner '{name}' returned more than {PLANNING_BYTES_MAX // 1024} KiB"}
    return said
