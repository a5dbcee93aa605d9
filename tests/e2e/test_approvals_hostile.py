"""Gates against people who want past them without right, and against what happens around a run that waits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_approvals import OTHER, SHIP, asked, decide, key, manifest
from tests.scratch import ENVIRONMENT, Hub, Scratch

FORGED = {"GIT_AUTHOR_NAME": "Mallory", "GIT_AUTHOR_EMAIL": "mallory@evil.invalid"}


def waits(scratch: Scratch, said: str = "") -> str:
    """Reconcile once, demand that the run still waits, and return what was said."""
    found = scratch.run("reconcile", "--wait")
    told = found.stdout + found.stderr
    assert found.returncode == 4 or "rejected: " in told, told
    assert said in told, told
    return told


def raw_commit(scratch: Scratch, author: bytes, path: str, text: str) -> None:
    """Commit a file with an author line that git itself would never write."""
    scratch.write(path, text)
    scratch.git("add", "-A", ".")
    tree, parent = scratch.git("write-tree").strip(), scratch.git("rev-parse", "HEAD").strip()
    data = b"tree %s\nparent %s\nauthor %s 1767225600 +0000\ncommitter C <c@c.invalid> 1767225600 +0000\n\nx\n"
    made = subprocess.run(
        ["git", "hash-object", "-t", "commit", "-w", "--stdin", "--literally"],
        input=data % (tree.encode(), parent.encode(), author), cwd=scratch.path, env=ENVIRONMENT,
        capture_output=True, check=True,
    )  # fmt: skip
    scratch.git("update-ref", "refs/heads/main", made.stdout.decode().strip())


# ------------------------------------------------------------------------------------------------ decisions


def test_a_request_cannot_grant_itself_what_a_policy_governs(scratch: Scratch) -> None:
    log = asked(scratch, "approvals: {two: {stages: [ship], other_person: true}}\n", approval_policy="auto")
    waits(scratch, "waits for approval of 'ship'")
    assert log.read_text() == "built\n"
    decide(scratch, "approve", **OTHER)
    assert scratch.run("reconcile", "--wait").returncode == 0


def test_an_approval_of_what_was_there_before_does_not_open_a_gate_before_what_is_there_now(scratch: Scratch) -> None:
    log = scratch.outside / "log"
    scratch.settings()
    scratch.write("ship.sh", f"echo good >> {log}\nexit 1\n")
    scratch.pipeline("release", "stages:\n  - {id: ship, approval: {reason: Ships}, command: sh ship.sh}\n")
    scratch.request("r", "release")
    scratch.commit("ask")
    waits(scratch)
    assert scratch.run("approve", "r", "--reason", "read it").returncode == 0
    assert scratch.run("reconcile", "--wait").returncode == 1
    scratch.write("ship.sh", f"echo evil >> {log}\n")
    scratch.commit("what nobody has approved; the plan has the same digest")
    again = scratch.run("resume", "r", "--reason", "try again")
    assert again.returncode == 4, again.stdout + again.stderr
    waits(scratch, "it was committed before what the run works on")
    assert log.read_text() == "good\n"
    assert scratch.run("approve", "r", "--reason", "read that too").returncode == 0
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert log.read_text() == "good\nevil\n"


def test_decisions_that_are_none_open_nothing(scratch: Scratch) -> None:
    asked(scratch)
    waits(scratch)
    run_id = scratch.run_id("r")
    text = f"run: {run_id}\nstage: ship\ndecision: approve\nreason: x\n"
    # In a branch that nobody has merged.
    scratch.git("checkout", "-q", "-b", "side")
    decide(scratch, "approve", "side")
    scratch.git("checkout", "-q", "main")
    waits(scratch, "a decision is missing")
    # A symbolic link, a file that is too large, one for another run, stage or decision, and what is no YAML.
    scratch.write("elsewhere", text)
    (scratch.path / "runs.d/link.approval.yaml").symlink_to("../elsewhere")
    scratch.write("runs.d/large.approval.yaml", text + "#" * 20_000)
    scratch.write("runs.d/run.approval.yaml", text.replace(run_id, "r-00000000"))
    scratch.write("runs.d/stage.approval.yaml", text.replace("ship", "build"))
    scratch.write("runs.d/choice.approval.yaml", text.replace("approve", "approved"))
    scratch.write("runs.d/broken.approval.yaml", "run: [\n")
    scratch.write("runs.d/suffix.approval.yml", text)
    scratch.commit("none of these")
    said = waits(scratch, "a decision is missing")
    assert "link.approval.yaml: this is a symbolic link" in said
    assert "suffix.approval.yml: a decision must end in .approval.yaml; rename it" in said
    # One that was taken back does not count either.
    decide(scratch, "approve", "back")
    scratch.git("revert", "--no-edit", "HEAD")
    waits(scratch, "a decision is missing")


def test_whoever_moves_or_touches_a_decision_makes_it_his_own(scratch: Scratch) -> None:
    asked(scratch, "approvals: {bob: {approvers: [bob@example.invalid]}}\n", policy="bob")
    waits(scratch)
    decide(scratch, "reject", "d", **FORGED)
    waits(scratch, "does not let mallory@evil.invalid decide")
    # A rejection of Mallory's does not count, and one of Bob's that Mallory turns is Mallory's.
    decide(scratch, "approve", "d", **FORGED)
    waits(scratch, "does not let mallory@evil.invalid decide")
    (scratch.path / "runs.d/x").mkdir()
    scratch.git("mv", "runs.d/d.approval.yaml", "runs.d/x/d.approval.yaml")
    scratch.commit("moved by Ann")
    waits(scratch, "does not let ann@example.invalid decide")


def test_who_merges_a_decision_and_changes_it_made_it(scratch: Scratch) -> None:
    asked(scratch, "approvals: {bob: {approvers: [bob@example.invalid]}}\n", policy="bob")
    waits(scratch)
    scratch.git("checkout", "-q", "-b", "side")
    decide(scratch, "reject", "d", **OTHER)
    scratch.git("checkout", "-q", "main")
    scratch.write("other", "x")
    scratch.commit("meanwhile")
    scratch.git("merge", "-q", "--no-ff", "--no-commit", "side")
    path = scratch.path / "runs.d/d.approval.yaml"
    path.write_text(path.read_text().replace("reject", "approve"))
    scratch.commit("an evil merge")
    waits(scratch, "does not let ann@example.invalid decide")


@pytest.mark.parametrize(
    "author",
    [
        b"B\xf6b <bob@example.invalid>",
        b"Bob\x1b[31m <bob@example.invalid>",
        b"Bob <bob@example.invalid> <m@evil.invalid>",
        b"<<bob@example.invalid>>",
        b"",
    ],
    ids=["latin-1", "escape", "two addresses", "brackets", "none"],
)
def test_names_that_git_would_not_write_stop_no_pass(scratch: Scratch, author: bytes) -> None:
    asked(scratch)
    waits(scratch)
    text = f"run: {scratch.run_id('r')}\nstage: ship\ndecision: approve\nreason: x\n"
    raw_commit(scratch, author, "runs.d/raw.approval.yaml", text)
    done = scratch.run("reconcile", "--wait")
    assert done.returncode in (0, 4), done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    if done.returncode == 0:
        assert manifest(scratch)["approvals"][0]["decision"] == "approve"


def test_a_request_that_others_touched_is_still_of_who_asked(scratch: Scratch) -> None:
    asked(scratch, "approvals: {two: {stages: [ship], other_person: true}}\n")
    waits(scratch)
    with (scratch.path / "runs.d/r.yaml").open("a") as file:
        file.write("title: as Bob likes it\n")
    scratch.git("add", "-A", ".")
    subprocess.run(["git", "commit", "-q", "-m", "title"], cwd=scratch.path, env=ENVIRONMENT | OTHER, check=True)
    decide(scratch, "approve")
    waits(scratch, "another person must decide than who asked for the run")


def test_so_many_decisions_that_one_could_hide_decide_nothing(scratch: Scratch) -> None:
    asked(scratch)
    waits(scratch)
    run_id = scratch.run_id("r")
    for number in range(120):
        text = f"run: {run_id}\nstage: build\ndecision: approve\nreason: x\n"
        scratch.write(f"runs.d/a/{number:03}.approval.yaml", text)
    decide(scratch, "reject", "z")
    waits(scratch, "21 decisions more than are looked at")
    scratch.git("rm", "-q", "-r", "runs.d/a")
    scratch.commit("gone")
    assert scratch.run("reconcile", "--wait").returncode == 1


# ------------------------------------------------------------------------------------------------ signatures


def sealed(scratch: Scratch, options: str = "", signers: str = "signers") -> Path:
    """Ask with a gate that wants a signature; Ann's key is in the list with these options."""
    ours = key(scratch.outside, "ours")
    public = ours.with_suffix(".pub").read_text().split()
    scratch.write("signers", f"ann@example.invalid {options}{public[0]} {public[1]}\n")
    settings = f"trust: {{allowed_signers: {signers}}}\napprovals: {{sealed: {{signed: true}}}}\n"
    asked(scratch, settings, policy="sealed")
    scratch.git("config", "gpg.format", "ssh")
    scratch.git("config", "user.signingkey", str(ours))
    waits(scratch)
    return ours


