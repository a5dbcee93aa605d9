"""The reference control plane: it accepts, judges, keeps, lists and compares run requests and manifests.

Nothing that comes in is trusted: bodies are bounded and read by our own hand, names keep a pattern before they are
looked up, and every request needs a token where there is one and must name a host that is meant. It holds no secret
but that token, and executes nothing.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from reconciler import __version__, codec, drift
from reconciler.contracts import Contracts
from reconciler.control.comparing import differences
from reconciler.control.reading import Unreadable, read, spelled
from reconciler.control.rules import ERRORS_MAX, content_digest, error, error_of, errors_of, expected_of, pointer
from reconciler.control.store import PAGE_MAX, KeptRequest, KeptRun, Store
from reconciler.listening import host_of
from reconciler.model import ControlError, Status
from reconciler.values import frozen

BODY_BYTES_MAX = 4 * 1024 * 1024
BODY_S = 20.0
"""How long a body may take to arrive, however slowly it drips."""
SEQUENCE_MAX = 2**53
RETRY_S = 2
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
NAME = r"^[a-z0-9](\.?[a-z0-9_-])*$"
OUTSIDE = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]*$"
KEY = r"^[!-~]+$"


@frozen
class House:
    """Whom a server is for: the hosts that a request may name, the token it must bear (b"" for none), and the
    capabilities that are offered (none: all)."""

    hosts: frozenset[str]
    token: bytes = b""
    capabilities: frozenset[str] = frozenset()


# ------------------------------------------------------------------------------------------------ what is answered
# These describe answers in the OpenAPI document; the answers themselves are plain JSON values.


class Wrong(BaseModel):
    path: str = Field(description="A JSON pointer into what was sent; empty for the whole.")
    message: str


class Problem(BaseModel):
    """Why a request is refused."""

    errors: list[Wrong]


class Verdict(BaseModel):
    """The answer to a run request: schemas/control-answer.schema.json."""

    schema_version: int
    request_id: str
    remote_id: str | None
    outcome: str
    errors: list[Wrong]
    expected: dict[str, Any] | None


class RequestRow(BaseModel):
    request_id: str
    remote_id: str
    outcome: str
    received_at: str


class RequestPage(BaseModel):
    items: list[RequestRow]
    next: int | None = Field(description="What `before` is for the next page; null on the last.")


class WholeRequest(RequestRow):
    request: dict[str, Any]
    answer: Verdict


class Receipt(BaseModel):
    """That a manifest is kept."""

    workspace: str
    run_id: str
    digest: str = Field(description="SHA-256 of the canonical JSON of the manifest.")
    received_at: str


class RunRow(BaseModel):
    run_id: str
    task_id: str
    status: str
    digest: str = Field(description="SHA-256 of the canonical JSON of the manifest.")
    received_at: str


class RunPage(BaseModel):
    items: list[RunRow]
    next: int | None = Field(description="What `before` is for the next page; null on the last.")


class WholeRun(RunRow):
    manifest: dict[str, Any]


class DriftItem(BaseModel):
    path: str
    expected: str | int | None
    found: str | int | None


class DriftAnswer(BaseModel):
    """Where a manifest is not what was expected when its run request was answered."""

    run_id: str
    total: int
    items: list[DriftItem]


class Difference(BaseModel):
    path: str
    left: str | int | float | bool | None
    right: str | int | float | bool | None


class Comparison(BaseModel):
    left: str
    right: str
    items: list[Difference]


class Health(BaseModel):
    status: str


Workspace = Annotated[str, Path(pattern=NAME, max_length=100, description="The workspace.", examples=["acme"])]
RunName = Annotated[str, Path(pattern=OUTSIDE, max_length=200, description="The id of a run.", examples=["a-1a2b3c4d"])]
Before = Annotated[int, Query(ge=0, le=SEQUENCE_MAX, description="Only what came before this one.")]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="How many at most.")]
TaskName = Annotated[str | None, Query(pattern=NAME, max_length=100, description="Only of this task.")]
Side = Annotated[str, Query(pattern=OUTSIDE, max_length=200, description="The id of a run.")]
Key = Annotated[
    str,
    Header(alias="Idempotency-Key", pattern=KEY, min_length=1, max_length=200, description="Names this upload."),
]


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return how refusals are documented."""
    return {status: {"model": Problem} for status in (400, 401, 421, 422, 503, *statuses)}


