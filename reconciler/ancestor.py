"""What `codex.orchestrator.json` of the Node orchestrator comes to here: pipelines as text, and what has no equivalent.

Pure. A stage set has no equivalent of its own: its stages are written where they are used. Everything that is left out,
replaced or renamed is told as a `Problem` with the place in the old file, so that nothing goes missing in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler import parse
from reconciler.model import Problem, Severity
from reconciler.scaffold import SCHEMAS, scalar
from reconciler.values import frozen
from reconciler.yaml_events import shown

CONFIG_NAME = "codex.orchestrator.json"
PIPELINES_MAX = 500
STAGES_MAX = 200
LINE_MAX = 200
DESCRIPTION_MAX = 10_000

_TOP = ("stageSets", "pipelines", "$schema")
_PIPELINE = ("id", "title", "description", "stages", "guardrailsRequired")
_STAGE = {
    "command": ("kind", "id", "title", "command", "cwd", "env", "allowFailure", "summaryHint", "plan"),
    "subpipeline": ("kind", "id", "title", "pipeline", "optional", "plan"),
}
_CURES = {
    "defaultPipeline": "a request names its pipeline",
    "runtimeMode": "an agent stage starts 'codex exec'; there is no app server",
    "tags": "say it as 'labels' in the requests that ask for the pipeline",
    "metadata": "nothing here reads it",
    "session": "each stage is a process of its own",
    "plan": "a request says 'target' to run one stage and what it needs",
}
_GUARDS = (
    (re.compile(r"(specGuardRunner\.js|scripts/spec-guard\.m?js)\b"), "specs"),
    (re.compile(r"scripts/diff-budget\.m?js\b"), "diff"),
)
_DELEGATION = re.compile(r"(delegationGuardRunner\.js|scripts/delegation-guard\.m?js)\b")
_SEVERAL = re.compile(r"[;&|\n]")
"""A command that does more than one thing stays as it is."""
_PACKAGE_ROOT = "CODEX_ORCHESTRATOR_PACKAGE_ROOT"
_ENV_NAME = re.compile(r"(?!RECONCILER_|PARAM_|GIT_)[A-Za-z_][A-Za-z0-9_]{0,127}")

Pointer = tuple[str | int, ...]


@frozen
class Converted:
    """What a configuration comes to: pipelines by the path they belong at, and what has no equivalent."""

    files: Mapping[str, bytes]
    problems: tuple[Problem, ...]


@frozen
class Piece:
    """One stage of the old file: where it stands there, and the stage set it comes from ("" for none)."""

    value: Mapping[str, Any]
    pointer: Pointer
    origin: str = ""


def convert(document: object, path: str) -> Converted:
    """Return the pipelines that a configuration comes to, and everything that is not carried over as it was."""
    moving = _Moving(path)
    top = document if isinstance(document, dict) else {}
    if not isinstance(top.get("pipelines"), list):
        moving.tell(("pipelines",), "there is no list of pipelines", "name the file of the Node orchestrator")
    moving.leave_out(top, _TOP, ())
    sets = top.get("stageSets", {})
    if not isinstance(sets, dict):
        moving.tell(("stageSets",), "this is no mapping of stage sets", "write an object")
        sets = {}
    moving.tell_unused(sets, top)
    for index, each in enumerate(_list(top.get("pipelines"))[:PIPELINES_MAX]):
        moving.take(each, ("pipelines", index), sets)
    if (count := len(_list(top.get("pipelines")))) > PIPELINES_MAX:
        moving.tell(("pipelines",), f"there are {count} pipelines", f"at most {PIPELINES_MAX} are taken at once")
    # What stands in a stage set is met once for each pipeline that uses it, and told once.
    return Converted(files=moving.files, problems=tuple(dict.fromkeys(moving.problems)))


class _Moving:
    """One conversion: files and problems gather here."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.files: dict[str, bytes] = {}
        self.problems: list[Problem] = []

    def tell(self, pointer: Pointer, reason: str, cure: str, rule: str = "left-out") -> None:
        spelled = "".join("/" + str(each).replace("~", "~0").replace("/", "~1") for each in pointer)
        self.problems.append(
            Problem(path=self.path, pointer=spelled, reason=reason, cure=cure, rule=rule, severity=Severity.WARNING)
        )

    def leave_out(self, value: Mapping[str, Any], known: Sequence[str], pointer: Pointer) -> None:
        """Tell every key that has no equivalent."""
        for key in value:
            if key not in known:
                self.tell((*pointer, key), f"{shown(key)} has no equivalent", _CURES.get(key, "nothing here reads it"))

    def tell_unused(self, sets: Mapping[str, Any], top: Mapping[str, Any]) -> None:
        """Tell the stage sets that no pipeline uses: they would be gone."""
        used = {
            str(stage.get("ref"))
            for pipeline in _list(top.get("pipelines"))
            if isinstance(pipeline, dict)
            for stage in _list(pipeline.get("stages"))
            if isinstance(stage, dict)
        }
        for name in sets:
            if name not in used:
                self.tell(("stageSets", name), f"no pipeline uses the stage set {shown(name)}", "write it where needed")

    # ---------------------------------------------------------------------------------------- pipelines

    def take(self, value: object, pointer: Pointer, sets: Mapping[str, Any]) -> None:
        """Convert one pipeline."""
        if not isinstance(value, dict) or not isinstance(value.get("id"), str):
            self.tell(pointer, "this is no pipeline with an id", "give it one")
            return
        self.leave_out(value, _PIPELINE, pointer)
        name = self.id_of(value["id"], (*pointer, "id"), "pipeline")
        path = f"pipelines/{name}.yaml"
        if path in self.files:
            self.tell((*pointer, "id"), f"the id {shown(name)} is there twice", "rename one")
            return
        stages = self.stages(list(self.pieces(value, pointer, sets)))
        if not stages:
            self.tell(pointer, f"no stage of pipeline {shown(name)} has an equivalent", "write it anew")
            return
        self.files[path] = self.text(value, pointer, stages).encode(errors="replace")

    def text(self, value: Mapping[str, Any], pointer: Pointer, stages: Sequence[Sequence[str]]) -> str:
        """Return a pipeline as YAML."""
        title = self.line(value.get("title", ""), (*pointer, "title"))
        description = value.get("description", "")
        lines = [
            f"# yaml-language-server: $schema={SCHEMAS}/pipeline.schema.json",
            "#",
            f"# Imported from {CONFIG_NAME}.",
            *([f"title: {scalar(title)}"] if title else []),
            *([f"description: {scalar(description[:DESCRIPTION_MAX])}"] if _is_text(description) else []),
            "workspace: checkout  # as it was; in a worktree nobody's edits are in the way, and nothing is installed",
            *self.required(value, pointer, stages),
            "stages:",
            *(line for each in stages for line in each),
        ]
        return "\n".join(lines) + "\n"

    def required(self, value: Mapping[str, Any], pointer: Pointer, stages: Sequence[Sequence[str]]) -> Sequence[str]:
        """Return the line that demands guardrails. There, a stage was one by its name; here, by its kind."""
        judging = any(line.startswith("    guard: ") and "dry_run" not in line for each in stages for line in each)
        said = value.get("guardrailsRequired")
        if said is True and not judging:
            reason, cure = "guardrails are required and none is left that judges", "add a stage with 'guard'"
            self.tell((*pointer, "guardrailsRequired"), reason, cure)
        return ["guardrails_required: true"] if judging and said is not False else []

    def pieces(self, value: Mapping[str, Any], pointer: Pointer, sets: Mapping[str, Any]) -> Iterator[Piece]:
        """Yield the stages of a pipeline, those of stage sets in their place."""
        for index, each in enumerate(_list(value.get("stages"))):
            here = (*pointer, "stages", index)
            if not isinstance(each, dict):
                self.tell(here, "this is no stage", "write an object")
            elif each.get("kind") != "stage-set":
                yield Piece(value=each, pointer=here)
            elif not isinstance(sets.get(str(each.get("ref"))), list):
                self.tell(here, f"there is no stage set {shown(each.get('ref'))}", "name one that is there")
            else:
                name = str(each["ref"])
                found = enumerate(sets[name])
                yield from (
                    Piece(value=stage, pointer=("stageSets", name, number), origin=name)
                    for number, stage in found
                    if isinstance(stage, dict)
                )

    # ---------------------------------------------------------------------------------------- stages

    def stages(self, pieces: Sequence[Piece]) -> list[list[str]]:
        """Return the stages as lines of YAML, each with an id of its own."""
        taken: set[str] = set()
        found: list[list[str]] = []
        origin = ""
        for piece in pieces:
            lines = self.stage(piece, taken)
            if lines and len(found) >= STAGES_MAX:
                self.tell(piece.pointer, f"a pipeline has at most {STAGES_MAX} stages", "nest a pipeline")
                break
            comment = (
                [f"  # of the stage set {_plain(piece.origin)}"] if piece.origin != origin and piece.origin else []
            )
            if lines:
                found.append([*comment, *lines])
                origin = piece.origin
        return found

    def stage(self, piece: Piece, taken: set[str]) -> list[str]:
        """Return one stage, [] if it has no equivalent."""
        value, kind = piece.value, piece.value.get("kind", "command")
        if kind not in _STAGE:
            self.tell(piece.pointer, f"a stage of kind {shown(kind)} has no equivalent", "write a command")
            return []
        body = self.command(piece) if kind == "command" else self.nested(piece)
        if not body:
            return []
        self.leave_out(value, _STAGE[kind], piece.pointer)
        name = self.unique(self.id_of(value.get("id"), (*piece.pointer, "id"), "stage"), piece, taken)
        title = self.line(value.get("title", ""), (*piece.pointer, "title"))
        head = [f"  - id: {scalar(name)}", *([f"    title: {scalar(title)}"] if title else [])]
        return [*head, *body, *self.planned(value.get("plan"), (*piece.pointer, "plan"))]

    def command(self, piece: Piece) -> list[str]:
        """Return what a stage with a command does here."""
        value, pointer = piece.value, piece.pointer
        said = value.get("command")
        if not _is_text(said):
            self.tell(pointer, "the stage has no command", "give it one")
            return []
        assert isinstance(said, str)
        if _DELEGATION.search(said) and not _SEVERAL.search(said):
            reason = "the guard of delegation has no equivalent, the stage is left out"
            self.tell(pointer, reason, "an agent is one stage, and what is inside of it is its affair")
            return []
        allowed = ["    allow_failure: true"] if value.get("allowFailure") is True else []
        if guard := self.guard(said, pointer):
            return [guard, *allowed]
        if _PACKAGE_ROOT in said:
            reason = "the stage starts a program of the old package"
            self.tell(pointer, reason, f"set {_PACKAGE_ROOT} where the reconciler runs, or replace it", "old-package")
        return [
            f"    command: {scalar(said)}",
            *self.directory(value.get("cwd"), (*pointer, "cwd")),
            *self.environment(value.get("env"), (*pointer, "env")),
            *allowed,
            *self.hint(value.get("summaryHint"), (*pointer, "summaryHint")),
        ]

    def guard(self, said: str, pointer: Pointer) -> str:
        """Return the guardrail that stands for a script of the old package, "" if the command is none."""
        kind = next((kind for pattern, kind in _GUARDS if pattern.search(said)), None)
        if kind is None or _SEVERAL.search(said):
            return ""
        self.tell(pointer, f"the script is replaced by 'guard: {kind}'", "look at its options", "replaced")
        # Their dry run reports and passes; so does ours.
        return f"    guard: {{use: {kind}, dry_run: true}}" if "--dry-run" in said else f"    guard: {kind}"

    def nested(self, piece: Piece) -> list[str]:
        """Return a stage that runs another pipeline."""
        said = piece.value.get("pipeline")
        if not isinstance(said, str):
            self.tell(piece.pointer, "the stage names no pipeline", "name one")
            return []
        allowed = ["    allow_failure: true"] if piece.value.get("optional") is True else []
        return [f"    pipeline: {scalar(self.id_of(said, (*piece.pointer, 'pipeline'), 'pipeline'))}", *allowed]

    def planned(self, value: object, pointer: Pointer) -> list[str]:
        """Return the one hint of a plan that has an equivalent, and tell the others."""
        hints = value if isinstance(value, dict) else {}
        cloud = [key for key in ("requiresCloud", "requires_cloud") if hints.get(key) is True]
        self.leave_out(hints, ("requiresCloud", "requires_cloud"), pointer)
        return ["    requires_cloud: true"] if cloud else []

    def directory(self, value: object, pointer: Pointer) -> list[str]:
        if value in (None, "", "."):
            return []
        if not _is_text(value) or str(value).startswith("/") or ".." in str(value).split("/"):
            self.tell(pointer, f"the directory {shown(value)} lies outside", "name one below the root")
            return []
        return [f"    cwd: {scalar(value)}"]

    def environment(self, value: object, pointer: Pointer) -> list[str]:
        """Return the environment of a stage, less what may not be set here."""
        found = []
        for name, text in value.items() if isinstance(value, dict) else ():
            if _ENV_NAME.fullmatch(name) and isinstance(text, str):
                found.append(f"      {scalar(name)}: {scalar(text)}")
            else:
                self.tell((*pointer, name), f"the variable {shown(name)} cannot be set here", "choose another name")
        return ["    env:", *found] if found else []

    def hint(self, value: object, pointer: Pointer) -> list[str]:
        return [f"    summary_hint: {scalar(self.line(value, pointer))}"] if _is_text(value) else []

    # ---------------------------------------------------------------------------------------- small parts

    def line(self, value: object, pointer: Pointer) -> str:
        """Return one line of text of at most 200 characters."""
        text = " ".join(str(value).split()) if isinstance(value, str) else ""
        if len(text) > LINE_MAX:
            self.tell(pointer, f"the text has {len(text)} characters", f"it is cut at {LINE_MAX}", "shortened")
        return text[:LINE_MAX]

    def id_of(self, value: object, pointer: Pointer, what: str) -> str:
        """Return an id as ours are spelled."""
        said = value if isinstance(value, str) else ""
        if parse.id_fault(said) is None:
            return said
        made = re.sub(r"\.{2,}", ".", re.sub(r"[^a-z0-9._-]+", "-", said.lower())).strip("-._")[:100].rstrip("-._")
        made = made or what
        self.tell(pointer, f"the {what} {shown(said)} is called {shown(made)} here", "ids are lower case", "renamed")
        return made

    def unique(self, name: str, piece: Piece, taken: set[str]) -> str:
        """Return an id that no earlier stage of the pipeline has."""
        found = name
        number = 2
        while found in taken:
            found, number = f"{name[:95]}-{number}", number + 1
        if found != name:
            self.tell((*piece.pointer, "id"), f"a second stage {shown(name)} is called {shown(found)}", "", "renamed")
        taken.add(found)
        return found


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _plain(text: str) -> str:
    """Return text that can stand in a comment."""
    return "".join(each if each.isprintable() else " " for each in text)[:LINE_MAX]
