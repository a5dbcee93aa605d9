"""Somebody who may write refs, and neither has a key nor may write the branch.

He says words in the name of attempts and gives orders in that of hosts: that can end an attempt, since its ref is not
where it left it, and must neither be evidence nor be executed. He makes up claims: that can delay a run, and must open
no gate and prove nothing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from reconciler import codec
from reconciler.executors.ordering import ORDER
from reconciler.model import (
    CLAIMS,
    HOSTS,
    Attempt,
    Claim,
    Host,
    Instant,
    Outcome,
    Plan,
    Process,
    StageRecord,
    StageStatus,
)
from reconciler.simulation.remote import Server
from reconciler.simulation.repository import Commit, Store
from reconciler.work import WORK, Word, WorkOrder

NEVER_AT = "2031-01-01T00:00:00.000000+00:00"
NO_CODE = "0" * 64
NOBODY = Process(pid=1, start_ticks=1, boot_id="nowhere")


class Forger:
    """Makes what he puts at refs of attempts; `made` holds the ids of all of it."""

    def __init__(self, store: Store, server: Server) -> None:
        self.store, self.server = store, server
        self.made: set[str] = set()

    def forge(self, draw: float) -> str:
        """Move the ref of an attempt to something that was made up, and return that ref, "" if there is none."""
        refs = sorted(ref for ref in self.server.refs if ref.startswith(WORK))
        if not refs:
            return ""
        ref = refs[int(draw * len(refs))]
        old = self.server.refs[ref]
        order = self._order(old)
        new = self._word(order) if draw * 7 % 1 < 0.6 else self._another(order)
        self.made.add(new)
        self.server.refs[ref] = new
        self.server.moved(ref, old, new)
        return ref

    def _order(self, oid: str) -> str:
        """Return the order that a commit is, or belongs to."""
        return oid if self.store.read(oid, ORDER) is not None else self.store.commits[oid].parents[0]

    def _another(self, order: str) -> str:
        """Return an order that asks for the same and is another one."""
        return self.store.commit(replace(self.store.commits[order], message="order: another one\n"))

    def _word(self, order: str) -> str:
        """Return a last word that says that all went well."""
        said = codec.parse(WorkOrder, self.store.read(order, ORDER) or b"")
        record = codec.compact(self._record(order, said.number))
        tree = self.store.changed(None, {f"run/attempts/{said.number}.json": record}) or ""
        word = Word(run_id=said.run_id, number=said.number, beat=9999, at=NEVER_AT, ended=True, tree=tree, mac=NO_CODE)
        return self.store.commit(Commit(tree=tree, parents=(order,), message=codec.compact(word).decode()))

    def _record(self, order: str, number: int) -> Attempt:
        claim = codec.parse(Claim, self.store.read(order, f"run/claims/{number}.json") or b"")
        plan = codec.parse(Plan, self.store.read(order, f"run/{claim.plan}") or b"")
        stages = [
            StageRecord(id=each.id, digest=each.digest, status=StageStatus.SUCCEEDED, attempt=number)
            for each in plan.stages
        ]
        return Attempt(
            number=number,
            worker=NOBODY,
            host=Host(name="forged", system="none", machine="none", python="3", cpus=1),
            started=Instant(at=NEVER_AT, monotonic_s=1.0, boot_id="nowhere"),
            stages=tuple(stages),
            outcome=Outcome.SUCCEEDED,
            detail="all went well",
            ended_at=NEVER_AT,
        )


GHOST = "ghost-00000000"
RUN_OF_NOBODY = "r99-00000000"


class ClaimForger:
    """Makes up claims at a remote, in the name of a host that there is not, or of one that is there.

    None of them takes away what a claim tells of earlier attempts: who does that has a run begin anew.
    """

    def __init__(self, store: Store, server: Server) -> None:
        self.store, self.server = store, server

    def forge(self, draw: float) -> str:
        """Move a claim to one that was made up, and return its ref, "" if there is none to begin with."""
        refs = [ref for ref in self.server.refs if ref.startswith(CLAIMS) and ref != CLAIMS + RUN_OF_NOBODY]
        if not refs:
            return ""
        ref = sorted(refs)[int(draw * len(refs))]
        before = self.store.commits[self.server.refs[ref]]
        note, hosts = json.loads(before.message), [each for each in self.server.refs if each.startswith(HOSTS)]
        match int(draw * 7919) % 6:
            case 0:
                ref, text = CLAIMS + RUN_OF_NOBODY, "no claim at all"
            case 1:
                ref, text = CLAIMS + RUN_OF_NOBODY, json.dumps({**note, "host": GHOST, "run_id": RUN_OF_NOBODY})
            case 2:
                text = json.dumps(self._made_up(note, GHOST, ahead=40))
            case 3 if hosts:
                text = json.dumps(self._made_up(note, sorted(hosts)[int(draw * 104729) % len(hosts)][len(HOSTS) :]))
            case _:
                text = json.dumps(self._made_up(note, GHOST))
        old, new = self.server.refs.get(ref), self.store.commit(replace(before, message=text))
        self.server.refs[ref] = new
        self.server.moved(ref, old, new)
        return ref

    def _made_up(self, note: dict[str, Any], host: str, ahead: int = 1) -> dict[str, Any]:
        """Return a claim to a later attempt, for which all gates are open and all nested runs have succeeded."""
        run_id, newest = note["run_id"], note["claims"][-1]
        said = {"stage": "ship", "decision": "approve", "reason": "fine", "actor": "Boss <boss@x>", "at": NEVER_AT}
        said |= {"commit": "c" * 40, "policy": ""}
        prefix = f"{CLAIMS}{run_id.rpartition('-')[0]}."
        nested = [ref.removeprefix(CLAIMS) for ref in self.server.refs if ref.startswith(prefix)]
        ends = [{"run_id": each, "status": "succeeded", "manifest_blob": "b" * 40} for each in sorted(nested)]
        claim = {**newest, "number": newest["number"] + ahead, "decisions": [said], "children": ends}
        if placed := newest["placement"]:
            name = placed["handle"].rpartition("-")[0]
            claim["placement"] = {**placed, "handle": f"{name}-{claim['number']}" if name else ""}
        return {**note, "host": host, "nonce": "made up", "claims": [*note["claims"], claim]}
