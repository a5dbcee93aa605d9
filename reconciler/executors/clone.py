"""The repository that a courier works in: its own bare clone, with what an order needs and nothing else."""

from __future__ import annotations

from pathlib import Path

from reconciler import git
from reconciler.disk import DISK
from reconciler.errors import GitFailed, UsageError
from reconciler.git import Repository, open_repository
from reconciler.login import Login
from reconciler.remote import NETWORK_TIMEOUT_S, OID, Remote, is_url

ORIGIN = "origin"


class NoRef(Exception):
    """The ref of an attempt is not there: the host is done with it, or wants it to end."""


def open_clone(url: str, ref: str, place: Path, login: Login | None = None) -> Remote:
    """Make an empty clone of a repository in the directory `place`, with the length of object ids that it has. It is
    asked as whom git finds here, or as `login` says.

    Raise NoRef if it has no such ref, UsageError for what is no address, TransientError if it does not answer.
    """
    _refuse_what_is_no_address(url)
    asked = ("ls-remote", "--refs", "--quiet", "--end-of-options", url, ref)
    settings, variables = (login.settings, login.variables()) if login is not None else ((), None)
    answer = git.run(
        asked, directory=place.parent, timeout_s=NETWORK_TIMEOUT_S, config=settings, variables=variables
    ).decode(errors="surrogateescape")
    there = {name: oid for oid, _, name in (line.partition("\t") for line in answer.splitlines())}
    oid = there.get(ref, "")
    if not OID.fullmatch(oid):
        raise NoRef(ref)
    DISK.remove_tree(place)
    DISK.make_directory(place, sync=False)
    kind = "sha256" if len(oid) == 64 else "sha1"
    git.run(("init", "--quiet", "--bare", "--template=", f"--object-format={kind}"), directory=place)
    git.run(("remote", "add", "--", ORIGIN, url), directory=place)
    return Remote(open_repository(place), ORIGIN, login=login)


def _refuse_what_is_no_address(url: str) -> None:
    if url.startswith("-") or not (is_url(url) or Path(url).is_absolute()):
        cure = "give a URL, or the absolute path of a git directory"
        raise UsageError(f"--url: '{git.without_credentials(url)}' is not the address of a repository; {cure}")


def bring(remote: Remote, ref: str, depth: int) -> str:
    """Bring a ref with so much of its history (0: all) and return where it is. Raise NoRef if it is gone."""
    oid = remote.take(ref, depth)
    if oid is None:
        raise NoRef(ref)
    return oid


def name_branch(repository: Repository, branch: str, commit: str) -> None:
    """Let the branch of a run name its commit, for stages that compare with it; one that no branch can be called
    stays unnamed."""
    try:
        repository.create_branch(branch, commit)
        repository.git("symbolic-ref", "HEAD", f"refs/heads/{branch}")
    except GitFailed:
        return
