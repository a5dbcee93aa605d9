"""Everything that is wrong in a set of files, found at once: each by itself first, then what shows only together.

Files are a mapping from the repo-relative path to the bytes, or to the problem that keeps them from being read; where
they come from, and when they are read, is the caller's.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import chain, islice
from typing import Any

from reconciler import checklist, parse, queueing, resolve, scenarios
from reconciler.demands import REGISTRY_PATH, demands
from reconciler.errors import ContentError
from reconciler.globs import matches
from reconciler.model import (
    Contract,
    Pipeline,
    PipelineId,
    Problem,
    Rejection,
    Request,
    Settings,
    Severity,
    Source,
    TaskDemand,
    Violation,
)
from reconciler.settings import parse_settings
from reconciler.yaml_events import Document, Pointer, load_yaml, locate, shown, spelled

Content = bytes | Problem
Files = Mapping[str, Content]

SETTINGS_PATH = "reconciler.yaml"
_SUGGESTIONS_FROM_MAX = 200


class Kind(StrEnum):
    """What a file is for; the words are the names of the schemas."""

    REQUEST = "request"
    APPROVAL = "approval"
    PIPELINE = "pipeline"
    SETTINGS = "settings"
    TASK_INDEX = "task-index"
    CHECKLIST = "checklist"
    MANIFEST = "manifest"
    RUN_SUMMARY = "run-summary"
    METRICS = "metrics"
    STATE = "state"
    REVIEW = "review"
    PULL_REQUEST = "pull-request"
    IMPORTED = "imported"
    EVAL = "eval"


RECORDS = frozenset(
    {Kind.MANIFEST, Kind.RUN_SUMMARY, Kind.METRICS, Kind.STATE, Kind.REVIEW, Kind.PULL_REQUEST, Kind.IMPORTED}
)
RECORD_FOLDERS = (".runs", "out")
"""What the reconciler writes, and where: looked at only when somebody names it."""

_PLACES: tuple[tuple[re.Pattern[str], Kind], ...] = (
    (re.compile(r"runs\.d/.*\.approval\.yaml"), Kind.APPROVAL),
    (re.compile(r"runs\.d(/.*\.ya?ml)?"), Kind.REQUEST),
    (re.compile(r"pipelines(/.*\.ya?ml)?"), Kind.PIPELINE),
    (re.compile(r"reconciler\.ya?ml"), Kind.SETTINGS),
    (re.compile(r"(.*/)?[^/]+\.eval\.yaml"), Kind.EVAL),
    (re.compile(r"tasks/index\.json"), Kind.TASK_INDEX),
    (re.compile(r"\.runs/[^/]+/cli/[^/]+/manifest\.json"), Kind.MANIFEST),
    (re.compile(r"\.runs/[^/]+/[^/]+/manifest\.json"), Kind.RUN_SUMMARY),
    (re.compile(r"\.runs/[^/]+/cli/[^/]+/reviews/[0-9]+\.json"), Kind.REVIEW),
    (re.compile(r"\.runs/[^/]+/cli/[^/]+/pull_request\.json"), Kind.PULL_REQUEST),
    (re.compile(r"\.runs/[^/]+/imported/[^/]+/manifest\.json"), Kind.IMPORTED),
    (re.compile(r"\.runs/[^/]+/metrics\.json"), Kind.METRICS),
    (re.compile(r"out/[^/]+/state\.json"), Kind.STATE),
)


def kind_of(path: str, checklists: Sequence[str] = Settings().checklists) -> Kind | None:
    """Return what the file at a repo-relative path is for, None if it is none of ours."""
    for place, kind in _PLACES:
        if place.fullmatch(path):
            return kind
    return Kind.CHECKLIST if matches(checklists, path) else None


def folders(checklists: Sequence[str]) -> tuple[str, ...]:
    """Return the folders and files below which everything lies that people write for us, "" for the whole tree."""
    literal = ((each, re.split(r"[*?]", each)[0]) for each in checklists)
    starts = {start if start == each else start.rpartition("/")[0] for each, start in literal}
    starts |= {"runs.d", "pipelines", SETTINGS_PATH, "reconciler.yml", "tasks/index.json"}
    return ("",) if "" in starts else tuple(sorted(starts))


# ------------------------------------------------------------------------------------------------ all files


def check(files: Files, asked: Mapping[str, Kind], contract: Contract, *, alone: bool = False) -> tuple[Problem, ...]:
    """Return every problem of the files in `asked`, in the order of paths and lines.

    `files` holds more than is asked about: what requests name, and what claims the same names. `alone` says that it
    does not: then nothing is said about what a request names.
    """
    found: list[Problem] = []
    requests: list[Request] = []
    for path, kind in asked.items():
        parsed = _parsed(kind, path, files[path], contract)
        found += parsed.problems if isinstance(parsed, Rejection) else ()
        requests += [parsed] if isinstance(parsed, Request) else []
    found += [*_misplaced(asked), *_name_twins(files, asked), *_case_twins(files, asked)]
    if not alone:
        found += [*_unresolved(files, requests, contract), *_unknown_items(files, requests, contract)]
        found += [*_missing_checklists(files, asked), *_out_of_order(files, requests, contract)]
    return tuple(sorted(found, key=lambda each: (each.path, each.line, each.column)))


def settings_of(files: Files, contract: Contract) -> Settings:
    """Return the settings among the files; the defaults where there are none, or none that can be used."""
    content = files.get(SETTINGS_PATH)
    parsed = parse_settings(content, Source(path=SETTINGS_PATH), contract) if isinstance(content, bytes) else None
    return parsed if isinstance(parsed, Settings) else Settings()


def _parsed(kind: Kind, path: str, content: Content, contract: Contract) -> object:
    """Return what a file says, or everything that is wrong with it by itself; nothing for what is only looked at."""
    if isinstance(content, Problem):
        return Rejection(path=path, problems=(content,))
    source = Source(path=path)
    problems: tuple[Problem, ...]
    match kind:
        case Kind.REQUEST:
            return parse.parse_request(content, source, contract)
        case Kind.APPROVAL:
            return parse.parse_approval(content, source, contract)
        case Kind.PIPELINE:
            return parse.parse_pipeline(content, source, contract)
        case Kind.SETTINGS:
            return parse_settings(content, source, contract)
        case Kind.EVAL:
            return scenarios.parse_scenario(content, source, contract)
        case Kind.CHECKLIST:
            problems = checklist.problems(content, path)
        case _:
            problems = tuple(_json_problems(kind, content, path, contract))
    return Rejection(path=path, problems=problems) if problems else None


# ------------------------------------------------------------------------------------------------ paths


def _misplaced(asked: Mapping[str, Kind]) -> Iterator[Problem]:
    """Yield a problem for every file that looks like one of ours and lies where nobody reads it."""
    for path, kind in asked.items():
        if kind == Kind.SETTINGS and path.endswith(".yml"):
            cure = f"rename it to {SETTINGS_PATH}"
            yield Problem(path=path, reason="settings are not read from here", cure=cure, rule="misplaced")
        elif kind == Kind.PIPELINE and path.count("/") > 1:
            reason, cure = "pipelines are not read from folders below pipelines/", "move it up"
            yield Problem(path=path, reason=reason, cure=cure, rule="misplaced")


def _name_twins(files: Files, asked: Mapping[str, Kind]) -> Iterator[Problem]:
    def name(path: str) -> str:
        return path.removeprefix("runs.d/").rpartition(".")[0].replace("/", ".")

    ours = [path for path in files if path.startswith("runs.d/") and path.endswith((".yaml", ".yml"))]
    for path, others in _twins(name, ours, asked):
        reason = f"the name '{name(path)}' is also claimed by {others}"
        yield Problem(path=path, reason=reason, cure="rename one of them", rule="name-twin")


def _case_twins(files: Files, asked: Mapping[str, Kind]) -> Iterator[Problem]:
    """Yield a problem for files that lie in one place where file names know no case, as they do on macOS."""
    ours = [path for path in files if path.startswith(("runs.d/", "pipelines/"))]
    for path, others in _twins(str.casefold, ours, asked):
        reason = f"the path differs from {others} in upper and lower case only"
        yield Problem(path=path, reason=reason, cure="rename one of them", rule="case-twin")


def _twins(key: Callable[[str], str], paths: Iterable[str], asked: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the paths that are asked about and share their key with others, and these others."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    for group in groups.values():
        for path in group if len(group) > 1 else ():
            if path in asked:
                yield path, ", ".join(sorted(each for each in group if each != path))


# ------------------------------------------------------------------------------------------------ requests


def _unresolved(files: Files, requests: Sequence[Request], contract: Contract) -> Iterator[Problem]:
    """Yield a problem for everything that a request says and its pipeline does not know."""
    if not requests:
        return
    pipelines = _pipelines(files, contract)
    settings = settings_of(files, contract)
    registry = files.get(REGISTRY_PATH)
    known = demands(registry if isinstance(registry, bytes) else None)
    for request in requests:
        place_ = resolve.Place(commit="", branch="", task=known.get(request.task, TaskDemand()))
        plan = resolve.resolve(request, pipelines, settings, place_)
        if isinstance(plan, Rejection):
            yield from _placed(files, request, plan.problems)


def _out_of_order(files: Files, requests: Sequence[Request], contract: Contract) -> Iterator[Problem]:
    """Yield a problem for requests that come after each other in a circle, and a warning for those that come after a
    name nobody has: it may be that of a request that was removed when its run was proven."""
    if not any(request.after for request in requests):
        return
    paths = [path for path in files if kind_of(path) == Kind.REQUEST]
    parsed = (_parsed(Kind.REQUEST, path, files[path], contract) for path in paths)
    everybody = [each for each in parsed if isinstance(each, Request)]
    names = {name for path in paths if not isinstance(name := parse.request_name(path), Problem)}
    problems = queueing.problems(everybody, names, names)
    for request in requests:
        found = problems.get(request.name, ())
        warned = (replace(e, severity=Severity.WARNING) if e.rule == "unknown-after" else e for e in found)
        yield from _placed(files, request, warned)


def _pipelines(files: Files, contract: Contract) -> dict[PipelineId, Pipeline | Rejection]:
    found: dict[PipelineId, Pipeline | Rejection] = {}
    for path in files:
        if path.startswith("pipelines/") and path.endswith(".yaml") and path.count("/") == 1:
            parsed = _parsed(Kind.PIPELINE, path, files[path], contract)
            assert isinstance(parsed, Pipeline | Rejection)
            found[PipelineId(path.removeprefix("pipelines/").removesuffix(".yaml"))] = parsed
    return found


def _placed(files: Files, request: Request, problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield the problems of a request with the line and column their pointers lead to."""
    data = files[request.source.path]
    assert isinstance(data, bytes)
    document = load_yaml(data, request.source.path, bytes_max=len(data))
    for each in problems:
        yield each if isinstance(document, Rejection) else locate(each, document.marks)


