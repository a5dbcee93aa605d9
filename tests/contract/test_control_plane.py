"""The control plane as its clients meet it: the reference server on loopback, asked by our asker and by strangers."""

from __future__ import annotations

import copy
import json
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

from reconciler.contracts import Contracts
from reconciler.control.asking import Answer, Asker, credential, open_asker
from reconciler.control.gate import objection
from reconciler.control.rules import expected_of
from reconciler.control.server import Desk
from reconciler.control.store import KeptRun, Store
from reconciler.errors import UsageError
from reconciler.http import Http
from reconciler.model import ControlSettings, ControlVerdict, Plan
from tests.control_plans import document_of, plan_of, plans, stage
from tests.control_server import TOKEN, Served, serving

CONTRACTS = Contracts()
STORE = Store(None)
NOW = "2026-03-01T12:00:00.000Z"
REQUEST: dict[str, Any] = CONTRACTS.schema("run-request-v2")["examples"][0]
MANIFEST: dict[str, Any] = CONTRACTS.schema("manifest")["examples"][0]
RUN = MANIFEST["run_id"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("control") / "c.sqlite", token=TOKEN) as found:
        yield found


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=served.url, headers=bearer, trust_env=False, timeout=20) as found:
        yield found


def asker_of(url: str, monkeypatch: pytest.MonkeyPatch, token: str = TOKEN, timeout_s: float = 5.0) -> Asker:
    monkeypatch.setenv("RECONCILER_CONTROL_TOKEN", token)
    settings = ControlSettings(url=url)
    found = open_asker(settings, CONTRACTS, timeout_s, credential(settings))
    assert isinstance(found, Asker)
    return found


def changed(document: dict[str, Any], *keys: str | int, to: object) -> dict[str, Any]:
    found = copy.deepcopy(document)
    place: Any = found
    for each in keys[:-1]:
        place = place[each]
    place[keys[-1]] = to
    return found


# ------------------------------------------------------------------------------------------------ asking


