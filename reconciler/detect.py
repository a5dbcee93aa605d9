"""How a project is built, linted and tested, told by the files that say so: pure.

Files are a mapping of paths to texts; a folder that is there ends with `/` and has no text. What is found says why it
was found, so that a person can judge it. The project's own words come first: a target of `make`, a session of `nox`,
a script of `package.json`. Only where it has none is a tool asked that its configuration names.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.scaffold import SCHEMAS, scalar
from reconciler.values import frozen

PIPELINE_ID = "project-checks"
PIPELINE_PATH = f"pipelines/{PIPELINE_ID}.yaml"

MARKERS = (
    "Makefile", "GNUmakefile", "makefile",
    "pyproject.toml", "setup.py", "setup.cfg", "tox.ini", "noxfile.py", "pytest.ini", "conftest.py", "mypy.ini",
    "ruff.toml", ".ruff.toml", ".flake8", "requirements.txt", "uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock",
    "tests/",
    "package.json", "package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "yarn.lock", ".yarnrc.yml",
    "bun.lock", "bun.lockb",
    "go.mod", ".golangci.yml", ".golangci.yaml", ".golangci.toml",
)  # fmt: skip
"""The names that are looked for, in the root and in the folders directly below it."""
TEXTS = frozenset({
    "Makefile", "GNUmakefile", "makefile", "pyproject.toml", "setup.cfg", "tox.ini", "noxfile.py", "requirements.txt",
    "package.json",
})  # fmt: skip
"""Those of them whose text is read; of the others it is enough that they are there."""
FOLDERS_MAX = 50

_KINDS = ("install", "build", "lint", "types", "test")
_TITLES = {
    "install": "Install what is needed", "build": "Build", "lint": "Lint", "types": "Check the types", "test": "Test",
}  # fmt: skip
_TARGET = re.compile(r"^([A-Za-z0-9][A-Za-z0-9_.-]*)(?: +[A-Za-z0-9_.-]+)*\s*:(?![:=])", re.MULTILINE)
_SESSION = re.compile(r"^def (\w+)\((?:session|s)\b", re.MULTILINE)
_NO_TEST = re.compile(r"no test specified")


@frozen
class Found:
    """A stage that was found: what it is for, whose it is (`make`, `python`, `node`, `go`), what it executes, the
    folder it works in ("" for the root), and the file and fact that say so."""

    kind: str
    group: str
    command: tuple[str, ...]
    why: str
    directory: str = ""


@frozen
class Detected:
    """What was found, and what could not be understood."""

    stages: tuple[Found, ...]
    notes: tuple[str, ...] = ()


class _Place:
    """The marker files of one folder."""

    def __init__(self, files: Mapping[str, str], directory: str) -> None:
        self.directory = directory
        start = f"{directory}/" if directory else ""
        self.files = {each: files[f"{start}{each}"] for each in MARKERS if f"{start}{each}" in files}
        self.notes: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def first(self, *names: str) -> str:
        """Return the first of some names that is there, "" if none is."""
        return next((each for each in names if each in self.files), "")

    def shown(self, name: str) -> str:
        return f"{self.directory}/{name}" if self.directory else name

    def toml(self) -> Mapping[str, Any]:
        try:
            return tomllib.loads(self.files.get("pyproject.toml", ""))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            self.notes.append(f"{self.shown('pyproject.toml')}: is no TOML: {str(error)[:200]}; it is left out")
            return {}

    def package(self) -> Mapping[str, Any]:
        try:
            value = json.loads(self.files["package.json"])
        except (ValueError, RecursionError) as error:
            self.notes.append(f"{self.shown('package.json')}: is no JSON: {str(error)[:200]}; it is left out")
            return {}
        return value if isinstance(value, dict) else {}

    def found(self, kind: str, group: str, command: Sequence[str], why: str) -> Found:
        return Found(kind=kind, group=group, command=tuple(command), why=why, directory=self.directory)


def detect(files: Mapping[str, str]) -> Detected:
    """Return the stages that the marker files of a project say. A folder is looked at for what the root is not."""
    directories = sorted({path.partition("/")[0] for path in files if "/" in path.rstrip("/")})[:FOLDERS_MAX]
    root = _Place(files, "")
    stages, notes = list(_stages(root)), root.notes
    known = {each.group for each in stages}
    # Who tests by make at the root says there what belongs to it.
    covered = any((each.group, each.kind) == ("make", "test") for each in stages)
    for each in () if covered else directories:
        place = _Place(files, each)
        stages += [one for one in _stages(place) if one.group not in known]
        notes += place.notes
    return Detected(stages=tuple(stages), notes=tuple(dict.fromkeys(notes)))


def _stages(place: _Place) -> Iterator[Found]:
    """Yield the stages of one folder. What `make` does, no language does again."""
    made = list(_make(place))
    yield from made
    taken = {each.kind for each in made}
    # Where make tests, it also sees to what that needs.
    taken |= {"install", "types"} if "test" in taken else set()
    for language in (_python, _node, _go):
        found = [each for each in language(place) if each.kind not in taken]
        yield from found if any(each.kind != "install" for each in found) else ()


def _make(place: _Place) -> Iterator[Found]:
    name = place.first("GNUmakefile", "makefile", "Makefile")
    targets = {word for line in _TARGET.finditer(place.files.get(name, "")) for word in line[0].rstrip(": ").split()}
    for kind, words in (("build", ("build",)), ("lint", ("lint",)), ("test", ("test", "check"))):
        target = next((each for each in words if each in targets), "")
        if target:
            yield place.found(kind, "make", ["make", target], f"{place.shown(name)} has the target '{target}'")


# ------------------------------------------------------------------------------------------------ Python

_RUNNERS = {
    "uv.lock": ("uv", ("uv", "sync", "--locked")),
    "poetry.lock": ("poetry", ("poetry", "install", "--no-interaction")),
    "pdm.lock": ("pdm", ("pdm", "install", "--frozen-lockfile")),
    "Pipfile.lock": ("pipenv", ("pipenv", "sync", "--dev")),
}


def _python(place: _Place) -> Iterator[Found]:
    markers = ("pyproject.toml", "setup.py", "setup.cfg", "tox.ini", "noxfile.py", "requirements.txt", "pytest.ini")
    if not place.first(*markers):
        return
    project = place.toml()
    lock = place.first(*_RUNNERS)
    program, install = _RUNNERS[lock] if lock else ("", ())
    runner = [program, "run"] if program else []
    if lock:
        yield place.found("install", "python", install, f"{place.shown(lock)} is there")
    yield from _python_build(place, project, program)
    yield from _python_lint(place, project, runner)
    yield from _python_test(place, project, runner)


def _python_build(place: _Place, project: Mapping[str, Any], program: str) -> Iterator[Found]:
    if "build-system" in project:
        own = program if program in ("uv", "poetry", "pdm") else ""
        plain = ["python3", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", "dist", "."]
        why = f"{place.shown('pyproject.toml')} has [build-system]"
        yield place.found("build", "python", [own, "build"] if own else plain, why)


def _python_lint(place: _Place, project: Mapping[str, Any], runner: Sequence[str]) -> Iterator[Found]:
    tools = project.get("tool", {}) if isinstance(project.get("tool", {}), dict) else {}
    sections = place.files.get("setup.cfg", "") + place.files.get("tox.ini", "")
    if "lint" in _SESSION.findall(place.files.get("noxfile.py", "")):
        yield place.found(
            "lint", "python", ["nox", "-s", "lint"], f"{place.shown('noxfile.py')} has the session 'lint'"
        )
    elif "ruff" in tools or (name := place.first("ruff.toml", ".ruff.toml")):
        why = f"{place.shown('pyproject.toml')} has [tool.ruff]" if "ruff" in tools else f"{place.shown(name)} is there"
        yield place.found("lint", "python", [*runner, "ruff", "check", "."], why)
    elif ".flake8" in place or "[flake8]" in sections:
        yield place.found("lint", "python", [*runner, "flake8"], "flake8 is configured")
    if "mypy" in tools or "mypy.ini" in place:
        said = tools.get("mypy")
        named = isinstance(said, dict) and {"files", "packages", "modules"} & said.keys()
        why = f"{place.shown('pyproject.toml')} has [tool.mypy]" if "mypy" in tools else "mypy.ini is there"
        yield place.found("types", "python", [*runner, "mypy", *([] if named else ["."])], why)


def _python_test(place: _Place, project: Mapping[str, Any], runner: Sequence[str]) -> Iterator[Found]:
    sessions = _SESSION.findall(place.files.get("noxfile.py", ""))
    session = next((each for each in ("tests", "test") if each in sessions), "")
    tools = project.get("tool", {}) if isinstance(project.get("tool", {}), dict) else {}
    python = [*runner, "python"] if runner else ["python3"]
    if session:
        why = f"{place.shown('noxfile.py')} has the session '{session}'"
        yield place.found("test", "python", ["nox", "-s", session], why)
    elif "[testenv" in place.files.get("tox.ini", "") or "[tox]" in place.files.get("tox.ini", "") or "tox" in tools:
        yield place.found("test", "python", ["tox", "run"], "tox is configured")
    elif why := _pytest(place, tools):
        yield place.found("test", "python", [*python, "-m", "pytest"], why)
    elif "tests/" in place:
        words = [*python, "-m", "unittest", "discover", "-s", "tests"]
        yield place.found("test", "python", words, f"{place.shown('tests/')} is there, and nothing names pytest")


def _pytest(place: _Place, tools: Mapping[str, Any]) -> str:
    """Return why pytest is what tests here, "" if nothing says so."""
    if "pytest" in tools:
        return f"{place.shown('pyproject.toml')} has [tool.pytest]"
    if name := place.first("pytest.ini", "conftest.py"):
        return f"{place.shown(name)} is there"
    naming = [
        each for each in ("pyproject.toml", "requirements.txt", "setup.cfg") if "pytest" in place.files.get(each, "")
    ]
    return f"{place.shown(naming[0])} names pytest" if naming else ""


# ------------------------------------------------------------------------------------------------ Node

_MANAGERS = (
    ("package-lock.json", "npm", ("npm", "ci")),
    ("npm-shrinkwrap.json", "npm", ("npm", "ci")),
    ("pnpm-lock.yaml", "pnpm", ("pnpm", "install", "--frozen-lockfile")),
    ("yarn.lock", "yarn", ("yarn", "install", "--frozen-lockfile")),
    ("bun.lock", "bun", ("bun", "install", "--frozen-lockfile")),
    ("bun.lockb", "bun", ("bun", "install", "--frozen-lockfile")),
)
_SCRIPTS = {"build": ("build",), "lint": ("lint",), "types": ("typecheck", "type-check"), "test": ("test",)}


def _node(place: _Place) -> Iterator[Found]:
    if "package.json" not in place:
        return
    package = place.package()
    scripts = package.get("scripts") if isinstance(package.get("scripts"), dict) else {}
    lock, manager, install = next((each for each in _MANAGERS if each[0] in place), ("", "npm", ("npm", "install")))
    if lock:
        install = ("yarn", "install", "--immutable") if manager == "yarn" and ".yarnrc.yml" in place else install
        yield place.found("install", "node", install, f"{place.shown(lock)} is there")
    elif package.get("dependencies") or package.get("devDependencies"):
        why = f"{place.shown('package.json')} has dependencies and no lock file is there"
        yield place.found("install", "node", [*install, "--no-package-lock"], why)
    for kind, names in _SCRIPTS.items():
        name = next((each for each in names if isinstance((scripts or {}).get(each), str)), "")
        if name and not (kind == "test" and _NO_TEST.search(str((scripts or {})[name]))):
            why = f"{place.shown('package.json')} has the script '{name}'"
            yield place.found(kind, "node", [manager, "run", name], why)


# ------------------------------------------------------------------------------------------------ Go


def _go(place: _Place) -> Iterator[Found]:
    if "go.mod" not in place:
        return
    why = f"{place.shown('go.mod')} is there"
    yield place.found("build", "go", ["go", "build", "./..."], why)
    own = place.first(".golangci.yml", ".golangci.yaml", ".golangci.toml")
    if own:
        yield place.found("lint", "go", ["golangci-lint", "run"], f"{place.shown(own)} is there")
    else:
        yield place.found("lint", "go", ["go", "vet", "./..."], why)
    yield place.found("test", "go", ["go", "test", "./..."], why)


# ------------------------------------------------------------------------------------------------ the pipeline


def ids(stages: Sequence[Found]) -> tuple[str, ...]:
    """Return an id for each stage: what it is for, and whose where several do the same."""
    kinds = [each.kind for each in stages]
    found: list[str] = []
    for each in stages:
        folder = re.sub(r"[^a-z0-9_-]+", "-", each.directory.lower()).strip("-")
        owner = folder or each.group
        name = each.kind if kinds.count(each.kind) == 1 else f"{owner}-{each.kind}"
        number = 1 + sum(one == name or one.startswith(f"{name}-") for one in found)
        found.append(name if name not in found else f"{name}-{number}")
    return tuple(found)


def pipeline(stages: Sequence[Found]) -> bytes:
    """Return a pipeline of the stages, each with the reason why it is there."""
    named = dict(zip(ids(stages), stages, strict=True))
    lines = [
        f"# yaml-language-server: $schema={SCHEMAS}/pipeline.schema.json",
        "#",
        "# Written by 'reconciler init --detect' from what the project's own files say. Change what is wrong.",
        "title: Checks of this project",
        "workspace: worktree  # a fresh worktree at the request's commit, so nobody's edits are in the way",
        "stages:",
    ]
    for name, each in named.items():
        lines += _lines(name, each, _needs(each, named))
    return "\n".join([*lines, ""]).encode()


def _needs(stage: Found, named: Mapping[str, Found]) -> list[str]:
    """Return what a stage needs: what was installed for it, and to test also what was built; but a wheel of Python is
    what is delivered, not what is tested."""
    built = stage.kind == "test" and stage.group != "python"
    wanted = {"install", "build"} if built else {"install"} - {stage.kind}
    own = (stage.group, stage.directory)
    return [name for name, each in named.items() if each.kind in wanted and (each.group, each.directory) == own]


def _lines(name: str, stage: Found, needs: Sequence[str]) -> Iterator[str]:
    yield f"  # {_printable(stage.why)}"
    yield f"  - id: {scalar(name)}"
    yield f"    title: {_TITLES[stage.kind]}"
    yield f"    command: [{', '.join(map(scalar, stage.command))}]"
    if stage.directory:
        yield f"    cwd: {scalar(stage.directory)}"
    yield f"    needs: [{', '.join(map(scalar, needs))}]"
    if stage.kind in ("build", "test"):
        yield f"    role: {stage.kind}"


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)[:200]
