"""A secret that a run says in every way it can: afterwards every byte that was written is searched for it.

All files below the repository and the directory for temporary files are read, and all git objects, dangling ones
included. What is promised here is told to people in docs/how-to/privacy.md, in the same order.
"""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from tests.preloaded import RECONCILER
from tests.scratch import ENVIRONMENT, Scratch

SECRET = 'Cn4ry+9/Zt"q7' + "Vw2\\kR8"
PLAIN = "Zk3vQ9xT7pLm" + "2RwY8sHd"
TOKEN = "gh" + "p_" + "A1b2" * 9
NUMBER = "ACME-" + "730" * 4
KEY = "\n".join(["first-Kq82nX0vLw61", "second-Tz55mB9cRe37", "third-Yp14sD6gHu90"])
SAID = {"CANARY_TOKEN": SECRET, "CANARY_PASSWORD": PLAIN, "CANARY_PRIVATE_KEY": KEY, "TOLD": f"{TOKEN} {NUMBER}"}

STAGES = r"""
workspace: worktree
guardrails_required: false
stages:
  - {id: prints, command: [python3, say.py, prints], allow_failure: true}
  - {id: pieces, command: [python3, say.py, pieces], allow_failure: true}
  - {id: forms, command: [python3, say.py, forms], allow_failure: true}
  - {id: colours, command: [python3, say.py, colours], allow_failure: true}
  - {id: fails, command: "set -x; ls --no-such=\"$CANARY_TOKEN\"; \"$CANARY_PASSWORD\" \"$TOLD\"", allow_failure: true}
  - {id: dies, command: "echo \"$TOLD $CANARY_TOKEN\"; kill -9 $$", allow_failure: true}
  - {id: slow, command: "printf %s \"$CANARY_PASSWORD\"; sleep 60", timeout: 300ms, allow_failure: true}
  - {id: again, command: "echo \"$CANARY_PASSWORD $TOLD\" 1>&2; exit 1", attempts_max: 2, backoff: 10ms, allow_failure: true}
  - {id: files, command: [python3, say.py, files], allow_failure: true}
  - {id: guarded, guard: {use: command, command: [python3, say.py, findings]}, allow_failure: true}
  - {id: answers, agent: {use: mine, prompt: Say it., deliver: branch}}
"""

SAY = r"""
import base64, json, os, sys, time, urllib.parse
secrets = [os.environ[each] for each in ("CANARY_TOKEN", "CANARY_PASSWORD", "CANARY_PRIVATE_KEY")] + os.environ["TOLD"].split()
def prints():
    for each in secrets:
        print("here it is:", each)
        print(each, file=sys.stderr)
        print("x" * 70000 + " " + each + " " + "y" * 70000)
    sys.stdout.write("and without an end " + secrets[1])
def pieces():
    for each in secrets:
        for letter in " " + each + "\n":
            sys.stdout.write(letter); sys.stdout.flush()
    sys.stdout.write(secrets[0][:9]); sys.stdout.flush(); time.sleep(0.2)
    print(secrets[0][9:])
def forms():
    for each in secrets[:2]:
        print(json.dumps({"a": [each]}), urllib.parse.quote(each), urllib.parse.quote(each, safe=""))
        for lead in ("", "a", "ab"):
            print(base64.b64encode((lead + each + " and more").encode()).decode())
            print(base64.urlsafe_b64encode((lead + each + " and more").encode()).decode())
def colours():
    for each in secrets:
        print("its last line: " + "\x1b[31m".join((each[:5], each[5:])))
    sys.exit(3)
def files():
    os.makedirs("made", exist_ok=True)
    open("made/plain.txt", "w").write("\n".join(secrets))
    open("made/" + secrets[1] + ".txt", "w").write("x\n")
    open("made/binary", "wb").write(b"\0\1\2" + secrets[1].encode() + bytes(range(256)))
def findings():
    print(json.dumps({"findings": [{"path": "a", "line": 1, "message": secrets[1]}]}))
    sys.exit(1)
def agent():
    for each in secrets:
        print("I found " + each)
    print(secrets[1] + " is the answer")
globals()[sys.argv[1]]()
"""
SETTINGS = """
redact: {patterns: ["ACME-[0-9]+"]}
agents: {mine: {driver: command, command: [python3, say.py, agent]}}
"""


