"""Scenarios as data: what a repository is made of, what is asked for in it, and what must have come of it. Pure."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from reconciler import parse
from reconciler.model import Contract, Problem, Rejection, Source, Violation
from reconciler.values import frozen
from reconciler.yaml_events import Document, load_yaml, shown

SUFFIX = ".eval.yaml"
SCENARIOS_MAX = 500
FILES_MAX = 2000
FILE_BYTES_MAX = 1024 * 1024
LINES_MAX, LINE_MAX = 20_000, 1000
PATTERN_LENGTH_MAX = 200
TASK, NAME, INLINE = "eval", "eval", "eval-inline"
REQUEST_PATH, SETTINGS_PATH = f"runs.d/{NAME}.yaml", "reconciler.yaml"

_SHOWN_MAX = 300
_OURS = {"branch": "main", "remote": None, "keep_workspace": "always"}
"""What a repository that is made for a scenario cannot do without, whatever its own settings say."""

Read = Callable[[str], bytes | None]


@frozen
class File:
    """What must be true of one file of the workspace."""

    path: str
    exists: bool = True
    contains: tuple[str, ...] = ()
    matches: str | None = None
    sha256: str | None = None


@frozen
class Expect:
    """What must be true when the run has ended. `guardrails` are lists of `guardrail_status`, `manifest` values by JSON
    pointer."""

    status: str = "succeeded"
    stages: Mapping[str, str] = field(default_factory=dict)
    guardrails: Mapping[str, Sequence[str]] = field(default_factory=dict)
    manifest: Mapping[str, object] = field(default_factory=dict)
    files: tuple[File, ...] = ()


@frozen
class Fixture:
    """The files of a repository that is made: a folder, from that of the scenario, and texts by path over it."""

    directory: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)


@frozen
class Scenario:
    """One scenario. `pipeline` is an id, or a whole pipeline."""

    source: Source
    pipeline: str | Mapping[str, object]
    title: str = ""
    fixture: Fixture = Fixture()
    parameters: Mapping[str, object] = field(default_factory=dict)
    timeout_s: float = 120.0
    expect: Expect = Expect()


@frozen
class Result:
    """What came of a scenario: `findings` say what is not as it must be, none if it passed. `took_s` is wall time."""

    path: str
    title: str
    findings: tuple[str, ...]
    status: str = ""
    run_id: str = ""
    took_s: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.findings


# ------------------------------------------------------------------------------------------------ reading


def parse_scenario(data: bytes, source: Source, contract: Contract) -> Scenario | Rejection:
    """Return the scenario that `data` says, or everything that is wrong with it."""
    document = parse.examine("eval", data, source, contract, _patterns, _inline(contract))
    if isinstance(document, Rejection):
        return document
    known: parse.Conversions = {
        "fixture": ("fixture", lambda said: Fixture(**said)),
        "timeout": ("timeout_s", parse.parse_duration),
        "expect": ("expect", _expect),
    }
    return Scenario(source=source, **parse.fields_of(document.value, known))


def _expect(said: Mapping[str, Any]) -> Expect:
    return Expect(**parse.fields_of(said, {"files": ("files", lambda files: tuple(map(_file, files)))}))


def _file(said: Mapping[str, Any]) -> File:
    return File(**parse.fields_of(said, {"contains": ("contains", tuple)}))


def _patterns(document: Document) -> Iterator[Violation]:
    for pointer, text in parse.at(document.value, "expect.files.[].matches"):
        if isinstance(text, str) and (fault := parse.pattern_fault(text, length_max=PATTERN_LENGTH_MAX)):
            yield Violation(path=pointer, reason=fault, cure="", rule="pattern")


def _inline(contract: Contract) -> parse.Check:
    """Return what judges a pipeline that stands in the scenario itself, as if it were a file."""

    def judge(document: Document) -> Iterator[Violation]:
        said = document.value.get("pipeline")
        if isinstance(said, dict):
            parsed = parse.parse_pipeline(_json(said), Source(path=f"pipelines/{INLINE}.yaml"), contract)
            for each in parsed.problems if isinstance(parsed, Rejection) else ():
                yield Violation(path=("pipeline",), reason=each.reason, cure=each.cure, rule=each.rule)

    return judge


# ------------------------------------------------------------------------------------------------ laying out


def laid_out(scenario: Scenario, paths: Iterable[str], read: Read) -> dict[str, bytes] | str:
    """Return the files of the repository that is made for a scenario, or why it cannot be made.

    `paths` are the files of this repository and `read` returns what one of them holds, None for what is no file.
    """
    there = frozenset(paths)
    files: dict[str, bytes | None] = {}
    if isinstance(scenario.pipeline, str):
        files |= {path: read(path) for path in there if re.fullmatch(r"pipelines/[^/]+\.yaml", path)}
    if scenario.fixture.directory is not None:
        copied = _copied(scenario, there, read)
        if not copied:
            return f"there is no file in the folder {shown(scenario.fixture.directory)}"
        files |= copied
    files |= {posixpath.normpath(path): text.encode() for path, text in scenario.fixture.files.items()}
    files |= _asked(scenario, files.get(SETTINGS_PATH))
    unread = sorted(path for path, data in files.items() if data is None)
    if unread or len(files) > FILES_MAX:
        return f"{unread[0]} is no regular file, or too large" if unread else f"there are {len(files)} files"
    return {path: data for path, data in files.items() if data is not None}


def _copied(scenario: Scenario, there: frozenset[str], read: Read) -> dict[str, bytes | None]:
    own = posixpath.dirname(scenario.source.path)
    start = posixpath.normpath(posixpath.join(own, scenario.fixture.directory or "")) + "/"
    found = sorted(path for path in there if path.startswith(start))[: FILES_MAX + 1]
    return {path.removeprefix(start): read(path) for path in found}


def _asked(scenario: Scenario, settings: bytes | None) -> dict[str, bytes | None]:
    """Return the request, its pipeline where it stands in the scenario, and the settings."""
    inline = not isinstance(scenario.pipeline, str)
    request = {
        "task": TASK,
        "pipeline": INLINE if inline else scenario.pipeline,
        "parameters": scenario.parameters,
        "timeout": f"{scenario.timeout_s:.3f}s",
    }
    known = load_yaml(settings, SETTINGS_PATH, bytes_max=FILE_BYTES_MAX) if settings is not None else None
    theirs = known.value if isinstance(known, Document) else {}
    files: dict[str, bytes | None] = {REQUEST_PATH: _json(request), SETTINGS_PATH: _json({**theirs, **_OURS})}
    return files | ({f"pipelines/{INLINE}.yaml": _json(scenario.pipeline)} if inline else {})


def _json(value: object) -> bytes:
    """Return a value as JSON, which is YAML."""
    return json.dumps(value, ensure_ascii=False, indent=1).encode(errors="replace") + b"\n"


# ------------------------------------------------------------------------------------------------ judging


def findings(expect: Expect, manifest: Mapping[str, Any], read: Read) -> Iterator[str]:
    """Yield what is not as it must be. `read` returns the bytes of a file of the workspace, None for none."""
    if (status := manifest.get("status")) != expect.status:
        detail = manifest.get("summary") or manifest.get("status_detail") or ""
        yield f"the run has {status}, expected {expect.status}" + (f" ({_cut(str(detail))})" if detail else "")
    yield from _stages(expect, manifest)
    yield from _guardrails(expect, manifest)
    for pointer, wanted in expect.manifest.items():
        found = _at(manifest, pointer)
        if found is _NOTHING:
            yield f"manifest {pointer}: is not there, expected {_cut(json.dumps(wanted))}"
        elif type(found) is not type(wanted) or found != wanted:
            yield f"manifest {pointer}: is {_cut(json.dumps(found))}, expected {_cut(json.dumps(wanted))}"
    for file in expect.files:
        yield from _faults(file, read(file.path))


def _stages(expect: Expect, manifest: Mapping[str, Any]) -> Iterator[str]:
    known = {each.get("id"): each for each in manifest.get("commands", ())}
    for name, wanted in expect.stages.items():
        if name not in known:
            yield f"stage {name}: is not there, expected {wanted}"
        elif (status := known[name].get("status")) != wanted:
            yield f"stage {name}: {status}, expected {wanted} ({_cut(str(known[name].get('summary') or ''))})"


def _guardrails(expect: Expect, manifest: Mapping[str, Any]) -> Iterator[str]:
    said = manifest.get("guardrail_status") or {}
    for word, wanted in expect.guardrails.items():
        for each in wanted:
            if each not in said.get(word, ()):
                yield f"guardrail {each}: is not among those that are {word}"


def _faults(file: File, data: bytes | None) -> Iterator[str]:
    """Yield what is not as it must be with one file."""
    if not file.exists or data is None:
        if file.exists or data is not None:
            yield f"file {file.path}: is {'not ' if file.exists else ''}there"
        return
    text = data.decode(errors="replace")
    for each in file.contains:
        if each not in text:
            yield f"file {file.path}: does not contain {shown(each)}"
    if file.matches is not None and not _matches(file.matches, text):
        yield f"file {file.path}: no line matches {shown(file.matches)}"
    if file.sha256 is not None and (digest := hashlib.sha256(data).hexdigest()) != file.sha256:
        yield f"file {file.path}: has the SHA-256 {digest}, expected {file.sha256}"


def _matches(pattern: str, text: str) -> bool:
    """Return whether a line matches somewhere. Lines are bounded: time grows with a power of their length."""
    compiled = re.compile(pattern)
    return any(compiled.search(line[:LINE_MAX]) for line in text.splitlines()[:LINES_MAX])


_NOTHING = object()


def _at(value: Any, pointer: str) -> object:
    """Return what a JSON pointer leads to."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and re.fullmatch(r"0|[1-9][0-9]{0,6}", key) and int(key) < len(value):
            value = value[int(key)]
        else:
            return _NOTHING
    return value


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


