"""The edge of guardrails: the files that one looks at, the change that it judges, and what day it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path

from reconciler.errors import ContentError
from reconciler.git import Repository, open_repository
from reconciler.model import Workspace
from reconciler.order import Order
from reconciler.values import frozen
from reconciler.worktree import Changed, CommitFiles, Files, WorkTree


@frozen
class Change:
    """What is judged: every file that differs between the commit or tree `base` and the workspace."""

    base: str
    files: tuple[Changed, ...]

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(each.path for each in self.files)


class Scene:
    """Everything a guardrail may look at. `commit` is the run's, `files` are those of the workspace, and `place` is
    where a command works; what it prints goes to the descriptor `output`, by default to where ours does."""

    def __init__(self, repository: Repository, commit: str, files: Files, place: Path, today: date) -> None:
        self.repository, self.commit, self.files, self.place, self.today = repository, commit, files, place, today
        self.output: int | None = None

    @property
    def paths(self) -> frozenset[str]:
        return self.files.paths

    def read(self, paths: Sequence[str]) -> dict[str, bytes | None]:
        """Return the files of the workspace by path; None for what is no regular file, or too large."""
        return {path: self.files.read(path) for path in paths}

    def at_commit(self, paths: Sequence[str]) -> dict[str, bytes | None]:
        """Return which of the files are regular ones at the run's commit, and their bytes; None for one too large."""
        entries = self.repository.files_at(self.commit, paths)
        contents = dict(self.repository.blobs({each.oid for each in entries}))
        return {each.path: contents[each.oid] for each in entries}

    @cached_property
    def manifest_digests(self) -> Mapping[str, str]:
        """The SHA-256 that commits of evidence name for manifests, by path."""
        return self.repository.manifest_digests(self.commit)

    def change(self, since: str = "") -> Change:
        """Return the change: since a revision, if one is named; what the run's stages did, if they did anything; else
        what the run's commit did to its first parent, for a root that everything is new."""
        if since:
            base = self._since(since)
            return Change(base=base, files=self.files.changed(base))
        if own := self.files.changed(self.commit):
            return Change(base=self.commit, files=own)
        base = self.repository.parent(self.commit) or self.repository.empty_tree()
        return Change(base=base, files=self.files.changed(base))

    def _since(self, revision: str) -> str:
        """Return the commit where the history of the revision and of the run's commit part. Raise ContentError."""
        # HEAD means what the run is about, not what the person at this machine has checked out.
        name = re.sub(r"^HEAD(?=$|[~^])", self.commit, revision)
        found = self.repository.look_up([f"{name}^{{commit}}"])[0]
        if found is None:
            raise ContentError(f"since: there is no commit '{revision}' here; name a branch, a tag or a commit id")
        return self.repository.parting(found, self.commit) or found


@contextmanager
def scene_of(order: Order) -> Iterator[Scene]:
    """Lead a stage's guardrail to its workspace; in an empty one, to the run's commit."""
    repository = open_repository(Path(order.checkout))
    empty = order.plan.workspace == Workspace.EMPTY
    workspace = Path(order.workspace)
    with scene_at(repository, order.commit, workspace, workspace / order.planned.cwd, empty=empty) as scene:
        yield scene


@contextmanager
def scene_at(
    repository: Repository, commit: str, directory: Path, place: Path, *, empty: bool = False
) -> Iterator[Scene]:
    """Lead a guardrail to a directory of files that began as those of a commit."""
    with closing(repository.objects), ExitStack() as stack:
        files: Files = CommitFiles(repository, commit)
        if not empty:
            files = stack.enter_context(closing(WorkTree(repository, directory, commit)))
        yield Scene(repository, commit, files, place, datetime.now(UTC).date())


def verbs() -> frozenset[str]:
    """Return the verbs that this version of the reconciler has: each is a file."""
    commands = Path(__file__).resolve().parent.parent / "commands"
    return frozenset(each.stem.replace("_", "-") for each in commands.glob("*.py") if not each.stem.startswith("_"))
