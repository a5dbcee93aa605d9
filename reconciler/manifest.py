"""The record of a run for people and for proof: a pure view of plan, claims and attempts.

The worker renders it while the run lives, the publisher renders it once more into the commit. Field names are
the ones users of the Node orchestrator know, where the meaning is the same; what makes the record provable
(blobs, commits, digests) is added. It holds no absolute path and no token, and its size is bounded by the
number of stages, never by what they print.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from reconciler import codec
from reconciler.model import (
    Attempt,
    Cited,
    Claim,
    End,
    Outcome,
    Plan,
    PlannedStage,
    Refusal,
    Reviewed,
    StageId,
    StageKind,
    StageRecord,
    StageStatus,
    Status,
    Tested,
)
from reconciler.order import Verdict
from reconciler.places import Recovery
from reconciler.values import frozen

SCHEMA_VERSION = 1
COMMAND_CHARACTERS_MAX = 2000
DETAIL_CHARACTERS_MAX = 500
NAME_CHARACTERS_MAX = 100
HOST_CHARACTERS_MAX = 255
CAPABILITIES_MAX = 100
WEIGHT_MAX = 1000
SILENT_S_MAX = 1e9


def artifact_root(task_id: str, run_id: str) -> str:
    """Return the repo-relative directory of a run's full record."""
    return f".runs/{task_id}/cli/{run_id}"


def manifest_path(task_id: str, run_id: str) -> str:
    return f"{artifact_root(task_id, run_id)}/manifest.json"


def summary_path(task_id: str, run_id: str) -> str:
    return f".runs/{task_id}/{run_id}/manifest.json"


def log_name(index: int, stage_id: str, attempt: int) -> str:
    """Return the name of a stage's log below the run directory.

    Every attempt has logs of its own: what an earlier attempt printed stays evidence, and a log that is already
    committed is never written to again.
    """
    return f"commands/{index + 1:02d}-{stage_id}{f'.{attempt}' if attempt > 1 else ''}.log"


def error_name(index: int, stage_id: str) -> str:
    return f"errors/{index + 1:02d}-{stage_id}.json"


@frozen
class Records:
    """All that is written down about one run, by attempt number. `plans` holds the digests of refreshed plans."""

    plan: Plan
    claims: Mapping[int, Claim]
    attempts: Mapping[int, Attempt]
    ends: Mapping[int, End]
    refusals: tuple[Refusal, ...] = ()

    @property
    def numbers(self) -> list[int]:
        """The numbers of all attempts, ascending; a claim that was lost to damage leaves its attempt behind."""
        return sorted(self.claims.keys() | self.attempts.keys() | self.ends.keys())

    @property
    def number(self) -> int:
        return max(self.numbers, default=0)

    @property
    def counting(self) -> list[Attempt]:
        """The attempts whose results count, oldest first: a person may ask for a run afresh."""
        first = max((claim.keeps_from for claim in self.claims.values()), default=1)
        return [self.attempts[each] for each in sorted(self.attempts) if each >= first]


def fold(plan: Plan, attempts: Iterable[Attempt]) -> dict[StageId, StageRecord]:
    """Return what is known of every planned stage, oldest attempt first in `attempts`.

    A record counts only for the stage with its id *and* its definition digest; a success is never replaced.
    """
    digests = {stage.id: stage.digest for stage in plan.stages}
    known: dict[StageId, StageRecord] = {}
    for attempt in attempts:
        for record in attempt.stages:
            earlier = known.get(record.id)
            if digests.get(record.id) == record.digest and not _succeeded(earlier):
                known[record.id] = record
    return known


def kept(plan: Plan, attempts: Iterable[Attempt]) -> dict[StageId, StageRecord]:
    """Return the successes that the next attempt may build on."""
    return {each: record for each, record in fold(plan, attempts).items() if _succeeded(record)}


def _succeeded(record: StageRecord | None) -> bool:
    return record is not None and record.status == StageStatus.SUCCEEDED


def status_of(records: Records) -> tuple[Status, str]:
    """Return the status of the run and one sentence about why."""
    number = records.number
    end, attempt = records.ends.get(number), records.attempts.get(number)
    if end is not None and end.outcome != Outcome.INTERRUPTED:
        return Status(end.outcome.value), end.detail
    if attempt is None:
        return Status.QUEUED, "claimed; its worker has not started yet"
    if attempt.outcome is None:
        return Status.IN_PROGRESS, attempt.detail
    if attempt.outcome == Outcome.WAITING:
        return Status.WAITING, attempt.detail
    if attempt.outcome == Outcome.INTERRUPTED:
        return Status.IN_PROGRESS, f"attempt {number} was interrupted; the next pass resumes it"
    return Status(attempt.outcome.value), attempt.detail


