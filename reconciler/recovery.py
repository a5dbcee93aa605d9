"""What became of an attempt that another one has to follow: what was seen, with the silence that was measured. Pure.

Nothing is inferred: a worker that was killed is no missed heartbeat, and a silence is said only where that was why.
"""

from __future__ import annotations

from reconciler.model import Afar, Held, Instant, Outcome, Phase, Run
from reconciler.phases import is_given_up, judge, silence
from reconciler.places import Cause, Placement, Recovery, Standing


def what_became_of(run: Run, now: Instant) -> Recovery | None:
    """Return what became of the newest attempt of a run here, None if it was not lost."""
    found, why = judge(run, now)
    if found != Phase.STALE:
        return None
    cause = _cause(run, now)
    silent_s = round(_silent_s(run, now), 3) if cause == Cause.SILENT else None
    return _recovery(run.number, cause, silent_s, run.claim.placement if run.claim else None, why)


def _silent_s(run: Run, now: Instant) -> float:
    """Return for how long an attempt was silent when it was given up, in seconds."""
    given_up_s = run.afar.given_up_s if run.afar is not None else None
    return silence(run, now) if given_up_s is None else given_up_s


def _cause(run: Run, now: Instant) -> Cause:
    """Return why a stale run is stale, in the order in which `phases` judges."""
    if run.is_afar:
        return _cause_afar(run)
    if run.attempt is None:
        return Cause.RECORD_LOST if run.claim is None and run.end is None else _before_it_began(run, now)
    if run.attempt.outcome == Outcome.INTERRUPTED:
        return Cause.INTERRUPTED
    if run.attempt.started.boot_id != now.boot_id:
        return Cause.REBOOTED
    return Cause.SILENT if run.lock_held and run.worker_alive else Cause.WORKER_DIED


def _cause_afar(run: Run) -> Cause:
    """Return why an attempt that an engine executed is lost: what the engine says comes before what the attempt says,
    which knows only that it was told to stop. What we had it end for is no doing of the engine's."""
    afar = run.afar or Afar()
    seen = afar.sighting
    if not afar.is_final or is_given_up(afar):
        return Cause.SILENT
    if seen is not None and seen.cause is not None and not (afar.alien and seen.cause == Cause.ENGINE_CANCELLED):
        return seen.cause
    if run.attempt is not None and run.attempt.outcome == Outcome.INTERRUPTED:
        return Cause.INTERRUPTED
    if afar.alien and run.attempt is None and not afar.unread:
        return Cause.RECORD_LOST
    if seen is not None and seen.standing == Standing.ABSENT:
        return Cause.ENGINE_FORGOT
    if run.attempt is not None:
        return Cause.WORKER_DIED
    return Cause.RECORD_LOST if afar.unread else Cause.NOT_STARTED


def _before_it_began(run: Run, now: Instant) -> Cause:
    """Return why an attempt that was claimed has no record of its worker."""
    rebooted = run.end is None and run.claim is not None and run.claim.claimed.boot_id != now.boot_id
    return Cause.REBOOTED if rebooted else Cause.NOT_STARTED


def of_silent_host(held: Held) -> Recovery:
    """Return what became of the newest attempt of a run whose host is silent for longer than its lease."""
    newest = held.claim.claims[-1] if held.claim.claims else None
    detail = f"nothing new was heard of {held.host_name} for {held.silent_s:.0f} s; its lease is {held.lease_s:g} s"
    placed = newest.placement if newest is not None else None
    return _recovery(held.claim.number, Cause.HOST_SILENT, round(held.silent_s, 3), placed, detail)


def _recovery(lost: int, cause: Cause, silent_s: float | None, placed: Placement | None, detail: str) -> Recovery:
    return Recovery(
        lost=lost,
        cause=cause,
        silent_s=silent_s,
        executor=placed.executor if placed is not None else "",
        instance=placed.instance if placed is not None else "",
        detail=detail,
    )
