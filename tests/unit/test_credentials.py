"""Secrets: from four kinds of sources, kept until they expire, and in no text after they were handed out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.confided import cleaned, confide
from reconciler.credentials.broker import KEPT_S, Broker, broker_of, source_of
from reconciler.credentials.command import FromCommand
from reconciler.credentials.secret import NoCredential, Secret
from reconciler.outgoing import Credential, KeyringEntry

NOON = datetime(2026, 7, 29, 12, tzinfo=UTC)
PYTHON = sys.executable


class Counting:
    """A source whose secrets are numbered; it fails while it is told to."""

    def __init__(self, life_s: float | None = None) -> None:
        self.life_s, self.asked, self.fails = life_s, 0, False
        self.now = NOON

    def get(self, name: str) -> Secret:
        self.asked += 1
        if self.fails:
            raise NoCredential(f"credential '{name}': no")
        until = None if self.life_s is None else (self.now + timedelta(seconds=self.life_s)).isoformat()
        return Secret(value=f"secret-{self.asked}", expires_at=until)


def broker(source: Counting) -> tuple[Broker, Callable[[float], None]]:
    """Return a broker for one source, and what lets time pass."""

    def passes(seconds: float) -> None:
        source.now += timedelta(seconds=seconds)

    return Broker({"a": source}, now=lambda: source.now), passes


# ------------------------------------------------------------------------------------------------ the broker


def test_a_secret_is_kept_until_shortly_before_it_expires() -> None:
    source = Counting(life_s=600)
    found, passes = broker(source)
    assert [found.get("a").value, found.get("a").value] == ["secret-1", "secret-1"]
    passes(539)
    assert found.get("a").value == "secret-1"
    passes(2)
    assert found.get("a").value == "secret-2"


def test_a_short_life_is_used_by_half_and_one_without_end_is_asked_for_now_and_then() -> None:
    for life_s, kept_s in ((10, 5), (None, KEPT_S)):
        source = Counting(life_s)
        found, passes = broker(source)
        found.get("a")
        passes(kept_s - 0.1)
        assert found.get("a").value == "secret-1"
        passes(0.2)
        assert found.get("a").value == "secret-2"


def test_who_needs_it_for_longer_is_given_a_newer_one() -> None:
    source = Counting(life_s=3600)
    found, passes = broker(source)
    first = found.get("a", 300)
    passes(3600 - 310)
    assert found.get("a", 300) == first
    passes(20)
    assert found.get("a") == first, "who needs it for a minute is content"
    second = found.get("a", 300)
    assert second != first and found.get("a") == second
    short = Counting(life_s=100)
    found, passes = broker(short)
    found.get("a", 300)
    passes(49)
    found.get("a", 300)
    assert short.asked == 1
    passes(2)
    found.get("a", 300)
    assert short.asked == 2


def test_one_that_counts_still_is_used_while_a_new_one_cannot_be_had() -> None:
    source = Counting(life_s=600)
    found, passes = broker(source)
    found.get("a")
    source.fails = True
    passes(590)
    assert found.get("a").value == "secret-1"
    passes(11)
    with pytest.raises(NoCredential):
        found.get("a")


def test_one_that_is_not_accepted_is_asked_for_anew() -> None:
    source = Counting()
    found, _ = broker(source)
    found.get("a")
    found.forget("a")
    assert found.get("a").value == "secret-2"


def test_an_expired_one_and_an_unknown_one_are_refused() -> None:
    found, _ = broker(Counting(life_s=-1))
    with pytest.raises(NoCredential, match="it has expired at 2026-07-29T11:59:59"):
        found.get("a")
    with pytest.raises(NoCredential, match="credential 'b': it is not there; name it below 'credentials'"):
        found.get("b")


def test_what_was_handed_out_is_seen_in_no_text_and_no_value() -> None:
    class Plain:
        def get(self, name: str) -> Secret:
            return Secret(value="correct horse battery")

    found = Broker({"a": Plain()})
    assert cleaned("it is correct horse battery") == "it is correct horse battery"
    secret = found.get("a")
    assert "correct horse battery" not in cleaned("it is\n correct horse battery and correct%20horse%20battery")
    assert "correct" not in f"{secret!r} {found!r}"
    confide("incorrect")  # what looks plain is a secret once it was one
    assert "incorrect" not in cleaned("it is incorrect")


# ------------------------------------------------------------------------------------------------ sources


def test_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(Credential(env="ACME"))
    with pytest.raises(NoCredential, match="credential 'a': the variable ACME is not set"):
        source.get("a")
    monkeypatch.setenv("ACME", "a-secret")
    assert broker_of({"a": Credential(env="ACME")}).get("a") == Secret(value="a-secret")


def test_a_file_that_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a-secret\n")
    source = source_of(Credential(file=str(path)))
    for mode in (0o600, 0o400):
        path.chmod(mode)
        assert source.get("a") == Secret(value="a-secret")
    for mode in (0o644, 0o640, 0o602, 0o700):
        path.chmod(mode)
        with pytest.raises(NoCredential, match=f"others may read it .mode {mode:04o}.; run: chmod 600"):
            source.get("a")


def test_what_is_no_file_of_ours_is_refused(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text("a-secret")
    real.chmod(0o600)
    (tmp_path / "link").symlink_to(real)
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "directory").mkdir(0o700)
    for name in ("link", "pipe", "directory", "nothing"):
        with pytest.raises(NoCredential) as refused:
            source_of(Credential(file=str(tmp_path / name))).get("a")
        assert str(refused.value).startswith(f"credential 'a': {tmp_path / name}: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a-secret")
    path.chmod(0o600)
    os.chown(path, 12345, 12345)
    with pytest.raises(NoCredential, match="it belongs to another user"):
        source_of(Credential(file=str(path))).get("a")


@pytest.mark.parametrize("text", ["short", "two\nlines of it", "a bell \x07 here", "x" * 20_000, ""])
def test_what_could_not_be_sent_or_hidden_is_refused_and_not_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(NoCredential) as refused:
        source_of(Credential(file=str(path))).get("a")
    assert not text or text not in str(refused.value)


def command(text: str, timeout_s: float = 20.0) -> FromCommand:
    return FromCommand(argv=(PYTHON, "-I", "-S", "-c", text), timeout_s=timeout_s)


def test_a_program_that_prints_an_object() -> None:
    printed = command('print(\'{"value": "a-secret", "expires_at": "2126-07-29T09:30:05Z"}\')').get("a")
    assert printed == Secret(value="a-secret", expires_at="2126-07-29T09:30:05Z")
    assert command('print(\'{"value": "a-secret"}\')').get("a").expires_at is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("print('leaked-secret')", "it does not print what is expected"),
        ("print('[]')", "it does not print what is expected"),
        ("print('{\"value\": 1}')", "it does not print what is expected"),
        ('print(\'{"value": "leaked-secret", "expires_at": "soon"}\')', "it does not print what is expected"),
        ("import sys; sys.exit('leaked-secret')", "it ended with 1"),
        ("print('x' * 100000)", "it prints more than 65536 bytes"),
    ],
)
def test_a_program_that_does_not_is_refused_and_nothing_of_it_is_told(text: str, said: str) -> None:
    with pytest.raises(NoCredential) as refused:
        command(text).get("a")
    assert said in str(refused.value)
    assert "leaked" not in str(refused.value).replace('{"value": "..."', "")


def test_a_program_that_hangs_is_ended_with_all_it_started() -> None:
    with pytest.raises(NoCredential, match="it takes longer than"):
        command("import os, time; os.fork(); time.sleep(600)", timeout_s=0.1).get("a")
    away = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(3)"
    with pytest.raises(NoCredential, match="it takes longer than"):
        command(away, timeout_s=0.1).get("a")
    with pytest.raises(NoCredential, match="it takes longer than"):
        command("import os, time; os.close(1); time.sleep(600)", timeout_s=0.5).get("a")
    with pytest.raises(NoCredential, match="No such file"):
        FromCommand(argv=("/nowhere/program",), timeout_s=1.0).get("a")


def test_the_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(Credential(keyring=KeyringEntry(system="plane", user="ann")))
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(NoCredential, match="the package keyring is missing; run: python3 -m pip install"):
        source.get("a")
    monkeypatch.delitem(sys.modules, "keyring")
    text = "def get_password(system, user):\n    return {('plane', 'ann'): 'a-secret'}.get((system, user))\n"
    (tmp_path / "keyring.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert source.get("a") == Secret(value="a-secret")
    other: Any = source_of(Credential(keyring=KeyringEntry(system="plane", user="bob")))
    with pytest.raises(NoCredential, match="the keyring has no entry of plane for bob"):
        other.get("a")
    monkeypatch.delitem(sys.modules, "keyring")
