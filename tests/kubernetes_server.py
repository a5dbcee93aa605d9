"""A stand-in for the API server of a cluster on a loopback port, with its controller and one node.

It stores Jobs, pods and Secrets with resource versions, refuses bodies that break the published description, and answers
as a server does: 401, 403, 404, 409, 410, 422, 429, lists in pages, watches with bookmarks. The container of a pod is a real
process of this machine. Switches do what is hard to have happen: eviction, the end of memory, an image that is not there, a
node that falls silent. Nothing here is faster than it must be: states are what counts, not times.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.kubernetes.description import breaks, unrestricted

TOKEN = "kubernetes-token-0123456789"
NAMESPACE = "runs"
PATH = re.compile(
    r"/(?:apis/batch/v1|api/v1)/namespaces/(?P<namespace>[a-z0-9-]+)/(?P<kind>jobs|pods|secrets)"
    r"(?:/(?P<name>[a-z0-9.-]+))?(?:/(?P<part>log|eviction))?"
)
GROUP = {"jobs": "/apis/batch/v1/", "pods": "/api/v1/", "secrets": "/api/v1/"}
KIND = {"jobs": "Job", "pods": "Pod", "secrets": "Secret"}
VERSION = {"jobs": "batch/v1", "pods": "v1", "secrets": "v1"}

Document = dict[str, Any]
Key = tuple[str, str]


class Refused(Exception):
    """What the server answers instead of carrying out a request."""

    def __init__(self, status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.document = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": status,
        }


@dataclass
class Fault:
    """What is answered to the next requests that fit, `times` of them."""

    verb: str
    kind: str
    refusal: Refused
    times: int = 1


@dataclass
class Cluster:
    """Everything the server holds. `asked` are the verbs and kinds of all requests, as a Role names them."""

    directory: Path
    images: set[str] = field(default_factory=lambda: {"registry.example.com/runs:1"})
    jobs_max: int | None = None
    page: int | None = None
    keep: int = 100_000
    unschedulable: bool = False
    asked: set[tuple[str, str]] = field(default_factory=set)
    bodies: list[Document] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    held: set[str] = field(default_factory=set)  # kinds of which watches are told nothing for now
    watches: int = 0
    lists: int = 0

    def __post_init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.objects: dict[Key, Document] = {}
        self.version = 100
        self.changes: list[tuple[int, str, str, Document]] = []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ending: dict[str, str] = {}
        self.pages: dict[str, list[Document]] = {}
        self.closed = False
        self.threads: list[threading.Thread] = []

    # -------------------------------------------------------------------------------------------- the store

    def put(self, kind: str, document: Document, change: str) -> Document:
        """Store an object, and tell those who watch."""
        with self.changed:
            self.version += 1
            document["metadata"]["resourceVersion"] = str(self.version)
            name = document["metadata"]["name"]
            if change == "DELETED":
                self.objects.pop((kind, name), None)
            else:
                self.objects[kind, name] = document
            self.changes.append((self.version, kind, change, copy.deepcopy(document)))
            del self.changes[: max(0, len(self.changes) - self.keep)]
            self.changed.notify_all()
            return document

    def edit(self, kind: str, name: str, status: Document | None = None, **metadata: Any) -> Document | None:
        with self.changed:
            if (document := self.objects.get((kind, name))) is None:
                return None
            document["metadata"].update(metadata)
            document.setdefault("status", {}).update(status or {})
            return self.put(kind, document, "MODIFIED")

    def take(self, kind: str, document: Document) -> Document:
        """Store a new object as a server completes it."""
        self.check(document, kind)
        with self.changed:
            name = document["metadata"]["name"]
            if (kind, name) in self.objects:
                raise Refused(409, "AlreadyExists", f'{kind}.batch "{name}" already exists')
            if kind == "jobs" and self.jobs_max is not None and self._count("jobs") >= self.jobs_max:
                text = f'jobs.batch "{name}" is forbidden: exceeded quota: runs, requested: count/jobs.batch=1'
                raise Refused(403, "Forbidden", text)
            document["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "namespace": NAMESPACE}
            self.put(kind, document, "ADDED")
        if kind == "jobs":
            self.spawn(self.control, name)
        return document

    def _count(self, kind: str) -> int:
        return sum(each == kind for each, _ in self.objects)

    def check(self, document: Document, kind: str) -> None:
        """Refuse what breaks the description, or what an admission of "restricted" would not let in."""
        if document.get("kind") != KIND[kind] or document.get("apiVersion") != VERSION[kind]:
            raise Refused(400, "BadRequest", f"the object provided is no {KIND[kind]} of {VERSION[kind]}")
        if found := breaks(document):
            raise Refused(422, "Invalid", f"{document['metadata'].get('name')} is invalid: {found[0]}")
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", document["metadata"]["name"]):
            raise Refused(422, "Invalid", "metadata.name: a DNS-1123 label is wanted")
        if any(len(str(each)) > 63 for each in document["metadata"].get("labels", {}).values()):
            raise Refused(422, "Invalid", "metadata.labels: must be no more than 63 characters")
        if kind == "jobs" and (found := unrestricted(document["spec"]["template"]["spec"])):
            raise Refused(403, "Forbidden", f'violates PodSecurity "restricted:latest": {found}')

    def merge(self, kind: str, name: str, patch: Document) -> Document:
        with self.changed:
            whole = merged(self.one(kind, name), patch)
            self.check({key: value for key, value in whole.items() if key != "status"}, kind)
            before = self.objects[kind, name]
            if kind == "jobs" and whole["spec"]["template"] != before["spec"]["template"]:
                raise Refused(422, "Invalid", "spec.template: field is immutable")
            found = self.put(kind, whole, "MODIFIED")
            if kind == "secrets" and name in self.processes:
                self._project(name)
            return found

    def one(self, kind: str, name: str) -> Document:
        with self.changed:
            if (found := self.objects.get((kind, name))) is None:
                raise Refused(404, "NotFound", f'{kind} "{name}" not found')
            return found

    def delete(self, kind: str, name: str, options: Document) -> Document:
        with self.changed:
            found = self.one(kind, name)
            uid = options.get("preconditions", {}).get("uid")
            if uid and uid != found["metadata"]["uid"]:
                raise Refused(409, "Conflict", "the UID in the precondition does not match")
            if kind != "jobs":
                return self.put(kind, found, "DELETED")
            found["metadata"] |= {"deletionTimestamp": now(), "finalizers": ["foregroundDeletion"]}
            self.put(kind, found, "MODIFIED")
            if (pod := self.pod_of(name)) is not None:
                self._leave(pod, name)
            else:
                self.collect(name)
            return found

    def collect(self, job: str) -> None:
        """Remove a Job with all that belongs to it."""
        with self.changed:
            found = self.objects[("jobs", job)]
            for (kind, name), each in list(self.objects.items()):
                owners = each["metadata"].get("ownerReferences", ())
                if any(owner["uid"] == found["metadata"]["uid"] for owner in owners):
                    self.put(kind, self.objects[kind, name], "DELETED")
            self.put("jobs", found, "DELETED")

    def select(self, kind: str, selector: str) -> list[Document]:
        with self.changed:
            found = [each for (of, _), each in sorted(self.objects.items()) if of == kind]
            return [each for each in found if fits(each, selector)]

    # -------------------------------------------------------------------------------------------- controller, kubelet

    def spawn(self, function: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def pod_of(self, job: str) -> Document | None:
        with self.changed:
            found = [each for (kind, _), each in self.objects.items() if kind == "pods"]
            return next((each for each in found if each["metadata"]["labels"]["job-name"] == job), None)

    def control(self, job: str) -> None:
        """Do for a Job what its controller and a kubelet do, until it is over."""
        with self.changed:
            while (found := self.objects.get(("jobs", job))) is not None and found["spec"].get("suspend"):
                self.changed.wait(0.05)
            if found is None or found["metadata"].get("deletionTimestamp"):
                return
            pod = self._pod(found)
        started_s = time.monotonic()
        self.edit("jobs", job, {"startTime": now(), "active": 1})
        code = self._run(job, pod, started_s)
        self._judge(job, pod, code)

    def _pod(self, job: Document) -> Document:
        template, name = job["spec"]["template"], job["metadata"]["name"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{name}-{uuid.uuid4().hex[:5]}",
                "labels": {**template["metadata"]["labels"], "job-name": name, "batch.kubernetes.io/job-name": name},
                "uid": str(uuid.uuid4()),
                "creationTimestamp": now(),
                "namespace": NAMESPACE,
                "ownerReferences": [owner_of(job)],
            },
            "spec": copy.deepcopy(template["spec"]),
            "status": {"phase": "Pending"},
        }
        return self.put("pods", pod, "ADDED")

    def _run(self, job: str, pod: Document, started_s: float) -> int | None:
        """Have the container executed; return its exit status, None if it never was."""
        name, spec, told = pod["metadata"]["name"], pod["spec"], ""
        while True:
            with self.changed:
                if self.ending.get(job) or self._is_over(job, started_s):
                    return None
                if not (reason := self._hindrance(spec)):
                    process = self._start(job, spec)
                    break
                if reason != told:
                    self._settle(name, self._waiting(reason))
                told = reason
                self.changed.wait(0.05)
        status = {"state": {"running": {"startedAt": now()}}}
        self._settle(name, self._scheduled("Running", status) | {"startTime": now()})
        while process.poll() is None and not self.closed:
            if self._is_over(job, started_s) and not self.ending.get(job):
                self.ending[job] = "DeadlineExceeded"
                end(process, spec["terminationGracePeriodSeconds"])
            time.sleep(0.01)
        if self.ending.get(job) == "lost":
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a container ends with its first process
        return process.wait()

    def _is_over(self, job: str, started_s: float) -> bool:
        with self.changed:
            found = self.objects.get(("jobs", job))
            limit_s = found["spec"].get("activeDeadlineSeconds") if found is not None else None
            return limit_s is not None and time.monotonic() - started_s > limit_s

    def _hindrance(self, spec: Document) -> str:
        if self.closed:
            return ""
        if self.unschedulable:
            return "Unschedulable"
        if spec["containers"][0]["image"] not in self.images:
            return "ImagePullBackOff"
        wanted = [each["valueFrom"]["secretKeyRef"] for each in spec["containers"][0]["env"] if "valueFrom" in each]
        missing = any(("secrets", each["name"]) not in self.objects for each in wanted)
        return "CreateContainerConfigError" if missing else ""

    def _waiting(self, reason: str) -> Document:
        if reason == "Unschedulable":
            said = {"type": "PodScheduled", "status": "False", "reason": reason, "message": "0/1 nodes are available"}
            return {"phase": "Pending", "conditions": [said]}
        return self._scheduled("Pending", {"state": {"waiting": {"reason": reason, "message": "not there"}}})

    def _settle(self, pod: str, status: Document) -> None:
        """Set what a pod says, and its node with the first word after it was scheduled."""
        with self.changed:
            found = self.objects.get(("pods", pod))
            if found is None:
                return
            said = {each["type"]: each for each in status.get("conditions", ())}
            before = [each for each in found["status"].get("conditions", ()) if each["status"] == "True"]
            if any(each["type"] == "PodScheduled" for each in before):
                status = {**status, "conditions": list({**said, **{each["type"]: each for each in before}}.values())}
            elif status["conditions"][0]["status"] == "True":
                found["spec"]["nodeName"] = "node-1"
            self.edit("pods", pod, status)

    def _scheduled(self, phase: str, container: Document) -> Document:
        return {
            "phase": phase,
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}],
            "containerStatuses": [{"name": "attempt", "ready": False, "restartCount": 0, **container}],
        }

    def _start(self, job: str, spec: Document) -> subprocess.Popen[bytes]:
        container = spec["containers"][0]
        for mount in container["volumeMounts"]:
            if mount["mountPath"].startswith(f"{self.directory}/"):
                Path(mount["mountPath"]).mkdir(parents=True, exist_ok=True)
        log = (self.directory / f"{job}.log").open("wb")
        environment = {"PATH": os.environ["PATH"], **{each["name"]: self._value(each) for each in container["env"]}}
        with self.changed:
            self._project(job)
        for mount in self._mounted(spec):
            environment = {name: self._at_root(job, mount, value) for name, value in environment.items()}
        command = [expanded(each, environment) for each in container["command"]]
        with log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.processes[job] = process
        return process

    @staticmethod
    def _mounted(spec: Document) -> dict[str, Document]:
        """Return where parts of Secrets are mounted, with what says which."""
        kept = {each["name"]: each["secret"] for each in spec["volumes"] if "items" in each.get("secret", {})}
        mounts = spec["containers"][0]["volumeMounts"]
        return {each["mountPath"]: kept[each["name"]] for each in mounts if each["name"] in kept}

    def _root(self, job: str, path: str) -> Path:
        """Return where a directory of a container is: its processes are those of this machine and see all of it."""
        return self.directory / "roots" / job / path.lstrip("/")

    def _at_root(self, job: str, mount: str, value: str) -> str:
        return str(self._root(job, value)) if value.startswith(f"{mount}/") else value

    def _project(self, secret: str) -> None:
        """Show in its pod what a Secret says now, as a kubelet does: by links, which all change at once."""
        pod = self.pod_of(secret)
        for path, said in self._mounted(pod["spec"]).items() if pod is not None else ():
            place, data = self._root(secret, path), self.one("secrets", said["secretName"])["data"]
            new = place / f"..{self.version}"
            new.mkdir(parents=True, exist_ok=True)
            for item in said["items"]:
                (new / item["path"]).write_bytes(base64.b64decode(data[item["key"]]))
                (new / item["path"]).chmod(said["defaultMode"] & 0o600)
                if not (place / item["path"]).is_symlink():
                    (place / item["path"]).symlink_to(f"..data/{item['path']}")
            (place / "..new").symlink_to(new.name)
            (place / "..new").replace(place / "..data")

    def _value(self, variable: Document) -> str:
        if "value" in variable:
            return expanded(variable["value"], {})
        wanted = variable["valueFrom"]["secretKeyRef"]
        return base64.b64decode(self.one("secrets", wanted["name"])["data"][wanted["key"]]).decode()

    def _judge(self, job: str, pod: Document, code: int | None) -> None:
        """Say how a pod and its Job ended."""
        why, name = self.ending.get(job, ""), pod["metadata"]["name"]
        if why == "lost" or self.closed:
            return
        with self.changed:
            leaving = "deletionTimestamp" in self.objects.get(("pods", name), pod)["metadata"]
            if code is not None:
                self._settle(name, self._terminal(code, why))
            found = self.objects.get(("jobs", job))
            if found is None:
                return
            if found["metadata"].get("deletionTimestamp"):
                self.collect(job)
                return
            reason, sentence = self._failed(job, name, why, code)
            said = {"status": "True", "reason": reason, "message": sentence, "lastTransitionTime": now()}
            self.edit("jobs", job, {"active": 0, "conditions": [{"type": "Failed" if reason else "Complete", **said}]})
            if leaving or why == "DeadlineExceeded" or code is None:
                self.put("pods", self.objects["pods", name], "DELETED")

    def _failed(self, job: str, pod: str, why: str, code: int | None) -> tuple[str, str]:
        if why == "DeadlineExceeded" or code is None:
            return "DeadlineExceeded", "Job was active longer than specified deadline"
        if why in ("evicted", "preempted", "gone"):
            return (
                "PodFailurePolicy",
                f"Pod {NAMESPACE}/{pod} has condition DisruptionTarget matching FailJob rule at 0",
            )
        return ("BackoffLimitExceeded", "Job has reached the specified backoff limit") if code else ("", "")

    def _terminal(self, code: int, why: str) -> Document:
        code = 128 - code if code < 0 else code
        reason = "OOMKilled" if why == "oom" else "Completed" if code == 0 else "Error"
        ended = {"exitCode": code, "reason": reason, "finishedAt": now()}
        found = self._scheduled("Succeeded" if code == 0 else "Failed", {"state": {"terminated": ended}})
        if why == "pressure":
            found |= {"reason": "Evicted", "message": "The node was low on resource: memory."}
        return found

    def _leave(self, pod: Document, job: str) -> None:
        """Have a pod deleted: TERM, and after its grace KILL."""
        grace_s = pod["spec"]["terminationGracePeriodSeconds"]
        self.edit("pods", pod["metadata"]["name"], deletionTimestamp=now(grace_s), deletionGracePeriodSeconds=grace_s)
        self.ending.setdefault(job, "deleted")
        if self.ending[job] != "lost" and job in self.processes:
            end(self.processes[job], grace_s)

    # -------------------------------------------------------------------------------------------- switches

    def take_away(self, job: str, why: str) -> None:
        """Have the pod of a Job taken away: `evicted`, `preempted`, `gone`, `pressure` or `oom`."""
        with self.changed:
            pod = self.pod_of(job)
            assert pod is not None
            self.ending[job] = why
            if why in ("oom", "pressure"):
                os.killpg(self.processes[job].pid, signal.SIGKILL)
            else:
                self._settle(pod["metadata"]["name"], {"conditions": [disrupted(DISRUPTIONS[why])]})
                self._leave(pod, job)

    def lose_node(self, job: str, ago_s: float) -> None:
        """Have the node of a Job's pod fall silent: its process goes on, and nobody hears of it."""
        with self.changed:
            pod = self.pod_of(job)
            assert pod is not None
            self.ending[job] = "lost"
            self._settle(pod["metadata"]["name"], {"conditions": [disrupted(DISRUPTIONS["gone"])]})
            self.edit("pods", pod["metadata"]["name"], deletionTimestamp=now(-ago_s))

    def expire(self, job: str) -> None:
        """Remove a Job that has ended, as its time to live does."""
        with self.changed:
            self.collect(job)

    def compact(self) -> None:
        """Forget all changes so far, so that no watch can go on from before."""
        with self.changed:
            self.changes.clear()
            self.version += 1
            self.pages.clear()
            self.oldest = self.version
            self.changed.notify_all()

    oldest: int = 0


