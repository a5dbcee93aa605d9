"""A nested run is the same one, whether it is known by the request of its parent or by its plan."""

from __future__ import annotations

import pytest

from reconciler import parse, resolve
from reconciler.contracts import Contracts
from reconciler.model import Pipeline, PipelineId, Plan, Request, Settings, Source

CONTRACTS = Contracts()
OUTER = b"stages:\n  - id: sub\n    pipeline: inner\n"
INNER = b"stages:\n  - id: only\n    command: 'true'\n"


@pytest.mark.parametrize("mode", ["auto", "mcp", "cloud"])
def test_its_id_follows_from_the_plan_as_from_the_request(mode: str) -> None:
    source = Source(path="runs.d/a.yaml", blob="0" * 40)
    request = parse.parse_request(
        f"task: t\npipeline: outer\nexecution: {{mode: {mode}}}\n".encode(), source, CONTRACTS
    )
    assert isinstance(request, Request)
    pipelines = {}
    for name, data in (("outer", OUTER), ("inner", INNER)):
        parsed = parse.parse_pipeline(data, Source(path=f"pipelines/{name}.yaml", blob="0" * 40), CONTRACTS)
        assert isinstance(parsed, Pipeline)
        pipelines[PipelineId(name)] = parsed
    plan = resolve.resolve(request, pipelines, Settings(), resolve.Place(commit="0" * 40, branch="main"))
    assert isinstance(plan, Plan)
    (child,) = plan.stages[0].children
    assert resolve.run_id(resolve.nested_request(plan, plan.run_id, child)) == child.run_id
