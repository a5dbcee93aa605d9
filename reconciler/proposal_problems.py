"""What is wrong with a change: what `validate` would say of the files it touches, and what it breaks elsewhere.

Only what the touched files lead to is read: their pipelines, what they come after, who claims the same name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from reconciler.check import RECORDS, Content, Kind, check, folders, kind_of
from reconciler.git import BLOB_BYTES_MAX, Entry
from reconciler.model import Name, Problem, Rejection
from reconciler.preview import Wanted
from reconciler.proposal_sides import Side
from reconciler.tip import SETTINGS_PATH

REGISTRY = "tasks/index.json"
CLOSURE_MAX = 10_000
"""So many requests are read to find circles of requests that come after each other."""


def of_files(merged: Side, changed: Mapping[str, Entry | None]) -> tuple[Problem, ...]:
    """Return everything that is wrong with the changed files as they are after the merge."""
    kinds = {
        path: kind_of(path, merged.tip.settings.checklists) for path, entry in changed.items() if entry is not None
    }
    asked = {path: kind for path, kind in sorted(kinds.items()) if kind is not None and kind not in RECORDS}
    if not asked:
        return ()
    there = {each.path: each for each in _led_to(merged, asked)}
    there |= {path: entry for path, entry in changed.items() if entry is not None and path in asked}
    return check(_contents(merged, there.values()), asked, merged.world.contracts)


def elsewhere(
    base: Side, merged: Side, before: Mapping[Name, Wanted], after: Mapping[Name, Wanted], touched: Collection[str]
) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Return what is wrong with files that the change does not touch: by the change, and as it was before."""
    was, now = _known(base, before), _known(merged, after)
    old = {_key(each) for each in was}
    others = [each for each in now if each.path not in touched]
    brought = (*merged.broken, *(each for each in others if _key(each) not in old))
    standing = (*base.broken, *(each for each in others if _key(each) in old))
    return brought, standing


def _known(side: Side, wanted: Mapping[Name, Wanted]) -> list[Problem]:
    rejections = side.requests.rejections()
    rejections += [each.plan for each in wanted.values() if isinstance(each.plan, Rejection)]
    return [problem for each in rejections for problem in each.problems]


def _key(problem: Problem) -> tuple[str, str, str]:
    return problem.path, problem.rule, problem.reason


# ------------------------------------------------------------------------------------------------ files


def _led_to(merged: Side, asked: Mapping[str, Kind]) -> Iterator[Entry]:
    """Yield the files that must be read to judge others."""
    repository, commit = merged.world.repository, merged.commit
    yield from repository.files_at(commit, [SETTINGS_PATH, REGISTRY])
    for each in repository.entries(merged.tip.trees.pipelines):
        yield Entry(each.mode, each.oid, f"pipelines/{each.path}")
    rows = merged.requests.cache.requests
    wanted = {path for path in asked if path in rows}
    for path in sorted(_after(merged, wanted) | _twins(merged, wanted)):
        yield Entry("100644", rows[path][0], path)
    if _needs_checklists(merged, asked):
        yield from _checklists(merged)


def _needs_checklists(merged: Side, asked: Mapping[str, Kind]) -> bool:
    proving = (merged.requests.parsed.get(path) for path in asked)
    return Kind.TASK_INDEX in asked.values() or any(each.proves for each in proving if each is not None)


def _checklists(merged: Side) -> Iterator[Entry]:
    globs = merged.tip.settings.checklists
    starts = folders(globs)

    def within(path: str) -> bool:
        return any(
            not each or path == each or f"{path}/".startswith(f"{each}/") or each.startswith(f"{path}/")
            for each in starts
        )

    tree = merged.world.repository.look_up([f"{merged.commit}^{{tree}}"])[0]
    for path, entry in merged.world.repository.changes(None, tree, within):
        if entry is not None and kind_of(path, globs) == Kind.CHECKLIST:
            yield entry


def _after(merged: Side, paths: Iterable[str]) -> set[str]:
    """Return the files of the requests that others come after, however far that leads."""
    requests, found, ahead = merged.requests, set[str](), list(paths)
    while ahead and len(found) < CLOSURE_MAX:
        requests.read([each for each in ahead if not each.endswith(".approval.yaml")])
        parsed = [requests.parsed[each] for each in ahead if each in requests.parsed]
        named = {path for each in parsed for name in each.after if (path := merged.path_of(name)) is not None}
        ahead = sorted(named - found)
        found |= named
    return found


def _twins(merged: Side, paths: Collection[str]) -> set[str]:
    """Return the files that claim the names of others, or differ from them in upper and lower case only."""
    found = {twin for path in paths for twin in merged.requests.twins.get(path, ())}
    folded = {path.casefold() for path in paths}
    return found | {path for path in merged.requests.cache.requests if path.casefold() in folded}


def _contents(merged: Side, found: Iterable[Entry]) -> dict[str, Content]:
    listed = list(found)
    read = merged.world.repository.blobs([each.oid for each in listed if each.is_file])
    return {each.path: _content(each, next(read)[1] if each.is_file else None) for each in listed}


def _content(entry: Entry, data: bytes | None) -> Content:
    if not entry.is_file:
        kind = {"120000": "a symbolic link", "160000": "a submodule"}.get(entry.mode, f"of mode {entry.mode}")
        reason = f"this is {kind}, not a file"
        return Problem(path=entry.path, reason=reason, cure="commit the file itself", rule="not-a-file")
    if data is None:
        reason = f"the file is larger than {BLOB_BYTES_MAX} bytes, or missing"
        return Problem(path=entry.path, reason=reason, rule="unreadable")
    return data
