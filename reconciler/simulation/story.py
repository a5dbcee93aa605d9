"""What a seed stands for: the repository, what people do to it and when, and everything that goes wrong.

A story is drawn completely before it is told, and each of its parts is drawn by itself: so parts can be taken away, and
what is left means the same. Content comes from a small vocabulary, which parsing then has seen before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime
from functools import cache
from random import Random

from reconciler.simulation.engine_story import Trouble, at_engine
from reconciler.simulation.scheduler import Happening
from reconciler.values import frozen

YEAR_S = 365 * 86400.0
EPOCH_S = 1_900_000_000
"""When every history begins, by the wall clock: 2030-03-17."""

LEASES = ("", "poll_interval: 4s\nlease: 40s\n", "poll_interval: 12s\nlease: 60s\n", "poll_interval: 20s\nlease: 90s\n")
SETTINGS = (
    "heartbeat: {interval: 4s, stale_after: 15s}\ngrace: 3s\nruns_max: 2\n",
    "heartbeat: {interval: 5s, stale_after: 30s}\ngrace: 10s\nattempts_max: 5\nruns_max: 4\n",
    "heartbeat: {interval: 2s, stale_after: 5s}\ngrace: 1s\nattempts_max: 4\nruns_max: 1\n",
    "heartbeat: {interval: 4s, stale_after: 12s}\ngrace: 2s\nattempts_max: 4\nkeep_workspace: failed\n",
)

PIPELINES: Mapping[str, str] = {
    "one": "workspace: empty\nstages:\n  - id: only\n    command: 'true'\n",
    "two": "stages:\n  - id: build\n    command: make\n  - id: test\n    role: test\n    command: make test\n",
    "wide": (
        "workspace: empty\nstages:\n  - id: a\n    command: a\n    needs: []\n"
        "  - id: b\n    command: b\n    needs: []\n"
        "    allow_failure: true\n  - id: c\n    command: c\n    needs: [a, b]\n"
    ),
    "again": (
        "workspace: empty\nstages:\n  - id: flaky\n    command: flaky\n    attempts_max: 3\n    backoff: 1s\n"
        "    timeout: 20s\n  - id: then\n    command: 'true'\n"
    ),
}

WAITING: Mapping[str, str] = {
    "gated": (
        "workspace: empty\nstages:\n  - id: build\n    command: make\n  - id: ship\n    command: ship\n"
        "    approval: {reason: It is for ever}\n  - id: tidy\n    command: tidy\n    finally: true\n"
    ),
    "nest": (
        "stages:\n  - id: build\n    command: make\n  - id: sub\n    pipeline: one\n  - id: then\n    command: 'true'\n"
    ),
    "both": (
        "workspace: empty\nstages:\n  - id: sub\n    pipeline: gated\n  - id: ship\n    needs: []\n    command: ship\n"
        "    approval: {reason: It is for ever}\n  - id: end\n    needs: [sub, ship]\n    command: 'true'\n"
    ),
    "many": (
        "workspace: empty\nstages:\n  - id: all\n    pipeline: cell\n    matrix: {n: [1, 2]}\n    allow_failure: true\n"
        "  - id: ship\n    command: ship\n    approval: {reason: It is for ever}\n"
    ),
    "deep": "workspace: empty\nstages:\n  - id: in\n    pipeline: nest\n  - id: end\n    command: 'true'\n",
    "cell": "workspace: empty\nparameters: {n: {}}\nstages:\n  - id: only\n    command: 'true'\n",
}
"""Pipelines with gates and nested ones; `cell` is only ever nested."""

POLICIES: Mapping[str, str] = {
    "": "",
    "two": "approvals: {two: {stages: [ship], approvals_min: 2}}\n",
    "bob": "approvals: {bob: {stages: [ship], approvers: ['bob@*'], paths: ['**']}}\n",
    "late": "approvals: {late: {stages: [ship], within: 60s}}\n",
}

DECISIONS = ("approve", "approve", "approve", "approve", "approve", "reject", "approve another plan", "approve nobody")

PEOPLE = ("ask", "ask", "ask", "edit", "rerun", "cancel", "suspend", "delete", "break", "note", "checklist", "pipeline")


@frozen(kw_only=False)
class Deed:
    """Something a person commits: `at_s` into the history, about request number `about`, or about `path`."""

    at_s: float
    kind: str
    about: int
    path: str = ""
    who: str = ""
    """Who decides about a gate, and about which of several (`pick`)."""
    pick: int = 0


@frozen(kw_only=False)
class Behaviour:
    """How one try of one stage goes. A stubborn stage does not hear TERM."""

    seconds: float
    exit_code: int
    output: bytes
    stubborn: bool


@frozen
class Story:
    """One history, before it happens."""

    seed: int
    hosts: tuple[int, ...]
    """How many reconcilers each machine has."""
    files: Mapping[str, bytes]
    deeds: tuple[Deed, ...]
    happenings: tuple[Happening, ...]
    branch: str = "main"
    remote: bool = False
    pause_s: float = 3.0
    fresh: bool = False
    """Whether every pass is a process of its own, as from cron."""
    fails: float = 0.15
    order: Mapping[int, str] = field(default_factory=dict)
    """What requests say of others, by number: it stays in them whatever people edit."""
    waiting: Mapping[int, str] = field(default_factory=dict)
    """The pipelines with gates and nested ones that requests ask for, by number."""
    policy: str = ""
    """By which of `POLICIES` decisions are judged."""
    quota: int = 0
    """How many runs of a task may be under way at once, 0 for any number; only where nobody falls silent."""
    own: bool = False
    """Whether files are somebody's own: then requests may ask for a place that nobody has."""
    trouble: Trouble | None = None
    """How the engine behaves that executes some of the runs, None where there is none."""

    def after(self) -> Mapping[str, str]:
        """Return by name what each request comes after, where it comes after anything."""
        said = {name_of(number): text for number, text in self.order.items() if text.startswith("after")}
        return {name: text.partition("[")[2].partition("]")[0] for name, text in said.items()}

    def draw(self, *words: object) -> float:
        """Return a number from 0 to below 1 that depends on the seed and these words alone."""
        text = f"{self.seed}|" + "|".join(map(str, words))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) / 2**32


