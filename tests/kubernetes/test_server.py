"""How the engine gets on with an API server: what it says, refuses, delays and forgets; at the stand-in."""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from reconciler.executors.engine import EngineSilent, Standing, Turned
from reconciler.executors.kubernetes import Kubernetes
from reconciler.places import Cause
from tests.kubernetes.bench import KEY, Bench
from tests.kubernetes.description import breaks
from tests.kubernetes_server import Cluster, Fault, Refused, Server, now

DOCS = Path(__file__).resolve().parents[2] / "docs" / "kubernetes"
RUN = "0001-demo-1a2b3c4d"
WAITS = "import time; print('begun', flush=True); time.sleep(600)"


def cluster_of(bench: Bench) -> Cluster:
    assert bench.stand_in is not None
    return bench.stand_in


def begun(bench: Bench) -> tuple[Kubernetes, str]:
    """Return an engine and an attempt that is executed."""
    engine, order = bench.open(), bench.submission(RUN, WAITS)
    assert engine.submit([order]) == {}
    bench.logged(engine, order.handle, b"begun")
    return engine, order.handle


def watching(bench: Bench, engine: Kubernetes, handle: str) -> None:
    """Have an engine listen to changes."""
    deadline_s = time.monotonic() + bench.wait_s
    while cluster_of(bench).watches < 2:
        engine.observe([handle])
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def refuse(bench: Bench, verb: str, kind: str, status: int, message: str = "", times: int = 1, **headers: str) -> None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    fault = Fault(verb, kind, Refused(status, "Because", message, named), times)
    cluster_of(bench).faults.append(fault)


# ------------------------------------------------------------------------------------------------ how attempts end


@pytest.mark.parametrize(
    ("why", "cause"),
    [
        ("evicted", Cause.EVICTED),
        ("preempted", Cause.PREEMPTED),
        ("gone", Cause.NODE_FAILED),
        ("pressure", Cause.EVICTED),
    ],
)
def test_who_took_a_pod_away_is_told_apart(away: Bench, why: str, cause: Cause) -> None:
    engine, handle = begun(away)
    watching(away, engine, handle)
    cluster_of(away).take_away(handle, why)
    assert away.ended(engine, handle).cause is cause


def test_a_node_that_falls_silent_loses_its_attempts(away: Bench) -> None:
    engine, handle = begun(away)
    cluster_of(away).lose_node(handle, ago_s=30)
    assert engine.observe([handle])[handle].standing is Standing.RUNNING
    cluster_of(away).lose_node(handle, ago_s=600)
    found = away.ended(engine, handle)
    assert (found.cause, found.place) == (Cause.NODE_FAILED, "node-1")
    assert found.detail == "node node-1 does not answer; whether the pod is still executed there cannot be known"


def test_a_secret_that_was_removed_ends_it_once_that_has_lasted(away: Bench) -> None:
    cluster_of(away).unschedulable = True
    engine, order = away.open(start_patience="1s"), away.submission(RUN, "print('never')")
    engine.submit([order])
    found = away.until(engine, order.handle, lambda each: "Unschedulable" in each.detail)
    assert found.standing is Standing.QUEUED
    cluster_of(away).delete("secrets", order.handle, {})
    cluster_of(away).unschedulable = False
    found = away.ended(engine, order.handle)
    assert (found.cause, found.detail) == (Cause.ENGINE_CANCELLED, "CreateContainerConfigError: not there")


def test_how_it_ended_is_remembered_when_its_job_is_gone(away: Bench) -> None:
    engine, order = away.open(), away.submission(RUN, "raise SystemExit(3)")
    engine.submit([order])
    found = away.ended(engine, order.handle)
    cluster_of(away).expire(order.handle)
    assert engine.observe([order.handle])[order.handle] == found
    assert away.open().observe([order.handle])[order.handle].standing is Standing.ABSENT
    assert ("secrets", order.handle) not in cluster_of(away).objects


