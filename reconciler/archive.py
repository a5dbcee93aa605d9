"""What one commit proves, with everything that belongs to it: manifests that can be believed, logs, checklists.

What `evidence` remembers is enough to decide; this is for those who show it. Runs are read by the object id of their
directory, so what did not change need not be read again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from reconciler.cache import Cache, read_cache
from reconciler.checklist import Item, items
from reconciler.errors import ContentError
from reconciler.evidence import Proofs, Proven
from reconciler.git import Repository
from reconciler.model import Contract, Evidence, RunId
from reconciler.pages import views
from reconciler.pages.text import size
from reconciler.pages.views import Line
from reconciler.rundir import TASK_ID
from reconciler.values import frozen
from reconciler.world import World

TASKS_MAX = 10_000
VIOLATIONS_SHOWN = 3


@frozen
class Kept:
    """A run that a commit holds: `tree` is the object id of its directory, `evidence` None if its manifest proves
    nothing."""

    task_id: str
    run_id: str
    tree: str
    evidence: Evidence | None


@frozen
class Manifest:
    """A committed manifest: its bytes, and what it says; `damage` is why it cannot be believed, then it says nothing.
    `logs` maps the path of a log that is committed to its blob."""

    data: bytes
    document: Mapping[str, Any] | None
    damage: tuple[str, ...] = ()
    logs: Mapping[str, str] = field(default_factory=dict)


class Archive:
    """What commits prove, remembering what was read last; `cache` is what somebody remembers already."""

    def __init__(self, world: World, cache: Cache | None = None) -> None:
        self.world = world
        self.cache = cache or read_cache(world.repository.state / "cache.json", world.disk)
        self.proofs = Proofs(world, self.cache)
        self._known: tuple[str | None, dict[str, Kept]] | None = None

    def runs(self, commit: str) -> dict[str, Kept]:
        """Return every run that a commit holds, by id: the one that ended last comes first, damaged ones at the end."""
        tree = self.world.repository.look_up([f"{commit}:.runs"])[0]
        if self._known is None or self._known[0] != tree:
            self.proofs.read_tree(tree)
            found = _in_order(list(self._directories(tree, Proven(self.proofs.rows))))
            # Where two directories claim to be one run, the one that is believed is the first.
            first = {each.run_id: each for each in reversed(found)}
            self._known = (tree, {each.run_id: each for each in found if first[each.run_id] is each})
        return self._known[1]

    def _directories(self, tree: str | None, proven: Proven) -> list[Kept]:
        repository = self.world.repository
        tasks = [each for each in repository.tree(tree).values() if each.is_tree and TASK_ID.fullmatch(each.path)]
        found = []
        for task in sorted(tasks, key=lambda each: each.path)[:TASKS_MAX]:
            runs = repository.tree(repository.tree(task.oid)["cli"].oid) if _has_runs(repository, task.oid) else {}
            for name, entry in runs.items():
                evidence = proven.get(RunId(name))
                if evidence is not None and evidence.task_id != task.path:
                    evidence = None  # it says that it is elsewhere
                if evidence is not None or (entry.is_tree and _is_run(repository, name, entry.oid)):
                    found.append(Kept(task_id=task.path, run_id=name, tree=entry.oid, evidence=evidence))
        return found

    def manifest(self, kept: Kept) -> Manifest:
        """Return the manifest of a run, and which of its logs are there."""
        return read_manifest(self.world.repository, self.world.contracts, kept)

    def log(self, blob: str) -> bytes:
        """Return a committed log, empty if it is missing or larger than anything we commit."""
        return next(self.world.repository.blobs([blob]))[1] or b""

    def checklists(self, commit: str) -> dict[str, Sequence[Item] | str]:
        """Return the items of every `tasks/<task>.md` by task, or what is wrong with the file."""
        repository = self.world.repository
        listed = repository.tree(repository.look_up([f"{commit}:tasks"])[0])
        files = {name[:-3]: each.oid for name, each in listed.items() if each.is_file and name.endswith(".md")}
        wanted = {task: oid for task, oid in sorted(files.items())[:TASKS_MAX] if TASK_ID.fullmatch(task)}
        read = repository.blobs(wanted.values())
        return {task: _items(data, task) for task, (_, data) in zip(wanted, read, strict=True)}


def _is_run(repository: Repository, name: str, tree: str) -> bool:
    """Return whether a directory is one of a run, although its manifest proves nothing."""
    return bool(TASK_ID.fullmatch(name[:-9])) and "manifest.json" in repository.tree(tree)


def _has_runs(repository: Repository, task_tree: str) -> bool:
    found = repository.tree(task_tree).get("cli")
    return found is not None and found.is_tree


def _in_order(found: list[Kept]) -> list[Kept]:
    def newest(each: Kept) -> tuple[str, str]:
        return (each.evidence.completed_at if each.evidence else "", each.run_id)

    return sorted(found, key=newest, reverse=True)


def _items(data: bytes | None, task: str) -> Sequence[Item] | str:
    try:
        return items(data or b"", f"tasks/{task}.md")
    except ContentError as error:
        return str(error)


def read_manifest(repository: Repository, contracts: Contract, kept: Kept) -> Manifest:
    """Return what a run's directory holds. What breaks the schema of manifests, or is another run's, is damaged."""
    folder = repository.tree(kept.tree)
    root = f".runs/{kept.task_id}/cli/{kept.run_id}"
    entry = folder.get("manifest.json")
    data = next(repository.blobs([entry.oid]))[1] if entry is not None and entry.is_file else None
    document, damage = believed(data, kept, contracts)
    commands = folder.get("commands")
    listed = repository.tree(commands.oid) if commands is not None and commands.is_tree else {}
    logs = {f"{root}/commands/{name}": each.oid for name, each in listed.items() if each.is_file}
    return Manifest(data=data or b"", document=document, damage=damage, logs=logs)


def believed(data: bytes | None, kept: Kept, contracts: Contract) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
    """Return what a manifest says, or None and why it is not believed."""
    try:
        document = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None, ("The manifest of this run cannot be read: it is no JSON.",)
    wrong = contracts.check("manifest", document)
    if wrong:
        said = [f"{'.'.join(map(str, each.path)) or 'the whole'}: {each.reason}" for each in wrong[:VIOLATIONS_SHOWN]]
        return None, (f"The manifest of this run is damaged: {'; '.join(said)}.",)
    if (document["task_id"], document["run_id"]) != (kept.task_id, kept.run_id):
        return None, (f"The manifest here is the one of another run: {document['run_id']}.",)
    return document, ()


# ------------------------------------------------------------------------------------------------ for pages


def line_of(kept: Kept) -> Line:
    if kept.evidence is None:
        return views.damaged_line(kept.task_id, kept.run_id)
    return views.line_of_evidence(kept.evidence)


def committed_ends(archive: Archive, found: Manifest) -> dict[str, bytes]:
    """Return the logs of failed stages, by stage, as far as they are committed."""
    commands = found.document["commands"] if found.document else ()
    failed = [each for each in commands if each["status"] == "failed" and each["log_path"] in found.logs]
    return {each["id"]: archive.log(found.logs[each["log_path"]])[-views.TAIL_BYTES :] for each in failed}


def said_of_log(command: Mapping[str, Any], data: bytes) -> str:
    """Return in a sentence how much of a log is here."""
    whole, here = command["log_bytes"], len(data)
    if here < whole:
        return f"{size(here)} of {size(whole)} are committed, the beginning and the end. Redacted when it was written."
    return f"{size(here)}, all of it. Redacted when it was written."
