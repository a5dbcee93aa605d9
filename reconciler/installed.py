"""The edge to the packages beside us: which of the roles and subscribers that settings name are there."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from reconciler.errors import TransientError, UsageError
from reconciler.model import BUILT_IN, RoleSettings

GROUP = "reconciler.roles"
"""The group of entry points that roles are looked for in."""
SUBSCRIBERS = "reconciler.subscribers"
"""The group of those that hear the events of runs."""
ROLES = ("planner", "builder", "tester", "reviewer")


def missing_roles(said: RoleSettings) -> tuple[tuple[str, str], ...]:
    """Return (role, name) of those that no installed package takes."""
    named = [(role, str(getattr(said, role))) for role in ROLES]
    return tuple((role, name) for role, name in named if name != BUILT_IN and not entry_points(name))


def entry_points(name: str, group: str = GROUP) -> tuple[metadata.EntryPoint, ...]:
    """Return the entry points of this name, in the order in which packages are found."""
    return tuple(metadata.entry_points(group=group, name=name))


def cure(name: str, group: str = GROUP) -> str:
    """Return what to do about a role or a subscriber that is not there."""
    return f"install the package with the entry point '{name}' of the group {group}, where reconciler is installed"


EXTRAS = {
    "keyring": ("keyring",),
    "otel": ("opentelemetry.exporter.otlp.proto.http", "opentelemetry.sdk"),
}
"""What settings ask for by name, and the modules that bring it."""


def has_extra(name: str) -> bool:
    """Return whether an extra that settings or pipelines ask for is installed: its modules, or its program."""
    if name == "patterns":
        from reconciler.astgrep import program

        try:
            return bool(program())
        except TransientError:
            return False
    from importlib.util import find_spec

    try:
        return all(find_spec(each) is not None for each in EXTRAS[name])
    except ModuleNotFoundError:  # of a name with dots, the package before them is not there
        return False


def need_modules(verb: str, extra: str, modules: Sequence[str]) -> None:
    """Raise UsageError, with the cure, where an extra is not installed."""
    from importlib.util import find_spec

    missing = [each for each in modules if find_spec(each) is None]
    if missing:
        cure = f"run: python3 -m pip install 'gitops-reconciler[{extra}]'"
        raise UsageError(f"{verb} needs {', '.join(missing)}, which the extra '{extra}' brings; {cure}")
