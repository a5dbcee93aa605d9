"""A forge on loopback: comments, statuses and pull requests in memory, in the words of GitHub, Gitea or GitLab.

Every request is checked against the forge's description, and so is every answer that is no fault. Faults come first,
each once, and are what a test asks for.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from reconciler.forges.forge import Kind, Site
from tests.forges.description import Description

REPOSITORY = "acme/billing"
ME = {"login": "reconciler-bot", "id": 7, "type": "Bot"}
OTHER = {"login": "mallory", "id": 66, "type": "User"}
PREFIXES = {Kind.GITHUB: "", Kind.GITEA: "/api/v1", Kind.GITLAB: "/api/v4"}
TOKEN = "s3cr3t-t0ken-0123456789"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An answer instead of the right one, to requests of this method. `after` lets the request be applied before."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    method: str = ""
    reset: bool = False
    drip_s: float = 0.0
    after: bool = False


class ForgeServer:
    """What is there, and what was asked."""

    def __init__(self, kind: Kind, description: Description | None) -> None:
        self.kind, self.description = kind, description
        self.comments: list[dict[str, Any]] = []
        self.statuses: list[dict[str, Any]] = []
        self.pulls: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.authority: list[str] = []
        self.wrong: list[str] = []
        self.knows_me = True
        self.over = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    @property
    def site(self) -> Site:
        return Site(kind=self.kind, url=self.url, api_url=self.url + PREFIXES[self.kind], repository=REPOSITORY)

    def asked(self, method: str) -> list[str]:
        return [path for each, path, _ in self.requests if each == method]

    def take(self, method: str, *, after: bool) -> Fault | None:
        for each in self.faults:
            if each.method in ("", method) and each.after == after:
                self.faults.remove(each)
                return each
        return None

    # -------------------------------------------------------------------------------------------- answers

    def answer(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        """Do what is asked; return status and document."""
        parts = urlsplit(target)
        path = parts.path.removeprefix(PREFIXES[self.kind])
        query = {key: each[-1] for key, each in parse_qs(parts.query).items()}
        if path == "/user":
            return (200, self.user()) if self.knows_me else (403, {"message": "Resource not accessible by integration"})
        home = f"/repos/{REPOSITORY}" if self.kind is not Kind.GITLAB else "/projects/acme%2Fbilling"
        if not path.startswith(f"{home}/"):
            return 404, {"message": "Not Found"}
        return self._below(method, path.removeprefix(home), query, body)

    def user(self) -> dict[str, Any]:
        return dict(ME)

    def _below(self, method: str, path: str, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        routes = (
            (r"GET /(?:issues|merge_requests)/(\d+)/(?:comments|notes)", self._list_comments),
            (r"POST /(?:issues|merge_requests)/(\d+)/(?:comments|notes)", self._add_comment),
            (r"(?:PATCH|PUT) /(?:issues/comments|merge_requests/\d+/notes)/(\d+)", self._edit_comment),
            (r"POST /statuses/([0-9a-f]+)", self._add_status),
            (r"GET /(?:pulls|merge_requests)", self._list_pulls),
            (r"POST /(?:pulls|merge_requests)", self._open_pull),
        )
        for pattern, route in routes:
            found = re.fullmatch(pattern, f"{method} {path}")
            if found:
                return route(found, query, body)
        return 404, {"message": "Not Found"}

    def _list_comments(self, found: Any, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        mine = [each for each in self.comments if each["number"] == int(found[1])]
        return 200, [self._comment(each) for each in _page(mine, query)]

    def _add_comment(self, found: Any, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        self.add_comment(int(found[1]), body["body"])
        return 201, self._comment(self.comments[-1])

    def add_comment(self, number: int, body: str, user: Mapping[str, Any] = ME) -> None:
        self.comments.append({"id": len(self.comments) + 1, "number": number, "body": body, "user": dict(user)})

    def _edit_comment(self, found: Any, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        for each in self.comments:
            if each["id"] == int(found[1]):
                each["body"] = body["body"]
                return 200, self._comment(each)
        return 404, {"message": "Not Found"}

    def _comment(self, comment: Mapping[str, Any]) -> dict[str, Any]:
        said = {"id": comment["id"], "body": comment["body"]}
        if self.kind is Kind.GITLAB:
            return {**said, "author": {"id": comment["user"]["id"], "username": comment["user"]["login"]}}
        url = f"{self.url}/{REPOSITORY}/issues/{comment['number']}#issuecomment-{comment['id']}"
        return {**said, "user": self._user(comment["user"]), "html_url": url}

    def _user(self, user: Mapping[str, Any]) -> dict[str, Any]:
        return dict(user) if self.kind is Kind.GITHUB else {"login": user["login"], "id": user["id"]}

    def _add_status(self, found: Any, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        name = body.get("context", body.get("name"))
        same = [each for each in self.statuses if (each["sha"], each["name"]) == (found[1], name)]
        if self.kind is Kind.GITLAB and same and same[-1]["state"] == body["state"]:
            return 400, {"message": f"Cannot transition status via :run from :{body['state']}"}
        self.statuses.append({"sha": found[1], "name": name, **body})
        if self.kind is Kind.GITLAB:
            return 201, {"id": 1, "sha": found[1], "status": body["state"], "name": name}
        key = "state" if self.kind is Kind.GITHUB else "status"
        return 201, {"id": 1, key: body["state"], "context": name}

    def _list_pulls(self, found: Any, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        mine = list(reversed(self.pulls))
        if "head" in query:
            mine = [each for each in mine if query["head"] == f"{each['owner']}:{each['head']}"]
        if "source_branch" in query:
            mine = [each for each in mine if query["source_branch"] == each["head"]]
        return 200, [self._pull(each) for each in _page(mine, query)]

    def _open_pull(self, found: Any, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        head = body.get("head", body.get("source_branch"))
        base = body.get("base", body.get("target_branch"))
        if any(
            (each["head"], each["base"], each["state"], each["owner"]) == (head, base, "open", "acme")
            for each in self.pulls
        ):
            status = 422 if self.kind is Kind.GITHUB else 409
            again = f"A pull request already exists for acme:{head}."
            return status, {"message": "Validation Failed", "errors": [{"message": again}]}
        self.open_pull(head, base, body["title"], body.get("body", body.get("description")))
        return 201, self._pull(self.pulls[-1])

    def open_pull(self, head: str, base: str, title: str, text: str, owner: str = "acme") -> None:
        self.pulls.append({
            "number": len(self.pulls) + 1, "head": head, "base": base, "title": title, "body": text, "state": "open",
            "owner": owner,
        })  # fmt: skip

    def _pull(self, pull: Mapping[str, Any]) -> dict[str, Any]:
        number, url = pull["number"], f"{self.url}/{REPOSITORY}/pull/{pull['number']}"
        if self.kind is Kind.GITLAB:
            state = {"open": "opened"}.get(pull["state"], pull["state"])
            source = 1 if pull["owner"] == "acme" else 2
            return {
                "id": 1000 + number, "iid": number, "web_url": url, "state": state, "title": pull["title"],
                "source_branch": pull["head"], "target_branch": pull["base"], "source_project_id": source,
                "target_project_id": 1,
            }  # fmt: skip
        head = {"ref": pull["head"], "repo": {"full_name": f"{pull['owner']}/billing"}}
        base = {"ref": pull["base"], "repo": {"full_name": REPOSITORY}}
        said = {"number": number, "html_url": url, "state": pull["state"], "title": pull["title"]}
        # GitHub's example of a team lacks what its description demands of one.
        return {**said, "head": head, "base": base, "requested_teams": []}

    # -------------------------------------------------------------------------------------------- the wire

    def checked(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        """Return the answer, checked; what is wrong is noted, for a handler's failure is seen by nobody."""
        try:
            if self.description is not None:
                self.description.check_request(method, target, body)
            status, document = self.answer(method, target, body)
            if self.description is not None and status < 300:
                document = _like(self.description.example(method, target, status), document)
                self.description.check_response(method, target, status, document)
            return status, document
        except Exception as error:
            self.wrong.append(f"{method} {target}: {str(error)[:500]}")
            return 500, {"message": "the test is wrong"}


