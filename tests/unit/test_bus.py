"""The bus: every event at least once, and a subscriber that throws, hangs or is not there breaks nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reconciler import events, journal
from reconciler.bus import Bus, installed
from reconciler.disk import Disk
from reconciler.events import Event, EventName
from reconciler.model import Instant, Redact, RunId, Settings, TaskId
from reconciler.rundir import Runs

NOW = Instant(at="2026-07-29T09:30:05Z", monotonic_s=1.0, boot_id="b")
RUN, TASK = RunId("r-0123abcd"), TaskId("t")


def told(name: str, attempt: int = 1) -> Event:
    data = events.RunResumed(reason="because", actor=name)
    return Event(run_id=RUN, task_id=TASK, attempt=attempt, at=NOW.at, data=data)


class Place:
    """What a bus needs of the world: run directories, and where it may write."""

    def __init__(self, path: Path, *names: str, **subscribers: Any) -> None:
        disk = Disk()
        runs = Runs(path / ".runs", path / "state", disk)
        self.world: Any = SimpleNamespace(runs=runs, disk=disk, repository=SimpleNamespace(state=path / "state"))
        self.subscribers, self.names = subscribers, names or tuple(subscribers)
        self.directory = runs.directory(TASK, RUN).path
        self.directory.mkdir(parents=True)
        self.bus = self.begin()
        self.runs: dict[RunId, Any] = {RUN: self.run()}

    def begin(self) -> Bus:
        self.bus = Bus(self.world, lambda name: self.subscribers.get(name, "it is not there"), patience_s=0.05)
        return self.bus

    def run(self, **more: Any) -> Any:
        known = {"run_id": RUN, "task_id": TASK, "number": 1, "end": None, "attempt": None, "claim": None}
        return SimpleNamespace(**known | {"corrupt": (), "claimer_alive": True, "lock_held": True} | more)

    def say(self, *said: Event) -> None:
        journal.append(self.directory / journal.NAME, said)

    def tell(self, **settings: Any) -> tuple[str, ...]:
        found = Settings(subscribers=self.names, **settings)
        seen: Any = SimpleNamespace(settings=found, actual=SimpleNamespace(runs=self.runs), now=NOW)
        return self.bus.tell(seen)


@pytest.fixture
def starting(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Say what phase every run is in, whatever its records are."""

    def says(word: str) -> None:
        from reconciler.model import Phase

        monkeypatch.setattr("reconciler.bus.phase", lambda run, now: Phase(word))

    says("running")
    return says


def test_what_is_new_is_told_once_and_in_order(tmp_path: Path, starting: object) -> None:
    heard: list[str] = []
    place = Place(tmp_path, chat=lambda event: heard.append(event.data.actor))
    place.say(told("a"), told("b"))
    assert place.tell() == ()
    assert heard == ["a", "b"]
    place.say(told("c"))
    assert (place.tell(), place.tell()) == ((), ())
    assert heard == ["a", "b", "c"]
    place.begin()
    place.tell()
    assert heard == ["a", "b", "c"]


def test_whoever_dies_before_it_is_written_down_hears_it_again(tmp_path: Path, starting: object) -> None:
    heard: list[str] = []
    place = Place(tmp_path, chat=lambda event: heard.append(event.id))
    place.say(told("a"))
    place.tell()
    (tmp_path / "state/subscribers/chat.json").write_text("{")
    place.begin()
    place.tell()
    assert len(heard) == 2 and len(set(heard)) == 1


def test_one_that_throws_is_named_without_secrets_and_breaks_nobody(tmp_path: Path, starting: object) -> None:
    heard: list[str] = []

    def throws(event: Event) -> None:
        raise SystemExit(f"token=s3cr3tvalue{event.data.actor} ACME-1")  # type: ignore[union-attr]

    place = Place(tmp_path, bad=throws, good=lambda event: heard.append(event.data.actor))
    place.say(told("a"), told("b"))
    warnings = place.tell(redact=Redact(patterns=("ACME-[0-9]",)))
    assert warnings == tuple(
        ["subscriber 'bad': SystemExit at run:resumed: token=[redacted:secret] [redacted:pattern]"] * 2
    )
    assert heard == ["a", "b"]
    assert place.tell() == ()


def test_one_that_hangs_holds_up_nobody_and_goes_on_when_it_returns(tmp_path: Path, starting: object) -> None:
    gate, heard = threading.Event(), []

    def hangs(event: Event) -> None:
        gate.wait(20)
        heard.append(event.id)

    other: list[str] = []
    place = Place(tmp_path, slow=hangs, good=lambda event: other.append(event.id))
    place.say(told("a"))
    assert place.tell() == ("subscriber 'slow': it takes longer than 0.05 s",)
    place.say(told("b", 2))
    assert place.tell() == ("subscriber 'slow': it has not returned yet, and hears nothing until it does",)
    assert len(other) == 2 and heard == []
    gate.set()
    place.bus.telling["slow"].thread.join(20)
    assert place.tell() == ()
    assert [each.split("/")[1] for each in heard] == ["1", "2"]


def test_one_that_is_not_there_is_named_with_its_cure(tmp_path: Path, starting: object) -> None:
    place = Place(tmp_path, "lost")
    place.say(told("a"))
    assert place.tell() == ("subscriber 'lost': it is not there",)
    assert str(installed("lost")).startswith("no installed package has it; install the package with the entry point")


def test_the_end_is_told_for_a_worker_that_could_not(tmp_path: Path, starting: Callable[[str], None]) -> None:
    heard: list[Event] = []
    place = Place(tmp_path, chat=heard.append)
    place.runs = {
        RUN: place.run(number=2, end=SimpleNamespace(detail="attempts are used up, token=hunter2secret", at=NOW.at))
    }
    starting("failed")
    place.tell()
    place.begin().tell(SimpleNamespace(settings=Settings(), actual=SimpleNamespace(runs=place.runs), now=NOW))  # type: ignore[arg-type]
    [only] = journal.read(place.directory / journal.NAME).events
    assert (only.name, only.attempt) == (EventName.RUN_FAILED, 2)
    assert only.data == events.RunFailed(status="failed", summary="attempts are used up, token=[redacted:secret]")
    assert heard == [only]


def test_nothing_is_written_while_somebody_holds_the_run(tmp_path: Path, starting: Callable[[str], None]) -> None:
    place = Place(tmp_path, "none")
    handle = place.world.disk.take_lock(place.directory / "lock")
    starting("succeeded")
    place.tell()
    assert not (place.directory / journal.NAME).exists()
    place.world.disk.let_go(handle)
    place.tell()
    assert journal.tells_end(place.directory / journal.NAME, 1)
