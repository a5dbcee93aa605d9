"""What a forge is to us: comments that are kept up to date, statuses of commits, pull requests of branches.

Each is put there by looking first: to do it again after a crash, or after an answer that got lost, is to find it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from reconciler.errors import ForgeRefused, ForgeUnclear
from reconciler.http import Answer, Http, NotListed
from reconciler.values import frozen

Found = TypeVar("Found")

BODY_CHARACTERS_MAX = 60_000
"""The smallest bound of the three on a comment is 65,536; what is longer was cut before, and says so."""
CONTEXT_CHARACTERS_MAX = 200
PAGE = 100
PAGES_MAX = 20
LOOKS_MAX = 3
"""So often is looked whether a change was applied whose answer got lost."""


class Kind(StrEnum):
    GITHUB = "github"
    GITLAB = "gitlab"
    GITEA = "gitea"


NAMES = {Kind.GITHUB: "GitHub", Kind.GITLAB: "GitLab", Kind.GITEA: "Gitea"}


@frozen
class Site:
    """A repository at a forge: where people find the server, where programs do, and its path there (`owner/name`)."""

    kind: Kind
    url: str
    api_url: str
    repository: str

    @property
    def page(self) -> str:
        return f"{self.url}/{self.repository}"


class State(StrEnum):
    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"


@frozen
class Check:
    """A status of a commit; the newest of a context counts. `link` is an address, "" for none."""

    context: str
    state: State
    description: str
    link: str = ""


@frozen
class Posted:
    """What became of a comment: its address, and `created`, `updated` or `unchanged`."""

    url: str
    how: str


@frozen
class Wanted:
    """A pull request as it shall be: of branch `head` into branch `base` of the same repository."""

    head: str
    base: str
    title: str
    body: str


@frozen
class PullRequest:
    """One that is there, open or not any more."""

    number: int
    url: str
    open: bool


class Purpose(StrEnum):
    """What a token is used for, in the words of a sentence about its permission."""

    READ = "read this"
    COMMENT = "comment"
    STATUS = "set a status"
    PULL_REQUEST = "open a pull request"


class Forge(Protocol):
    """A repository at a forge. Every method raises ForgeRefused or ForgeFailed, with a sentence."""

    @property
    def site(self) -> Site: ...

    def comment(self, number: int, marker: str, body: str) -> Posted:
        """Let a pull request have exactly this comment of ours with this marker, the one there is updated."""

    def status(self, commit: str, check: Check) -> None:
        """Set the status of a commit in a context."""

    def pull_request(self, wanted: Wanted) -> PullRequest:
        """Return the pull request of a branch, open, merged or closed; open one if there never was any."""

    def file_url(self, commit: str, path: str) -> str:
        """Return the address of a file at a commit, for people."""

    def close(self) -> None:
        """End the connection."""


# ------------------------------------------------------------------------------------------------ refusals

LACKS: Mapping[Kind, Mapping[Purpose, str]] = {
    Kind.GITHUB: {
        Purpose.READ: "contents: read",
        Purpose.COMMENT: "pull-requests: write",
        Purpose.STATUS: "statuses: write",
        Purpose.PULL_REQUEST: "pull-requests: write",
    },
    Kind.GITLAB: {
        Purpose.READ: "scope 'read_api' and role Reporter",
        Purpose.COMMENT: "scope 'api' and role Reporter",
        Purpose.STATUS: "scope 'api' and role Developer",
        Purpose.PULL_REQUEST: "scope 'api' and role Developer",
    },
    Kind.GITEA: {
        Purpose.READ: "read:repository",
        Purpose.COMMENT: "write:issue",
        Purpose.STATUS: "write:repository",
        Purpose.PULL_REQUEST: "write:repository and write:issue",
    },
}
"""Which permission each forge wants for each purpose, in that forge's own words."""


@frozen
class Token:
    """What authorises us, and the environment variable it came from: only the name is ever told."""

    name: str
    value: str

    def __repr__(self) -> str:
        return f"Token({self.name})"


def refusal(site: Site, token: Token, purpose: Purpose, answer: Answer) -> ForgeRefused:
    """Return the sentence about an answer that refuses: what is missing, or the words of the forge."""
    forge, lacks = NAMES[site.kind], LACKS[site.kind][purpose]
    where, said = f"{forge} ({site.repository})", answer.said().replace(token.value, "***")
    words, whose = f" ({said})" if said else "", f"the token in ${token.name}"
    if answer.status == 401:
        text = f"{whose} is not accepted{words}; it has ended, or belongs to another server"
    elif answer.status == 403:
        text = f"{whose} may not {purpose.value}{words}; give it {_permission(lacks)}{_more(site, purpose)}"
    elif answer.status == 404:
        text = f"not found; the name is wrong, or {whose} may not see it: it needs {_permission(lacks)}"
    else:
        text = f"it answered {answer.status} to {answer.call}{words}"
    return ForgeRefused(f"{where}: {text}", status=answer.status)


def _permission(words: str) -> str:
    return words if words.startswith("scope") else f"the permission '{words}'"


def _more(site: Site, purpose: Purpose) -> str:
    if site.kind is Kind.GITHUB and purpose is Purpose.PULL_REQUEST:
        return ", and in Actions let the repository allow 'GitHub Actions to create pull requests'"
    return ""


# ------------------------------------------------------------------------------------------------ looking first


def put(look: Callable[[], Found | None], make: Callable[[], Found]) -> Found:
    """Return what is there, or make it; where an answer gets lost, look again. Raise ForgeUnclear after a few."""
    for number in range(1, LOOKS_MAX + 1):
        found = look()
        if found is not None:
            return found
        try:
            return make()
        except ForgeUnclear:
            if number == LOOKS_MAX:
                raise
    raise AssertionError("unreachable")


@dataclass(slots=True, kw_only=True)
class Access:
    """The shared middle of the three forges: a server, a repository there, and the token."""

    http: Http
    site: Site
    token: Token

    def close(self) -> None:
        self.http.close()

    def accepted(self, answer: Answer, purpose: Purpose) -> Any:
        """Return the document of an answer. Raise ForgeRefused if it refuses."""
        if not answer.ok:
            raise refusal(self.site, self.token, purpose, answer)
        return answer.json()

    def listed(self, pages: Iterable[Any], purpose: Purpose) -> Iterable[dict[str, Any]]:
        """Yield the documents of a list. Raise ForgeRefused if it is refused."""
        try:
            yield from (each for each in pages if isinstance(each, dict))
        except NotListed as refused:
            raise refusal(self.site, self.token, purpose, refused.answer) from None


def cut(text: str, characters_max: int) -> str:
    """Return a text on one line and at most so long."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= characters_max else f"{line[: characters_max - 1]}…"
