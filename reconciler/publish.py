"""Put evidence into git: one commit for all runs that ended, made for the tip it names and for no other.

Nothing is merged as text: when the tip has moved, everything is computed again from the records and the new tip.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from reconciler import aggregate, codec, drift, manifest, rundir
from reconciler.agent import wants_delivery
from reconciler.deliver import deliver
from reconciler.disk import Disk
from reconciler.errors import (
    ContentError,
    NoAtomicPush,
    PublishBlocked,
    PushRefused,
    PushUnclear,
    TipMoved,
    TransientError,
)
from reconciler.git import Draft
from reconciler.model import Link, RunId, Status, TaskId, claim_ref
from reconciler.observe import Observation
from reconciler.order import ARTIFACT_BYTES_MAX, ARTIFACTS
from reconciler.records import read_records
from reconciler.remote import RefUpdate, Remote
from reconciler.rundir import RunDirectory
from reconciler.unsaid import clean_file, clean_log, clean_records, unsayable
from reconciler.values import frozen
from reconciler.world import World

IDENTITY = "Reconciler <reconciler@localhost>"
INDEX_PATH = "tasks/index.json"
AS_WRITTEN = ("/.runs/**", "/out/*/state.json", "/out/*/README.md")
"""Which files nobody but us writes, as patterns of git."""
ERROR_TAIL_BYTES = 4096


@frozen
class Proof:
    """The evidence of one run: its manifest as values and bytes, and every file that goes with it."""

    document: Mapping[str, Any]
    data: bytes
    files: Mapping[str, bytes]

    @property
    def path(self) -> str:
        return f"{self.document['artifact_root']}/manifest.json"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(slots=True)
class Publication:
    """What was committed: the commit, and what had to be left out with the reason."""

    commit: str
    runs: tuple[RunId, ...]
    warnings: list[str] = field(default_factory=list)
    pushed: tuple[RefUpdate, ...] = ()


def publish(
    world: World, seen: Observation, runs: Sequence[tuple[TaskId, RunId]], farewell: Sequence[RefUpdate] = ()
) -> Publication:
    """Commit the evidence of `runs` and move the branch to it; with a remote, end their claims in the same push.

    `farewell` is what else that push takes away. Raise TipMoved if the branch is elsewhere by now, PublishBlocked if
    a person's work is in the way; then the records are still there, and the next pass tries again.
    """
    warnings: list[str] = []
    proofs = list(_proofs(world, runs, warnings))
    ground = ground_of(world, seen)
    documents = [each.document for each in proofs]
    files: dict[str, bytes] = {}
    for each in proofs:
        files |= each.files
    ground = replace(ground, pending=_without(ground.pending, documents))
    files |= _aggregates(world, seen, ground, documents)
    edits, modes = _edits(world, seen, [*ground.pending, *documents], warnings)
    draft = Draft(
        parent=ground.parent,
        merges=ground.merges,
        base_tree=seen.tip if ground.merges else None,
        copies=ground.copies,
        files=files | edits,
        modes=modes,
        message=_message(proofs, world.chance.nonce()),
        identity=IDENTITY,
        epoch_s=int(datetime.fromisoformat(seen.now.at).timestamp()),
    )
    if world.remote is None:
        world.repository.finish_advance(ground.branch, ground.old)
        _spare_ignored_work(world, seen, draft.files)
    commit = world.repository.make_commit(draft)
    _keep_full_logs(world, proofs)
    proven = tuple(RunId(each.document["run_id"]) for each in proofs)
    pushed: tuple[RefUpdate, ...] = ()
    if world.remote is None:
        world.repository.advance(ground.branch, ground.old, commit)
    else:
        pushed = _push(world.remote, seen, ground, commit, proven, farewell, warnings)
    if world.repository.is_sparse:
        _replace_live_records(world, proofs)
    return Publication(commit=commit, runs=proven, warnings=warnings, pushed=pushed)


def refresh(world: World, seen: Observation) -> Publication | None:
    """Bring the branch of evidence up to the branch it shall be merged into, if that has moved on."""
    ground = ground_of(world, seen)
    if not ground.merges or not ground.pending:
        return None
    return _commit(world, seen, ground, {}, f"evidence: brought up to {seen.branch}\n\n")


def record(world: World, seen: Observation, files: Mapping[str, bytes], message: str) -> Publication:
    """Commit records that go beside the evidence of runs to where that is. `message` ends with a trailer.

    Raise as `publish` does.
    """
    return _commit(world, seen, ground_of(world, seen), files, message)


def _commit(world: World, seen: Observation, ground: Ground, files: Mapping[str, bytes], message: str) -> Publication:
    """Commit files onto a ground, which keeps all it holds; a nonce is added to the message."""
    warnings: list[str] = []
    edits, modes = _edits(world, seen, ground.pending, warnings) if ground.merges else ({}, {})
    kept = _aggregates(world, seen, ground, ()) if ground.merges else {}
    draft = Draft(
        parent=ground.parent,
        merges=ground.merges,
        base_tree=seen.tip if ground.merges else None,
        copies=ground.copies,
        files={**kept, **edits, **files},
        modes=modes,
        message=f"{message}Reconciler-Nonce: {world.chance.nonce()}\n",
        identity=IDENTITY,
        epoch_s=int(datetime.fromisoformat(seen.now.at).timestamp()),
    )
    commit = world.repository.make_commit(draft)
    if world.remote is None:
        world.repository.advance(ground.branch, ground.old, commit)
        return Publication(commit=commit, runs=(), warnings=warnings)
    pushed = _push(world.remote, seen, ground, commit, (), (), warnings)
    return Publication(commit=commit, runs=(), warnings=warnings, pushed=pushed)


# ------------------------------------------------------------------------------------------------ where to


@frozen
class Ground:
    """What a commit of evidence stands on: the branch it goes to, its old value ("" if there is none yet), and its
    parents.

    With a branch of its own, the commit is made to be merged: it has the tip of the other branch among its ancestors
    and that tip's files but for evidence that waits to be merged, which is copied by object id (`copies`), and whose
    manifests are `pending`.
    """

    branch: str
    old: str
    parent: str
    merges: tuple[str, ...] = ()
    copies: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    pending: tuple[Mapping[str, Any], ...] = ()


def ground_of(world: World, seen: Observation) -> Ground:
    """Return what the next commit of evidence stands on."""
    settings, repository = seen.settings.publish, world.repository
    if settings.mode != "branch":
        return Ground(branch=seen.branch, old=seen.tip, parent=seen.tip)
    old = seen.evidence_tip
    if not old:
        return Ground(branch=settings.branch, old="", parent=seen.tip)
    trees = repository.look_up([f"{seen.tip}:.runs", f"{old}:.runs"])
    ahead = {f".runs/{path}": entry for path, entry in repository.changes(trees[0], trees[1]) if entry is not None}
    manifests = [entry.oid for path, entry in ahead.items() if _is_manifest(path)]
    read = (_json(data) for _, data in repository.blobs(manifests))
    pending = tuple(document for document in read if document is not None)
    mine = {f"{each['artifact_root']}/" for each in pending} | {_summary_root(each) for each in pending}
    kept = {path: entry for path, entry in ahead.items() if _comes_later(path) or any(map(path.startswith, mine))}
    copies = {path: (entry.mode, entry.oid) for path, entry in kept.items()}
    merges = () if repository.is_ancestor(seen.tip, old) else (seen.tip,)
    return Ground(
        branch=settings.branch, old=old, parent=old, merges=merges, copies=copies if merges else {}, pending=pending
    )


def _without(
    pending: Sequence[Mapping[str, Any]], documents: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], ...]:
    """Return the manifests that none of `documents` takes the place of."""
    replaced = {each["run_id"] for each in documents}
    return tuple(each for each in pending if each["run_id"] not in replaced)


def _is_manifest(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == 5 and parts[2] == "cli" and parts[4] == "manifest.json"


def _comes_later(path: str) -> bool:
    """Return whether a path is that of a review or a receipt, which may come long after the run it is about."""
    parts = path.split("/")
    beside = parts[4:] == ["pull_request.json"] or (len(parts) == 6 and parts[4] == "reviews")
    return len(parts) > 4 and parts[2] == "cli" and beside


def _summary_root(document: Mapping[str, Any]) -> str:
    return f".runs/{document['task_id']}/{document['run_id']}/"


def _push(
    remote: Remote,
    seen: Observation,
    ground: Ground,
    commit: str,
    runs: Sequence[RunId],
    farewell: Sequence[RefUpdate],
    warnings: list[str],
) -> tuple[RefUpdate, ...]:
    """Push the commit and delete the claims of its runs, all or nothing; return what was changed.

    A claim that has moved to another host makes the server refuse it all: who lost a run cannot publish it.
    """
    held = seen.actual.held or {}
    branch = RefUpdate(ref=f"refs/heads/{ground.branch}", old=ground.old or None, new=commit)
    ended = [RefUpdate(ref=claim_ref(each), old=held[each].oid, new=None) for each in runs if each in held]
    updates = (branch, *ended, *farewell)
    try:
        rejected = remote.push(updates, atomic=True)
    except NoAtomicPush:
        warnings.append(f"{remote.name} cannot push atomically; upgrade git there, or reconcile from one machine only")
        return _push_in_turn(remote, branch, updates[1:], ground, warnings)
    except PushUnclear as error:
        _insist(remote, branch, error)
        return updates
    if rejected:
        raise TipMoved(f"{ground.branch}: moved while evidence was made for {ground.old[:12]}")
    return updates


def push_branch(remote: Remote, branch: str, old: str, new: str) -> tuple[RefUpdate, ...]:
    """Move a branch at the remote; return what was changed. Raise TipMoved if it is not where it was."""
    update = RefUpdate(ref=f"refs/heads/{branch}", old=old, new=new)
    try:
        rejected = remote.push([update], atomic=False)
    except PushUnclear as error:
        _insist(remote, update, error)
        return (update,)
    if rejected:
        raise TipMoved(f"{branch}: moved meanwhile")
    return (update,)


def _insist(remote: Remote, update: RefUpdate, error: PushUnclear) -> None:
    """Return if an update whose answer got lost was applied all the same; raise the error if not, or if even that
    cannot be asked now."""
    try:
        applied = remote.look([update.ref]).get(update.ref) == update.new
    except TransientError:
        raise error from None
    if not applied:
        raise error


def _push_in_turn(
    remote: Remote, branch: RefUpdate, rest: Sequence[RefUpdate], ground: Ground, warnings: list[str]
) -> tuple[RefUpdate, ...]:
    """Push to a server that cannot do all or nothing: look whether the claims are ours, the branch first, then the
    deletions; return what was changed.

    What is left of them by a crash, or because the server did not want it, is released by a later pass: the evidence is
    there, so that is no reason to say that it waits.
    """
    there = remote.look([each.ref for each in rest])
    if any(there.get(each.ref) != each.old for each in rest) or remote.push([branch], atomic=False):
        raise TipMoved(f"{ground.branch}: moved while evidence was made for {ground.old[:12]}")
    left: frozenset[str] = frozenset()
    try:
        left = remote.push(rest, atomic=False)
    except PushRefused as error:
        left = (error.refused | error.rejected) or frozenset(each.ref for each in rest)
        cure = "let the reconciler delete refs below refs/reconciler/ there"
        warnings.append(f"evidence is at {remote.name}, but the claims of its runs are too: {error}; {cure}")
    except TransientError as error:
        left = frozenset(each.ref for each in rest)
        warnings.append(f"evidence is at {remote.name}; whether the claims of its runs are gone is not known: {error}")
    return (branch, *(each for each in rest if each.ref not in left))


def _spare_ignored_work(world: World, seen: Observation, files: Mapping[str, bytes]) -> None:
    """Raise PublishBlocked if a person has an untracked file where evidence outside `.runs/` would be new.

    git refuses to overwrite untracked files itself, but not those it was told to ignore.
    """
    directory = world.repository.directory
    for parent in sorted({parent for path in files for parent in _parents(path)}):
        if _is_file(world, directory / parent):
            raise PublishBlocked(f"'{parent}' is a file, and evidence needs a directory there; move or remove it")
    theirs = [path for path in files if not path.startswith(".runs/") and _is_file(world, directory / path)]
    tracked = world.repository.look_up([f"{seen.tip}:{path}" for path in theirs])
    for path, oid in zip(theirs, tracked, strict=True):
        if oid is None and world.disk.read(directory / path, len(files[path]) + 1) != files[path]:
            raise PublishBlocked(f"it would overwrite your work in {path}; commit, move or remove it")


def _parents(path: str) -> Iterable[str]:
    """Return the directories a path leads through, "" being the uppermost."""
    while path:
        path = path.rpartition("/")[0]
        yield path


def _is_file(world: World, path: Path) -> bool:
    found = world.disk.look(path)
    return found is not None and not found.is_directory


def _proofs(world: World, runs: Sequence[tuple[TaskId, RunId]], warnings: list[str]) -> Iterable[Proof]:
    """Return the evidence of every run that has any; one whose records cannot be read holds up nobody else."""
    found = []
    for task_id, run_id in runs:
        try:
            found.append(proof(world, task_id, run_id, warnings))
        except (TransientError, OSError) as error:
            warnings.append(f"{run_id}: no evidence can be made: {error}")
    if not found:
        raise PublishBlocked("; ".join(warnings))
    return found


# ------------------------------------------------------------------------------------------------ one run


def proof(world: World, task_id: str, run_id: str, warnings: list[str]) -> Proof:
    """Return the evidence of a run that has ended, from its records and logs; deliver what it names first."""
    directory = world.runs.directory(task_id, run_id)
    records = read_records(world, task_id, run_id)
    hidden = unsayable(records.plan.redact.mode)
    records = clean_records(records, hidden)
    document = manifest.manifest(records, updated_at=world.now().at, heartbeat_at=_last_beat(directory))
    files: dict[str, bytes] = {}
    for command in document["commands"]:  # type: ignore[attr-defined]
        files |= _command_files(directory, document, command, records.plan.log_bytes_max, hidden)
    if document["status"] == Status.SUCCEEDED and wants_delivery(records.plan):
        document["delivered"], warning = deliver(
            world, records.plan, directory, str(document["completed_at"]), IDENTITY
        )
        warnings += [warning] if warning else []
    data = codec.render(document)
    summary = manifest.run_summary(document, hashlib.sha256(data).hexdigest(), records)
    files[manifest.manifest_path(task_id, run_id)] = data
    files[manifest.summary_path(task_id, run_id)] = codec.render(summary)
    return Proof(document=document, data=data, files=files)


def _last_beat(directory: RunDirectory) -> str | None:
    return beat.at if (beat := rundir.read_beat(directory)) else None


def _command_files(
    directory: RunDirectory,
    document: Mapping[str, Any],
    command: dict[str, Any],
    bytes_max: int,
    hidden: Sequence[bytes],
) -> dict[str, bytes]:
    """Return the bounded log of a stage and, if it failed, its error file; note in the manifest what is there."""
    files: dict[str, bytes] = {}
    root = document["artifact_root"]
    log = b""
    if command["log_path"] is not None:
        place = directory.place(command["log_path"].removeprefix(f"{root}/"))
        clean_log(directory.disk, _whole(directory.disk, place), command, hidden)
        log = bounded(directory.disk, place, bytes_max)
        files[command["log_path"]] = log
        command["log_committed_bytes"] = len(log)
    answer = command["answer"]
    for each in answer["files"] if answer is not None else ():
        found = _artifact(directory, each["path"].removeprefix(f"{root}/"), each["bytes"], each["sha256"])
        if found is not None:
            files[each["path"]] = clean_file(found, each, hidden)
    if command["error_file"] is not None:
        tail = log[-ERROR_TAIL_BYTES:].decode(errors="replace")
        files[command["error_file"]] = codec.render(manifest.error_document(command, tail))
    return files


def _artifact(directory: RunDirectory, name: str, size: int, sha256: str) -> bytes | None:
    """Return a file that a stage left as evidence; None if it is not what the stage answered for, or too large."""
    parts = name.split("/")
    if parts[0] != ARTIFACTS or {"", ".", ".."} & set(parts) or size > ARTIFACT_BYTES_MAX:
        return None
    with contextlib.suppress(OSError):
        data = directory.disk.read(directory.path / name, size + 1)
        return data if hashlib.sha256(data).hexdigest() == sha256 else None
    return None


def full_log(disk: Disk, path: Path) -> Path:
    """Return where the whole of a log is: beside it, once it is evidence."""
    return Path(_whole(disk, str(path)))


def _whole(disk: Disk, path: str) -> str:
    full = _beside(path)
    return full if disk.exists(full) else path


def _beside(path: str) -> str:
    return f"{path.removesuffix('.log')}.full.log"


def bounded(disk: Disk, path: str, bytes_max: int) -> bytes:
    """Return the log at `path` whole if it is at most `bytes_max` long, else its head and tail with a line between
    them."""
    path = _whole(disk, path)
    found = disk.look(path)
    if found is None:
        return b""
    if found.bytes <= bytes_max:
        return disk.read(path, bytes_max)
    marker = f"\n[... {found.bytes - bytes_max} of {found.bytes} bytes left out ...]\n".encode()
    head = disk.read(path, bytes_max // 2)
    return head + marker + disk.read(path, bytes_max, at=found.bytes - (bytes_max - len(head)) + len(marker))


def _keep_full_logs(world: World, proofs: Iterable[Proof]) -> None:
    """Give logs a second name that is no tracked path: moving the checkout puts the bounded copy in their place, and
    a `git reset` behind the evidence takes that copy away."""
    for each in proofs:
        for command in each.document["commands"]:
            if command["log_path"]:
                path = f"{world.checkout}/{command['log_path']}"
                with contextlib.suppress(FileExistsError, FileNotFoundError):
                    world.disk.link(path, _beside(path))


def _replace_live_records(world: World, proofs: Iterable[Proof]) -> None:
    """Put evidence in the place of the live records it was made of, where git would leave them: what lies outside of a
    sparse checkout it does not write, and shows as edited for ever."""
    for path, data in (file for each in proofs for file in each.files.items()):
        place = world.repository.directory / path
        with contextlib.suppress(OSError):  # what is committed is committed
            if _is_file(world, place) and world.disk.read(place, len(data) + 1) != data:
                world.disk.write_atomic(place, data, sync=False)


# ------------------------------------------------------------------------------------------------ aggregates


def _aggregates(
    world: World, seen: Observation, ground: Ground, documents: Sequence[Mapping[str, Any]]
) -> dict[str, bytes]:
    """Return metrics, state and page of every task that has a run among `documents`, and the drift of those of which a
    control plane was shown one.

    They go on from what the tip says; evidence that waits to be merged is counted again, because they are made for
    the text that the tip has by now.
    """
    counted = [each for each in (*ground.pending, *documents) if _has_ended(each)]
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for document in counted:
        by_task.setdefault(document["task_id"], []).append(document)
    tasks = sorted(by_task)
    replaced = _replaced(world, seen, counted)
    sampled = {task for task in tasks if any(map(drift.is_sampled, by_task[task]))}
    paths = [path for task in tasks for path in _aggregate_paths(task)[:2]]
    read = _documents(world, seen, [*paths, *map(drift.drift_path, sorted(sampled))])
    files: dict[str, bytes] = {}
    for task in tasks:
        metrics_path, state_path, page_path = _aggregate_paths(task)
        old = [each for each in replaced if each["task_id"] == task and _has_ended(each)]
        metrics = aggregate.metrics(read.get(metrics_path), task, by_task[task], old, seen.now.at)
        state = aggregate.state(read.get(state_path), metrics, by_task[task], seen.now.at)
        files[metrics_path], files[state_path] = codec.render(metrics), codec.render(state)
        files[page_path] = aggregate.page(state).encode()
        if task in sampled:
            path = drift.drift_path(task)
            files[path] = codec.render(drift.aggregate(read.get(path), task, by_task[task], old, seen.now.at))
    return files


def _has_ended(document: Mapping[str, Any]) -> bool:
    """Return whether a run counts: one that waits is evidence that it does, and nothing more."""
    return Status(document["status"]).ended


def _aggregate_paths(task: str) -> tuple[str, str, str]:
    return f".runs/{task}/metrics.json", f"out/{task}/state.json", f"out/{task}/README.md"


def _replaced(world: World, seen: Observation, documents: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the manifests at the tip that `documents` take the place of: those of runs that were resumed."""
    paths = [f"{seen.tip}:{each['artifact_root']}/manifest.json" for each in documents]
    blobs = [oid for oid in world.repository.look_up(paths) if oid is not None]
    return [document for _, data in world.repository.blobs(blobs) if (document := _json(data)) is not None]


