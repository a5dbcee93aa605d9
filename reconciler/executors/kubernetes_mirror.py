"""What the API server holds of one kind, kept up to date: listed, then listened to.

The first look lists. From the second look on, which only a process that stays has, a thread listens to changes from the
version of the list on, and looks cost nothing. It ends with the first thing that is not as it should be (a version that
is too old, silence, an answer that cannot be read), and the next look lists again; so it does every `resync_s` anyway.
What is kept is a value of a few words an object, never the object.
"""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from reconciler.errors import ForgeFailed, TransientError
from reconciler.executors.kubernetes_api import Api, mapping
from reconciler.executors.kubernetes_words import Change, version_of
from reconciler.http import Call, Http, NotListed

WATCH_S = 300
"""After how long the server is asked to end a watch, so that another one begins."""
LINE_BYTES_MAX = 4 * 1024 * 1024
SILENCE_S = 90.0
"""A server says about every minute that nothing has changed."""
GONE_MAX = 1000
LASTS_S = 0.5
"""A watch that ends sooner than this is none."""


class Named(Protocol):
    """A value that has the name of its object."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Mirror(Generic[T]):
    """All objects of a kind that a selector names. `read` makes a value of a document, None of what is of no use.
    `gone` are the last words of those that were deleted while this listened."""

    def __init__(self, api: Api, kind: str, read: Callable[[object], T | None], resync_s: float) -> None:
        self.api, self.kind, self.read, self.resync_s = api, kind, read, resync_s
        self.monotonic: Callable[[], float] = api.monotonic
        self.selector = ""
        self.objects: dict[str, T] = {}
        self.lists = 0
        self.fresh = False
        self.gone: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()
        self._listening: object | None = None
        self._listed_at_s = 0.0
        self._version = ""
        self._clock_s: float | None = None

    def look(self, selector: str) -> tuple[T, ...]:
        """Return what is there now; `fresh` says whether it was listed for this. Raise EngineSilent if nobody tells."""
        if selector != self.selector:
            self.selector, self.lists, self._listening = selector, 0, None
        stale = self.monotonic() - self._listed_at_s > self.resync_s
        self.fresh = self._listening is None or stale
        if self.fresh:
            self._list()
            if self.lists > 1:
                self._listen()
        with self._lock:
            return tuple(self.objects.values())

    def keep(self, document: object) -> T | None:
        """Take an object that was answered to somebody who asked for it alone, and return its value."""
        found = self.read(document)
        if found is not None:
            with self._lock:
                self.objects[found.name] = found
        return found

    def last_words(self) -> tuple[T, ...]:
        """Return what was said last of objects that are deleted."""
        with self._lock:
            return tuple(self.gone.values())

    def forget(self) -> None:
        """Have the next look list."""
        with self._lock:
            self._listening = None

    def now_s(self) -> float:
        """Return the time of the server, in seconds since 1970, as far as it told; our own where it did not."""
        return time.time() if self._clock_s is None else self._clock_s + self.monotonic()

    # -------------------------------------------------------------------------------------------- listing

    def _list(self) -> None:
        self._listening = None
        at_s = self.monotonic()
        listed = self.api.listed(self.kind, self.selector)
        found = {each.name: each for each in map(self.read, listed.items) if each is not None}
        with self._lock:
            self.objects = found
        self._version, self._listed_at_s, self.lists = listed.version, at_s, self.lists + 1
        if listed.now_s is not None:
            self._clock_s = listed.now_s - self.monotonic()

    # -------------------------------------------------------------------------------------------- listening

    def _listen(self) -> None:
        """Start the thread that listens; it holds no reference that would keep this alive."""
        token = self._listening = object()
        http = self.api.access.client(silence_s=SILENCE_S)
        arguments = (weakref.ref(self), token, http, self.api.path(self.kind), self.selector)
        threading.Thread(target=_hear, args=arguments, name=f"watch-{self.kind}", daemon=True).start()

    def version(self, token: object) -> str:
        """Return the version to listen from, "" if this thread is not the one that listens any more."""
        with self._lock:
            return self._version if self._listening is token else ""

    def take(self, token: object, line: bytes) -> bool:
        """Take one line of a watch; return whether to go on."""
        said: dict[str, Any] = mapping(json.loads(line))
        document, change = said.get("object"), said.get("type")
        version = version_of(document)
        with self._lock:
            if self._listening is not token or change not in set(Change) - {Change.ERROR} or not version:
                return False
            self._version = version
            found = self.read(document) if change != Change.BOOKMARK else None
            if found is not None and change == Change.DELETED:
                self.objects.pop(found.name, None)
                self.gone[found.name] = found
                self.gone.popitem(last=False) if len(self.gone) > GONE_MAX else None
            elif found is not None:
                self.objects[found.name] = found
            return True

    def stop(self, token: object) -> None:
        """Have the next look list again."""
        with self._lock:
            if self._listening is token:
                self._listening = None


def _hear(mirror: weakref.ref[Mirror[Any]], token: object, http: Http, path: str, selector: str) -> None:
    """Listen until something is not as it should be."""
    try:
        while _watch(mirror, token, http, path, selector):
            pass
    except (NotListed, ForgeFailed, TransientError, ValueError, RecursionError):
        pass
    finally:
        http.close()
        if (found := mirror()) is not None:
            found.stop(token)


def _watch(mirror: weakref.ref[Mirror[Any]], token: object, http: Http, path: str, selector: str) -> bool:
    """Listen to one watch until the server ends it; return whether to begin another."""
    begun_s, found = time.monotonic(), mirror()
    version = found.version(token) if found is not None else ""
    del found
    if not version:
        return False
    query: dict[str, str | int] = {"labelSelector": selector, "watch": 1, "resourceVersion": version}
    query |= {"allowWatchBookmarks": "true", "timeoutSeconds": WATCH_S}
    for line in http.lines(Call(method="GET", path=path, query=query), line_bytes_max=LINE_BYTES_MAX):
        found = mirror()
        if found is None or (line and not found.take(token, line)):
            return False
        del found
    return time.monotonic() - begun_s > LASTS_S
