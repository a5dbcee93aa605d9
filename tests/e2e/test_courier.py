"""The courier as an engine executes it: a real process, a real repository, real stages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler import codec, journal, process
from reconciler.executors import ordering
from reconciler.executors.courier import AWAY_STATUS, FENCED_STATUS
from reconciler.git import open_repository
from reconciler.model import Attempt, Outcome, StageStatus
from reconciler.rundir import RunDirectory
from reconciler.work import KEY_VARIABLE, Word
from tests.placed import Placed, placed
from tests.scratch import ENVIRONMENT, Scratch, wait_for
from tests.smart_http import SmartServer

SECRET = "hunter2-is-no-password"


class Engine:
    """Starts couriers for an attempt, as an engine does, and has what they leave behind in one place."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch, self.place = scratch, scratch.outside / "node"
        self.link = scratch.outside / "link.git"
        self.heal()
        self.runs: list[Placed] = []
        self.started: list[subprocess.Popen[str]] = []

    def cut(self) -> None:
        self.link.unlink()

    def heal(self) -> None:
        self.link.symlink_to(self.scratch.path / ".git")

    def run(self, stages: str, workspace: str = "empty") -> Placed:
        self.scratch.write("README.md", "hello\n")
        self.scratch.commit()
        self.runs.append(placed(self.scratch, stages, workspace))
        return self.runs[-1]

    def start(self, run: Placed, *more: str, url: str = "", **environment: str) -> subprocess.Popen[str]:
        words = ["--url", url or str(self.link), "--ref", run.ref, "--order", run.order]
        words += ["--scratch", str(self.place), *more]
        started = subprocess.Popen(
            [sys.executable, "-m", "reconciler.executors.courier", *words],
            env=ENVIRONMENT | {KEY_VARIABLE: run.key, "DEPLOY_TOKEN": SECRET, **environment},
            cwd=self.scratch.outside, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self.started.append(started)
        return started

    def finish(self, started: subprocess.Popen[str], timeout: float = 60) -> tuple[int, str, str]:
        out, errors = started.communicate(timeout=timeout)
        assert "Traceback" not in errors, errors
        return started.returncode, out, errors

    def left(self) -> list[str]:
        return sorted(os.listdir(self.place)) if self.place.is_dir() else []

    def close(self) -> None:
        for each in self.started:
            if each.poll() is None:
                each.kill()
            each.communicate()
        for run in self.runs:
            run.close()


@pytest.fixture
def engine(scratch: Scratch) -> Iterator[Engine]:
    found = Engine(scratch)
    yield found
    found.close()


def word(run: Placed) -> Word | None:
    """Return the word that the ref is at, None while it is at the order."""
    repository = open_repository(run.repository.directory)
    try:
        oid = repository.look_up([run.ref])[0]
        return ordering.read_word(repository, oid, run.key) if oid is not None and oid != run.order else None
    finally:
        repository.objects.close()


def home(run: Placed) -> Attempt:
    """Bring home what was said last, and return the record."""
    said = word(run)
    assert said is not None
    found = ordering.bring_home(run.repository, said, run.directory, run.plan, bytes_max=4 * 1024 * 1024)
    assert found.attempt is not None
    return found.attempt


def begun(run: Placed) -> Callable[[], bool]:
    """Return what tells whether a stage of the attempt runs, as its words say."""

    def asked() -> bool:
        said = word(run)
        if said is None:
            return False
        path = f"{said.tree}:run/attempts/{run.number}.json"
        [blob] = run.repository.look_up([path])
        data = next(run.repository.blobs([blob]))[1] if blob else None
        return data is not None and any(each.process for each in codec.parse(Attempt, data).stages)

    return asked


# ------------------------------------------------------------------------------------------------ all is well


@pytest.fixture
def server(engine: Engine) -> Iterator[SmartServer]:
    """The repository, over HTTP, for those who know the word."""
    bare = engine.scratch.outside / "bare.git"
    bare.symlink_to(engine.scratch.path / ".git")
    found = SmartServer(bare, secret=f"Bearer {SECRET}")
    yield found
    found.close()


def test_an_attempt_is_executed_and_handed_back(engine: Engine, server: SmartServer) -> None:
    for number in range(3):
        engine.scratch.write("README.md", f"{number}\n")
        engine.scratch.commit()
    run = engine.run(
        "  - {id: a, command: 'cat README.md && git log --oneline | wc -l && echo $DEPLOY_TOKEN && pwd && env'}\n"
        "  - {id: b, command: 'exit 3', needs: [a], allow_failure: true}\n",
        workspace="worktree",
    )
    run.place(depth=2)
    header = {"KEY_0": "http.extraHeader", "VALUE_0": f"Authorization: Bearer {SECRET}", "COUNT": "1"}
    access = {f"GIT_CONFIG_{name}": value for name, value in header.items()}
    status, out, errors = engine.finish(engine.start(run, url=server.url.replace("ann:hunter2@", ""), **access))
    assert status == 0, errors
    assert errors == f"reconciler courier: attempt 1 of {run.plan.run_id}: succeeded, handed back\n"
    attempt = home(run)
    assert attempt.outcome == Outcome.SUCCEEDED
    assert [each.status for each in attempt.stages] == [StageStatus.SUCCEEDED, StageStatus.FAILED]
    log = (run.directory.path / "commands/01-a.log").read_text()
    assert log.startswith("hello\n2\n") and str(engine.place) in log
    assert "[a] hello\n" in out
    for text in (log, out, errors):
        assert not any(each in text for each in (SECRET, run.key, KEY_VARIABLE, "GIT_CONFIG"))
    names = [each.name for each in journal.read(run.directory.path / journal.NAME).events]
    assert names[0] == "run:started" and names[-1] == "run:completed"
    said = word(run)
    assert said is not None and said.ended and said.beat >= 2
    assert engine.left() == []


def basic(token: str) -> str:
    return f"Basic {b64encode(f'x-access-token:{token}'.encode()).decode()}"


def test_a_token_reaches_git_and_nobody_else(engine: Engine, server: SmartServer) -> None:
    token = "1en7-f0r-7h15-a110ne"
    server.secret = basic(token)
    run = engine.run("  - {id: a, command: 'cat README.md && env'}\n", workspace="worktree")
    run.place()
    url = server.url.replace("ann:hunter2@", "")
    status, out, errors = engine.finish(engine.start(run, url=url, RECONCILER_GIT_CREDENTIAL=token))
    assert status == 0, errors
    assert home(run).outcome == Outcome.SUCCEEDED
    log = (run.directory.path / "commands/01-a.log").read_text()
    assert log.startswith("hello\n")
    for text in (log, out, errors):
        assert token not in text and "RECONCILER_GIT" not in text and "ASKPASS" not in text


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_loses_nothing(engine: Engine, server: SmartServer, status: int) -> None:
    """As long as patience lasts it is tried again; then the record is kept, for whoever is started with a better one."""
    token, better = "1en7-70-5h0r71y", "1en7-0nce-m0re"
    server.secret, server.refusal = basic(token), (status, f"the token {token} has expired")
    run = engine.run("  - {id: a, command: 'echo x >> $PLACE/up; until test -e $PLACE/go; do sleep 0.05; done'}\n")
    run.place()
    url, place = server.url.replace("ann:hunter2@", ""), str(engine.scratch.outside)
    lent = {"RECONCILER_GIT_CREDENTIAL": token, "PLACE": place}
    started = engine.start(run, "--patience", "3s", url=url, **lent)
    wait_for((engine.scratch.outside / "up").exists)
    server.secret = basic(better)
    (engine.scratch.outside / "go").touch()
    ended, out, errors = engine.finish(started)
    assert ended == AWAY_STATUS and "could not be handed back; it is kept in" in errors, errors
    assert token not in out + errors
    assert 0 < server.refused < 10, "there is a pause between any two tries, longer each time"
    lent["RECONCILER_GIT_CREDENTIAL"] = better
    ended, _, errors = engine.finish(engine.start(run, url=url, **lent))
    assert ended == 0, errors
    assert home(run).outcome == Outcome.SUCCEEDED
    assert (engine.scratch.outside / "up").read_text() == "x\n", "it was executed once"


def test_a_token_for_what_takes_none_is_a_mistake(engine: Engine) -> None:
    run = engine.run("  - {id: a, command: 'true'}\n")
    run.place()
    ended, _, errors = engine.finish(engine.start(run, RECONCILER_GIT_CREDENTIAL="1en7-f0r-n07h1ng"))
    assert ended == 2 and "a token reaches a repository by https alone" in errors
    assert "1en7" not in errors


def test_a_resumed_attempt_sees_what_succeeded_before(engine: Engine) -> None:
    run = engine.run("  - {id: a, command: 'echo a'}\n  - {id: b, command: 'test $RECONCILER_ATTEMPT = 2'}\n")
    run.place()
    assert engine.finish(engine.start(run))[0] == 0
    assert home(run).outcome == Outcome.FAILED
    run.place(run.claim(2))
    assert engine.finish(engine.start(run))[0] == 0
    attempt = home(run)
    assert attempt.outcome == Outcome.SUCCEEDED
    assert [each.attempt for each in attempt.stages] == [1, 2]
    assert (run.directory.path / "commands/02-b.2.log").exists()


def test_what_is_handed_back_is_bounded_and_the_record_always_fits(engine: Engine) -> None:
    run = engine.run("  - {id: a, command: 'yes line | head -c 300000; echo the end'}\n")
    run.place(bytes_max=20_000)
    status, out, _ = engine.finish(engine.start(run))
    assert status == 0 and out.endswith("[a] the end\n")
    attempt = home(run)
    log = (run.directory.path / "commands/01-a.log").read_bytes()
    assert attempt.stages[0].log_bytes == 300_008
    assert 10_000 < len(log) <= 20_000 and b"bytes left out" in log and log.endswith(b"the end\n")


def test_a_checkout_is_refused(engine: Engine) -> None:
    run = engine.run("  - {id: a, command: 'echo a'}\n", workspace="checkout")
    run.place()
    assert engine.finish(engine.start(run))[0] == 0
    attempt = home(run)
    assert attempt.outcome == Outcome.FAILED and "checkout" in attempt.detail


# ------------------------------------------------------------------------------------------------ being ended


def test_term_is_passed_on_and_what_became_of_it_is_handed_back(engine: Engine) -> None:
    run = engine.run("  - {id: a, command: 'echo begun; exec sleep 60'}\n")
    run.place()
    courier = engine.start(run, GIT_CONFIG_VALUE_0="also-a-secret")
    wait_for(begun(run))
    for each in ("environ", "cmdline"):
        assert b"also-a-secret" not in Path(f"/proc/{courier.pid}/{each}").read_bytes()
        assert run.key.encode() not in Path(f"/proc/{courier.pid}/{each}").read_bytes()
    courier.send_signal(signal.SIGTERM)
    assert engine.finish(courier)[0] == 0
    attempt = home(run)
    assert attempt.outcome == Outcome.INTERRUPTED and attempt.stages[0].status == StageStatus.INTERRUPTED
    assert (run.directory.path / "commands/01-a.log").read_text() == "begun\n"


def test_who_lost_its_ref_ends_and_keeps_nothing(engine: Engine) -> None:
    run = engine.run(f"  - {{id: a, command: 'echo $$ > {engine.scratch.outside}/pid; exec sleep 60'}}\n")
    run.place()
    courier = engine.start(run)
    wait_for(begun(run))
    run.repository.delete_ref(run.ref)
    status, _, errors = engine.finish(courier)
    assert status == FENCED_STATUS and errors.count("\n") == 1
    pid = int((engine.scratch.outside / "pid").read_text())
    wait_for(lambda: process.identify(pid) is None)
    assert run.at() is None and engine.left() == []


def test_who_lost_its_ref_is_told_at_once_and_ended_by_force_after_its_grace(engine: Engine) -> None:
    told = engine.scratch.outside / "told"
    deaf = f"trap 'echo term >> {told}' TERM; echo $$ > {told}.pid; while :; do sleep 0.05; done"
    run = engine.run(f'  - {{id: a, command: "{deaf}"}}\n')
    run.place()
    courier = engine.start(run)
    wait_for(begun(run))
    wait_for(Path(f"{told}.pid").exists)
    run.repository.delete_ref(run.ref)
    assert engine.finish(courier)[0] == FENCED_STATUS
    pid = int(Path(f"{told}.pid").read_text())
    wait_for(lambda: process.identify(pid) is None)
    assert told.read_text().startswith("term\n") and run.at() is None and engine.left() == []


def test_nothing_outlives_a_courier_that_is_killed(engine: Engine) -> None:
    run = engine.run(f"  - {{id: a, command: 'echo begun; echo $$ > {engine.scratch.outside}/pid; exec sleep 60'}}\n")
    run.place()
    courier = engine.start(run)
    wait_for(begun(run))
    pid = int((engine.scratch.outside / "pid").read_text())
    courier.kill()
    wait_for(lambda: process.identify(pid) is None)
    # The engine starts it again, at the same place: what the first one left is handed back, and nothing is executed.
    assert engine.finish(engine.start(run))[0] == 0
    attempt = home(run)
    assert attempt.outcome == Outcome.INTERRUPTED and attempt.detail == "the engine started it again"
    assert attempt.stages[0].tries == 1 and engine.left() == []
    assert (run.directory.path / "commands/01-a.log").read_text() == "begun\n", "what was printed before is kept"


def test_begun_again_at_another_place_it_is_handed_back_as_its_words_left_it(engine: Engine) -> None:
    run = engine.run("  - {id: a, command: 'exec sleep 60'}\n")
    run.place()
    courier = engine.start(run)
    wait_for(begun(run))
    courier.kill()
    engine.place = engine.scratch.outside / "another-node"
    assert engine.finish(engine.start(run))[0] == 0
    attempt = home(run)
    assert attempt.outcome == Outcome.INTERRUPTED and attempt.detail == "the engine started it again"
    # Once it has ended there is nothing to do, however often it is started.
    at = run.at()
    assert engine.finish(engine.start(run))[0] == 0
    assert run.at() == at


def test_one_that_lives_is_left_alone(engine: Engine) -> None:
    run = engine.run(f"  - {{id: a, command: 'until test -e {engine.scratch.outside}/go; do sleep 0.05; done'}}\n")
    run.place()
    first = engine.start(run)
    wait_for(begun(run))
    engine.place = engine.scratch.outside / "another-node"
    assert engine.finish(engine.start(run))[0] == FENCED_STATUS
    engine.scratch.write("../outside/go", "")
    assert engine.finish(first)[0] == 0
    assert home(run).outcome == Outcome.SUCCEEDED


def test_of_several_at_once_exactly_one_executes(engine: Engine) -> None:
    run = engine.run(f"  - {{id: a, command: 'echo x >> {engine.scratch.outside}/ran'}}\n")
    run.place()
    couriers = [engine.start(run) for _ in range(2)]
    ended = [engine.finish(each)[0] for each in couriers]
    assert set(ended) <= {0, FENCED_STATUS} and 0 in ended
    assert (engine.scratch.outside / "ran").read_text() == "x\n"
    assert home(run).outcome == Outcome.SUCCEEDED and engine.left() == []


# ------------------------------------------------------------------------------------------------ no remote


def test_without_its_remote_it_finishes_and_hands_back_later(engine: Engine) -> None:
    done = engine.scratch.outside / "done"
    run = engine.run(f"  - {{id: a, command: 'until test -e {done}.go; do sleep 0.05; done; touch {done}'}}\n")
    run.place()
    courier = engine.start(run)
    wait_for(begun(run))
    engine.cut()
    Path(f"{done}.go").touch()
    wait_for(done.exists)
    (kept,) = engine.place.iterdir()
    directory = RunDirectory(kept / "run")
    wait_for(lambda: (found := directory.read(Attempt, directory.record("attempts", 1))) and found.outcome)
    engine.heal()
    assert engine.finish(courier)[0] == 0
    assert home(run).outcome == Outcome.SUCCEEDED and engine.left() == []


def test_out_of_patience_it_keeps_the_record_for_who_comes_next(engine: Engine) -> None:
    run = engine.run(f"  - {{id: a, command: 'until test -e {engine.scratch.outside}/go; do sleep 0.05; done'}}\n")
    run.place()
    courier = engine.start(run, "--patience", "1s")
    wait_for(begun(run))
    engine.cut()
    (engine.scratch.outside / "go").touch()
    status, _, errors = engine.finish(courier)
    assert status == 75 and str(engine.place) in errors and "succeeded" in errors
    engine.heal()
    assert engine.finish(engine.start(run))[0] == 0
    assert home(run).outcome == Outcome.SUCCEEDED and engine.left() == []


# ------------------------------------------------------------------------------------------------ what cannot be


def test_where_there_is_nothing_to_do_it_says_so_in_one_line(engine: Engine) -> None:
    run = engine.run("  - {id: a, command: 'echo a'}\n")
    run.place()
    cases: list[tuple[list[str], int, str]] = [
        (["--order", run.plan.commit], FENCED_STATUS, "this attempt is not ours"),
        (["--ref", run.ref.replace("/1", "/2")], FENCED_STATUS, "its ref was moved by somebody else, or is gone"),
        (["--url", str(engine.scratch.outside / "no.git"), "--patience", "0s"], 75, "git ls-remote: "),
    ]
    for more, status, sentence in cases:
        found, _, errors = engine.finish(engine.start(run, *more))
        assert found == status and sentence in errors and errors.count("\n") == 1, (more, errors)
    assert run.at() == run.order and engine.left() == []


def test_a_word_that_the_key_did_not_make_is_nobodys(engine: Engine) -> None:
    run = engine.run("  - {id: a, command: 'echo a'}\n")
    run.place()
    forged = Word(run_id=run.plan.run_id, number=1, beat=1, at="x", ended=True, tree="")
    oid, _ = ordering.make_word(run.repository, run.order, forged, {}, "0" * 64, 1)
    run.repository.update_ref(run.ref, oid)
    status, _, errors = engine.finish(engine.start(run))
    assert status == 1 and "neither an order nor a word" in errors
    assert run.at() == oid and engine.left() == []