def _documents(world: World, seen: Observation, paths: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Return the JSON objects at the tip by path; what is not there or not JSON is left out."""
    oids = world.repository.look_up([f"{seen.tip}:{path}" for path in paths])
    there = [(path, oid) for path, oid in zip(paths, oids, strict=True) if oid is not None]
    read = world.repository.blobs([oid for _, oid in there])
    found = {path: _json(data) for (path, _), (_, data) in zip(there, read, strict=True)}
    return {path: document for path, document in found.items() if document is not None}


def _json(data: bytes | None) -> Mapping[str, Any] | None:
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(data or b"")
        return document if isinstance(document, dict) else None
    return None


# ------------------------------------------------------------------------------------------------ edits


def _edits(
    world: World, seen: Observation, documents: Sequence[Mapping[str, Any]], warnings: list[str]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the checklists and the registry of tasks as they become, and the modes of these files."""
    links = _links(documents)
    paths = [INDEX_PATH]
    if links:
        paths += world.repository.search(seen.tip, tuple(links), seen.settings.checklists)
    entries = world.repository.files_at(seen.tip, paths)
    read = dict(world.repository.blobs({entry.oid for entry in entries}))
    edited: dict[str, bytes] = {}
    for entry in entries:
        before = read[entry.oid]
        after = _edited(entry.path, before, links, documents, warnings) if before is not None else None
        if after is not None and after != before:
            edited[entry.path] = after
    return edited, {entry.path: entry.mode for entry in entries}


def _edited(
    path: str,
    data: bytes,
    links: Mapping[str, Link],
    documents: Sequence[Mapping[str, Any]],
    warnings: list[str],
) -> bytes | None:
    """Return a file with its edits, None (and a warning) if it is not what it should be: nobody else waits for it."""
    from reconciler import checklist

    try:
        return _gated(data, documents) if path == INDEX_PATH else checklist.tick(data, links, path)
    except ContentError as error:
        warnings.append(str(error))
        return None


def _links(documents: Sequence[Mapping[str, Any]]) -> dict[str, Link]:
    """Return item id -> what proves it; of several successes the one that ended last."""
    succeeded = [each for each in documents if each["status"] == "succeeded"]
    ordered = sorted(succeeded, key=lambda each: str(each["completed_at"]))
    return {
        item: Link(run_id=each["run_id"], manifest_path=f"{each['artifact_root']}/manifest.json")
        for each in ordered
        for item in each["proves"]
    }


def _gated(data: bytes, documents: Sequence[Mapping[str, Any]]) -> bytes:
    """Return `tasks/index.json` with the gate of every task set by the newest of its runs."""
    from reconciler import checklist

    ended = filter(_has_ended, documents)
    newest = {each["task_id"]: each for each in sorted(ended, key=lambda each: str(each["completed_at"]))}
    for task_id, each in newest.items():
        gate = {
            "status": each["status"],
            "run_id": each["run_id"],
            "manifest_path": f"{each['artifact_root']}/manifest.json",
            "updated_at": each["completed_at"],
        }
        data = checklist.set_gate(data, INDEX_PATH, task_id, gate)
    return data


# ------------------------------------------------------------------------------------------------ the message


def _message(proofs: Sequence[Proof], nonce: str) -> str:
    """Return a subject people can read and trailers machines can. The nonce makes every commit unmistakable."""
    lines = [_subject(proofs), ""]
    for each in proofs:
        document = each.document
        request = document["request"]
        lines += [
            f"Reconciler-Run: {document['run_id']} {document['status']}",
            f"Reconciler-Manifest: {each.path} sha256:{each.sha256}",
            f"Reconciler-Request: {request['path']}@{request['blob']}",
        ]
    return "\n".join([*lines, f"Reconciler-Nonce: {nonce}", ""])


def _subject(proofs: Sequence[Proof]) -> str:
    if len(proofs) == 1:
        document = proofs[0].document
        return f"evidence: {document['name']} {document['status']}"
    statuses = [each.document["status"] for each in proofs]
    counts = [
        f"{statuses.count(each)} {each}" for each in ("succeeded", "failed", "cancelled", "waiting") if each in statuses
    ]
    return f"evidence: {len(proofs)} runs ({', '.join(counts)})"
