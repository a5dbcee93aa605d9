"""Who moves next, and what goes wrong: every process of every simulated machine, on one simulated clock.

A process is a greenlet. Whatever it does to its world is a *move*, announced before and after; at move numbers that
were drawn beforehand something happens: another process goes on first, this one is killed or stopped, its machine loses
power. So the cost of a move on which nothing happens is one comparison, and the same story is the same history.
"""

from __future__ import annotations

import heapq
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from greenlet import getcurrent, greenlet

from reconciler.model import Process

NEVER = float("inf")
MOVES_MAX = 60_000
MOVES_MAX_A_REQUEST = 6_000
"""A history longer than this does not come to an end. An hour in which an engine is silent takes two machines 45,000
moves."""


class Crashed(BaseException):
    """This process is dead: whatever it would still do must not happen."""


class Violation(BaseException):
    """Something that must never be was seen. Not an Exception: no code of ours may take it for its own trouble."""


@dataclass(frozen=True, slots=True, order=True)
class Happening:
    """What happens at a move. `value` from 0 to below 1 is all the chance it has, so that taking others away does not
    change it."""

    move: int
    kind: str
    value: float = 0.0


class Home(Protocol):
    """Where processes live."""

    name: str
    actors: list[Actor]

    def forget(self, actor: Actor) -> None: ...


@dataclass(eq=False, slots=True)
class Actor:
    """One simulated process: a reconciler, a worker, or a stage (which has no code, only an end)."""

    name: str
    host: Home
    me: Process
    kind: str
    greenlet: greenlet | None = None
    dead: bool = False
    timer: int = 0
    due: float = NEVER
    stopped_until: float = 0.0
    told_to_stop: bool = False
    waits_for: tuple[Actor, ...] = ()
    handles: list[object] = field(default_factory=list)
    on_death: Callable[[], None] | None = None