def _unknown_items(files: Files, requests: Sequence[Request], contract: Contract) -> Iterator[Problem]:
    """Yield a warning for everything that a request would prove and no checklist holds."""
    if not any(request.proves for request in requests):
        return
    known = dict.fromkeys(sorted(_items(files, settings_of(files, contract).checklists)))
    for request in requests:
        unknown = [(index, each) for index, each in enumerate(request.proves) if each not in known]
        yield from _placed(files, request, [_unknown_item(request, index, item, known) for index, item in unknown])


def _items(files: Files, checklists: Sequence[str]) -> set[str]:
    """Return the id of every item of every checklist that can be read."""
    found: set[str] = set()
    for path in files:
        content = files[path] if kind_of(path, checklists) == Kind.CHECKLIST else b""
        try:
            found |= {each.id for each in checklist.items(content, path)} if isinstance(content, bytes) else set()
        except ContentError:
            continue
    return found


def _unknown_item(request: Request, index: int, item: str, known: Collection[str]) -> Problem:
    # Those of the same task come first, so that the bound leaves out what is far from being meant.
    own = f"{request.task}/"
    nearest = chain((each for each in known if each.startswith(own)), (each for each in known if each[:1] == item[:1]))
    close = difflib.get_close_matches(item, islice(nearest, _SUGGESTIONS_FROM_MAX), 1)
    return Problem(
        path=request.source.path,
        pointer=f"/proves/{index}",
        reason=f"item '{item}' stands in no checklist",
        cure=f"did you mean '{close[0]}'?" if close else f"end the line of a checkbox with <!-- item: {item} -->",
        rule="unknown-item",
        severity=Severity.WARNING,
    )


