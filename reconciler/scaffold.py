"""What `init` and `new` write into a repository, as text: requests, pipelines, tasks, checklists, documents."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping

from reconciler.model import Parameter, Pipeline
from reconciler.values import frozen

SCHEMAS = "https://gitops-reconciler.dev/schemas"

REQUEST_PATH = "runs.d/0001-first-run.yaml"
PIPELINE_PATH = "pipelines/first-checks.yaml"
TASK_PATH = "tasks/0001-first-run.md"
INDEX_PATH = "tasks/index.json"
EDITOR_PATH = ".vscode/settings.json"

_REQUEST = """\
# yaml-language-server: $schema=SCHEMAS/request.schema.json
#
# A request: commit it, and the next pass launches the run. The file's name is its name.
task: 0001-first-run
pipeline: first-checks
title: The first run
proves: [0001-first-run/evidence]
"""

_PIPELINE = """\
# yaml-language-server: $schema=SCHEMAS/pipeline.schema.json
#
# A pipeline: stages, each needing the one before it unless it says `needs`. These run in any repository; put your
# own in their place, such as `command: make test`.
title: First checks
workspace: worktree  # a fresh worktree at the request's commit, so nobody's edits are in the way
stages:
  - id: commit
    title: Show the commit that is checked
    command: [git, show, --no-patch, "--format=%h %s (%an)", HEAD]
  - id: files
    title: Count the files
    command: echo "$(($(git ls-files | wc -l))) files"  # text goes to a shell, a list does not
    needs: []
  - id: names
    title: Find file names that clash where upper and lower case are one
    command: |
      clashes=$(git ls-files | tr A-Z a-z | sort | uniq -d)
      test -z "$clashes" || { echo "$clashes"; exit 1; }
      echo "no clashes"
    needs: [commit, files]
    timeout: 5m
    role: test
"""

_TASK = """\
# First run

A box is ticked when a request that `proves` its item has succeeded, and gets a link to the manifest.

- [ ] A committed request becomes committed evidence <!-- item: 0001-first-run/evidence -->
"""

_INDEX = {"items": [{"id": "0001-first-run", "title": "First run", "path": TASK_PATH}]}

_EDITOR = {
    "yaml.schemas": {
        f"{SCHEMAS}/request.schema.json": ["runs.d/**/*.yaml", "!runs.d/**/*.approval.yaml"],
        f"{SCHEMAS}/approval.schema.json": "runs.d/**/*.approval.yaml",
        f"{SCHEMAS}/pipeline.schema.json": "pipelines/*.yaml",
        f"{SCHEMAS}/settings.schema.json": "reconciler.yaml",
    },
    "json.schemas": [{"fileMatch": ["/tasks/index.json"], "url": f"{SCHEMAS}/task-index.schema.json"}],
}


def skeleton(requests: Collection[str], pipeline_id: str = "") -> dict[str, bytes]:
    """Return the files of a repository that is ready, by path.

    `requests` are the paths of the requests it has. Where there is one that is not ours, people know already how it
    goes, and nobody wants a run of an example. `pipeline_id` is a pipeline that the first request asks for in place
    of ours, "" for none.
    """
    if set(requests) - {REQUEST_PATH}:
        return {INDEX_PATH: _json({"items": []}), EDITOR_PATH: _json(_EDITOR)}
    return {
        REQUEST_PATH: _yaml(_REQUEST.replace("first-checks", pipeline_id or "first-checks")),
        **({} if pipeline_id else {PIPELINE_PATH: _yaml(_PIPELINE)}),
        TASK_PATH: _TASK.encode(),
        INDEX_PATH: _json(_INDEX),
        EDITOR_PATH: _json(_EDITOR),
    }


# ------------------------------------------------------------------------------------------------ tasks

MIRRORS = ("docs/tasks", ".agent/tasks")
"""The folders in which a task's checklist is repeated: for readers of the documents, and for agents."""

ITEMS = {"tests-green": "Tests green", "reviewed": "Reviewed"}
"""The items of a task that names none."""


@frozen
class Task:
    """A task to be written: `items` are texts by the last part of their id, `mirrors` paths."""

    id: str
    title: str
    items: Mapping[str, str]
    mirrors: tuple[str, ...]

    @property
    def path(self) -> str:
        return f"tasks/{self.id}.md"

    @property
    def entry(self) -> dict[str, object]:
        """The entry of the registry."""
        mirrors = {"mirrors": list(self.mirrors)} if self.mirrors else {}
        return {"id": self.id, "title": self.title, "path": self.path, **mirrors}


def task_files(task: Task) -> dict[str, bytes]:
    """Return the checklist of a task and its mirrors, by path."""
    said = "A box is ticked when a request that `proves` its item has succeeded, and gets a link to the manifest."
    mirrored = f"A mirror of `{task.path}`: its boxes are ticked together with those."
    return {
        task.path: _checklist(task, said),
        **{path: _checklist(task, mirrored) for path in task.mirrors},
    }


def registry(task: Task) -> bytes:
    """Return a registry that holds one task."""
    return _json({"items": [task.entry]})


def _checklist(task: Task, said: str) -> bytes:
    lines = [f"- [ ] {text} <!-- item: {task.id}/{name} -->" for name, text in task.items.items()]
    return "\n".join([f"# {task.title}", "", said, "", *lines, ""]).encode()


def title_of(id_: str) -> str:
    """Return a title made of an id: `0002-fast-login` is `Fast login`."""
    words = re.sub(r"[-._]+", " ", re.sub(r"^[0-9]+[-._]", "", id_)).strip()
    return words[:1].upper() + words[1:] or id_


