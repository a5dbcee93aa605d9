"""An engine in memory that delays, loses, duplicates and resurrects what it is given.

The cluster is one for all machines of a history. It starts couriers on nodes of its own, when it likes, and tells those
who ask what is true, what was true, or what is not: who hears that an attempt has ended while something of it lives, or
will, was lied to. Submitting, observing and cancelling are moves of the process that asks, each with its own chance to
be lost, to come late, or to be done without an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.executors.engine import EngineSilent, Sighting, Standing, Submission, Turned
from reconciler.model import ExecutorSettings, Process
from reconciler.places import Cause
from reconciler.simulation.courier import SimulatedCourier
from reconciler.simulation.engine_story import FATES, Trouble
from reconciler.simulation.forger import Forger
from reconciler.simulation.host import Host
from reconciler.simulation.remote import Server
from reconciler.simulation.repository import Store
from reconciler.simulation.scheduler import NEVER, Actor
from reconciler.simulation.seams import Telling

SILENT_S = 5.0
"""How long somebody waits for an answer that does not come."""
NODES_FROM = 10
"""The index of the first node: its clock is none of those that machines have."""
ABSENT = Standing.ABSENT
GONE = (Standing.ENDED, ABSENT)


class Node(Host):
    """A machine of the engine, on which one courier executes one attempt."""

    def __init__(self, history: Telling, store: Store, handle: str, index: int) -> None:
        super().__init__(history, store, f"node{index - NODES_FROM + 1}", index)
        self.handle = handle


@dataclass(slots=True, eq=False)
class Placed:
    """A submission that was taken. `ahead` couriers of it are still to be started, `secret` ones are and nobody is told
    of them."""

    submission: Submission
    fate: str
    ahead: int = 1
    secret: int = 0
    couriers: list[Actor] = field(default_factory=list)
    cause: Cause | None = None
    over: bool = False
    """Whether it was cancelled before it began."""
    ended_s: float = NEVER
    unseen_until_s: float = -NEVER
    lie: Sighting | None = None
    lie_until_s: float = -NEVER

    @property
    def living(self) -> list[Actor]:
        return [each for each in self.couriers if not each.dead]

    @property
    def standing(self) -> Standing:
        if self.living:
            return Standing.RUNNING
        return Standing.QUEUED if self.ahead else Standing.ENDED


class Cluster:
    """What the engine has, and what it does with it. Its couriers reach the repository at `server`."""

    def __init__(self, history: Telling, store: Store, server: Server, trouble: Trouble) -> None:
        self.history, self.store, self.server, self.trouble = history, store, server, trouble
        self.scheduler = history.scheduler
        self.placed: dict[str, Placed] = {}
        self.before: list[Placed] = []
        """Those that were forgotten, and given to it once more."""
        self.nodes: list[Node] = []
        self.flying: dict[str, int] = {}
        """How many submissions are on their way here, by handle."""
        self.lied: set[str] = set()
        self.gone_s: dict[str, float] = {}
        """When somebody was first told that nothing of an attempt is there."""
        self.said: dict[str, set[Cause | Standing]] = {}
        """What was ever said of a handle."""
        self.calls = 0
        self.told: dict[str, dict[Process, tuple[Standing, float]]] = {}
        """What processes were told last of a handle, and when by their machine's clock."""
        self.passes: dict[Process, list[float]] = {}
        """When a process began its passes, by its machine's clock."""
        self.refused: set[str] = set()
        """The attempts that it will never take, and has said so."""
        self.forger = Forger(store, server)
        for at_s in trouble.forgeries if "forges" in trouble.wrongs else ():
            self.scheduler.call_at(at_s, lambda at_s=at_s: self._forge(at_s))  # type: ignore[misc]

    def opener(self, host: Host) -> Callable[[str, ExecutorSettings, Path], SimulatedEngine]:
        """Return what opens the engine on a machine."""
        return lambda executor, said, directory: SimulatedEngine(host, self)

    @property
    def is_troubled(self) -> bool:
        return self.scheduler.now < self.trouble.until_s

    def _does(self, wrong: str) -> bool:
        """Return whether something goes wrong here and now, if it comes to it."""
        return self.is_troubled and wrong in self.trouble.wrongs

    # -------------------------------------------------------------------------------------------- what it is given

    def take(self, submission: Submission) -> Turned | None:
        """Take an attempt, unless it is there already; return why not."""
        handle, known = submission.handle, self.placed.get(submission.handle)
        if known is not None and not self._is_forgotten(known):
            return None
        fate = self._fate(handle)
        if fate in ("refused", "unseen"):
            self.history.count(f"attempts {fate} at the engine")
        if fate == "refused":
            self.refused.add(handle)
            return Turned(reason="there is no such partition", settled=True)
        if known is not None:
            self.before.append(known)
        placed = self.placed[handle] = Placed(submission=submission, fate=fate)
        self.history.count("attempts at the engine")
        if fate == "unseen":
            placed.unseen_until_s = self.scheduler.now + 20 * self._draw("unseen", handle)
        delays = (0.1, 1.0, 4.0, 15.0, 60.0) if self._does("queues") else (0.1, 0.5, 1.0)
        self._later(delays[int(self._draw("queue", handle) * len(delays))], lambda: self._begin(placed))
        return None

    def _draw(self, *words: object) -> float:
        return self.history.story.draw("engine", *words)

    def _fate(self, handle: str) -> str:
        if not self.is_troubled:
            return ""
        left = self._draw("fate", handle) * sum(weight for _, weight in FATES)
        for name, weight in FATES:
            left -= weight
            if left < 0:
                return name if name in self.trouble.wrongs else ""
        return ""

    def _later(self, after_s: float, call: Callable[[], None]) -> None:
        self.scheduler.call_at(self.scheduler.now + after_s, call)

    def _begin(self, placed: Placed, *, secret: bool = False) -> None:
        """Start a courier on a node."""
        if placed.over:
            return
        placed.secret, placed.ahead = placed.secret - secret, placed.ahead - (not secret)
        handle = placed.submission.handle
        node = Node(self.history, self.store, handle, NODES_FROM + len(self.nodes))
        self.nodes.append(node)
        actor = node.new_actor(f"courier {placed.submission.run_id} {placed.submission.number}", "worker")
        courier = SimulatedCourier(node, actor, placed.submission, self.server)
        actor.on_death = lambda: self._gone(placed, actor)
        placed.couriers.append(actor)
        placed.ended_s = NEVER
        self.scheduler.say(f"the engine starts a courier on {node.name}", handle)
        self.scheduler.start(actor, courier.main, 0.05)
        if len(placed.couriers) == 1:
            self._meet_fate(placed)

    def _gone(self, placed: Placed, actor: Actor) -> None:
        """A courier is dead, and so is everything that it started; that may be done by one of those."""
        self._later(0.0, lambda: self._empty(actor))
        if placed.standing == Standing.ENDED:
            placed.ended_s = self.scheduler.now

    def _empty(self, actor: Actor) -> None:
        for each in list(actor.host.actors):
            self.scheduler.kill(each)

    # -------------------------------------------------------------------------------------------- what goes wrong

    def _meet_fate(self, placed: Placed) -> None:
        """Let happen to an attempt what was drawn for it."""
        draw = self._draw("fate at", placed.submission.handle)
        fates: Mapping[str, tuple[float, Callable[[], None]]] = {
            "preempted": (8 * draw, lambda: self._stop(placed, Cause.PREEMPTED)),
            "evicted": (8 * draw, lambda: self._stop(placed, Cause.EVICTED)),
            "time limit": (8 * draw, lambda: self._stop(placed, Cause.TIME_LIMIT)),
            "node fails": (8 * draw, lambda: self._lose_node(placed)),
            "killed": (8 * draw, lambda: self._kill_courier(placed)),
            "requeued": (8 * draw, lambda: self._requeue(placed)),
            "twice": (3 * draw, lambda: self._begin_again(placed)),
            "twice late": (60 * draw, lambda: self._begin_in_secret(placed)),
            "returns": (12 * draw, lambda: self._lie_about(placed)),
        }
        if placed.fate in fates:
            after_s, happen = fates[placed.fate]
            placed.secret += placed.fate == "twice late"
            self._later(after_s, lambda: self._happens(placed, happen))

    def _happens(self, placed: Placed, happen: Callable[[], None]) -> None:
        if placed.living or placed.secret:
            self.scheduler.say(f"FATE {placed.fate}", placed.submission.handle)
            self.history.count(f"attempts {placed.fate or 'well'} at the engine")
            happen()

    def _stop(self, placed: Placed, cause: Cause) -> None:
        """TERM the couriers of an attempt, and KILL them after its grace."""
        for each in placed.living:
            placed.cause = placed.cause or cause
            self.scheduler.terminate(each)
        self._later(placed.submission.grace_s, lambda: self._kill_all(placed))

    def _kill_all(self, placed: Placed) -> None:
        for each in placed.living:
            self._empty(each)

    def _lose_node(self, placed: Placed) -> None:
        placed.cause = placed.cause or Cause.NODE_FAILED
        self._kill_all(placed)

    def _kill_courier(self, placed: Placed) -> None:
        for each in placed.living:
            self.scheduler.kill(each)

    def _requeue(self, placed: Placed) -> None:
        """Lose the node, and start the attempt once more under the same name."""
        placed.ahead, placed.cause = placed.ahead + 1, Cause.REQUEUED
        self._kill_all(placed)
        self._later(10 * self._draw("again", placed.submission.handle), lambda: self._begin(placed))

    def _begin_again(self, placed: Placed) -> None:
        placed.ahead += 1
        self._begin(placed)

    def _begin_in_secret(self, placed: Placed) -> None:
        self._begin(placed, secret=True)

    def _lie_about(self, placed: Placed) -> None:
        """Say that an attempt is over which goes on; after a while, now and then, say the truth again."""
        draw = self._draw("lie", placed.submission.handle)
        failed = Sighting(standing=Standing.ENDED, cause=Cause.NODE_FAILED, detail="the node does not answer")
        placed.lie = failed if draw < 0.6 else Sighting(standing=Standing.ABSENT)
        placed.lie_until_s = self.scheduler.now + 60 * (draw * 7 % 1)

    def _forge(self, at_s: float) -> None:
        """Let somebody who may write refs say what no attempt and no host has said."""
        ref = self.forger.forge(self._draw("forge", at_s))
        if ref:
            self.scheduler.say("somebody forges", ref)
            self.history.count("refs of attempts that were forged")

    # -------------------------------------------------------------------------------------------- what it says

    def _is_forgotten(self, placed: Placed) -> bool:
        return placed.standing == Standing.ENDED and self.scheduler.now >= placed.ended_s + self.trouble.forgets_s

    def sighting(self, handle: str) -> Sighting:
        """Say what somebody is told of an attempt, and remember if he is misled."""
        seen = self._sighting(self.placed.get(handle))
        if seen.standing in GONE and handle in self.placed:
            self.gone_s.setdefault(handle, self.scheduler.now)
        if seen.standing in GONE and self.may_live(handle):
            self.lied.add(handle)
        self.said.setdefault(handle, set()).update({seen.standing, seen.cause} - {None})  # type: ignore[arg-type]
        return seen

    def _sighting(self, placed: Placed | None) -> Sighting:
        now_s = self.scheduler.now
        if placed is None or self._is_forgotten(placed) or now_s < placed.unseen_until_s:
            return Sighting(standing=Standing.ABSENT)
        if placed.lie is not None and now_s < placed.lie_until_s:
            return placed.lie
        cause = placed.cause if placed.standing == Standing.ENDED else None
        return Sighting(standing=placed.standing, cause=cause, detail=(cause or "").replace("_", " "))

    def may_live(self, handle: str) -> bool:
        """Return whether something of an attempt lives, or will."""
        placed = [each for each in (*self.before, self.placed.get(handle)) if each is not None]
        mine = [each for each in placed if each.submission.handle == handle]
        return self.flying.get(handle, 0) > 0 or any(
            each.living or ((each.ahead or each.secret) and not each.over) for each in mine
        )

    def cancel(self, handle: str) -> None:
        """Have an attempt ended, if it can be reached."""
        placed = self.placed.get(handle)
        if placed is None or self.scheduler.now < max(placed.lie_until_s, placed.unseen_until_s):
            return
        if placed.living:
            # It is told at once, and does it when it comes to it.
            delay_s = 6 * self._draw("cancel", handle) if self._does("ends slowly") else 0.1
            self._later(delay_s, lambda: self._stop(placed, Cause.ENGINE_CANCELLED))
        if placed.ahead:
            placed.over, placed.ahead, placed.ended_s = True, 0, self.scheduler.now
            placed.cause = placed.cause or Cause.ENGINE_CANCELLED

    def adopted(self, repository: str) -> dict[str, Mapping[str, str]]:
        """Return the secrets of what is not forgotten, as far as the engine tells them."""
        found = {handle: each for handle, each in self.placed.items() if self._sighting(each).standing != ABSENT}
        mine = {handle: each for handle, each in found.items() if each.submission.repository == repository}
        tells = self.trouble.tells or not self.is_troubled
        return {handle: dict(each.submission.secrets) if tells else {} for handle, each in mine.items()}

    def always_tells(self, handle: str) -> bool:
        """Return whether everybody who asks is told the secrets of an attempt, whenever he does."""
        placed = self.placed.get(handle)
        seen = placed is not None and placed.fate not in ("unseen", "returns")
        return seen and self.trouble.tells and self.trouble.forgets_s == float("inf")

    # -------------------------------------------------------------------------------------------- being asked

    def is_lost(self, what: str) -> bool:
        """Return whether a message is lost on its way."""
        self.calls += 1
        lost = self._does("lost calls") and self._draw(what, self.calls) < self.trouble.calls
        return lost or self.trouble.is_silent(self.scheduler.now)

    def comes_late(self, submission: Submission) -> bool:
        """Return whether a submission comes when its sender has given up on it."""
        self.calls += 1
        if not self._does("late calls") or self._draw("late", self.calls) >= self.trouble.calls / 2:
            return False
        handle = submission.handle
        self.flying[handle] = self.flying.get(handle, 0) + 1
        self._later(30 * self._draw("late by", self.calls), lambda: self._arrive(submission))
        return True

    def _arrive(self, submission: Submission) -> None:
        self.flying[submission.handle] -= 1
        self.scheduler.say("a submission comes late", submission.handle)
        self.take(submission)

    def pause_s(self) -> float:
        """Return how much longer those rest who wait for an engine that is silent: the longer it is, the longer."""
        until_s = max(until for since, until in self.trouble.silences if since <= self.scheduler.now < until)
        return (until_s - self.scheduler.now) / 20

    def throttles(self) -> bool:
        self.calls += 1
        return self._does("throttles") and self._draw("throttle", self.calls) < self.trouble.calls