def rejected(path: str, problems: Iterable[Problem]) -> Result:
    """Return the result of a scenario that cannot be read."""
    said = (f"line {each.line}: {each.reason}" + (f"; {each.cure}" if each.cure else "") for each in problems)
    return Result(path=path, title="", findings=tuple(said))


# ------------------------------------------------------------------------------------------------ telling


def document(results: Sequence[Result]) -> dict[str, object]:
    """Return results as data."""
    rows = [
        {
            "path": each.path,
            "title": each.title,
            "passed": each.passed,
            "status": each.status,
            "run_id": each.run_id,
            "took_s": round(each.took_s, 3),
            "findings": each.findings,
        }
        for each in results
    ]
    return {"scenarios": len(results), "failed": sum(not each.passed for each in results), "results": rows}


def junit(results: Sequence[Result]) -> str:
    """Return results as JUnit XML, as most CI systems read it."""
    failed = sum(not each.passed for each in results)
    took_s = sum(each.took_s for each in results)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites name="reconciler eval" tests="{len(results)}" failures="{failed}" time="{took_s:.3f}">',
        f'  <testsuite name="scenarios" tests="{len(results)}" failures="{failed}" time="{took_s:.3f}">',
        *(line for each in results for line in _case(each)),
        "  </testsuite>",
        "</testsuites>",
    ]
    return "\n".join(lines) + "\n"


def _case(result: Result) -> Iterator[str]:
    name = _attribute(result.title or result.path)
    head = f'    <testcase classname="{_attribute(result.path)}" name="{name}" time="{result.took_s:.3f}"'
    if result.passed:
        yield f"{head}/>"
        return
    yield f"{head}>"
    yield f'      <failure message="{_attribute(result.findings[0])}">{_text(chr(10).join(result.findings))}</failure>'
    yield "    </testcase>"


def _text(text: str) -> str:
    """Return text as XML may hold it; what XML has no character for becomes `?`."""
    plain = re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _attribute(text: str) -> str:
    return _text(text).replace('"', "&quot;").replace("\n", "&#10;").replace("\t", "&#9;")
