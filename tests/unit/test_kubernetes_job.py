"""What is sent for an attempt: it keeps the published description, is restricted, and holds no secret."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from reconciler.executors.engine import Submission
from reconciler.executors.kubernetes_job import (
    Options,
    encoded,
    is_of,
    job_of,
    options_of,
    owned,
    refusal,
    secret_of,
    secrets_in,
    selector_of,
)
from reconciler.places import Resources
from reconciler.work import handle_of
from tests.kubernetes.description import breaks, unrestricted

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "schemas/executors/kubernetes.schema.json").read_bytes())
VERSIONS = ("v1.27.0", "v1.30.0", "v1.33.0", "v1.37.0")
HANDLE = handle_of("0123abcd", "0001-demo-1a2b3c4d", 2)
WHOLE: dict[str, Any] = {
    "kubeconfig": "/etc/reconciler/kubeconfig",
    "context": "builds",
    "namespace": "runs",
    "image": "registry.example.com/runs@sha256:" + "0" * 64,
    "program": ["/venv/bin/python", "-m", "reconciler.executors.courier"],
    "pull_policy": "IfNotPresent",
    "pull_secrets": ["registry"],
    "service_account": "attempts",
    "node_selector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute", "seconds": 60}],
    "volumes": [
        {"mount_path": "/cache", "claim": "cache"},
        {"mount_path": "/tools", "config_map": "toolchain"},
        {"mount_path": "/keys", "secret": "signing"},
        {"mount_path": "/data", "claim": "data", "read_only": True},
    ],
    "git_secret": "git",
    "environment": {"HTTPS_PROXY": "http://proxy.example.com:3128", "HOME": "/home"},
    "labels": {"kueue.x-k8s.io/queue-name": "runs"},
    "annotations": {"sidecar.istio.io/inject": "false"},
    "scratch": "/work",
    "scratch_size": "20GiB",
    "user": 1000,
    "group": 1000,
    "gpu_resource": "amd.com/gpu",
    "priority_class": "batch",
    "runtime_class": "gvisor",
    "ttl": "1d",
    "start_patience": "15m",
    "resync": "10m",
}


def submission(**fields: Any) -> Submission:
    given: dict[str, Any] = {
        "handle": HANDLE,
        "repository": "0123abcd",
        "run_id": "0001-demo-1a2b3c4d",
        "task_id": "0001-demo",
        "number": 2,
        "arguments": ("--url", "https://git.example.com/a.git"),
        "secrets": {"RECONCILER_WORK_KEY": "s3cret-of-the-attempt"},
        **fields,
    }
    return Submission(**given)


def made(options: Options | None = None, **fields: Any) -> dict[str, Any]:
    return job_of(submission(**fields), options or Options(image="runs:1"))


def container(job: dict[str, Any]) -> dict[str, Any]:
    (found,) = job["spec"]["template"]["spec"]["containers"]
    return dict(found)


# ------------------------------------------------------------------------------------------------ the Job


RESOURCES = (
    Resources(),
    Resources(cpus=4, memory_bytes=8 << 30, gpus=2, time_s=90.5),
    Resources(gpus=0, time_s=0.1),
)


@pytest.mark.parametrize("resources", RESOURCES)
@pytest.mark.parametrize("options", [Options(image="runs:1"), options_of(WHOLE)], ids=["least", "whole"])
def test_a_job_keeps_the_description_and_is_restricted(options: Options, resources: Resources) -> None:
    job = made(options, resources=resources)
    assert breaks(job, VERSIONS) == []
    assert unrestricted(job["spec"]["template"]["spec"]) == []
    assert "s3cret" not in json.dumps(job)


def test_it_is_executed_once_or_not_at_all() -> None:
    spec = made()["spec"]
    assert (spec["backoffLimit"], spec["completions"], spec["parallelism"]) == (0, 1, 1)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert "activeDeadlineSeconds" not in spec


def test_its_pod_has_no_token_and_a_place_to_write() -> None:
    pod = made()["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert container(made())["securityContext"]["readOnlyRootFilesystem"] is True
    assert {each["mountPath"] for each in container(made())["volumeMounts"]} == {"/scratch", "/tmp"}


def test_it_is_found_by_labels_and_read_by_people() -> None:
    job = made(options_of(WHOLE))
    assert job["metadata"]["name"] == HANDLE
    assert job["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "gitops-reconciler",
        "gitops-reconciler.dev/repository": "0123abcd",
        "gitops-reconciler.dev/run": re.fullmatch(r"0001-demo-0123abcd([0-9a-f]{8})-2", HANDLE)[1],  # type: ignore[index]
        "gitops-reconciler.dev/attempt": "2",
        "gitops-reconciler.dev/handle": HANDLE,
        "kueue.x-k8s.io/queue-name": "runs",
    }
    assert job["metadata"]["annotations"]["gitops-reconciler.dev/run-id"] == "0001-demo-1a2b3c4d"
    assert job["spec"]["template"]["metadata"]["labels"] == job["metadata"]["labels"]
    assert is_of(job, submission())
    assert not is_of(job, submission(number=3)) and not is_of({"metadata": 3}, submission())


def test_labels_of_the_settings_cannot_hide_it() -> None:
    options = Options(image="runs:1", labels={"gitops-reconciler.dev/handle": "other"})
    assert is_of(made(options), submission())


def test_resources_are_asked_for_and_bounded() -> None:
    asked = Resources(cpus=4, memory_bytes=8 << 30, gpus=2, time_s=90.5)
    job = made(options_of(WHOLE), resources=asked, grace_s=12.2)
    bounds = {"cpu": "4", "memory": str(8 << 30), "amd.com/gpu": "2"}
    assert container(job)["resources"] == {"requests": bounds, "limits": bounds}
    assert job["spec"]["activeDeadlineSeconds"] == 91
    assert job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 13
    assert container(made())["resources"] == {}


def test_kubernetes_finds_no_variable_in_what_is_passed_on() -> None:
    job = made(Options(image="runs:1", environment={"A": "$(B)"}), arguments=("$(RECONCILER_WORK_KEY)", "$$", "a"))
    assert container(job)["command"][3:6] == ["$$(RECONCILER_WORK_KEY)", "$$$$", "a"]
    assert {"name": "A", "value": "$$(B)"} in container(job)["env"]


def test_the_courier_is_told_where_to_work_and_another_program_only_if_the_settings_say_it() -> None:
    assert container(made())["command"] == [
        *("python3", "-m", "reconciler.executors.courier"),
        *("--url", "https://git.example.com/a.git", "--scratch", "/scratch"),
    ]
    assert "--scratch" not in container(made(Options(image="runs:1", program=("sh",))))["command"]
    assert container(made(options_of(WHOLE)))["command"][-2:] == ["--scratch", "/work"]


def test_secrets_come_by_name_and_win() -> None:
    options = Options(image="runs:1", environment={"RECONCILER_WORK_KEY": "shown"})
    env = {each["name"]: each for each in container(made(options))["env"]}
    wanted = {"secretKeyRef": {"name": HANDLE, "key": "RECONCILER_WORK_KEY"}}
    assert env["RECONCILER_WORK_KEY"] == {"name": "RECONCILER_WORK_KEY", "valueFrom": wanted}


def test_what_may_change_is_in_files_and_never_in_the_environment() -> None:
    lent = replace(submission(), renewed={"RECONCILER_GIT_CREDENTIAL": "lent-for-an-hour"})
    job = job_of(lent, options_of(WHOLE))
    assert breaks(job, VERSIONS) == [] and "lent-for-an-hour" not in json.dumps(job)
    env = {each["name"]: each for each in container(job)["env"]}
    path = "/etc/reconciler/renewed/RECONCILER_GIT_CREDENTIAL"
    assert env["RECONCILER_GIT_CREDENTIAL_FILE"]["value"] == path and "RECONCILER_GIT_CREDENTIAL" not in env
    mount = next(each for each in container(job)["volumeMounts"] if each["name"] == "renewed")
    assert mount == {"name": "renewed", "mountPath": path.rpartition("/")[0], "readOnly": True}
    [volume] = [each for each in job["spec"]["template"]["spec"]["volumes"] if each["name"] == "renewed"]
    item = {"key": "RECONCILER_GIT_CREDENTIAL", "path": "RECONCILER_GIT_CREDENTIAL"}
    assert volume["secret"] == {"secretName": HANDLE, "items": [item], "defaultMode": 0o440}
    secret = secret_of(lent)
    assert breaks(secret, VERSIONS) == []
    assert secrets_in(secret) == {**submission().secrets, "RECONCILER_GIT_CREDENTIAL": "lent-for-an-hour"}
    assert not any(each["name"] == "renewed" for each in made(options_of(WHOLE))["spec"]["template"]["spec"]["volumes"])


def test_a_secret_that_is_renewed_keeps_the_description() -> None:
    newer = {**secret_of(submission())["data"], **encoded({"RECONCILER_GIT_CREDENTIAL": "a newer one"})}
    assert breaks({**secret_of(submission()), "data": newer}, VERSIONS) == []


def test_git_finds_its_credentials_where_the_secret_is_mounted() -> None:
    job = made(options_of(WHOLE))
    assert {"name": "git", "mountPath": "/etc/reconciler/git", "readOnly": True} in container(job)["volumeMounts"]
    env = {each["name"]: each.get("value") for each in container(job)["env"]}
    assert env["XDG_CONFIG_HOME"] == "/etc/reconciler" and env["HOME"] == "/home" and env["TMPDIR"] == "/work"


def test_volumes_are_read_only_unless_they_are_claims() -> None:
    mounts = {each["mountPath"]: each.get("readOnly") for each in container(made(options_of(WHOLE)))["volumeMounts"]}
    assert (mounts["/cache"], mounts["/tools"], mounts["/keys"], mounts["/data"]) == (False, True, True, True)


# ------------------------------------------------------------------------------------------------ the rest


def test_a_secret_keeps_the_description_and_is_read_back() -> None:
    secret = secret_of(submission())
    assert breaks(secret, VERSIONS) == []
    assert secret["metadata"]["name"] == HANDLE and is_of(secret, submission())
    assert secrets_in(secret) == {"RECONCILER_WORK_KEY": "s3cret-of-the-attempt"}


@pytest.mark.parametrize("data", [None, [], {"A": 3}, {"A": "%"}, {"A": base64.b64encode(b"\xff").decode()}])
def test_a_secret_that_holds_no_text_tells_nothing(data: object) -> None:
    assert secrets_in({"data": data}) == {}


def test_a_secret_that_is_owned_keeps_the_description() -> None:
    secret = secret_of(submission())
    assert breaks({**secret, "metadata": {**secret["metadata"], **owned("uid", HANDLE)["metadata"]}}, VERSIONS) == []


def test_a_selector_names_what_is_there_for_repositories() -> None:
    wanted = "app.kubernetes.io/managed-by=gitops-reconciler,gitops-reconciler.dev/repository in (0123abcd,89abcdef)"
    assert selector_of(("89abcdef", "0123abcd")) == wanted


def test_what_cannot_be_asked_for_is_said() -> None:
    assert refusal(submission()) == ""
    assert "partition, account" in refusal(submission(resources=Resources(partition="long", account="a")))
    assert refusal(submission(handle="Not_A_Name"))


# ------------------------------------------------------------------------------------------------ options


def _valid(options: object) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(options))


def test_the_options_are_described_and_each_of_them_is_a_field() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert _valid(WHOLE) and _valid({"image": "runs:1"}) and all(map(_valid, SCHEMA["examples"]))
    assert set(WHOLE) == set(SCHEMA["properties"])
    for key, each in SCHEMA["properties"].items():
        assert each["title"] and each["description"].endswith(".") and each["examples"], key
        assert all(_valid({"image": "runs:1", key: example}) for example in each["examples"]), key


def test_every_option_changes_something() -> None:
    least = options_of({"image": "runs:1"})
    for key, value in WHOLE.items():
        assert options_of({"image": "runs:1", key: value}) != least, key


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"image": ""},
        {"image": "-o x"},
        {"image": "runs:1", "image_pull": "x"},
        {"image": "runs:1", "user": 0},
        {"image": "runs:1", "program": []},
        {"image": "runs:1", "scratch": "work"},
        {"image": "runs:1", "scratch": "/a/../b"},
        {"image": "runs:1", "volumes": [{"mount_path": "/x"}]},
        {"image": "runs:1", "volumes": [{"mount_path": "/x", "host_path": "/"}]},
        {"image": "runs:1", "volumes": [{"mount_path": "/x", "claim": "a", "secret": "b"}]},
        {"image": "runs:1", "namespace": "../kube-system"},
        {"image": "runs:1", "environment": {"A B": "c"}},
        {"image": "runs:1", "ttl": "forever"},
        {"image": "runs:1", "node_selector": {"": "x"}},
    ],
)
def test_what_options_must_not_say_is_refused(bad: dict[str, Any]) -> None:
    assert not _valid(bad)


def test_the_page_about_it_names_every_option() -> None:
    page = (ROOT / "docs/how-to/kubernetes.md").read_text()
    assert [key for key in SCHEMA["properties"] if f"| `{key}` |" not in page] == []
