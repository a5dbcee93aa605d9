"""Webhooks of forges: whether one was sent by who knows the secret. Pure.

What a webhook says is not read: it can only wake the loop, which looks for itself. So one that is sent again does
nothing but that.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping

FORGES = ("github", "gitlab", "gitea")
BODY_BYTES_MAX = 1024 * 1024
AGE_MAX_S = 300.0
"""A signature that names its time is believed so long before and after it."""

Headers = Mapping[str, str]


def is_signed(forge: str, headers: Headers, body: bytes, secret: bytes, now_s: float) -> bool:
    """Return whether a webhook of a forge is signed by the secret. `headers` have names in lower case; `now_s` is in
    seconds since 1970. All comparisons take as long for a wrong signature as for a right one."""
    return bool(secret) and _CHECKS[forge](headers, body, secret, now_s)


def _github(headers: Headers, body: bytes, secret: bytes, now_s: float) -> bool:
    return _same(headers.get("x-hub-signature-256", ""), f"sha256={_hex(body, secret)}")


def _gitea(headers: Headers, body: bytes, secret: bytes, now_s: float) -> bool:
    said = headers.get("x-forgejo-signature") or headers.get("x-gitea-signature", "")
    return _same(said, _hex(body, secret))


def _gitlab(headers: Headers, body: bytes, secret: bytes, now_s: float) -> bool:
    """Return whether the signature is right or, of a GitLab that does not sign, the token."""
    if "webhook-signature" in headers:
        return _standard(headers, body, secret, now_s)
    return _same(headers.get("x-gitlab-token", ""), secret.decode("utf-8", "replace"))


def _standard(headers: Headers, body: bytes, secret: bytes, now_s: float) -> bool:
    """Return whether one of the signatures is right, by the rules of Standard Webhooks."""
    id_, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not (at.isascii() and at.isdigit() and len(at) <= 12) or abs(now_s - int(at)) > AGE_MAX_S:
        return False
    signed = hmac.digest(_key(secret), f"{id_}.{at}.".encode() + body, "sha256")
    right = f"v1,{base64.b64encode(signed).decode()}"
    return any(_same(each, right) for each in headers["webhook-signature"].split(" ")[:10])


def _key(secret: bytes) -> bytes:
    """Return the key in `whsec_<base64>`; any other secret is the key itself."""
    if not secret.startswith(b"whsec_"):
        return secret
    try:
        return base64.b64decode(secret.removeprefix(b"whsec_"), validate=True)
    except binascii.Error:
        return secret


def _hex(body: bytes, secret: bytes) -> str:
    return hmac.new(secret, body, "sha256").hexdigest()


def _same(said: str, right: str) -> bool:
    return hmac.compare_digest(said.encode("utf-8", "replace"), right.encode("utf-8", "replace"))


_CHECKS: Mapping[str, Callable[[Headers, bytes, bytes, float], bool]] = {
    "github": _github,
    "gitlab": _gitlab,
    "gitea": _gitea,
}
