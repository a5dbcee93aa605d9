"""A real API server and a real Job controller on loopback, without a machine of their own:

    python -m tests.kubernetes.control_plane DIRECTORY COMMAND...

DIRECTORY holds `etcd`, `kube-apiserver` and `kube-controller-manager` (or they are found by PATH). COMMAND is executed
with the variables that `make test-kubernetes` sets, as the account that docs/kubernetes/rights.yaml describes and with
no other right: what the engine asks for beyond it is refused. Pods are executed by `node`, which is ours.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from tests.kubernetes.bench import CLUSTER, CLUSTER_IMAGE, CLUSTER_REMOTE
from tests.kubernetes.node import IMAGES, Node

ROOT = Path(__file__).resolve().parent.parent.parent
MANIFESTS = ("namespace.yaml", "rights.yaml")
NAMESPACE = "runs"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:reconciler"
UP_S = 300.0
CONTROLLERS = "job,garbagecollector,ttl,ttl-after-finished,namespace,serviceaccount,podgc"
KINDS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts",
    "Role": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles",
    "RoleBinding": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings",
}
EVICTS = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "evicts", "namespace": NAMESPACE},
    "rules": [{"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]}],
}
"""What the tests do beside the engine: take a pod away."""


@dataclass
class ControlPlane:
    """The processes, and where they are reached."""

    binaries: Path
    directory: Path
    ports: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.ports['api']}"

    @property
    def certificate(self) -> Path:
        return self.directory / "certificates" / "apiserver.crt"

    def start(self) -> None:
        """Start all, and return when the API server says that it is ready."""
        self.ports = {each: free_port() for each in ("etcd", "peers", "api", "controllers")}
        self.tokens = {each: secrets.token_hex(16) for each in ("admin", "reconciler")}
        self._keys()
        self._store()
        self._api()
        self._wait()
        self._controllers()

    def admin(self) -> httpx.Client:
        """Return a client that may do everything."""
        headers = {"Authorization": f"Bearer {self.tokens['admin']}"}
        return httpx.Client(base_url=self.url, headers=headers, verify=str(self.certificate), timeout=30.0)

    def kubeconfig(self, who: str) -> Path:
        """Write how somebody reaches the API server."""
        path = self.directory / f"{who}.kubeconfig"
        path.write_text(
            f"""apiVersion: v1
kind: Config
current-context: here
contexts: [{{name: here, context: {{cluster: here, user: {who}, namespace: {NAMESPACE}}}}}]
clusters: [{{name: here, cluster: {{server: "{self.url}", certificate-authority: "{self.certificate}"}}}}]
users: [{{name: {who}, user: {{token: {self.tokens[who]}}}}}]
"""
        )
        path.chmod(0o600)
        return path

    def furnish(self, client: httpx.Client) -> None:
        """Make the namespace and the rights that the documentation describes."""
        reader = YAML(typ="safe")
        documents: list[Any] = [
            each for name in MANIFESTS for each in reader.load_all((ROOT / "docs/kubernetes" / name).read_text())
        ]
        binding = next(each for each in documents if each["kind"] == "RoleBinding")
        evicts = {**binding, "metadata": EVICTS["metadata"], "roleRef": {**binding["roleRef"], "name": "evicts"}}
        for each in [*documents, EVICTS, evicts]:
            client.post(KINDS[each["kind"]], json=each).raise_for_status()

    def end(self) -> None:
        for each in reversed(self.processes):
            each.terminate()
        for each in reversed(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                each.wait(10)
                continue
            each.kill()
            each.wait(10)

    def _keys(self) -> None:
        made = ["openssl", "genrsa", "-out", str(self.directory / "accounts.key"), "2048"]
        subprocess.run(made, check=True, capture_output=True, timeout=60)
        rows = (
            f'{self.tokens["admin"]},admin,admin,"system:masters"\n{self.tokens["reconciler"]},{ACCOUNT},reconciler\n'
        )
        (self.directory / "tokens.csv").write_text(rows)

    def _store(self) -> None:
        own, peers = (f"http://127.0.0.1:{self.ports[each]}" for each in ("etcd", "peers"))
        self._spawn(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={own}",
            f"--advertise-client-urls={own}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
        )

    def _api(self) -> None:
        key = self.directory / "accounts.key"
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.ports['etcd']}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.ports['api']}",
            f"--cert-dir={self.directory / 'certificates'}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://127.0.0.1",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
            "--kubelet-preferred-address-types=InternalIP",
            *self._gates("kube-apiserver"),
        )

    def _controllers(self) -> None:
        config = f"--kubeconfig={self.kubeconfig('admin')}"
        gates = self._gates("kube-controller-manager")
        self._spawn(
            "kube-controller-manager", config, f"--controllers={CONTROLLERS}", "--leader-elect=false",
            f"--secure-port={self.ports['controllers']}", "--bind-address=127.0.0.1",
            f"--cert-dir={self.directory / 'certificates'}", *gates,
        )  # fmt: skip

    def _gates(self, program: str) -> list[str]:
        """Return what an old release needs to know Jobs with a time to live."""
        said = subprocess.run(
            [self._path(program), "--version"], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        minor = int(said.split(".")[1])
        return ["--feature-gates=TTLAfterFinished=true"] if minor < 23 else []

    def _path(self, program: str) -> str:
        here = self.binaries / program
        found = str(here) if here.exists() else shutil.which(program)
        if found is None:
            sys.exit(f"{program}: neither in {self.binaries} nor on PATH")
        return found

    def _spawn(self, program: str, *arguments: str) -> None:
        log = (self.directory / f"{program}.log").open("wb")
        with log:
            self.processes.append(
                subprocess.Popen(
                    [self._path(program), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.directory,
                )
            )

    def _wait(self) -> None:
        deadline_s = time.monotonic() + UP_S
        while True:
            with contextlib.suppress(httpx.HTTPError, OSError), self.admin() as client:
                if client.get("/readyz").status_code == httpx.codes.OK:
                    return
            if time.monotonic() > deadline_s or any(each.poll() is not None for each in self.processes):
                sys.exit(f"the control plane does not come up:\n{self.last_words()}")
            time.sleep(0.2)

    def last_words(self) -> str:
        return "\n".join(each.read_text(errors="replace")[-3000:] for each in self.directory.glob("*.log"))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def control_plane(binaries: Path, directory: Path) -> Iterator[ControlPlane]:
    """Start a control plane and a node; end both, and all that runs there."""
    plane = ControlPlane(binaries, directory)
    try:
        plane.start()
        with plane.admin() as client:
            plane.furnish(client)
        with Node(plane.admin, directory, NAMESPACE, plane.certificate).serving():
            yield plane
    finally:
        plane.end()


def main() -> int:
    binaries, command = Path(sys.argv[1]).resolve(), sys.argv[2:]
    with tempfile.TemporaryDirectory(prefix="control-plane-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        plane = stack.enter_context(control_plane(binaries, directory))
        remote = directory / "remote.git"
        subprocess.run(["git", "init", "-q", "--bare", str(remote)], check=True, timeout=60)
        variables = {
            CLUSTER: str(plane.kubeconfig("reconciler")),
            CLUSTER_IMAGE: IMAGES[0],
            CLUSTER_REMOTE: str(remote),
        }
        return subprocess.run(command, env={**os.environ, **variables}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
