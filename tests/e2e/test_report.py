"""`reconciler report` on real repositories: a site that stands on its own, the same bytes for the same commit."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.scratch import ENVIRONMENT, Scratch

CHECKLIST = "# T\n\n- [ ] It works <!-- item: t/works -->\n- [ ] It is <b>reviewed</b> <!-- item: t/reviewed -->\n"
PIPELINE = """\
workspace: empty
stages:
  - id: build
    title: Build <b>it</b>
    command: "printf '\\\\033[31mred\\\\033[0m <script>alert(1)</script>\\\\n'"
  - id: check
    command: "echo wrong; exit 3"
    allow_failure: true
"""


class Links(HTMLParser):
    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("href", "src")]


def digests(site: Path) -> dict[str, str]:
    files = (each for each in sorted(site.rglob("*")) if each.is_file())
    return {each.relative_to(site).as_posix(): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


@pytest.fixture
def told(scratch: Scratch) -> Scratch:
    """A repository with one run that is proven."""
    scratch.settings()
    scratch.pipeline("p", PIPELINE)
    scratch.write("tasks/t.md", CHECKLIST)
    scratch.request("a", "p", title="'The <i>first</i> run'", proves="[t/works]")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    return scratch


def report(scratch: Scratch, *words: str) -> subprocess.CompletedProcess[str]:
    return scratch.run("report", "--output", str(scratch.outside / "site"), *words)


def test_a_site_stands_on_its_own(told: Scratch) -> None:
    done = report(told, "--format", "json")
    assert done.returncode == 0, done.stderr
    said, site, run_id = json.loads(done.stdout), told.outside / "site", told.run_id("a")
    assert (said["runs"], said["runs_total"], said["commit"]) == (1, 1, told.git("rev-parse", "HEAD").strip())
    pages = sorted(site.rglob("*.html"))
    for page in pages:
        for link in Links(page).found:
            assert not link.startswith(("/", "http")), (page, link)
            target = (page.parent / link.partition("#")[0]).resolve() if link.partition("#")[0] else page
            assert target.is_file(), (page, link)
            assert target.is_relative_to(site.resolve())
    run = (site / f"runs/t/{run_id}.html").read_text()
    assert "The &lt;i&gt;first&lt;/i&gt; run" in run
    assert "exit code" in run.lower()
    log = (site / f"logs/t/{run_id}/01-build.html").read_text()
    assert "red &lt;script&gt;alert(1)&lt;/script&gt;" in log
    assert "\x1b" not in log
    task = (site / "tasks/t.html").read_text()
    assert "1 of 2 proven" in task
    assert f"../runs/t/{run_id}.html" in task
    committed = told.git("show", f"HEAD:.runs/t/cli/{run_id}/manifest.json")
    assert (site / f"evidence/t/{run_id}/manifest.json").read_text() == committed


def test_the_same_commit_gives_the_same_bytes_and_only_what_changed_is_written(told: Scratch) -> None:
    first = json.loads(report(told, "--format", "json").stdout)
    site = told.outside / "site"
    before = digests(site)
    times = {each: each.stat().st_mtime_ns for each in site.rglob("*.html")}
    again = json.loads(report(told, "--format", "json").stdout)
    assert first["files_written"] > 0
    assert again["files_written"] == 0
    assert {each: each.stat().st_mtime_ns for each in times} == times
    told.run("report", "--output", str(told.outside / "other"))
    assert digests(told.outside / "other") == before
    told.request("b", "p")
    told.commit()
    assert told.run("reconcile", "--wait").returncode == 0
    assert report(told, "--ref", first["commit"]).returncode == 0
    assert digests(site) == before
    more = json.loads(report(told, "--format", "json").stdout)
    assert more["runs"] == 2
    page = site / f"runs/t/{told.run_id('a')}.html"
    assert page.stat().st_mtime_ns == times[page]
    told.run("report", "--output", str(told.outside / "fresh"))
    assert digests(told.outside / "fresh") == digests(site)


def test_the_newest_runs_are_shown_and_what_is_left_out_is_said(told: Scratch) -> None:
    told.request("b", "p")
    told.commit()
    assert told.run("reconcile", "--wait").returncode == 0
    assert report(told).returncode == 0
    done = report(told, "--runs-max", "1")
    site = told.outside / "site"
    assert "the newest 1 of 2 runs" in done.stdout
    assert "the newest 1 of 2 runs" in (site / "index.html").read_text()
    assert [each.stem for each in site.glob("runs/t/*.html")] == [told.run_id("b")]
    assert not list(site.glob(f"logs/t/{told.run_id('a')}/*"))
    for page in site.rglob("*.html"):
        assert all((page.parent / each.partition("#")[0]).exists() for each in Links(page).found)


def test_a_directory_of_somebody_else_is_left_alone(told: Scratch) -> None:
    site = told.outside / "site"
    site.mkdir()
    (site / "thesis.txt").write_text("mine")
    done = report(told)
    assert done.returncode == 2
    assert "not empty and holds no report; name an empty directory" in done.stderr
    assert [each.name for each in site.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("place", ["../thesis.txt", "/etc/hostname", ""])
def test_a_marker_cannot_make_it_remove_what_lies_outside(told: Scratch, place: str) -> None:
    site = told.outside / "site"
    site.mkdir()
    (told.outside / "thesis.txt").write_text("mine")
    (site / ".reconciler-report.json").write_text(json.dumps({"key": "x", "runs": {}, "frame": [place]}))
    done = report(told)
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
    assert (told.outside / "thesis.txt").read_text() == "mine"


def test_a_link_does_not_lead_it_out(told: Scratch) -> None:
    assert report(told).returncode == 0
    site, elsewhere = told.outside / "site", told.outside / "elsewhere"
    elsewhere.mkdir()
    (site / "assets").rename(told.outside / "assets")
    (site / "assets").symlink_to(elsewhere)
    done = report(told)
    assert done.returncode == 2
    assert "a link leads out of the report; remove it" in done.stderr
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("damage", ["{", "[]", '{"run_id": 1}', ""])
def test_a_damaged_manifest_is_shown_as_damaged(told: Scratch, damage: str) -> None:
    run_id = told.run_id("a")
    told.write(f".runs/t/cli/{run_id}/manifest.json", damage)
    told.git("add", "-f", f".runs/t/cli/{run_id}/manifest.json")
    told.git("commit", "-q", "-m", "damage")
    assert report(told, "--ref", "HEAD").returncode == 0
    site = told.outside / "site"
    page = (site / f"runs/t/{run_id}.html").read_text()
    assert "damaged" in page
    assert 'role="alert"' in page
    assert run_id in (site / "list/damaged.html").read_text()


def test_a_manifest_in_the_place_of_another_is_not_believed(told: Scratch) -> None:
    run_id = told.run_id("a")
    text = told.git("show", f"HEAD:.runs/t/cli/{run_id}/manifest.json")
    for path in (f".runs/other/cli/{run_id}/manifest.json", ".runs/t/cli/b-12345678/manifest.json"):
        told.write(path, text)
        told.git("add", "-f", path)
    told.git("commit", "-q", "-m", "copies")
    assert report(told, "--ref", "HEAD").returncode == 0
    site = told.outside / "site"
    assert "of another run" in (site / "runs/t/b-12345678.html").read_text()
    assert "succeeded" in (site / f"runs/t/{run_id}.html").read_text()
    assert not (site / f"runs/other/{run_id}.html").exists()
    for page in site.rglob("*.html"):
        assert all((page.parent / each.partition("#")[0]).exists() for each in Links(page).found)


def test_a_repository_without_runs_has_a_page(scratch: Scratch) -> None:
    scratch.settings()
    scratch.commit()
    assert report(scratch).returncode == 0
    assert "No runs yet" in (scratch.outside / "site/index.html").read_text()


def test_a_commit_that_is_not_there_is_said(told: Scratch) -> None:
    done = report(told, "--ref", "v9")
    assert done.returncode == 2
    assert "--ref v9: there is no such commit here" in done.stderr


WITHOUT = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in ("jinja2", "starlette", "uvicorn") else found(name, *more)
from reconciler.cli import main
main()
"""


@pytest.mark.parametrize("words", [["report", "--output", "site"], ["serve"]])
def test_without_the_extra_it_says_what_to_install(scratch: Scratch, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *words], cwd=scratch.path, env=ENVIRONMENT | {"PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert "python3 -m pip install 'gitops-reconciler[serve]'" in done.stderr
