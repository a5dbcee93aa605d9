"""Deliveries: what evidence says is wanted, less what receipts prove, as a pass sees and settles it.

A pass notes what is owed, starts what is due in threads of its own, and waits for none of them: a server that hangs
holds up no run. One delivery at a time for each task and outlet, so the failure of one task delays no other. Of several
processes in a clone, the one that holds `outlets/lock` delivers. Where machines share a remote, each delivers the runs
it executed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.confided import cleaned
from reconciler.credentials.broker import Broker
from reconciler.errors import TransientError
from reconciler.evidence import Proven, evidence_row, leads_to_manifests
from reconciler.model import RunId, Settings, TaskId
from reconciler.observe import Observation
from reconciler.outgoing import Outgoing
from reconciler.outlet_settings import outgoing
from reconciler.outlets import audit
from reconciler.outlets.box import Box, Dead, Done, Mark, Open
from reconciler.outlets.opening import open_outlets
from reconciler.outlets.outlet import Delivery, Ended, Outlet, Undeliverable, Undelivered
from reconciler.outlets.retry import AFTER_MAX_S, TRIES_MAX, pause_s
from reconciler.values import frozen
from reconciler.world import World

THREADS_MAX = 8
LOOK_S = 0.05
"""How often one looks whether a thread is done, who waits for nothing else."""
FLIGHT_S = 0.25
"""How soon a pass looks at what is under way."""
REFUSED_S = 1.0
IDLE_S = 60.0
Opening = Callable[[Outgoing, Broker], tuple[Outlet, ...]]


@dataclass(slots=True)
class Flight:
    """A delivery under way."""

    thread: threading.Thread
    owed: Open
    trouble: str = ""


@frozen
class Place:
    """An outlet and its files."""

    outlet: Outlet
    box: Box


@dataclass(slots=True)
class Deliveries:
    """What one process delivers. `broker` says who hands out its secrets now; `epoch_s` is the wall clock, in seconds
    since 1970: what is due outlives a restart."""

    world: World
    broker: Callable[[], Broker] = lambda: Broker({})
    opening: Opening = open_outlets
    epoch_s: Callable[[], float] = time.time
    settings: Settings | None = None
    said: Outgoing | None = None
    places: tuple[Place, ...] = ()
    owed: dict[tuple[str, str], Open] = field(default_factory=dict)
    flying: dict[tuple[str, TaskId], Flight] = field(default_factory=dict)
    paused: dict[tuple[str, str], float] = field(default_factory=dict)
    lock: int | None = None
    trees: dict[str, str | None] = field(default_factory=dict)
    _writing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    # -------------------------------------------------------------------------------------------- a pass

    def settle(self, seen: Observation) -> tuple[str, ...]:
        """Note what is owed and start what is due; return what is in the way, for people."""
        troubles = self._land()
        if self.settings != seen.settings:
            self._open(seen.settings)
        if not self._take_lock():
            return troubles
        for place in self.places:
            self._note(seen, place)
            self._load(place)
        self._start()
        return troubles

    def patience_s(self) -> float:
        """Return in how many seconds there is something to do."""
        if self.flying:
            return FLIGHT_S
        left_s = min((self._due_s(each, *key) for key, each in self.owed.items()), default=IDLE_S)
        # What is due and was not started could not be: that is no reason to do nothing else.
        return left_s if left_s > 0 else REFUSED_S

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return bool(self.flying)

    def wait(self, patience_s: float) -> None:
        """Wait until one of what is under way has ended, or patience is at its end."""
        deadline = time.monotonic() + patience_s
        flights = list(self.flying.values())
        while flights and all(each.thread.is_alive() for each in flights) and time.monotonic() < deadline:
            flights[0].thread.join(min(LOOK_S, patience_s))

    def close(self) -> None:
        """Let others deliver. What is under way and has no receipt is repeated by them."""
        for each in self.places:
            each.outlet.close()
        if self.lock is not None:
            self.world.disk.let_go(self.lock)
        self.lock = None

    # -------------------------------------------------------------------------------------------- opening

    def _open(self, settings: Settings) -> None:
        """Open the outlets of settings, unless these speak of others as those before did."""
        said, self.settings = outgoing(settings), settings
        if said == self.said:
            return
        for each in self.places:
            each.outlet.close()
        root, disk = self.world.repository.state / "outlets", self.world.disk
        outlets = self.opening(said, self.broker())
        self.places = tuple(Place(outlet=each, box=Box(directory=root / each.name, disk=disk)) for each in outlets)
        self.said, self.owed, self.paused, self.trees = said, {}, {}, {}
        self.world.repository.exclude(audit.EXCLUDED)

    def _take_lock(self) -> bool:
        """Return whether this process is the one that delivers."""
        if self.lock is None:
            path = self.world.repository.state / "outlets/lock"
            self.world.disk.make_directory(path.parent)
            self.lock = self.world.disk.take_lock(path)
        return self.lock is not None

    # -------------------------------------------------------------------------------------------- what is owed

    def _note(self, seen: Observation, place: Place) -> None:
        """Note what an outlet wants of the evidence that is new since its mark; at first sight nothing is."""
        tip, box, name = seen.evidence_tip or seen.tip, place.box, place.outlet.name
        tree = self.world.repository.look_up([f"{tip}:.runs"])[0]
        if name in self.trees and self.trees[name] == tree:
            return
        mark = box.mark()
        if mark is not None and mark.tree != tree and self._is_there(mark.tree):
            for run in self._ended(seen, mark.tree, tree):
                for each in place.outlet.wanted(run):
                    box.note(_owed(each, seen.now.at))
        if mark is None or mark.tree != tree:
            box.set_mark(Mark(tree=tree, since=seen.now.at))
        self.trees[name] = tree

    def _is_there(self, tree: str | None) -> bool:
        return tree is None or self.world.repository.look_up([tree])[0] is not None

    def _ended(self, seen: Observation, old: str | None, new: str | None) -> Iterator[Ended]:
        """Yield the runs of this machine whose committed manifests differ between two trees of evidence."""
        repository = self.world.repository
        changes = repository.changes(old, new, leads_to_manifests)
        found = [(path.split("/"), entry.oid) for path, entry in changes if entry is not None and entry.is_file]
        mine = [(parts[2], oid) for parts, oid in found if parts[3:] == ["manifest.json"] and self._is_ours(parts[2])]
        for (run_id, oid), (_, data) in zip(mine, repository.blobs([oid for _, oid in mine]), strict=True):
            if evidence_row(run_id, oid, data) is not None:
                yield _ended_run(seen, RunId(run_id), oid, json.loads(data or b""))

    def _is_ours(self, run_id: str) -> bool:
        return self.world.remote is None or self.world.runs.is_ours(run_id)

    def _load(self, place: Place) -> None:
        """Bring what is known to be owed to what lies in a box: others add to it, and damaged files are no debt."""
        name, there = place.outlet.name, set(place.box.keys("open"))
        for known in [key for key in self.owed if key[0] == name and key[1] not in there]:
            del self.owed[known]
        for key in there:
            if (name, key) not in self.owed:
                owed = place.box.opened(key)
                if owed is None or owed.key != key:
                    place.box.drop(key)
                else:
                    self.owed[name, key] = owed

    # -------------------------------------------------------------------------------------------- delivering

    def _due_s(self, owed: Open, name: str, key: str) -> float:
        """Return in how many seconds a delivery is due. A clock that was set back makes nothing wait for longer than
        another side may ask for."""
        now_s = self.epoch_s()
        due_s = max(owed.due_at_s, self.paused.get((name, ""), 0.0), self.paused.get((name, owed.task_id), 0.0))
        return due_s - now_s if due_s - now_s <= AFTER_MAX_S else 0.0

    def _start(self) -> None:
        """Start what is due, the longest owed first, one for each task and outlet, a few at once."""
        by_name = {each.outlet.name: each for each in self.places}
        due = [(owed, name) for (name, key), owed in self.owed.items() if self._due_s(owed, name, key) <= 0]
        for owed, name in sorted(due, key=lambda each: (each[0].due_at_s, each[0].since, each[0].key)):
            if len(self.flying) >= THREADS_MAX:
                return
            if (name, owed.task_id) not in self.flying:
                self._fly(by_name[name], owed)

    def _fly(self, place: Place, owed: Open) -> None:
        # Git is asked by this thread alone; what is to be sent is read before another one starts.
        data = next(data for _, data in self.world.repository.blobs([owed.blob]))
        flight = Flight(thread=threading.Thread(), owed=owed)
        arguments = (place, flight, data)
        flight.thread = threading.Thread(target=self._deliver, args=arguments, daemon=True)
        try:
            flight.thread.start()
        except RuntimeError as error:
            raise TransientError(f"{owed.key}: {error}") from None
        self.flying[place.outlet.name, owed.task_id] = flight

    def _deliver(self, place: Place, flight: Flight, data: bytes | None) -> None:
        """Try one delivery and write down what came of it: the work of a thread."""
        began_s = time.monotonic()
        owed = replace(flight.owed, tries=flight.owed.tries + 1)
        said, error = _tried(place.outlet, owed, data)
        try:
            with self._writing:
                result, flight.trouble = self._settled(place, owed, said, error)
                self._audit(place, owed, result, said, time.monotonic() - began_s)
        except OSError as refused:
            flight.trouble = f"{owed.key}: what came of its delivery cannot be written down: {refused.strerror}"

    def _settled(self, place: Place, owed: Open, said: str, error: TransientError | None) -> tuple[str, str]:
        """Write a receipt or a dead letter, or put a delivery off; return which, and what people are told of it."""
        at, name = self.world.now().at, place.outlet.name
        if error is None:
            place.box.receipt(Done(key=owed.key, at=at, tries=owed.tries, said=said))
            return "delivered", ""
        if isinstance(error, Undeliverable) or owed.tries >= TRIES_MAX:
            place.box.bury(Dead(owed=replace(owed, reason=said), at=at, reason=said))
            return "dead", f"{name}: {owed.key} is given up: {said}; see: reconciler deliveries"
        self._put_off(place, owed, said, error)
        return "retry", f"{name}: {owed.key} is not delivered yet: {said}"

    def _audit(self, place: Place, owed: Open, result: str, said: str, took_s: float) -> None:
        line = audit.Line(
            at=self.world.now().at,
            outlet=place.outlet.name,
            delivery=owed.key,
            run_id=owed.run_id,
            attempt=owed.attempt,
            try_number=owed.tries,
            result=result,
            said=said,
            duration_s=round(took_s, 3),
        )
        audit.write(self.world.disk, self.world.checkout, owed.task_id, line)

    def _put_off(self, place: Place, owed: Open, said: str, error: TransientError) -> None:
        """Let the next try come later, and what else goes there for the same task not before it. Whoever asks to wait
        is left alone by all tasks."""
        after_s = error.after_s if isinstance(error, Undelivered) else None
        due_at_s = self.epoch_s() + pause_s(owed.tries, after_s, self.world.chance.fraction())
        place.box.put_off(replace(owed, due_at_s=due_at_s, reason=said))
        self.paused[place.outlet.name, owed.task_id if after_s is None else ""] = due_at_s

    def _land(self) -> tuple[str, ...]:
        """Take note of what has ended; return what failed."""
        over = {key: each for key, each in self.flying.items() if not each.thread.is_alive()}
        for key, each in over.items():
            del self.flying[key]
            self.owed.pop((key[0], each.owed.key), None)  # read again from the box, if it is still owed
        return tuple(each.trouble for each in over.values() if each.trouble)


def _tried(outlet: Outlet, owed: Open, data: bytes | None) -> tuple[str, TransientError | None]:
    """Deliver, and return what was said, without secrets, and the error if it failed."""
    try:
        if data is None:
            raise Undeliverable("its manifest is not in the repository any more, or too large")
        return cleaned(outlet.deliver(_delivery(owed, data)).said), None
    except TransientError as error:
        return cleaned(str(error)), error
    except Exception as error:  # a bug of ours costs this delivery, not the loop
        return (said := f"{type(error).__name__} in the outlet; please report it"), Undeliverable(said)


def _owed(delivery: Delivery, since: str) -> Open:
    return Open(
        key=delivery.key,
        run_id=delivery.run_id,
        task_id=delivery.task_id,
        attempt=delivery.attempt,
        blob=delivery.blob,
        previous=delivery.previous,
        since=since,
    )


def _delivery(owed: Open, body: bytes) -> Delivery:
    return Delivery(
        key=owed.key,
        run_id=owed.run_id,
        task_id=owed.task_id,
        attempt=owed.attempt,
        blob=owed.blob,
        previous=owed.previous,
        body=body,
    )


def _ended_run(seen: Observation, run_id: RunId, oid: str, document: Mapping[str, Any]) -> Ended:
    """Return a run as its manifest tells it, and the status of the run before it."""
    name, completed_at = str(document["name"]), str(document["completed_at"])
    evidence = seen.actual.evidence
    known = evidence.named(name) if isinstance(evidence, Proven) else (each for each in evidence.values())
    others = [each for each in known if each.name == name and each.run_id != run_id and each.status.ended]
    before = [each for each in others if each.completed_at <= completed_at]
    last = max(before, key=lambda each: (each.completed_at, each.run_id), default=None)
    return Ended(
        run_id=run_id,
        task_id=TaskId(str(document["task_id"])),
        name=name,
        status=str(document["status"]),
        attempt=max(int(each["number"]) for each in document["attempts"]),
        blob=oid,
        document=document,
        previous=last.status.value if last is not None else None,
    )
