"""The outlet that uploads manifests of ended runs: one POST each, which the other side can tell from a repeat."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from reconciler.credentials.broker import Broker
from reconciler.http import Answer
from reconciler.model import Status
from reconciler.outgoing import CloudSync
from reconciler.outlets.outlet import Delivery, Ended, Receipt, Undelivered, delivery_of
from reconciler.outlets.post import Poster

NAME = "cloud-sync"
UNAUTHORIZED = 401


@dataclass(slots=True)
class CloudSyncOutlet:
    """`POST <base_url>/workspaces/<workspace>/runs` with the manifest as it is committed."""

    said: CloudSync
    broker: Broker
    poster: Poster = field(init=False)
    name: str = NAME

    def __post_init__(self) -> None:
        self.poster = Poster(self.said.base_url.rstrip("/"))

    def wanted(self, run: Ended) -> tuple[Delivery, ...]:
        ended = Status(run.status).ended
        mine = any(fnmatchcase(run.task_id, each) for each in self.said.tasks)
        return (replace(delivery_of(run), previous=None),) if ended and mine else ()

    def deliver(self, delivery: Delivery) -> Receipt:
        """Upload a manifest. A token that is not accepted is asked for anew, once."""
        token = self._token()
        answer = self._post(delivery, token)
        if answer.status == UNAUTHORIZED and token:
            self.broker.forget(self.said.credential)
            fresh = self._token()
            answer = self._post(delivery, fresh) if fresh != token else answer
        return self.poster.judge(answer)

    def close(self) -> None:
        self.poster.close()

    def _token(self) -> str:
        """Return what authorises the upload. Raise NoCredential, after which it is tried again."""
        return self.broker.get(self.said.credential).value if self.said.credential else ""

    def _post(self, delivery: Delivery, token: str) -> Answer:
        headers = {"Idempotency-Key": f"{delivery.task_id}/{delivery.run_id}/{delivery.attempt}"}
        if token:
            headers["Authorization"] = f"Bearer {_latin(token)}"
        return self.poster.post(f"/workspaces/{self.said.workspace}/runs", delivery.body, headers)


def _latin(token: str) -> str:
    """Return a token that a header can hold. Raise Undelivered for one that it cannot."""
    if not token.isascii():
        raise Undelivered("the credential holds characters that no header can")
    return token
