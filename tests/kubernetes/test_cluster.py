"""What the engine promises, at any cluster: at the one that RECONCILER_TESTS_CLUSTER names, else at the stand-in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from reconciler.executors.engine import Standing
from reconciler.places import Cause
from tests.kubernetes.bench import KEY, Bench, resources

WAITS = "import time; print('begun', flush=True); time.sleep(600)"
GENTLE = (
    "import signal, sys, time\nsignal.signal(15, lambda *_: (print('told to end', flush=True), sys.exit(0)))\n" + WAITS
)
GREEDY = "import time; print('begun', flush=True); time.sleep(1); held = b'x' * (512 << 20); time.sleep(600)"


def test_is_placed_executed_and_ends(bench: Bench) -> None:
    engine, order = bench.open(), bench.submission("0001-demo-1a2b3c4d", "print('done')")
    assert engine.submit([order]) == {}
    found = bench.ended(engine, order.handle)
    assert (found.standing, found.cause, found.detail) == (Standing.ENDED, None, "exit status 0")
    assert found.place
    assert bench.logged(engine, order.handle, b"done") == b"done\n"


def test_tells_the_exit_status_of_a_program_that_fails(bench: Bench) -> None:
    engine, order = bench.open(), bench.submission("0001-demo-1a2b3c4d", "raise SystemExit(77)")
    engine.submit([order])
    found = bench.ended(engine, order.handle)
    assert (found.cause, found.detail) == (None, "exit status 77")


def test_what_is_submitted_twice_is_there_once_and_never_again(bench: Bench) -> None:
    order = bench.submission("0001-demo-1a2b3c4d", "print('once')")
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: bench.open().submit([order]), range(4))) == [{}] * 4
    engine = bench.open()
    bench.ended(engine, order.handle)
    assert engine.submit([order]) == {}
    assert bench.logged(engine, order.handle, b"once") == b"once\n"
    assert bench.open().observe([order.handle])[order.handle].standing is Standing.ENDED


def test_what_was_never_submitted_is_absent(bench: Bench) -> None:
    engine = bench.open()
    unknown = [bench.submission(f"0001-demo-{each}", "").handle for each in range(3)]
    assert {each.standing for each in engine.observe(unknown).values()} == {Standing.ABSENT}
    assert engine.observe([]) == {}
    assert engine.logs(unknown[0], 1000) == b""
    engine.cancel(unknown)


def test_is_told_to_end_and_then_gone(bench: Bench) -> None:
    engine, order = bench.open(), bench.submission("0001-demo-1a2b3c4d", GENTLE)
    engine.submit([order])
    bench.logged(engine, order.handle, b"begun")
    engine.cancel([order.handle])
    if bench.stand_in is not None:
        log = bench.directory / f"{order.handle}.log"
        assert bench.ended(engine, order.handle).standing in (Standing.ENDED, Standing.ABSENT)
        assert "told to end" in log.read_text()
    assert bench.ended(bench.open(), order.handle).standing in (Standing.ENDED, Standing.ABSENT)
    engine.cancel([order.handle])


def test_what_has_ended_is_not_removed_by_cancelling(bench: Bench) -> None:
    engine, order = bench.open(), bench.submission("0001-demo-1a2b3c4d", "print('done')")
    engine.submit([order])
    bench.ended(engine, order.handle)
    bench.open().cancel([order.handle])
    assert bench.ended(bench.open(), order.handle).detail == "exit status 0"


def test_a_deadline_ends_it(bench: Bench) -> None:
    engine = bench.open()
    order = bench.submission("0001-demo-1a2b3c4d", WAITS, resources=resources(time_s=1.0), grace_s=1.0)
    engine.submit([order])
    assert bench.ended(engine, order.handle).cause is Cause.TIME_LIMIT


def test_the_end_of_memory_ends_it(bench: Bench) -> None:
    engine, asked = bench.open(), resources(memory_bytes=64 << 20, cpus=1)
    order = bench.submission("0001-demo-1a2b3c4d", GREEDY, resources=asked)
    engine.submit([order])
    bench.logged(engine, order.handle, b"begun")
    bench.out_of_memory(engine, order.handle)
    assert bench.ended(engine, order.handle).cause is Cause.OUT_OF_MEMORY


def test_an_image_that_is_not_there_ends_it_once_that_has_lasted(bench: Bench) -> None:
    engine = bench.open(image="registry.invalid/none:1", start_patience="1s")
    order = bench.submission("0001-demo-1a2b3c4d", "print('never')")
    engine.submit([order])
    found = bench.ended(engine, order.handle)
    assert found.cause is Cause.NO_IMAGE
    assert bench.open().observe([order.handle])[order.handle] == found


def test_an_eviction_by_the_api_ends_it(bench: Bench) -> None:
    engine, order = bench.open(), bench.submission("0001-demo-1a2b3c4d", WAITS)
    if bench.stand_in is None and engine.api.get("/apis/policy/v1") is None:
        pytest.skip("before Kubernetes 1.22 a Job begins anew when its pod is evicted")
    engine.submit([order])
    bench.logged(engine, order.handle, b"begun")
    pods = engine.api.listed("pods", f"gitops-reconciler.dev/handle={order.handle}").items
    name = pods[0]["metadata"]["name"]  # type: ignore[index]
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    assert engine.api.order("POST", engine.api.path("pods", name, "eviction"), body).ok
    assert bench.ended(engine, order.handle).cause is Cause.EVICTED
    # Who was not there when the pod was says the same, because the Job does.
    assert bench.open().observe([order.handle])[order.handle].cause is Cause.EVICTED


def test_a_host_that_forgot_everything_finds_what_it_placed(bench: Bench) -> None:
    orders = [
        bench.submission(
            f"0001-demo-{each:08x}", WAITS if each < 2 else "print('done')", secrets={"KEY": f"{each}" * 20}
        )
        for each in range(3)
    ]
    first = bench.open()
    first.submit(orders)
    bench.ended(first, orders[2].handle)
    found = bench.open().adopt(bench.repository)
    assert found == {each.handle: dict(each.secrets) for each in orders}, "also what has ended, while it is there"
    assert bench.open().adopt("00000000") == {}


def test_its_secret_reaches_the_attempt_and_nobody_else(bench: Bench) -> None:
    code = "import os; print(len(os.environ['RECONCILER_WORK_KEY']), os.environ.get('NAME'))"
    engine = bench.open(environment={"NAME": "$(RECONCILER_WORK_KEY)"})
    order = bench.submission("0001-demo-1a2b3c4d", code)
    engine.submit([order])
    bench.ended(engine, order.handle)
    assert bench.logged(engine, order.handle, b"\n") == f"{len(KEY)} $(RECONCILER_WORK_KEY)\n".encode()
    job = engine.api.get(engine.api.path("jobs", order.handle))
    assert job is not None and KEY not in str(job)


def test_a_log_is_bounded_and_its_end_is_kept(bench: Bench) -> None:
    engine, order = bench.open(), bench.submission("0001-demo-1a2b3c4d", "for n in range(50000): print(n, 'x' * 90)")
    engine.submit([order])
    bench.ended(engine, order.handle)
    log = engine.logs(order.handle, 1000)
    assert len(log) <= 1000
    assert log.endswith(b"49999 " + b"x" * 90 + b"\n")


@pytest.mark.slow
def test_fifty_at_once_with_a_host_that_restarts_in_between(bench: Bench) -> None:
    orders = [bench.submission(f"0001-demo-{each:08x}", f"print({each})") for each in range(50)]
    bench.open().submit(orders[:30])
    assert bench.open().submit(orders) == {}
    engine = bench.open()
    assert {bench.ended(engine, each.handle).detail for each in orders} == {"exit status 0"}
    assert bench.open().adopt(bench.repository).keys() == {each.handle for each in orders}
