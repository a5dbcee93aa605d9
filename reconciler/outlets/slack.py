"""The outlet that posts to an incoming webhook of Slack, or of what speaks like it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from reconciler.credentials.broker import Broker
from reconciler.outgoing import Notification, Slack
from reconciler.outlets.address import Address
from reconciler.outlets.message import is_wanted, message
from reconciler.outlets.outlet import Delivery, Ended, Receipt, delivery_of


@dataclass(slots=True)
class SlackOutlet:
    """One rule whose notifications go to a channel. What people wrote mentions nobody there and links nowhere."""

    name: str
    rule: Notification
    said: Slack
    broker: Broker
    address: Address = field(init=False)

    def __post_init__(self) -> None:
        self.address = Address(self.said.url, self.said.url_credential, self.broker)

    def wanted(self, run: Ended) -> tuple[Delivery, ...]:
        return (delivery_of(run),) if is_wanted(run, self.rule.when) else ()

    def deliver(self, delivery: Delivery) -> Receipt:
        text = escaped(message(self.rule, delivery).text)
        return self.address.post(json.dumps({"text": text}).encode(), {})

    def close(self) -> None:
        self.address.close()


def escaped(text: str) -> str:
    """Return text in which nothing is a mention, a command or a link: Slack asks for these three to be spelled so."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
