"""Guardrails through the whole route: as stages of runs, in their evidence, and as a verb."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from reconciler import process
from tests.scratch import Scratch


def today() -> date:
    return datetime.now(UTC).date()


def spec(days: int = 0) -> str:
    return f"---\ntitle: A spec\nlast_review: {today() - timedelta(days=days)}\n---\n# Spec\n"


def pipeline(scratch: Scratch, *stages: str, required: bool = False, workspace: str = "worktree") -> None:
    lines = "".join(f"  - {each}\n" for each in stages)
    needed = f"guardrails_required: {str(required).lower()}\n"
    scratch.pipeline("p", f"workspace: {workspace}\n{needed}stages:\n{lines}")


def run(scratch: Scratch, name: str = "a", **keys: object) -> tuple[int, dict[str, Any]]:
    """Ask for a run of the pipeline, wait for its evidence, and return exit code and manifest."""
    scratch.request(name, "p", **keys)
    scratch.commit(f"ask for {name}")
    ended = scratch.run("reconcile", "--wait")
    return ended.returncode, scratch.manifest(name)


def answers(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["id"]: each["answer"] for each in manifest["commands"] if each["answer"] is not None}


def reasons(manifest: dict[str, Any], stage: str) -> list[str]:
    return [each["reason"] for each in answers(manifest)[stage]["detail"]["findings"]]


# ------------------------------------------------------------------------------------------------ status


def test_guardrails_are_evidence(scratch: Scratch) -> None:
    scratch.write("docs/specs/a.md", spec())
    scratch.write("tasks/t.md", "- [ ] Green <!-- item: t/green -->\n")
    pipeline(
        scratch,
        "{id: specs, guard: specs, needs: []}",
        "{id: lists, guard: checklists, needs: []}",
        "{id: small, guard: {use: diff, files_max: 10}, needs: []}",
        "{id: links, guard: docs, needs: []}",
        "{id: own, guard: {use: command, command: [sh, -c, 'echo $RECONCILER_STAGE_ID; pwd']}, needs: []}",
        required=True,
    )
    code, manifest = run(scratch, proves="[t/green]")
    assert code == 0
    ids = ["specs", "lists", "small", "links", "own"]
    assert manifest["guardrail_status"] == {
        "required": ids, "passed": ids, "failed": [], "missing": [], "advisory": [],
    }  # fmt: skip
    found = answers(manifest)
    assert {each["verdict"] for each in found.values()} == {"passed"}
    assert [found[each]["detail"]["guard"] for each in ids] == ["specs", "checklists", "diff", "docs", "command"]
    assert found["specs"]["detail"]["checked"] == 1
    log = (scratch.path / scratch.stages("a")["own"]["log_path"]).read_text().splitlines()
    assert log == ["own", str(scratch.directory("a") / "workspace"), "command: passed: 1 checked, 0 findings"]
    assert "Evidence: [a-" in scratch.git("show", "HEAD:tasks/t.md")
    checked = scratch.run("validate", ".runs", "out")
    assert checked.returncode == 0, checked.stdout


def test_a_guardrail_that_fails_is_a_stage_that_fails(scratch: Scratch) -> None:
    scratch.write("docs/specs/a.md", spec(days=31))
    pipeline(scratch, "{id: specs, guard: specs}", "{id: later, command: 'true'}")
    code, manifest = run(scratch)
    assert code == 1
    assert manifest["status"] == "failed"
    assert manifest["guardrail_status"] == {
        "required": [], "passed": [], "failed": ["specs"], "missing": [], "advisory": [],
    }  # fmt: skip
    assert [each["status"] for each in manifest["commands"]] == ["failed", "skipped"]
    assert "31 days ago, and 30 are allowed" in manifest["status_detail"]
    assert answers(manifest)["specs"]["reason"] == "findings"


@pytest.mark.parametrize(("required", "code"), [(False, 0), (True, 1)])
def test_a_failure_that_is_allowed_fails_the_run_only_where_guardrails_are_required(
    scratch: Scratch, required: bool, code: int
) -> None:
    pipeline(
        scratch,
        "{id: bad, guard: {use: command, command: 'exit 3'}, allow_failure: true}",
        "{id: good, guard: {use: command, command: 'true'}}",
        required=required,
    )
    ended, manifest = run(scratch)
    assert ended == code
    assert manifest["guardrail_status"]["failed"] == ["bad"]
    assert manifest["guardrail_status"]["passed"] == ["good"]
    assert manifest["status_detail"] == (
        "guardrails are required: bad did not pass" if required else "failed, as allowed: bad"
    )


def test_a_dry_run_advises_and_is_no_pass(scratch: Scratch) -> None:
    stale = "{id: specs, guard: {use: specs, dry_run: true}}"
    scratch.write("docs/specs/a.md", spec(days=99))
    pipeline(scratch, stale)
    code, manifest = run(scratch)
    assert code == 0
    assert manifest["guardrail_status"] == {
        "required": [], "passed": [], "failed": [], "missing": [], "advisory": ["specs"],
    }  # fmt: skip
    assert answers(manifest)["specs"]["verdict"] == "advisory"
    assert len(reasons(manifest, "specs")) == 1
    pipeline(scratch, stale, required=True)
    code, manifest = run(scratch, "b")
    assert code == 1
    assert manifest["status_detail"] == "guardrails are required: specs only advised"


def test_a_command_is_no_guardrail_whatever_it_prints_or_is_called(scratch: Scratch) -> None:
    pipeline(
        scratch,
        "{id: guard, title: Guardrail specs, command: 'echo guardrail passed; echo verdict: passed', role: review}",
        required=True,
    )
    code, manifest = run(scratch)
    assert code == 1
    assert [each["status"] for each in manifest["commands"]] == ["succeeded"]
    assert manifest["status"] == "failed"
    assert manifest["status_detail"] == "guardrails are required, and no stage that ran is one"
    assert manifest["guardrail_status"] == {
        "required": [], "passed": [], "failed": [], "missing": ["any"], "advisory": [],
    }  # fmt: skip
    assert manifest["commands"][0]["answer"] is None


def test_a_command_of_one_s_own_passes_by_its_exit_code_not_by_its_words(scratch: Scratch) -> None:
    pipeline(scratch, "{id: own, guard: {use: command, command: 'echo guardrail passed; exit 1'}}")
    code, manifest = run(scratch)
    assert code == 1
    assert manifest["guardrail_status"]["failed"] == ["own"]
    assert reasons(manifest, "own") == ["the command ended with exit code 1"]


def test_a_guardrail_that_is_killed_gave_no_verdict(scratch: Scratch) -> None:
    scratch.settings()
    pipeline(
        scratch,
        "{id: slow, guard: {use: command, command: 'sleep 60 & sleep 60'}, timeout: 1500ms, allow_failure: true}",
        "{id: good, guard: {use: command, command: 'true'}, needs: []}",
        required=True,
    )
    code, manifest = run(scratch)
    assert code == 1
    assert manifest["commands"][0]["timed_out"]
    assert manifest["guardrail_status"]["missing"] == ["slow"]
    assert manifest["status_detail"] == "guardrails are required: slow gave no verdict"
    assert scratch.processes(scratch.directory("a")) == []


def test_while_a_command_of_one_s_own_lives_so_does_its_attempt(scratch: Scratch) -> None:
    """The lock of the run goes on to it: a pass that finds the worker dead must know that something still works."""
    scratch.settings()
    told = scratch.outside / "pid"
    pipeline(
        scratch,
        f"{{id: own, guard: {{use: command, command: 'echo $$ > {told}.new; mv {told}.new {told}; sleep 60'}}}}",
    )
    scratch.request("a", "p")
    scratch.commit()
    scratch.run("reconcile")
    scratch.wait_for(told.exists)
    holders = [each.pid for each in process.holders(scratch.record("a", "lock"))]
    assert int(told.read_text()) in holders


def test_a_target_without_guardrails_does_not_get_around_them(scratch: Scratch) -> None:
    pipeline(
        scratch, "{id: build, command: 'true'}", "{id: own, guard: {use: command, command: 'true'}}", required=True
    )
    code, manifest = run(scratch, target="build")
    assert code == 1
    assert manifest["guardrail_status"]["missing"] == ["any"]


# ------------------------------------------------------------------------------------------------ the change


def test_what_a_stage_did_is_the_change(scratch: Scratch) -> None:
    scratch.write("src/a.py", "1\n")
    scratch.write("docs/specs/a.md", spec())
    scratch.write("reconciler.yaml", "guards: {specs: {watch: [{paths: [src], spec: docs/specs/a.md}]}}\n")
    pipeline(
        scratch,
        "{id: edit, command: 'echo 2 >> src/a.py; seq 900 > src/new.py; git update-index --assume-unchanged src/a.py'}",
        "{id: specs, guard: specs, allow_failure: true, needs: [edit]}",
        "{id: small, guard: diff, allow_failure: true, needs: [edit]}",
        "{id: enough, guard: {use: diff, lines_max: 901, files_max: 2}, needs: [edit]}",
        "{id: left-out, guard: {use: diff, exclude: [src/new.py], files_max: 1}, needs: [edit]}",
        "{id: since, guard: {use: diff, since: HEAD~1, files_max: 1}, needs: [edit], allow_failure: true}",
    )
    scratch.commit("before")
    code, manifest = run(scratch)
    assert code == 0
    assert reasons(manifest, "specs") == ["src/a.py, src/new.py changed and its spec docs/specs/a.md did not"]
    assert reasons(manifest, "small") == [
        "the change adds 901 lines and removes 0, and 800 are allowed (most of them, 900, in src/new.py)"
    ]
    assert manifest["guardrail_status"]["passed"] == ["enough", "left-out"]
    assert reasons(manifest, "since")[0] == "the change touches 3 files, and 1 are allowed"
    assert answers(manifest)["small"]["detail"]["base"] == manifest["commit"]


def test_without_that_it_is_the_commit_of_the_run(scratch: Scratch) -> None:
    scratch.write("src/a.py", "1\n")
    scratch.write("docs/specs/a.md", spec(days=60))
    scratch.write("docs/specs/b.md", "# never reviewed\n")
    scratch.write(
        "reconciler.yaml", "guards: {specs: {age_max: 90d, watch: [{paths: [src], spec: docs/specs/a.md}]}}\n"
    )
    pipeline(scratch, "{id: specs, guard: specs}", "{id: every, guard: {use: specs, all: true}, needs: []}")
    scratch.commit("before")
    scratch.write("docs/specs/a.md", spec(days=80))
    scratch.write("src/a.py", "2\n")
    code, manifest = run(scratch)
    assert code == 1
    assert reasons(manifest, "specs") == []
    assert answers(manifest)["specs"]["detail"]["checked"] == 1
    assert reasons(manifest, "every") == ["the spec has no front matter"]


def test_in_an_empty_workspace_the_commit_is_judged(scratch: Scratch) -> None:
    scratch.write("README.md", "[nowhere](nowhere.md)\n")
    scratch.write("docs/specs/a.md", spec(days=-1))
    pipeline(
        scratch,
        "{id: links, guard: docs, needs: [], allow_failure: true}",
        "{id: specs, guard: specs, needs: [], allow_failure: true}",
        "{id: small, guard: diff, needs: []}",
        workspace="empty",
    )
    code, manifest = run(scratch)
    assert code == 0
    assert reasons(manifest, "links") == ["the link nowhere.md leads nowhere"]
    assert "in the future" in reasons(manifest, "specs")[0]
    assert answers(manifest)["small"]["detail"]["checked"] == 4


def test_a_run_goes_on_with_the_settings_it_was_launched_with(scratch: Scratch) -> None:
    scratch.write("specs/a.md", spec(days=50))
    scratch.write("reconciler.yaml", "guards: {specs: {age_max: 60d}}\n")
    pipeline(
        scratch,
        "{id: edit, command: 'echo \"guards: {specs: {age_max: 1d}}\" > reconciler.yaml'}",
        "{id: specs, guard: {use: specs, all: true}}",
    )
    code, manifest = run(scratch)
    assert (code, manifest["guardrail_status"]["passed"]) == (0, ["specs"])


# ------------------------------------------------------------------------------------------------ evidence of items


def proven(scratch: Scratch) -> str:
    """Let a run prove an item, and return the path of its manifest."""
    scratch.write("tasks/t.md", "- [ ] Green <!-- item: t/green -->\n")
    pipeline(scratch, "{id: s, command: 'true'}")
    code, _ = run(scratch, "proof", proves="[t/green]")
    assert code == 0
    return f".runs/t/cli/{scratch.run_id('proof')}/manifest.json"


def guarded(scratch: Scratch, **keys: object) -> list[str]:
    pipeline(scratch, "{id: lists, guard: checklists, allow_failure: true}")
    code, manifest = run(scratch, "guarded", **keys)
    assert code == 0
    return reasons(manifest, "lists")


def test_a_ticked_item_is_proven_by_committed_evidence(scratch: Scratch) -> None:
    path = proven(scratch)
    assert guarded(scratch) == []
    asked = scratch.run("guard", "checklists", "--strict")
    assert (asked.returncode, asked.stdout) == (0, "checklists: passed: 1 checked, 0 findings\n")
    scratch.git("rm", "-q", "--cached", path)
    scratch.commit("the evidence goes")
    assert guarded(scratch, rerun=1) == [f"the evidence of item t/green is not there at the commit ({path})"]


def test_evidence_that_was_altered_is_none(scratch: Scratch) -> None:
    path = proven(scratch)
    text = scratch.git("show", f"HEAD:{path}")
    scratch.write(path, text.replace('"title": "p"', '"title": "other"'))
    scratch.git("add", "-f", path)
    scratch.commit("somebody alters evidence")
    altered = f"the evidence of item t/green was altered: the SHA-256 of {path} is not the one that was published"
    assert guarded(scratch) == [altered]
    # With a run summary to match, the commit of evidence still knows better.
    summary = path.replace("/cli", "")
    said = json.loads(scratch.git("show", f"HEAD:{summary}"))
    digest = scratch.run("guard", "command", "--", "sha256sum", path).stdout.split()[0]
    scratch.write(summary, json.dumps(said | {"manifest_sha256": digest}))
    scratch.git("add", "-f", summary)
    scratch.commit("and its summary")
    assert guarded(scratch, rerun=1) == [altered]


def test_a_box_that_a_stage_ticks_is_not_proven(scratch: Scratch) -> None:
    scratch.write("tasks/t.md", "- [ ] Green <!-- item: t/green -->\n")
    tick = "sed -i 's/\\[ \\] Green/[x] Green; Evidence: [x-00000000](..\\/.runs\\/t\\/cli\\/x-00000000\\/manifest.json)/' tasks/t.md"
    forge = 'mkdir -p .runs/t/cli/x-00000000; echo \'{"status": "succeeded"}\' > .runs/t/cli/x-00000000/manifest.json'
    pipeline(scratch, f"{{id: tick, command: {json.dumps(tick + '; ' + forge)}}}", "{id: lists, guard: checklists}")
    code, manifest = run(scratch)
    assert code == 1
    assert reasons(manifest, "lists") == [
        "the evidence of item t/green is not there at the commit (.runs/t/cli/x-00000000/manifest.json)"
    ]


# ------------------------------------------------------------------------------------------------ the verb


def test_the_verb_says_what_is_wrong_here_and_now(scratch: Scratch) -> None:
    scratch.write("README.md", "# Read\n\nSee [more](docs/more.md) and `reconciler deploy`.\n")
    scratch.commit()
    asked = scratch.run("guard", "docs")
    assert asked.returncode == 1
    assert asked.stdout.splitlines() == [
        "README.md:3: the link docs/more.md leads nowhere; correct the link, or write what it leads to",
        "README.md:3: reconciler has no verb 'deploy'; see reconciler --help",
        "docs: failed: 1 checked, 2 findings",
    ]
    dry = scratch.run("guard", "docs", "--dry-run")
    assert dry.returncode == 0
    assert dry.stdout.endswith("docs: dry run, proves nothing (it would have failed): 1 checked, 2 findings\n")
    document = json.loads(scratch.run("guard", "docs", "--dry-run", "--format", "json").stdout)
    assert document["verdict"] == "advisory"
    assert {each["path"] for each in document["detail"]["findings"]} == {"README.md"}
    own = scratch.run("guard", "command", "--format", "json", "--", "sh", "-c", "echo 🦊 said; exit 1")
    assert (own.returncode, own.stderr, json.loads(own.stdout)["verdict"]) == (1, "🦊 said\n", "failed")
    scratch.write("docs/more.md", "# More\n")
    scratch.write("README.md", "# Read\n\nSee [more](docs/more.md#more).\n")
    assert scratch.run("guard", "docs").returncode == 0, "what is not committed counts as it lies there"


def test_the_verb_judges_what_is_not_committed_else_the_last_commit(scratch: Scratch) -> None:
    scratch.write("a", "1\n")
    scratch.commit()
    for number in range(3):
        scratch.write(f"b{number}", "1\n")
    scratch.commit()
    words = ("guard", "diff", "--files-max", "2")
    assert scratch.run(*words).returncode == 1
    assert scratch.run(*words, "--exclude", "b1").returncode == 0
    scratch.write("c", "1\n")
    assert scratch.run(*words).returncode == 0
    assert scratch.run(*words, "--since", "HEAD~1").returncode == 1
    assert scratch.run(*words, "--since", "HEAD~1", "--path", "c").returncode == 0
    (scratch.path / "sub").mkdir()
    assert scratch.run("--repo", "sub", *words).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("docs", "--all"), "guard 'docs' has no option 'all', it belongs to specs; it knows paths"),
        (("diff", "--strict"), "guard 'diff' has no option 'strict', it belongs to checklists"),
        (("specs", "x"), "guard 'specs' has no option 'command', it belongs to command"),
        (("command",), "guard 'command' has no command; for example: reconciler guard command -- make lint"),
        (("diff", "--since=--output=x"), "'--output=x' is not a revision"),
        (("diff", "--since", "a..b"), "'a..b' is not a revision"),
        (("docs", "--path", "/etc/*"), "'/etc/*' is not a path pattern"),
        (("docs", "--exclude", "a", "--exclude", "a"), "'exclude' holds 'a' twice"),
        (("diff", "--files-max", "10000000"), "'files_max' is 10000000, expected at most 1000000"),
        (("spec",), "'spec' is not one of"),
        ((), "Missing argument 'KIND'"),
    ],
)
def test_the_verb_refuses_what_cannot_be(scratch: Scratch, words: tuple[str, ...], said: str) -> None:
    scratch.write("a", "1\n")
    scratch.commit()
    asked = scratch.run("guard", *words)
    assert asked.returncode == 2
    assert said in asked.stderr


def test_the_verb_says_what_is_missing(scratch: Scratch) -> None:
    assert "no commit here yet" in scratch.run("guard", "docs").stderr
    scratch.write("a", "1\n")
    scratch.commit()
    nowhere = scratch.run("guard", "diff", "--since", "nowhere")
    assert (nowhere.returncode, "there is no commit 'nowhere' here" in nowhere.stderr) == (1, True)
    scratch.write("reconciler.yaml", "guards: {docs: {}}\n")
    broken = scratch.run("guard", "specs")
    assert (broken.returncode, broken.stderr.startswith("reconciler: reconciler.yaml:1:10: unknown key")) == (1, True)


def test_a_guardrail_that_cannot_start_fails_its_stage_and_not_its_worker(scratch: Scratch) -> None:
    scratch.settings()
    scratch.pipeline("p", "stages:\n  - {id: g, guard: docs, cwd: nowhere}\n")
    scratch.request("r", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    found = scratch.manifest("r")
    assert len(found["attempts"]) == 1
    assert found["commands"][0]["summary"] == "cannot start directory 'nowhere': No such file or directory"