# ------------------------------------------------------------------------------------------------ requests


@frozen
class Wish:
    """A request to be written. `parameters` are those that were given, `items` what it could prove."""

    task: str
    pipeline: Pipeline
    title: str
    parameters: Mapping[str, str]
    proves: tuple[str, ...]
    items: tuple[str, ...]


def request(wish: Wish) -> bytes:
    """Return the request, with the parameters that were not given and their defaults as comments."""
    lines = [
        f"# yaml-language-server: $schema={SCHEMAS}/request.schema.json",
        f"task: {scalar(wish.task)}",
        f"pipeline: {scalar(wish.pipeline.id)}",
        *([f"title: {scalar(wish.title)}"] if wish.title else []),
        *_parameter_lines(wish),
        *_proves_lines(wish),
        "",
    ]
    return "\n".join(lines).encode()


def _parameter_lines(wish: Wish) -> list[str]:
    declared = {each: _declared_line(each, said) for each, said in wish.pipeline.parameters.items()}
    left = [line for name, line in declared.items() if name not in wish.parameters]
    if not wish.parameters:
        return ["# parameters:", *(f"#   {line}" for line in left)] if left else []
    given = [f"  {name}: {scalar(value)}" for name, value in wish.parameters.items()]
    return ["parameters:", *given, *(f"  # {line}" for line in left)]


def _declared_line(name: str, declared: Parameter) -> str:
    """Return a parameter with its default, and what its pipeline says of it."""
    value = "" if declared.default is None else scalar(declared.default)
    said = _one_line(declared.description) or ("the default" if value else "every request must give one")
    return f"{name}: {value}  # {said}" if value else f"{name}:  # {said}"


def _proves_lines(wish: Wish) -> list[str]:
    items = wish.proves or wish.items
    if not items:
        return []
    mark, why = ("", "") if wish.proves else ("# ", "  # what success ticks")
    return [f"{mark}proves: [{', '.join(map(scalar, items))}]{why}"]


# ------------------------------------------------------------------------------------------------ pipelines

_NEW_PIPELINE = """\
# yaml-language-server: $schema=SCHEMAS/pipeline.schema.json
#
# Ask for it with: reconciler new request NAME --task TASK --pipeline ID
title: TITLE
# description: What it is for, in as many lines as it takes.
workspace: worktree  # a fresh worktree at the request's commit; or checkout, or empty
# parameters:  # what a request may set; stages find them as PARAM_<NAME>
#   python: {default: "3.12", pattern: "3[.][0-9]+", description: The Python version to test with}
stages:
  - id: build
    title: Show what is built
    command: [git, show, --no-patch, "--format=%h %s", HEAD]  # a list is a program and its arguments, without a shell
    role: build
  - id: test
    title: Put your own test here
    command: test -n "$(git ls-files)" && echo "there are files"  # a text goes to sh -c
    # needs: [build]  # without it, a stage needs the one before it; [] is none
    timeout: 10m  # for one try
    # attempts_max: 2
    # backoff: 10s
    # allow_failure: true
    # cwd: src
    # env: {CI: "true"}
    role: test  # its result is the test result of the run
"""


def pipeline(id_: str, title: str) -> bytes:
    """Return a pipeline that runs in any repository, with everything else it could say as comments."""
    words = {"SCHEMAS": SCHEMAS, "TITLE": scalar(title), "ID": id_}
    return re.sub(r"\b(SCHEMAS|TITLE|ID)\b", lambda found: words[found[0]], _NEW_PIPELINE).encode()


# ------------------------------------------------------------------------------------------------ documents

FOLDERS = {"spec": "docs/specs", "prd": "docs/prd", "action-plan": "docs/action-plans"}
"""Where documents of a kind lie."""

_DOCUMENTS = {
    "spec": """\
What is promised here, in sentences that a test can show. Whoever has read it against the code sets `last_review` to
that day.

## Purpose

## Behaviour

## Limits

## Tests
""",
    "prd": """\
Who needs what, and how we will know that they have it.

## Problem

## Who has it

## What will be true

## What is left out

## How we will know
""",
    "action-plan": """\
What is done in which order, and what shows that it is done.

## Goal

## Actions

- [ ] The first one

## Risks

## Evidence
""",
}


def document(kind: str, id_: str, title: str, today: str) -> bytes:
    """Return a document with front matter. `kind` is a key of FOLDERS, `today` the date of its review, YYYY-MM-DD."""
    front = {"id": id_, "title": title, "status": "draft"}
    lines = [*(f"{key}: {scalar(value)}" for key, value in front.items()), f"last_review: {today}"]
    return "\n".join(["---", *lines, "---", "", f"# {title}", "", _DOCUMENTS[kind]]).encode()


# ------------------------------------------------------------------------------------------------ small parts

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*( [A-Za-z0-9][A-Za-z0-9._/-]*)*")
_AMBIGUOUS = re.compile(r"(?i:true|false|null|yes|no|on|off|y|n|[0-9.]+e[0-9+-]*|0[xo].*|[-0-9._/]*|inf|nan)")


def scalar(value: object) -> str:
    """Return a value as YAML; text that a reader could take for something else is quoted."""
    if not isinstance(value, str):
        return json.dumps(value)
    plain = _PLAIN.fullmatch(value) and not _AMBIGUOUS.fullmatch(value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _one_line(text: str, characters_max: int = 80) -> str:
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= characters_max else f"{line[: characters_max - 3]}..."


def _yaml(text: str) -> bytes:
    return text.replace("SCHEMAS", SCHEMAS).encode()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