# ------------------------------------------------------------------------------------------------ JSON

_OPENED: Mapping[str, Sequence[str | int]] = {"{": ("",), "[": (0,)}
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:"\s]+')


def load_json(data: bytes, path: str) -> Document | Rejection:
    """Return what a JSON file says and where, or every reason why it cannot be read."""
    if len(data) > checklist.FILE_BYTES_MAX:
        reason, cure = f"the file has {len(data)} bytes", f"at most {checklist.FILE_BYTES_MAX} are allowed"
        return Rejection(path=path, problems=(Problem(path=path, reason=reason, cure=cure, rule="too-large"),))
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return Rejection(path=path, problems=(_not_json(path, data, error),))
    marks, repeated = _json_marks(text)
    if repeated:
        return Rejection(path=path, problems=tuple(_repeated_key(path, text, each) for each in repeated))
    return Document(value=value, marks=marks, spellings={})


def _refuse_constant(word: str) -> object:
    raise ValueError(f"{word} is no number")


def _not_json(path: str, data: bytes, error: Exception) -> Problem:
    """Return why bytes are no JSON, with the place where that is known."""
    (line, column), rule, reason, cure = (0, 0), "not-json", f"this is not JSON: {error}", ""
    match error:
        case json.JSONDecodeError():
            line, column, reason = error.lineno, error.colno, f"this is not JSON: {error.msg}"
        case UnicodeDecodeError():
            before = data[: error.start].decode("utf-8-sig")
            (line, column), rule, reason = _line_column(before, len(before)), "not-utf-8", "this is not UTF-8"
            cure = "save the file as UTF-8"
        case RecursionError():
            reason = "this is nested too deeply"
    return Problem(path=path, line=line, column=column, rule=rule, reason=reason, cure=cure)


