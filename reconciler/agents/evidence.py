"""What an agent leaves as evidence: its change, its events, its answer. Bounded, redacted, digested, durable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from reconciler import codec
from reconciler.agents.events import Event, Kind, clipped
from reconciler.disk import DISK
from reconciler.errors import GitFailed, UsageError
from reconciler.git import Change, Repository
from reconciler.model import Plan, Redact, Workspace
from reconciler.order import ARTIFACT_BYTES_MAX, Artifact
from reconciler.patience import Patience
from reconciler.redact import Redactor
from reconciler.values import frozen

EVENTS_BYTES_MAX = 512 * 1024
EVENT_TEXT_MAX = 4096
ANSWER_BYTES_MAX = 256 * 1024
STATS_MAX = 100
PATH_CHARACTERS_MAX = 200


class Secrets:
    """What must not be seen: by the rules there are, and values of the environment."""

    def __init__(self, redact: Redact, values: Sequence[bytes]) -> None:
        self.redactor = Redactor.of(redact, values, Patience())

    def without(self, data: bytes) -> bytes:
        """Return data without the secrets in it."""
        return self.redactor.feed(data) + self.redactor.flush()


class EventLog:
    """`events.jsonl`: one event a line, up to a bound; the terminal one is always there."""

    def __init__(self, secrets: Secrets) -> None:
        self.secrets, self.lines, self.bytes, self.left_out = secrets, list[bytes](), 0, 0

    def add(self, event: Event) -> None:
        line = self.secrets.without(codec.compact(_spelled(event)))
        terminal = event.kind in (Kind.ENDED, Kind.FAILED)
        if self.bytes + len(line) > EVENTS_BYTES_MAX and not terminal:
            self.left_out += 1
            return
        self.bytes += len(line)
        self.lines.append(line)

    def data(self) -> bytes:
        more = [codec.compact({"kind": "left_out", "events": self.left_out})] if self.left_out else []
        return b"".join([*self.lines, *more])[:ARTIFACT_BYTES_MAX]


def _spelled(event: Event) -> dict[str, object]:
    """Return what an event says, without what it does not say."""
    said = codec.dump(event)
    default = codec.dump(Event(kind=event.kind))
    kept = {key: value for key, value in said.items() if key == "kind" or value != default[key]}
    if len(event.text) > EVENT_TEXT_MAX:
        kept["text"] = event.text[:EVENT_TEXT_MAX] + f" [... {len(event.text) - EVENT_TEXT_MAX} more characters ...]"
    return kept


@frozen
class Changed:
    """What became of the workspace; `change` is None and `problem` says why where nobody could tell."""

    change: Change | None
    problem: str = ""

    @property
    def sha256(self) -> str | None:
        """The digest of all that differs: the names and sizes as well as the patch, which may be cut."""
        if self.change is None:
            return None
        return hashlib.sha256(codec.canonical(self.change.stats) + self.change.patch).hexdigest()


def changed(repository: Repository, plan: Plan, commit: str, workspace: Path, index: Path) -> Changed:
    """Return how the workspace differs from the commit; an empty one differs from nothing at all."""
    base = None if plan.workspace == Workspace.EMPTY else commit
    try:
        return Changed(change=repository.change(workspace, base, index, ARTIFACT_BYTES_MAX - 1024))
    except (GitFailed, UsageError, OSError) as error:
        return Changed(change=None, problem=str(error)[:300])
    finally:
        DISK.unlink(index)


def diff_detail(found: Changed, patch_redactions: int) -> Mapping[str, object]:
    """Return what a manifest says of a change."""
    change = found.change
    if change is None:
        return {"diff": None, "diff_problem": found.problem}
    listed = [
        {"path": clipped(path, PATH_CHARACTERS_MAX), "added": added, "removed": removed}
        for path, added, removed in change.stats[:STATS_MAX]
    ]
    return {
        "diff": {
            "files": len(change.stats),
            "added": sum(added or 0 for _, added, _ in change.stats),
            "removed": sum(removed or 0 for _, _, removed in change.stats),
        },
        "diff_files": listed,
        "diff_whole": change.whole,
        "diff_redactions": patch_redactions,
        "nested_repositories": [clipped(each, PATH_CHARACTERS_MAX) for each in change.nested[:20]],
    }


def leave(run_directory: Path, place: str, files: Mapping[str, bytes]) -> tuple[Artifact, ...]:
    """Write files durably below the run directory and return what proves them."""
    directory = run_directory / place
    DISK.make_directory(directory)
    found = []
    for name, data in files.items():
        DISK.write_atomic(directory / name, data)
        digest = hashlib.sha256(data).hexdigest()
        found.append(Artifact(path=f"{place}/{name}", bytes=len(data), sha256=digest))
    return tuple(found)
