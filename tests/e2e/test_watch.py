"""A watcher: what wakes it, what ends it, what it says, and that nothing it depends on can only fail for good."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reconciler.errors import InvariantError
from reconciler.loop import FULL_S, Loop, Pass
from reconciler.observe import Observer
from reconciler.watcher import Face, Turn, Watcher
from reconciler.watchface import Screen
from reconciler.world import open_world
from tests.preloaded import RECONCILER
from tests.scratch import ENVIRONMENT, Hub, Scratch, git
from tests.unit.test_watch import Deaf

HUNG_S = 30


class Watching:
    """A watcher in a process of its own, and the events it has told so far."""

    def __init__(self, scratch: Scratch, place: Path | None = None, **environment: str) -> None:
        self.output = (scratch.outside / f"watch-{time.monotonic_ns()}").open("w+")
        self.process = subprocess.Popen(
            [*RECONCILER, "watch", "--format", "json"], cwd=place or scratch.path, env=ENVIRONMENT | environment,
            stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output, text=True, start_new_session=True,
        )  # fmt: skip

    def text(self) -> str:
        return Path(self.output.name).read_text()

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        lines = [line for line in self.text().splitlines(keepends=True) if line.startswith("{") and line.endswith("\n")]
        return [each for each in map(json.loads, lines) if each["event"] == kind or not kind]

    def wait_for(self, kind: str, **said: str) -> dict[str, Any]:
        """Return the first event of this kind that says all that."""

        def found() -> list[dict[str, Any]]:
            return [each for each in self.events(kind) if all(text in each.get(key, "") for key, text in said.items())]

        deadline = time.monotonic() + HUNG_S
        while not (events := found()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.text()
            time.sleep(0.02)
        return events[0]

    def ready(self) -> None:
        """Wait until it is the watcher of its clone."""
        deadline = time.monotonic() + HUNG_S
        while self._holder() != self.process.pid:
            assert self.process.poll() is None and time.monotonic() < deadline, self.text()
            time.sleep(0.02)

    def _holder(self) -> int:
        place = Path(os.readlink(f"/proc/{self.process.pid}/cwd"))
        path = place / git(place, "rev-parse", "--git-common-dir").strip() / "reconciler/watch.json"
        return int(json.loads(path.read_bytes())["pid"]) if path.exists() else 0

    def children(self) -> list[str]:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return []

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.output.close()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(HUNG_S)


@pytest.fixture
def watch(scratch: Scratch) -> Iterator[Callable[..., Watching]]:
    started: list[Watching] = []

    def start(*place: Path, **environment: str) -> Watching:
        started.append(Watching(scratch, *place, **environment))
        return started[-1]

    yield start
    for each in started:
        each.close()


Start = Callable[..., Watching]


def settled(scratch: Scratch, watcher: Watching) -> None:
    """Wait until the first run is proven and put away, and the pass that did it is over."""
    watcher.wait_for("published", run_id="a-")
    scratch.wait_for(lambda: not list((scratch.path / ".git/reconciler/live").iterdir()))
    time.sleep(0.5)


def begin_at(path: Path) -> Callable[[], Loop]:
    def begin() -> Loop:
        world = open_world(path)
        return Loop(world, Observer(world))

    return begin


# ------------------------------------------------------------------------------------------------ what it does


def test_a_commit_becomes_evidence_without_anybody_asking(scratch: Scratch, watch: Start) -> None:
    scratch.settings()
    scratch.simple("a", "true")
    watcher = watch()
    watcher.wait_for("published")
    scratch.simple("b", "false")
    published = watcher.wait_for("published", run_id="b-")
    assert published["status"] == "failed"
    assert published["commit"] == scratch.git("rev-parse", "HEAD").strip()
    scratch.wait_for(lambda: not list((scratch.path / ".git/reconciler/live").iterdir()))
    told = watcher.text()
    time.sleep(1.2)
    assert watcher.text() == told, "nothing happens, and it says nothing"
    assert watcher.end() == 0
    assert [(each["event"], each["run_id"][:1]) for each in watcher.events()] == [
        ("launched", "a"), ("ended", "a"), ("published", "a"), ("launched", "b"), ("ended", "b"), ("published", "b"),
    ]  # fmt: skip
    assert {each["task_id"] for each in watcher.events()} == {"t"}


@pytest.mark.parametrize("kind", ["worktree", "bare"])
def test_it_watches_from_a_worktree_and_in_a_bare_repository(
    scratch: Scratch, watch: Start, tmp_path: Path, kind: str
) -> None:
    scratch.settings("remote: null\n")
    scratch.commit()
    if kind == "worktree":
        scratch.git("worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
        watcher = watch(tmp_path / "side")
        scratch.git("checkout", "-q", "--detach")
        place = tmp_path / "side"
    else:
        git(tmp_path, "clone", "-q", "--bare", str(scratch.path), "bare.git")
        watcher = watch(tmp_path / "bare.git")
        place = scratch.path
    watcher.ready()
    (place / "runs.d").mkdir()
    (place / "pipelines").mkdir()
    (place / "pipelines/p.yaml").write_text("workspace: empty\nstages:\n  - id: s\n    command: 'true'\n")
    (place / "runs.d/a.yaml").write_text("task: t\npipeline: p\n")
    git(place, "add", "-A")
    git(place, "commit", "-qm", "ask")
    if kind == "bare":
        git(place, "push", "-q", str(tmp_path / "bare.git"), "main")
    watcher.wait_for("published")
    assert watcher.end() == 0


def test_a_push_by_this_clone_and_by_others_is_noticed(hub: Hub, tmp_path: Path) -> None:
    here, there = hub.clones("here", "there", lease_s=45)
    here.settings(lease_s=45)
    here.write(
        "reconciler.yaml", here.path.joinpath("reconciler.yaml").read_text().replace("200ms\nlease", "10s\nlease")
    )
    here.push()
    watcher = Watching(here)
    try:
        watcher.ready()
        here.pipeline("p", "workspace: empty\nstages:\n  - id: s\n    command: 'true'\n")
        here.request("mine", "p")
        began = time.monotonic()
        here.push()
        watcher.wait_for("published", run_id="mine-")
        assert time.monotonic() - began < 8, "it was asked for before the next poll was due"
        there.git("pull", "-q")
        there.request("theirs", "p")
        there.push()
        watcher.wait_for("published", run_id="theirs-")
        assert watcher.end() == 0
    finally:
        watcher.close()


def test_what_time_brings_is_done_in_time(scratch: Scratch, watch: Start) -> None:
    until = datetime.now(UTC) + timedelta(seconds=5)
    scratch.simple("a", "true", suspend=f'{{until: "{until:%Y-%m-%dT%H:%M:%SZ}"}}')
    watcher = watch()
    assert "suspended until" in watcher.wait_for("waiting")["detail"]
    launched = watcher.wait_for("launched")
    late_s = (datetime.fromisoformat(launched["at"]) - until.replace(microsecond=0)).total_seconds()
    assert -0.1 <= late_s < 5
    watcher.wait_for("published")


def test_what_is_wrong_is_said_once(scratch: Scratch, watch: Start) -> None:
    scratch.write("runs.d/bad1.yaml", "task: t\npipeline: a\nextra: 1\n")
    scratch.write("runs.d/bad2.yaml", "task: t\npipeline: a\nextra: 1\n")
    scratch.simple("a", "true")
    watcher = watch()
    watcher.wait_for("published", run_id="a-")
    scratch.simple("b", "true")
    watcher.wait_for("published", run_id="b-")
    problems = [each["detail"] for each in watcher.events("problem")]
    assert len(problems) == 2
    assert sorted(each[:21] for each in problems) == ["rejected: runs.d/bad1", "rejected: runs.d/bad2"]


# ------------------------------------------------------------------------------------------------ how it ends


def test_a_second_watcher_says_who_holds_the_clone_and_passes_go_on_beside_it(scratch: Scratch, watch: Start) -> None:
    scratch.settings()
    scratch.simple("a", "true")
    watcher = watch()
    watcher.wait_for("published")
    second = scratch.run("watch", "--lines")
    assert second.returncode == 75
    assert f"pid {watcher.process.pid} on '{socket.gethostname()}', since 20" in second.stderr
    scratch.simple("b", "true")
    beside = scratch.run("reconcile", "--wait")
    assert beside.returncode == 0, beside.stderr
    assert scratch.manifest("b")["status"] == "succeeded"
    assert scratch.run("service", "status").returncode == 0
    assert watcher.end() == 0
    assert scratch.run("service", "status").returncode == 1


def test_sigterm_leaves_workers_alone(scratch: Scratch, watch: Start) -> None:
    scratch.settings()
    scratch.simple("a", f"until test -e {scratch.outside}/go; do sleep 0.05; done")
    watcher = watch()
    watcher.wait_for("launched")
    scratch.wait_for(
        lambda: (
            scratch.attempt("a")["stages"][0]["status"] == "running"
            if scratch.record("a", "attempts/1.json").exists()
            else False
        )
    )
    assert watcher.end() == 0
    (scratch.outside / "go").touch()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert [each["outcome"] for each in scratch.manifest("a")["attempts"]] == ["succeeded"]


def test_one_interrupt_ends_after_the_pass_and_a_second_one_at_once(scratch: Scratch, watch: Start) -> None:
    scratch.settings()
    scratch.commit()
    watcher = watch()
    watcher.ready()
    assert watcher.end(signal.SIGINT) == 130
    assert "runs under way go on" in watcher.text()
    lock = scratch.path / ".git/reconciler/pass.lock"
    program = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(20)"
    with subprocess.Popen([sys.executable, "-c", program, lock], stdout=subprocess.PIPE, text=True) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        watcher = watch()
        watcher.ready()
        watcher.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert watcher.process.poll() is None, "the pass is not over: another reconciler is busy"
        began = time.monotonic()
        assert watcher.end(signal.SIGINT) == 130
        assert time.monotonic() - began < 10
        busy.kill()
    scratch.simple("a", "true")
    assert scratch.run("reconcile", "--wait").returncode == 0


def test_sighup_opens_everything_anew(scratch: Scratch, watch: Start) -> None:
    scratch.settings()
    scratch.simple("a", "true")
    watcher = watch()
    watcher.wait_for("published")
    before = watcher.children()
    scratch.git("checkout", "-q", "-b", "other")
    watcher.process.send_signal(signal.SIGHUP)
    watcher.wait_for("reloaded")
    assert set(watcher.children()) != set(before), "git's process is another one"
    scratch.simple("b", "true")
    watcher.wait_for("published", run_id="b-")
    assert scratch.git("log", "-1", "--format=%an", "other").strip() == "Reconciler"
    assert watcher.end() == 0


def test_a_supervisor_hears_of_it_and_stages_do_not_hear_of_the_supervisor(scratch: Scratch, watch: Start) -> None:
    scratch.settings()
    scratch.simple("a", f"env > {scratch.outside}/env")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(scratch.outside / "notify"))
        listener.settimeout(HUNG_S)
        watcher = watch(NOTIFY_SOCKET=str(scratch.outside / "notify"), WATCHDOG_USEC="1500000")
        said = [listener.recv(4096).decode()]
        assert said[0].startswith("READY=1")
        while said.count("WATCHDOG=1") < 3:
            said.append(listener.recv(4096).decode())
        watcher.wait_for("published")
        assert watcher.end() == 0
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                said.append(listener.recv(4096).decode())
        assert said[-1] == "STOPPING=1"
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & {
        line.partition("=")[0] for line in (scratch.outside / "env").read_text().splitlines()
    }


# ------------------------------------------------------------------------------------------------ what fails


class Until(Face):
    """Stops the watcher when something is seen."""

    def __init__(self, seen: Callable[[Turn], bool]) -> None:
        self.seen = seen
        self.watcher: Watcher | None = None

    def tell(self, turn: Turn) -> None:
        assert self.watcher is not None
        if self.seen(turn):
            self.watcher.stop("seen")


def run_until(
    scratch: Scratch, seen: Callable[[Turn], bool], after_s: float, act: Callable[[], object], **keys: Any
) -> float:
    """Watch here until something is seen, doing something meanwhile; return how long that took to be seen."""
    face = Until(seen)
    face.watcher = watcher = Watcher(begin_at(scratch.path), face, **keys)
    acted: list[float] = []

    def do() -> None:
        act()
        acted.append(time.monotonic())

    timer, hung = threading.Timer(after_s, do), threading.Timer(HUNG_S, watcher.stop, ["hung"])
    for each in (timer, hung):
        each.start()
    watcher.run()
    for each in (timer, hung):
        each.cancel()
    assert watcher.stopping == "seen"
    return time.monotonic() - acted[0]


def proven(turn: Turn) -> bool:
    return turn.result is not None and len(turn.result.seen.actual.evidence) > 0


def test_without_any_event_a_commit_is_only_later(scratch: Scratch) -> None:
    scratch.settings()
    scratch.commit()
    assert run_until(scratch, proven, 1.0, lambda: scratch.simple("a", "true"), factory=Deaf) < 20


def test_an_observer_that_refuses_is_said_and_looked_for_again(scratch: Scratch) -> None:
    class Refusing(Deaf):
        def start(self) -> None:
            raise OSError(24, "inotify instance limit reached")

    deaf: list[str] = []

    def seen(turn: Turn) -> bool:
        deaf.append(turn.deaf)
        return proven(turn)

    scratch.settings()
    scratch.commit()
    run_until(scratch, seen, 0.5, lambda: scratch.simple("a", "true"), factory=Refusing)
    assert "inotify instance limit reached" in deaf[0]


def test_a_call_from_outside_lets_a_pass_be_done(scratch: Scratch) -> None:
    """What a webhook does."""
    scratch.settings()
    scratch.commit()
    face = Until(lambda turn: watcher.passes == 2)
    face.watcher = watcher = Watcher(begin_at(scratch.path), face, factory=Deaf)
    began_s = time.monotonic()
    threading.Timer(1.0, lambda: watcher.wake("a webhook")).start()
    watcher.run()
    assert time.monotonic() - began_s < FULL_S / 2


def test_a_repository_that_is_moved_away_and_back_is_watched_on(scratch: Scratch, watch: Start) -> None:
    scratch.settings()
    scratch.simple("a", "true")
    watcher = watch()
    settled(scratch, watcher)
    away = scratch.path.with_name("away")
    scratch.path.rename(away)
    watcher.process.send_signal(signal.SIGHUP)
    watcher.wait_for("problem")
    time.sleep(1.0)
    assert not scratch.path.exists(), "nothing is made where it was"
    away.rename(scratch.path)
    scratch.simple("b", "true")
    watcher.wait_for("published", run_id="b-")
    assert watcher.end() == 0


def test_another_repository_in_its_place_is_opened_anew(scratch: Scratch, watch: Start) -> None:
    scratch.settings()
    scratch.simple("a", "true")
    watcher = watch()
    settled(scratch, watcher)
    git(scratch.path.parent, "clone", "-q", str(scratch.path), "fresh")
    git(scratch.path.parent / "fresh", "remote", "remove", "origin")
    scratch.path.rename(scratch.path.with_name("old"))
    (scratch.path.parent / "fresh").rename(scratch.path)
    assert "another repository" in watcher.wait_for("reloaded")["detail"]
    scratch.simple("b", "true")
    watcher.wait_for("published", run_id="b-")
    assert (scratch.path / ".git/reconciler/watch.json").exists()
    assert watcher.end() == 0


def test_evidence_that_cannot_be_committed_is_said_and_committed_when_it_can(scratch: Scratch, watch: Start) -> None:
    scratch.settings()
    scratch.write("tasks/t.md", "- [ ] Green <!-- item: t/green -->\n")
    scratch.simple("a", "true", proves="[t/green]")
    scratch.write("tasks/t.md", "- [ ] Green, edited <!-- item: t/green -->\n")
    watcher = watch()
    assert "tasks/t.md" in watcher.wait_for("problem", detail="evidence waits")["detail"]
    scratch.git("commit", "-qm", "mine", "tasks/t.md")
    watcher.wait_for("published")
    assert len(watcher.events("problem")) == 1


# ------------------------------------------------------------------------------------------------ memory


def test_passes_leave_nothing_behind(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", "true")
    scratch.run("reconcile", "--wait")
    sizes: list[int] = []

    class Counter(Face):
        def tell(self, turn: Turn) -> None:
            if watcher.passes in (100, 300):
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
            watcher.bell.ring("another one")

    watcher = Watcher(begin_at(scratch.path), Counter(), passes_max=300)
    tracemalloc.start()
    try:
        watcher.run()
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    assert sizes[1] - sizes[0] < 10_000, f"{(sizes[1] - sizes[0]) / 200:.0f} bytes a pass"


def test_runs_that_are_over_are_forgotten(scratch: Scratch) -> None:
    scratch.settings()
    scratch.pipeline("p", "workspace: empty\nstages:\n  - id: s\n    command: 'true'\n")
    for number in range(5):
        scratch.request(f"r{number}", "p")
    scratch.commit()
    loops: list[Loop] = []

    def done(turn: Turn) -> bool:
        return turn.result is not None and len(turn.result.seen.actual.evidence) == 5 and turn.result.idle

    begin = begin_at(scratch.path)
    face = Until(done)
    face.watcher = watcher = Watcher(lambda: loops.append(begin()) or loops[-1], face)  # type: ignore[func-returns-value]
    watcher.run()
    observer = loops[-1].observer
    assert (observer.requests.parsed, observer.wishes.known, observer.here.ended, loops[-1].concerned) == (
        {},
        {},
        {},
        set(),
    )


# ------------------------------------------------------------------------------------------------ the screen


def test_the_screen_is_drawn_on_a_terminal_and_gives_it_back(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", "true")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*RECONCILER, "watch"], cwd=scratch.path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=ENVIRONMENT | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
    )  # fmt: skip
    os.close(theirs)
    seen = ""
    deadline = time.monotonic() + HUNG_S
    try:
        while "✓ a-" not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([ours], [], [], 0.2)[0]:
                seen += os.read(ours, 65536).decode(errors="replace")
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):
            while data := os.read(ours, 65536):
                seen += data.decode(errors="replace")
        assert process.wait(HUNG_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert seen.index("\x1b[?1049h") < seen.index("NEWEST RESULTS") < seen.rindex("\x1b[?1049l")
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l"), "the cursor is there again"
    assert "\x1b[31m" not in seen and "\x1b[32m" not in seen, "NO_COLOR is heeded"


def test_a_crash_gives_the_terminal_back_too(scratch: Scratch) -> None:
    scratch.settings()
    scratch.commit()
    begin = begin_at(scratch.path)

    class Broken(Loop):
        def run_pass(self) -> Pass:
            raise InvariantError("a bug")

    def broken() -> Loop:
        loop = begin()
        return Broken(loop.world, loop.observer)

    page = io.StringIO()
    with pytest.raises(InvariantError):
        Watcher(broken, Screen(Console(file=page, force_terminal=True, width=80, height=24))).run()
    assert page.getvalue().rindex("\x1b[?1049l") > page.getvalue().rindex("\x1b[?1049h")
    assert page.getvalue().rindex("\x1b[?25h") > page.getvalue().rindex("\x1b[?25l")


# ------------------------------------------------------------------------------------------------ keeping it running


def test_a_unit_is_written_shown_and_removed(scratch: Scratch, tmp_path: Path) -> None:
    config = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    shown = scratch.run("service", "install", "--print", **config)
    assert shown.returncode == 0, shown.stderr
    assert not (tmp_path / "config").exists()
    written = scratch.run("service", "install", **config)
    (path,) = (tmp_path / "config/systemd/user").iterdir()
    assert path.read_text() == shown.stdout
    assert f"systemctl --user enable --now {path.name}" in written.stdout
    assert scratch.run("service", "install", **config).returncode == 0, "once more changes nothing"
    said = json.loads(scratch.run("service", "status", "--format", "json", **config).stdout)
    assert said == {"unit": str(path), "installed": True, "current": True, "watcher": None}
    assert "disable --now" in scratch.run("service", "uninstall", **config).stdout
    assert not path.exists()
    path.write_text("[Service]\n# mine\n")
    for verb in ("install", "uninstall"):
        refused = scratch.run("service", verb, **config)
        assert (refused.returncode, path.read_text()) == (1, "[Service]\n# mine\n")
        assert "was not written by this command" in refused.stderr


@pytest.mark.parametrize(("kind", "said"), [("container", "ENTRYPOINT"), ("cron", "* * * * * ")])
def test_other_recipes_are_printed(scratch: Scratch, kind: str, said: str) -> None:
    done = scratch.run("service", "install", "--kind", kind)
    assert done.returncode == 0
    assert said in done.stdout
