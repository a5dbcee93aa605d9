"""A node that executes the commands of containers as processes here: what a scheduler and a kubelet do, by the API.

Nothing is isolated and no image is there: every image that it knows is this machine. It does what a kubelet promises
where the engine relies on it: it binds pods, tells why a container does not begin, gives it the environment with values
of Secrets, ends it with TERM and after its grace with KILL, tells its exit status, bounds its memory, and serves logs.
"""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.kubernetes_server import expanded, now

Document = dict[str, Any]
NAME = "node-1"
IMAGES = ("registry.example.com/runs:1", "docker.io/library/python:3-slim")
LOOKS_S = 0.05
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "K": 10**3, "k": 10**3, "M": 10**6, "G": 10**9}
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Container:
    """One process of a pod, and why the node ended it."""

    process: subprocess.Popen[bytes]
    memory_bytes: int
    why: str = ""
    told: bool = False
    kill_s: float = float("inf")


@dataclass
class Node:
    """One node for one namespace, that looks at its pods all the time."""

    client: Callable[[], httpx.Client]
    directory: Path
    namespace: str
    certificate: Path
    containers: dict[str, Container] = field(default_factory=dict)
    closed: bool = False

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Be there, and end everything that runs when that is over."""
        server = logs_server(self.directory, self.certificate)
        threads = [threading.Thread(target=server.serve_forever), threading.Thread(target=self._live)]
        with self.client() as client:
            self._register(client, server.server_port)
        for each in threads:
            each.start()
        try:
            yield
        finally:
            self.closed = True
            server.shutdown()
            for each in threads:
                each.join(10)
            server.server_close()
            for container in self.containers.values():
                kill(container.process)
                container.process.wait(10)

    def _register(self, client: httpx.Client, port: int) -> None:
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Here", "lastTransitionTime": now()}],
        }
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}}
        client.post("/api/v1/nodes", json=body).raise_for_status()
        self._patch(client, f"/api/v1/nodes/{NAME}/status", {"status": status})

    def _live(self) -> None:
        with self.client() as client:
            while not self.closed:
                with contextlib.suppress(httpx.HTTPError):
                    self._look(client)
                time.sleep(LOOKS_S)

    def _look(self, client: httpx.Client) -> None:
        answer = client.get(f"/api/v1/namespaces/{self.namespace}/pods")
        if answer.status_code != httpx.codes.OK:
            return
        for pod in answer.json()["items"]:
            self._tend(client, pod)

    # -------------------------------------------------------------------------------------------- one pod

    def _tend(self, client: httpx.Client, pod: Document) -> None:
        """Do the next thing for a pod."""
        uid, phase = pod["metadata"]["uid"], pod["status"].get("phase")
        container = self.containers.get(uid)
        leaving = "deletionTimestamp" in pod["metadata"]
        if container is not None and container.process.poll() is not None:
            kill(container.process)  # a container ends with its first process
            if phase == "Running":
                self._settle(client, pod, terminated(container))
                phase = "Failed"
            if leaving:
                self._remove(client, pod)
        elif container is not None:
            self._bound(container, pod, leaving=leaving)
        elif leaving:
            self._remove(client, pod)
        elif phase == "Pending":
            self._begin(client, pod)

    def _begin(self, client: httpx.Client, pod: Document) -> None:
        if not pod["spec"].get("nodeName"):
            target = {"apiVersion": "v1", "kind": "Node", "name": NAME}
            name = pod["metadata"]["name"]
            body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
            client.post(f"{self._path(pod)}/binding", json=body)
            return
        spec = pod["spec"]["containers"][0]
        if spec["image"] not in IMAGES:
            waiting = {"reason": "ImagePullBackOff", "message": f"no image {spec['image']}"}
            self._settle(client, pod, scheduled("Pending", {"state": {"waiting": waiting}}))
            return
        environment = self._environment(client, spec)
        if environment is None:
            waiting = {"reason": "CreateContainerConfigError", "message": "a Secret is not there"}
            self._settle(client, pod, scheduled("Pending", {"state": {"waiting": waiting}}))
            return
        self.containers[pod["metadata"]["uid"]] = self._start(client, pod, environment)
        self._settle(client, pod, scheduled("Running", {"state": {"running": {"startedAt": now()}}, "ready": True}))

    def _start(self, client: httpx.Client, pod: Document, environment: dict[str, str]) -> Container:
        spec = pod["spec"]["containers"][0]
        command = [expanded(each, environment) for each in [*spec.get("command", ()), *spec.get("args", ())]]
        scratch = self.directory / "scratch" / pod["metadata"]["uid"]
        scratch.mkdir(parents=True)
        # Where the container's own directories would be mounted there are some of this machine.
        places = {each["mountPath"]: scratch / each["name"] for each in spec.get("volumeMounts", ())}
        for place in places.values():
            place.mkdir(exist_ok=True)
        self._show_secrets(client, pod, scratch)
        command = [mapped(each, places) for each in command]
        environment = {name: mapped(each, places) for name, each in environment.items()}
        with log_of(self.directory, pod["metadata"]["name"]).open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                cwd=scratch,
            )  # fmt: skip
        return Container(process, bytes_of(spec.get("resources", {}).get("limits", {}).get("memory", "1Ti")))

    def _show_secrets(self, client: httpx.Client, pod: Document, scratch: Path) -> None:
        """Write the Secrets that are mounted as files, as they are when the container begins."""
        for volume in pod["spec"].get("volumes", ()):
            if "secret" in volume and (scratch / volume["name"]).is_dir():
                path = f"/api/v1/namespaces/{self.namespace}/secrets/{volume['secret']['secretName']}"
                for key, value in client.get(path).raise_for_status().json().get("data", {}).items():
                    (scratch / volume["name"] / key).write_bytes(base64.b64decode(value))

    def _environment(self, client: httpx.Client, spec: Document) -> dict[str, str] | None:
        """Return the variables of a container, None where a Secret is not there yet."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        found = {"PATH": path, "HOME": str(self.directory)}
        for each in spec.get("env", ()):
            if "value" in each:
                found[each["name"]] = expanded(each["value"], {})
                continue
            if "valueFrom" not in each:
                found[each["name"]] = ""
                continue
            wanted = each["valueFrom"]["secretKeyRef"]
            answer = client.get(f"/api/v1/namespaces/{self.namespace}/secrets/{wanted['name']}")
            if answer.status_code != httpx.codes.OK:
                return None
            found[each["name"]] = base64.b64decode(answer.json()["data"][wanted["key"]]).decode()
        return found

    def _bound(self, container: Container, pod: Document, *, leaving: bool) -> None:
        """End a container that is told to, or that takes more memory than it may."""
        if resident_bytes(container.process.pid) > container.memory_bytes:
            container.why = "OOMKilled"
            kill(container.process)
        elif leaving and not container.told:
            container.told = True
            container.kill_s = time.monotonic() + pod["metadata"].get("deletionGracePeriodSeconds", 0)
            with contextlib.suppress(ProcessLookupError):
                os.kill(container.process.pid, signal.SIGTERM)
        elif time.monotonic() > container.kill_s:
            kill(container.process)

    # -------------------------------------------------------------------------------------------- telling

    def _path(self, pod: Document) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}"

    def _settle(self, client: httpx.Client, pod: Document, status: Document) -> None:
        image = pod["spec"]["containers"][0]["image"]
        for each in status["containerStatuses"]:
            each |= {"name": pod["spec"]["containers"][0]["name"], "image": image, "imageID": image}
        if pod["status"].get("containerStatuses") and pod["status"]["phase"] == status["phase"] == "Pending":
            return
        self._patch(client, f"{self._path(pod)}/status", {"status": status})

    def _patch(self, client: httpx.Client, path: str, body: Document) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        client.patch(path, json=body, headers=headers).raise_for_status()

    def _remove(self, client: httpx.Client, pod: Document) -> None:
        uid = {"uid": pod["metadata"]["uid"]}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": uid}
        client.request("DELETE", self._path(pod), json=body)


