"""Requests that ask for more than one run: one for every fire of their schedule, one for every state of their inputs.

Which run they ask for now follows from the request, the tip and the clock alone, so every machine comes to the same id.
Only the newest fire is looked at, and object ids are looked up once for a tip: what went by costs nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from reconciler import inputs, resolve, schedule
from reconciler.git import Repository
from reconciler.model import Instant, Occasion, Problem, Rejection, Request, RunId
from reconciler.values import frozen
from reconciler.world import World

IDS_REMEMBERED_MAX = 10_000
FOREVER = "9999"


@frozen(kw_only=False)
class Asked:
    """What a recurring request asks for now: `current`, the run that counts as its own, and `coming`, the next fire."""

    current: Occasion | None
    coming: Occasion | None = None


@frozen(kw_only=False)
class Fires:
    """What a schedule asks for from one instant until before another one, both as the wall clock spells them."""

    made_of: tuple[str, int | None]
    since: str
    until: str
    asked: Asked


@dataclass(slots=True)
class Recurring:
    """What was found out about inputs, for one repository; `checklists` are those of the settings."""

    world: World
    known: dict[tuple[str, str, tuple[str, ...]], Occasion | Rejection] = field(default_factory=dict)
    ids: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)
    oids: dict[str, str | None] = field(default_factory=dict)
    fires: dict[str, Fires] = field(default_factory=dict)
    run_ids: dict[tuple[str, str, Occasion], RunId] = field(default_factory=dict)
    tip: str = ""

    def run_id(self, request: Request, occasion: Occasion) -> RunId:
        """Return the id of the run that a request asks for on an occasion; it is computed once."""
        key = (request.source.path, request.source.blob, occasion)
        if key not in self.run_ids:
            if len(self.run_ids) >= IDS_REMEMBERED_MAX:
                self.run_ids.clear()
            self.run_ids[key] = resolve.run_id(request, occasion)
        return self.run_ids[key]

    def prepare(self, requests: Iterable[Request], tip: str) -> None:
        """Look up what lies at all inputs of all requests at a tip, in one question."""
        if tip != self.tip:
            paths = list(dict.fromkeys(path for each in requests for path in each.on_change))
            found = self.world.repository.look_up([f"{tip}:{path}" for path in paths]) if paths else ()
            self.known, self.oids, self.tip = {}, dict(zip(paths, found, strict=True)), tip

    def asked(
        self, request: Request, tip: str, checklists: tuple[str, ...], now: Instant, since_s: int | None
    ) -> Asked | Rejection:
        """Return what a request asks for at a tip and an instant, or why that cannot be said."""
        if request.schedule is None:
            found = self._inputs(request, tip, checklists)
            return found if isinstance(found, Rejection) else Asked(found)
        path, made_of = request.source.path, (request.source.blob, since_s)
        known = self.fires.get(path)
        if known is None or known.made_of != made_of or not known.since <= now.at < known.until:
            zone = self.world.contracts.zone(request.schedule.timezone)
            if zone is None:
                return _rejection(request, "/schedule/timezone", *_unknown_zone(request.schedule.timezone))
            due = schedule.latest(request.schedule, zone, now, since_s)
            coming = schedule.following(request.schedule, zone, now, since_s)
            # A fire that may be skipped stops to count some time; it is looked for anew until then.
            lasting = due is None or request.schedule.missed != "skip"
            fires = [Occasion(fired_at=each) if each is not None else None for each in (due, coming)]
            until = (coming or FOREVER)[:19] if lasting else now.at
            known = self.fires[path] = Fires(made_of, now.at, until, Asked(*fires))
        return known.asked

    def has_fired(self, request: Request, fired_at: str) -> bool:
        """Return whether the schedule of a request has fired at an instant. What says so elsewhere may be made up: by
        who may write refs and not the branch."""
        if request.schedule is None:
            return False
        zone = self.world.contracts.zone(request.schedule.timezone)
        return zone is not None and schedule.is_fire(request.schedule, zone, fired_at, self.world.now())

    # -------------------------------------------------------------------------------------------- inputs

    def _inputs(self, request: Request, tip: str, checklists: tuple[str, ...]) -> Occasion | Rejection:
        self.prepare([request], tip)
        key = (request.source.path, request.source.blob, checklists)
        if key not in self.known:
            self.known[key] = self._look_up(request, tip, checklists)
        return self.known[key]

    def _look_up(self, request: Request, tip: str, checklists: tuple[str, ...]) -> Occasion | Rejection:
        repository = self.world.repository
        unknown = [path for path in request.on_change if path not in self.oids]
        self.oids.update(zip(unknown, repository.look_up([f"{tip}:{path}" for path in unknown]), strict=True))
        oids = [self.oids[path] for path in request.on_change]
        missing = [index for index, oid in enumerate(oids) if oid is None]
        if missing:
            return _missing(request, missing, repository, tip)
        found = [
            (path, self.input_id(path, oid or "", checklists))
            for path, oid in zip(request.on_change, oids, strict=True)
        ]
        return Occasion(inputs=tuple(sorted(found)))

    def input_id(self, path: str, oid: str, checklists: tuple[str, ...]) -> str:
        """Return an id for what lies at a path: that of the object, unless evidence is written into it."""
        if not inputs.may_hold_checklists(path, checklists):
            return oid
        key = (f"{path}\0{oid}", checklists)
        if key not in self.ids:
            if len(self.ids) >= IDS_REMEMBERED_MAX:
                self.ids.clear()
            self.ids[key] = self._without_evidence(path, oid, checklists)
        return self.ids[key]

    def _without_evidence(self, path: str, oid: str, checklists: tuple[str, ...]) -> str:
        repository = self.world.repository
        if inputs.is_edited(path, checklists):
            return inputs.of_checklist(next(repository.blobs([oid]))[1] or oid.encode())
        listed = [(f"{path}/{each.path}", each) for each in repository.entries(oid)]
        edited = [each.oid for full, each in listed if each.is_file and inputs.is_edited(full, checklists)]
        texts = {each: inputs.of_checklist(data) for each, data in repository.blobs(edited) if data is not None}
        counted = [(full, each) for full, each in listed if full != inputs.REGISTRY]
        files = ((full, f"{each.mode} {texts.get(each.oid, each.oid)}") for full, each in counted)
        return inputs.of_files(files) if listed else oid


def _missing(request: Request, missing: Sequence[int], repository: Repository, tip: str) -> Rejection:
    """Return a rejection that names every path that is not at the tip, each with what is there and looks like it."""
    problems: list[Problem] = []
    for index in missing[:10]:
        path = request.on_change[index]
        folder, _, name = path.rpartition("/")
        tree = repository.look_up([f"{tip}:{folder}"])[0]
        there = repository.tree(tree) if tree is not None else {}
        close = difflib.get_close_matches(name, list(there)[:200], 1)
        near = f"{folder}/{close[0]}" if folder and close else close[0] if close else ""
        cure = f"did you mean '{near}'?" if near else "name a file or folder that is committed"
        reason = f"on_change names '{path}', and nothing is there at the tip"
        problems += _rejection(request, f"/on_change/{index}", reason, cure).problems
    return Rejection(path=request.source.path, name=request.name, problems=tuple(problems))


def _unknown_zone(name: str) -> tuple[str, str]:
    return f"there is no time zone '{name}'", "name one of the IANA database, such as Europe/Berlin or UTC"


def _rejection(request: Request, pointer: str, reason: str, cure: str) -> Rejection:
    path = request.source.path
    problem = Problem(path=path, pointer=pointer, reason=reason, cure=cure, rule="recurring")
    return Rejection(path=path, name=request.name, problems=(problem,))
