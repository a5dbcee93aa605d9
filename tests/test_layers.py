"""The table of layers: what a module may import, and what a pure one may not touch.

Read from the sources, so that an import inside a function counts as much as one at the top.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "reconciler"

# From the ground up; a name that ends with `/` is a directory. A module imports lower lines and its own.
LINES: dict[str, tuple[str, ...]] = {
    "words": (
        "__init__",
        "errors",
        "model",
        "places",
        "actions",
        "codec",
        "order",
        "agent",
        "values",
        "events",
        "outgoing",
        "work",
        "login",
    ),
    "pure": (
        "parse",
        "shown",
        "yaml_events",
        "resolve",
        "phases",
        "state",
        "waiting",
        "elsewhere",
        "launches",
        "diff",
        "queueing",
        "placement",
        "slots",
        "recovery",
        "schedule",
        "inputs",
        "reuse",
        "trust",
        "manifest",
        "aggregate",
        "drift",
        "checklist",
        "redact",
        "rules",
        "measures",
        "tracing",
        "loglines",
        "scrub",
        "exposition",
        "explain",
        "telling",
        "retold",
        "settings",
        "outlet_settings",
        "sarif",
        "scaffold",
        "approve",
        "course",
        "roles",
        "role_protocols",
        "planning",
        "demands",
        "reviewing",
        "condition",
        "globs",
        "reviewed",
        "preview",
        "preview_gates",
        "preview_text",
        "preview_markdown",
        "power",
        "annotations",
        "markup",
        "named_plan",
        "health",
        "due",
        "pages/",
        "hooks",
        "screen",
        "unit",
        "detect",
        "patterns",
        "scenarios",
        "ancestor",
        "ancestor_records",
        "parted",
    ),
    "edges": (
        "disk",
        "git",
        "checkout",
        "locks",
        "lent",
        "packs",
        "lease",
        "rundir",
        "process",
        "ear",
        "contracts",
        "cache",
        "conditions",
        "host",
        "remote",
        "http",
        "worktree",
        "watch",
        "journal",
        "probes",
        "readiness",
        "patience",
        "signals",
        "turns",
        "pagefiles",
        "installed",
        "astgrep",
        "listening",
    ),
    "world": ("world",),
    "joints": (
        "notes",
        "hearing",
        "namesakes",
        "recurring",
        "tip",
        "branches",
        "requests",
        "evidence",
        "here",
        "wishes",
        "nesting",
        "approvals",
        "adopted",
        "records",
        "afar/",
        "proposal",
        "proposal_sides",
        "proposal_powers",
        "proposal_problems",
        "observe",
        "freeze",
        "claims",
        "apply",
        "deliver",
        "disclosure",
        "pulls",
        "publish",
        "unsaid",
        "custody",
        "sandbox",
        "stage",
        "worker",
        "drive",
        "asking",
        "planners",
        "check",
        "archive",
        "trials",
        "meter",
        "otlp",
        "telemetry",
        "guards/",
        "agents/",
        "forges/",
        "bus",
        "confided",
        "credentials/",
        "outlets/",
        "control/",
        "executors/",
    ),
    "loop": ("contact", "loop", "pacing", "watcher"),
    "simulation": ("simulation/",),
    "faces": (
        "survey",
        "logbook",
        "feed",
        "eventstream",
        "submitting",
        "deciding",
        "byhand",
        "api",
        "session",
        "display",
        "terminal",
        "completing",
        "newfiles",
        "posting",
        "tidings",
        "watchface",
        "report",
        "board",
        "webface",
        "webserver",
        "mcpface",
        "mcpserver",
    ),
    "verbs": ("commands/",),
    "entry": ("cli", "__main__"),
}
ORDER = list(LINES)

# What is stricter than its line: these import nothing of ours but the lines and modules named here.
ONLY: dict[str, set[str]] = {
    "worker": {
        *LINES["words"],
        *(
            "disk",
            "ear",
            "journal",
            "lease",
            "rundir",
            "process",
            "manifest",
            "redact",
            "scrub",
            "approve",
            "course",
            "roles",
            "sandbox",
            "stage",
        ),
        *("patience", "rules", "tracing"),
    },
    "stage": {*LINES["words"], "disk", "rundir", "process", "manifest", "redact", "scrub", "sandbox"},
    "patience": set(),
    "sandbox": set(LINES["words"]),
    "terminal": {*LINES["words"], "shown"},
}

# Files, processes, clocks, the network, randomness, the environment.
IMPURE = {
    "asyncio", "concurrent", "ctypes", "fcntl", "getpass", "glob", "http", "importlib", "inspect", "io", "locale",
    "logging", "mmap", "multiprocessing", "os", "pathlib", "pickle", "platform", "pwd", "random", "resource",
    "secrets", "select", "selectors", "shelve", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "sys",
    "tempfile", "threading", "time", "urllib.request", "uuid", "zoneinfo",
}  # fmt: skip
IMPURE_CALLS = {"open", "input", "print", "exec", "eval", "__import__", "breakpoint"}
COMPILES = {"values": {"exec"}}  # text of its own: names of fields, as `dataclasses` does
CLOCKS = {"now", "utcnow", "today"}


def module_of(path: Path) -> str:
    """Return the name of a module below the package: `git`, `commands/start`."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def line_of(module: str) -> str | None:
    """Return the line a module stands on, None if the table does not name it."""
    name = f"{module.partition('/')[0]}/" if "/" in module else module
    return next((line for line, names in LINES.items() if name in names), None)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of everything a file imports, wherever in it that stands."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports of ours are written in full"
            yield node.module or ""
            yield from (f"{node.module}.{each.name}" for each in node.names)


