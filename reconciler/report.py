"""`report`: the pages of what a commit proves, written into a directory that is the report's own.

Every file is a function of the commit and of this program, so the same commit gives the same bytes. A file is written
beside its place and renamed; runs come first and the lists that lead to them last, so whoever reads meanwhile finds no
link to nothing. What was written for a run whose directory in git is still the same is not made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import Any

from reconciler import __version__, codec
from reconciler.archive import Archive, Kept, Manifest, committed_ends, line_of, said_of_log
from reconciler.cache import Cache
from reconciler.checklist import Item
from reconciler.codec import CodecError
from reconciler.disk import Disk
from reconciler.errors import UsageError
from reconciler.pagefiles import read_assets, read_templates
from reconciler.pages import places, views
from reconciler.pages.render import Pages, Site
from reconciler.pages.views import EvidenceNote, Line, RunView
from reconciler.values import frozen
from reconciler.world import World

MARKER = ".reconciler-report.json"
MARKER_BYTES_MAX = 64 * 1024 * 1024
FORMAT = 1


@frozen
class Written:
    """What a report came to: how many runs it shows, of how many, and how many files were written and removed."""

    directory: str
    commit: str
    runs: int
    runs_total: int
    files_written: int
    files_removed: int


def report(world: World, commit: str, directory: Path, runs_max: int, name: str, cache: Cache | None = None) -> Written:
    """Write the report of a commit. Raise UsageError, touching nothing, if the directory is somebody else's."""
    before = read_marker(world.disk, directory)
    archive = Archive(world, cache)
    every = list(archive.runs(commit).values())
    maker = _Maker(archive, commit, every[:runs_max], len(every), name)
    out = _Out(world.disk, directory, before, maker.key)
    out.begin()
    for kept in maker.shown:
        out.keep_or_write(kept, maker)
    for place, data in maker.frame():
        out.write(place, data)
    out.end()
    return Written(
        directory=str(directory),
        commit=commit,
        runs=len(maker.shown),
        runs_total=len(every),
        files_written=out.written,
        files_removed=out.removed,
    )


# ------------------------------------------------------------------------------------------------ what is written


class _Maker:
    """Makes the files of a report, by place."""

    def __init__(self, archive: Archive, commit: str, shown: Sequence[Kept], total: int, name: str) -> None:
        self.archive, self.commit, self.shown, self.total = archive, commit, shown, total
        self.pages = Pages(read_templates())
        # The page of a run must not change with the commit, or every report would write all of them.
        self.run_site = Site(name=name, live=False, said="Made from committed evidence.", commit="")
        self.known = {each.run_id: each.task_id for each in shown}
        self.key = _digest(name, *(f"{each}\0{text}" for each, text in sorted(read_templates().items())))

    @property
    def site(self) -> Site:
        cut = f" The newest {len(self.shown)} of {self.total} runs are shown." if len(self.shown) < self.total else ""
        return Site(name=self.run_site.name, live=False, said=f"Made from committed evidence.{cut}", commit=self.commit)

    def run(self, kept: Kept, found: Manifest) -> Iterator[tuple[str, bytes]]:
        """Yield what belongs to one run: its page, its manifest, its logs."""
        view = _view(self.archive, kept, found)
        yield (
            places.run(kept.task_id, kept.run_id),
            views.run_page(self.pages, self.run_site, view, self.known).encode(),
        )
        yield places.manifest(kept.task_id, kept.run_id), found.data
        for command in found.document["commands"] if found.document else ():
            if command["log_path"] in found.logs:
                data = self.archive.log(found.logs[command["log_path"]])
                page = views.log_page(self.pages, self.run_site, view.line, command, data, said_of_log(command, data))
                yield places.log(kept.task_id, kept.run_id, command["log_path"]), page.encode()

    def frame(self) -> Iterator[tuple[str, bytes]]:
        """Yield what all runs share: style and script, tasks, and the lists, the first page last."""
        for name, data in read_assets().items():
            yield f"assets/{name}", data
        lines = [line_of(each) for each in self.shown]
        checklists = self.archive.checklists(self.commit)
        by_task: dict[str, list[Line]] = {task: [] for task in checklists}
        for line in lines:
            by_task.setdefault(line.task_id, []).append(line)
        for task, its in sorted(by_task.items()):
            yield places.task(task), self._task(task, its, checklists.get(task, ()))
        sound = {task: found for task, found in checklists.items() if not isinstance(found, str)}
        yield places.TASKS, views.tasks_page(self.pages, self.site, views.task_lines(lines, sound)).encode()
        for group in (*places.GROUPS, ""):
            for number in range(views.page_count(lines, group), 0, -1):
                yield places.listed(group, number), self._list(lines, group, number)

    def _task(self, task: str, lines: Sequence[Line], found: Sequence[Item] | str) -> bytes:
        items, damage = ((), (found,)) if isinstance(found, str) else (found, ())
        return views.task_page(self.pages, self.site, task, lines, items, self.known, damage).encode()

    def _list(self, lines: Sequence[Line], group: str, number: int) -> bytes:
        cut = len(self.shown) < self.total
        notices = [f"This report shows the newest {len(self.shown)} of {self.total} runs."] if cut else []
        return views.list_page(self.pages, self.site, lines, group, number, notices=notices).encode()


