"""Deliveries: wanted by evidence, less what receipts prove; tried again with sense, and given up in the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reconciler.disk import Disk
from reconciler.model import Instant, RunId, Settings, TaskId
from reconciler.outlets import audit, box
from reconciler.outlets.box import Box, Dead, Done, Open
from reconciler.outlets.deliveries import Deliveries
from reconciler.outlets.outlet import Delivery, Ended, Receipt, Undeliverable, Undelivered, delivery_of
from reconciler.outlets.retry import AFTER_MAX_S, PAUSE_MAX_S, TRIES_MAX, passes, pause_s
from reconciler.world import open_world
from tests.scratch import Scratch

AT = "2026-07-29T09:30:05Z"
NOW = Instant(at=AT, monotonic_s=1.0, boot_id="b")


class Noting:
    """An outlet that notes what it is given and does what it is told; `name` and all tasks are wanted."""

    name = "noting"

    def __init__(self) -> None:
        self.given: list[Delivery] = []
        self.seen: list[Ended] = []
        self.answer: Callable[[Delivery], None] = lambda delivery: None

    def wanted(self, run: Ended) -> tuple[Delivery, ...]:
        self.seen.append(run)
        return (delivery_of(run),)

    def deliver(self, delivery: Delivery) -> Receipt:
        self.given.append(delivery)
        self.answer(delivery)
        return Receipt(said="taken")

    def close(self) -> None:
        pass


class Place:
    """A repository with evidence, and deliveries to one outlet by a clock that is told."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch, self.outlet, self.now_s = scratch, Noting(), 1000.0
        scratch.settings()
        scratch.commit()
        self.made: list[Deliveries] = []
        self.deliveries = self.begin()

    def begin(self) -> Deliveries:
        world = open_world(self.scratch.path)
        found = Deliveries(world, opening=lambda said, broker: (self.outlet,), epoch_s=lambda: self.now_s)
        self.made.append(found)
        return found

    def evidence(self, *names: str, task: str = "t", status: str = "succeeded", hour: int = 9) -> None:
        for name in names:
            run_id = f"{name}-0123abcd" if "-" not in name else name
            manifest = {
                "run_id": run_id, "task_id": task, "name": run_id[:-9], "status": status, "commands": [],
                "attempts": [{"number": 1}], "resources": {"duration_s": 1.0}, "approvals": [],
                "completed_at": f"2026-07-29T{hour:02}:30:05Z",
            }  # fmt: skip
            self.scratch.write(f".runs/{task}/cli/{run_id}/manifest.json", json.dumps(manifest))
        self.scratch.commit("evidence")

    def settle(self, deliveries: Deliveries | None = None) -> tuple[str, ...]:
        """Do what a pass does, and wait for what it started."""
        found = deliveries or self.deliveries
        tip = self.scratch.git("rev-parse", "HEAD").strip()
        settings = Settings(cloud_sync={"base_url": "http://localhost", "workspace": "w"})
        seen: Any = SimpleNamespace(
            settings=settings, tip=tip, evidence_tip="", now=NOW, actual=SimpleNamespace(evidence={})
        )
        said = found.settle(seen)
        for _ in range(200):
            if not found.busy:
                break
            found.wait(20)
            said += found.settle(seen)
        return said

    @property
    def box(self) -> Box:
        return Box(directory=self.scratch.path / ".git/reconciler/outlets/noting", disk=Disk())

    def keys(self) -> list[str]:
        return [each.key for each in self.outlet.given]


@pytest.fixture
def place(scratch: Scratch) -> Iterator[Place]:
    found = Place(scratch)
    try:
        yield found
    finally:
        for each in found.made:
            each.close()
            each.world.repository.objects.close()


def fails(error: Exception) -> Callable[[Delivery], None]:
    def answer(delivery: Delivery) -> None:
        raise error

    return answer


# ------------------------------------------------------------------------------------------------ what is wanted


def test_what_was_there_at_first_sight_is_not_delivered_and_what_comes_is_once(place: Place) -> None:
    place.evidence("old")
    assert place.settle() == ()
    place.evidence("new")
    place.settle()
    place.settle()
    place.deliveries.close()
    place.settle(place.begin())
    assert place.keys() == ["new-0123abcd.1"]
    assert json.loads(place.outlet.given[0].body)["run_id"] == "new-0123abcd"
    assert [each.said for each in place.box.done()] == ["taken"]
    assert place.box.keys("open") == []


def test_a_receipt_that_is_there_and_a_mark_that_is_not_deliver_nothing_twice(place: Place) -> None:
    place.settle()
    mark = (place.box.directory / "mark.json").read_bytes()
    place.evidence("a")
    place.settle()
    place.deliveries.close()
    (place.box.directory / "mark.json").write_bytes(mark)
    place.settle(place.begin())
    assert place.keys() == ["a-0123abcd.1"]


