"""Agree with other machines on who executes what, by compare-and-swap on refs at the remote.

The order keeps the promise. A claim is made at the remote first, by a push that names the value it replaces; then the
remote is asked again, and only a claim that stands *and* whose run is not proven by the tip that came with the answer
is granted: the tip and the claims are not read at one instant, so an absent claim alone may mean that the run has just
been published. The record on this machine and the worker come after that. So a crash costs an attempt, and an
acknowledgement that got lost costs nothing, because the answer that counts is the second look.

Together with claims this host announces its runs. From the moment such a push *began*, its runs are safe for
`lease_s`; they end themselves after two thirds of it (`lease.json`, read by the workers), which leaves them a third to
be gone before others take over. The ratio is that of client-go's leader election: 10 of 15 seconds.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from reconciler import namesakes, notes
from reconciler.errors import InvariantError, PushRefused, PushUnclear, TransientError
from reconciler.launches import groups_taken
from reconciler.lease import LEASE, read_lease, renew_lease
from reconciler.model import Announcement, Claim, HostId, Instant, RunId, SharedClaim, TaskId, claim_ref, host_ref
from reconciler.observe import Observation, Observer
from reconciler.placement import Candidate
from reconciler.publish import IDENTITY
from reconciler.remote import RefUpdate, write_notes
from reconciler.slots import within_quotas
from reconciler.values import frozen
from reconciler.world import World

RENEW_SHARE = 2 / 3
ANNOUNCEMENTS_A_LEASE = 6
"""How often a host announces itself in a lease: one lost push, or two, cost nothing."""
HELD_LOOKS, HELD_MAX_S = 3, 10.0
"""How often a host looks whether others make room for its claim, and how long it waits at most before each look: as
long as the push and the look took, then twice, then four times."""
CLAIMS_AT_ONCE_MAX = 1_000
"""So many claims are made by one push at most, and so many refs released: a command line is finite."""
FULL = "this host holds as many runs as it can announce; evidence that lands makes room"
HIDDEN = (
    "the remote took a claim and does not show it: it hides refs/reconciler from who fetches, or what is fetched "
    "comes from another repository (remote.<name>.pushurl) than what is pushed to"
)


@frozen
class Wanted:
    """A claim to be made: what it shall say, and the ref it replaces (None: there must be none). `begins` says that
    the run begins by it: then it must be alone in its concurrency group. As a `candidate` it must fit the quotas then,
    too: a run that a person wants need not. `executes` says that an attempt follows that nobody has executed yet."""

    run_id: RunId
    old: str | None
    claim: SharedClaim
    begins: bool = False
    candidate: Candidate | None = None
    executes: bool = False


@dataclass(slots=True)
class Claims:
    """The claims and the announcement of this host, kept by one process."""

    world: World
    observer: Observer
    announced: Instant | None = None
    """When this host announced itself last, on the clock of its lease."""
    said: Mapping[RunId, int] = field(default_factory=dict)
    made: dict[RunId, RefUpdate] = field(default_factory=dict)
    refused: TransientError | None = None
    """Why the remote did not do what the last push asked, though it may have granted other claims of it."""
    taken: frozenset[str] = frozenset()
    """The refs of the last push of which the remote said that it moved them."""
    left_out: frozenset[RunId] = frozenset()
    """The runs that were not claimed because they could not be announced, or were too many for one push."""

    def shared(self, run_id: RunId, task_id: TaskId, claims: Iterable[Claim], group: str, fired_at: str) -> SharedClaim:
        """Return the claim of this host to a run, with its concurrency group and the fire it was launched for."""
        return SharedClaim(
            run_id=run_id,
            task_id=task_id,
            host=self._me(),
            claims=tuple(claims),
            nonce=self.world.chance.nonce(),
            group=group,
            fired_at=fired_at,
        )

    def keep(
        self, wanted: Sequence[Wanted], released: Sequence[RefUpdate], living: Mapping[RunId, int]
    ) -> frozenset[RunId]:
        """Make claims, release refs (at most CLAIMS_AT_ONCE_MAX), announce the runs that live here if that is due;
        return the runs whose claim is granted. Raise TransientError if the remote cannot be asked."""
        self.refused, self.made, self.taken = None, {}, frozenset()
        asked, wanted = wanted, _announceable(wanted, living)
        self.left_out = frozenset(each.run_id for each in asked) - {each.run_id for each in wanted}
        runs = {**living, **{each.run_id: each.claim.number for each in wanted}}
        messages = [notes.claimed(each.claim) for each in wanted]
        announce = bool(wanted) or self._announcement_is_due(runs)
        if announce and runs:
            messages.append(notes.announced(self._announcement(runs)))
        oids = self._write(messages)
        assert self.observer.hearing is not None
        if oids:
            namesakes.note(self.world, self.observer.hearing, oids)
        self.observer.hearing.wrote(dict(zip(oids, messages, strict=True)))
        updates = [
            RefUpdate(ref=claim_ref(each.run_id), old=each.old, new=oid)
            for each, oid in zip(wanted, oids, strict=False)
        ]
        updates += released
        updates += self._announcing(oids[-1] if announce and runs else None) if announce else []
        if not updates:
            return frozenset()
        began, known = self.world.lease_now(), frozenset(self.observer.hearing.refs)
        unclear = self._push(updates)
        granted = self._look_again(wanted, updates, known, began) if wanted else frozenset()
        if unclear is not None:
            self._settle(unclear, updates, is_asked=bool(wanted))
        return granted if not announce or self._announce(updates, runs, began) else frozenset()

    def _push(self, updates: Sequence[RefUpdate]) -> PushUnclear | None:
        """Push; what is rejected or unclear is settled by the next look at the remote. Return why it is unclear, if it
        is."""
        assert self.world.remote is not None and self.observer.hearing is not None
        failed: frozenset[str] = frozenset()
        try:
            failed = self.world.remote.push(updates, atomic=False)
        except PushRefused as error:
            self.refused, failed = error, error.refused | error.rejected
            if not failed:
                raise
        except PushUnclear as error:
            self.observer.online = False
            return error
        self.taken = frozenset(each.ref for each in updates) - failed
        self.observer.hearing.note([each for each in updates if each.ref not in failed])
        if failed:
            self.observer.online = False
        return None

    def _settle(self, unclear: PushUnclear, updates: Sequence[RefUpdate], *, is_asked: bool) -> None:
        """Note an unclear push as refused if the remote shows nothing of it: only the acknowledgement may be lost."""
        assert self.observer.hearing is not None
        if not is_asked:
            self.observer.ask()
        refs = self.observer.hearing.refs
        if not any(refs.get(each.ref) == each.new for each in updates):
            self.refused = unclear

    def _announce(self, updates: Sequence[RefUpdate], runs: Mapping[RunId, int], began: Instant) -> bool:
        """Take the lease from when the push of an announcement began, if that stands; return whether it does. A run
        that is granted without a lease would end itself at once."""
        assert self.observer.hearing is not None
        ref = host_ref(self._me())
        stands = all(self.observer.hearing.refs.get(ref) == each.new for each in updates if each.ref == ref)
        if stands:
            self.announced, self.said = began, dict(runs)
            seconds = RENEW_SHARE * self.observer.settings.lease_s
            renew_lease(self.world.disk, self._lease_path(), began, self.world.lease_now(), seconds)
        return stands

    def _look_again(
        self, wanted: Sequence[Wanted], updates: Sequence[RefUpdate], known: frozenset[str], began: Instant
    ) -> frozenset[RunId]:
        """Return which of our claims are granted. One that is too many only because others were made at the same time
        (`known` are the refs before) is held on to for a while if it is the first of them: all others are given back
        at once, so that there is room for it. If everybody gave back, everybody would try again, and again."""
        stands, seen = self._stand(wanted, updates)
        pause_s = self.world.lease_now().monotonic_s - began.monotonic_s
        for _ in range(HELD_LOOKS):
            if not self._is_first_of_several(stands, seen, known):
                break
            self.world.sleep(min(HELD_MAX_S, pause_s))
            pause_s *= 2
            try:
                stands, seen = self._stand(wanted, updates)
            except TransientError:
                break
        return _granted(stands, seen)

    def _stand(self, wanted: Sequence[Wanted], updates: Sequence[RefUpdate]) -> tuple[list[Wanted], Observation]:
        """Ask the remote which of our claims stand, and whether the tip proves their runs after all."""
        assert self.observer.hearing is not None
        ours = {each.ref: each.new for each in updates}
        self.observer.ask()
        seen = self.observer.observe()
        refs = self.observer.hearing.refs
        shown = {each.run_id for each in wanted if refs.get(claim_ref(each.run_id)) == ours[claim_ref(each.run_id)]}
        # One that was taken, and in place of which the remote shows what was there before, is there all the same.
        hidden = {
            each.run_id
            for each in wanted
            if claim_ref(each.run_id) in self.taken
            and each.run_id not in shown
            and refs.get(claim_ref(each.run_id)) == each.old
        }
        if hidden:
            self.refused = TransientError(HIDDEN)
        self.made = {
            each.run_id: RefUpdate(ref=claim_ref(each.run_id), old=ours[claim_ref(each.run_id)], new=each.old)
            for each in wanted
            if each.run_id in shown | hidden
        }
        stands = [each for each in wanted if each.run_id in shown and not _is_settled(each, seen)]
        return stands, seen

    def _is_first_of_several(self, stands: Sequence[Wanted], seen: Observation, known: frozenset[str]) -> bool:
        """Return whether a claim of ours that is too many would not be if of those that were made at the same time only
        the ones before it counted. Their order is that of their ids, which are chance, and the same for everybody."""
        granted = _granted(stands, seen)
        for own in [each for each in stands if each.run_id not in granted]:
            oid = str(self.made[own.run_id].old)
            held = {
                run_id: each
                for run_id, each in (seen.actual.held or {}).items()
                if each.ours or claim_ref(run_id) in known or each.oid < oid
            }
            if own.run_id in _granted(stands, replace(seen, actual=replace(seen.actual, held=held))):
                return True
        return False

    def give_back(self, used: Container[RunId]) -> None:
        """Take back the claims that were made last and are not used: nothing was executed by them, and a claim that
        never becomes a record here would cost an attempt. It is tried once, since later passes know nothing of what is
        used. Raise TransientError if the remote cannot be asked."""
        assert self.world.remote is not None and self.observer.hearing is not None
        unused, self.made = [update for run_id, update in self.made.items() if run_id not in used], {}
        if unused:
            self.observer.online = False
            failed = self.world.remote.push(unused, atomic=False)
            self.observer.hearing.note([each for each in unused if each.ref not in failed])

    # -------------------------------------------------------------------------------------------- announcing

    def _announcement_is_due(self, runs: Mapping[RunId, int]) -> bool:
        hearing = self.observer.hearing
        there = hearing is not None and host_ref(self._me()) in hearing.refs
        if not runs:
            return there
        if self.announced is None:
            self._recall()
        if self.announced is None or not there or runs.keys() != self.said.keys():
            return True
        now, lease_s = self.world.lease_now(), self.observer.settings.lease_s
        return now.monotonic_s - self.announced.monotonic_s >= lease_s / ANNOUNCEMENTS_A_LEASE

    def _recall(self) -> None:
        """Take over what an earlier process of this host announced, and when."""
        host = self.observer.hearing.hosts.get(self._me()) if self.observer.hearing is not None else None
        lease, now = read_lease(self.world.disk, self._lease_path()), self.world.lease_now()
        if host is not None and lease is not None and lease.boot_id == now.boot_id:
            began_s = lease.until_s - RENEW_SHARE * host.lease_s
            self.announced, self.said = replace(now, monotonic_s=began_s), host.runs

    def _lease_path(self) -> Path:
        return self.world.repository.state / LEASE

    def next_announcement_s(self, living: Mapping[RunId, int]) -> float:
        """Return in how many seconds this host has to announce itself again, infinite if no run lives here."""
        if self.announced is None or not living:
            return float("inf")
        due = self.announced.monotonic_s + self.observer.settings.lease_s / ANNOUNCEMENTS_A_LEASE
        return max(0.0, due - self.world.lease_now().monotonic_s)

    def _announcement(self, runs: Mapping[RunId, int]) -> Announcement:
        return Announcement(
            host=self._me(),
            name=os.uname().nodename,
            at=self.world.now().at,
            lease_s=self.observer.settings.lease_s,
            runs=dict(sorted(runs.items())),
            nonce=self.world.chance.nonce(),
        )

    def _announcing(self, oid: str | None) -> list[RefUpdate]:
        """Return the update of this host's ref: to `oid`, or away if it has no runs left."""
        assert self.observer.hearing is not None
        ref = host_ref(self._me())
        old = self.observer.hearing.refs.get(ref)
        return [RefUpdate(ref=ref, old=old, new=oid)] if old is not None or oid is not None else []

    def farewell(self, published: Iterable[RunId], living: Mapping[RunId, int]) -> list[RefUpdate]:
        """Return the deletion of this host's ref if nothing but `published` lives here."""
        return [] if living.keys() - set(published) else self._announcing(None)

    def _write(self, messages: Sequence[bytes]) -> tuple[str, ...]:
        if not messages:
            return ()
        epoch_s = int(datetime.fromisoformat(self.world.now().at).timestamp())
        return write_notes(self.world.repository, messages, IDENTITY, epoch_s)

    def _me(self) -> HostId:
        me = self.world.host()
        if me is None:
            raise InvariantError("a pass acts at the remote before this host has a name")
        return me


