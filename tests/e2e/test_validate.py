"""`reconciler validate` as people and CI use it: real files, the real command line, its words and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reconciler.check import Kind, check
from reconciler.contracts import Contracts
from tests import preloaded
from tests.scratch import NOT_OURS

REQUEST = "task: 0001-demo\npipeline: diagnostics\n"
PIPELINE = """\
parameters: {python: {default: "3.12", pattern: "3[.][0-9]+"}}
stages:
  - id: build
    command: make build
"""
CHECKLIST = """\
- [ ] Tests green <!-- item: 0001-demo/tests-green -->
- [ ] Reviewed <!-- item: 0001-demo/reviewed -->
"""
INDEX = '{"items": [{"id": "0001-demo", "title": "Demo", "path": "tasks/0001-demo.md"}]}\n'
SOUND = {
    "runs.d/0001-demo.yaml": REQUEST + "proves: [0001-demo/tests-green]\n",
    "pipelines/diagnostics.yaml": PIPELINE,
    "tasks/0001-demo.md": CHECKLIST,
    "tasks/index.json": INDEX,
    "reconciler.yaml": "runs_max: 2\n",
    "README.md": "none of ours",
}
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)},
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def write(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text.encode())
    return root


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=root, env=ENVIRONMENT, check=True, capture_output=True)
    return done.stdout.decode().strip()


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "files")


def validate(root: Path, *arguments: str, text: str = "", code: int | None = None, **variables: str) -> str:
    done = preloaded.run(["validate", *arguments], cwd=root, env=ENVIRONMENT | variables, timeout=90, told=text)
    said = done.stdout + done.stderr
    assert code is None or done.returncode == code, said
    return said


def lines(root: Path, *arguments: str, text: str = "", code: int | None = None) -> list[str]:
    return validate(root, *arguments, text=text, code=code).splitlines()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "main", ".")
    return write(tmp_path, SOUND)


# ------------------------------------------------------------------------------------------------ what is found


def test_sound_files_have_no_problems(repository: Path) -> None:
    assert lines(repository, code=0) == ["5 files checked, no problems"]


def test_all_problems_of_all_files_are_told_at_once(repository: Path) -> None:
    write(repository, {
        "runs.d/0002-typos.yaml": "task: Demo\npipelin: diagnostics\n",
        "runs.d/nested/0003.yaml": "task: [\n",
        "pipelines/broken.yaml": "stages:\n  - id: a\n",
        "pipelines/deeper/lost.yaml": PIPELINE,
        "reconciler.yml": "runs_max: 2\n",
        "reconciler.yaml": "runs_max: 0\n",
        "tasks/index.json": '{"items": [\n  {"id": "a", "title": "A"},\n  {"id": "a", "title": 7}\n]}\n',
    })  # fmt: skip
    said = lines(repository, code=1)
    assert "runs.d/0002-typos.yaml:2:1: unknown key 'pipelin'; did you mean 'pipeline'?" in said
    assert said[-1] == "10 files checked, 10 problems in 7 files"
    assert [each.split(": ")[0] for each in said[:-1]] == [
        "pipelines/broken.yaml:2:5",
        "pipelines/deeper/lost.yaml",
        "reconciler.yaml:1:1",
        "reconciler.yml",
        "runs.d/0002-typos.yaml:1:1",
        "runs.d/0002-typos.yaml:1:1",
        "runs.d/0002-typos.yaml:2:1",
        "runs.d/nested/0003.yaml:2:1",
        "tasks/index.json:3:4",
        "tasks/index.json:3:15",
    ]


def test_an_approval_is_known_by_its_name(repository: Path) -> None:
    write(repository, {"runs.d/0001-demo.approval.yaml": "run: 0001-demo-12345678\n"})
    said = validate(repository, code=1)
    assert "runs.d/0001-demo.approval.yaml:1:1: key 'decision' is missing; add 'decision: ...'" in said


def test_what_a_request_says_must_fit_its_pipeline(repository: Path) -> None:
    write(repository, {
        "runs.d/0002.yaml": "task: t\npipeline: diagnostic\n",
        "runs.d/0003.yaml": REQUEST + "target: biuld\nparameters:\n  pyton: '3.12'\n  python: '4'\n",
    })  # fmt: skip
    assert lines(repository, code=1) == [
        "runs.d/0002.yaml:2:1: there is no pipeline 'diagnostic'; did you mean 'diagnostics'?",
        "runs.d/0003.yaml:3:1: pipeline 'diagnostics' has no stage 'biuld'; did you mean 'build'?",
        "runs.d/0003.yaml:5:3: pipeline 'diagnostics' has no parameter 'pyton'; did you mean 'python'?",
        "runs.d/0003.yaml:6:3: parameter 'python' is '4', which does not match the pattern 3[.][0-9]+; "
        "see pipelines/diagnostics.yaml",
        "7 files checked, 4 problems in 2 files",
    ]


def test_names_that_are_claimed_twice_are_told_for_both_files(repository: Path) -> None:
    write(repository, {"runs.d/a/b.yaml": REQUEST, "runs.d/a.b.yaml": REQUEST, "runs.d/A/c.yaml": REQUEST})
    write(repository, {"runs.d/a/c.yaml": REQUEST})
    assert lines(repository, code=1) == [
        "runs.d/A/c.yaml: 'A' has upper-case letters; rename to 'a'",
        "runs.d/A/c.yaml: the path differs from runs.d/a/c.yaml in upper and lower case only; rename one of them",
        "runs.d/a.b.yaml: the name 'a.b' is also claimed by runs.d/a/b.yaml; rename one of them",
        "runs.d/a/b.yaml: the name 'a.b' is also claimed by runs.d/a.b.yaml; rename one of them",
        "runs.d/a/c.yaml: the path differs from runs.d/A/c.yaml in upper and lower case only; rename one of them",
        "9 files checked, 5 problems in 4 files",
    ]


def test_what_cannot_be_proven_is_a_warning_with_a_suggestion(repository: Path) -> None:
    write(repository, {
        "runs.d/0002.yaml": REQUEST + "proves:\n  - 0001-demo/reviewed\n  - 0001-demo/test-green\n  - other/thing\n",
        "tasks/more.md": "words <!-- item: 0001-demo/lost -->\n\n- [ ] x <!-- item: Not An Id -->\n",
    })  # fmt: skip
    assert lines(repository, code=0) == [
        "runs.d/0002.yaml:5:5: warning: item '0001-demo/test-green' stands in no checklist; "
        "did you mean '0001-demo/tests-green'?",
        "runs.d/0002.yaml:6:5: warning: item 'other/thing' stands in no checklist; "
        "end the line of a checkbox with <!-- item: other/thing -->",
        "tasks/more.md:1:7: warning: an item comment stands on a line that is no item; "
        "put it at the end of a line such as `- [ ] Tests green`",
        "tasks/more.md:3:9: warning: 'Not An Id' is no item id; write words of a-z, 0-9, `.`, `_`, `-`, joined by `/`, "
        "200 characters at most",
        "7 files checked, 4 warnings in 2 files",
    ]
    validate(repository, "--strict", code=1)


def test_checklists_are_what_the_settings_say(repository: Path) -> None:
    write(repository, {
        "reconciler.yaml": "checklists: ['todo/*.md']\n",
        "todo/now.md": "- [ ] x <!-- item: 0001-demo/tests-green -->\n<!-- item: 0001-demo/lost -->\n",
        "todo/deeper/later.md": "<!-- item: 0001-demo/lost -->\n",
    })  # fmt: skip
    said = lines(repository, code=0)
    assert [each.split(" ")[0] for each in said[:-1]] == ["tasks/index.json:1:49:", "todo/now.md:2:1:"]
    assert "there is no checklist 'tasks/0001-demo.md'" in said[0]


@pytest.mark.parametrize(("text", "said"), [
    ('{"items": [', "tasks/index.json:1:12: this is not JSON: Expecting value"),
    ('{"items": []}}', "tasks/index.json:1:14: this is not JSON: Extra data"),
    ('{"items": [NaN]}', "tasks/index.json: this is not JSON: NaN is no number"),
    ("[]", "tasks/index.json:1:1: the file is a list, expected a mapping"),
    ("[" * 100_000, "tasks/index.json: this is nested too deeply"),
    ('{"items": [], "items": []}', "tasks/index.json:1:15: key 'items' is there twice; keep one"),
    ('{"items":\n [{"title": "T", "id": "a", "a\\"]": {"b": []}},\n {"id": "B", "title": "x"}]}',
     "tasks/index.json:3:3: 'B' is not an id"),
    ('\ufeff{"itemz": 1, "items": []}', "tasks/index.json:1:2: unknown key 'itemz'; did you mean 'items'?"),
])  # fmt: skip
def test_json_is_told_with_line_and_column(text: str, said: str) -> None:
    path = "tasks/index.json"
    problems = check({path: text.encode()}, {path: Kind.TASK_INDEX}, Contracts())
    assert problems[0].sentence().startswith(said)


def test_links_are_problems_and_are_not_followed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = write(tmp_path_factory.mktemp("outside"), {"x.yaml": "secret: 1\n"})
    (repository / "runs.d/file.yaml").symlink_to(outside / "x.yaml")
    (repository / "runs.d/folder").symlink_to(outside)
    (repository / "tasks/loop").symlink_to(repository)
    os.mkfifo(repository / "runs.d/pipe.yaml")
    assert lines(repository, code=1) == [
        "runs.d/file.yaml: this is a symbolic link, not a file; commit the file itself",
        "runs.d/pipe.yaml: this is a pipe, socket or device, not a file; commit the file itself",
        "7 files checked, 2 problems in 2 files",
    ]


# ------------------------------------------------------------------------------------------------ what is looked at


def test_named_files_are_checked_with_all_that_they_refer_to(repository: Path) -> None:
    write(repository, {"runs.d/0002.yaml": REQUEST + "proves: [0001-demo/nothing]\n", "runs.d/0003.yaml": "x: 1\n"})
    said = lines(repository, "runs.d/0002.yaml", "runs.d/0001-demo.yaml", code=0)
    assert said[0].startswith("runs.d/0002.yaml:3:10: warning: item '0001-demo/nothing' stands in no checklist")
    assert said[1:] == ["2 files checked, 1 warning in 1 file"]


def test_a_folder_is_checked_below_it_only(repository: Path) -> None:
    write(repository, {"runs.d/sub/a.yaml": "x: 1\n", "runs.d/b.yaml": "x: 1\n"})
    said = lines(repository, "runs.d/sub", "pipelines", code=1)
    assert {each.split(":")[0] for each in said[:-1]} == {"runs.d/sub/a.yaml"}
    assert said[-1] == "2 files checked, 3 problems in 1 file"
    assert lines(repository / "runs.d", "sub", ".", code=1)[-1] == "3 files checked, 6 problems in 2 files"


def test_from_a_subfolder_the_whole_repository_is_checked(repository: Path) -> None:
    assert lines(repository / "tasks", code=0) == ["5 files checked, no problems"]
    assert lines(repository.parent, "--help", code=0)
    done = subprocess.run(
        [sys.executable, "-m", "reconciler", "-C", str(repository), "validate", "runs.d"],
        cwd="/", env=ENVIRONMENT, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == b"1 file checked, no problems\n"


def test_examples_in_a_repository_are_checked_by_their_own_places(repository: Path) -> None:
    write(repository, {"examples/one/runs.d/a.yaml": "task: t\npipeline: p\n", "examples/one/pipelines/p.yaml": "x: 1"})
    assert lines(repository, code=0)[-1] == "5 files checked, no problems"
    said = lines(repository, "examples/one", "runs.d/0001-demo.yaml", code=1)
    assert said[0].startswith("examples/one/pipelines/p.yaml:1:1: ")
    assert "examples/one/runs.d/a.yaml:2:1: pipeline 'p' cannot be used" in "\n".join(said)
    assert said[-1].startswith("3 files checked, ")
    assert lines(repository, "examples/one/runs.d/a.yaml", code=1)[-1] == "1 file checked, 1 problem in 1 file"


def test_records_are_checked_when_they_are_named(repository: Path) -> None:
    write(repository, {
        ".runs/t/cli/r-12345678/manifest.json": "{}",
        ".runs/t/r-12345678/manifest.json": "{}",
        ".runs/t/metrics.json": "{}",
        "out/t/state.json": "{}",
    })  # fmt: skip
    assert lines(repository, code=0) == ["5 files checked, no problems"]
    assert lines(repository, ".", code=0) == ["5 files checked, no problems"]
    assert lines(repository, ".runs/t/metrics.json", code=1)[0] == (
        ".runs/t/metrics.json:1:1: key 'schema_version' is missing; add 'schema_version: ...'"
    )
    said = lines(repository, ".runs", "out", code=1)
    assert said[-1].startswith("4 files checked, ")
    assert said[-1].endswith(" in 4 files")


def test_other_repositories_inside_are_left_alone(repository: Path) -> None:
    write(repository, {"docs/vendored/x.md": "<!-- item: a -->\n"})
    git(repository, "init", "-q", "docs/vendored")
    assert lines(repository, code=0) == ["5 files checked, no problems"]


def test_plain_paths_need_no_repository(tmp_path: Path) -> None:
    write(tmp_path, {"a/runs.d/x.yaml": "task: t\npipeline: p\n", "b/pipelines/p.yaml": "stages: []\n"})
    assert lines(tmp_path, "a/runs.d/x.yaml", code=0) == ["1 file checked, no problems"]
    assert lines(tmp_path, "b/pipelines/p.yaml", code=1)[0].startswith("b/pipelines/p.yaml:1:1: 'stages' is empty")
    assert validate(tmp_path, "a", PATH="", code=0) == "1 file checked, no problems\n"
    assert lines(tmp_path, code=0) == ["0 files checked: there is nothing of ours here; see: reconciler init"]


def test_as_says_what_a_file_is(repository: Path) -> None:
    write(repository, {"draft.txt": "task: t\npipeline: diagnostic\n"})
    assert lines(repository, "--as", "request", "draft.txt", code=1) == [
        "draft.txt:2:1: there is no pipeline 'diagnostic'; did you mean 'diagnostics'?",
        "1 file checked, 1 problem in 1 file",
    ]
    assert lines(repository, "--as", "pipeline", "-", text=PIPELINE, code=0) == ["1 file checked, no problems"]
    assert lines(repository, "--as", "settings", "-", text="a: 1\n", code=1)[0].startswith("<stdin>:1:1: unknown key")
    assert lines(repository, "--as", "request", "runs.d/0001-demo.yaml", code=0) == ["1 file checked, no problems"]


@pytest.mark.parametrize(("arguments", "said"), [
    (["nowhere.yaml"], "nowhere.yaml: no such file or directory"),
    (["README.txt"], "README.txt: its place does not say what it is; say --as with one of: request, "),
    (["-"], "- needs --as: "),
    (["--as", "request"], "--as needs a path, or - for standard input"),
    (["--as", "request", "--commit", "HEAD", "x"], "--as and --commit exclude each other"),
    (["--as", "request", "runs.d"], "runs.d: no such file"),
    (["--as", "poem", "x"], "'poem' is not one of"),
    (["--commit", "HEAD"], "--commit HEAD: there is no such commit"),
    (["--commit", "--output=x"], "--commit --output=x: there is no such commit"),
    (["--commit", "HEAD", "/"], "/: is not in the repository"),
])  # fmt: skip
def test_wrong_usage_says_what_would_be_right(repository: Path, arguments: list[str], said: str) -> None:
    write(repository, {"README.txt": ""})
    assert said in validate(repository, *arguments, code=2)


# ------------------------------------------------------------------------------------------------ a commit


def test_a_commit_is_checked_whatever_lies_on_disk(repository: Path) -> None:
    write(repository, {"runs.d/0002.yaml": "task: t\npipeline: nothing\n"})
    (repository / "runs.d/link.yaml").symlink_to("0002.yaml")
    commit(repository)
    (repository / "runs.d/0002.yaml").unlink()
    (repository / "runs.d/link.yaml").unlink()
    assert lines(repository, code=0)[-1] == "5 files checked, no problems"
    assert lines(repository, "--commit", "HEAD", code=1) == [
        "runs.d/0002.yaml:2:1: there is no pipeline 'nothing'; known pipelines: diagnostics",
        "runs.d/link.yaml: this is a symbolic link, not a file; commit the file itself",
        "7 files checked, 2 problems in 2 files",
    ]
    assert lines(repository / "runs.d", "--commit", "main", "0001-demo.yaml", "../tasks", code=0) == [
        "3 files checked, no problems"
    ]
    assert "nowhere: there is no such path in HEAD" in validate(repository, "--commit", "HEAD", "nowhere", code=2)


def test_a_commit_and_the_same_files_on_disk_have_the_same_problems(repository: Path) -> None:
    write(repository, {"runs.d/a.b.yaml": "x: 1\n", "runs.d/a/b.yaml": REQUEST, ".runs/t/metrics.json": "{}"})
    commit(repository)
    assert lines(repository, code=1) == lines(repository, "--commit", "HEAD", code=1)
    assert lines(repository, ".runs", code=1) == lines(repository, "--commit", "HEAD", ".runs", code=1)


def test_a_bare_repository_has_commits_only(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    commit(repository)
    bare = tmp_path_factory.mktemp("bare")
    git(bare, "clone", "-q", "--bare", str(repository), ".")
    assert lines(bare, "--commit", "main", code=0) == ["5 files checked, no problems"]
    assert lines(bare, "--commit", "main", "tasks", code=0) == ["2 files checked, no problems"]


def test_where_nothing_is_checked_out_the_tip_is_checked(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write(repository, {"runs.d/bad.yaml": "task: 0001-demo\n"})
    commit(repository)
    place = tmp_path_factory.mktemp("clones")
    git(place, "clone", "-q", "--bare", str(repository), "bare")
    git(place, "clone", "-q", "-n", str(repository), "empty")
    tip = git(repository, "rev-parse", "HEAD")[:12]
    for name in ("bare", "empty"):
        first, last = lines(place / name, code=1)
        assert first.startswith("runs.d/bad.yaml:1:1: ")
        assert last == f"6 files checked at {tip}, as nothing is checked out, 1 problem in 1 file"
        assert json.loads(validate(place / name, "--format", "json", code=1))["commit"] == tip


def test_of_an_address_what_is_there_is_checked(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write(repository, {"runs.d/bad.yaml": "task: 0001-demo\n", "runs.d/0001-demo.yaml": REQUEST + "suspend: true\n"})
    commit(repository)
    cache = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}

    def at(*words: str) -> subprocess.CompletedProcess[str]:
        said = ("--repo", f"file://{repository}", *words)
        return preloaded.run(said, cwd=repository, env=ENVIRONMENT | cache, timeout=60)

    checked = at("validate")
    assert checked.returncode == 1 and checked.stdout.startswith("runs.d/bad.yaml:1:1: "), checked.stderr
    assert "as nothing is checked out" in checked.stdout


# ------------------------------------------------------------------------------------------------ how it is told


def test_json_counts_and_lists_problems(repository: Path) -> None:
    write(repository, {"runs.d/0002.yaml": REQUEST + "proves: [a]\n", "runs.d/0003.yaml": "task: t\npipeline: x\n"})
    told: dict[str, Any] = json.loads(validate(repository, "--format", "json", code=1))
    assert (told["files"], told["errors"], told["warnings"]) == (7, 1, 1)
    assert [each["rule"] for each in told["problems"]] == ["unknown-item", "unknown-pipeline"]
    assert told["problems"][1] == {
        "path": "runs.d/0003.yaml",
        "reason": "there is no pipeline 'x'",
        "rule": "unknown-pipeline",
        "cure": "known pipelines: diagnostics",
        "line": 2,
        "column": 1,
        "pointer": "/pipeline",
        "severity": "error",
    }


def test_sarif_names_files_by_their_path_in_the_repository(repository: Path) -> None:
    write(repository, {"runs.d/0003.yaml": "task: t\npipeline: x\n"})
    log: dict[str, Any] = json.loads(validate(repository / "tasks", "--format", "sarif", code=1))
    (result,) = log["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "runs.d/0003.yaml", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 2, "startColumn": 1},
    }
    (rule,) = log["runs"][0]["tool"]["driver"]["rules"]
    assert rule["id"] == result["ruleId"] == "unknown-pipeline"


def test_names_and_texts_cannot_move_the_cursor(repository: Path) -> None:
    write(repository, {"runs.d/\x1b[2J.yaml": REQUEST, "tasks/x.md": "- [ ] x <!-- item: \x1b[31m -->\n"})
    if sys.platform == "linux":  # elsewhere file names are text
        (repository / "runs.d" / os.fsdecode(b"\xff.yaml")).write_text(REQUEST)
    for form in ("text", "json", "sarif"):
        said = validate(repository, "--format", form, code=1)
        assert "\x1b" not in said


def test_nothing_is_written(repository: Path) -> None:
    commit(repository)
    before = sorted(repository.rglob("*"))
    validate(repository, code=0)
    validate(repository, "--commit", "HEAD", code=0)
    assert sorted(repository.rglob("*")) == before
    assert git(repository, "status", "--porcelain") == ""
