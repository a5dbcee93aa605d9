"""What is sent to Kubernetes for an attempt: the Job, and the Secret that goes with it. Pure.

A Job holds no secret, and of the text of a request only names, resources and the arguments of the program. Everything
about the pod that could reach into the cluster (account, volumes, nodes) comes from the options of the executor.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from reconciler.executors.engine import FILE_SUFFIX, Submission
from reconciler.parse import parse_duration, parse_size
from reconciler.places import Resources
from reconciler.values import frozen
from reconciler.work import HANDLE

MANAGED_BY = "app.kubernetes.io/managed-by"
OURS = "gitops-reconciler"
DOMAIN = "gitops-reconciler.dev/"
REPOSITORY, RUN, ATTEMPT, HANDLE_LABEL = f"{DOMAIN}repository", f"{DOMAIN}run", f"{DOMAIN}attempt", f"{DOMAIN}handle"
RUN_ID, TASK_ID = f"{DOMAIN}run-id", f"{DOMAIN}task-id"
CAUSE, DETAIL = f"{DOMAIN}cause", f"{DOMAIN}detail"
"""Annotations by which the engine remembers at the Job why it ended it."""
CONTAINER = "attempt"
PROGRAM = ("python3", "-m", "reconciler.executors.courier")
SCRATCH = "/scratch"
GIT_DIRECTORY = "/etc/reconciler/git"
"""Where `git_secret` is mounted: with XDG_CONFIG_HOME one level up, git finds `config` and `credentials` in it."""

RENEWED_DIRECTORY = "/etc/reconciler/renewed"
"""Where those secrets of an attempt are mounted that may change. The kubelet writes them anew a while after its Secret
was, as a whole."""

Document = dict[str, Any]


@frozen
class Options:
    """What the settings say about an executor on Kubernetes; `volumes` are `(volume, mount)` as the API has them.
    Durations are in seconds."""

    image: str
    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""
    program: tuple[str, ...] = PROGRAM
    pull_policy: str = ""
    pull_secrets: tuple[str, ...] = ()
    service_account: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    volumes: tuple[tuple[Document, Document], ...] = ()
    git_secret: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    scratch: str = ""
    scratch_bytes_max: int | None = None
    user: int = 10001
    group: int = 10001
    gpu_resource: str = "nvidia.com/gpu"
    priority_class: str = ""
    runtime_class: str = ""
    ttl_s: float = 3600.0
    start_patience_s: float = 300.0
    resync_s: float = 300.0


def options_of(said: Mapping[str, Any]) -> Options:
    """Return the options that settings say; they have been checked against the schema."""
    durations = {f"{key}_s": parse_duration(said[key]) for key in ("ttl", "start_patience", "resync") if key in said}
    plain: dict[str, Any] = {key: said[key] for key in _PLAIN if key in said}
    return Options(
        **plain,
        **durations,  # type: ignore[arg-type]
        scratch_bytes_max=parse_size(said["scratch_size"]) if "scratch_size" in said else None,
        program=tuple(said.get("program", PROGRAM)),
        pull_secrets=tuple(said.get("pull_secrets", ())),
        tolerations=tuple(_toleration(each) for each in said.get("tolerations", ())),
        volumes=tuple(_volume(number, each) for number, each in enumerate(said.get("volumes", ()), start=1)),
    )


_PLAIN = (
    *("image", "user", "group", "kubeconfig", "context", "namespace", "pull_policy", "service_account", "git_secret"),
    *("scratch", "gpu_resource", "priority_class", "runtime_class"),
    *("node_selector", "environment", "labels", "annotations"),
)


def _toleration(said: Mapping[str, Any]) -> Document:
    names = {"key": "key", "operator": "operator", "value": "value", "effect": "effect", "seconds": "tolerationSeconds"}
    return {names[key]: value for key, value in said.items()}


def _volume(number: int, said: Mapping[str, Any]) -> tuple[Document, Document]:
    """Return a volume and where it is mounted, as the API has them."""
    name = f"volume-{number}"
    source = {
        "claim": lambda text: {"persistentVolumeClaim": {"claimName": text}},
        "config_map": lambda text: {"configMap": {"name": text}},
        "secret": lambda text: {"secret": {"secretName": text, "defaultMode": 0o440}},
    }
    kind = next(each for each in source if each in said)
    mount = {"name": name, "mountPath": said["mount_path"], "readOnly": bool(said.get("read_only", kind != "claim"))}
    return {"name": name, **source[kind](said[kind])}, mount


# ------------------------------------------------------------------------------------------------ names


def labels_of(submission: Submission) -> dict[str, str]:
    """Return the labels by which an attempt is found again."""
    found = HANDLE.fullmatch(submission.handle)
    return {
        MANAGED_BY: OURS,
        REPOSITORY: submission.repository,
        RUN: found["run"] if found else "",
        ATTEMPT: str(submission.number),
        HANDLE_LABEL: submission.handle,
    }


def selector_of(repositories: tuple[str, ...]) -> str:
    """Return the label selector of all that is there for some repositories."""
    return f"{MANAGED_BY}={OURS},{REPOSITORY} in ({','.join(sorted(repositories))})"


def is_of(document: Mapping[str, Any], submission: Submission) -> bool:
    """Return whether an object that bears the name of an attempt belongs to it."""
    metadata = document.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    if not isinstance(labels, dict):
        return False
    return all(labels.get(key) == value for key, value in labels_of(submission).items())


# ------------------------------------------------------------------------------------------------ what cannot be


def refusal(submission: Submission) -> str:
    """Return why Kubernetes cannot be asked for this attempt at all, "" if it can."""
    asked = submission.resources
    words = [each for each in ("partition", "account", "qos", "reservation") if getattr(asked, each)]
    if words:
        return f"resources: {', '.join(words)} is a word of Slurm; leave it out for an executor on Kubernetes"
    return "" if HANDLE.fullmatch(submission.handle) else f"'{submission.handle}' cannot be the name of a Job"


# ------------------------------------------------------------------------------------------------ the Secret


def secret_of(submission: Submission) -> Document:
    """Return the Secret of an attempt: what nobody but the attempt may see, under the same name as its Job."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": submission.handle, "labels": labels_of(submission)},
        "type": "Opaque",
        "data": encoded({**submission.secrets, **submission.renewed}),
    }


