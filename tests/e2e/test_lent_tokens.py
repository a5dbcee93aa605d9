"""A token for the remote that attempts at an engine are lent, and that is exchanged while one of them is under way."""

from __future__ import annotations

import contextlib
import json
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.engines import command_lines
from tests.e2e.test_canary import objects, written
from tests.scratch import Hub
from tests.smart_http import PUSH, SmartServer

FIRST, SECOND = "lent-Qx83mZ0vTw51", "lent-Jd27kH4yRb96"
SOURCE = """
import datetime, json, sys
until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=4)
print(json.dumps({"value": open(sys.argv[1]).read(), "expires_at": until.isoformat()}))
"""
SETTINGS = """
credentials: {{git: {{command: [{python}, {source}, {token}]}}}}
executors:
  far: {{engine: process, weight: 1, poll: 1s, beat: 1s, url: '{url}', credential: git}}
  local: {{weight: 0}}
"""
SAY = "env; cat {file}; echo; touch {outside}/said; until test -e {outside}/go; do sleep 0.05; done; cat {file}"


def header(token: str) -> str:
    return f"Basic {b64encode(f'x-access-token:{token}'.encode()).decode()}"


class Lender:
    """A remote that takes one token alone, and a program that tells which."""

    def __init__(self, place: Path) -> None:
        self.hub, self.file = Hub(place), place / "source" / "token"
        self.file.parent.mkdir()
        self.file.write_text(FIRST)
        self.server = SmartServer(self.hub.path.rename(place / "bare.git"), secret=header(FIRST))
        self.hub.path.symlink_to(place / "bare.git")
        self.done: list[tuple[str, str]] = []
        self.seen: list[str] = []
        self.server.before = self._look

    @property
    def url(self) -> str:
        return self.server.url.replace("ann:hunter2@", "")

    def _look(self, request: str) -> None:
        """Note what is about to be done, and whether a list of processes shows a token just then."""
        self.done.append((request, self.server.secret))
        self.seen += [words for words in command_lines().values() if FIRST in words or SECOND in words]

    def pushes(self, token: str) -> int:
        return self.done.count((PUSH, header(token)))


@pytest.fixture
def lender(tmp_path: Path) -> Iterator[Lender]:
    found = Lender(tmp_path)
    yield found
    found.server.close()


def holders(place: Path, *but: Path) -> list[str]:
    """Return where a token is, in any file below a place."""
    needles = [each for token in (FIRST, SECOND) for each in (token.encode(), header(token)[6:].encode())]
    while True:
        with contextlib.suppress(FileNotFoundError):  # what lives makes and removes files meanwhile
            found = [path for path, data in written(place) if any(each in data for each in needles)]
            break
    return [each for each in found if not any(each.startswith(str(path)) for path in but)]


def test_a_run_waits_for_a_token_and_says_so(lender: Lender, tmp_path: Path) -> None:
    repo, token = lender.hub.clone("host"), tmp_path / "token"
    repo.settings(
        f"credentials: {{git: {{file: {token}}}}}\n"
        f"executors: {{far: {{engine: process, weight: 1, poll: 1s, beat: 1s, url: '{lender.url}', credential: git}},"
        " local: {weight: 0}}\n"
    )
    repo.pipeline("p", "workspace: empty\nstages:\n  - {id: s, command: 'true'}\n")
    repo.request("x", "p")
    repo.push()
    assert repo.run("reconcile").returncode == 0  # it is claimed
    said = repo.run("reconcile")
    why = f"credential 'git': {token}: No such file or directory"
    assert f"waits: {why}" in said.stderr and why in repo.run("status").stdout
    token.write_text(FIRST)
    token.chmod(0o600)
    said = repo.run("reconcile", "--wait")
    assert said.returncode == 0, said.stderr
    assert lender.hub.outcomes("x") == ["succeeded"]


def test_a_token_is_exchanged_in_the_middle_of_an_attempt(lender: Lender, tmp_path: Path) -> None:
    repo = lender.hub.clone("host")
    source = lender.file.parent / "source.py"
    source.write_text(SOURCE)
    repo.settings(SETTINGS.format(python=sys.executable, source=source, token=lender.file, url=lender.url))
    file = repo.path / ".git/reconciler/engines/far/*.RECONCILER_GIT_CREDENTIAL"
    repo.pipeline(
        "p",
        f"stages:\n  - id: s\n    command: {json.dumps(SAY.format(file=file, outside=repo.outside))}\n",
    )
    repo.request("x", "p")
    repo.push()
    reconciler = repo.start("reconcile", "--wait")
    repo.wait_for((repo.outside / "said").exists, 60)
    repo.wait_for(lambda: lender.pushes(FIRST) > 1)
    held = holders(tmp_path, lender.file)
    assert held and all(".RECONCILER_GIT_CREDENTIAL" in each for each in held), held
    assert {each.stat().st_mode & 0o777 for each in repo.path.glob(".git/reconciler/engines/far/*CREDENTIAL")} == {
        0o600
    }
    # The remote takes the old one no more before anybody knows of the new one: nothing is lost by that.
    lender.server.secret = header(SECOND)
    before = len(lender.server.asked)
    repo.wait_for(lambda: len(lender.server.asked) > before + 2)
    lender.file.write_text(SECOND)
    repo.wait_for(lambda: lender.pushes(SECOND) > 1, 60)
    (repo.outside / "go").touch()
    said, errors = reconciler.communicate(timeout=60)
    assert reconciler.returncode == 0, errors
    manifest = lender.hub.manifests()["x"]
    assert (manifest["status"], [each["number"] for each in manifest["attempts"]]) == ("succeeded", [1])
    log = lender.hub.git("show", f"main:{manifest['commands'][0]['log_path']}")
    assert log.splitlines()[-2:] == ["[redacted:environment]"] * 2
    assert "RECONCILER_GIT" not in log and "x-access-token" not in log
    assert lender.seen == []
    repo.wait_for(lambda: holders(tmp_path, lender.file) == [])
    everything = objects(lender.hub.path) + objects(repo.path) + (said + errors).encode()
    assert FIRST.encode() not in everything and SECOND.encode() not in everything
