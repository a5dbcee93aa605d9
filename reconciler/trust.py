"""Whose text a stage acts on, and which stages of a run are therefore not trusted. Pure.

Settings say which text is believed: by its path, or by the signature of the commit that changed it last. Who looks at
signatures is `freeze`; until then what no path vouches for counts as believed by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from reconciler.globs import matches
from reconciler.model import Instructions, PlannedStage, Request, StageId, Text, Trust


def unbelieved(stage: PlannedStage, request: Request, settings: Trust, instructions: Instructions) -> tuple[Text, ...]:
    """Return the text that a stage is given and that no path of the settings vouches for."""
    if not settings.judges:
        return ()
    given = dict.fromkeys(_given(stage, request, instructions))
    return tuple(Text(path=each) for each in given if each and not matches(settings.paths or (), each))


def _given(stage: PlannedStage, request: Request, instructions: Instructions) -> tuple[str, ...]:
    """Return the paths of the text that a stage is given beside its pipeline: parameters that its request says, and
    what an agent is told. What a nested run is given stands in a pipeline."""
    said = (request.source.path,) if request.parameters and request.parent is None else ()
    if stage.agent is None:
        return said
    told = (str(stage.agent.get(key, "")) for key in ("prompt_file", "output_schema"))
    return (*said, *told, *instructions.sources)


def spread(stages: Sequence[PlannedStage]) -> tuple[PlannedStage, ...]:
    """Return the stages, each with the text that others acted on which may have left files for it.

    Stages of a run share a workspace: whatever a stage without trust can write, a later one might execute. So only what
    is over before such a stage begins stays free of its text.
    """
    before = {stage.id: frozenset(_needed(stage, stages)) for stage in stages}
    sources = [each for each in stages if _is_source(each)]
    return tuple(
        replace(stage, untrusted=_joined(stage, [each for each in sources if stage.id not in before[each.id]]))
        for stage in stages
    )


def behind(judge: PlannedStage, stages: Sequence[PlannedStage]) -> PlannedStage:
    """Return the stage as which an agent judges a run, with the text that others acted on: it works where they did."""
    if judge.agent is None:
        return judge
    return replace(judge, untrusted=_joined(judge, [each for each in stages if _is_source(each)]))


def _is_source(stage: PlannedStage) -> bool:
    return bool(stage.untrusted) and stage.selected and _may_write(stage)


def _needed(stage: PlannedStage, stages: Sequence[PlannedStage]) -> Iterator[StageId]:
    """Yield the stages that are over when a stage begins: what it needs, and what that needs. What closes the run
    begins behind all others."""
    by_id = {each.id: each for each in stages}
    ahead = [*stage.needs, *(each.id for each in stages if stage.finally_ and not each.finally_)]
    seen: set[StageId] = set()
    while ahead:
        each = ahead.pop()
        if each not in seen:
            seen.add(each)
            ahead += by_id[each].needs
            yield each


def _may_write(stage: PlannedStage) -> bool:
    """Return whether a stage can leave files in the workspace, as far as the plan tells."""
    return stage.sandbox is None or stage.sandbox.get("write") != []


def _joined(stage: PlannedStage, others: Sequence[PlannedStage]) -> tuple[Text, ...]:
    found = (*stage.untrusted, *(text for each in others for text in each.untrusted))
    return tuple(dict.fromkeys(found))
