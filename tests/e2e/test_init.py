"""`reconciler init` as a newcomer uses it, up to the first committed evidence."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests import preloaded
from tests.scratch import NOT_OURS

WRITTEN = [
    ".vscode/settings.json",
    "pipelines/first-checks.yaml",
    "runs.d/0001-first-run.yaml",
    "tasks/0001-first-run.md",
    "tasks/index.json",
]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)},
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "T",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "T",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}


def run(root: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=root, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, said
    return said


def reconciler(root: Path, *arguments: str, code: int = 0) -> str:
    done = preloaded.run(arguments, cwd=root, env=ENVIRONMENT, timeout=90)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    return said


def answer(root: Path, word: str) -> str:
    """Run `init` on a terminal, give it one answer, and return what it says."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "reconciler", "init"],
        cwd=root, env=ENVIRONMENT, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    os.write(master, f"{word}\n".encode())
    said, _ = process.communicate(timeout=60)
    os.close(master)
    os.close(slave)
    assert process.returncode == 0, said
    return said.decode()


def files(root: Path) -> list[str]:
    return sorted(
        each.relative_to(root).as_posix()
        for each in root.rglob("*")
        if (each.is_file() or each.is_symlink()) and ".git" not in each.relative_to(root).parts
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    run(tmp_path, "git", "init", "-q", "-b", "main", ".")
    return tmp_path


def test_the_first_run_succeeds_and_ticks_its_item(repository: Path) -> None:
    reconciler(repository, "init", "--yes")
    assert reconciler(repository, "validate", "--strict") == "4 files checked, no problems\n"
    run(repository, "git", "add", "-A")
    run(repository, "git", "commit", "-q", "-m", "runs: ask for the first one")
    reconciler(repository, "reconcile", "--wait")
    task = (repository / "tasks/0001-first-run.md").read_text()
    assert "- [x] A committed request becomes committed evidence; Evidence: [0001-first-run-" in task
    (item,) = json.loads((repository / "tasks/index.json").read_text())["items"]
    assert item["gate"]["status"] == "succeeded"
    assert json.loads((repository / item["gate"]["manifest_path"]).read_text())["status"] == "succeeded"
    assert run(repository, "git", "status", "--porcelain") == ""
    assert reconciler(repository, "validate", ".runs", "out", ".").endswith("8 files checked, no problems\n")


def test_it_shows_what_it_would_write_and_what_comes_next(repository: Path) -> None:
    said = reconciler(repository, "init", "--yes")
    assert files(repository) == WRITTEN
    for path in WRITTEN:
        assert path in said
    assert said.endswith(
        "5 files written. Next:\n"
        '  git add runs.d pipelines tasks .vscode && git commit -m "runs: ask for the first one"\n'
        "  reconciler reconcile --wait\n"
    )


def test_the_second_time_there_is_nothing_to_write(repository: Path) -> None:
    reconciler(repository, "init", "--yes")
    before = {path: (repository / path).read_bytes() for path in WRITTEN}
    said = reconciler(repository, "init")
    assert said.count("kept") == 5
    assert said.endswith("nothing to write: everything is there\n")
    assert {path: (repository / path).read_bytes() for path in files(repository)} == before


def test_what_is_there_is_never_overwritten(repository: Path) -> None:
    (repository / "tasks").mkdir()
    (repository / "tasks/index.json").write_text("mine")
    (repository / ".vscode").mkdir()
    (repository / ".vscode/settings.json").symlink_to("nowhere")
    said = reconciler(repository, "init", "--yes")
    assert said.count("kept") == 2
    assert (repository / "tasks/index.json").read_text() == "mine"
    assert not (repository / ".vscode/nowhere").exists()
    assert files(repository) == WRITTEN


def test_a_dry_run_writes_nothing(repository: Path) -> None:
    assert reconciler(repository, "init", "--dry-run").endswith("nothing was written\n")
    told = json.loads(reconciler(repository, "init", "--dry-run", "--format", "json"))
    assert sorted(each["path"] for each in told["files"]) == WRITTEN
    assert {each["action"] for each in told["files"]} == {"write"}
    assert files(repository) == []


def test_without_a_terminal_it_needs_a_yes(repository: Path) -> None:
    said = reconciler(repository, "init", code=2)
    assert "runs.d/0001-first-run.yaml" in said
    assert "nothing was written; say --yes to write without being asked" in said
    assert "say --yes" in reconciler(repository, "init", "--format", "json", code=2)
    assert files(repository) == []


def test_on_a_terminal_it_asks(repository: Path) -> None:
    assert answer(repository, "n").endswith("Write 5 files? [Y/n]: nothing was written\n")
    assert files(repository) == []
    assert "5 files written" in answer(repository, "y")
    assert files(repository) == WRITTEN


def test_json_lists_paths_and_actions(repository: Path) -> None:
    (repository / "tasks").mkdir()
    (repository / "tasks/index.json").write_text("{}")
    told = json.loads(reconciler(repository, "init", "--yes", "--format", "json"))
    assert {each["path"]: each["action"] for each in told["files"]} == {
        path: "kept" if path == "tasks/index.json" else "written" for path in WRITTEN
    }
    assert told["directory"] == str(repository)
    assert told["next"][-1] == "reconciler reconcile --wait"


def test_who_has_requests_gets_no_example(repository: Path) -> None:
    (repository / "runs.d").mkdir()
    (repository / "runs.d/mine.yaml").write_text("task: t\npipeline: p\n")
    said = reconciler(repository, "init", "--yes")
    assert files(repository) == [".vscode/settings.json", "runs.d/mine.yaml", "tasks/index.json"]
    assert json.loads((repository / "tasks/index.json").read_text()) == {"items": []}
    assert said.endswith("  reconciler plan\n")


def test_ignored_files_are_not_among_those_to_add(repository: Path) -> None:
    (repository / ".gitignore").write_text(".vscode\n")
    said = reconciler(repository, "init", "--yes")
    assert "  git add runs.d pipelines tasks && git commit" in said
    assert (repository / ".vscode/settings.json").exists()


def test_from_a_subfolder_the_repository_is_made_ready(repository: Path) -> None:
    (repository / "src").mkdir()
    said = reconciler(repository / "src", "init", "--yes")
    assert files(repository) == WRITTEN
    assert f"  cd {repository}\n" in said


def test_nothing_is_written_through_links(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (repository / "runs.d").symlink_to(outside)
    assert f"{repository}/runs.d: is in the way, it is no folder" in reconciler(repository, "init", "--yes", code=2)
    assert files(outside) == []
    assert files(repository) == ["runs.d"]


def test_it_needs_a_repository_with_files(tmp_path: Path) -> None:
    assert "not in a git repository; run 'git init' first" in reconciler(tmp_path, "init", code=2)
    run(tmp_path, "git", "init", "-q", "--bare", ".")
    assert "a bare repository has no files; run this in a clone of it" in reconciler(tmp_path, "init", code=2)


def test_detected_checks_are_what_the_first_run_does(tmp_path: Path) -> None:
    run(tmp_path, "git", "init", "-q", "-b", "main")
    (tmp_path / "Makefile").write_text("lint:\n\t@echo clean\ntest:\n\t@echo tested\n")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/package.json").write_text('{"scripts": {"test": "x"}}')
    looked = reconciler(tmp_path, "init", "--detect", "--dry-run")
    assert "Makefile has the target 'lint'" in looked and not (tmp_path / "pipelines").exists()
    told = json.loads(reconciler(tmp_path, "init", "--detect", "--yes", "--format", "json"))
    assert [each["id"] for each in told["detected"]] == ["lint", "test"]
    assert "pipelines/first-checks.yaml" not in files(tmp_path)
    run(tmp_path, "git", "add", "-A")
    run(tmp_path, "git", "commit", "-q", "-m", "first")
    reconciler(tmp_path, "reconcile", "--wait")
    (path,) = (tmp_path / ".runs").glob("*/cli/*/manifest.json")
    manifest = json.loads(path.read_bytes())
    assert (manifest["status"], manifest["pipeline_id"]) == ("succeeded", "project-checks")
    assert [each["summary"] for each in manifest["commands"]] == ["clean", "tested"]
    assert "nothing to write" in reconciler(tmp_path, "init", "--detect", "--yes")


def test_where_nothing_is_detected_the_first_checks_are_written(tmp_path: Path) -> None:
    run(tmp_path, "git", "init", "-q", "-b", "main")
    assert "nothing of Python, Node, Go or make was detected" in reconciler(tmp_path, "init", "--detect", "--yes")
    assert files(tmp_path) == WRITTEN
