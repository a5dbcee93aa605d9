"""What each page shows, as values: from the rows of `status`, from manifests, checklists and logs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from reconciler.checklist import Item
from reconciler.explain import Row
from reconciler.model import Evidence, Rejection
from reconciler.pages import places
from reconciler.pages.render import Pages, Site
from reconciler.pages.text import LogText, log_text
from reconciler.pages.timeline import timeline
from reconciler.values import frozen

PAGE_RUNS_MAX = 200
"""So many runs are on one page of a list."""
QUEUE_MAX = 500
TAIL_LINES = 15
TAIL_BYTES = 8192
DETAIL_CHARACTERS_MAX = 300

LABELS = {"": "All", "active": "Under way"} | {
    each: each.capitalize() for each in ("waiting", "failed", "succeeded", "cancelled", "damaged")
}

ENDED = ("succeeded", "failed", "cancelled")

Document = Mapping[str, Any]


@frozen
class Line:
    """One run in a list. `at` is the UTC instant it ended, None before; `phase` is one of `model.Phase`, or `damaged`
    where its manifest cannot be believed."""

    run_id: str
    task_id: str
    name: str
    phase: str
    detail: str = ""
    reason: str = ""
    at: str | None = None
    took_s: float | None = None


@frozen
class Group:
    """What a list can be narrowed to."""

    label: str
    count: int
    place: str
    current: bool


@frozen
class EvidenceNote:
    """Whether a run is proven, and where; `said` is what to say if it is not."""

    committed: bool
    path: str
    commit: str = ""
    said: str = "Nothing of it is committed yet."


@frozen
class RunView:
    """All that is known of one run. `document` is its manifest, None where there is none that can be believed, and
    `damage` says why; `logs` are the paths of those that can be read, `ends` the last bytes of some by stage."""

    line: Line
    document: Document | None
    evidence: EvidenceNote
    logs: Collection[str] = ()
    ends: Mapping[str, bytes] = field(default_factory=dict)
    reasons: Sequence[str] = ()
    damage: Sequence[str] = ()
    until: str | None = None


@frozen
class TaskLine:
    task_id: str
    runs: int
    ticked: int
    total: int


# ------------------------------------------------------------------------------------------------ lines


def line_of_row(row: Row) -> Line:
    """Return a run as `status` knows it."""
    progress = f"{row.stage or 'between stages'}, {row.done} of {row.total} stages done" if _moves(row) else row.stage
    return Line(
        run_id=row.run_id,
        task_id=row.task_id,
        name=row.name or "",
        phase=row.phase.value,
        detail=_bounded(row.reason or progress),
        reason=_bounded(row.reason, 4 * DETAIL_CHARACTERS_MAX),
        at=row.completed_at if row.phase.value in ENDED else None,
        took_s=row.duration_s,
    )


def _moves(row: Row) -> bool:
    return bool(row.total) and row.completed_at is None and row.phase.value not in ("absent", "waiting")


def line_of_evidence(evidence: Evidence) -> Line:
    """Return a run as a commit proves it."""
    waits = ", ".join(each.stage for each in evidence.waiting.gates) if evidence.waiting else ""
    ended = evidence.status.ended
    return Line(
        run_id=evidence.run_id,
        task_id=evidence.task_id,
        name=evidence.name,
        phase=evidence.status.value,
        detail=f"at {waits}" if waits else "",
        at=evidence.completed_at if ended else None,
        took_s=evidence.duration_s if ended else None,
    )


def damaged_line(task_id: str, run_id: str) -> Line:
    return Line(
        run_id=run_id, task_id=task_id, name=run_id[:-9], phase="damaged", detail="its manifest cannot be believed"
    )


def _bounded(text: str, characters_max: int = DETAIL_CHARACTERS_MAX) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def in_group(line: Line, group: str) -> bool:
    return not group or line.phase in places.GROUPS[group]


# ------------------------------------------------------------------------------------------------ pages


def page_count(lines: Sequence[Line], group: str = "") -> int:
    """Return how many pages a list fills, at least one."""
    return max(1, -(-_counts(lines)[group] // PAGE_RUNS_MAX))


def _counts(lines: Sequence[Line]) -> dict[str, int]:
    """Return how many runs are in each group, "" for all."""
    phases = Counter(each.phase for each in lines)
    groups = {group: sum(phases[each] for each in within) for group, within in places.GROUPS.items()}
    return {"": len(lines), **groups}


def list_page(
    pages: Pages,
    site: Site,
    lines: Sequence[Line],
    group: str = "",
    number: int = 1,
    query: str = "",
    notices: Sequence[str] = (),
) -> str:
    """Return one page of the list of runs, narrowed to a group and, where it is live, to what was searched for."""
    wanted = [each for each in lines if in_group(each, group)]
    found = [each for each in wanted if _matches(each, query)] if query else wanted
    first = (number - 1) * PAGE_RUNS_MAX
    shown = found[first : first + PAGE_RUNS_MAX]
    label = LABELS[group]
    return pages.page(
        "list",
        places.listed(group, number),
        site,
        heading=f"{label} runs" if group not in ("", "active") else "Runs" if not group else "Runs under way",
        groups=_groups(lines, group, number),
        group=group,
        number=number,
        pages=1 if query else page_count(lines, group),
        lines=shown,
        query=query,
        notices=notices,
        shown=_shown(shown, found, first, query),
        empty=f"No run matches “{query}”." if query else "No runs here yet." if group else _NO_RUNS,
    )


_NO_RUNS = "No runs yet. Commit a request to runs.d/, and it becomes one."


def _matches(line: Line, query: str) -> bool:
    text = f"{line.run_id} {line.task_id} {line.phase} {line.detail}".lower()
    return all(word in text for word in query.lower().split())


def _shown(shown: Sequence[Line], found: Sequence[Line], first: int, query: str) -> str:
    noun, verb = ("run", " matches") if len(found) == 1 else ("runs", " match")
    counted = f"{len(found)} {noun}" if len(shown) == len(found) else f"{_span(shown, first)} of {len(found)} {noun}"
    return counted + (verb if query else "")


def _span(shown: Sequence[Line], first: int) -> str:
    return f"{first + 1} to {first + len(shown)}"


def _groups(lines: Sequence[Line], group: str, number: int) -> list[Group]:
    return [
        Group(label=LABELS[each], count=count, place=places.listed(each), current=each == group and number == 1)
        for each, count in _counts(lines).items()
        if count or each in ("", group)
    ]


def run_page(pages: Pages, site: Site, view: RunView, known: Collection[str]) -> str:
    """Return the page of one run; `known` are the runs that have a page."""
    commands = view.document["commands"] if view.document else ()
    return pages.page(
        "run",
        places.run(view.line.task_id, view.line.run_id),
        site,
        line=view.line,
        run=view.document,
        picture=timeline(commands, view.until or (view.document["updated_at"] if view.document else None)),
        tails={stage: _tail(data) for stage, data in view.ends.items()},
        opened={each["id"] for each in commands if each["status"] == "failed"},
        logs=view.logs,
        known=known,
        reasons=view.reasons,
        damage=view.damage,
        evidence=view.evidence,
    )


def _tail(data: bytes) -> str:
    return "\n".join(log_text(data).lines[-TAIL_LINES:])


def log_page(
    pages: Pages,
    site: Site,
    line: Line,
    command: Document,
    data: bytes,
    said: str,
    follow: str = "",
    offset: int = 0,
) -> str:
    """Return the page of one log; `follow` is where what comes after `offset` bytes can be asked for."""
    return pages.page(
        "log",
        places.log(line.task_id, line.run_id, command["log_path"]),
        site,
        line=line,
        stage=command["id"],
        status=command["status"],
        said=said,
        lines=log_text(data) if data else LogText(lines=()),
        follow=follow,
        offset=offset,
    )


def task_lines(lines: Iterable[Line], checklists: Mapping[str, Sequence[Item]]) -> list[TaskLine]:
    """Return every task that has a run or a checklist, in the order of their ids."""
    counts: dict[str, int] = dict.fromkeys(checklists, 0)
    for each in lines:
        counts[each.task_id] = counts.get(each.task_id, 0) + 1
    return [_task_line(each, counts[each], checklists.get(each, ())) for each in sorted(counts)]


def _task_line(task_id: str, runs: int, items: Sequence[Item]) -> TaskLine:
    return TaskLine(task_id=task_id, runs=runs, ticked=sum(each.ticked for each in items), total=len(items))


def tasks_page(pages: Pages, site: Site, tasks: Sequence[TaskLine]) -> str:
    said = f"{len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}"
    return pages.page("tasks", places.TASKS, site, tasks=tasks, said=said)


def task_page(
    pages: Pages,
    site: Site,
    task_id: str,
    lines: Sequence[Line],
    items: Sequence[Item],
    known: Mapping[str, str],
    damage: Sequence[str] = (),
) -> str:
    """Return the page of a task: its checklist and its newest runs. `known` maps runs that have a page to their
    tasks."""
    shown = lines[:PAGE_RUNS_MAX]
    more = f"the newest {len(shown)} of {len(lines)} runs" if len(lines) > len(shown) else f"{len(lines)} runs"
    return pages.page(
        "task",
        places.task(task_id),
        site,
        task_id=task_id,
        lines=shown,
        shown=more if len(lines) != 1 else "1 run",
        items=items,
        checklist_path=f"tasks/{task_id}.md",
        known=known,
        damage=damage,
    )


@frozen
class Refused:
    """A file that was rejected, and every reason as a sentence."""

    path: str
    problems: tuple[str, ...]


def queue_page(
    pages: Pages, site: Site, lines: Sequence[Line], rejections: Sequence[Rejection], said: str, notices: Sequence[str]
) -> str:
    """Return the page of what waits, with reasons, and of what was rejected."""
    told = {each.name for each in rejections}
    open_ = [each for each in lines if each.at is None and (each.phase, each.name) not in {("absent", n) for n in told}]
    waits = [each for each in open_ if each.reason or in_group(each, "waiting")]
    refused = [
        Refused(path=each.path, problems=tuple(_bounded(problem.sentence(), 1000) for problem in each.problems[:20]))
        for each in rejections[:QUEUE_MAX]
    ]
    return pages.page(
        "queue",
        places.QUEUE,
        site,
        lines=waits[:QUEUE_MAX],
        left_out=max(0, len(waits) - QUEUE_MAX) + max(0, len(rejections) - QUEUE_MAX),
        rejections=refused,
        said=said,
        notices=notices,
    )


def message_page(pages: Pages, site: Site, place: str, heading: str, said: str) -> str:
    """Return a page that says one thing: that something is not there, or cannot be shown."""
    return pages.page("message", place, site, heading=heading, said=said)
