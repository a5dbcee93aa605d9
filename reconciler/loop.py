"""Observe, diff, apply, sleep; and again until nothing is under way.

A pass holds the repository's pass lock, so that of several reconcilers on one machine one acts at a time. That
keeps `runs_max` exact and commits few; the promise that nothing runs twice rests on claims and run locks alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from reconciler import due
from reconciler.actions import (
    Abandon,
    Action,
    Adopt,
    Cancel,
    Forget,
    Launch,
    Publish,
    Quarantine,
    Reclaim,
    Release,
    Restore,
    Resume,
    Retire,
    Submit,
    TakeOver,
    Wait,
    Yield,
)
from reconciler.apply import Done, apply, claims_for, fence, is_recorded, subject_of
from reconciler.claims import CLAIMS_AT_ONCE_MAX, FULL, Claims, Wanted
from reconciler.conditions import set_condition
from reconciler.contact import Contact
from reconciler.control.gate import Gate
from reconciler.diff import diff
from reconciler.due import Due
from reconciler.errors import (
    GitFailed,
    InvariantError,
    LockHeld,
    PublishBlocked,
    PushRefused,
    PushUnclear,
    TipMoved,
    TransientError,
)
from reconciler.freeze import Freezer
from reconciler.git import Draft
from reconciler.locks import LOCK_AGE_S
from reconciler.model import Claim, Held, Phase, Plan, Process, RunId, Settings, SharedClaim
from reconciler.observe import Observation, Observer
from reconciler.phases import ENDED, phase
from reconciler.publish import AS_WRITTEN, Publication, publish, push_branch, refresh
from reconciler.pulls import Opener, PullRequests
from reconciler.remote import RefUpdate
from reconciler.slots import of_plan
from reconciler.turns import note_turns
from reconciler.values import frozen
from reconciler.world import World

if TYPE_CHECKING:
    # What delivers is loaded when settings name somebody to deliver to, what tells when there is something to, and what
    # keeps secrets when they name some.
    from reconciler.bus import Bus
    from reconciler.credentials.broker import Broker
    from reconciler.custody import Custody
    from reconciler.outlets.deliveries import Deliveries

    # What speaks with a collector is loaded where settings name one.
    from reconciler.telemetry import Telemetry

PASS_LOCK_PATIENCE_S = 60.0
GATHER_S = 1.0
"""While runs are under way, evidence is committed at most this often: many runs that end share a commit."""
REFUSALS_MAX = 20
"""After so many passes in a row in which the environment refused something, waiting longer is not the cure."""

MOVED_MAX = 50
"""So often a single pass is done again because somebody else moved the tip meanwhile."""
PUBLISHED_MAX = 2000
"""So many runs share a commit at most: the same push deletes a ref for each, and a command line is finite."""
REFUSED = "let the reconciler push there, or set 'publish: {mode: branch}' in reconciler.yaml, or 'remote: null'"
LOCKED_MAX = 20
"""So often publishing is tried again while git finds a lock file: half a minute, in which a dead git's is removed."""

SETTLING = (Cancel, Abandon, Quarantine, Restore, Retire, Forget, Resume, TakeOver, Adopt, Yield, Release)
"""Actions after which another pass finds the world changed at once: to resume may be to find that it has ended."""
FULL_S = 60.0
"""A pass is due at least so often, whatever has happened: what wakes the loop is a hint."""
FULL_LOOK = Due(in_s=FULL_S, what="everything is looked at again")
NEVER_S = float("inf")
FINISH_S = 30.0
"""So long a command that ends waits for what it delivers; what is not through by then is repeated by the next pass."""
HEARD_S = 1.0
"""How often subscribers hear of runs that are under way."""
POLL_S = 0.25
"""How often the loop looks whether the tip has moved while it waits for workers."""
BLOCKED_POLL_S = 1.0
"""The same while evidence is blocked: each pass tries to commit it."""


