"""The loop that stays: a pass whenever something has happened or is due, until somebody says that it is enough.

What wakes it is a hint (`watch`), what it does follows from the world as it is. One watcher holds `watch.lock` of a
clone; passes of others beside it are welcome, because each pass takes the pass lock as ever. However it ends, workers
go on, and the next pass of anybody picks everything up.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

from reconciler.actions import Wait
from reconciler.codec import CodecError
from reconciler.due import Due
from reconciler.errors import REFUSALS, ContentError, GitFailed, LockHeld, TransientError, UsageError
from reconciler.loop import Loop, Pass
from reconciler.pacing import BACKOFF_MAX_S, Pacing
from reconciler.phases import ENDED
from reconciler.readiness import Readiness
from reconciler.signals import Told
from reconciler.values import frozen
from reconciler.watch import HINT, Bell, Events, Refs
from reconciler.world import World

LOOK_S = 1.0
"""So often it is looked, without git, whether a ref has moved that no event told of."""
REST_MAX_S = 0.25
"""How long at most a burst is collected: as long as the last pass took."""
RECORD_BYTES_MAX = 4096


@frozen
class Turn:
    """What one turn came to: the pass, or what kept it from being done; when the next one is due. `wake_at_s` is before
    that where a face wants to see how runs get on."""

    result: Pass | None
    trouble: str
    due: Due
    due_at_s: float
    wake_at_s: float
    took_s: float
    deaf: str = ""
    """Why no events come from the file system, "" if they do: then refs are looked at once a second."""


class Face:
    """Whoever is told how it goes. `look_s` is how often a run that is under way is looked at for it."""

    look_s: float | None = None

    def begin(self, loop: Loop) -> None: ...

    def tell(self, turn: Turn) -> None: ...

    def say(self, what: str, detail: str) -> None: ...

    def refresh(self) -> None: ...

    def end(self) -> None: ...


@dataclass(slots=True, eq=False, repr=False)
class Watcher:
    """Passes over one clone for as long as nobody ends it. `begin` opens the repository, anew after a reload."""

    begin: Callable[[], Loop]
    face: Face
    readiness: Readiness = field(default_factory=Readiness)
    bell: Bell = field(default_factory=Bell)
    factory: Callable[[], Any] | None = None
    warm: Callable[[World], None] | None = None
    stopping: str = ""
    told: Told = field(default_factory=Told)
    reloading: bool = False
    passes: int = 0
    passes_max: int | None = None
    loop: Loop = field(init=False)
    refs: Refs = field(init=False)
    identity: tuple[int, int] | None = None
    events: Events = field(init=False)
    before: tuple[object, ...] = ()
    pacing: Pacing = field(default_factory=Pacing)
    took_s: float = 0.0
    ended_s: float = float("-inf")
    refused: str = ""
    """Why the last reload was not done, as it was told."""
    place: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def wake(self, reason: str) -> None:
        """Let a pass be done now, by whatever thread: the remote is asked as well, because who calls knows of news."""
        self.loop.contact.asked_for = True
        self.bell.ring(reason)

    def stop(self, reason: str) -> None:
        """End after the pass that is under way."""
        self.stopping = reason
        self.bell.ring(reason)

    # -------------------------------------------------------------------------------------------- the whole life

    def run(self) -> None:
        """Watch until somebody ends it. Raise LockHeld if another watcher is at work in this clone."""
        self.loop = self.begin()
        try:
            with self.place, self._signals():
                self.place.enter_context(hold(self.loop.world))
                self._open()
                if self.warm is not None:
                    self.warm(self.loop.world)
                self.face.begin(self.loop)
                try:
                    self._turns()
                finally:
                    self.readiness.stopping()
                    self.events.stop()
                    self.face.end()
        finally:
            self._close()
            self.loop.world.workers.close()
            self.bell.close()

    def _turns(self) -> None:
        while True:
            if self.refs.identity() not in (None, self.identity):
                self._reload("another repository is in its place")
            turn = self._turn()
            self.face.tell(turn)
            said = _status(turn)
            self.readiness.ready(said) if self.passes == 1 else self.readiness.alive(said)
            if self.stopping or self.passes == self.passes_max:
                return
            self._sleep(turn)
            if self.stopping:
                return
            if self.reloading:
                self._reload("asked to by SIGHUP")

    def _open(self) -> None:
        world = self.loop.world
        self.loop.observer.ring = partial(self.bell.ring, "an engine has answered")
        self.identity = Refs(world.repository.common, world.repository.state, ()).identity()
        world.disk.make_directory(world.repository.state / "live")
        self.refs = self._refs()
        self.events = Events(self.refs, self.bell.ring, self.factory)
        self.events.start()

    def _close(self) -> None:
        self.loop.close()
        self.loop.world.repository.objects.close()

    def _reload(self, why: str) -> None:
        """Open everything anew: git's processes, the settings, the branch, the file system's events."""
        self.reloading = False
        self.readiness.reloading()
        try:
            fresh = self.begin()
        except (TransientError, ContentError, UsageError, OSError) as error:
            if str(error) != self.refused:
                self.refused = str(error)
                self.face.say("problem", f"not reloaded: {error}")
        else:
            self.refused = ""
            self.events.stop()
            self._close()
            self.loop = fresh
            if self.refs.identity() != self.identity:
                self.place.close()
                self.place.enter_context(hold(fresh.world))
            self._open()
            self.face.begin(fresh)
            self.face.say("reloaded", why)
        self.readiness.ready()

    def _refs(self) -> Refs:
        """Return the refs by which others ask for something: those of the remote where there is one, as a person's own
        push or fetch moves them in this clone; else the branches."""
        world, observer = self.loop.world, self.loop.observer
        branches = [observer.tip.branch] if observer.tip.branch else self._named_by_head(world)
        if observer.settings.publish.mode == "branch":
            branches.append(observer.settings.publish.branch)
        place = f"refs/remotes/{world.remote.name}" if world.remote is not None else "refs/heads"
        names = ("HEAD", *(f"{place}/{each}" for each in branches))
        return Refs(world.repository.common, world.repository.state, names)

    @staticmethod
    def _named_by_head(world: World) -> list[str]:
        """Return the branch that is most likely meant, before a pass has looked."""
        with contextlib.suppress(ContentError, GitFailed):
            return [world.repository.head_branch()]
        return []

    # -------------------------------------------------------------------------------------------- one turn

    def _turn(self) -> Turn:
        """Do one pass, and say when the next one is due."""
        began_s, trouble, result = time.monotonic(), "", None
        self.before = self.refs.look()
        try:
            result = self._pass()
        except (TransientError, ContentError, UsageError) as error:
            trouble = str(error)
        except OSError as error:
            if error.errno not in REFUSALS and self.refs.identity() == self.identity:
                raise
            trouble = f"{error.filename or 'the system'}: {error.strerror}"
        self.passes += 1
        self.ended_s = time.monotonic()
        self.took_s = self.ended_s - began_s
        if result is not None:
            self._after(result)
        self.pacing.note(result)
        due = self.pacing.due(self.loop, result)
        due_at_s = self.ended_s + due.in_s
        return Turn(
            result=result,
            trouble=trouble,
            due=due,
            due_at_s=due_at_s,
            wake_at_s=min(due_at_s, self.ended_s + self._look_s(result)),
            took_s=self.took_s,
            deaf=self.events.why,
        )

    def _pass(self) -> Pass:
        """Do a pass where the repository still is what it was when it was opened."""
        if self.refs.identity() != self.identity:
            raise GitFailed(f"{self.refs.common}: the repository is not there; waiting for it to come back")
        return self.loop.run_pass()

    def _after(self, result: Pass) -> None:
        """Let go of what is settled, and watch the branch that the pass looked at."""
        self.loop.observer.forget(result.seen)
        self.loop.concerned.clear()
        if self.passes <= 1:
            # What is loaded by now stays for life: the collector need not look at it again.
            gc.collect()
            gc.freeze()
        wanted = self._refs()
        if wanted != self.refs:
            self.refs = wanted
            self.events.stop()
            self.events = Events(wanted, self.bell.ring, self.factory)
            self.events.start()
            self.before = ()

    def _look_s(self, result: Pass | None) -> float:
        """Return after how many seconds a face wants to see how runs get on; those passes take a tenth of it."""
        if self.face.look_s is None or result is None or self.pacing.failures or not self.loop.workers(result):
            return float("inf")
        return max(self.face.look_s, 10 * self.took_s)

    # -------------------------------------------------------------------------------------------- between turns

    def _sleep(self, turn: Turn) -> None:
        """Return when another pass is due, or something says that there may be something to do."""
        if turn.result is not None and turn.result.tip_moved and self.loop.world.remote is not None:
            # Others want to push as well; a branch of this clone alone is there for the taking.
            self.loop.contact.spread()
        workers = self.loop.workers(turn.result) if turn.result is not None else set()
        while not (self.stopping or self.reloading):
            left_s = turn.wake_at_s - time.monotonic()
            ended = self.bell.wait(workers, min(max(0.0, left_s), LOOK_S, self.readiness.next_s()))
            reasons = self.bell.take()
            self.readiness.alive()
            if ended or set(reasons) - {HINT} or turn.wake_at_s <= time.monotonic():
                return
            if self.refs.identity() not in (None, self.identity):
                return
            if (now := self.refs.look()) != self.before:
                self._rest()
                named = len(self.refs.names)
                # What we push moves no ref that is looked at, so somebody here has pushed or fetched.
                self.loop.contact.asked_for |= now[:named] != self.before[:named]
                return
            self._mend()
            self.face.refresh()

    def _rest(self) -> None:
        """Let a burst of changes come together: a pass sees all of them at once, so it rests as long as it worked."""
        rest_s = self.ended_s + min(self.took_s, REST_MAX_S) - time.monotonic()
        if rest_s > 0:
            time.sleep(rest_s)

    def _mend(self) -> None:
        """Listen anew where events have stopped, or come from directories that are not there any more."""
        if self.refs.identity() == self.identity and not self.events.sound() and self._may_listen():
            self.events.start()

    def _may_listen(self) -> bool:
        """Return whether to try again to get events: at once where a directory was replaced, else now and then."""
        return not self.events.why or time.monotonic() - self.events.began_s >= BACKOFF_MAX_S

    # -------------------------------------------------------------------------------------------- signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """End by SIGTERM and SIGINT after the pass, by a second SIGINT at once; reload by SIGHUP. In a thread that is
        not the first, signals are somebody else's."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        kept = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        descriptor = signal.set_wakeup_fd(self.bell.descriptor, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reloading = True
        elif number == signal.SIGWINCH:
            pass  # the wake-up alone lets the screen be drawn anew
        elif self.told.again() and number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            self.stopping = signal.Signals(number).name


