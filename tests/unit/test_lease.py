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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lease.json"


def test_a_lease_that_holds_is_renewed(path: Path) -> None:
    for began_s in (100.0, 110.0, 129.9):
        renew_lease(DISK, path, at(began_s), SECONDS)
        assert read_lease(DISK, path) == Lease(boot_id="boot", since_s=100.0, until_s=began_s + SECONDS)


@pytest.mark.parametrize("later", [at(120.0), at(4000.0), at(110.0, "another boot")])
def test_a_lease_that_ran_out_begins_anew(path: Path, later: Instant) -> None:
    renew_lease(DISK, path, at(100.0), SECONDS)
    renew_lease(DISK, path, later, SECONDS)
    found = read_lease(DISK, path)
    assert found == Lease(boot_id=later.boot_id, since_s=later.monotonic_s, until_s=later.monotonic_s + SECONDS)


def test_a_worker_goes_by_the_lease_under_which_it_was_spawned(path: Path) -> None:
    renew_lease(DISK, path, at(100.0), SECONDS)
    under = leased(DISK, path)
    assert under.until_s(DISK, "boot") == 120.0
    renew_lease(DISK, path, at(110.0), SECONDS)
    assert under.until_s(DISK, "boot") == 130.0
    assert under.until_s(DISK, "another boot") == OVER
    renew_lease(DISK, path, at(130.0), SECONDS)
    assert under.until_s(DISK, "boot") == OVER, "others may have taken its run over"
    assert leased(DISK, path).until_s(DISK, "boot") == 150.0


@pytest.mark.parametrize("data", [None, b"", b"{", b'{"at": "2026", "monotonic_s": 1.0, "boot_id": "boot"}'])
def test_a_lease_that_cannot_be_read_is_none(path: Path, data: bytes | None) -> None:
    if data is not None:
        path.write_bytes(data)
    under = leased(DISK, path)
    assert under.until_s(DISK, "boot") == OVER
    renew_lease(DISK, path, at(100.0), SECONDS)
    assert under.until_s(DISK, "boot") == OVER, "nobody was spawned under a lease that was none"
    assert leased(DISK, path).until_s(DISK, "boot") == 120.0
