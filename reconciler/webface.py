"""What `serve` answers: the pages as things are now, logs that grow, metrics. Reads only.

It has a repository of its own, so that nothing it asks git for is in the way of the loop, and is used by one thread.
Of runs under way it looks at the records itself; all else it takes from the board, as the last pass saw it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler import exposition, journal, manifest
from reconciler.archive import Archive, Kept, Manifest, committed_ends, line_of, said_of_log
from reconciler.board import PASS_BUCKETS_S, Board, Snapshot
from reconciler.checklist import Item
from reconciler.codec import CodecError
from reconciler.conditions import read_conditions
from reconciler.errors import REFUSALS, ReconcilerError, TransientError
from reconciler.events import Event
from reconciler.explain import condition_line, reasons, rows
from reconciler.feed import Feed
from reconciler.meter import Meter
from reconciler.model import Evidence, Phase, Run, RunId
from reconciler.pagefiles import ASSETS, read_assets, read_templates
from reconciler.pages import places, views
from reconciler.pages.render import Pages, Site
from reconciler.pages.text import log_text, size
from reconciler.pages.views import EvidenceNote, Line, RunView
from reconciler.phases import ENDED, phase, silence
from reconciler.publish import full_log
from reconciler.records import read_records
from reconciler.state import Actual
from reconciler.values import frozen
from reconciler.world import World

HTML, TEXT, JSON = "text/html; charset=utf-8", "text/plain; charset=utf-8", "application/json"
LOG_BYTES_MAX = 1024 * 1024
"""So much of the end of a log is on its page."""
CHUNK_BYTES_MAX = 256 * 1024
QUERY_CHARACTERS_MAX = 100
OFFSET_MAX = 1 << 50
LETTERS_MAX = 5
"""So many dead letters are told on a page."""
RUN_ID = re.compile(places.ID)


@frozen
class Answer:
    """What a request is answered with."""

    body: bytes
    kind: str = HTML
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Missing(LookupError):
    """There is no such page; the sentence says what there is not."""


@dataclass(slots=True)
class Now:
    """Everything at one moment: the newest pass, with the runs under way as they are in their records."""

    snapshot: Snapshot
    actual: Actual
    lines: list[Line]
    kept: dict[str, Kept]

    def line(self, task_id: str, run_id: str) -> Line:
        """Return what is known of a run. Raise Missing if that is nothing."""
        found = next((each for each in self.lines if (each.task_id, each.run_id) == (task_id, run_id)), None)
        if found is None:
            raise Missing(f"There is no run {run_id} of task {task_id}.")
        return found


class WebFace:
    """Answers for one repository. `begin` opens it, anew after the loop has done so."""

    def __init__(self, begin: Callable[[], World], board: Board, name: str) -> None:
        self.begin, self.board, self.name = begin, board, name
        self.pages = Pages(read_templates())
        self.world: World | None = None
        self.archive: Archive | None = None
        self.meter = Meter()
        self.generation = -1
        self.settled: tuple[object, list[Line]] = (None, [])
        self.commits: tuple[str, Mapping[str, str]] = ("", {})
        self.listed: tuple[str, dict[str, Sequence[Item] | str]] = ("", {})

    # -------------------------------------------------------------------------------------------- answering

    def answer(self, place: str, query: Mapping[str, str]) -> Answer:
        """Return the answer for a place; every failure is an answer as well."""
        try:
            return self._answer(place.removeprefix("/") or places.HOME, query)
        except Missing as error:
            return self._message(place, 404, "Not there", str(error))
        except (ReconcilerError, CodecError) as error:
            return self._message(place, 503, "Not now", f"This cannot be shown at the moment: {error}.")
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            return self._message(place, 503, "Not now", f"The system refuses: {error.strerror}.")

    def _answer(self, place: str, query: Mapping[str, str]) -> Answer:
        name = place.removeprefix("assets/")
        if name in ASSETS and name != place:
            return Answer(body=read_assets()[name], kind=ASSETS[name])
        if self.board.snapshot is None:
            said = self.board.trouble or "It is doing its first pass; look again in a moment."
            return self._message(place, 503, "Starting", said)
        self._open()
        return self._page(place, query, self._now(self.board.snapshot))

    def _page(self, place: str, query: Mapping[str, str], now: Now) -> Answer:
        if place == places.HOME:
            return self._list(now, "", 1, query)
        if found := places.LISTED.fullmatch(place):
            return self._list(now, "" if found[1] == "all" else found[1], int(found[2] or 1), query)
        if found := places.RUN.fullmatch(place):
            return self._html(
                views.run_page(self.pages, self._site(now), self._view(now, found[1], found[2]), now.kept)
            )
        if found := places.LOG.fullmatch(place):
            return self._log(now, found[1], found[2], found[3], found[4], query)
        if found := places.MANIFEST.fullmatch(place):
            return self._manifest(now, found[1], found[2])
        if place == places.TASKS:
            return self._tasks(now)
        if found := places.TASK.fullmatch(place):
            return self._task(now, found[1])
        if place == places.QUEUE:
            return self._queue(now)
        raise Missing("There is no such page.")

    def _html(self, text: str, status: int = 200) -> Answer:
        return Answer(body=text.encode(), status=status)

    def _message(self, place: str, status: int, heading: str, said: str) -> Answer:
        site = Site(name=self.name, live=True, said="", commit="")
        return self._html(views.message_page(self.pages, site, place.removeprefix("/"), heading, said), status)

    def _site(self, now: Now) -> Site:
        seen = now.snapshot.seen
        said = f"Branch {seen.branch}, as the pass at {seen.now.at[11:19]} saw it."
        return Site(name=self.name, live=True, said=said, commit=seen.tip)

    # -------------------------------------------------------------------------------------------- looking

    @property
    def _world(self) -> World:
        assert self.world is not None
        return self.world

    @property
    def _archive(self) -> Archive:
        assert self.archive is not None
        return self.archive

    def _open(self) -> None:
        """Open the repository, anew where the loop has: another one may be in its place."""
        if self.generation != self.board.generation:
            if self.world is not None:
                self.world.repository.objects.close()
            self.generation = self.board.generation
            self.world = self.begin()
            self.archive, self.meter = Archive(self.world), Meter()
            self.settled, self.commits, self.listed = (None, []), ("", {}), ("", {})

    def close(self) -> None:
        if self.world is not None:
            self.world.repository.objects.close()

    def _now(self, snapshot: Snapshot) -> Now:
        seen = snapshot.seen
        actual = replace(seen.actual, runs={each: self._fresh(run) for each, run in seen.actual.runs.items()})
        kept = self._archive.runs(seen.evidence_tip) if seen.evidence_tip else {}
        return Now(snapshot=snapshot, actual=actual, lines=self._lines(snapshot, actual, kept), kept=kept)

    def _fresh(self, run: Run) -> Run:
        """Return a run as its records are now."""
        return self._world.runs.observe(run.task_id, run.run_id) or run

    def _lines(self, snapshot: Snapshot, actual: Actual, kept: Mapping[str, Kept]) -> list[Line]:
        """Return every run: what is under way or waits first, then what the tip proves, damaged ones last."""
        seen = snapshot.seen
        near = {*actual.runs, *(actual.held or {}), *(each.run_id for each in seen.desired.wishes)}
        near |= {RunId(each.subject) for each in snapshot.actions if hasattr(each, "subject")}
        evidence = {each: actual.evidence[each] for each in near if each in actual.evidence}
        found = rows(seen.desired, replace(actual, evidence=evidence), snapshot.actions, {}, self._world.now())
        live = [views.line_of_row(each) for each in found]
        shown = {each.run_id for each in live}
        return [
            *live,
            *(each for each in self._settled(seen.evidence_tip, actual.evidence, kept) if each.run_id not in shown),
        ]

    def _settled(self, tip: str, evidence: Mapping[RunId, Evidence], kept: Mapping[str, Kept]) -> list[Line]:
        """Return the runs that are proven, newest first, made once for every tip."""
        key = (tip, id(evidence))
        if self.settled[0] != key:
            newest = sorted(evidence.values(), key=lambda each: (each.completed_at, each.run_id), reverse=True)
            damaged = [line_of(each) for each in kept.values() if each.evidence is None and each.run_id not in evidence]
            self.settled = (key, [*map(views.line_of_evidence, newest), *damaged])
        return self.settled[1]

    def _commit_of(self, tip: str, run_id: str) -> str:
        """Return the commit that published a run, "" if it is not among the newest ones."""
        if self.commits[0] != tip:
            self.commits = (tip, self._world.repository.evidence_commits(tip))
        return self.commits[1].get(run_id, "")

    def _notices(self, now: Now) -> list[str]:
        found = [f"Passes are not done at the moment: {now.snapshot.trouble}"] if now.snapshot.trouble else []
        conditions = read_conditions(self._world.repository.state, self._world.disk)
        found += [condition_line(name, each) for name, each in conditions.items()]
        return [*found, *self._dead_letters()]

    def _dead_letters(self) -> list[str]:
        """Return what was given up to deliver, a sentence for each of the newest ones."""
        state, disk = self._world.repository.state, self._world.disk
        if not disk.exists(state / "outlets"):
            return []
        from reconciler.outlets.box import letters

        dead = sorted(letters(state, disk), key=lambda each: str(each["at"]), reverse=True)
        more = [f"{len(dead) - LETTERS_MAX} more were not delivered."] if len(dead) > LETTERS_MAX else []
        said = [f"Not delivered: {each['key']} to {each['outlet']}: {each['reason']}" for each in dead[:LETTERS_MAX]]
        cure = ["To deliver what was given up after all: reconciler deliveries --retry all"] if dead else []
        return [*said, *more, *cure]

    # -------------------------------------------------------------------------------------------- lists

    def _list(self, now: Now, group: str, number: int, query: Mapping[str, str]) -> Answer:
        said = query.get("q", "").strip()[:QUERY_CHARACTERS_MAX]
        if number > views.page_count(now.lines, group):
            raise Missing("The list has fewer pages.")
        notices = self._notices(now)
        return self._html(views.list_page(self.pages, self._site(now), now.lines, group, number, said, notices))

    def _queue(self, now: Now) -> Answer:
        seen = now.snapshot.seen
        busy = sum(views.in_group(each, "active") for each in now.lines)
        said = f"{busy} under way; at most {seen.limits.runs_max} work at once."
        lines = [each for each in now.lines if each.at is None]
        return self._html(
            views.queue_page(self.pages, self._site(now), lines, seen.desired.rejections, said, self._notices(now))
        )

    def _checklists(self, now: Now) -> dict[str, Sequence[Item] | str]:
        tip = now.snapshot.seen.tip
        if self.listed[0] != tip:
            self.listed = (tip, self._archive.checklists(tip))
        return self.listed[1]

    def _tasks(self, now: Now) -> Answer:
        sound = {task: each for task, each in self._checklists(now).items() if not isinstance(each, str)}
        return self._html(views.tasks_page(self.pages, self._site(now), views.task_lines(now.lines, sound)))

    def _task(self, now: Now, task_id: str) -> Answer:
        lines = [each for each in now.lines if each.task_id == task_id]
        found = self._checklists(now).get(task_id)
        if found is None and not lines:
            raise Missing(f"There is no task {task_id} with a run or a checklist.")
        items, damage = ((), (found,)) if isinstance(found, str) else (found or (), ())
        known = {each.run_id: each.task_id for each in now.lines}
        return self._html(views.task_page(self.pages, self._site(now), task_id, lines, items, known, damage))

    # -------------------------------------------------------------------------------------------- one run

    def _kept(self, now: Now, task_id: str, run_id: str) -> Kept | None:
        found = now.kept.get(run_id)
        return found if found is not None and found.task_id == task_id else None

    def _view(self, now: Now, task_id: str, run_id: str) -> RunView:
        line, kept = now.line(task_id, run_id), self._kept(now, task_id, run_id)
        if run_id in now.actual.runs:
            return self._live_view(now, line, proven=kept is not None)
        if kept is None:
            note = EvidenceNote(
                committed=False, path="", said="It has not started here, so nothing is written down yet."
            )
            return RunView(line=line, document=None, evidence=note, reasons=self._reasons(now, run_id, ()))
        return self._committed_view(now, line, kept)

    def _live_view(self, now: Now, line: Line, *, proven: bool) -> RunView:
        """Return a run of this machine by its records; what is committed of one that waits is older than they are."""
        path = manifest.manifest_path(line.task_id, line.run_id)
        note = EvidenceNote(
            committed=proven, path=path, commit=self._commit_of(now.snapshot.seen.evidence_tip, line.run_id)
        )
        try:
            document = self._records(line.task_id, line.run_id)
        except TransientError as error:
            why = self._reasons(now, line.run_id, ())
            return RunView(line=line, document=None, evidence=note, reasons=why, damage=(f"{error}",))
        logs = {each["log_path"] for each in document["commands"] if each["log_path"]}
        return RunView(
            line=line,
            document=document,
            evidence=note,
            logs=logs,
            ends=self._ends(line, document),
            reasons=self._reasons(now, line.run_id, document["resume_events"]),
            until=self._world.now().at,
        )

    def _records(self, task_id: str, run_id: str) -> dict[str, Any]:
        """Return the manifest of a run as its records are now. Raise TransientError if they cannot be read."""
        records = read_records(self._world, task_id, run_id)
        return manifest.manifest(records, updated_at=self._world.now().at, heartbeat_at=None)

    def _committed_view(self, now: Now, line: Line, kept: Kept) -> RunView:
        found = self._archive.manifest(kept)
        events = found.document["resume_events"] if found.document else ()
        path = manifest.manifest_path(line.task_id, line.run_id)
        return RunView(
            line=line if found.document else replace(line, phase="damaged"),
            document=found.document,
            evidence=EvidenceNote(
                committed=True, path=path, commit=self._commit_of(now.snapshot.seen.evidence_tip, line.run_id)
            ),
            logs=found.logs,
            ends=committed_ends(self._archive, found),
            reasons=self._reasons(now, line.run_id, events) if found.document else (),
            damage=found.damage,
        )

    def _reasons(self, now: Now, run_id: str, events: Sequence[Mapping[str, object]]) -> list[str]:
        snapshot = now.snapshot
        desired, moment = snapshot.seen.desired, self._world.now()
        return reasons(RunId(run_id), desired, now.actual, snapshot.actions, moment, events, snapshot.blocked)

    def _manifest(self, now: Now, task_id: str, run_id: str) -> Answer:
        kept = self._kept(now, task_id, run_id)
        if kept is None:
            raise Missing(f"No manifest of {run_id} is committed.")
        return Answer(body=self._archive.manifest(kept).data, kind=JSON)

    # -------------------------------------------------------------------------------------------- events

    def news(self, task_id: str, run_id: str, feed: Feed) -> tuple[Event, ...]:
        """Return the events of a run that one who listens has not heard. Raise Missing if there is no such run."""
        snapshot = self.board.snapshot
        if snapshot is None or not (RUN_ID.fullmatch(task_id) and RUN_ID.fullmatch(run_id)):
            raise Missing(f"There is no run {run_id} of task {task_id}.")
        self._open()
        path = self._world.runs.directory(task_id, run_id).path / journal.NAME
        here = snapshot.seen.actual.runs.get(RunId(run_id))
        if here is not None and here.task_id == task_id:
            ended = phase(self._fresh(here), self._world.now()) in ENDED
            return feed.news(path, ended, lambda: self._records(task_id, run_id))
        now = self._now(snapshot)
        now.line(task_id, run_id)
        kept = self._kept(now, task_id, run_id)
        return feed.news(path, kept is not None, lambda: self._archive.manifest(kept).document if kept else None)

    # -------------------------------------------------------------------------------------------- logs

    def _log(self, now: Now, task_id: str, run_id: str, name: str, suffix: str, query: Mapping[str, str]) -> Answer:
        line, kept = now.line(task_id, run_id), self._kept(now, task_id, run_id)
        path = f"{manifest.artifact_root(task_id, run_id)}/commands/{name}.log"
        if run_id in now.actual.runs:
            command = _command(self._records(task_id, run_id), path)
            growing = command["status"] == "running"
            return (
                self._growth(path, query, growing) if suffix == "txt" else self._live_log(now, line, command, growing)
            )
        if suffix == "txt":
            return self._growth(path, query, False)
        found = self._archive.manifest(kept) if kept is not None else Manifest(data=b"", document=None)
        if path not in found.logs:
            raise Missing(f"There is no log {path}.")
        command, data = _command(found.document, path), self._archive.log(found.logs[path])
        return self._html(views.log_page(self.pages, self._site(now), line, command, data, said_of_log(command, data)))

    def _live_log(self, now: Now, line: Line, command: Mapping[str, Any], growing: bool) -> Answer:
        """Return the page of a log on this machine: its end, and where to ask for what comes after it."""
        whole = self._size(command["log_path"])
        start = max(0, whole - LOG_BYTES_MAX)
        data = self._read(command["log_path"], start, LOG_BYTES_MAX)
        shown = data[data.find(b"\n") + 1 :] if start else data
        said = f"{size(whole)} so far." if growing else f"{size(whole)}."
        said += f" The last {size(len(shown))} are shown; reconciler logs has all of it." if start else ""
        follow = places.log(line.task_id, line.run_id, command["log_path"], "txt").rpartition("/")[2] if growing else ""
        site = self._site(now)
        offset = start + len(data)
        return self._html(views.log_page(self.pages, site, line, command, shown, said, follow, offset))

    def _growth(self, path: str, query: Mapping[str, str], growing: bool) -> Answer:
        """Return what a log has gained since an offset, whole lines of it while it grows."""
        text = query.get("from", "0")
        offset = min(int(text), OFFSET_MAX) if text.isascii() and text.isdigit() and len(text) <= 16 else 0
        data = self._read(path, offset, CHUNK_BYTES_MAX)
        if growing and len(data) < CHUNK_BYTES_MAX:
            data = data[: data.rfind(b"\n") + 1]
        shown = log_text(data).text + "\n" if data else ""
        ended = "no" if growing or data else "yes"
        return Answer(
            body=shown.encode(), kind=TEXT, headers={"X-Log-Offset": str(offset + len(data)), "X-Log-Ended": ended}
        )

    def _ends(self, line: Line, document: Mapping[str, Any]) -> dict[str, bytes]:
        failed = [each for each in document["commands"] if each["status"] == "failed" and each["log_path"]]
        return {each["id"]: self._end(each["log_path"]) for each in failed}

    def _end(self, path: str) -> bytes:
        return self._read(path, max(0, self._size(path) - views.TAIL_BYTES), views.TAIL_BYTES)

    def _size(self, path: str) -> int:
        found = self._world.disk.look(full_log(self._world.disk, self._world.checkout / path))
        return found.bytes if found is not None else 0

    def _read(self, path: str, start: int, bytes_max: int) -> bytes:
        """Return a part of a log on this machine. A stage may write beside its logs: links are not followed."""
        disk, file = self._world.disk, full_log(self._world.disk, self._world.checkout / path)
        folder = disk.look(file.parent)
        if folder is None or not folder.is_directory:
            return b""
        try:
            return disk.read(file, bytes_max, start)
        except OSError:
            return b""

    # -------------------------------------------------------------------------------------------- for machines

    def metrics(self) -> bytes:
        """Return what is measured, in the text format of Prometheus. Labels are words of ours, and tasks, pipelines and
        stages that evidence names, of which there are bounds."""
        from prometheus_client import generate_latest
        from prometheus_client.registry import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Measured(list(self._families())))
        return generate_latest(registry) + self._measured_evidence()

    def _measured_evidence(self) -> bytes:
        """Return what the evidence at the tip comes to, in the words of the verb `metrics`."""
        snapshot = self.board.snapshot
        tip = snapshot.seen.evidence_tip if snapshot is not None else None
        if not tip:
            return b""
        self._open()
        measured = self.meter.measured(self._world.repository, self._archive.runs(tip).values(), tip)
        return exposition.prometheus(measured, exposition.info(tip)).encode()

    def _families(self) -> Any:
        """Yield every family of measurements."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        tally, snapshot = self.board.tally, self.board.snapshot
        sums = [sum(tally.buckets[: n + 1]) for n in range(len(tally.buckets))]
        limits = [*map(str, PASS_BUCKETS_S), "+Inf"]
        yield HistogramMetricFamily(
            "reconciler_pass_seconds", "How long passes took.",
            buckets=list(zip(limits, sums, strict=True)), sum_value=tally.pass_s_total,
        )  # fmt: skip
        yield CounterMetricFamily("reconciler_passes", "Passes since the start.", value=tally.passes)
        refused = "Passes that the environment kept from being done."
        yield CounterMetricFamily("reconciler_passes_refused", refused, value=tally.passes_refused)
        failed = "Passes that could not commit evidence."
        yield CounterMetricFamily("reconciler_publish_failures", failed, value=tally.publish_failures)
        if snapshot is None:
            return
        gauges = self._gauges(snapshot)
        for name, (said, value) in gauges.items():
            yield GaugeMetricFamily(f"reconciler_{name}", said, value=value)
        runs = GaugeMetricFamily("reconciler_runs", "Runs by phase, as the last pass saw them.", labels=["phase"])
        for word, count in self._counts(snapshot).items():
            runs.add_metric([word], count)
        yield runs

    def _gauges(self, snapshot: Snapshot) -> dict[str, tuple[str, float]]:
        self._open()
        now, clock_s = self._world.now(), time.monotonic()
        beating = [run for run in snapshot.seen.actual.runs.values() if phase(run, now) in (Phase.RUNNING, Phase.STALE)]
        ages = [silence(self._fresh(run), now) for run in beating]
        waits = [clock_s - since_s for since_s in self.board.since.values()]
        conditions = read_conditions(self._world.repository.state, self._world.disk)
        return {
            "last_pass_age_seconds": ("Since the last pass ended.", clock_s - snapshot.at_s),
            "heartbeat_age_seconds_max": ("The oldest newest heartbeat of a run under way.", max(ages, default=0.0)),
            "oldest_waiting_seconds": ("How long a run has been seen waiting, at most.", max(waits, default=0.0)),
            "waiting_runs": ("Runs that wait.", len(waits)),
            "rejections": ("Files at the tip that were rejected.", len(snapshot.seen.desired.rejections)),
            "publish_blocked": ("1 while evidence cannot be committed.", float("publish" in conditions)),
            "remote_unreachable": ("1 while the remote cannot be used.", float("remote" in conditions)),
        }

    def _counts(self, snapshot: Snapshot) -> dict[str, int]:
        counts = dict.fromkeys((each.value for each in Phase), 0)
        for line in self._now(snapshot).lines:
            if line.phase in counts:
                counts[line.phase] += 1
        return counts


class _Measured:
    """What a registry asks for its measurements."""

    def __init__(self, families: Sequence[Any]) -> None:
        self.families = families

    def collect(self) -> Sequence[Any]:
        return self.families


def _command(document: Mapping[str, Any] | None, path: str) -> Mapping[str, Any]:
    """Return the stage that a log belongs to. Raise Missing if there is none."""
    commands = document["commands"] if document else ()
    found: Mapping[str, Any] | None = next((each for each in commands if each["log_path"] == path), None)
    if found is None:
        raise Missing(f"There is no log {path}.")
    return found
