"""What people decide about gates: whom they mean, what they write, and which of it counts.

What counts is said here once more, in the few words that stories need, so that a gate that opens by mistake is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from reconciler import parse, resolve, settings
from reconciler.contracts import Contracts
from reconciler.model import Pipeline, PipelineId, Plan, Rejection, Request, Settings, Source
from reconciler.simulation.story import Deed
from reconciler.values import frozen

CONTRACTS = Contracts()
APPROVERS = {"ann": "Ann <ann@example.invalid>", "bob": "Bob <bob@example.invalid>"}
NOBODY = "nobody-00000000"

Files = Mapping[str, bytes | None]
Early = Callable[[str], bool]
"""Whether the commit of a decision is there already in the one that a run works on."""


@frozen
class Said:
    """A decision that was committed; `plan` is the digest it is for, "" for whatever waits."""

    run_id: str
    stage: str
    approves: bool
    plan: str
    who: str


@dataclass(slots=True)
class Decisions:
    """All decisions of a history, oldest first, and the policy they are judged by (one of `story.POLICIES`)."""

    policy: str = ""
    said: list[Said] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    """The commit of each decision."""

    def approved(self, run_id: str, stage: str, plan: str, upto: int, is_early: Early) -> bool:
        """Return whether the first `upto` decisions hold enough approvals of a gate, whatever was said later."""
        people = {each.who for each in self._about(run_id, stage, plan, upto, is_early) if each.approves}
        return len(people) >= (2 if self.policy == "two" else 1)

    def rejections(self, run_id: str, stage: str, plan: str, upto: int, is_early: Early) -> set[Said]:
        """Return the rejections among the first `upto` decisions that nobody took back in them."""
        latest = {each.who: each for each in self._about(run_id, stage, plan, upto, is_early)}
        return {each for each in latest.values() if not each.approves}

    def decides(self, run_id: str, stage: str, plan: str, is_early: Early) -> bool:
        """Return whether a gate must open or close by what was committed so far. Where decisions can come too late,
        only the clock of the machine that asked knows."""
        if self.policy == "late":
            return False
        latest = {each.who: each for each in self._about(run_id, stage, plan, len(self.said), is_early)}
        if any(not each.approves for each in latest.values()):
            return True
        return len(latest) >= (2 if self.policy == "two" else 1)

    def _about(self, run_id: str, stage: str, plan: str, upto: int, is_early: Early) -> Iterator[Said]:
        """Yield the decisions about a gate that count: what is there already in the commit that the run works on was
        decided about something else."""
        for each, commit in zip(self.said[:upto], self.commits, strict=False):
            counts = each.plan in ("", plan) and (self.policy != "bob" or each.who == "bob")
            if counts and (each.run_id, each.stage) == (run_id, stage) and not is_early(commit):
                yield each


# ------------------------------------------------------------------------------------------------ what they write


def decide(deed: Deed, path: str, owned: Files) -> tuple[bytes, Said] | None:
    """Return the file that a person writes about a gate of the request at `path`, and what it says; None if the request
    has no gate by now."""
    gates = list(_gates(path, owned))
    if not gates:
        return None
    run_id, stage, digest = gates[deed.pick % len(gates)]
    plan = "0" * 64 if deed.kind == "approve another plan" else digest if deed.pick % 2 else ""
    if deed.kind == "approve nobody":
        run_id = NOBODY
    word = "reject" if deed.kind == "reject" else "approve"
    text = f"run: {run_id}\nstage: {stage}\ndecision: {word}\nreason: Because\n" + (f"plan: '{plan}'\n" if plan else "")
    return text.encode(), Said(run_id=run_id, stage=stage, approves=word == "approve", plan=plan, who=deed.who)


def _gates(path: str, owned: Files) -> Iterator[tuple[str, str, str]]:
    """Yield (run, stage, digest of the plan) of the gates that a request leads to, as its plan at the tip says."""
    request = _parsed(path, owned)
    pipelines = _pipelines(owned)
    said = owned["reconciler.yaml"] or b""
    known = settings.parse_settings(said, _source("reconciler.yaml", said), CONTRACTS)
    if isinstance(request, Request) and isinstance(known, Settings):
        yield from _gates_of(request, pipelines, known)


def _gates_of(
    request: Request, pipelines: Mapping[PipelineId, Pipeline | Rejection], known: Settings
) -> Iterator[tuple[str, str, str]]:
    plan = resolve.resolve(request, pipelines, known, resolve.Place(commit="", branch=""))
    if isinstance(plan, Plan):
        for stage in plan.stages:
            if stage.approval is not None:
                yield plan.run_id, stage.id, plan.digest
            for child in stage.children:
                yield from _gates_of(resolve.nested_request(plan, plan.run_id, child), pipelines, known)


def _parsed(path: str, owned: Files) -> object:
    data = owned.get(path)
    return parse.parse_request(data, _source(path, data), CONTRACTS) if data is not None else None


def _pipelines(owned: Files) -> dict[PipelineId, Pipeline | Rejection]:
    found = {path: data for path, data in owned.items() if path.startswith("pipelines/") and data is not None}
    return {
        PipelineId(path[len("pipelines/") : -len(".yaml")]): parse.parse_pipeline(data, _source(path, data), CONTRACTS)
        for path, data in found.items()
    }


def _source(path: str, data: bytes) -> Source:
    blob = hashlib.sha1(b"blob %d\0%s" % (len(data), data), usedforsecurity=False).hexdigest()
    return Source(path=path, blob=blob)
