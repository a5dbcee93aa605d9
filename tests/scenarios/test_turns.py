"""Whose turn it is after a lost race: hosts that share a remote publish one after the other, and wait for nobody else.

The remote here is a table of announcements, the clock a number that sleeping moves on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from reconciler.contact import LOOK_S, MISSED, NEAR, SPREAD_S, TURN_S, TURNS_MAX_S, Contact
from reconciler.errors import ContentError, GitFailed
from reconciler.model import HostId, Instant, host_ref

TRY_S = 1.0
LEASE_S = 600.0


class Table:
    """A remote with announcements; `publishes_at` says when each host takes its own down."""

    def __init__(self, oids: Mapping[str, str], publishes_at: Mapping[str, float]) -> None:
        self.oids, self.publishes_at = oids, publishes_at
        self.now_s = 0.0
        self.looks = 0
        self.fetched_s: list[float] = []
        self.answers, self.broken = True, False

    def look(self, refs: Sequence[str]) -> Mapping[str, str]:
        self.looks += 1
        if not self.answers:
            raise GitFailed("no answer")
        standing = self._standing()
        return {ref: standing[ref] for ref in refs if ref in standing}

    def _standing(self) -> dict[str, str]:
        return {host_ref(HostId(host)): oid for host, oid in self.oids.items() if not self._has_published(host)}

    def _has_published(self, host: str) -> bool:
        return self.publishes_at.get(host, float("inf")) <= self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now_s += seconds

    def contact(self, me: str, lease_s: float = LEASE_S) -> Contact:
        """Return the contact of one host, which has just lost a try that took a second."""
        refs = {host_ref(HostId(host)): oid for host, oid in self.oids.items()}
        world: Any = SimpleNamespace(
            remote=self,
            sleep=self.sleep,
            host=lambda: HostId(me),
            now=lambda: Instant(at="2026-03-01T12:00:00.000Z", monotonic_s=self.now_s, boot_id="boot"),
            chance=SimpleNamespace(fraction=lambda: 0.5),
        )
        hearing = SimpleNamespace(hosts=dict.fromkeys(map(HostId, self.oids)), refs=refs)

        def ask() -> None:
            self.fetched_s.append(self.now_s)
            if self.broken:
                raise ContentError("reconciler.yaml:1:1: settings that somebody has just broken")
            hearing.refs, observer.online = self._standing(), True

        settings = SimpleNamespace(lease_s=lease_s)
        observer: Any = SimpleNamespace(hearing=hearing, settings=settings, ask=ask, online=False)
        return Contact(world, observer, began_s=self.now_s - TRY_S)


HOSTS = {f"host-{number}": f"{number * 7 % 50:040x}" for number in range(50)}
ORDER = sorted(HOSTS, key=lambda host: HOSTS[host])


def waited_s(me: str, publishes_at: Mapping[str, float], prepare: Callable[[Table], None] = lambda _: None) -> float:
    table = Table(HOSTS, publishes_at)
    prepare(table)
    table.contact(me).spread()
    return table.now_s


@pytest.mark.parametrize("turn_s", [TURN_S, 0.2, 0.25])
def test_each_host_comes_when_all_before_it_have_published_and_soon_after(turn_s: float) -> None:
    done = {host: (rank + 1) * turn_s for rank, host in enumerate(ORDER)}
    for rank, host in enumerate(ORDER[1:], 1):
        assert 0 <= waited_s(host, done) - rank * turn_s < LOOK_S + TURN_S, host


@pytest.mark.parametrize("turn_s", [TURN_S, 0.3, 0.6])
def test_who_waits_looks_seldom_however_long_turns_take(turn_s: float) -> None:
    done = {host: (rank + 1) * turn_s for rank, host in enumerate(ORDER)}
    tables = {host: Table(HOSTS, done) for host in ORDER[1:]}
    for host, table in tables.items():
        table.contact(host).spread()
    assert sum(table.looks for table in tables.values()) < 17 * len(tables)


@pytest.mark.parametrize("rank", [1, MISSED - 1, MISSED, 20, 49])
def test_who_has_missed_much_fetches_it_once_shortly_before_its_turn(rank: int) -> None:
    table = Table(HOSTS, {host: (index + 1) * 0.2 for index, host in enumerate(ORDER)})
    contact = table.contact(ORDER[rank])
    contact.spread()
    assert len(table.fetched_s) <= 1 and (rank < MISSED) <= (not table.fetched_s)
    assert rank < 20 or (rank - NEAR) * 0.2 <= table.fetched_s[0] <= rank * 0.2
    assert not contact.observer.online, "it asks again when its turn has come"


def test_settings_that_are_broken_meanwhile_end_the_wait_and_not_the_watcher() -> None:
    table = Table(HOSTS, {host: (index + 1) * 0.2 for index, host in enumerate(ORDER)})
    table.broken = True
    contact = table.contact(ORDER[20])
    contact.spread()
    assert len(table.fetched_s) == 1 and not contact.observer.online


def test_the_first_goes_on_after_a_moment() -> None:
    assert waited_s(ORDER[0], {}) <= 2 * SPREAD_S


def test_a_host_without_an_announcement_goes_on_after_a_moment() -> None:
    assert waited_s("a-person", {}) <= 2 * SPREAD_S


def test_for_hosts_that_do_not_publish_nobody_waits_longer_than_two_tries_take() -> None:
    assert waited_s(ORDER[2], {}) == pytest.approx(2 * TRY_S, abs=LOOK_S)
    assert waited_s(ORDER[-1], {}) == pytest.approx(2 * TRY_S, abs=LOOK_S)
    assert waited_s(ORDER[2], {ORDER[0]: 0.5}) == pytest.approx(0.5 + 2 * TRY_S, abs=2 * (TURN_S + LOOK_S))


def test_a_host_that_renews_its_announcement_has_had_its_turn() -> None:
    table = Table(HOSTS, {})
    contact = table.contact(ORDER[1])
    table.oids = {**HOSTS, ORDER[0]: "f" * 40}
    contact.spread()
    assert (table.now_s, table.looks) == (LOOK_S, 1)


def test_a_remote_that_does_not_answer_ends_the_wait() -> None:
    def prepare(table: Table) -> None:
        table.answers = False

    assert waited_s(ORDER[1], {}, prepare) == LOOK_S


@pytest.mark.parametrize(("lease_s", "deadline_s", "longest_s"), [(600, 1e9, TURNS_MAX_S), (6, 1e9, 1.0), (600, 2, 2)])
def test_nobody_waits_until_its_own_runs_count_as_dead_nor_beyond_the_deadline(
    lease_s: float, deadline_s: float, longest_s: float
) -> None:
    slow = {host: (rank + 1) * 0.9 for rank, host in enumerate(ORDER)}
    table = Table(HOSTS, slow)
    table.contact(ORDER[-1], lease_s).spread(deadline_s)
    assert table.now_s == pytest.approx(longest_s)
