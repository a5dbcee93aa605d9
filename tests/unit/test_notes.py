"""What refs say fits into a note, and says nothing that only the branch can prove."""

from __future__ import annotations

from dataclasses import replace

from reconciler import codec, notes
from reconciler.model import Announcement, ChildEnd, Choice, Claim, Decision, RunId, SharedClaim, StageId, Status
from reconciler.remote import NOTE_BYTES_MAX
from tests.unit.test_hearing import CLAIM, LIVING, SHARED

DECISION = Decision(stage=StageId("ship"), decision=Choice.APPROVE, reason="fine", actor="Boss <b@x>", at="")
CHILD = ChildEnd(run_id=RunId("x.y-11111111"), status=Status.SUCCEEDED, manifest_blob="0" * 40)
PROVEN = replace(CLAIM, decisions=(DECISION,), children=(CHILD,) * 100)


def read(data: bytes) -> tuple[Claim, ...]:
    found = notes.parsed(SharedClaim, data)
    assert isinstance(found, SharedClaim)
    return found.claims


def test_decisions_and_ends_of_nested_runs_are_neither_said_nor_believed() -> None:
    said = notes.claimed(replace(SHARED, claims=(PROVEN,)))
    assert b"Boss" not in said and b"x.y-" not in said
    assert read(said) == read(codec.compact(replace(SHARED, claims=(PROVEN,)))) == (CLAIM,)


def test_a_claim_tells_of_the_newest_attempts_as_far_as_there_is_room() -> None:
    claims = tuple(replace(CLAIM, number=number) for number in range(1, 200))
    assert [each.number for each in read(notes.claimed(replace(SHARED, claims=claims)))] == list(range(150, 200))
    wordy = tuple(replace(each, reason="r" * 20_000) for each in claims)
    said = notes.claimed(replace(SHARED, claims=wordy))
    assert len(said) <= NOTE_BYTES_MAX
    assert read(said)[-1].number == 199


def test_a_host_claims_no_more_than_it_can_announce() -> None:
    """What it cannot announce, others would take for dead."""
    runs = {RunId(f"{'r' * 90}-{number:08x}"): 10**5 for number in range(20_000)}
    fits = notes.fitting(runs, {})
    said = notes.announced(replace(LIVING, runs={each: runs[each] for each in fits}))
    assert 2_000 < len(fits) < 20_000 and len(said) <= NOTE_BYTES_MAX
    announcement = notes.parsed(Announcement, said)
    assert isinstance(announcement, Announcement) and list(announcement.runs) == fits
    living = {each: runs[each] for each in fits}
    more = {RunId("another-11111111"): 1, fits[0]: 2}
    assert notes.fitting(more, living) in ([fits[0]], [RunId("another-11111111"), fits[0]])
    assert len(notes.announced(replace(LIVING, runs=runs))) <= NOTE_BYTES_MAX


def test_what_hosts_of_ours_say_is_believed_as_it_is() -> None:
    assert notes.believed([CLAIM]) == (CLAIM,)
