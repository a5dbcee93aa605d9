"""What the ref of a run or of a host says at the remote: how it is spelled, and how much of it is believed.

Whoever may write refs can write such a note, also who may not write the branch. So it tells whose a run is, and nothing
that opens a gate or ticks a box: decisions and the ends of nested runs are proven by the branch alone, and who goes on
with a run finds them there. What a note says to people is bounded, in one line, and without what looks like a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from reconciler import codec
from reconciler.model import Announcement, Claim, RunId, SharedClaim
from reconciler.places import Placement, Recovery
from reconciler.redact import redact_text
from reconciler.remote import NOTE_BYTES_MAX

Note = SharedClaim | Announcement

CLAIMS_HELD_MAX = 50
"""A claim at the remote tells of so many attempts, however often a run is resumed."""
RUNS_BYTES_MAX = NOTE_BYTES_MAX - 4096
"""So much room has an announcement for the runs it lists, beside what else it says."""
NUMBER_MAX = 10**6
NAME_CHARACTERS_MAX = 100
TEXT_CHARACTERS_MAX = 1_000
LEASE_S_MAX = 86_400.0
ID = re.compile(r"[a-z0-9](\.?[a-z0-9_-]){0,99}")
PLAN_FILE = re.compile(r"plan\.json|plans/[1-9][0-9]{0,8}\.json")
AT = re.compile(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})")
"""How our clocks and schedules spell an instant; far enough from the ends of the calendar to reckon with it."""
HEX = re.compile(r"[0-9a-f]{0,64}")

# ------------------------------------------------------------------------------------------------ spelling


def claimed(shared: SharedClaim) -> bytes:
    """Spell a claim as others may read it: of the newest attempts as many as there is room for."""
    claims = [_without_proofs(each) for each in shared.claims[-CLAIMS_HELD_MAX:]]
    while True:
        data = codec.compact(replace(shared, claims=tuple(claims)))
        if len(data) <= NOTE_BYTES_MAX or len(claims) <= 1:
            return data
        claims = claims[(len(claims) + 1) // 2 :]


def announced(announcement: Announcement) -> bytes:
    """Spell an announcement, with as many of its runs as there is room for: `fitting` sees to it that this is all."""
    runs = announcement.runs
    return codec.compact(replace(announcement, runs={each: runs[each] for each in fitting(runs, {})}))


def fitting(runs: Mapping[RunId, int], beside: Mapping[RunId, int]) -> list[RunId]:
    """Return those of some runs, in order, that a host can announce beside others."""
    room, found = RUNS_BYTES_MAX - sum(map(_bytes_of, beside)), []
    for run_id in runs:
        room -= 0 if run_id in beside else _bytes_of(run_id)
        if room >= 0 or run_id in beside:
            found.append(run_id)
    return found


def _bytes_of(run_id: RunId) -> int:
    return len(run_id) + len(f'"":{NUMBER_MAX},')


def _without_proofs(claim: Claim) -> Claim:
    return replace(claim, decisions=(), children=()) if claim.decisions or claim.children else claim


# ------------------------------------------------------------------------------------------------ reading


def parsed(kind: type[Note], data: bytes | None) -> Note | None:
    """Return the note in a commit message, None if it is none: whoever may push can write anything there."""
    if data is None:
        return None
    try:
        note: Note = codec.parse(kind, data)
    except codec.CodecError:
        return None
    if not ID.fullmatch(note.host):
        return None
    if isinstance(note, Announcement):
        return replace(
            note, name=_line(note.name, NAME_CHARACTERS_MAX), lease_s=min(max(note.lease_s, 0.0), LEASE_S_MAX)
        )
    return _checked(note)


def _checked(note: SharedClaim) -> SharedClaim | None:
    """Return a claim as far as it counts, None if no host of ours can have made it."""
    numbers = [each.number for each in note.claims]
    # The attempt that follows has a number as well, which the host that makes it must be able to read.
    if numbers != sorted(set(numbers)) or not all(0 < each < NUMBER_MAX for each in numbers):
        return None
    if note.fired_at and not _is_instant(note.fired_at):
        return None
    if not all(map(_is_plain, note.claims)):
        return None
    proves = any(each.decisions or each.children for each in note.claims)
    return replace(note, claims=tuple(map(_without_proofs, note.claims))) if proves else note


def _is_plain(claim: Claim) -> bool:
    """Return whether what code reads of a claim is spelled as code spells it. The name of a file on another machine
    becomes one here when a run is taken over."""
    placed = claim.placement
    return (
        PLAN_FILE.fullmatch(claim.plan) is not None
        and _is_instant(claim.claimed.at)
        and 0 < claim.series <= claim.number
        and 0 < claim.keeps_from <= claim.number
        and (placed is None or not placed.at or _is_instant(placed.at))
        and HEX.fullmatch(claim.commit) is not None
        and HEX.fullmatch(claim.plan_digest) is not None
    )


def _is_instant(text: str) -> bool:
    """Return whether a text is an instant that there is: a thirteenth month is spelled well, and stops who reckons."""
    try:
        return AT.fullmatch(text) is not None and bool(datetime.fromisoformat(text))
    except ValueError:
        return False


# ------------------------------------------------------------------------------------------------ taking over


def believed(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """Return claims of another host as they may become records here, and with them evidence."""
    return tuple(_believed(each) for each in claims)


def _believed(claim: Claim) -> Claim:
    return replace(
        claim,
        reason=_line(claim.reason),
        actor=_line(claim.actor, NAME_CHARACTERS_MAX),
        host=_line(claim.host, NAME_CHARACTERS_MAX),
        placement=_placement(claim.placement) if claim.placement is not None else None,
        recovery=_recovery(claim.recovery) if claim.recovery is not None else None,
    )


def _placement(placed: Placement) -> Placement:
    words = {each: _line(getattr(placed, each), NAME_CHARACTERS_MAX) for each in ("executor", "instance")}
    lists = {
        each: tuple(_line(name, NAME_CHARACTERS_MAX) for name in getattr(placed, each)) for each in ("asked", "offered")
    }
    return replace(placed, **words, **lists, reason=_line(placed.reason))  # type: ignore[arg-type]


def _recovery(found: Recovery) -> Recovery:
    return replace(
        found,
        executor=_line(found.executor, NAME_CHARACTERS_MAX),
        instance=_line(found.instance, NAME_CHARACTERS_MAX),
        detail=_line(found.detail),
    )


def _line(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """Return a text for people as one line without secrets; one that is plain, as ours are, comes back as it is."""
    plain = text if text.isprintable() else " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return redact_text(plain[:characters_max])
