"""A secret that a program prints, as `credential_process` of others does: one JSON object on standard output."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import field
from datetime import datetime

from reconciler.credentials.secret import NoCredential, Secret, checked
from reconciler.values import frozen

OUTPUT_BYTES_MAX = 64 * 1024


@frozen
class FromCommand:
    """A program and its arguments, which see no shell. It prints `{"value": ..., "expires_at": ...}` in `timeout_s`.
    `variables` come on top of the environment of this process."""

    argv: tuple[str, ...]
    timeout_s: float
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    def get(self, name: str) -> Secret:
        where = f"credential '{name}': {self.argv[0]}"
        status, data = self.printed(where)
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

    def printed(self, where: str) -> tuple[int, bytes]:
        """Return exit status and output. What it says on standard error may hold anything and is thrown away."""
        null, pipe, environment = subprocess.DEVNULL, subprocess.PIPE, {**os.environ, **self.variables}
        try:
            process = subprocess.Popen(
                self.argv, stdin=null, stdout=pipe, stderr=null, env=environment, start_new_session=True
            )
        except OSError as error:
            raise NoCredential(f"{where}: {error.strerror}") from None
        with process:
            try:
                return self._output(where, process)
            finally:
                _end(process)

    def _output(self, where: str, process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
        """Return exit status and output, once nobody can add to it. Raise NoCredential if either is too long."""
        assert process.stdout is not None
        ready, deadline_s = select.poll(), time.monotonic() + self.timeout_s
        ready.register(process.stdout, select.POLLIN)
        data = b""
        while len(data) <= OUTPUT_BYTES_MAX:
            # Who was started by the program may hold the other end for ever.
            if not ready.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
                raise NoCredential(f"{where}: it takes longer than {self.timeout_s:g} s; say more with 'timeout'")
            if not (part := os.read(process.stdout.fileno(), OUTPUT_BYTES_MAX + 1)):
                return self._status(where, process, deadline_s), data
            data += part
        raise NoCredential(f"{where}: it prints more than {OUTPUT_BYTES_MAX} bytes")

    def _status(self, where: str, process: subprocess.Popen[bytes], deadline_s: float) -> int:
        try:
            return process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise NoCredential(f"{where}: it takes longer than {self.timeout_s:g} s; say more with 'timeout'") from None


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
