"""Handing attempts over to their engines, and lending them what they reach the remote with.

A handle is on disk before anything is submitted by it, so that whoever comes after a crash submits the same again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from reconciler.actions import Action, Submit
from reconciler.afar.credentials import Lending
from reconciler.afar.engines import Engines
from reconciler.afar.memory import Memory, is_open, placement_of
from reconciler.afar.orders import Orders
from reconciler.afar.words import Words
from reconciler.errors import TransientError
from reconciler.executors.engine import Submission, Turned
from reconciler.executors.ordering import HAND_BACK_S
from reconciler.model import Run, RunId, claim_ref
from reconciler.places import Resources
from reconciler.work import KEY_VARIABLE, of_ref, work_ref
from reconciler.world import World

SUBMITTED_MAX = 200
"""So many attempts are handed to engines in one pass at most; the others follow in the next."""
EARLIER_HEARD = "an earlier attempt is still heard; its ref goes first"


class Handover:
    """Hands over what one host has claimed for engines."""

    def __init__(self, world: World, engines: Engines, memory: Memory, words: Words, orders: Orders) -> None:
        self.world, self.engines, self.memory, self.words, self.orders = world, engines, memory, words, orders
        self.lending = Lending(world)

    def submit(self, actions: Sequence[Action], runs: Mapping[RunId, Run]) -> dict[RunId, str]:
        """Hand attempts to their engines, each with its order; return by run what is in the way of it."""
        wanted = [runs[each.run_id] for each in actions if isinstance(each, Submit)][:SUBMITTED_MAX]
        refused = {run.run_id: EARLIER_HEARD for run in self._heard_still(wanted)}
        by_executor: dict[str, list[Run]] = {}
        for run in wanted:
            if run.run_id not in refused:
                by_executor.setdefault(placement_of(run).executor, []).append(run)
        for executor, mine in by_executor.items():
            if why := self.engines.unusable(executor):
                refused |= {run.run_id: why for run in mine}
                continue
            try:
                token = self.lending.token(self.engines.said[executor], self.engines.address(executor))
            except TransientError as error:
                self.engines.keep_waiting(executor, str(error))
                refused |= {run.run_id: str(error) for run in mine}
                continue
            ordered = self._still_ours(self.orders.give(executor, mine, refused), refused)
            with self.engines.asking(executor) as engine:
                submissions = [self._submission(executor, run) for run in ordered]
                turned = engine.submit(self.lending.entrusted(engine, submissions, token))
                self._note_submitted(executor, ordered, turned, refused)
            if why := self.engines.refusals().get(executor, ""):
                refused |= {run.run_id: why for run in ordered if not self.memory.heard_of(run).submitted}
        return refused

    def _heard_still(self, runs: Iterable[Run]) -> list[Run]:
        """Return the runs of which an earlier attempt has its ref still: it moved it before we could delete it."""
        later = [run for run in runs if run.number > 1]
        there = {of_ref(ref) for ref in self.words.known_refs()} if later else set()
        return [run for run in later if any((run.run_id, each) in there for each in range(1, run.number))]

    def _still_ours(self, runs: Sequence[Run], refused: dict[RunId, str]) -> list[Run]:
        """Return the runs whose claims stand at the remote as they are known here, asked after their orders got there.
        Who has slept since it heard of a claim may have lost it, and its run may be over: then no ref is in its way."""
        hearing = self.words.hearing
        if self.world.remote is None or hearing is None or not runs:
            return list(runs)
        refs = {run.run_id: claim_ref(run.run_id) for run in runs}
        try:
            there = self.world.remote.look(sorted(refs.values()))
        except TransientError:
            self.words.online = False
            refused |= dict.fromkeys(refs, "the remote does not say whose it is now")
            return []
        held = hearing.held(self.world.host())
        stands = {
            run.run_id
            for run in runs
            if (known := held.get(run.run_id)) is not None
            and (known.ours, known.claim.number, known.oid) == (True, run.number, there.get(refs[run.run_id]))
        }
        refused |= dict.fromkeys(refs.keys() - stands, "its claim at the remote is another one now")
        return [run for run in runs if run.run_id in stands]

    def _submission(self, executor: str, run: Run) -> Submission:
        """Return what an engine is given of an attempt that has its order."""
        key, plan, ref = self.words.made_key(run), self.words.plan(run), work_ref(run.run_id, run.number)
        said, order = self.engines.said[executor], self.memory.heard_of(run).order
        return Submission(
            handle=placement_of(run).handle,
            repository=self.engines.repository(executor),
            run_id=run.run_id,
            task_id=run.task_id,
            number=run.number,
            arguments=("--url", self.engines.address(executor), "--ref", ref, "--order", order),
            secrets={KEY_VARIABLE: key},
            resources=_asked(plan.resources if plan is not None else Resources(), said.resources),
            grace_s=(plan.grace_s if plan is not None else 10.0) + HAND_BACK_S,
        )

    def _note_submitted(
        self, executor: str, runs: Sequence[Run], turned: Mapping[str, Turned], refused: dict[RunId, str]
    ) -> None:
        """Note which attempts an engine has taken; one that will never take an attempt has said so."""
        for run in runs:
            handle, no = placement_of(run).handle, turned.get(placement_of(run).handle)
            heard = self.memory.heard(executor, handle)
            if no is None:
                self.memory.keep(handle, replace(heard, submitted=True, sighting=None, ended=None))
                continue
            refused[run.run_id] = no.reason
            if no.settled:
                self.memory.keep(handle, replace(heard, turned=no.reason))
        self.engines.note_taken(executor, [each.reason for each in turned.values() if not each.settled])

    # -------------------------------------------------------------------------------------------- credentials

    def renew(self, runs: Mapping[RunId, Run]) -> bool:
        """Let attempts under way have the credential that counts now, where their engines can renew it; return whether
        there is one of them."""
        lent = self._lent(runs.values())
        self.lending.begin([each for handles in lent.values() for each in handles])
        for executor, handles in lent.items():
            if self.engines.unusable(executor, only_silence=True):
                continue
            try:
                said, address = self.engines.said[executor], self.engines.address(executor)
                token, wanting = self.lending.due(executor, said, address, handles)
            except TransientError as error:
                self.engines.keep_waiting(executor, str(error))
                continue
            if wanting:
                with self.engines.asking(executor) as engine:
                    self.lending.renew(engine, token, wanting)
        return bool(lent)

    def _lent(self, runs: Iterable[Run]) -> dict[str, list[str]]:
        """Return by executor the attempts under way that were handed over with a credential that can be renewed."""
        found: dict[str, list[str]] = {}
        for run in runs:
            said = self.engines.said.get(placement_of(run).executor) if run.is_afar and is_open(run) else None
            if said is None or not said.credential or run.afar is None or not run.afar.submitted or run.afar.is_final:
                continue
            found.setdefault(placement_of(run).executor, []).append(placement_of(run).handle)
        return {executor: handles for executor, handles in found.items() if self.engines.renews(executor)}


def _asked(asked: Resources, default: Resources) -> Resources:
    """Return what an attempt gets: what its request asks for, else what its executor says."""
    names = ("cpus", "memory_bytes", "gpus", "time_s", "partition", "account", "qos", "reservation")
    found = {each: getattr(asked, each) or getattr(default, each) for each in names}
    return Resources(**found)
