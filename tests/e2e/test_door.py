"""The door to a model, tried from the inside by whoever wants more of it than the model."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reconciler import codec
from reconciler.agent import resolve
from reconciler.agents import door
from reconciler.agents.doorway import Doorway, NoDoor, open_doorway
from reconciler.model import AgentSettings
from reconciler.stage import open_door
from tests.scratch import wait_for

KEY = "planted-Zx81qKd0Wm-key"
MESSAGES = "/v1/messages"


class Model:
    """A model that does what a test says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = plain
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                model.asked.append((self.command, self.path, headers, body))
                model.answer(self)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"127.0.0.1:{self.http.server_address[1]}"


def plain(handler: BaseHTTPRequestHandler) -> None:
    data = b'{"fine": true}'
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.send_header("Set-Cookie", "a=b")
    handler.end_headers()
    handler.wfile.write(data)


@pytest.fixture
def upstream() -> Iterator[Model]:
    found = Model()
    thread = threading.Thread(target=found.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield found
    found.http.shutdown()
    found.http.server_close()


@contextmanager
def opened(tmp_path: Path, address: str) -> Iterator[Doorway]:
    """Start a door for Claude Code that leads to this address."""
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    settings = {"c": AgentSettings(driver="claude", env={"ANTHROPIC_BASE_URL": f"http://{address}/base"})}
    agent = codec.dump(resolve({"use": "c", "prompt": "x"}, settings))
    try:
        way = open_doorway(open_door(agent, os.environ, lock, tmp_path))
        yield way
        way.control.close()
    finally:
        os.close(lock)


@pytest.fixture
def way(tmp_path: Path, upstream: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Doorway]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with opened(tmp_path, upstream.address) as found:
        yield found


def port_of(way: Doorway) -> int:
    return int(way.url.rpartition(":")[2])


def send(way: Doorway, data: bytes) -> bytes:
    """Send bytes to the door and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port_of(way)), timeout=20) as connection:
        connection.sendall(data)
        found = b""
        while chunk := connection.recv(65536):
            found += chunk
        return found


def request(way: Doorway, line: str = f"POST {MESSAGES}", body: bytes = b"{}", **headers: str) -> bytes:
    said = {"Host": f"127.0.0.1:{port_of(way)}", "x-api-key": way.token, "Content-Length": str(len(body))}
    said |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in said.items() if value)
    return send(way, f"{line} HTTP/1.1\r\n{head}\r\n".encode() + body)


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
    assert found, answer
    return int(found[1])


def test_what_a_driver_asks_reaches_the_model_with_the_real_key(way: Doorway, upstream: Model) -> None:
    answer = request(way, f"POST {MESSAGES}?beta=true", b'{"a": 1}', anthropic_version="2023-06-01", Cookie="x=y")
    assert status(answer) == 200 and answer.endswith(b'{"fine": true}')
    method, path, headers, body = upstream.asked[0]
    assert (method, path, body) == ("POST", f"/base{MESSAGES}?beta=true", b'{"a": 1}')
    assert headers["x-api-key"] == KEY and headers["anthropic-version"] == "2023-06-01"
    assert headers["host"] == upstream.address
    assert "cookie" not in headers and way.token not in json.dumps(headers)
    assert b"Set-Cookie" not in answer


@pytest.mark.parametrize(
    "line",
    [
        "POST http://127.0.0.1:{other}/v1/messages", "GET http://example.invalid/", "CONNECT example.invalid:443",
        "CONNECT 127.0.0.1:{other}", "POST //127.0.0.1:{other}/v1/messages", "POST /v1/messages/../../x",
        "POST /v1/../v1/messages", "POST /v1/%2e%2e/v1/messages", "POST /v1//messages", "POST /v1/messages#x",
        "POST /v1/messages?a=b@c", "POST /v1\\messages", "GET /v1/messages", "PUT /v1/messages", "DELETE /v1/files/x",
        "POST /v1/files", "POST /v1/messages/batches", "GET /v1/models/../../secret", "OPTIONS *", "POST /",
        "PROPFIND /v1/messages", "POST @127.0.0.1:{other}/v1/messages", "POST /v1/messages/.",
    ],
)  # fmt: skip
def test_it_is_no_open_proxy(way: Doorway, upstream: Model, line: str) -> None:
    answer = request(way, line.format(other=upstream.address.rpartition(":")[2]))
    assert 400 <= status(answer) < 600 and status(answer) != 502, answer
    assert upstream.asked == []
    assert KEY.encode() not in answer


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "example.invalid"}, 421), ({"Host": "169.254.169.254"}, 421), ({"Host": ""}, 421),
        ({"Host": "127.0.0.1:80"}, 421), ({"x-api-key": "wrong"}, 401), ({"x-api-key": ""}, 401),
        ({"Transfer-Encoding": "chunked"}, 411), ({"Upgrade": "websocket"}, 411), ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "2, 2"}, 400), ({"Content-Length": str(door.REQUEST_BYTES_MAX + 1)}, 413),
    ],
)  # fmt: skip
def test_headers_that_lead_elsewhere_are_refused(
    way: Doorway, upstream: Model, headers: dict[str, str], expected: int
) -> None:
    assert status(request(way, **headers)) == expected
    assert upstream.asked == []


@pytest.mark.parametrize("twice", ["Host: 127.0.0.1", "Content-Length: 2"])
def test_a_header_is_said_once(way: Doorway, upstream: Model, twice: str) -> None:
    head = f"Host: 127.0.0.1:{port_of(way)}\r\nx-api-key: {way.token}\r\nContent-Length: 2\r\n{twice}\r\n\r\n{{}}"
    assert status(send(way, f"POST {MESSAGES} HTTP/1.1\r\n{head}".encode())) in (400, 421)
    assert upstream.asked == []


def test_a_second_request_on_one_connection_is_not_read(way: Doorway, upstream: Model) -> None:
    head = f"Host: 127.0.0.1:{port_of(way)}\r\nx-api-key: {way.token}\r\nContent-Length: 0\r\n\r\n"
    send(way, f"POST {MESSAGES} HTTP/1.1\r\n{head}".encode() * 2)
    assert len(upstream.asked) == 1


def test_redirects_are_not_followed_and_lead_nowhere(way: Doorway, upstream: Model) -> None:
    def away(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", "http://example.invalid/")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    upstream.answer = away
    answer = request(way)
    assert status(answer) == 307 and b"example.invalid" not in answer
    assert len(upstream.asked) == 1


def test_events_pass_as_they_come(way: Doorway, upstream: Model) -> None:
    go_on = threading.Event()

    def stream(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b"data: one\n\n")
        handler.wfile.flush()
        assert go_on.wait(20)
        handler.wfile.write(b"data: two\n\n")
        handler.close_connection = True

    upstream.answer = stream
    with socket.create_connection(("127.0.0.1", port_of(way)), timeout=20) as connection:
        head = f"Host: 127.0.0.1:{port_of(way)}\r\nx-api-key: {way.token}\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(f"POST {MESSAGES} HTTP/1.1\r\n{head}".encode())
        found = b""
        while b"data: one\n\n" not in found:
            found += connection.recv(65536)
        assert b"two" not in found
        go_on.set()
        while chunk := connection.recv(65536):
            found += chunk
    assert b"data: two\n\n" in found and found.endswith(b"0\r\n\r\n")


def test_an_answer_that_is_cut_is_cut(way: Doorway, upstream: Model) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"5\r\nfirst\r\n")
        handler.close_connection = True

    upstream.answer = cut
    answer = request(way)
    assert b"first" in answer and not answer.endswith(b"0\r\n\r\n")


def test_a_model_that_repeats_the_key_does_not_betray_it(way: Doorway, upstream: Model) -> None:
    def echo(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(401)
        handler.send_header("x-request-id", f"for {KEY}")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for piece in (b"bad key: ", KEY[:9].encode(), KEY[9:].encode(), b"!"):
            handler.wfile.write(piece)
            handler.wfile.flush()
        handler.close_connection = True

    upstream.answer = echo
    answer = request(way)
    assert status(answer) == 401 and KEY.encode() not in answer
    assert b"*" * 5 in answer


def test_there_is_room_for_so_many_at_once(way: Doorway, upstream: Model) -> None:
    held = [socket.create_connection(("127.0.0.1", port_of(way)), timeout=20) for _ in range(door.CONNECTIONS_MAX)]
    waiting = threading.Thread(target=request, args=(way,))
    waiting.start()
    try:
        waiting.join(0.5)
        assert waiting.is_alive() and upstream.asked == []
    finally:
        for each in held:
            each.close()
    waiting.join(20)
    assert len(upstream.asked) == 1


def test_it_is_shut_when_nobody_holds_it(way: Doorway) -> None:
    way.control.close()

    def gone() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port_of(way)), timeout=1).close()
        except OSError:
            return True
        return False

    wait_for(gone)


@pytest.mark.parametrize(
    ("address", "key", "reason"),
    [
        ("model.example.invalid", KEY, "https, or http on this machine's loopback"),
        ("user@127.0.0.1", KEY, "a plain URL"),
        ("127.0.0.1:x", KEY, "no URL"),
        ("127.0.0.1", "", "no ANTHROPIC_API_KEY"),
    ],
)
def test_it_does_not_open_where_a_key_must_not_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, key: str, reason: str
) -> None:
    for name in ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    if key:
        monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    with pytest.raises(NoDoor, match=reason), opened(tmp_path, address):
        pass


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (True, "api.openai.com", 443, "/v1")),
        (
            {"model_provider": "l", "model_providers": {"l": {"base_url": "http://localhost:9/v1", "env_key": "K"}}},
            (False, "localhost", 9, "/v1"),
        ),
    ],
)
def test_where_codex_is_led(config: dict[str, Any], expected: tuple[object, ...]) -> None:
    agent = resolve({"use": "c", "prompt": "x"}, {"c": AgentSettings(driver="codex", config=config)})
    found = door.upstream_of(agent, {"OPENAI_API_KEY": KEY, "K": KEY})
    assert (found.secure, found.host, found.port, found.path) == expected
    assert found.headers == {"Authorization": f"Bearer {KEY}"}
    assert KEY not in repr(found)
