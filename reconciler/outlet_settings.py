"""What `reconciler.yaml` says of credentials, uploads and notifications, as values; and what is wrong with it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from string import Template
from typing import Any

from reconciler.model import Settings, Violation
from reconciler.outgoing import (
    TEMPLATE_FIELDS,
    CloudSync,
    Credential,
    Desktop,
    Email,
    KeyringEntry,
    Notification,
    Outgoing,
    Slack,
    To,
    Webhook,
    When,
)
from reconciler.parse import Conversions, at, fields_of, parse_duration
from reconciler.yaml_events import Document, shown

NAMED = (
    "control_plane.credential",
    "cloud_sync.credential",
    "executors.*.credential",
    "notifications.[].to.webhook.url_credential",
    "notifications.[].to.webhook.secret",
    "notifications.[].to.slack.url_credential",
    "notifications.[].to.email.credential",
)
"""Where a credential is named."""


def outgoing(said: Settings) -> Outgoing:
    """Return what leaves the repository, of settings that keep their schema."""
    return Outgoing(
        credentials={name: _credential(each) for name, each in said.credentials.items()},
        cloud_sync=_cloud_sync(said.cloud_sync) if said.cloud_sync is not None else None,
        notifications=tuple(map(_notification, said.notifications)),
    )


def _credential(value: Mapping[str, Any]) -> Credential:
    known: Conversions = {
        "command": ("command", tuple),
        "keyring": ("keyring", lambda each: KeyringEntry(**each)),
        "timeout": ("timeout_s", parse_duration),
    }
    return Credential(**fields_of(value, known))


def _cloud_sync(value: Mapping[str, Any]) -> CloudSync:
    return CloudSync(**fields_of(value, {"tasks": ("tasks", tuple)}))


def _notification(value: Mapping[str, Any]) -> Notification:
    return Notification(**fields_of(value, {"to": ("to", _to), "when": ("when", _when)}))


def _to(value: Mapping[str, Any]) -> To:
    known: Conversions = {
        "webhook": ("webhook", lambda each: Webhook(**each)),
        "slack": ("slack", lambda each: Slack(**each)),
        "email": ("email", lambda each: Email(**fields_of(each, {"recipients": ("recipients", tuple)}))),
        "desktop": ("desktop", lambda each: Desktop(**each)),
    }
    return To(**fields_of(value, known))


def _when(value: Mapping[str, Any]) -> When:
    lists: Conversions = {key: (key, tuple) for key in ("labels", "pipelines", "statuses")}
    return When(**fields_of(value, lists))


# ------------------------------------------------------------------------------------------------ what is wrong


def violations(document: Document) -> Iterator[Violation]:
    """Yield everything that is wrong although each value by itself keeps its schema."""
    yield from _unknown_credentials(document)
    yield from _bad_templates(document)
    yield from _open_mail(document)


def _unknown_credentials(document: Document) -> Iterator[Violation]:
    """Yield a violation wherever a credential is named that `credentials` does not hold."""
    said: object = document.value.get("credentials")
    known = sorted(map(str, said)) if isinstance(said, dict) else []
    for key in NAMED:
        for pointer, name in at(document.value, key):
            if isinstance(name, str) and name not in known:
                cure = f"name it below 'credentials', or use: {', '.join(known)}" if known else "add it there"
                reason = f"{shown(name)} is no credential below 'credentials'"
                yield Violation(path=pointer, reason=reason, cure=cure, rule="unknown-credential")


def _bad_templates(document: Document) -> Iterator[Violation]:
    """Yield a violation for every template that could not be filled in."""
    for pointer, text in at(document.value, "notifications.[].template"):
        if isinstance(text, str) and (reason := _fault(text)):
            cure = f"'$$' is a dollar sign; fields are: {', '.join(TEMPLATE_FIELDS)}"
            yield Violation(path=pointer, reason=reason, cure=cure, rule="bad-template")


def _fault(text: str) -> str:
    template = Template(text)
    if not template.is_valid():
        return "a '$' of the template names no field"
    unknown = [each for each in template.get_identifiers() if each not in TEMPLATE_FIELDS]
    return f"the template names {shown(unknown[0])}, which is no field" if unknown else ""


def _open_mail(document: Document) -> Iterator[Violation]:
    """Yield a violation where mail, or what authorises it, would cross a network in the clear."""
    for pointer, each in at(document.value, "notifications.[].to.email"):
        if not isinstance(each, dict):
            continue
        near = each.get("host") in ("localhost", "127.0.0.1", "::1")
        if each.get("security") == "none" and not near:
            reason = "'security: none' is for a mail server on this machine"
            yield Violation(path=(*pointer, "security"), reason=reason, cure="say starttls or tls", rule="open-mail")
        if ("user" in each) != ("credential" in each):
            reason = "'user' and 'credential' belong together"
            yield Violation(path=pointer, reason=reason, cure="say both or neither", rule="half-a-login")