def test_a_queue_of_the_cluster_may_hold_a_job_back(away: Bench) -> None:
    engine, order = away.open(), away.submission(RUN, WAITS)
    cluster_of(away).unschedulable = True
    engine.submit([order])
    cluster_of(away).merge("jobs", order.handle, {"spec": {"suspend": True}})
    assert "suspended" in engine.observe([order.handle])[order.handle].detail


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("status", "message", "settled"),
    [
        (403, "exceeded quota: runs, requested: count/jobs.batch=1", False),
        (403, 'User "x" cannot create resource "jobs"', True),
        (403, 'violates PodSecurity "restricted:latest"', True),
        (422, "spec.template.spec.containers[0].image: Required value", True),
        (404, 'namespaces "runs" not found', True),
        (429, "too many requests", False),
    ],
)
def test_a_refusal_is_for_a_person_or_for_later(away: Bench, status: int, message: str, settled: bool) -> None:
    engine, order = away.open(), away.submission(RUN, "")
    refuse(away, "create", "jobs", status, message)
    wanted = Turned(reason=f"Kubernetes answered {status}: {message}", settled=settled)
    assert engine.submit([order]) == {order.handle: wanted}
    assert cluster_of(away).objects == {}, "the Secret went with what was refused"
    assert engine.submit([order]) == {}


def test_a_quota_makes_those_wait_that_come_after(away: Bench) -> None:
    cluster_of(away).jobs_max = 2
    engine = away.open()
    orders = [away.submission(f"0001-demo-{each:08x}", WAITS) for each in range(8)]
    found = engine.submit(orders)
    assert set(found) == {each.handle for each in orders[2:]}
    assert all("exceeded quota" in each.reason and not each.settled for each in found.values())
    assert [
        each.handle for each in orders if found.get(each.handle, Turned(reason="")).reason.startswith("not asked")
    ] == [each.handle for each in orders[5:]]


def test_a_server_that_throttles_is_not_asked_for_the_others(away: Bench) -> None:
    engine = away.open()
    orders = [away.submission(f"0001-demo-{each:08x}", WAITS, secrets={}) for each in range(3)]
    refuse(away, "create", "jobs", 429, "slow down", Retry_After="7")
    found = engine.submit(orders)
    said = "Kubernetes answered 429: slow down; it asks to come again in 7 s"
    assert [each.reason for each in found.values()] == [said, *[f"not asked for yet: {said}"] * 2]
    assert len(found) == 3 and cluster_of(away).objects == {}


@pytest.mark.parametrize("status", [500, 503, 504])
def test_a_server_in_trouble_leaves_open_what_was_placed(away: Bench, status: int) -> None:
    engine, order = away.open(), away.submission(RUN, "")
    refuse(away, "create", "jobs", status, "etcdserver: request timed out")
    with pytest.raises(EngineSilent, match="etcdserver"):
        engine.submit([order])
    assert engine.submit([order]) == {}
    assert away.ended(engine, order.handle).standing is Standing.ENDED


def test_a_job_of_the_same_name_that_is_not_ours_is_left_alone(away: Bench) -> None:
    engine, order = away.open(), away.submission(RUN, WAITS, secrets={})
    engine.submit([order])
    cluster_of(away).merge("jobs", order.handle, {"metadata": {"labels": {"app.kubernetes.io/managed-by": "helm"}}})
    again = away.open()
    found = again.submit([order])[order.handle]
    assert found.settled and "none of ours" in found.reason
    again.cancel([order.handle])
    assert "deletionTimestamp" not in cluster_of(away).one("jobs", order.handle)["metadata"]
    assert again.observe([order.handle])[order.handle].standing is Standing.ABSENT


def test_words_of_slurm_are_refused(away: Bench) -> None:
    from reconciler.places import Resources

    order = away.submission(RUN, "", resources=Resources(partition="long", qos="high"))
    found = away.open().submit([order])[order.handle]
    assert found.settled and "partition, qos" in found.reason
    assert cluster_of(away).asked == set()


# ------------------------------------------------------------------------------------------------ secrets


