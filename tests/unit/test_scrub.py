"""Secrets that were known too late, out of what was written by then."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler import model
from reconciler.disk import DISK
from reconciler.errors import TransientError
from reconciler.model import Attempt, Host, Instant, Judgement, Process, Reviewed, StageId, StageRecord, StageStatus
from reconciler.order import Artifact
from reconciler.redact import Redactor
from reconciler.scrub import MARK, scrubbed, scrubbed_attempt, scrubbed_json, scrubbed_text
from reconciler.stage import clean_file
from reconciler.unsaid import LOG_BYTES_MAX, clean_log, unsayable
from reconciler.unsaid import clean_file as publishable

VALUES = (b"s3cr3t-and-more", b"s3cr3t")


def test_the_longest_goes_first_and_what_holds_none_stays_itself() -> None:
    assert scrubbed(b"a s3cr3t-and-more, s3cr3t", VALUES) == b"a " + MARK + b", " + MARK
    data = b"nothing"
    assert scrubbed(data, VALUES) is data
    text = "\udcff nothing"
    assert scrubbed_text(text, VALUES) is text
    assert scrubbed_json({"s3cr3t": [1, None, "a s3cr3t"]}, VALUES) == {MARK.decode(): [1, None, f"a {MARK.decode()}"]}


def test_of_an_attempt_all_that_others_said_is_cleaned_and_nothing_else() -> None:
    files = [{"path": "artifacts/s3cr3t", "bytes": 1, "sha256": "0"}]
    stage = StageRecord(
        id=StageId("build"),
        digest="0",
        status=StageStatus.FAILED,
        attempt=1,
        summary="s3cr3t",
        answer={"summary": "s3cr3t", "files": files},
    )
    attempt = Attempt(
        number=1,
        worker=Process(pid=2, start_ticks=3, boot_id="b"),
        host=Host(name="s3cr3t", system="", machine="", python="", cpus=1),
        started=Instant(at="2026-03-01T09:30:00Z", monotonic_s=0.0, boot_id="b"),
        stages=(stage,),
        detail="s3cr3t",
        judgement=Judgement(
            tested=model.Tested(status="failed", reasons=("s3cr3t",)),
            reviewed=Reviewed(decision="reject", reason="s3cr3t"),
            records=(stage,),
        ),
    )
    mark = MARK.decode()
    clean = replace(stage, summary=mark, answer={"summary": mark, "files": files})
    found = scrubbed_attempt(attempt, VALUES)
    assert (found.detail, found.stages, found.host) == (mark, (clean,), attempt.host)
    assert found.judgement is not None
    assert (found.judgement.tested.reasons, found.judgement.reviewed.reason) == ((mark,), mark)
    assert found.judgement.records == (clean,)


def test_a_log_is_cleaned_on_disk_and_the_manifest_says_what_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "01-s.log"
    path.write_bytes(b"a s3cr3t\n")
    command: dict[str, Any] = {}
    clean_log(DISK, str(path), command, ())
    assert (path.read_bytes(), command) == (b"a s3cr3t\n", {})
    clean_log(DISK, str(path), command, VALUES)
    clean = b"a " + MARK + b"\n"
    assert path.read_bytes() == clean
    assert command == {"log_bytes": len(clean), "log_sha256": hashlib.sha256(clean).hexdigest()}
    clean_log(DISK, str(tmp_path / "gone.log"), command, VALUES)


def test_a_log_that_is_too_long_to_be_searched_is_no_evidence(tmp_path: Path) -> None:
    path = tmp_path / "01-s.log"
    with path.open("wb") as file:
        file.truncate(LOG_BYTES_MAX + 1)
    with pytest.raises(TransientError, match="are searched for secrets"):
        clean_log(DISK, str(path), {}, VALUES)


def test_a_file_of_evidence_is_named_by_what_it_is_now() -> None:
    named: dict[str, Any] = {}
    assert publishable(b"s3cr3t", named, VALUES) == MARK
    assert named == {"bytes": len(MARK), "sha256": hashlib.sha256(MARK).hexdigest()}


def test_where_everything_may_be_said_nothing_is_taken_out() -> None:
    assert unsayable("shadow") == unsayable("off") == ()


def test_a_worker_cleans_an_artifact_and_no_file_that_is_elsewhere(tmp_path: Path) -> None:
    directory, outside = tmp_path / "run", tmp_path / "outside"
    (directory / "artifacts/01-s").mkdir(parents=True)
    outside.mkdir()
    (directory / "artifacts/link").symlink_to(outside)
    (directory / "artifacts/01-s/file").symlink_to(outside / "answer.txt")
    data, redactor = b"a s3cr3t", Redactor(values=VALUES)
    digest = hashlib.sha256(data).hexdigest()
    for place in (directory / "artifacts/01-s/answer.txt", directory / "plan.json", outside / "answer.txt"):
        place.write_bytes(data)
    paths = ("artifacts/link/answer.txt", "artifacts/../plan.json", "plan.json", "../outside/answer.txt")
    for path in (*paths, "artifacts/01-s/file", "artifacts/01-s/gone", str(outside / "answer.txt")):
        named = Artifact(path=path, bytes=len(data), sha256=digest)
        assert clean_file(directory, named, redactor) == named
    assert (directory / "plan.json").read_bytes() == (outside / "answer.txt").read_bytes() == data
    named = Artifact(path="artifacts/01-s/answer.txt", bytes=len(data), sha256=digest)
    assert clean_file(directory, replace(named, sha256="0" * 64), redactor).sha256 == "0" * 64
    assert clean_file(directory, named, Redactor(values=VALUES, mode="shadow")) == named
    found = clean_file(directory, named, redactor)
    clean = b"a " + MARK
    assert (directory / named.path).read_bytes() == clean
    assert (found.bytes, found.sha256) == (len(clean), hashlib.sha256(clean).hexdigest())
