"""The site is built as `make docs` builds it, leads nowhere wrong, and asks nothing of any other place."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("material") is None, reason="the dependency group 'docs' is not installed; run: make docs"
)

LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?([^\"'\s>]+)")
ELSEWHERE = re.compile(r"(?:[a-z]+:)?//", re.IGNORECASE)


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(
        [*command, "--config-file", str(root / "docs/site/mkdocs.yml")], cwd=root, check=False, timeout=120,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    built = build(ROOT, place)
    assert built.returncode == 0, built.stderr
    return place


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = LOADED.findall(page.read_text(encoding="utf-8"))
        assert loaded, page
        assert [each for each in loaded if ELSEWHERE.match(each)] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_what_a_page_loads_is_on_the_site(site: Path) -> None:
    for page in site.rglob("*.html"):
        base = site if page.name == "404.html" else page.parent
        for each in LOADED.findall(page.read_text(encoding="utf-8")):
            file = site / each.lstrip("/") if each.startswith("/") else base / each
            assert file.resolve().is_file(), f"{page.relative_to(site)} loads {each}"


def test_what_lies_beside_the_pages_is_on_the_site(site: Path) -> None:
    formats = (site / "reference/formats.html").read_text(encoding="utf-8")
    schemas = re.findall(r"\.\./schemas/[a-z-]+\.schema\.json", formats)
    assert len(set(schemas)) > 10
    assert all((site / "reference" / each).resolve().is_file() for each in schemas)
    assert (site / "CHANGELOG.html").is_file()


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    small(tmp_path, "[x](guide.md#page)")
    sound = build(tmp_path, tmp_path / "site")
    assert sound.returncode == 0, sound.stderr
    small(tmp_path, "[x](guide.md#nowhere) [x](gone.md) [x](folder/)")
    broken = build(tmp_path, tmp_path / "site")
    assert broken.returncode != 0
    assert all(f"'{each}'" in broken.stderr for each in ("guide.md#nowhere", "gone.md", "folder/")), broken.stderr


def small(root: Path, text: str) -> None:
    """Write a small repository with a site of three pages, one of which says `text`."""
    config = re.sub(r"\nnav:\n.*", "\n", (ROOT / "docs/site/mkdocs.yml").read_text(), flags=re.DOTALL)
    shutil.copytree(ROOT / "docs/site", root / "docs/site", dirs_exist_ok=True)
    (root / "docs/site/mkdocs.yml").write_text(config)
    for path, page in {"docs/README.md": text, "docs/guide.md": "# Page", "CHANGELOG.md": "# Changes"}.items():
        (root / path).write_text(f"{page}\n")
