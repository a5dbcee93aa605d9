"""The edge to HTTP: when it asks again, when it gives up, and what it never does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from reconciler.errors import ForgeFailed, ForgeUnclear, UsageError
from reconciler.forges.forge import Kind
from reconciler.http import Answer, Call, Http
from tests.forges.server import TOKEN, Fault, ForgeServer, forge_server

EPOCH_S = 1_800_000_000.0
ASK = Call(method="GET", path="/repos/acme/billing/issues/1/comments")
ADD = Call(method="POST", path="/repos/acme/billing/issues/1/comments", body={"body": "hello"})


@dataclass
class Clock:
    """A clock that is put on by sleeping."""

    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def monotonic(self) -> float:
        return sum(self.slept)

    def epoch_s(self) -> float:
        return EPOCH_S + sum(self.slept)


@pytest.fixture
def server() -> Iterator[ForgeServer]:
    with forge_server(Kind.GITHUB) as found:
        yield found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def http(server: ForgeServer, clock: Clock) -> Iterator[Http]:
    authority = {"Authorization": f"Bearer {TOKEN}"}
    client = Http(
        address=server.url, authority=authority, sleep=clock.sleep, monotonic=clock.monotonic, epoch_s=clock.epoch_s
    )
    yield client
    client.close()


def test_an_answer_is_status_headers_and_body(http: Http, server: ForgeServer) -> None:
    answer = http.ask(ASK)
    assert (answer.status, answer.ok, answer.json()) == (200, True, [])
    assert f"Bearer {TOKEN}" in server.authority[0]
    assert TOKEN not in repr(http)


# ------------------------------------------------------------------------------------------------ again


@pytest.mark.parametrize(
    ("fault", "slept"),
    [
        (Fault(status=429, headers={"Retry-After": "7"}), [7.0]),
        (Fault(status=429, headers={"Retry-After": "Fri, 15 Jan 2027 08:00:30 GMT"}), [30.0]),
        (Fault(status=429, headers={"RateLimit-Remaining": "0", "RateLimit-Reset": str(int(EPOCH_S) + 20)}), [21.0]),
        (Fault(status=403, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(EPOCH_S) + 9)}), [10.0]),
        (Fault(status=403, body=b'{"message": "You have exceeded a secondary rate limit"}'), [5.0]),
        (Fault(status=503, headers={"Retry-After": "2"}), [2.0]),
        (Fault(status=429, headers={"Retry-After": "nonsense"}), [5.0]),
    ],
)
def test_a_limited_rate_is_waited_for_as_the_server_says(
    http: Http, server: ForgeServer, clock: Clock, fault: Fault, slept: list[float]
) -> None:
    server.faults = [fault]
    assert http.ask(ADD).status == 201
    assert clock.slept == slept
    assert len(server.comments) == 1


def test_two_failures_and_then_an_answer(http: Http, server: ForgeServer, clock: Clock) -> None:
    server.faults = [Fault(status=500), Fault(status=502)]
    assert http.ask(ASK).status == 200
    assert clock.slept == [0.5, 1.0]


def test_a_server_that_stays_broken_is_given_up_with_a_sentence(http: Http, server: ForgeServer) -> None:
    server.faults = [Fault(status=500)] * 9
    with pytest.raises(ForgeFailed, match=r"GET /repos/.*: 127\.0\.0\.1:\d+ answered 500 5 times; try again later"):
        http.ask(ASK)
    assert len(server.requests) == 5


def test_a_wait_that_is_too_long_is_told_and_not_waited_for(http: Http, server: ForgeServer, clock: Clock) -> None:
    server.faults = [Fault(status=403, headers={"Retry-After": "3600"})]
    with pytest.raises(ForgeFailed, match="lets us ask no more for now; it asks to come again in 3600 s"):
        http.ask(ASK)
    assert clock.slept == []


@pytest.mark.parametrize("fault", [Fault(status=500), Fault(reset=True), Fault(status=500, after=True)])
def test_a_change_that_may_have_been_made_is_not_made_again(http: Http, server: ForgeServer, fault: Fault) -> None:
    server.faults = [fault]
    with pytest.raises(ForgeUnclear):
        http.ask(ADD)
    assert len(server.requests) == 1


def test_a_change_that_may_be_repeated_is(http: Http, server: ForgeServer) -> None:
    server.faults = [Fault(status=500), Fault(reset=True)]
    call = Call(method="POST", path=ADD.path, body=ADD.body, repeatable=True)
    assert http.ask(call).status == 201


def test_a_refusal_is_an_answer_and_not_asked_again(http: Http, server: ForgeServer, clock: Clock) -> None:
    server.faults = [Fault(status=403, body=b'{"message": "Resource not accessible by integration"}')]
    answer = http.ask(ASK)
    assert (answer.status, answer.said(), clock.slept) == (403, "Resource not accessible by integration", [])


# ------------------------------------------------------------------------------------------------ bounds


def test_a_huge_answer_is_not_taken(http: Http, server: ForgeServer) -> None:
    http.bytes_max = 10_000
    server.faults = [Fault(status=200, body=b"[" + b" " * 20_000 + b"]")]
    with pytest.raises(ForgeFailed, match="larger than 10000 bytes"):
        http.ask(ASK)


def test_a_compressed_answer_is_not_taken(http: Http, server: ForgeServer) -> None:
    server.faults = [Fault(status=200, headers={"Content-Encoding": "gzip"}, body=b"x")]
    with pytest.raises(ForgeFailed, match="compressed"):
        http.ask(ASK)


def test_an_answer_that_drips_is_given_up(server: ForgeServer) -> None:
    client = Http(address=server.url, answer_s=0.2)
    server.faults = [Fault(status=200, body=b"[" + b" " * 500 + b"]", drip_s=0.02)]
    with pytest.raises(ForgeFailed, match=r"takes longer than 0\.2 s"):
        client.ask(ASK)
    client.close()


def test_a_silent_server_is_given_up(server: ForgeServer, clock: Clock) -> None:
    client = Http(address=server.url, silence_s=0.1, sleep=clock.sleep)
    server.faults = [Fault(status=200, body=b"[]", drip_s=5)] * 5
    with pytest.raises(ForgeUnclear, match="gave no answer"):
        client.ask(ASK)
    client.close()


def test_nobody_there_is_told(clock: Clock) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    client = Http(address=address, sleep=clock.sleep)
    with pytest.raises(ForgeFailed, match="cannot be reached") as failed:
        client.ask(ADD)
    assert not isinstance(failed.value, ForgeUnclear)
    assert len(clock.slept) == 4


@pytest.mark.parametrize("body", [b"<html>", b"[" * 100_000, b"\xff\xfe"])
def test_what_is_not_json_is_told(http: Http, server: ForgeServer, body: bytes) -> None:
    server.faults = [Fault(status=200, body=body)]
    with pytest.raises(ForgeFailed, match="not JSON"):
        http.ask(ASK).json()


# ------------------------------------------------------------------------------------------------ elsewhere


@pytest.mark.parametrize(
    "there", ["http://127.0.0.1:1/x", "https://evil.example/x", "//evil.example/", "ftp://x/", "http://[", ""]
)
def test_no_redirect_leads_to_another_server(http: Http, server: ForgeServer, there: str) -> None:
    server.faults = [Fault(status=302, headers={"Location": there})]
    with pytest.raises(ForgeFailed, match="redirects elsewhere"):
        http.ask(ASK)


def test_a_redirect_on_the_same_server_is_followed_when_asking_and_never_when_changing(
    http: Http, server: ForgeServer
) -> None:
    server.faults = [Fault(status=301, headers={"Location": ASK.path}, method=each) for each in ("GET", "POST")]
    assert http.ask(ASK).status == 200
    with pytest.raises(ForgeFailed, match="moved or renamed"):
        http.ask(ADD)


def test_a_circle_of_redirects_ends(http: Http, server: ForgeServer) -> None:
    server.faults = [Fault(status=302, headers={"Location": ASK.path})] * 9
    with pytest.raises(ForgeFailed, match="in a circle"):
        http.ask(ASK)


def test_the_environment_names_no_proxy(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert http.ask(ASK).status == 200


@pytest.mark.parametrize(
    "address", ["ftp://x", "file:///etc", "https://u:p@x", "http://", "git.example.com", "http://["]
)
def test_an_address_is_one_of_http_without_credentials(address: str) -> None:
    with pytest.raises(UsageError) as refused:
        Http(address=address)
    assert "u:p" not in str(refused.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"message": "Validation Failed", "errors": [{"message": "exists"}]}', "Validation Failed: exists"),
        (b'{"message": {"base": ["is wrong"]}}', "is wrong"),
        (b'{"error": "insufficient_scope"}', "insufficient_scope"),
        (b'{"message": ["a", "b"]}', "a"),
        (b"[]", ""),
        (b"no", ""),
        (b'{"message": "two\\nlines\\u0007"}', "two lines"),
    ],
)
def test_the_words_of_a_refusal_are_one_line(body: bytes, words: str) -> None:
    assert Answer(call=ASK, status=422, headers={}, data=body).said() == words