def _related(document: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the runs that the page of a run names."""
    if document is None:
        return ()
    nested = (each["sub_run_id"] for each in document["commands"])
    return tuple(sorted({each for each in (document["parent_run_id"], *nested) if each}))


def _view(archive: Archive, kept: Kept, found: Manifest) -> RunView:
    path = f".runs/{kept.task_id}/cli/{kept.run_id}/manifest.json"
    return RunView(
        line=views.damaged_line(kept.task_id, kept.run_id) if found.document is None else line_of(kept),
        document=found.document,
        evidence=EvidenceNote(committed=True, path=path),
        logs=found.logs,
        ends=committed_ends(archive, found),
        damage=found.damage,
    )


def _digest(*texts: str) -> str:
    found = hashlib.sha256(f"{FORMAT} {__version__}".encode())
    for each in texts:
        found.update(hashlib.sha256(each.encode()).digest())
    return found.hexdigest()


# ------------------------------------------------------------------------------------------------ where


@frozen
class Made:
    """The files that were written for one run, and what they are a function of: its directory in git, and which of the
    runs that its page names, `related`, have a page themselves, `linked`."""

    tree: str
    related: tuple[str, ...]
    linked: tuple[str, ...]
    files: tuple[str, ...]


@frozen
class Marker:
    """What an earlier report wrote, by run, and what all runs share; `key` is the program's part in that."""

    key: str = ""
    runs: Mapping[str, Made] = field(default_factory=dict)
    frame: tuple[str, ...] = ()

    @property
    def files(self) -> set[str]:
        return {*self.frame, *(place for each in self.runs.values() for place in each.files)}


def read_marker(disk: Disk, directory: Path) -> Marker:
    """Return what an earlier report left. Raise UsageError if the directory is not empty and not a report's."""
    found = disk.look(directory)
    if found is None:
        return Marker()
    if not found.is_directory:
        raise UsageError(f"{directory}: no directory; name one that is empty, or is not there yet")
    try:
        data = disk.read_bounded(directory / MARKER, MARKER_BYTES_MAX)
        marker = codec.parse(Marker, data) if data is not None else None
        for place in marker.files if marker is not None else ():
            _check_place(place)
    except CodecError:
        raise UsageError(
            f"{directory}/{MARKER}: it cannot be read; remove the directory, or name another one"
        ) from None
    if marker is None and disk.names(directory):
        raise UsageError(f"{directory}: it is not empty and holds no report; name an empty directory")
    return marker or Marker()


def _check_place(place: str) -> None:
    """Raise CodecError for a place that is none of a report's: it might lead out of the directory."""
    parts = PurePosixPath(place).parts
    if not parts or ".." in parts or place.startswith("/") or "\0" in place:
        raise codec.CodecError("no place of a report")


class _Out:
    """Writes below one directory, and remembers what for."""

    def __init__(self, disk: Disk, directory: Path, before: Marker, key: str) -> None:
        self.disk, self.directory, self.key = disk, directory, key
        self.before = before
        self.known = before.runs if before.key == key else {}
        self.runs: dict[str, Made] = {}
        self.frame: list[str] = []
        self.made: set[Path] = set()
        self.written = self.removed = 0

    def begin(self) -> None:
        """Make the directory the report's own before anything else is in it."""
        self.disk.make_directory(self.directory, sync=False)
        if self.disk.look(self.directory / MARKER) is None:
            self._remember(Marker(key=""))

    def keep_or_write(self, kept: Kept, maker: _Maker) -> None:
        """Write the files of a run, unless what they are a function of is still the same."""
        known = self.known.get(kept.run_id)
        if known is not None and known.tree == kept.tree and self._stands(known, maker):
            self.runs[kept.run_id] = known
            return
        found = maker.archive.manifest(kept)
        related = _related(found.document)
        files = []
        for place, data in maker.run(kept, found):
            self._put(place, data)
            files.append(place)
        linked = tuple(each for each in related if each in maker.known)
        self.runs[kept.run_id] = Made(tree=kept.tree, related=related, linked=linked, files=tuple(files))

    def _stands(self, made: Made, maker: _Maker) -> bool:
        linked = tuple(each for each in made.related if each in maker.known)
        return linked == made.linked and all(self.disk.exists(self.directory / each) for each in made.files)

    def write(self, place: str, data: bytes) -> None:
        self._put(place, data)
        self.frame.append(place)

    def end(self) -> None:
        """Remove what an earlier report wrote and this one does not have, and remember what there is."""
        now = Marker(key=self.key, runs=self.runs, frame=tuple(self.frame))
        for place in sorted(self.before.files - now.files):
            if self._inside(place):
                self.disk.unlink(self.directory / place)
                self.removed += 1
        self._remember(now)

    def _remember(self, marker: Marker) -> None:
        data = json.dumps(codec.dump(marker), sort_keys=True, separators=(",", ":")).encode() + b"\n"
        self.disk.write_atomic(self.directory / MARKER, data, sync=False)

    def _put(self, place: str, data: bytes) -> None:
        path = self.directory / place
        if path.parent not in self.made:
            self._make(path.parent)
        if self._same(path, data):
            return
        self.disk.write_atomic(path, data, sync=False)
        self.written += 1

    def _make(self, folder: Path) -> None:
        """Make a folder of the report. Raise UsageError where a link would lead out of it."""
        self.disk.make_directory(folder, sync=False)
        place = folder.relative_to(self.directory).as_posix()
        if not self._inside(f"{place}/x"):
            raise UsageError(f"{folder}: a link leads out of the report; remove it")
        self.made.add(folder)

    def _inside(self, place: str) -> bool:
        """Return whether no folder on the way to a place is a link."""
        folders = [self.directory / each for each in PurePosixPath(place).parents if each.parts]
        return all((found := self.disk.look(each)) is None or found.is_directory for each in folders)

    def _same(self, path: Path, data: bytes) -> bool:
        found = self.disk.look(path)
        return found is not None and found.bytes == len(data) and self.disk.read(path, len(data) + 1) == data
