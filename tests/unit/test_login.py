"""As whom git asks a remote: what it is told, and that nobody else is told it; real git, a real server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reconciler import git
from reconciler.errors import GitFailed, TransientError, UsageError
from reconciler.executors.entrusted import Entrusted
from reconciler.login import login_fault, login_of

TOKEN = "lent-0f-a-t3st"


@pytest.mark.parametrize(
    ("address", "origin", "user"),
    [
        ("https://git.example.com/a/b.git", "https://git.example.com", "x-access-token"),
        ("https://oauth2@git.example.com:8443/a.git", "https://git.example.com:8443", "oauth2"),
        ("HTTPS://Git.Example.com/a=b", "https://git.example.com", "x-access-token"),
        ("http://127.0.0.1:8080/a.git", "http://127.0.0.1:8080", "x-access-token"),
        ("http://[::1]:8080/a.git", "http://[::1]:8080", "x-access-token"),
        ("https://ann:old@git.example.com/a.git", "https://git.example.com", "ann"),
    ],
)
def test_an_address_takes_a_token(address: str, origin: str, user: str) -> None:
    found = login_of(address, lambda: TOKEN)
    assert (found.origin, found.user) == (origin, user)
    assert TOKEN not in " ".join(found.settings)
    assert found.variables() == {"RECONCILER_GIT_USER": user, "RECONCILER_GIT_TOKEN": TOKEN, "GIT_ASKPASS": ""}


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("git@git.example.com:a/b.git", "https alone"),
        ("ssh://git.example.com/a.git", "https alone"),
        ("/srv/git/a.git", "https alone"),
        ("https://a b/c", "https alone"),
        ("https://example.com\n.helper=!id;/c", "https alone"),
        ("https://$(id)/c", "https alone"),
        ("http://git.example.com/a.git", "in the clear"),
        ("http://127.0.0.1.example.com/a.git", "in the clear"),
    ],
)
def test_an_address_that_takes_none_says_why(address: str, fault: str) -> None:
    assert fault in login_fault(address)
    with pytest.raises(ValueError, match=fault):
        login_of(address, lambda: TOKEN)


@contextmanager
def answering(status: int, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """Serve one answer to everything, and note what was said by way of authorization."""
    told: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            return

        def do_GET(self) -> None:
            told.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value.replace("PATH", self.path))
            self.send_header("Content-Length", "0")
            self.end_headers()

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}", told
    finally:
        http.shutdown()
        http.server_close()


def asked(url: str, place: Path) -> str:
    """Ask a remote with a token and return what git says."""
    login = login_of(url, lambda: TOKEN)
    with pytest.raises(GitFailed) as failed:
        git.run(("ls-remote", url), directory=place, config=login.settings, variables=login.variables())
    return failed.value.stderr


def test_nobody_else_answers_for_the_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is refused is refused: neither a helper of this machine nor a program is asked, nor told of it."""
    note = tmp_path / "asked"
    (tmp_path / "gitconfig").write_text(f'[credential]\n\thelper = "!cat >> {note}; echo $1 >> {note}; :"\n')
    (tmp_path / "askpass").write_text(f"#!/bin/sh\necho askpass >> {note}\necho guess\n")
    (tmp_path / "askpass").chmod(0o755)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_ASKPASS", str(tmp_path / "askpass"))
    with answering(401, WWW_Authenticate='Basic realm="git"') as (url, told):
        said = asked(f"{url}/a.git", tmp_path)
    assert "Authentication failed" in said and TOKEN not in said
    assert len(told) == 2 and told[0] == "" and told[1].startswith("Basic ")
    assert not note.exists()


@pytest.mark.parametrize("followed", [False, True])
def test_a_server_elsewhere_gets_nothing(tmp_path: Path, followed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours do not go where a server sends them, and git that did would say nothing there."""
    if followed:
        options = tuple(each.replace("protocol.allow=user", "protocol.allow=always") for each in git.OPTIONS)
        monkeypatch.setattr(git, "OPTIONS", options)
    basic = {"WWW_Authenticate": 'Basic realm="git"'}
    with answering(401, **basic) as (elsewhere, told), answering(302, Location=f"{elsewhere}PATH") as (url, _):
        said = asked(f"{url}/a.git", tmp_path)
    assert TOKEN not in said
    assert told == ([""] if followed else [])


# ------------------------------------------------------------------------------------------------ what a courier has


def test_a_token_in_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    """As a kubelet shows it: by links, of which one is turned."""
    for name, text in (("one", "the-first\n"), ("two", "the-second")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "TOKEN").write_text(text)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "TOKEN").symlink_to("..data/TOKEN")
    found, heard = Entrusted(path=str(tmp_path / "TOKEN")), list[str]()
    login = found.login("https://git.example.com/a.git", heard.append)
    assert login is not None and login.variables()["RECONCILER_GIT_TOKEN"] == "the-first"
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(tmp_path / "..data")
    assert login.variables()["RECONCILER_GIT_TOKEN"] == "the-second"
    assert heard == ["the-first", "the-second"]
    (tmp_path / "..data").unlink()
    with pytest.raises(TransientError, match=r"RECONCILER_GIT_CREDENTIAL_FILE: .*: holds no token"):
        login.variables()
    found.let_go()
    found.let_go()


@pytest.mark.parametrize("data", [b"", b"\n", b"a\nb", b"x" * 20_000])
def test_a_file_that_holds_none_is_looked_at_again(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "token").write_bytes(data)
    with pytest.raises(TransientError, match="RECONCILER_GIT_CREDENTIAL_FILE"):
        Entrusted(path=str(tmp_path / "token")).token()


def test_without_a_token_git_finds_what_the_node_has() -> None:
    assert Entrusted().login("/srv/a.git", print) is None


def test_a_token_for_what_takes_none_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="--url: a token reaches a repository by https alone"):
        Entrusted(value=TOKEN).login("/srv/a.git", print)
    assert TOKEN not in repr(Entrusted(value=TOKEN))