@pytest.mark.parametrize("options", ['valid-before="20200101" ', 'namespaces="file" ', "cert-authority "])
def test_a_key_that_is_not_for_this_or_not_any_more_opens_nothing(scratch: Scratch, options: str) -> None:
    sealed(scratch, options)
    assert scratch.run("approve", "r", "--reason", "x", "--sign").returncode == 0
    waits(scratch, "not signed by anybody whom trust.allowed_signers names")


@pytest.mark.parametrize("place", ["link", "folder", "nowhere"])
def test_signers_that_are_no_file_are_nobody(scratch: Scratch, place: str) -> None:
    (scratch.path / "link").symlink_to("signers")
    scratch.write("folder/x", "x")
    sealed(scratch, signers=place)
    assert scratch.run("approve", "r", "--reason", "x", "--sign").returncode == 0
    waits(scratch, "not signed by anybody whom trust.allowed_signers names")


def test_what_a_person_has_configured_makes_no_signature_good(scratch: Scratch) -> None:
    sealed(scratch)
    liar = scratch.outside / "liar"
    liar.write_text("#!/bin/sh\necho 'Good \"git\" signature for ann@example.invalid with ED25519 key SHA256:x'\n")
    liar.chmod(0o755)
    theirs = key(scratch.outside, "theirs")
    scratch.git("config", "user.signingkey", str(theirs))
    assert scratch.run("approve", "r", "--reason", "x", "--sign").returncode == 0
    for name in ("gpg.ssh.program", "gpg.program", "gpg.openpgp.program", "gpg.x509.program"):
        scratch.git("config", name, str(liar))
    own = scratch.outside / "own"
    own.write_text(f"ann@example.invalid {' '.join(theirs.with_suffix('.pub').read_text().split()[:2])}\n")
    scratch.git("config", "gpg.ssh.allowedSignersFile", str(own))
    scratch.git("config", "log.showSignature", "true")
    scratch.git("config", "log.follow", "true")
    scratch.git("config", "i18n.logOutputEncoding", "latin-1")
    waits(scratch, "not signed by anybody whom trust.allowed_signers names")


