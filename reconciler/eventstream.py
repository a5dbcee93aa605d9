"""The events of a run over HTTP, as they happen: server-sent events, which every browser and many clients can follow.

A client that was cut off comes again with the id of the last event it got (`Last-Event-ID`) and hears the rest; one
that has heard the end is told that there is nothing more. Streams are bounded in number and time; who reads the
repository for them is the reading thread of the server, one look at a time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.responses import Response, StreamingResponse

from reconciler.errors import ReconcilerError
from reconciler.events import Event, document
from reconciler.feed import Feed

STREAMS_MAX = 32
"""So many are open at once; who comes then is told to come again."""
LOOK_S = 0.5
STREAM_S = 900.0
"""So long a stream lasts at most; a client that wants more comes again, as after any other interruption."""
ALIVE_S = 15.0
"""So often something is sent though nothing happens: what stands between must not take the silence for the end."""
AGAIN_MS = 2000
ID_CHARACTERS_MAX = 500
KIND = "text/event-stream; charset=utf-8"


class Source(Protocol):
    """Who knows the events of a run."""

    def news(self, task_id: str, run_id: str, feed: Feed) -> tuple[Event, ...]:
        """Return what is new for one who listens. Raise LookupError if there is no such run."""
        ...


Ask = Callable[[Callable[[], tuple[Event, ...]]], Awaitable[tuple[Event, ...]]]


@dataclass(slots=True)
class Streams:
    """All streams of one server. `ask` has the reading thread answer."""

    source: Source
    ask: Ask
    headers: Mapping[str, str] = field(default_factory=dict)
    open: int = 0

    async def answer(self, task_id: str, run_id: str, after: str) -> Response:
        """Return the stream of a run behind the event of an id, "" for all of it."""
        if self.open >= STREAMS_MAX:
            return self._plain(503, "503: too many streams at once; come again\n", {"Retry-After": "10"})
        feed = Feed(after=after[:ID_CHARACTERS_MAX])
        try:
            first = await self._news(task_id, run_id, feed)
        except LookupError:
            return self._plain(404, f"404: there is no run {run_id} of task {task_id}\n")
        except (ReconcilerError, OSError) as error:
            return self._plain(503, f"503: the events cannot be read now ({type(error).__name__})\n")
        if feed.over and not first and after:
            return Response(status_code=204, headers=dict(self.headers))  # who gets this does not come again
        return StreamingResponse(self._frames(task_id, run_id, feed, first), headers=self._streaming, media_type=KIND)

    @property
    def _streaming(self) -> dict[str, str]:
        return {**self.headers, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}

    async def _frames(self, task_id: str, run_id: str, feed: Feed, first: Sequence[Event]) -> AsyncIterator[bytes]:
        """Yield the stream until the run has ended and all is told, or its time is over."""
        deadline_s, said_s, found = time.monotonic() + STREAM_S, time.monotonic(), first
        self.open += 1
        try:
            yield f"retry: {AGAIN_MS}\n\n".encode()
            while True:
                if found:
                    said_s = time.monotonic()
                    yield b"".join(map(frame, found))
                elif time.monotonic() - said_s >= ALIVE_S:
                    said_s = time.monotonic()
                    yield b": nothing new\n\n"
                if feed.over or time.monotonic() >= deadline_s:
                    return
                await asyncio.sleep(LOOK_S)
                found = await self._news(task_id, run_id, feed)
        except (LookupError, ReconcilerError, OSError):
            return  # the client comes again, and is told what is wrong
        finally:
            self.open -= 1

    async def _news(self, task_id: str, run_id: str, feed: Feed) -> tuple[Event, ...]:
        return await self.ask(lambda: self.source.news(task_id, run_id, feed))

    def _plain(self, status: int, text: str, more: Mapping[str, str] | None = None) -> Response:
        headers = {**self.headers, **(more or {})}
        return Response(text, status_code=status, headers=headers, media_type="text/plain; charset=utf-8")


def frame(event: Event) -> bytes:
    """Return an event as the stream has it; the data are what a journal holds of it."""
    said: dict[str, Any] = document(event)
    data = json.dumps(said, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return f"id: {event.id}\nevent: {event.name.value}\ndata: {data}\n\n".encode("utf-8", "replace")
