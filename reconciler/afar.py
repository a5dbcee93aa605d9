"""Attempts that engines execute: hand them over, look at them, bring home what they say, make sure that they end.

The decision is made as for a run here. What differs is where facts come from: a phase follows from what the engine says
(`Sighting`) and from the words that the attempt moves its ref to (`work`). Order matters twice. An engine is asked
before the refs are, so that when it has ended an attempt and the refs were asked after that, no word can be on its way
(a look may go on beside several passes, `looks`: what counts is when its answer is taken, and what was done since it
began).
And a handle is on disk before anything is submitted by it, so that whoever comes after a crash submits the same again.

Writes `<git directory>/reconciler/afar.json`: what was handed over and heard. Losing it costs patience, nothing else:
the claim holds the handle, the engine finds it, and the ref says which order an attempt works on. Writes
`.work-key-<n>` (mode 0600) in a run directory: what the words of attempt n are signed with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from reconciler import codec, manifest, parted
from reconciler.actions import Abandon, Action, Cancel, Launch, Resume, Submit, TakeOver
from reconciler.afar_credentials import Lending, address_for
from reconciler.conditions import set_condition
from reconciler.errors import ContentError, LockHeld, TransientError
from reconciler.executors.engine import Engine, EngineSilent, Renewing, Submission, Turned
from reconciler.executors.opening import open_engine
from reconciler.executors.ordering import HAND_BACK_S, ORDER, ORDER_BYTES_MAX, bring_home, draft_order, read_word
from reconciler.git import Draft
from reconciler.hearing import Hearing
from reconciler.looks import Beside, Look, Looks
from reconciler.model import Afar as Known
from reconciler.model import ExecutorSettings, Instant, Outcome, Plan, Run, RunId, Settings, claim_ref
from reconciler.parted import Parted
from reconciler.phases import is_silent
from reconciler.places import Placement, Resources, Sighting, Standing
from reconciler.records import read_records
from reconciler.remote import RefUpdate
from reconciler.rundir import RunDirectory
from reconciler.values import frozen
from reconciler.work import (
    KEY_VARIABLE,
    WORK,
    handle_of,
    key_of,
    number_in,
    of_ref,
    repository_in,
    repository_of,
    run_digest,
    run_in,
    work_ref,
)
from reconciler.world import World

MEMORY_BYTES_MAX = 16 * 1024 * 1024
SUBMITTED_MAX = 200
"""So many attempts are handed to engines in one pass at most; the others follow in the next."""
PAUSE_S, PAUSE_MAX_S = 1.0, 60.0
"""How long an engine is left alone that does not answer or takes nothing: 1, 2, 4 ... 60 seconds."""
TOLD_S = 2.0
"""How long an engine that was told to end an attempt is left to do that before it is told again."""
EARLIER_HEARD = "an earlier attempt is still heard; its ref goes first"
FENCED = (Cancel, Abandon, Resume, TakeOver)


@frozen
class Heard:
    """What is remembered of one attempt at an engine. `order` is the commit it was given; `word` the newest commit of
    its ref that was brought home, and since when nothing newer came; `ended` is when its engine was first seen to have
    ended it. `alien` says that its ref holds an order of which nobody here knows anything, `unread` that it holds a
    word that nobody here can read, `over` that its last word came home. `given_up_s` is for how many seconds it was
    silent when it was told to end for that."""

    executor: str
    order: str = ""
    submitted: bool = False
    turned: str = ""
    sighting: Sighting | None = None
    word: str = ""
    heard: Instant | None = None
    ended: Instant | None = None
    alien: bool = False
    unread: bool = False
    over: bool = False
    given_up_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Memory:
    """`afar.json`, by handle: the attempts under way, and those that are over and never said so themselves."""

    attempts: dict[str, Heard] = field(default_factory=dict)
    parted: dict[str, Parted] = field(default_factory=dict)


@dataclass(slots=True)
class Pause:
    """How an engine behaves: `why` nothing can be placed there until `until_s` (monotonic seconds), how often in a row
    it did not answer, or took nothing, and when it was asked last."""

    why: str = ""
    until_s: float = float("-inf")
    failures: int = 0
    refusals: int = 0
    asked_s: float = float("-inf")


class Afar:
    """Deals with the engines of one repository's executors, remembering what it has heard."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.path = world.repository.state / "afar.json"
        self.memory = self._recall()
        self.settings: Mapping[str, ExecutorSettings] = {}
        self.withheld: frozenset[str] = frozenset()
        self.engines: dict[str, tuple[ExecutorSettings, frozenset[str], Engine]] = {}
        self.pauses: dict[str, Pause] = {}
        self.looks = Looks(world.beside or Beside())
        self.told: dict[str, float] = {}
        """When (monotonic seconds) an engine was told to end an attempt."""
        self.adopted: dict[tuple[str, str], Mapping[str, Mapping[str, str]]] = {}
        """What engines said in this look that they have, by executor and repository."""
        self.unheard: set[str] = set()
        """The attempts whose word waits until their engine can be asked for its key, by handle."""
        self.parted_s = float("-inf")
        self.refs: Mapping[str, str] = {}
        self.hearing: Hearing | None = None
        self.online = True
        self.changed = False
        self.lending = Lending(world)

    # -------------------------------------------------------------------------------------------- looking

    def look(self, runs: dict[RunId, Run], settings: Settings, hearing: Hearing | None, *, acts: bool) -> None:
        """Bring home what attempts at engines have said, and put into `runs` what is known of them. Those who merely
        look (`acts` is False) ask no engine and bring nothing home."""
        self.settings = {name: each for name, each in settings.executors.items() if each.engine}
        self.withheld |= frozenset(settings.withheld)
        self.adopted, self.unheard, self.hearing = {}, set(), hearing
        there = {run_id: run for run_id, run in runs.items() if run.is_afar and not run.corrupt}
        if not (self.settings or there or self.memory.attempts or self.memory.parted):
            return
        under_way = {run_id: run for run_id, run in there.items() if _is_open(run)}
        if acts:
            self._observe(under_way.values())
        self.refs = self._known_refs(hearing)
        for run_id, run in under_way.items():
            found = self._bring_home(run) if acts else run
            runs[run_id] = replace(found, afar=self._known(found, hearing))
        if acts:
            self._forget(under_way.values(), runs)
            self._look_for_parted()
            self.remember()

    def _observe(self, runs: Iterable[Run]) -> None:
        """Ask every engine that is due what it says of the attempts it has, all of them at once."""
        by_executor: dict[str, list[str]] = {}
        for run in runs:
            placed = _placement(run)
            by_executor.setdefault(placed.executor, []).append(placed.handle)
        taken = self._take_answers(by_executor, waits=False)
        for executor, handles in by_executor.items():
            # Not where it has just answered: it would never be given anything while there are always new attempts.
            if executor not in taken and self._is_due(executor, handles):
                self._begin_look(executor, handles)
        self._take_answers(by_executor, waits=True)

    def _begin_look(self, executor: str, handles: Sequence[str]) -> None:
        """Begin to ask an engine; while it is asked nobody else does."""
        known = {each: self._heard(executor, each) for each in handles}
        try:
            self.looks.begin(executor, Look(self._engine(executor), handles, known))
        except (TransientError, OSError) as error:
            self._note_silent(executor, error)

    def _take_answers(self, handles: Mapping[str, Sequence[str]], *, waits: bool) -> list[str]:
        """Take what engines have said of attempts that are under way still; return the executors that were asked."""
        taken = []
        for executor, look in self.looks.answered(waits=waits):
            taken.append(executor)
            if executor in self.settings:
                wanted = set(handles.get(executor, ()))
                with self._asking(executor) as engine:
                    seen = look.answer() if engine is look.engine else {}  # settings have named another one
                    said = {each: found for each, found in seen.items() if each in wanted}
                    self._note_all(
                        executor,
                        {each: found for each, found in said.items() if self._counts(executor, each, found, look)},
                    )
        return taken

    def _counts(self, executor: str, handle: str, found: Sighting, look: Look) -> bool:
        """Return whether an answer is to be believed: that an attempt is gone, only if nothing was heard of it and
        nothing done with it since the look began. What seems to live and does not is seen to be gone by the next."""
        if found.standing in (Standing.QUEUED, Standing.RUNNING):
            return True
        return _state(look.known.get(handle)) == _state(self._heard(executor, handle))

    def _is_due(self, executor: str, handles: Sequence[str]) -> bool:
        """Return whether an engine is to be asked: in its own time, and at once about what it was never asked about."""
        if self._unusable(executor, only_silence=True) or executor in self.looks.under_way:
            return False
        new = any(self._heard(executor, each).sighting is None for each in handles)
        asked_s = self._pause(executor).asked_s
        return new or self.world.now().monotonic_s - asked_s >= self.settings[executor].poll_s

    def _note_all(self, executor: str, seen: Mapping[str, Sighting]) -> None:
        self._pause(executor).asked_s = self.world.now().monotonic_s
        for handle, sighting in seen.items():
            before = self._heard(executor, handle)
            gone = sighting.standing in (Standing.ENDED, Standing.ABSENT)
            self._keep(
                handle,
                replace(
                    before,
                    sighting=sighting,
                    # What an engine has it has taken, though nobody may have lived to write that down.
                    submitted=before.submitted or sighting.standing != Standing.ABSENT,
                    ended=(before.ended or self.world.now()) if gone else None,
                ),
            )

    def _known(self, run: Run, hearing: Hearing | None) -> Known:
        """Return what is known of an attempt, as a decision needs it."""
        placed = _placement(run)
        heard, said = self._heard(placed.executor, placed.handle), self.settings.get(placed.executor)
        now = self.world.now()
        known = heard.heard is not None and heard.heard.boot_id == now.boot_id
        since = heard.heard if known and heard.heard is not None else now
        return Known(
            sighting=heard.sighting,
            submitted=heard.submitted,
            is_final=heard.submitted and placed.handle not in self.unheard and self._is_final(heard, hearing),
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
        now_s = self.world.now().monotonic_s
        busy = {each.executor for each in self.memory.attempts.values()} & self.settings.keys()
        busy -= self.looks.under_way.keys()  # whoever goes on meanwhile is told when they are over
        due = (max(self._pause(each).until_s, self._pause(each).asked_s + self.settings[each].poll_s) for each in busy)
        return min(self.lending.patience_s(), max(0.0, min(due, default=float("inf")) - now_s))

    def refusals(self) -> dict[str, str]:
        """Return by executor why its engine takes nothing now."""
        now_s = self.world.now().monotonic_s
        return {name: each.why for name, each in self.pauses.items() if each.why and now_s < each.until_s}

    # -------------------------------------------------------------------------------------------- words

    def _known_refs(self, hearing: Hearing | None) -> dict[str, str]:
        if hearing is not None:
            return {ref: oid for ref, oid in hearing.refs.items() if ref.startswith(WORK)}
        answer = self.world.repository.git("for-each-ref", "--format=%(objectname) %(refname)", "--", WORK)
        return {ref: oid for oid, _, ref in (line.partition(" ") for line in answer.splitlines()) if of_ref(ref)}

    def _bring_home(self, run: Run) -> Run:
        """Bring home the newest word of an attempt and return its run as it is then; one that is not true, or belongs
        to another order, counts for nothing."""
        placed, oid = _placement(run), self.refs.get(work_ref(run.run_id, run.number))
        heard = self._heard(placed.executor, placed.handle)
        if heard.heard is None or heard.heard.boot_id != self.world.now().boot_id:
            # Whoever hears of it first, or after this machine began anew, counts its silence from now on.
            heard = replace(heard, heard=self.world.now())
            self._keep(placed.handle, heard)
        if oid is None or oid in (heard.word, heard.order):
            return run
        directory = self.world.runs.directory(run.task_id, run.run_id)
        key = self._key(directory, run.number) or self._recalled_key(directory, run)
        if key is None:
            self.unheard.add(placed.handle)  # its engine is asked for the key again when it answers
            return run
        word, order, plan = read_word(self.world.repository, oid, key), self._parent(oid), self._plan(run)
        ours = word is not None and (word.run_id, word.number) == (run.run_id, run.number)
        if word is not None and ours and plan is not None and heard.order in ("", order):
            with contextlib.suppress(ContentError):  # said by who has the key, and no record: nothing is known by it
                bytes_max = self._bytes_max(placed.executor)
                bring_home(self.world.repository, word, directory, plan, bytes_max=bytes_max)
            if not heard.submitted:
                # Somebody else handed it over, or nobody lived to hear the answer: what was seen before that is void.
                heard = replace(heard, sighting=None, ended=None)
            heard = replace(heard, order=order, submitted=True, over=word.ended)
        unread = word is None and not self._is_order(oid)
        self._keep(placed.handle, replace(heard, word=oid, heard=self.world.now(), unread=unread))
        self._show(run)
        return self.world.runs.observe(run.task_id, run.run_id) or run

    def _show(self, run: Run) -> None:
        """Show the run as a manifest, as a worker here does, unless the path belongs to committed evidence by now."""
        if run.claim is None or run.claim.series > 1:
            return
        now_at, directory = self.world.now().at, self.world.runs.directory(run.task_id, run.run_id)
        with contextlib.suppress(TransientError, OSError):  # it is a view: the records are what counts
            records = read_records(self.world, run.task_id, run.run_id)
            document = manifest.manifest(records, updated_at=now_at, heartbeat_at=now_at)
            self.world.disk.write_atomic(directory.path / "manifest.json", codec.render(document), sync=False)

    def _parent(self, oid: str) -> str:
        """Return the first parent of a commit, "" if it has none: of a word, the order that it belongs to."""
        [(_, data)] = self.world.repository.objects.contents([oid], "commit")
        line = next((each for each in (data or b"").splitlines()[:3] if each.startswith(b"parent ")), b"")
        return line.removeprefix(b"parent ").decode("ascii", "replace")

    def _is_order(self, oid: str) -> bool:
        return self.world.repository.look_up([f"{oid}:{ORDER}"])[0] is not None

    def _bytes_max(self, executor: str) -> int:
        return self.settings.get(executor, ExecutorSettings()).bytes_max

    def _key(self, directory: RunDirectory, number: int) -> str:
        """Return what the words of an attempt are signed with, "" where this host does not know it."""
        data = None
        with contextlib.suppress(codec.CodecError):
            data = self.world.disk.read_bounded(_key_path(directory, number))
        return data.decode("ascii", "replace").strip() if data is not None else ""

    def _recalled_key(self, directory: RunDirectory, run: Run) -> str | None:
        """Return the key of an attempt that somebody else handed over: its engine tells it, "" if it does not. None
        where that cannot be asked now."""
        placed = _placement(run)
        if placed.executor not in self.settings:
            return ""
        told = self._adopted(placed.executor, repository_in(placed.handle))
        key = told.get(placed.handle, {}).get(KEY_VARIABLE, "") if told is not None else None
        if key:
            self.world.disk.write_atomic(_key_path(directory, run.number), key.encode(), mode=0o600)
        return key

    def _adopted(self, executor: str, repository: str) -> Mapping[str, Mapping[str, str]] | None:
        """Return what an engine has of a repository, asked once in a look; None where it cannot be asked now."""
        about = executor, repository
        if about not in self.adopted and not self._unusable(executor, only_silence=True):
            with self._asking(executor) as engine:
                self.adopted[about] = engine.adopt(repository)
        return self.adopted.get(about)

    # -------------------------------------------------------------------------------------------- handing over

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
        if placement.executor not in self.settings:
            return placement
        return replace(placement, handle=handle_of(self._repository(placement.executor), run_id, number))

    def _repository(self, executor: str) -> str:
        return repository_of(self._address(executor))

    def _address(self, executor: str) -> str:
        """Return where attempts clone the repository from."""
        return address_for(self.world, self.settings[executor])

    def submit(self, actions: Sequence[Action], runs: Mapping[RunId, Run], hearing: Hearing | None) -> dict[RunId, str]:
        """Hand attempts to their engines, each with its order; return by run what is in the way of it."""
        wanted = [runs[each.run_id] for each in actions if isinstance(each, Submit)][:SUBMITTED_MAX]
        refused = {run.run_id: EARLIER_HEARD for run in self._heard_still(wanted, hearing)}
        by_executor: dict[str, list[Run]] = {}
        for run in wanted:
            if run.run_id not in refused:
                by_executor.setdefault(_placement(run).executor, []).append(run)
        for executor, mine in by_executor.items():
            if why := self._unusable(executor):
                refused |= {run.run_id: why for run in mine}
                continue
            try:
                token = self.lending.token(self.settings[executor], self._address(executor))
            except TransientError as error:
                self._keep_waiting(executor, str(error))
                refused |= {run.run_id: str(error) for run in mine}
                continue
            ordered = self._still_ours(self._order_all(executor, mine, hearing, refused), hearing, refused)
            with self._asking(executor) as engine:
                submissions = [self._submission(executor, run) for run in ordered]
                turned = engine.submit(self.lending.entrusted(engine, submissions, token))
                self._note_submitted(executor, ordered, turned, refused)
            if why := self.refusals().get(executor, ""):
                refused |= {run.run_id: why for run in ordered if not self._heard_of(run).submitted}
        self.remember()
        return refused

    def _still_ours(self, runs: Sequence[Run], hearing: Hearing | None, refused: dict[RunId, str]) -> list[Run]:
        """Return the runs whose claims stand at the remote as they are known here, asked after their orders got there.
        Who has slept since it heard of a claim may have lost it, and its run may be over: then no ref is in its way."""
        if self.world.remote is None or hearing is None or not runs:
            return list(runs)
        refs = {run.run_id: claim_ref(run.run_id) for run in runs}
        try:
            there = self.world.remote.look(sorted(refs.values()))
        except TransientError:
            self.online = False
            refused |= dict.fromkeys(refs, "the remote does not say whose it is now")
            return []
        lost = {run_id for run_id, ref in refs.items() if there.get(ref) != hearing.refs.get(ref)}
        refused |= dict.fromkeys(lost, "its claim at the remote is another one now")
        return [run for run in runs if run.run_id not in lost]

    def _heard_still(self, runs: Iterable[Run], hearing: Hearing | None) -> list[Run]:
        """Return the runs of which an earlier attempt has its ref still: it moved it before we could delete it."""
        later = [run for run in runs if run.number > 1]
        there = {of_ref(ref) for ref in self._known_refs(hearing)} if later else set()
        return [run for run in later if any((run.run_id, each) in there for each in range(1, run.number))]

    def _unusable(self, executor: str, *, only_silence: bool = False) -> str:
        """Return why an engine is not used now, "" if it may be; `only_silence` if it is not to be given anything."""
        if executor not in self.settings:
            return f"there is no executor '{executor}' with an engine in the settings any more"
        if executor in self.looks.under_way:
            return f"executor '{executor}' is asked how its attempts stand, and is given nothing meanwhile"
        pause = self._pause(executor)
        rests = self.world.now().monotonic_s < pause.until_s and (pause.failures > 0 or not only_silence)
        return pause.why if rests else ""

    def _order_all(
        self, executor: str, runs: Sequence[Run], hearing: Hearing | None, refused: dict[RunId, str]
    ) -> list[Run]:
        """Make the refs by which attempts get their orders; return those that have one. An alien order is no order: its
        attempt is ended, and the next one gets a ref of its own."""
        ordered, aliens, drafts, left = [], list[str](), dict[RunId, Draft](), ORDER_BYTES_MAX
        for run in runs:
            self._make_durable(run)
            heard, ref = self._heard_of(run), work_ref(run.run_id, run.number)
            there = self.refs.get(ref)
            if there is not None and (not heard.order or there not in (heard.order, heard.word)):
                self._keep(
                    _placement(run).handle, replace(heard, submitted=True, sighting=None, ended=None, alien=True)
                )
                aliens.append(_placement(run).handle)
                refused[run.run_id] = "its order is none that is known here, so the next attempt gets one of its own"
                continue
            if there is None:
                draft = self._draft(executor, run, refused) if left > 0 else None
                if draft is None:
                    refused.setdefault(run.run_id, "the orders of others are large and go first")
                    continue
                drafts[run.run_id], left = draft, left - sum(map(len, draft.files.values()))
            ordered.append(run)
        made = self._make_orders(drafts, refused)
        ordered = [each for each in ordered if each.run_id not in refused]
        updates = []
        for run in ordered:
            if run.run_id in made:
                heard = replace(self._heard_of(run), order=made[run.run_id], heard=self.world.now())
                self._keep(_placement(run).handle, heard)
                updates.append(RefUpdate(ref=work_ref(run.run_id, run.number), old=None, new=heard.order))
        self.remember()
        if aliens:
            with self._asking(executor) as engine:
                engine.cancel(aliens)
        failed = self._push(updates, hearing)
        for run in [each for each in ordered if work_ref(each.run_id, each.number) in failed]:
            refused[run.run_id] = "its order could not be put at the remote"
            ordered.remove(run)
        return ordered

    def _draft(self, executor: str, run: Run, refused: dict[RunId, str]) -> Draft | None:
        """Return the order of an attempt, None if there can be none: what is too large to travel will be for ever."""
        try:
            return self._draft_order(executor, run)
        except ContentError as error:
            refused[run.run_id] = str(error)
            self._keep(_placement(run).handle, replace(self._heard_of(run), turned=str(error)))
        except (TransientError, OSError) as error:
            refused[run.run_id] = str(error)
        return None

    def _make_orders(self, drafts: Mapping[RunId, Draft], refused: dict[RunId, str]) -> dict[RunId, str]:
        """Write orders and return the commit of each. All are written at once, since git takes as long for one as for a
        hundred; each by itself where that cannot be, so that one does not keep the others."""
        try:
            return dict(zip(drafts, self.world.repository.make_commits(tuple(drafts.values())), strict=True))
        except (TransientError, OSError):
            return {run_id: made for run_id, each in drafts.items() if (made := self._made(run_id, each, refused))}

    def _made(self, run_id: RunId, draft: Draft, refused: dict[RunId, str]) -> str:
        try:
            return self.world.repository.make_commit(draft)
        except (TransientError, OSError) as error:
            refused[run_id] = str(error)
            return ""

    def _make_durable(self, run: Run) -> None:
        """Sync the names of a claim and of a key: who wrote them may not have lived to do that."""
        directory = self.world.runs.directory(run.task_id, run.run_id)
        self.world.disk.sync_directory(directory.record("claims", run.number).parent)
        self.world.disk.sync_directory(directory.path)

    def _push(self, updates: Sequence[RefUpdate], hearing: Hearing | None) -> frozenset[str]:
        """Move refs at the remote, or here where there is none; return those that did not move."""
        if not updates:
            return frozenset()
        try:
            if self.world.remote is None or hearing is None:
                lines = "".join(f"create {each.ref} {each.new}\n" for each in updates)
                self.world.repository.git("update-ref", "--stdin", standard_input=lines.encode())
                return frozenset()
            failed = self.world.remote.push(updates, atomic=False)
        except TransientError:
            self.online = False
            return frozenset(each.ref for each in updates)
        hearing.note([each for each in updates if each.ref not in failed])
        return failed

    def _draft_order(self, executor: str, run: Run) -> Draft:
        """Return the commit by which an attempt is told what to execute. Raise TransientError if its plan is lost."""
        said, directory = self.settings[executor], self.world.runs.directory(run.task_id, run.run_id)
        plan = self._plan(run)
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

    def _submission(self, executor: str, run: Run) -> Submission:
        directory, placed = self.world.runs.directory(run.task_id, run.run_id), _placement(run)
        key = self._key(directory, run.number)
        if not key:
            key = key_of(self.world.chance.token(), run.number)
            self.world.disk.write_atomic(_key_path(directory, run.number), key.encode(), mode=0o600)
        plan = self._plan(run)
        heard = self._heard_of(run)
        ref = work_ref(run.run_id, run.number)
        return Submission(
            handle=placed.handle,
            repository=self._repository(executor),
            run_id=run.run_id,
            task_id=run.task_id,
            number=run.number,
            arguments=("--url", self._address(executor), "--ref", ref, "--order", heard.order),
            secrets={KEY_VARIABLE: key},
            resources=_asked(plan.resources if plan is not None else Resources(), self.settings[executor].resources),
            grace_s=(plan.grace_s if plan is not None else 10.0) + HAND_BACK_S,
        )

    def _plan(self, run: Run) -> Plan | None:
        with contextlib.suppress(codec.CodecError):
            return self.world.runs.frozen_plan(run.task_id, run.run_id, run.claim)
        return None

    def _note_submitted(
        self, executor: str, runs: Sequence[Run], turned: Mapping[str, Turned], refused: dict[RunId, str]
    ) -> None:
        """Note which attempts an engine has taken; one that will never take an attempt has said so."""
        for run in runs:
            handle, no = _placement(run).handle, turned.get(_placement(run).handle)
            heard = self._heard(executor, handle)
            if no is None:
                self._keep(handle, replace(heard, submitted=True, sighting=None, ended=None))
                continue
            refused[run.run_id] = no.reason
            if no.settled:
                self._keep(handle, replace(heard, turned=no.reason))
        later = [each.reason for each in turned.values() if not each.settled]
        pause = self._pause(executor)
        pause.refusals = pause.refusals + 1 if later else 0
        if later:
            self._rest(executor, later[0], pause.refusals)

    def _keep_waiting(self, executor: str, why: str) -> None:
        """Hand nothing to an engine for a while, which itself may well be asked."""
        pause = self._pause(executor)
        pause.refusals += 1
        self._rest(executor, why, pause.refusals)

    # -------------------------------------------------------------------------------------------- credentials

    def renew(self, runs: Mapping[RunId, Run]) -> None:
        """Let attempts under way have the credential that counts now, where their engines can renew it."""
        lent = self._lent(runs.values())
        self.lending.begin([each for handles in lent.values() for each in handles])
        for executor, handles in lent.items():
            if self._unusable(executor, only_silence=True):
                continue
            try:
                token, wanting = self.lending.due(executor, self.settings[executor], self._address(executor), handles)
            except TransientError as error:
                self._keep_waiting(executor, str(error))
                continue
            if wanting:
                with self._asking(executor) as engine:
                    self.lending.renew(engine, token, wanting)
        if lent:
            self.remember()

    def _lent(self, runs: Iterable[Run]) -> dict[str, list[str]]:
        """Return by executor the attempts under way that were handed over with a credential that can be renewed."""
        found: dict[str, list[str]] = {}
        for run in runs:
            said = self.settings.get(_placement(run).executor) if run.is_afar and _is_open(run) else None
            if said is None or not said.credential or run.afar is None or not run.afar.submitted or run.afar.is_final:
                continue
            found.setdefault(_placement(run).executor, []).append(_placement(run).handle)
        return {executor: handles for executor, handles in found.items() if self._renews(executor)}

    def _renews(self, executor: str) -> bool:
        """Return whether the engine of an executor can renew what attempts have; True where it cannot be known yet."""
        known = self.engines.get(executor)
        return known is None or isinstance(known[2], Renewing)

    # -------------------------------------------------------------------------------------------- ending

    def fence(self, actions: Sequence[Action], runs: Mapping[RunId, Run]) -> dict[RunId, str]:
        """Have the attempts ended that must run no more, all of an engine at once; return by run what still lives, or
        may."""
        fenced = [each for each in actions if isinstance(each, FENCED)]
        living = self._end_all((each.run_id, runs.get(each.run_id), each) for each in fenced)
        self.remember()
        return living

    def end(self, run: Run) -> None:
        """Have the newest attempt of a run ended. Raise LockHeld if it still lives, or may."""
        for why in self._end_all([(run.run_id, run, None)]).values():
            raise LockHeld(f"{run.run_id}: {why}; try again soon")

    def _end_all(self, ending: Iterable[tuple[RunId, Run | None, Action | None]]) -> dict[RunId, str]:
        """Have attempts ended that are not gone for certain, and return by run what may live all the same."""
        by_executor: dict[str, list[tuple[RunId, Run | None, str]]] = {}
        for run_id, run, action in ending:
            for executor, handle in self._handles(action, run) if not _is_gone(run) else ():
                by_executor.setdefault(executor, []).append((run_id, run, handle))
                self._note_given_up(executor, handle, run)
        self.remember()  # why it is told to end, before it is: afterwards only its engine could say
        living: dict[RunId, str] = {}
        for executor, those in by_executor.items():
            seen = self._cancel(executor, [handle for _, _, handle in those])
            found = {run_id: self._lives(executor, handle, seen, run) for run_id, run, handle in those}
            gone = [run for run_id, run, _ in those if run is not None and not found[run_id]]
            living |= {run_id: why for run_id, why in found.items() if why} | self._keep_from_others(executor, gone)
        return living

    def _keep_from_others(self, executor: str, runs: Iterable[Run]) -> dict[RunId, str]:
        """Make the refs of attempts that end before they had one: who claimed them first and lost them to us cannot
        hand them over any more when it wakes up. Return by run why that could not be done."""
        if self.world.remote is None or self.hearing is None:
            return {}
        claimed = [run for run in runs if run.claim is not None and not self._heard_of(run).order]
        bare = [run for run in claimed if work_ref(run.run_id, run.number) not in self.refs and self._plan(run)]
        refused: dict[RunId, str] = {}
        self._order_all(executor, bare, self.hearing, refused)
        return refused

    def _note_given_up(self, executor: str, handle: str, run: Run | None) -> None:
        """Note that an attempt is told to end because it is silent, where that is so."""
        known = run.afar if run is not None else None
        heard = self._heard(executor, handle)
        if known is not None and is_silent(known) and heard.given_up_s is None:
            self._keep(handle, replace(heard, given_up_s=known.silent_s))

    def _cancel(self, executor: str, handles: Sequence[str]) -> Mapping[str, Sighting]:
        """Have an engine end attempts, and return how they stand after that; nothing where it cannot be asked now. What
        was told a moment ago is not told again."""
        now_s = self.world.now().monotonic_s
        due = [each for each in handles if now_s - self.told.get(each, float("-inf")) >= TOLD_S]
        seen = {each: self._heard(executor, each).sighting for each in handles if each not in due}
        if due and not self._unusable(executor, only_silence=True):
            with self._asking(executor) as engine:
                engine.cancel(due)
                found = engine.observe(due)
                self._note_all(executor, found)
                self.told |= dict.fromkeys(due, now_s)
                seen |= found
        return {handle: each for handle, each in seen.items() if each is not None}

    def _lives(self, executor: str, handle: str, seen: Mapping[str, Sighting], run: Run | None) -> str:
        """Return why an attempt that was to end may live all the same, "" if it is gone for certain."""
        if handle not in seen:
            return f"attempt {handle} may live: {self._unusable(executor) or 'its engine does not answer'}"
        if seen[handle].standing in (Standing.QUEUED, Standing.RUNNING):
            return f"executor '{executor}' was told to end attempt {handle}"
        # Its last word may be on its way; without a run here nobody wants to hear it.
        waits = run is not None and run.afar is not None and run.afar.submitted
        return f"attempt {handle} has ended at executor '{executor}'; its last word is looked for" if waits else ""

    def _handles(self, action: Action | None, run: Run | None) -> Iterator[tuple[str, str]]:
        """Yield executor and handle of what an action is to end: where the claim is lost, at whichever engine it
        was."""
        if run is None and isinstance(action, TakeOver):
            placed = [each.placement for each in action.held.claim.claims[-1:] if each.placement is not None]
            yield from ((each.executor, each.handle) for each in placed if each.handle)
        elif run is not None and run.is_afar:
            yield _placement(run).executor, _placement(run).handle
        elif run is not None and run.claim is None:
            for name in self.settings:
                yield name, handle_of(self._repository(name), run.run_id, run.number)

    def _look_for_parted(self) -> None:
        """Tell attempts to end once more that are over for us and that their engines show again. Nothing waits for
        that."""
        now = self.world.now()
        if not self.memory.parted or now.monotonic_s - self.parted_s < parted.ASKED_S:
            return
        self.parted_s = now.monotonic_s
        known = parted.kept(self.memory.parted, now)
        for executor, handles in parted.by_executor(known).items():
            if not self._unusable(executor, only_silence=True):
                with self._asking(executor) as engine:
                    back = parted.came_back(known, engine.observe(handles))
                    if back:
                        engine.cancel(back)
                    known |= {each: parted.told(known[each]) for each in back}
        if known != self.memory.parted:
            self.memory.parted, self.changed = known, True

    # -------------------------------------------------------------------------------------------- engines

    @contextlib.contextmanager
    def _asking(self, executor: str) -> Iterator[Engine]:
        """Use an engine. One that does not answer is left alone for a while, and the reason is kept."""
        pause = self._pause(executor)
        try:
            yield self._engine(executor)
            pause.failures = 0
        except (TransientError, OSError) as error:
            self._note_silent(executor, error)

    def _note_silent(self, executor: str, error: Exception) -> None:
        pause = self._pause(executor)
        pause.failures += 1
        self._rest(executor, str(error), pause.failures)

    def _engine(self, executor: str) -> Engine:
        said, withheld = self.settings[executor], self.withheld
        if executor not in self.engines or self.engines[executor][:2] != (said, withheld):
            directory = self.world.repository.state / "engines" / executor
            opener = self.world.open_engine or partial(open_engine, withheld=tuple(sorted(withheld)))
            self.engines[executor] = said, withheld, opener(executor, said, directory)
        return self.engines[executor][2]

    def _rest(self, executor: str, why: str, times: int) -> None:
        """Hand nothing to an engine for a while, the longer the more often that was said in a row."""
        pause = self._pause(executor)
        pause.why = why
        pause.until_s = self.world.now().monotonic_s + min(PAUSE_MAX_S, PAUSE_S * 2 ** min(times - 1, 16))

    def _pause(self, executor: str) -> Pause:
        return self.pauses.setdefault(executor, Pause())

    def logs(self, run: Run, settings: Settings, bytes_max: int) -> bytes:
        """Return the end of what an attempt has printed at its engine. Raise EngineSilent if that cannot be asked."""
        self.settings = {name: each for name, each in settings.executors.items() if each.engine}
        placed = _placement(run)
        if placed.executor not in self.settings:
            raise EngineSilent(f"executor '{placed.executor}' has no engine in the settings any more")
        return self._engine(placed.executor).logs(placed.handle, bytes_max)

    # -------------------------------------------------------------------------------------------- memory

    def _heard(self, executor: str, handle: str) -> Heard:
        return self.memory.attempts.get(handle) or Heard(executor=executor)

    def _heard_of(self, run: Run) -> Heard:
        return self._heard(_placement(run).executor, _placement(run).handle)

    def _keep(self, handle: str, heard: Heard) -> None:
        if self.memory.attempts.get(handle) != heard:
            self.memory.attempts[handle], self.changed = heard, True

    def _forget(self, under_way: Iterable[Run], runs: Mapping[RunId, Run]) -> None:
        """Let go of attempts that are not under way here. One that its engine had and that never said its last word may
        come back; where records here say that it is over, and no other host goes on with it, it is looked for."""
        handles = {_placement(each).handle for each in under_way}
        dropped = [each for each in self.memory.attempts if each not in handles]
        digests = {run_digest(each): run for each, run in runs.items()} if dropped else {}
        for handle in dropped:
            heard, run = self.memory.attempts.pop(handle), digests.get(run_in(handle))
            if heard.submitted and not heard.over and run is not None and _is_past(run, number_in(handle)):
                self.memory.parted[handle] = Parted(executor=heard.executor, at=self.world.now())
            self.told.pop(handle, None)
            self.changed = True

    def remember(self) -> None:
        """Write down what was heard, synced, because an intent to submit stands in it; and for `status`, which engines
        take nothing now."""
        said = "; ".join(f"executor '{name}': {why}" for name, why in sorted(self.refusals().items()))
        set_condition(self.world.repository.state, "engines", said, self.world.now().at, self.world.disk)
        if self.changed:
            self.world.disk.make_directory(self.path.parent)
            self.world.disk.write_atomic(self.path, codec.compact(self.memory))
            self.changed = False

    def _recall(self) -> Memory:
        with contextlib.suppress(codec.CodecError, OSError):
            data = self.world.disk.read_bounded(self.path, MEMORY_BYTES_MAX)
            if data is not None:
                return codec.parse(Memory, data)
        return Memory()


def _state(heard: Heard | None) -> tuple[object, ...]:
    """Return what of an attempt changes when it is handed over, or says something."""
    return (heard.submitted, heard.order, heard.word, heard.turned, heard.alien) if heard is not None else ()


def _is_open(run: Run) -> bool:
    """Return whether an attempt has not come to an end of its own."""
    ended = run.end is not None and run.end.outcome != Outcome.INTERRUPTED
    outcome = run.attempt.outcome if run.attempt is not None else None
    return not ended and outcome in (None, Outcome.INTERRUPTED)


def _is_past(run: Run, number: int) -> bool:
    """Return whether an attempt of a run is over by what is recorded here, without a word of its own."""
    return run.number > number or (run.number == number and run.end is not None)


def _is_gone(run: Run | None) -> bool:
    """Return whether nothing of the newest attempt of a run lives at an engine, for certain."""
    known = run.afar if run is not None else None
    return known is not None and (known.is_final or bool(known.turned))


def _placement(run: Run) -> Placement:
    assert run.claim is not None and run.claim.placement is not None
    return run.claim.placement


def _key_path(directory: RunDirectory, number: int) -> Path:
    return directory.path / f".work-key-{number}"


def _asked(asked: Resources, default: Resources) -> Resources:
    """Return what an attempt gets: what its request asks for, else what its executor says."""
    names = ("cpus", "memory_bytes", "gpus", "time_s", "partition", "account", "qos", "reservation")
    found = {each: getattr(asked, each) or getattr(default, each) for each in names}
    return Resources(**found)
