"""The files for forges: what checkers of others say of them, offline, and what we promise beyond that."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from reconciler.check import kind_of
from reconciler.forges.where import SECRETS
from tests.programs import actionlint, program
from tests.test_docs import GUIDE, README, ROOT, fences, name_of, read

ACTION = ROOT / "action.yml"
HOOKS = ROOT / ".pre-commit-hooks.yaml"
EXAMPLES = sorted((ROOT / "docs/ci").glob("*.yml"))
GITLAB = ROOT / "docs/ci/gitlab.yml"
IN_ACTIONS = [*sorted((ROOT / ".github/workflows").glob("*.yml")), *(each for each in EXAMPLES if each != GITLAB)]
EXPRESSION = "${{"
VERIFIED = {"actions/checkout": {"3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1"}}
"""The commits of others that are used, with the tag that names each in its own repository."""
PLACEHOLDER = "your-org/gitops-reconciler@" + "0" * 40


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(read(path))
    return found


def parts(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load(path)["jobs"]
    return found


in_actions = pytest.mark.parametrize("path", IN_ACTIONS, ids=name_of)

# ------------------------------------------------------------------------------------------------ checkers of others


def zizmor(*paths: Path) -> subprocess.CompletedProcess[str]:
    words = ["--offline", "--no-progress", "--persona=pedantic", "--strict-collection", "--collect=all", "--no-config"]
    return subprocess.run(
        [program("zizmor"), *words, *map(str, paths)], capture_output=True, text=True, check=False, timeout=60
    )


def test_zizmor_finds_nothing() -> None:
    done = zizmor(ACTION, HOOKS, *IN_ACTIONS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_finds_nothing() -> None:
    assert actionlint(*IN_ACTIONS) == ""


def test_the_checkers_find_what_is_wrong(tmp_path: Path) -> None:
    bad = tmp_path / ".github/workflows/bad.yml"
    bad.parent.mkdir(parents=True)
    bad.write_text(
        "on: [pull_request]\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n"
        "      - run: echo ${{ github.event.pull_request.title }}\n      - run: echo ${{ nonsense.x }}\n"
    )
    assert "template-injection" in zizmor(bad).stdout
    assert "nonsense" in actionlint(bad)


@pytest.mark.parametrize(
    ("schema", "paths"),
    [("vendor.gitlab-ci", [GITLAB]), ("vendor.github-actions", [ACTION]), ("vendor.github-workflows", IN_ACTIONS)],
    ids=["gitlab", "action", "in-actions"],
)
def test_a_file_keeps_the_schema_of_its_forge(schema: str, paths: list[Path]) -> None:
    words = [program("check-jsonschema"), "--builtin-schema", schema, *map(str, paths)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_hooks_are_such_as_pre_commit_takes() -> None:
    words = [program("pre-commit"), "validate-manifest", str(HOOKS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "path",
    [
        "runs.d/a/b.yaml",
        "runs.d/a.approval.yaml",
        "pipelines/p.yaml",
        "reconciler.yaml",
        "tasks/index.json",
        "docs/x.md",
    ],
)
def test_the_hook_looks_at_our_files_and_at_no_others(path: str) -> None:
    (hook,) = YAML(typ="safe", pure=True).load(read(HOOKS))
    assert kind_of(path) is not None
    assert re.search(hook["files"], path)
    assert re.search(hook["files"], f"other/{path}") is None
    assert hook["pass_filenames"] is False, "a pipeline that is changed can be wrong for a request that is not"


# ------------------------------------------------------------------------------------------------ what we promise


def test_no_expression_stands_in_a_script() -> None:
    scripts = [each["run"] for each in load(ACTION)["runs"]["steps"]]
    scripts += [
        each["run"] for path in IN_ACTIONS for part in parts(path).values() for each in part["steps"] if "run" in each
    ]
    assert len(scripts) >= 3
    assert [each for each in scripts if EXPRESSION in each] == []


@in_actions
def test_what_others_wrote_is_pinned_to_a_commit_that_was_looked_up(path: Path) -> None:
    for name, commit in re.findall(r"uses: ([^@\s]+)@(.*)", read(path)):
        if not f"{name}@{commit}".startswith(PLACEHOLDER):
            assert commit in VERIFIED[name]


@in_actions
def test_permissions_are_given_to_each_part_alone_and_none_keeps_credentials(path: Path) -> None:
    whole = load(path)
    assert whole["permissions"] == {}
    assert "concurrency" in whole
    for part in whole["jobs"].values():
        assert 0 < part["timeout-minutes"] <= 60
        assert part["permissions"]
        for each in part["steps"]:
            if each.get("uses", "").startswith("actions/checkout@"):
                assert each["with"]["persist-credentials"] is False


@in_actions
def test_a_proposal_gets_no_right_to_write_to_the_repository(path: Path) -> None:
    found = parts(path)
    assert set(found) == {"proposal", "branch"}
    assert found["proposal"]["permissions"] == {"contents": "read", "pull-requests": "write", "statuses": "write"}
    assert found["branch"]["permissions"] == {"contents": "write", "statuses": "write"}


@in_actions
def test_nothing_starts_with_the_secrets_of_the_base_for_what_a_fork_wrote(path: Path) -> None:
    assert set(load(path)["on"]) >= {"pull_request", "push", "schedule"}
    assert set(load(path)["on"]) <= {"pull_request", "merge_group", "push", "schedule"}


@pytest.mark.parametrize("path", [each for each in IN_ACTIONS if "merge_group" in read(each)], ids=name_of)
def test_on_github_a_proposal_is_judged_from_the_base(path: Path) -> None:
    """So the program that looks at a proposal of this project's own is never the proposal's."""
    checkout = parts(path)["proposal"]["steps"][0]["with"]
    assert checkout["ref"] == "${{ github.event.pull_request.base.sha || github.event.merge_group.base_sha }}"


def test_the_project_does_what_it_shows() -> None:
    """The project's own file is the example with an action, a schedule and tools of its own."""
    shown, own = parts(ROOT / "docs/ci/github.yml"), parts(ROOT / ".github/workflows/reconciler.yml")
    for name, each in shown.items():
        assert {key: value for key, value in own[name].items() if key != "steps"} == {
            key: value for key, value in each.items() if key != "steps"
        }


def test_the_action_takes_no_option_for_a_verb_and_no_shell_for_an_option() -> None:
    script = load(ACTION)["runs"]["steps"][1]["run"]
    assert "eval" not in script
    assert '"$COMMAND" "${arguments[@]}"' in script


def test_the_token_of_gitlab_is_one_that_no_stage_inherits() -> None:
    assert "GITLAB_TOKEN" in SECRETS
    assert "CI_JOB_TOKEN" not in read(GITLAB)


# ------------------------------------------------------------------------------------------------ documents


def test_what_the_documents_show_is_what_the_files_say() -> None:
    shown = [each for document in (README, GUIDE) for each in fences(document, "yml")]
    for text in shown:
        where = [path for path in (*EXAMPLES, *IN_ACTIONS) if text in read(path)]
        if text.startswith("# .pre-commit-config.yaml\n"):
            (hook,) = YAML(typ="safe", pure=True).load(text)["repos"][0]["hooks"]
            assert hook["id"] in {each["id"] for each in load(HOOKS)}
        else:
            assert where, f"no file holds:\n{text}"
    for path in EXAMPLES:
        assert read(path) in shown, f"the guide does not show {name_of(path)}"


def test_the_inputs_and_outputs_of_the_action_are_documented() -> None:
    action = load(ACTION)
    for name in (*action["inputs"], *action["outputs"]):
        assert f"| `{name}` |" in read(GUIDE), name