class Scheduler:
    """The clock, the queue of those who can move, and the happenings that are still to come."""

    def __init__(
        self, happenings: Sequence[Happening], happen: Callable[[Happening], None], *, trace: bool, moves_max: int
    ) -> None:
        self.ahead = sorted(happenings, key=lambda each: (each.move, each.kind, each.value), reverse=True)
        self.faults_left = sum(each.kind != "switch" for each in self.ahead)
        self.moves_max = moves_max
        self.next_at = self.ahead[-1].move if self.ahead else moves_max
        self.happen = happen
        self.now = 0.0
        self.moves = 0
        self.current: Actor | None = None
        self.ready: deque[Actor] = deque()
        self.timers: list[tuple[float, int, Actor | Callable[[], None]]] = []
        self.count = 0
        self.over = False
        self.failure: Violation | None = None
        self.unwinding: list[Actor] = []
        self.hub: greenlet = getcurrent()
        self.trace: list[str] | None = [] if trace else None
        self.said = ""

    # -------------------------------------------------------------------------------------------- moving

    def move(self, what: str, subject: object = "") -> None:
        """Announce one effect; called before it and after it. Raise Crashed if this process is no more."""
        actor = self.current
        if actor is None:
            return
        if actor.dead:
            raise Crashed
        self.moves += 1
        if self.trace is not None and what:
            self.say(what, subject)
        if self.moves >= self.next_at:
            self._let_happen()

    def say(self, what: str, subject: object = "") -> None:
        """Write a line of the trace."""
        if self.trace is not None:
            who = f"{self.current.host.name} {self.current.name}" if self.current else "-"
            self.trace.append(f"{self.now:9.3f} {self.moves:6d}  {who:22} {what} {_short(subject)}".rstrip())

    def _let_happen(self) -> None:
        while self.ahead and self.ahead[-1].move <= self.moves:
            happening = self.ahead.pop()
            self.faults_left -= happening.kind != "switch"
            self.next_at = self.ahead[-1].move if self.ahead else self.moves_max
            self.happen(happening)
            if self.current is not None and self.current.dead:
                raise Crashed
        if self.moves >= self.moves_max:
            raise Violation(f"after {self.moves_max} moves there is no end")

    # -------------------------------------------------------------------------------------------- processes

    def start(self, actor: Actor, main: Callable[[], None], delay_s: float = 0.0) -> None:
        """Let a process run `main`, after a delay."""
        actor.greenlet = greenlet(lambda: self._main(actor, main), self.hub)
        self._set_timer(actor, self.now + delay_s)

    def _main(self, actor: Actor, main: Callable[[], None]) -> None:
        try:
            main()
        except Crashed:
            pass
        except Violation as violation:
            self.failure = self.failure or violation
        except BaseException as error:  # whatever it is, it ends the history and is told
            lines = "".join(traceback.format_exception(error)[-4:])
            self.failure = self.failure or Violation(f"{actor.name} ended with an error of its own:\n{lines}")
        finally:
            if not actor.dead:
                self.bury(actor)

    def kill(self, actor: Actor) -> None:
        """KILL a process: nothing of it happens any more. Raise Crashed if it is the one that moves."""
        if actor.dead:
            return
        self.bury(actor)
        if actor is self.current:
            raise Crashed
        if actor.greenlet is not None and actor.greenlet:
            self.unwinding.append(actor)

    def bury(self, actor: Actor) -> None:
        """Note that a process is gone, and wake who waits for that."""
        actor.dead = True
        actor.host.forget(actor)
        if actor.on_death is not None:
            actor.on_death()
        for each in actor.host.actors:
            if actor in each.waits_for:
                self.wake(each)

    def terminate(self, actor: Actor) -> None:
        """TERM a process: a worker takes note, a stage ends unless it is stubborn, anything else ends."""
        if actor.kind == "worker":
            actor.told_to_stop = True
            self.wake(actor)
        elif not actor.told_to_stop:
            self.kill(actor)

    def stop(self, actor: Actor, seconds: float) -> None:
        """STOP a process, and CONTinue it after some seconds."""
        actor.stopped_until = max(actor.stopped_until, self.now + seconds)
        if actor is self.current:
            self._set_timer(actor, actor.stopped_until)
            self.to_hub()
        elif actor.due < actor.stopped_until or actor in self.ready:
            if actor in self.ready:
                self.ready.remove(actor)
            self._set_timer(actor, actor.stopped_until)

    def suspend(self, actors: Sequence[Actor], seconds: float) -> None:
        """Let all processes of a machine stand still with its clock: what they wait for comes so much later."""
        until = self.now + seconds
        for actor in [each for each in actors if each.greenlet is not None]:
            actor.stopped_until = max(actor.stopped_until, until)
            if actor in self.ready:
                self.ready.remove(actor)
                self._set_timer(actor, until)
            elif 0 <= actor.due < NEVER:
                self._set_timer(actor, actor.due + seconds)
        if self.current in actors:
            assert self.current is not None
            self._set_timer(self.current, until)
            self.to_hub()

    def wake(self, actor: Actor) -> None:
        """Let a sleeping process go on now, or when it is continued."""
        if not actor.dead and actor.due > self.now:
            self._set_timer(actor, max(self.now, actor.stopped_until))

    def sleep(self, seconds: float) -> None:
        """Let the moving process sleep."""
        assert self.current is not None
        if self.current.dead:
            raise Crashed
        self._set_timer(self.current, self.now + max(seconds, 1e-6))
        self.to_hub()

    def give_way(self, value: float) -> None:
        """Let another process that can move go first, a moment later."""
        if self.current is None:
            return
        self.now += value * 0.05
        self._collect_due()
        if self.ready:
            chosen = int(value * 1009) % len(self.ready)
            self.ready.rotate(-chosen)
            self.ready.append(self.current)
            self.to_hub()

    def to_hub(self) -> None:
        self.hub.switch()

    def call_at(self, at: float, call: Callable[[], None]) -> None:
        """Do something at an instant, outside of any process."""
        self.count += 1
        heapq.heappush(self.timers, (at, self.count, call))

    def _set_timer(self, actor: Actor, at: float) -> None:
        self.count += 1
        actor.timer, actor.due = self.count, at
        heapq.heappush(self.timers, (at, self.count, actor))

    # -------------------------------------------------------------------------------------------- the hub

    def run(self) -> None:
        """Let everybody move until the history is over. Raise Violation."""
        try:
            while not self.over:
                self._collect_due()
                if self.ready:
                    self._switch_to(self.ready.popleft())
                elif self.timers:
                    self.now = max(self.now, self.timers[0][0])
                else:
                    break
                if self.failure is not None:
                    raise self.failure
        finally:
            self.current = None

    def _collect_due(self) -> None:
        while self.timers and self.timers[0][0] <= self.now:
            _, number, what = heapq.heappop(self.timers)
            if isinstance(what, Actor):
                if not what.dead and what.timer == number:
                    what.due = -1.0
                    self.ready.append(what)
            else:
                self._aside(what)

    def _aside(self, call: Callable[[], None]) -> None:
        moving, self.current = self.current, None
        call()
        self.current = moving

    def _switch_to(self, actor: Actor) -> None:
        if actor.dead:
            return
        if actor.stopped_until > self.now:
            self._set_timer(actor, actor.stopped_until)
            return
        self.current = actor
        assert actor.greenlet is not None
        actor.greenlet.switch()
        while self.unwinding:
            self.current = self.unwinding.pop()
            assert self.current.greenlet is not None
            # Who was killed from outside while it gave way may have noticed that itself.
            if self.current.greenlet:
                self.current.greenlet.throw(Crashed())
        self.current = None

    def close(self, actors: Sequence[Actor]) -> None:
        """Let go of every process that is left, so that nothing of this history stays in memory."""
        for actor in actors:
            actor.dead = True
            if actor.greenlet is not None and actor.greenlet:
                self.current = actor
                actor.greenlet.throw(Crashed())
        self.current = None


def _short(subject: object) -> str:
    text = str(subject)
    return text.partition("/repo/")[2] or text
