"""What is remembered of attempts at engines, in `<git directory>/reconciler/afar.json`.

Losing it costs patience, nothing else: the claim holds the handle, the engine finds it, and the ref says which order an
attempt works on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from reconciler import codec
from reconciler.disk import Seen
from reconciler.model import Instant, Outcome, Run, RunId
from reconciler.parted import Parted
from reconciler.places import Placement, Sighting
from reconciler.values import frozen
from reconciler.work import number_in, run_digest, run_in
from reconciler.world import World

MEMORY_BYTES_MAX = 16 * 1024 * 1024


@frozen
class Heard:
    """What is remembered of one attempt at an engine. `order` is the commit it was given; `word` the newest commit of
    its ref that was brought home, and since when nothing newer came; `ended` is when its engine was first seen to have
    ended it. `alien` says that its ref holds an order of which nobody here knows anything, `unread` that it holds a
    word that nobody here can read, `over` that its last word came home. `given_up_s` is for how many seconds it was
    silent when it was told to end for that."""

    executor: str
    order: str = ""
    submitted: bool = False
    turned: str = ""
    sighting: Sighting | None = None
    word: str = ""
    heard: Instant | None = None
    ended: Instant | None = None
    alien: bool = False
    unread: bool = False
    over: bool = False
    given_up_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Remembered:
    """`afar.json`, by handle: the attempts under way, and those that are over and never said so themselves."""

    attempts: dict[str, Heard] = field(default_factory=dict)
    parted: dict[str, Parted] = field(default_factory=dict)


class Memory:
    """The memory of one host. Its processes take turns, each with the pass lock, and each reads what others wrote."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.path = world.repository.state / "afar.json"
        self.told: dict[str, float] = {}
        """When (monotonic seconds) an engine was told to end an attempt; it is told once more by who begins anew."""
        self.changed = False
        self.written: Seen | None = None
        self.attempts: dict[str, Heard] = {}
        self.parted: dict[str, Parted] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take over what another process of this host has written down meanwhile."""
        written = self.world.disk.look(self.path)
        if written != self.written and not self.changed:
            found = self._recall()
            self.attempts, self.parted, self.written = found.attempts, found.parted, written

    def heard(self, executor: str, handle: str) -> Heard:
        return self.attempts.get(handle) or Heard(executor=executor)

    def heard_of(self, run: Run) -> Heard:
        """Return what is remembered of the newest attempt of a run."""
        return self.heard(placement_of(run).executor, placement_of(run).handle)

    def keep(self, handle: str, heard: Heard) -> None:
        if self.attempts.get(handle) != heard:
            self.attempts[handle], self.changed = heard, True

    def keep_parted(self, parted: dict[str, Parted]) -> None:
        if parted != self.parted:
            self.parted, self.changed = parted, True

    def forget(self, under_way: Iterable[Run], runs: Mapping[RunId, Run]) -> None:
        """Let go of attempts that are not under way here. One that its engine had and that never said its last word may
        come back; where records here say that it is over, and no other host goes on with it, it is looked for."""
        handles = {placement_of(each).handle for each in under_way}
        dropped = [each for each in self.attempts if each not in handles]
        digests = {run_digest(each): run for each, run in runs.items()} if dropped else {}
        for handle in dropped:
            heard, run = self.attempts.pop(handle), digests.get(run_in(handle))
            if heard.submitted and not heard.over and run is not None and _is_past(run, number_in(handle)):
                self.parted[handle] = Parted(executor=heard.executor, at=self.world.now())
            self.told.pop(handle, None)
            self.changed = True

    def write(self) -> None:
        """Write down what was heard, synced, because an intent to submit stands in it."""
        if self.changed:
            self.world.disk.make_directory(self.path.parent)
            kept = Remembered(attempts=self.attempts, parted=self.parted)
            self.world.disk.write_atomic(self.path, codec.compact(kept))
            self.changed, self.written = False, self.world.disk.look(self.path)

    def _recall(self) -> Remembered:
        with contextlib.suppress(codec.CodecError, OSError):
            data = self.world.disk.read_bounded(self.path, MEMORY_BYTES_MAX)
            if data is not None:
                return codec.parse(Remembered, data)
        return Remembered()


def placement_of(run: Run) -> Placement:
    """Return where the newest attempt of a run is, which an engine executes."""
    assert run.claim is not None and run.claim.placement is not None
    return run.claim.placement


def is_open(run: Run) -> bool:
    """Return whether the newest attempt of a run has not come to an end of its own."""
    ended = run.end is not None and run.end.outcome != Outcome.INTERRUPTED
    outcome = run.attempt.outcome if run.attempt is not None else None
    return not ended and outcome in (None, Outcome.INTERRUPTED)


def _is_past(run: Run, number: int) -> bool:
    """Return whether an attempt of a run is over by what is recorded here, without a word of its own."""
    return run.number > number or (run.number == number and run.end is not None)
