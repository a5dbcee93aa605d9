"""A run that is to be executed elsewhere, as a host has recorded it: frozen plan, claims, and the order."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace

from reconciler import codec, parse, process, resolve
from reconciler.contracts import Contracts
from reconciler.executors import ordering
from reconciler.git import Repository, open_repository
from reconciler.model import Attempt, Claim, Pipeline, Plan, Redact, Request, Settings, Source
from reconciler.rundir import RunDirectory
from reconciler.work import WORK, key_of, work_ref
from tests.scratch import Scratch

CONTRACTS = Contracts()
TOKEN = "the token of this run"
BEAT_S = 0.5


def plan_of(pipeline: str, commit: str, workspace: str = "empty") -> Plan:
    """Return the plan of a request for a pipeline with these stages at a commit."""
    text = f"workspace: {workspace}\nstages:\n{pipeline}".encode()
    found = parse.parse_pipeline(text, Source(path="pipelines/p.yaml", blob="1" * 40), CONTRACTS)
    request = parse.parse_request(b"task: t\npipeline: p\n", Source(path="runs.d/a.yaml", blob="2" * 40), CONTRACTS)
    assert isinstance(found, Pipeline) and isinstance(request, Request), (found, request)
    settings = replace(Settings(), grace_s=0.5, redact=Redact())
    plan = resolve.resolve(request, {found.id: found}, settings, resolve.Place(commit=commit, branch="main"))
    assert isinstance(plan, Plan), plan
    return replace(plan, heartbeat=replace(plan.heartbeat, interval_s=0.1))


@dataclass
class Placed:
    """One attempt at the host: its repository, its run directory, its plan and its order."""

    repository: Repository
    directory: RunDirectory
    plan: Plan
    number: int = 1
    order: str = ""

    @property
    def ref(self) -> str:
        return work_ref(self.plan.run_id, self.number)

    @property
    def key(self) -> str:
        return key_of(TOKEN, self.number)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(codec.compact(self.plan)).hexdigest()

    def claim(self, number: int = 1) -> Claim:
        """Record the claim of an attempt, which is the one that is placed from now on."""
        self.number = number
        claim = Claim(
            number=number, series=1, claimed=process.instant(), claimer=process.myself(), reason="asked", actor="test",
            plan="plan.json", plan_digest=self.plan.digest, commit=self.plan.commit,
        )  # fmt: skip
        self.directory.disk.write_new(self.directory.record("claims", number), codec.compact(claim))
        return claim

    def place(self, claim: Claim | None = None, **more: float) -> str:
        """Make the order and its ref, and return the order."""
        claim = claim or self.claim(self.number)
        known = {"beat_s": BEAT_S, "bytes_max": 4 * 1024 * 1024, "depth": 0, **more}
        draft = ordering.draft_order(
            self.repository, self.directory, self.plan, claim,
            plan_sha256=self.sha256, epoch_s=int(time.time()), beat_s=known["beat_s"],
            bytes_max=int(known["bytes_max"]), depth=int(known["depth"]),
        )  # fmt: skip
        self.order = self.repository.make_commit(draft)
        self.repository.update_ref(self.ref, self.order)
        return self.order

    def at(self) -> str | None:
        """Return where the ref is now."""
        return self.repository.look_up([self.ref])[0]

    def attempt(self, number: int | None = None) -> Attempt | None:
        return self.directory.read(Attempt, self.directory.record("attempts", number or self.number))

    def close(self) -> None:
        self.repository.objects.close()


def placed(scratch: Scratch, stages: str, workspace: str = "empty") -> Placed:
    """Return a run of a pipeline with these stages at the newest commit of a repository; nothing of it is claimed."""
    repository = open_repository(scratch.path)
    [commit] = repository.look_up(["HEAD"])
    assert commit is not None, "commit something first"
    plan = plan_of(stages, commit, workspace)
    path = scratch.path / ".runs" / plan.task_id / "cli" / plan.run_id
    path.mkdir(parents=True)
    directory = RunDirectory(path)
    directory.disk.write_atomic(path / "plan.json", codec.compact(plan))
    return Placed(repository=repository, directory=directory, plan=plan)


def refs_of_work(repository: Repository) -> list[str]:
    return repository.git("for-each-ref", "--format=%(refname)", "--", WORK).splitlines()
