"""`reconciler review`: a coding agent looks at a run that has ended, and its decision becomes evidence."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from reconciler import codec, completing, manifest, resolve, roles
from reconciler.agents.evidence import Secrets
from reconciler.agents.review import decision_of, diff_of, is_patch
from reconciler.disk import DISK
from reconciler.errors import ContentError, GitFailed, TipMoved, TransientError, UsageError
from reconciler.loop import pass_lock
from reconciler.model import (
    Evidence,
    Instructions,
    Pipeline,
    PipelineId,
    Plan,
    Rejection,
    Request,
    RunId,
    Settings,
    Source,
    Stage,
    StageId,
)
from reconciler.observe import Observation
from reconciler.order import ANSWER_BYTES_MAX, Answer, Order
from reconciler.process import worker_environment
from reconciler.publish import record
from reconciler.redact import secret_values
from reconciler.reviewing import Diff, Since, changed_since, material, reasons_of, record_of
from reconciler.session import Session
from reconciler.stage import DRIVER, PACKAGE
from reconciler.survey import find_run, survey
from reconciler.terminal import format_option, print_json, single_line
from reconciler.values import frozen
from reconciler.world import World

TRIES_MAX = 10
PROMPT_BYTES_MAX = 64 * 1024
EXIT_CODES = {"approve": 0, "reject": 1, "escalate": 4}
PATCHES_MAX = 20


@click.command(short_help="let the reviewing agent look at a run; its decision becomes evidence")
@click.argument("run", required=False, shell_complete=completing.runs)
@format_option
@click.pass_obj
def command(repo: str, run: str | None, form: str) -> int:
    """Hand the manifest of a run, its diff and its guardrails to the reviewing agent, and commit what it says.

    RUN is a run id or the name of a request; without one, the run that ended last. The agent is the one that
    reconciler.yaml names as the reviewer:

    \b
    roles: {reviewer: {agent: {use: codex, prompt_file: prompts/review.md}}}

    \b
    reconciler review                                        # the run that ended last
    reconciler review 0001-diagnostics --format json | jq -r '.reasons[]'

    The agent works at the commit of the run, in a worktree that is removed afterwards. What it says is committed beside
    the manifest, in reviews/, and changes nothing about how the run ended. What it prints goes to standard error.

    Exit codes: 0 it approves, 1 it rejects, 4 it leaves it to a person, 75 it gave no decision.
    """
    session = Session(Path(repo), quiet=True)
    case = _case(session, run)
    click.echo(f"{case.run_id}: asking agent '{case.agent['use']}'", err=True)
    answer = _asked(session.world, case)
    said = decision_of(answer)
    if said is None:
        raise TransientError(f"{case.run_id}: the reviewer gave no decision: {single_line(answer.summary)}; try again")
    path, document = _commit(session, case, answer, said)
    if form == "json":
        print_json({**document, "path": path})
    else:
        _show(document, path)
    return EXIT_CODES[str(document["decision"])]


def _show(document: Mapping[str, Any], path: str) -> None:
    click.echo(f"{document['decision']}: {document['run_id']}, says agent '{document['agent']['use']}'")
    for each in document["reasons"]:
        click.echo(single_line(f"- {each}"))
    since = document["changed_since"]
    if count := len(since["paths"]) + since["more"]:
        first = ", ".join(since["paths"][:5])
        click.echo(single_line(f"note: {count} watched files have changed since that commit: {first}"))
    click.echo(f"committed as {path}")


# ------------------------------------------------------------------------------------------------ what is reviewed


@frozen
class Case:
    """A run that is to be reviewed, and by whom: everything read at one tip."""

    run_id: RunId
    settings: Settings
    document: Mapping[str, Any]
    data: bytes
    diff: Diff
    since: Since

    @property
    def agent(self) -> Mapping[str, object]:
        assert self.settings.roles.agent is not None
        return self.settings.roles.agent

    @property
    def commit(self) -> str:
        return str(self.document["commit"])


def _case(session: Session, word: str | None) -> Case:
    """Return the run that is meant. Raise UsageError if there is none, ContentError if nobody can review it."""
    found = survey(session.world)
    seen, world = found.seen, session.world
    evidence = _meant(seen, find_run(found, word) if word else None)
    settings = _with_prompt(world, seen)
    _, data = next(world.repository.blobs([evidence.manifest_blob]))
    document = json.loads(data or b"{}")
    commit = str(document.get("commit", ""))
    if data is None or not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", commit):
        raise ContentError(f"{evidence.run_id}: its manifest cannot be read; see: reconciler validate .runs")
    if world.repository.look_up([f"{commit}^{{commit}}"])[0] is None:
        raise ContentError(f"{evidence.run_id}: commit {commit[:12]} is not here; fetch more of the history")
    own = (str(document["request"]["path"]), str(document["pipeline"]["path"]))
    return Case(
        run_id=evidence.run_id,
        settings=settings,
        document=document,
        data=data,
        diff=diff_of(world.repository, commit, list(_patches(world, seen, document))),
        since=changed_since(_changed(world, commit, seen.tip), settings, own),
    )


def _meant(seen: Observation, run_id: RunId | None) -> Evidence:
    """Return the evidence of the run that is meant, the newest if none is named."""
    ended = [each for each in seen.actual.evidence.values() if each.status.ended]
    meant = [each for each in ended if run_id in (None, each.run_id)]
    if not meant and run_id is not None:
        raise UsageError(f"{run_id} has no evidence of an end yet; see: reconciler why {run_id}")
    if not meant:
        raise UsageError("no run has ended yet, so there is nothing to review; see: reconciler status")
    return max(meant, key=lambda each: (each.completed_at, each.run_id))


def _with_prompt(world: World, seen: Observation) -> Settings:
    """Return the settings with the prompt of the tip in them: whoever is reviewed does not write it."""
    said = seen.settings.roles.agent
    if said is None:
        cure = "add for example 'roles: {reviewer: {agent: {use: codex, prompt_file: prompts/review.md}}}'"
        raise ContentError(f"reconciler.yaml: no agent is the reviewer; {cure}")
    path = said.get("prompt_file")
    if not isinstance(path, str):
        return seen.settings
    files = world.repository.files_at(seen.tip, [path])
    data = next(world.repository.blobs([files[0].oid]))[1] if files else None
    if not data or len(data) > PROMPT_BYTES_MAX:
        raise ContentError(f"{path}: the reviewer's prompt is missing or too large; commit at most 64 KiB of text")
    kept = {key: value for key, value in said.items() if key != "prompt_file"}
    agent = {**kept, "prompt": data.decode(errors="replace")}
    return replace(seen.settings, roles=replace(seen.settings.roles, agent=agent))


def _patches(world: World, seen: Observation, document: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the changes that the run's agents left as evidence."""
    answers = [each["answer"] for each in document["commands"] if each["kind"] == "agent" and each["answer"]]
    paths = [str(file["path"]) for each in answers for file in each["files"] if is_patch(str(file["path"]))]
    files = world.repository.files_at(seen.evidence_tip, paths[:PATCHES_MAX])
    yield from (data for _, data in world.repository.blobs([each.oid for each in files]) if data is not None)