def manifest(records: Records, *, updated_at: str, heartbeat_at: str | None) -> dict[str, object]:
    """Return the manifest of a run as plain JSON values."""
    plan, commands = records.plan, _commands(records)
    status, detail = status_of(records)
    return {
        **_identity(plan),
        "status": status.value,
        "status_detail": _bounded(detail),
        "started_at": _started_at(records),
        "completed_at": _completed_at(records) if status.ended else None,
        "updated_at": updated_at,
        "heartbeat_at": heartbeat_at,
        "heartbeat_interval_seconds": plan.heartbeat.interval_s,
        "heartbeat_stale_after_seconds": plan.heartbeat.stale_after_s,
        "artifact_root": artifact_root(plan.task_id, plan.run_id),
        "log_path": _first_log(commands),
        "summary": _summary(status, detail, commands),
        "approval_policy": plan.approval_policy.value,
        "commands": commands,
        "child_runs": _child_runs(records),
        "delivered": None,
        "approvals": _approvals(records),
        "resume_events": _resume_events(records),
        **_sources(records),
        **_wishes(plan),
        "attempts": [_attempt(records, each) for each in records.numbers],
        "recoveries": _recoveries(records),
        **_measured(records, commands),
        "resume_token_sha256": plan.resume_token_sha256,
        "control_plane": codec.dump(plan.control),
    }


def _identity(plan: Plan) -> dict[str, object]:
    """Return which run a manifest is of."""
    return {
        "schema_version": SCHEMA_VERSION,
        "task_id": plan.task_id,
        "run_id": plan.run_id,
        "parent_run_id": plan.parent,
        "name": plan.name,
        "title": plan.title,
        "pipeline_id": plan.pipeline_id,
    }


def _sources(records: Records) -> dict[str, object]:
    """Return what a run was made of: instructions, files, commit and plans."""
    plan = records.plan
    return {
        "instructions_hash": plan.instructions.hash,
        "instructions_sources": list(plan.instructions.sources),
        "guardrail_status": guardrail_status(plan, fold(plan, records.counting)),
        "plan_target_id": plan.target,
        "request": {"path": plan.request.path, "blob": plan.request.blob},
        "pipeline": {"path": plan.pipeline.path, "blob": plan.pipeline.blob},
        "commit": plan.commit,
        "branch": plan.branch,
        "plan_digest": plan.digest,
        "plan_digests": _plan_digests(records),
    }


def _wishes(plan: Plan) -> dict[str, object]:
    """Return what the request of a run asked for beside its pipeline."""
    return {
        "parameters": dict(plan.parameters),
        "execution_mode": plan.execution_mode.value,
        "workspace": plan.workspace.value,
        "fired_at": plan.fired_at or None,
        "labels": list(plan.labels),
        "proves": list(plan.proves),
        "rerun": plan.rerun,
    }


def _measured(records: Records, commands: list[dict[str, object]]) -> dict[str, object]:
    """Return where a run was executed, what it took, and what was redacted of it."""
    privacy = {
        "mode": records.plan.redact.mode,
        "redactions": _total(commands, "redactions"),
        "redactions_by_rule": _by_rule(commands),
    }
    host = _host(records.attempts.get(records.number))
    return {"host": host, "resources": _resources(records, commands), "privacy": privacy}


def guardrail_status(plan: Plan, known: Mapping[StageId, StageRecord]) -> dict[str, list[str]] | None:
    """Return what the guardrails of a run came to, as lists of stage ids; None where there is none and none is needed.

    A guardrail is known by the kind of its stage alone, and by its own verdict: a stage that was ended before it gave
    one has none. Where guardrails are required and no stage could be one, `any` is missing.
    """
    guards = [each for each in plan.stages if each.kind == StageKind.GUARD]
    if not guards and not plan.guardrails_required:
        return None
    verdicts = {each.id: _verdict(known.get(each.id)) for each in guards if each.selected}
    required: list[str] = list(verdicts) if plan.guardrails_required else []
    missing: list[str] = [each for each, verdict in verdicts.items() if required and verdict is None]
    if plan.guardrails_required and not required:
        missing = ["any"]
    judged = {word: [each for each, verdict in verdicts.items() if verdict == word] for word in Verdict}
    return {
        "required": required,
        "passed": [*judged[Verdict.PASSED]],
        "failed": [*judged[Verdict.FAILED]],
        "missing": missing,
        "advisory": [*judged[Verdict.ADVISORY]],
    }


