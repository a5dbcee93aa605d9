"""Plans to show a control plane: by hand, and as many as there can be."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from reconciler import codec
from reconciler.control.request import run_request
from reconciler.model import (
    Heartbeat,
    Name,
    Pipeline,
    PipelineId,
    Plan,
    Redact,
    Request,
    Settings,
    Source,
    Stage,
    StageId,
    TaskId,
)
from reconciler.resolve import Place, resolve

AT = "2026-03-01T09:30:00.123Z"


def plan_of(*stages: Stage, **keys: Any) -> Plan:
    said = Settings(
        **{key: keys.pop(key) for key in ("heartbeat", "redact", "stages_max", "attempts_max") if key in keys}
    )
    request = Request(
        name=Name("0001-a"),
        source=Source(path="runs.d/0001-a.yaml", blob="b" * 40),
        task=TaskId("t"),
        pipeline=PipelineId("p"),
        **keys,
    )
    pipeline = Pipeline(id=PipelineId("p"), source=Source(path="pipelines/p.yaml", blob="a" * 40), stages=stages)
    plan = resolve(request, {pipeline.id: pipeline}, said, Place(commit="c" * 40, branch="main"))
    assert isinstance(plan, Plan), plan
    return plan


def document_of(plan: Plan, actor: str = "Ann <ann@example.invalid>") -> dict[str, Any]:
    made: dict[str, Any] = codec.dump(run_request(plan, privacy_level="standard", actor=actor, at=AT))
    return made


def stage(id: str, **keys: Any) -> Stage:
    return Stage(id=StageId(id), **({"command": f"make {id}"} | keys))


IDS = st.from_regex(r"[a-z0-9](\.?[a-z0-9_-]){0,12}", fullmatch=True)
TITLES = st.text(max_size=200)
KINDS = st.sampled_from(["command", "agent", "guard"])


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    ids = draw(st.lists(IDS, min_size=1, max_size=6, unique=True))
    stages = [_drawn(draw, each, ids[:index]) for index, each in enumerate(ids)]
    interval = draw(st.floats(min_value=0.001, max_value=86400))
    return plan_of(
        *stages,
        title=draw(TITLES),
        labels=tuple(draw(st.lists(IDS, max_size=4, unique=True))),
        target=draw(st.sampled_from([None, *map(StageId, ids)])),
        heartbeat=Heartbeat(interval_s=interval, stale_after_s=2 * interval),
        redact=Redact(mode=draw(st.sampled_from(["enforce", "shadow", "off"]))),
        stages_max=draw(st.integers(1, 64)),
        attempts_max=draw(st.integers(1, 100)),
    )


def _drawn(draw: st.DrawFn, named: str, before: list[str]) -> Stage:
    kind = draw(KINDS)
    said: dict[str, Any] = {
        "command": {"command": "true"},
        "agent": {"command": None, "agent": {"use": draw(st.sampled_from(["codex", "claude"])), "prompt": "x"}},
        "guard": {"command": None, "guard": {"use": draw(st.sampled_from(["specs", "diff", "docs"]))}},
    }[kind]
    return stage(
        named,
        **said,
        title=draw(TITLES),
        needs=tuple(map(StageId, draw(st.lists(st.sampled_from(before), unique=True)))) if before else None,
        allow_failure=draw(st.booleans()),
        requires_cloud=draw(st.booleans()),
        sandbox=draw(st.sampled_from([None, {}])),
    )
