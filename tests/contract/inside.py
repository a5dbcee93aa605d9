"""A simulated machine to try things on: what is done inside is done by one of its processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from reconciler.simulation.history import History
from reconciler.simulation.host import Host
from reconciler.simulation.story import Story, story_of

T = TypeVar("T")


def quiet_story(*, hosts: int = 1, remote: bool = False) -> Story:
    """Return a story in which nothing happens by itself and nobody reconciles."""
    story = story_of(0, remote=remote)
    return replace(story, hosts=(0,) * hosts, deeds=(), happenings=(), remote=remote, fails=0.0)


def machines(*, hosts: int = 1, remote: bool = False) -> tuple[Host, ...]:
    """Return simulated machines of one history."""
    return tuple(History(quiet_story(hosts=hosts, remote=remote)).hosts)


def inside(host: Host, body: Callable[[], T], kind: str = "reconciler") -> T:
    """Let a process of a machine do something, and everybody else move meanwhile; return what it returned."""
    scheduler, results, errors = host.scheduler, [], []
    scheduler.over = False

    def main() -> None:
        try:
            results.append(body())
        except Exception as error:
            errors.append(error)
        scheduler.over = True

    scheduler.start(host.new_actor("somebody", kind), main)
    scheduler.run()
    if errors:
        raise errors[0]
    return results[0]