SENT = refusals(408, 413, 415)


def build(store: Store, contract: Contracts, house: House, now: Callable[[], str] | None = None) -> FastAPI:
    """Return the application of a control plane; `now` gives an instant in UTC."""
    app = FastAPI(
        title="Control plane of the reconciler",
        description="Accepts, judges, keeps, lists and compares run requests and manifests.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    desk, guarded = Desk(store, contract, house.capabilities, now or _now), [Depends(guard(house))]
    app.middleware("http")(_with_headers(house))
    for kind, handler in HANDLERS.items():
        app.exception_handler(kind)(handler)
    _answer_health(app, store)
    _answer_requests(app, desk, guarded)
    _answer_uploads(app, desk, guarded)
    _answer_runs(app, desk, guarded)
    _answer_comparisons(app, desk, guarded)
    app.openapi = lambda: _description(app, FastAPI.openapi, contract)  # type: ignore[method-assign]
    return app


# ------------------------------------------------------------------------------------------------ routes

Guarded = Sequence[Any]
"""What every request must pass before it is answered."""


def _answer_health(app: FastAPI, store: Store) -> None:
    @app.get("/healthz", response_model=Health, responses={421: {"model": Problem}, 503: {"model": Problem}})
    async def healthz() -> Response:
        """Say whether the store can be read."""
        await run_in_threadpool(store.requests, SEQUENCE_MAX, 1)
        return _json({"status": "ok"})


def _answer_requests(app: FastAPI, desk: Desk, guarded: Guarded) -> None:
    @app.post(
        "/v2/requests",
        response_model=Verdict,
        responses=SENT,
        dependencies=guarded,
        openapi_extra=_body("RunRequestV2"),
    )
    async def judge(request: Request) -> Response:
        """Judge a run request and keep it. Asking again is asking for the same: when it was asked for is no part of
        what is judged."""
        document = await _sent(request)
        return _json(await run_in_threadpool(desk.judge, document))

    @app.get("/v2/requests", response_model=RequestPage, responses=refusals(), dependencies=guarded)
    async def list_requests(before: Before = SEQUENCE_MAX, limit: Limit = 50) -> Response:
        """List run requests, the newest first."""
        return _json(await run_in_threadpool(desk.requests, before, limit))

    @app.get("/v2/requests/{request_id}", response_model=WholeRequest, responses=refusals(404), dependencies=guarded)
    async def show_request(request_id: RunName) -> Response:
        """Show the newest run request of this id, and what was answered."""
        return _json(await run_in_threadpool(desk.request, request_id))


def _answer_uploads(app: FastAPI, desk: Desk, guarded: Guarded) -> None:
    @app.post(
        "/workspaces/{workspace}/runs",
        response_model=Receipt,
        status_code=201,
        responses={**SENT, 200: {"model": Receipt}, 409: {"model": Problem}},
        dependencies=guarded,
        openapi_extra=_body("Manifest"),
    )
    async def upload(workspace: Workspace, key: Key, request: Request) -> Response:
        """Keep the manifest of an ended run. The same key with the same body is answered as before (200), with another
        body it is refused (409)."""
        document = await _sent(request)
        status, receipt = await run_in_threadpool(desk.upload, workspace, key, document)
        return _json(receipt, status)


def _answer_runs(app: FastAPI, desk: Desk, guarded: Guarded) -> None:
    @app.get("/workspaces/{workspace}/runs", response_model=RunPage, responses=refusals(), dependencies=guarded)
    async def list_runs(
        workspace: Workspace, task: TaskName = None, before: Before = SEQUENCE_MAX, limit: Limit = 50
    ) -> Response:
        """List manifests, the newest first."""
        return _json(await run_in_threadpool(desk.runs, workspace, task, before, limit))

    @app.get(
        "/workspaces/{workspace}/runs/{run_id}",
        response_model=WholeRun, responses=refusals(404), dependencies=guarded,
    )  # fmt: skip
    async def show_run(workspace: Workspace, run_id: RunName) -> Response:
        """Show the manifest of a run that was uploaded last."""
        return _json(await run_in_threadpool(desk.run, workspace, run_id))


def _answer_comparisons(app: FastAPI, desk: Desk, guarded: Guarded) -> None:
    @app.get(
        "/workspaces/{workspace}/runs/{run_id}/drift",
        response_model=DriftAnswer, responses=refusals(404), dependencies=guarded,
    )  # fmt: skip
    async def show_drift(workspace: Workspace, run_id: RunName) -> Response:
        """Compare a manifest with what was expected when its run request was answered."""
        return _json(await run_in_threadpool(desk.drift, workspace, run_id))

    @app.get(
        "/workspaces/{workspace}/compare",
        response_model=Comparison, responses=refusals(404), dependencies=guarded,
    )  # fmt: skip
    async def compare(workspace: Workspace, left: Side, right: Side) -> Response:
        """Compare the manifests of two runs."""
        return _json(await run_in_threadpool(desk.compare, workspace, left, right))


# ------------------------------------------------------------------------------------------------ the desk


class Desk:
    """What is done with what comes in, one question at a time."""

    def __init__(self, store: Store, contract: Contracts, capabilities: frozenset[str], now: Callable[[], str]) -> None:
        self.store, self.contract, self.capabilities, self.now = store, contract, capabilities, now

    def judge(self, document: Mapping[str, Any]) -> dict[str, Any]:
        errors = errors_of(document, self.contract) or self._not_offered(document)
        named = _name(document.get("request_id"))
        digest = content_digest(document)
        answer = {
            "schema_version": 1,
            "request_id": named or "unknown",
            "remote_id": digest[:32] if named else None,
            "outcome": "invalid" if errors else "valid",
            "errors": codec.dump(errors),
            "expected": None if errors else codec.dump(expected_of(document)),
        }
        if named:
            self.store.keep_request(
                KeptRequest(
                    sequence=0,
                    request_id=named,
                    digest=digest,
                    outcome=answer["outcome"],
                    received_at=self.now(),
                    document=spelled(document),
                    answer=spelled(answer),
                )
            )
        return answer

    def _not_offered(self, document: Mapping[str, Any]) -> tuple[ControlError, ...]:
        """Return what a valid request needs and nobody here has."""
        asked = enumerate(document["pipeline"]["capabilities"]) if self.capabilities else ()
        known = ", ".join(sorted(self.capabilities))
        return tuple(
            error(f"/pipeline/capabilities/{index}", f"'{each}' is not offered here; what is: {known}")
            for index, each in asked
            if each not in self.capabilities
        )[:ERRORS_MAX]

    def requests(self, before: int, limit: int) -> dict[str, Any]:
        rows = self.store.requests(before, limit)
        return _page([_request_row(each) for each in rows], [each.sequence for each in rows], limit)

    def request(self, request_id: str) -> dict[str, Any]:
        kept = self._known_request(request_id)
        return {**_request_row(kept), "request": read(kept.document.encode()), "answer": read(kept.answer.encode())}

    def upload(self, workspace: str, key: str, document: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Keep a manifest, and return the status and the receipt."""
        broken = self.contract.check("manifest", document)
        if broken:
            raise refusal(422, *(error_of(each) for each in broken))
        if not Status(document["status"]).ended:
            raise refusal(422, error("/status", "the run has not ended; manifests of ended runs are kept"))
        body, at = spelled(document), self.now()
        digest = codec.digest(document)
        receipt = {
            "workspace": workspace, "run_id": document["run_id"], "digest": digest, "received_at": at,
        }  # fmt: skip
        wanted = KeptRun(
            sequence=0,
            workspace=workspace,
            idempotency_key=key,
            body_sha256=digest,
            run_id=document["run_id"],
            task_id=document["task_id"],
            status=document["status"],
            received_at=at,
            document=body,
            answer=spelled(receipt),
        )
        kept = self.store.keep_run(wanted)
        if kept.body_sha256 != digest:
            raise refusal(409, error("", "this key was used for another manifest; each upload has a key of its own"))
        return (201 if kept is wanted else 200), read(kept.answer.encode())

    def runs(self, workspace: str, task: str | None, before: int, limit: int) -> dict[str, Any]:
        rows = self.store.runs(workspace, task, before, limit)
        return _page([_run_row(each) for each in rows], [each.sequence for each in rows], limit)

    def run(self, workspace: str, run_id: str) -> dict[str, Any]:
        kept = self._known_run(workspace, run_id)
        return {**_run_row(kept), "manifest": read(kept.document.encode())}

    def drift(self, workspace: str, run_id: str) -> dict[str, Any]:
        manifest = read(self._known_run(workspace, run_id).document.encode())
        expected = read(self._known_request(run_id).answer.encode())["expected"]
        items = list(drift.differences({**manifest, "control_plane": {"expected": expected}}))
        return {"run_id": run_id, "total": len(items), "items": items[: drift.ITEMS_MAX]}

    def compare(self, workspace: str, left: str, right: str) -> dict[str, Any]:
        sides = [read(self._known_run(workspace, each).document.encode()) for each in (left, right)]
        return {"left": left, "right": right, "items": differences(*sides)}

    def _known_request(self, request_id: str) -> KeptRequest:
        kept = self.store.request(request_id)
        if kept is None:
            raise refusal(404, error("", f"there is no run request {request_id}"))
        return kept

    def _known_run(self, workspace: str, run_id: str) -> KeptRun:
        kept = self.store.run(workspace, run_id)
        if kept is None:
            raise refusal(404, error("", f"there is no run {run_id} in {workspace}"))
        return kept


def _name(value: object) -> str:
    """Return an id that a request can be kept by, "" if it is none."""
    sound = isinstance(value, str) and len(value) <= 200 and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*", value)
    return str(value) if sound else ""


def _page(items: list[dict[str, Any]], sequences: list[int], limit: int) -> dict[str, Any]:
    return {"items": items, "next": sequences[-1] if len(sequences) == limit else None}


def _request_row(kept: KeptRequest) -> dict[str, Any]:
    return {
        "request_id": kept.request_id, "remote_id": kept.digest[:32], "outcome": kept.outcome,
        "received_at": kept.received_at,
    }  # fmt: skip


def _run_row(kept: KeptRun) -> dict[str, Any]:
    return {
        "run_id": kept.run_id, "task_id": kept.task_id, "status": kept.status,
        "digest": kept.body_sha256, "received_at": kept.received_at,
    }  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


# ------------------------------------------------------------------------------------------------ the door


def guard(house: House) -> Callable[[Request], Awaitable[None]]:
    """Return what lets only those in who bear the token."""

    async def check(request: Request) -> None:
        said = request.headers.get("authorization", "").encode("utf-8", "replace")
        if house.token and not hmac.compare_digest(said, b"Bearer " + house.token):
            raise refusal(401, error("", "a token is needed"), {"WWW-Authenticate": "Bearer"})

    return check


Next = Callable[[Request], Awaitable[Response]]


def _with_headers(house: House) -> Callable[[Request, Next], Awaitable[Response]]:
    """Return what answers only who names a host that is meant, and everything with our headers: a page of a stranger
    that resolves to this machine names the stranger."""

    async def answer(request: Request, call_next: Next) -> Response:
        if host_of(request.headers.get("host", "")) not in house.hosts:
            found: Response = _refused(421, [error("", "this is not the host that is meant; see --public-name")])
        else:
            found = await call_next(request)
        found.headers.update(HEADERS)
        return found

    return answer


async def _sent(request: Request) -> dict[str, Any]:
    """Return the document that was sent. Only `application/json`: a form on a stranger's page cannot send that."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise refusal(415, error("", "the content type is application/json"))
    try:
        async with asyncio.timeout(BODY_S):
            body = await _bounded(request)
        return await run_in_threadpool(read, body)
    except TimeoutError:
        raise refusal(408, error("", f"the body took longer than {BODY_S:g} s")) from None
    except Unreadable as reason:
        raise refusal(400, error("", f"the body is no document: {reason}")) from None


async def _bounded(request: Request) -> bytes:
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > BODY_BYTES_MAX:
            raise refusal(413, error("", f"more than {BODY_BYTES_MAX} bytes"))
    return bytes(found)


class Refused(HTTPException):
    """A request that is refused, with the reasons by place."""

    def __init__(self, status: int, errors: tuple[ControlError, ...], headers: Mapping[str, str]) -> None:
        super().__init__(status_code=status, headers=dict(headers))
        self.errors = errors


def refusal(status: int, *errors: ControlError | Mapping[str, str]) -> Refused:
    """Return a refusal; a mapping among the errors is of headers."""
    headers = next((each for each in errors if isinstance(each, Mapping)), {})
    return Refused(status, tuple(each for each in errors if isinstance(each, ControlError)), headers)


async def _on_refused(request: Request, reason: Exception) -> Response:
    assert isinstance(reason, Refused)
    return _refused(reason.status_code, reason.errors, reason.headers or {})


async def _on_invalid(request: Request, reason: Exception) -> Response:
    assert isinstance(reason, RequestValidationError)
    found = [error(pointer(each["loc"]), str(each["msg"])) for each in reason.errors()]
    return _refused(422, found[:ERRORS_MAX])


async def _on_http(request: Request, reason: Exception) -> Response:
    assert isinstance(reason, StarletteException)
    headers = dict(reason.headers or {})
    if reason.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))
    return _refused(reason.status_code, [error("", str(reason.detail))], headers)


