"""One commit and what every plan is made of: settings, pipelines and the instructions of agents.

Read by object id: what lies under the same id as before is not read again.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler import resolve
from reconciler.errors import ContentError
from reconciler.model import (
    Instructions,
    Occasion,
    Pipeline,
    PipelineId,
    Plan,
    Rejection,
    Request,
    Settings,
    Source,
    Workspace,
)
from reconciler.requests import rejected
from reconciler.world import World

SETTINGS_PATH = "reconciler.yaml"


@dataclass(frozen=True, slots=True)
class Trees:
    """The object ids at one commit that everything is read from."""

    requests: str | None
    pipelines: str | None
    settings: str | None
    evidence: str | None
    instructions: tuple[str | None, ...]


class Tip:
    """The commit that everything is wanted by, with what was read from it. `commit` is None before the first look."""

    def __init__(self, world: World, branch: str | None = None) -> None:
        self.world, self.branch = world, branch
        self.commit: str | None = None
        self.trees = Trees(None, None, None, None, ())
        self.settings = Settings()
        self.instructions = Instructions()
        self.pipelines: dict[PipelineId, Pipeline | Rejection] | None = None

    def move_to(self, commit: str, trees: Trees) -> None:
        """Take a commit for the tip whose settings have been read."""
        self._read_instructions(trees)
        if trees.pipelines != self.trees.pipelines:
            self.pipelines = None
        self.commit, self.trees = commit, trees

    def trees_at(self, commit: str) -> Trees:
        paths = ("runs.d", "pipelines", SETTINGS_PATH, ".runs", *resolve.INSTRUCTION_PATHS)
        found = self.world.repository.look_up([f"{commit}:{path}" for path in paths])
        return Trees(found[0], found[1], found[2], found[3], found[4:])

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

    def plan_for(self, request: Request, occasion: Occasion = resolve.ONCE) -> Plan | Rejection:
        """Return the plan of any request at the tip that was observed last."""
        place = resolve.Place(
            commit=self.commit or "", branch=self.branch or "", instructions=self.instructions, occasion=occasion
        )
        plan = resolve.resolve(request, self.all_pipelines(), self.settings, place)
        if isinstance(plan, Plan) and plan.workspace == Workspace.CHECKOUT and self.world.repository.bare:
            reason = f"pipeline '{request.pipeline}' works in the checkout, and this clone has none"
            cure = "reconcile in a clone with a working tree, or let it work in a worktree"
            return rejected(request.source.path, reason, cure, "no-checkout")
        return plan

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