# ------------------------------------------------------------------------------------------------ people's mistakes


@pytest.mark.parametrize("reason", ["", " ", "x" * 501, "bell \a"], ids=["empty", "blank", "long", "bell"])
def test_a_reason_that_no_file_may_hold_is_refused_before_it_is_committed(scratch: Scratch, reason: str) -> None:
    asked(scratch)
    waits(scratch)
    tip = scratch.git("rev-parse", "HEAD")
    refused = scratch.run("approve", "r", "--reason", reason)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "--reason" in refused.stderr
    assert scratch.git("rev-parse", "HEAD") == tip


def test_a_run_that_has_ended_is_not_approved(scratch: Scratch) -> None:
    asked(scratch)
    waits(scratch)
    assert scratch.run("cancel", "r", "--reason", "enough").returncode == 0
    late = scratch.run("approve", "r", "--reason", "x")
    assert late.returncode == 2, late.stdout
    assert "waits at no gate" in late.stderr
    unknown = scratch.run("approve", "rr", "--reason", "x")
    assert unknown.returncode == 2
    assert "there is no run 'rr'; did you mean 'r'?" in unknown.stderr


# ------------------------------------------------------------------------------------------------ what happens meanwhile


@pytest.mark.parametrize("how", ["delete", "suspend", "cancel", "supersede", "pipeline"])
def test_a_request_that_changes_while_its_run_waits(scratch: Scratch, how: str) -> None:
    log = asked(scratch)
    waits(scratch)
    first = scratch.run_id("r")
    assert scratch.run("approve", "r", "--reason", "x").returncode == 0
    request = scratch.path / "runs.d/r.yaml"
    if how == "delete":
        request.unlink()
    elif how == "pipeline":
        (scratch.path / "pipelines/release.yaml").unlink()
    else:
        more = {"suspend": "suspend: true\n", "cancel": "cancel: no\n", "supersede": "rerun: 1\n"}[how]
        request.write_text(request.read_text() + more.replace("no\n", "'no'\n"))
    scratch.commit(how)
    done = scratch.run("reconcile", "--wait")
    shipped = "shipped" in log.read_text()
    assert shipped == (how == "pipeline"), done.stdout + done.stderr
    assert done.returncode == {"delete": 0, "cancel": 1, "suspend": 4, "supersede": 4, "pipeline": 0}[how], done.stdout
    if how == "supersede":
        assert scratch.run_id("r") != first


