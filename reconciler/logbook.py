"""One run as it is written down: its manifest and its logs, live or committed. What `logs`, `why` and the API read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reconciler import manifest
from reconciler.errors import TransientError, UsageError
from reconciler.model import RunId, TaskId
from reconciler.phases import ENDED, phase
from reconciler.publish import full_log
from reconciler.records import read_records
from reconciler.survey import Survey, task_of
from reconciler.values import frozen
from reconciler.world import World

READ_BYTES = 1 << 16
WHOLE_BYTES = 1 << 62
ENGINE_BYTES_MAX = 1 << 20
"""So much is shown of what an attempt has printed at its engine, the end of it."""


@frozen(kw_only=False)
class Logbook:
    """Where one run is written down: its records on this machine, or the manifest and the logs at the tip."""

    world: World
    found: Survey
    run_id: RunId
    task_id: TaskId

    def commands(self, stage: str | None) -> list[dict[str, Any]]:
        """Return the entries of stages that have a log. Raise UsageError for a stage that is none."""
        every: list[dict[str, Any]] = list(self.document()["commands"])
        if stage is not None and stage not in {each["id"] for each in every}:
            raise UsageError(f"{self.run_id} has no stage '{stage}'; its stages: {', '.join(e['id'] for e in every)}")
        return [each for each in every if each["log_path"] and stage in (None, each["id"])]

    def elsewhere(self, stage: str | None) -> list[str]:
        """Return where the logs are of stages that were not executed in this run."""
        entries = [each for each in self.document()["commands"] if stage in (None, each["id"])]
        cited = {each["id"]: each["reused"] for each in entries if each.get("reused")}
        return [
            f"stage '{name}' was not executed; see: reconciler logs {each['run_id']} {each['stage']}"
            for name, each in cited.items()
        ]

    def document(self) -> Mapping[str, Any]:
        """Return the manifest: as its records are now, else the committed one. Raise UsageError if there is neither."""
        try:
            records = read_records(self.world, self.task_id, self.run_id)
            return manifest.manifest(records, updated_at="", heartbeat_at=None)
        except TransientError:
            document = self.committed_document()
            if document is None:
                raise UsageError(f"{self.run_id} has not started yet; see: reconciler why {self.run_id}") from None
            return document

    def committed_document(self) -> Mapping[str, Any] | None:
        """Return the manifest as the tip proves it, None where it does not."""
        evidence = self.found.seen.actual.evidence.get(self.run_id)
        if evidence is None:
            return None
        data = next(self.world.repository.blobs([evidence.manifest_blob]))[1]
        document: Mapping[str, Any] = json.loads(data or b"{}")
        return document

    def file(self, log_path: str) -> Path:
        return full_log(self.world.disk, self.world.checkout / log_path)

    def committed(self, log_path: str) -> bytes:
        """Return the bounded copy of a log at the tip."""
        oid = self.world.repository.look_up([f"{self.found.seen.tip}:{log_path}"])[0]
        data = next(self.world.repository.blobs([oid]))[1] if oid else None
        return data or b""

    def at_engine(self) -> bytes:
        """Return the end of what the newest attempt has printed where an engine executes it, redacted by the attempt;
        nothing for any other, or one that has ended. Raise TransientError if the engine cannot be asked."""
        run = self.found.seen.actual.runs.get(self.run_id)
        if run is None or not run.is_afar or phase(run, self.world.now()) in ENDED:
            return b""
        from reconciler.afar.attempts import Afar  # what deals with engines is loaded for those runs alone

        return Afar(self.world).logs(run, self.found.seen.settings, ENGINE_BYTES_MAX)

    def ended(self) -> bool:
        run = self.world.runs.observe(self.task_id, self.run_id)
        return run is None or phase(run, self.world.now()) in ENDED

    def chunks(self, log_path: str, offset: int = 0, bytes_max: int | None = None) -> Iterator[bytes]:
        """Yield a log from an offset on, at most `bytes_max` of it: the whole one of this machine, else the committed
        copy."""
        left = WHOLE_BYTES if bytes_max is None else bytes_max
        file = self._regular(log_path)
        if file is None:
            yield self.committed(log_path)[offset : offset + left]
            return
        while left > 0 and (chunk := self.world.disk.read(file, min(READ_BYTES, left), offset)):
            offset, left = offset + len(chunk), left - len(chunk)
            yield chunk

    def _regular(self, log_path: str) -> Path | None:
        """Return the file of a log, None where there is none: a stage may write beside its logs, so links are not
        followed."""
        disk, file = self.world.disk, self.file(log_path)
        folder = disk.look(file.parent)
        if folder is None or not folder.is_directory or disk.look(file) is None or file.is_symlink():
            return None
        return file


def of(world: World, found: Survey, run_id: RunId) -> Logbook:
    return Logbook(world, found, run_id, task_of(found, run_id))
