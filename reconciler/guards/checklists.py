"""`guard: checklists`: mirrors agree, and every ticked item is proven by evidence that is there and true."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from reconciler import checklist, parse
from reconciler.check import load_json
from reconciler.checklist import Item
from reconciler.errors import ContentError
from reconciler.globs import matches
from reconciler.guards.findings import EVERYWHERE, Finding, Report, listed, report_of, texts
from reconciler.model import Rejection, Settings, Severity
from reconciler.scaffold import INDEX_PATH
from reconciler.values import frozen

if TYPE_CHECKING:
    from reconciler.guards.scene import Scene

_MANIFEST = re.compile(r"\.runs/([^/]+)/cli/([^/]+)/manifest\.json")
CITED_MAX = 1000
"""So many manifests that others cite are looked at."""
_TICK_CURE = "let a run prove it ('proves' in its request), or untick it"


@frozen
class Place:
    """An item and the file it stands in. `manifest_path` is where its evidence leads, from the root; None where it has
    none, or it leads out of the repository."""

    path: str
    item: Item
    manifest_path: str | None


@frozen
class Task:
    """An entry of the registry: its checklist, and the files that repeat it. Lines are of the registry; `said` tells
    whether it names its checklist itself."""

    id: str
    line: int
    path: str
    said: bool
    mirrors: tuple[tuple[int, str], ...]


@frozen
class Proof:
    """A manifest at the commit: what it says, the SHA-256 of its bytes, and those that others name for it."""

    document: Mapping[str, Any] | None
    sha256: str
    known_sha256: tuple[str, ...] = ()


def check(scene: Scene, options: Mapping[str, object]) -> Report:
    """Judge the checklists of a workspace by the evidence at the run's commit."""
    registry = scene.read([INDEX_PATH])[INDEX_PATH] if INDEX_PATH in scene.paths else None
    tasks, found = tasks_of(registry)
    patterns = texts(options, "checklists") or Settings().checklists
    named = {path for task in tasks for path in (task.path, *(mirror for _, mirror in task.mirrors))}
    paths = sorted(each for each in scene.paths if each in named or matches(patterns, each))
    places, unread = places_of(scene.read(paths))
    proofs = _proofs(scene, places)
    found += [
        *unread,
        *disagreements(tasks, places, scene.paths),
        *unproven(places, proofs, strict=options.get("strict") is True),
        *astray(places, proofs, _cited(scene, proofs)),
        *(_nothing() if not places else ()),
    ]
    return report_of(found, len(places))


def _nothing() -> Iterator[Finding]:
    cure = "end the line of a checkbox with <!-- item: <id> -->"
    yield Finding(path=EVERYWHERE, reason="no checklist has an item", cure=cure, severity=Severity.WARNING)


def _proofs(scene: Scene, places: Sequence[Place]) -> dict[str, Proof]:
    """Return the manifests at the run's commit that ticked items name, by path."""
    wanted = sorted({each.manifest_path for each in places if each.item.ticked and each.manifest_path is not None})
    manifests = {path: data for path, data in scene.at_commit(wanted).items() if data is not None}
    summaries = scene.at_commit([_summary_path(path) for path in manifests if _MANIFEST.fullmatch(path)])
    told = scene.manifest_digests if manifests else {}
    return {path: proof_of(path, data, summaries, told) for path, data in manifests.items()}


def _cited(scene: Scene, proofs: Mapping[str, Proof]) -> dict[str, str]:
    """Return the SHA-256 of the manifests at the run's commit that proofs cite for stages they did not execute."""
    wanted = sorted({path for proof in proofs.values() for _, path, _ in citations(proof)})[:CITED_MAX]
    found = scene.at_commit(wanted).items()
    return {path: hashlib.sha256(data).hexdigest() for path, data in found if data is not None}


# ------------------------------------------------------------------------------------------------ what is there


def tasks_of(registry: bytes | None) -> tuple[list[Task], list[Finding]]:
    """Return the tasks of the registry, and what keeps it from being read."""
    if registry is None:
        return [], []
    document = load_json(registry, INDEX_PATH)
    if isinstance(document, Rejection):
        return [], [
            Finding(path=INDEX_PATH, line=each.line, reason=each.reason, cure=each.cure) for each in document.problems
        ]
    tasks = []
    for pointer, entry in parse.at(document.value, "items.[]"):
        if isinstance(entry, dict) and isinstance(task_id := entry.get("id"), str):
            mirrors = [
                (document.marks[(*pointer, *way)][0], posixpath.normpath(each))
                for way, each in parse.at(entry, "mirrors.[]")
                if isinstance(each, str)
            ]
            path, said = f"tasks/{task_id}.md", isinstance(entry.get("path"), str)
            path = posixpath.normpath(entry["path"]) if said else path
            line = document.marks[pointer][0]
            tasks.append(Task(id=task_id, line=line, path=path, said=said, mirrors=tuple(mirrors)))
    return tasks, []