def _repeated_key(path: str, text: str, token: re.Match[str]) -> Problem:
    line, column = _line_column(text, token.start())
    reason = f"key {shown(json.loads(token[0]))} is there twice"
    return Problem(path=path, line=line, column=column, reason=reason, cure="keep one", rule="duplicate-key")


def _line_column(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _json_marks(text: str) -> tuple[dict[Pointer, tuple[int, int]], list[re.Match[str]]]:
    """Return where everything in a text that is JSON stands, and the keys that repeat: one sweep over its tokens.

    As in YAML, an entry of an object stands where its key does, an item of an array where it begins.
    """
    marks: dict[Pointer, tuple[int, int]] = {}
    repeated: list[re.Match[str]] = []
    way: list[Any] = []
    line, line_start, key_next = 1, 0, False
    for token in _TOKEN.finditer(text):
        between = text[line_start : token.start()].count("\n")
        if between:
            line, line_start = line + between, text.rindex("\n", 0, token.start()) + 1
        here, sign = (line, token.start() - line_start + 1), token[0][0]
        if sign in "]}":
            way.pop()
        elif sign == ",":
            key_next = isinstance(way[-1], str)
            way[-1] = way[-1] if key_next else way[-1] + 1
        elif sign != ":":
            if key_next:
                way[-1] = json.loads(token[0])
                repeated += [token] if tuple(way) in marks else []
            if key_next or not way or isinstance(way[-1], int):
                marks.setdefault(tuple(way), here)
            key_next = sign == "{"
            way += _OPENED.get(sign, ())
    return marks, repeated


def _json_problems(kind: Kind, data: bytes, path: str, contract: Contract) -> Iterator[Problem]:
    """Yield everything that is wrong with a JSON file of ours by itself."""
    document = load_json(data, path)
    if isinstance(document, Rejection):
        yield from document.problems
        return
    twins = _task_twins(document) if kind == Kind.TASK_INDEX else ()
    for each in (*contract.check(kind.value, document.value), *twins):
        yield _problem(path, document, each)


def _problem(path: str, document: Document, found: Violation, severity: Severity = Severity.ERROR) -> Problem:
    pointer = spelled(found.path)
    words = Problem(
        path=path, pointer=pointer, reason=found.reason, cure=found.cure, rule=found.rule, severity=severity
    )
    return locate(words, document.marks)


def _task_twins(document: Document) -> Iterator[Violation]:
    first: dict[str, object] = {}
    for pointer, task in parse.at(document.value, "items.[].id"):
        if isinstance(task, str) and first.setdefault(task, pointer[1]) != pointer[1]:
            reason = f"task {shown(task)} is there twice"
            yield Violation(path=pointer, reason=reason, cure="keep one", rule="duplicate-task")


def _missing_checklists(files: Files, asked: Mapping[str, Kind]) -> Iterator[Problem]:
    """Yield a warning for every checklist that the registry of tasks names and nobody finds."""
    for path in (each for each, kind in asked.items() if kind == Kind.TASK_INDEX):
        content = files[path]
        document = load_json(content, path) if isinstance(content, bytes) else None
        if isinstance(document, Document):
            missing = [each for each in _named_checklists(document) if each[1] not in files]
            yield from (_missing_checklist(path, document, *each) for each in missing)


def _named_checklists(document: Document) -> list[tuple[Pointer, str]]:
    places = [*parse.at(document.value, "items.[].path"), *parse.at(document.value, "items.[].mirrors.[]")]
    return [(pointer, named) for pointer, named in places if isinstance(named, str)]


def _missing_checklist(path: str, document: Document, pointer: Pointer, named: str) -> Problem:
    reason, cure = f"there is no checklist {shown(named)}", "write it, or add it to 'checklists' in the settings"
    found = Violation(path=pointer, reason=reason, cure=cure, rule="unknown-checklist")
    return _problem(path, document, found, Severity.WARNING)
