"""Measure what docs/performance.md claims of runs on Kubernetes: looks at many attempts, at the stand-in of the tests.

    python benchmarks/kubernetes.py            # ATTEMPTS=2000

Processor time is that of the thread that looks; the server is in the same process, on threads of its own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from reconciler.executors.kubernetes_job import job_of, options_of
from reconciler.executors.kubernetes_words import job_seen, pod_seen
from tests.kubernetes.bench import Bench, stand_in
from tests.kubernetes_server import Cluster, now

ATTEMPTS = int(os.environ.get("ATTEMPTS", "2000"))
LOOKS = 4
MANAGED = [{"manager": "kubelet", "fieldsV1": {f"f:{each}": {"f:value": {}} for each in range(60)}}]


def main() -> None:
    with tempfile.TemporaryDirectory() as place, stand_in(Path(place)) as bench:
        assert bench.stand_in is not None
        handles = [fill(bench, bench.stand_in, each) for each in range(ATTEMPTS)]
        print(f"{ATTEMPTS} attempts, {size(bench.stand_in) / 2**20:.1f} MiB of Jobs and pods")
        engine = bench.open()
        for number in range(1, LOOKS + 1):
            begun_s, used_s = time.monotonic(), time.thread_time()
            engine.observe(handles)
            wall_s, cpu_s = time.monotonic() - begun_s, time.thread_time() - used_s
            print(f"look {number}: {cpu_s:.3f} s of processor time, {wall_s:.2f} s")
            time.sleep(0.5)
        print(f"kept of them: {kept(bench.stand_in) / 2**20:.1f} MiB")


def fill(bench: Bench, cluster: Cluster, number: int) -> str:
    """Store a Job and its running pod, as large as a server tells them, and return the handle."""
    order = bench.submission(f"0001-demo-{number:08x}", "pass")
    job = job_of(order, options_of(bench.options))
    job["metadata"] |= {"uid": f"uid-{number}", "creationTimestamp": now(), "managedFields": MANAGED}
    cluster.put("jobs", job, "ADDED")
    pod = cluster._pod(job)
    pod["metadata"]["managedFields"] = MANAGED
    pod["status"] = cluster._scheduled("Running", {"state": {"running": {}}})
    return order.handle


def size(cluster: Cluster) -> int:
    return sum(len(json.dumps(each)) for each in cluster.objects.values())


def kept(cluster: Cluster) -> int:
    """Return the bytes of memory that the values take which are kept of all objects."""
    texts = [(kind, json.dumps(each)) for (kind, _), each in cluster.objects.items()]
    tracemalloc.start()
    values = [(job_seen if kind == "jobs" else pod_seen)(json.loads(text)) for kind, text in texts]
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(values) == len(texts)
    return used


if __name__ == "__main__":
    main()