def encoded(secrets: Mapping[str, str]) -> dict[str, str]:
    """Return what a Secret holds."""
    return {name: _encoded(value) for name, value in sorted(secrets.items())}


def secrets_in(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that a Secret holds; what is no text is left out."""
    data = document.get("data")
    found = {}
    for name, value in (data if isinstance(data, dict) else {}).items():
        try:
            found[str(name)] = base64.b64decode(value, validate=True).decode()
        except (ValueError, TypeError):
            continue
    return found


def owned(uid: str, handle: str) -> Document:
    """Return the change by which a Secret goes when its Job goes."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": handle, "uid": uid}
    return {"metadata": {"ownerReferences": [owner]}}


def ended_by_us(cause: str, detail: str) -> Document:
    """Return the change by which a Job ends that could not start, and by which it is known ever after why.

    A deadline of one second, for a Job that is deleted would be forgotten with its cause."""
    return {"metadata": {"annotations": {CAUSE: cause, DETAIL: detail}}, "spec": {"activeDeadlineSeconds": 1}}


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# ------------------------------------------------------------------------------------------------ the Job


def job_of(submission: Submission, options: Options) -> Document:
    """Return the Job of an attempt: one pod, once, restricted."""
    labels = {**options.labels, **labels_of(submission)}
    about = {**options.annotations, RUN_ID: submission.run_id, TASK_ID: submission.task_id}
    limit_s = submission.resources.time_s
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": submission.handle, "labels": labels, "annotations": about},
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "ttlSecondsAfterFinished": _whole(options.ttl_s),
            **({"activeDeadlineSeconds": max(1, _whole(limit_s))} if limit_s is not None else {}),
            # So that a Job whose pod was taken away says so itself, also when nobody looked while the pod was there.
            "podFailurePolicy": {
                "rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "template": {"metadata": {"labels": labels, "annotations": about}, "spec": _pod(submission, options)},
        },
    }


def _pod(submission: Submission, options: Options) -> Document:
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": max(1, _whole(submission.grace_s)),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": options.user,
            "runAsGroup": options.group,
            "fsGroup": options.group,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(submission, options)],
        "volumes": _volumes(submission, options),
        **_where(options),
    }