def guardrail_fault(plan: Plan, known: Mapping[StageId, StageRecord]) -> str:
    """Return why a run that must pass its guardrails cannot have succeeded, "" if none of them is in its way."""
    status = guardrail_status(plan, known) if plan.guardrails_required else None
    if status is None:
        return ""
    if status["missing"] == ["any"]:
        return "guardrails are required, and no stage that ran is one"
    said = [f"{', '.join(status[word])} {how}" for word, how in _FAULTS if status[word]]
    if not said and not status["passed"]:
        said = [f"{', '.join(status['advisory'])} only advised"]
    return f"guardrails are required: {'; '.join(said)}" if said else ""


_FAULTS = (("failed", "did not pass"), ("missing", "gave no verdict"))


def _verdict(record: StageRecord | None) -> Verdict | None:
    """Return the verdict of a guardrail that has ended; one whose stage failed for another reason did not pass."""
    if record is None or record.answer is None or record.status not in (StageStatus.SUCCEEDED, StageStatus.FAILED):
        return None
    verdict = Verdict(str(record.answer["verdict"]))
    return Verdict.FAILED if record.status == StageStatus.FAILED and verdict == Verdict.PASSED else verdict


def run_summary(document: Mapping[str, object], manifest_sha256: str, records: Records) -> dict[str, object]:
    """Return the run summary that stands beside a manifest: what was planned, built, tested and reviewed."""
    # Whoever only keeps a manifest up to date, the worker, need not load it.
    from reconciler import drift

    commands: list[dict[str, object]] = document["commands"]  # type: ignore[assignment]
    plan = records.plan
    tested, reviewed = judgement_of(records)
    selected = [each for each in commands if each["selected"]]
    tests = [each for each in selected if each["role"] == "test"]
    attempts: list[object] = document["attempts"]  # type: ignore[assignment]
    resources: dict[str, object] = document["resources"]  # type: ignore[assignment]
    keys = ("schema_version", "task_id", "run_id", "name", "pipeline_id", "status", "status_detail", "started_at")
    return {
        **{key: document[key] for key in keys},
        "completed_at": document["completed_at"],
        "duration_s": resources["duration_s"],
        "attempts": len(attempts),
        "commit": document["commit"],
        "manifest_path": f"{document['artifact_root']}/manifest.json",
        "manifest_sha256": manifest_sha256,
        "plan": {
            "digest": document["plan_digest"],
            "target": document["plan_target_id"],
            "stages": [each["id"] for each in selected],
            "by": plan.roles.planner,
            "items": [{"id": each.id, "mode": each.mode.value, "selected": each.selected} for each in plan.stages],
        },
        "build": {"status": document["status"], "by": plan.roles.builder, "stages": _stage_states(selected)},
        "test": {
            "status": tested.status,
            "by": tested.by,
            "reasons": list(tested.reasons),
            "stages": _stage_states(tests),
        },
        "review": {"decision": reviewed.decision, "reason": reviewed.reason, "by": reviewed.by},
        "control_plane": drift.section(document),
    }


def judgement_of(records: Records) -> tuple[Tested, Reviewed]:
    """Return what the tester and the reviewer of a run said, as the worker of its newest attempt recorded it. A run
    that ended otherwise did not come to them; one that failed so is rejected for that."""
    attempt = records.attempts.get(records.number)
    status, detail = status_of(records)
    judged = attempt.judgement if attempt is not None else None
    if judged is not None and status in (Status.SUCCEEDED, Status.FAILED):
        return judged.tested, judged.reviewed
    if status == Status.FAILED:
        return Tested(status="none"), Reviewed(decision="reject", reason=_bounded(detail))
    return Tested(status="none"), Reviewed(decision="none", reason="it did not come to a review")


def error_document(command: Mapping[str, object], tail: str) -> dict[str, object]:
    """Return what a failed stage leaves in `errors/`: the reason and the end of its output."""
    keys = ("id", "command", "exit_code", "signal", "timed_out", "tries", "summary", "log_path")
    return {"schema_version": SCHEMA_VERSION, **{key: command[key] for key in keys}, "tail": tail}


