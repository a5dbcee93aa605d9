"""Attempts that engines execute, as the loop deals with them: look at them, hand them over, make sure that they end.

The decision is made as for a run here. What differs is where facts come from: a phase follows from what the engine says
(`sightings`) and from the words that the attempt moves its ref to (`words`). Order matters: an engine is asked before
the refs are, so that when it has ended an attempt and the refs were asked after that, no word can be on its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from reconciler.actions import Action, Launch, Resume, TakeOver
from reconciler.afar.ends import Ends
from reconciler.afar.engines import Engines
from reconciler.afar.handover import Handover
from reconciler.afar.memory import Heard, Memory, is_open, placement_of
from reconciler.afar.orders import Orders
from reconciler.afar.sightings import Sightings
from reconciler.afar.words import Words
from reconciler.conditions import set_condition
from reconciler.hearing import Hearing
from reconciler.model import Afar as Known
from reconciler.model import Run, RunId, Settings
from reconciler.places import Placement
from reconciler.work import handle_of
from reconciler.world import World


class Afar:
    """Deals with the engines of one repository's executors, remembering what it has heard."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.engines, self.memory = Engines(world), Memory(world)
        self.words = Words(world, self.engines, self.memory)
        self.sightings = Sightings(world, self.engines, self.memory)
        self.orders = Orders(world, self.engines, self.memory, self.words)
        self.handover = Handover(world, self.engines, self.memory, self.words, self.orders)
        self.ends = Ends(world, self.engines, self.memory, self.sightings)

    # -------------------------------------------------------------------------------------------- looking

    def look(self, runs: dict[RunId, Run], settings: Settings, hearing: Hearing | None, *, acts: bool) -> None:
        """Bring home what attempts at engines have said, and put into `runs` what is known of them. Those who merely
        look (`acts` is False) ask no engine and bring nothing home."""
        self.engines.configure(settings)
        self.memory.refresh()
        self.words.begin(hearing)
        there = {run_id: run for run_id, run in runs.items() if run.is_afar and not run.corrupt}
        if not (self.engines.said or there or self.memory.attempts or self.memory.parted):
            return
        under_way = {run_id: run for run_id, run in there.items() if is_open(run)}
        self.engines.missing = (
            frozenset(placement_of(each).executor for each in under_way.values()) - self.engines.said.keys()
        )
        if acts:
            self.sightings.observe(under_way.values())
        self.words.listen()
        for run_id, run in under_way.items():
            found = self.words.bring_home(run) if acts else run
            runs[run_id] = replace(found, afar=self._known(found, hearing))
        if acts:
            self.memory.forget(under_way.values(), runs)
            self.ends.look_for_parted()
            self._remember()

    def _known(self, run: Run, hearing: Hearing | None) -> Known:
        """Return what is known of an attempt, as a decision needs it."""
        placed = placement_of(run)
        heard, said = self.memory.heard(placed.executor, placed.handle), self.engines.said.get(placed.executor)
        now = self.world.now()
        known = heard.heard is not None and heard.heard.boot_id == now.boot_id
        since = heard.heard if known and heard.heard is not None else now
        return Known(
            sighting=heard.sighting,
            submitted=heard.submitted,
            is_final=heard.submitted and placed.handle not in self.words.unheard and self._is_final(heard, hearing),
            silent_s=now.monotonic_s - since.monotonic_s,
            silent_max_s=said.silent_max_s if said is not None else float("inf"),
            turned=heard.turned,
            alien=heard.alien,
            unread=heard.unread,
            given_up_s=heard.given_up_s,
        )

    def _is_final(self, heard: Heard, hearing: Hearing | None) -> bool:
        """Return whether an engine has ended an attempt, and refs were read after that."""
        if heard.ended is None or hearing is None:
            return heard.ended is not None
        asked = hearing.asked
        return asked is not None and (
            asked.boot_id != heard.ended.boot_id or asked.monotonic_s > heard.ended.monotonic_s
        )

    def wants_answer(self, hearing: Hearing) -> bool:
        """Return whether the remote is to be asked now, because an attempt has ended and its last word may be there."""
        return any(
            each.ended is not None and not self._is_final(each, hearing) for each in self.memory.attempts.values()
        )

    def patience_s(self) -> float:
        """Return in how many seconds an engine is to be asked, infinite if none is."""
        busy = {each.executor for each in self.memory.attempts.values()}
        return min(self.handover.lending.patience_s(), self.engines.patience_s(busy))

    def logs(self, run: Run, settings: Settings, bytes_max: int) -> bytes:
        """Return the end of what an attempt has printed at its engine. Raise EngineSilent if that cannot be asked."""
        self.engines.configure(settings)
        placed = placement_of(run)
        return self.engines.open(placed.executor).logs(placed.handle, bytes_max)

    # -------------------------------------------------------------------------------------------- acting

    def named(self, actions: Sequence[Action]) -> tuple[Action, ...]:
        """Return the actions with the name of every attempt that is placed at an engine."""
        return tuple(self._named(each) for each in actions)

    def _named(self, action: Action) -> Action:
        match action:
            case Launch(placement=Placement() as placement):
                return replace(action, placement=self.name(placement, action.plan.run_id, action.number))
            case Resume(placement=Placement() as placement):
                return replace(action, placement=self.name(placement, action.run_id, action.after + 1))
            case TakeOver(placement=Placement() as placement):
                return replace(action, placement=self.name(placement, action.run_id, action.number + 1))
        return action

    def name(self, placement: Placement, run_id: RunId, number: int) -> Placement:
        """Return a placement with the handle of an attempt, if an engine executes it."""
        if placement.executor not in self.engines.said:
            return placement
        return replace(placement, handle=handle_of(self.engines.repository(placement.executor), run_id, number))

    def submit(self, actions: Sequence[Action], runs: Mapping[RunId, Run]) -> dict[RunId, str]:
        """Hand attempts to their engines, each with its order; return by run what is in the way of it."""
        refused = self.handover.submit(actions, runs)
        self._remember()
        return refused

    def renew(self, runs: Mapping[RunId, Run]) -> None:
        """Let attempts under way have the credential that counts now, where their engines can renew it."""
        if self.handover.renew(runs):
            self._remember()

    def fence(self, actions: Sequence[Action], runs: Mapping[RunId, Run]) -> dict[RunId, str]:
        """Have the attempts ended that must run no more, all of an engine at once; return by run what still lives, or
        may."""
        living = self.ends.fence(actions, runs)
        self._remember()
        return living

    def end(self, run: Run) -> None:
        """Have the newest attempt of a run ended. Raise LockHeld if it still lives, or may."""
        self.ends.end(run)

    def _remember(self) -> None:
        """Write down what was heard; and for `status`, which engines take nothing now."""
        said = "; ".join(f"executor '{name}': {why}" for name, why in sorted(self.engines.refusals().items()))
        set_condition(self.world.repository.state, "engines", said, self.world.now().at, self.world.disk)
        self.memory.write()