_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGWINCH)


def _status(turn: Turn) -> str:
    """Return in one line what a supervisor shows."""
    if turn.result is None:
        return f"waiting: {turn.trouble}"
    runs, waits = turn.result.phases.values(), sum(isinstance(each, Wait) for each in turn.result.actions)
    return f"{turn.result.seen.branch}: {sum(each not in ENDED for each in runs)} under way, {waits} waiting"


# ------------------------------------------------------------------------------------------------ one a clone


@contextlib.contextmanager
def hold(world: World) -> Iterator[None]:
    """Be the watcher of this clone. Raise LockHeld, with who it is, if there is one already."""
    state, disk = world.repository.state, world.disk
    disk.make_directory(state)
    handle = disk.take_lock(state / "watch.lock")
    if handle is None:
        raise LockHeld(f"another watcher is at work in this clone: {holder(world)}; it does what this one would do")
    try:
        record = {"host": platform.node(), "pid": os.getpid(), "since": world.now().at}
        disk.write_atomic(state / "watch.json", json.dumps(record).encode() + b"\n", sync=False)
        yield
    finally:
        disk.let_go(handle)


def holder(world: World) -> str:
    """Return in words who watches this clone, "" if nobody does."""
    state = world.repository.state
    if not world.disk.lock_is_held(state / "watch.lock"):
        return ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, CodecError):
        found = json.loads(world.disk.read_bounded(state / "watch.json", RECORD_BYTES_MAX) or b"")
        return f"pid {int(found['pid'])} on {str(found['host'])[:100]!r}, since {str(found['since'])[:40]}"
    return "nobody knows which"
