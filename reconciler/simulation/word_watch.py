"""What must hold of the words of couriers: they bring all that their attempt left, and nobody is given up too soon."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler import codec
from reconciler.executors.ordering import ORDER
from reconciler.model import Attempt
from reconciler.rundir import RunDirectory
from reconciler.simulation.host import Host
from reconciler.simulation.repository import Store
from reconciler.simulation.scheduler import Violation
from reconciler.work import RUN, Word, WorkOrder

IMPATIENT_BEATS = 2
"""Who has said nothing for three beats counts as gone: clocks go at their own pace, so it is certain from here on."""

Number = tuple[str, int]


@dataclass(slots=True)
class Spoken:
    """From which node a word was last heard of an attempt, when, and for how long at most there was none before."""

    node: str
    at_s: float
    silent_s: float


@dataclass(slots=True)
class WordWatch:
    """Remembers what attempts have said and what they left on their nodes."""

    store: Store
    orders: dict[Number, str] = field(default_factory=dict)
    """The order that an attempt was submitted with."""
    spoken: dict[Number, Spoken] = field(default_factory=dict)
    over: set[Number] = field(default_factory=set)
    """The attempts of which a last word was accepted."""
    ends: dict[tuple[Number, str], Attempt] = field(default_factory=dict)
    """How a worker said that it ended, by attempt and node."""

    def ended(self, node: Host, run: RunDirectory, number: int) -> None:
        """A worker has written down how its attempt ended."""
        path = run.record("attempts", number)
        if node.disk.node(str(path)) is not None:
            record = codec.parse(Attempt, node.disk.file(str(path)).data)
            self.ends[(run.path.name, number), node.name] = record

    def heard(self, about: Number, oid: str, node: Host, now_s: float) -> None:
        """A word of an attempt was accepted, said on a node."""
        order = self.store.commits[oid].parents[0]
        if self.orders.get(about) != order:
            raise Violation(f"attempt {about[1]} of {about[0]} works on an order that it was not submitted with")
        self._check_patience(about, order, node, now_s)
        known = self.spoken.get(about, Spoken(node.name, 0.0, 0.0))
        self.spoken[about] = Spoken(node.name, now_s, max(known.silent_s, now_s - known.at_s))
        if codec.parse(Word, self.store.commits[oid].message.encode()).ended:
            self.over.add(about)
            self._check_last(about, oid, node)

    def _check_patience(self, about: Number, order: str, node: Host, now_s: float) -> None:
        """Who comes second hands an attempt back only when whoever began it was silent for long."""
        known = self.spoken.get(about)
        beat_s = codec.parse(WorkOrder, self.store.read(order, ORDER) or b"").beat_s
        if known is not None and known.node != node.name and now_s - known.at_s < IMPATIENT_BEATS * beat_s:
            silent = f"{now_s - known.at_s:.1f} s after a word of {known.node}"
            raise Violation(f"{node.name} takes attempt {about[1]} of {about[0]} for left alone {silent}")

    def _check_last(self, about: Number, oid: str, node: Host) -> None:
        """A last word says how the worker ended, if that said so itself, and brings its logs."""
        own = self.ends.get((about, node.name))
        if own is None:
            return
        where = f"the last word of attempt {about[1]} of {about[0]}"
        said = codec.parse(Attempt, self._read(oid, f"attempts/{about[1]}.json") or b"")
        if (said.outcome, said.ended_at) != (own.outcome, own.ended_at):
            raise Violation(f"{where} says {said.outcome}, and its worker had said {own.outcome}")
        for each in own.stages:
            wanted = each.attempt == about[1] and each.log_path is not None and each.log_bytes
            if wanted and not self._read(oid, each.log_path or ""):
                raise Violation(f"{where} does not bring the log of stage '{each.id}'")

    def fenced(self, about: Number, node: Host, there: str | None) -> None:
        """A courier has heard that its attempt was taken from it: then its ref is not at a word of its own."""
        known = self.spoken.get(about)
        if there is not None and known is not None and known.node == node.name and self._is_of(there, node):
            raise Violation(f"attempt {about[1]} of {about[0]} is fenced, and its ref is where its own words left it")

    def _is_of(self, oid: str, node: Host) -> bool:
        card = self._read(oid, "courier.json")
        return card is not None and json.loads(card)["incarnation"] == node.name

    def _read(self, oid: str, name: str) -> bytes | None:
        return self.store.read(oid, f"{RUN}{name}")

    def says(self, about: Number, known: Attempt | None, files: Mapping[str, bytes]) -> None:
        """A courier is about to say a word with files; its attempt had this record when it began to look for them."""
        if known is not None and f"attempts/{about[1]}.json" not in files:
            raise Violation(f"a word of attempt {about[1]} of {about[0]} comes without its record")
