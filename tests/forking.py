"""How a process is asked to fork: an order and descriptors in, a pid out, over a socket without a file (Linux)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

PATIENCE_S = 60.0
DESCRIPTORS_MAX = 8


def listen() -> socket.socket:
    """Return a socket at an address of its own, which `getsockname` tells."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("")
    listening.listen(128)
    return listening


def ask(address: bytes, order: Mapping[str, object], descriptors: Sequence[int]) -> int:
    """Let the process that listens at an address fork for an order, and return the pid of the fork."""
    data = json.dumps(order).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(address)
        socket.send_fds(connection, [len(data).to_bytes(4, "big")], descriptors)
        connection.sendall(data)
        return int.from_bytes(_exactly(connection, 4), "big")


def fork(listening: socket.socket) -> tuple[int, dict[str, Any], list[int]] | None:
    """Fork for who asks next; return the pid, zero in the fork, with the order and its descriptors. Return None if who
    asked is gone."""
    connection, _ = listening.accept()
    with connection, contextlib.suppress(OSError, EOFError, ValueError):
        connection.settimeout(PATIENCE_S)
        size, descriptors, _, _ = socket.recv_fds(connection, 4, DESCRIPTORS_MAX)
        order = json.loads(_exactly(connection, int.from_bytes(size, "big")))
        pid = os.fork()
        if pid:
            with contextlib.suppress(OSError):
                connection.sendall(pid.to_bytes(4, "big"))
        return pid, order, descriptors
    return None


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        received = connection.recv(size - len(data))
        if not received:
            raise EOFError
        data += received
    return data


def type_in(address: str) -> int:
    """Let the command line be forked with what this process was given, and return how it ended: what a program does
    that shells find under the name of the command line."""
    reading, writing = os.pipe()
    order = {"words": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}
    pid = ask(bytes.fromhex(address), order, [0, 1, 2, writing])
    os.close(writing)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda told, _: os.kill(pid, told))
    code = os.waitstatus_to_exitcode(int(os.read(reading, 16) or signal.SIGKILL))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code