@frozen
class Pass:
    """What one pass saw, decided and did. `blocked` says why evidence could not be committed, `told` what became of
    pull requests, `troubles` what subscribers threw and what could not be delivered. Nothing was done with the runs in
    `untouched`: an attempt that is to end may live at its engine, or they were too many to be claimed."""

    seen: Observation
    actions: tuple[Action, ...]
    done: tuple[Done, ...] = ()
    publication: Publication | None = None
    blocked: str = ""
    tip_moved: bool = False
    online: bool = True
    told: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()
    untouched: frozenset[RunId] = frozenset()

    @property
    def phases(self) -> dict[RunId, Phase]:
        return {run_id: phase(run, self.seen.now) for run_id, run in self.seen.actual.runs.items()}

    @property
    def acted(self) -> bool:
        return self.tip_moved or any(not isinstance(each, Wait | Publish) for each in self.actions)

    @property
    def leads_on(self) -> bool:
        """Return whether the pass changed something itself, so that another one is due at once."""
        done = [each for each in self.actions if subject_of(each) not in self.untouched]
        settling = any(isinstance(each, SETTLING) or _is_for_engine(each) for each in done)
        return self.publication is not None or self.tip_moved or settling

    @property
    def idle(self) -> bool:
        """Return whether another pass would find nothing to do until somebody commits something."""
        held = {each.subject for each in self.actions if isinstance(each, Wait) and each.settled}
        under_way = any(each not in ENDED and run_id not in held for run_id, each in self.phases.items())
        waiting = any(isinstance(each, Wait) and not each.settled for each in self.actions)
        return not (self.acted or under_way or waiting or self.publication)


def open_telemetry(world: World) -> Telemetry:
    """Return what tells a collector; it is loaded only now."""
    from reconciler.otlp import send
    from reconciler.telemetry import Telemetry

    return Telemetry(world, send)