def test_whoever_dies_between_delivery_and_receipt_repeats_it_with_the_same_key(place: Place) -> None:
    place.settle()
    place.evidence("a")
    place.settle()
    owed = Open(
        key="a-0123abcd.1", run_id=RunId("a-0123abcd"), task_id=TaskId("t"), attempt=1, since=AT,
        blob=place.scratch.git("rev-parse", "HEAD:.runs/t/cli/a-0123abcd/manifest.json").strip(),
    )  # fmt: skip
    (place.box.directory / "done/a-0123abcd.1.json").unlink()
    place.box.put_off(owed)
    place.deliveries.close()
    place.settle(place.begin())
    assert place.keys() == ["a-0123abcd.1"] * 2
    assert place.outlet.given[0] == place.outlet.given[1]


def test_a_mark_whose_tree_is_gone_begins_anew(place: Place) -> None:
    place.settle()
    place.box.set_mark(box.Mark(tree="1" * 40, since=AT))
    place.evidence("a")
    place.deliveries.close()
    place.settle(place.begin())
    assert place.keys() == []
    (place.box.directory / "mark.json").write_text("{")
    place.settle(place.begin())
    assert place.keys() == []


def test_what_is_damaged_or_not_ended_is_no_evidence(place: Place) -> None:
    place.settle()
    place.scratch.write(".runs/t/cli/b-0123abcd/manifest.json", "{")
    place.evidence("a", status="in_progress")
    place.evidence("c-0123abcd/../../c-0123abcd".partition("/")[0])
    place.settle()
    assert place.keys() == ["c-0123abcd.1"]


def test_what_is_owed_of_a_manifest_that_is_gone_is_a_dead_letter(place: Place) -> None:
    place.settle()
    lost = Open(key="x-0123abcd.1", run_id=RunId("x-0123abcd"), task_id=TaskId("t"), attempt=1, blob="1" * 40, since=AT)
    place.box.put_off(lost)
    [said] = place.settle()
    assert "x-0123abcd.1 is given up: its manifest is not in the repository any more" in said
    (place.box.directory / "open/y.json").write_text("{")
    assert place.settle() == ()
    assert place.box.keys("open") == []


def test_where_machines_share_a_remote_each_delivers_what_it_executed(place: Place) -> None:
    place.deliveries.world = replace(place.deliveries.world, remote=object())
    place.settle()
    place.evidence("mine", "theirs")
    place.deliveries.world.runs.mark("t", "mine-0123abcd")
    place.settle()
    assert place.keys() == ["mine-0123abcd.1"]


# ------------------------------------------------------------------------------------------------ failures


def test_a_failure_that_passes_is_tried_again_later_and_one_that_does_not_is_not(place: Place) -> None:
    place.settle()
    place.outlet.answer = fails(Undelivered("answered 503"))
    place.evidence("a")
    [said] = place.settle()
    assert said == "noting: a-0123abcd.1 is not delivered yet: answered 503"
    first = place.box.opened("a-0123abcd.1")
    assert first is not None and (first.tries, first.reason) == (1, "answered 503")
    assert 1000 <= first.due_at_s <= 1002
    place.now_s = first.due_at_s
    place.outlet.answer = lambda delivery: None
    assert place.settle() == ()
    assert [each.tries for each in place.box.done()] == [2]
    place.outlet.answer = fails(Undeliverable("answered 422"))
    place.evidence("b")
    [said] = place.settle()
    assert said == "noting: b-0123abcd.1 is given up: answered 422; see: reconciler deliveries"
    assert place.settle() == ()
    [dead] = place.box.dead()
    assert (dead.owed.key, dead.reason) == ("b-0123abcd.1", "answered 422")
    assert len(place.outlet.given) == 3


def test_whoever_asks_to_wait_is_left_alone_for_so_long_by_all(place: Place) -> None:
    place.settle()
    place.outlet.answer = fails(Undelivered("answered 429", after_s=120.0))
    place.evidence("a", task="one")
    place.settle()
    place.evidence("b", task="two")
    place.settle()
    assert place.keys() == ["a-0123abcd.1"]
    assert place.deliveries.patience_s() == 120.0
    place.now_s += 120
    place.outlet.answer = lambda delivery: None
    place.settle()
    assert sorted(place.keys()[1:]) == ["a-0123abcd.1", "b-0123abcd.1"]


