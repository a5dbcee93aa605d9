"""Rules about code through the whole route: as a guardrail of a run, and as a verb."""

from __future__ import annotations

import json
import subprocess

from tests.scratch import ENVIRONMENT, Scratch

RULE = "language: python\nmessage: no print\ncure: log\nrule: {pattern: print($$$A)}\nfix: log($$$A)\n"


def test_a_guardrail_judges_by_the_rules_of_the_commit(scratch: Scratch) -> None:
    scratch.write("patterns/no-print.yaml", RULE)
    scratch.write("src/a.py", "x = 1\n")
    scratch.pipeline(
        "p",
        "guardrails_required: true\nstages:\n"
        "  - {id: before, guard: patterns}\n"
        "  - {id: cheat, command: 'rm -r patterns; echo \"print(1)\" >> src/a.py'}\n"
        "  - {id: after, guard: patterns}\n",
    )
    scratch.request("a", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    stages = scratch.stages("a")
    assert [stages[each]["status"] for each in ("before", "cheat", "after")] == ["succeeded", "succeeded", "failed"]
    (found,) = stages["after"]["answer"]["detail"]["findings"]
    assert (found["path"], found["line"], found["reason"], found["cure"]) == (
        "src/a.py",
        2,
        "no-print: no print",
        "log",
    )
    assert stages["before"]["answer"]["detail"]["checked"] == 1


def test_without_a_rule_nothing_passes(scratch: Scratch) -> None:
    scratch.write("a.py", "print(1)\n")
    scratch.commit()
    ended = scratch.run("guard", "patterns")
    assert ended.returncode == 1 and "there is no rule in patterns/ at the run's commit" in ended.stdout


def test_check_and_apply(scratch: Scratch) -> None:
    scratch.write("reconciler.yaml", "guards: {patterns: {rules: lint}}\n")
    scratch.write("lint/no-print.yaml", RULE)
    scratch.write("src/a.py", "print(1)\n").chmod(0o755)
    scratch.write("src/b.py", "x = 1\n")
    ended = scratch.run("patterns", "check")
    assert (ended.returncode, ended.stdout) == (
        1, "src/a.py:1:1: no print; log [no-print]\n1 rule, 2 files: 1 found\n",
    ), ended.stderr  # fmt: skip
    sarif = json.loads(scratch.run("patterns", "check", "src", "--format", "sarif").stdout)
    place = sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == ("src/a.py", 1)
    patch = scratch.run("patterns", "apply", "--dry-run").stdout
    assert (scratch.path / "src/a.py").read_text() == "print(1)\n"
    subprocess.run(["git", "apply", "--check"], cwd=scratch.path, env=ENVIRONMENT, input=patch, text=True, check=True)
    done = json.loads(scratch.run("patterns", "apply", "--format", "json").stdout)
    assert done == {"files": [{"path": "src/a.py", "action": "updated"}], "left": 0}
    assert (scratch.path / "src/a.py").read_text() == "log(1)\n"
    assert (scratch.path / "src/a.py").stat().st_mode & 0o777 == 0o755
    assert scratch.run("patterns", "check").returncode == 0


def test_what_is_wrong_is_told_and_changes_nothing(scratch: Scratch) -> None:
    scratch.write("patterns/good.yaml", RULE)
    scratch.write("patterns/bad.yaml", "language: python\n")
    scratch.write("a.py", "print(1)\n")
    ended = scratch.run("patterns", "apply")
    assert ended.returncode == 1 and "patterns/bad.yaml:1:1: key 'message' is missing" in ended.stderr
    assert (scratch.path / "a.py").read_text() == "print(1)\n"
    ended = scratch.run("patterns", "check", "--rule", "none")
    assert ended.returncode == 2 and "there is no such rule; there are bad, good" in ended.stderr
    assert scratch.run("patterns", "apply", "--rule", "good", "a.py").returncode == 0
