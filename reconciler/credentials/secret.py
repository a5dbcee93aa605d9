"""What a source of secrets answers, and what it may be asked."""

from __future__ import annotations

from dataclasses import field
from typing import Protocol

from reconciler.errors import TransientError
from reconciler.values import frozen

BYTES_MAX = 16 * 1024
CHARACTERS_MIN = 6
"""A shorter secret could not be kept out of a text without making it unreadable."""


class NoCredential(TransientError):
    """A secret cannot be had now; the message says which and why, and never holds a part of it."""


@frozen
class Secret:
    """A secret, and the UTC instant (ISO 8601) from which on it does not count any more, None for none."""

    value: str = field(repr=False)
    expires_at: str | None = None


class Source(Protocol):
    """Something that knows one secret."""

    def get(self, name: str) -> Secret:
        """Return the secret; `name` is what messages call it. Raise NoCredential if it cannot be had."""
        ...


def checked(name: str, value: str, expires_at: str | None = None) -> Secret:
    """Return a secret that can be sent and hidden. Raise NoCredential for one that cannot."""
    value = value.strip("\r\n")
    if len(value) < CHARACTERS_MIN or len(value.encode(errors="replace")) > BYTES_MAX:
        raise NoCredential(
            f"credential '{name}': it must have {CHARACTERS_MIN} characters and at most {BYTES_MAX} bytes"
        )
    if not value.isprintable():
        raise NoCredential(f"credential '{name}': it holds more than one line, or a control character")
    return Secret(value=value, expires_at=expires_at)
