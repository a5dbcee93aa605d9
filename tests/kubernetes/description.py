"""The published description of the API of Kubernetes (OpenAPI, as the package `kubernetes-validate` carries it), and the
standard "restricted" for pods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema_rs

OLDEST, NEWEST = "v1.27.0", "v1.37.0"
TYPES = {
    "Job": "io.k8s.api.batch.v1.Job",
    "Secret": "io.k8s.api.core.v1.Secret",
    "Pod": "io.k8s.api.core.v1.Pod",
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "Namespace": "io.k8s.api.core.v1.Namespace",
    "ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "Role": "io.k8s.api.rbac.v1.Role",
    "RoleBinding": "io.k8s.api.rbac.v1.RoleBinding",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "Eviction": "io.k8s.api.policy.v1.Eviction",
    "DeleteOptions": "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
}


def breaks(document: dict[str, Any], versions: tuple[str, ...] = (OLDEST, NEWEST)) -> list[str]:
    """Return every way in which an object breaks its description; keys that it does not know are such a way."""
    kind = str(document.get("kind", ""))
    if kind not in TYPES:
        return [f"there is no kind '{kind}' here"]
    return [
        f"{version}: {'/'.join(map(str, each.instance_path))}: {each.message}"
        for version in versions
        for each in _validator(version, kind).iter_errors(document)
    ]


@cache
def _validator(version: str, kind: str) -> Any:
    definitions = _definitions(version)
    wanted = {name: definitions[name] for name in _reached(definitions, TYPES[kind])}
    return jsonschema_rs.Draft202012Validator({"$ref": f"#/$defs/{TYPES[kind]}", "$defs": wanted})


@cache
def _definitions(version: str) -> dict[str, Any]:
    found = find_spec("kubernetes_validate")
    assert found is not None and found.origin is not None
    path = Path(found.origin).parent / "kubernetes-json-schema" / f"{version}-local-strict" / "_definitions.json"
    return dict(json.loads(path.read_bytes())["$defs"])


def _reached(definitions: dict[str, Any], name: str) -> set[str]:
    """Return the definitions that one of them needs."""
    found: set[str] = set()
    left = [name]
    while left:
        if (each := left.pop()) not in found:
            found.add(each)
            left.extend(_references(definitions[each]))
    return found


def _references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].removeprefix("#/$defs/")
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


# ------------------------------------------------------------------------------------------------ restricted


VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def unrestricted(pod: dict[str, Any]) -> list[str]:
    """Return every way in which the spec of a pod breaks the standard "restricted", version 1.25 and later."""
    own = pod.get("securityContext", {})
    found = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    found += [
        f"volume {sorted(set(each) - {'name'})}" for each in pod.get("volumes", ()) if set(each) - VOLUMES - {"name"}
    ]
    for container in (*pod.get("initContainers", ()), *pod.get("containers", ())):
        found += _unrestricted_container(container, own)
    return found


def _unrestricted_container(container: dict[str, Any], own: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    both = {**own, **context}
    if context.get("privileged") or context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
        yield "runAsNonRoot is not true"
    if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is not RuntimeDefault"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()) or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield "capabilities are not dropped"
    if any(each.get("hostPort") for each in container.get("ports", ())):
        yield "hostPort is set"
