"""The command line: one file per verb in `commands/`, loaded only when it is asked for.

A program of ours has three endings: what it was asked for, a person's mistake or a refusing environment (one
sentence, no traceback), or a bug of our own (a report that can be pasted into an issue).
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import click

from reconciler import __version__
from reconciler.errors import REFUSALS, InvariantError, ReconcilerError, TransientError

VERBS = {
    "init": "make a repository ready",
    "import": "take over what the Node orchestrator left: pipelines, tasks, past runs",
    "new": "write a task, request, pipeline or document to start from",
    "validate": "say everything that is wrong with the files, at once",
    "doctor": "say what is missing or wrong here, and what cures it",
    "plan": "show what a pass, or merging a pull request, would do; write nothing",
    "reconcile": "do one pass, or pass until nothing is under way",
    "watch": "stay, and do a pass whenever something has happened or is due",
    "service": "let this machine keep a watcher running",
    "ci": "do the right thing in CI: plan a pull request, reconcile a push",
    "status": "show runs: phase, stage, heartbeat, attempts, evidence",
    "logs": "print the output of a run's stages",
    "deliveries": "show what is owed to other places, and revive what was given up",
    "why": "explain a run or a request: waiting for what, rejected where",
    "serve": "watch, and show runs, logs and metrics on a web page",
    "mcp": "let agents look, and ask for runs, through the Model Context Protocol",
    "metrics": "measure runs by their evidence: durations, exits, guardrails, recovery",
    "report": "write the evidence of a commit as a static site",
    "start": "write and commit a request, then reconcile it",
    "resume": "let a run that ended or hangs go on, on a refreshed plan",
    "cancel": "end a run that is under way",
    "approve": "let a run that waits at a gate go on",
    "reject": "refuse a run that waits at a gate",
    "review": "let the reviewing agent look at a run; its decision becomes evidence",
    "patterns": "hold rules about code against this checkout, or apply their fixes",
    "eval": "try scenarios: a pipeline in a repository made for it, and what must come of it",
    "control": "export, convert and validate run requests; serve a control plane",
    "guard": "run a guardrail on this checkout, here and now",
    "chaos": "try this repository's requests on a simulated world in which everything goes wrong",
    "completion": "print the completion script of a shell",
}

ISSUES = "https://github.com/gitops-reconciler/gitops-reconciler/issues"


class Verbs(click.Group):
    """Verbs by name; importing one costs only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"reconciler.commands.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], VERBS, 1)
            hint = f"; did you mean '{close[0]}'?" if close else "; see reconciler --help"
            raise click.UsageError(f"there is no verb '{args[0]}'{hint}", ctx) from error


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="reconciler")
@click.option(
    "--repo",
    "-C",
    default=".",
    metavar="DIR|URL",
    help="The repository to work in (default: this directory). For an address, a clone is kept in the user's cache.",
)
@click.pass_context
def cli(ctx: click.Context, repo: str) -> None:
    """Runs as GitOps: commit a request to runs.d/, and it becomes a run; the run becomes committed evidence.

    \b
    reconciler init                  # once per repository
    git add -A && git commit -m "runs: ask for the first one"
    reconciler reconcile --wait      # launches it, waits for it, commits the proof
    """
    ctx.obj = _directory(repo)


def _directory(repo: str) -> str:
    """Return the directory to work in: for the address of a repository, a clone that is made on first use."""
    if ":" not in repo:
        return repo
    from reconciler.remote import clone_of, is_url

    if not is_url(repo):
        return repo
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str(clone_of(repo, cache / "reconciler"))


def main() -> None:
    """Run the command line and end the process with its exit code."""
    _have_standard_streams()
    sys.exit(_run())


def _have_standard_streams() -> None:
    """Put `/dev/null` where a standard stream is closed: else the next file or socket that is opened takes its number,
    and what a child prints goes there."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _run() -> int:
    try:
        returned = cli.main(standalone_mode=False)
        return returned if isinstance(returned, int) else 0
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt) as error:
        notes = getattr(error.__cause__ or error, "__notes__", ())
        click.echo("; ".join(("\ninterrupted", *notes)), err=True)
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough; Python would complain about it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except InvariantError as error:
        return _report(error)
    except ReconcilerError as error:
        click.echo(f"reconciler: {error}", err=True)
        return error.exit_code
    except OSError as error:
        if error.errno not in REFUSALS:
            return _report(error)
        click.echo(f"reconciler: {error.filename or 'the system'}: {error.strerror}", err=True)
        return TransientError.exit_code
    except Exception as error:  # the last place to turn a bug into a report
        return _report(error)


def _report(error: BaseException) -> int:
    """Print what a bug report needs, and return the exit code of a bug."""
    import platform
    import traceback

    lines = traceback.format_exception(error)
    click.echo("".join(lines), err=True, nl=False)
    click.echo(
        f"\nreconciler: this is a bug in the reconciler, not in your files; nothing was lost.\n"
        f"Please report it with the lines above: {ISSUES}\n"
        f"reconciler {__version__}, Python {platform.python_version()}, {platform.platform()}",
        err=True,
    )
    return 70
