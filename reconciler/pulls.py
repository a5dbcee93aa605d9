"""Pull requests of what runs delivered: wanted by their evidence, less those that a receipt proves.

The receipt is `pull_request.json` beside the manifest, committed when the forge has shown the pull request. Everything
before that is found again: the forge is looked at first, so that nothing is opened twice, whoever died in between. One
that people closed is there, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reconciler import codec, markup
from reconciler.conditions import set_condition
from reconciler.errors import GitFailed, PushUnclear, TipMoved, TransientError
from reconciler.manifest import artifact_root, manifest_path
from reconciler.model import ForgeSettings, RunId, TaskId
from reconciler.observe import Observation
from reconciler.publish import Publication, record
from reconciler.world import World

if TYPE_CHECKING:
    # What speaks with a forge is loaded when something is owed to one.
    from reconciler.forges.forge import Forge, PullRequest, Site, Wanted

Opener = Callable[[World, ForgeSettings], "Forge | str"]

SCHEMA_VERSION = 1
AT_ONCE_MAX = 5
"""So many are opened in one pass; the others come in the next."""
PATIENCE_FIRST_S = 30.0
PATIENCE_MAX_S = 3600.0
FORGE_PATIENCE_S = 15.0


def open_when_owed(world: World, settings: ForgeSettings) -> Forge | str:
    """Open the forge, which is loaded only now; a pass does not wait long for one."""
    from reconciler.forges.opening import open_forge

    return open_forge(world, settings, patience_s=FORGE_PATIENCE_S)


def receipt_path(task_id: str, run_id: str) -> str:
    return f"{artifact_root(task_id, run_id)}/pull_request.json"


@dataclass(slots=True)
class PullRequests:
    """What is owed to the forge, as one process knows it; without an `opener` nothing is."""

    world: World
    opener: Opener | None = None
    told: tuple[str, ...] = ()
    proven: set[RunId] = field(default_factory=set)
    due_s: float = 0.0
    failures: int = 0

    def settle(self, seen: Observation, wanted: Sequence[tuple[RunId, TaskId]]) -> Publication | None:
        """Open what is owed and commit the receipts, if it is time; say in `told` what happened, and as a condition
        what is in the way. Raise TipMoved or PushUnclear if the receipts could not be committed."""
        self.told = ()
        owed = self._owed(seen, wanted) if self.opener is not None else []
        if not owed:
            self._say(seen, "")
            return None
        if self.world.now().monotonic_s < self.due_s:
            return None
        receipts, reason = self._opened(seen, owed[:AT_ONCE_MAX])
        publication = None
        if receipts:
            try:
                publication = self._recorded(seen, receipts)
            except (TipMoved, PushUnclear):
                raise
            except TransientError as error:
                reason = f"its receipt cannot be committed: {error}"
        self._put_off(reason)
        self._say(seen, reason)
        return publication

    def _owed(self, seen: Observation, wanted: Sequence[tuple[RunId, TaskId]]) -> list[tuple[RunId, TaskId]]:
        """Return the runs that no receipt is committed of."""
        open_ones = [each for each in wanted if each[0] not in self.proven]
        tip = seen.evidence_tip or seen.tip
        found = self.world.repository.look_up([f"{tip}:{receipt_path(task, run)}" for run, task in open_ones])
        self.proven |= {run for (run, _), oid in zip(open_ones, found, strict=True) if oid is not None}
        return [each for each in open_ones if each[0] not in self.proven]

    def _opened(
        self, seen: Observation, owed: Sequence[tuple[RunId, TaskId]]
    ) -> tuple[dict[RunId, tuple[str, Mapping[str, Any]]], str]:
        """Return path and document of a receipt for each that is there now, and why one is not."""
        forge = "there is no remote to deliver to" if self.world.remote is None else self._forge(seen)
        if isinstance(forge, str):
            return {}, f"{owed[0][0]}: no pull request is opened: {forge}"
        receipts, reason = {}, ""
        for run_id, task_id in owed:
            try:
                wanted = self._wanted(seen, forge, task_id, run_id)
                found = forge.pull_request(wanted)
                receipts[run_id] = (receipt_path(task_id, run_id), receipt(forge.site, run_id, wanted, found))
            except TransientError as error:
                reason = f"{run_id}: no pull request is opened: {error}"
        forge.close()
        return receipts, reason

    def _forge(self, seen: Observation) -> Forge | str:
        return self.opener(self.world, seen.settings.forge) if self.opener is not None else ""

    def _wanted(self, seen: Observation, forge: Forge, task_id: TaskId, run_id: RunId) -> Wanted:
        """Return the pull request of a run as its manifest wants it. Raise GitFailed if that cannot be read."""
        tip = seen.evidence_tip or seen.tip
        path = manifest_path(task_id, run_id)
        oid = self.world.repository.look_up([f"{tip}:{path}"])[0]
        data = next((data for _, data in self.world.repository.blobs([oid])), None) if oid else None
        try:
            return wanted_of(json.loads(data or b""), forge.file_url(tip, path))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise GitFailed(f"{path}: cannot be read") from None

    def _recorded(self, seen: Observation, receipts: Mapping[RunId, tuple[str, Mapping[str, Any]]]) -> Publication:
        files = {path: codec.render(document) for path, document in receipts.values()}
        names = [f"Reconciler-Pull-Request: {run_id} {document['url']}" for run_id, (_, document) in receipts.items()]
        count = f"{len(names)} pull requests" if len(names) > 1 else f"pull request of {next(iter(receipts))}"
        publication = record(self.world, seen, files, "\n".join([f"evidence: {count}", "", *names, ""]))
        self.proven |= receipts.keys()
        self.told = tuple(f"pull request of {run}: {document['url']}" for run, (_, document) in receipts.items())
        return publication

    def _put_off(self, reason: str) -> None:
        """Let the next try come later each time that one fails."""
        self.failures = self.failures + 1 if reason else 0
        pause_s = min(PATIENCE_MAX_S, PATIENCE_FIRST_S * 2.0 ** (self.failures - 1)) if reason else 0.0
        self.due_s = self.world.now().monotonic_s + pause_s

    def _say(self, seen: Observation, reason: str) -> None:
        if self.opener is None:
            return
        set_condition(self.world.repository.state, "pull request", reason, seen.now.at, self.world.disk)
        self.told = (*self.told, *([reason] if reason else []))


# ------------------------------------------------------------------------------------------------ documents


def wanted_of(manifest: Mapping[str, Any], evidence_url: str) -> Wanted:
    """Return the pull request that a manifest wants; what people and agents wrote is shown as code."""
    from reconciler.forges.forge import Wanted

    delivered = manifest["delivered"]
    rows = {
        "run": str(manifest["run_id"]),
        "pipeline": str(manifest["pipeline_id"]),
        "task": str(manifest["task_id"]),
        "made on": str(manifest["commit"]),
        "what came of it": str(manifest["summary"]),
    }
    table = "".join(f"| {name} | {markup.code(text)} |\n" for name, text in rows.items())
    body = (
        f"What the coding agents of this run changed; [the evidence]({evidence_url}) says how.\n\n"
        f"| | |\n|---|---|\n{table}\n<!-- reconciler:run {manifest['run_id']} -->\n"
    )
    title = str(manifest["title"]) or str(manifest["name"])
    return Wanted(head=str(delivered["branch"]), base=str(delivered["pull_request"]), title=title, body=body)


def receipt(site: Site, run_id: RunId, wanted: Wanted, found: PullRequest) -> Mapping[str, Any]:
    """Return the document that proves a pull request."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "forge": site.kind.value,
        "repository": site.repository,
        "number": found.number,
        "url": found.url,
        "head": wanted.head,
        "base": wanted.base,
    }
