"""Bytes become requests, pipelines and approvals here, or rejections that say everything that is wrong.

Each file is read once (`yaml_events`), held against its schema (the `Contract`, which an edge provides) and
against what a schema cannot say: ids that must be unique, needs that must exist and have an order.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from reconciler import inputs, reuse, schedule
from reconciler.model import (
    Approval,
    ApprovalPolicy,
    Choice,
    Concurrency,
    Contract,
    Execution,
    ExecutionMode,
    Name,
    Parameter,
    Pipeline,
    PipelineId,
    Problem,
    Rejection,
    Request,
    Reuse,
    Role,
    Schedule,
    Source,
    Stage,
    Suspend,
    Violation,
    Workspace,
)
from reconciler.places import Resources
from reconciler.yaml_events import Document, Pointer, load_yaml, shown

APPROVAL_SUFFIX = ".approval.yaml"
# A run id has at most 100 characters; the `-` and 8 hex digits are 9 of them.
NAME_LENGTH_MAX = 91
MATRIX_CELLS_MAX = 256

_KIB = 1024
_BYTES_MAX = {
    "request": 64 * _KIB,
    "approval": 16 * _KIB,
    "pipeline": 1024 * _KIB,
    "settings": 1024 * _KIB,
    "pattern": 64 * _KIB,
    "eval": 1024 * _KIB,
}
_FINDINGS_MAX = 50
_PATTERN_LENGTH_MAX = 200
# Even a pattern without nested repeats may need a time that grows with a power of the length of the text.
MATCHED_LENGTH_MAX = 256

_ID = re.compile(r"[a-z0-9](\.?[a-z0-9_-])*")
_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"([0-9]{1,9})(B|KB|MB|GB|KiB|MiB|GiB)")
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

GUARD_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "specs": ("all", "since", "paths", "exclude"),
    "checklists": ("strict",),
    "diff": ("since", "files_max", "lines_max", "paths", "exclude"),
    "docs": ("paths", "exclude"),
    "patterns": ("paths", "exclude", "strict"),
    "eval": ("paths", "exclude"),
    "command": ("command",),
}
"""What each kind of guardrail can be told, beside `dry_run`, which all can."""

Check = Callable[[Document], Iterable[Violation]]
Conversions = Mapping[str, tuple[str, Callable[[Any], object]]]


# ---------------------------------------------------------------------------------------------- files


def parse_request(data: bytes, source: Source, contract: Contract) -> Request | Rejection:
    """Return the request that `data` says, or everything that is wrong with it and its path."""
    name = request_name(source.path)
    checks = (_instants, partial(_instant_timeouts, "timeout"), partial(_schedules, contract), _on_change)
    document = examine("request", data, source, contract, *checks)
    if isinstance(name, Problem):
        return _reject(source, name, document)
    if isinstance(document, Rejection):
        return replace(document, name=name)
    return Request(name=name, source=source, **fields_of(document.value, _REQUEST))


def parse_pipeline(data: bytes, source: Source, contract: Contract) -> Pipeline | Rejection:
    """Return the pipeline that `data` says, or everything that is wrong with it and its path."""
    name = pipeline_id(source.path)
    checks = (
        _twin_stages,
        _needs,
        _needs_of_closing,
        _cycles,
        _guards,
        _parameters,
        _conditions,
        _nesting,
        _protected,
        _reuse,
        _agent_commands,
        partial(_instant_timeouts, "stages.[].timeout"),
        partial(_instant_timeouts, "stages.[].agent.stall_after"),
    )
    document = examine("pipeline", data, source, contract, *checks, partial(_self_inclusion, name))
    if isinstance(name, Problem) or isinstance(document, Rejection):
        return _reject(source, name, document)
    return Pipeline(id=name, source=source, **fields_of(document.value, _PIPELINE))


def parse_approval(data: bytes, source: Source, contract: Contract) -> Approval | Rejection:
    """Return the decision that `data` says, or everything that is wrong with it."""
    document = examine("approval", data, source, contract)
    if isinstance(document, Rejection):
        return document
    return Approval(source=source, **fields_of(document.value, {"decision": ("decision", Choice)}))


def examine(kind: str, data: bytes, source: Source, contract: Contract, *checks: Check) -> Document | Rejection:
    """Return what a file of this kind says, or every problem: those of its schema first, then all others."""
    document = load_yaml(data, source.path, bytes_max=_BYTES_MAX[kind])
    if isinstance(document, Rejection):
        return document
    broken = contract.check(kind, document.value)
    told = {each.path for each in broken}
    checked = (each for check in checks for each in check(document) if each.path not in told)
    problems = (*_located(source, document, broken), *_located(source, document, islice(checked, _FINDINGS_MAX)))
    return Rejection(path=source.path, problems=problems) if problems else document


def _reject(source: Source, name: str | Problem, document: Document | Rejection) -> Rejection:
    """Return the rejection of a file for its path, its content or both."""
    found = (name,) if isinstance(name, Problem) else ()
    others = document.problems if isinstance(document, Rejection) else ()
    return Rejection(path=source.path, problems=(*found, *others))


# ---------------------------------------------------------------------------------------------- names


def request_name(path: str) -> Name | Problem:
    """Return the name a request has by its path: `runs.d/a/b.yaml` is `a.b`."""
    if not path.startswith("runs.d/"):
        return Problem(path=path, reason="the file is not below runs.d", cure="move it there", rule="name")
    if path.endswith(APPROVAL_SUFFIX):
        return Problem(path=path, reason="the file is an approval, not a request", cure="", rule="name")
    name = _name(path, path.removeprefix("runs.d/"), NAME_LENGTH_MAX)
    return name if isinstance(name, Problem) else Name(name.replace("/", "."))


def pipeline_id(path: str) -> PipelineId | Problem:
    """Return the id a pipeline has by its path: its file's stem."""
    name = _name(path, path.rpartition("/")[2], 100)
    return name if isinstance(name, Problem) else PipelineId(name)