def _stage_states(commands: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{"id": each["id"], "status": each["status"]} for each in commands]


def _commands(records: Records) -> list[dict[str, object]]:
    known = fold(records.plan, records.counting)
    return [_command(records, stage, known.get(stage.id)) for stage in records.plan.stages]


def _command(records: Records, stage: PlannedStage, record: StageRecord | None) -> dict[str, object]:
    """Return what a manifest says of a stage: as it was planned, and what became of it."""
    record = record or StageRecord(id=stage.id, digest=stage.digest, status=_untouched(records, stage), attempt=0)
    claim = records.claims.get(record.attempt)
    root = artifact_root(records.plan.task_id, records.plan.run_id)
    return {
        "index": stage.index,
        "id": stage.id,
        "title": stage.title,
        "command": command_text(stage),
        "kind": stage.kind.value,
        **_outcome(record),
        **_files(root, stage, record),
        "sub_run_id": stage.children[0].run_id if len(stage.children) == 1 and record.waits_for else None,
        "role": stage.role.value if stage.role else None,
        "needs": list(stage.needs),
        "selected": stage.selected,
        "allow_failure": stage.allow_failure,
        "attempt": record.attempt or None,
        "tries": record.tries,
        "digest": stage.digest,
        "commit": claim.commit if claim else None,
        "redactions": record.redactions,
        "redactions_by_rule": dict(record.redactions_by_rule),
        "cpu_user_s": record.cpu_user_s,
        "cpu_system_s": record.cpu_system_s,
        "memory_peak_bytes": record.memory_peak_bytes,
        "answer": _answer(root, record),
        "sandbox": record.sandbox,
        "trust": _trust(stage, record),
        "reuse_key": record.reuse_key or None,
        "reused": _reused(record.cited),
    }


def _outcome(record: StageRecord) -> dict[str, object]:
    """Return how a stage went."""
    return {
        "status": record.status.value,
        "started_at": record.started_at,
        "completed_at": record.completed_at,
        "duration_s": record.duration_s,
        "exit_code": record.exit_code,
        "signal": record.signal,
        "timed_out": record.timed_out,
        "summary": record.summary,
    }


def _files(root: str, stage: PlannedStage, record: StageRecord) -> dict[str, object]:
    """Return where the log of a stage and its error are, by their paths in the repository."""
    failed = record.status == StageStatus.FAILED
    return {
        "log_path": f"{root}/{record.log_path}" if record.log_path else None,
        "log_bytes": record.log_bytes,
        "log_sha256": record.log_sha256,
        "log_committed_bytes": 0,
        "error_file": f"{root}/{error_name(stage.index, stage.id)}" if failed else None,
    }


def _trust(stage: PlannedStage, record: StageRecord) -> dict[str, object] | None:
    """Return what text kept a stage from being trusted, and what was enforced because of it; None if nothing did."""
    texts = record.untrusted if record.started_at is not None else stage.untrusted
    if not texts:
        return None
    walls = record.sandbox or {"enforced": [], "unenforced": []}
    named = {"enforced": walls["enforced"], "not_enforced": walls["unenforced"]}
    text = [{"path": each.path, "blob": each.blob or None, "commit": each.commit or None} for each in texts]
    return {"trusted": False, "text": text, **named}


def _reused(cited: Cited | None) -> dict[str, object] | None:
    """Return the earlier success that stands for that of a stage, None if it was executed itself."""
    if cited is None:
        return None
    proof = {"path": cited.manifest_path, "sha256": cited.manifest_sha256}
    return {"run_id": cited.run_id, "stage": cited.stage, "manifest": proof}


def _answer(root: str, record: StageRecord) -> dict[str, object] | None:
    """Return what a stage that is no command said of itself, its files by their paths in the repository."""
    if record.answer is None:
        return None
    files: list[dict[str, object]] = record.answer["files"]  # type: ignore[assignment]
    return {**record.answer, "files": [{**each, "path": f"{root}/{each['path']}"} for each in files]}


def _child_runs(records: Records) -> list[str]:
    """Return the nested runs that were wished, in the order of the stages."""
    known = fold(records.plan, records.counting)
    return [each for stage in records.plan.stages if stage.id in known for each in known[stage.id].waits_for]


def _approvals(records: Records) -> list[dict[str, object]]:
    """Return what was asked at gates and what was decided, in the order of the stages."""
    known = fold(records.plan, records.counting)
    asked = [known[stage.id] for stage in records.plan.stages if stage.id in known and known[stage.id].gate is not None]
    return [entry for record in asked for entry in _at_gate(record)]


