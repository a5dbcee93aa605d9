"""What the broker hands out is in no evidence and no log from then on, also of runs that were under way by then."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.test_canary import objects, written
from tests.outside_server import Outside
from tests.scratch import Scratch

TOKEN = "qZ7-plane-Xw31"
LONG = """
stages:
  - id: say
    command: 'cat {token}; echo; touch {place}/said; until [ -e {place}/go ]; do sleep 0.05; done; cat {token}; echo; cat {token} > made.txt'
  - id: implement
    agent: {{use: mine, prompt: Do it., deliver: branch}}
  - id: check
    command: 'echo it is $(cat {token}); exit 3'
    allow_failure: true
"""


@pytest.fixture
def outside() -> Iterator[Outside]:
    found = Outside()
    try:
        yield found
    finally:
        found.close()


def test_a_run_that_was_begun_before_does_not_say_it_and_neither_does_its_agent(
    scratch: Scratch, outside: Outside
) -> None:
    token = scratch.outside / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    say = f"echo I found $(cat {token}); cat {token} > found.txt"
    scratch.settings(
        f"credentials: {{plane: {{file: '{token}'}}}}\n"
        f"cloud_sync: {{base_url: '{outside.url}', workspace: billing, credential: plane}}\n"
        f"agents: {{mine: {{driver: command, command: [sh, -c, '{say}']}}}}\n"
    )
    scratch.pipeline("long", LONG.format(token=token, place=scratch.outside))
    scratch.request("long", "long")
    scratch.simple("quick", "true")
    # The reconciler that begins the runs has no use for the secret, and ends.
    assert scratch.run("reconcile").returncode == 0
    scratch.wait_for((scratch.outside / "said").exists)
    scratch.wait_for(lambda: scratch.attempt("quick")["outcome"] == "succeeded")
    # The next one is handed it out, to deliver the run that has ended, and knows nothing of the other's worker.
    assert scratch.run("reconcile").returncode == 0
    assert [each.headers["authorization"] for each in outside.asked] == [f"Bearer {TOKEN}"]
    (scratch.outside / "go").touch()
    scratch.wait_for(lambda: scratch.attempt("long")["outcome"] == "succeeded")
    log = next((scratch.directory("long") / "commands").glob("*-say.log"))
    assert log.read_text() == f"{TOKEN}\n[redacted:environment]\n", "what was said before stands in the log here"
    for path, data in written(scratch.directory("long") / "artifacts"):
        assert TOKEN.encode() not in data, path
    attempt = scratch.attempt("long")
    assert TOKEN not in json.dumps(attempt)
    assert attempt["stages"][2]["summary"] == "exit code 3: it is [redacted:environment]"
    # Evidence is made by a third one, which was told nothing yet: no commit holds it, and no file does any more.
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    assert "nothing is delivered, because" in done.stderr and "would reveal a secret (environment)" in done.stderr
    manifest = scratch.manifest("long")
    assert scratch.git("show", f"HEAD:{manifest['commands'][0]['log_path']}") == "[redacted:environment]\n" * 2
    assert manifest["commands"][0]["log_bytes"] == len("[redacted:environment]\n" * 2)
    answer = manifest["commands"][1]["answer"]
    texts = {each["path"].rpartition("/")[2]: scratch.git("show", f"HEAD:{each['path']}") for each in answer["files"]}
    assert "I found [redacted:environment]" in texts["answer.txt"]
    assert "+[redacted:environment]" in texts["changes.patch"]
    assert TOKEN not in done.stdout + done.stderr
    assert [path for path, data in written(scratch.path) if TOKEN.encode() in data] == []
    assert TOKEN.encode() not in objects(scratch.path)
