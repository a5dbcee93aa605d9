"""What travels by git between a host and an attempt that is executed elsewhere: the ref, the order, the word. Pure.

`refs/reconciler/work/<run-id>/<number>` belongs to one attempt. The host makes it: a commit whose parent is the commit
of the run and whose tree is

    order.json     how the attempt is to be executed (`WorkOrder`)
    run/           what of the run directory is there before the attempt: plan, claims, earlier attempts

and, where the attempt goes on in what an earlier one made of its workspace, a further parent that has that as its tree.

The attempt moves it, by compare-and-swap and always to a child of the order: a commit whose message is a `Word` and
whose tree is the run directory as it stands (`run/attempts/<n>.json`, `run/events.jsonl`, and at the end everything
that may become evidence). The last word has a further parent where the attempt hands over what it changed (`Change`).
Heartbeats are words too. The host deletes it when it is done with the attempt or wants to
be: from then on nothing the attempt pushes is accepted, and so it is fenced.

Whoever may write refs could say what he likes here, so a word counts only with a code that its key makes
(HMAC-SHA-256). The key is the attempt's alone: the host derives it from the resume token and hands it to the engine as
a secret, never to git.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import replace

from reconciler import codec
from reconciler.values import frozen

WORK = "refs/reconciler/work/"
CHANGES = "refs/reconciler/changes/"
KEY_VARIABLE = "RECONCILER_WORK_KEY"
"""The environment variable by which an attempt gets its key."""
CREDENTIAL_VARIABLE = "RECONCILER_GIT_CREDENTIAL"
"""The one by which it gets a token for the remote, where it is given one."""
HANDLE = re.compile(
    r"(?P<slug>[a-z0-9-]{1,30})-(?P<repository>[0-9a-f]{8})(?P<run>[0-9a-f]{8})-(?P<number>[1-9][0-9]{0,5})"
)
SLUG_CHARACTERS_MAX = 30
"""A handle is a name of Kubernetes: at most 63 lower-case letters, digits and hyphens."""
RUN = "run/"


@frozen
class WorkOrder:
    """How an attempt is to be executed elsewhere. `beat_s` is how often at least it says a word; `bytes_max` bounds all
    files that it hands back, `depth` how much history it gets (0: all)."""

    run_id: str
    task_id: str
    number: int
    commit: str
    plan_sha256: str
    beat_s: float
    bytes_max: int
    depth: int = 0


@frozen
class Word:
    """What an attempt says of itself: the `beat`-th word, counted from 1, and whether it is the last one. `tree` is the
    id of the tree that comes with it; `mac` the code over all of this, hex."""

    run_id: str
    number: int
    beat: int
    at: str
    ended: bool
    tree: str
    mac: str = ""


@frozen
class Change:
    """`changes/<n>.json`: what attempt `number` made of its workspace. `tree` is the id of that as a tree, "" where it
    stayed there, and `why`."""

    number: int
    tree: str = ""
    why: str = ""


def change_ref(run_id: str, number: int) -> str:
    """Return the ref by which a host keeps what an attempt has changed, until the run is retired. It is never
    pushed."""
    return f"{CHANGES}{run_id}/{number}"


def work_ref(run_id: str, number: int) -> str:
    """Return the ref of an attempt that is executed elsewhere."""
    return f"{WORK}{run_id}/{number}"


def of_ref(ref: str) -> tuple[str, int] | None:
    """Return the run and the attempt that a ref belongs to, None if it is none of ours."""
    run_id, _, number = ref.removeprefix(WORK).rpartition("/")
    is_ours = ref.startswith(WORK) and run_id and number.isascii() and number.isdigit() and len(number) <= 6
    return (run_id, int(number)) if is_ours and not number.startswith("0") else None


def repository_of(address: str) -> str:
    """Return the digest of a repository, by the address that attempts elsewhere clone it from: 8 hex digits."""
    return hashlib.sha256(address.encode()).hexdigest()[:8]


def handle_of(repository: str, run_id: str, number: int) -> str:
    """Return the name of an attempt at an engine; `repository` is its digest."""
    slug = re.sub(r"[^a-z0-9]+", "-", run_id.rpartition("-")[0].lower())[:SLUG_CHARACTERS_MAX].strip("-") or "run"
    return f"{slug}-{repository}{run_digest(run_id)}-{number}"


def run_digest(run_id: str) -> str:
    """Return the digest of a run by which its handles name it: 8 hex digits."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:8]


def run_in(handle: str) -> str:
    """Return the digest of the run that a handle names, "" if it is no handle."""
    found = HANDLE.fullmatch(handle)
    return found["run"] if found else ""


def number_in(handle: str) -> int:
    """Return the number of the attempt that a handle names, 0 if it is no handle."""
    found = HANDLE.fullmatch(handle)
    return int(found["number"]) if found else 0


def repository_in(handle: str) -> str:
    """Return the digest of the repository that a handle belongs to, "" if it is no handle."""
    found = HANDLE.fullmatch(handle)
    return found["repository"] if found else ""


def key_of(token: str, number: int) -> str:
    """Return the key of one attempt, derived from the resume token of its run: 64 hex digits."""
    return hmac.new(token.encode(), f"work {number}".encode(), hashlib.sha256).hexdigest()


def signed(word: Word, key: str) -> Word:
    """Return a word with its code."""
    return replace(word, mac=_mac(word, key))


def is_true(word: Word, key: str) -> bool:
    """Return whether a word was said by who has the key."""
    return bool(key) and hmac.compare_digest(word.mac, _mac(word, key))


def _mac(word: Word, key: str) -> str:
    said = codec.canonical([word.run_id, word.number, word.beat, word.at, word.ended, word.tree])
    return hmac.new(key.encode(), said, hashlib.sha256).hexdigest()