FAULTS = (
    ("crash", 10), ("stop", 3), ("power", 2), ("clock", 2), ("disk full", 2), ("git fails", 2), ("spawn fails", 1),
    ("publish blocked", 1), ("kill", 4), ("remove", 0),
)  # fmt: skip
REMOTE_FAULTS = (
    ("push lost", 3),
    ("push late", 3),
    ("push twice", 2),
    ("no answer", 4),
    ("fetch fails", 2),
    ("slow answer", 2),
    ("cut off", 4),
    ("away", 3),
)


def request(number: int, *, pipeline: str = "", more: str = "") -> bytes:
    """Return the text of request `number`; all stories ask in the same words."""
    name = pipeline or tuple(PIPELINES)[number % len(PIPELINES)]
    proves = f"proves: [t{number % 2}/item-{number % 6}]\n" if number % 3 else ""
    return f"task: t{number % 2}\npipeline: {name}\n{proves}{more}".encode()


def name_of(number: int) -> str:
    return f"r{number:02d}"


def path_of(number: int) -> str:
    return f"runs.d/{name_of(number)}.yaml"


@cache
def base_files(settings: int, lease: int) -> Mapping[str, bytes]:
    """Return the files that every simulated repository begins with."""
    lists = {
        f"tasks/t{task}.md": "".join(
            [
                f"# Task {task}\n\nSome words.\n\n",
                *(f"- [ ] Item {n} <!-- item: t{task}/item-{n} -->\n" for n in range(6)),
            ]
        ).encode()
        for task in range(2)
    }
    index = {"items": [{"id": f"t{task}", "title": f"Task {task}", "gate": {}} for task in range(2)]}
    return {
        "reconciler.yaml": (SETTINGS[settings] + LEASES[lease]).encode(),
        "README.md": b"# A repository\n",
        "AGENTS.md": b"Be kind.\n",
        "src/main.py": b"print('hello')\n",
        "tasks/index.json": json.dumps(index, indent=2).encode() + b"\n",
        **{f"pipelines/{name}.yaml": text.encode() for name, text in PIPELINES.items()},
        **lists,
    }


