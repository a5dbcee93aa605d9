"""From settings to outlets: what there is to deliver to."""

from __future__ import annotations

from reconciler import codec
from reconciler.credentials.broker import Broker
from reconciler.outgoing import Notification, Outgoing
from reconciler.outlets.cloud_sync import CloudSyncOutlet
from reconciler.outlets.outlet import Outlet


def open_outlets(said: Outgoing, broker: Broker) -> tuple[Outlet, ...]:
    """Return the outlets that settings ask for."""
    uploads = [CloudSyncOutlet(said.cloud_sync, broker)] if said.cloud_sync is not None else []
    return tuple(uploads)


def name_of(kind: str, rule: Notification) -> str:
    """Return the name of a rule's outlet: one that is changed is another one, and begins with what comes then."""
    return f"{kind}-{codec.digest(rule)[:8]}"