def end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """TERM a container, and KILL it after its grace."""

    def kill() -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)
    threading.Thread(target=kill, daemon=True).start()


DISRUPTIONS = {
    "evicted": "EvictionByEvictionAPI",
    "preempted": "PreemptionByScheduler",
    "gone": "DeletionByTaintManager",
}


def disrupted(reason: str) -> Document:
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": now()}


def now(later_s: float = 0.0) -> str:
    return datetime.fromtimestamp(time.time() + later_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def owner_of(job: Document) -> Document:
    known = job["metadata"]
    return {"apiVersion": "batch/v1", "kind": "Job", "name": known["name"], "uid": known["uid"], "controller": True}


def merged(value: Document, patch: Document) -> Document:
    """Return a JSON merge patch applied."""
    found = copy.deepcopy(value)
    for key, each in patch.items():
        if each is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key, {}), each) if isinstance(each, dict) else each
    return found


def fits(document: Document, selector: str) -> bool:
    labels = document["metadata"].get("labels", {})
    for each in re.findall(r"[^,(]+(?:\([^)]*\))?", selector):
        if found := re.fullmatch(r"\s*(\S+) in \(([^)]*)\)", each):
            if labels.get(found[1]) not in found[2].split(","):
                return False
        else:
            key, _, value = each.partition("=")
            if labels.get(key) != value:
                return False
    return True


