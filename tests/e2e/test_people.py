"""A person works in the same checkout: nothing of theirs is touched, lost or in the way for longer than they want."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.scratch import Hub, Scratch

EVIDENCE = (".runs/", "out/t/")


def staged(scratch: Scratch) -> list[str]:
    """Return the index entries that are not evidence: mode, object id, stage and path."""
    lines = scratch.git("ls-files", "--stage", "-z").split("\0")
    return [line for line in lines if line and not line.partition("\t")[2].startswith(EVIDENCE)]


def theirs(scratch: Scratch) -> dict[str, tuple[int, bytes]]:
    """Return mode and bytes of every file in the checkout that is not evidence."""
    found = {}
    for path in sorted(scratch.path.rglob("*")):
        name = path.relative_to(scratch.path).as_posix()
        if not name.startswith((".git/", *EVIDENCE)) and path.is_file():
            found[name] = (path.lstat().st_mode, path.read_bytes())
    return found


def test_every_kind_of_unfinished_work_is_kept_byte_for_byte(scratch: Scratch) -> None:
    for name in ("edited", "staged", "both", "deleted", "removed", "moved", "mode"):
        scratch.write(f"src/{name}.txt", f"{name}\n")
    scratch.simple("a", "true")
    scratch.write("stashed.txt", "x\n")
    scratch.git("stash", "push", "-q", "-u")
    scratch.write("src/edited.txt", "edited, not staged\n")
    scratch.write("src/staged.txt", b"staged\r\nno newline")
    scratch.write("src/both.txt", "first\n")
    scratch.git("add", "src/staged.txt", "src/both.txt")
    scratch.write("src/both.txt", "second\n")
    (scratch.path / "src/deleted.txt").unlink()
    scratch.git("rm", "-q", "src/removed.txt")
    scratch.git("mv", "src/moved.txt", "src/there.txt")
    (scratch.path / "src/mode.txt").chmod(0o755)
    scratch.write("untracked/new.txt", "new\n")
    scratch.write("intended.txt", "later\n")
    scratch.git("add", "-N", "intended.txt")
    before = (staged(scratch), theirs(scratch), scratch.git("status", "--porcelain"), scratch.git("stash", "list"))
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    after = (staged(scratch), theirs(scratch), scratch.git("status", "--porcelain"), scratch.git("stash", "list"))
    assert after == before
    assert set(scratch.git("diff", "--name-only", "HEAD~1", "HEAD").split("/")[0]) <= set(".runsout")


def test_evidence_that_waited_for_an_edit_lands_when_the_edit_is_taken_back(scratch: Scratch) -> None:
    scratch.write("tasks/t.md", "- [ ] Green <!-- item: t/green -->\n")
    scratch.simple("a", "true", proves="[t/green]")
    scratch.write("tasks/t.md", "edited\n")
    assert scratch.run("reconcile", "--wait").returncode == 75
    assert scratch.run("reconcile").returncode == 75
    assert (scratch.path / "tasks/t.md").read_text() == "edited\n"
    assert "tasks/t.md" in scratch.run("why", "a").stdout
    scratch.git("checkout", "-q", "tasks/t.md")
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert (scratch.path / "tasks/t.md").read_text().startswith("- [x] Green")
    assert "waits" not in scratch.run("status").stdout


def test_a_run_goes_on_while_evidence_of_another_one_waits(scratch: Scratch) -> None:
    scratch.write("tasks/t.md", "- [ ] Green <!-- item: t/green -->\n")
    scratch.simple("a", "true", proves="[t/green]")
    scratch.write("tasks/t.md", "edited\n")
    assert scratch.run("reconcile", "--wait").returncode == 75
    scratch.pipeline("b", f"workspace: empty\nstages:\n  - id: s\n    command: touch {scratch.outside}/ran\n")
    scratch.request("b", "b")
    scratch.git("add", "runs.d", "pipelines")
    scratch.git("commit", "-qm", "b")
    scratch.run("reconcile")
    scratch.wait_for((scratch.outside / "ran").exists)


def blocked(scratch: Scratch) -> None:
    """Leave the evidence of a run uncommitted: the checklist that it would tick is being edited."""
    scratch.settings()
    scratch.write("tasks/t.md", "- [ ] Green <!-- item: t/green -->\n")
    scratch.pipeline("p", "workspace: empty\nstages: [{id: s, command: sleep 0.5}]\n")
    scratch.pipeline("f", f"workspace: empty\nstages: [{{id: s, command: test -e {scratch.outside}/go}}]\n")
    scratch.request("f", "f")
    scratch.simple("a", "true", proves="[t/green]")
    scratch.write("tasks/t.md", "edited\n")
    assert scratch.run("reconcile", "--wait").returncode == 75


def test_who_starts_a_run_waits_for_it_and_is_told_why_its_evidence_is_not_committed(scratch: Scratch) -> None:
    blocked(scratch)
    done = scratch.run("start", "p", "--task", "t")
    assert done.returncode == 75
    assert "evidence waits: " in done.stderr and "tasks/t.md" in done.stderr
    [line] = [each for each in done.stdout.splitlines() if each.startswith("manifest")]
    record = json.loads((scratch.path / line.split()[1]).read_bytes())
    assert record["status"] == "succeeded", "it was waited for, though the evidence of another run was blocked before"
    assert f"{record['status']}  {record['run_id']}" in done.stdout


def test_who_resumes_a_run_waits_for_it_and_is_told_why_its_evidence_is_not_committed(scratch: Scratch) -> None:
    blocked(scratch)
    (scratch.outside / "go").touch()
    done = scratch.run("resume", "f")
    assert done.returncode == 75
    assert "succeeded  f-" in done.stdout and "evidence waits: " in done.stderr


def test_a_started_run_of_which_there_is_nothing_yet_has_its_path(scratch: Scratch) -> None:
    scratch.settings()
    scratch.pipeline("p", "workspace: empty\nstages: [{id: s, command: sleep 0.5}]\n")
    scratch.commit()
    done = scratch.run("start", "p", "--task", "t", "--no-wait")
    assert done.returncode == 0
    assert "manifest  .runs/t/cli/" in done.stdout
    assert scratch.run("reconcile", "--wait").returncode == 0


def test_publishing_waits_for_a_merge_to_be_concluded(scratch: Scratch) -> None:
    scratch.write("x.txt", "0\n")
    scratch.simple("a", "true")
    scratch.git("switch", "-qc", "other")
    scratch.write("x.txt", "1\n")
    scratch.commit()
    scratch.git("switch", "-q", "main")
    scratch.write("x.txt", "2\n")
    scratch.commit()
    with pytest.raises(subprocess.CalledProcessError):
        scratch.git("merge", "-q", "other")
    conflict = (scratch.path / "x.txt").read_bytes(), staged(scratch)
    done = scratch.run("reconcile", "--wait")
    assert (done.returncode, "evidence waits" in done.stderr) == (75, True)
    assert ((scratch.path / "x.txt").read_bytes(), staged(scratch)) == conflict
    assert "publish waits" in scratch.run("status").stdout
    scratch.write("x.txt", "3\n")
    scratch.git("add", "x.txt")
    scratch.git("commit", "-qm", "merged")
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert scratch.manifest("a")["status"] == "succeeded"
    assert (scratch.path / "x.txt").read_text() == "3\n"


def test_publishing_waits_while_a_person_s_git_is_at_work(scratch: Scratch) -> None:
    scratch.simple("a", "true")
    lock = scratch.write(".git/index.lock", "")
    done = scratch.run("reconcile", "--wait")
    assert (done.returncode, "index.lock" in done.stderr) == (75, True)
    assert lock.exists(), "the lock of somebody who may be alive was taken away"
    lock.unlink()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert scratch.git("status", "--porcelain") == ""


def test_commits_of_a_person_and_evidence_interleave(scratch: Scratch) -> None:
    scratch.settings("runs_max: 2\n")
    scratch.write("tasks/t.md", "- [ ] Green <!-- item: t/r5 -->\n")
    scratch.pipeline("p", "workspace: empty\nstages:\n  - id: s\n    command: sleep 0.1\n")
    for number in range(10):
        scratch.request(f"r{number}", "p", proves=f"[t/r{number}]")
    scratch.commit()
    reconciler = scratch.start("reconcile", "--wait")
    written = 0
    while reconciler.poll() is None and written < 20:
        scratch.write(f"mine/{written}.txt", "mine\n")
        scratch.write("tasks/t.md", _read(scratch.path / "tasks/t.md") + f"- {written}\n")
        committed = time.monotonic()
        # A file that is saved in the instant in which git replaces it is git's to lose; what is committed never is.
        if _committed(scratch, written) and f"- {written}\n" in scratch.git("show", "HEAD:tasks/t.md"):
            written += 1
        scratch.wait_for(lambda since=committed: time.monotonic() > since + 0.1 or reconciler.poll() is not None)
    _, errors = reconciler.communicate(timeout=60)
    assert reconciler.returncode in (0, 75), errors
    scratch.wait_for(lambda: _committed(scratch, -1) or scratch.git("status", "--porcelain") == "")
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert {scratch.manifest(f"r{number}")["status"] for number in range(10)} == {"succeeded"}
    text = scratch.git("show", "HEAD:tasks/t.md")
    assert text.count("- [x] Green") == 1
    assert [f"- {number}\n" in text for number in range(written)] == [True] * written
    # The last one may have come after what git refused to commit with it.
    assert len([each for each in scratch.git("ls-files", "mine").split() if each]) in (written, written + 1)
    assert scratch.git("log", "--format=%an").count("Ann Author") >= written


def _read(path: Path) -> str:
    """Return what a file holds. Git replaces one by removing it first, and whoever reads in that instant reads again."""
    for _ in range(1000):
        with contextlib.suppress(FileNotFoundError):
            return path.read_text()
    raise AssertionError(f"{path} is gone")


def _committed(scratch: Scratch, number: int) -> bool:
    """Commit as a person does, and return whether git let us: it refuses while somebody else holds the index."""
    try:
        scratch.git("add", "-A", ".")
        scratch.git("commit", "-qm", f"mine {number}")
    except subprocess.CalledProcessError:
        return False
    return True


@pytest.mark.parametrize("name", ["out", ".runs", "out/t"])
def test_a_person_s_tracked_file_in_the_place_of_a_directory_is_not_removed(scratch: Scratch, name: str) -> None:
    scratch.write(name, "mine\n")
    scratch.simple("a", "true")
    done = scratch.run("reconcile", "--wait", "--timeout", "10s")
    assert "Traceback" not in done.stderr
    assert (scratch.path / name).read_text() == "mine\n"
    assert scratch.git("show", f"HEAD:{name}") == "mine\n"
    assert done.returncode == 75, done.stderr


def test_a_broken_registry_and_a_linked_checklist_hold_up_nobody(scratch: Scratch) -> None:
    outside = scratch.outside / "theirs.md"
    outside.write_text("- [ ] Green <!-- item: t/green -->\n")
    scratch.write("tasks/index.json", '{"items": [')
    scratch.write("docs/t.md", "- [ ] Green <!-- item: t/green -->\n")
    (scratch.path / "tasks/t.md").symlink_to(outside)
    scratch.simple("a", "true", proves="[t/green]")
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0
    assert "tasks/index.json" in done.stderr
    assert (scratch.path / "tasks/index.json").read_text() == '{"items": ['
    assert (scratch.path / "tasks/t.md").is_symlink()
    assert outside.read_text() == "- [ ] Green <!-- item: t/green -->\n"
    assert (scratch.path / "docs/t.md").read_text().startswith("- [x] Green")


def test_a_request_that_is_deleted_lets_its_run_end_and_be_proven(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", f"touch {scratch.outside}/on; until test -e {scratch.outside}/go; do sleep 0.05; done")
    scratch.run("reconcile")
    scratch.wait_for((scratch.outside / "on").exists)
    scratch.git("rm", "-q", "runs.d/a.yaml")
    scratch.git("commit", "-qm", "enough")
    assert scratch.run("reconcile").returncode == 0
    (scratch.outside / "go").touch()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert scratch.manifest("a")["status"] == "succeeded"


def test_evidence_on_a_branch_one_has_left_keeps_its_logs_when_the_run_goes_on(scratch: Scratch) -> None:
    scratch.settings("branch: main\n")
    scratch.pipeline(
        "p",
        "workspace: empty\nstages:\n  - id: one\n    command: echo precious\n"
        f"  - id: two\n    command: test -e {scratch.outside}/go\n",
    )
    scratch.request("a", "p")
    asked = scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    scratch.git("switch", "-q", "-c", "feature", asked)
    (scratch.outside / "go").touch()
    assert scratch.run("resume", "a").returncode == 0
    path = f".runs/t/cli/{scratch.run_id('a')}/commands/01-one.log"
    assert scratch.git("show", f"main:{path}") == "precious\n"
    assert scratch.git("rev-parse", "HEAD").strip() == asked
    assert scratch.git("status", "--porcelain") == ""


def test_a_checkout_on_another_branch_is_left_alone(scratch: Scratch) -> None:
    scratch.settings("branch: main\n")
    scratch.simple("a", "true")
    scratch.git("switch", "-q", "-c", "feature")
    scratch.write("mine.txt", "mine\n")
    scratch.git("add", "mine.txt")
    before = (
        staged(scratch),
        theirs(scratch),
        scratch.git("rev-parse", "HEAD"),
        Path(scratch.path / ".git/index").read_bytes(),
    )
    assert scratch.run("reconcile", "--wait").returncode == 0
    after = (
        staged(scratch),
        theirs(scratch),
        scratch.git("rev-parse", "HEAD"),
        Path(scratch.path / ".git/index").read_bytes(),
    )
    assert after == before
    assert "evidence: a succeeded" in scratch.git("log", "-1", "--format=%s", "main")
    scratch.git("commit", "-qm", "mine")
    scratch.git("switch", "-q", "main")
    assert scratch.git("status", "--porcelain") == ""
    assert scratch.manifest("a")["status"] == "succeeded"


# ------------------------------------------------------------------------------------------------ at work meanwhile


@pytest.mark.parametrize("shared", [False, True], ids=["local", "shared"])
def test_a_person_commits_rebases_stashes_and_collects_garbage_meanwhile(hub: Hub, shared: bool) -> None:
    [a] = hub.clones("a", more="branch: main\n" + ("" if shared else "remote: null\n"), lease_s=60)
    items = "".join(f"- [ ] Green {number} <!-- item: t/r{number} -->\n" for number in range(6))
    a.write("tasks/t.md", f"{items}\n# Notes\n\nSo far apart that git merges both sides on its own.\n\n")
    a.pipeline("p", "workspace: empty\nstages:\n  - id: s\n    command: sleep 0.4\n")
    for number in range(6):
        a.request(f"r{number}", "p", proves=f"[t/r{number}]")
    a.push()
    reconciler = a.start("reconcile", "--wait")
    for number in range(4):
        a.write("draft.txt", f"unfinished {number}\n")
        _insist(a, "stash", "push", "-q", "-u", "--", "draft.txt")
        text = _read(a.path / "tasks/t.md")
        a.write("tasks/t.md", f"{text}- mine {number}\n")
        _insist(a, "commit", "-qm", f"mine {number}", "--", "tasks/t.md")
        _insist(a, "switch", "-q", "-c", f"topic{number}")
        a.write(f"topic{number}.txt", f"{number}\n")
        _insist(a, "add", f"topic{number}.txt")
        _insist(a, "commit", "-qm", f"topic {number}")
        if shared:
            _insist(a, "fetch", "-q")
        _insist(a, "rebase", "-q", "origin/main" if shared else "main")
        _insist(a, "switch", "-q", "main")
        _insist(a, "gc", "-q", "--prune=now")
        _insist(a, "stash", "pop", "-q")
        assert (a.path / "draft.txt").read_text() == f"unfinished {number}\n"
    _, errors = reconciler.communicate(timeout=60)
    assert reconciler.returncode in (0, 75) and "Traceback" not in errors, errors
    (a.path / "draft.txt").unlink()
    # `git stash push -- PATH` stages, and takes that back in a step of its own: refused in between, it stays staged.
    _insist(a, "rm", "-q", "--cached", "--ignore-unmatch", "--", "draft.txt")
    if shared:
        a.git("pull", "-q", "--rebase", "origin", "main")
        a.git("push", "-q", "origin", "HEAD:main")
    done = a.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    if shared:
        a.git("pull", "-q", "--ff-only", "origin", "main")
    text = a.git("show", "HEAD:tasks/t.md")
    assert text.count("- [x] Green") == 6
    assert [text.count(f"- mine {number}\n") for number in range(4)] == [1] * 4
    assert {a.manifest(f"r{number}")["status"] for number in range(6)} == {"succeeded"}
    assert {a.git("show", f"topic{number}:topic{number}.txt") for number in range(4)} == {"0\n", "1\n", "2\n", "3\n"}
    assert a.git("status", "--porcelain") == ""
    assert a.git("fsck", "--no-dangling") == ""
    assert hub.shared() == []


def test_claims_that_garbage_collection_took_away_are_fetched_again_and_nobody_else_s(hub: Hub) -> None:
    a, b = hub.clones("a", "b", lease_s=60)
    a.simple("x", f"echo ran >> {hub.outside}/ran; until test -e {hub.outside}/go; do sleep 0.05; done")
    a.push()
    for each in (a, b):
        assert each.run("reconcile").returncode == 0
        [noted] = each.git(
            "for-each-ref", "--format=%(objectname) %(refname)", "refs/reconciler/remote/claims"
        ).splitlines()
        oid, _, ref = noted.partition(" ")
        notes = [oid]
        each.git("update-ref", "-d", ref)
        for mark in (each.path / ".git/objects/pack").glob("*.keep"):
            mark.unlink()
        each.git("gc", "-q", "--prune=now")
        (each.path / ".git" / ref).parent.mkdir(parents=True, exist_ok=True)
        (each.path / ".git" / ref).write_text(f"{oid}\n")
    for each in (a, b):
        each.run("status")
        done = each.run("reconcile")
        assert "left to others" not in done.stderr, done.stderr
        assert each.git("for-each-ref", "--format=%(objectname)", "refs/reconciler/remote/claims").split() == notes
        assert each.git("cat-file", "-t", notes[0]) == "commit\n"
    (hub.outside / "go").touch()
    assert a.run("reconcile", "--wait").returncode == 0
    assert b.run("reconcile", "--wait").returncode == 0
    assert hub.outcomes("x") == ["succeeded"]
    assert (hub.outside / "ran").read_text() == "ran\n"


def _insist(scratch: Scratch, *words: str) -> None:
    """Do what a person does with git, again if it was told that the index is in use."""
    for _ in range(100):
        try:
            scratch.git(*words)
            return
        except subprocess.CalledProcessError as error:
            # `git stash` says nothing at all when the index is in use before it has begun.
            if error.stderr and ".lock" not in error.stderr and "cannot lock ref" not in error.stderr:
                raise AssertionError(f"git {words}: {error.stderr}") from None
            time.sleep(0.02)
    raise AssertionError(f"git {words} never gets its turn")
