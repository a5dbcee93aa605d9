"""The Python API: what the verbs do, as typed calls. Nothing here prints, asks or ends the process.

    from reconciler import api

    with api.open(".") as here:
        asked = here.submit({"task": "0001-demo", "pipeline": "diagnostics"})
        run = here.wait(asked.run_id, timeout_s=600)
        print(run.phase, here.evidence(asked.run_id).manifest["summary"])

What goes wrong is raised as in `reconciler.errors`: ContentError for files, UsageError for what cannot be asked for,
TransientError for what may succeed later. One `Reconciler` belongs to one thread; several, also in several processes,
may work on one repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from reconciler import byhand, check, deciding, journal, logbook, parse, submitting
from reconciler.actions import Action, Wait
from reconciler.deciding import Decided
from reconciler.errors import ContentError, UsageError
from reconciler.explain import Row
from reconciler.feed import Feed
from reconciler.loop import Loop, Pass, open_telemetry, pass_lock, waits_for_people
from reconciler.manifest import summary_path
from reconciler.model import Choice, Gate, Phase, Plan, Problem, Rejection, RunId, Settings, Source, TaskId
from reconciler.observe import Observer
from reconciler.phases import ENDED
from reconciler.pulls import open_when_owed
from reconciler.retold import run_event
from reconciler.submitting import Submitted
from reconciler.survey import Survey, find_run, survey
from reconciler.telling import RunEvent
from reconciler.values import frozen
from reconciler.world import World, open_world

if TYPE_CHECKING:
    from reconciler.preview import Preview

__all__ = [
    "Decided", "Log", "LogPart", "Look", "Overview", "Reconciler", "Round", "RunEvent", "RunEvidence", "Submitted",
    "WaitingGate", "open",
]  # fmt: skip

POLL_S = 0.25
"""How often those look who only look while they wait."""
LOG_BYTES_MAX = 64 * 1024


@frozen
class Overview:
    """What is known at one moment. `runs` are what is under way first, then what the tip proves; `conditions` say what
    is in the way of passes, by name, with `since` and `reason`."""

    branch: str
    tip: str
    runs: tuple[Row, ...]
    rejections: tuple[Rejection, ...]
    conditions: Mapping[str, Mapping[str, str]]
    remote_asked_s: float | None


@frozen
class Log:
    """The log of one stage: the whole of it has so many bytes and this digest; `committed_bytes` of it are in git."""

    stage: str
    status: str
    path: str
    bytes: int
    sha256: str
    committed_bytes: int


@frozen
class LogPart:
    """A part of a log from `offset` on; `next` is where the following one begins. `over` says that nothing follows and
    nothing will."""

    stage: str
    offset: int
    data: bytes
    next: int
    over: bool


@frozen
class RunEvidence:
    """A run, written down. `committed` says whether the tip proves it; until then it is as the records here say.

    `commit` is the commit that published it, "" where there is none; `summary` is the run summary beside the manifest,
    empty where there is none yet.
    """

    run_id: RunId
    task_id: TaskId
    committed: bool
    commit: str
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    logs: tuple[Log, ...]


@frozen
class Look:
    """A run at one moment: how it stands, whether it `rests` (it has ended, or waits for what only a person can do),
    and its manifest, None before it has started."""

    row: Row
    rests: bool
    manifest: Mapping[str, Any] | None


@frozen
class WaitingGate:
    """A run that waits for the decision of a person at a gate."""

    run_id: RunId
    gate: Gate


@frozen
class Round:
    """What one pass came to: sentences about what was done, what failed and what waits, and the runs whose evidence was
    committed in `commit` ("" for none). `blocked` says why evidence could not be."""

    branch: str
    tip: str
    done: tuple[str, ...]
    failed: tuple[str, ...]
    waits: Mapping[str, str]
    published: tuple[RunId, ...]
    commit: str
    rejections: tuple[Rejection, ...]
    blocked: str
    online: bool


def open(directory: str | Path = ".") -> Reconciler:
    """Return the reconciler of the repository that a directory is in. Raise UsageError if it is in none."""
    return Reconciler(open_world(Path(directory)))


class Reconciler:
    """One repository. Methods that take a `run` know it by its id, by the name of its request, or by the path of that.

    `submit`, `approve`, `reject`, `rerun` commit as git's user; `reconcile_once`, `wait`, `resume` and `cancel` act as
    a reconciler does; all others only look.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._loop: Loop | None = None

    def __enter__(self) -> Reconciler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what was opened; runs that are under way go on."""
        if self._loop is not None:
            self._loop.close()
        self._world.workers.close()
        self._world.repository.objects.close()

    @property
    def directory(self) -> Path:
        """The directory of the repository."""
        return self._world.repository.directory

    @property
    def _acting(self) -> Loop:
        """The loop of those who act, made when it is needed first."""
        if self._loop is None:
            observer = Observer(self._world)
            self._loop = Loop(self._world, observer, opener=open_when_owed, tells=True, teller=open_telemetry)
        return self._loop

    def _found(self, run: str) -> tuple[Survey, RunId]:
        found = survey(self._world)
        return found, find_run(found, run)

    # -------------------------------------------------------------------------------------------- looking

    def status(self) -> Overview:
        """Return all runs, what was rejected, and what is in the way."""
        found = survey(self._world)
        return Overview(
            branch=found.seen.branch,
            tip=found.seen.tip,
            runs=found.rows,
            rejections=tuple(found.seen.desired.rejections),
            conditions=found.conditions,
            remote_asked_s=found.asked_s,
        )

    def runs(self) -> tuple[Row, ...]:
        """Return every run that is wanted or under way, and every one that the tip proves: what is under way first."""
        return survey(self._world).rows

    def run(self, run: str) -> Row:
        """Return what is known of one run. Raise UsageError if there is none of that name."""
        found, run_id = self._found(run)
        return _row(found, run_id)

    def look(self, run: str) -> Look:
        """Return how a run stands, whether it rests, and its manifest, all of one moment."""
        found, run_id = self._found(run)
        row = _row(found, run_id)
        rests = row.phase in ENDED or (row.phase == Phase.WAITING and waits_for_people(found.actions, run_id))
        try:
            return Look(row=row, rests=rests, manifest=logbook.of(self._world, found, run_id).document())
        except UsageError:
            return Look(row=row, rests=rests, manifest=None)

    def gates(self) -> tuple[WaitingGate, ...]:
        """Return the gates at which runs wait for people."""
        found = survey(self._world)
        ids = [each.run_id for each in found.rows if each.phase == Phase.WAITING]
        waiting = [(run_id, deciding.waiting_at(found.seen, run_id)[0]) for run_id in ids]
        return tuple(WaitingGate(run_id=run_id, gate=gate) for run_id, gates in waiting for gate in gates)

    def validate(self, text: str | bytes, kind: str = "request", name: str = "request") -> tuple[Problem, ...]:
        """Return everything that is wrong with the text of a file, nothing if it can be used.

        `kind` is `request`, `pipeline`, `settings` or `approval`, `name` how the file would be called. A request is
        planned at the tip, so that what it names must be there.
        """
        data = text.encode() if isinstance(text, str) else text
        path = _place(kind, name)
        problems = check.check({path: data}, {path: check.Kind(kind)}, self._world.contracts, alone=True)
        return problems if problems or kind != "request" else self._unplannable(data, path)

    def _unplannable(self, data: bytes, path: str) -> tuple[Problem, ...]:
        request = parse.parse_request(data, Source(path=path), self._world.contracts)
        plan = request if isinstance(request, Rejection) else self._looking().tip.plan_for(request)
        return plan.problems if isinstance(plan, Rejection) else ()

    def _looking(self) -> Observer:
        """Return an observer of its own that has seen the tip, as far as is known here."""
        observer = Observer(self._world)
        observer.recall()
        observer.observe()
        return observer

    def settings(self) -> Settings:
        """Return the settings at the tip. Raise ContentError if they cannot be used."""
        return self._looking().tip.settings

    def plan(self) -> tuple[Action, ...]:
        """Return what a pass would do now."""
        return survey(self._world, complete=True).actions

    def plan_of(self, request: Mapping[str, Any]) -> Plan:
        """Return the plan that a request would have at the tip. Raise ContentError with everything that is wrong."""
        path = _place("request", "request")
        parsed = parse.parse_request(submitting.render(request), Source(path=path), self._world.contracts)
        plan = parsed if isinstance(parsed, Rejection) else self._looking().tip.plan_for(parsed)
        if isinstance(plan, Rejection):
            raise ContentError("\n".join(each.sentence().removeprefix(f"{path}: ") for each in plan.problems))
        return plan

    def preview(self, head: str = "HEAD", base: str | None = None) -> Preview:
        """Return what merging the revision `head` into `base`, by default the branch of the settings, would do.
        Nothing of either is executed. Raise UsageError where a name means no commit."""
        from reconciler.proposal import propose

        return propose(self._world, base, head)

    # -------------------------------------------------------------------------------------------- evidence

    def manifest(self, run: str) -> Mapping[str, Any]:
        """Return the manifest of a run as it is now. Raise UsageError if the run has not started."""
        found, run_id = self._found(run)
        return logbook.of(self._world, found, run_id).document()

    def evidence(self, run: str) -> RunEvidence:
        """Return what is written down of a run: as the tip proves it, else as the records here say.

        Raise UsageError if the run has not started.
        """
        found, run_id = self._found(run)
        book = logbook.of(self._world, found, run_id)
        committed = book.committed_document()
        document = book.document() if committed is None else committed
        return RunEvidence(
            run_id=run_id,
            task_id=book.task_id,
            committed=committed is not None,
            commit=_row(found, run_id).evidence,
            manifest=document,
            summary=self._summary(found, book) if committed is not None else {},
            logs=tuple(_log(each) for each in document["commands"] if each["log_path"]),
        )

    def _summary(self, found: Survey, book: logbook.Logbook) -> Mapping[str, Any]:
        path = summary_path(book.task_id, book.run_id)
        oid = self._world.repository.look_up([f"{found.seen.evidence_tip or found.seen.tip}:{path}"])[0]
        data = next(self._world.repository.blobs([oid]))[1] if oid is not None else None
        summary: Mapping[str, Any] = json.loads(data or b"{}")
        return summary

    def read_log(self, run: str, stage: str, offset: int = 0, bytes_max: int = LOG_BYTES_MAX) -> LogPart:
        """Return a part of the log of a stage, redacted as it was written: of the whole log where this machine has it,
        of the committed copy elsewhere. Raise UsageError for a stage that the run has not."""
        found, run_id = self._found(run)
        book = logbook.of(self._world, found, run_id)
        # Whether the run is over is asked first: what it wrote before its end is there by then.
        over = book.ended()
        entries = book.commands(stage)
        data = b"".join(book.chunks(entries[0]["log_path"], offset, bytes_max)) if entries else b""
        end = offset + len(data)
        return LogPart(stage=stage, offset=offset, data=data, next=end, over=over and len(data) < bytes_max)

    def follow_log(self, run: str, stage: str, timeout_s: float = float("inf")) -> Iterator[bytes]:
        """Yield the log of a stage as it grows, until the run rests or the time is over."""
        deadline_s, offset = self._world.now().monotonic_s + timeout_s, 0
        while True:
            look = self.look(run)
            part = self.read_log(run, stage, offset) if look.manifest is not None else None
            if part is not None and part.data:
                offset = part.next
                yield part.data
            elif look.rests or self._world.now().monotonic_s >= deadline_s:
                return
            else:
                self._world.sleep(POLL_S)

    def events(
        self, run: str, timeout_s: float = float("inf"), acting: bool = False, after: str = ""
    ) -> Iterator[RunEvent]:
        """Yield what happens to a run, from its beginning until it rests: ended, or waiting for a person.

        It is told by the run's journal where that is on this machine, else by its manifest. Who has heard a part goes
        on `after` the id of the last event of that. With `acting` passes are done meanwhile, so that the run goes on
        although nobody else reconciles.
        """
        deadline_s, feed = self._world.now().monotonic_s + timeout_s, Feed(after)
        while True:
            if acting:
                self.reconcile_once()
            look = self.look(run)
            path = self._world.runs.directory(look.row.task_id, look.row.run_id).path / journal.NAME
            ended = look.row.phase in ENDED
            yield from map(run_event, feed.news(path, ended, partial(getattr, look, "manifest")))
            at_rest = feed.over if ended else look.rests
            if at_rest or self._world.now().monotonic_s >= deadline_s:
                return
            self._world.sleep(POLL_S)

    # -------------------------------------------------------------------------------------------- asking

    def submit(self, request: Mapping[str, Any], *, name: str = "", mode: str = "direct", note: str = "") -> Submitted:
        """Commit a request, made of plain values, and return where it is and which run it asks for.

        `name` is that of its file below `runs.d`; the same request under the same name is found again instead of
        committed twice. Without one it gets the next free number. `mode` is `direct` for the branch that is reconciled,
        `branch` for a branch of its own, `pull_request` for that with a pull request at the forge. `note` is a line for
        the message of the commit. Raise ContentError with everything that is wrong with the request, before anything is
        committed.
        """
        if mode not in ("direct", "branch", "pull_request"):
            raise UsageError(f"mode {mode!r}: is none; write direct, branch or pull_request")
        return submitting.submit(self._acting, request, name, mode=mode, opener=open_when_owed, note=note)

    def rerun(self, run: str) -> Submitted:
        """Ask for a run once more, by raising `rerun` in its request at the tip, and return the new run."""
        return submitting.rerun(self._acting, _row(*self._found(run)).name or run)

    def approve(self, run: str, reason: str, *, stage: str | None = None, sign: bool = False) -> Decided:
        """Commit the decision that a run may go on past a gate. Raise UsageError if it waits at none."""
        return deciding.decide(self._acting, self._found(run)[1], stage, reason, Choice.APPROVE, sign=sign)

    def reject(self, run: str, reason: str, *, stage: str | None = None, sign: bool = False) -> Decided:
        """Commit the decision that a run may not go on past a gate. Raise UsageError if it waits at none."""
        return deciding.decide(self._acting, self._found(run)[1], stage, reason, Choice.REJECT, sign=sign)

    # -------------------------------------------------------------------------------------------- acting

    def reconcile_once(self) -> Round:
        """Do one pass: launch, resume, cancel and publish what is due, and return what it came to."""
        return _round(self._acting.run_settled(lambda result: None))

    def wait(self, run: str, *, timeout_s: float | None = None, acting: bool = True) -> Row:
        """Wait until a run rests (ended, or waiting for a person) or the time is over, and return how it stands.

        With `acting`, passes are done meanwhile, and the run has ended only when its evidence is committed; without,
        somebody else must reconcile.
        """
        run_id = self._found(run)[1]
        deadline_s = None if timeout_s is None else self._world.now().monotonic_s + timeout_s
        if acting:
            self._acting.run_until_idle(lambda result: None, deadline_s, run_id)
            return self.run(run_id)
        while not (look := self.look(run_id)).rests:
            if deadline_s is not None and self._world.now().monotonic_s >= deadline_s:
                break
            self._world.sleep(POLL_S)
        return look.row

    def resume(self, run: str, reason: str, *, afresh: bool = False, token: str | None = None) -> str:
        """Let a run that ended or hangs go on as its next attempt, on a plan refreshed from the tip; return a sentence
        about it. `afresh` keeps no success. Raise UsageError, recorded as a refusal, if it may not be."""
        run_id, actor = self._found(run)[1], self._world.repository.identity()
        with pass_lock(self._world):
            return byhand.resume(self._acting, run_id, token=token, actor=actor, reason=reason, afresh=afresh)

    def cancel(self, run: str, reason: str, *, timeout_s: float | None = None, acting: bool = True) -> Row:
        """End a run that is under way here and return how it stands when its evidence is committed, or the time is
        over; without `acting` at once, and somebody else's next pass ends it. Raise UsageError if it is not under
        way."""
        found, run_id = self._found(run)
        byhand.cancel(self._world, found, run_id, actor=self._world.repository.identity(), reason=reason)
        return self.wait(run_id, timeout_s=timeout_s) if acting else self.run(run_id)


# ------------------------------------------------------------------------------------------------ small parts

PLACES = {"pipeline": "pipelines/{}.yaml", "settings": "reconciler.yaml", "approval": "runs.d/{}.approval.yaml"}


def _place(kind: str, name: str) -> str:
    """Return where a file of a kind lies. Raise UsageError for a kind that is none, or what can be no name."""
    if kind not in ("request", *PLACES):
        raise UsageError(f"kind {kind!r}: is none; write request, {', '.join(PLACES)}")
    path = submitting.path_of(name)
    return path if kind == "request" else PLACES[kind].format(name)


def _row(found: Survey, run_id: RunId) -> Row:
    row = next((each for each in found.rows if each.run_id == run_id), None)
    if row is None:
        raise UsageError(f"{run_id}: nothing is known of it; see: reconciler status --all")
    return row


def _log(command: Mapping[str, Any]) -> Log:
    return Log(
        stage=command["id"],
        status=command["status"],
        path=command["log_path"],
        bytes=command["log_bytes"],
        sha256=command["log_sha256"] or "",
        committed_bytes=command["log_committed_bytes"],
    )


def _round(result: Pass) -> Round:
    publication = result.publication
    return Round(
        branch=result.seen.branch,
        tip=publication.commit if publication is not None else result.seen.tip,
        done=tuple(each.sentence for each in result.done if not each.error),
        failed=tuple(each.sentence for each in result.done if each.error),
        waits={each.subject: each.reason for each in result.actions if isinstance(each, Wait)},
        published=tuple(publication.runs) if publication is not None else (),
        commit=publication.commit if publication is not None else "",
        rejections=tuple(result.seen.desired.rejections),
        blocked=result.blocked,
        online=result.online,
    )
