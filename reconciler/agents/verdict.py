"""The verdict on an agent's stage, by our evidence and never by its exit code. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from reconciler.agent import Agent
from reconciler.agents.events import Kind
from reconciler.agents.story import Story
from reconciler.order import Verdict
from reconciler.values import frozen


class How(StrEnum):
    """How a try ended: by itself, or by us and why."""

    EXITED = "exited"
    STALLED = "stalled"
    MINUTES = "budget-minutes"
    TOKENS = "budget-tokens"
    COST = "budget-cost"


@frozen
class Spent:
    """What a stage took over all its tries."""

    seconds: float = 0.0
    tokens: int = 0
    cost_usd: float = 0.0


@frozen
class Findings:
    """What was looked at when the agent was gone.

    `stderr` is the last that the program said beside its events. `violations` are the ways in which the answer
    breaks its schema. `changed` is whether any file differs from how this stage found it; None if nobody could tell.
    """

    how: How
    exit_code: int | None
    stderr: str = ""
    answered: bool = True
    violations: tuple[str, ...] = ()
    changed: bool | None = None
    missing: tuple[str, ...] = ()
    spent: Spent = Spent()


@frozen
class Judgement:
    verdict: Verdict
    reason: str = ""
    summary: str = ""


def over(spent: Spent, agent: Agent) -> How | None:
    """Return which bound of the budget is reached, None if none is."""
    budget = agent.budget
    if budget.minutes is not None and spent.seconds >= budget.minutes * 60:
        return How.MINUTES
    if budget.tokens is not None and spent.tokens >= budget.tokens:
        return How.TOKENS
    if budget.cost is not None and spent.cost_usd >= budget.cost:
        return How.COST
    return None


def out_of_budget(how: How, spent: Spent, agent: Agent) -> Judgement:
    """Return the judgement on a stage that may spend no more."""
    budget = agent.budget
    bound, taken = {
        How.MINUTES: (f"{budget.minutes:g} minutes" if budget.minutes else "", f"{spent.seconds / 60:.2f}"),
        How.TOKENS: (f"{budget.tokens} tokens", str(spent.tokens)),
        How.COST: (f"{budget.cost:g} US dollars" if budget.cost else "", f"{spent.cost_usd:.4f}"),
    }[how]
    return failed(how, f"the budget of {bound} is used up: {taken} over all tries")


def judge(story: Story, agent: Agent, found: Findings) -> Judgement:
    """Return whether the stage passed; it did only if nothing speaks against it."""
    if found.how == How.STALLED:
        return failed("stalled", f"{agent.use} said nothing for {agent.stall_after_s:g} s and was ended")
    if found.how != How.EXITED:
        return out_of_budget(found.how, found.spent, agent)
    if story.terminal is None:
        return _cut_off(story, agent, found)
    if story.terminal.kind == Kind.FAILED:
        text, status = story.terminal.text, story.terminal.status
        return failed(reason_of(text, status), f"{agent.use} failed: {_line(text) or 'it does not say why'}")
    return _answered(story, agent, found)


def _cut_off(story: Story, agent: Agent, found: Findings) -> Judgement:
    """Return the judgement on an agent that stopped without saying that its turn was over."""
    error = story.error
    said = _line(error.text) if error is not None and error.text else _last_line(found.stderr)
    reason = reason_of(error.text if error is not None else found.stderr, error.status if error is not None else None)
    ended = f"exit code {found.exit_code}" if (found.exit_code or 0) >= 0 else f"signal {-(found.exit_code or 0)}"
    summary = f"{agent.use} ended ({ended}) without saying that it was done" + (f": {said}" if said else "")
    return failed("no-terminal-event" if reason == "failed" else reason, summary)


def _answered(story: Story, agent: Agent, found: Findings) -> Judgement:
    unexplained = story.unexplained()
    proven = _demands(agent) and not _unmet(agent, found)
    # What was demanded and is there outweighs a guess from a command's output, but never a denial that was told.
    if unexplained and not (proven and not story.refused):
        more = f" and {len(unexplained) - 1} more" if len(unexplained) > 1 else ""
        return failed("refused", f"refused and not done in another way: {_line(unexplained[0])}{more}")
    if not found.answered and (agent.output_schema or not _demands(agent)):
        return failed("no-answer", f"{agent.use} ended its turn without an answer")
    if found.violations:
        more = f" and {len(found.violations) - 1} more" if len(found.violations) > 1 else ""
        return failed("schema-violated", f"the answer breaks {agent.output_schema}: {found.violations[0]}{more}")
    if unmet := _unmet(agent, found):
        return failed("demand-unmet", unmet)
    return Judgement(verdict=Verdict.PASSED, summary=_line(story.last_message) or f"{agent.use} ended its turn")


def _demands(agent: Agent) -> bool:
    return agent.demand.diff or bool(agent.demand.files)


def _unmet(agent: Agent, found: Findings) -> str:
    """Return what is demanded and not there, "" if all is."""
    if found.missing:
        return f"demanded and not there: {', '.join(found.missing[:5])}"
    if agent.demand.diff and not found.changed:
        return "a change is demanded and no file differs" if found.changed is False else "the change cannot be read"
    return ""


def failed(reason: str, summary: str) -> Judgement:
    return Judgement(verdict=Verdict.FAILED, reason=str(reason), summary=summary[:1000])


# ------------------------------------------------------------------------------------------------ errors

_STATUS = r"\b(?:status|error|code)\W{1,3}"
_REASONS: Mapping[str, re.Pattern[str]] = {
    "unauthorized": re.compile(
        rf"{_STATUS}40[13]\b|\bunauthori[sz]ed\b|failed to authenticate|invalid api key|please run /login"
        r"|not logged in",
        re.IGNORECASE,
    ),
    "rate-limited": re.compile(rf"{_STATUS}429\b|\(429\)|too many requests|rate.?limit|usage limit", re.IGNORECASE),
    "server-error": re.compile(
        rf"{_STATUS}5\d\d\b|internal server error|service unavailable|high demand|overloaded", re.IGNORECASE
    ),
    "stream-cut": re.compile(
        r"stream (?:disconnected|closed|error|ended)|connection .{0,40}(?:lost|closed|reset|refused)|\bECONN"
        r"|socket hang|error sending request|error decoding response",
        re.IGNORECASE,
    ),
    "budget-cost": re.compile(r"error_max_budget|maximum budget", re.IGNORECASE),
}


def reason_of(text: str, status: int | None = None) -> str:
    """Return the stable word for an error that an agent reported, `failed` if it is none that we know."""
    if status is not None:
        by_status = {401: "unauthorized", 403: "unauthorized", 429: "rate-limited"}.get(status)
        if by_status or status >= 500:
            return by_status or "server-error"
    head = text[:2000]
    return next((reason for reason, pattern in _REASONS.items() if pattern.search(head)), "failed")


def _line(text: str) -> str:
    """Return the first line that says something, bounded."""
    found = next((each.strip() for each in text.splitlines() if each.strip()), "")
    return found if len(found) <= 300 else found[:299] + "…"


def _last_line(text: str) -> str:
    return _line("\n".join(reversed(text.splitlines())))
