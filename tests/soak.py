"""What takes too long for every change: hundreds of kills, and twenty reconcilers with two hundred requests.

Not collected with the other tests; run: make soak
"""

from __future__ import annotations

import pytest

from tests.e2e.conftest import hub  # noqa: F401
from tests.e2e.test_disk_full import fail_every_sync
from tests.e2e.test_several import kill_at_random, share_the_work
from tests.scratch import Hub

pytestmark = pytest.mark.executed

SEEDS = range(1000, 1010)


@pytest.mark.parametrize("seed", SEEDS)
def test_three_hundred_kills(hub: Hub, seed: int) -> None:  # noqa: F811
    kill_at_random(hub, seed, 300 // len(SEEDS))


def test_twenty_reconcilers_and_two_hundred_requests(hub: Hub) -> None:  # noqa: F811
    share_the_work(hub, 20, 200)


def test_every_single_sync_that_fails(hub: Hub) -> None:  # noqa: F811
    fail_every_sync(hub, 1, 1)
