"""The files below `runs.d` at the tip: requests and approvals, as rows that are remembered from process to process.

A file is parsed only when its row is made or somebody looks at it: in a settled repository nobody does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reconciler import codec, resolve
from reconciler.cache import RECURRING, Cache
from reconciler.errors import GitFailed
from reconciler.git import Entry
from reconciler.model import Approval, Arrival, Name, Problem, Rejection, Request, RunId, Source, TaskId
from reconciler.world import World

APPROVAL_SUFFIX = ".approval.yaml"
ARRIVALS_MAX = 1_000
"""Requests that are older than the newest so many commits below runs.d count as arrived at once, before all others."""


class Requests:
    """The requests and approvals at the tip, indexed by what is asked of them.

    `parsed` holds those that were parsed, by path; `names` every name with its run, None where several files claim it;
    `paths` maps runs to paths, `recurring` names to paths, `approvals` runs to paths of decisions about them, and
    `twins` the path of a file to all that claim its name.
    """

    def __init__(self, world: World, cache: Cache, tree: str | None = None) -> None:
        """Take what the cache holds, brought to a tree at once if one is given: to index costs all there is."""
        self.world, self.cache = world, cache
        self.parsed: dict[str, Request] = {}
        if tree is not None and tree != cache.requests_tree:
            self._bring_to(tree)
        self._index()

    def read_tree(self, tree: str | None) -> None:
        """Bring the rows of requests to a tree, parsing what differs from the tree they were made from."""
        if tree != self.cache.requests_tree:
            self._bring_to(tree)
            self._index()

    def _bring_to(self, tree: str | None) -> None:
        repository, cache = self.world.repository, self.cache
        changed = [
            (f"runs.d/{path}", entry)
            for path, entry in repository.changes(cache.requests_tree, tree)
            if path.endswith((".yaml", ".yml"))
        ]
        for path, entry in changed:
            self.parsed.pop(path, None)
            if entry is None:
                cache.requests.pop(path, None)
        self._parse_rows([(path, entry) for path, entry in changed if entry is not None])
        cache.requests_tree, cache.changed = tree, True

    def _parse_rows(self, entries: Sequence[tuple[str, Entry]]) -> None:
        read = self.world.repository.blobs([entry.oid for _, entry in entries if entry.is_file])
        for path, entry in entries:
            data = next(read)[1] if entry.is_file else None
            self.cache.requests[path] = self._row(path, entry, data)

    def _row(self, path: str, entry: Entry, data: bytes | None) -> list[Any]:
        parsed = self.parse(path, entry, data)
        if isinstance(parsed, Rejection):
            return [entry.oid, None, None, codec.dump(parsed.problems)]
        if isinstance(parsed, Approval):
            return [entry.oid, None, parsed.run, []]
        self.parsed[path] = parsed
        return [entry.oid, RECURRING if parsed.recurring else resolve.run_id(parsed), parsed.task, []]

    def parse(self, path: str, entry: Entry, data: bytes | None) -> Request | Approval | Rejection:
        if not entry.is_file:
            kind = {"120000": "a symbolic link", "160000": "a submodule"}.get(entry.mode, f"mode {entry.mode}")
            return rejected(path, f"this is {kind}, not a file", "commit the file itself", "not-a-file")
        if path.endswith(".approval.yml"):
            return rejected(path, f"a decision must end in {APPROVAL_SUFFIX}", "rename it", "name")
        if data is None:
            return rejected(path, "the file is missing from the object store or too large", "", "unreadable")
        from reconciler import parse

        source = Source(path=path, blob=entry.oid)
        if path.endswith(APPROVAL_SUFFIX):
            return parse.parse_approval(data, source, self.world.contracts)
        return parse.parse_request(data, source, self.world.contracts)

    def _index(self) -> None:
        """Index the rows by name and by run id, and find the files that claim one name together."""
        by_name: dict[Name, list[str]] = {}
        self.approvals: dict[str, list[str]] = {}
        for path, row in self.cache.requests.items():
            if path.endswith(APPROVAL_SUFFIX):
                self.approvals.setdefault(row[2], []).append(path)
            else:
                by_name.setdefault(name_at(path), []).append(path)
        self.twins = {path: paths for paths in by_name.values() if len(paths) > 1 for path in paths}
        rows = self.cache.requests
        single = {name: paths[0] for name, paths in by_name.items() if len(paths) == 1}
        self.recurring = {name: path for name, path in single.items() if rows[path][1] == RECURRING}
        ids = {name: rows[path][1] for name, path in single.items() if name not in self.recurring}
        self.names: dict[Name, RunId | None] = {**dict.fromkeys(by_name), **ids}
        known = (path for name, path in single.items() if name not in self.recurring and rows[path][1])
        self.paths = {rows[path][1]: path for path in known}

    def unsettled(self, marked: Sequence[tuple[TaskId, RunId]], evidence: Mapping[str, list[Any]]) -> list[str]:
        """Return the paths of requests that the tip does not prove, and of those that are under way again."""
        found = [path for run_id, path in self.paths.items() if (row := evidence.get(run_id)) is None or row[7]]
        again = [self.paths[run_id] for _, run_id in marked if run_id in evidence and run_id in self.paths]
        return found + again

    def read(self, paths: Sequence[str]) -> None:
        """Parse the requests that are known by their rows only."""
        missing = [path for path in paths if path not in self.parsed]
        read = self.world.repository.blobs([self.cache.requests[path][0] for path in missing])
        for path, (oid, data) in zip(missing, read, strict=True):
            parsed = self.parse(path, Entry("100644", oid, path), data)
            if isinstance(parsed, Request):
                self.parsed[path] = parsed

    def arrivals(self, tip: str, tree: str | None) -> Callable[[str], Arrival]:
        """Return the arrival of requests by path: by the commits since they were looked up last, oldest first."""
        cache = self.cache
        if cache.arrivals_tip is not None and cache.arrivals_tree == tree:
            cache.arrivals_tip = tip
        if cache.arrivals_tip != tip:
            try:
                commits = self.world.repository.touched(cache.arrivals_tip, tip, "runs.d", ARRIVALS_MAX)
            except GitFailed:
                # What was looked up last may be gone where history was rewritten.
                commits = self.world.repository.touched(None, tip, "runs.d", ARRIVALS_MAX)
            number = max((row[0] for row in cache.arrivals.values()), default=0)
            for epoch_s, paths in commits:
                number += 1
                cache.arrivals.update({path: [number, epoch_s] for path in paths})
            cache.arrivals = {path: row for path, row in cache.arrivals.items() if path in cache.requests}
            cache.arrivals_tip, cache.arrivals_tree, cache.changed = tip, tree, True
        rows = cache.arrivals
        return lambda path: Arrival(number=rows[path][0], at_s=rows[path][1]) if path in rows else Arrival()

    def rejections(self) -> list[Rejection]:
        """Return what is wrong with files alone, whatever is made of them."""
        rows = [
            Rejection(path=path, name=name_at(path), problems=codec.load(tuple[Problem, ...], row[3]))
            for path, row in self.cache.requests.items()
            if row[3]
        ]
        twins = [_twin(path, paths) for path, paths in self.twins.items()]
        return [*rows, *twins]


def name_at(path: str) -> Name:
    """Return the name a path below runs.d claims, valid or not."""
    return Name(path.removeprefix("runs.d/").rpartition(".")[0].replace("/", "."))


def _twin(path: str, paths: Sequence[str]) -> Rejection:
    others = ", ".join(each for each in paths if each != path)
    return rejected(path, f"the name '{name_at(path)}' is also claimed by {others}", "rename one of them", "name-twin")


def rejected(path: str, reason: str, cure: str, rule: str) -> Rejection:
    problem = Problem(path=path, reason=reason, cure=cure, rule=rule)
    return Rejection(path=path, problems=(problem,), name=name_at(path))
