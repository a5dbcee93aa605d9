"""What a run is doing at an instant, judged from facts alone. Pure and total: every run has a phase at any time.

Only this machine's monotonic clock counts. A lock that is free while the record says running is stale at once.
"""

from __future__ import annotations

from reconciler.model import Afar, Instant, Outcome, Phase, Run
from reconciler.places import Cause, Standing

START_PATIENCE_S = 30.0
"""A claimed attempt whose worker has not written its first record by then is lost, even if its claimer lives."""

ENDED = (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


def phase(run: Run | None, now: Instant) -> Phase:
    """Return what a run is doing, from facts alone; `judge` says why as well."""
    return judge(run, now)[0]


def judge(run: Run | None, now: Instant) -> tuple[Phase, str]:
    """Return the phase of a run and, for a stale one, the reason; for one that its engine has not started, what keeps
    it."""
    if run is None:
        return Phase.ABSENT, ""
    if run.end is not None and run.end.outcome != Outcome.INTERRUPTED:
        return Phase(run.end.outcome.value), run.end.detail
    outcome = run.attempt.outcome if run.attempt is not None else None
    if run.is_afar and outcome in (None, Outcome.INTERRUPTED):
        return _judge_afar(run)
    if run.attempt is None:
        return _judge_claimed(run, now)
    if outcome == Outcome.INTERRUPTED:
        return Phase.STALE, f"attempt {run.number} was interrupted: {run.attempt.detail}"
    if outcome is not None:
        return Phase(outcome.value), run.attempt.detail
    return _judge_started(run, now)


def _judge_claimed(run: Run, now: Instant) -> tuple[Phase, str]:
    """Judge an attempt that is claimed and has no record of its worker."""
    if run.end is not None:
        return Phase.STALE, run.end.detail
    if run.lock_held:
        late = run.claim is None or _age_s(run.claim.claimed, now) > run.heartbeat.stale_after_s
        return (Phase.STALE, f"attempt {run.number} holds the lock without a record") if late else (Phase.STARTING, "")
    if run.claim is None:
        return Phase.STALE, f"the record of attempt {run.number} is lost"
    if not run.claimer_alive:
        return Phase.STALE, f"attempt {run.number} was claimed and its claimer ended before it started"
    if _age_s(run.claim.claimed, now) > START_PATIENCE_S:
        return Phase.STALE, f"attempt {run.number} did not start within {START_PATIENCE_S:g} s"
    return Phase.STARTING, ""


def _judge_started(run: Run, now: Instant) -> tuple[Phase, str]:
    """Judge an attempt that has a record without an end."""
    assert run.attempt is not None
    if not run.lock_held:
        return Phase.STALE, f"the worker of attempt {run.number} is gone: its lock is free"
    if not run.worker_alive:
        return Phase.STALE, f"the worker of attempt {run.number} is dead; something of it is left"
    silence_s = silence(run, now)
    if silence_s > run.heartbeat.stale_after_s:
        return Phase.STALE, f"no heartbeat of attempt {run.number} for {silence_s:.0f} s"
    return Phase.RUNNING, ""


def _judge_afar(run: Run) -> tuple[Phase, str]:
    """Judge an attempt that an engine executes and that has not come to an end of its own: only what the engine says
    makes it stale, so while that cannot be asked nothing happens."""
    afar, number = run.afar or Afar(), run.number
    begun = Phase.STARTING if run.attempt is None else Phase.RUNNING
    if afar.is_final and is_given_up(afar):
        return Phase.STALE, f"no word of attempt {number} for {afar.given_up_s:.0f} s, so it was ended at its engine"
    if afar.is_final:
        said = run.attempt.detail if run.attempt is not None and run.attempt.outcome is not None else ""
        detail = afar.sighting.detail if afar.sighting is not None else ""
        left = "no word of it came home" if run.attempt is None else "its last word did not come home"
        left = "its last word is there, and nobody here can read it" if afar.unread else left
        return Phase.STALE, f"attempt {number} ended at its engine: {detail or said or left}"
    if is_silent(afar):
        return Phase.STALE, f"no word of attempt {number} for {afar.silent_s:.0f} s, though its engine executes it"
    return begun, _where_it_stands(run, afar)


def is_silent(afar: Afar) -> bool:
    """Return whether an attempt says nothing for too long although its engine executes it. While it is queued, has
    ended or nobody knows where it stands, its silence says nothing."""
    executed = afar.sighting is not None and afar.sighting.standing == Standing.RUNNING
    return executed and afar.silent_s > afar.silent_max_s


def is_given_up(afar: Afar) -> bool:
    """Return whether an attempt has ended because it was told to for its silence: engines say of that only that it was
    cancelled, or nothing. An end of another kind, which an engine tells of, was before that."""
    cause = afar.sighting.cause if afar.sighting is not None else None
    return afar.given_up_s is not None and cause in (None, Cause.ENGINE_CANCELLED)


def _where_it_stands(run: Run, afar: Afar) -> str:
    """Return in words what keeps an attempt that an engine does not execute now, "" where nobody knows."""
    placed = run.claim.placement if run.claim is not None else None
    where = f"executor '{placed.executor}'" if placed is not None else "its executor"
    if not afar.submitted:
        return f"attempt {run.number} is about to be handed to {where}"
    if afar.sighting is None or afar.sighting.standing != Standing.QUEUED:
        return ""
    return f"queued at {where}" + (f": {afar.sighting.detail}" if afar.sighting.detail else "")


def silence(run: Run, now: Instant) -> float:
    """Return for how many seconds nothing was heard of the newest attempt, by this machine's monotonic clock."""
    if run.afar is not None:
        return run.afar.silent_s
    heard = [each for each in (run.attempt.started if run.attempt else None, run.beat) if each is not None]
    return min((_age_s(each, now) for each in heard), default=float("inf"))


def _age_s(then: Instant, now: Instant) -> float:
    """Return seconds between two instants of one boot; monotonic values of different boots say nothing: infinite."""
    return now.monotonic_s - then.monotonic_s if then.boot_id == now.boot_id else float("inf")