def _name(path: str, below: str, length_max: int) -> str | Problem:
    """Return `below` without its suffix if each of its parts is an id."""
    stem, dot, suffix = below.rpartition(".")
    if dot + suffix != ".yaml":
        return Problem(path=path, reason="the file does not end in .yaml", cure="rename to .yaml", rule="name")
    if len(stem) > length_max:
        reason = f"the name has {len(stem)} characters"
        return Problem(path=path, reason=reason, cure=f"at most {length_max} are allowed", rule="name")
    for part in stem.split("/"):
        if not _ID.fullmatch(part):
            reason, cure = _bad_part(part)
            return Problem(path=path, reason=reason, cure=cure, rule="name")
    return stem


def id_fault(text: str, length_max: int = 100) -> tuple[str, str] | None:
    """Return what keeps a text from being an id and what would be right, None if it is one."""
    if len(text) > length_max:
        return f"the id has {len(text)} characters", f"at most {length_max} are allowed"
    return None if _ID.fullmatch(text) else _bad_part(text)


def _bad_part(part: str) -> tuple[str, str]:
    """Return what is wrong with a part of a name, and what would be right."""
    if ".." in part:
        return f"{shown(part)} contains '..'", "use single dots between other characters"
    if not part:
        return "the name is empty, or a part of it is", "names start with a letter or a digit"
    if part.startswith("."):
        return f"{shown(part)} is a hidden file", "names start with a letter or a digit"
    if part.endswith("."):
        return f"{shown(part)} ends with a dot", "remove the dot"
    if part.lower() != part and _ID.fullmatch(part.lower()):
        return f"{shown(part)} has upper-case letters", f"rename to {shown(part.lower())}"
    cure = "names are lower-case letters, digits, '.', '_' and '-', starting with a letter or digit"
    return f"{shown(part)} is not a name", cure


# ---------------------------------------------------------------------------------------------- problems


def _located(source: Source, document: Document, found: Iterable[Violation]) -> list[Problem]:
    """Return violations as problems of this file, in the order of its lines."""
    problems = [_problem(source, document, each) for each in found]
    return sorted(problems, key=lambda each: (each.line, each.column))


