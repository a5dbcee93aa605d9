"""What each verb loads: start-up is most of what a quick command costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.scratch import ENVIRONMENT, Scratch

HEAVY = {
    "git",
    "rich",
    "jsonschema",
    "jsonschema_rs",
    "ruamel",
    "markdown_it",
    "httpx",
    "watchdog",
    "hypothesis",
    "jinja2",
    "starlette",
    "uvicorn",
    "mcp",
    "pydantic",
    "fastapi",
    "sqlite3",
    "prometheus_client",
    "opentelemetry",
    "requests",
    "google",
}
PROGRAM = """
import sys
from reconciler.cli import cli
try:
    cli.main(sys.argv[1:], standalone_mode=False)
except SystemExit:
    pass
print("LOADED", *{name.partition(".")[0] for name in sys.modules})
"""


def loaded(scratch: Scratch, *words: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=scratch.path, env=ENVIRONMENT, capture_output=True, text=True,
        check=True, timeout=60,
    )  # fmt: skip
    return set(done.stdout.partition("LOADED ")[2].split())


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["reconcile", "--help"],
        ["new", "--help"],
        ["new", "task", "--help"],
        ["import", "--help"],
        ["doctor", "--help"],
        ["patterns", "check", "--help"],
        ["completion", "bash"],
        ["watch", "--help"],
        ["serve", "--help"],
        ["report", "--help"],
        ["mcp", "--help"],
        ["service", "install", "--help"],
        ["control", "serve", "--help"],
    ],
)
def test_help_loads_nothing_heavy(scratch: Scratch, words: list[str]) -> None:
    assert not loaded(scratch, *words) & HEAVY


@pytest.mark.parametrize("words", [["status"], ["plan"], ["reconcile"], ["reconcile", "--wait"]])
def test_a_settled_repository_is_looked_at_without_a_parser(scratch: Scratch, words: list[str]) -> None:
    scratch.simple("a", "true")
    scratch.run("reconcile", "--wait")
    assert not loaded(scratch, *words) & HEAVY


def test_a_run_without_checklists_loads_no_markdown_and_no_slow_validator(scratch: Scratch) -> None:
    scratch.simple("a", "true")
    assert loaded(scratch, "reconcile", "--wait") & HEAVY <= {"ruamel", "jsonschema_rs"}


def test_a_worker_loads_the_standard_library_and_our_records_only() -> None:
    program = "import reconciler.worker, sys; print(*{name for name in sys.modules if name.startswith('reconciler.')})"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    names = {
        "worker",
        "stage",
        "sandbox",
        "rundir",
        "disk",
        "journal",
        "ear",
        "scrub",
        "process",
        "manifest",
        "redact",
        "rules",
        "patience",
        "tracing",
        "course",
        "roles",
        "approve",
        "lease",
    }
    words = {"codec", "model", "order", "places", "errors", "events", "values"}
    assert set(done.stdout.split()) == {f"reconciler.{name}" for name in names | words}
