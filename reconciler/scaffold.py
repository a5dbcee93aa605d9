"""What `init` writes into a repository: a first request with its pipeline, task and checklist, as text."""

from __future__ import annotations

import json
from collections.abc import Collection

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


def skeleton(requests: Collection[str]) -> dict[str, bytes]:
    """Return the files of a repository that is ready, by path.

    `requests` are the paths of the requests it has. Where there is one that is not ours, people know already how it
    goes, and nobody wants a run of an example.
    """
    if set(requests) - {REQUEST_PATH}:
        return {INDEX_PATH: _json({"items": []}), EDITOR_PATH: _json(_EDITOR)}
    return {
        REQUEST_PATH: _yaml(_REQUEST),
        PIPELINE_PATH: _yaml(_PIPELINE),
        TASK_PATH: _TASK.encode(),
        INDEX_PATH: _json(_INDEX),
        EDITOR_PATH: _json(_EDITOR),
    }


def _yaml(text: str) -> bytes:
    return text.replace("SCHEMAS", SCHEMAS).encode()


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
