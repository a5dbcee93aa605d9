"""The inner side of the door to a model: where an agent without trust connects to.

It is a socket that listens on the loopback of the sandbox. The process that accepts on it stands outside and knows the
key; in here there is only a token, which is good for nothing but this door and as long as it is open.
"""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import field

from reconciler.values import frozen

PATIENCE_S = 20.0
ANSWER_BYTES_MAX = 4096


class NoDoor(Exception):
    """Nobody opens; the message says why."""


@frozen(kw_only=False)
class Doorway:
    """What an agent is told in place of its model's address and key. The door is open as long as `control` is."""

    url: str
    token: str = field(repr=False)
    control: socket.socket = field(repr=False)


def open_doorway(descriptor: int) -> Doorway:
    """Listen on loopback, hand the listening socket out, and return the way in. Raise NoDoor if nobody serves it."""
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(False)
    control.settimeout(PATIENCE_S)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            socket.send_fds(control, [b"listen"], [listener.fileno()])
            said = json.loads(_line(control))
        if "token" not in said:
            raise NoDoor(f"there is no door to its model: {said.get('reason', '')}")
    except (OSError, ValueError) as error:
        control.close()
        raise NoDoor(f"the door to its model does not open: {type(error).__name__}") from None
    except NoDoor:
        control.close()
        raise
    return Doorway(f"http://127.0.0.1:{port}", str(said["token"]), control)


def _line(control: socket.socket) -> bytes:
    said = b""
    with contextlib.suppress(TimeoutError):
        while not said.endswith(b"\n") and len(said) < ANSWER_BYTES_MAX and (chunk := control.recv(1024)):
            said += chunk
    return said