def needles() -> Iterator[bytes]:
    """Yield every form of the secrets that is promised to be nowhere."""
    for each in (SECRET, PLAIN, TOKEN, NUMBER, *KEY.splitlines()):
        yield each.encode()
    for each in (SECRET, PLAIN):
        yield json.dumps(each)[1:-1].encode()
        yield json.dumps(json.dumps(each)[1:-1])[1:-1].encode()
        yield quote(each, safe="").encode()
        for lead in ("", "a", "ab"):
            coded = b64encode((lead + each).encode())[4:-4]
            yield from (coded, coded.translate(bytes.maketrans(b"+/", b"-_")))


def written(place: Path) -> Iterator[tuple[str, bytes]]:
    """Yield all that is on disk: names and contents of files, targets of links."""
    for directory, folders, names in os.walk(place):
        for name in (*folders, *names):
            path = Path(directory, name)
            yield str(path), os.fsencode(path)
            if path.is_symlink():
                yield str(path), os.fsencode(os.readlink(path))
            elif path.is_file():
                yield str(path), path.read_bytes()


def objects(repository: Path) -> bytes:
    """Return all objects of a repository, decompressed."""
    asked = ["git", "cat-file", "--batch-all-objects", "--unordered", "--batch"]
    return subprocess.run(asked, cwd=repository, env=ENVIRONMENT, capture_output=True, check=True).stdout


def found(place: Path, repository: Path, said: dict[str, bytes]) -> list[str]:
    """Return where one of the secrets is."""
    everything = [*written(place), ("git objects", objects(repository)), *said.items()]
    return [f"{where}: {needle!r}" for where, data in everything for needle in needles() if needle in data]


def run(scratch: Scratch, place: Path, *words: str) -> bytes:
    """Run a verb with the secrets in its environment, and return all that it says."""
    environment = {
        **ENVIRONMENT,
        **SAID,
        "TMPDIR": str(place),
        "HOME": str(place),
        "XDG_CACHE_HOME": str(place / "cache"),
    }
    done = subprocess.run(
        [*RECONCILER, *words], cwd=scratch.path, env=environment, capture_output=True, check=False, timeout=90
    )
    return done.stdout + done.stderr


def test_a_secret_is_in_no_byte_that_was_written(scratch: Scratch) -> None:
    place = scratch.outside / "temporary"
    place.mkdir()
    scratch.settings(SETTINGS)
    scratch.write("say.py", SAY)
    scratch.pipeline("p", STAGES)
    scratch.request("r", "p")
    scratch.commit()
    said = {"reconcile": run(scratch, place, "reconcile", "--wait")}
    for words in (["status", "--all"], ["why", "r"], ["logs", "r"], ["report", "--output", str(place / "report")]):
        said[" ".join(words)] = run(scratch, place, *words)
    stages = scratch.stages("r")
    assert {each: stages[each]["status"] for each in stages if stages[each]["redactions"] == 0} == {
        "files": "succeeded"
    }
    where = found(scratch.outside.parent, scratch.path, said)
    assert not where, "\n".join(where)


def test_a_password_in_the_address_of_a_remote_stays_in_the_configuration(scratch: Scratch) -> None:
    place = scratch.outside / "temporary"
    place.mkdir()
    scratch.settings()
    scratch.simple("r", "true")
    scratch.git("remote", "add", "origin", f"http://ann:{PLAIN}@127.0.0.1:1/x.git")
    said = {words: run(scratch, place, *words.split()) for words in ("reconcile", "status", "doctor")}
    assert b"at origin" in said["reconcile"]
    where = found(scratch.outside.parent, scratch.path, said)
    assert [each for each in where if "/.git/config:" not in each] == []


def test_shadow_counts_what_it_would_replace_and_changes_nothing(scratch: Scratch) -> None:
    scratch.settings("redact: {mode: shadow, rules: [{id: acme, pattern: 'ACME-[0-9]+'}]}\n")
    scratch.simple("r", f"echo {NUMBER} {NUMBER}; printf %s password=hunter22")
    assert scratch.run("reconcile", "--wait").returncode == 0
    stage = scratch.stages("r")["s"]
    assert scratch.git("show", f"HEAD:{stage['log_path']}") == f"{NUMBER} {NUMBER}\npassword=hunter22"
    assert scratch.manifest("r")["privacy"] == {
        "mode": "shadow", "redactions": 3, "redactions_by_rule": {"acme": 2, "secret": 1},
    }  # fmt: skip
