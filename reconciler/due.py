"""When something is due next: the instants at which the same facts lead to another decision. Pure.

Whoever sleeps between passes may sleep until then, because everything else that can change a decision makes itself
known: a ref that moves, a worker that ends. That another host has fallen silent is judged between two answers of the
remote, so the next question to it is when that is due.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from reconciler.approve import Case, decide_by
from reconciler.model import Gate, Instant, Run, RunId
from reconciler.phases import ENDED, START_PATIENCE_S, phase, silence
from reconciler.state import Actual, Desired
from reconciler.values import frozen
from reconciler.waiting import open_gates

MARGIN_S = 0.01
"""Deadlines are over when they have passed, so one looks a moment after."""
SECOND_S = 1.0 + MARGIN_S
"""Instants in files are compared by the second: one is over when the next has begun."""


@frozen
class Due:
    """What is due, in how many seconds, and what it is about ("" for nothing in particular)."""

    in_s: float
    what: str
    subject: str = ""


def earliest(found: Iterable[Due]) -> Due | None:
    """Return what is due first, None if nothing is. What is over counts for nothing: it was decided about."""
    return min((each for each in found if each.in_s > 0), key=lambda each: each.in_s, default=None)


def due(desired: Desired, actual: Actual, now: Instant) -> Iterator[Due]:
    """Yield everything about runs and requests that time alone brings, seconds from now; below zero what is over."""
    for run in actual.runs.values():
        yield from _of_run(run, now)
    for wish in desired.wishes:
        suspend = wish.request.suspend
        if suspend is not None and suspend.until is not None:
            yield Due(in_s=_until(suspend.until, now), what="a suspension is over", subject=wish.run_id)
        if wish.due_at:
            yield Due(in_s=_until(wish.due_at, now), what="a schedule fires", subject=wish.run_id)
    yield from _of_gates(desired, actual, now)


def _of_run(run: Run, now: Instant) -> Iterator[Due]:
    """Yield when a run that is under way counts as stale unless something is heard of it."""
    if phase(run, now) in ENDED or run.end is not None or run.corrupt:
        return
    if run.is_afar:
        # When its engine is to be asked, `afar` says; of itself time brings nothing but too long a silence.
        if run.afar is not None and run.afar.silent_s <= run.afar.silent_max_s < float("inf"):
            left_s = run.afar.silent_max_s - run.afar.silent_s + MARGIN_S
            yield Due(in_s=left_s, what="no word has come for too long", subject=run.run_id)
        return
    if run.attempt is not None and run.attempt.outcome is None and run.lock_held and run.worker_alive:
        left_s = run.heartbeat.stale_after_s - silence(run, now) + MARGIN_S
        yield Due(in_s=left_s, what="a heartbeat is missed", subject=run.run_id)
    if run.attempt is None and run.claim is not None and run.claim.claimed.boot_id == now.boot_id:
        patience_s = run.heartbeat.stale_after_s if run.lock_held else START_PATIENCE_S
        left_s = run.claim.claimed.monotonic_s + patience_s - now.monotonic_s + MARGIN_S
        yield Due(in_s=left_s, what="a run should have started", subject=run.run_id)


def _of_gates(desired: Desired, actual: Actual, now: Instant) -> Iterator[Due]:
    """Yield when gates are closed because nobody decided."""
    for run_id, gates in _open_gates(desired.cases, actual):
        for gate in gates:
            deadline = decide_by(gate, desired.cases[run_id], desired.policies)
            if deadline is not None:
                in_s = _until(deadline, now) + SECOND_S
                yield Due(in_s=in_s, what=f"the time to decide about '{gate.stage}' is over", subject=run_id)


def _open_gates(cases: Mapping[RunId, Case], actual: Actual) -> Iterator[tuple[RunId, Iterable[Gate]]]:
    for run_id in cases:
        run, waiting = actual.runs.get(run_id), actual.waits_elsewhere(run_id)
        yield run_id, open_gates(run) if run is not None else waiting.gates if waiting is not None else ()


def _until(at: str, now: Instant) -> float:
    """Return the seconds until an instant, or a text that begins with one, is reached by the wall clock."""
    there, here = (datetime.fromisoformat(f"{text[:19]}+00:00") for text in (at, now.at))
    elapsed_s = float(f"0{now.at[19:].rstrip('Z')}") if now.at[19:20] == "." else 0.0
    return (there - here).total_seconds() - elapsed_s + MARGIN_S