def test_a_valid_request_is_answered_with_what_is_expected(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    asker = asker_of(served.url, monkeypatch)
    first, again = asker.ask(REQUEST), asker.ask({**REQUEST, "requested_at": "2027-01-01T00:00:00Z"})
    asker.close()
    assert isinstance(first, Answer), first
    assert (first.outcome, first.errors, first.expected) == ("valid", (), expected_of(REQUEST))
    assert again == first, "asking again is asking for the same"


def test_the_largest_plan_there_can_be_is_shown_whole(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"{number:03d}-{'x' * 96}" for number in range(200)]
    plan = plan_of(*(stage(each, title="\u00e9" * 200, needs=tuple(ids[:index])) for index, each in enumerate(ids)))
    asker = asker_of(served.url, monkeypatch, timeout_s=30.0)
    found = asker.ask(document_of(plan))
    asker.close()
    assert isinstance(found, Answer), found
    assert found.outcome == "valid"


def test_what_is_no_address_is_told() -> None:
    found = open_asker(ControlSettings(url="https://x:99999"), CONTRACTS, 1.0, "")
    assert found == "https://x:99999 is no address; for example https://control.example.com"


def test_an_invalid_request_is_answered_with_its_errors_by_path(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker = asker_of(served.url, monkeypatch)
    found = asker.ask(changed(REQUEST, "schedule", "instances_min", to=3))
    asker.close()
    assert isinstance(found, Answer), found
    assert found.outcome == "invalid"
    assert [each.path for each in found.errors] == ["/schedule/instances_max"]


def test_who_has_not_the_token_is_told_so_and_the_token_is_told_to_nobody(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker = asker_of(served.url, monkeypatch, token="another-token-0123456789")
    found = asker.ask(REQUEST)
    asker.close()
    assert found == f"127.0.0.1:{served.port} answered 401: a token is needed"
    assert "another-token" not in repr(asker.http)


def test_a_token_that_no_header_can_carry_is_refused() -> None:
    found = open_asker(ControlSettings(url="http://127.0.0.1:1"), CONTRACTS, 1.0, "a\nb")
    assert found == "$RECONCILER_CONTROL_TOKEN holds what no header can carry; a token is printable ASCII"
    found = open_asker(ControlSettings(url="http://127.0.0.1:1", credential="plane"), CONTRACTS, 1.0, "\u00e9" * 8)
    assert found == "the credential 'plane' holds what no header can carry; a token is printable ASCII"


def test_a_token_is_looked_for_in_one_variable() -> None:
    settings = ControlSettings(credential_env="RECONCILER_X")
    assert credential(settings, {"RECONCILER_X": " s \n", "RECONCILER_CONTROL_TOKEN": "t"}) == "s"
    assert credential(settings, {}) == ""


class Fake:
    """A server that answers everything with the same bytes."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", "0")))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def end(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


ANSWER: dict[str, Any] = CONTRACTS.schema("control-answer")["examples"][0]
HOSTILE: list[tuple[bytes, str]] = [
    (b"<html>", "is not JSON"),
    (b"[]", "the answer of"),
    (b"{}", "is none"),
    (json.dumps({**ANSWER, "request_id": "other"}).encode(), "is about another run"),
    (json.dumps({**ANSWER, "outcome": "maybe"}).encode(), "is none"),
    (json.dumps({**ANSWER, "errors": [{"path": "/", "message": "x" * 501}]}).encode(), "is none"),
    (json.dumps({**ANSWER, "remote_id": TOKEN}).encode(), "repeats the token"),
    (b"[" * 5000, "is not JSON"),
    (b" " * (1024 * 1024 + 1), "larger than"),
]


@pytest.mark.parametrize(("body", "words"), HOSTILE, ids=[words for _, words in HOSTILE])
def test_a_hostile_answer_is_none(body: bytes, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(body)
    asker = asker_of(fake.url, monkeypatch)
    found = asker.ask(REQUEST)
    asker.close()
    fake.end()
    assert isinstance(found, str)
    assert words in found
    assert TOKEN not in found


def test_who_does_not_answer_is_not_waited_for_long() -> None:
    asker = Asker(
        http=Http(address="http://127.0.0.1:9", patience_s=0.0, answer_s=0.2, silence_s=0.2), contract=CONTRACTS
    )
    found = asker.ask(REQUEST)
    assert isinstance(found, str)
    assert "cannot be reached" in found


@given(plans())
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_valid_run_always_passes_enforce(plan: Plan) -> None:
    document = document_of(plan)
    answer = Desk(STORE, CONTRACTS, frozenset(), lambda: NOW).judge(document)
    assert CONTRACTS.check("control-answer", answer) == ()
    verdict = ControlVerdict(
        mode="enforce", outcome=answer["outcome"], at=NOW, request_id=plan.run_id, expected=expected_of(document)
    )
    assert objection(verdict) == ""
    kept = STORE.request(plan.run_id)
    assert kept is not None and json.loads(kept.document) == document


# ------------------------------------------------------------------------------------------------ keeping


def upload(client: httpx.Client, key: str, manifest: object = MANIFEST, workspace: str = "acme") -> httpx.Response:
    return client.post(f"/workspaces/{workspace}/runs", json=manifest, headers={"Idempotency-Key": key})


def test_an_upload_is_done_once_however_often_it_is_sent(client: httpx.Client) -> None:
    first, again = upload(client, "once"), upload(client, "once")
    other = upload(client, "once", changed(MANIFEST, "title", to="another"))
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert first.json() == again.json()
    assert "this key was used" in other.json()["errors"][0]["message"]
    assert upload(client, "once", workspace="other").status_code == 201, "a key is of one workspace"


def test_what_is_no_manifest_of_an_ended_run_is_refused_by_place(client: httpx.Client) -> None:
    assert upload(client, "b1", {}).status_code == 422
    found = upload(client, "b2", changed(MANIFEST, "status", to="waiting"))
    assert (found.status_code, found.json()["errors"][0]["path"]) == (422, "/status")
    found = upload(client, "b3", changed(MANIFEST, "commands", 0, "status", to="done"))
    assert found.json()["errors"][0]["path"] == "/commands/0/status"


def test_a_list_is_read_page_by_page(client: httpx.Client) -> None:
    for number in range(5):
        upload(client, f"page-{number}", changed(MANIFEST, "run_id", to=f"a-0000000{number}"), workspace="pages")
    seen, before = [], {}
    while True:
        page = client.get("/workspaces/pages/runs", params={"limit": 2, **before}).json()
        seen += [each["run_id"] for each in page["items"]]
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    assert seen == [f"a-0000000{number}" for number in (4, 3, 2, 1, 0)]
    assert client.get("/workspaces/pages/runs", params={"task": "other"}).json()["items"] == []


def test_a_manifest_is_compared_with_what_was_expected_and_with_another(client: httpx.Client) -> None:
    client.post("/v2/requests", json=REQUEST)
    failed = changed(MANIFEST, "commands", 0, "status", to="failed")
    upload(client, "d1", failed, workspace="drift")
    upload(client, "d2", changed(MANIFEST, "run_id", to="0001-other-1a2b3c4d"), workspace="drift")
    found = client.get(f"/workspaces/drift/runs/{RUN}/drift").json()
    assert {"path": "/stages/build", "expected": "succeeded", "found": "failed"} in found["items"]
    compared = client.get("/workspaces/drift/compare", params={"left": RUN, "right": "0001-other-1a2b3c4d"}).json()
    assert {each["path"] for each in compared["items"]} == {"/run_id", "/commands/build/status"}
    assert client.get(f"/v2/requests/{RUN}").json()["request"] == REQUEST
    assert client.get(f"/workspaces/drift/runs/{RUN}").json()["manifest"] == failed


# ------------------------------------------------------------------------------------------------ strangers

STRANGE: list[tuple[dict[str, Any], int]] = [
    ({"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
    ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
    ({"content": b"[]", "headers": {"Content-Type": "application/json"}}, 400),
    ({"content": b'{"a": NaN}', "headers": {"Content-Type": "application/json"}}, 400),
    ({"content": b'{"a": 1e999}', "headers": {"Content-Type": "application/json"}}, 400),
    ({"content": b'{"a":' * 5000, "headers": {"Content-Type": "application/json"}}, 400),
    ({"content": b'{"a":' + b"[" * 50 + b"]" * 50 + b"}", "headers": {"Content-Type": "application/json"}}, 400),
    ({"content": b" " * (4 * 1024 * 1024 + 1), "headers": {"Content-Type": "application/json"}}, 413),
    (
        {"content": b'{"request_id": "\\ud800", "schema": "\\ud800"}', "headers": {"Content-Type": "application/json"}},
        200,
    ),
    ({"json": REQUEST, "headers": {"Host": "evil.example"}}, 421),
    ({"json": REQUEST, "headers": {"Authorization": "Bearer x"}}, 401),
]


@pytest.mark.parametrize(
    ("keys", "status"), STRANGE, ids=[f"{number}-{status}" for number, (_, status) in enumerate(STRANGE)]
)
def test_what_strangers_send_is_refused_with_a_reason(client: httpx.Client, keys: dict[str, Any], status: int) -> None:
    found = client.post("/v2/requests", **keys)
    assert found.status_code == status
    assert found.json()["errors"][0]["message"]
    assert found.headers["x-content-type-options"] == "nosniff"


def test_health_and_description_need_no_token(served: Served) -> None:
    assert httpx.get(f"{served.url}/healthz", trust_env=False).json() == {"status": "ok"}
    described = httpx.get(f"{served.url}/openapi.json", trust_env=False).json()
    assert "/workspaces/{workspace}/runs" in described["paths"]


def test_a_capability_that_is_not_offered_is_refused() -> None:
    with serving(capabilities=("agent:codex",)) as served:
        found = httpx.post(f"{served.url}/v2/requests", json=REQUEST, trust_env=False).json()
    assert [each["path"] for each in found["errors"]] == ["/pipeline/capabilities/0"]


# ------------------------------------------------------------------------------------------------ the store


def kept(key: str, run_id: str = "r") -> KeptRun:
    return KeptRun(
        sequence=0, workspace="w", idempotency_key=key, body_sha256="x", run_id=run_id, task_id="t", status="failed",
        received_at="2026-01-01T00:00:00Z", document="{}", answer="{}",
    )  # fmt: skip


def test_what_was_answered_is_there_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "c.sqlite")
    store.keep_run(kept("a"))
    again = Store(tmp_path / "c.sqlite")  # as after a KILL: the first one was never closed
    assert again.run("w", "r") is not None
    assert stat.S_IMODE(os.stat(tmp_path / "c.sqlite").st_mode) == 0o600
    again.close()
    store.close()


def test_the_oldest_go(tmp_path: Path) -> None:
    store = Store(None, rows_max=3)
    for number in range(6):
        store.keep_run(kept(str(number), f"r{number}"))
    assert [each.run_id for each in store.runs("w", None, 2**53, 100)] == ["r5", "r4", "r3"]
    store.close()


def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, and long enough to look like one might" * 20)
    with pytest.raises(UsageError, match="is no data of a control plane"):
        Store(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    with pytest.raises(UsageError, match="is no data of a control plane"):
        Store(tmp_path / "other")
    with pytest.raises(UsageError, match="No such file"):
        Store(tmp_path / "nowhere" / "c.sqlite")
