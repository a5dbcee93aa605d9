"""The outlet that posts a JSON object to an address, signed if a secret is named.

`X-Reconciler-Signature: t=<seconds since 1970>,v1=<hex>`, where v1 is the HMAC-SHA256 of `<t>.<body>`: who checks it
and how old `t` is knows that the body is ours and is not sent again by somebody else.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from reconciler.credentials.broker import Broker
from reconciler.outgoing import Notification, Webhook
from reconciler.outlets.address import Address
from reconciler.outlets.message import is_wanted, message
from reconciler.outlets.outlet import Delivery, Ended, Receipt, delivery_of

SIGNATURE = "X-Reconciler-Signature"
SCHEMA_VERSION = 1


@dataclass(slots=True)
class WebhookOutlet:
    """One rule whose notifications go to a webhook."""

    name: str
    rule: Notification
    said: Webhook
    broker: Broker
    epoch_s: Callable[[], float] = time.time
    address: Address = field(init=False)

    def __post_init__(self) -> None:
        self.address = Address(self.said.url, self.said.url_credential, self.broker)

    def wanted(self, run: Ended) -> tuple[Delivery, ...]:
        return (delivery_of(run),) if is_wanted(run, self.rule.when) else ()

    def deliver(self, delivery: Delivery) -> Receipt:
        said = message(self.rule, delivery)
        body = {"schema_version": SCHEMA_VERSION, "id": delivery.key, "text": said.text, "run": said.fields}
        data = json.dumps(body).encode()
        return self.address.post(data, {"Idempotency-Key": f"{self.name}/{delivery.key}", **self._signed(data)})

    def close(self) -> None:
        self.address.close()

    def _signed(self, data: bytes) -> dict[str, str]:
        """Return the header that signs a body, none without a secret."""
        if not self.said.secret:
            return {}
        secret = self.broker.get(self.said.secret).value.encode()
        return {SIGNATURE: signature(secret, data, int(self.epoch_s()))}


def signature(secret: bytes, data: bytes, at_s: int) -> str:
    """Return the signature of a body that is sent at an instant, in seconds since 1970."""
    made = hmac.new(secret, f"{at_s}.".encode() + data, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={made}"
