"""`reconciler import`: the whole route, from files of the Node orchestrator to files that pass."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.scratch import ENVIRONMENT, Scratch

SAMPLE = Path(__file__).resolve().parent.parent / "ancestor"
PACKAGE = "@kbediako/codex-orchestrator@0.2.1"
RECORD = ".runs/0001-demo/imported/2026-01-31T10-00-00-000Z-1a2b3c4d/manifest.json"


def test_it_looks_first_and_then_writes_what_passes(scratch: Scratch) -> None:
    before = scratch.fingerprint()
    looked = scratch.run("import", str(SAMPLE))
    assert looked.returncode == 0, looked.stderr
    assert "codex.orchestrator.json:16: the script is replaced by 'guard: specs'" in looked.stdout
    assert scratch.fingerprint() == before
    done = json.loads(scratch.run("import", str(SAMPLE), "--write", "--format", "json").stdout)
    assert {each["path"]: each["action"] for each in done["files"]} == {
        "pipelines/diagnostics.yaml": "written", "pipelines/nightly-run.yaml": "written",
        RECORD: "written", "tasks/index.json": "written",
    }  # fmt: skip
    assert {each["line"] for each in done["left_out"]} > {2, 17}
    checked = scratch.run("validate", "pipelines", "tasks", ".runs")
    assert checked.returncode == 0, checked.stdout


def test_it_never_overwrites(scratch: Scratch) -> None:
    scratch.pipeline("diagnostics", "stages: [{id: mine, command: 'true'}]\n")
    scratch.write("tasks/index.json", '{"items": [{"id": "0001-demo", "title": "Mine"}]}\n')
    ended = scratch.run("import", str(SAMPLE), "--write")
    assert ended.returncode == 0 and "kept     pipelines/diagnostics.yaml" in ended.stdout
    assert "mine" in (scratch.path / "pipelines/diagnostics.yaml").read_text()
    assert json.loads((scratch.path / "tasks/index.json").read_bytes())["items"] == [
        {"id": "0001-demo", "title": "Mine"}
    ]
    assert "no files written" in scratch.run("import", str(SAMPLE), "--write").stdout


@pytest.mark.parametrize(
    ("word", "code", "said"),
    [
        ("nowhere", 2, "no such file"),
        (".", 1, "neither codex.orchestrator.json"),
        ("bad.json", 1, "this is not JSON"),
        ("x.json", 1, "x.json: nothing of it"),
    ],
)
def test_what_cannot_be_read_is_told(scratch: Scratch, word: str, code: int, said: str) -> None:
    scratch.write("bad.json", "{")
    scratch.write("x.json", '{"name": "x"}')
    ended = scratch.run("import", word)
    assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr


def test_the_configuration_that_the_old_package_ships(scratch: Scratch) -> None:
    path = fetched(scratch.outside) / ancestor_name()
    ended = scratch.run("import", str(path), "--write", "--format", "json")
    assert ended.returncode == 0, ended.stderr
    done = json.loads(ended.stdout)
    ids = {each["id"] for each in json.loads(path.read_bytes())["pipelines"]}
    assert {each["path"] for each in done["files"]} == {f"pipelines/{each}.yaml" for each in ids}
    assert {each["rule"] for each in done["left_out"]} == {"left-out", "replaced", "old-package"}
    checked = scratch.run("validate", "pipelines")
    assert checked.returncode == 0, checked.stdout


def ancestor_name() -> str:
    return "package/codex.orchestrator.json"


def fetched(place: Path) -> Path:
    """Return a directory with the published package, or skip saying what is in the way."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, and it fetches the package")
    words = ["npm", "pack", "--silent", PACKAGE, "--cache", str(place / "cache"), "--pack-destination", str(place)]
    try:
        ended = subprocess.run(
            words, env=ENVIRONMENT, cwd=place, capture_output=True, text=True, check=False, timeout=60
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not fetch {PACKAGE} within 60 s")
    if ended.returncode:
        pytest.skip(f"npm cannot fetch {PACKAGE}: {ended.stderr.strip().splitlines()[:1]}")
    with tarfile.open(next(place.glob("*.tgz"))) as archive:
        archive.extract(ancestor_name(), place, filter="data")
    return place
