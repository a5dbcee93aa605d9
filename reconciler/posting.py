"""What a CI run tells its forge: one comment, statuses, a summary, and what could not be posted and why.

Nothing here decides how the run ends: a forge that refuses is told of, and the content alone makes a CI run fail.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from reconciler import markup
from reconciler.errors import TransientError
from reconciler.forges.forge import BODY_CHARACTERS_MAX, Check, Forge, Posted, Purpose, Site, State
from reconciler.terminal import single_line

STATUSES_MAX = 50
"""So many runs get a status of their own; what there is beyond is counted in that of the whole."""
SUMMARY_BYTES_MAX = 1_000_000
WHOLE = "reconciler"
STATES = {"succeeded": State.SUCCESS, "failed": State.FAILURE, "cancelled": State.ERROR, "waiting": State.PENDING}


@dataclass(slots=True)
class Desk:
    """Where things are posted, or why they cannot be. With `rehearsing`, what would be posted is printed instead."""

    forge: Forge | str
    rehearsing: bool = False
    missed: dict[Purpose, str] = field(default_factory=dict)
    say: Callable[[str], None] = click.echo

    def comment(self, number: int, marker: str, body: str) -> Posted | None:
        """Let a pull request have this comment, kept up to date; return what became of it, None if it could not be."""
        if self.rehearsing:
            self.say(f"would comment on pull request {number}:")
            self.say(markup.inert(body))
            return None
        posted: list[Posted] = []
        self._post(Purpose.COMMENT, lambda forge: posted.append(forge.comment(number, marker, body)))
        return posted[0] if posted else None

    def status(self, commit: str, check: Check) -> None:
        """Set a status of a commit, unless one could not be set before."""
        if self.rehearsing:
            link = f" ({check.link})" if check.link else ""
            words = f"{check.context}: {check.state.value}, {check.description}{link}"
            self.say(single_line(f"would set a status of {commit[:12]}: {words}"))
            return
        if Purpose.STATUS not in self.missed:
            self._post(Purpose.STATUS, lambda forge: forge.status(commit, check))

    def _post(self, purpose: Purpose, post: Callable[[Forge], None]) -> None:
        if isinstance(self.forge, str):
            self.missed[purpose] = self.forge
            return
        try:
            post(self.forge)
        except TransientError as error:
            self.missed[purpose] = str(error)

    def close(self) -> None:
        if not isinstance(self.forge, str):
            self.forge.close()

    def lines(self) -> list[str]:
        """Return a line for everything that could not be posted."""
        words = {Purpose.COMMENT: "no comment was posted", Purpose.STATUS: "no status was set"}
        return [single_line(f"{words[purpose]}: {why}") for purpose, why in self.missed.items()]


# ------------------------------------------------------------------------------------------------ texts


def comment_body(ok: bool, title: str, markdown: str, base: str, head: str) -> str:
    """Return the comment about a proposal, within what every forge takes."""
    mark = "✅" if ok else "❌"
    foot = f"\n\n<sub>reconciler · {head[:12]} into {base[:12]} · nothing of this pull request was executed</sub>\n"
    top = f"{markup.PLAN_MARKER}\n### {mark} {markup.code(title)}\n\n"
    return top + markup.bounded(markdown.strip(), BODY_CHARACTERS_MAX - len(top) - len(foot)) + foot


def run_check(manifest: Mapping[str, Any], forge: Forge | str, commit: str) -> Check:
    """Return the status of a run, with the address of its evidence in `commit`."""
    path = f"{manifest['artifact_root']}/manifest.json"
    link = "" if isinstance(forge, str) else forge.file_url(commit, path)
    words = str(manifest.get("summary") or manifest.get("status_detail") or manifest["status"])
    state = STATES.get(str(manifest["status"]), State.PENDING)
    return Check(context=f"{WHOLE}/{manifest['name']}", state=state, description=words, link=link)


def runs_table(manifests: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the manifests of runs as a table in Markdown."""
    rows = ["| run | status | what came of it |", "|---|---|---|"]
    for each in list(manifests.values())[:STATUSES_MAX]:
        words = str(each.get("summary") or each.get("status_detail") or "")
        rows.append(f"| {markup.code(str(each['run_id']))} | {each['status']} | {markup.code(words)} |")
    more = len(manifests) - STATUSES_MAX
    return "\n".join([*rows, *([f"\n… and {more} more."] if more > 0 else [])]) + "\n"


def write_summary(environment: Mapping[str, str], text: str) -> None:
    """Add to the page of this CI run, where its forge has one for that."""
    path = environment.get("GITHUB_STEP_SUMMARY", "")
    if not path:
        return
    try:
        there = Path(path).stat().st_size if Path(path).exists() else 0
        if there + len(text.encode()) <= SUMMARY_BYTES_MAX:
            with open(path, "a", encoding="utf-8") as file:
                file.write(text if text.endswith("\n") else f"{text}\n")
    except OSError as error:
        click.echo(f"no summary was written: {error.strerror}", err=True)


def write_output(environment: Mapping[str, str], name: str, value: str) -> None:
    """Hand a value of one line to what comes after this in its CI run, where the CI has a file for that."""
    path = environment.get("GITHUB_OUTPUT", "")
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{name}={single_line(value)}\n")
    except OSError as error:
        click.echo(f"no output was written: {error.strerror}", err=True)


def run_page(environment: Mapping[str, str], site: Site | None) -> str:
    """Return the address of this CI run, "" if it has none."""
    url = environment.get("CI_JOB_URL", "")
    number = environment.get("GITHUB_RUN_ID", "")
    if site is not None and number.isascii() and number.isdigit():
        url = f"{site.page}/actions/runs/{number}"
    return url if url.startswith(("https://", "http://")) and url.isprintable() and " " not in url else ""


def read_payload(environment: Mapping[str, str], bytes_max: int) -> bytes:
    """Return the bytes of the event that started this CI run, b"{}" if it has none."""
    path = environment.get("GITHUB_EVENT_PATH", "")
    if not path:
        return b"{}"
    with open(path, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return b"{}"
        return file.read(bytes_max + 1)