@dataclass(slots=True)
class Loop:
    """Passes over one repository by one process."""

    world: World
    observer: Observer
    published_s: float = -GATHER_S
    last: Publication | None = None
    concerned: set[RunId] = field(default_factory=set)
    contact: Contact = field(init=False)
    claims: Claims = field(init=False)
    freezer: Freezer = field(init=False)
    gate: Gate = field(init=False)
    brought_up: tuple[str, str] = ("", "")
    locked: int = 0
    locked_s: float = float("inf")
    """Since when (monotonic seconds) a lock file has been in the way of the checkout."""
    opener: Opener | None = None
    teller: Callable[[World], Telemetry] | None = None
    telemetry: Telemetry | None = None
    told_nothing: bool = False
    pulls: PullRequests = field(init=False)
    tells: bool = False
    bus: Bus | None = None
    deliveries: Deliveries | None = None
    custody: Custody | None = None

    def __post_init__(self) -> None:
        self.contact = Contact(self.world, self.observer)
        self.claims = Claims(self.world, self.observer)
        self.freezer = Freezer(self.observer)
        self.gate = Gate(self.world, broker=self._broker_for)
        self.pulls = PullRequests(self.world, self.opener)

    def run_pass(self) -> Pass:
        """Do one pass. Raise LockHeld if another reconciler does not let go of the repository."""
        with pass_lock(self.world):
            self.contact.ask_if_due()
            seen = self.observer.observe()
            due = self.world.now().monotonic_s - self.published_s >= GATHER_S
            seen = replace(seen, limits=replace(seen.limits, publish_due=due))
            self._withhold(seen)
            actions = self.freezer.complete_all(diff(seen.desired, seen.actual, seen.now, seen.limits))
            actions = self.gate.judge_all(seen, actions)
            if self.observer.afar is not None:
                actions = self.observer.afar.named(actions)
            self._note_concerned(seen)
            heard = self._tell_subscribers(seen)
            result = self._act(seen, actions)
            result = replace(result, troubles=(*heard, *self._deliver(seen)))
            self._note_turns(result)
            if self.claims.refused is not None:
                self.observer.online, result = False, replace(result, online=False)
            self.observer.remember()
            self._tell_collector(result)
        return result

    def close(self) -> None:
        """Let go of what a pass has begun that is no run: the process ends."""
        for each in (self.deliveries, self.telemetry):
            if each is not None:
                each.close()

    def _tell_collector(self, result: Pass) -> None:
        """Tell what runs came to where settings want it told; nothing waits for that, and nothing fails by it."""
        if self.teller is None:
            return
        if result.seen.settings.telemetry.otlp is None:
            if not self.told_nothing:
                # What was in the way of it earlier is in nobody's way any more.
                set_condition(self.world.repository.state, "telemetry", "", result.seen.now.at, self.world.disk)
            self.told_nothing = True
            return
        if self.telemetry is None:
            self.telemetry = self.teller(self.world)
        commit = result.publication.commit if result.publication is not None else ""
        self.telemetry.settle(result.seen, commit)

    def run_settled(self, watch: Callable[[Pass], None]) -> Pass:
        """Do one pass, and another one as long as the tip has moved in the middle of it, or what was published sets
        others free."""
        for _ in range(MOVED_MAX):
            result = self.run_pass()
            watch(result)
            owes = result.publication is not None and result.seen.settings.tells_others
            if not result.tip_moved and not _sets_free(result) and not owes:
                break
            if result.tip_moved:
                self.contact.spread()
        return result

    def run_until_idle(
        self, watch: Callable[[Pass], None], deadline_s: float | None = None, goal: RunId | None = None
    ) -> Pass:
        """Pass until nothing is under way (or `goal` is proven to have ended, or to wait for a person), evidence is
        blocked (where there is a goal: and nothing is awaited that it needs), or the deadline (monotonic seconds) is
        reached."""
        self.observer.ring = _go_on
        try:
            return self._until_idle(watch, deadline_s, goal)
        finally:
            self.observer.ring = None

    def _until_idle(self, watch: Callable[[Pass], None], deadline_s: float | None, goal: RunId | None) -> Pass:
        refused = 0
        while True:
            result = self.run_pass()
            watch(result)
            refused = refused + 1 if any(each.error for each in result.done) else 0
            over = deadline_s is not None and self.world.now().monotonic_s >= deadline_s
            reached = goal is not None and _is_reached(result, goal)
            hopeless = refused >= REFUSALS_MAX or (self.contact.hopeless() and not result.seen.actual.runs)
            blocked = result.blocked and not self._may_get_free() and not (goal and _is_awaited(result, goal))
            if (result.idle and result.online) or blocked or over or reached or hopeless:
                return result
            self.sleep(result, deadline_s)

    def sleep(self, result: Pass, deadline_s: float | None = None) -> None:
        """Sleep until a worker ends, but not longer than until the tip should be looked at again; not at all when
        the pass changed something itself, because what that leads to is there already."""
        if result.tip_moved:
            self.contact.spread(float("inf") if deadline_s is None else deadline_s)
        if result.leads_on:
            return
        patience_s = min(BLOCKED_POLL_S if result.blocked else POLL_S, self.due(result).in_s)
        if deadline_s is not None:
            patience_s = min(patience_s, deadline_s - self.world.now().monotonic_s)
        self.world.processes.wait_any(self.workers(result), max(0.0, patience_s))

    def due(self, result: Pass) -> Due:
        """Return when another pass is due although nothing has happened: what time alone brings, at most FULL_S."""
        now = self.world.now()
        passed_s = now.monotonic_s - result.seen.now.monotonic_s
        seen = result.seen
        found = (replace(each, in_s=each.in_s - passed_s) for each in due.due(seen.desired, seen.actual, seen.now))
        first = due.earliest(found)
        remote = Due(in_s=self.contact.patience_s(), what="the remote is asked")
        # While the remote does not answer, its next try is what is due, however late the lease is.
        renewal_s = self.claims.next_announcement_s(living(seen)) if self.observer.online else NEVER_S
        lease = Due(in_s=renewal_s, what="the lease is renewed")
        gathered_s = max(0.0, self.published_s + GATHER_S - now.monotonic_s) if self._gathers(result) else NEVER_S
        gathered = Due(in_s=gathered_s, what="evidence is committed")
        asked = Due(in_s=self.gate.patience_s(), what="the control plane is asked")
        afar_s = self.observer.afar.patience_s() if self.observer.afar is not None else NEVER_S
        engines = Due(in_s=afar_s, what="an engine is asked")
        leaving = self._leaving_due(result)
        return min(
            # What is due just then as well is the better reason.
            (remote, lease, gathered, asked, engines, *leaving, *filter(None, [first]), FULL_LOOK),
            key=lambda each: each.in_s,
        )

    def _leaving_due(self, result: Pass) -> Iterator[Due]:
        """Yield when something is to be delivered, or subscribers hear of the runs under way."""
        if self.deliveries is not None:
            yield Due(in_s=self.deliveries.patience_s(), what="something is delivered")
        if self.bus is not None and result.seen.settings.subscribers and result.seen.actual.runs:
            yield Due(in_s=HEARD_S, what="subscribers hear what is new")

    def _gathers(self, result: Pass) -> bool:
        """Return whether evidence waits for more of it, to share a commit."""
        decided = any(isinstance(each, Publish) for each in result.actions)
        return not decided and not result.seen.limits.publish_due and bool(unproven(result.seen))

    def workers(self, result: Pass) -> set[Process]:
        """Return the workers whose end another pass is due after."""
        runs = result.seen.actual.runs.values()
        known = {run.attempt.worker for run in runs if run.attempt and not run.attempt.outcome and run.worker_alive}
        return known | set(self.world.workers.alive())

    def _note_concerned(self, seen: Observation) -> None:
        self.concerned.update(wish.run_id for wish in seen.desired.wishes)
        self.concerned.update(seen.actual.runs)

    def _note_turns(self, result: Pass) -> None:
        """Remember which tasks were served, where several of them may have to take turns."""
        seen = result.seen
        tasks = {each.plan.task_id for each in result.actions if isinstance(each, Launch)}
        if tasks and len({each.request.task for each in seen.desired.wishes}) > 1:
            now_s = datetime.fromisoformat(seen.now.at).timestamp()
            note_turns(self.observer.turns_path, seen.actual.served, tasks, now_s, self.world.disk)

    def _act(self, seen: Observation, actions: tuple[Action, ...]) -> Pass:
        if any(not isinstance(each, Wait) for each in actions):
            self.world.repository.exclude("/.runs/")
            self.world.repository.keep_as_written(AS_WRITTEN)
        fence(self.world, actions)
        living = self._fence_afar(seen, actions)
        self._renew_afar(seen)
        doable = _releasing_some([each for each in actions if subject_of(each) not in living])
        granted = None if self.world.remote is None else self._agree(seen, doable)
        unclaimed = self.contact.trouble or (FULL if self.claims.left_out else "")
        done = (*apply(self.world, doable, granted, unclaimed), *self._hand_over(seen, doable))
        done += tuple(
            Done(action=each, sentence=living[subject_of(each)]) for each in actions if subject_of(each) in living
        )
        if self.custody is not None:
            self.custody.meet(self.world.workers.alive(), more=True)
        if granted is not None:
            self._give_back(doable, granted)
        online = self.world.remote is None or self.observer.online
        untouched = frozenset((*living, *self.claims.left_out))
        result = Pass(seen=seen, actions=actions, done=done, online=online, untouched=untouched)
        if self.world.remote is not None and granted and self.observer.tip.commit != seen.tip:
            return replace(result, tip_moved=True)
        wanted = next((each for each in actions if isinstance(each, Publish)), None)
        return self._publish(result, wanted) if wanted else self._open(self._bring_up(self._unblocked(result)))

    # -------------------------------------------------------------------------------------------- engines

    def _fence_afar(self, seen: Observation, actions: Sequence[Action]) -> dict[RunId, str]:
        """Have attempts ended at their engines that must run no more; return the runs of which one may live still, and
        why: nothing is done with those in this pass."""
        afar = self.observer.afar
        living = afar.fence(actions, seen.actual.runs) if afar is not None else {}
        return {run_id: f"{run_id}: {why}" for run_id, why in living.items()}

    def _renew_afar(self, seen: Observation) -> None:
        """Let attempts at engines reach the remote for longer, where they do that by a credential of ours."""
        afar = self.observer.afar
        if afar is not None and any(each.credential for each in seen.settings.executors.values()):
            afar.handover.lending.broker = self._broker
            afar.renew(seen.actual.runs)

    def _hand_over(self, seen: Observation, actions: Sequence[Action]) -> tuple[Done, ...]:
        """Hand attempts that are claimed for an engine to it."""
        wanted = [each for each in actions if isinstance(each, Submit)]
        if not wanted or self.observer.afar is None:
            return ()
        refused = self.observer.afar.submit(wanted, seen.actual.runs)
        if not self.observer.afar.words.online:
            self.observer.online, self.observer.afar.words.online = False, True
        return tuple(_handed_over(each, refused.get(each.run_id, "")) for each in wanted)

    # -------------------------------------------------------------------------------------------- what leaves

    def _tell_subscribers(self, seen: Observation) -> tuple[str, ...]:
        """Tell subscribers, and journals, what is new of the runs under way; return what subscribers threw."""
        if self.bus is None:
            if not self.tells or not seen.actual.runs:
                return ()
            from reconciler.bus import Bus

            self.bus = Bus(self.world)
        return self.bus.tell(seen)

    def _withhold(self, seen: Observation) -> None:
        """Let no stage inherit a variable that holds a credential of the reconciler's own, nor say one that was asked
        for, wherever it has it from."""
        if self.custody is None:
            if not seen.settings.credentials:
                return
            from reconciler.custody import Custody

            self.custody = Custody(self.world)
        self.custody.settle(seen)

    def _broker(self) -> Broker:
        """Return who hands out secrets; one without any where settings name none."""
        from reconciler.credentials.broker import Broker

        return self.custody.broker if self.custody is not None else Broker({})

    def _broker_for(self, settings: Settings) -> Broker:
        """Return who hands out the secrets that settings name, also where no pass was done: workers here are known to
        it before it does."""
        if self.custody is None:
            self._withhold(self.observer.observe())
        return self.custody.follow(settings) if self.custody is not None else self._broker()

    def _deliver(self, seen: Observation) -> tuple[str, ...]:
        """Settle what leaves the repository, if settings name somebody to deliver to; return what is in the way."""
        if self.deliveries is None:
            if not seen.settings.tells_others:
                return ()
            from reconciler.outlets.deliveries import Deliveries

            self.deliveries = Deliveries(self.world, self._broker)
        try:
            return self.deliveries.settle(seen)
        except (TransientError, OSError) as error:
            return (f"nothing is delivered: {error}",)

    def finish(self, result: Pass) -> tuple[str, ...]:
        """Wait, for a bounded time, until what is due has been tried to deliver; return what is in the way. For those
        who end after this."""
        troubles: list[str] = []
        deadline_s = self.world.now().monotonic_s + FINISH_S
        while self.deliveries is not None and self.deliveries.busy and self.world.now().monotonic_s < deadline_s:
            self.deliveries.wait(deadline_s - self.world.now().monotonic_s)
            troubles += self._deliver(result.seen)
        return tuple(troubles)

    # -------------------------------------------------------------------------------------------- other machines

    def _agree(self, seen: Observation, actions: Sequence[Action]) -> dict[RunId, SharedClaim]:
        """Make the claims that the actions need, release what has done its duty, announce what lives here; return
        the claims that are granted."""
        wanted = [each for each in (self._wanted(seen, action) for action in actions) if each is not None]
        released = [RefUpdate(ref=each.ref, old=each.oid, new=None) for each in actions if isinstance(each, Release)]
        if not self.observer.online:
            return {}
        try:
            granted = self.claims.keep(wanted, released, living(seen))
        except TransientError as error:
            self.contact.lost(error)
            return {}
        if self.claims.refused is not None:
            # What the remote did grant, and evidence, go their way; it is left alone after that.
            self.contact.lost(self.claims.refused, refused=True)
            self.observer.online = bool(granted or living(seen))
        elif self.claims.taken or not (wanted or released):
            self.contact.obeyed()  # also where nothing is asked any more of a remote that refused something
        return {each.run_id: each.claim for each in wanted if each.run_id in granted}

    def _give_back(self, actions: Sequence[Action], granted: Mapping[RunId, SharedClaim]) -> None:
        """Take back at the remote what was claimed there and could not be recorded here."""
        used = {run_id for run_id, claim in granted.items() if is_recorded(self.world, claim)}
        # What is claimed again was recorded long ago, though damage may have taken the newest record.
        used |= {each.run_id for each in actions if isinstance(each, Reclaim)}
        try:
            self.claims.give_back(used)
        except TransientError as error:
            self.contact.lost(error)

    def _wanted(self, seen: Observation, action: Action) -> Wanted | None:
        """Return the claim that an action needs, None if it needs none or it cannot be made."""
        held = (seen.actual.held or {}).get(subject_of(action))
        try:
            claims = claims_for(self.world, action, held)
        except (TransientError, OSError):
            return None
        if not claims:
            return None
        run_id = subject_of(action)
        task_id = action.plan.task_id if isinstance(action, Launch) else action.task_id  # type: ignore[union-attr]
        shared = self.claims.shared(run_id, task_id, claims, *_traits(seen, action, held))
        old, candidate = held.oid if held is not None else None, None
        if isinstance(action, Launch):
            candidate = of_plan(action.plan)
        begins, executes = candidate is not None, isinstance(action, Launch | Resume)
        return Wanted(run_id=run_id, old=old, claim=shared, begins=begins, candidate=candidate, executes=executes)

    def commit(self, seen: Observation, draft: Draft, *, sign: bool = False) -> str:
        """Put a person's commit onto the branch, signed if asked, and return it. Raise TipMoved if that is elsewhere by
        now."""
        commit = self.world.repository.make_commit(draft)
        if sign:
            commit = self.world.repository.signed(commit)
        if self.world.remote is None:
            self.world.repository.advance(seen.branch, seen.tip, commit)
            return commit
        pushed = push_branch(self.world.remote, seen.branch, seen.tip, commit)
        if self.observer.hearing is not None:
            self.observer.hearing.note(pushed)
        return commit

    def claim_for_person(self, plan: Plan, claim: Claim) -> Claim:
        """Make the claim at the remote of an attempt that a person asks for (the verb `resume`) and return it. Raise
        LockHeld if another host has the run, TransientError if the remote cannot be asked. The pass lock is held."""
        self.contact.ask_if_due()
        seen = self.observer.observe()
        held = (seen.actual.held or {}).get(plan.run_id)
        if not self.observer.online:
            raise TransientError("the remote does not answer, and the attempt must be claimed there; try again later")
        if held is not None and not held.ours:
            raise LockHeld(f"{plan.run_id}: it is executed by {held.host_name}")
        claims = (*(held.claim.claims if held is not None else ()), claim)
        shared = self.claims.shared(plan.run_id, plan.task_id, claims, plan.group, plan.fired_at)
        old = held.oid if held is not None else None
        wanted = Wanted(run_id=plan.run_id, old=old, claim=shared, begins=True, executes=True)
        if plan.run_id not in self.claims.keep([wanted], [], living(seen)):
            if self.claims.refused is not None:
                raise self.claims.refused
            raise LockHeld(f"{plan.run_id}: another host claimed it first, or another run of its group")
        return claim

    # -------------------------------------------------------------------------------------------- publishing

    def _publish(self, result: Pass, wanted: Publish) -> Pass:
        """Publish, and turn what can stand in the way of it into something `status` can say."""
        seen, runs = result.seen, wanted.runs[:PUBLISHED_MAX]
        again = set(self.last.runs) & set(_ids(wanted)) if self.last is not None else set()
        unknown = sorted(each for each in again if each not in seen.actual.evidence)
        if self.last is not None and self.last.commit == seen.evidence_tip and unknown:
            raise InvariantError(f"evidence committed in {self.last.commit} is not recognised: {unknown[:3]}")
        if self.world.remote is not None and not self.observer.online:
            return replace(result, tip_moved=True)
        farewell = self.claims.farewell(_ids(wanted), living(seen)) if self.world.remote is not None else []
        if self.custody is not None:
            self.custody.recall()
        try:
            publication = publish(self.world, seen, runs, farewell)
        except TipMoved:
            self.observer.online = False
            return replace(result, tip_moved=True)
        except PushUnclear as error:
            self.contact.lost(error)
            return replace(result, online=False)
        except (PublishBlocked, TransientError) as error:
            if self._is_locked(error) or self._was_locked(error):
                return replace(result, tip_moved=True)
            reason = f"{error}; {REFUSED}" if isinstance(error, PushRefused) else str(error)
            set_condition(self.world.repository.state, "publish", reason, seen.now.at, self.world.disk)
            return replace(result, blocked=reason)
        self._note(publication)
        return self._unblocked(replace(result, publication=publication))

    def _is_locked(self, error: TransientError) -> bool:
        """Return whether a lock file of git is in the way that may be gone soon: one whose maker is dead is removed."""
        if not isinstance(error, GitFailed) or ".lock" not in error.stderr or self.locked >= LOCKED_MAX:
            return False
        self.locked += 1
        self.world.repository.clear_stale_locks()
        return True

    def _was_locked(self, error: TransientError) -> bool:
        """Return whether a checkout could not move because of a lock file whose maker was dead, which is gone now."""
        if not isinstance(error, PublishBlocked) or ".lock" not in str(error):
            return False
        self.locked_s = min(self.locked_s, self.world.now().monotonic_s)
        return bool(self.world.repository.clear_stale_locks())

    def _may_get_free(self) -> bool:
        """Return whether a lock file in the way of evidence may be removed soon: that its maker is dead can be proven
        only when it has become old."""
        return 0 <= self.world.now().monotonic_s - self.locked_s < LOCK_AGE_S + 1

    def _note(self, publication: Publication) -> None:
        self.published_s, self.last = self.world.now().monotonic_s, publication
        self.locked, self.locked_s = 0, float("inf")
        self.contact.landed()
        self.contact.obeyed()
        if self.observer.hearing is not None:
            self.observer.hearing.note(publication.pushed)

    def _bring_up(self, result: Pass) -> Pass:
        """Keep evidence that waits on a branch of its own mergeable when the other branch has moved on."""
        seen = result.seen
        now = (seen.tip, seen.evidence_tip)
        if seen.settings.publish.mode != "branch" or now == self.brought_up or not result.online:
            return result
        try:
            publication = refresh(self.world, seen)
        except (TipMoved, PushUnclear):
            self.observer.online = False
            return replace(result, tip_moved=True)
        except TransientError as error:
            set_condition(self.world.repository.state, "publish", str(error), seen.now.at, self.world.disk)
            return result
        self.brought_up = now
        if publication is not None:
            self._note(publication)
        return result

    def _open(self, result: Pass) -> Pass:
        """Open the pull requests that evidence says are wanted and that no receipt proves."""
        if result.tip_moved or not result.online:
            return result
        try:
            publication = self.pulls.settle(result.seen, self.observer.proofs.wanted_pull_requests())
        except (TipMoved, PushUnclear):
            # They are there, and their receipts are made when they are found again.
            self.observer.online = self.world.remote is None
            return replace(result, tip_moved=True)
        if publication is not None:
            self._note(publication)
        return replace(result, told=(*self.gate.told, *self.pulls.told))

    def _unblocked(self, result: Pass) -> Pass:
        set_condition(self.world.repository.state, "publish", "", result.seen.now.at, self.world.disk)
        return result