def test_a_secret_goes_with_its_job(away: Bench) -> None:
    _, handle = begun(away)
    secret, job = cluster_of(away).one("secrets", handle), cluster_of(away).one("jobs", handle)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": handle, "uid": job["metadata"]["uid"]}
    assert secret["metadata"]["ownerReferences"] == [owner]


def test_a_secret_is_renewed_by_one_patch_that_leaves_the_rest(away: Bench) -> None:
    cluster_of(away).unschedulable = True
    engine, order = away.open(), away.submission(RUN, "", renewed={"LENT": "the first"})
    gone = away.submission("0001-demo-00000001", "")
    engine.submit([order])
    before, asked = cluster_of(away).one("secrets", order.handle), len(cluster_of(away).bodies)
    wanted = {each.handle: {"LENT": "the second"} for each in (order, gone)}
    assert sorted(away.open().renew(wanted)) == sorted(wanted)
    assert cluster_of(away).bodies[asked:] == [{"data": {"LENT": base64.b64encode(b"the second").decode()}}] * 2
    after = cluster_of(away).one("secrets", order.handle)
    assert breaks({key: after[key] for key in ("apiVersion", "kind", "metadata", "type", "data")}) == []
    assert after["metadata"]["ownerReferences"] == before["metadata"]["ownerReferences"]
    assert after["data"].keys() == {"LENT", "RECONCILER_WORK_KEY"}


@pytest.mark.parametrize(("status", "silent"), [(429, False), (500, True), (403, True)])
def test_a_secret_that_cannot_be_renewed_now_is_renewed_later(away: Bench, status: int, silent: bool) -> None:
    cluster_of(away).unschedulable = True
    engine, order = away.open(), away.submission(RUN, "", renewed={"LENT": "the first"})
    engine.submit([order])
    refuse(away, "patch", "secrets", status)
    with pytest.raises(EngineSilent) if silent else contextlib.nullcontext():
        assert list(engine.renew({order.handle: {"LENT": "the second"}})) == []
    assert list(engine.renew({order.handle: {"LENT": "the second"}})) == [order.handle]


def test_a_submission_that_was_cut_off_is_completed(away: Bench) -> None:
    engine, order = away.open(), away.submission(RUN, "import os; print(os.environ['RECONCILER_WORK_KEY'])")
    refuse(away, "create", "jobs", 500)
    with pytest.raises(EngineSilent):
        engine.submit([order])
    old = away.submission(RUN, "", secrets={"RECONCILER_WORK_KEY": "an older one", "OLD": "value"})
    cluster_of(away).objects["secrets", order.handle]["data"] = {"OLD": "dmFsdWU="}
    assert old.handle == order.handle
    assert away.open().submit([order]) == {}
    assert away.logged(engine, order.handle, b"\n") == f"{KEY}\n".encode()
    assert set(cluster_of(away).one("secrets", order.handle)["data"]) == {"RECONCILER_WORK_KEY"}
    assert "ownerReferences" in cluster_of(away).one("secrets", order.handle)["metadata"]


def test_a_secret_that_another_client_took_away_is_made_again(away: Bench) -> None:
    cluster_of(away).unschedulable = True
    engine, order = away.open(), away.submission(RUN, "import os; print(os.environ['RECONCILER_WORK_KEY'])")
    engine.submit([order])
    cluster_of(away).delete("secrets", order.handle, {})
    assert away.open().submit([order]) == {}
    cluster_of(away).unschedulable = False
    assert away.logged(engine, order.handle, b"\n") == f"{KEY}\n".encode()


def test_a_secret_without_a_job_is_removed_once_it_is_old(away: Bench) -> None:
    engine = away.open()
    orders = [away.submission(f"0001-demo-{each:08x}", "") for each in range(2)]
    for each in orders:
        refuse(away, "create", "jobs", 500)
        with pytest.raises(EngineSilent):
            engine.submit([each])
    cluster_of(away).edit("secrets", orders[0].handle, creationTimestamp=now(-3600))
    assert engine.adopt(away.repository) == {}
    assert [name for _, name in cluster_of(away).objects] == [orders[1].handle]


