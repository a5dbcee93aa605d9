"""From settings to outlets: what there is to deliver to."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler import codec
from reconciler.credentials.broker import Broker
from reconciler.outgoing import Notification, Outgoing
from reconciler.outlets.cloud_sync import CloudSyncOutlet
from reconciler.outlets.outlet import Outlet


def open_outlets(said: Outgoing, broker: Broker) -> tuple[Outlet, ...]:
    """Return the outlets that settings ask for, a rule that stands there twice once."""
    found: dict[str, Outlet] = {}
    if said.cloud_sync is not None:
        upload = CloudSyncOutlet(said.cloud_sync, broker)
        found[upload.name] = upload
    for rule in said.notifications:
        for outlet in _of_rule(rule, broker):
            found[outlet.name] = outlet
    return tuple(found.values())


def _of_rule(rule: Notification, broker: Broker) -> Iterator[Outlet]:
    """Yield the outlet of a rule; what it needs is loaded only now."""
    to, digest = rule.to, codec.digest(rule)[:8]
    if to.webhook is not None:
        from reconciler.outlets.webhook import WebhookOutlet

        yield WebhookOutlet(f"webhook-{digest}", rule, to.webhook, broker)
    if to.slack is not None:
        from reconciler.outlets.slack import SlackOutlet

        yield SlackOutlet(f"slack-{digest}", rule, to.slack, broker)
    if to.email is not None:
        from reconciler.outlets.mail import MailOutlet

        yield MailOutlet(f"email-{digest}", rule, to.email, broker)
    if to.desktop is not None:
        from reconciler.outlets.desktop import DesktopOutlet

        yield DesktopOutlet(f"desktop-{digest}", rule, to.desktop)