def _at_gate(record: StageRecord) -> list[dict[str, object]]:
    assert record.gate is not None
    gate = record.gate
    prompt = {"stage": gate.stage, "prompt": _bounded(gate.reason), "asked_at": gate.asked_at}
    unsaid = {"decision": None, "actor": "", "at": None, "reason": "", "commit": None, "signer": None}
    said = [
        {key: getattr(each, key) for key in unsaid} | {"decision": each.decision.value, "policy": each.policy}
        for each in record.decisions
    ]
    return [prompt | each for each in said] or [prompt | unsaid | {"policy": gate.policy}]


def _untouched(records: Records, stage: PlannedStage) -> StageStatus:
    ended = status_of(records)[0].ended
    return StageStatus.SKIPPED if ended or not stage.selected else StageStatus.PENDING


def command_text(stage: PlannedStage) -> str:
    """Return the command as a person would recognise it, bounded."""
    return _bounded(whole_command(stage), COMMAND_CHARACTERS_MAX)


def whole_command(stage: PlannedStage) -> str:
    """Return the command as a person would recognise it, however long it is."""
    if stage.kind != StageKind.COMMAND:
        return f"{stage.kind.value}: {_used(stage)}"
    shell = stage.argv[:2] == ("sh", "-c") and len(stage.argv) == 3
    return stage.argv[2] if shell else " ".join(stage.argv)


def _used(stage: PlannedStage) -> str:
    used = stage.pipeline or (stage.agent or stage.guard or {}).get("use")
    return str(used)


def _attempt(records: Records, number: int) -> dict[str, object]:
    claim, attempt = records.claims.get(number), records.attempts.get(number)
    outcome, detail = _attempt_end(records, number)
    return {
        "number": number,
        "started_at": attempt.started.at if attempt else None,
        "ended_at": attempt.ended_at if attempt else None,
        "outcome": outcome,
        "detail": _bounded(detail),
        "reason": _bounded(claim.reason) if claim else "its claim was damaged",
        "actor": claim.actor if claim else "unknown",
        "plan_digest": claim.plan_digest if claim else records.plan.digest,
        "commit": claim.commit if claim else records.plan.commit,
        "elapsed_s": attempt.elapsed_s if attempt else 0.0,
        "host": attempt.host.name if attempt else (claim.host or None) if claim else None,
        "placement": _placement(claim),
    }


def _placement(claim: Claim | None) -> dict[str, object] | None:
    """Return where an attempt was placed and why, None where nobody wrote that down."""
    if claim is None or claim.placement is None:
        return None
    placed = claim.placement
    return {
        "executor": _bounded(placed.executor, NAME_CHARACTERS_MAX),
        "instance": _bounded(placed.instance, HOST_CHARACTERS_MAX),
        "asked": [_bounded(each, NAME_CHARACTERS_MAX) for each in placed.asked[:CAPABILITIES_MAX]],
        "offered": [_bounded(each, NAME_CHARACTERS_MAX) for each in placed.offered[:CAPABILITIES_MAX]],
        "weight": min(max(placed.weight, 0), WEIGHT_MAX),
        "reason": _bounded(placed.reason),
        "at": placed.at or claim.claimed.at,
        "handle": _bounded(placed.handle, NAME_CHARACTERS_MAX) or None,
    }


def _recoveries(records: Records) -> list[dict[str, object]]:
    """Return what became of the attempts that were lost, as the claims that followed say, oldest first."""
    found = [(number, claim) for number, claim in sorted(records.claims.items()) if claim.recovery is not None]
    return [_recovery(number, claim, claim.recovery) for number, claim in found if claim.recovery is not None]


def _recovery(number: int, claim: Claim, recovery: Recovery) -> dict[str, object]:
    # A claim may be another machine's, and whoever may push can write one: what it says is bounded here.
    silent_s = recovery.silent_s if recovery.silent_s is not None and 0 <= recovery.silent_s <= SILENT_S_MAX else None
    return {
        "attempt": number,
        "at": claim.claimed.at,
        "lost": min(max(recovery.lost, 0), number),
        "cause": recovery.cause.value,
        "silent_s": silent_s,
        "executor": _bounded(recovery.executor, NAME_CHARACTERS_MAX),
        "instance": _bounded(recovery.instance, HOST_CHARACTERS_MAX),
        "detail": _bounded(recovery.detail),
    }


