"""Orders and words as commits: what is sent, what is believed, and what of it comes into a run directory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler import codec, events, journal, process
from reconciler.errors import ContentError
from reconciler.events import Event
from reconciler.executors import ordering
from reconciler.git import Draft
from reconciler.model import Attempt, Claim, Host, Outcome, StageId, StageRecord, StageStatus
from reconciler.order import Answer, Artifact, Verdict
from reconciler.rundir import RunDirectory
from reconciler.work import RUN, Word, WorkOrder, signed
from tests.placed import Placed, placed
from tests.scratch import Scratch

STAGES = "  - {id: a, command: 'true'}\n  - {id: b, command: 'true', needs: [a]}\n"
HERE = Host(name="node1", system="Linux", machine="x", python="3", cpus=1)
LOG = "commands/01-a.log"


@pytest.fixture
def run(scratch: Scratch) -> Iterator[Placed]:
    scratch.write("README.md", "hello\n")
    scratch.commit()
    found = placed(scratch, STAGES)
    yield found
    found.close()


def record(run: Placed, stage: str = "a", **more: object) -> StageRecord:
    planned = next(each for each in run.plan.stages if each.id == stage)
    known: dict[str, object] = {"log_path": LOG, "status": StageStatus.SUCCEEDED, "attempt": run.number, **more}
    return StageRecord(id=planned.id, digest=planned.digest, **known)  # type: ignore[arg-type]


def attempt(run: Placed, *stages: StageRecord, outcome: Outcome | None = Outcome.SUCCEEDED) -> Attempt:
    return Attempt(
        number=run.number, worker=process.myself(), host=HERE, started=process.instant(), stages=stages, outcome=outcome
    )


def say(run: Placed, files: Mapping[str, bytes], *, ended: bool = True, key: str | None = None) -> tuple[str, Word]:
    word = Word(run_id=run.plan.run_id, number=run.number, beat=1, at="2030-01-01T00:00:00Z", ended=ended, tree="")
    return ordering.make_word(run.repository, run.order, word, files, run.key if key is None else key, 1_700_000_000)


def bring(run: Placed, files: Mapping[str, bytes], *, ended: bool = True, bytes_max: int = 1 << 20) -> ordering.Brought:
    _, word = say(run, files, ended=ended)
    return ordering.bring_home(run.repository, word, run.directory, run.plan, bytes_max=bytes_max)


def told(run: Placed, name: str = "a", **more: object) -> Event:
    known = {"run_id": run.plan.run_id, "task_id": run.plan.task_id, "attempt": run.number, **more}
    return Event(at="2030-01-01T00:00:00.000Z", data=events.StageStarted(stage=StageId(name), try_number=1), **known)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ orders


def test_an_order_is_a_child_of_the_commit_of_its_run_and_holds_the_records(run: Placed, tmp_path: Path) -> None:
    order = run.place(depth=3)
    parsed = ordering.read_order(run.repository, order)
    assert parsed == WorkOrder(
        run_id=run.plan.run_id, task_id="t", number=1, commit=run.plan.commit, plan_sha256=run.sha256, beat_s=0.5,
        bytes_max=4 * 1024 * 1024, depth=3,
    )  # fmt: skip
    assert run.repository.parent(order) == run.plan.commit
    tree = run.repository.look_up([f"{order}^{{tree}}"])[0]
    paths = [each.path for each in run.repository.entries(tree)]
    assert paths == ["order.json", "run/claims/1.json", "run/plan.json"]


def test_the_next_attempt_sees_what_became_of_the_earlier_one(run: Placed, tmp_path: Path) -> None:
    run.place()
    earlier = attempt(run, record(run), outcome=Outcome.INTERRUPTED)
    disk = run.directory.disk
    disk.make_directory(run.directory.path / "attempts")
    disk.write_atomic(run.directory.record("attempts", 1), codec.compact(earlier))
    disk.make_directory(run.directory.path / "agents/01-a/home")
    disk.write_atomic(run.directory.path / "agents/01-a/record.json", b"{}")
    disk.write_atomic(run.directory.path / "agents/01-a/home/secret", b"s")
    disk.write_atomic(run.directory.token, b"the token of this run")
    order = run.place(run.claim(2))
    there = RunDirectory(tmp_path / "there")
    ordering.lay_down(run.repository, order, ordering.read_order(run.repository, order), there)
    assert there.read(Attempt, there.record("attempts", 1)) == earlier
    found = sorted(path.relative_to(there.path).as_posix() for path in there.path.rglob("*") if path.is_file())
    assert found == ["agents/01-a/record.json", "attempts/1.json", "claims/1.json", "claims/2.json", "plan.json"]


def test_a_plan_that_was_not_frozen_here_is_not_sent(run: Placed) -> None:
    claim = run.claim()
    run.directory.disk.write_atomic(run.directory.path / "plan.json", codec.compact(replace(run.plan, title="other")))
    with pytest.raises(ContentError, match="not the plan that was frozen"):
        run.place(claim)


@pytest.mark.parametrize("what", ["plan", "claim", "order", "run"])
def test_an_order_that_does_not_agree_with_itself_is_refused(run: Placed, tmp_path: Path, what: str) -> None:
    order = run.place()
    claim = codec.compact(run.directory.read(Claim, run.directory.record("claims", 1)))
    good = ordering.read_order(run.repository, order)
    files = {
        "order.json": codec.render(replace(good, run_id="b-00000000") if what == "run" else good),
        f"{RUN}plan.json": codec.compact(replace(run.plan, title="other") if what == "plan" else run.plan),
        f"{RUN}claims/1.json": claim.replace(b'"number": 1', b'"number": 2') if what == "claim" else claim,
    }
    if what == "order":
        files["order.json"] = b'{"run_id": 1}'
    forged = commit(run, files)
    with pytest.raises(ContentError):
        ordering.lay_down(
            run.repository, forged, ordering.read_order(run.repository, forged), RunDirectory(tmp_path / "x")
        )


def commit(run: Placed, files: Mapping[str, bytes], modes: Mapping[str, str] | None = None) -> str:
    nothing = run.repository.empty_tree()
    draft = Draft(
        parent=run.plan.commit, base_tree=nothing, files=files, modes=modes or {}, message="x", identity="A <a@b>",
        epoch_s=1,
    )  # fmt: skip
    return run.repository.make_commit(draft)


# ------------------------------------------------------------------------------------------------ words


def test_a_word_is_read_as_it_was_said(run: Placed) -> None:
    order = run.place()
    oid, word = say(run, {LOG: b"x\n"})
    assert ordering.read_word(run.repository, oid, run.key) == word
    assert run.repository.parent(oid) == order


def test_a_word_of_somebody_else_is_none(run: Placed) -> None:
    run.place()
    oid, _ = say(run, {}, key="another key")
    assert ordering.read_word(run.repository, oid, run.key) is None
    assert ordering.read_word(run.repository, run.order, run.key) is None
    assert ordering.read_word(run.repository, "0" * 40, run.key) is None


def test_the_tree_of_a_word_cannot_be_exchanged(run: Placed) -> None:
    run.place()
    _, word = say(run, {LOG: b"true\n"})
    draft = Draft(
        parent=run.order, files={f"{RUN}{LOG}": b"forged\n"}, message=codec.compact(word).decode(), identity="A <a@b>",
        epoch_s=1,
    )  # fmt: skip
    assert ordering.read_word(run.repository, run.repository.make_commit(draft), run.key) is None


# ------------------------------------------------------------------------------------------------ bringing home


def test_what_may_become_evidence_comes_home(run: Placed) -> None:
    run.place()
    name = "artifacts/01-a/report.txt"
    answer = Answer(verdict=Verdict.PASSED, files=(Artifact(path=name, bytes=3, sha256="0" * 64),))
    done = attempt(run, record(run, answer=codec.dump(answer)))
    line = events.line(told(run))
    brought = bring(run, {"attempts/1.json": codec.compact(done), LOG: b"out\n", name: b"abc", journal.NAME: line})
    assert brought.attempt == done and brought.files == 3
    assert run.attempt() == done
    assert (run.directory.path / LOG).read_bytes() == b"out\n"
    assert (run.directory.path / name).read_bytes() == b"abc"
    assert (run.directory.path / journal.NAME).read_bytes() == line


def test_until_the_last_word_only_record_and_events_come(run: Placed) -> None:
    run.place()
    begun = attempt(run, record(run, status=StageStatus.RUNNING), outcome=None)
    bring(run, {"attempts/1.json": codec.compact(begun), LOG: b"out\n"}, ended=False)
    assert run.attempt() == begun and not (run.directory.path / LOG).exists()


def test_an_end_comes_with_the_last_word_alone(run: Placed) -> None:
    """Else what belongs to it would be missing: the worker may have ended between the record and the word."""
    run.place()
    files = {"attempts/1.json": codec.compact(attempt(run, record(run))), LOG: b"out\n"}
    assert bring(run, files, ended=False) == ordering.Brought(attempt=None)
    assert run.attempt() is None
    bring(run, files)
    assert run.attempt() is not None and (run.directory.path / LOG).read_bytes() == b"out\n"


def test_whoever_is_interrupted_while_an_end_comes_home_begins_again(run: Placed) -> None:
    """An end that is recorded is not brought home again: what it names must be there by then."""
    run.place()
    files = {"attempts/1.json": codec.compact(attempt(run, record(run))), LOG: b"out\n"}
    in_the_way = run.directory.path / "commands"
    in_the_way.write_bytes(b"")
    with pytest.raises(OSError, match="commands"):
        bring(run, files)
    assert run.attempt() is None
    in_the_way.unlink()
    bring(run, files)
    assert run.attempt() is not None and (run.directory.path / LOG).read_bytes() == b"out\n"


def test_a_word_without_a_record_brings_nothing(run: Placed) -> None:
    run.place()
    assert bring(run, {"courier.json": b"{}"}, ended=False) == ordering.Brought(attempt=None)
    assert run.attempt() is None


def test_the_end_of_an_attempt_is_not_taken_back(run: Placed) -> None:
    run.place()
    done = attempt(run, record(run))
    bring(run, {"attempts/1.json": codec.compact(done)})
    bring(run, {"attempts/1.json": codec.compact(replace(done, outcome=None))}, ended=False)
    assert run.attempt() == done


def test_a_journal_only_grows_and_tells_nothing_twice(run: Placed) -> None:
    run.place()
    before = replace(told(run, "z"), attempt=7)
    journal.append(run.directory.path / journal.NAME, [before])
    first, second = told(run, "a"), told(run, "b")
    foreign = replace(told(run, "c"), run_id="other-00000000")
    bodies = [[first], [first, foreign], [first, second], [first, second]]
    for each in bodies:
        record_now = codec.compact(attempt(run, outcome=None))
        lines = b"".join(map(events.line, each)) + b"torn"
        bring(run, {"attempts/1.json": record_now, journal.NAME: lines}, ended=False)
    assert journal.read(run.directory.path / journal.NAME).events == (before, first, second)


def test_what_is_no_record_of_the_attempt_is_an_error_and_changes_nothing(run: Placed) -> None:
    run.place()
    stranger = replace(attempt(run, record(run)), number=2)
    unknown = attempt(run, replace(record(run), id=StageId("zz")))
    for data in (b"[]", codec.compact(stranger), codec.compact(unknown)):
        with pytest.raises(ContentError):
            bring(run, {"attempts/1.json": data, LOG: b"out\n"})
    assert run.attempt() is None and not (run.directory.path / LOG).exists()


def test_only_names_that_follow_from_the_plan_are_written(run: Placed) -> None:
    run.place()
    places = ("artifacts/01-a/../../plan.json", "plan.json", "artifacts/02-b/x", "artifacts/01-a//x", "/etc/passwd")
    answer = Answer(verdict=Verdict.PASSED, files=tuple(Artifact(path=p, bytes=3, sha256="0" * 64) for p in places))
    done = attempt(run, record(run, answer=codec.dump(answer)), record(run, "b", log_path="../../x.log"))
    before = (run.directory.path / "plan.json").read_bytes()
    files = {
        "attempts/1.json": codec.compact(done), "attempts/2.json": b"{}", "claims/2.json": b"{}", "plan.json": b"{}",
        "lock": b"", ".resume-token": b"x", "cancels/1.json": b"{}", "ends/1.json": b"{}", "commands/02-b.log": b"x",
        "commands/99-zz.log": b"x", "artifacts/02-b/x": b"abc", "workspace/x": b"x",
    }  # fmt: skip
    bring(run, files)
    found = sorted(p.relative_to(run.directory.path).as_posix() for p in run.directory.path.rglob("*") if p.is_file())
    assert found == ["attempts/1.json", "claims/1.json", "plan.json"]
    assert (run.directory.path / "plan.json").read_bytes() == before


def test_links_and_large_files_stay_where_they_are(run: Placed) -> None:
    run.place()
    done = codec.compact(attempt(run, record(run), record(run, "b", log_path="commands/02-b.log")))
    files = {f"{RUN}attempts/1.json": done, f"{RUN}{LOG}": b"/etc/passwd", f"{RUN}commands/02-b.log": b"x" * 5000}
    tree = run.repository.look_up([f"{commit(run, files, {f'{RUN}{LOG}': '120000'})}^{{tree}}"])[0]
    word = signed(Word(run_id=run.plan.run_id, number=1, beat=1, at="x", ended=True, tree=tree or ""), run.key)
    allowed = 4000 - ordering.RECORD_BYTES_MAX  # less than the log
    ordering.bring_home(run.repository, word, run.directory, run.plan, bytes_max=allowed + len(done))
    assert run.attempt() is not None
    assert not (run.directory.path / "commands").exists()


def test_a_record_of_a_repository_that_lost_the_tree_brings_nothing(run: Placed) -> None:
    run.place()
    word = Word(run_id=run.plan.run_id, number=1, beat=1, at="x", ended=True, tree="1" * 40)
    assert ordering.bring_home(run.repository, word, run.directory, run.plan, bytes_max=1).attempt is None


def test_what_is_sent_is_json_that_people_can_read(run: Placed) -> None:
    order = run.place()
    shown = json.loads(run.repository.git("show", f"{order}:order.json"))
    assert set(shown) == set(WorkOrder.__slots__)
