"""Notifications: which runs are told of, in which words, and how each kind of place takes them."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.credentials.broker import Broker
from reconciler.credentials.secret import Secret
from reconciler.model import RunId, TaskId
from reconciler.outgoing import Desktop, Email, Notification, Outgoing, Slack, To, Webhook, When
from reconciler.outlets.desktop import DesktopOutlet
from reconciler.outlets.mail import MailOutlet
from reconciler.outlets.message import TEXT_MAX, fields, is_wanted, message
from reconciler.outlets.opening import open_outlets
from reconciler.outlets.outlet import Delivery, Ended, Undeliverable, Undelivered
from reconciler.outlets.slack import SlackOutlet
from reconciler.outlets.webhook import SIGNATURE, WebhookOutlet, signature
from tests.mail_server import MailServer, certificate
from tests.outside_server import Outside, Said

DOCUMENT: dict[str, Any] = {
    "run_id": "r-0123abcd",
    "name": "nightly",
    "task_id": "t",
    "pipeline_id": "release-linux",
    "title": "A <!channel> & more",
    "status": "failed",
    "summary": "stage 'b'\x1b[31m failed:\n it broke",
    "labels": ["nightly", "x"],
    "commit": "c" * 40,
    "completed_at": "2026-07-29T09:30:05Z",
    "attempts": [{"number": 1}, {"number": 2}],
    "resources": {"duration_s": 61.0},
}
RUN = Ended(
    run_id=RunId("r-0123abcd"), task_id=TaskId("t"), name="nightly", status="failed", attempt=2, blob="b",
    document=DOCUMENT, previous="succeeded",
)  # fmt: skip
DELIVERY = Delivery(
    key="r-0123abcd.2", run_id=RUN.run_id, task_id=RUN.task_id, attempt=2, blob="b", previous="succeeded",
    body=json.dumps(DOCUMENT).encode(),
)  # fmt: skip


class Known:
    """A source that holds what it was given."""

    def __init__(self, value: str) -> None:
        self.value = value

    def get(self, name: str) -> Secret:
        return Secret(value=self.value)


def rule(**said: Any) -> Notification:
    return Notification(**{"to": To(desktop=Desktop()), **said})


# ------------------------------------------------------------------------------------------------ which, in what words


@pytest.mark.parametrize(
    ("when", "wanted"),
    [
        (When(), True),
        (When(labels=("nightly",)), True),
        (When(labels=("night*",), pipelines=("release-*",)), True),
        (When(labels=("weekly",)), False),
        (When(pipelines=("release",)), False),
        (When(statuses=("succeeded",)), False),
        (When(changed=True), True),
    ],
)
def test_a_rule_tells_of_the_runs_that_match_all_it_says(when: When, wanted: bool) -> None:
    assert is_wanted(RUN, when) is wanted


def test_a_status_that_stays_is_no_change_and_the_first_one_is() -> None:
    changed = When(changed=True)
    assert not is_wanted(replace(RUN, previous="failed"), changed)
    assert is_wanted(replace(RUN, previous=None), changed)


def test_that_a_run_waits_is_told_to_those_who_ask_for_it() -> None:
    waiting = replace(RUN, status="waiting")
    assert not is_wanted(waiting, When())
    told = WebhookOutlet("w", rule(when=When(statuses=("waiting",))), Webhook(), Broker({})).wanted(waiting)
    assert [each.key for each in told] == ["r-0123abcd.2.waiting"]


def test_a_template_names_fields_and_values_obey_nobody() -> None:
    text = (
        "$$ $name of $pipeline_id: ${status} (was $previous_status)\n$summary in $duration, attempt $attempt, $labels"
    )
    said = message(rule(template=text), DELIVERY)
    assert said.subject == "$ nightly of release-linux: failed (was succeeded)"
    assert said.text.splitlines()[1] == "stage 'b' [31m failed: it broke in 1 min 01 s, attempt 2, nightly, x"
    huge = fields({**DOCUMENT, "summary": "x" * 10_000}, None)
    assert len(huge["summary"]) == 500
    assert len(message(rule(template="$title" * 600), DELIVERY).text) <= TEXT_MAX


def test_a_rule_that_is_changed_is_another_outlet_and_one_that_stands_twice_is_one() -> None:
    first, other = rule(), rule(when=When(changed=True))
    names = [each.name for each in open_outlets(Outgoing(notifications=(first, other, first)), Broker({}))]
    assert len(names) == 2 and all(each.startswith("desktop-") for each in names)


# ------------------------------------------------------------------------------------------------ webhooks


@pytest.fixture
def outside() -> Iterator[Outside]:
    found = Outside()
    try:
        yield found
    finally:
        found.close()


def test_a_webhook_is_posted_and_signed_and_can_be_checked(outside: Outside) -> None:
    broker = Broker({"hook": Known("the-secret")})
    said = Webhook(url=f"{outside.url}/hook/?a=b", secret="hook")
    outlet = WebhookOutlet("webhook-1", rule(template="$name"), said, broker, epoch_s=lambda: 1000.7)
    assert outlet.deliver(DELIVERY).said == "answered 201"
    [asked] = outside.asked
    assert asked.path == "/hook/?a=b"
    assert asked.headers["idempotency-key"] == "webhook-1/r-0123abcd.2"
    made = hmac.new(b"the-secret", b"1000." + asked.body, hashlib.sha256).hexdigest()
    assert asked.headers[SIGNATURE.lower()] == f"t=1000,v1={made}" == signature(b"the-secret", asked.body, 1000)
    body = json.loads(asked.body)
    assert (body["id"], body["text"], body["run"]["status"]) == ("r-0123abcd.2", "nightly", "failed")
    outlet.close()


def test_an_address_that_is_a_secret_is_in_no_message(outside: Outside) -> None:
    broker = Broker({"slack": Known(f"{outside.url}/services/T0SECRET/")})
    outlet = SlackOutlet("slack-1", rule(template="$title"), Slack(url_credential="slack"), broker)
    assert outlet.deliver(DELIVERY).said == "answered 201"
    assert outside.asked[0].path == "/services/T0SECRET/"
    assert json.loads(outside.asked[0].body) == {"text": "A &lt;!channel&gt; &amp; more"}
    outside.answer = lambda asked: Said(404, body=b'{"message": "no /services/T0SECRET/ here"}')
    with pytest.raises(Undeliverable) as refused:
        outlet.deliver(DELIVERY)
    outside.close()
    with pytest.raises(Undelivered) as unreachable:
        outlet.deliver(DELIVERY)
    said = f"{refused.value} {unreachable.value} {outlet!r}"
    assert "cannot be reached" in said
    assert f"{outside.url}/services/T0SECRET" not in said


@pytest.mark.parametrize("url", ["http://example.com/x", "ftp://localhost/x", "file:///etc/passwd"])
def test_a_credential_that_is_no_safe_address_is_refused(url: str) -> None:
    outlet = SlackOutlet("s", rule(), Slack(url_credential="slack"), Broker({"slack": Known(url)}))
    with pytest.raises(Undeliverable, match="it is no https:// address"):
        outlet.deliver(DELIVERY)


# ------------------------------------------------------------------------------------------------ mail


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("mail"))


def mail(server: MailServer, pem: Path | None = None, **said: Any) -> MailOutlet:
    known = {"host": "127.0.0.1", "port": server.port, "sender": "runs@example.com", "recipients": ("a@example.com",)}
    text = rule(template="$name $status\n$summary")
    trusted = (lambda: ssl.create_default_context(cafile=str(pem))) if pem else ssl.create_default_context
    return MailOutlet("email-1", text, Email(**known | said), Broker({"mail": Known("pass-word-1")}), trusted)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_mail_is_sent_encrypted_and_nothing_secret_goes_before_that(pem: Path, security: str) -> None:
    server = MailServer(pem, tls=security == "tls")
    outlet = mail(server, pem, security=security, user="ann", credential="mail")
    assert outlet.deliver(DELIVERY).said == "sent"
    outlet.deliver(DELIVERY)
    server.close()
    assert server.logins[0] == ("ann", "pass-word-1", True)
    first, second = server.mails
    assert "Subject: nightly failed\r\n" in first
    assert "stage 'b' [31m failed: it broke" in first
    assert _id(first) == _id(second)


def _id(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("Message-ID"))


def test_a_server_that_nobody_vouches_for_gets_no_password(pem: Path) -> None:
    server = MailServer(pem)
    with pytest.raises(Undelivered, match="certificate verify failed"):
        mail(server, user="ann", credential="mail").deliver(DELIVERY)
    server.close()
    assert server.logins == [] and server.mails == []


def test_a_server_on_this_machine_may_be_spoken_to_in_the_clear() -> None:
    server = MailServer()
    assert mail(server, security="none").deliver(DELIVERY).said == "sent"
    server.close()


@pytest.mark.parametrize(
    ("refusals", "error"),
    [
        ({"mail": "451 later"}, Undelivered),
        ({"mail": "550 never"}, Undeliverable),
        ({"rcpt": "450 busy"}, Undelivered),
        ({"rcpt": "550 no such user"}, Undeliverable),
        ({"data": "421 going down"}, Undelivered),
        ({"ehlo": "554 go away", "helo": "554 go away"}, Undeliverable),
    ],
)
def test_what_a_mail_server_refuses_for_now_is_tried_again(refusals: dict[str, str], error: type[Exception]) -> None:
    server = MailServer(**refusals)
    with pytest.raises(error):
        mail(server, security="none").deliver(DELIVERY)
    server.close()
    with pytest.raises(Undelivered):
        mail(server, security="none").deliver(DELIVERY)


# ------------------------------------------------------------------------------------------------ the desktop


def test_a_note_is_shown_and_nothing_of_it_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outlet = DesktopOutlet("desktop-1", rule(template="--hint $name\n<b>$title</b>"), Desktop(urgency="low"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Undeliverable, match="notify-send is not installed"):
        outlet.deliver(DELIVERY)
    program = tmp_path / "notify-send"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/shown\n')
    program.chmod(0o755)
    assert outlet.deliver(DELIVERY).said == "shown"
    words = (tmp_path / "shown").read_text().splitlines()
    assert words[1:4] == ["--urgency=low", "--", "--hint nightly"]
    assert words[4] == "&lt;b>A &lt;!channel> &amp; more&lt;/b>"
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(Undelivered, match="ended with 1"):
        outlet.deliver(DELIVERY)
