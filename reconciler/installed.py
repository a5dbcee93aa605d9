"""The edge to the packages beside us: which of the roles that settings name are there."""

from __future__ import annotations

from importlib import metadata

from reconciler.model import BUILT_IN, RoleSettings

GROUP = "reconciler.roles"
"""The group of entry points that roles are looked for in."""
ROLES = ("planner", "builder", "tester", "reviewer")


def missing_roles(said: RoleSettings) -> tuple[tuple[str, str], ...]:
    """Return (role, name) of those that no installed package takes."""
    named = [(role, str(getattr(said, role))) for role in ROLES]
    return tuple((role, name) for role, name in named if name != BUILT_IN and not entry_points(name))


def entry_points(name: str) -> tuple[metadata.EntryPoint, ...]:
    """Return the entry points of this name, in the order in which packages are found."""
    return tuple(metadata.entry_points(group=GROUP, name=name))


def cure(name: str) -> str:
    """Return what to do about a role that is not there."""
    return f"install the package with the entry point '{name}' of the group {GROUP}, where reconciler is installed"