def story_of(seed: int, *, remote: bool | None = None, waits: bool = False, engine: bool = False) -> Story:
    """Return the story of a seed. With `waits`, all stories have gates or nested pipelines, with `engine`, an engine
    that executes some of their runs; few have else."""
    chance = Random(seed)
    big = chance.random()
    requests = chance.randint(8, 50) if big > 0.996 else chance.randint(4, 8) if big > 0.95 else chance.randint(0, 3)
    far = chance.random() < 0.5 if remote is None else remote
    hosts = hosts_of(chance, far)
    files = base_files(chance.randrange(len(SETTINGS)), chance.randint(1, 3) if far else 0)
    order, changes = times_of(seed, requests, order_of(seed, requests))
    waiting = waiting_of(seed, requests, order, waits=waits)
    order = waiting.order
    files = {**files, **waiting.files(files)}
    if there := at_engine(seed, requests, always=engine):
        order = {**order, **{number: order.get(number, "") + text for number, text in there.wishes.items()}}
        files = {**files, "reconciler.yaml": files["reconciler.yaml"] + there.settings.encode()}
    asked = [number for number in range(requests) if chance.random() < 0.6]
    files = {
        **files,
        **{
            path_of(number): request(number, pipeline=waiting.pipelines.get(number, ""), more=order.get(number, ""))
            for number in asked
        },
    }
    deeds = [Deed(chance.uniform(0, 20), "ask", number) for number in range(requests) if path_of(number) not in files]
    if requests:
        span_s = chance.choice((5, 40, 90))
        for _ in range(chance.choice((0, 0, 1, 1, 2, 3))):
            deeds.append(Deed(chance.uniform(0, span_s), chance.choice(PEOPLE), chance.randrange(requests)))
    deeds += [*changes, *waiting.deeds]
    return Story(
        seed=seed,
        hosts=hosts,
        files=files,
        deeds=tuple(sorted(deeds, key=lambda each: each.at_s)),
        happenings=happenings_of(seed, chance, far),
        remote=far,
        pause_s=chance.choice((2.0, 4.0, 6.0)) if requests <= 4 else 8.0,
        fresh=chance.random() < 0.25,
        fails=chance.choice((0.0, 0.1, 0.4)),
        order=order,
        waiting=waiting.pipelines,
        policy=waiting.policy,
        trouble=there.trouble if there is not None else None,
    )


