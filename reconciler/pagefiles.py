"""The edge to what pages are made of and with: templates, style and script, as the package ships them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent / "pages"
ASSETS = {
    "style.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@cache
def read_templates() -> dict[str, str]:
    """Read every template, by name."""
    return {each.name: each.read_text(encoding="utf-8") for each in sorted((HERE / "templates").glob("*.html"))}


@cache
def read_assets() -> dict[str, bytes]:
    """Read what pages load, by name."""
    return {name: (HERE / "assets" / name).read_bytes() for name in ASSETS}