def places_of(files: Mapping[str, bytes | None]) -> tuple[list[Place], list[Finding]]:
    """Return every item of the checklists, and which of them cannot be read."""
    places: list[Place] = []
    found: list[Finding] = []
    for path, data in files.items():
        if data is None:
            found.append(Finding(path=path, reason="this is no regular file, or too large", cure="make it one"))
            continue
        try:
            places += [
                Place(path=path, item=each, manifest_path=_target(path, each)) for each in checklist.items(data, path)
            ]
        except ContentError as error:
            found.append(Finding(path=path, reason=str(error).removeprefix(f"{path}: "), cure=""))
    return places, found


def _target(path: str, item: Item) -> str | None:
    """Return where the evidence of an item leads, from the root of the repository."""
    said = item.evidence_path
    if said is None or re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|/", said):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), said))
    return None if target == ".." or target.startswith("../") else target


def _summary_path(manifest_path: str) -> str:
    return _MANIFEST.sub(r".runs/\1/\2/manifest.json", manifest_path)


def proof_of(path: str, data: bytes, summaries: Mapping[str, bytes | None], told: Mapping[str, str]) -> Proof:
    """Return a manifest with the digests that are known of it: its run summary names one, a commit of evidence too."""
    summary = _json(summaries.get(_summary_path(path)) or b"")
    named = [(summary or {}).get("manifest_sha256"), told.get(path)]
    known = tuple(each for each in named if isinstance(each, str))
    return Proof(document=_json(data), sha256=hashlib.sha256(data).hexdigest(), known_sha256=known)


def _json(data: bytes) -> Mapping[str, Any] | None:
    with suppress(ValueError, RecursionError):
        value = json.loads(data)
        return value if isinstance(value, dict) else None
    return None


# ------------------------------------------------------------------------------------------------ mirrors


def disagreements(tasks: Sequence[Task], places: Sequence[Place], paths: Iterable[str]) -> Iterator[Finding]:
    """Yield a finding wherever one item is told in two ways, and wherever a mirror repeats not all, or too much."""
    present = frozenset(paths)
    yield from _missing_files(tasks, present)
    yield from _told_twice(places)
    items: dict[str, dict[str, Place]] = {}
    for each in places:
        items.setdefault(each.path, {}).setdefault(each.item.id, each)
    for mirror in sorted({path for task in tasks for _, path in task.mirrors} & present):
        mirrored = [task for task in tasks if mirror in (path for _, path in task.mirrors) and task.path in present]
        yield from _incomplete(mirror, mirrored, items)


def _missing_files(tasks: Sequence[Task], present: frozenset[str]) -> Iterator[Finding]:
    for task in tasks:
        named = [(task.line, task.path)] if task.said or task.mirrors else []
        for line, path in (*named, *task.mirrors):
            if path not in present:
                reason = f"task {task.id} names {path}, which is not there"
                yield Finding(
                    path=INDEX_PATH, line=line, reason=reason, cure="write it, or take it out of the registry"
                )


def _told_twice(places: Sequence[Place]) -> Iterator[Finding]:
    first: dict[str, Place] = {}
    for each in places:
        other = first.setdefault(each.item.id, each)
        where = f"{other.path}:{other.item.line}"
        if each.item.ticked != other.item.ticked:
            how, there = ("ticked", "not") if each.item.ticked else ("not ticked", "so")
            reason = f"item {each.item.id} is {how} here and {there} in {where}"
            yield _at(each, reason, "tick both by one run, or untick both")
        elif each.item.ticked and (each.item.evidence_run, each.manifest_path) != (
            other.item.evidence_run, other.manifest_path,
        ):  # fmt: skip
            reason = f"item {each.item.id} has other evidence here than in {where}"
            yield _at(each, reason, "let one run prove both: every file that 'checklists' means is ticked together")


