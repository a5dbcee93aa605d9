"""The one edge to HTTP: a client for one server, bounded in size, time and tries.

It takes nothing from the environment (no proxy, no `.netrc`), follows no redirect to another server, asks again where
the server says when or the failure is one that passes, and never puts what authorises it into a message.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode, urljoin, urlsplit

from reconciler.errors import ForgeFailed, ForgeUnclear, UsageError
from reconciler.values import frozen

if TYPE_CHECKING:
    import ssl

    import httpx

ANSWER_BYTES_MAX = 8 * 1024 * 1024
ORDER_BYTES_MAX = 1024 * 1024
CONNECT_S = 10.0
SILENCE_S = 20.0
ANSWER_S = 60.0
"""How long one answer may take altogether, however slowly it drips."""
TRIES_MAX = 5
PATIENCE_S = 90.0
"""How long is waited for a server altogether between the tries of one request."""
REDIRECTS_MAX = 3
PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 30.0

TRANSIENT = frozenset({429, 500, 502, 503, 504})
NOT_APPLIED = frozenset({403, 429, 503})
"""After these a server has done nothing, so that any request may be repeated."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


@frozen
class Call:
    """A request: the path below the client's address, what is asked, and a body of plain JSON values.

    `repeatable` says that doing it twice is doing it once; a GET always is. `data` is a body as it is, instead of one
    of values; `headers` go along with those that authorise the client.
    """

    method: Method
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    repeatable: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    data: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@frozen
class Answer:
    """What a server said: the status, the headers by lower-case name, and the body."""

    call: Call
    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Return the body as JSON values. Raise ForgeFailed if it is none."""
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError):
            raise ForgeFailed(f"{self.call}: the answer is not JSON") from None

    def said(self) -> str:
        """Return the words of a refusal, on one line and bounded, "" if it has none."""
        try:
            return _words(json.loads(self.data))
        except (ValueError, RecursionError):
            return ""


def _words(value: object) -> str:
    """Return what a document of an error tells people: `message` or `error`, and the first of its details."""
    if isinstance(value, list) and value:
        return _words(value[0])
    if isinstance(value, str):
        return _line(value)
    if not isinstance(value, dict):
        return ""
    first = _words(next((value[each] for each in ("message", "error", "error_description") if value.get(each)), ""))
    more = _words(value.get("errors")) if value.get("errors") else ""
    # GitLab tells of each field: {"message": {"base": ["..."]}}
    fields = "" if first or more else next(filter(None, map(_words, value.values())), "")
    return ": ".join(filter(None, (first, more, fields)))


def _line(text: str, characters_max: int = 300) -> str:
    words = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return words if len(words) <= characters_max else f"{words[: characters_max - 3]}..."


@dataclass(slots=True, kw_only=True)
class Http:
    """A client for one server. `address` is where paths begin, `authority` the headers that authorise it, `trusted`
    whom it takes for the server (None: whom the machine trusts).

    Clocks and pauses are fields, so that a test need not wait: `sleep` and `monotonic` in seconds, `epoch_s` since
    1970.
    """

    address: str
    authority: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxy: str = field(default="", repr=False)
    patience_s: float = PATIENCE_S
    answer_s: float = ANSWER_S
    silence_s: float = SILENCE_S
    bytes_max: int = ANSWER_BYTES_MAX
    order_bytes_max: int = ORDER_BYTES_MAX
    trusted: ssl.SSLContext | None = field(default=None, repr=False)
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    epoch_s: Callable[[], float] = time.time
    _client: httpx.Client | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.address = self.address.rstrip("/")
        _origin(self.address)

    def open(self) -> None:
        """Make the client now, so that several threads can share it."""
        self._connected()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None

    def ask(self, call: Call) -> Answer:
        """Do a request and return its answer, whatever that says; ask again while it passes. Raise ForgeFailed if there
        is no answer in the end, ForgeUnclear if that leaves open whether the request was applied."""
        deadline_s = self.monotonic() + self.patience_s
        for number in range(1, TRIES_MAX + 1):
            answer, error = self._try(call)
            if answer is not None and not self._passes(answer):
                return answer
            may = self._may_repeat(call, answer, error)
            pause_s = self._pause_s(answer, number)
            if not may or number == TRIES_MAX or self.monotonic() + pause_s > deadline_s:
                break
            self.sleep(pause_s)
        return self._give_up(call, answer, error, may, pause_s)

    def once(self, call: Call) -> Answer:
        """Do a request once and return its answer, whatever that says. Raise ForgeFailed if there is none."""
        answer, error = self._try(call)
        if answer is None:
            raise error or ForgeFailed(f"{call}: no answer")
        return answer

    def lines(self, call: Call, *, line_bytes_max: int = ORDER_BYTES_MAX) -> Iterator[bytes]:
        """Yield the lines of an answer as they come, for as long as they come; an empty one where the server only
        began. Raise NotListed for a refusal, ForgeFailed if there is no answer or it is silent for longer than
        `silence_s`."""
        import httpx

        url = f"{self.address}{call.path}" + (f"?{urlencode(call.query)}" if call.query else "")
        headers = {**self.authority, **call.headers, "Accept-Encoding": "identity", "User-Agent": "gitops-reconciler"}
        try:
            with self._connected().stream(call.method, url, headers=headers) as response:
                if response.status_code != 200:
                    body = self._bounded(call, response.iter_raw(), self.monotonic() + self.answer_s)
                    raise NotListed(Answer(call=call, status=response.status_code, headers={}, data=body))
                yield b""
                yield from self._split(call, response.iter_raw(), line_bytes_max)
        except httpx.HTTPError as error:
            raise ForgeFailed(f"{call}: {self.host} gave no answer: {_reason(error)}") from None

    def _split(self, call: Call, chunks: Iterable[bytes], line_bytes_max: int) -> Iterator[bytes]:
        """Yield complete lines; what comes after the last line feed is no line."""
        rest = b""
        for each in chunks:
            *lines, rest = (rest + each).split(b"\n")
            if max(map(len, (*lines, rest))) > line_bytes_max:
                raise ForgeFailed(f"{call}: a line of {self.host} is larger than {line_bytes_max} bytes")
            yield from lines

    def hint_s(self, answer: Answer) -> float | None:
        """Return the seconds that a server asks to wait before the next request, None if it does not say."""
        return self._hint_s(answer.headers)

    def pages(self, call: Call, *, size: int, pages_max: int, size_key: str = "per_page") -> Iterator[Any]:
        """Yield the values of a list that comes in pages. Raise ForgeFailed for what is no list."""
        for number in range(1, pages_max + 1):
            query = {**call.query, size_key: size, "page": number}
            answer = self.ask(Call(method="GET", path=call.path, query=query))
            if not answer.ok:
                raise NotListed(answer)
            found = answer.json()
            if not isinstance(found, list):
                raise ForgeFailed(f"{call}: the answer is no list")
            yield from found
            if len(found) < size:
                return

    # -------------------------------------------------------------------------------------------- again

    def _passes(self, answer: Answer) -> bool:
        """Return whether an answer says that another one may come later."""
        return answer.status in TRANSIENT or (answer.status == 403 and self._is_limit(answer))

    def _is_limit(self, answer: Answer) -> bool:
        """Return whether a 403 is about a rate and not about a permission."""
        if "retry-after" in answer.headers or answer.headers.get("x-ratelimit-remaining") == "0":
            return True
        return "rate limit" in answer.said().lower()

    def _may_repeat(self, call: Call, answer: Answer | None, error: ForgeFailed | None) -> bool:
        if call.method == "GET" or call.repeatable:
            return True
        if answer is not None:
            return answer.status in NOT_APPLIED
        return not isinstance(error, ForgeUnclear)

    def _pause_s(self, answer: Answer | None, number: int) -> float:
        """Return how long to wait before the next try: as the server says, else twice as long as before."""
        said = self._hint_s(answer.headers) if answer is not None else None
        doubled = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** (number - 1))
        if said is None and answer is not None and answer.status in (403, 429):
            return max(doubled, 5.0)
        return doubled if said is None else said

    def _hint_s(self, headers: Mapping[str, str]) -> float | None:
        """Return the seconds a server asks to wait, None if it does not say."""
        after = headers.get("retry-after", "")
        if after:
            return self._after_s(after)
        if headers.get("x-ratelimit-remaining", headers.get("ratelimit-remaining", "0")) != "0":
            return None
        for name in ("x-ratelimit-reset", "ratelimit-reset"):
            number = headers.get(name, "")
            if number.isascii() and number.isdigit() and len(number) <= 12:
                # An instant, as forges send it; a small number is a span, as the draft of a standard has it.
                at_s = float(number)
                return max(0.0, at_s - self.epoch_s() + 1.0) if at_s > 10**8 else at_s
        return None

    def _after_s(self, text: str) -> float | None:
        if text.isascii() and text.isdigit() and len(text) <= 9:
            return float(text)
        from email.utils import parsedate_to_datetime

        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - self.epoch_s())
        except (ValueError, TypeError, OverflowError):
            return None

    def _give_up(
        self, call: Call, answer: Answer | None, error: ForgeFailed | None, may: bool, pause_s: float
    ) -> Answer:
        if answer is None:
            raise error or ForgeFailed(f"{call}: no answer")
        if not may:
            raise ForgeUnclear(f"{call}: {self.host} answered {answer.status}")
        if answer.status in (403, 429):
            wait = f"; it asks to come again in {pause_s:.0f} s" if pause_s > 1 else ""
            raise ForgeFailed(f"{call}: {self.host} lets us ask no more for now{wait}")
        raise ForgeFailed(f"{call}: {self.host} answered {answer.status} {TRIES_MAX} times; try again later")

    # -------------------------------------------------------------------------------------------- once

    @property
    def host(self) -> str:
        return urlsplit(self.address).netloc.rpartition("@")[2]

    def _try(self, call: Call) -> tuple[Answer | None, ForgeFailed | None]:
        """Return the answer to a request, or why there is none. What cannot get better is raised."""
        import httpx

        try:
            return self._once(call), None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            return None, ForgeFailed(f"{call}: {self.host} cannot be reached: {_reason(error)}")
        except httpx.HTTPError as error:
            return None, ForgeUnclear(f"{call}: {self.host} gave no answer: {_reason(error)}")
        except httpx.InvalidURL:
            raise ForgeFailed(f"{call}: {self.host} redirects to what is no address") from None

    def _once(self, call: Call) -> Answer:
        data = call.data if call.body is None else json.dumps(call.body).encode()
        if data is not None and len(data) > self.order_bytes_max:
            raise ForgeFailed(f"{call}: larger than {self.order_bytes_max} bytes")
        url = f"{self.address}{call.path}" + (f"?{urlencode(call.query)}" if call.query else "")
        for _ in range(REDIRECTS_MAX + 1):
            answer = self._exchange(call, url, data)
            if answer.status not in REDIRECTS:
                return answer
            url = self._next(call, url, answer)
        raise ForgeFailed(f"{call}: {self.host} redirects in a circle")

    def _next(self, call: Call, url: str, answer: Answer) -> str:
        """Return where a redirect leads. Raise ForgeFailed if that is another server, or a change would be repeated."""
        there = answer.headers.get("location", "")
        if not there or not _same_server(url, there):
            raise ForgeFailed(f"{call}: {self.host} redirects elsewhere; name the address that answers itself")
        if call.method != "GET" and answer.status not in (307, 308):
            raise ForgeFailed(f"{call}: {self.host} redirects; the repository may have been moved or renamed")
        return urljoin(url, there)

    def _exchange(self, call: Call, url: str, data: bytes | None) -> Answer:
        deadline_s = self.monotonic() + self.answer_s
        headers = {
            **self.authority,
            **call.headers,
            "Accept-Encoding": "identity",
            "User-Agent": "gitops-reconciler",
        }
        if data is not None:
            headers.setdefault("Content-Type", "application/json")
        with self._connected().stream(call.method, url, content=data, headers=headers) as response:
            found = {name.lower(): value for name, value in response.headers.items()}
            if found.get("content-encoding", "identity") != "identity":
                raise ForgeFailed(f"{call}: {self.host} sends a compressed answer, which was not asked for")
            body = self._bounded(call, response.iter_raw(), deadline_s)
            return Answer(call=call, status=response.status_code, headers=found, data=body)

    def _bounded(self, call: Call, chunks: Iterable[bytes], deadline_s: float) -> bytes:
        found = bytearray()
        for each in chunks:
            found += each
            if len(found) > self.bytes_max:
                raise ForgeFailed(f"{call}: the answer of {self.host} is larger than {self.bytes_max} bytes")
            if self.monotonic() > deadline_s:
                raise ForgeFailed(f"{call}: the answer of {self.host} takes longer than {self.answer_s:g} s")
        return bytes(found)

    def _connected(self) -> httpx.Client:
        import ssl

        import httpx

        if self._client is None:
            self._client = httpx.Client(
                trust_env=False,
                follow_redirects=False,
                proxy=self.proxy or None,
                # What the machine trusts; to read that takes a third of a second, which plain HTTP has no use for.
                verify=(self.trusted or ssl.create_default_context()) if self.address.startswith("https:") else False,
                timeout=httpx.Timeout(self.silence_s, connect=min(CONNECT_S, self.silence_s)),
            )
        return self._client


class NotListed(Exception):
    """A page of a list was refused; `answer` says how. Whoever knows the forge makes a sentence of it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer.call))
        self.answer = answer


def _origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of an address. Raise UsageError for what is none of HTTP."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError("the address of a forge is malformed; for example https://git.example.com") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise UsageError("the address of a forge is not http:// or https://, or it holds credentials")
    return parts.scheme, parts.hostname, port or {"http": 80, "https": 443}[parts.scheme]


def _same_server(url: str, location: str) -> bool:
    try:
        return _origin(urljoin(url, location)) == _origin(url)
    except (ValueError, UsageError):
        return False


def _reason(error: Exception) -> str:
    """Return why there was no answer; of the text of a library only what is one line and short."""
    return _line(str(error), 200) or type(error).__name__
