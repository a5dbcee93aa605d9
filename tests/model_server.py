"""A model that says what a test wrote for it, on loopback, in the words of both wire formats.

`POST /v1/responses` is answered as the Responses API does (Codex), `POST /v1/messages` as the Messages API does
(Claude Code). Every request that offers tools takes the next turn of the script; the last turn is repeated. What was
asked is kept, so that a test can look at it.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Say:
    """The model answers with a text and ends its turn."""

    text: str


@dataclass(frozen=True)
class Shell:
    """The model wants a shell command executed."""

    command: str


@dataclass(frozen=True)
class Call:
    """The model calls a tool by name; `namespace` is that of an MCP server, as Codex spells it."""

    name: str
    arguments: Mapping[str, Any]
    namespace: str = ""


@dataclass(frozen=True)
class Refuse:
    """The server answers with an HTTP status instead."""

    status: int


@dataclass(frozen=True)
class Cut:
    """The connection is closed in the middle of an answer."""


@dataclass(frozen=True)
class Hang:
    """The server accepts the request and then says nothing."""


Turn = Say | Shell | Call | Refuse | Cut | Hang
INPUT_TOKENS, OUTPUT_TOKENS = 100, 20


class ModelServer:
    """The script, and what was asked."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self.turns = list(turns)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def take(self, request: dict[str, Any]) -> tuple[int, Turn]:
        """Return the number of this request and what is answered."""
        with self.lock:
            self.requests.append(request)
            number = len(self.requests)
            return number, self.turns[min(number, len(self.turns)) - 1]

    def asked(self, number: int = -1) -> str:
        """Return all that a request said, as text."""
        return json.dumps(self.requests[number])


@contextmanager
def model(*turns: Turn) -> Iterator[ModelServer]:
    """Serve a script until the end of the block."""
    server = ModelServer(turns)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join(5)


def _handler(server: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._plain(200, b"")

        def do_GET(self) -> None:
            self._plain(200, b'{"object": "list", "data": [], "models": []}')

        def do_POST(self) -> None:
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = json.loads(body or b"{}")
            path = self.path.partition("?")[0]
            if path.endswith("/count_tokens"):
                self._plain(200, b'{"input_tokens": 10}')
            elif path.endswith("/responses"):
                self._answer(request, _responses)
            elif path.endswith("/messages") and not request.get("tools"):
                self._say_something(request)
            elif path.endswith("/messages"):
                self._answer(request, _messages)
            else:
                self._plain(404, b"{}")

        def _say_something(self, request: dict[str, Any]) -> None:
            events = list(_messages(Say("Title"), 0, request))
            if request.get("stream"):
                self._stream(events)
            else:
                self._plain(200, json.dumps(_message("Title", request)).encode())

        def _answer(self, request: dict[str, Any], events_of: Any) -> None:
            number, turn = server.take(request)
            match turn:
                case Refuse(status):
                    self._plain(status, _error(status))
                case Hang():
                    server.over.wait(120)
                case Cut():
                    self._stream(list(events_of(Say("never ends"), number, request))[:1], cut=True)
                case _:
                    self._stream(list(events_of(turn, number, request)))

        def _plain(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _stream(self, events: Sequence[tuple[str, dict[str, Any]]], cut: bool = False) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            if cut:  # a length that is never reached: whoever reads knows that something is missing
                self.send_header("Content-Length", "1000000")
            self.end_headers()
            for name, data in events:
                self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
                self.wfile.flush()
            if cut:
                time.sleep(0.05)
            self.close_connection = True

    return Handler


def _error(status: int) -> bytes:
    words = {401: "authentication_error", 429: "rate_limit_error"}.get(status, "api_error")
    error = {"type": words, "code": words, "message": f"scripted {words}"}
    return json.dumps({"type": "error", "error": error}).encode()


# ------------------------------------------------------------------------------------------------ Responses API


def _responses(turn: Turn, number: int, request: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    item = _item(turn, number)
    usage = {
        "input_tokens": INPUT_TOKENS,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": OUTPUT_TOKENS,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    }
    response = {"id": f"resp_{number}", "object": "response", "model": request.get("model")}
    counter = itertools.count()
    for name, more in (
        ("response.created", {"response": {**response, "status": "in_progress", "output": []}}),
        ("response.output_item.done", {"output_index": 0, "item": item}),
        ("response.completed", {"response": {**response, "status": "completed", "output": [item], "usage": usage}}),
    ):
        yield name, {"type": name, "sequence_number": next(counter), **more}


def _item(turn: Turn, number: int) -> dict[str, Any]:
    match turn:
        case Shell(command):
            return _function_call(number, "exec_command", {"cmd": command})
        case Call(name, arguments, namespace):
            there = {"namespace": namespace} if namespace else {}
            return _function_call(number, name, arguments) | there
        case Say(text):
            content = [{"type": "output_text", "text": text, "annotations": []}]
            return {"id": f"msg_{number}", "type": "message", "role": "assistant", "content": content}
        case _:
            raise ValueError(f"{turn} has no words")


def _function_call(number: int, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    call = {"id": f"fc_{number}", "type": "function_call", "call_id": f"call_{number}"}
    return {**call, "name": name, "arguments": json.dumps(arguments)}


# ------------------------------------------------------------------------------------------------ Messages API


def _message(text: str, request: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_0", "type": "message", "role": "assistant", "model": request.get("model"),
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip


def _messages(turn: Turn, number: int, request: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    start = {
        **_message("", request), "id": f"msg_{number}_{time.time_ns()}", "content": [], "stop_reason": None,
        "usage": {"input_tokens": INPUT_TOKENS, "output_tokens": 1},
    }  # fmt: skip
    block, delta, reason = _block(turn, number)
    for name, more in (
        ("message_start", {"message": start}),
        ("content_block_start", {"index": 0, "content_block": block}),
        ("content_block_delta", {"index": 0, "delta": delta}),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": reason, "stop_sequence": None}, "usage": {"output_tokens": 20}}),
        ("message_stop", {}),
    ):
        yield name, {"type": name, **more}


def _block(turn: Turn, number: int) -> tuple[dict[str, Any], dict[str, Any], str]:
    match turn:
        case Say(text):
            return {"type": "text", "text": ""}, {"type": "text_delta", "text": text}, "end_turn"
        case Shell(command):
            return _tool_use(number, "Bash", {"command": command, "description": "Run it"})
        case Call(name, arguments):
            return _tool_use(number, name, arguments)
        case _:
            raise ValueError(f"{turn} has no words")


def _tool_use(number: int, name: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
    block = {"type": "tool_use", "id": f"toolu_{number:08d}", "name": name, "input": {}}
    return block, {"type": "input_json_delta", "partial_json": json.dumps(arguments)}, "tool_use"
