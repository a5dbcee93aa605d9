"""A secret that a program prints, as `credential_process` of others does: one JSON object on standard output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from contextlib import suppress
from datetime import datetime

from reconciler.credentials.secret import NoCredential, Secret, checked
from reconciler.values import frozen

OUTPUT_BYTES_MAX = 64 * 1024


@frozen
class FromCommand:
    """A program and its arguments, which see no shell. It prints `{"value": ..., "expires_at": ...}` in `timeout_s`."""

    argv: tuple[str, ...]
    timeout_s: float

    def get(self, name: str) -> Secret:
        where = f"credential '{name}': {self.argv[0]}"
        status, data = self._printed(where)
        if status:
            raise NoCredential(f"{where}: it ended with {status}; it must print a JSON object and end with 0")
        try:
            said = json.loads(data)
            value, expires_at = said["value"], said.get("expires_at")
            if not isinstance(value, str) or not (expires_at is None or _is_instant(expires_at)):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            wanted = '{"value": "...", "expires_at": "2026-07-29T09:30:05Z"}'
            raise NoCredential(f"{where}: it does not print what is expected; for example {wanted}") from None
        return checked(name, value, expires_at)

    def _printed(self, where: str) -> tuple[int, bytes]:
        """Return exit status and output. What it says on standard error may hold anything and is thrown away."""
        null, pipe = subprocess.DEVNULL, subprocess.PIPE
        try:
            process = subprocess.Popen(self.argv, stdin=null, stdout=pipe, stderr=null, start_new_session=True)
        except OSError as error:
            raise NoCredential(f"{where}: {error.strerror}") from None
        over = threading.Event()

        def stop() -> None:
            over.set()
            _end(process)

        watch = threading.Timer(self.timeout_s, stop)
        watch.start()
        try:
            with process:
                assert process.stdout is not None
                data = process.stdout.read(OUTPUT_BYTES_MAX + 1)
                if len(data) > OUTPUT_BYTES_MAX:
                    _end(process)
                    raise NoCredential(f"{where}: it prints more than {OUTPUT_BYTES_MAX} bytes")
                status = process.wait()
        finally:
            watch.cancel()
            _end(process)
        if over.is_set():
            raise NoCredential(f"{where}: it takes longer than {self.timeout_s:g} s; say more with 'timeout'")
        return status, data


def _end(process: subprocess.Popen[bytes]) -> None:
    """KILL the program and all it started in its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _is_instant(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
