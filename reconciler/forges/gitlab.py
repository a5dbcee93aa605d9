"""GitLab, on gitlab.com or on a server of one's own: merge requests, notes and statuses of commits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from reconciler.errors import ForgeFailed, ForgeUnclear
from reconciler.forges.forge import (
    CONTEXT_CHARACTERS_MAX,
    PAGE,
    PAGES_MAX,
    Access,
    Check,
    Posted,
    PullRequest,
    Purpose,
    State,
    Wanted,
    cut,
    put,
    refusal,
)
from reconciler.http import Call

DESCRIPTION_CHARACTERS_MAX = 255
TITLE_CHARACTERS_MAX = 255
LINK_CHARACTERS_MAX = 255
QUICK_ACTION = re.compile(r"^([\s>]*)/", re.MULTILINE)
STATES = {State.PENDING: "pending", State.SUCCESS: "success", State.FAILURE: "failed", State.ERROR: "failed"}


def authority(token: str) -> Mapping[str, str]:
    """Return the headers that authorise a request."""
    return {"PRIVATE-TOKEN": token, "Accept": "application/json"}


@dataclass(slots=True, kw_only=True)
class GitLab(Access):
    """A project on GitLab; its pull requests are merge requests, and its comments notes."""

    def path(self, rest: str) -> str:
        return f"/projects/{quote(self.site.repository, safe='')}{rest}"

    # -------------------------------------------------------------------------------------------- comments

    def comment(self, number: int, marker: str, body: str) -> Posted:
        """Let a merge request have exactly this note of ours."""
        text = inert(body)
        return put(lambda: self._updated(number, marker, text), lambda: self._added(number, text))

    def _updated(self, number: int, marker: str, body: str) -> Posted | None:
        """Return the note that is there, up to date, None if there is none or it is gone meanwhile."""
        there = next((each for each in self._notes(number) if self._is_ours(each, marker)), None)
        if there is None:
            return None
        if there["body"].replace("\r\n", "\n") == body:
            return Posted(url=self._note_url(number, there), how="unchanged")
        path = self.path(f"/merge_requests/{number}/notes/{int(there['id'])}")
        answer = self.http.ask(Call(method="PUT", path=path, body={"body": body}, repeatable=True))
        if answer.status == 404:
            return None
        self.accepted(answer, Purpose.COMMENT)
        return Posted(url=self._note_url(number, there), how="updated")

    def _added(self, number: int, body: str) -> Posted:
        call = Call(method="POST", path=self.path(f"/merge_requests/{number}/notes"), body={"body": body})
        document = self.accepted(self.http.ask(call), Purpose.COMMENT)
        return Posted(url=self._note_url(number, document), how="created")

    def _notes(self, number: int) -> Iterable[dict[str, Any]]:
        call = Call(
            method="GET", path=self.path(f"/merge_requests/{number}/notes"),
            query={"sort": "asc", "order_by": "created_at"},
        )  # fmt: skip
        return self.listed(self.http.pages(call, size=PAGE, pages_max=PAGES_MAX), Purpose.COMMENT)

    def _is_ours(self, note: Mapping[str, Any], marker: str) -> bool:
        """Return whether a note has our marker and is our own: anybody can write the marker."""
        body, author = note.get("body"), note.get("author")
        if not isinstance(body, str) or marker not in body or not isinstance(author, dict):
            return False
        return author.get("id") == self._me()

    def _me(self) -> int:
        """Return the number of whose token it is."""
        document = self.accepted(self.http.ask(Call(method="GET", path="/user")), Purpose.COMMENT)
        if not isinstance(document, dict) or not isinstance(document.get("id"), int):
            raise ForgeFailed("GET /user: the answer names nobody")
        return int(document["id"])

    def _note_url(self, number: int, note: Mapping[str, Any]) -> str:
        return f"{self.site.page}/-/merge_requests/{number}#note_{note.get('id', '')}"

    # -------------------------------------------------------------------------------------------- statuses

    def status(self, commit: str, check: Check) -> None:
        """Set the status of a commit in a context. To set the one it has is refused there, and is no failure."""
        body = {
            "state": STATES[check.state],
            "name": cut(check.context, CONTEXT_CHARACTERS_MAX),
            "description": cut(check.description, DESCRIPTION_CHARACTERS_MAX),
        }
        body |= {"target_url": check.link} if 0 < len(check.link) <= LINK_CHARACTERS_MAX else {}
        call = Call(method="POST", path=self.path(f"/statuses/{commit}"), body=body, repeatable=True)
        answer = self.http.ask(call)
        if answer.status == 400 and "cannot transition status" in answer.said().lower():
            return
        self.accepted(answer, Purpose.STATUS)

    # -------------------------------------------------------------------------------------------- merge requests

    def pull_request(self, wanted: Wanted) -> PullRequest:
        """Return the merge request of a branch, whatever became of it; open one if there never was any."""
        return put(lambda: self._found(wanted), lambda: self._opened(wanted))

    def _found(self, wanted: Wanted) -> PullRequest | None:
        query: dict[str, str | int] = {"source_branch": wanted.head, "target_branch": wanted.base, "state": "all"}
        call = Call(method="GET", path=self.path("/merge_requests"), query=query)
        found = self.listed(self.http.pages(call, size=PAGE, pages_max=1), Purpose.READ)
        same = [each for each in found if each.get("source_project_id") == each.get("target_project_id")]
        chosen = sorted(same, key=lambda each: each.get("state") != "opened")
        return _value(chosen[0]) if chosen else None

    def _opened(self, wanted: Wanted) -> PullRequest:
        body = {
            "source_branch": wanted.head,
            "target_branch": wanted.base,
            "title": cut(wanted.title, TITLE_CHARACTERS_MAX),
            "description": inert(wanted.body),
        }
        answer = self.http.ask(Call(method="POST", path=self.path("/merge_requests"), body=body))
        if answer.status == 409:
            # Somebody was faster: look again.
            raise ForgeUnclear(str(refusal(self.site, self.token, Purpose.PULL_REQUEST, answer)))
        return _value(self.accepted(answer, Purpose.PULL_REQUEST))

    # -------------------------------------------------------------------------------------------- addresses

    def file_url(self, commit: str, path: str) -> str:
        return f"{self.site.page}/-/blob/{commit}/{quote(path)}"


def inert(body: str) -> str:
    """Return a text in which no line is a quick action: GitLab does what a line such as `/merge` says, as we."""
    return QUICK_ACTION.sub(r"\1\\/", body)


def _value(document: Any) -> PullRequest:
    """Return the value of a merge request. Raise ForgeFailed if it is none."""
    try:
        number, url = int(document["iid"]), str(document["web_url"])
        return PullRequest(number=number, url=url, open=document["state"] == "opened")
    except (KeyError, TypeError, ValueError):
        raise ForgeFailed("a merge request of the forge has no number, address or state") from None
