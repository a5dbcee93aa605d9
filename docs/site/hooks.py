"""What the site needs beyond the pages in docs/: files from elsewhere in the repository that pages link to.

A link must lead somewhere in the repository and on the site. So what lies beside docs/ and is linked comes with it:
schemas as they are, the changelog as a page. And the theme wants one script from elsewhere, which lies here instead.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = re.compile(r"\]\((?:\.\./)+(?=schemas/|CHANGELOG\.md)")
"""The beginning of a link to what lies beside docs/."""

SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the theme loads where the site is read from disk, because browsers allow no workers there."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put onto the site what pages link to and docs/ does not hold."""
    for path in (ROOT / "CHANGELOG.md", *sorted((ROOT / "schemas").glob("*.schema.json"))):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page whose links to what lies beside docs/ lead to where the site has it."""
    up = "../" * page.file.src_uri.count("/")
    return OUTSIDE.sub(f"]({up}", markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Return a page that loads nothing from other places."""
    return output.replace(SHIM, "../" * page.url.count("/") + "site/iframe-worker.js")


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Return the page for addresses that lead nowhere, which loads nothing from other places either."""
    return output_content.replace(SHIM, "site/iframe-worker.js")
