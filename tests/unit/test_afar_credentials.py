"""Who is lent which token, when it is renewed, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reconciler.afar import credentials as afar_credentials
from reconciler.afar.credentials import LEFT_S, RENEWED_MAX, RETRY_S, Lending
from reconciler.credentials.broker import Broker
from reconciler.credentials.secret import NoCredential, Secret
from reconciler.errors import TransientError
from reconciler.executors.engine import Engine, Submission
from reconciler.model import ExecutorSettings, Instant
from reconciler.work import CREDENTIAL_VARIABLE, KEY_VARIABLE
from reconciler.world import World

URL = "https://git.example.com/a.git"
SAID = ExecutorSettings(engine="kubernetes", credential="git")
NOW = datetime(2026, 7, 29, 12, tzinfo=UTC)


@dataclass
class Source:
    """Hands out a token that can be exchanged, or none."""

    value: str = "token-one"
    asked: int = 0

    def get(self, name: str) -> Secret:
        self.asked += 1
        if not self.value:
            raise NoCredential(f"credential '{name}': the vault is closed")
        return Secret(value=self.value)


class Plain:
    """An engine that cannot renew."""


@dataclass
class Renewing:
    """An engine that can, as many in one call as it likes."""

    told: list[Mapping[str, Mapping[str, str]]] = field(default_factory=list)
    takes: int = 1000

    def renew(self, secrets: Mapping[str, Mapping[str, str]]) -> Sequence[str]:
        self.told.append(secrets)
        return list(secrets)[: self.takes]


@dataclass
class Place:
    source: Source = field(default_factory=Source)
    now_s: float = 1000.0

    def __post_init__(self) -> None:
        now = lambda: Instant(at=NOW.isoformat(), monotonic_s=self.now_s, boot_id="boot")  # noqa: E731
        self.lending = Lending(cast(World, SimpleNamespace(now=now)))
        self.broker = Broker({"git": self.source}, now=lambda: NOW)
        self.lending.broker = lambda: self.broker

    def due(self, *handles: str) -> tuple[str, list[str]]:
        self.lending.begin(handles)
        return self.lending.due("cloud", SAID, URL, handles)

    def exchange(self, value: str) -> None:
        self.source.value = value
        self.broker.forget("git")


@pytest.fixture
def place() -> Place:
    return Place()


def submission(handle: str) -> Submission:
    given: dict[str, Any] = {"repository": "0a1b2c3d", "run_id": "x", "task_id": "t", "number": 1, "arguments": ()}
    return Submission(handle=handle, secrets={KEY_VARIABLE: "key"}, **given)


def test_a_token_goes_where_it_can_be_renewed_and_else_beside_the_key(place: Place) -> None:
    wanted = [submission("a"), submission("b")]
    lent = {CREDENTIAL_VARIABLE: "token-one"}
    assert place.lending.token(SAID, URL) == "token-one"
    renewed = place.lending.entrusted(cast(Engine, Renewing()), wanted, "token-one")
    assert renewed == [replace(each, renewed=lent) for each in wanted]
    plain = place.lending.entrusted(cast(Engine, Plain()), wanted, "token-one")
    assert plain == [replace(each, secrets={KEY_VARIABLE: "key", **lent}) for each in wanted]
    assert place.lending.entrusted(cast(Engine, Plain()), wanted, "") == wanted


def test_without_a_credential_nobody_is_asked(place: Place) -> None:
    assert place.lending.token(ExecutorSettings(engine="slurm"), "/srv/a.git") == ""
    assert Lending(place.lending.world).token(SAID, URL) == "", "before anybody may hand out secrets"
    assert place.source.asked == 0


@pytest.mark.parametrize("address", ["/srv/a.git", "git@example.com:a.git", "http://git.example.com/a.git"])
def test_an_address_that_takes_no_token_is_said_before_anybody_is_asked(place: Place, address: str) -> None:
    with pytest.raises(
        TransientError, match=f"credential 'git': a token .*; the remote of its executor is '{address}'"
    ):
        place.lending.token(SAID, address)
    assert place.source.asked == 0


def test_each_attempt_is_told_of_each_token_once(place: Place) -> None:
    engine = Renewing()
    assert place.due("a", "b") == ("token-one", ["a", "b"])
    place.lending.renew(cast(Engine, engine), "token-one", ["a", "b"])
    assert engine.told == [{each: {CREDENTIAL_VARIABLE: "token-one"} for each in "ab"}]
    assert place.due("a", "b", "c") == ("token-one", ["c"])
    place.exchange("token-two")
    assert place.due("a", "c") == ("token-two", ["a", "c"])
    assert place.due("b") == ("token-two", ["b"]), "those that are gone are forgotten"


def test_one_that_was_not_told_is_told_again(place: Place) -> None:
    engine = Renewing(takes=1)
    place.lending.renew(cast(Engine, engine), place.due("a", "b")[0], ["a", "b"])
    assert place.due("a", "b") == ("token-one", ["b"])
    place.lending.renew(cast(Engine, Plain()), "token-one", ["b"])
    assert place.due("a", "b") == ("token-one", ["b"])


def test_very_many_are_told_in_turns_and_soon(place: Place) -> None:
    many = [f"h{number}" for number in range(RENEWED_MAX + 5)]
    token, first = place.due(*many)
    assert first == many[:RENEWED_MAX] and place.lending.patience_s() == afar_credentials.SOON_S
    place.lending.renew(cast(Engine, Renewing()), token, first)
    assert place.due(*many) == (token, many[RENEWED_MAX:]) and place.lending.patience_s() == float("inf")


def test_a_token_that_cannot_be_had_is_asked_for_again_after_a_while(place: Place) -> None:
    place.exchange("")
    for _ in range(3):
        with pytest.raises(NoCredential, match="the vault is closed"):
            place.due("a")
        assert place.due("a") == ("", [])
        place.now_s += RETRY_S
    assert place.source.asked == 3
    place.exchange("token-two")
    assert place.due("a") == ("token-two", ["a"])


def test_a_token_is_renewed_long_before_it_expires() -> None:
    """Long enough for a pass a minute and a kubelet that takes as long again."""
    assert LEFT_S >= 4 * 60
