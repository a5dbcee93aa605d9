"""The lease of a host: renewed while it holds, begun anew when it has run out, and what workers make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.disk import DISK
from reconciler.lease import OVER, Lease, leased, read_lease, renew_lease
from reconciler.model import Instant

SECONDS = 20.0


def at(seconds: float, boot: str = "boot") -> Instant:
    return Instant(at="2026-01-01T00:00:00.000Z", monotonic_s=seconds, boot_id=boot)


def renew(path: Path, began: Instant, later_s: float = 0.0) -> None:
    """Take the lease with a push that began then, and was answered later."""
    now = Instant(at=began.at, monotonic_s=began.monotonic_s + later_s, boot_id=began.boot_id)
    renew_lease(DISK, path, began, now, SECONDS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lease.json"


def test_a_lease_that_holds_is_renewed(path: Path) -> None:
    for began_s in (100.0, 110.0, 129.9):
        renew(path, at(began_s))
        assert read_lease(DISK, path) == Lease(boot_id="boot", since_s=100.0, until_s=began_s + SECONDS)


@pytest.mark.parametrize("later", [at(120.0), at(4000.0), at(110.0, "another boot")])
def test_a_lease_that_ran_out_begins_anew(path: Path, later: Instant) -> None:
    renew(path, at(100.0))
    renew(path, later)
    found = read_lease(DISK, path)
    assert found == Lease(boot_id=later.boot_id, since_s=later.monotonic_s, until_s=later.monotonic_s + SECONDS)


def test_a_lease_that_ran_out_while_the_remote_answered_begins_anew(path: Path) -> None:
    renew(path, at(100.0))
    renew(path, at(115.0), later_s=10.0)
    assert read_lease(DISK, path) == Lease(boot_id="boot", since_s=115.0, until_s=135.0)


def test_a_worker_goes_by_the_lease_under_which_it_was_spawned(path: Path) -> None:
    renew(path, at(100.0))
    under = leased(DISK, path)
    assert under.until_s(DISK, "boot") == 120.0
    renew(path, at(110.0))
    assert under.until_s(DISK, "boot") == 130.0
    assert under.until_s(DISK, "another boot") == OVER
    renew(path, at(130.0))
    assert under.until_s(DISK, "boot") == OVER, "others may have taken its run over"
    assert leased(DISK, path).until_s(DISK, "boot") == 150.0


@pytest.mark.parametrize("data", [None, b"", b"{", b'{"at": "2026", "monotonic_s": 1.0, "boot_id": "boot"}'])
def test_a_lease_that_cannot_be_read_is_none(path: Path, data: bytes | None) -> None:
    if data is not None:
        path.write_bytes(data)
    under = leased(DISK, path)
    assert under.until_s(DISK, "boot") == OVER
    renew(path, at(100.0))
    assert under.until_s(DISK, "boot") == OVER, "nobody was spawned under a lease that was none"
    assert leased(DISK, path).until_s(DISK, "boot") == 120.0
