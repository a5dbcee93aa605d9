"""Put evidence into git: one commit for all runs that ended, made for the tip it names and for no other.

Nothing is merged as text: when the tip has moved, everything is computed again from the records and the new tip.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from reconciler import aggregate, codec, manifest, rundir
from reconciler.disk import Disk
from reconciler.errors import ContentError, PublishBlocked, TransientError
from reconciler.git import Draft
from reconciler.model import Attempt, Claim, End, Link, Refusal, RunId, TaskId
from reconciler.observe import Observation
from reconciler.rundir import RunDirectory
from reconciler.world import World

IDENTITY = "Reconciler <reconciler@localhost>"
INDEX_PATH = "tasks/index.json"
ERROR_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
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


def publish(world: World, seen: Observation, runs: Sequence[tuple[TaskId, RunId]]) -> Publication:
    """Commit the evidence of `runs` and move the branch to it.

    Raise TipMoved if the branch is elsewhere by now, PublishBlocked if a person's work is in the way; then the
    records are still there, and the next pass tries again.
    """
    warnings: list[str] = []
    proofs = list(_proofs(world, runs, warnings))
    files: dict[str, bytes] = {}
    for each in proofs:
        files |= each.files
    files |= _aggregates(world, seen, proofs)
    edits, modes = _edits(world, seen, proofs, warnings)
    draft = Draft(
        parent=seen.tip,
        files=files | edits,
        modes=modes,
        message=_message(proofs, world.chance.nonce()),
        identity=IDENTITY,
        epoch_s=int(datetime.fromisoformat(seen.now.at).timestamp()),
    )
    _spare_ignored_work(world, seen, draft.files)
    commit = world.repository.make_commit(draft)
    _keep_full_logs(world, proofs)
    world.repository.advance(seen.branch, seen.tip, commit)
    proven = tuple(RunId(each.document["run_id"]) for each in proofs)
    return Publication(commit=commit, runs=proven, warnings=warnings)


def _spare_ignored_work(world: World, seen: Observation, files: Mapping[str, bytes]) -> None:
    """Raise PublishBlocked if a person has an untracked file where evidence outside `.runs/` would be new.

    git refuses to overwrite untracked files itself, but not those it was told to ignore.
    """
    directory = world.repository.directory
    for parent in {parent for path in files for parent in Path(path).parents}:
        if _is_file(world, directory / parent):
            raise PublishBlocked(f"'{parent}' is a file, and evidence needs a directory there; move or remove it")
    theirs = [path for path in files if not path.startswith(".runs/") and _is_file(world, directory / path)]
    tracked = world.repository.look_up([f"{seen.tip}:{path}" for path in theirs])
    for path, oid in zip(theirs, tracked, strict=True):
        if oid is None and world.disk.read(directory / path, len(files[path]) + 1) != files[path]:
            raise PublishBlocked(f"it would overwrite your work in {path}; commit, move or remove it")


def _is_file(world: World, path: Path) -> bool:
    found = world.disk.look(path)
    return found is not None and not found.is_directory


def _proofs(world: World, runs: Sequence[tuple[TaskId, RunId]], warnings: list[str]) -> Iterable[Proof]:
    """Return the evidence of every run that has any; one whose records cannot be read holds up nobody else."""
    found = []
    for task_id, run_id in runs:
        try:
            found.append(proof(world, task_id, run_id))
        except (TransientError, OSError) as error:
            warnings.append(f"{run_id}: no evidence can be made: {error}")
    if not found:
        raise PublishBlocked("; ".join(warnings))
    return found


# ------------------------------------------------------------------------------------------------ one run


def read_records(world: World, task_id: str, run_id: str) -> manifest.Records:
    """Return everything that is written down about a run. Raise TransientError if its plan cannot be read."""
    directory = world.runs.directory(task_id, run_id)
    claims = rundir.read_all(directory, "claims", Claim)
    with contextlib.suppress(codec.CodecError):
        plan = world.runs.frozen_plan(task_id, run_id, claims[max(claims)] if claims else None)
        if plan is not None:
            return manifest.Records(
                plan=plan,
                claims=claims,
                attempts=rundir.read_all(directory, "attempts", Attempt),
                ends=rundir.read_all(directory, "ends", End),
                refusals=tuple(rundir.read_all(directory, "refusals", Refusal).values()),
            )
    raise TransientError(f"{directory.path}: plan.json cannot be read")


def proof(world: World, task_id: str, run_id: str) -> Proof:
    """Return the evidence of a run that has ended, from its records and logs."""
    directory = world.runs.directory(task_id, run_id)
    records = read_records(world, task_id, run_id)
    document = manifest.manifest(records, updated_at=world.now().at, heartbeat_at=_last_beat(directory))
    files: dict[str, bytes] = {}
    for command in document["commands"]:  # type: ignore[attr-defined]
        files |= _command_files(directory, document, command, records.plan.log_bytes_max)
    data = codec.render(document)
    summary = manifest.run_summary(document, hashlib.sha256(data).hexdigest())
    files[manifest.manifest_path(task_id, run_id)] = data
    files[manifest.summary_path(task_id, run_id)] = codec.render(summary)
    return Proof(document=document, data=data, files=files)


def _last_beat(directory: RunDirectory) -> str | None:
    return beat.at if (beat := rundir.read_beat(directory)) else None


def _command_files(
    directory: RunDirectory, document: Mapping[str, Any], command: dict[str, Any], bytes_max: int
) -> dict[str, bytes]:
    """Return the bounded log of a stage and, if it failed, its error file; note in the manifest what is there."""
    files: dict[str, bytes] = {}
    root = document["artifact_root"]
    log = b""
    if command["log_path"] is not None:
        log = bounded(directory.disk, directory.path / command["log_path"].removeprefix(f"{root}/"), bytes_max)
        files[command["log_path"]] = log
        command["log_committed_bytes"] = len(log)
    if command["error_file"] is not None:
        tail = log[-ERROR_TAIL_BYTES:].decode(errors="replace")
        files[command["error_file"]] = codec.render(manifest.error_document(command, tail))
    return files


def full_log(disk: Disk, path: Path) -> Path:
    """Return where the whole of a log is: beside it, once it is evidence."""
    full = path.with_suffix(".full.log")
    return full if disk.exists(full) else path


def bounded(disk: Disk, path: Path, bytes_max: int) -> bytes:
    """Return the log at `path` whole if it is at most `bytes_max` long, else its head and tail with a line between
    them."""
    path = full_log(disk, path)
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
                path = world.checkout / command["log_path"]
                with contextlib.suppress(FileExistsError, FileNotFoundError):
                    world.disk.link(path, path.with_suffix(".full.log"))


# ------------------------------------------------------------------------------------------------ aggregates


def _aggregates(world: World, seen: Observation, proofs: Sequence[Proof]) -> dict[str, bytes]:
    """Return metrics, state and page of every task that has a run among `proofs`."""
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for each in proofs:
        by_task.setdefault(each.document["task_id"], []).append(each.document)
    tasks = sorted(by_task)
    replaced = _replaced(world, seen, proofs)
    read = _documents(world, seen, [path for task in tasks for path in _aggregate_paths(task)[:2]])
    files: dict[str, bytes] = {}
    for task in tasks:
        metrics_path, state_path, page_path = _aggregate_paths(task)
        old = [document for document in replaced if document["task_id"] == task]
        metrics = aggregate.metrics(read.get(metrics_path), task, by_task[task], old, seen.now.at)
        state = aggregate.state(read.get(state_path), metrics, by_task[task], seen.now.at)
        files[metrics_path], files[state_path] = codec.render(metrics), codec.render(state)
        files[page_path] = aggregate.page(state).encode()
    return files


def _aggregate_paths(task: str) -> tuple[str, str, str]:
    return f".runs/{task}/metrics.json", f"out/{task}/state.json", f"out/{task}/README.md"


def _replaced(world: World, seen: Observation, proofs: Sequence[Proof]) -> list[Mapping[str, Any]]:
    """Return the manifests at the tip that `proofs` take the place of: those of runs that were resumed."""
    earlier = (seen.actual.evidence.get(RunId(each.document["run_id"])) for each in proofs)
    blobs = [evidence.manifest_blob for evidence in earlier if evidence is not None]
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
    world: World, seen: Observation, proofs: Sequence[Proof], warnings: list[str]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the checklists and the registry of tasks as they become, and the modes of these files."""
    links = _links(proofs)
    paths = [INDEX_PATH]
    if links:
        paths += world.repository.search(seen.tip, tuple(links), seen.settings.checklists)
    entries = world.repository.files_at(seen.tip, paths)
    read = dict(world.repository.blobs({entry.oid for entry in entries}))
    edited: dict[str, bytes] = {}
    for entry in entries:
        before = read[entry.oid]
        after = _edited(entry.path, before, links, proofs, warnings) if before is not None else None
        if after is not None and after != before:
            edited[entry.path] = after
    return edited, {entry.path: entry.mode for entry in entries}