def _problem(source: Source, document: Document, found: Violation) -> Problem:
    line, column = _mark(document, found.path)
    cure = found.cure
    if found.rule == "not-text":
        # Only the file still knows that 1 was written as 0001.
        cure = f'write it in quotes: "{document.spellings.get(found.path, "")}"'
    pointer = "".join("/" + str(each).replace("~", "~0").replace("/", "~1") for each in found.path)
    return Problem(
        path=source.path, line=line, column=column, pointer=pointer, reason=found.reason, cure=cure, rule=found.rule
    )


def _mark(document: Document, pointer: Pointer) -> tuple[int, int]:
    while pointer not in document.marks:
        pointer = pointer[:-1]
    return document.marks[pointer]


def at(value: object, key: str) -> list[tuple[Pointer, object]]:
    """Return what `key` leads to, with the way there; `[]` is every item of a list, `*` every entry of a mapping."""
    found: list[tuple[Pointer, object]] = [((), value)]
    for part in key.split(".") if key else ():
        found = [((*way, name), item) for way, each in found for name, item in _entries(each, part)]
    return found


def _entries(value: object, part: str) -> Iterable[tuple[str | int, object]]:
    if isinstance(value, list):
        return enumerate(value) if part == "[]" else ()
    if not isinstance(value, dict) or part == "[]":
        return ()
    if part == "*":
        return value.items()
    return [(part, value[part])] if part in value else ()


# ---------------------------------------------------------------------------------------------- requests


def _schedules(contract: Contract, document: Document) -> Iterator[Violation]:
    for pointer, text in at(document.value, "schedule.cron"):
        if isinstance(text, str) and (reason := schedule.cron_fault(text)):
            cure = "for example '0 3 * * 1-5' for 3 o'clock from Monday to Friday"
            yield Violation(path=pointer, reason=reason, cure=cure, rule="bad-cron")
    for pointer, name in at(document.value, "schedule.timezone"):
        if isinstance(name, str) and contract.zone(name) is None:
            cure = "name one of the IANA database, such as Europe/Berlin or UTC"
            yield Violation(path=pointer, reason=f"there is no time zone {shown(name)}", cure=cure, rule="bad-zone")
    if at(document.value, "schedule") and at(document.value, "on_change"):
        reason = "'schedule' and 'on_change' exclude each other"
        yield Violation(path=("on_change",), reason=reason, cure="write two requests", rule="two-occasions")


def _on_change(document: Document) -> Iterator[Violation]:
    for pointer, path in at(document.value, "on_change.[]"):
        if isinstance(path, str) and (fault := inputs.path_fault(path)) is not None:
            yield Violation(path=pointer, reason=fault[0], cure=fault[1], rule="bad-input")


def _instants(document: Document) -> Iterator[Violation]:
    from datetime import datetime

    for pointer, until in (*at(document.value, "suspend.until"), *at(document.value, "schedule.until")):
        try:
            datetime.fromisoformat(str(until))
        except ValueError as error:
            reason, cure = f"{shown(until)} is no instant ({error})", "write it like 2026-03-01T09:00:00Z"
            yield Violation(path=pointer, reason=reason, cure=cure, rule="bad-instant")


def _instant_timeouts(key: str, document: Document) -> Iterator[Violation]:
    for pointer, text in at(document.value, key):
        if isinstance(text, str) and _DURATION.fullmatch(text) and parse_duration(text) == 0:
            yield Violation(path=pointer, reason=f"{shown(text)} leaves no time", cure="", rule="no-time")


# ---------------------------------------------------------------------------------------------- pipelines


def _ids(document: Document) -> dict[str, int]:
    """Return the ids of the stages that have one and the index of its first use."""
    found: dict[str, int] = {}
    for pointer, each in at(document.value, "stages.[].id"):
        if isinstance(each, str):
            found.setdefault(each, int(pointer[1]))
    return found


def _twin_stages(document: Document) -> Iterator[Violation]:
    first = _ids(document)
    for pointer, each in at(document.value, "stages.[].id"):
        if isinstance(each, str) and first[each] != pointer[1]:
            line, _ = _mark(document, ("stages", first[each], "id"))
            reason = f"stage id {shown(each)} is there twice, first on line {line}"
            yield Violation(path=pointer, reason=reason, cure="rename one", rule="duplicate-stage")


