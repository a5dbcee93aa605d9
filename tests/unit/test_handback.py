"""What is handed back of an attempt fits into what was allowed, and says how it ended; what is told of it is plain."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler import codec, process
from reconciler.errors import UsageError
from reconciler.executors import clone, courier, echo, handback
from reconciler.model import Attempt, Outcome, Plan, StageRecord, StageStatus
from reconciler.order import Answer, Artifact, Verdict
from reconciler.redact import Redactor
from reconciler.rundir import RunDirectory
from reconciler.work import WorkOrder, handle_of, key_of, repository_of
from tests.placed import plan_of

KEY = key_of("token", 1)
STAGES = "".join(f"  - {{id: s{number}, command: 'true'}}\n" for number in range(3))


@pytest.fixture
def plan() -> Plan:
    return replace(plan_of(STAGES, "3" * 40), log_bytes_max=8000)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    found = RunDirectory(tmp_path / "run")
    for each in ("attempts", "commands", "artifacts/01-s0"):
        (found.path / each).mkdir(parents=True)
    yield found


def order_of(plan: Plan, bytes_max: int) -> WorkOrder:
    return WorkOrder(
        run_id=plan.run_id, task_id=plan.task_id, number=1, commit=plan.commit, plan_sha256="0" * 64, beat_s=1.0,
        bytes_max=bytes_max,
    )  # fmt: skip


def record(plan: Plan, directory: RunDirectory, *, outcome: Outcome | None = Outcome.SUCCEEDED) -> Attempt:
    """Write the record of an attempt whose stages have a log each, and the first a file of evidence."""
    answer = Answer(verdict=Verdict.PASSED, files=(Artifact(path="artifacts/01-s0/x", bytes=3000, sha256="0" * 64),))
    stages = [
        StageRecord(
            id=each.id, digest=each.digest, status=StageStatus.RUNNING if outcome is None else StageStatus.SUCCEEDED,
            attempt=1, log_path=f"commands/{each.index + 1:02d}-{each.id}.log",
            answer=codec.dump(answer) if each.index == 0 else None,
        )
        for each in plan.stages
    ]  # fmt: skip
    attempt = Attempt(
        number=1, worker=process.myself(), host=process.this_machine(), started=process.instant(),
        stages=tuple(stages), outcome=outcome,
    )  # fmt: skip
    directory.record("attempts", 1).write_bytes(codec.compact(attempt))
    return attempt


def logs(directory: RunDirectory, *sizes: int) -> None:
    for number, size in enumerate(sizes):
        (directory.path / f"commands/{number + 1:02d}-s{number}.log").write_bytes(b"x" * (size - 4) + b"end\n")


@pytest.mark.parametrize("bytes_max", [1, 4000, 8000, 12_000, 1 << 20])
def test_all_of_it_fits_but_for_the_record_which_is_always_there(
    plan: Plan, directory: RunDirectory, bytes_max: int
) -> None:
    record(plan, directory)
    (directory.path / "artifacts/01-s0/x").write_bytes(b"a" * 3000)
    (directory.path / "events.jsonl").write_bytes(b'{"e": 1}\n' * 100)
    logs(directory, 100, 20_000, 20_000)
    found = handback.everything(directory, order_of(plan, bytes_max), plan)
    size = len(found["attempts/1.json"])
    assert sum(map(len, found.values())) <= max(bytes_max, size)
    told = found.get("events.jsonl", b"\n")
    assert told.endswith(b"\n")
    if bytes_max == 1 << 20:
        assert {name: len(data) for name, data in found.items() if name.startswith("commands/")} == {
            "commands/01-s0.log": 100, "commands/02-s1.log": 8000, "commands/03-s2.log": 8000,
        }  # fmt: skip
        assert found["commands/03-s2.log"].endswith(b"end\n") and b"left out" in found["commands/03-s2.log"]
        assert len(found["artifacts/01-s0/x"]) == 3000 and len(told) == 900


def test_who_left_no_record_has_one_in_the_end(plan: Plan, directory: RunDirectory) -> None:
    handback.mend(directory, 1, Outcome.INTERRUPTED, "it is gone")
    found = handback.record_of(directory, 1)
    assert found is not None and (found.outcome, found.detail) == (Outcome.INTERRUPTED, "it is gone")
    assert found.ended_at is not None and found.stages == ()


def test_what_was_left_running_is_interrupted_and_an_end_stands(plan: Plan, directory: RunDirectory) -> None:
    record(plan, directory, outcome=None)
    handback.mend(directory, 1, Outcome.INTERRUPTED, "it is gone")
    handback.mend(directory, 1, Outcome.FAILED, "too late")
    found = handback.record_of(directory, 1)
    assert found is not None and found.outcome == Outcome.INTERRUPTED
    assert {(each.status, each.summary) for each in found.stages} == {(StageStatus.INTERRUPTED, "it is gone")}


def test_the_last_words_of_a_crash_hold_no_secret(directory: RunDirectory) -> None:
    assert handback.last_words(directory, ()) == ""
    (directory.path / "worker.err").write_bytes(
        b"Traceback:\n" + b"x" * 5000 + b"\nOSError: \x1bhunter2-word: gone\n\n"
    )
    assert handback.last_words(directory, [b"hunter2-word"]) == "OSError:  [redacted:environment]: gone"


def test_only_what_is_of_no_use_is_removed(tmp_path: Path) -> None:
    ours = handle_of("0a0a0a0a", "a.b-1a2b3c4d", 3)

    def is_of_no_use(handle: str, *, age_s: float = 0.0) -> bool:
        place = tmp_path / f"{handle}.{'0' * 16}"
        place.mkdir(exist_ok=True)
        os.utime(place, (time.time() - age_s,) * 2)
        return courier._is_of_no_use(place.name, place, ours)

    assert is_of_no_use(ours) and is_of_no_use(handle_of("0a0a0a0a", "a.b-1a2b3c4d", 2))
    others = [("0a0a0a0a", "a.b-1a2b3c4d", 4), ("0a0a0a0a", "a.b-1a2b3c4e", 1), ("0b0b0b0b", "a.b-1a2b3c4d", 1)]
    assert not any(is_of_no_use(handle_of(*each)) for each in others)
    assert all(is_of_no_use(handle_of(*each), age_s=courier.LEFTOVER_S + 60) for each in others)
    assert not is_of_no_use("somebody-elses", age_s=courier.LEFTOVER_S + 60)


def test_what_is_told_is_plain_text_in_whole_lines_without_secrets(plan: Plan, directory: RunDirectory) -> None:
    path = directory.path / "commands/01-s0.log"
    tail = echo._Tail(directory, "commands/01-s0.log", "s0", Redactor(values=[b"hunter2-secret"]))
    assert tail.lines(last=False) == []
    path.write_bytes(b"one\ntw")
    assert tail.lines(last=False) == [b"[s0] one\n"]
    with path.open("ab") as file:
        file.write(b"o \x1b[31mred\x07\nhunter2-secret\nrest")
    assert tail.lines(last=False) == [b"[s0] two red\n", b"[s0] [redacted:environment]\n"]
    assert [*tail.lines(last=True), *tail.lines(last=True)] == [b"[s0] rest\n"]
    path.write_bytes(path.read_bytes() + b"y" * 20_000 + b"\n")
    long = tail.lines(last=False)
    assert all(len(each) <= echo.LINE_BYTES_MAX + 10 for each in long)


def test_so_much_is_told_and_no_more(
    plan: Plan, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(echo, "TOLD_BYTES_MAX", 1000)
    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    monkeypatch.setattr(echo, "STANDARD_OUTPUT", out)
    (directory.path / "commands/01-s0.log").write_bytes(b"line\n" * 1000)
    said = echo.Echo(directory, plan, 1, ())
    said.start()
    said.end()
    os.close(out)
    text = (tmp_path / "out").read_bytes()
    assert text.startswith(b"[s0] line\n") and text.endswith(b"[... the rest is in the logs ...]\n")
    assert len(text) < 1100


# ------------------------------------------------------------------------------------------------ the command line


def test_what_a_courier_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/bin")
    given = ["--url", "file:///a.git", "--ref", "refs/reconciler/work/a.b-1a2b3c4d/12", "--scratch", str(tmp_path)]
    told = courier.errand([*given, "--patience", "1.5h", "--program-path", "/opt/x", "--program-path", "/opt/y"], KEY)
    assert (told.patience_s, told.order, told.scratch) == (5400.0, "", tmp_path)
    assert told.handle == handle_of(repository_of("file:///a.git"), "a.b-1a2b3c4d", 12)
    assert os.environ["PATH"] == "/opt/x:/opt/y:/bin"


@pytest.mark.parametrize(
    ("more", "key", "sentence"),
    [
        (["--ref", "refs/heads/main"], "", "--ref: 'refs/heads/main' is not the ref of an attempt"),
        ([], "short", "RECONCILER_WORK_KEY: not set to a key"),
        (["--order", "HEAD"], "", "--order: 'HEAD' is not the id of a commit"),
        (["--patience", "soon"], "", "--patience: 'soon' is no duration; 90s, 10m, 2h and 1d are"),
    ],
)
def test_what_is_no_errand_is_refused(more: list[str], key: str, sentence: str) -> None:
    given = ["--url", "file:///a.git", "--ref", "refs/reconciler/work/a-1a2b3c4d/1", *more]
    with pytest.raises(UsageError, match=re.escape(sentence)):
        courier.errand(given, key or KEY)


@pytest.mark.parametrize("url", ["-x", "here", "ext::sh -c x", "", "a\nb"])
def test_what_is_no_address_is_not_asked(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the address of a repository"):
        clone.open_clone(url, "refs/reconciler/work/a-1a2b3c4d/1", tmp_path / "git")
