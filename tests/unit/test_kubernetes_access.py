"""Which cluster is asked and as whom: kubeconfigs as they are in the world, service accounts, plugins, and hostile files."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reconciler.executors.engine import EngineSilent
from reconciler.executors.kubernetes_access import Access, Where, looking
from reconciler.executors.kubernetes_api import Api

SECRET = "token-that-nobody-may-see"
CONFIG = """apiVersion: v1
kind: Config
preferences: {{}}
current-context: one
contexts:
- context: {{cluster: one, user: one, namespace: runs}}
  name: one
- context: {{cluster: one, user: two}}
  name: two
clusters:
- cluster:
    server: {server}
{cluster}
  name: one
users:
- name: one
  user:
{user}
- name: two
  user: {{token: other}}
"""


def written(
    path: Path, user: str = f"token: {SECRET}", cluster: str = "", server: str = "https://c.example.com"
) -> Path:
    def indented(text: str) -> str:
        return "\n".join(f"    {each}" for each in text.splitlines())

    path.write_text(CONFIG.format(server=server, user=indented(user), cluster=indented(cluster)))
    return path


def found(path: Path | str, **asked: str) -> Where:
    return looking(str(path), asked.get("context", ""), asked.get("namespace", ""), {})()


def headers(where: Where) -> str:
    return Access(look=lambda: where).http().authority.get("Authorization", "")


# ------------------------------------------------------------------------------------------------ kubeconfig


def test_a_kubeconfig_names_cluster_namespace_and_token(tmp_path: Path) -> None:
    where = found(written(tmp_path / "config"))
    assert (where.address, where.namespace, where.token) == ("https://c.example.com", "runs", SECRET)
    assert SECRET not in repr(where)


def test_context_and_namespace_can_be_said(tmp_path: Path) -> None:
    where = found(written(tmp_path / "config"), context="two")
    assert (where.namespace, where.token) == ("default", "other")
    assert found(tmp_path / "config", namespace="mine").namespace == "mine"


def test_several_files_count_as_one(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("current-context: two\n")
    written(tmp_path / "second")
    assert found(f"{tmp_path}/first:{tmp_path}/missing:{tmp_path}/second").token == "other"


def test_the_environment_names_one(tmp_path: Path) -> None:
    path = written(tmp_path / "config")
    assert looking("", "", "", {"KUBECONFIG": str(path), "KUBERNETES_SERVICE_HOST": "10.0.0.1"})().token == SECRET


def test_files_are_named_beside_it_and_read_when_they_count(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    clock = [0.0]
    access = Access(look=lambda: where, monotonic=lambda: clock[0])
    where = found(written(tmp_path / "config", "tokenFile: token", server="http://127.0.0.1:9"))
    assert access.http().authority["Authorization"] == "Bearer first"
    (tmp_path / "token").write_text("second\n")
    assert access.http().authority["Authorization"] == "Bearer first"
    clock[0] += 61
    assert access.http().authority["Authorization"] == "Bearer second"


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ({"user": "username: u\npassword: p"}, "'username', which is not supported"),
        ({"user": "auth-provider: {name: gcp}"}, "'auth-provider', which is not supported"),
        ({"user": f"token: {SECRET}\nas: root"}, "'as', which is not supported"),
        ({"cluster": "insecure-skip-tls-verify: true"}, "'insecure-skip-tls-verify', which is not supported"),
        ({"server": "http://c.example.com"}, "http:// is for loopback alone"),
        ({"server": "file:///etc"}, "no https:// address"),
        ({"user": "client-certificate-data: YQ=="}, "a certificate or a key, and not both"),
        ({"user": "client-certificate-data: '%'"}, "'client-certificate-data' is not base64"),
        ({"user": "exec: {command: x, apiVersion: v0}"}, "an apiVersion other than"),
        (
            {"user": "exec: {command: x, apiVersion: client.authentication.k8s.io/v1, interactiveMode: Always}"},
            "wants a person at a terminal",
        ),
    ],
)
def test_what_is_not_supported_is_said(tmp_path: Path, parts: dict[str, str], wanted: str) -> None:
    with pytest.raises(EngineSilent, match=wanted) as refused:
        found(written(tmp_path / "config", **parts))
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        f"token: &a {SECRET}\nusers: *a",
        f"{SECRET}: [",
        "contexts: 3\ncurrent-context: one",
        "contexts: [1, {name: one}, {name: one, context: 3}]\ncurrent-context: one",
        "{" * 5000,
        "# " + "x" * (2 << 20),
    ],
)
def test_a_file_that_is_none_is_refused_without_repeating_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(EngineSilent) as refused:
        found(tmp_path / "config")
    assert SECRET not in str(refused.value) and len(str(refused.value)) < 400


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineSilent, match="there is no such file; name one with 'kubeconfig'"):
        found(tmp_path / "config")


def test_a_token_of_two_lines_is_never_sent(tmp_path: Path) -> None:
    where = found(written(tmp_path / "config", 'token: "a\\nHost: b"', server="http://127.0.0.1:9"))
    with pytest.raises(EngineSilent, match="not one line"):
        headers(where)


# ------------------------------------------------------------------------------------------------ in a pod


def account(place: Path) -> Path:
    """Write a service account as a node mounts it: links to a directory that is exchanged as a whole."""
    (place / "..1").mkdir(parents=True)
    for name, text in (("token", SECRET), ("namespace", "runs"), ("ca.crt", "authority")):
        (place / "..1" / name).write_text(text)
        (place / name).symlink_to(f"..data/{name}")
    (place / "..data").symlink_to("..1")
    return place


def test_a_pod_finds_its_own_cluster(tmp_path: Path) -> None:
    variables = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    where = looking("", "", "", variables, account(tmp_path / "account"))()
    assert (where.address, where.namespace, where.authority) == ("https://[fd00::1]:6443", "runs", b"authority")
    assert where.token_path == tmp_path / "account" / "token"
    assert looking("", "", "mine", variables, tmp_path / "account")().namespace == "mine"


# ------------------------------------------------------------------------------------------------ plugins


PLUGIN = """
import json, os, sys
order = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
assert order["spec"]["cluster"]["server"].startswith("http://127") and sys.argv[1:] == ["a b"] and os.environ["MODE"]
count = len(open("{log}", "a+").read()) if os.path.exists("{log}") else 0
open("{log}", "a").write("x")
print({answer})
"""
GOOD = 'json.dumps({"apiVersion": order["apiVersion"], "kind": "ExecCredential", "status": %s})'


def plugged(place: Path, answer: str) -> Access:
    script = place / "plugin.py"
    script.write_text(PLUGIN.format(log=place / "log", answer=answer))
    user = f"""exec:
  apiVersion: client.authentication.k8s.io/v1
  command: {sys.executable}
  args: [{script}, a b]
  env: [{{name: MODE, value: x}}]
  provideClusterInfo: true
  interactiveMode: IfAvailable"""
    where = found(written(place / "config", user, server="http://127.0.0.1:9"))
    return Access(look=lambda: where, epoch_s=lambda: 1_800_000_000.0)


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        ('{"token": "given"}', 1),
        ('{"token": "given", "expirationTimestamp": "2027-01-15T09:00:00Z"}', 1),
        ('{"token": "given", "expirationTimestamp": "2027-01-15T08:00:05Z"}', 3),
    ],
)
def test_a_plugin_is_asked_when_its_answer_ends(tmp_path: Path, status: str, asked: int) -> None:
    access = plugged(tmp_path, GOOD % status)
    for _ in range(3):
        assert access.http().authority["Authorization"] == "Bearer given"
    assert (tmp_path / "log").read_text() == "x" * asked
    access.forget()
    access.http()
    assert (tmp_path / "log").read_text() == "x" * (asked + 1)


@pytest.mark.parametrize("answer", [f'"{SECRET}"', "'{}'", "1 / 0", '"x" * 100_000', "json.dumps({'status': 3})"])
def test_a_plugin_that_gives_none_is_said_without_repeating_it(tmp_path: Path, answer: str) -> None:
    with pytest.raises(EngineSilent) as refused:
        plugged(tmp_path, answer).http()
    assert SECRET not in str(refused.value)


# ------------------------------------------------------------------------------------------------ TLS


def certificate(place: Path, name: str, address: str = "") -> tuple[Path, Path]:
    """Make a certificate that vouches for itself, and its key."""
    paths = place / f"{name}.pem", place / f"{name}.key"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    words += ["-subj", f"/CN={name}", "-out", str(paths[0]), "-keyout", str(paths[1])]
    words += ["-addext", f"subjectAltName={address}"] if address else []
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    return paths


class Hello(BaseHTTPRequestHandler):
    """Says who asked."""

    def do_GET(self) -> None:
        shown: Any = self.connection
        name = dict(each[0] for each in shown.getpeercert()["subject"])["commonName"]
        data = json.dumps({"metadata": {"name": name}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def tls(place: Path, client: Path) -> Iterator[str]:
    """Serve with a certificate, for those who show one."""
    own = certificate(place, "server", "IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*own)
    context.load_verify_locations(client)
    context.verify_mode = ssl.CERT_REQUIRED
    server = Quiet(("127.0.0.1", 0), Hello)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_server_is_trusted_by_its_authority_and_asked_with_a_certificate(tmp_path: Path) -> None:
    shown, key = certificate(tmp_path, "host")
    with tls(tmp_path, shown) as url:
        user = f"client-certificate: {shown.name}\nclient-key-data: {base64.b64encode(key.read_bytes()).decode()}"
        good = written(tmp_path / "config", user, "certificate-authority: server.pem", url)
        api = Api(access=Access(look=lambda: found(good)))
        assert api.get("/who") == {"metadata": {"name": "host"}}
        api.access.close()
        for path in (
            written(tmp_path / "without", server=url),
            written(tmp_path / "nobody", cluster="certificate-authority: server.pem", server=url),
        ):
            api = Api(access=Access(look=lambda: found(path)))  # noqa: B023
            with pytest.raises(EngineSilent):
                api.ask(call(), again=False)
            api.access.close()
        bad = written(tmp_path / "bad", user.replace(base64.b64encode(key.read_bytes()).decode(), "YQ=="), server=url)
        with pytest.raises(EngineSilent, match="not PEM that fits"):
            Access(look=lambda: found(bad)).http()


def call() -> Any:
    from reconciler.http import Call

    return Call(method="GET", path="/who")
