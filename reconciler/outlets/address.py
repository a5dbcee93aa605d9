"""The address of a webhook, which may be a secret itself: then it comes from a credential and is in no message."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.credentials.broker import Broker
from reconciler.outlets.outlet import Receipt, Undeliverable
from reconciler.outlets.post import Poster

SAFE = re.compile(r"https://\S+|http://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/\S*)?")


@dataclass(slots=True)
class Address:
    """An address as settings say it, or the credential that holds it."""

    url: str = field(repr=False)
    credential: str
    broker: Broker
    _posters: dict[str, Poster] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def post(self, data: bytes, headers: Mapping[str, str]) -> Receipt:
        """Post a body and return the receipt. Raise as `Outlet.deliver` does."""
        poster, path = self._poster()
        return poster.judge(poster.post(path, data, headers))

    def close(self) -> None:
        with self._lock:
            for each in self._posters.values():
                each.close()
            self._posters.clear()

    def _poster(self) -> tuple[Poster, str]:
        """Return the client for the whole address, so that messages name its host and nothing behind it."""
        url = self.url or self.broker.get(self.credential).value
        if not SAFE.fullmatch(url):
            raise Undeliverable(f"credential '{self.credential}': it is no https:// address (http:// on this machine)")
        bare = url.rstrip("/")
        with self._lock:
            if bare not in self._posters:
                for each in self._posters.values():
                    each.close()
                self._posters = {bare: Poster(bare)}
            return self._posters[bare], url[len(bare) :]
