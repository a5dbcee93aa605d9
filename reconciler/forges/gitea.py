"""Gitea and Forgejo: the language of GitHub with other limits and other addresses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from reconciler.forges.forge import PAGES_MAX, Purpose, Wanted
from reconciler.forges.github import GitHub
from reconciler.http import Call

PAGE = 50
MACHINES = frozenset({"gitea-actions", "forgejo-actions"})
"""Who the token of an Actions run writes as; it cannot be asked who it is."""


def authority(token: str) -> Mapping[str, str]:
    """Return the headers that authorise a request."""
    return {"Authorization": f"token {token}", "Accept": "application/json"}


@dataclass(slots=True, kw_only=True)
class Gitea(GitHub):
    """A repository on Gitea or Forgejo."""

    def _comments(self, number: int) -> Iterable[dict[str, Any]]:
        """Return all comments: this list comes in one piece."""
        answer = self.http.ask(Call(method="GET", path=self.path(f"/issues/{number}/comments")))
        documents = self.accepted(answer, Purpose.COMMENT)
        return [each for each in documents if isinstance(each, dict)]

    def _is_machine(self, user: Mapping[str, Any]) -> bool:
        return user.get("login") in MACHINES

    def _candidates(self, wanted: Wanted) -> Iterable[dict[str, Any]]:
        """Return pull requests, the newest first: there is no way to ask for those of a branch."""
        call = Call(method="GET", path=self.path("/pulls"), query={"state": "all", "sort": "recentupdate"})
        pages = self.http.pages(call, size=PAGE, pages_max=PAGES_MAX, size_key="limit")
        return self.listed(pages, Purpose.READ)

    def file_url(self, commit: str, path: str) -> str:
        return f"{self.site.page}/src/commit/{commit}/{quote(path)}"