def _edited(
    path: str, data: bytes, links: Mapping[str, Link], proofs: Sequence[Proof], warnings: list[str]
) -> bytes | None:
    """Return a file with its edits, None (and a warning) if it is not what it should be: nobody else waits for it."""
    from reconciler import checklist

    try:
        return _gated(data, proofs) if path == INDEX_PATH else checklist.tick(data, links, path)
    except ContentError as error:
        warnings.append(str(error))
        return None


def _links(proofs: Sequence[Proof]) -> dict[str, Link]:
    """Return item id -> what proves it; of several successes the one that ended last."""
    succeeded = [each for each in proofs if each.document["status"] == "succeeded"]
    ordered = sorted(succeeded, key=lambda each: each.document["completed_at"])
    return {
        item: Link(run_id=each.document["run_id"], manifest_path=each.path)
        for each in ordered
        for item in each.document["proves"]
    }


def _gated(data: bytes, proofs: Sequence[Proof]) -> bytes:
    """Return `tasks/index.json` with the gate of every task set by the newest of its runs."""
    from reconciler import checklist

    newest = {each.document["task_id"]: each for each in sorted(proofs, key=lambda each: each.document["completed_at"])}
    for task_id, each in newest.items():
        gate = {
            "status": each.document["status"],
            "run_id": each.document["run_id"],
            "manifest_path": each.path,
            "updated_at": each.document["completed_at"],
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
    counts = [f"{statuses.count(each)} {each}" for each in ("succeeded", "failed", "cancelled") if each in statuses]
    return f"evidence: {len(proofs)} runs ({', '.join(counts)})"
