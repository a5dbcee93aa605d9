"""Whole attempts in pods of the stand-in: the courier gets its order by git and hands back what became of it."""

from __future__ import annotations

import sys

from reconciler.executors.engine import Standing, Submission
from reconciler.executors.ordering import bring_home, read_word
from reconciler.model import Outcome
from reconciler.places import Cause, Resources
from reconciler.work import KEY_VARIABLE, handle_of, repository_of
from tests.kubernetes.bench import Bench
from tests.placed import Placed, placed
from tests.scratch import Scratch

COURIER = [sys.executable, "-m", "reconciler.executors.courier"]


def submission(scratch: Scratch, run: Placed, **fields: object) -> Submission:
    url = str(scratch.path / ".git")
    return Submission(
        handle=handle_of(repository_of(url), run.plan.run_id, run.number),
        repository=repository_of(url),
        run_id=run.plan.run_id,
        task_id="t",
        number=run.number,
        arguments=("--url", url, "--ref", run.ref, "--order", run.order),
        secrets={KEY_VARIABLE: run.key},
        **fields,  # type: ignore[arg-type]
    )


def begun(scratch: Scratch) -> Placed:
    scratch.write("README.md", "hello\n")
    scratch.commit()
    run = placed(scratch, "  - {id: a, command: 'echo done in the pod'}\n")
    run.place()
    return run


def test_an_order_is_carried_out_in_a_pod(away: Bench, scratch: Scratch) -> None:
    run = begun(scratch)
    engine, order = away.open(program=COURIER), submission(scratch, run)
    assert engine.submit([order]) == {}
    assert away.ended(engine, order.handle).detail == "exit status 0"
    word = read_word(run.repository, run.at() or "", run.key)
    assert word is not None and word.ended
    home = bring_home(run.repository, word, run.directory, run.plan, bytes_max=1 << 22)
    assert home.attempt is not None and home.attempt.outcome == Outcome.SUCCEEDED
    assert b"[a] done in the pod" in engine.logs(order.handle, 10_000)
    assert list((away.directory / "scratch").iterdir()) == []
    run.close()


def test_an_order_that_takes_too_long_is_ended_and_told_apart(away: Bench, scratch: Scratch) -> None:
    scratch.write("README.md", "hello\n")
    scratch.commit()
    run = placed(scratch, "  - {id: a, command: 'exec sleep 600'}\n")
    run.place()
    engine = away.open(program=COURIER)
    order = submission(scratch, run, resources=Resources(time_s=3.0), grace_s=10.0)
    assert engine.submit([order]) == {}
    found = away.ended(engine, order.handle)
    assert (found.standing, found.cause) == (Standing.ENDED, Cause.TIME_LIMIT)
    run.close()
