"""Stories about quotas and groups: several machines launch at once, and want more than may be under way.

Nothing goes wrong in them but the order of things: where a host falls silent its runs do not count any more, and a
quota says nothing of that.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from reconciler.simulation.story import Deed, Story, path_of, request, story_of

REQUESTS = 6


def quota_story(seed: int) -> Story:
    """Return the story of a seed: two or three machines, requests of two tasks, and a bound for each task."""
    chance = Random(f"quotas of {seed}")
    story, quota = story_of(seed, remote=True), chance.choice((1, 1, 2))
    settings = story.files["reconciler.yaml"] + f"quotas: {{tasks: {{'*': {quota}}}}}\n".encode()
    kept = {path: data for path, data in story.files.items() if not path.startswith("runs.d/")}
    asked = {path_of(number): request(number) for number in range(REQUESTS)}
    return replace(
        story,
        hosts=(1,) * chance.choice((2, 2, 3)),
        files={**kept, "reconciler.yaml": settings, **asked},
        deeds=(),
        happenings=tuple(each for each in story.happenings if each.kind == "switch"),
        fresh=False,
        fails=0.0,
        order={},
        waiting={},
        policy="",
        quota=quota,
    )


def group_story(seed: int) -> Story:
    """Return the story of a seed in which all requests are of one concurrency group, and there is no quota. Who comes
    later goes first, so that hosts which have heard of more want another one."""
    chance, story = Random(f"groups of {seed}"), quota_story(seed)
    order = {
        number: f"concurrency: {{group: g, on_conflict: queue}}\npriority: {number}\n" for number in range(REQUESTS)
    }
    files = {path: data for path, data in story.files.items() if not path.startswith("runs.d/")}
    files |= {"reconciler.yaml": story.files["reconciler.yaml"].partition(b"quotas:")[0]}
    deeds = tuple(Deed(chance.uniform(0, 0.4), "ask", number) for number in range(REQUESTS))
    return replace(story, files=files, deeds=deeds, order=order, quota=0)