def ours(path: Path) -> set[str]:
    """Return which modules of the package a file imports."""
    found = set()
    for name in imported(path):
        words = name.split(".")
        if words[0] == "reconciler":
            found.add(next(filter(None, (_module(words[1:end]) for end in range(len(words), 1, -1))), "__init__"))
    return found


def _module(words: list[str]) -> str | None:
    for each in ("/".join(words), "/".join([*words, "__init__"])):
        if (PACKAGE / f"{each}.py").is_file():
            return each
    return None


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
# The cores of guardrails: what they look at is given to them.
GUARDS = ("guards/findings", "guards/specs", "guards/checklists", "guards/diff", "guards/docs")
PURE = [each for each in MODULES if line_of(each) in ("words", "pure") or each in GUARDS]
# These stand in a family of joints and only judge what they are given.
PURE_AMONG_JOINTS = (
    "agents/claude_events", "agents/codex_events", "agents/command_events", "agents/events", "agents/prompt",
    "agents/story", "agents/verdict", "forges/event", "markup", "forges/where",
    "executors/kubernetes_job", "executors/kubernetes_words",
    "control/request", "control/rules", "control/convert", "control/comparing", "control/reading",
    "executors/slurm_words",
)  # fmt: skip
PURE = [each for each in MODULES if line_of(each) in ("words", "pure") or each in PURE_AMONG_JOINTS]
TEST_FILES = sorted(TESTS.rglob("*.py"))


# ------------------------------------------------------------------------------------------------ layers


@pytest.mark.parametrize("module", MODULES)
def test_every_module_stands_on_a_line(module: str) -> None:
    assert line_of(module) is not None, f"{module} is not in the table of layers"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_lower_lines_and_its_own(module: str) -> None:
    here = ORDER.index(line_of(module) or "")
    assert {each for each in ours(MODULES[module]) if ORDER.index(line_of(each) or "") > here} == set()


@pytest.mark.parametrize("module", [each for each in MODULES if line_of(each) == "edges"])
def test_an_edge_imports_no_pure_module(module: str) -> None:
    assert {each for each in ours(MODULES[module]) if line_of(each) == "pure"} == set()


@pytest.mark.parametrize("module", sorted(ONLY.keys() & MODULES.keys()))
def test_what_must_stay_small_imports_only_what_it_may(module: str) -> None:
    assert ours(MODULES[module]) - {"__init__"} <= ONLY[module]


def test_no_module_imports_itself_by_way_of_others() -> None:
    TopologicalSorter({each: ours(path) - {each} for each, path in MODULES.items()}).prepare()


# ------------------------------------------------------------------------------------------------ purity


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_imports_nothing_that_touches_the_world(module: str) -> None:
    names = {name for each in imported(MODULES[module]) for name in (each, each.partition(".")[0])}
    assert names & IMPURE == set()


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_opens_nothing_and_reads_no_clock(module: str) -> None:
    calls = [node.func for node in ast.walk(tree_of(MODULES[module])) if isinstance(node, ast.Call)]
    named = {each.id for each in calls if isinstance(each, ast.Name)}
    asked = {each.attr for each in calls if isinstance(each, ast.Attribute)}
    assert named & IMPURE_CALLS <= COMPILES.get(module, set())
    assert asked & CLOCKS == set()


# ------------------------------------------------------------------------------------------------ git


@pytest.mark.parametrize("module", [each for each in MODULES if each != "git"])
def test_only_one_module_runs_git(module: str) -> None:
    for node in ast.walk(tree_of(MODULES[module])):
        if isinstance(node, ast.List | ast.Tuple) and node.elts:
            first = node.elts[0]
            assert not (isinstance(first, ast.Constant) and first.value == "git"), f"{module}:{node.lineno}"
        if isinstance(node, ast.Call):
            words = [each.value for each in node.args if isinstance(each, ast.Constant)]
            spoken = [each for each in words if isinstance(each, str) and each.split(" ")[0] == "git"]
            assert not (spoken and _runs(node.func)), f"{module}:{node.lineno}"
    assert not {each for each in imported(MODULES[module]) if each.partition(".")[0] in ("git", "gitdb", "pygit2")}


def _runs(function: ast.expr) -> bool:
    """Return whether a call starts a process."""
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("run", "Popen", "call", "check_call", "check_output", "system", "popen") or name.startswith(
        ("exec", "spawn", "posix_spawn")
    )


# ------------------------------------------------------------------------------------------------ manners


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_for(module: str) -> None:
    said = ast.get_docstring(tree_of(MODULES[module]))
    assert said and said.splitlines()[0].endswith((".", ":", ",")), f"{module} has no docstring"


@pytest.mark.parametrize("path", [*MODULES.values(), *TEST_FILES], ids=lambda path: path.relative_to(TESTS.parent))
def test_nothing_is_mocked(path: Path) -> None:
    assert not {each for each in imported(path) if each == "mock" or each.startswith("unittest.mock")}
