"""`guard: specs`: specs that a change touches were reviewed lately, and watched code changes with its spec."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from reconciler.globs import matches
from reconciler.guards.findings import EVERYWHERE, Finding, Report, chosen, listed, number, report_of, texts
from reconciler.model import Rejection, SpecSettings
from reconciler.yaml_events import load_yaml, shown

if TYPE_CHECKING:
    from reconciler.guards.scene import Scene

FRONT_MATTER_BYTES_MAX = 64 * 1024
KEY = "last_review"
CURE = f"review it and write '{KEY}: YYYY-MM-DD' between two lines '---' at its start"
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DAY_S = 86400.0
_BOM = b"\xef\xbb\xbf"


def check(scene: Scene, options: Mapping[str, object]) -> Report:
    """Judge the specs of a workspace: all of them, or those that the change touches."""
    watches = watches_of(options)
    everything = options.get("all") is True
    # A clone that ends before the change begins can still tell whether all specs are fresh.
    change = scene.change(str(options.get("since", ""))) if watches or not everything else None
    touched = change.paths if change is not None else frozenset()
    specs = specs_of(scene.paths, options, watches)
    judged = [each for each in specs if everything or each in touched]
    age_max_s = number(options, "age_max_s", SpecSettings().age_max_s)
    found = [
        *stale(scene.read(judged), scene.today, age_max_s),
        *unaccompanied(touched, scene.paths, watches),
        *(_none(options) if everything and not judged else ()),
    ]
    return report_of(found, len(judged), change.base if change is not None else "")


def specs_of(paths: Iterable[str], options: Mapping[str, object], watches: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which of the files are specs: those that are meant by a pattern, and those that code is watched for."""
    paths = frozenset(paths)
    named = {str(each["spec"]) for each in watches} & paths
    unwanted = texts(options, "exclude")
    found = chosen(paths, options, SpecSettings().paths)
    return sorted({*found, *(each for each in named if not matches(unwanted, each))})


def watches_of(options: Mapping[str, object]) -> list[Mapping[str, Any]]:
    """Return what is watched: path patterns of code (`paths`) and the path of its `spec`."""
    said = options.get("watch", ())
    return [each for each in said if isinstance(each, Mapping)] if isinstance(said, list | tuple) else []


def _none(options: Mapping[str, object]) -> Iterator[Finding]:
    looked = ", ".join(texts(options, "paths") or SpecSettings().paths)
    yield Finding(
        path=EVERYWHERE, reason=f"there is no spec ({looked})", cure="write one, or say in 'paths' where they are"
    )


def stale(specs: Mapping[str, bytes | None], today: date, age_max_s: float) -> Iterator[Finding]:
    """Yield a finding for every spec that does not say when it was reviewed, or was not reviewed lately."""
    for path, data in specs.items():
        if data is None:
            yield Finding(path=path, reason="this is no regular file, or too large to be read", cure="make it one")
        elif found := review_fault(data, path, today, age_max_s):
            yield found


def review_fault(data: bytes, path: str, today: date, age_max_s: float) -> Finding | None:
    """Return what is wrong with the date of a spec's last review, None if nothing is."""
    front = front_matter(data)
    if front is None:
        return Finding(path=path, line=1, reason="the spec has no front matter", cure=CURE)
    if not front.strip():
        return Finding(path=path, line=1, reason=f"its front matter has no '{KEY}'", cure=CURE)
    document = load_yaml(front, path, bytes_max=FRONT_MATTER_BYTES_MAX)
    if isinstance(document, Rejection):
        first = document.problems[0]
        reason = f"its front matter cannot be read: {first.reason}"
        return Finding(path=path, line=first.line + 1, reason=reason, cure=first.cure)
    if KEY not in document.value:
        return Finding(path=path, line=1, reason=f"its front matter has no '{KEY}'", cure=CURE)
    said, line = document.value[KEY], document.marks[(KEY,)][0] + 1
    reason, cure = day_fault(said, today, age_max_s)
    return Finding(path=path, line=line, reason=reason, cure=cure) if reason else None


def front_matter(data: bytes) -> bytes | None:
    """Return what stands between the line `---` that begins a file and the next one, None if it does not begin so."""
    lines = data.removeprefix(_BOM)[: FRONT_MATTER_BYTES_MAX * 2].splitlines(keepends=True)
    if not lines or lines[0].rstrip() != b"---":
        return None
    end = next((index for index, line in enumerate(lines[1:], 1) if line.rstrip() in (b"---", b"...")), None)
    return None if end is None else b"".join(lines[1:end])


def day_fault(said: object, today: date, age_max_s: float) -> tuple[str, str]:
    """Return why a day cannot be that of the last review, and what would be right; "" twice if it can."""
    day = day_of(said)
    if day is None:
        return f"{KEY} is {shown(said)}, which is no day", "write it like 2026-03-01"
    if day > today:
        return f"{KEY} is {day}, which is in the future (today is {today})", "write the day on which it was reviewed"
    age_d, age_max_d = (today - day).days, age_max_s / _DAY_S
    if age_d > age_max_d:
        return (
            f"{KEY} is {day}, {age_d} days ago, and {age_max_d:g} are allowed",
            f"review it and write '{KEY}: {today}'",
        )
    return "", ""


def day_of(said: object) -> date | None:
    """Return the day that a text such as 2026-03-01 means, None if it means none."""
    if not isinstance(said, str) or not _DAY.fullmatch(said) or not said.isascii():
        return None
    try:
        return date.fromisoformat(said)
    except ValueError:
        return None


def unaccompanied(
    touched: Collection[str], present: Collection[str], watches: Sequence[Mapping[str, Any]]
) -> Iterator[Finding]:
    """Yield a finding wherever watched code changed and its spec did not."""
    for each in watches:
        spec = str(each["spec"])
        code = [path for path in touched if path != spec and matches(texts(each, "paths"), path)]
        if not code or (spec in touched and spec in present):
            continue
        how = "did not" if spec in present else "is gone" if spec in touched else "is not there"
        reason = f"{listed(code)} changed and its spec {spec} {how}"
        yield Finding(path=min(code), reason=reason, cure=f"bring {spec} up to date in the same change, with its {KEY}")