def scheduled(phase: str, container: Document) -> Document:
    ready = {"ready": False, "restartCount": 0, **container}
    return {
        "phase": phase,
        "startTime": now(),
        "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}],
        "containerStatuses": [ready],
    }


def terminated(container: Container) -> Document:
    code = container.process.returncode
    code = 128 - code if code < 0 else code
    reason = container.why or ("Completed" if code == 0 else "Error")
    ended = {"exitCode": code, "reason": reason, "startedAt": now(), "finishedAt": now()}
    return scheduled("Succeeded" if code == 0 else "Failed", {"state": {"terminated": ended}})


def mapped(text: str, places: dict[str, Path]) -> str:
    """Return where a path of a container is here; what is there on this machine is meant as it is."""
    for path, place in places.items():
        inside = text.startswith(f"{path}/") and not Path(text).exists()
        text = f"{place}{text.removeprefix(path)}" if inside or text == path else text
    return text


def bytes_of(quantity: str) -> int:
    unit = next((each for each in UNITS if quantity.endswith(each)), "")
    return int(quantity.removesuffix(unit)) * UNITS[unit] if unit else int(quantity) if quantity.isdigit() else 1 << 40


def resident_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return 0


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


# ------------------------------------------------------------------------------------------------ logs


def log_of(directory: Path, pod: str) -> Path:
    return directory / f"{pod}.container"


class Handler(BaseHTTPRequestHandler):
    """`/containerLogs/<namespace>/<pod>/<container>`, as a kubelet serves it to the API server."""

    directory: Path

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: int(each[0]) for name, each in parse_qs(url.query).items() if each[0].isdigit()}
        path = log_of(self.directory, url.path.split("/")[3])
        data = path.read_bytes() if path.exists() else b""
        if "tailLines" in asked:
            data = b"".join(data.splitlines(keepends=True)[-asked["tailLines"] :])
        data = data[: asked.get("limitBytes", len(data))]
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def logs_server(directory: Path, certificate: Path) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Handler,), {"directory": directory}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server
