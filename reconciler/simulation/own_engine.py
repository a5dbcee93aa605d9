"""An engine in stories about somebody's own repository: the simulated one in the place of those that settings name.

Nothing of a real engine is asked, so its options are left out. All else of an executor stays as it is: what it offers,
its weight, how often an attempt says a word, after how much silence it is given up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from reconciler.model import Rejection
from reconciler.simulation.engine_story import ADDRESS, ENGINE, OWN, Trouble, trouble_of
from reconciler.yaml_events import load_yaml

PATH = "reconciler.yaml"
BYTES_MAX = 256 * 1024
ADDED = "cloud"
"""The executor that is added where settings have none with an engine: runs in the mode `cloud` go there as well."""
ADDED_WEIGHT = 3
DROPPED = ("options", "resources", "depth")


def with_engine(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a repository with the simulated engine in its settings. Where no executor has an engine, one
    is added that takes three runs for each one here."""
    settings = _settings(files)
    executors: dict[str, Any] = dict(settings.get("executors", {}))
    if not any(_has_engine(each) for each in executors.values()):
        # Without a word about `local`, what fits anywhere else would not be executed here.
        executors = {"local": {}, **executors, ADDED: {"engine": ENGINE, "weight": ADDED_WEIGHT}}
    executors = {name: _simulated(each) if _has_engine(each) else each for name, each in executors.items()}
    return {**files, PATH: json.dumps({**settings, "executors": executors}).encode()}


def without_engine(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return such files without the executors that have an engine."""
    settings = _settings(files)
    executors = {name: each for name, each in settings.get("executors", {}).items() if not _has_engine(each)}
    kept = {key: value for key, value in settings.items() if key != "executors"}
    return {**files, PATH: json.dumps({**kept, **({"executors": executors} if executors else {})}).encode()}


def own_trouble(seed: int) -> Trouble:
    """Return how the engine behaves in the story of a seed."""
    return trouble_of(Random(f"own engine of {seed}"), OWN)


def _settings(files: Mapping[str, bytes]) -> dict[str, Any]:
    document = load_yaml(files.get(PATH, b"{}"), PATH, bytes_max=BYTES_MAX)
    found = {} if isinstance(document, Rejection) else document.value
    return dict(found) if isinstance(found, Mapping) else {}


def _has_engine(said: Any) -> bool:
    return isinstance(said, Mapping) and bool(said.get("engine"))


def _simulated(said: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in said.items() if key not in DROPPED}
    return {**kept, "engine": ENGINE, "url": ADDRESS}
