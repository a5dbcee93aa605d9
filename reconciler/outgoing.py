"""What settings say of all that leaves the repository: credentials, uploads and notifications. Words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from reconciler.values import frozen


@frozen
class KeyringEntry:
    """An entry of the keyring of this machine's user."""

    system: str
    user: str


@frozen
class Credential:
    """Where a secret comes from; exactly one of `env`, `file`, `command` and `keyring` is said. `timeout_s` bounds a
    command."""

    env: str = ""
    file: str = ""
    command: tuple[str, ...] = ()
    keyring: KeyringEntry | None = None
    timeout_s: float = 10.0


@frozen
class CloudSync:
    """Where manifests of ended runs are uploaded to. `tasks` are patterns of task ids; `credential` "" sends none."""

    base_url: str
    workspace: str
    credential: str = ""
    tasks: tuple[str, ...] = ("*",)


@frozen
class Webhook:
    """An address that notifications are posted to, or the credential that holds it; `secret` is that which signs."""

    url: str = ""
    url_credential: str = ""
    secret: str = ""


@frozen
class Slack:
    """An incoming webhook as Slack has them, or the credential that holds its address."""

    url: str = ""
    url_credential: str = ""


@frozen
class Email:
    """A mail server and who is written to. `security` is `starttls`, `tls` or `none`."""

    host: str
    sender: str
    recipients: tuple[str, ...]
    port: int = 587
    security: str = "starttls"
    user: str = ""
    credential: str = ""


@frozen
class Desktop:
    """The desktop of whoever runs the reconciler. `urgency` is `low`, `normal` or `critical`."""

    urgency: str = "normal"


@frozen
class To:
    """Where a notification goes; exactly one is said."""

    webhook: Webhook | None = None
    slack: Slack | None = None
    email: Email | None = None
    desktop: Desktop | None = None


@frozen
class When:
    """Which runs are told of; every rule that is given must match. `labels` and `pipelines` are patterns, `statuses`
    words of manifests. `changed` tells only of a status that differs from that of the run before, of the same name."""

    labels: tuple[str, ...] = ()
    pipelines: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ("succeeded", "failed", "cancelled")
    changed: bool = False


DEFAULT_TEMPLATE = "$name $status: $summary"


@frozen
class Notification:
    """One rule: where to, when, and the text, whose first line is the subject of a mail."""

    to: To
    when: When = When()
    template: str = DEFAULT_TEMPLATE


@frozen
class Outgoing:
    """All of it, as the settings of one tip say it."""

    credentials: Mapping[str, Credential] = field(default_factory=dict)
    cloud_sync: CloudSync | None = None
    notifications: tuple[Notification, ...] = ()


TEMPLATE_FIELDS = (
    "attempt",
    "commit",
    "completed_at",
    "duration",
    "labels",
    "name",
    "pipeline_id",
    "previous_status",
    "run_id",
    "status",
    "summary",
    "task_id",
    "title",
)
"""What a template may name."""