def _changed(world: World, commit: str, tip: str) -> list[str]:
    """Return the paths that differ between two commits."""
    trees = world.repository.look_up([f"{commit}^{{tree}}", f"{tip}^{{tree}}"])
    return sorted(path for path, _ in world.repository.changes(trees[0], trees[1]))


# ------------------------------------------------------------------------------------------------ the agent


def _asked(world: World, case: Case) -> Answer:
    """Return what the agent answers, in a worktree at the commit of the run that is gone afterwards."""
    place = world.repository.state / "reviews"
    DISK.make_directory(place)
    with tempfile.TemporaryDirectory(prefix="review-", dir=place) as directory:
        workspace = Path(directory, "workspace")
        try:
            world.repository.add_worktree(workspace, case.commit)
            return _driven(_order(world, case, Path(directory), workspace), case.settings.roles.timeout_s)
        except GitFailed as error:
            raise TransientError(f"{case.run_id}: no worktree can be made to review it in: {error}") from None
        finally:
            world.repository.remove_worktree(workspace)


def _order(world: World, case: Case, directory: Path, workspace: Path) -> bytes:
    told = material(record_of(case.document), case.document["guardrail_status"], case.diff, since=case.since)
    return codec.compact(
        Order(
            plan=_plan(case),
            stage=roles.REVIEWER,
            number=1,
            try_number=1,
            commit=case.commit,
            run_directory=str(directory),
            workspace=str(workspace),
            checkout=str(world.repository.directory),
            role="reviewer",
            told=told,
        )
    )


def _plan(case: Case) -> Plan:
    """Return a plan that nothing is executed of but the reviewer."""
    document, review = case.document, PipelineId("review")
    source = Source(path="reconciler.yaml")
    stages = (Stage(id=StageId("review"), command="true"),)
    request = Request(name=document["name"], source=source, task=document["task_id"], pipeline=review)
    place = resolve.Place(commit=case.commit, branch=str(document["branch"]), instructions=Instructions())
    pipelines: dict[PipelineId, Pipeline | Rejection] = {review: Pipeline(id=review, source=source, stages=stages)}
    plan = resolve.resolve(request, pipelines, case.settings, place)
    if isinstance(plan, Rejection):
        raise ContentError(plan.problems[0].sentence())
    return replace(plan, run_id=case.run_id)


