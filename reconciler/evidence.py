"""What the tip proves: the manifests that are committed, as rows that are remembered from process to process.

A row holds what a decision needs of a manifest, and is made into a value only where somebody looks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from reconciler import codec, reuse
from reconciler.cache import Cache
from reconciler.model import Evidence, Gate, RunId, StageId, Status, TaskId, Waiting
from reconciler.world import World


class Proofs:
    """The rows of evidence at the tip and, where evidence has a branch of its own, at that branch's tip as well.

    `tip` is the commit that holds the evidence, "" if its branch does not exist yet.
    """

    def __init__(self, world: World, cache: Cache) -> None:
        self.world, self.cache = world, cache
        self.rows: Mapping[str, list[Any]] = cache.evidence
        self.tip = ""

    def is_open(self, run_id: str) -> bool:
        """Return whether the end of a run is not proven."""
        return run_id not in self.rows or self.waits(run_id)

    def waits(self, run_id: str) -> bool:
        """Return whether what is proven of a run is that it waits."""
        row = self.rows.get(run_id)
        return row is not None and row[7] is not None

    def reusable(self) -> Iterator[Evidence]:
        """Yield the runs whose stages can be cited."""
        proven = Proven(self.rows)
        return (proven[RunId(run_id)] for run_id, row in self.rows.items() if row[8])

    def wanted_pull_requests(self) -> tuple[tuple[RunId, TaskId], ...]:
        """Return the runs, and their tasks, that a pull request was wanted of, whether it is there or not."""
        return tuple((RunId(run_id), TaskId(row[0])) for run_id, row in self.rows.items() if row[10])

    def read_tree(self, tree: str | None) -> Mapping[str, object]:
        """Bring the rows to a tree, reading the manifests that differ, and return the rows that are gone with it."""
        cache, gone = self.cache, {}
        if tree != cache.evidence_tree:
            rows = self._changed_rows(cache.evidence_tree, tree)
            gone = {run_id: cache.evidence.pop(run_id) for run_id in rows if run_id in cache.evidence}
            cache.evidence.update({run_id: row for run_id, row in rows.items() if row is not None})
            gone = {run_id: row for run_id, row in gone.items() if run_id not in cache.evidence}
            cache.evidence_tree, cache.changed = tree, True
        self.rows = cache.evidence
        return gone

    def read_branch(self, tip: str, tree: str | None) -> None:
        """Add the rows of a branch for evidence, at its tip, to those of a tree: what it proves and that does not
        yet."""
        if tip == self.tip and self.rows is not self.cache.evidence:
            return
        self.tip = tip
        found = self.world.repository.look_up([f"{tip}:.runs"])[0] if tip else None
        rows = self._changed_rows(tree, found) if found else {}
        self.rows = {**self.cache.evidence, **{run_id: row for run_id, row in rows.items() if row is not None}}

    def _changed_rows(self, old: str | None, new: str | None) -> dict[str, list[Any] | None]:
        """Return the rows of the manifests that differ between two trees, None for those that prove nothing (now)."""
        repository = self.world.repository
        rows: dict[str, list[Any] | None] = {}
        wanted = []
        for path, entry in repository.changes(old, new, leads_to_manifests):
            if path.endswith("/manifest.json"):
                run_id = path.split("/")[2]
                rows[run_id] = None
                if entry is not None and entry.is_file:
                    wanted.append((run_id, entry.oid))
        read = repository.blobs([oid for _, oid in wanted])
        for (run_id, oid), (_, data) in zip(wanted, read, strict=True):
            rows[run_id] = evidence_row(run_id, oid, data)
        return rows


class Proven(Mapping[RunId, Evidence]):
    """The evidence at the tip, made into values only where somebody looks."""

    def __init__(self, rows: Mapping[str, list[Any]]) -> None:
        self._rows = rows

    def __getitem__(self, run_id: RunId) -> Evidence:
        task, name, status, attempt, completed_at, duration_s, blob, waiting, reusable, cited, into = self._rows[run_id]
        return Evidence(
            run_id=run_id,
            task_id=task,
            name=name,
            status=Status(status),
            attempt=attempt,
            completed_at=completed_at,
            duration_s=duration_s,
            manifest_blob=blob,
            waiting=codec.load(Waiting, waiting) if waiting is not None else None,
            reusable=reusable or {},
            cited=cited,
            pull_request=into,
        )

    def __iter__(self) -> Iterator[RunId]:
        return (RunId(each) for each in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def frozen(self) -> Proven:
        """Return the evidence as it is now, whatever is read later."""
        return Proven(dict(self._rows))


def evidence_row(run_id: str, oid: str, data: bytes | None) -> list[Any] | None:
    """Return the row of a committed manifest, None if it proves nothing: damaged, of another run, or not ended."""
    try:
        document = json.loads(data or b"")
        status = Status(document["status"])
        if document["run_id"] != run_id or not (status.ended or status == Status.WAITING):
            return None
        attempt = max(int(each["number"]) for each in document["attempts"])
        duration_s = float(document["resources"]["duration_s"])
        completed_at = str(document["completed_at"])
        waiting = None if status.ended else _waiting(document)
        row = [str(document["task_id"]), str(document["name"]), status.value, attempt, completed_at, duration_s, oid]
        reusable = (reuse.reusable(document) if status.ended else None) or None
        return [*row, waiting, reusable, reuse.cited(document), _pull_request(run_id, document)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _pull_request(run_id: str, document: Mapping[str, Any]) -> str:
    """Return the branch that a pull request of what a run delivered is wanted into, "" if none is."""
    delivered = document.get("delivered") or {}
    into = delivered.get("pull_request") if delivered.get("branch") == f"runs/{run_id}" else None
    return into if isinstance(into, str) else ""


def _waiting(document: Mapping[str, Any]) -> Any:
    """Return what a committed manifest says its run waits for, as plain JSON values."""
    gates = tuple(
        Gate(
            stage=StageId(str(each["stage"])),
            reason=str(each["prompt"]),
            policy=str(each["policy"]),
            asked_at=_instant(each["asked_at"]),
        )
        for each in document["approvals"]
        if each["decision"] is None
    )
    digest, commit = str(document["attempts"][-1]["plan_digest"]), str(document["attempts"][-1]["commit"])
    return codec.dump(Waiting(plan_digest=digest, commit=commit, gates=gates))


def _instant(text: Any) -> str:
    """Return a UTC instant as a manifest writes it. Raise ValueError if it is none: policies reckon with it."""
    if not isinstance(text, str) or not text.endswith("Z"):
        raise ValueError("not an instant")
    datetime.fromisoformat(text)
    return text


def leads_to_manifests(path: str) -> bool:
    """Return whether a path below `.runs` is `<task>/cli/<run-id>/manifest.json` or the beginning of one."""
    parts = path.split("/")
    return parts[1:2] in ([], ["cli"]) and parts[3:4] in ([], ["manifest.json"]) and len(parts) <= 4