def _releasing_some(actions: Sequence[Action]) -> list[Action]:
    """Return actions with as many releases of refs as one push can hold: another pass, at once, does the others."""
    releases = [each for each in actions if isinstance(each, Release)][CLAIMS_AT_ONCE_MAX:]
    later = {each.ref for each in releases}
    return [each for each in actions if not isinstance(each, Release) or each.ref not in later]


def _go_on() -> None:
    """Do nothing: who passes until nothing is under way looks again soon, also when nobody wakes it."""


def _is_for_engine(action: Action) -> bool:
    """Return whether an action claims an attempt that another pass hands to its engine."""
    placed = action.placement if isinstance(action, Launch) else None
    return placed is not None and bool(placed.handle)


def _handed_over(action: Submit, refused: str) -> Done:
    what = f"waits: {refused}" if refused else f"attempt {action.number} handed to its engine"
    return Done(action=action, sentence=f"{action.run_id}: {what}")


def _sets_free(result: Pass) -> bool:
    """Return whether evidence was committed while somebody waits who comes after a run or stands in a queue."""
    if result.publication is None:
        return False
    waiting = {each.subject for each in result.actions if isinstance(each, Wait) and not each.settled}
    wishes = [wish for wish in result.seen.desired.wishes if wish.run_id in waiting]
    return any(wish.request.after or wish.request.concurrency for wish in wishes)