def _incomplete(mirror: str, tasks: Sequence[Task], items: Mapping[str, Mapping[str, Place]]) -> Iterator[Finding]:
    repeated = items.get(mirror, {})
    known: set[str] = set()
    for task in tasks:
        own = items.get(task.path, {})
        known |= own.keys()
        if missing := sorted(own.keys() - repeated.keys()):
            reason = f"it mirrors {task.path} and lacks {listed(missing)}"
            yield Finding(path=mirror, reason=reason, cure="repeat every item with its comment")
    for item_id in repeated.keys() - known if tasks else ():
        reason = (
            f"item {item_id} stands in no checklist that this file mirrors ({listed([each.path for each in tasks])})"
        )
        yield _at(repeated[item_id], reason, "add it there, or remove it here")


# ------------------------------------------------------------------------------------------------ evidence


def unproven(places: Sequence[Place], proofs: Mapping[str, Proof], *, strict: bool) -> Iterator[Finding]:
    """Yield a finding for every ticked item that no true evidence proves."""
    for each in places:
        if not each.item.ticked:
            continue
        if each.item.evidence_path is None:
            severity = Severity.ERROR if strict else Severity.WARNING
            yield _at(each, f"item {each.item.id} is ticked without evidence", _TICK_CURE, severity)
            continue
        fault = evidence_fault(each, proofs)
        if fault:
            yield _at(each, f"the evidence of item {each.item.id} {fault}", _TICK_CURE)
        elif not _claims(each, proofs):
            severity = Severity.ERROR if strict else Severity.WARNING
            reason = f"run {each.item.evidence_run} does not say that it proves item {each.item.id}"
            yield _at(each, reason, _TICK_CURE, severity)


def evidence_fault(place: Place, proofs: Mapping[str, Proof]) -> str:
    """Return what is wrong with the evidence of an item, "" if it is as it should be."""
    path = place.manifest_path
    if path is None:
        return f"leads out of the repository ({place.item.evidence_path})"
    proof = proofs.get(path)
    if proof is None:
        return f"is not there at the commit ({path})"
    if proof.document is None or "status" not in proof.document:
        return f"is no manifest ({path})"
    if (status := proof.document["status"]) != "succeeded":
        return f"is of a run that has not succeeded, its status is {status!r}"
    if (run_id := proof.document.get("run_id", place.item.evidence_run)) != place.item.evidence_run:
        return f"names run {place.item.evidence_run} and is of run {run_id}"
    if any(each != proof.sha256 for each in proof.known_sha256):
        return f"was altered: the SHA-256 of {path} is not the one that was published"
    return ""


def astray(places: Sequence[Place], proofs: Mapping[str, Proof], there: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a warning where the evidence of an item cites a success whose own evidence is gone, or is another one by
    now. It was there when it was cited, so the item is proven; whoever wants to read it finds it in the history."""
    for each in places:
        proof = proofs.get(each.manifest_path or "") if each.item.ticked else None
        for run_id, path, sha256 in citations(proof) if proof is not None else ():
            if there.get(path) != sha256:
                how = "is not there any more" if path not in there else "has changed since"
                reason = f"the evidence of item {each.item.id} cites run {run_id}, whose manifest {how} ({path})"
                yield _at(each, reason, "it is in the history; 'rerun' proves it anew", Severity.WARNING)


def citations(proof: Proof) -> list[tuple[str, str, str]]:
    """Return (run id, path of its manifest, SHA-256) of every earlier success that a manifest cites."""
    commands = (proof.document or {}).get("commands")
    reused = [each.get("reused") for each in commands if isinstance(each, dict)] if isinstance(commands, list) else []
    found = [(each, each.get("manifest")) for each in reused if isinstance(each, dict)]
    return [
        (str(each.get("run_id")), path, str(proven.get("sha256")))
        for each, proven in found
        if isinstance(proven, dict) and isinstance(path := proven.get("path"), str) and _is_manifest(path)
    ]


def _is_manifest(path: str) -> bool:
    return path.isprintable() and bool(_MANIFEST.fullmatch(path))


def _claims(place: Place, proofs: Mapping[str, Proof]) -> bool:
    proof = proofs[place.manifest_path or ""]
    proves = (proof.document or {}).get("proves")
    return not isinstance(proves, list) or place.item.id in proves


def _at(place: Place, reason: str, cure: str, severity: Severity = Severity.ERROR) -> Finding:
    return Finding(path=place.path, line=place.item.line, reason=reason, cure=cure, severity=severity)
