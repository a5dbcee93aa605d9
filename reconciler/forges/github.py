"""GitHub, on github.com or on a server of one's own. Gitea speaks nearly the same language and builds on this."""

from __future__ import annotations

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
    Wanted,
    cut,
    put,
    refusal,
)
from reconciler.http import Call

DESCRIPTION_CHARACTERS_MAX = 140
TITLE_CHARACTERS_MAX = 200
VERSION = "2022-11-28"


def authority(token: str) -> Mapping[str, str]:
    """Return the headers that authorise a request."""
    return {
        "Authorization": f"Bearer {token}",
        "Accept": "application/vnd.github+json, application/json;q=0.9",
        "X-GitHub-Api-Version": VERSION,
    }


@dataclass(slots=True, kw_only=True)
class GitHub(Access):
    """A repository on GitHub."""

    def path(self, rest: str) -> str:
        return f"/repos/{quote(self.site.repository)}{rest}"

    # -------------------------------------------------------------------------------------------- comments

    def comment(self, number: int, marker: str, body: str) -> Posted:
        """Let a pull request have exactly this comment of ours."""
        return put(lambda: self._updated(number, marker, body), lambda: self._added(number, body))

    def _updated(self, number: int, marker: str, body: str) -> Posted | None:
        """Return the comment that is there, up to date, None if there is none or it is gone meanwhile."""
        there = next((each for each in self._comments(number) if self._is_ours(each, marker)), None)
        if there is None:
            return None
        url = str(there.get("html_url", ""))
        if there["body"].replace("\r\n", "\n") == body:
            return Posted(url=url, how="unchanged")
        path = self.path(f"/issues/comments/{int(there['id'])}")
        answer = self.http.ask(Call(method="PATCH", path=path, body={"body": body}, repeatable=True))
        if answer.status == 404:
            return None
        self.accepted(answer, Purpose.COMMENT)
        return Posted(url=url, how="updated")

    def _added(self, number: int, body: str) -> Posted:
        call = Call(method="POST", path=self.path(f"/issues/{number}/comments"), body={"body": body})
        document = self.accepted(self.http.ask(call), Purpose.COMMENT)
        return Posted(url=str(document.get("html_url", "")), how="created")

    def _comments(self, number: int) -> Iterable[dict[str, Any]]:
        call = Call(method="GET", path=self.path(f"/issues/{number}/comments"))
        return self.listed(self.http.pages(call, size=PAGE, pages_max=PAGES_MAX), Purpose.COMMENT)

    def _is_ours(self, comment: Mapping[str, Any], marker: str) -> bool:
        """Return whether a comment has our marker and is our own: anybody can write the marker."""
        body, user = comment.get("body"), comment.get("user")
        if not isinstance(body, str) or marker not in body or not isinstance(user, dict):
            return False
        me = self._me()
        return user.get("login") == me if me else self._is_machine(user)

    def _me(self) -> str:
        """Return whose token it is, "" if that cannot be asked: the token of an app is nobody's."""
        answer = self.http.ask(Call(method="GET", path="/user"))
        if not answer.ok:
            return ""
        document = answer.json()
        return str(document.get("login", "")) if isinstance(document, dict) else ""

    def _is_machine(self, user: Mapping[str, Any]) -> bool:
        return user.get("type") == "Bot"

    # -------------------------------------------------------------------------------------------- statuses

    def status(self, commit: str, check: Check) -> None:
        """Set the status of a commit in a context."""
        body = {
            "state": check.state.value,
            "context": cut(check.context, CONTEXT_CHARACTERS_MAX),
            "description": cut(check.description, DESCRIPTION_CHARACTERS_MAX),
        }
        body |= {"target_url": check.link} if check.link else {}
        call = Call(method="POST", path=self.path(f"/statuses/{commit}"), body=body, repeatable=True)
        self.accepted(self.http.ask(call), Purpose.STATUS)

    # -------------------------------------------------------------------------------------------- pull requests

    def pull_request(self, wanted: Wanted) -> PullRequest:
        """Return the pull request of a branch, whatever became of it; open one if there never was any."""
        return put(lambda: self._found(wanted), lambda: self._opened(wanted))

    def _found(self, wanted: Wanted) -> PullRequest | None:
        """Return an open one before one that is not any more, None for none."""
        same = [each for each in self._candidates(wanted) if self._is_of(each, wanted)]
        chosen = sorted(same, key=lambda each: each.get("state") != "open")
        return _value(chosen[0]) if chosen else None

    def _candidates(self, wanted: Wanted) -> Iterable[dict[str, Any]]:
        owner = self.site.repository.partition("/")[0]
        query: dict[str, str | int] = {"head": f"{owner}:{wanted.head}", "base": wanted.base, "state": "all"}
        call = Call(method="GET", path=self.path("/pulls"), query=query)
        return self.listed(self.http.pages(call, size=PAGE, pages_max=1), Purpose.READ)

    def _is_of(self, document: Mapping[str, Any], wanted: Wanted) -> bool:
        """Return whether a pull request is of our branch, and not of one of that name in a fork."""
        head, base = document.get("head") or {}, document.get("base") or {}
        source = (head.get("repo") or {}).get("full_name", "")
        ours = source.lower() == self.site.repository.lower()
        return bool(ours and head.get("ref") == wanted.head and base.get("ref") == wanted.base)

    def _opened(self, wanted: Wanted) -> PullRequest:
        body = {
            "title": cut(wanted.title, TITLE_CHARACTERS_MAX),
            "head": wanted.head,
            "base": wanted.base,
            "body": wanted.body,
        }
        answer = self.http.ask(Call(method="POST", path=self.path("/pulls"), body=body))
        if answer.status in (409, 422) and "already exists" in answer.said().lower():
            # Somebody was faster: look again.
            raise ForgeUnclear(str(refusal(self.site, self.token, Purpose.PULL_REQUEST, answer)))
        return _value(self.accepted(answer, Purpose.PULL_REQUEST))

    # -------------------------------------------------------------------------------------------- addresses

    def file_url(self, commit: str, path: str) -> str:
        return f"{self.site.page}/blob/{commit}/{quote(path)}"


def _value(document: Any) -> PullRequest:
    """Return the value of a pull request. Raise ForgeFailed if it is none."""
    try:
        number, url = int(document["number"]), str(document["html_url"])
        return PullRequest(number=number, url=url, open=document["state"] == "open")
    except (KeyError, TypeError, ValueError):
        raise ForgeFailed("a pull request of the forge has no number, address or state") from None