def _allowed(request: Request) -> list[str]:
    """Return the methods that a path knows, whichever of its routes has them."""
    fitting = [each for each in request.app.routes if each.matches(request.scope)[0] != Match.NONE]
    return sorted({method for each in fitting for method in getattr(each, "methods", None) or ()})


async def _on_store(request: Request, reason: Exception) -> Response:
    return _refused(503, [error("", "the store cannot be used now; come again")], {"Retry-After": str(RETRY_S)})


async def _on_disconnect(request: Request, reason: Exception) -> Response:
    return _refused(400, [error("", "the request ended early")])


Handler = Callable[[Request, Exception], Awaitable[Response]]
HANDLERS: Mapping[type[Exception], Handler] = {
    Refused: _on_refused,
    RequestValidationError: _on_invalid,
    StarletteException: _on_http,
    sqlite3.Error: _on_store,
    ClientDisconnect: _on_disconnect,
}


def _refused(status: int, errors: Any, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return _json({"errors": codec.dump(list(errors))}, status, headers)


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return _Ascii(value, status_code=status, headers=dict(headers or {}))


class _Ascii(JSONResponse):
    def render(self, content: Any) -> bytes:
        return spelled(content).encode()


# ------------------------------------------------------------------------------------------------ the description


def _body(name: str) -> dict[str, Any]:
    """Return how a body is documented that is read by our own hand."""
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _description(app: FastAPI, make: Callable[[FastAPI], dict[str, Any]], contract: Contracts) -> dict[str, Any]:
    """Return the OpenAPI document. A run request is described by its published schema; whatever is an object is
    answered, because to say what is wrong with one is what this is for."""
    found = make(app)
    schemas = found["components"]["schemas"]
    if "RunRequestV2" not in schemas:
        schemas |= _components("RunRequestV2", contract.schema("run-request-v2"))
        schemas["RunRequestV2"] = {"anyOf": [schemas["RunRequestV2"], {"type": "object"}]}
        schemas["Manifest"] = {
            "type": "object",
            "title": "Manifest",
            "description": "The manifest of an ended run: schemas/manifest.schema.json.",
        }
    return found


def _components(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a published schema and its definitions as components, their references rewritten."""
    whole = {key: value for key, value in schema.items() if key not in ("$schema", "$id", "$defs")}
    parts = {f"{name}_{each}": value for each, value in schema["$defs"].items()}
    return {key: _moved(value, name) for key, value in {name: whole, **parts}.items()}


def _moved(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {
            key: f"#/components/schemas/{name}_{each.removeprefix('#/$defs/')}"
            if key == "$ref" and isinstance(each, str)
            else _moved(each, name)
            for key, each in value.items()
        }
    return [_moved(each, name) for each in value] if isinstance(value, list) else value
