"""A remote that drops answers, refuses, or never answers: nothing is lost, nothing is there twice, reasons are said."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.test_remote import moved_back, reconciled
from tests.scratch import ENVIRONMENT, Clone, Hub, wait_for

SHORT = {"RECONCILER_REMOTE_TIMEOUT": "2"}


SAID_BYTES_MAX = 1 << 16


class Proxy:
    """A TCP proxy in front of a git server, which can be told to misbehave.

    `drop_answer` closes a connection that pushes once the server has answered all of it, and swallows that answer.
    `hang` accepts and says nothing.
    """

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.drop_answers = 0
        self.dropped = 0
        self.hang = False
        self.accepted = 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.open: list[socket.socket] = []
        self.ended = threading.Event()
        self.threads: list[threading.Thread] = []
        self._begin(self._accept)

    def close(self) -> None:
        self.ended.set()
        for each in self.threads:
            each.join(timeout=10)
        for each in (self.listening, *self.open):
            each.close()

    def _begin(self, work: Callable[..., None], *words: object) -> None:
        self.threads.append(threading.Thread(target=work, args=words, daemon=True))
        self.threads[-1].start()

    def _accept(self) -> None:
        self.listening.settimeout(0.05)
        while not self.ended.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self.listening.accept()
                self.accepted += 1
                self.open.append(client)
                if not self.hang:
                    self._begin(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.server_port)) as server:
            selector = selectors.DefaultSelector()
            for each in (client, server):
                selector.register(each, selectors.EVENT_READ)
            said, sent = b"", False
            while not self.ended.is_set():
                for key, _ in selector.select(0.05):
                    assert isinstance(key.fileobj, socket.socket)
                    with contextlib.suppress(ConnectionError):
                        data = key.fileobj.recv(1 << 16)
                        if key.fileobj is client:
                            said += data[: SAID_BYTES_MAX - len(said)]  # a word may come in two parts
                            # The server answers the list of commands when it has the pack behind it, if there is one.
                            sent = b"git-receive-pack" in said and (b"report-status" in said or b"PACK" in said)
                            server.sendall(data)
                        elif sent and self.drop_answers and data:
                            # The first word behind a pack is the report of what was done.
                            self.drop_answers -= 1
                            self.dropped += 1
                            return
                        elif data:
                            client.sendall(data)
                        if data:
                            continue
                    return


@pytest.fixture
def proxy(hub: Hub, tmp_path: Path) -> Iterator[Proxy]:
    """Serve the hub by `git daemon`, behind a proxy."""
    (hub.path / "git-daemon-export-ok").touch()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    daemon = subprocess.Popen(
        ["git", "daemon", f"--port={port}", "--listen=127.0.0.1", "--reuseaddr", "--enable=receive-pack",
         f"--base-path={tmp_path}"],
        env=ENVIRONMENT, cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: _answers(port))
    between = Proxy(port)
    try:
        yield between
    finally:
        between.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def behind(clone: Clone, proxy: Proxy) -> Clone:
    clone.git("remote", "set-url", "origin", f"git://127.0.0.1:{proxy.port}/hub.git")
    return clone


# ------------------------------------------------------------------------------------------------ lost answers


@pytest.mark.parametrize("lost", [1, 2, 5])
def test_answers_to_pushes_that_are_lost_cost_nothing(hub: Hub, proxy: Proxy, lost: int) -> None:
    [a] = hub.clones("a", lease_s=60)
    a.write("tasks/t.md", "- [ ] Green <!-- item: t/x -->\n")
    a.simple("x", f"echo ran >> {hub.outside}/ran", proves="[t/x]")
    a.push()
    behind(a, proxy)
    proxy.drop_answers = lost
    reconciled(a)
    assert 1 <= proxy.dropped <= lost
    assert (hub.outside / "ran").read_text() == "ran\n"
    assert hub.outcomes("x") == ["succeeded"]
    assert hub.proofs() == {"x": 1}
    assert hub.shared() == []


def test_an_answer_that_is_lost_when_only_evidence_is_pushed(hub: Hub, proxy: Proxy) -> None:
    [a] = hub.clones("a", lease_s=60)
    a.simple("x", f"echo ran >> {hub.outside}/ran; until test -e {hub.outside}/go; do sleep 0.05; done")
    a.push()
    behind(a, proxy)
    a.run("reconcile")
    wait_for((hub.outside / "ran").exists)
    before = hub.git("rev-list", "--count", "main")
    (hub.outside / "go").touch()
    wait_for(lambda: a.record("x", "attempts/1.json").exists() and a.attempt("x")["outcome"] == "succeeded")
    proxy.drop_answers = 1
    reconciled(a)
    assert proxy.dropped <= 1
    assert int(hub.git("rev-list", "--count", "main")) == int(before) + 1
    assert hub.proofs() == {"x": 1}
    assert hub.shared() == []


def test_two_hosts_whose_answers_are_lost_run_nothing_twice(hub: Hub, proxy: Proxy) -> None:
    a, b = hub.clones("a", "b", lease_s=60)
    for name in ("x", "y", "z"):
        a.simple(name, f"echo {name} >> {hub.outside}/ran; sleep 0.3")
    a.push()
    proxy.drop_answers = 6
    both = [behind(each, proxy).start("reconcile", "--wait") for each in (a, b)]
    for each in both:
        _, errors = each.communicate(timeout=90)
        assert each.returncode == 0, errors
    assert sorted((hub.outside / "ran").read_text().split()) == ["x", "y", "z"]
    assert hub.proofs() == {"x": 1, "y": 1, "z": 1}
    assert moved_back(hub, "main") == []
    assert hub.shared() == []


# ------------------------------------------------------------------------------------------------ no answers


def test_a_remote_that_never_answers_is_waited_for_a_bounded_time(hub: Hub, proxy: Proxy) -> None:
    [a] = hub.clones("a", lease_s=60)
    a.simple("x", f"echo ran >> {hub.outside}/ran")
    a.push()
    behind(a, proxy)
    proxy.hang = True
    began = time.monotonic()
    done = a.run("reconcile", **SHORT)
    assert time.monotonic() - began < 20
    assert (done.returncode, "no answer within 2 s" in done.stderr) == (75, True), done.stderr
    assert not (hub.outside / "ran").exists()
    assert a.everything() == []
    proxy.hang = False
    done = a.run("reconcile", "--wait", **SHORT)
    assert done.returncode == 0, done.stderr
    assert (hub.outside / "ran").read_text() == "ran\n"
    assert hub.proofs() == {"x": 1}


def test_evidence_lands_once_after_a_remote_hung_in_the_middle(hub: Hub, proxy: Proxy) -> None:
    [a] = hub.clones("a", lease_s=60)
    a.simple("x", f"echo ran >> {hub.outside}/ran; until test -e {hub.outside}/go; do sleep 0.05; done")
    a.push()
    behind(a, proxy)
    first = a.start("reconcile", "--wait", **SHORT)
    wait_for((hub.outside / "ran").exists)
    proxy.hang = True
    known = proxy.accepted
    (hub.outside / "go").touch()
    wait_for(lambda: proxy.accepted > known and "remote waits" in a.run("status").stdout, 40)
    assert hub.manifests() == {}
    proxy.hang = False
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    assert (hub.outside / "ran").read_text() == "ran\n"
    assert hub.proofs() == {"x": 1}
    assert hub.shared() == []


@pytest.mark.parametrize("said", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused(hub: Hub, said: str) -> None:
    [a] = hub.clones("a")
    done = a.run("status", RECONCILER_REMOTE_TIMEOUT=said)
    assert (done.returncode, "RECONCILER_REMOTE_TIMEOUT" in done.stderr) == (2, True)


# ------------------------------------------------------------------------------------------------ refusals

PROTECTED = (
    "while read old new ref; do\n"
    "if test $ref = refs/heads/main; then echo 'main is protected: open a pull request' >&2; exit 1; fi\ndone\n"
)


def test_a_server_that_protects_the_branch_is_quoted_and_evidence_waits(hub: Hub) -> None:
    [a] = hub.clones("a", lease_s=60)
    a.simple("x", f"echo ran >> {hub.outside}/ran")
    a.push()
    hook = hub.hook("pre-receive", PROTECTED)
    done = a.run("reconcile", "--wait")
    assert done.returncode == 75, (done.stdout, done.stderr)
    assert "main is protected: open a pull request" in done.stderr
    status = a.run("status").stdout
    assert "publish waits" in status and "main is protected: open a pull request" in status
    assert "mode: branch" in status, "the cure is said"
    assert "main is protected" in a.run("why", "x").stdout
    assert [each.split("/")[2] for each in hub.shared()] == ["claims", "hosts"]
    assert a.run("reconcile").returncode == 75
    hook.unlink()
    reconciled(a)
    assert (hub.outside / "ran").read_text() == "ran\n"
    assert hub.outcomes("x") == ["succeeded"]
    assert hub.shared() == []
    assert "waits" not in a.run("status").stdout


def test_a_server_that_protects_the_branch_takes_evidence_on_one_of_its_own(hub: Hub) -> None:
    [a] = hub.clones("a", more="publish: {mode: branch}\n", lease_s=60)
    a.simple("x", "true")
    a.push()
    hub.hook("pre-receive", PROTECTED)
    reconciled(a)
    assert hub.manifests("reconciler/evidence")["x"]["status"] == "succeeded"


def test_a_server_that_refuses_refs_of_ours_runs_nothing_and_is_quoted(hub: Hub) -> None:
    [a] = hub.clones("a", lease_s=6)
    a.simple("x", f"echo ran >> {hub.outside}/ran")
    a.push()
    hook = hub.hook(
        "pre-receive",
        "while read old new ref; do case $ref in refs/reconciler/*) echo 'unknown namespace' >&2; exit 1;; esac; done\n",
    )
    done = a.run("reconcile")
    assert done.returncode == 75, (done.stdout, done.stderr)
    assert "unknown namespace" in done.stderr
    assert "unknown namespace" in a.run("status").stdout
    done = a.run("reconcile", "--wait")
    assert (done.returncode, "Traceback" in done.stderr) == (75, False), "it gives up waiting"
    assert not (hub.outside / "ran").exists()
    hook.unlink()
    reconciled(a)
    assert (hub.outside / "ran").read_text() == "ran\n"
    assert hub.shared() == []


def test_a_server_that_refuses_one_claim_lets_the_others_run(hub: Hub) -> None:
    [a] = hub.clones("a", lease_s=6)
    for name in ("x", "y"):
        a.simple(name, f"echo {name} >> {hub.outside}/ran")
    a.push()
    hook = hub.hook("update", "case $1 in refs/reconciler/claims/x-*) echo 'not x' >&2; exit 1;; esac\n")
    done = a.run("reconcile", "--wait")
    assert done.returncode == 75, (done.stdout, done.stderr)
    assert (hub.outside / "ran").read_text() == "y\n"
    assert "not x" in done.stderr
    assert hub.outcomes("y") == ["succeeded"]
    hook.unlink()
    reconciled(a)
    assert hub.outcomes("x") == ["succeeded"]
    assert (hub.outside / "ran").read_text() == "y\nx\n"
    assert hub.shared() == []


def test_a_clone_that_may_only_read_shows_and_runs_nothing(hub: Hub, proxy: Proxy) -> None:
    a, b = hub.clones("a", "b", lease_s=60)
    a.simple("x", f"echo ran >> {hub.outside}/ran")
    a.push()
    hub.git("config", "daemon.receivepack", "false")
    behind(b, proxy)
    done = b.run("reconcile")
    assert (done.returncode, "Traceback" in done.stderr) == (75, False), done.stderr
    assert not (hub.outside / "ran").exists()
    assert "absent" in b.run("status").stdout


def test_a_lock_that_was_left_at_the_server_is_named_and_evidence_waits_for_it(hub: Hub) -> None:
    [a] = hub.clones("a", lease_s=60)
    a.simple("x", f"echo ran >> {hub.outside}/ran")
    a.push()
    lock = hub.path / "refs/heads/main.lock"
    lock.touch()
    done = a.run("reconcile", "--wait")
    assert (done.returncode, "Traceback" in done.stderr) == (75, False), done.stderr
    assert "main.lock" in a.run("status").stdout
    assert lock.exists(), "what is at the server is the server's"
    lock.unlink()
    reconciled(a)
    assert (hub.outside / "ran").read_text() == "ran\n"
    assert hub.proofs() == {"x": 1}
    assert hub.shared() == []


def test_a_server_whose_own_git_is_killed_now_and_then_gets_everything_once(hub: Hub, tmp_path: Path) -> None:
    [a] = hub.clones("a", more="attempts_max: 50\nruns_max: 2\n", lease_s=60)
    for number in range(8):
        a.simple(f"r{number}", f"echo r{number} >> {hub.outside}/ran")
    a.push()
    killing = tmp_path / "killing"
    killing.write_text(
        "#!/bin/sh\n# Kill every second one that serves a push, in the middle of its work.\n"
        f'echo >> {tmp_path}/pushes\nexec 3<&0\ngit receive-pack "$@" <&3 &\n'
        f"if test $(($(wc -l < {tmp_path}/pushes) % 2)) = 0; then sleep 0.00$(($$ % 10)); kill -9 $! 2>/dev/null; fi\n"
        "wait $!\n"
    )
    killing.chmod(0o755)
    a.git("config", "remote.origin.receivepack", str(killing))
    reconciler = a.start("reconcile", "--wait")
    with contextlib.suppress(subprocess.TimeoutExpired):
        reconciler.communicate(timeout=20)
    print("pushes", len((tmp_path / "pushes").read_text()), "locks left", list(hub.path.rglob("*.lock")))
    a.git("config", "--unset", "remote.origin.receivepack")
    reconciler.kill()
    reconciler.communicate()
    reconciled(a)
    assert sorted((hub.outside / "ran").read_text().split()) == sorted(f"r{number}" for number in range(8))
    assert hub.proofs() == {f"r{number}": 1 for number in range(8)}
    assert moved_back(hub, "main") == []
    assert hub.shared() == []
    assert hub.git("fsck", "--no-dangling") == ""
