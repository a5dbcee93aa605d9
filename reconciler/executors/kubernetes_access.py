"""How the API server of a cluster is reached: from a pod of it, or by a kubeconfig as `kubectl` has it.

Read when the server is asked, not when an engine is made, so that a token that was changed counts from then on. All of
it is bounded, and none of it stands in a message: not even what a file that cannot be read says.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from reconciler.codec import CodecError
from reconciler.credentials.command import FromCommand
from reconciler.credentials.secret import NoCredential
from reconciler.disk import DISK
from reconciler.executors.engine import EngineSilent
from reconciler.executors.kubernetes_words import instant_s
from reconciler.http import Http
from reconciler.model import Rejection
from reconciler.values import frozen
from reconciler.yaml_events import load_yaml

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds the token, the authority and the namespace of its service account."""
CONFIG_BYTES_MAX = 1024 * 1024
CREDENTIAL_BYTES_MAX = 64 * 1024
FILES_MAX = 16
PLUGIN_S = 15.0
TOKEN_S = 60.0
"""For how long a token that was read from a file is used before it is read again."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@frozen
class Where:
    """A cluster, and as whom it is asked: a token, or the file it is in, or a certificate with its key (both PEM), or a
    plugin that is asked for either. `authority` is the certificate of whom to trust (PEM), None for whom the machine
    trusts."""

    address: str
    namespace: str
    authority: bytes | None = None
    token: str = field(default="", repr=False)
    token_path: Path | None = None
    certificate: tuple[bytes, bytes] | None = field(default=None, repr=False)
    plugin: FromCommand | None = None
    plugin_version: str = ""
    proxy: str = field(default="", repr=False)


@frozen
class Credential:
    """As whom to ask, and until when in seconds since 1970, None for as long as it is accepted."""

    token: str = field(default="", repr=False)
    certificate: tuple[bytes, bytes] | None = field(default=None, repr=False)
    until_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Access:
    """Clients for one cluster, each with the credential of the moment. `look` says where that is."""

    look: Callable[[], Where]
    make: Callable[..., Http] = Http
    epoch_s: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    _where: Where | None = None
    _credential: Credential | None = None
    _read_at_s: float = 0.0
    _http: Http | None = None

    @property
    def where(self) -> Where:
        if self._where is None:
            self._where = self.look()
        return self._where

    def http(self) -> Http:
        """Return the client for requests. Raise EngineSilent where there is nobody to ask as."""
        credential = self._current()
        if self._http is None:
            self._http = self._made(credential, silence_s=8.0, patience_s=3.0, answer_s=10.0)
        self._http.authority = _headers(credential)
        return self._http

    def client(self, **bounds: Any) -> Http:
        """Return a client of its own, for whoever listens while others ask."""
        return self._made(self._current(), **bounds)

    def _made(self, credential: Credential, **bounds: Any) -> Http:
        where = self.where
        trusted = _trusted(where.authority, credential.certificate) if where.address.startswith("https:") else None
        headers = _headers(credential)
        return self.make(address=where.address, authority=headers, proxy=where.proxy, trusted=trusted, **bounds)

    def forget(self) -> None:
        """Forget as whom was asked and whom, after the server did not accept it: both are read again."""
        self._credential = self._where = None
        self._drop()

    def close(self) -> None:
        """Let go of the connection; the next request makes another one."""
        self._drop()

    def __del__(self) -> None:
        # Nobody tells an engine that it is not needed any more.
        self._drop()

    def _current(self) -> Credential:
        known, where = self._credential, self.where
        stale = known is None or (known.until_s is not None and known.until_s - self.epoch_s() < 10)
        if where.token_path is not None and self.monotonic() - self._read_at_s > TOKEN_S:
            stale = True
        if known is not None and not stale:
            return known
        found = self._read(where)
        if known is None or found.certificate != known.certificate:
            self._drop()
        self._credential, self._read_at_s = found, self.monotonic()
        return found

    def _drop(self) -> None:
        if self._http is not None:
            self._http.close()
        self._http = None

    def _read(self, where: Where) -> Credential:
        if where.plugin is not None:
            return _asked(where.plugin, where.plugin_version)
        if where.token_path is not None:
            return Credential(token=_read_file(where.token_path).decode(errors="replace").strip())
        return Credential(token=where.token, certificate=where.certificate)


def _headers(credential: Credential) -> dict[str, str]:
    token = credential.token
    if token and not (token.isascii() and token.isprintable()):
        raise EngineSilent("kubernetes: the token is not one line of ASCII; get a new one")
    return {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}


# ------------------------------------------------------------------------------------------------ where


def looking(
    kubeconfig: str, context: str, namespace: str, variables: Mapping[str, str], account: Path = ACCOUNT
) -> Callable[[], Where]:
    """Return what finds the cluster: the kubeconfig that is named, else that of the environment (KUBECONFIG), else the
    cluster that this is a pod of, else `~/.kube/config`."""

    def look() -> Where:
        named = kubeconfig or variables.get("KUBECONFIG", "")
        if not named and variables.get("KUBERNETES_SERVICE_HOST"):
            return _in_cluster(variables, namespace, account)
        paths = [Path(each).expanduser() for each in (named or "~/.kube/config").split(":") if each]
        return _by_file(paths[:FILES_MAX], context, namespace)

    return look


def _in_cluster(variables: Mapping[str, str], namespace: str, account: Path) -> Where:
    host, port = variables["KUBERNETES_SERVICE_HOST"], variables.get("KUBERNETES_SERVICE_PORT", "443")
    at = f"[{host}]" if ":" in host else host
    own = "" if namespace else _read_file(account / "namespace").decode(errors="replace").strip()
    return Where(
        address=f"https://{at}:{port}",
        namespace=namespace or own,
        authority=_read_file(account / "ca.crt"),
        token_path=account / "token",
    )


def _by_file(paths: list[Path], context: str, namespace: str) -> Where:
    found = [(path, _kubeconfig(path)) for path in paths if DISK.exists(path)]
    if not found:
        raise EngineSilent(f"{paths[0] if paths else 'KUBECONFIG'}: there is no such file; name one with 'kubeconfig'")
    wanted = context or next((str(each["current-context"]) for _, each in found if each.get("current-context")), "")
    path, said = _named(found, "contexts", "context", wanted)
    base, cluster = _named(found, "clusters", "cluster", str(said.get("cluster", "")))
    home, user = _named(found, "users", "user", str(said["user"])) if said.get("user") else (path, {})
    for key in ("as", "as-uid", "auth-provider", "username", "password"):
        if user.get(key):
            _refuse(home, f"the user has '{key}', which is not supported; use a token, a certificate or exec")
    return _where(base, cluster, home, user, namespace or str(said.get("namespace") or "default"))


def _where(base: Path, cluster: Mapping[str, Any], home: Path, user: Mapping[str, Any], namespace: str) -> Where:
    address = str(cluster.get("server", ""))
    _check_address(base, address)
    for key in ("insecure-skip-tls-verify", "tls-server-name"):
        if cluster.get(key):
            _refuse(base, f"the cluster has '{key}', which is not supported; name the authority of its certificate")
    certificate = _file_or_data(home, user, "client-certificate")
    private = _file_or_data(home, user, "client-key")
    if (certificate is None) != (private is None):
        _refuse(home, "the user has a certificate or a key, and not both; give both")
    plugin, version = _plugin(home, user, cluster)
    token_path = user.get("tokenFile")
    return Where(
        address=address,
        namespace=namespace,
        authority=_file_or_data(base, cluster, "certificate-authority"),
        token=str(user.get("token") or ""),
        token_path=home.parent / str(token_path) if token_path else None,
        certificate=(certificate, private) if certificate is not None and private is not None else None,
        plugin=plugin,
        plugin_version=version,
        proxy=str(cluster.get("proxy-url") or ""),
    )


def _check_address(path: Path, address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or parts.hostname not in LOOPBACK:
        _refuse(path, "the server is no https:// address; http:// is for loopback alone")


def _kubeconfig(path: Path) -> Mapping[str, Any]:
    read = load_yaml(_read_file(path, CONFIG_BYTES_MAX), str(path), bytes_max=CONFIG_BYTES_MAX)
    if isinstance(read, Rejection):
        # What is wrong there is not said: it would repeat a part of the file.
        first = read.problems[0]
        _refuse(path, f"line {first.line or '?'} cannot be read as YAML without anchors and tags")
    return read.value


def _named(
    found: list[tuple[Path, Mapping[str, Any]]], many: str, one: str, name: str
) -> tuple[Path, Mapping[str, Any]]:
    """Return the first entry of a name, and the file it stands in."""
    for path, said in found:
        entries = said.get(many)
        for each in entries if isinstance(entries, list) else ():
            if isinstance(each, dict) and each.get("name") == name and isinstance(each.get(one), dict):
                return path, each[one]
    raise _refused(found[0][0], f"there is no {one} of the name that is asked for; see `kubectl config get-contexts`")


def _file_or_data(path: Path, said: Mapping[str, Any], key: str) -> bytes | None:
    """Return the bytes that stand in a kubeconfig or in a file it names, None for neither."""
    if data := said.get(f"{key}-data"):
        try:
            return base64.b64decode(str(data), validate=True)
        except ValueError:
            _refuse(path, f"'{key}-data' is not base64")
    return _read_file(path.parent / str(said[key])) if said.get(key) else None


def _read_file(path: Path, bytes_max: int = CREDENTIAL_BYTES_MAX) -> bytes:
    try:
        # In a pod they are links, which are set to the next version at once.
        data = DISK.read_bounded(path.resolve(), bytes_max)
    except (CodecError, OSError, RuntimeError) as error:
        raise EngineSilent(f"{path}: {error}") from None
    if data is None:
        raise EngineSilent(f"{path}: there is no such file")
    return data


def _refuse(path: Path, reason: str) -> NoReturn:
    raise _refused(path, reason)


def _refused(path: Path, reason: str) -> EngineSilent:
    return EngineSilent(f"{path}: {reason}")


# ------------------------------------------------------------------------------------------------ plugins


def _plugin(path: Path, user: Mapping[str, Any], cluster: Mapping[str, Any]) -> tuple[FromCommand | None, str]:
    """Return the program that gives the credential of a user, and the version of its answers."""
    said = user.get("exec")
    if not isinstance(said, dict):
        return None, ""
    version, command = str(said.get("apiVersion", "")), str(said.get("command", ""))
    if version not in ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1") or not command:
        _refuse(path, "exec has no command, or an apiVersion other than client.authentication.k8s.io/v1 and v1beta1")
    if said.get("interactiveMode") == "Always":
        _refuse(path, "exec wants a person at a terminal; use a plugin that needs none")
    own = {str(each["name"]): str(each["value"]) for each in said.get("env") or () if isinstance(each, dict)}
    order: dict[str, Any] = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    if said.get("provideClusterInfo"):
        order["spec"]["cluster"] = {
            key: cluster[key] for key in ("server", "certificate-authority-data", "proxy-url") if cluster.get(key)
        }
    program = str(path.parent / command) if "/" in command and not command.startswith("/") else command
    argv = (program, *(str(each) for each in said.get("args") or ()))
    variables = {**own, "KUBERNETES_EXEC_INFO": json.dumps(order)}
    return FromCommand(argv=argv, timeout_s=PLUGIN_S, variables=variables), version


def _asked(plugin: FromCommand, version: str) -> Credential:
    """Return the credential that a plugin gives."""
    where = f"kubernetes: {plugin.argv[0]}"
    try:
        status, data = plugin.printed(where)
        said = json.loads(data)
        given = said["status"]
        if status or said.get("kind") != "ExecCredential" or said.get("apiVersion") != version:
            raise ValueError
    except NoCredential:
        raise EngineSilent(f"{where}: it gives no credential within {PLUGIN_S:g} s, or cannot be executed") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise EngineSilent(f"{where}: it ended with an error, or prints no ExecCredential of {version}") from None
    pair = given.get("clientCertificateData"), given.get("clientKeyData")
    return Credential(
        token=str(given.get("token") or ""),
        certificate=(str(pair[0]).encode(), str(pair[1]).encode()) if all(pair) else None,
        until_s=instant_s(given.get("expirationTimestamp")),
    )


# ------------------------------------------------------------------------------------------------ TLS


def _trusted(authority: bytes | None, certificate: tuple[bytes, bytes] | None) -> ssl.SSLContext:
    """Return whom to trust as the server, and the certificate to show it."""
    try:
        context = ssl.create_default_context(cadata=authority.decode("ascii") if authority is not None else None)
        if certificate is not None:
            with _as_file(b"\n".join(certificate)) as path:
                context.load_cert_chain(path)
    except (ssl.SSLError, ValueError, OSError):
        raise EngineSilent("kubernetes: the certificate, its key or its authority is not PEM that fits") from None
    return context


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """Lend bytes under a path, for what only reads files; they are in memory, for a key is a secret."""
    if not hasattr(os, "memfd_create"):
        raise EngineSilent("kubernetes: a certificate of a client needs Linux; use a token or exec")
    handle = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(handle, data)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
