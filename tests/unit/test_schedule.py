"""When a schedule fires, and which fire is the newest that counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler import schedule
from reconciler.contracts import Contracts
from reconciler.model import Instant, Schedule

BERLIN = ZoneInfo("Europe/Berlin")


def instant(at: str) -> Instant:
    return Instant(at=at, monotonic_s=0.0, boot_id="boot")


def latest(cron: str, at: str, *, since: str | None = None, **keys: object) -> str | None:
    said = Schedule(cron=cron, **keys)  # type: ignore[arg-type]
    since_s = None if since is None else int(datetime.fromisoformat(since).timestamp())
    return schedule.latest(said, BERLIN, instant(at), since_s)


def following(cron: str, at: str, **keys: object) -> str | None:
    return schedule.following(Schedule(cron=cron, **keys), BERLIN, instant(at), None)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ the newest fire


@pytest.mark.parametrize(
    ("at", "fire"),
    [
        ("2026-06-10T00:59:59.999Z", "2026-06-09T01:00:00Z"),
        ("2026-06-10T01:00:00.000Z", "2026-06-10T01:00:00Z"),
        ("2026-06-10T01:00:00.001Z", "2026-06-10T01:00:00Z"),
        ("2026-06-14T12:00:00.000Z", "2026-06-12T01:00:00Z"),
        ("2026-12-10T01:59:59.000Z", "2026-12-09T02:00:00Z"),
    ],
)
def test_the_newest_fire_is_named_in_utc(at: str, fire: str) -> None:
    assert latest("0 3 * * 1-5", at) == fire


def test_a_request_has_no_fires_before_it_came() -> None:
    assert latest("0 3 * * *", "2026-06-10T12:00:00.000Z", since="2026-06-10T01:00:00Z") is None
    assert latest("0 3 * * *", "2026-06-10T12:00:00.000Z", since="2026-06-10T00:59:59Z") == "2026-06-10T01:00:00Z"


def test_what_is_skipped_may_be_late_by_the_grace() -> None:
    assert latest("0 3 * * *", "2026-06-10T01:10:00.000Z", missed="skip") == "2026-06-10T01:00:00Z"
    assert latest("0 3 * * *", "2026-06-10T01:10:00.001Z", missed="skip") is None
    assert latest("0 3 * * *", "2026-06-10T02:00:00.000Z", missed="skip", grace_s=3600.0) == "2026-06-10T01:00:00Z"
    assert latest("0 3 * * *", "2036-06-10T00:00:00.000Z", missed="run_once") == "2036-06-09T01:00:00Z"


def test_nothing_fires_after_the_end() -> None:
    until = "2026-06-10T01:00:00Z"
    assert latest("0 3 * * *", "2026-06-20T12:00:00.000Z", until=until) == "2026-06-10T01:00:00Z"
    assert latest("0 3 * * *", "2026-06-20T12:00:00.000Z", until="2026-06-10T00:59:59Z") == "2026-06-09T01:00:00Z"
    assert following("0 3 * * *", "2026-06-09T12:00:00.000Z", until=until) == "2026-06-10T01:00:00Z"
    assert following("0 3 * * *", "2026-06-10T01:00:00.000Z", until=until) is None


# ------------------------------------------------------------------------------------------------ clocks that are moved


def test_a_time_that_clocks_skip_fires_after_the_gap() -> None:
    assert latest("30 2 * * *", "2026-03-29T00:59:59.000Z") == "2026-03-28T01:30:00Z"
    assert latest("30 2 * * *", "2026-03-29T01:00:00.000Z") == "2026-03-29T01:00:00Z"
    assert following("30 2 * * *", "2026-03-28T12:00:00.000Z") == "2026-03-29T01:00:00Z"
    assert latest("*/30 * * * *", "2026-03-29T00:59:59.000Z") == "2026-03-29T00:30:00Z"


def test_a_time_that_clocks_repeat_fires_once() -> None:
    assert latest("30 2 * * *", "2026-10-25T00:30:00.000Z") == "2026-10-25T00:30:00Z"
    assert latest("30 2 * * *", "2026-10-25T01:45:00.000Z") == "2026-10-25T00:30:00Z"
    assert following("30 2 * * *", "2026-10-25T00:30:00.000Z") == "2026-10-26T01:30:00Z"


def test_what_repeats_fires_in_both_hours() -> None:
    at, fires = datetime(2026, 10, 24, 23, 59, tzinfo=UTC), set()
    for _ in range(180):
        at += timedelta(minutes=1)
        fires.add(latest("*/30 * * * *", at.isoformat(timespec="milliseconds").replace("+00:00", "Z")))
    assert [each for each in sorted(filter(None, fires)) if each >= "2026-10-25"] == [
        f"2026-10-25T0{hour}:{minute}:00Z" for hour in range(3) for minute in ("00", "30")
    ]


CRONS = st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 3 * * 1-5", "15 2 25-31 3,10 *", "0 */2 * * 0"])
MINUTES = st.integers(0, 366 * 1440)


@settings(deadline=None, max_examples=150)
@given(CRONS, MINUTES, st.sampled_from([BERLIN, UTC, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("America/St_Johns")]))
def test_looking_back_finds_what_looking_ahead_promised(cron: str, minutes: int, zone: object) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    now = instant(at.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
    promised = schedule.following(Schedule(cron=cron), zone, now, None)  # type: ignore[arg-type]
    assert promised is not None and promised[:19] > now.at[:19]
    then = instant(promised.replace("Z", ".000Z"))
    assert schedule.latest(Schedule(cron=cron), zone, then, None) == promised  # type: ignore[arg-type]
    before = datetime.fromisoformat(promised) - timedelta(milliseconds=1)
    just_before = instant(before.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
    found = schedule.latest(Schedule(cron=cron), zone, just_before, None)  # type: ignore[arg-type]
    assert found is not None and found <= now.at[:19] + "Z"


# ------------------------------------------------------------------------------------------------ zones


def test_zones_are_those_of_the_database() -> None:
    contracts = Contracts()
    assert contracts.zone("Europe/Berlin") is not None
    assert [contracts.zone(each) for each in ("Europe/Bonn", "../etc/passwd", "/etc/passwd", "", "a\0b")] == [None] * 5
