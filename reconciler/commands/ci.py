"""`reconciler ci`: the right thing for whatever started this CI run."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from reconciler import markup
from reconciler.annotations import commands
from reconciler.contracts import Contracts
from reconciler.errors import ContentError, GitFailed, UsageError
from reconciler.forges.event import Cause, Event, event_of
from reconciler.forges.forge import Check, Kind, Purpose, Site, State
from reconciler.forges.opening import open_forge
from reconciler.forges.where import OWN_TOKEN, SECRETS, ci_kind
from reconciler.git import Repository, open_repository
from reconciler.manifest import manifest_path
from reconciler.model import Problem, Rejection, RunId, Settings, Severity, TaskId
from reconciler.posting import (
    STATES,
    STATUSES_MAX,
    WHOLE,
    Desk,
    comment_body,
    read_payload,
    run_check,
    run_page,
    runs_table,
    write_output,
    write_summary,
)
from reconciler.process import Workers
from reconciler.terminal import single_line
from reconciler.values import frozen
from reconciler.world import open_world, settings_at

PAYLOAD_BYTES_MAX = 16 * 1024 * 1024
IDENTITY = "Reconciler <reconciler@localhost>"
PLAN_CONTEXT = f"{WHOLE}/plan"


@click.command(short_help="do the right thing in CI: plan a pull request, reconcile a push")
@click.option("--timeout", metavar="DURATION", help="Stop waiting for runs after this long, e.g. 50m. Runs go on.")
@click.option("--dry-run", is_flag=True, help="Print what would be posted to the forge, and post nothing.")
@click.pass_obj
def command(repo: str, timeout: str | None, dry_run: bool) -> int:
    """Do the right thing for what started this CI run of GitHub Actions, GitLab CI or Gitea Actions.

    \b
    pull request   say what is wrong and what merging would do; one comment, kept up to date, and a status.
                   Nothing of the pull request is executed.
    merge queue    the same without a comment
    push           to the branch: launch what it asks for, wait, commit the evidence, a status for each run;
                   to another branch: say what is wrong
    schedule       one pass: what others left, what is due; what it launches is waited for

    \b
    # .github/workflows/reconciler.yaml
    on: {pull_request: {}, merge_group: {}, push: {branches: [main]}, schedule: [{cron: "*/15 * * * *"}]}
    permissions: {contents: write, pull-requests: write, statuses: write}
    ...
      - run: reconciler ci
        env: {RECONCILER_FORGE_TOKEN: "${{ github.token }}"}

    The token is read from RECONCILER_FORGE_TOKEN, else from GITHUB_TOKEN, GITLAB_TOKEN or GITEA_TOKEN, and no stage
    inherits it. Without one, as for a pull request from a fork, everything is printed and nothing posted. What cannot
    be posted is told and never makes this fail: only the content does.

    Exit codes: of a proposal 0 fine, 1 problems; of a push as `reconciler reconcile --wait`: 0 all succeeded, 1 some
    failed or were rejected, 3 still running, 4 waiting for approval, 75 evidence could not be committed now.
    """
    environment = os.environ
    with _inert_log(environment) as marks:
        event = event_of(environment, _payload(environment))
        tour = Tour(Path(repo), environment, event, dry_run)
        return tour.take(timeout, marks)


@contextlib.contextmanager
def _inert_log(environment: Mapping[str, str]) -> Iterator[list[str]]:
    """Let nothing that is printed be a command to the runner of Actions; those given to the list are, at the end."""
    marks: list[str] = []
    if ci_kind(environment) not in (Kind.GITHUB, Kind.GITEA):
        yield marks
        return
    word = secrets.token_hex(16)
    click.echo(f"::stop-commands::{word}")
    try:
        yield marks
    finally:
        click.echo(f"::{word}::")
        for each in marks:
            click.echo(each)


def _payload(environment: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the event's document. Raise UsageError for one that is too large, or none."""
    try:
        data = read_payload(environment, PAYLOAD_BYTES_MAX)
    except OSError as error:
        raise UsageError(f"GITHUB_EVENT_PATH: cannot be read: {error.strerror}") from None
    if len(data) > PAYLOAD_BYTES_MAX:
        raise UsageError(f"GITHUB_EVENT_PATH: larger than {PAYLOAD_BYTES_MAX} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError("GITHUB_EVENT_PATH: this is not the payload of an event")
    return found


# ------------------------------------------------------------------------------------------------ a proposal


@frozen
class Proposal:
    """What is to be said about merging a commit: one line, Markdown, lines of text, and the problems in it. `digest` is
    `sha256:<hex>` over what merging would do, "" where nothing can be said."""

    ok: bool
    title: str
    markdown: str
    lines: Sequence[str]
    problems: Sequence[Problem]
    digest: str = ""


def proposal_of(directory: Path, base: str, head: str) -> Proposal:
    """Return what is to be said about merging `head` into `base`. Nothing of `head` is executed."""
    from reconciler.preview_markdown import body
    from reconciler.preview_text import conclusion, lines
    from reconciler.proposal import propose

    try:
        found = propose(open_world(directory), base, head)
    except UsageError as error:
        return _unplanned(directory, base, head, str(error))
    # What was wrong before and is not touched is shown, and is nobody's fault here.
    standing = [replace(each, severity=Severity.WARNING) for each in found.standing]
    return Proposal(
        ok=not found.fails,
        title=conclusion(found),
        markdown=body(found),
        lines=list(lines(found)),
        problems=[*found.problems, *standing],
        digest=found.digest,
    )


def _unplanned(directory: Path, base: str, head: str, why: str) -> Proposal:
    """Return what can be said of `head` where too little of the history is here to merge it: what is wrong with it."""
    from reconciler.commands.validate import problems_at

    repository = open_repository(directory)
    trees = repository.look_up([f"{each}^{{commit}}^{{tree}}" for each in (base, head)])
    touched = {path for path, _ in repository.changes(trees[0], trees[1])}
    problems = [
        each if each.path in touched else replace(each, severity=Severity.WARNING)
        for each in problems_at(directory, head)
    ]
    errors = sum(each.severity is Severity.ERROR for each in problems)
    title = f"{errors or 'no'} problem{'s' * (errors != 1)} in what this changes"
    table = markup.problem_rows(problems) if problems else ""
    note = f"what merging would do is not said: {why}"
    lines = [*(each.sentence() for each in problems), title, note]
    return Proposal(
        ok=not errors, title=title, markdown=f"{table}\n{markup.code(note, 400)}\n", lines=lines, problems=problems
    )


# ------------------------------------------------------------------------------------------------ what is done


@dataclass(slots=True)
class Tour:
    """One CI run, from its event to its exit code."""

    directory: Path
    environment: Mapping[str, str]
    event: Event
    rehearsing: bool

    def take(self, timeout: str | None, marks: list[str]) -> int:
        match self.event.cause:
            case Cause.NOTHING:
                click.echo(single_line(f"nothing to do: {self.event.note}"))
                return 0
            case Cause.PULL_REQUEST | Cause.MERGE_QUEUE:
                return self.propose(marks)
            case _:
                return self.reconcile(timeout, marks)

    # -------------------------------------------------------------------------------------------- proposals

    def propose(self, marks: list[str]) -> int:
        """Say what merging would do; return 1 if something is wrong with it."""
        event, repository = self.event, open_repository(self.directory)
        _bring(repository, (event.base, event.head))
        # Where those of the base are wrong, CI alone says where the forge is, and a proposal can put them right.
        settings = settings_at(repository, Contracts(), event.base)
        desk = self._desk(settings if isinstance(settings, Settings) else Settings())
        found = proposal_of(self.directory, event.base, event.head)
        for line in found.lines:
            click.echo(single_line(line))
        marks += commands(found.problems) if ci_kind(self.environment) is not Kind.GITLAB else []
        body = comment_body(found.ok, found.title, found.markdown, event.base, event.head)
        if event.cause is Cause.PULL_REQUEST:
            posted = desk.comment(event.number, markup.PLAN_MARKER, body)
            if posted is not None:
                click.echo(single_line(f"comment {posted.how}: {posted.url}"))
        state = State.SUCCESS if found.ok else State.FAILURE
        link = run_page(self.environment, _site(desk))
        desk.status(event.head, Check(context=PLAN_CONTEXT, state=state, description=found.title, link=link))
        self._conclude(desk, body)
        if not self.rehearsing:
            write_output(self.environment, "plan-digest", found.digest)
        return 0 if found.ok else 1

    def _desk(self, settings: Settings) -> Desk:
        return Desk(open_forge(open_world(self.directory), settings.forge, self.environment), self.rehearsing)

    def _conclude(self, desk: Desk, summary: str) -> None:
        """Tell what could not be posted, and write the page of this CI run."""
        desk.close()
        for line in desk.lines():
            click.echo(line, err=True)
        if Purpose.COMMENT in desk.missed and self.event.from_fork:
            click.echo("a pull request from a fork gets no token that may write; all of it is printed here", err=True)
        if not self.rehearsing:
            notes = "".join(f"\n> {markup.code(each, 400)}\n" for each in desk.lines())
            write_summary(self.environment, summary + notes)

    # -------------------------------------------------------------------------------------------- the branch

    def reconcile(self, timeout: str | None, marks: list[str]) -> int:
        """Pass until nothing is under way, or for a schedule until what it launched has ended; tell of the runs."""
        event, repository = self.event, open_repository(self.directory)
        settings = _settings(repository, event.head or "HEAD")
        branch = settings.branch or event.default_branch or None
        if event.cause is Cause.PUSH and branch not in (None, event.branch):
            return self._look_at(event.head, marks)
        if event.cause is Cause.PUSH and is_own(repository, event.before, event.head):
            click.echo("nothing to do: these commits are the reconciler's own evidence, which starts nothing")
            return 0
        return self._passes(settings, branch, timeout)

    def _look_at(self, commit: str, marks: list[str]) -> int:
        """Say what is wrong with the tip of a branch that is not reconciled."""
        from reconciler.commands.validate import problems_at

        problems = list(problems_at(self.directory, commit))
        for each in problems:
            click.echo(single_line(each.sentence()))
        marks += commands(problems)
        click.echo(f"{self.event.branch} is not the branch that is reconciled; nothing of it is executed")
        return 1 if any(each.severity is Severity.ERROR for each in problems) else 0

    def _passes(self, settings: Settings, branch: str | None, timeout: str | None) -> int:
        from reconciler.commands.reconcile import duration
        from reconciler.session import Session, exit_code

        token = {settings.forge.token_env, OWN_TOKEN} - {""}
        workers = Workers(withheld=SECRETS | token)
        session = Session(self.directory, workers=workers, branch=branch)
        deadline_s = time.monotonic() + duration(timeout) if timeout else None
        sweep = self.event.cause is Cause.SCHEDULE
        result = session.run(wait=not sweep, deadline_s=deadline_s)
        if sweep and (result.publication or session.world.workers.alive()):
            # This machine may be gone after this: what it has begun it ends.
            result = session.run(wait=True, deadline_s=deadline_s)
        session.conclude(result)
        code = exit_code(session, result, waited=True)
        self._tell(settings, session.published, code)
        return code

    def _tell(self, settings: Settings, published: Mapping[RunId, tuple[TaskId, str]], code: int) -> None:
        """Set a status for each run whose evidence was committed here, and one for all."""
        desk = self._desk(settings)
        manifests = manifests_of(open_repository(self.directory), published)
        for run_id in list(manifests)[:STATUSES_MAX]:
            commit = published[RunId(run_id)][1]
            desk.status(str(manifests[run_id]["commit"]), run_check(manifests[run_id], desk.forge, commit))
        counts = {word: sum(each["status"] == word for each in manifests.values()) for word in STATES}
        words = ", ".join(f"{number} {word}" for word, number in counts.items() if number) or "nothing new"
        if self.event.head:
            state = State.SUCCESS if code == 0 else State.PENDING if code in (3, 4, 75) else State.FAILURE
            link = run_page(self.environment, _site(desk))
            desk.status(self.event.head, Check(context=WHOLE, state=state, description=words, link=link))
        table = runs_table(manifests) if manifests else ""
        self._conclude(desk, f"### reconciler: {words}\n\n{table}")


def _site(desk: Desk) -> Site | None:
    return None if isinstance(desk.forge, str) else desk.forge.site


def _settings(repository: Repository, revision: str) -> Settings:
    """Return the settings of a commit. Raise ContentError if they are wrong."""
    found = settings_at(repository, Contracts(), revision)
    if isinstance(found, Rejection):
        raise ContentError(found.problems[0].sentence())
    return found or Settings()


def _bring(repository: Repository, oids: Sequence[str]) -> None:
    """Fetch the commits of a proposal that this clone has not got. Raise GitFailed with the cure if that fails."""
    from reconciler.remote import open_remote

    missing = [each for each in oids if repository.look_up([f"{each}^{{commit}}"])[0] is None]
    remote = open_remote(repository, "origin") if missing else None
    if missing and remote is None:
        raise GitFailed(f"{missing[0][:12]}: the commit is not in this clone, which has no remote 'origin'")
    if remote is not None:
        try:
            remote.bring(missing)
        except GitFailed as error:
            cure = "let the checkout fetch it, for example with 'fetch-depth: 0'"
            raise GitFailed(f"{missing[0][:12]}: the commit cannot be fetched: {error}; {cure}") from None


def is_own(repository: Repository, before: str, after: str) -> bool:
    """Return whether a push brought nothing but evidence that the reconciler committed."""
    if not before:
        return False
    try:
        found = repository.committers(before, after)
    except GitFailed:
        return False
    return bool(found) and all(who == IDENTITY and nonce for who, nonce in found)


def manifests_of(repository: Repository, published: Mapping[RunId, tuple[TaskId, str]]) -> dict[str, Mapping[str, Any]]:
    """Return the manifests of runs in the commits that published them, by run id, failures first."""
    names = [f"{commit}:{manifest_path(task_id, run_id)}" for run_id, (task_id, commit) in published.items()]
    blobs = repository.blobs([each for each in repository.look_up(names) if each is not None])
    found = [json.loads(data) for _, data in blobs if data is not None]
    found.sort(key=lambda each: (each["status"] != "failed", each["run_id"]))
    return {each["run_id"]: each for each in found}