def _where(options: Options) -> Document:
    """Return what of a pod says who it is and where it may be."""
    said: Document = {
        "serviceAccountName": options.service_account,
        "nodeSelector": dict(options.node_selector),
        "tolerations": [dict(each) for each in options.tolerations],
        "imagePullSecrets": [{"name": each} for each in options.pull_secrets],
        "priorityClassName": options.priority_class,
        "runtimeClassName": options.runtime_class,
    }
    return {key: value for key, value in said.items() if value}


def _container(submission: Submission, options: Options) -> Document:
    # The courier is told where to work; another program only if the settings say it.
    ours = ("--scratch", _scratch(options)) if options.scratch or options.program == PROGRAM else ()
    command = [*options.program, *submission.arguments, *ours]
    return {
        "name": CONTAINER,
        "image": options.image,
        **({"imagePullPolicy": options.pull_policy} if options.pull_policy else {}),
        "command": [_literal(each) for each in command],
        "env": _environment(submission, options),
        "resources": _resources(submission.resources, options.gpu_resource),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(submission, options),
        "terminationMessagePolicy": "File",
    }


def _literal(text: str) -> str:
    """Return a text in which Kubernetes finds no variable: `$(NAME)` would be replaced, be it by a secret."""
    return text.replace("$", "$$")


def _environment(submission: Submission, options: Options) -> list[Document]:
    git = {"XDG_CONFIG_HOME": GIT_DIRECTORY.rpartition("/")[0]} if options.git_secret else {}
    scratch = _scratch(options)
    files = {f"{name}{FILE_SUFFIX}": f"{RENEWED_DIRECTORY}/{name}" for name in submission.renewed}
    plain = {"HOME": scratch, "TMPDIR": scratch, **git, **options.environment, **files}
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": submission.handle, "key": name}}}
        for name in sorted(submission.secrets)
    ]
    shown = [{"name": name, "value": _literal(value)} for name, value in sorted(plain.items())]
    return [*(each for each in shown if each["name"] not in submission.secrets), *secret]


def _resources(asked: Resources, gpu_resource: str) -> Document:
    """Return requests and limits, the same of each: an attempt gets what it asks for and no more."""
    found = {
        "cpu": str(asked.cpus) if asked.cpus is not None else "",
        "memory": str(asked.memory_bytes) if asked.memory_bytes is not None else "",
        gpu_resource: str(asked.gpus) if asked.gpus else "",
    }
    bounds = {key: value for key, value in found.items() if value}
    return {"requests": bounds, "limits": dict(bounds)} if bounds else {}


def _volumes(submission: Submission, options: Options) -> list[Document]:
    bound = {"sizeLimit": str(options.scratch_bytes_max)} if options.scratch_bytes_max is not None else {}
    git = {"secretName": options.git_secret, "defaultMode": 0o440}
    return [
        {"name": "scratch", "emptyDir": dict(bound)},
        {"name": "tmp", "emptyDir": dict(bound)},
        *([{"name": "git", "secret": git}] if options.git_secret else []),
        *([{"name": "renewed", "secret": _renewed(submission)}] if submission.renewed else []),
        *(volume for volume, _ in options.volumes),
    ]


def _renewed(submission: Submission) -> Document:
    """Return what of the Secret of an attempt is in files: the rest is in its environment."""
    items = [{"key": name, "path": name} for name in sorted(submission.renewed)]
    return {"secretName": submission.handle, "items": items, "defaultMode": 0o440}


def _mounts(submission: Submission, options: Options) -> list[Document]:
    return [
        {"name": "scratch", "mountPath": _scratch(options)},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  inside of the container
        *([{"name": "git", "mountPath": GIT_DIRECTORY, "readOnly": True}] if options.git_secret else []),
        # No part of it: what is mounted by `subPath` is never written anew.
        *([{"name": "renewed", "mountPath": RENEWED_DIRECTORY, "readOnly": True}] if submission.renewed else []),
        *(mount for _, mount in options.volumes),
    ]


def _scratch(options: Options) -> str:
    return options.scratch or SCRATCH


def _whole(seconds: float) -> int:
    return math.ceil(seconds)