def test_one_task_that_hangs_delays_no_other_and_no_pass(place: Place) -> None:
    place.settle()
    gate, through = threading.Event(), threading.Event()

    def answer(delivery: Delivery) -> None:
        if delivery.task_id == "slow":
            gate.wait(20)
        else:
            through.set()

    place.outlet.answer = answer
    place.evidence("a", "b", task="slow")
    place.evidence("c", task="quick")
    tip = place.scratch.git("rev-parse", "HEAD").strip()
    settings = Settings(cloud_sync={"base_url": "http://localhost", "workspace": "w"})
    actual = SimpleNamespace(evidence={})
    seen: Any = SimpleNamespace(settings=settings, tip=tip, evidence_tip="", now=NOW, actual=actual)
    assert place.deliveries.settle(seen) == ()
    assert through.wait(20)
    assert sorted(place.keys()) in (["a-0123abcd.1", "c-0123abcd.1"], ["b-0123abcd.1", "c-0123abcd.1"])
    gate.set()
    place.settle()
    assert sorted(place.keys()) == ["a-0123abcd.1", "b-0123abcd.1", "c-0123abcd.1"]


def test_what_fails_too_often_is_given_up_and_can_be_revived(place: Place) -> None:
    place.settle()
    place.outlet.answer = fails(Undelivered("no answer"))
    place.evidence("a")
    for _ in range(TRIES_MAX + 2):
        place.settle()
        place.now_s += PAUSE_MAX_S
    assert len(place.outlet.given) == TRIES_MAX
    [dead] = place.box.dead()
    place.outlet.answer = lambda delivery: None
    place.box.revive(dead)
    place.settle()
    assert len(place.outlet.given) == TRIES_MAX + 1
    assert list(place.box.dead()) == []


def test_an_error_of_an_outlet_costs_its_delivery_and_nothing_else(place: Place) -> None:
    place.settle()
    place.outlet.answer = fails(ValueError("token=hunter2secret"))
    place.evidence("a")
    [said] = place.settle()
    assert "given up: ValueError in the outlet" in said and "hunter2" not in said


def test_a_clock_that_was_set_back_makes_nobody_wait_for_ever(place: Place) -> None:
    place.settle()
    place.outlet.answer = fails(Undelivered("no answer"))
    place.evidence("a")
    place.settle()
    place.now_s -= 10 * AFTER_MAX_S
    place.outlet.answer = lambda delivery: None
    place.settle()
    assert len(place.outlet.given) == 2


def test_of_several_processes_one_delivers(place: Place) -> None:
    place.settle()
    place.evidence("a")
    assert place.settle(place.begin()) == ()
    assert place.keys() == []
    place.deliveries.close()
    place.settle(place.made[1])
    assert place.keys() == ["a-0123abcd.1"]


# ------------------------------------------------------------------------------------------------ pauses


def test_pauses_grow_are_spread_and_have_an_end() -> None:
    longest = [pause_s(tries, None, 0.999999) for tries in range(1, 40)]
    assert [round(each) for each in longest[:4]] == [2, 4, 8, 16]
    assert round(longest[-1]) == PAUSE_MAX_S and longest == sorted(longest)
    assert pause_s(10, None, 0.0) == 0.0
    assert pause_s(1, 30.0, 0.5) == 30.0
    assert pause_s(1, 10.0**9, 0.5) == AFTER_MAX_S
    assert [each for each in (200, 400, 401, 404, 408, 409, 422, 425, 429, 500, 503, 599) if passes(each)] == [
        408, 425, 429, 500, 503, 599,
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------ files


def test_receipts_and_dead_letters_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "KEPT_MAX", 10)
    found = Box(directory=tmp_path / "box", disk=Disk())
    for number in range(30):
        owed = Open(key=f"r{number}", run_id=RunId("r"), task_id=TaskId("t"), attempt=1, blob="b", since=AT)
        found.receipt(Done(key=f"r{number}", at=AT, tries=1, said=""))
        found.bury(Dead(owed=owed, at=AT, reason="no"))
    assert len(found.keys("done")) <= 11 and len(found.keys("dead")) <= 11
    assert "r29" in found.keys("done") and "r29" in found.keys("dead")


LINE = audit.Line(
    at=AT, outlet="o", delivery="r.1", run_id="r", attempt=1, try_number=1, result="retry", said="no", duration_s=0.1
)  # fmt: skip


def test_the_audit_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "BYTES_MAX", 1000)
    for _ in range(40):
        audit.write(Disk(), tmp_path, "t", LINE)
    files = sorted((tmp_path / "out/t/cloud-sync").iterdir())
    assert [each.name for each in files] == ["audit.1.jsonl", "audit.jsonl"]
    assert all(each.stat().st_size < 1300 for each in files)
    assert json.loads(files[1].read_text().splitlines()[-1])["result"] == "retry"


@pytest.mark.parametrize("link", ["out", "out/t", "out/t/cloud-sync", "out/t/cloud-sync/audit.jsonl"])
def test_the_audit_follows_no_link_out_of_the_checkout(tmp_path: Path, link: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    checkout = tmp_path / "checkout"
    (checkout / link).parent.mkdir(parents=True)
    (checkout / link).symlink_to(elsewhere if not link.endswith("jsonl") else elsewhere / "file")
    with pytest.raises(OSError):
        audit.write(Disk(), checkout, "t", LINE)
    assert list(elsewhere.iterdir()) == []