def _like(example: Any, value: Any) -> Any:
    """Return a value with everything that the example of a description has beside it."""
    if isinstance(value, list):
        first = example[0] if isinstance(example, list) and example else {}
        return [_like(first, each) for each in value]
    if isinstance(value, dict) and isinstance(example, dict):
        return {**example, **{key: _like(example.get(key), each) for key, each in value.items()}}
    return value


def _page(values: list[Any], query: Mapping[str, str]) -> list[Any]:
    size = int(query.get("per_page", query.get("limit", len(values) or 1)))
    start = (int(query.get("page", 1)) - 1) * size
    return values[start : start + size]


def _handler(server: ForgeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            server.requests.append((self.command, unquote(self.path), body))
            server.authority.append(" ".join(f"{name}: {value}" for name, value in self.headers.items()))
            fault = server.take(self.command, after=False)
            if fault is None:
                status, document = server.checked(self.command, self.path, body)
                fault = server.take(self.command, after=True)
                if fault is None:
                    self._say(status, {"Content-Type": "application/json"}, json.dumps(document).encode())
                    return
            self._fail(fault)

        do_GET = do_POST = do_PUT = do_PATCH = _serve

        def _fail(self, fault: Fault) -> None:
            if fault.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                return
            self._say(fault.status, fault.headers, fault.body, fault.drip_s)

        def _say(self, status: int, headers: Mapping[str, str], data: bytes, drip_s: float = 0.0) -> None:
            with suppress(OSError):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for number in range(0, len(data), 1 if drip_s else 65536):
                    self.wfile.write(data[number : number + (1 if drip_s else 65536)])
                    if drip_s and server.over.wait(drip_s):
                        return

        def handle_one_request(self) -> None:
            with suppress(OSError, ValueError):
                super().handle_one_request()

        def finish(self) -> None:
            with suppress(OSError, ValueError):
                super().finish()

    return Handler


@contextmanager
def forge_server(kind: Kind, description: Description | None = None) -> Iterator[ForgeServer]:
    """Lend a forge on loopback, and fail if anything was asked or answered that its description does not know."""
    server = ForgeServer(kind, description)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()
    assert not server.wrong, server.wrong[0]


def soon(done: Any, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)
