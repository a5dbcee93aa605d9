"""What an attempt goes on with: what is over in the one that waited, unless it begins anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from reconciler import course, manifest, process
from reconciler.model import Attempt, Host, Outcome, StageRecord, StageStatus
from tests.placed import Placed, placed
from tests.scratch import Scratch

HERE = Host(name="node1", system="Linux", machine="x", python="3", cpus=1)


@pytest.fixture
def run(scratch: Scratch) -> Iterator[Placed]:
    scratch.write("README.md", "hello\n")
    scratch.commit()
    found = placed(scratch, "  - {id: a, command: 'true'}\n  - {id: b, command: 'true', needs: [a]}\n")
    yield found
    found.close()


@pytest.mark.parametrize(("keeps_from", "status"), [(1, StageStatus.SUCCEEDED), (2, StageStatus.PENDING)])
def test_what_is_over_counts_from_the_attempt_that_a_claim_keeps(
    run: Placed, keeps_from: int, status: StageStatus
) -> None:
    first, second = run.claim(1), replace(run.claim(2), keeps_from=keeps_from)
    stages = tuple(
        StageRecord(id=each.id, digest=each.digest, status=state, attempt=1)
        for each, state in zip(run.plan.stages, (StageStatus.SUCCEEDED, StageStatus.WAITING), strict=True)
    )
    waited = Attempt(
        number=1,
        worker=process.myself(),
        host=HERE,
        started=process.instant(),
        stages=stages,
        outcome=Outcome.WAITING,
    )
    records = manifest.Records(plan=run.plan, claims={1: first, 2: second}, attempts={1: waited}, ends={})
    assert [each.status for each in course.first_records(records, 2).values()] == [status, StageStatus.PENDING]
