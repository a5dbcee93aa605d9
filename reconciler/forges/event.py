"""What made a CI run begin: a pull request, a merge queue, a push, a schedule, or a person.

Pure: environment and payload are given. Whoever opens a pull request chose parts of both, so everything taken from them
is a full object id, a number, or the checked name of a branch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from reconciler.errors import UsageError
from reconciler.forges.forge import Kind
from reconciler.forges.where import Environment, ci_kind
from reconciler.values import frozen

OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
BRANCH = re.compile(r"(?!-)[^\s~^:?*\[\\\x00-\x20\x7f]{1,244}")
NUMBER_MAX = 2**53


class Cause(StrEnum):
    PULL_REQUEST = "pull request"
    MERGE_QUEUE = "merge queue"
    PUSH = "push"
    SCHEDULE = "schedule"
    PERSON = "person"
    NOTHING = "nothing"


@frozen
class Event:
    """Why we were started. `base` and `head` are the commits of a proposal, `head` also of a push; `branch` is the one
    that is or would be changed; `note` says why there is nothing to do."""

    cause: Cause
    base: str = ""
    head: str = ""
    before: str = ""
    number: int = 0
    branch: str = ""
    default_branch: str = ""
    from_fork: bool = False
    note: str = ""


def event_of(environment: Environment, payload: Mapping[str, Any]) -> Event:
    """Return what started this CI run. Raise UsageError outside of one, or for what no forge would send."""
    kind = ci_kind(environment)
    if kind is None:
        raise UsageError("this is no CI run of GitHub, GitLab or Gitea; elsewhere use: reconciler reconcile --wait")
    return _gitlab(environment) if kind is Kind.GITLAB else _actions(environment, payload)


# ------------------------------------------------------------------------------------------------ GitHub and Gitea


def _actions(environment: Environment, payload: Mapping[str, Any]) -> Event:
    name = environment.get("GITHUB_EVENT_NAME", "")
    if name in ("pull_request", "pull_request_target"):
        return _pull_request(payload)
    if name == "merge_group":
        group = _map(payload, "merge_group")
        base, head = _oid(group, "base_sha"), _oid(group, "head_sha")
        return Event(cause=Cause.MERGE_QUEUE, base=base, head=head, branch=_branch(group.get("base_ref")))
    if name == "push":
        return _push(payload)
    if name == "schedule":
        return Event(cause=Cause.SCHEDULE, default_branch=_default_branch(payload))
    if name in ("workflow_dispatch", "repository_dispatch", "workflow_run", "workflow_call"):
        return Event(cause=Cause.PERSON, default_branch=_default_branch(payload))
    return Event(cause=Cause.NOTHING, note=f"nothing is done for the event '{_shown(name)}'")


def _pull_request(payload: Mapping[str, Any]) -> Event:
    if payload.get("action") == "closed":
        return Event(cause=Cause.NOTHING, note="the pull request is closed")
    document = _map(payload, "pull_request")
    base, head = _map(document, "base"), _map(document, "head")
    return Event(
        cause=Cause.PULL_REQUEST,
        base=_oid(base, "sha"),
        head=_oid(head, "sha"),
        number=_number(document.get("number", payload.get("number"))),
        branch=_branch(base.get("ref")),
        from_fork=_is_elsewhere(base, head),
    )


def _is_elsewhere(base: Mapping[str, Any], head: Mapping[str, Any]) -> bool:
    """Return whether a head is in another repository; one whose repository is gone was in another one."""
    there, here = (each.get("repo") for each in (head, base))
    if not isinstance(there, dict) or not isinstance(here, dict) or not here.get("full_name"):
        return True
    return bool(there.get("full_name") != here["full_name"])


def _push(payload: Mapping[str, Any]) -> Event:
    ref = payload.get("ref")
    if payload.get("deleted") is True or not isinstance(ref, str) or not ref.startswith("refs/heads/"):
        return Event(cause=Cause.NOTHING, note="the push is of a tag, or deletes a branch")
    before = payload.get("before")
    known = isinstance(before, str) and OID.fullmatch(before) and before.strip("0")
    return Event(
        cause=Cause.PUSH,
        head=_oid(payload, "after"),
        before=str(before) if known else "",
        branch=_branch(ref),
        default_branch=_default_branch(payload),
    )


def _default_branch(payload: Mapping[str, Any]) -> str:
    """Return the branch that the forge takes for the main one, "" if the event does not say."""
    repository = payload.get("repository")
    name = repository.get("default_branch") if isinstance(repository, dict) else None
    return _branch(name) if name else ""


# ------------------------------------------------------------------------------------------------ GitLab


def _gitlab(environment: Environment) -> Event:
    source, main = environment.get("CI_PIPELINE_SOURCE", ""), environment.get("CI_DEFAULT_BRANCH", "")
    main = _branch(main) if main else ""
    if source == "merge_request_event":
        return _merge_request(environment)
    if source == "schedule":
        return Event(cause=Cause.SCHEDULE, default_branch=main)
    if source == "push":
        if not environment.get("CI_COMMIT_BRANCH"):
            return Event(cause=Cause.NOTHING, note="the push is of a tag")
        before = environment.get("CI_COMMIT_BEFORE_SHA", "")
        known = OID.fullmatch(before) and before.strip("0")
        head, branch = _oid(environment, "CI_COMMIT_SHA"), _branch(environment["CI_COMMIT_BRANCH"])
        before = before if known else ""
        return Event(cause=Cause.PUSH, head=head, before=before, branch=branch, default_branch=main)
    if source in ("web", "api", "trigger", "pipeline", "parent_pipeline", "chat"):
        return Event(cause=Cause.PERSON, default_branch=main)
    return Event(cause=Cause.NOTHING, note=f"nothing is done for the source '{_shown(source)}'")


def _merge_request(environment: Environment) -> Event:
    """Return the proposal of a merge request: GitLab names the tip of its target only where it tries the merge."""
    names = ("CI_MERGE_REQUEST_TARGET_BRANCH_SHA", "CI_MERGE_REQUEST_DIFF_BASE_SHA")
    base = next((each for each in names if environment.get(each)), names[1])
    queue = environment.get("CI_MERGE_REQUEST_EVENT_TYPE") == "merge_train"
    own = None if queue else environment.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA")
    there, here = (environment.get(f"CI_MERGE_REQUEST_{each}PROJECT_ID") for each in ("SOURCE_", ""))
    return Event(
        cause=Cause.MERGE_QUEUE if queue else Cause.PULL_REQUEST,
        base=_oid(environment, base),
        head=_oid(environment, "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA" if own else "CI_COMMIT_SHA"),
        number=_number(environment.get("CI_MERGE_REQUEST_IID")),
        branch=_branch(environment.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME")),
        from_fork=there != here,
    )


# ------------------------------------------------------------------------------------------------ small parts


def _map(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    if not isinstance(found, dict):
        raise UsageError(f"the event says nothing of '{key}'; is this the payload of its name?")
    return found


def _oid(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    if not isinstance(found, str) or not OID.fullmatch(found):
        raise UsageError(f"the event names no commit in '{key}'; a full object id is needed")
    return found


def _number(value: object) -> int:
    """Return the number of a pull request, which GitLab writes as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < NUMBER_MAX:
        raise UsageError("the event has no number of a pull request")
    return value


def _branch(ref: object) -> str:
    name = ref.removeprefix("refs/heads/") if isinstance(ref, str) else ""
    if not BRANCH.fullmatch(name) or ".." in name:
        raise UsageError("the event names no branch")
    return name


def _shown(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text[:60])