def test_a_run_whose_directory_is_gone_while_it_waits_is_no_way_past_its_gate(scratch: Scratch) -> None:
    log = asked(scratch)
    waits(scratch)
    subprocess.run(["rm", "-rf", str(scratch.path / ".runs")], check=True)
    found = scratch.run("reconcile", "--wait")
    assert found.returncode == 4, found.stdout + found.stderr
    assert "shipped" not in log.read_text()
    assert scratch.run("approve", "r", "--reason", "x").returncode == 0
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert log.read_text() == "built\nbuilt\nshipped\ncleaned\n"


def test_a_plan_that_is_lost_and_made_anew_is_asked_for_anew(scratch: Scratch) -> None:
    log = asked(scratch)
    waits(scratch)
    assert scratch.run("approve", "r", "--reason", "x").returncode == 0
    (scratch.directory("r") / "plan.json").unlink()
    path = scratch.path / "pipelines/release.yaml"
    path.write_text(path.read_text().replace("echo shipped", "echo evil"))
    scratch.commit("another plan for the same run")
    waits(scratch, "it is for another plan; what runs has changed since")
    assert log.read_text() == "built\n"


def test_two_gates_are_decided_at_two_times_and_nothing_is_done_twice(scratch: Scratch) -> None:
    log = scratch.outside / "log"
    scratch.settings()
    stages = [
        f"  - {{id: lint, command: 'echo lint >> {log}; exit 1', allow_failure: true}}",
        f"  - {{id: one, needs: [lint], approval: {{reason: A}}, command: 'echo one >> {log}'}}",
        f"  - {{id: two, needs: [lint], approval: {{reason: B}}, command: 'echo two >> {log}', attempts_max: 1}}",
    ]
    scratch.pipeline("release", "workspace: empty\nstages:\n" + "\n".join(stages) + "\n")
    scratch.request("r", "release", attempts_max=1)
    scratch.commit()
    waits(scratch)
    asked_at = {each["stage"]: each["asked_at"] for each in manifest(scratch)["approvals"]}
    several = scratch.run("approve", "r", "--reason", "x")
    assert several.returncode == 2
    assert "one, two; name one with --stage" in several.stderr
    assert scratch.run("approve", "r", "--stage", "one", "--reason", "x").returncode == 0
    waits(scratch, "waits for approval of 'two' (B)")
    assert log.read_text() == "lint\none\n"
    assert {each["stage"]: each["asked_at"] for each in manifest(scratch)["approvals"]} == asked_at
    assert scratch.run("approve", "r", "--reason", "x").returncode == 0
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert log.read_text() == "lint\none\ntwo\n"


