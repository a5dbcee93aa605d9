"""Decisions that are committed, and what policies look at of a run that waits for them.

Who decided is said by the commit that brought the decision, never by the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reconciler.approve import Case
from reconciler.git import Entry, LastChange
from reconciler.model import Approval, Decision, Evidence, Run, RunId, Wish
from reconciler.requests import APPROVAL_SUFFIX, Requests
from reconciler.tip import Tip
from reconciler.world import World

REMEMBERED_MAX = 1_000
"""So many pairs of commits are remembered, of which it is known whether one holds the other."""
DECISIONS_MAX = 100
"""So many decisions about one run are looked at, in the order of their paths."""


class Approvals:
    """Reads decisions and the history behind them, once for every tip."""

    def __init__(self, world: World, tip: Tip, requests: Requests) -> None:
        self.world, self.tip, self.requests = world, tip, requests
        self.changes: dict[str, tuple[str | None, LastChange | None]] = {}
        self.changers: dict[str, tuple[str | None, tuple[tuple[str, str], ...]]] = {}
        self.held_by: dict[tuple[str, str], bool] = {}

    def forget(self) -> None:
        """Let go of what was looked up at other tips."""
        tip = self.tip.commit
        self.changes = {path: each for path, each in self.changes.items() if each[0] == tip}
        self.changers = {path: each for path, each in self.changers.items() if each[0] == tip}
        if len(self.held_by) > REMEMBERED_MAX:
            self.held_by = {}

    def case(self, wish: Wish, run: Run | None, elsewhere: Mapping[RunId, Evidence]) -> Case:
        """Return what policies look at of a run that waits."""
        request, evidence = wish.request, elsewhere.get(wish.run_id)
        waiting = evidence.waiting if evidence is not None else None
        commit, digest = (waiting.commit, waiting.plan_digest) if waiting is not None else ("", "")
        if run is not None and run.claim is not None:
            commit, digest = run.claim.commit, run.claim.plan_digest
        asked = self._change(request.source.path)
        paths = any(each.paths for each in self.tip.settings.approvals)
        others = any(each.other_person or each.authors for each in self.tip.settings.approvals)
        return Case(
            pipeline=request.pipeline,
            plan_digest=digest,
            labels=request.labels,
            author=asked.author if asked is not None else "",
            commit=asked.commit if asked is not None else "",
            changed=self.world.repository.first_parent_changes(commit) if paths and commit else (),
            asked=self._changers(request.source.path) if others else (),
            early=self._early(wish.run_id, commit),
            decisions_left=max(0, len(self.requests.approvals.get(wish.run_id, ())) - DECISIONS_MAX),
        )

    def decisions(self, run_id: RunId) -> tuple[Decision, ...]:
        """Return the decisions about a run that the tip holds, in the order of their paths."""
        paths = sorted(self.requests.approvals.get(run_id, ()))[:DECISIONS_MAX]
        read = self.world.repository.blobs([self.requests.cache.requests[path][0] for path in paths])
        found = []
        for path, (oid, data) in zip(paths, read, strict=True):
            approval = self.requests.parse(path, Entry("100644", oid, path), data)
            if isinstance(approval, Approval):
                found.append(decision_of(approval, self._change(approval.source.path)))
        return tuple(found)

    def _early(self, run_id: RunId, commit: str) -> frozenset[str]:
        """Return the commits of decisions that the commit a run works on holds already."""
        decided = {each.commit for each in self.decisions(run_id) if each.commit is not None}
        new = [each for each in decided if (each, commit) not in self.held_by]
        self.held_by |= {(each, commit): self.world.repository.is_ancestor(each, commit) for each in new}
        return frozenset(each for each in decided if commit and self.held_by[each, commit])

    def _changers(self, path: str) -> tuple[tuple[str, str], ...]:
        """Return who ever touched a file, looked up once for every tip."""
        known = self.changers.get(path)
        if known is None or known[0] != self.tip.commit:
            known = self.changers[path] = (self.tip.commit, self.world.repository.changers(self.tip.commit or "", path))
        return known[1]

    def _change(self, path: str) -> LastChange | None:
        """Return whose a file at the tip is, looked up once for every tip."""
        known = self.changes.get(path)
        if known is None or known[0] != self.tip.commit:
            signers = self.signers() if path.endswith(APPROVAL_SUFFIX) else None
            found = self.world.repository.last_change(self.tip.commit or "", path, signers)
            known = self.changes[path] = (self.tip.commit, found)
        return known[1]

    def signers(self) -> Path | None:
        """Write down the allowed signers of the tip where git finds them; None if signatures are not asked for."""
        path = self.tip.settings.trust.allowed_signers
        if path is None:
            return None
        files = self.world.repository.files_at(self.tip.commit or "", [path])
        data = next(self.world.repository.blobs([files[0].oid]))[1] if files else None
        place = self.world.repository.state / "allowed_signers"
        if self.world.disk.read_bounded(place) != (data or b""):
            self.world.disk.make_directory(place.parent)
            self.world.disk.write_atomic(place, data or b"", sync=False)
        return place


def decision_of(approval: Approval, change: LastChange | None) -> Decision:
    """Return what a file decides: who says it is told by the commit that changed it last, nobody without one."""
    return Decision(
        stage=approval.stage,
        decision=approval.decision,
        reason=approval.reason,
        actor=change.author if change is not None else "",
        at=change.at if change is not None else "",
        commit=change.commit if change is not None else None,
        signer=change.signer if change is not None else None,
        plan=approval.plan,
    )