def _is_reached(result: Pass, goal: RunId) -> bool:
    """Return whether the tip proves that a run has ended, or waits for what only a person can do."""
    run, actual = result.seen.actual.runs.get(goal), result.seen.actual
    if run is None:
        return goal in actual.evidence
    return actual.proves(goal, run.number) and waits_for_people(result.actions, goal) and not result.leads_on


def _is_awaited(result: Pass, goal: RunId) -> bool:
    """Return whether a run goes on although evidence is blocked, or may begin when others that are under way end."""
    if goal in result.phases:
        return not is_over(result, goal)
    launched = any(isinstance(each.action, Launch) and not each.error for each in result.done)
    return launched or any(not is_over(result, each) for each in result.phases)


def is_over(result: Pass, run_id: RunId) -> bool:
    """Return whether nothing but its evidence is awaited of a run: it has ended, or waits for what only a person can
    do."""
    return result.phases[run_id] in ENDED or waits_for_people(result.actions, run_id)


def waits_for_people(actions: Sequence[Action], run_id: RunId) -> bool:
    """Return whether only a person can bring a run on."""
    return any(isinstance(each, Wait) and each.subject == run_id and each.settled for each in actions)


def living(seen: Observation) -> dict[RunId, int]:
    """Return the runs this host has at the remote, by number of attempt."""
    held = {run_id: each.claim.number for run_id, each in (seen.actual.held or {}).items() if each.ours}
    here = {run_id: run.number for run_id, run in seen.actual.runs.items() if run_id in held}
    return {**held, **here}


