"""Stories about somebody's own repository: its requests, pipelines, settings and checklists; all else is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from reconciler.model import Settings
from reconciler.simulation.own_engine import own_trouble, with_engine
from reconciler.simulation.story import Deed, Story, happenings_of, hosts_of

REQUESTS_MAX = 6
"""So many requests take part in one history; other seeds have others."""


def own_story(
    files: Mapping[str, bytes], settings: Settings, branch: str, seed: int, *, remote: bool, engine: bool = False
) -> Story:
    """Return the story of a seed on these files. With `remote`, every other one has machines that share a remote; with
    `engine`, the simulated one takes the place of those that settings name, or is added to them."""
    chance = Random(seed)
    far = remote and chance.random() < 0.5
    asked = [path for path in sorted(files) if path.startswith("runs.d/")]
    chosen = set(chance.sample(asked, min(len(asked), REQUESTS_MAX)))
    kept = {path: data for path, data in files.items() if path in chosen or not path.startswith("runs.d/")}
    return Story(
        seed=seed,
        hosts=hosts_of(chance, far),
        files=with_engine(kept) if engine else kept,
        deeds=_deeds(chance, sorted(chosen)),
        happenings=happenings_of(seed, chance, far),
        branch=branch,
        remote=far,
        pause_s=min(8.0, max(3.0, settings.heartbeat.interval_s)),
        fresh=chance.random() < 0.25,
        fails=chance.choice((0.0, 0.1, 0.4)),
        own=True,
        trouble=own_trouble(seed) if engine else None,
    )


def _deeds(chance: Random, paths: list[str]) -> tuple[Deed, ...]:
    """Return what people do meanwhile: they take requests back, ask again, and commit things of their own."""
    deeds = [Deed(chance.uniform(0, 60), "note", 0) for _ in range(chance.choice((0, 0, 1, 2)))]
    for path in paths:
        if chance.random() < 0.25:
            at_s = chance.uniform(0, 40)
            deeds.append(Deed(at_s, "delete", 0, path))
            if chance.random() < 0.5:
                deeds.append(Deed(at_s + chance.uniform(1, 40), "ask", 0, path))
    return tuple(sorted(deeds, key=lambda each: each.at_s))