def _driven(order: bytes, timeout_s: float) -> Answer:
    """Return what the process of the reviewer answers; what it prints goes to standard error. Raise TransientError if
    it takes too long or answers nothing."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as told, os.fdopen(reading, "rb") as answers:
        told.write(order)
        told.seek(0)
        process = subprocess.Popen(
            (sys.executable, "-I", "-c", DRIVER, PACKAGE, str(writing)),
            stdin=told,
            stdout=sys.stderr.fileno(),
            env=worker_environment(os.environ),
            pass_fds=(writing,),
            start_new_session=True,
        )
        os.close(writing)
        try:
            process.wait(timeout_s)
            with contextlib.suppress(codec.CodecError):
                return codec.parse(Answer, answers.read(ANSWER_BYTES_MAX + 1))
        except subprocess.TimeoutExpired:
            raise TransientError(f"the reviewer did not answer within {timeout_s:g} s; try again") from None
        finally:
            _end(process)
    raise TransientError("the reviewer ended without an answer; try again")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the reviewer: TERM, by which it ends its agent as well, then KILL."""
    for number, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
            return


# ------------------------------------------------------------------------------------------------ the evidence


def _commit(session: Session, case: Case, answer: Answer, said: Mapping[str, object]) -> tuple[str, Mapping[str, Any]]:
    """Commit the review beside the manifest, again if the branch moves meanwhile; return its path and what it says."""
    world = session.world
    identity = world.repository.identity()
    for _ in range(TRIES_MAX):
        try:
            with pass_lock(world):
                return _add(session, case, _document(case, answer, said, identity))
        except TipMoved:
            session.loop.observer.online = False
            session.loop.contact.spread()
    raise TransientError(f"the branch moved {TRIES_MAX} times while the review was committed; try again")


def _add(session: Session, case: Case, document: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    world, loop = session.world, session.loop
    loop.contact.ask_if_due()
    seen = loop.observer.observe()
    if world.remote is not None and not loop.observer.online:
        raise TransientError(f"{world.remote.name} does not answer, and a review must be pushed there; try again later")
    root = manifest.artifact_root(document["task_id"], document["run_id"])
    number = _next_number(world, seen.evidence_tip or seen.tip, root)
    now = {"number": number, "tip": seen.tip, "reviewed_at": world.now().at}
    document = {key: now.get(key, value) for key, value in document.items()}
    path, data = f"{root}/reviews/{number}.json", codec.render(document)
    if problems := world.contracts.check("review", document):
        raise ContentError(f"{path}: {problems[0].reason}")
    digest = hashlib.sha256(data).hexdigest()
    subject = f"evidence: {case.run_id} reviewed: {document['decision']}"
    made = record(world, seen, {path: data}, f"{subject}\n\nReconciler-Review: {path} sha256:{digest}\n")
    if loop.observer.hearing is not None:
        loop.observer.hearing.note(made.pushed)
    return path, document


def _without_secrets(texts: Sequence[str], settings: Settings) -> list[str]:
    """Return texts without what must not be seen: values of this environment, and what the settings name."""
    secrets = Secrets(settings.redact, secret_values(os.environ))
    return [secrets.without(each.encode(errors="replace")).decode(errors="replace") for each in texts]


def _next_number(world: World, commit: str, root: str) -> int:
    """Return the number of the next review of a run at a commit."""
    listed = world.repository.tree(world.repository.look_up([f"{commit}:{root}/reviews"])[0])
    known = [int(name.removesuffix(".json")) for name in listed if re.fullmatch(r"[0-9]{1,6}\.json", name)]
    return max(known, default=0) + 1


def _document(case: Case, answer: Answer, said: Mapping[str, object], identity: str) -> dict[str, Any]:
    """Return what becomes evidence; number, tip and instant are those of the commit that holds it."""
    spent: Any = answer.detail.get("spent", {})
    return {
        "schema_version": 1,
        "run_id": case.run_id,
        "task_id": case.document["task_id"],
        "number": 1,
        "reviewed_at": "",
        "asked_by": identity[:300],
        "agent": {
            "use": str(answer.detail.get("agent", "")),
            "model": str(answer.detail.get("model", "")),
            "tokens": int(spent.get("tokens", 0)),
            "cost_usd": float(spent.get("cost_usd", 0.0)),
        },
        "manifest_path": f"{case.document['artifact_root']}/manifest.json",
        "manifest_sha256": hashlib.sha256(case.data).hexdigest(),
        "commit": case.commit,
        "tip": "",
        "decision": said["decision"],
        "reasons": _without_secrets(reasons_of(said), case.settings),
        "diff": {
            "files": case.diff.files,
            "bytes": len(case.diff.text.encode(errors="replace")),
            "whole": case.diff.whole,
            "problem": case.diff.problem,
        },
        "guardrails": case.document["guardrail_status"],
        "changed_since": {"paths": list(case.since.paths), "more": case.since.more},
    }