def _traits(seen: Observation, action: Action, held: Held | None) -> tuple[str, str]:
    """Return the concurrency group and the fire of the run that an action is about: as its plan says, or its claim so
    far."""
    plan, run = getattr(action, "plan", None), seen.actual.runs.get(subject_of(action))
    known = [each for each in (plan, run, held.claim if held is not None else None) if each is not None]
    groups, fires = (each.group for each in known), (each.fired_at for each in known)
    return next(filter(None, groups), ""), next(filter(None, fires), "")


def _ids(wanted: Publish) -> list[RunId]:
    return [run_id for _, run_id in wanted.runs]


def unproven(seen: Observation) -> list[RunId]:
    """Return the runs that have ended and whose evidence the tip does not hold."""
    runs = seen.actual.runs
    phases = {run_id: phase(run, seen.now) for run_id, run in runs.items()}
    ended = [run_id for run_id, each in phases.items() if each in ENDED]
    return [run_id for run_id in ended if not seen.actual.proves_as(runs[run_id], phases[run_id])]


# ------------------------------------------------------------------------------------------------ the pass lock


@contextlib.contextmanager
def pass_lock(world: World) -> Iterator[None]:
    """Hold the lock under which one reconciler of this machine acts, and let no signal break off what is done with it.
    Raise LockHeld after a minute."""
    disk, path = world.disk, world.repository.state / "pass.lock"
    disk.make_directory(path.parent)
    disk.clear_directory(path)
    handle = disk.wait_for(lambda: disk.take_lock(path), PASS_LOCK_PATIENCE_S)
    if handle is None:
        who = ", ".join(str(each.pid) for each in world.processes.holders(path)) or "unknown"
        raise LockHeld(f"another reconciler (pid {who}) has been busy here for a minute")
    try:
        with world.undisturbed():
            yield
    finally:
        disk.let_go(handle)
