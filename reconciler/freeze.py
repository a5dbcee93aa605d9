"""Complete a plan before it is frozen: whose text its stages act on, and which earlier successes stand for theirs.

Both need git and the evidence at the tip, and both are asked for once, for a run that is about to be claimed: what
waits costs nothing. What is found is part of the frozen plan, so that nobody decides it anew while the run lives.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler import inputs, manifest, reuse, trust
from reconciler.actions import Action, Launch, Restore, TakeOver
from reconciler.evidence import Proven
from reconciler.git import Repository
from reconciler.globs import matches
from reconciler.model import Cited, Plan, PlannedStage, RunId, StageId, Text
from reconciler.observe import Observer

CANDIDATES_MAX = 20
"""So many earlier successes with one key are looked at, the newest first."""


@dataclass(slots=True)
class Freezer:
    """Completes plans for one observer; what it found out it forgets when the tip or the evidence is another one."""

    observer: Observer
    seen: tuple[str | None, str] = (None, "")
    believed: dict[tuple[str, str], Text | None] = field(default_factory=dict)
    index: dict[str, list[tuple[str, RunId]]] | None = None

    @property
    def _repository(self) -> Repository:
        return self.observer.world.repository

    def complete_all(self, actions: Sequence[Action]) -> tuple[Action, ...]:
        """Return the actions, those that freeze a plan with one that is complete."""
        return tuple(
            replace(each, plan=self.complete(each.plan)) if isinstance(each, Launch | TakeOver | Restore) else each
            for each in actions
        )

    def complete(self, plan: Plan, *, cites: bool = True) -> Plan:
        """Return a plan with the verdict on its text, and with the keys of its stages. What a person wants executed
        (`rerun`, or not `cites`) cites no earlier success."""
        if not any(each.untrusted or each.reuse is not None for each in (*plan.stages, *plan.roles.judges)):
            return plan
        now = (self.observer.tip.commit, self.observer.proofs.tip)
        if now != self.seen:
            self.seen, self.believed, self.index = now, {}, None
        judged = tuple(replace(each, untrusted=self._unbelieved(plan, each)) for each in plan.stages)
        stages = self._keyed(replace(plan, stages=trust.spread(judged)))
        if cites and not plan.rerun:
            stages = tuple(replace(each, cited=self._cited(each)) for each in stages)
        judges = (replace(each, untrusted=self._unbelieved(plan, each)) for each in plan.roles.judges)
        roles = replace(plan.roles, judges=tuple(trust.behind(each, stages) for each in judges))
        return replace(plan, stages=stages, roles=roles)

    # -------------------------------------------------------------------------------------------- trust

    def _unbelieved(self, plan: Plan, stage: PlannedStage) -> tuple[Text, ...]:
        found = (self._judged(plan.commit, each.path) for each in stage.untrusted)
        return tuple(each for each in found if each is not None)

    def _judged(self, commit: str, path: str) -> Text | None:
        """Return the text at a path of a commit, None if somebody who is believed signed its last change."""
        if (commit, path) not in self.believed:
            signers = self.observer.approvals.signers()
            change = self._repository.last_change(commit, path, signers)
            signed = change is not None and signers is not None and change.signer is not None
            blob = self._repository.look_up([f"{commit}:{path}"])[0] or ""
            text = Text(path=path, blob=blob, commit=change.commit if change is not None else "")
            self.believed[commit, path] = None if signed else text
        return self.believed[commit, path]

    # -------------------------------------------------------------------------------------------- reuse

    def _keyed(self, plan: Plan) -> tuple[PlannedStage, ...]:
        """Return the stages of a plan, those that may be reused with their keys."""
        keys: dict[StageId, str] = {}
        by_id = {each.id: each for each in plan.stages}
        ahead = list(by_id)
        while ahead:
            # The parser has refused cycles: of those that are left, one needs none of the others.
            each = next(each for each in ahead if not set(by_id[each].needs) & set(ahead))
            ahead.remove(each)
            keys[each] = self._key(plan, by_id[each], keys)
        return tuple(replace(each, reuse_key=keys[each.id]) for each in plan.stages)

    def _key(self, plan: Plan, stage: PlannedStage, keys: Mapping[StageId, str]) -> str:
        if stage.reuse is None:
            return ""
        return reuse.key(
            stage,
            found={each: self._lies_at(plan.commit, each) for each in stage.reuse.paths},
            variables={each: _digest(os.environ.get(each)) for each in stage.reuse.env},
            platform=f"{platform.system()} {platform.machine()}",
            missing=plan.sandbox_missing,
            needs={each: keys[each] for each in stage.needs if keys[each]},
        )

    def _lies_at(self, commit: str, path: str) -> str | None:
        """Return an id for what lies at a path of a commit, or at all paths that a pattern means; None for nothing."""
        if not set(path) & set("*?"):
            folder, _, name = path.rpartition("/")
            entry = self._repository.tree(self._repository.look_up([f"{commit}:{folder}"])[0]).get(name)
            return f"{entry.mode} {self._without_evidence(path, entry.oid)}" if entry is not None else None
        start = inputs.start_of(path)
        tree = self._repository.look_up([f"{commit}:{start}"])[0]
        before = f"{start}/" if start else ""
        listed = self._repository.changes(None, tree, lambda each: not inputs.is_record(before + each))
        meant = [(before + name, each) for name, each in listed if each is not None and matches((path,), before + name)]
        return inputs.of_files((full, f"{each.mode} {self._without_evidence(full, each.oid)}") for full, each in meant)

    def _without_evidence(self, path: str, oid: str) -> str:
        return self.observer.wishes.occasions.input_id(path, oid, self.observer.settings.checklists)

    def _cited(self, stage: PlannedStage) -> Cited | None:
        """Return the newest success at the tip with the key of a stage, None if there is none that is sound."""
        if not stage.reuse_key:
            return None
        found = (self._proof(run_id, stage.reuse_key) for _, run_id in self._with_key(stage.reuse_key))
        return next((each for each in found if each is not None), None)

    def _with_key(self, key: str) -> list[tuple[str, RunId]]:
        """Return (completed_at, run id) of the newest runs that say they executed a stage with this key."""
        if self.index is None:
            self.index = {}
            for evidence in self.observer.proofs.reusable():
                for each in evidence.reusable:
                    self.index.setdefault(each, []).append((evidence.completed_at, evidence.run_id))
        return sorted(self.index.get(key, ()), reverse=True)[:CANDIDATES_MAX]

    def _proof(self, run_id: RunId, key: str) -> Cited | None:
        """Return the citation of a run's stage with this key, None if its manifest is not what was published."""
        evidence = Proven(self.observer.proofs.rows)[run_id]
        path = manifest.manifest_path(evidence.task_id, run_id)
        data, summary = self._committed(path), self._committed(manifest.summary_path(evidence.task_id, run_id))
        sha256 = hashlib.sha256(data).hexdigest()
        stage = reuse.holds(_document(data), run_id, key)
        if stage is None or _document(summary).get("manifest_sha256") != sha256:
            return None
        return Cited(run_id=run_id, stage=stage, manifest_path=path, manifest_sha256=sha256)

    def _committed(self, path: str) -> bytes:
        """Return a file of evidence at the tip, nothing if it is not there."""
        for commit in dict.fromkeys(each for each in (self.observer.proofs.tip, self.observer.tip.commit) if each):
            for entry in self._repository.files_at(commit, [path]):
                return next(self._repository.blobs([entry.oid]))[1] or b""
        return b""


def _document(data: bytes) -> Mapping[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(data)
        return value if isinstance(value, dict) else {}
    return {}


def _digest(value: str | None) -> str | None:
    return None if value is None else hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()