@pytest.mark.parametrize(
    ("stages", "code", "expected"),
    [
        ("  - {id: a, approval: {reason: R}, when: \"attempt == 9\", command: 'true'}\n", 0, {"a": "skipped"}),
        ("  - {id: a, command: 'true'}\n  - {id: b, approval: {reason: R}, command: 'true'}\n", 0, {"a": "succeeded"}),
        ("  - {id: a, approval: {reason: R}, allow_failure: true, command: 'true'}\n", 4, {}),
        ("  - {id: a, command: 'exit 1'}\n  - {id: c, finally: true, approval: {reason: R}, command: 'true'}\n", 4,
         {"a": "failed", "c": "waiting"}),
    ],
    ids=["when is judged first", "target without the gate", "allowed failure", "finally after a failure"],
)  # fmt: skip
def test_gates_in_odd_places(scratch: Scratch, stages: str, code: int, expected: dict[str, str]) -> None:
    scratch.settings()
    scratch.pipeline("release", f"workspace: empty\nstages:\n{stages}")
    scratch.request("r", "release", **({"target": "a"} if "id: b" in stages else {}))
    scratch.commit()
    found = scratch.run("reconcile", "--wait")
    assert found.returncode == code, found.stdout + found.stderr
    states = {name: each["status"] for name, each in scratch.stages("r").items()}
    assert states | expected == states
    if code == 4:
        assert scratch.run("reject", "r", "--reason", "no").returncode == 0
        assert scratch.run("reconcile", "--wait").returncode == 1, "a rejection is no failure that is allowed"


# ------------------------------------------------------------------------------------------------ several machines


def test_a_shallow_clone_that_cannot_tell_whose_a_decision_is_opens_nothing(hub: Hub) -> None:
    log = hub.place / "log"
    first, second = hub.clones("first", "second", more="approvals: {bob: {approvers: [bob@example.invalid]}}\n")
    first.write("pipelines/release.yaml", SHIP.format(log=log, policy=", policy: bob"))
    first.write("runs.d/r.yaml", "task: t\npipeline: release\n")
    first.push("ask")
    assert first.run("reconcile", "--wait").returncode == 4
    assert second.run("reconcile").returncode in (0, 4)
    assert second.run("approve", "r", "--reason", "x", **OTHER).returncode == 0
    first.crash()
    shallow = hub.clone("shallow", "--depth", "1")
    found = shallow.run("reconcile", "--wait")
    assert "shipped" not in log.read_text(), found.stdout
    assert found.returncode == 4, found.stdout + found.stderr
    assert second.run("reconcile", "--wait").returncode == 0
    assert "shipped" in log.read_text()


def test_the_host_that_waited_is_down_and_another_one_goes_on_cancels_or_rejects(hub: Hub) -> None:
    log = hub.place / "log"
    first, second = hub.clones("first", "second")
    first.write("pipelines/release.yaml", SHIP.format(log=log, policy=""))
    first.write("runs.d/r.yaml", "task: t\npipeline: release\n")
    first.push("ask")
    assert first.run("reconcile", "--wait").returncode == 4
    first.crash()
    assert second.run("reconcile", "--wait").returncode == 4
    refused = second.run("cancel", "r", "--reason", "not needed")
    assert refused.returncode == 2
    assert "left waiting by another machine; add 'cancel: <reason>' to its request" in refused.stderr
    second.git("pull", "-q")
    with (second.path / "runs.d/r.yaml").open("a") as file:
        file.write("cancel: not needed\n")
    second.push("cancel it")
    done = second.run("reconcile", "--wait")
    assert "shipped" not in log.read_text()
    assert done.returncode in (0, 1), (refused.stderr, done.stdout, done.stderr)
    assert first.run("reconcile", "--wait").returncode in (0, 1)
    assert hub.manifests()["r"]["status"] == "cancelled", done.stdout
