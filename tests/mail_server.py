"""A real mail server on loopback, small as can be: it notes what it is sent, and refuses what it is told to."""

from __future__ import annotations

import base64
import contextlib
import socketserver
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any


def certificate(place: Path) -> Path:
    """Make a certificate for this machine and its key, in one file."""
    path = place / "mail.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run([*words, "-keyout", place / "key.pem", "-out", path], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + (place / "key.pem").read_bytes())
    return path


class MailServer:
    """A server. `refusals` are answers to commands, by their first word; with a `pem` it offers encryption, at once if
    it is `tls` from the start."""

    def __init__(self, pem: Path | None = None, *, tls: bool = False, **refusals: str) -> None:
        self.pem, self.tls, self.refusals = pem, tls, refusals
        self.mails: list[str] = []
        self.said: list[str] = []
        self.logins: list[tuple[str, str, bool]] = []
        served = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
                    served._serve(self.request, opened)

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def _encrypted(self, connection: Any) -> Any:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        assert self.pem is not None
        context.load_cert_chain(self.pem)
        return context.wrap_socket(connection, server_side=True)

    def _serve(self, connection: Any, opened: contextlib.ExitStack) -> None:
        encrypted = self.tls
        if self.tls:
            connection = opened.enter_context(self._encrypted(connection))
        stream = opened.enter_context(connection.makefile("rwb", buffering=0))
        stream.write(b"220 ready\r\n")
        while line := stream.readline():
            word = line.decode().split(" ")[0].split(":")[0].strip().upper()
            self.said.append(word)
            answer = self.refusals.get(word.lower())
            if answer is None and word == "STARTTLS":
                stream.write(b"220 go on\r\n")
                connection, encrypted = opened.enter_context(self._encrypted(connection)), True
                stream = opened.enter_context(connection.makefile("rwb", buffering=0))
                continue
            stream.write((answer or self._answer(word, line.decode(), encrypted)).encode() + b"\r\n")
            if word == "DATA" and answer is None:
                lines = []
                while (each := stream.readline()) not in (b".\r\n", b""):
                    lines.append(each.decode())
                self.mails.append("".join(lines))
                stream.write(b"250 taken\r\n")
            if word == "QUIT":
                return

    def _answer(self, word: str, line: str, encrypted: bool) -> str:
        if word == "EHLO":
            offers = ["250-here", *(["250-STARTTLS"] if self.pem and not encrypted else []), "250 AUTH PLAIN"]
            return "\r\n".join(offers)
        if word == "AUTH":
            _, user, password = base64.b64decode(line.split(" ")[2]).decode().split("\0")
            self.logins.append((user, password, encrypted))
            return "235 welcome"
        return {"DATA": "354 go on", "QUIT": "221 bye"}.get(word, "250 fine")
