"""A coding agent that reviews a run: it is told of the run as data, and answers with a decision.

Its answer is held against `review-answer.schema.json`, which is ours, so that a decision is always one of our words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler import codec, manifest
from reconciler.agents.stage import AgentStage, Told
from reconciler.contracts import Contracts
from reconciler.disk import DISK
from reconciler.errors import ContentError, GitFailed
from reconciler.git import Repository, open_repository
from reconciler.model import StageKind
from reconciler.order import ARTIFACT_BYTES_MAX, Answer, Order
from reconciler.reviewing import DIFF_BYTES_MAX, Diff, material

ANSWER_SCHEMA = "review-answer"


class ReviewStage(AgentStage):
    """An agent's stage whose prompt says what is to be reviewed, and whose answer must keep our schema."""

    def __init__(self, order: Order, told: str, door: int | None) -> None:
        super().__init__(order, door)
        self.told = told

    def _told(self, repository: Repository) -> Told:
        """Return what the commit says, behind it what is to be reviewed, and our schema."""
        said = super()._told(repository)
        told = self.secrets.without(self.told.encode(errors="replace")).decode(errors="replace")
        schema = json.dumps(_plain(Contracts().schema(ANSWER_SCHEMA)))
        return replace(said, prompt=f"{said.prompt.strip()}\n\n{told}", schema=schema)


def run_reviewer(order: Order, door: int | None = None) -> Answer:
    """Let the agent that is the reviewer look at a run: at what the order tells of it, else at one whose stages are
    over. It reaches its model through the `door` that is opened at this descriptor, if there is one."""
    return ReviewStage(order, order.told or _about(order), door).run()


def _plain(schema: Any) -> Any:
    """Return a schema without what makers of models refuse in one; how long a reason may be, we see to ourselves."""
    if isinstance(schema, dict):
        return {key: _plain(each) for key, each in schema.items() if key not in _REFUSED}
    return schema


_REFUSED = frozenset({"$schema", "$id", "title", "examples", "minLength", "maxLength"})


def _about(order: Order) -> str:
    """Return what a reviewer is told of a run that is about to end."""
    plan, known = order.plan, {each.id: each for each in order.records}
    stages = [
        {"id": each.id, "kind": each.kind.value, "command": manifest.command_text(each)}
        | {"status": known[each.id].status.value, "summary": known[each.id].summary}
        for each in plan.stages
        if each.id in known
    ]
    run = {"run_id": plan.run_id, "task_id": plan.task_id, "pipeline_id": plan.pipeline_id, "title": plan.title}
    record = {**run, "commit": order.commit, "parameters": dict(plan.parameters), "stages": stages}
    repository = open_repository(Path(order.checkout))
    try:
        diff = diff_of(repository, order.commit, _patches(order))
    finally:
        repository.objects.close()
    return material(record, manifest.guardrail_status(plan, known), diff, tested=codec.dump(order.tested))


def _patches(order: Order) -> list[bytes]:
    """Return the changes that agents left as evidence."""
    agents = {each.id for each in order.plan.stages if each.kind == StageKind.AGENT}
    answers: list[Any] = [each.answer for each in order.records if each.id in agents and each.answer is not None]
    paths = [str(file["path"]) for each in answers for file in each.get("files", ())]
    places = [Path(order.run_directory, each) for each in paths if is_patch(each)]
    return [DISK.read(each, ARTIFACT_BYTES_MAX) for each in places if each.is_file()]


def is_patch(path: str) -> bool:
    """Return whether a file of evidence is the change that an agent made."""
    return path.endswith("/changes.patch")


def diff_of(repository: Repository, commit: str, patches: Sequence[bytes] = ()) -> Diff:
    """Return what a commit changes against its first parent, and behind it what agents changed beside, bounded."""
    try:
        base = repository.parent(commit) or repository.empty_tree()
        found = repository.difference(base, commit, DIFF_BYTES_MAX)
    except (ContentError, GitFailed) as error:
        return Diff(problem=str(error)[:300])
    data = b"".join([found.patch, *(b"\n" + each for each in patches)])
    return Diff(
        text=data[:DIFF_BYTES_MAX].decode(errors="replace"),
        whole=found.whole and len(data) <= DIFF_BYTES_MAX,
        files=len(found.stats),
    )


def decision_of(answer: Answer) -> Mapping[str, object] | None:
    """Return what a reviewing agent decided, None if it gave no answer that keeps our schema."""
    said = answer.detail.get("answer")
    return said if answer.verdict == "passed" and isinstance(said, Mapping) else None
