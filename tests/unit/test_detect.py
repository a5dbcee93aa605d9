"""How a project is built, linted and tested, as its files say: cases as data."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler import parse
from reconciler.contracts import Contracts
from reconciler.detect import FOLDERS_MAX, MARKERS, PIPELINE_PATH, detect, ids, pipeline
from reconciler.model import Pipeline, Source

CONTRACTS = Contracts()


def package(**scripts: str) -> str:
    return json.dumps({"scripts": scripts, "devDependencies": {"x": "1"}})


CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "nothing": ({}, {}),
    "a makefile": (
        {"Makefile": ".PHONY: all test\nall: build\nbuild lint: x\n\tcc\ntest:\n\t./t\nX := 1\n"},
        {"build": "make build", "lint": "make lint", "test": "make test"},
    ),
    "a makefile with check, and no target of pattern or variable": (
        {"GNUmakefile": "test := 1\n%.o: %.c\ncheck: all\n"}, {"test": "make check"},
    ),
    "what make does, no language does again": (
        {"Makefile": "test:\n", "go.mod": "", "package.json": package(test="jest", lint="eslint"), "package-lock.json": ""},
        {"test": "make test", "build": "go build ./...", "go-lint": "go vet ./...", "node-lint": "npm run lint"},
    ),
    "pytest and ruff": (
        {"pyproject.toml": "[project]\nname='x'\n[build-system]\nrequires=[]\n[tool.pytest.ini_options]\n[tool.ruff]\n[tool.mypy]\nfiles=['x']\n"},
        {"build": "python3 -m pip wheel --no-deps --wheel-dir dist .", "lint": "ruff check .", "types": "mypy",
         "test": "python3 -m pytest"},
    ),
    "uv": (
        {"pyproject.toml": "[build-system]\n[dependency-groups]\ndev=['pytest']\n", "uv.lock": "", "mypy.ini": ""},
        {"install": "uv sync --locked", "build": "uv build", "types": "uv run mypy .", "test": "uv run python -m pytest"},
    ),
    "poetry": (
        {"pyproject.toml": "[tool.poetry]\n[tool.pytest.ini_options]\n", "poetry.lock": "", ".flake8": ""},
        {"install": "poetry install --no-interaction", "lint": "poetry run flake8", "test": "poetry run python -m pytest"},
    ),
    "a lock and nothing to do": ({"setup.cfg": "", "Pipfile.lock": ""}, {}),
    "nox": (
        {"noxfile.py": "@nox.session\ndef lint(session):\n  pass\n@nox.session\ndef tests(session: x):\n  pass\n"},
        {"lint": "nox -s lint", "test": "nox -s tests"},
    ),
    "tox": ({"tox.ini": "[tox]\n[testenv]\n[flake8]\n"}, {"lint": "flake8", "test": "tox run"}),
    "unittest": ({"setup.py": "", "tests/": ""}, {"test": "python3 -m unittest discover -s tests"}),
    "requirements": ({"requirements.txt": "pytest==8\n"}, {"test": "python3 -m pytest"}),
    "npm": (
        {"package.json": package(build="tsc", lint="eslint", typecheck="tsc", test="jest"), "package-lock.json": ""},
        {"install": "npm ci", "build": "npm run build", "lint": "npm run lint", "types": "npm run typecheck",
         "test": "npm run test"},
    ),
    "npm's own test is none": ({"package.json": package(test='echo "Error: no test specified" && exit 1')}, {}),
    "no lock file": (
        {"package.json": package(test="jest")}, {"install": "npm install --no-package-lock", "test": "npm run test"},
    ),
    "no dependencies": ({"package.json": '{"scripts": {"test": "node --test"}}'}, {"test": "npm run test"}),
    "pnpm": (
        {"package.json": package(test="x"), "pnpm-lock.yaml": ""},
        {"install": "pnpm install --frozen-lockfile", "test": "pnpm run test"},
    ),
    "yarn, new and old": (
        {"package.json": package(test="x"), "yarn.lock": "", ".yarnrc.yml": ""},
        {"install": "yarn install --immutable", "test": "yarn run test"},
    ),
    "bun": (
        {"package.json": package(test="x"), "bun.lockb": ""},
        {"install": "bun install --frozen-lockfile", "test": "bun run test"},
    ),
    "go": ({"go.mod": ""}, {"build": "go build ./...", "lint": "go vet ./...", "test": "go test ./..."}),
    "golangci": (
        {"go.mod": "", ".golangci.yml": ""},
        {"build": "go build ./...", "lint": "golangci-lint run", "test": "go test ./..."},
    ),
    "mixed, with folders": (
        {"go.mod": "", "web/package.json": package(test="x"), "web/yarn.lock": "", "docs/requirements.txt": "sphinx\n"},
        {"build": "go build ./...", "lint": "go vet ./...", "go-test": "go test ./...",
         "install": "yarn install --frozen-lockfile", "web-test": "yarn run test"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_found(name: str) -> None:
    files, wanted = CASES[name]
    found = detect(files)
    assert dict(zip(ids(found.stages), (" ".join(each.command) for each in found.stages), strict=True)) == wanted
    assert found.notes == ()
    assert all(each.why for each in found.stages)


@pytest.mark.parametrize("name", [name for name, (_, wanted) in CASES.items() if wanted])
def test_it_is_a_pipeline(name: str) -> None:
    files, wanted = CASES[name]
    parsed = parse.parse_pipeline(pipeline(detect(files).stages), Source(path=PIPELINE_PATH), CONTRACTS)
    assert isinstance(parsed, Pipeline), parsed
    assert sorted(each.id for each in parsed.stages) == sorted(wanted)


def test_what_a_stage_needs_is_its_own() -> None:
    found = detect(CASES["mixed, with folders"][0])
    parsed = parse.parse_pipeline(pipeline(found.stages), Source(path=PIPELINE_PATH), CONTRACTS)
    assert isinstance(parsed, Pipeline)
    assert {each.id: each.needs for each in parsed.stages} == {
        "build": (), "lint": (), "go-test": ("build",), "install": (), "web-test": ("install",),
    }  # fmt: skip
    assert {each.id: each.cwd for each in parsed.stages}["web-test"] == "web"


@pytest.mark.parametrize(
    ("files", "note"),
    [
        ({"package.json": "{"}, "package.json: is no JSON"),
        ({"pyproject.toml": "["}, "pyproject.toml: is no TOML"),
        ({"web/package.json": "[" * 100_000}, "web/package.json: is no JSON"),
    ],
)
def test_what_cannot_be_read_is_told(files: dict[str, str], note: str) -> None:
    found = detect(files)
    assert found.stages == () and found.notes[0].startswith(note)


@pytest.mark.parametrize("text", ["1", "[]", '{"scripts": []}', '{"scripts": {"test": 1}}', "null"])
def test_odd_json_breaks_nothing(text: str) -> None:
    assert detect({"package.json": text}).stages == ()


@pytest.mark.parametrize("text", ["tool = 1", "[tool]\nmypy = 1\nruff = 2", "[tool.mypy]\nfiles = 1"])
def test_odd_toml_breaks_nothing(text: str) -> None:
    detect({"pyproject.toml": text})


@given(
    st.dictionaries(
        st.sampled_from([*MARKERS, *(f"a-b/{each}" for each in MARKERS), *(f"A.b/{each}" for each in MARKERS)]),
        st.just(""),
        max_size=20,
    )
)
def test_ids_are_each_there_once(files: dict[str, str]) -> None:
    stages = detect(files).stages
    assert len(set(ids(stages))) == len(stages)
    if stages:
        assert isinstance(parse.parse_pipeline(pipeline(stages), Source(path=PIPELINE_PATH), CONTRACTS), Pipeline)


def test_folders_are_bounded() -> None:
    files = {f"f{index:03}/package.json": package(test="x") for index in range(2 * FOLDERS_MAX)}
    assert len({each.directory for each in detect(files).stages}) == FOLDERS_MAX
