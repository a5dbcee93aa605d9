"""`reconciler ci` as forges start it: the environment and events of each, and a forge on loopback that is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.forges.forge import Kind
from tests.forges.server import REPOSITORY, TOKEN, Fault, ForgeServer, forge_server
from tests.scratch import Clone, Hub

ZERO = "0" * 40
BUILD = 'workspace: empty\nstages:\n  - {id: s, command: "echo [$GITHUB_TOKEN$RECONCILER_FORGE_TOKEN]"}\n'


class Ci:
    """A clone in the CI of a forge."""

    def __init__(self, hub: Hub, server: ForgeServer, place: Path) -> None:
        self.hub, self.server, self.place = hub, server, place
        self.clone: Clone = hub.clone("runner")
        self.clone.settings("branch: main\n", lease_s=60)
        self.clone.pipeline("p", BUILD)
        self.base = self.clone.push("begin")
        self.environment: dict[str, str] = {}
        self.count = 0

    def propose(self, **files: str) -> str:
        """Push a branch with these files and return its commit; the clone stays on the base."""
        self.clone.git("switch", "-q", "-c", f"topic{self.count}", self.base)
        for path, text in files.items():
            self.clone.write(path, text)
        head = self.clone.commit("propose")
        self.clone.git("push", "-q", "origin", f"HEAD:refs/heads/topic{self.count}")
        self.clone.git("switch", "-q", "--detach", head)
        self.count += 1
        return head

    def run(self, *words: str, token: str = TOKEN, **more: str) -> Any:
        told = {"RECONCILER_FORGE_TOKEN": token} if token else {}
        return self.clone.run("ci", *words, **{**self.environment, **told, **more})

    def actions(self, name: str, payload: dict[str, Any]) -> None:
        event, summary = self.place / "event.json", self.place / "summary.md"
        event.write_text(json.dumps(payload))
        prefix = {Kind.GITHUB: "", Kind.GITEA: "/api/v1"}[self.server.kind]
        self.environment = {
            "GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": name, "GITHUB_EVENT_PATH": str(event),
            "GITHUB_SERVER_URL": self.server.url, "GITHUB_API_URL": self.server.url + prefix,
            "GITHUB_REPOSITORY": REPOSITORY, "GITHUB_RUN_ID": "42", "GITHUB_STEP_SUMMARY": str(summary),
        }  # fmt: skip
        if self.server.kind is Kind.GITEA:
            self.environment["GITEA_ACTIONS"] = "true"

    def pull_request(self, head: str, *, fork: bool = False, **more: object) -> None:
        """Let the forge of this server start a CI run for a pull request."""
        if self.server.kind is Kind.GITLAB:
            self.gitlab("merge_request_event", head)
            return
        whose = "mallory/billing" if fork else REPOSITORY
        document = {
            "number": 3,
            "base": {"sha": self.base, "ref": "main", "repo": {"full_name": REPOSITORY}},
            "head": {"sha": head, "ref": "topic", "repo": {"full_name": whose}},
        }
        self.actions("pull_request", {"action": "opened", "number": 3, "pull_request": document, **more})

    def push(self, before: str, after: str, branch: str = "main") -> None:
        if self.server.kind is Kind.GITLAB:
            self.gitlab("push", after)
            self.environment |= {"CI_COMMIT_BRANCH": branch, "CI_COMMIT_BEFORE_SHA": before}
            return
        repository = {"default_branch": "main", "full_name": REPOSITORY}
        self.actions(
            "push", {"ref": f"refs/heads/{branch}", "before": before, "after": after, "repository": repository}
        )

    def gitlab(self, source: str, commit: str) -> None:
        self.environment = {
            "GITLAB_CI": "true", "CI_PIPELINE_SOURCE": source, "CI_SERVER_URL": self.server.url,
            "CI_API_V4_URL": f"{self.server.url}/api/v4", "CI_PROJECT_PATH": REPOSITORY, "CI_COMMIT_SHA": commit,
            "CI_MERGE_REQUEST_DIFF_BASE_SHA": self.base, "CI_MERGE_REQUEST_IID": "3", "CI_DEFAULT_BRANCH": "main",
            "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main", "CI_MERGE_REQUEST_PROJECT_ID": "1",
            "CI_MERGE_REQUEST_SOURCE_PROJECT_ID": "1", "CI_JOB_URL": f"{self.server.url}/acme/billing/-/jobs/9",
        }  # fmt: skip

    @property
    def summary(self) -> str:
        return (self.place / "summary.md").read_text()


@pytest.fixture(params=[Kind.GITHUB])
def ci(request: pytest.FixtureRequest, hub: Hub, tmp_path: Path) -> Iterator[Ci]:
    with forge_server(request.param) as server:
        yield Ci(hub, server, tmp_path)


EVERYWHERE = pytest.mark.parametrize("ci", list(Kind), indirect=True)
GOOD = {"runs.d/r.yaml": "task: t\npipeline: p\n"}
BAD = {"runs.d/r.yaml": "task: t\npipeline: nobody\n"}


# ------------------------------------------------------------------------------------------------ proposals


@EVERYWHERE
def test_a_proposal_gets_one_comment_that_is_kept_up_to_date_and_a_status(ci: Ci) -> None:
    ci.pull_request(head := ci.propose(**BAD))
    done = ci.run()
    assert done.returncode == 1, done.stderr
    assert "nobody" in done.stdout
    (comment,) = ci.server.comments
    assert (comment["number"], "nobody" in comment["body"], "❌" in comment["body"]) == (3, True, True)
    (status,) = ci.server.statuses
    assert (status["sha"], status["name"]) == (head, "reconciler/plan")
    assert status["state"] in ("failure", "failed")
    assert status["target_url"].startswith(ci.server.url)
    ci.pull_request(better := ci.propose(**GOOD))
    done = ci.run()
    assert done.returncode == 0, done.stdout + done.stderr
    digest = done.stdout.split("plan sha256:")[1][:64]
    assert all(each in ci.server.comments[0]["body"] for each in ("✅", f"`sha256:{digest}`", "1 run"))
    assert len(ci.server.comments) == 1
    assert (ci.server.statuses[-1]["sha"], ci.server.statuses[-1]["state"]) == (better, "success")


def test_a_proposal_is_told_what_merging_would_do_and_the_digest_of_that_is_handed_on(ci: Ci) -> None:
    output = ci.place / "output"
    ci.pull_request(ci.propose(**GOOD))
    done = ci.run(GITHUB_OUTPUT=str(output))
    assert done.returncode == 0, done.stderr
    name, _, digest = output.read_text().strip().partition("=")
    assert name == "plan-digest"
    assert digest.startswith("sha256:") and len(digest) == 71
    (comment,) = ci.server.comments
    for text in (comment["body"], ci.summary, done.stdout):
        assert digest in text
        assert "r-" in text
    planned = ci.clone.run("plan", "--base", ci.base, "--head", "HEAD", "--format", "json")
    assert json.loads(planned.stdout)["digest"] == digest


def test_what_cannot_be_merged_is_told_and_fails(ci: Ci) -> None:
    head = ci.propose(**GOOD)
    ci.clone.git("switch", "-q", "main")
    ci.clone.write("runs.d/r.yaml", "task: other\npipeline: p\n")
    ci.base = ci.clone.push("the same request, otherwise")
    ci.clone.git("switch", "-q", "--detach", head)
    ci.pull_request(head)
    done = ci.run()
    assert done.returncode == 1
    assert "cannot be merged" in done.stdout and "cannot be merged" in ci.server.comments[0]["body"]


def test_where_the_history_is_too_short_what_is_wrong_is_said_all_the_same(ci: Ci) -> None:
    ci.clone.git("switch", "-q", "--orphan", "apart")
    ci.clone.settings("branch: main\n", lease_s=60)
    ci.clone.pipeline("p", BUILD)
    ci.clone.write("runs.d/r.yaml", BAD["runs.d/r.yaml"])
    ci.pull_request(ci.clone.commit("a history of its own"))
    done = ci.run()
    assert done.returncode == 1
    assert "nobody" in done.stdout and "what merging would do is not said: " in done.stdout
    assert "nobody" in ci.server.comments[0]["body"]


def test_nothing_of_a_proposal_is_executed_and_nothing_is_published(ci: Ci) -> None:
    marker = ci.clone.outside / "executed"
    ci.pull_request(ci.propose(**GOOD, **{"pipelines/p.yaml": f"stages:\n  - {{id: s, command: touch {marker}}}\n"}))
    assert ci.run().returncode == 0
    assert not marker.exists()
    assert ci.hub.manifests() == {}


def test_problems_are_shown_beside_their_lines_and_no_line_is_a_command(ci: Ci) -> None:
    ci.pull_request(ci.propose(**{"runs.d/r.yaml": 'task: t\npipeline: "::add-mask::x"\n'}))
    lines = ci.run().stdout.splitlines()
    word = lines[0].removeprefix("::stop-commands::")
    assert len(word) == 32
    end = lines.index(f"::{word}::")
    assert [each for each in lines[1:end] if each.startswith("::")] == []
    assert lines[end + 1].startswith("::error file=runs.d/r.yaml,line=2,col=")
    assert "nobody" not in ci.summary
    assert "❌" in ci.summary


def test_a_line_of_a_command_does_not_pass_for_a_line_of_ours(ci: Ci) -> None:
    ci.pull_request(
        ci.propose(**GOOD, **{"pipelines/p.yaml": "stages:\n- id: s\n  command: |\n    true\n    plan sha256:0\n"})
    )
    lines = ci.run().stdout.splitlines()
    assert [each for each in lines if each.strip() == "plan sha256:0"] == []
    assert any("s: true⏎plan sha256:0" in each for each in lines)
    assert "+ s.command: true⏎plan sha256:0" in ci.summary


@pytest.mark.parametrize("token", ["", TOKEN])
def test_the_pull_request_of_a_fork_is_planned_without_a_token_that_may_write(ci: Ci, token: str) -> None:
    ci.server.faults = [
        Fault(status=403, body=b'{"message": "Resource not accessible by integration"}', method="POST")
    ] * 2
    ci.pull_request(ci.propose(**GOOD), fork=True)
    done = ci.run(token=token)
    assert done.returncode == 0, done.stderr
    assert "no comment was posted: " in done.stderr
    assert "no status was set: " in done.stderr
    assert (
        "give it the permission 'pull-requests: write'" if token else "there is no token in $RECONCILER_FORGE_TOKEN"
    ) in done.stderr
    assert "a pull request from a fork gets no token" in done.stderr
    assert "✅" in ci.summary
    assert TOKEN not in done.stdout + done.stderr + ci.summary
    assert ci.server.comments == []


def test_the_content_alone_decides_the_exit_code(ci: Ci) -> None:
    ci.server.faults = [Fault(status=404)] * 9
    ci.pull_request(ci.propose(**BAD))
    done = ci.run()
    assert done.returncode == 1
    assert "may not see it" in done.stderr


def test_the_settings_that_say_where_the_token_goes_are_those_of_the_base(ci: Ci) -> None:
    with forge_server(Kind.GITHUB) as evil:
        forge = f"forge: {{kind: github, url: '{evil.url}', api_url: '{evil.url}', repository: {REPOSITORY}}}\n"
        ci.pull_request(ci.propose(**GOOD, **{"reconciler.yaml": f"branch: main\n{forge}"}))
        assert ci.run().returncode == 0
        assert evil.requests == []
    assert len(ci.server.comments) == 1


def test_settings_that_are_wrong_can_be_put_right_by_a_proposal(ci: Ci) -> None:
    ci.clone.write("reconciler.yaml", "branch: [main]\n")
    ci.base = ci.clone.push("break the settings")
    ci.pull_request(ci.propose(**{"reconciler.yaml": "branch: main\n"}))
    assert ci.run().returncode == 0
    assert "✅" in ci.server.comments[0]["body"]


def test_a_commit_that_the_checkout_left_out_is_fetched(ci: Ci) -> None:
    head = ci.propose(**BAD)
    shallow = ci.hub.clone("shallow", "--depth=1")
    shallow.git("fetch", "-q", "--depth=1", "origin", "main")
    ci.clone = shallow
    ci.pull_request(head)
    done = ci.run()
    assert (done.returncode, len(ci.server.comments)) == (1, 1), done.stderr
    ci.pull_request("f" * 40)
    done = ci.run()
    assert done.returncode == 75
    assert "fetch-depth: 0" in done.stderr


def test_a_merge_queue_gets_a_status_and_no_comment(ci: Ci) -> None:
    head = ci.propose(**GOOD)
    group = {"base_sha": ci.base, "head_sha": head, "base_ref": "refs/heads/main", "head_ref": "refs/heads/x"}
    ci.actions("merge_group", {"action": "checks_requested", "merge_group": group})
    assert ci.run().returncode == 0
    assert (ci.server.comments, [each["sha"] for each in ci.server.statuses]) == ([], [head])


def test_a_dry_run_prints_what_would_be_posted(ci: Ci) -> None:
    ci.pull_request(ci.propose(**BAD))
    done = ci.run("--dry-run")
    assert done.returncode == 1
    assert "would comment on pull request 3:" in done.stdout
    assert "would set a status of " in done.stdout
    assert (ci.server.requests, (ci.place / "summary.md").exists()) == ([], False)


@pytest.mark.parametrize(
    "payload", [{}, {"pull_request": 1}, {"pull_request": {"base": {"sha": "--upload-pack=x"}, "head": {"sha": "x"}}}]
)
def test_an_event_that_no_forge_would_send_is_refused(ci: Ci, payload: dict[str, Any]) -> None:
    ci.actions("pull_request", payload)
    done = ci.run()
    assert done.returncode == 2
    assert "the event" in done.stderr


@pytest.mark.parametrize("data", [b"[]", b"{", b"[" * 100_000, b" " * (16 * 1024 * 1024 + 1)])
def test_a_payload_that_is_none_is_refused(ci: Ci, data: bytes) -> None:
    ci.actions("push", {})
    (ci.place / "event.json").write_bytes(data)
    done = ci.run()
    assert done.returncode == 2
    assert "GITHUB_EVENT_PATH" in done.stderr


def test_outside_of_ci_it_says_what_to_use(ci: Ci) -> None:
    done = ci.run(GITHUB_ACTIONS="", GITLAB_CI="", GITEA_ACTIONS="")
    assert done.returncode == 2
    assert "reconciler reconcile --wait" in done.stderr


# ------------------------------------------------------------------------------------------------ the branch


@EVERYWHERE
def test_a_push_runs_what_it_asks_for_and_every_run_gets_a_status_with_its_evidence(ci: Ci) -> None:
    for path, text in {**GOOD, "pipelines/q.yaml": "stages:\n  - {id: s, command: exit 3}\n"}.items():
        ci.clone.write(path, text)
    ci.clone.request("q", "q")
    head = ci.clone.push("ask")
    ci.clone.git("switch", "-q", "--detach", head)
    ci.push(ci.base, head)
    done = ci.run(GITHUB_TOKEN="ghs_inherited")
    assert done.returncode == 1, done.stderr
    assert {name: each["status"] for name, each in ci.hub.manifests().items()} == {"r": "succeeded", "q": "failed"}
    found = {each["name"]: each for each in ci.server.statuses}
    assert set(found) == {"reconciler/q", "reconciler/r", "reconciler"}
    assert all(each["sha"] == head for each in found.values())
    assert found["reconciler/r"]["state"] == "success"
    assert found["reconciler"]["description"] == "1 succeeded, 1 failed"
    commit, _, path = found["reconciler/r"]["target_url"].partition("/.runs/")
    shown = json.loads(ci.hub.git("show", f"{commit.rpartition('/')[2]}:.runs/{path}"))
    assert shown["name"] == "r"
    # No stage inherits a token, ours or the forge's.
    log = ci.hub.git(
        "show", f"main:{shown['artifact_root']}/{shown['log_path'].rpartition('cli/')[2].partition('/')[2]}"
    )
    assert log == "[]\n"


def test_a_push_is_reconciled_on_its_branch_whatever_is_checked_out(ci: Ci) -> None:
    ci.clone.settings("", lease_s=60)
    for path, text in GOOD.items():
        ci.clone.write(path, text)
    head = ci.clone.push("ask")
    ci.clone.git("switch", "-q", "-c", "other")
    ci.push(ci.base, head)
    done = ci.run()
    assert done.returncode == 0, done.stderr
    assert ci.hub.proofs() == {"r": 1}
    assert "refs/heads/other" not in ci.hub.refs("refs/heads")


def test_the_reconcilers_own_push_starts_nothing(ci: Ci) -> None:
    ci.clone.write("runs.d/r.yaml", GOOD["runs.d/r.yaml"])
    head = ci.clone.push("ask")
    ci.push(ci.base, head)
    assert ci.run().returncode == 0
    tip = ci.hub.git("rev-parse", "main").strip()
    assert tip != head
    ci.clone.git("pull", "-q", "--ff-only", "origin", "main")
    ci.push(head, tip)
    statuses = len(ci.server.statuses)
    done = ci.run()
    assert (done.returncode, "own evidence, which starts nothing" in done.stdout) == (0, True)
    assert (ci.hub.git("rev-parse", "main").strip(), len(ci.server.statuses)) == (tip, statuses)
    # With a person's commit among them it is a push like any other.
    ci.push(ci.base, tip)
    assert "starts nothing" not in ci.run().stdout


def test_a_push_to_another_branch_is_checked_and_not_executed(ci: Ci) -> None:
    head = ci.propose(**BAD)
    ci.push(ZERO, head, branch="topic0")
    done = ci.run()
    assert done.returncode == 1
    assert "topic0 is not the branch that is reconciled" in done.stdout
    assert ci.hub.manifests() == {}


def test_a_schedule_sweeps_up_what_is_due_and_ends_what_it_began(ci: Ci) -> None:
    ci.clone.write("runs.d/r.yaml", GOOD["runs.d/r.yaml"])
    ci.clone.push("ask")
    ci.actions("schedule", {"schedule": "*/15 * * * *", "repository": {"default_branch": "main"}})
    done = ci.run()
    assert done.returncode == 0, done.stderr
    assert ci.hub.manifests()["r"]["status"] == "succeeded"
    assert [each["name"] for each in ci.server.statuses] == ["reconciler/r"]
    assert "1 succeeded" in ci.summary
    done = ci.run()
    assert "nothing to do" in done.stdout


@pytest.mark.parametrize(
    ("name", "payload"), [("issues", {}), ("pull_request", {"action": "closed"}), ("push", {"ref": "refs/tags/x"})]
)
def test_for_other_events_there_is_nothing_to_do(ci: Ci, name: str, payload: dict[str, Any]) -> None:
    ci.actions(name, payload)
    done = ci.run()
    assert (done.returncode, "nothing to do: " in done.stdout, ci.server.requests) == (0, True, [])