def _was_refused(records: Records, number: int) -> bool:
    """Return whether an attempt was claimed only to be ended: nothing of it was there that could be lost."""
    claim, end = records.claims.get(number), records.ends[number]
    only_to_end = claim is not None and end.detail == f"{end.outcome.value}: {claim.reason}"
    return only_to_end and number not in records.attempts


def _attempt_end(records: Records, number: int) -> tuple[str | None, str]:
    """Return how an attempt ended; `lost` is one that never said so itself and is over all the same."""
    attempt, end = records.attempts.get(number), records.ends.get(number)
    if attempt is not None and attempt.outcome is not None:
        return attempt.outcome.value, attempt.detail
    if end is not None:
        lost = end.outcome == Outcome.FAILED and not _was_refused(records, number)
        return "lost" if lost else end.outcome.value, end.detail
    if number < records.number:
        return "lost", records.claims[number + 1].reason if number + 1 in records.claims else ""
    return None, ""


def _resume_events(records: Records) -> list[dict[str, object]]:
    accepted = [
        {"at": claim.claimed.at, "attempt": number, "actor": claim.actor, "reason": _bounded(claim.reason)}
        | {"outcome": "accepted", "detail": ""}
        for number, claim in records.claims.items()
        if number > 1
    ]
    refused = [
        {"at": each.at, "attempt": records.number, "actor": each.actor, "reason": _bounded(each.reason)}
        | {"outcome": "refused", "detail": _bounded(each.detail)}
        for each in records.refusals
    ]
    return sorted(accepted + refused, key=lambda each: str(each["at"]))


def _plan_digests(records: Records) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for number in sorted(records.claims):
        claim = records.claims[number]
        if not found or found[-1]["digest"] != claim.plan_digest or found[-1]["commit"] != claim.commit:
            found.append({"digest": claim.plan_digest, "commit": claim.commit, "attempt": number})
    return found


def _started_at(records: Records) -> str | None:
    starts = [attempt.started.at for attempt in records.attempts.values()]
    return min(starts, default=None)


def _completed_at(records: Records) -> str | None:
    number = records.number
    attempt, end = records.attempts.get(number), records.ends.get(number)
    return (attempt.ended_at if attempt else None) or (end.at if end else None)


def _host(attempt: Attempt | None) -> dict[str, object] | None:
    if attempt is None:
        return None
    host = attempt.host
    return {"name": host.name, "system": host.system, "machine": host.machine, "python": host.python, "cpus": host.cpus}


def _resources(records: Records, commands: list[dict[str, object]]) -> dict[str, object]:
    return {
        "duration_s": round(sum(each.elapsed_s for each in records.attempts.values()), 3),
        "cpu_user_s": round(_total(commands, "cpu_user_s"), 3),
        "cpu_system_s": round(_total(commands, "cpu_system_s"), 3),
        "memory_peak_bytes": max((int(str(each["memory_peak_bytes"])) for each in commands), default=0),
    }


def _total(commands: list[dict[str, object]], key: str) -> float:
    return sum(each[key] for each in commands)  # type: ignore[misc]


def _by_rule(commands: list[dict[str, object]]) -> dict[str, int]:
    """Return how many secrets each rule found in all stages."""
    found: dict[str, int] = {}
    for each in commands:
        counted: Mapping[str, int] = each["redactions_by_rule"]  # type: ignore[assignment]
        for rule, count in counted.items():
            found[rule] = found.get(rule, 0) + count
    return dict(sorted(found.items()))


def _first_log(commands: list[dict[str, object]]) -> str | None:
    """Return the log worth reading first: the first failure's, else the last one's."""
    logs = [each for each in commands if each["log_path"]]
    failed = [each for each in logs if each["status"] == "failed"]
    chosen = failed[:1] or logs[-1:]
    return str(chosen[0]["log_path"]) if chosen else None


def _summary(status: Status, detail: str, commands: list[dict[str, object]]) -> str:
    selected = [each for each in commands if each["selected"]]
    done = sum(each["status"] == "succeeded" for each in selected)
    counted = f"{done} of {len(selected)} stages succeeded"
    return counted if status == Status.SUCCEEDED or not detail else _bounded(f"{counted}; {detail}")


def _bounded(text: str, characters_max: int = DETAIL_CHARACTERS_MAX) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def carried(record: StageRecord) -> StageRecord:
    """Return a kept success as the next attempt writes it down: unchanged, but no longer a process."""
    return replace(record, process=None)
