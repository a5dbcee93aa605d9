"""`reconciler reconcile`: one pass, or passes until nothing is under way."""

from __future__ import annotations

import time
from pathlib import Path

import click

from reconciler.errors import UsageError
from reconciler.process import Workers
from reconciler.terminal import format_option, print_json


@click.command(short_help="do one pass, or pass until nothing is under way")
@click.option("--wait", is_flag=True, help="Pass until nothing is under way, showing progress.")
@click.option("--timeout", metavar="DURATION", help="With --wait: stop waiting after this long, e.g. 30m. Runs go on.")
@format_option
@click.pass_obj
def command(repo: str, wait: bool, timeout: str | None, form: str) -> int:
    """Compare what runs.d/ asks for with what has happened; launch, resume, cancel, and commit the evidence.

    \b
    reconciler reconcile                      # one pass, e.g. from cron
    reconciler reconcile --wait --timeout 1h  # in CI: wait for everything and fail if a run failed

    Ctrl-C and SIGTERM end after the pass that is under way, a second one ends at once. Runs go on in any case.

    Exit codes: 0 all succeeded, 1 some failed or were rejected, 3 still running, 4 waiting for approval,
    75 evidence could not be committed now, 130 Ctrl-C.
    """
    if timeout and not wait:
        raise UsageError("--timeout needs --wait")
    workers = Workers()
    if wait:
        # Who waits expects runs: the server that forks workers loads while we load the rest.
        workers.prepare()
    from reconciler.session import Session, exit_code, result_document

    session = Session(Path(repo), workers=workers, quiet=form == "json")
    deadline_s = time.monotonic() + duration(timeout) if timeout else None
    result = session.run(wait=wait, deadline_s=deadline_s)
    if form == "json":
        print_json(result_document(session, result))
    else:
        session.conclude(result)
    return exit_code(session, result, waited=wait)


def duration(text: str) -> float:
    """Return seconds. Raise UsageError for what is no duration."""
    from reconciler.parse import parse_duration

    try:
        return parse_duration(text)
    except ValueError:
        raise UsageError(f"--timeout {text!r} is not a duration; write for example 90s, 10m or 2h") from None
