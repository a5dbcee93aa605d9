"""What an outlet is: something that says what it wants of a run whose evidence is committed, and delivers it.

What is wanted follows from evidence, what was delivered from receipts; an outlet keeps nothing itself, so whoever dies
in between repeats one delivery, with the same key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Protocol

from reconciler.errors import TransientError
from reconciler.model import RunId, TaskId
from reconciler.values import frozen


@frozen
class Ended:
    """A run as its committed manifest tells it. `previous` is the status of the run before, of the same name, None if
    there was none. `blob` is the object id of the manifest, `document` what it says."""

    run_id: RunId
    task_id: TaskId
    name: str
    status: str
    attempt: int
    blob: str
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)
    previous: str | None = None


@frozen
class Delivery:
    """One thing to be delivered. `key` names it for good, at this outlet; `body` is the manifest as it is committed."""

    key: str
    run_id: RunId
    task_id: TaskId
    attempt: int
    blob: str
    previous: str | None = None
    body: bytes = field(default=b"", repr=False)


@frozen
class Receipt:
    """That something was delivered: in a few words, what the other side said."""

    said: str


class Undelivered(TransientError):
    """A delivery failed, and the next try may succeed. `after_s` is what the other side asks to wait, None if it does
    not say; `elsewhere` whether what is delivered there next would fail as well."""

    def __init__(self, message: str, *, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class Undeliverable(TransientError):
    """A delivery was refused, and would be again."""


class Outlet(Protocol):
    """A place that deliveries go to. `name` is a name for its files, the same as long as its settings are."""

    @property
    def name(self) -> str: ...

    def wanted(self, run: Ended) -> tuple[Delivery, ...]:
        """Return what is to be delivered of a run. Pure."""
        ...

    def deliver(self, delivery: Delivery) -> Receipt:
        """Deliver, in bounded time, from any thread. Raise Undelivered or Undeliverable."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def delivery_of(run: Ended) -> Delivery:
    """Return the delivery of a run's attempt; that a run waits is another thing than that it ended."""
    suffix = ".waiting" if run.status == "waiting" else ""
    return Delivery(
        key=f"{run.run_id}.{run.attempt}{suffix}",
        run_id=run.run_id,
        task_id=run.task_id,
        attempt=run.attempt,
        blob=run.blob,
        previous=run.previous,
    )
