"""One POST, once: what the answer means for a delivery. Every outlet that speaks HTTP goes through here."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.confided import cleaned
from reconciler.errors import ForgeFailed, UsageError
from reconciler.http import ORDER_BYTES_MAX, Answer, Call, Http
from reconciler.outlets.outlet import Receipt, Undeliverable, Undelivered
from reconciler.outlets.retry import passes

SILENCE_S = 10.0
ANSWER_S = 20.0


@dataclass(slots=True)
class Poster:
    """A client for one address, shared by the threads that deliver. What is secret in the address is in no message."""

    address: str = field(repr=False)
    _client: Http | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def post(self, path: str, data: bytes, headers: Mapping[str, str]) -> Answer:
        """Post a JSON body below the address and return the answer, whatever it says. Raise Undelivered if there is
        none, Undeliverable if there can be none."""
        if len(data) > ORDER_BYTES_MAX:
            raise Undeliverable(f"it has {len(data)} bytes, and at most {ORDER_BYTES_MAX} are sent")
        try:
            return self._http().once(Call(method="POST", path=path, data=data, headers=headers, repeatable=True))
        except UsageError as error:
            raise Undeliverable(cleaned(str(error))) from None
        except ForgeFailed as error:
            raise Undelivered(cleaned(str(error))) from None

    def judge(self, answer: Answer) -> Receipt:
        """Return the receipt that an answer is. Raise Undelivered or Undeliverable for what is none."""
        said = cleaned(f"answered {answer.status} {answer.said()}")
        if answer.ok:
            return Receipt(said=said)
        if passes(answer.status):
            raise Undelivered(said, after_s=self._http().hint_s(answer))
        raise Undeliverable(said)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def _http(self) -> Http:
        with self._lock:
            if self._client is None:
                client = Http(address=self.address, silence_s=SILENCE_S, answer_s=ANSWER_S)
                client.open()
                self._client = client
            return self._client
