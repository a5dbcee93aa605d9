"""What a shell offers for a name: requests, pipelines and tasks, as the files of the working tree call them.

Neither a commit nor a remote is looked at, and nothing is parsed: who presses Tab waits for the answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import click

NAMES_MAX = 1_000
FILES_MAX = 20_000
"""So many files are looked at for names, and so many names offered: more would help nobody to choose."""

Offer = Callable[[click.Context, click.Parameter, str], list[str]]


def _offer(directory: str, suffix: str, without: str = "") -> Offer:
    """Return what offers the names of the files of a directory, without their suffix."""

    def offer(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        root = _root(Path(str(context.find_root().params.get("repo") or ".")))
        found = (each.removesuffix(suffix) for each in _files(root / directory) if each.endswith(suffix))
        names = {each for each in found if each.startswith(incomplete) and not (without and each.endswith(without))}
        return sorted(names)[:NAMES_MAX]

    return offer


def _root(place: Path) -> Path:
    """Return the top of the working tree that a place is in, or the place."""
    whole = place.absolute()
    return next((each for each in (whole, *whole.parents) if (each / ".git").exists()), whole)


def _files(directory: Path) -> Iterator[str]:
    """Yield the files below a directory, `a/b.yaml` as `a.b.yaml`: so is a request called."""
    left = FILES_MAX
    for place, folders, files in os.walk(directory):
        folders.sort()
        left -= len(files)
        below = place.removeprefix(str(directory)).lstrip("/").replace("/", ".")
        yield from (f"{below}.{each}" if below else each for each in files)
        if left <= 0:
            return


runs = _offer("runs.d", ".yaml", without=".approval")
pipelines = _offer("pipelines", ".yaml")
tasks = _offer("tasks", ".md")
