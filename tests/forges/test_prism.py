"""GitHub's description as a server: `@stoplight/prism-cli` answers with its examples, and refuses what it does not know.

Installed from npm once into `build/forges/`, and started once; without npm or its registry this is skipped and says why.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.forges.forge import Check, Forge, Kind, Site, State, Token, Wanted
from reconciler.forges.opening import speak
from tests.forges.description import BUILD, description

PACKAGE = "@stoplight/prism-cli@5"
START_S = 25.0
PATHS = (
    "/user",
    "/repos/{owner}/{repo}/issues/{issue_number}/comments",
    "/repos/{owner}/{repo}/issues/comments/{comment_id}",
    "/repos/{owner}/{repo}/statuses/{sha}",
    "/repos/{owner}/{repo}/pulls",
)


def part_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a description that is about some paths, with all that it refers to."""
    part = {key: document[key] for key in ("openapi", "info")} | {
        "paths": {each: document["paths"][each] for each in PATHS}
    }
    todo, seen = [json.dumps(part["paths"])], set()
    while todo:
        text = todo.pop()
        for each in {word.partition('"')[0] for word in text.split('"$ref": "#/')[1:]} - seen:
            seen.add(each)
            value = document
            for word in each.split("/"):
                value = value[word]
            _put(part, each.split("/"), value)
            todo.append(json.dumps(value))
    return part


def _put(part: dict[str, Any], words: list[str], value: Any) -> None:
    for word in words[:-1]:
        part = part.setdefault(word, {})
    part[words[-1]] = value


def program() -> Path:
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm is not installed, so neither is prism")
    found = BUILD / "prism" / "node_modules" / ".bin" / "prism"
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "prism.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            command = ["npm", "install", "--no-fund", "--no-audit", "--prefix", str(BUILD / "prism"), PACKAGE]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            except subprocess.TimeoutExpired:
                pytest.skip(f"npm does not install {PACKAGE} within five minutes")
            if done.returncode != 0:
                pytest.skip(f"npm cannot install {PACKAGE}: {done.stderr.strip()[-300:]}")
    return found


@pytest.fixture(scope="module")
def prism() -> Iterator[str]:
    """Return the address of a server that is made from GitHub's description."""
    file = BUILD / "github-part.json"
    file.write_text(json.dumps(part_of(description("github").document)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(program()), "mock", "-h", "127.0.0.1", "-p", str(port), str(file)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as there:
            if there.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.skip(f"prism did not start within {START_S:g} s")


@pytest.fixture
def forge(prism: str) -> Iterator[Forge]:
    site = Site(kind=Kind.GITHUB, url=prism, api_url=prism, repository="octocat/Hello-World")
    found = speak(site, Token(name="FORGE_TOKEN", value="any"))
    assert not isinstance(found, str)
    yield found
    found.close()


def test_everything_we_ask_of_github_is_what_its_description_allows(forge: Forge) -> None:
    assert forge.comment(1347, "<!-- ours -->", "<!-- ours -->\nhello\n").how == "created"
    # The example is a comment by octocat, as whom the server also takes us.
    assert forge.comment(1347, "Me too", "Me too").how == "unchanged"
    assert forge.comment(1347, "Me too", "Me too!").how == "updated"
    forge.status(
        "a" * 40, Check(context="reconciler/r", state=State.FAILURE, description="1 failed", link="https://x.example/e")
    )
    assert forge.pull_request(Wanted(head="runs/r-0123abcd", base="main", title="t", body="b")).number == 1347


def test_the_server_refuses_what_the_description_does_not_allow(prism: str) -> None:
    wrong = httpx.post(f"{prism}/repos/o/r/statuses/{'a' * 40}", json={"state": "fine"}, trust_env=False)
    assert wrong.status_code == 422
