"""Requests to the API server of a cluster, in one namespace: each bounded, answered or EngineSilent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.errors import ForgeFailed
from reconciler.executors.engine import CALL_S, EngineSilent
from reconciler.executors.kubernetes_access import Access
from reconciler.executors.kubernetes_words import said_by, version_of
from reconciler.http import Answer, Call, Method
from reconciler.values import frozen

PAGE = 250
PAGES_MAX = 400
MERGE = {"Content-Type": "application/merge-patch+json"}
JOBS, PODS, SECRETS = "jobs", "pods", "secrets"
GROUPS = {JOBS: "/apis/batch/v1", PODS: "/api/v1", SECRETS: "/api/v1"}


@frozen
class Listed:
    """All objects of a kind at one instant: the version from which on changes follow, and the time of the server then,
    in seconds since 1970, None where it does not say."""

    items: tuple[object, ...]
    version: str
    now_s: float | None


@dataclass(slots=True, kw_only=True)
class Api:
    """What may be asked, and how. `monotonic` in seconds is a field so that a test need not wait."""

    access: Access
    monotonic: Callable[[], float] = time.monotonic

    def path(self, kind: str, name: str = "", part: str = "") -> str:
        """Return the path of a kind of object, or of one object of it or its part. Names are ours or the server's."""
        namespace = self.access.where.namespace
        return "/".join(filter(None, (GROUPS[kind], "namespaces", namespace, kind, name, part)))

    def ask(self, call: Call, *, again: bool = True) -> Answer:
        """Return an answer, whatever it says but that it will not listen. Raise EngineSilent if there is none. With
        `again`, what passes is asked again for some seconds."""
        answer = self._asked(call, again)
        if answer.status == 401:
            # A token may have been changed since it was read.
            self.access.forget()
            answer = self._asked(call, again)
        if answer.status == 401 or answer.status >= 500:
            why = "does not accept who asks" if answer.status == 401 else f"answers {answer.status}"
            raise EngineSilent(": ".join(filter(None, (f"kubernetes: {call}: the API server {why}", said(answer)[1]))))
        return answer

    def _asked(self, call: Call, again: bool) -> Answer:
        http = self.access.http()
        try:
            return http.ask(call) if again else http.once(call)
        except ForgeFailed as error:
            raise EngineSilent(f"kubernetes: {error}") from None

    def get(self, path: str) -> dict[str, Any] | None:
        """Return an object, None if there is none."""
        answer = self.ask(Call(method="GET", path=path))
        return None if answer.status == 404 else mapping(checked(answer))

    def order(self, method: Method, path: str, body: Mapping[str, Any]) -> Answer:
        """Return the answer to a change, of which doing it twice is doing it once; it is asked for once."""
        headers = MERGE if method == "PATCH" else {}
        return self.ask(Call(method=method, path=path, body=body, headers=headers, repeatable=True), again=False)

    def listed(self, kind: str, selector: str) -> Listed:
        """Return all objects of a kind that a selector names. Raise EngineSilent if there is no whole list in time."""
        deadline_s = self.monotonic() + CALL_S / 2
        for _ in range(2):
            if (found := self._list(kind, selector, deadline_s)) is not None:
                return found
        raise EngineSilent(f"kubernetes: the list of {kind} expires while it is read; try again later")

    def _list(self, kind: str, selector: str, deadline_s: float) -> Listed | None:
        """Return a list page by page, None if it expired in between (410)."""
        items: list[object] = []
        token = ""
        for _ in range(PAGES_MAX):
            answer = self.ask(Call(method="GET", path=self.path(kind), query=_query(selector, token)))
            if answer.status == 410:
                return None
            page = mapping(checked(answer))
            found = page.get("items")
            items.extend(found if isinstance(found, list) else ())
            token = str(mapping(page.get("metadata")).get("continue") or "")
            if not token:
                return Listed(items=tuple(items), version=version_of(page), now_s=_time_of(answer))
            if self.monotonic() > deadline_s:
                raise EngineSilent(f"kubernetes: the list of {kind} takes longer than {CALL_S / 2:g} s")
        raise EngineSilent(f"kubernetes: there are more than {PAGES_MAX * PAGE} {kind}; remove what is not needed")


def _query(selector: str, token: str) -> dict[str, str | int]:
    return {"labelSelector": selector, "limit": PAGE, **({"continue": token} if token else {})}


def checked(answer: Answer) -> object:
    """Return what an answer says. Raise EngineSilent if it is a refusal or no JSON."""
    try:
        if answer.ok:
            return answer.json()
    except ForgeFailed as error:
        raise EngineSilent(f"kubernetes: {error}") from None
    words = said(answer)
    raise EngineSilent(f"kubernetes: {answer.call}: {': '.join(filter(None, (f'answered {answer.status}', words[1])))}")


def said(answer: Answer) -> tuple[str, str]:
    """Return the word and the sentence of a refusal, "" for what it does not say."""
    return said_by(document_of(answer))


def document_of(answer: Answer) -> object:
    """Return what an answer says, an empty mapping if it is no JSON."""
    try:
        return json.loads(answer.data)
    except (ValueError, RecursionError):
        return {}


def mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def chunks(names: list[str], size: int) -> Iterator[list[str]]:
    """Yield a list in pieces, so that a selector fits into an address."""
    yield from (names[at : at + size] for at in range(0, len(names), size))


def _time_of(answer: Answer) -> float | None:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
