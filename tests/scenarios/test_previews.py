"""What merging would do, as data: the files of the base, what the head makes of them, and what a person then reads.

In a case `base` and `head` are files by path, null for one that the head removes; `proven` the status of the run that a
name has at the base; `decisions` who commits a decision, by its file. `requests` are the lines about requests, all of
them; `runs` the names of the runs to come, in order; `says` lines that are there among others; `fails` whether it exits
with 1 (default: no).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from reconciler import parse, power, preview_text, resolve
from reconciler.contracts import Contracts
from reconciler.model import (
    Approval,
    Decision,
    Evidence,
    Instant,
    Pipeline,
    PipelineId,
    Rejection,
    Request,
    Settings,
    Source,
    Status,
)
from reconciler.preview import Change, Preview, State, Wanted, preview
from reconciler.preview_gates import Cast
from reconciler.settings import parse_settings

CONTRACTS = Contracts()
NOW = Instant(at="2026-03-01T12:00:00.000Z", monotonic_s=1.0, boot_id="boot")
PIPELINES = {
    "pipelines/ci.yaml": "stages: [{id: test, command: make test}]\n",
    "pipelines/ship.yaml": "stages: [{id: ship, command: ./ship, approval: {reason: Publishes}}]\n",
}


def cases() -> Iterator[Any]:
    for path in sorted((Path(__file__).parent / "previews").glob("*.yaml")):
        for title, case in YAML(typ="safe").load(path).items():
            yield pytest.param(case, id=f"{path.stem}: {title}")


def state_of(files: Mapping[str, str], proven: Mapping[str, str]) -> State:
    """Return what files ask for, every request of them."""
    settings = parse_settings(files.get("reconciler.yaml", "{}").encode(), Source(path="reconciler.yaml"), CONTRACTS)
    assert isinstance(settings, Settings), settings
    pipelines = pipelines_of(files)
    evidence, wanted, names = {}, {}, {}
    for path, text in sorted(files.items()):
        if path.startswith("runs.d/") and not path.endswith(parse.APPROVAL_SUFFIX):
            request = parse.parse_request(text.encode(), Source(path=path, blob=str(hash(text))), CONTRACTS)
            assert isinstance(request, Request), request
            plan = resolve.resolve(request, pipelines, settings, resolve.Place(commit="", branch="main"))
            run_id = names[request.name] = resolve.run_id(request)
            status = Status(proven[request.name]) if request.name in proven else None
            if status is not None:
                evidence[run_id] = evidence_of(request, run_id, status)
            wanted[request.name] = Wanted(request=request, run_id=run_id, plan=plan, status=status)
    return State(wanted=wanted, names=names, settings=settings, evidence=evidence)


def evidence_of(request: Request, run_id: Any, status: Status) -> Evidence:
    return Evidence(
        run_id=run_id,
        task_id=request.task,
        name=request.name,
        status=status,
        attempt=1,
        completed_at=NOW.at,
        duration_s=1.0,
        manifest_blob="b" * 40,
    )


def pipelines_of(files: Mapping[str, str]) -> dict[PipelineId, Pipeline | Rejection]:
    found = {path: text for path, text in files.items() if path.startswith("pipelines/")}
    return {
        PipelineId(Path(path).stem): parse.parse_pipeline(text.encode(), Source(path=path), CONTRACTS)
        for path, text in found.items()
    }


def casts_of(case: Mapping[str, Any], files: Mapping[str, str]) -> tuple[Cast, ...]:
    found = []
    for path, who in case.get("decisions", {}).items():
        said = parse.parse_approval(files[path].encode(), Source(path=path), CONTRACTS)
        assert isinstance(said, Approval), said
        decision = Decision(
            stage=said.stage,
            decision=said.decision,
            reason=said.reason,
            actor=who,
            at="2026-03-01T11:00:00Z",
            commit="d",
        )
        found.append(Cast(approval=said, decision=decision))
    return tuple(found)


def powers_of(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[power.Power, ...]:
    found, states = [], [pipelines_of(before), pipelines_of(after)]
    for name in sorted(states[0].keys() | states[1].keys()):
        path = f"pipelines/{name}.yaml"
        if lines := power.of_pipeline(path, states[0].get(name), states[1].get(name)):
            found.append(power.power(path, "pipeline", (path in before, path in after), lines, ""))
    return tuple(found)


def preview_of(case: Mapping[str, Any], **more: Any) -> Preview:
    before = {**PIPELINES, **case.get("base", {})}
    after = {path: text for path, text in {**before, **case.get("head", {})}.items() if text is not None}
    proven = case.get("proven", {})
    change = Change(base="a" * 40, head="b" * 40, casts=casts_of(case, after), powers=powers_of(before, after), **more)
    return preview(state_of(before, proven), state_of(after, proven), change, NOW)


@pytest.mark.parametrize("case", list(cases()))
def test_a_preview_says_what_merging_does(case: dict[str, Any]) -> None:
    found = preview_of(case)
    lines = [each.strip() for each in preview_text.lines(found)]
    about = lines[lines.index("requests:") + 1 :] if found.requests else []
    assert about[: len(found.requests)] == case.get("requests", [])
    assert [each.name for each in found.runs] == case.get("runs", [])
    assert [each for each in case.get("says", []) if each not in lines] == [], lines
    assert found.fails == case.get("fails", False)


ONE = {"head": {"runs.d/a.yaml": "task: t\npipeline: ci\n"}}


def test_the_digest_covers_what_merging_does_and_not_how_it_is_written() -> None:
    digest = preview_of(ONE).digest
    assert digest.startswith("sha256:")
    noted = {"head": {"runs.d/a.yaml": "# a note\ntask: t\npipeline: ci\ntitle: A\n"}}
    assert preview_of(noted).digest == digest
    beside = {"base": {"runs.d/z.yaml": "task: t\npipeline: ci\n"}, **ONE}
    assert preview_of(beside).digest == digest
    for other in (
        {"head": {"runs.d/a.yaml": "task: t\npipeline: ship\n"}},
        {"head": {**ONE["head"], "pipelines/ci.yaml": "stages: [{id: test, command: make evil}]\n"}},
        {"head": {**ONE["head"], "runs.d/b.yaml": "task: t\npipeline: ci\n"}},
    ):
        assert preview_of(other).digest != digest


def test_a_policy_of_the_base_is_part_of_the_digest() -> None:
    head = {"runs.d/a.yaml": "task: t\npipeline: ship\n"}
    policy = "approvals: {two: {stages: [ship], approvals_min: %d}}\n"
    digests = {preview_of({"base": {"reconciler.yaml": policy % count}, "head": head}).digest for count in (1, 2, 1)}
    assert len(digests) == 2
