"""One commit and what every plan is made of: settings, pipelines and the instructions of agents.

Read by object id: what lies under the same id as before is not read again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler import resolve, yaml_events
from reconciler.demands import REGISTRY_PATH, demands
from reconciler.errors import ContentError
from reconciler.model import (
    BUILT_IN,
    Instructions,
    Occasion,
    Pipeline,
    PipelineId,
    Plan,
    Problem,
    Rejection,
    Request,
    Settings,
    Source,
    TaskDemand,
    TaskId,
    Workspace,
)
from reconciler.requests import rejected
from reconciler.values import frozen
from reconciler.world import World

if TYPE_CHECKING:
    from reconciler.checklist import Item
    from reconciler.planners import PlannerProcess

SETTINGS_PATH = "reconciler.yaml"
NO_DEMAND = TaskDemand()
MARKED_MAX = 1000


@frozen(kw_only=False)
class Trees:
    """The object ids at one commit that everything is read from."""

    requests: str | None
    pipelines: str | None
    settings: str | None
    evidence: str | None
    instructions: tuple[str | None, ...]
    tasks: str | None = None


class Tip:
    """The commit that everything is wanted by, with what was read from it. `commit` is None before the first look."""

    def __init__(self, world: World, branch: str | None = None) -> None:
        self.world, self.branch = world, branch
        self.commit: str | None = None
        self.trees = Trees(None, None, None, None, ())
        self.settings = Settings()
        self.instructions = Instructions()
        self.demands: Mapping[TaskId, TaskDemand] = {}
        self.pipelines: dict[PipelineId, Pipeline | Rejection] | None = None
        self.marks: dict[str, Mapping[yaml_events.Pointer, tuple[int, int]]] = {}
        """Where everything stands in requests of which something was wrong, by blob."""

    def move_to(self, commit: str, trees: Trees) -> None:
        """Take a commit for the tip whose settings have been read."""
        self._read_instructions(trees)
        self._read_tasks(trees)
        if trees.pipelines != self.trees.pipelines:
            self.pipelines = None
        self.commit, self.trees = commit, trees

    def trees_at(self, commit: str) -> Trees:
        paths = ("runs.d", "pipelines", SETTINGS_PATH, ".runs", REGISTRY_PATH, *resolve.INSTRUCTION_PATHS)
        found = self.world.repository.look_up([f"{commit}:{path}" for path in paths])
        return Trees(found[0], found[1], found[2], found[3], found[5:], found[4])

    def read_settings(self, trees: Trees) -> None:
        if trees.settings == self.trees.settings and self.commit is not None:
            return
        if trees.settings is None:
            self.settings = Settings()
            return
        from reconciler.settings import parse_settings

        _, data = next(self.world.repository.blobs([trees.settings]))
        source = Source(path=SETTINGS_PATH, blob=trees.settings)
        settings = parse_settings(data, source, self.world.contracts)
        if isinstance(settings, Rejection):
            raise ContentError("\n".join(problem.sentence() for problem in settings.problems))
        self.settings = settings

    def _read_instructions(self, trees: Trees) -> None:
        if trees.instructions != self.trees.instructions:
            paths = {oid: path for path, oid in zip(resolve.INSTRUCTION_PATHS, trees.instructions, strict=True) if oid}
            read = self.world.repository.blobs(paths)
            self.instructions = resolve.instructions_of((paths[oid], data) for oid, data in read if data)

    def _read_tasks(self, trees: Trees) -> None:
        if trees.tasks != self.trees.tasks:
            data = next(self.world.repository.blobs([trees.tasks]))[1] if trees.tasks else None
            self.demands = demands(data)

    def made_of(self, request: Request) -> tuple[object, ...]:
        """Return what a plan is made of beside its request and the commit it names. A planner that is not ours may look
        at more: it is told of every tip."""
        trees = self.trees
        found = (trees.pipelines, trees.settings, trees.instructions, self.demands.get(request.task))
        planner = self._planner()
        return found if planner is None else (*found, self.commit, planner.stamp())

    def plan_for(self, request: Request, occasion: Occasion = resolve.ONCE) -> Plan | Rejection:
        """Return the plan of any request at the tip that was observed last."""
        place = resolve.Place(
            commit=self.commit or "",
            branch=self.branch or "",
            instructions=self.instructions,
            occasion=occasion,
            task=self.demands.get(request.task, NO_DEMAND),
        )
        plan = resolve.resolve(request, self.all_pipelines(), self.settings, place)
        if isinstance(plan, Rejection):
            return replace(plan, problems=self.located(request, plan.problems))
        if (planner := self._planner()) is not None:
            plan = self._planned(request, plan, planner)
        if isinstance(plan, Plan) and plan.workspace == Workspace.CHECKOUT and self.world.repository.bare:
            reason = f"pipeline '{request.pipeline}' works in the checkout, and this clone has none"
            cure = "reconcile in a clone with a working tree, or let it work in a worktree"
            return rejected(request.source.path, reason, cure, "no-checkout")
        return plan

    def located(self, request: Request, problems: Sequence[Problem]) -> tuple[Problem, ...]:
        """Return problems of a request with the line and column in its file that their pointers lead to."""
        if request.source.blob not in self.marks:
            self.marks = {} if len(self.marks) >= MARKED_MAX else self.marks
            self.marks[request.source.blob] = self._marks(request)
        marks = self.marks[request.source.blob]
        return tuple(yaml_events.locate(each, marks) if each.pointer and marks else each for each in problems)

    def _marks(self, request: Request) -> Mapping[yaml_events.Pointer, tuple[int, int]]:
        """Return where everything stands in a request, nothing where its file cannot be read again."""
        blob = request.source.blob
        data = next(self.world.repository.blobs([blob]))[1] if blob else None
        found = yaml_events.load_yaml(data, request.source.path, bytes_max=len(data)) if data else None
        return found.marks if isinstance(found, yaml_events.Document) else {}

    def _planner(self) -> PlannerProcess | None:
        """Return the planner that is not ours, None if ours plans."""
        if self.settings.roles.planner == BUILT_IN:
            return None
        from reconciler.planners import planner

        return planner(self.settings.roles.planner, self.settings.roles.timeout_s)

    def _planned(self, request: Request, plan: Plan, planner: PlannerProcess) -> Plan | Rejection:
        """Return a plan as the planner wants it, a rejection that names it if it gave no answer that can be used."""
        from reconciler.role_protocols import PlanningOrder

        pipeline = self.all_pipelines()[request.pipeline]
        assert isinstance(pipeline, Pipeline)
        checklist = self._checklist(request.task)
        order = PlanningOrder(
            request=request, pipeline=pipeline, checklist=checklist, settings=self.settings, plan=plan
        )
        found = planner.ask(order)
        if isinstance(found, Plan):
            return found
        reason, _, cure = found.partition("; ")
        return rejected(request.source.path, reason, cure, "planner")

    def _checklist(self, task: TaskId) -> tuple[Item, ...]:
        """Return the items of a task's checklist at the tip, none if it cannot be read."""
        from reconciler import checklist

        path = f"tasks/{task}.md"
        files = self.world.repository.files_at(self.commit or "", [path])
        data = next(self.world.repository.blobs([files[0].oid]))[1] if files else None
        with contextlib.suppress(ContentError):
            return checklist.items(data or b"", path)
        return ()

    def all_pipelines(self) -> dict[PipelineId, Pipeline | Rejection]:
        """Return every pipeline of the commit, read on first use."""
        if self.pipelines is None:
            from reconciler import parse

            listed = self.world.repository.entries(self.trees.pipelines)
            entries = [each for each in listed if each.is_file and each.path.endswith(".yaml") and "/" not in each.path]
            read = self.world.repository.blobs([each.oid for each in entries])
            self.pipelines = {}
            for entry, (_, data) in zip(entries, read, strict=True):
                source = Source(path=f"pipelines/{entry.path}", blob=entry.oid)
                parsed = parse.parse_pipeline(data or b"", source, self.world.contracts)
                self.pipelines[PipelineId(entry.path.removesuffix(".yaml"))] = parsed
        return self.pipelines