def _announceable(wanted: Sequence[Wanted], living: Mapping[RunId, int]) -> Sequence[Wanted]:
    """Return the claims that can be made now: what a host cannot announce, others would take for dead."""
    fits = set(notes.fitting({each.run_id: each.claim.number for each in wanted}, living))
    return [each for each in wanted if each.run_id in fits][:CLAIMS_AT_ONCE_MAX]


def _is_settled(wanted: Wanted, seen: Observation) -> bool:
    """Return whether the tip proves after all what a claim is for. That an attempt waits does not prove how it ended,
    which may be published by its claim; but it was executed, and is not once more."""
    about = wanted.run_id, wanted.claim.number
    return seen.actual.proves(*about) if wanted.executes else seen.actual.settles(*about)


def _granted(stands: Sequence[Wanted], seen: Observation) -> frozenset[RunId]:
    """Return the runs whose claims stand and that are not too many beside all that is claimed."""
    left = [each for each in stands if not (each.begins and _is_crowded(each, seen))]
    return frozenset(each.run_id for each in left) - _beyond_quotas(left, seen)


def _beyond_quotas(stands: Sequence[Wanted], seen: Observation) -> frozenset[RunId]:
    """Return the runs that begin and do not fit the quotas after all, because other hosts claimed theirs meanwhile.
    Every claim that was made before ours counts, whether it will be granted or not: so whoever of several hosts looks
    last sees all that are, and together they keep the quota."""
    begins = [each.candidate for each in stands if each.candidate is not None]
    fits = within_quotas(begins, seen.desired, seen.actual, seen.now, seen.limits)
    return frozenset(RunId(each.run_id) for each in begins) - fits


def _is_crowded(wanted: Wanted, seen: Observation) -> bool:
    """Return whether another run of the group is under way after all. Of two hosts that claim two runs of a group at
    once, the one that looks later sees both and gives its claim back; if both do, the one whose claim is the first of
    them holds on to it until the other one has."""
    if not wanted.claim.group:
        return False
    taken = groups_taken(seen.desired, seen.actual, seen.now).get(wanted.claim.group, ())
    return bool(set(taken) - {wanted.run_id})
