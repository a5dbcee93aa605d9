"""What guardrails find, and how it is told. Pure, like every module of this directory that judges."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from reconciler import codec
from reconciler.globs import matches
from reconciler.model import Severity
from reconciler.order import Answer, Verdict
from reconciler.values import frozen

FINDINGS_MAX = 200
PATH_CHARACTERS_MAX = 300
TEXT_CHARACTERS_MAX = 500
EVERYWHERE = "."
"""The path of a finding about the repository, or the change, as a whole."""


@frozen
class Finding:
    """One thing a guardrail has to say. `line` counts from 1, 0 when the whole file is meant."""

    path: str
    line: int = 0
    reason: str
    cure: str = ""
    severity: Severity = Severity.ERROR

    def sentence(self) -> str:
        """Return `path:line: reason; cure`, leaving out what is not known."""
        line = f"{self.path}:{self.line}: " if self.line else f"{self.path}: "
        place = "" if self.path == EVERYWHERE else line
        mark = "warning: " if self.severity == Severity.WARNING else ""
        return f"{place}{mark}{self.reason}" + (f"; {self.cure}" if self.cure else "")


@frozen
class Report:
    """Everything a guardrail found, and how many things it looked at. `base` is the commit the change was measured
    from, "" for a guardrail that asks for no change. `artifacts` are files of evidence by name, at most 1 MiB each."""

    findings: tuple[Finding, ...] = ()
    checked: int = 0
    base: str = ""
    artifacts: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return any(each.severity == Severity.ERROR for each in self.findings)


def report_of(findings: Iterable[Finding], checked: int, base: str = "") -> Report:
    """Return a report whose findings stand in the order of files and lines."""
    ordered = sorted(findings, key=lambda each: (each.path, each.line))
    return Report(findings=tuple(ordered), checked=checked, base=base)


def answer_of(kind: str, report: Report, *, dry_run: bool) -> Answer:
    """Return what a guardrail answers. A dry run advises, whatever it found: it proves nothing."""
    verdict = Verdict.FAILED if report.failed else Verdict.PASSED
    reason = "findings" if report.failed else ""
    if dry_run:
        verdict, reason = Verdict.ADVISORY, "dry-run"
    found: dict[str, Any] = {
        "guard": kind,
        "findings": [codec.dump(_bounded(each)) for each in report.findings[:FINDINGS_MAX]],
        "checked": report.checked,
        "left_out": max(0, len(report.findings) - FINDINGS_MAX),
        "base": report.base,
    }
    return Answer(verdict=verdict, reason=reason, summary=summary_of(report, dry_run=dry_run), detail=found)


def summary_of(report: Report, *, dry_run: bool) -> str:
    """Return one line for people."""
    count = len(report.findings)
    said = f"{report.checked} checked, {count or 'no'} finding{'' if count == 1 else 's'}"
    # What fails comes first to a person who reads one line.
    worst = next(iter(sorted(report.findings, key=lambda each: each.severity != Severity.ERROR)), None)
    first = f": {worst.sentence()}" if worst is not None else ""
    return shortened(("dry run, proves nothing: " if dry_run else "") + said + first, TEXT_CHARACTERS_MAX)


def conclusion(kind: str, report: Report, *, dry_run: bool) -> str:
    """Return the last line of what a guardrail prints."""
    count = len(report.findings)
    said = f"{report.checked} checked, {count} finding{'' if count == 1 else 's'}"
    word = "failed" if report.failed else "passed"
    return f"{kind}: dry run, proves nothing (it would have {word}): {said}" if dry_run else f"{kind}: {word}: {said}"


def _bounded(found: Finding) -> Finding:
    return Finding(
        path=shortened(found.path, PATH_CHARACTERS_MAX),
        line=found.line,
        reason=shortened(found.reason, TEXT_CHARACTERS_MAX),
        cure=shortened(found.cure, TEXT_CHARACTERS_MAX),
        severity=found.severity,
    )


def shortened(text: str, characters_max: int) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


# ------------------------------------------------------------------------------------------------ options


def chosen(paths: Iterable[str], options: Mapping[str, object], default: Sequence[str]) -> list[str]:
    """Return which of the paths a guardrail looks at, in order: those that `paths` means, less `exclude`."""
    wanted, unwanted = texts(options, "paths") or default, texts(options, "exclude")
    return sorted(each for each in paths if matches(wanted, each) and not matches(unwanted, each))


def texts(options: Mapping[str, object], key: str) -> tuple[str, ...]:
    """Return an option that is a list of texts; () where it is not said."""
    value = options.get(key, ())
    return tuple(str(each) for each in value) if isinstance(value, list | tuple) else ()


def number(options: Mapping[str, object], key: str, default: float) -> float:
    """Return an option that is a number."""
    value = options.get(key, default)
    return value if isinstance(value, int | float) else default


def listed(names: Collection[str], shown_max: int = 3) -> str:
    """Return the first of some names, and how many more there are."""
    first = ", ".join(sorted(names)[:shown_max])
    return first + (f" and {len(names) - shown_max} more" if len(names) > shown_max else "")