def _needs(document: Document) -> Iterator[Violation]:
    ids = _ids(document)
    owners = {index: each for each, index in ids.items()}
    for pointer, need in at(document.value, "stages.[].needs.[]"):
        owner = owners.get(int(pointer[1]))
        if not isinstance(need, str) or owner is None:
            continue
        if need == owner:
            reason = f"stage {shown(owner)} needs itself"
            yield Violation(path=pointer, reason=reason, cure="remove it", rule="self-need")
        elif need not in ids:
            reason = f"stage {shown(owner)} needs {shown(need)}, which is no stage of this pipeline"
            yield Violation(path=pointer, reason=reason, cure=_suggestion(need, ids), rule="unknown-need")


def _cycles(document: Document) -> Iterator[Violation]:
    from graphlib import CycleError, TopologicalSorter

    graph = _graph(document)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # graphlib goes from what is needed to what needs it, and starts anywhere.
        circle = error.args[1][:0:-1]
        ids = _ids(document)
        start = circle.index(min(circle, key=lambda each: ids[each]))
        ordered = [*circle[start:], *circle[:start]]
        reason = f"stages need each other: {shown(' -> '.join([*ordered, ordered[0]]))[1:-1]}"
        says = next(each for each in ordered if _says_needs(document, ids[each]))
        pointer = ("stages", ids[says], "needs")
        yield Violation(path=pointer, reason=reason, cure="remove one of these needs", rule="cycle")


def _graph(document: Document) -> dict[str, list[str]]:
    """Return what each stage needs: what it says, or the stage before it; less what is wrong in itself."""
    ids = _ids(document)
    said: dict[object, list[object]] = {}
    for pointer, need in at(document.value, "stages.[].needs.[]"):
        said.setdefault(pointer[1], []).append(need)
    graph: dict[str, list[str]] = {}
    before: str | None = None
    closing = _closing(document)
    for each, index in ids.items():
        unsaid = [] if each in closing else [before]
        needs = said.get(index, []) if _says_needs(document, index) else unsaid
        graph[each] = [need for need in needs if isinstance(need, str) and need in ids and need != each]
        before = before if each in closing else each
    return graph


def _closing(document: Document) -> set[str]:
    """Return the ids of the stages that are marked `finally`."""
    owners = {index: each for each, index in _ids(document).items()}
    marked = {int(pointer[1]) for pointer, value in at(document.value, "stages.[].finally") if value is True}
    return {owners[index] for index in marked if index in owners}


def _needs_of_closing(document: Document) -> Iterator[Violation]:
    """Yield a violation where a stage would wait for one that waits for all the others."""
    closing = _closing(document)
    owners = {index: each for each, index in _ids(document).items()}
    for pointer, need in at(document.value, "stages.[].needs.[]"):
        owner = owners.get(int(pointer[1]))
        if isinstance(need, str) and need in closing and owner is not None and owner not in closing:
            reason = f"stage {shown(owner)} needs {shown(need)}, which runs when all others are over"
            yield Violation(path=pointer, reason=reason, cure="remove it", rule="needs-finally")


def _says_needs(document: Document, index: int) -> bool:
    return ("stages", index, "needs") in document.marks


def _conditions(document: Document) -> Iterator[Violation]:
    """Yield a violation for every condition that cannot be judged. What it says of stages, it must need."""
    said = [(pointer, text) for pointer, text in at(document.value, "stages.[].when") if isinstance(text, str)]
    if not said:
        return
    from reconciler.condition import EXAMPLE, fault

    graph, owners = _graph(document), {index: each for each, index in _ids(document).items()}
    parameters = [str(pointer[-1]) for pointer, _ in at(document.value, "parameters.*")]
    for pointer, text in said:
        before = _all_needed(owners.get(int(pointer[1])), graph)
        if reason := fault(text, parameters, before):
            yield Violation(path=pointer, reason=f"{shown(text)}: {reason}", cure=EXAMPLE, rule="bad-condition")