# ------------------------------------------------------------------------------------------------ looking


def test_a_list_comes_in_pages_that_may_expire(away: Bench) -> None:
    engine = away.open()
    orders = [away.submission(f"0001-demo-{each:08x}", "") for each in range(5)]
    engine.submit(orders)
    for each in orders:
        away.ended(engine, each.handle)
    cluster_of(away).page = 2
    assert len(engine.api.listed("jobs", "").items) == 5
    assert len(away.open().observe([each.handle for each in orders])) == 5
    refuse(away, "list", "jobs", 410)
    assert len(engine.api.listed("jobs", "").items) == 5
    refuse(away, "list", "jobs", 410, times=2)
    with pytest.raises(EngineSilent, match="expires"):
        engine.api.listed("jobs", "")


def test_from_the_second_look_on_changes_are_listened_to(away: Bench) -> None:
    engine, handle = begun(away)
    watching(away, engine, handle)
    lists = cluster_of(away).lists
    for _ in range(20):
        assert engine.observe([handle])[handle].standing is Standing.RUNNING
    assert cluster_of(away).lists == lists
    engine.cancel([handle])
    assert away.ended(engine, handle).standing is Standing.ABSENT


def test_what_was_placed_a_moment_ago_is_known_though_the_watch_may_be_behind(away: Bench) -> None:
    engine, handle = begun(away)
    watching(away, engine, handle)
    others = [away.submission(f"0001-demo-{each:08x}", WAITS) for each in range(3)]
    assert away.open().submit(others) == {}
    found = engine.observe([each.handle for each in others])
    assert Standing.ABSENT not in {each.standing for each in found.values()}


def test_how_it_ended_is_told_whole_though_the_watch_of_pods_is_behind(away: Bench) -> None:
    go = away.directory / "go"
    code = f"import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('{go}'): time.sleep(0.01)"
    engine, order = away.open(), away.submission(RUN, code)
    assert engine.submit([order]) == {}
    away.logged(engine, order.handle, b"begun")
    watching(away, engine, order.handle)
    cluster_of(away).held.add("pods")
    go.touch()
    assert away.ended(engine, order.handle).detail == "exit status 0"


def test_a_version_that_is_too_old_is_listed_anew(away: Bench) -> None:
    engine, handle = begun(away)
    watching(away, engine, handle)
    lists = cluster_of(away).lists
    cluster_of(away).compact()
    away.until(engine, handle, lambda _: cluster_of(away).lists >= lists + 2)
    cluster_of(away).take_away(handle, "oom")
    assert away.ended(engine, handle).cause is Cause.OUT_OF_MEMORY


def test_all_is_listed_again_from_time_to_time(away: Bench) -> None:
    engine, order = away.open(resync="1ms"), away.submission(RUN, WAITS)
    engine.submit([order])
    for _ in range(3):
        lists = cluster_of(away).lists
        time.sleep(0.002)
        engine.observe([order.handle])
        assert cluster_of(away).lists >= lists + 2


