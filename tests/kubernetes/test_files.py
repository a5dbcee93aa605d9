"""The files for a cluster: each keeps the published description, and what runs in them is restricted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.kubernetes.description import NEWEST, OLDEST, breaks, unrestricted

PATHS = sorted((Path(__file__).resolve().parents[2] / "docs" / "kubernetes").glob("*.yaml"))
DOCUMENTS: list[dict[str, Any]] = [each for path in PATHS for each in YAML(typ="safe").load_all(path.read_text())]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [each for each in DOCUMENTS if each["kind"] == kind]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_keeps_the_published_description(document: dict[str, Any]) -> None:
    assert breaks(document, (OLDEST, NEWEST)) == []


def test_all_is_in_one_namespace_that_restricts() -> None:
    (namespace,) = of_kind("Namespace")
    name = namespace["metadata"]["name"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {each["metadata"].get("namespace", name) for each in DOCUMENTS} == {name}


def test_the_reconciler_is_one_and_restricted() -> None:
    (deployment,) = of_kind("Deployment")
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    pod = deployment["spec"]["template"]["spec"]
    assert unrestricted(pod) == []
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_what_it_names_is_there() -> None:
    """Accounts, Secrets, claims and settings that the pod of the reconciler needs are in the files."""
    there = {(each["kind"], each["metadata"]["name"]) for each in DOCUMENTS}
    pod = of_kind("Deployment")[0]["spec"]["template"]["spec"]
    volumes = pod["volumes"]
    wanted = {("ServiceAccount", pod["serviceAccountName"]), ("ConfigMap", "reconciler")}
    wanted |= {("Secret", each["secret"]["secretName"]) for each in volumes if "secret" in each}
    wanted |= {
        ("PersistentVolumeClaim", each["persistentVolumeClaim"]["claimName"])
        for each in volumes
        if "emptyDir" not in each and "secret" not in each
    }
    (binding,) = of_kind("RoleBinding")
    wanted |= {
        ("Role", binding["roleRef"]["name"]),
        *(("ServiceAccount", each["name"]) for each in binding["subjects"]),
    }
    assert wanted <= there


def test_an_attempt_has_no_rights() -> None:
    (binding,) = of_kind("RoleBinding")
    assert [each["name"] for each in binding["subjects"]] == ["reconciler"]
    accounts = {each["metadata"]["name"]: each for each in of_kind("ServiceAccount")}
    assert accounts["attempts"]["automountServiceAccountToken"] is False


def test_nobody_reaches_what_is_there() -> None:
    (policy,) = of_kind("NetworkPolicy")
    assert policy["spec"]["podSelector"] == {} and policy["spec"]["ingress"] == []
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}


def test_no_secret_of_an_example_could_be_a_real_one() -> None:
    for each in of_kind("Secret"):
        assert "REPLACE-THIS" in each["stringData"]["credentials"]
