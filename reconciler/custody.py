"""The credentials of one process: one broker for all who ask, and everybody told who must not say what it hands out.

Before the broker hands out a secret for the first time, it is known to this process, to the workers that this one will
start, and to those that execute runs here by then: whoever started them. None of it goes through a file.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler import ear
from reconciler.confided import confided, secrets, withhold
from reconciler.credentials.broker import Broker, source_of
from reconciler.credentials.secret import NoCredential
from reconciler.model import Process, Settings
from reconciler.observe import Observation
from reconciler.outlet_settings import outgoing
from reconciler.world import World

RECALL_S = 5.0
"""So long the first evidence of a process waits for the secrets that earlier processes may have handed out."""


@dataclass(slots=True)
class Custody:
    """What one process was entrusted with. `here` are the workers that execute runs here, with what each was told."""

    world: World
    broker: Broker = field(default_factory=lambda: Broker({}))
    said: Mapping[str, Any] | None = None
    here: dict[Process, set[str]] = field(default_factory=dict)
    recalled: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def settle(self, seen: Observation) -> None:
        """Follow the settings and what runs: the first thing in a pass."""
        self.follow(seen.settings)
        runs = (run for run in seen.actual.runs.values() if run.attempt is not None and run.attempt.outcome is None)
        self.meet([run.attempt.worker for run in runs if run.attempt is not None and run.worker_alive])

    def follow(self, settings: Settings) -> Broker:
        """Return the broker for what settings say, the same one as long as they say the same."""
        if self.said != settings.credentials:
            self.said = settings.credentials
            sources = {name: source_of(each) for name, each in outgoing(settings).credentials.items()}
            self.broker = Broker(sources, heard=self.tell)
            self.world.workers.withhold(settings.withheld)
            withhold(settings.withheld)
        return self.broker

    def meet(self, workers: Iterable[Process], *, more: bool = False) -> None:
        """Note which workers are here, or which `more`, and tell them what they do not know."""
        with self._lock:
            kept = dict(self.here) if more else {}
            self.here = kept | {each: self.here.get(each, set()) for each in workers}
        self.tell()

    def tell(self) -> None:
        """Tell everybody here what they were not told. Any thread may, and one that just learned of a secret does."""
        self.world.workers.hide(confided())
        with self._lock:
            for worker, told in self.here.items():
                told.update(each for each in secrets() if each not in told and ear.tell(worker, each))

    def recall(self) -> None:
        """Ask for every secret once, before the first evidence of this process is made: an earlier process may have
        handed it out, and a log of then may hold it. A source that does not answer holds up nobody for long."""
        if self.recalled:
            return
        self.recalled = True
        asking = threading.Thread(target=self._ask_all, args=(self.broker,), daemon=True)
        asking.start()
        asking.join(RECALL_S)

    @staticmethod
    def _ask_all(broker: Broker) -> None:
        for name in broker.sources:
            try:
                broker.get(name)
            except NoCredential:
                continue  # what cannot be had now cannot be searched for; whoever needs it says so
