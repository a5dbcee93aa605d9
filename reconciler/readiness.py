"""The edge to whoever supervises this process: systemd's readiness protocol, one datagram a message.

Nothing happens where nobody asked for it (`NOTIFY_SOCKET`). The variables are taken out of the environment, so that
no stage can speak in our name.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass

STATUS_CHARACTERS_MAX = 200
PINGS_A_PERIOD = 3
"""The watchdog is told of life this often in its period, so that one late turn is no death."""


@dataclass(slots=True)
class Readiness:
    """Tells a supervisor how this process is. `period_s` is how long it may be silent, None if it may for ever."""

    address: str = ""
    period_s: float | None = None
    _status: str = ""
    _pinged_s: float = float("-inf")

    def ready(self, status: str = "") -> None:
        self._send("READY=1", *self._said(status))

    def reloading(self) -> None:
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def alive(self, status: str = "") -> None:
        """Say that the loop turns, when that is due, and what it does, when that is news."""
        now_s, said = time.monotonic(), self._said(status)
        due = self.period_s is not None and now_s - self._pinged_s >= self.period_s / PINGS_A_PERIOD
        if due:
            self._pinged_s = now_s
        if due or said:
            self._send(*(["WATCHDOG=1"] if due else []), *said)

    def next_s(self) -> float:
        """Return in how many seconds `alive` is due, infinite if nobody waits for it."""
        if self.period_s is None or not self.address:
            return float("inf")
        return max(0.0, self._pinged_s + self.period_s / PINGS_A_PERIOD - time.monotonic())

    def _said(self, status: str) -> list[str]:
        status = "".join(each if each.isprintable() else " " for each in status)[:STATUS_CHARACTERS_MAX]
        if not status or status == self._status:
            return []
        self._status = status
        return [f"STATUS={status}"]

    def _send(self, *lines: str) -> None:
        if not self.address:
            return
        # A name that begins with @ is abstract: it lives in no file system and begins with a zero byte.
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), address)


def take_readiness(environment: MutableMapping[str, str] = os.environ) -> Readiness:
    """Return how to tell the supervisor that the environment names, and take its variables out of there."""
    address = environment.pop("NOTIFY_SOCKET", "")
    usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
    mine = pid in ("", str(os.getpid()))
    period_s = int(usec) / 1e6 if usec.isdigit() and int(usec) > 0 and mine else None
    return Readiness(address if address[:1] in ("/", "@") else "", period_s)
