"""What a stage that is no command is told, and what it answers.

The worker starts such a stage as a process of its own, `reconciler.drive`: an `Order` is its standard input, one
`Answer` is what it writes to a descriptor that nothing it starts inherits. What it prints is its log, like that of any
stage. Its verdict is what it answers, never its exit code alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum

from reconciler.model import Plan, PlannedStage, StageId, StageRecord, Tested
from reconciler.values import frozen

ORDER_BYTES_MAX = 16 * 1024 * 1024
ANSWER_BYTES_MAX = 512 * 1024
ARTIFACTS = "artifacts"
"""Where below the run directory a stage leaves files that become evidence."""
ARTIFACT_BYTES_MAX = 1024 * 1024
ARTIFACTS_MAX = 20
DOORED = frozenset({"codex", "claude"})
"""The drivers that know how their agent reaches its model, so that there can be a door to it and to nothing else."""


class Verdict(StrEnum):
    """What a stage says of itself. `advisory` is a report that proves nothing and stops nothing."""

    PASSED = "passed"
    FAILED = "failed"
    ADVISORY = "advisory"


@frozen
class Order:
    """One stage of one attempt, or the judging of all of them, with everything its process needs.

    Directories are absolute; `checkout` is the repository's own, whatever the workspace. `try_number` counts from 1
    within the attempt. `earlier` is what this stage answered the last time it was tried in this run, in this attempt
    or an earlier one (`{}` if it never did): what was spent, and the session that may be continued. `results` are the
    states and answers of the stages that ended before it. `role` is the role that is asked, "" where a stage does what
    it says itself; a tester and a reviewer are told the `records` of all stages, a reviewer also the tester's verdict;
    `told` is what a reviewing agent is told of the run, "" where it is this one.
    """

    plan: Plan
    stage: StageId
    number: int
    try_number: int
    commit: str
    run_directory: str
    workspace: str
    checkout: str
    earlier: Mapping[str, object] = field(default_factory=dict)
    results: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    role: str = ""
    records: tuple[StageRecord, ...] = ()
    tested: Tested | None = None
    told: str = ""

    @property
    def planned(self) -> PlannedStage:
        return next(each for each in (*self.plan.stages, *self.plan.roles.judges) if each.id == self.stage)

    @property
    def artifacts(self) -> str:
        """The directory below the run directory that holds this stage's files, as a relative path."""
        suffix = f".{self.number}" if self.number > 1 else ""
        return f"{ARTIFACTS}/{self.planned.index + 1:02d}-{self.stage}{suffix}"

    @property
    def own(self) -> str:
        """The directory below the run directory that an agent keeps between its tries, as a relative path."""
        return f"agents/{self.planned.index + 1:02d}-{self.stage}"


@frozen
class Artifact:
    """A file of evidence below the run directory. It is committed only if its bytes are still these."""

    path: str
    bytes: int
    sha256: str


@frozen
class Answer:
    """What a stage found: `reason` is a stable word for machines ("" if it passed), `summary` a line for people,
    `detail` whatever its kind tells (`agent`, `guard`)."""

    verdict: Verdict
    reason: str = ""
    summary: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)
    files: tuple[Artifact, ...] = ()