def test_a_line_that_is_too_long_ends_listening_and_nothing_else(away: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.executors.kubernetes_mirror.LINE_BYTES_MAX", 100)
    engine, handle = begun(away)
    watching(away, engine, handle)
    lists = cluster_of(away).lists
    away.until(engine, handle, lambda _: cluster_of(away).lists >= lists + 2)
    assert engine.observe([handle])[handle].standing is Standing.RUNNING


def test_listening_ends_with_the_engine(away: Bench) -> None:
    engine, handle = begun(away)
    watching(away, engine, handle)
    del engine
    deadline_s = time.monotonic() + away.wait_s
    while any(each.name.startswith("watch-") for each in threading.enumerate()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_what_the_end_of_a_pod_says_is_waited_for(away: Bench) -> None:
    """The words about a Job may come before those about its pod."""
    engine, handle = begun(away)
    engine.observe([handle])
    cluster_of(away).take_away(handle, "oom")
    away.until(away.open(), handle, lambda each: each.standing is Standing.ENDED)
    pods = {**engine.pods.objects}
    engine.pods.look = lambda selector: tuple(pods.values())  # type: ignore[method-assign]
    assert engine.observe([handle])[handle].cause is Cause.OUT_OF_MEMORY


# ------------------------------------------------------------------------------------------------ silence


def test_a_server_that_is_away_is_silent_and_all_is_found_again(away: Bench) -> None:
    assert away.server is not None
    engine, handle = begun(away)
    watching(away, engine, handle)
    away.server.stop()
    deadline_s = time.monotonic() + away.wait_s
    engine.api.access.make = lambda **keys: _impatient(**keys)
    engine.api.access.close()
    with pytest.raises(EngineSilent):
        while time.monotonic() < deadline_s:
            engine.observe([handle])
    for call in (
        lambda: engine.cancel([handle]),
        lambda: engine.adopt(away.repository),
        lambda: engine.logs(handle, 9),
    ):
        with pytest.raises(EngineSilent):
            call()
    away.server = Server(cluster_of(away), port=away.server.server_address[1])
    assert engine.observe([handle])[handle].standing is Standing.RUNNING
    away.server.stop()


def _impatient(**keys: object):  # type: ignore[no-untyped-def]
    from reconciler.http import Http

    return Http(**{**keys, "patience_s": 0.0})  # type: ignore[arg-type]


def test_a_token_that_was_changed_is_read_again(away: Bench) -> None:
    assert away.server is not None
    engine, handle = begun(away)
    away.server.token = "another-token-0123456789"
    with pytest.raises(EngineSilent, match="does not accept who asks") as refused:
        engine.observe([handle])
    assert "token-01" not in str(refused.value)
    path = away.directory / "kubeconfig"
    path.write_text(path.read_text().replace("kubernetes-token", "another-token"))
    assert engine.observe([handle])[handle].standing is Standing.RUNNING


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"items": 3}', b'{"items": [3, {}, {"metadata": {"name": 5}}]}'])
def test_an_answer_that_is_none_is_survived(away: Bench, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import kubernetes_server

    engine, order = away.open(), away.submission(RUN, "")
    monkeypatch.setattr(kubernetes_server.Handler, "_route", lambda self, *_: self._send(200, body))
    try:
        found = engine.observe([order.handle])
    except EngineSilent:
        return
    assert found[order.handle].standing is Standing.ABSENT


# ------------------------------------------------------------------------------------------------ rights


def test_the_role_lists_exactly_what_the_engine_asks_for(away: Bench) -> None:
    engine, handle = begun(away)
    watching(away, engine, handle)
    again = away.submission(RUN, WAITS)
    away.open().submit([again])
    engine.adopt(away.repository)
    engine.renew({handle: {"LENT": "a newer one"}})
    engine.logs(handle, 100)
    engine.cancel([handle])
    away.ended(engine, handle)
    refuse(away, "create", "jobs", 422)
    engine.submit([away.submission("0001-demo-00000001", "")])
    hopeless, stuck = away.open(image="registry.invalid/none:1", start_patience="1ms"), away.submission(RUN, "", 2)
    hopeless.submit([stuck])
    away.ended(hopeless, stuck.handle)
    role = next(
        each for each in YAML(typ="safe").load_all((DOCS / "rights.yaml").read_text()) if each["kind"] == "Role"
    )
    granted = {(verb, kind) for rule in role["rules"] for kind in rule["resources"] for verb in rule["verbs"]}
    assert cluster_of(away).asked == granted


def test_every_body_keeps_the_published_description(away: Bench) -> None:
    engine, handle = begun(away)
    engine.cancel([handle])
    away.ended(engine, handle)
    bodies = [each for each in cluster_of(away).bodies if "kind" in each]
    assert {each["kind"] for each in bodies} == {"Secret", "Job", "DeleteOptions"}
    assert [found for each in bodies for found in breaks(each, ("v1.27.0", "v1.31.0", "v1.37.0"))] == []
