"""What other machines say is believed as far as it can be true, and whatever a ref holds harms nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler import codec
from reconciler.errors import GitFailed
from reconciler.hearing import Hearing
from reconciler.model import Announcement, Claim, HostId, Instant, Process, RunId, SharedClaim, TaskId, claim_ref
from reconciler.notes import parsed
from reconciler.remote import RefUpdate, write_notes
from reconciler.world import open_world
from tests.scratch import Hub

AT = Instant(at="2026-03-01T12:00:00.000Z", monotonic_s=1.0, boot_id="theirs")
CLAIM = Claim(
    number=1,
    series=1,
    claimed=AT,
    claimer=Process(pid=1, start_ticks=1, boot_id="theirs"),
    reason="launched",
    actor="reconciler",
    plan="plan.json",
    plan_digest="d" * 64,
    commit="c" * 40,
    host="them-1",
)
SHARED = SharedClaim(run_id=RunId("a-11111111"), task_id=TaskId("t"), host=HostId("them-1"), claims=(CLAIM,), nonce="n")
LIVING = Announcement(
    host=HostId("them-1"), name="them", at=AT.at, lease_s=300.0, runs={RunId("a-11111111"): 1}, nonce="n"
)


def test_a_claim_and_an_announcement_are_read_as_they_were_written() -> None:
    assert parsed(SharedClaim, codec.compact(SHARED)) == SHARED
    assert parsed(Announcement, codec.compact(LIVING)) == LIVING


@pytest.mark.parametrize(
    "claims",
    [
        (replace(CLAIM, plan="../../../../etc/passwd"),),
        (replace(CLAIM, plan="/etc/passwd"),),
        (replace(CLAIM, plan="plans/../plan.json"),),
        (replace(CLAIM, number=0),),
        (replace(CLAIM, number=10**9),),
        (replace(CLAIM, number=10**6),),
        (replace(CLAIM, series=2),),
        (replace(CLAIM, claimed=replace(AT, at="garbage")),),
        (replace(CLAIM, commit="--output=/tmp/x"),),
        (CLAIM, CLAIM),
        (replace(CLAIM, number=2), CLAIM),
    ],
    ids=[
        "a path",
        "an absolute path",
        "a detour",
        "no number",
        "a huge number",
        "none after it",
        "a later series",
        "no instant",
        "no commit",
        "twice",
        "out of order",
    ],
)
def test_a_claim_that_nobody_of_us_would_make_is_none(claims: tuple[Claim, ...]) -> None:
    assert parsed(SharedClaim, codec.compact(replace(SHARED, claims=claims))) is None


@pytest.mark.parametrize(
    "fire", ["garbage", "2026-01-01", "2026-01-01T00:00:00Z\n", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+23:59"]
)
def test_a_fire_is_an_instant(fire: str) -> None:
    assert parsed(SharedClaim, codec.compact(replace(SHARED, fired_at=fire))) is None


@pytest.mark.parametrize("host", ["../x", "", "A", "a b", "a/b", "a" * 200])
def test_the_name_of_a_host_is_a_word(host: str) -> None:
    assert parsed(SharedClaim, codec.compact(replace(SHARED, host=HostId(host)))) is None
    assert parsed(Announcement, codec.compact(replace(LIVING, host=HostId(host)))) is None


@pytest.mark.parametrize("data", [None, b"", b"{", b"[]", b"null", b"{}", b"\xff", b'{"host": "x"}', b"[" * 10_000])
def test_what_is_no_note_is_none(data: bytes | None) -> None:
    assert parsed(SharedClaim, data) is None
    assert parsed(Announcement, data) is None


@pytest.mark.parametrize(("said", "taken"), [(-5.0, 0.0), (1e12, 86400.0), (60.0, 60.0)])
def test_a_lease_is_bounded(said: float, taken: float) -> None:
    found: Any = parsed(Announcement, codec.compact(replace(LIVING, lease_s=said)))
    assert found.lease_s == taken


# ------------------------------------------------------------------------------------------------ notes that are gone


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[tuple[Hub, Hearing, str]]:
    """Who hears of a claim that has just been pushed, and whose object `git gc --prune=now` has removed."""
    hub = Hub(tmp_path)
    [clone] = hub.clones("a")
    world = open_world(clone.path)
    assert world.remote is not None
    [oid] = write_notes(world.repository, [codec.compact(SHARED)], "R <r@example.invalid>", 1_700_000_000)
    assert not world.remote.push([RefUpdate(ref=claim_ref(SHARED.run_id), old=None, new=oid)], atomic=False)
    for mark in clone.path.glob(".git/objects/pack/*.keep"):
        mark.unlink()
    clone.git("gc", "-q", "--prune=now")
    yield hub, Hearing(world), oid
    world.repository.objects.close()


def test_what_is_pushed_need_not_be_read(heard: tuple[Hub, Hearing, str]) -> None:
    _, hearing, oid = heard
    hearing.wrote({oid: codec.compact(SHARED)})
    hearing.note([RefUpdate(ref=claim_ref(SHARED.run_id), old=None, new=oid)])
    assert hearing.claims == {SHARED.run_id: SHARED}


def test_a_note_that_is_gone_is_no_claim_of_a_stranger_and_is_fetched_again(heard: tuple[Hub, Hearing, str]) -> None:
    _, hearing, oid = heard
    hearing.note([RefUpdate(ref=claim_ref(SHARED.run_id), old=None, new=oid)])
    assert hearing.claims == {}
    with contextlib.suppress(GitFailed):
        hearing.ask(["main"])
    hearing.ask(["main"])
    assert hearing.claims == {SHARED.run_id: SHARED}


def test_what_is_there_and_no_note_counts_as_a_claim_of_nobody(heard: tuple[Hub, Hearing, str]) -> None:
    hub, hearing, _ = heard
    hub.git("update-ref", "refs/reconciler/claims/b-22222222", "main")
    hearing.ask(["main"])
    assert hearing.claims[RunId("b-22222222")].host == "unknown"
