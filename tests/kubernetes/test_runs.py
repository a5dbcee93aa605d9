"""Whole attempts in pods of the stand-in: the courier gets its order by git and hands back what became of it."""

from __future__ import annotations

import sys
from base64 import b64encode

from reconciler.executors.engine import Standing, Submission
from reconciler.executors.ordering import bring_home, read_word
from reconciler.model import Outcome
from reconciler.places import Cause, Resources
from reconciler.work import CREDENTIAL_VARIABLE, KEY_VARIABLE, handle_of, repository_of
from tests.kubernetes.bench import Bench
from tests.placed import Placed, placed
from tests.scratch import Scratch, wait_for
from tests.smart_http import SmartServer

COURIER = [sys.executable, "-m", "reconciler.executors.courier"]


def basic(token: str) -> str:
    return f"Basic {b64encode(f'x-access-token:{token}'.encode()).decode()}"


def submission(scratch: Scratch, run: Placed, *, url: str = "", **fields: object) -> Submission:
    url = url or str(scratch.path / ".git")
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


def test_a_token_is_exchanged_while_an_order_is_carried_out(away: Bench, scratch: Scratch) -> None:
    bare = scratch.outside / "bare.git"
    bare.symlink_to(scratch.path / ".git")
    server = SmartServer(bare, secret=basic("1en7-f1r57"))
    go = scratch.outside / "go"
    scratch.write("README.md", "hello\n")
    scratch.commit()
    run = placed(scratch, f"  - {{id: a, command: 'env; until test -e {go}; do sleep 0.05; done'}}\n")
    run.place()
    url = server.url.replace("ann:hunter2@", "")
    order = submission(scratch, run, url=url, renewed={CREDENTIAL_VARIABLE: "1en7-f1r57"})
    engine = away.open(program=COURIER)
    try:
        assert engine.submit([order]) == {}
        wait_for(lambda: run.at() != run.order)
        server.secret = basic("1en7-1a7er")
        wait_for(lambda: server.refused)
        said = run.at()
        assert list(engine.renew({order.handle: {CREDENTIAL_VARIABLE: "1en7-1a7er"}})) == [order.handle]
        wait_for(lambda: run.at() != said, 60)
        go.touch()
        assert away.ended(engine, order.handle).detail == "exit status 0"
    finally:
        server.close()
    word = read_word(run.repository, run.at() or "", run.key)
    assert word is not None and word.ended
    home = bring_home(run.repository, word, run.directory, run.plan, bytes_max=1 << 22)
    assert home.attempt is not None and home.attempt.outcome == Outcome.SUCCEEDED
    log = (run.directory.path / "commands/01-a.log").read_bytes() + engine.logs(order.handle, 1 << 16)
    assert b"PATH=" in log and b"1en7" not in log and CREDENTIAL_VARIABLE.encode() not in log
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
