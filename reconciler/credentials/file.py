"""A secret in a file that nobody else may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from reconciler.credentials.secret import BYTES_MAX, NoCredential, Secret, checked
from reconciler.values import frozen

MODES = (0o600, 0o400)


@frozen
class FromFile:
    """A regular file of ours with mode 0600 or 0400; a link is not followed."""

    path: str

    def get(self, name: str) -> Secret:
        path = Path(self.path).expanduser()
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise NoCredential(f"credential '{name}': {self.path}: {error.strerror}") from None
        try:
            self._judge(name, os.fstat(descriptor))
            data = os.read(descriptor, BYTES_MAX + 1)
        except OSError as error:
            raise NoCredential(f"credential '{name}': {self.path}: {error.strerror}") from None
        finally:
            os.close(descriptor)
        return checked(name, data.decode(errors="replace"))

    def _judge(self, name: str, found: os.stat_result) -> None:
        """Raise NoCredential if somebody else can read or write the file."""
        where = f"credential '{name}': {self.path}"
        if not stat.S_ISREG(found.st_mode):
            raise NoCredential(f"{where}: it is no regular file")
        if found.st_uid != os.geteuid():
            raise NoCredential(f"{where}: it belongs to another user; whoever runs the reconciler must own it")
        if stat.S_IMODE(found.st_mode) not in MODES:
            mode = f"{stat.S_IMODE(found.st_mode):04o}"
            raise NoCredential(f"{where}: others may read it (mode {mode}); run: chmod 600 {self.path}")