class SimulatedEngine:
    """The cluster as one process reaches it."""

    def __init__(self, host: Host, cluster: Cluster) -> None:
        self.host, self.cluster, self.scheduler = host, cluster, host.scheduler

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Turned]:
        turned: dict[str, Turned] = {}
        for each in submissions:
            self._travel("submit", each.handle)
            if (no := self._submit(each)) is not None:
                turned[each.handle] = no
            self._answer("submitted", each.handle)
        return turned

    def _submit(self, submission: Submission) -> Turned | None:
        self.host.history.watch.submitted(self.host, submission)
        if self.cluster.throttles():
            return Turned(reason="too many at once")
        if self.cluster.comes_late(submission):
            self._be_silent()
        return self.cluster.take(submission)

    def observe(self, handles: Collection[str]) -> Mapping[str, Sighting]:
        self._travel("ask the engine about", ", ".join(handles))
        found = {each: self.cluster.sighting(each) for each in handles}
        self._answer("the engine says", ", ".join(f"{each} {found[each].standing.value}" for each in handles))
        assert self.scheduler.current is not None
        me, now_s = self.scheduler.current.me, self.host.monotonic()
        for each, seen in found.items():
            self.cluster.told.setdefault(each, {})[me] = (seen.standing, now_s)
        return found

    def cancel(self, handles: Collection[str]) -> None:
        self._travel("cancel", ", ".join(handles))
        for each in handles:
            self.cluster.cancel(each)
        self._answer("cancelled", ", ".join(handles))

    def adopt(self, repository: str) -> Mapping[str, Mapping[str, str]]:
        self._travel("ask what the engine has of", repository)
        found = self.cluster.adopted(repository)
        self._answer("it has", ", ".join(found))
        return found

    def logs(self, handle: str, bytes_max: int) -> bytes:
        return b""

    def _travel(self, what: str, subject: str) -> None:
        """Let a question go to the engine; it may be lost."""
        self.scheduler.move(what, subject)
        longer_s = self.cluster.trouble.slow_s if self.cluster.is_troubled else 0.0
        self.scheduler.sleep(0.01 + (0.1 + longer_s) * self.host.latency())
        if self.cluster.is_lost(what):
            self._be_silent()

    def _answer(self, what: str, subject: str) -> None:
        """Let the answer come back; it may be lost, and what was asked for is done."""
        self.scheduler.move(what, subject)
        if self.cluster.is_lost(what):
            self._be_silent()

    def _be_silent(self) -> None:
        self.scheduler.sleep(SILENT_S)
        self.host.history.count("times the engine did not answer")
        raise EngineSilent("the engine does not answer")