@frozen
class Waiting:
    """What a story has of gates and nested pipelines."""

    pipelines: Mapping[int, str] = field(default_factory=dict)
    order: dict[int, str] = field(default_factory=dict)
    deeds: tuple[Deed, ...] = ()
    policy: str = ""

    def files(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return the files that a repository has because of it, given all others."""
        if not self.pipelines:
            return {}
        pipelines = {f"pipelines/{name}.yaml": text.encode() for name, text in WAITING.items()}
        return {**pipelines, "reconciler.yaml": files["reconciler.yaml"] + POLICIES[self.policy].encode()}


def waiting_of(seed: int, requests: int, order: dict[int, str], *, waits: bool) -> Waiting:
    """Return, for one story in eight, what requests wait for and what people decide. It is drawn from a stream of its
    own as well."""
    chance = Random(f"gates of {seed}")
    if (chance.random() < 0.875 and not waits) or not requests:
        return Waiting(order=order)
    pipelines: dict[int, str] = {}
    deeds: list[Deed] = []
    order = dict(order)
    for number in range(requests):
        recurring = order.get(number, "").startswith(("schedule", "on_change"))
        if recurring or chance.random() < 0.3:
            continue
        pipelines[number] = chance.choice(("gated", "gated", "nest", "both", "many", "deep"))
        if chance.random() < 0.1:
            order[number] = order.get(number, "") + f"approval_policy: {chance.choice(('auto', 'never'))}\n"
        for _ in range(chance.choice((0, 1, 2, 2, 3, 5))):
            who, kind = chance.choice(("ann", "bob")), chance.choice(DECISIONS)
            path = f"runs.d/{who}-{number}-{len(deeds)}.approval.yaml"
            deeds.append(Deed(chance.uniform(0, 100), kind, number, path, who, chance.randrange(4)))
    policy = chance.choice(("", "", "", *POLICIES))
    return Waiting(pipelines=pipelines, order=order, deeds=tuple(deeds), policy=policy)


def order_of(seed: int, requests: int) -> dict[int, str]:
    """Return what requests say of others, for one story in four. It is drawn from a stream of its own, so that all
    else of a seed is as it would be without."""
    chance = Random(f"order of {seed}")
    if requests < 2 or chance.random() < 0.75:
        return {}
    return {number: text for number in range(requests) if (text := _order(chance, number, requests))}


def times_of(seed: int, requests: int, order: dict[int, str]) -> tuple[dict[int, str], list[Deed]]:
    """Return, for one story in ten, one request that asks for several runs, and what people change meanwhile. It is
    drawn from a stream of its own as well."""
    chance = Random(f"times 11 of {seed}")
    if chance.random() < 0.8 or not requests:
        return order, []
    number = chance.randrange(requests)
    if number in order:
        return order, []
    if chance.random() < 0.5:
        until = datetime.fromtimestamp(EPOCH_S + chance.choice((0, 70, 200)), UTC).isoformat()[:19]
        missed = chance.choice(("run_once", "skip"))
        return {**order, number: f"schedule: {{cron: '* * * * *', missed: {missed}, until: {until}Z}}\n"}, []
    paths = chance.choice(("src", "src, tasks"))
    changes = [Deed(chance.uniform(0, 60), "source", number) for _ in range(chance.randint(1, 3))]
    return {**order, number: f"on_change: [{paths}]\n"}, changes


def _order(chance: Random, number: int, requests: int) -> str:
    kind = chance.choice(("", "after", "after", "queue", "queue", "queue", "cancel_running"))
    # Now and then any other one, which may come to a circle.
    other = chance.randrange(requests if chance.random() < 0.1 else max(1, number))
    if kind == "after":
        return f"after: [{name_of(other)}]\n" if other != number else ""
    return f"concurrency: {{group: g, on_conflict: {kind}}}\n" if kind else ""


def hosts_of(chance: Random, far: bool) -> tuple[int, ...]:
    if not far:
        return (chance.choice((1, 1, 2, 2, 3)),)
    count = chance.choice((1, 2, 2, 2, 3))
    hosts = [1] * count
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        if sum(hosts) < 5:
            hosts[chance.randrange(count)] += 1
    return tuple(hosts)


def happenings_of(seed: int, chance: Random, far: bool) -> tuple[Happening, ...]:
    """Return faults and switches, within a span of moves that is short as often as long."""
    rare = (*now_and_then(seed, "suspend"), *(now_and_then(seed, "forge") if far else ()))
    span = int(10 ** chance.uniform(2.0, 3.8))
    kinds = FAULTS + (REMOTE_FAULTS if far else ())
    names, weights = [each[0] for each in kinds], [each[1] for each in kinds]
    faults = chance.choice((0, 1, 1, 2, 2, 3, 4, 6))
    found = [
        Happening(chance.randint(1, span), kind, chance.random()) for kind in chance.choices(names, weights, k=faults)
    ]
    every = chance.choice((10, 40, 150, 600))
    at = 0
    while at < span and len(found) < 400:
        at += 1 + int(chance.expovariate(1 / every))
        found.append(Happening(at, "switch", chance.random()))
    return (*sorted(found, key=lambda each: (each.move, each.kind, each.value)), *rare)


def now_and_then(seed: int, kind: str) -> tuple[Happening, ...]:
    """Return, for one story in twenty, when something happens once or a few times. It is drawn from a stream of its own
    as well."""
    chance = Random(f"{kind} in {seed}")
    if chance.random() < 0.95:
        return ()
    moves = [int(10 ** chance.uniform(1.5, 3.5)) for _ in range(chance.choice((1, 1, 2, 3)))]
    return tuple(Happening(move, kind, chance.random()) for move in sorted(moves))
