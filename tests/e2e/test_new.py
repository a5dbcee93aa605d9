"""`reconciler new` as a person uses it, and everything that may be in its way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.scratch import ENVIRONMENT, Scratch

PARAMETERS = """
parameters:
  python: {default: "3.12", pattern: "3[.][0-9]+", description: The Python version to test with}
  full: {default: false}
stages: [{id: s, command: "true"}]
"""
KINDS = {
    "task": ("tasks/x.md", "docs/tasks/x.md", ".agent/tasks/x.md", "tasks/index.json"),
    "pipeline": ("pipelines/x.yaml",),
    "spec": ("docs/specs/x.md",),
    "prd": ("docs/prd/x.md",),
    "action-plan": ("docs/action-plans/x.md",),
}


def new(scratch: Scratch, *words: str, code: int = 0) -> str:
    done = scratch.run("new", *words)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    return said


def files(scratch: Scratch) -> dict[str, bytes]:
    """Return every file and link of the checkout with what it holds."""
    found = (each for each in scratch.path.rglob("*") if ".git" not in each.relative_to(scratch.path).parts)
    there = (each for each in found if each.is_symlink() or each.is_file())
    return {
        each.relative_to(scratch.path).as_posix(): os.readlink(each).encode()
        if each.is_symlink()
        else each.read_bytes()
        for each in there
    }


# ------------------------------------------------------------------------------------------------ what is written


def test_from_nothing_to_evidence_with_what_new_writes(scratch: Scratch) -> None:
    new(scratch, "task", "0002-login", "--title", "Fast login")
    new(scratch, "pipeline", "login-checks")
    new(scratch, "request", "0002-login", "--task", "0002-login", "--pipeline", "login-checks",
        "--proves", "0002-login/tests-green")  # fmt: skip
    for kind in ("spec", "prd", "action-plan"):
        new(scratch, kind, "login")
    assert scratch.run("validate", "--strict").stdout == "9 files checked, no problems\n"
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    for path in ("tasks/0002-login.md", "docs/tasks/0002-login.md", ".agent/tasks/0002-login.md"):
        assert "- [x] Tests green; Evidence: [0002-login-" in (scratch.path / path).read_text()
    (item,) = json.loads((scratch.path / "tasks/index.json").read_text())["items"]
    assert item["gate"]["status"] == "succeeded"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_writes_its_files_and_they_are_sound(scratch: Scratch, kind: str) -> None:
    said = new(scratch, kind, "x")
    assert sorted(files(scratch)) == sorted(KINDS[kind])
    for path in KINDS[kind]:
        assert path in said
    assert scratch.run("validate", "--strict").returncode == 0
    assert f"git add {' '.join(KINDS[kind])} && git commit -m " in said


def test_the_commands_it_ends_with_can_be_typed(scratch: Scratch) -> None:
    commands = json.loads(new(scratch, "task", "x", "--format", "json"))["next"]
    assert commands[-1] == "reconciler plan"
    environment = os.environ | {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.invalid"}
    environment |= {"GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.invalid"}
    subprocess.run(["sh", "-c", commands[0]], cwd=scratch.path, env=environment, check=True, capture_output=True)
    assert scratch.git("status", "--porcelain") == ""


def test_a_document_was_reviewed_today(scratch: Scratch) -> None:
    days = [datetime.now(UTC).date()]
    new(scratch, "spec", "login", "--title", "Log in: fast")
    days.append(datetime.now(UTC).date())
    text = (scratch.path / "docs/specs/login.md").read_text()
    heads = [f'---\nid: login\ntitle: "Log in: fast"\nstatus: draft\nlast_review: {day}\n---\n' for day in days]
    assert text.startswith(tuple(heads))


def test_a_task_joins_the_others_as_they_are_written(scratch: Scratch) -> None:
    before = '{\n    "items": [\n        {"id": "0001-a", "title": "A", "owner": "Ann"}\n    ]\n}'
    scratch.write("tasks/index.json", before).chmod(0o600)
    said = new(scratch, "task", "0002-b", "--no-mirrors")
    assert "1 file written, 1 updated" in said
    assert (scratch.path / "tasks/index.json").read_text() == before.replace(
        '"Ann"}', '"Ann"},\n        {"id": "0002-b", "title": "B", "path": "tasks/0002-b.md"}'
    )
    assert (scratch.path / "tasks/index.json").stat().st_mode & 0o777 == 0o600
    assert sorted(files(scratch)) == ["tasks/0002-b.md", "tasks/index.json"]


def test_of_tasks_that_are_written_at_once_none_is_lost(scratch: Scratch) -> None:
    scratch.write("tasks/index.json", '{"items": []}')
    started = {name: scratch.start("new", "task", name, "--no-mirrors") for name in ("a", "b", "c", "d")}
    ended = {name: (each.communicate(timeout=60), each.returncode) for name, each in started.items()}
    written = {name for name, (_, code) in ended.items() if code == 0}
    refused = [said[1] for said, code in ended.values() if code == 75]
    assert written and len(written) + len(refused) == len(started), ended
    assert all("try again" in each for each in refused)
    assert {each["id"] for each in json.loads(files(scratch)["tasks/index.json"])["items"]} == written
    assert set(files(scratch)) == {"tasks/index.json", *(f"tasks/{name}.md" for name in written)}


def test_items_and_mirrors_of_ones_own(scratch: Scratch) -> None:
    new(scratch, "task", "x", "--item", "fast=Answers in 100 ms", "--item", "safe=Safe", "--mirror", "docs/TODO.md")
    for path in ("tasks/x.md", "docs/TODO.md"):
        text = (scratch.path / path).read_text()
        assert "- [ ] Answers in 100 ms <!-- item: x/fast -->\n- [ ] Safe <!-- item: x/safe -->\n" in text
    assert json.loads(files(scratch)["tasks/index.json"])["items"][0]["mirrors"] == ["docs/TODO.md"]


def test_a_request_holds_what_was_given_and_the_rest_as_comments(scratch: Scratch) -> None:
    scratch.write("pipelines/p.yaml", PARAMETERS)
    scratch.write("tasks/t.md", "- [ ] A <!-- item: t/a -->\n")
    new(scratch, "request", "team/0001-x", "--task", "t", "--pipeline", "p", "--parameter", "python=3.10")
    assert (scratch.path / "runs.d/team/0001-x.yaml").read_text().splitlines()[1:] == [
        "task: t",
        "pipeline: p",
        "parameters:",
        '  python: "3.10"',
        "  # full: false  # the default",
        "# proves: [t/a]  # what success ticks",
    ]
    scratch.commit()
    assert "launch team.0001-x-" in scratch.run("plan").stdout


def test_only_mirrors_that_are_searched_are_written(scratch: Scratch) -> None:
    scratch.write("reconciler.yaml", 'checklists: ["tasks/**/*.md"]\n')
    new(scratch, "task", "x")
    assert "docs/tasks/x.md" not in files(scratch)
    assert "the setting 'checklists' leaves it out" in new(scratch, "task", "y", "--mirror", "docs/y.md", code=1)
    assert "tasks/y.md" not in files(scratch)


def test_from_a_subfolder_files_go_where_they_belong(scratch: Scratch) -> None:
    (scratch.path / "src").mkdir()
    done = scratch.run("-C", "src", "new", "pipeline", "p")
    assert done.returncode == 0, done.stderr
    assert list(files(scratch)) == ["pipelines/p.yaml"]


# ------------------------------------------------------------------------------------------------ only looking


def test_a_dry_run_writes_nothing_and_shows_a_patch(scratch: Scratch) -> None:
    scratch.write("tasks/index.json", '{"items": []}')
    before = scratch.fingerprint()
    said = new(scratch, "task", "x", "--dry-run")
    assert said.endswith("\nnothing was written\n")
    assert {path: at for path, at in scratch.fingerprint().items() if ".git" not in path} == {
        path: at for path, at in before.items() if ".git" not in path
    }
    subprocess.run(["git", "apply"], input=said.encode(), cwd=scratch.path, check=True)
    patched = files(scratch)
    scratch.git("clean", "-qfd")
    scratch.write("tasks/index.json", '{"items": []}')
    new(scratch, "task", "x")
    assert files(scratch) == patched


def test_a_dry_run_finds_the_same_faults(scratch: Scratch) -> None:
    new(scratch, "pipeline", "p")
    assert "is there already" in new(scratch, "pipeline", "p", "--dry-run", code=1)
    told = json.loads(new(scratch, "pipeline", "q", "--dry-run", "--format", "json"))
    assert [each["action"] for each in told["files"]] == ["write"]
    assert told["patches"]["pipelines/q.yaml"].startswith("--- /dev/null\n+++ b/pipelines/q.yaml\n")


# ------------------------------------------------------------------------------------------------ bad input


NO_IDS = ["../x", "a..b", "X", "-x", "x.", ".x", "", "a b", "é", "x" * 101, "/etc/x", "x\n", "$(x)"]


@pytest.mark.parametrize(
    ("kind", "id_"),
    [
        *((kind, each) for kind in ("task", "request") for each in NO_IDS),
        *((kind, each) for kind in KINDS for each in ("../x", "x.md")),
    ],
)
def test_what_is_no_id_writes_nothing(scratch: Scratch, kind: str, id_: str) -> None:
    needed = ("--task", "t", "--pipeline", "p") if kind == "request" else ()
    said = new(scratch, kind, *needed, "--", id_, code=2)
    assert said.startswith("reconciler: ")
    assert ";" in said, "it says what would be right"
    assert files(scratch) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_overwritten_and_nothing_half_written(scratch: Scratch, kind: str) -> None:
    for path in KINDS[kind]:
        if path != "tasks/index.json":
            scratch.write(path, "mine")
            said = new(scratch, kind, "x", code=1)
            assert f"{path}: is there already; choose another id, or remove or rename that file" in said
            assert files(scratch) == {path: b"mine"}
            (scratch.path / path).unlink()


def test_a_dangling_link_counts_as_there(scratch: Scratch) -> None:
    (scratch.path / "pipelines").mkdir()
    (scratch.path / "pipelines/p.yaml").symlink_to("../nowhere")
    assert "is there already" in new(scratch, "pipeline", "p", code=1)
    assert not (scratch.path / "nowhere").exists()


def test_a_task_of_the_registry_is_not_written_again(scratch: Scratch) -> None:
    scratch.write("tasks/index.json", '{"items": [{"id": "x", "title": "X"}]}')
    said = new(scratch, "task", "x", code=1)
    assert "tasks/index.json:1:12: task x is in the registry already; choose another id" in said
    assert list(files(scratch)) == ["tasks/index.json"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "tasks/index.json:1:2: is not JSON"),
        (b"[]", "is not an object"),
        (b'{"items": 1}', "`items` is not a list"),
        (b'{"items": [], "more": 1}', "more"),
        (b"\xff", "is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_registry_stops_it_and_stays_as_it_is(scratch: Scratch, text: bytes, reason: str) -> None:
    scratch.write("tasks/index.json", text)
    assert reason in new(scratch, "task", "x", code=1)
    assert files(scratch) == {"tasks/index.json": text}


def test_a_linked_registry_is_not_written_through(scratch: Scratch) -> None:
    target = scratch.outside / "index.json"
    target.write_text('{"items": []}')
    (scratch.path / "tasks").mkdir()
    (scratch.path / "tasks/index.json").symlink_to(target)
    assert "this is a symbolic link, not a file" in new(scratch, "task", "x", code=1)
    assert target.read_text() == '{"items": []}'
    assert list(files(scratch)) == ["tasks/index.json"]


@pytest.mark.parametrize("folder", ["tasks", "docs", ".agent"])
def test_nothing_is_written_through_a_linked_directory(scratch: Scratch, folder: str) -> None:
    (scratch.path / folder).symlink_to(scratch.outside)
    assert f"{scratch.path}/{folder}: is in the way, it is no folder" in new(scratch, "task", "x", code=2)
    assert list(scratch.outside.iterdir()) == []
    assert list(files(scratch)) == [folder]


def test_a_file_in_the_way_of_a_folder_is_named(scratch: Scratch) -> None:
    scratch.write("docs", "no folder")
    assert "docs: is in the way, it is no folder; remove or rename it" in new(scratch, "spec", "x", code=2)


def test_a_directory_that_may_not_be_written_leaves_nothing_behind(scratch: Scratch) -> None:
    """A name that is too long for the file system stands for everything that it may refuse: root may write anywhere."""
    long = f"docs/{'x' * 250}.md"
    said = new(scratch, "task", "x", "--mirror", long, code=75)
    assert "cannot be written: File name too long" in said
    assert files(scratch) == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_leaves_nothing_behind(scratch: Scratch) -> None:
    (scratch.path / "docs").mkdir(mode=0o555)
    assert "cannot be written: Permission denied" in new(scratch, "task", "x", code=75)
    assert files(scratch) == {}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--item", "x"), "write NAME=TEXT"),
        (("--item", "X=y"), "has upper-case letters; rename to 'x'"),
        (("--item", "a=A", "--item", "a=B"), "item 'a' is there twice"),
        (("--item", "a="), "is one line of text"),
        (("--item", "a=x <!-- item: y/z -->"), "begins a comment"),
        (("--title", "a\nb"), "is one line of text"),
        (("--title", "x" * 201), "at most 200 characters"),
        (("--mirror", "../x.md"), "no path of another Markdown file"),
        (("--mirror", "/x.md"), "no path of another Markdown file"),
        (("--mirror", ".git/x.md"), "no path of another Markdown file"),
        (("--mirror", "docs/x.txt"), "no path of another Markdown file"),
        (("--mirror", "tasks/x.md"), "no path of another Markdown file"),
        (("--mirror", "docs/a.md", "--mirror", "docs/a.md"), "name each file once"),
        (("--mirror", "docs/a.md", "--no-mirrors"), "exclude each other"),
    ],
)
def test_a_task_that_cannot_be(scratch: Scratch, words: tuple[str, ...], reason: str) -> None:
    assert reason in new(scratch, "task", "x", *words, code=2)
    assert files(scratch) == {}


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("--task", "0001-demp", "--pipeline", "p"), 2, "there is no task '0001-demp'; did you mean '0001-demo'?"),
        (("--task", "zzz", "--pipeline", "p"), 2, "there is no task 'zzz'; write it with: reconciler new task ID"),
        (("--task", "0001-demo", "--pipeline", "pp"), 2, "there is no pipeline 'pp'; did you mean 'p'?"),
        (("--task", "0001-demo", "--pipeline", "../p"), 2, "there is no pipeline '../p'"),
        (("--task", "0001-demo", "--pipeline", "broken"), 1, "pipelines/broken.yaml:1:1: unknown key 'stage'"),
        (("--task", "0001-demo", "--pipeline", "p", "--param", "x"), 2, "write KEY=VALUE"),
        (("--task", "0001-demo", "--pipeline", "p", "--param", "pyton=3.1"), 1, "has no parameter 'pyton'"),
        (("--task", "0001-demo", "--pipeline", "p", "--param", "python=2"), 1, "does not match"),
        (("--task", "0001-demo", "--pipeline", "asks"), 1, "token"),
        (("--task", "0001-demo", "--pipeline", "p", "--title", " "), 0, ""),
    ],
)
def test_a_request_that_cannot_be(scratch: Scratch, words: tuple[str, ...], code: int, reason: str) -> None:
    if not code:
        words, code, reason = (*words[:-1], "\t"), 2, "--title: is one line of text"
    scratch.write("pipelines/p.yaml", PARAMETERS)
    scratch.write("pipelines/broken.yaml", "stage: []\n")
    scratch.write("pipelines/asks.yaml", 'parameters: {token: {}}\nstages: [{id: s, command: "true"}]\n')
    scratch.write("tasks/index.json", '{"items": [{"id": "0001-demo", "title": "Demo"}]}')
    before = files(scratch)
    assert reason in new(scratch, "request", "x", *words, code=code)
    assert files(scratch) == before


def test_a_name_that_another_path_claims_is_refused(scratch: Scratch) -> None:
    scratch.write("pipelines/p.yaml", PARAMETERS)
    scratch.write("tasks/t.md", "# T\n")
    scratch.write("runs.d/a.b.yaml", "task: t\npipeline: p\n")
    said = new(scratch, "request", "a/b", "--task", "t", "--pipeline", "p", code=1)
    assert "runs.d/a/b.yaml: the name 'a.b' is also claimed by runs.d/a.b.yaml" in said


def test_an_unknown_item_is_warned_of(scratch: Scratch) -> None:
    scratch.write("pipelines/p.yaml", PARAMETERS)
    scratch.write("tasks/t.md", "- [ ] A <!-- item: t/tests-green -->\n")
    said = new(scratch, "request", "x", "--task", "t", "--pipeline", "p", "--proves", "t/test-green")
    assert "warning: runs.d/x.yaml" in said
    assert "did you mean 't/tests-green'?" in said


def test_it_needs_a_repository_with_files(scratch: Scratch, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    said = new(scratch, "task", "x") and scratch.run("-C", str(place), "new", "task", "x")
    assert said.returncode == 2
    assert "not in a git repository; run 'git init' first" in said.stderr
    scratch.git("init", "-q", "--bare", str(place))
    bare = scratch.run("-C", str(place), "new", "task", "x")
    assert bare.returncode == 2
    assert "a bare repository has no files; run this in a clone of it" in bare.stderr


def test_an_unknown_kind_is_refused(scratch: Scratch) -> None:
    assert "No such command 'tsk'" in new(scratch, "tsk", "x", code=2)


# ------------------------------------------------------------------------------------------------ completion


PROGRAM = "import sys; sys.argv[0] = 'reconciler'; from reconciler.cli import main; main()"


def completed(scratch: Scratch, words: str) -> list[str]:
    """Return what bash offers for the last of some words."""
    asked = {"_RECONCILER_COMPLETE": "bash_complete", "COMP_WORDS": f"reconciler {words}"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=scratch.path, capture_output=True, text=True, check=True,
        env=ENVIRONMENT | asked | {"COMP_CWORD": str(len(words.split()))},
    )  # fmt: skip
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ne", ["new"]),
        ("doc", ["doctor"]),
        ("new p", ["pipeline", "prd"]),
        ("new pipeline --dr", ["--dry-run"]),
        ("doctor --form", ["--format"]),
    ],
)
def test_the_shell_completes_kinds_and_options(scratch: Scratch, words: str, found: list[str]) -> None:
    assert completed(scratch, words) == found


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("logs 000", ["0001-first", "0002-more"]),
        ("why night", ["nightly.0003"]),
        ("start b", ["build"]),
        ("start build --task ta", ["task-a"]),
        ("-C sub/folder status 0001", ["0001-first"]),
    ],
)
def test_the_shell_completes_names(scratch: Scratch, words: str, found: list[str]) -> None:
    for name in ("0001-first.yaml", "0002-more.yaml", "nightly/0003.yaml", "0001-first.gate.approval.yaml"):
        scratch.write(f"runs.d/{name}", "task: task-a\npipeline: build\n")
    scratch.write("pipelines/build.yaml", "stages: []\n")
    scratch.write("tasks/task-a.md", "# A\n")
    (scratch.path / "sub/folder").mkdir(parents=True)
    assert completed(scratch, words) == found
