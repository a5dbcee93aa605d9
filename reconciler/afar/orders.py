"""Orders: the commits and refs by which attempts at engines learn what they are to execute.

An order is there before its attempt is handed over. Its ref is made and never moved from here, so of two hosts that
believe to have a run one alone makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from reconciler.afar.engines import Engines
from reconciler.afar.memory import Memory, placement_of
from reconciler.afar.words import Words
from reconciler.errors import ContentError, TransientError
from reconciler.executors.ordering import ORDER_BYTES_MAX, draft_order
from reconciler.git import Draft
from reconciler.model import Run, RunId
from reconciler.remote import RefUpdate
from reconciler.work import work_ref
from reconciler.world import World


class Orders:
    """The orders that one host gives."""

    def __init__(self, world: World, engines: Engines, memory: Memory, words: Words) -> None:
        self.world, self.engines, self.memory, self.words = world, engines, memory, words

    def give(self, executor: str, runs: Sequence[Run], refused: dict[RunId, str]) -> list[Run]:
        """Make the refs by which attempts get their orders; return those that have one."""
        for run in runs:
            self._make_durable(run)
        aliens, own = [run for run in runs if self._is_alien(run)], [run for run in runs if not self._is_alien(run)]
        made = self._made([run for run in own if self._ref(run) not in self.words.refs], executor, refused)
        ordered = [run for run in own if run.run_id not in refused]
        for run in ordered:
            if run.run_id in made:
                heard = replace(self.memory.heard_of(run), order=made[run.run_id], heard=self.world.now())
                self.memory.keep(placement_of(run).handle, heard)
        self._note_aliens(aliens, refused)
        self.memory.write()
        if aliens:
            with self.engines.asking(executor) as engine:
                engine.cancel([placement_of(run).handle for run in aliens])
        new = [run for run in ordered if run.run_id in made]
        failed = self._push([RefUpdate(ref=self._ref(run), old=None, new=made[run.run_id]) for run in new])
        refused |= {run.run_id: "its order could not be put at the remote" for run in new if self._ref(run) in failed}
        return [run for run in ordered if run.run_id not in refused]

    def _is_alien(self, run: Run) -> bool:
        """Return whether the ref of an attempt holds an order, or a word, of which nobody here knows anything."""
        heard, there = self.memory.heard_of(run), self.words.refs.get(self._ref(run))
        return there is not None and (not heard.order or there not in (heard.order, heard.word))

    def _note_aliens(self, runs: Sequence[Run], refused: dict[RunId, str]) -> None:
        """An alien order is no order: its attempt is ended, and the next one gets a ref of its own."""
        for run in runs:
            heard = replace(self.memory.heard_of(run), submitted=True, sighting=None, ended=None, alien=True)
            self.memory.keep(placement_of(run).handle, heard)
            refused[run.run_id] = "its order is none that is known here, so the next attempt gets one of its own"

    def _ref(self, run: Run) -> str:
        return work_ref(run.run_id, run.number)

    def _make_durable(self, run: Run) -> None:
        """Sync the names of a claim and of a key: who wrote them may not have lived to do that."""
        directory = self.world.runs.directory(run.task_id, run.run_id)
        self.world.disk.sync_directory(directory.record("claims", run.number).parent)
        self.world.disk.sync_directory(directory.path)

    # -------------------------------------------------------------------------------------------- drafts

    def _made(self, runs: Sequence[Run], executor: str, refused: dict[RunId, str]) -> dict[RunId, str]:
        """Write orders and return the commit of each. All are written at once, since git takes as long for one as for a
        hundred; each by itself where that cannot be, so that one does not keep the others."""
        drafts = self._drafts(runs, executor, refused)
        try:
            return dict(zip(drafts, self.world.repository.make_commits(tuple(drafts.values())), strict=True))
        except (TransientError, OSError):
            return {
                run_id: made for run_id, each in drafts.items() if (made := self._made_alone(run_id, each, refused))
            }

    def _made_alone(self, run_id: RunId, draft: Draft, refused: dict[RunId, str]) -> str:
        try:
            return self.world.repository.make_commit(draft)
        except (TransientError, OSError) as error:
            refused[run_id] = str(error)
            return ""

    def _drafts(self, runs: Sequence[Run], executor: str, refused: dict[RunId, str]) -> dict[RunId, Draft]:
        """Return the orders of attempts, as many as are made at once."""
        drafts, left = dict[RunId, Draft](), ORDER_BYTES_MAX
        for run in runs:
            draft = self._draft(executor, run, refused) if left > 0 else None
            if draft is not None:
                drafts[run.run_id], left = draft, left - sum(map(len, draft.files.values()))
            else:
                refused.setdefault(run.run_id, "the orders of others are large and go first")
        return drafts

    def _draft(self, executor: str, run: Run, refused: dict[RunId, str]) -> Draft | None:
        """Return the order of an attempt, None if there can be none: what is too large to travel will be for ever."""
        try:
            return self._draft_order(executor, run)
        except ContentError as error:
            refused[run.run_id] = str(error)
            self.memory.keep(placement_of(run).handle, replace(self.memory.heard_of(run), turned=str(error)))
        except (TransientError, OSError) as error:
            refused[run.run_id] = str(error)
        return None

    def _draft_order(self, executor: str, run: Run) -> Draft:
        """Return the commit by which an attempt is told what to execute. Raise TransientError if its plan is lost."""
        said, directory = self.engines.said[executor], self.world.runs.directory(run.task_id, run.run_id)
        plan = self.words.plan(run)
        if plan is None or run.claim is None:
            raise TransientError(f"{run.run_id}: its frozen plan is gone")
        return draft_order(
            self.world.repository,
            directory,
            plan,
            run.claim,
            plan_sha256=self.world.runs.plan_digests(run.run_id).get(directory.name_of(run.claim.plan), ""),
            beat_s=said.beat_s,
            bytes_max=said.bytes_max,
            epoch_s=int(datetime.fromisoformat(self.world.now().at).timestamp()),
            depth=said.depth,
        )

    # -------------------------------------------------------------------------------------------- the remote

    def _push(self, updates: Sequence[RefUpdate]) -> frozenset[str]:
        """Move refs at the remote, or here where there is none; return those that did not move."""
        hearing = self.words.hearing
        if not updates:
            return frozenset()
        try:
            if self.world.remote is None or hearing is None:
                lines = "".join(f"create {each.ref} {each.new}\n" for each in updates)
                self.world.repository.git("update-ref", "--stdin", standard_input=lines.encode())
                return frozenset()
            failed = self.world.remote.push(updates, atomic=False)
        except TransientError:
            self.words.online = False
            return frozenset(each.ref for each in updates)
        hearing.note([each for each in updates if each.ref not in failed])
        return failed
