"""With a remote: evidence lands at the branch there, and nothing of a person's clone is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_people import staged, theirs
from tests.scratch import Clone, Hub, Scratch

OWN = "refs/reconciler/"


def reconciled(clone: Scratch) -> subprocess.CompletedProcess[str]:
    done = clone.run("reconcile", "--wait")
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done


def refs_of_a_person(clone: Scratch) -> dict[str, str]:
    lines = clone.git("for-each-ref", "--format=%(refname) %(symref)%(objectname)").splitlines()
    named = (line.partition(" ") for line in lines)
    return {ref: oid for ref, _, oid in named if not ref.startswith(OWN) and not oid.startswith("refs/")}


def checklist(hub: Hub) -> str:
    return hub.git("show", "main:tasks/t.md")


# ------------------------------------------------------------------------------------------------ where it lands


def test_evidence_lands_at_the_remote_and_nothing_else_is_left_there(hub: Hub) -> None:
    [a] = hub.clones("a")
    a.simple("x", "echo hello")
    asked = a.push()
    reconciled(a)
    assert hub.outcomes("x") == ["succeeded"]
    assert hub.git("rev-list", f"{asked}..main").count("\n") == 1
    assert list(hub.refs()) == ["refs/heads/main"]
    assert set(hub.git("diff", "--name-only", asked, "main").split("/")[0]) <= set(".runsout")
    assert hub.git("fsck", "--no-dangling") == ""
    assert "nothing to do" in reconciled(a).stdout


def test_what_is_not_pushed_is_not_asked_for(hub: Hub) -> None:
    [a] = hub.clones("a")
    a.simple("x", f"echo ran >> {hub.outside}/ran")
    done = reconciled(a)
    assert "ahead of origin" in done.stderr
    assert not (hub.outside / "ran").exists()
    a.push()
    reconciled(a)
    assert (hub.outside / "ran").read_text() == "ran\n"


@pytest.mark.parametrize("how", ["no remote", "remote: null"])
def test_without_a_remote_everything_stays_here(hub: Hub, how: str) -> None:
    [a] = hub.clones("a")
    if how == "no remote":
        a.git("remote", "remove", "origin")
    else:
        a.settings("remote: null\n")
    a.simple("x", "true")
    before = hub.refs()
    reconciled(a)
    assert a.manifest("x")["status"] == "succeeded"
    assert hub.refs() == before
    assert not (a.path / ".git/reconciler/host.json").exists()


@pytest.mark.parametrize(
    ("name", "cure"), [("orgin", "did you mean 'origin'?"), ("team", "git remote add team URL; configured: origin")]
)
def test_where_a_remote_is_misnamed_the_local_branch_counts_and_that_is_told(hub: Hub, name: str, cure: str) -> None:
    a = hub.clones("a", more=f"remote: {name}\n")[0]
    a.simple("x", "true")
    for words in (["reconcile", "--wait"], ["reconcile"]):
        told = a.run(*words)
        assert told.returncode == 0 and a.manifest("x")["status"] == "succeeded"
        wrong = f"reconciler.yaml: no remote '{name}' is configured here, so the local branch counts; {cure}"
        assert told.stderr.splitlines()[-1] == f"note: {wrong}"
    assert f"note: {wrong}" in json.loads(a.run("reconcile", "--format", "json").stdout)["troubles"]
    checked = a.run("validate")
    assert checked.returncode == 0 and wrong.replace("yaml: ", "yaml: warning: ") in checked.stdout
    assert a.run("validate", "--strict", "--commit", "HEAD").returncode == 1
    a.git("remote", "remove", "origin")
    assert "note" not in a.run("reconcile").stderr and "no problems" in a.run("validate").stdout


def test_another_remote_and_another_branch_can_be_named(hub: Hub) -> None:
    [a] = hub.clones("a")
    a.git("remote", "rename", "origin", "upstream")
    a.git("switch", "-q", "-c", "trunk")
    a.settings("remote: upstream\nbranch: trunk\n")
    a.simple("x", "true")
    a.git("push", "-q", "upstream", "trunk")
    main = hub.refs("refs/heads/main")
    reconciled(a)
    assert hub.manifests("trunk")["x"]["status"] == "succeeded"
    assert hub.refs("refs/heads/main") == main


def test_a_clone_that_is_behind_executes_what_the_remote_asks_for(hub: Hub) -> None:
    a, b = hub.clones("a", "b")
    a.simple("x", f"echo ran >> {hub.outside}/ran")
    a.push()
    before = b.git("rev-parse", "main")
    reconciled(b)
    assert hub.outcomes("x") == ["succeeded"]
    assert (hub.outside / "ran").read_text() == "ran\n"
    assert b.git("rev-parse", "main") == before
    assert "succeeded" in b.run("status", "x").stdout
    reconciled(a)
    assert hub.proofs() == {"x": 1}


def test_a_bare_clone_runs_what_is_asked_for(hub: Hub) -> None:
    [a] = hub.clones("a")
    a.pipeline("w", "stages:\n  - id: s\n    command: test -f runs.d/x.yaml && echo in a worktree\n")
    a.request("x", "w")
    a.push()
    bare = hub.clone("b", "--bare")
    reconciled(bare)
    assert hub.outcomes("x") == ["succeeded"]
    assert hub.shared() == []
    assert "succeeded" in bare.run("status").stdout
    assert sorted(each.name for each in bare.path.iterdir()).count(".runs") == 0


@pytest.mark.parametrize("options", [["--depth", "1"], ["--filter=blob:none"], ["--filter=blob:none", "--no-checkout"]])
def test_shallow_and_partial_clones_run_and_publish(hub: Hub, options: list[str]) -> None:
    hub.git("config", "uploadpack.allowFilter", "true")
    [a] = hub.clones("a")
    a.write("tasks/t.md", "- [ ] Green <!-- item: t/green -->\n")
    for number in range(3):
        a.write("history.txt", f"{number}\n")
        a.commit(f"history {number}")
    a.simple("x", "true", proves="[t/green]")
    asked = a.push()
    b = hub.clone("b", *options)
    reconciled(b)
    assert hub.outcomes("x") == ["succeeded"]
    assert checklist(hub).startswith("- [x] Green")
    assert hub.git("rev-list", f"{asked}..main").count("\n") == 1
    a.simple("y", "true")
    a.push()
    reconciled(b)
    assert hub.outcomes("y") == ["succeeded"]
    assert hub.git("fsck", "--no-dangling") == ""


@pytest.mark.parametrize(
    ("there", "here"),
    [({"receive.advertiseAtomic": "false"}, {}), ({}, {"protocol.version": "0"}), ({}, {"protocol.version": "1"})],
    ids=["no atomic push", "protocol 0", "protocol 1"],
)
def test_older_servers_will_do(hub: Hub, there: dict[str, str], here: dict[str, str]) -> None:
    for key, value in there.items():
        hub.git("config", key, value)
    a, b = hub.clones("a", "b")
    for key, value in here.items():
        a.git("config", key, value)
    a.simple("x", f"echo x >> {hub.outside}/ran")
    a.simple("y", f"echo y >> {hub.outside}/ran")
    a.push()
    reconciled(a)
    reconciled(b)
    assert (hub.outcomes("x"), hub.outcomes("y")) == (["succeeded"], ["succeeded"])
    assert sorted((hub.outside / "ran").read_text().split()) == ["x", "y"]
    assert hub.shared() == []


def test_who_may_not_delete_claims_at_an_older_server_is_told_so_and_that_evidence_is_there(hub: Hub) -> None:
    hub.git("config", "receive.advertiseAtomic", "false")
    [a] = hub.clones("a")
    a.simple("x", f"echo x >> {hub.outside}/ran")
    a.push()
    hook = hub.hook(
        "update", 'case "$1 $3" in refs/reconciler/claims/*" 000"*) echo nobody deletes here >&2; exit 1;; esac'
    )
    told = a.run("reconcile", "--wait", "--timeout", "20s")
    assert hub.outcomes("x") == ["succeeded"]
    assert "evidence waits" not in told.stderr and "evidence of" in told.stderr
    assert "evidence is at origin, but the claims of its runs are too" in told.stderr
    assert "nobody deletes here" in told.stderr and "delete refs below refs/reconciler/" in told.stderr
    assert any(each.startswith("refs/reconciler/claims/") for each in hub.shared())
    hook.unlink()
    reconciled(a)
    assert hub.shared() == [] and (hub.outside / "ran").read_text() == "x\n"


# ------------------------------------------------------------------------------------------------ a person's clone


def test_nothing_of_a_person_s_clone_is_touched(hub: Hub) -> None:
    a, b = hub.clones("a", "b")
    b.write("src/edited.txt", "1\n")
    b.write("src/staged.txt", "1\n")
    b.write("tasks/t.md", "- [ ] Green <!-- item: t/green -->\n")
    b.simple("x", "true", proves="[t/green]")
    b.push()
    a.write("elsewhere.txt", "a person's commit\n")
    a.push()
    b.git("branch", "feature")
    b.write("stashed.txt", "x\n")
    b.git("stash", "push", "-q", "-u")
    b.write("src/edited.txt", "2\n")
    b.write("src/staged.txt", "2\n")
    b.git("add", "src/staged.txt")
    b.write("tasks/t.md", "edited, not committed\n")
    b.write("new.txt", "untracked\n")

    def seen() -> tuple[object, ...]:
        refs = refs_of_a_person(b)
        moved = refs.pop("refs/remotes/origin/main", "")
        index = (b.path / ".git/index").read_bytes()
        fetched = (b.path / ".git/FETCH_HEAD").exists()
        said = (
            staged(b),
            theirs(b),
            b.git("status", "--porcelain"),
            b.git("stash", "list"),
            b.git("log", "--format=%H"),
        )
        assert moved
        return refs, index, fetched, said, (b.path / ".git/config").read_bytes()

    before = seen()
    reconciled(b)
    assert seen() == before
    assert hub.outcomes("x") == ["succeeded"]
    assert checklist(hub).startswith("- [x] Green")
    assert b.git("rev-parse", "origin/main").strip() in hub.git("log", "--format=%H", "main").split()
    b.git("checkout", "-q", "tasks/t.md")
    b.git("stash", "push", "-q")
    b.git("pull", "-q", "--ff-only")
    b.git("stash", "pop", "-q")
    assert b.git("status", "--porcelain").split() == ["M", "src/edited.txt", "M", "src/staged.txt", "??", "new.txt"]


def test_local_tracking_refs_of_other_branches_stay_as_a_person_fetched_them(hub: Hub) -> None:
    a, b = hub.clones("a", "b")
    a.git("push", "-q", "origin", "HEAD:feature")
    b.git("fetch", "-q")
    a.write("more.txt", "1\n")
    a.commit()
    a.git("push", "-q", "origin", "HEAD:feature", "HEAD:other")
    a.simple("x", "true")
    a.push()
    before = refs_of_a_person(b)
    reconciled(b)
    after = refs_of_a_person(b)
    before.pop("refs/remotes/origin/main")
    after.pop("refs/remotes/origin/main")
    assert after == before


def test_a_checklist_that_a_person_pushed_meanwhile_is_ticked_in_its_new_text(hub: Hub) -> None:
    a, b = hub.clones("a", "b")
    a.write("tasks/t.md", "# T\n\n- [ ] Green <!-- item: t/green -->\n")
    a.simple("x", "true", proves="[t/green]")
    a.push()
    b.git("pull", "-q")
    b.write("tasks/t.md", "# Renamed\n\nAn introduction.\n\n* [ ] All **green** <!-- item: t/green -->\n* [ ] More\n")
    theirs = b.commit("a person rewords the checklist")
    b.git("push", "-q", "origin", "HEAD:refs/heads/waiting")
    # The person's push lands between the look at the branch and the push of evidence, which is refused.
    hub.hook(
        "pre-receive",
        f"while read old new ref; do test $ref = refs/heads/main || continue; test -e {hub.outside}/raced && continue\n"
        f"touch {hub.outside}/raced; unset GIT_QUARANTINE_PATH; git update-ref refs/heads/main {theirs} $old; done\n",
    )
    reconciled(a)
    assert (hub.outside / "raced").exists()
    text = checklist(hub)
    assert text.startswith("# Renamed\n\nAn introduction.\n\n* [x] All **green**")
    assert text.endswith("* [ ] More\n")
    assert hub.git("rev-parse", "main~1").strip() == theirs
    assert hub.proofs() == {"x": 1}


def test_people_s_pushes_and_evidence_interleave(hub: Hub) -> None:
    a, b = hub.clones("a", "b")
    a.pipeline("p", "workspace: empty\nstages:\n  - id: s\n    command: sleep 0.2\n")
    items = "".join(f"- [ ] Green {number} <!-- item: t/r{number} -->\n" for number in range(6))
    a.write("tasks/t.md", f"{items}\n# Notes\n\nSo far apart that git merges both sides on its own.\n\n")
    for number in range(6):
        a.request(f"r{number}", "p", proves=f"[t/r{number}]")
    a.push()
    reconciler = a.start("reconcile", "--wait")
    for number in range(5):
        b.git("fetch", "-q")
        b.git("reset", "-q", "--hard", "origin/main")
        b.write("tasks/t.md", f"{(b.path / 'tasks/t.md').read_text()}- line {number}\n")
        b.commit(f"mine {number}")
        _push_as_people_do(b)
    _, errors = reconciler.communicate(timeout=60)
    assert reconciler.returncode == 0, errors
    text = checklist(hub)
    assert text.count("- [x] Green") == 6
    assert [f"- line {number}\n" in text for number in range(5)] == [True] * 5
    assert hub.proofs() == {f"r{number}": 1 for number in range(6)}
    assert hub.shared() == []


def _push_as_people_do(clone: Clone) -> None:
    for _ in range(20):
        try:
            clone.git("push", "-q", "origin", "HEAD:main")
            return
        except subprocess.CalledProcessError:
            clone.git("pull", "-q", "--rebase", "origin", "main")
    raise AssertionError("a person cannot push beside the reconciler")


# ------------------------------------------------------------------------------------------------ history rewritten


def forced_back(hub: Hub, clone: Clone, commit: str) -> None:
    clone.git("push", "-q", "--force", "origin", f"{commit}:refs/heads/main")
    assert hub.git("rev-parse", "main").strip() == commit


def test_evidence_that_was_forced_away_is_published_again_by_who_has_its_records(hub: Hub) -> None:
    [a] = hub.clones("a")
    a.simple("x", f"echo ran >> {hub.outside}/ran")
    asked = a.push()
    reconciled(a)
    first = hub.manifests()["x"]
    forced_back(hub, a, asked)
    reconciled(a)
    assert hub.outcomes("x") == ["succeeded"]
    assert hub.manifests()["x"]["attempts"] == first["attempts"]
    assert (hub.outside / "ran").read_text() == "ran\n"
    assert hub.shared() == []


def test_who_saw_evidence_that_was_forced_away_does_not_run_it_again_and_says_so(hub: Hub) -> None:
    a, b = hub.clones("a", "b")
    a.simple("x", f"echo ran >> {hub.outside}/ran")
    asked = a.push()
    reconciled(a)
    reconciled(b)
    forced_back(hub, a, asked)
    reconciled(b)
    assert (hub.outside / "ran").read_text() == "ran\n"
    assert hub.manifests() == {}
    why = b.run("why", "x").stdout
    assert "which the branch does not hold any more" in why and "rerun" in why
    reconciled(a)
    reconciled(b)
    assert hub.outcomes("x") == ["succeeded"]
    assert "does not hold any more" not in b.run("why", "x").stdout
    assert (hub.outside / "ran").read_text() == "ran\n"


def test_who_never_saw_evidence_that_was_forced_away_runs_it_again(hub: Hub) -> None:
    [a] = hub.clones("a")
    a.simple("x", f"echo ran >> {hub.outside}/ran")
    asked = a.push()
    reconciled(a)
    forced_back(hub, a, asked)
    shutil.rmtree(a.path)
    c = hub.clone("c")
    reconciled(c)
    assert hub.outcomes("x") == ["succeeded"]
    assert (hub.outside / "ran").read_text() == "ran\nran\n", "nobody was left who knew of the first time"


def test_a_branch_that_is_gone_is_said_with_its_cure(hub: Hub) -> None:
    [a] = hub.clones("a")
    a.simple("x", f"echo ran >> {hub.outside}/ran")
    a.push()
    reconciled(a)
    a.git("fetch", "-q")
    main = hub.git("rev-parse", "main").strip()
    hub.git("update-ref", "-d", "refs/heads/main")
    done = a.run("reconcile", "--wait")
    assert done.returncode == 1
    assert "there is no branch 'main' at origin; git push origin main" in done.stderr
    assert "Traceback" not in done.stderr
    a.git("push", "-q", "origin", f"{main}:refs/heads/main")
    a.simple("y", "true")
    a.push()
    reconciled(a)
    assert hub.outcomes("y") == ["succeeded"]
    assert (hub.outside / "ran").read_text() == "ran\n"


def test_a_remote_without_any_commit_is_said_with_its_cure(hub: Hub) -> None:
    a = hub.clone("a")
    a.settings()
    a.simple("x", "true")
    done = a.run("reconcile", "--wait")
    assert (done.returncode, "git push origin main" in done.stderr) == (1, True)
    a.push()
    reconciled(a)
    assert hub.outcomes("x") == ["succeeded"]


# ------------------------------------------------------------------------------------------------ a branch of its own


def in_a_branch(hub: Hub) -> Clone:
    a = hub.clone("a")
    a.settings("publish: {mode: branch}\n")
    a.write("tasks/t.md", "# T\n\n- [ ] One <!-- item: t/x -->\n- [ ] Two <!-- item: t/y -->\n")
    a.simple("x", f"echo x >> {hub.outside}/ran", proves="[t/x]")
    a.push()
    return a


def merged(clone: Clone) -> None:
    """Merge the evidence as a person does, and push."""
    clone.git("fetch", "-q")
    clone.git("pull", "-q", "--ff-only", "origin", "main")
    clone.git("merge", "-q", "--no-edit", "origin/reconciler/evidence")
    clone.git("push", "-q", "origin", "HEAD:main")


def test_evidence_on_a_branch_of_its_own_merges_without_conflicts(hub: Hub) -> None:
    a = in_a_branch(hub)
    main = hub.git("rev-parse", "main")
    reconciled(a)
    assert hub.git("rev-parse", "main") == main
    assert hub.manifests("reconciler/evidence")["x"]["status"] == "succeeded"
    assert hub.shared() == []
    assert "succeeded" in a.run("status", "x").stdout
    merged(a)
    assert checklist(hub).count("- [x] One") == 1
    reconciled(a)
    assert (hub.outside / "ran").read_text() == "x\n"
    assert hub.outcomes("x") == ["succeeded"]


def test_evidence_on_a_branch_merges_after_the_other_branch_moved_on(hub: Hub) -> None:
    a = in_a_branch(hub)
    reconciled(a)
    a.write(
        "tasks/t.md", "# Reworded\n\n- [ ] One, better <!-- item: t/x -->\n- [ ] Two <!-- item: t/y -->\n- [ ] Three\n"
    )
    a.push("the checklist is touched on main as well")
    reconciled(a)
    assert hub.git("merge-tree", "--write-tree", "main", "reconciler/evidence").count("\n") == 1
    a.simple("y", f"echo y >> {hub.outside}/ran", proves="[t/y]")
    a.push()
    reconciled(a)
    assert hub.git("merge-tree", "--write-tree", "main", "reconciler/evidence").count("\n") == 1
    merged(a)
    assert checklist(hub).startswith("# Reworded\n\n- [x] One, better")
    assert checklist(hub).count("- [x]") == 2
    assert (hub.outside / "ran").read_text() == "x\ny\n"


def test_the_branch_of_evidence_goes_on_without_force_after_a_merge(hub: Hub) -> None:
    a = in_a_branch(hub)
    for name in ("y", "z"):
        reconciled(a)
        merged(a)
        a.simple(name, f"echo {name} >> {hub.outside}/ran")
        a.push()
    reconciled(a)
    assert "forced" not in hub.git("reflog", "refs/heads/reconciler/evidence")
    assert moved_back(hub, "reconciler/evidence") == []
    merged(a)
    assert {name: each["status"] for name, each in hub.manifests().items()} == dict.fromkeys("xyz", "succeeded")
    assert (hub.outside / "ran").read_text() == "x\ny\nz\n"
    assert a.run("status").stdout.count("succeeded") == 3


def moved_back(hub: Hub, branch: str) -> list[str]:
    """Return the moves of a branch that were no fast-forward."""
    lines = Path(hub.path / f"logs/refs/heads/{branch}").read_text().splitlines()
    moves = [line.split(" ")[:2] for line in lines]
    return [
        f"{old} {new}" for old, new in moves if set(old) != {"0"} and hub.git("merge-base", old, new).strip() != old
    ]


def test_two_hosts_share_a_branch_of_evidence(hub: Hub) -> None:
    a = in_a_branch(hub)
    b = hub.clone("b")
    reconciled(a)
    a.simple("y", f"echo y >> {hub.outside}/ran", proves="[t/y]")
    a.push()
    reconciled(b)
    reconciled(a)
    assert sorted(hub.manifests("reconciler/evidence")) == ["x", "y"]
    assert (hub.outside / "ran").read_text() == "x\ny\n"
    assert moved_back(hub, "reconciler/evidence") == []


def test_who_looks_at_a_repository_that_nobody_has_fetched_sees_what_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    """Nothing is executed to learn what would be."""
    (a,) = hub.clones("a")
    a.simple("x", "true")
    a.push()
    url, cache = hub.path.as_uri(), {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    planned = a.run("--repo", url, "plan", **cache)
    assert (planned.returncode, planned.stdout[:8]) == (0, "launch x"), planned.stderr
    [row] = json.loads(a.run("--repo", url, "status", "--format", "json", **cache).stdout)["runs"]
    assert row["phase"] == "absent"
    assert hub.shared() == []
    away = hub.path.rename(hub.path.with_name("away.git"))
    unknown = a.run("--repo", url, "status", XDG_CACHE_HOME=str(tmp_path / "other"))
    assert (unknown.returncode, unknown.stdout) == (2, ""), unknown.stderr
    assert "cannot be reached" in unknown.stderr
    away.rename(hub.path)


@pytest.mark.parametrize("name", ["x" * 195, f"{'x' * 122}/{'y' * 121}", "größe/👨‍💻", "a\u2028b\x85c"])
def test_a_branch_may_have_any_name_that_fits_into_a_record(hub: Hub, name: str) -> None:
    [a] = hub.clones("a")
    a.git("checkout", "-q", "-b", name)
    a.simple("x", "true")
    a.git("push", "-q", "origin", "HEAD")
    reconciled(a)
    assert hub.manifests(name)["x"]["branch"] == name
    assert hub.shared() == []


@pytest.mark.parametrize("name", [os.fsdecode(b"b\xff"), "x" * 245])
@pytest.mark.parametrize("alone", [False, True], ids=["with a remote", "alone"])
def test_a_branch_whose_name_fits_into_no_record_is_refused_before_anything_runs(
    hub: Hub, name: str, alone: bool
) -> None:
    [a] = hub.clones("a")
    a.git("checkout", "-q", "-b", name)
    a.simple("x", f"echo ran >> {hub.outside}/ran")
    a.git("remote", "remove", "origin") if alone else a.git("push", "-q", "origin", "HEAD")
    told = a.run("reconcile", "--wait")
    assert (told.returncode, "git branch -m NAME" in told.stderr) == (1, True), told.stderr
    assert not (hub.outside / "ran").exists() and hub.shared() == []


@pytest.mark.parametrize("alone", [False, True], ids=["with a remote", "alone"])
def test_a_sparse_checkout_stays_clean(hub: Hub, alone: bool) -> None:
    [a] = hub.clones("a")
    a.write("tasks/t.md", "- [ ] Green <!-- item: t/green -->\n")
    a.simple("x", "seq 100000", proves="[t/green]")
    a.push()
    a.git("sparse-checkout", "set", "--cone", "tasks")
    if alone:
        a.git("remote", "remove", "origin")
    reconciled(a)
    assert a.git("status", "--porcelain") == ""
    if not alone:
        a.git("pull", "-q", "origin", "main")
        assert a.git("status", "--porcelain") == ""
    assert a.git("show", "HEAD:tasks/t.md").startswith("- [x]") and not (a.path / "out").exists()
    assert a.run("logs", "x", "s").stdout.endswith("\n100000\n")
    a.write("runs.d/x.yaml", a.git("show", "HEAD:runs.d/x.yaml") + "rerun: 1\n")
    a.git("add", "--sparse", "runs.d/x.yaml")
    a.git("commit", "-qm", "again")
    if not alone:
        a.git("push", "-q", "origin", "main")
    reconciled(a)
    if not alone:
        a.git("pull", "-q", "origin", "main")
    assert a.git("status", "--porcelain") == ""
