"""What a decision is made of: what is wanted, and what is there.

Here stands as well what both together say of one run: whether anybody wants it still, and whether a person holds it
back. How a decision follows is for `diff` and the modules it asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from reconciler.approve import Case
from reconciler.model import (
    Decision,
    Evidence,
    Held,
    HostId,
    Instant,
    Name,
    Neighbour,
    Phase,
    Policy,
    Rejection,
    Run,
    RunId,
    Suspend,
    Waiting,
    Wish,
)
from reconciler.phases import ENDED
from reconciler.values import frozen


@frozen
class Desired:
    """What the tip asks for and does not prove yet. `names` holds every name that has a request at all; `displaced`
    the runs that another one of their group cancels, and why: `diff` works that out first.

    Of runs that wait for decisions, `cases` says what policies look at and `decisions` what was committed. `ended` are
    the parents of nested runs that are over.
    """

    wishes: tuple[Wish, ...]
    rejections: tuple[Rejection, ...] = ()
    names: Mapping[Name, RunId | None]
    policies: tuple[Policy, ...] = ()
    cases: Mapping[RunId, Case] = field(default_factory=dict)
    decisions: Mapping[RunId, tuple[Decision, ...]] = field(default_factory=dict)
    ended: frozenset[RunId] = frozenset()
    displaced: Mapping[RunId, str] = field(default_factory=dict)


@frozen
class Actual:
    """Runs that are under way or not yet proven on this machine, and what the tip proves of them.

    `held` and `neighbours` are the refs at the remote by which machines agree who executes what, `held` None where
    there is no remote; `lost` says of runs that were proven once in which commit, where history was rewritten;
    `unclaimed` are the runs of which there is a mark here and nothing else; `served` says when this host launched
    something of a task last, in seconds since 1970; `work` are the refs of attempts that engines execute, with what
    they point at.
    """

    runs: Mapping[RunId, Run]
    evidence: Mapping[RunId, Evidence]
    held: Mapping[RunId, Held] | None = None
    neighbours: Mapping[HostId, Neighbour] = field(default_factory=dict)
    lost: Mapping[RunId, str] = field(default_factory=dict)
    unclaimed: tuple[RunId, ...] = ()
    served: Mapping[str, float] = field(default_factory=dict)
    work: Mapping[str, str] = field(default_factory=dict)

    def proves(self, run_id: RunId, number: int) -> bool:
        """Return whether the tip holds evidence of attempt `number` of a run, or of a later one."""
        found = self.evidence.get(run_id)
        return found is not None and found.attempt >= number

    def settles(self, run_id: RunId, number: int) -> bool:
        """Return whether the tip proves attempt `number` of a run, or a later one, so that no claim is needed for it:
        that it waits does not prove how it ended, and who holds the claim may have that to say."""
        found = self.evidence.get(run_id)
        return found is not None and (found.attempt > number or (found.attempt == number and found.waiting is None))

    def is_waiting(self, run_id: RunId, number: int) -> bool:
        """Return whether the tip proves that a run waits in attempt `number`."""
        found = self.evidence.get(run_id)
        return found is not None and found.waiting is not None and found.attempt == number

    def waits_later(self, run: Run) -> bool:
        """Return whether the tip proves that a run waits in a later attempt than the one that is here."""
        found = self.evidence.get(run.run_id)
        return found is not None and found.waiting is not None and found.attempt > run.number

    def proves_as(self, run: Run, now_phase: Phase) -> bool:
        """Return whether the tip holds evidence of a run as it is here: that it waits does not prove how it ended."""
        found = self.evidence.get(run.run_id)
        if found is None or found.attempt != run.number:
            return found is not None and found.attempt > run.number
        return found.waiting is None or now_phase not in ENDED

    def waits_elsewhere(self, run_id: RunId) -> Waiting | None:
        """Return what a run waits for of which nothing is here, None if it does not."""
        found = self.evidence.get(run_id)
        there = run_id in self.runs or run_id in (self.held or {})
        return found.waiting if found is not None and not there else None


# ---------------------------------------------------------------------------------------- what people want of one run


def unwanted(run: Run, wish: Wish | None, desired: Desired, now_phase: Phase) -> str:
    """Return why a run that has not ended is no longer wanted, "" if it is."""
    displaced = desired.displaced.get(run.run_id, "")
    if wish is not None:
        return f"the request says: {wish.request.cancel}" if wish.request.cancel else displaced
    successor = desired.names.get(run.name)
    if successor is not None and successor != run.run_id:
        return f"superseded by {successor}"
    if displaced:
        return displaced
    # A run that goes on after its request was deleted is left to finish; one that has to be resumed is not.
    if wish is None and run.parent is not None:
        return f"its parent run {run.parent} is over" if run.parent in desired.ended else ""
    idle = now_phase in (Phase.STALE, Phase.WAITING)
    return "its request was deleted" if run.name not in desired.names and idle else ""


def held_back(wish: Wish, actual: Actual, now: Instant) -> str:
    """Return why a person does not want this run now, "" if nobody says so."""
    if wish.run_id in actual.lost:
        return (
            f"its evidence was in {actual.lost[wish.run_id][:12]}, which the branch does not hold any more;"
            " bring that commit back, let the machine that ran it publish again, or raise 'rerun'"
        )
    if wish.request.cancel:
        return f"cancelled before it started: {wish.request.cancel}"
    early = f"waits for its time, {wish.due_at}" if wish.due_at[:19] > now.at[:19] else ""
    return suspended(wish.request.suspend, now) or early


def suspended(suspend: Suspend | None, now: Instant) -> str:
    """Return in words that a request is suspended at this instant, "" if it is not.

    `until` is compared with the wall clock, because it is a person's date; both are UTC in ISO 8601, which orders
    as text.
    """
    if suspend is None or (suspend.until is not None and suspend.until[:19] <= now.at[:19]):
        return ""
    until = f" until {suspend.until}" if suspend.until else ""
    return f"suspended{until}" + (f": {suspend.reason}" if suspend.reason else "")
