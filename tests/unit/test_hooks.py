"""Webhooks: what their makers document is believed, and nothing else."""

from __future__ import annotations

import base64
import hmac

import pytest

from reconciler.hooks import is_signed

SECRET = b"It's a Secret to Everybody"
BODY = b"Hello, World!"
HEX = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
"""The example that GitHub documents."""
NOW_S = 1_700_000_000.0
KEY = base64.b64encode(b"k" * 32).decode()


def standard(body: bytes = BODY, key: bytes = b"k" * 32, at: str = "1700000000") -> dict[str, str]:
    signed = base64.b64encode(hmac.digest(key, f"msg_1.{at}.".encode() + body, "sha256")).decode()
    return {"webhook-id": "msg_1", "webhook-timestamp": at, "webhook-signature": f"v1,AAAA v1,{signed}"}


@pytest.mark.parametrize(
    ("forge", "headers", "secret"),
    [
        ("github", {"x-hub-signature-256": f"sha256={HEX}"}, SECRET),
        ("gitea", {"x-gitea-signature": HEX}, SECRET),
        ("gitea", {"x-forgejo-signature": HEX, "x-gitea-signature": "x"}, SECRET),
        ("gitlab", {"x-gitlab-token": SECRET.decode()}, SECRET),
        ("gitlab", standard(), f"whsec_{KEY}".encode()),
        ("gitlab", standard(key=SECRET), SECRET),
    ],
)
def test_who_knows_the_secret_is_believed(forge: str, headers: dict[str, str], secret: bytes) -> None:
    assert is_signed(forge, headers, BODY, secret, NOW_S)
    assert is_signed(forge, headers, BODY + b"!", secret, NOW_S) is ("x-gitlab-token" in headers)
    assert not is_signed(forge, headers, BODY, b"another secret", NOW_S)
    assert not is_signed(forge, {}, BODY, secret, NOW_S)
    assert not is_signed(forge, dict.fromkeys(headers, ""), BODY, secret, NOW_S)


@pytest.mark.parametrize("forge", ["github", "gitlab", "gitea"])
def test_without_a_secret_nobody_is_believed(forge: str) -> None:
    empty = hmac.new(b"", BODY, "sha256").hexdigest()
    headers = {"x-hub-signature-256": f"sha256={empty}", "x-gitlab-token": "", "x-gitea-signature": empty}
    assert not is_signed(forge, headers, BODY, b"", NOW_S)


def test_a_wrong_signature_is_not_saved_by_a_right_token() -> None:
    headers = {"x-gitlab-token": SECRET.decode(), "webhook-signature": "v1,AAAA", "webhook-timestamp": "1700000000"}
    assert not is_signed("gitlab", headers, BODY, SECRET, NOW_S)


@pytest.mark.parametrize("at", ["1699999000", "1700001000", "", "x", "-1700000000", "9" * 400, "١٧"])
def test_a_signature_of_another_time_is_not_believed(at: str) -> None:
    assert not is_signed("gitlab", standard(at=at), BODY, f"whsec_{KEY}".encode(), NOW_S)


@pytest.mark.parametrize("text", ["ä", "\udc80", "v1," * 10_000])
def test_any_header_is_an_answer(text: str) -> None:
    for forge, name in (
        ("github", "x-hub-signature-256"),
        ("gitea", "x-gitea-signature"),
        ("gitlab", "webhook-signature"),
    ):
        assert not is_signed(forge, {name: text, "webhook-timestamp": "1700000000"}, BODY, SECRET, NOW_S)