def _all_needed(stage: str | None, graph: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the stages that have ended when one starts: what it needs, and what that needs."""
    found: set[str] = set()
    ahead = list(graph.get(stage or "", ()))
    while ahead:
        each = ahead.pop()
        if each not in found:
            found.add(each)
            ahead += graph.get(each, ())
    return found


def _nesting(document: Document) -> Iterator[Violation]:
    """Yield a violation where a stage that is no pipeline has what only a nested run could use, or the reverse."""
    nested = {pointer[1] for pointer, _ in at(document.value, "stages.[].pipeline")}
    for key in ("parameters", "matrix"):
        for pointer, said in at(document.value, f"stages.[].{key}"):
            if said and pointer[1] not in nested:
                cure = "declare them for the pipeline: they reach every stage" if key == "parameters" else "remove it"
                yield Violation(path=pointer, reason=f"'{key}' needs a 'pipeline'", cure=cure, rule="not-nested")
    for pointer, said in at(document.value, "stages.[].capabilities"):
        if said and pointer[1] in nested:
            cure = "let the stages of that pipeline say it: its runs have places of their own"
            yield Violation(
                path=pointer, reason="'capabilities' says nothing beside 'pipeline'", cure=cure, rule="nested"
            )
    for pointer, matrix in at(document.value, "stages.[].matrix"):
        lists = [each for each in matrix.values() if isinstance(each, list)] if isinstance(matrix, dict) else []
        if (cells := math.prod(map(len, lists))) > MATRIX_CELLS_MAX:
            reason = f"the matrix has {cells} cells"
            yield Violation(path=pointer, reason=reason, cure=f"at most {MATRIX_CELLS_MAX} are allowed", rule="matrix")


def _self_inclusion(own: PipelineId | Problem, document: Document) -> Iterator[Violation]:
    for pointer, each in at(document.value, "stages.[].pipeline"):
        if each == own:
            reason = f"pipeline {shown(each)} includes itself"
            yield Violation(path=pointer, reason=reason, cure="name another pipeline", rule="self-inclusion")


def _guards(document: Document) -> Iterator[Violation]:
    for pointer, said in at(document.value, "stages.[].guard"):
        guard = {"use": said} if isinstance(said, str) else said
        kind = guard.get("use") if isinstance(guard, dict) else None
        if not isinstance(guard, dict) or not isinstance(kind, str) or kind not in GUARD_OPTIONS:
            continue
        for key in guard:
            if reason := _misplaced_option(kind, key):
                cure = f"it knows {', '.join(_options(kind))}"
                yield Violation(path=(*pointer, key), reason=reason, cure=cure, rule="guard-option")
        if kind == "command" and "command" not in guard:
            reason, cure = "guard 'command' has no command", "write {use: command, command: ./check}"
            yield Violation(path=pointer, reason=reason, cure=cure, rule="guard-option")


def _misplaced_option(kind: str, key: str) -> str:
    """Return why a guardrail of this kind cannot be told `key`, "" if it can; keys that none knows are not judged."""
    owners = [each for each, options in GUARD_OPTIONS.items() if key in options]
    if not owners or kind in owners:
        return ""
    return f"guard {shown(kind)} has no option {shown(key)}, it belongs to {', '.join(owners)}"


def _options(kind: str) -> tuple[str, ...]:
    return (*GUARD_OPTIONS[kind], "dry_run")


def _protected(document: Document) -> Iterator[Violation]:
    """Return a violation where a sandbox would open what it is there to protect."""
    for pointer, path in at(document.value, "stages.[].sandbox.write.[]"):
        parts = [each for each in path.split("/") if each not in ("", ".")] if isinstance(path, str) else []
        if ".git" in parts or parts[:1] == [".runs"]:
            reason = f"{shown(path)} is never to be changed in a sandbox"
            yield Violation(path=pointer, reason=reason, cure="name what the stage makes", rule="protected-path")


def _reuse(document: Document) -> Iterator[Violation]:
    """Return a violation where the success of a stage could not be told from what it says it depends on."""
    from reconciler.redact import is_secret_name

    for pointer, stage in at(document.value, "stages.[]"):
        if not isinstance(stage, dict) or not isinstance(said := stage.get("reuse"), dict):
            continue
        where = (*pointer, "reuse")
        if fault := reuse.stage_fault(stage):
            yield Violation(path=where, reason=fault[0], cure=fault[1], rule="reuse")
        for way, path in at(said, "paths.[]"):
            if isinstance(path, str) and (fault := reuse.path_fault(path)):
                yield Violation(path=(*where, *way), reason=fault[0], cure=fault[1], rule="reuse")
        for way, name in at(said, "env.[]"):
            if isinstance(name, str) and is_secret_name(name):
                reason = f"{shown(name)} looks like a secret, and what is committed would let others guess its value"
                yield Violation(path=(*where, *way), reason=reason, cure="name what is no secret", rule="reuse")
    if document.value.get("workspace") == Workspace.CHECKOUT:
        for pointer, _ in at(document.value, "stages.[].reuse"):
            reason = "the files of a checkout are not those of the run's commit"
            yield Violation(path=pointer, reason=reason, cure="say 'workspace: worktree' or remove it", rule="reuse")


def _agent_commands(document: Document) -> Iterator[Violation]:
    """Return a violation where an agent's command and `use: command` do not come together."""
    for pointer, agent in at(document.value, "stages.[].agent"):
        if not isinstance(agent, dict) or (agent.get("use") == "command") == ("command" in agent):
            continue
        reason = "'command' is only read with 'use: command'"
        yield Violation(path=pointer, reason=reason, cure="say both or neither", rule="agent-command")


def _parameters(document: Document) -> Iterator[Violation]:
    for pointer, declared in at(document.value, "parameters.*"):
        if not isinstance(declared, dict) or not isinstance(pattern := declared.get("pattern"), str):
            continue
        if reason := pattern_fault(pattern, length_max=_PATTERN_LENGTH_MAX):
            yield Violation(path=(*pointer, "pattern"), reason=reason, cure="", rule="bad-pattern")
        elif "default" in declared and (reason := _misfit(pattern, declared["default"])):
            yield Violation(path=(*pointer, "default"), reason=reason, cure="change one of them", rule="bad-default")


def _misfit(pattern: str, default: object) -> str:
    text = str(default).lower() if isinstance(default, bool) else str(default)
    if len(text) > MATCHED_LENGTH_MAX:
        return f"the default has {len(text)} characters, a pattern can be matched against {MATCHED_LENGTH_MAX}"
    return "" if re.fullmatch(pattern, text) else f"the default {shown(default)} does not match {shown(pattern)}"


def pattern_fault(pattern: str, *, length_max: int) -> str:
    """Return why `pattern` cannot be used as a regular expression, "" if it can."""
    if len(pattern) > length_max:
        return f"the pattern has {len(pattern)} characters, at most {length_max} are allowed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern)
    except (re.error, Warning, OverflowError, RecursionError) as error:
        return f"{shown(pattern)} is no regular expression ({error})"
    if _may_take_for_ever(pattern):
        return f"{shown(pattern)} repeats a group that repeats or chooses, which can take for ever"
    return ""


_ESCAPE_OR_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_GROUP_KIND = re.compile(r"\(\?(?:P<\w+>|<[=!]|[:=!>])")
_REPEAT = re.compile(r"[*+]|\{(?![0-9]\})")
_INNERMOST = re.compile(r"\(([^()]*)\)([*+]|\{(?![0-9]\}))?")


def _may_take_for_ever(pattern: str) -> bool:
    """Return whether matching may try exponentially many ways: `(a+)+`, `(a|a)*`. Better refuse too much."""
    plain = _GROUP_KIND.sub("(", _ESCAPE_OR_CLASS.sub("x", pattern))
    while group := _INNERMOST.search(plain):
        inner, repeat = group.groups()
        several = bool(_REPEAT.search(inner)) or "|" in inner or "?" in inner
        if repeat and several:
            return True
        plain = plain[: group.start()] + ("x*" if repeat or several else "x") + plain[group.end() :]
    return False


def _suggestion(word: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word[:100], list(islice(known, 200)), n=1)
    return f"did you mean '{close[0]}'?" if close else ""


# ---------------------------------------------------------------------------------------------- values


def parse_duration(text: str) -> float:
    """Return `text` (`90s`, `1.5h`) in seconds. Raise ValueError when it is no duration."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f"{shown(text)} is not a duration such as 90s, 10m, 2h or 7d")
    return float(found[1]) * _SECONDS[found[2]]


def parse_size(text: str) -> int:
    """Return `text` (`64KiB`, `1MB`) in bytes. Raise ValueError when it is no size."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"{shown(text)} is not a size such as 64KiB or 1MB")
    return int(found[1]) * _BYTES[found[2]]


def fields_of(value: Mapping[str, Any], conversions: Conversions) -> dict[str, Any]:
    """Return the fields of a class from the keys of a file that keeps its schema; a key not listed is itself."""
    known = {key: conversions.get(key, (key, None)) for key in value}
    return {field: convert(value[key]) if convert else value[key] for key, (field, convert) in known.items()}


def _suspend(value: bool | Mapping[str, str]) -> Suspend | None:
    if isinstance(value, bool):
        return Suspend() if value else None
    return Suspend(**value)


def _execution(value: Mapping[str, Any]) -> Execution:
    return Execution(**fields_of(value, {"mode": ("mode", ExecutionMode)}))


def _command(value: str | Sequence[str]) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(value)


def _guard(value: str | Mapping[str, object]) -> Mapping[str, object]:
    return {"use": value} if isinstance(value, str) else value


def agent_of(value: Mapping[str, Any]) -> Mapping[str, object]:
    """Return what a file says of a coding agent, durations as seconds."""
    return fields_of(value, {"stall_after": ("stall_after_s", parse_duration)})


def resources_of(value: Mapping[str, Any]) -> Resources:
    """Return what a file says of the resources of an attempt."""
    return Resources(**fields_of(value, {"memory": ("memory_bytes", parse_size), "time": ("time_s", parse_duration)}))


def _stages(value: Sequence[Mapping[str, Any]]) -> tuple[Stage, ...]:
    return tuple(Stage(**fields_of(each, _STAGE)) for each in value)


def _declared(value: Mapping[str, Mapping[str, Any]]) -> dict[str, Parameter]:
    return {name: Parameter(**each) for name, each in value.items()}


_REQUEST: Conversions = {
    "approval_policy": ("approval_policy", ApprovalPolicy),
    "execution": ("execution", _execution),
    "attempts_max": ("attempts_max", int),
    "timeout": ("timeout_s", parse_duration),
    "priority": ("priority", int),
    "after": ("after", tuple),
    "concurrency": ("concurrency", lambda value: Concurrency(**value)),
    "schedule": ("schedule", lambda value: Schedule(**fields_of(value, {"grace": ("grace_s", parse_duration)}))),
    "on_change": ("on_change", tuple),
    "suspend": ("suspend", _suspend),
    "proves": ("proves", tuple),
    "labels": ("labels", tuple),
    "capabilities": ("capabilities", tuple),
    "resources": ("resources", resources_of),
    "rerun": ("rerun", int),
}
_STAGE: Conversions = {
    "command": ("command", _command),
    "agent": ("agent", agent_of),
    "guard": ("guard", _guard),
    "needs": ("needs", tuple),
    "capabilities": ("capabilities", tuple),
    "timeout": ("timeout_s", parse_duration),
    "attempts_max": ("attempts_max", int),
    "backoff": ("backoff_s", parse_duration),
    "role": ("role", Role),
    "finally": ("finally_", bool),
    "reuse": ("reuse", lambda value: Reuse(**{key: tuple(each) for key, each in value.items()})),
    "matrix": ("matrix", lambda value: {key: tuple(each) for key, each in value.items()}),
}
_PIPELINE: Conversions = {
    "workspace": ("workspace", Workspace),
    "parameters": ("parameters", _declared),
    "stages": ("stages", _stages),
}
