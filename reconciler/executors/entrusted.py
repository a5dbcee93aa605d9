"""What a courier reaches its repository with, where its host gave it a token.

One for good, or a file in which the engine shows the one that counts now: that is read anew for every call of git.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import field
from pathlib import Path

from reconciler import codec
from reconciler.credentials.secret import BYTES_MAX
from reconciler.disk import DISK
from reconciler.errors import TransientError, UsageError
from reconciler.executors.engine import FILE_SUFFIX
from reconciler.login import Login, login_of
from reconciler.values import frozen
from reconciler.work import CREDENTIAL_VARIABLE

FILE_VARIABLE = f"{CREDENTIAL_VARIABLE}{FILE_SUFFIX}"


@frozen
class Entrusted:
    """A token, or the path of the file that holds it; both "" where the node has something of its own."""

    value: str = field(default="", repr=False)
    path: str = ""

    @property
    def is_there(self) -> bool:
        return bool(self.value or self.path)

    def token(self) -> str:
        """Return the token that counts now. Raise TransientError if it cannot be read."""
        return self._read() if self.path else self.value

    def let_go(self) -> None:
        """Remove the file, where the engine lets attempts do that: nobody needs it any more."""
        if self.path:
            with contextlib.suppress(OSError):
                DISK.unlink(Path(self.path))

    def _read(self) -> str:
        try:
            # A kubelet shows it by links, which it turns to new files: only the end of them is read.
            data = DISK.read_bounded(Path(self.path).resolve(), BYTES_MAX)
        except (codec.CodecError, OSError) as error:
            raise TransientError(f"{FILE_VARIABLE}: {self.path}: cannot be read: {error}") from None
        text = (data or b"").decode(errors="replace").strip("\r\n")
        if not text or not text.isprintable():
            raise TransientError(f"{FILE_VARIABLE}: {self.path}: holds no token")
        return text

    def login(self, url: str, heard: Callable[[str], None]) -> Login | None:
        """Return as whom git asks, None for whoever it finds; `heard` is called with each token before it is used.
        Raise UsageError for a repository that takes no token."""
        if not self.is_there:
            return None

        def token() -> str:
            found = self.token()
            heard(found)
            return found

        try:
            return login_of(url, token)
        except ValueError as error:
            raise UsageError(f"--url: {error}; the executor is to name no 'credential'") from None
