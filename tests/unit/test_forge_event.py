"""What started a CI run: only object ids, numbers and names of branches are taken from what others wrote."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.errors import UsageError
from reconciler.forges.event import Cause, event_of

A, B, ZERO = "a" * 40, "b" * 40, "0" * 40
REPO = {"full_name": "acme/billing"}


def actions(name: str, payload: dict[str, Any], **more: str) -> Any:
    return event_of({"GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": name, **more}, payload)


def proposal(**head: Any) -> dict[str, Any]:
    return {
        "action": "synchronize",
        "pull_request": {
            "number": 3,
            "base": {"sha": A, "ref": "main", "repo": REPO},
            "head": {"sha": B, "ref": "x", "repo": REPO, **head},
        },
    }


@pytest.mark.parametrize("name", ["pull_request", "pull_request_target"])
def test_a_pull_request(name: str) -> None:
    event = actions(name, proposal())
    assert (event.cause, event.base, event.head, event.number, event.branch) == (Cause.PULL_REQUEST, A, B, 3, "main")
    assert not event.from_fork


@pytest.mark.parametrize("repo", [None, {}, {"full_name": "mallory/billing"}, "acme/billing", {"full_name": None}])
def test_a_head_elsewhere_is_that_of_a_fork(repo: object) -> None:
    assert actions("pull_request", proposal(repo=repo)).from_fork


@pytest.mark.parametrize("sha", [None, 1, "", "HEAD", B[:39], f"{B}\n", "--x", B.upper(), {"$": 1}])
def test_a_commit_is_a_full_object_id(sha: object) -> None:
    with pytest.raises(UsageError, match="a full object id is needed"):
        actions("pull_request", proposal(sha=sha))


@pytest.mark.parametrize("number", [None, 0, -1, True, 1.5, "3x", "", 2**60, "9" * 20])
def test_a_number_is_one(number: object) -> None:
    payload = proposal()
    payload["pull_request"]["number"] = number
    with pytest.raises(UsageError, match="no number"):
        actions("pull_request", payload)


@pytest.mark.parametrize("ref", [None, "", "-x", "a b", "a..b", "x" * 300, "a\x00b", 7])
def test_a_branch_is_the_name_of_one(ref: object) -> None:
    payload = proposal()
    payload["pull_request"]["base"]["ref"] = ref
    with pytest.raises(UsageError, match="no branch"):
        actions("pull_request", payload)


def test_a_push() -> None:
    payload = {"ref": "refs/heads/main", "before": A, "after": B, "repository": {"default_branch": "main"}}
    event = actions("push", payload)
    assert (event.cause, event.before, event.head, event.branch, event.default_branch) == (
        Cause.PUSH,
        A,
        B,
        "main",
        "main",
    )
    assert actions("push", {**payload, "before": ZERO}).before == ""
    assert actions("push", {**payload, "before": "x; rm"}).before == ""
    assert actions("push", {**payload, "deleted": True}).cause is Cause.NOTHING


def test_gitlab() -> None:
    told = {
        "GITLAB_CI": "true", "CI_PIPELINE_SOURCE": "merge_request_event", "CI_COMMIT_SHA": B,
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": A, "CI_MERGE_REQUEST_IID": "3", "CI_MERGE_REQUEST_PROJECT_ID": "1",
        "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "1", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
    }  # fmt: skip
    event = event_of(told, {})
    assert (event.cause, event.base, event.head, event.number, event.from_fork) == (Cause.PULL_REQUEST, A, B, 3, False)
    assert event_of({**told, "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "2"}, {}).from_fork
    merged = {**told, "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": "c" * 40, "CI_MERGE_REQUEST_TARGET_BRANCH_SHA": "d" * 40}
    assert (event_of(merged, {}).base, event_of(merged, {}).head) == ("d" * 40, "c" * 40)
    train = event_of({**merged, "CI_MERGE_REQUEST_EVENT_TYPE": "merge_train"}, {})
    assert (train.cause, train.head) == (Cause.MERGE_QUEUE, B)
    push = {**told, "CI_PIPELINE_SOURCE": "push", "CI_COMMIT_BRANCH": "main", "CI_COMMIT_BEFORE_SHA": ZERO}
    assert (event_of(push, {}).cause, event_of(push, {}).before) == (Cause.PUSH, "")
    assert event_of({**told, "CI_PIPELINE_SOURCE": "schedule"}, {}).cause is Cause.SCHEDULE
    assert event_of({**told, "CI_PIPELINE_SOURCE": "web"}, {}).cause is Cause.PERSON
    assert event_of({**told, "CI_PIPELINE_SOURCE": "\x1b[31m"}, {}).note.isprintable()
