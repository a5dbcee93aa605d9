"""The Python API on real repositories, in this process; the examples of its page are executed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler import api
from reconciler.errors import ContentError, ForgeFailed, UsageError
from reconciler.model import Phase
from tests.scratch import ENVIRONMENT, Hub, Scratch
from tests.test_docs import README, ROOT, examples, fences
from tests.test_layers import MODULES, ours

PAGE = ROOT / "docs" / "how-to" / "python.md"
ASKED = {"task": "t", "pipeline": "p"}


@pytest.fixture
def here(scratch: Scratch) -> Iterator[api.Reconciler]:
    scratch.settings()
    scratch.pipeline("p", "workspace: empty\nstages:\n  - {id: s, command: echo said}\n")
    scratch.commit()
    with api.open(scratch.path) as found:
        yield found


def test_the_examples_of_the_page_are_executed(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scratch.settings()
    for place, _, data in examples(PAGE):
        scratch.write(place, data)
    scratch.commit()
    monkeypatch.chdir(scratch.path)
    known: dict[str, object] = {}
    for page in (PAGE, README):
        for number, text in enumerate(fences(page, "python"), start=1):
            exec(compile(text, f"{page.name}, example {number}", "exec"), known)
    said = capsys.readouterr().out
    assert "approval:decided ship approve asked was: Publishes to the registry" in said
    assert "build b'built with 3.13\\n'" in said and "there is nothing to cancel" in said
    assert " run:completed  succeeded " in said


def test_nothing_of_it_loads_the_command_line() -> None:
    reached: set[str] = set()
    ahead = ["api"]
    while ahead:
        module = ahead.pop()
        reached.add(module)
        ahead += [each for each in ours(MODULES[module]) if each not in reached]
    assert not {each for each in reached if each.startswith("commands/") or each in ("cli", "session", "terminal")}
    program = "import sys, reconciler.api; print('click' in sys.modules, 'rich' in sys.modules)"
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert asked.stdout == "False False\n"


def test_it_is_marked_as_typed() -> None:
    assert (Path(api.__file__).parent / "py.typed").is_file()


# ------------------------------------------------------------------------------------------------ asking


def test_everything_wrong_with_a_request_is_said_before_anything_is_committed(
    scratch: Scratch, here: api.Reconciler
) -> None:
    before = scratch.git("rev-parse", "HEAD")
    with pytest.raises(ContentError, match=r"pipline.*did you mean 'pipeline'"):
        here.submit({"task": "t", "pipline": "p"})
    with pytest.raises(ContentError, match="there is no pipeline 'q'"):
        here.submit({"task": "t", "pipeline": "q"})
    with pytest.raises(UsageError, match="made of text"):
        here.submit({"task": "t", "pipeline": object()})
    with pytest.raises(UsageError, match="more than 65536 bytes"):
        here.submit({**ASKED, "title": "x" * 70_000})
    assert scratch.git("rev-parse", "HEAD") == before


@pytest.mark.parametrize("name", ["../out", "-rf", "a/../../b", ".git/x", "a\nb", "x" * 500, "a b"])
def test_a_name_cannot_become_another_path(here: api.Reconciler, name: str) -> None:
    with pytest.raises(UsageError):
        here.submit(ASKED, name=name)


def test_the_same_wish_under_a_name_is_found_again_and_another_one_is_refused(
    scratch: Scratch, here: api.Reconciler
) -> None:
    first = here.submit(ASKED, name="team/0001-a")
    again = here.submit(ASKED, name="team/0001-a")
    assert (again.new, again.run_id, again.commit) == (False, first.run_id, first.commit)
    with pytest.raises(ContentError, match="is another request; choose another name"):
        here.submit({**ASKED, "rerun": 1}, name="team/0001-a")
    assert scratch.git("status", "--porcelain") == "" and (scratch.path / first.path).exists()


def test_it_runs_again_and_is_resumed(scratch: Scratch, here: api.Reconciler) -> None:
    first = here.submit(ASKED, name="team/a")
    assert here.wait("team.a", timeout_s=30).phase is Phase.SUCCEEDED
    with pytest.raises(UsageError, match="it has succeeded"):
        here.resume(first.run_id, "once more")
    second = here.rerun("team.a")
    assert second.path == first.path and second.run_id != first.run_id
    assert "rerun: 1" in (scratch.path / second.path).read_text()
    assert here.wait(second.run_id, timeout_s=30).phase is Phase.SUCCEEDED
    assert here.rerun(second.run_id).path == first.path
    assert "rerun: 2" in (scratch.path / second.path).read_text()


def test_a_failed_run_goes_on(scratch: Scratch, here: api.Reconciler) -> None:
    command = f"test -e {scratch.outside}/cured"
    scratch.pipeline("f", f"workspace: empty\nstages:\n  - {{id: s, command: {command}}}\n")
    scratch.commit()
    asked = here.submit({"task": "t", "pipeline": "f"})
    assert here.wait(asked.run_id, timeout_s=30).phase is Phase.FAILED
    (scratch.outside / "cured").touch()
    assert "attempt 2" in here.resume(asked.run_id, "cured")
    assert here.wait(asked.run_id, timeout_s=30).phase is Phase.SUCCEEDED
    names = [each.name for each in here.events(asked.run_id)]
    assert names[0] == "run:started" and "run:resumed" in names and names[-1] == "run:completed"


def test_it_is_cancelled_while_another_looks_on(scratch: Scratch, here: api.Reconciler) -> None:
    scratch.pipeline(
        "w", f"workspace: empty\nstages:\n  - {{id: s, command: 'echo on; touch {scratch.outside}/on; sleep 60'}}\n"
    )
    scratch.commit()
    asked = here.submit({"task": "t", "pipeline": "w"})
    assert here.reconcile_once().done == (f"{asked.run_id}: launched",)
    scratch.wait_for((scratch.outside / "on").exists)
    lines: list[bytes] = []

    def look_on() -> None:
        with api.open(scratch.path) as other:
            lines.extend(other.follow_log(asked.run_id, "s", timeout_s=30))

    other = threading.Thread(target=look_on)
    other.start()
    scratch.wait_for(lambda: lines)
    assert here.cancel(asked.run_id, "enough", timeout_s=30).phase is Phase.CANCELLED
    other.join(30)
    assert b"".join(lines).startswith(b"on\n")
    assert here.evidence(asked.run_id).manifest["status_detail"].startswith("cancelled: enough (asked by ")


def test_a_log_is_read_by_parts_and_no_link_is_followed(scratch: Scratch, here: api.Reconciler) -> None:
    asked = here.submit(ASKED)
    here.wait(asked.run_id, timeout_s=30)
    first = here.read_log(asked.run_id, "s", 0, 2)
    rest = here.read_log(asked.run_id, "s", first.next, 100)
    assert (first.data, first.over, rest.data, rest.over) == (b"sa", False, b"id\n", True)
    (scratch.outside / "secret").write_text("SECRET")
    for path in (scratch.path / ".runs/t/cli" / asked.run_id / "commands").iterdir():
        path.unlink()
        path.symlink_to(scratch.outside / "secret")
    assert here.read_log(asked.run_id, "s").data == b"said\n"
    with pytest.raises(UsageError, match="has no stage 'x'"):
        here.read_log(asked.run_id, "x")


# ------------------------------------------------------------------------------------------------ branches


def test_a_request_on_a_branch_begins_when_it_is_merged(scratch: Scratch, here: api.Reconciler) -> None:
    asked = here.submit(ASKED, mode="branch", name="0007-later")
    assert asked.branch == "requests/0007-later"
    assert here.runs() == ()
    again = here.submit(ASKED, mode="branch", name="0007-later")
    assert (again.new, again.commit) == (False, asked.commit)
    with pytest.raises(UsageError, match="branch 'requests/0007-later': is there already and says something else"):
        here.submit({**ASKED, "rerun": 1}, mode="branch", name="0007-later")
    assert here.submit(ASKED, mode="branch").branch.startswith("requests/0001-p-")
    assert [each.run_id for each in here.preview("requests/0007-later").runs] == [asked.run_id]
    scratch.git("merge", "-q", asked.branch)
    assert here.wait(asked.run_id, timeout_s=30).phase is Phase.SUCCEEDED


def test_without_a_forge_a_pull_request_commits_nothing(scratch: Scratch, here: api.Reconciler) -> None:
    with pytest.raises(ForgeFailed, match="no pull request can be opened, so nothing was committed"):
        here.submit(ASKED, mode="pull_request")
    assert scratch.git("for-each-ref", "refs/heads/requests") == ""
    with pytest.raises(UsageError, match="write direct, branch or pull_request"):
        here.submit(ASKED, mode="push")


def test_with_a_remote_it_is_pushed_there(hub: Hub) -> None:
    (clone,) = hub.clones("one")
    clone.pipeline("p", "workspace: empty\nstages:\n  - {id: s, command: 'true'}\n")
    clone.push()
    with api.open(clone.path) as here:
        beside = here.submit(ASKED, mode="branch", name="0001-beside")
        asked = here.submit(ASKED, name="0002-direct")
        assert here.wait(asked.run_id, timeout_s=30).phase is Phase.SUCCEEDED
    assert hub.refs("refs/heads/requests") == {"refs/heads/requests/0001-beside": beside.commit}
    assert hub.manifests().keys() == {"0002-direct"}


# ------------------------------------------------------------------------------------------------ waiting

GATED = "workspace: empty\nstages:\n  - {id: s, approval: {reason: Goes on}, command: 'true'}\n"


def test_who_waits_for_one_run_does_not_wait_for_others(scratch: Scratch, here: api.Reconciler) -> None:
    scratch.pipeline("gated", GATED)
    scratch.pipeline("long", "workspace: empty\nstages:\n  - {id: s, command: sleep 300}\n")
    scratch.commit()
    other = here.submit({"task": "t", "pipeline": "long"})
    asked = here.submit({"task": "t", "pipeline": "gated"})
    assert here.wait(asked.run_id, timeout_s=60).phase is Phase.WAITING
    assert here.look(asked.run_id).rests and not here.look(other.run_id).rests
    here.approve(asked.run_id, "go on")
    assert not here.look(asked.run_id).rests, "a pass goes on with it"
    assert here.wait(asked.run_id, timeout_s=60).phase is Phase.SUCCEEDED
    assert here.cancel(other.run_id, "enough").phase is Phase.CANCELLED


def test_a_run_that_waits_for_its_nested_runs_does_not_rest(scratch: Scratch, here: api.Reconciler) -> None:
    scratch.pipeline("outer", "workspace: empty\nstages:\n  - {id: inner, pipeline: p}\n")
    scratch.commit()
    asked = here.submit({"task": "t", "pipeline": "outer"})
    names = [each.name for each in here.events(asked.run_id, timeout_s=60, acting=True)]
    assert names[-1] == "run:completed"
