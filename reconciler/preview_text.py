"""A preview in lines for a terminal, and the words that all its forms share. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from reconciler.model import Problem, Severity
from reconciler.power import Power, whole
from reconciler.preview import Coming, Doing, Effect, Preview, Verdict
from reconciler.preview_gates import Asked, Judged, demands
from reconciler.shown import cut, visible

RUNS_SHOWN_MAX = 50
LINES_SHOWN_MAX = 100
COMMAND_SHOWN_MAX = 200
LOUD = "this change changes what runs and who may allow it"
QUIET = "merging launches nothing and changes nothing that is under way"
WORDS = {
    Effect.NEW: "new",
    Effect.SUPERSEDES: "superseded",
    Effect.REMOVED: "removed",
    Effect.CANCELLED: "cancelled",
    Effect.SUSPENDED: "suspended",
    Effect.RESUMED: "resumed",
    Effect.AGAIN: "runs again",
    Effect.REPLANNED: "runs otherwise",
    Effect.EDITED: "edited",
}
PLACES = {"worktree": "a worktree", "checkout": "the checkout", "empty": "an empty directory"}


def lines(shown: Preview) -> Iterator[str]:
    """Yield a preview as text, one line at a time and not more than people read; what others wrote begins none."""
    return (visible(each) for each in _lines(shown))


def _lines(shown: Preview) -> Iterator[str]:
    yield f"merging {shown.head[:12]} into {shown.base[:12]}: {conclusion(shown)}"
    if shown.verdict == Verdict.NOTHING:
        return
    if shown.powers:
        yield from ("", f"!! {LOUD}:")
        for power in shown.powers:
            yield f"  {power.kind} {power.path} is {power.effect}"
            yield from (f"    {each}" for each in power.lines)
            yield from [f"    {more_lines(power)}"] if power.more else []
    yield from _section("problems in the change", [problem_line(each) for each in shown.problems])
    yield from _section(
        "requests", [f"{WORDS[e.effect]} {e.run_id or e.before}{_because(e.detail)}" for e in shown.requests]
    )
    if shown.runs:
        yield from ("", "runs:")
        for run in shown.runs[:RUNS_SHOWN_MAX]:
            yield from (f"  {each}" for each in _run(run))
        yield from more(len(shown.runs) - RUNS_SHOWN_MAX, "  ")
    yield from _section("decisions in the change", [decision_line(each) for each in shown.decisions])
    yield from _section("problems that were there before", [problem_line(each) for each in shown.standing])
    yield from ("", f"plan {shown.digest}")


def conclusion(shown: Preview) -> str:
    """Return a preview in one sentence."""
    match shown.verdict:
        case Verdict.NOTHING:
            return "nothing to do, the base holds it already"
        case Verdict.CONFLICT:
            return f"it cannot be merged, {counted(len(shown.conflicts), 'file')} in conflict"
    gates = sum(len(each.gates) for each in shown.runs)
    errors = sum(each.severity == Severity.ERROR for each in shown.problems)
    counting = sum(each.counts for each in shown.decisions)
    said = [
        counted(len(shown.runs), "run") if shown.runs else "",
        f"{counted(counting, 'decision')} on what waits or comes" if counting else "",
        f"{counted(gates, 'approval')} needed" if gates else "",
        counted(errors, "problem") if errors else "",
        f"{counted(len(shown.powers), 'file')} of power changed" if shown.powers else "",
    ]
    return ", ".join(filter(None, said)) or (
        f"{counted(len(shown.requests), 'request')} touched" if shown.requests else QUIET
    )


def counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def more(number: int, before: str = "") -> list[str]:
    return [f"{before}and {number} more"] if number > 0 else []


def more_lines(power: Power) -> str:
    """Return how many lines of a change of power are not told, and where they are."""
    where = whole(power.digest)
    return f"and {counted(power.more, 'more line')}{f'; {where}' if where else ''}"


def problem_line(problem: Problem) -> str:
    warning = "warning: " if problem.severity == Severity.WARNING else ""
    return f"{warning}{problem.sentence()}"


def gate_line(gate: Asked) -> str:
    """Return who must allow a stage, by which policy, and what is known of it."""
    policy = f"policy '{gate.policy}'" if gate.policy else "no policy"
    asks = "; ".join(demands(gate.approvals_min, gate.approvers, gate.other_person, gate.signed))
    within = f" within {gate.within}" if gate.within else ""
    later = f"; !! after the merge it would be: {gate.instead}" if gate.instead else ""
    return f"{gate.stage}: {gate.reason}; {policy}: {asks}{within}; {gate.answer}{later}"


def decision_line(each: Judged) -> str:
    verdict = "counts" if each.counts else f"does not count: {each.why}"
    return f"{each.decision} of {each.run} before '{each.stage}' by {each.actor or 'nobody known'}: {verdict}"


def placement(run: Coming) -> str:
    """Return where a run stands in the order between runs, "" if nowhere in particular."""
    after = f"after {', '.join(run.after)}" if run.after else ""
    group = f"group {run.group} ({run.on_conflict})" if run.group else ""
    return "; ".join(filter(None, (after, group)))


def reviewed(run: Coming) -> str:
    """Return what the request says of its plan, "" if nothing."""
    if run.named is None:
        return ""
    return ", as the request names it" if run.named == run.plan else ", and the request names another"


def stage_line(stage: Doing) -> str:
    needs = f" (needs {', '.join(stage.needs)})" if stage.needs else ""
    runs = f", runs {len(stage.runs)} nested" if stage.runs else ""
    sandbox = f", sandbox: {stage.sandbox}" if stage.sandbox else ""
    skipped = "" if stage.selected else " - not needed by the target"
    return f"{stage.id}{needs}: {command_shown(stage.command)}{runs}{sandbox}{' [gate]' if stage.gate else ''}{skipped}"


def command_shown(command: str) -> str:
    """Return a command on one line; of a long one its beginning, and how much more there is."""
    return cut(visible(command), COMMAND_SHOWN_MAX)


def guardrails(run: Coming) -> str:
    """Return which guardrails a run has and whether it must, "" if neither."""
    said = ", ".join(run.guardrails)
    if not run.guardrails_required:
        return said
    return f"required: {said or 'and there is none'}"


def _run(run: Coming) -> Iterator[str]:
    yield f"{run.run_id}: pipeline '{run.pipeline}' of task '{run.task}' in {PLACES[run.workspace]}, {run.begins}"
    yield from (f"  {number:2d}. {stage_line(each)}" for number, each in enumerate(run.stages, 1))
    yield from [f"  order: {placement(run)}"] if placement(run) else []
    yield from [f"  guardrails: {guardrails(run)}"] if guardrails(run) else []
    yield from (f"  needs approval: {gate_line(each)}" for each in run.gates)
    yield f"  plan: {run.plan}{reviewed(run)}"


def _because(detail: str) -> str:
    return f": {detail}" if detail else ""


def _section(title: str, found: Sequence[str]) -> Iterable[str]:
    if not found:
        return []
    return [
        "",
        f"{title}:",
        *(f"  {each}" for each in found[:LINES_SHOWN_MAX]),
        *more(len(found) - LINES_SHOWN_MAX, "  "),
    ]