def expanded(text: str, environment: dict[str, str]) -> str:
    """Return a text with the variables that Kubernetes finds in it, `$(NAME)`; `$$` is a dollar."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else environment.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)", value, text)


# ------------------------------------------------------------------------------------------------ HTTP


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    cluster: Cluster
    server: Server

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PATCH = do_DELETE = do_GET

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = {key: each[-1] for key, each in parse_qs(parts.query).items()}
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.headers.get("Authorization") != f"Bearer {self.server.token}":
                raise Refused(401, "Unauthorized", "Unauthorized")
            found = PATH.fullmatch(parts.path)
            if found is None or not parts.path.startswith(GROUP[found["kind"]]) or found["namespace"] != NAMESPACE:
                raise Refused(404, "NotFound", "the server could not find the requested resource")
            self._route(found["kind"], found["name"] or "", found["part"] or "", query, data)
        except Refused as refused:
            self._send(refused.status, json.dumps(refused.document).encode(), refused.headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, kind: str, name: str, part: str, query: dict[str, str], data: bytes) -> None:
        method = self.command
        verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(method, "get" if name else "list")
        if verb == "list" and query.get("watch"):
            verb = "watch"
        resource = f"{kind}/{part}" if part else kind
        with self.cluster.changed:
            self.cluster.asked.add((verb, resource))
            self._fail(verb, resource)
        if verb == "watch":
            self._watch(kind, query)
        elif part == "log":
            self._log(name, query)
        elif verb == "list":
            with self.cluster.changed:
                data = json.dumps(self._list(kind, query)).encode()
            self._send(200, data)
        else:
            with self.cluster.changed:
                answer = json.dumps(self._change(verb, kind, name, part, data)).encode()
            self._send(201 if verb == "create" else 200, answer)

    def _fail(self, verb: str, resource: str) -> None:
        for each in list(self.cluster.faults):
            if each.verb in (verb, "*") and each.kind in (resource, "*"):
                each.times -= 1
                if each.times <= 0:
                    self.cluster.faults.remove(each)
                raise each.refusal

    def _change(self, verb: str, kind: str, name: str, part: str, data: bytes) -> Document:
        if verb == "get":
            return self.cluster.one(kind, name)
        body = json.loads(data or b"{}")
        self.cluster.bodies.append(body)
        kinds = {"create": "application/json", "patch": "application/merge-patch+json", "delete": "application/json"}
        if self.headers.get("Content-Type") != kinds[verb]:
            raise Refused(415, "UnsupportedMediaType", f"the body of the request was in {self.headers['Content-Type']}")
        if part == "eviction":
            if found := breaks(body):
                raise Refused(422, "Invalid", found[0])
            pod = self.cluster.one("pods", name)
            self.cluster.take_away(pod["metadata"]["labels"]["job-name"], "evicted")
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        if verb == "create":
            return self.cluster.take(kind, body)
        if verb == "patch":
            return self.cluster.merge(kind, name, body)
        if found := breaks(body):
            raise Refused(422, "Invalid", found[0])
        return self.cluster.delete(kind, name, body)

    def _list(self, kind: str, query: dict[str, str]) -> Document:
        cluster, size = self.cluster, int(query.get("limit", "1000"))
        with cluster.changed:
            cluster.lists += 1
            if token := query.get("continue"):
                if token not in cluster.pages:
                    raise Refused(410, "Expired", "The provided continue parameter is too old")
                found = cluster.pages.pop(token)
            else:
                found = cluster.select(kind, query.get("labelSelector", ""))
            size = min(size, cluster.page or size)
            metadata = {"resourceVersion": str(cluster.version)}
            if len(found) > size:
                metadata["continue"] = uuid.uuid4().hex
                cluster.pages[metadata["continue"]] = found[size:]
            return {
                "apiVersion": VERSION[kind],
                "kind": f"{KIND[kind]}List",
                "metadata": metadata,
                "items": found[:size],
            }

    def _watch(self, kind: str, query: dict[str, str]) -> None:
        cluster, at = self.cluster, int(query["resourceVersion"])
        if at < cluster.oldest:
            raise Refused(410, "Expired", f"too old resource version: {at}")
        with cluster.changed:
            cluster.watches += 1
            generation = cluster.oldest
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        deadline_s, selector = time.monotonic() + float(query["timeoutSeconds"]), query.get("labelSelector", "")
        quiet_s = time.monotonic()
        while time.monotonic() < deadline_s and not cluster.closed and not self.server.hung_up:
            with cluster.changed:
                if kind in cluster.held:
                    cluster.changed.wait(0.1)
                    continue
                said = [
                    each for each in cluster.changes if each[0] > at and each[1] == kind and fits(each[3], selector)
                ]
                at = max([at, *(each[0] for each in cluster.changes)])
                if not said:
                    cluster.changed.wait(0.1)
            if cluster.oldest != generation:
                status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired"}
                self._chunk({"type": "ERROR", "object": status})
                break
            for _, _, change, document in said:
                self._chunk({"type": change, "object": document})
            if not said and time.monotonic() - quiet_s > 0.5:
                quiet_s = time.monotonic()
                mark = {"kind": KIND[kind], "apiVersion": VERSION[kind], "metadata": {"resourceVersion": str(at)}}
                self._chunk({"type": "BOOKMARK", "object": mark})
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, value: Document) -> None:
        data = json.dumps(value).encode() + b"\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _log(self, name: str, query: dict[str, str]) -> None:
        pod = self.cluster.one("pods", name)
        path = self.cluster.directory / f"{pod['metadata']['labels']['job-name']}.log"
        if pod["status"]["phase"] == "Pending":
            raise Refused(400, "BadRequest", 'container "attempt" in pod is waiting to start')
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        self._send(200, b"".join(lines[-int(query["tailLines"]) :])[: int(query["limitBytes"])])

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """Where a cluster is asked. `stop` hangs up on everybody."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, cluster: Cluster, port: int = 0, token: str = TOKEN) -> None:
        self.token, self.hung_up = token, False
        self.connections: set[Any] = set()
        super().__init__(("127.0.0.1", port), type("Bound", (Handler,), {"cluster": cluster}))
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def stop(self) -> None:
        self.hung_up = True
        self.shutdown()
        self.server_close()
        for each in list(self.connections):
            with contextlib.suppress(OSError):
                each.shutdown(2)
        self.thread.join(10)


def kubeconfig(path: Path, url: str, token: str = TOKEN) -> Path:
    """Write a kubeconfig for the stand-in."""
    text = f"""apiVersion: v1
kind: Config
current-context: stand-in
contexts:
  - name: stand-in
    context: {{cluster: stand-in, user: host, namespace: {NAMESPACE}}}
clusters:
  - name: stand-in
    cluster: {{server: "{url}"}}
users:
  - name: host
    user: {{token: {token}}}
"""
    path.write_text(text)
    path.chmod(0o600)
    return path


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[tuple[Cluster, Server]]:
    """Serve a cluster that keeps what it must in a directory, and end all it started."""
    cluster = Cluster(directory=directory)
    server = Server(cluster)
    try:
        yield cluster, server
    finally:
        cluster.closed = True
        with cluster.changed:
            cluster.changed.notify_all()
        server.stop()
        for each in cluster.processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait(10)
        for thread in cluster.threads:
            thread.join(10)
