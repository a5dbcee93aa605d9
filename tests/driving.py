"""An agent's stage without a run around it: its order, the process that does it, and what that answers."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler import codec
from reconciler.contracts import Contracts
from reconciler.model import Pipeline, Plan, Request, Settings, Source, StageId
from reconciler.order import Answer, Order
from reconciler.parse import parse_pipeline, parse_request
from reconciler.resolve import Place, instructions_of, resolve
from reconciler.settings import parse_settings
from reconciler.stage import DRIVER, PACKAGE
from tests import preloaded
from tests.scratch import ENVIRONMENT, Scratch

CONTRACTS = Contracts()


@dataclass
class Bench:
    """A repository with one stage `s` that an agent does; its workspace is a worktree of the commit."""

    scratch: Scratch
    settings: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    workspace: str = "worktree"

    def __post_init__(self) -> None:
        self.scratch.write("README.md", "hello\n")
        self.commit = self.scratch.commit()
        self.run_directory = self.scratch.path / ".runs/t/cli/a-00000000"
        self.run_directory.mkdir(parents=True)
        (self.run_directory / "lock").touch()
        self.place = self.run_directory / "workspace"
        self.scratch.git("worktree", "add", "-q", "--detach", str(self.place), self.commit)

    def add(self, path: str, text: str) -> None:
        """Commit a file, and let the run be of that commit."""
        self.scratch.write(path, text)
        self.commit = self.scratch.commit()
        self.scratch.git("-C", str(self.place), "checkout", "-q", "--detach", self.commit)

    def order(self, agent: Mapping[str, Any], **keys: Any) -> Order:
        """Return the order to do one stage with this agent."""
        plan = self.plan(agent)
        return Order(
            plan=plan,
            stage=StageId("s"),
            number=keys.get("number", 1),
            try_number=keys.get("try_number", 1),
            commit=self.commit,
            run_directory=str(self.run_directory),
            workspace=str(self.place),
            checkout=str(self.scratch.path),
            earlier=keys.get("earlier", {}),
        )

    def plan(self, agent: Mapping[str, Any]) -> Plan:
        pipeline = {"workspace": self.workspace, "stages": [{"id": "s", "agent": agent}], **self.more}
        parsed = parse_pipeline(json.dumps(pipeline).encode(), Source(path="pipelines/p.yaml"), CONTRACTS)
        request = parse_request(b"task: t\npipeline: p\n", Source(path="runs.d/a.yaml"), CONTRACTS)
        settings = parse_settings((self.settings or "{}").encode(), Source(path="reconciler.yaml"), CONTRACTS)
        assert isinstance(parsed, Pipeline), parsed
        assert isinstance(request, Request)
        assert isinstance(settings, Settings), settings
        instructions = [
            (each, (self.scratch.path / each).read_bytes())
            for each in ("AGENTS.md",)
            if (self.scratch.path / each).exists()
        ]
        place = Place(commit=self.commit, branch="main", instructions=instructions_of(instructions))
        plan = resolve(request, {parsed.id: parsed}, settings, place)
        assert isinstance(plan, Plan), plan
        return plan

    def start(self, order: Order, **environment: str) -> Driving:
        return Driving(self, order, environment)

    def drive(self, agent: Mapping[str, Any], *, timeout: float = 90, **keys: Any) -> Done:
        """Do the stage and return what came of it."""
        environment = keys.pop("environment", {})
        return self.start(self.order(agent, **keys), **environment).done(timeout)


class Driving:
    """The process of a stage while it works."""

    def __init__(self, bench: Bench, order: Order, environment: Mapping[str, str]) -> None:
        self.bench = bench
        reading, writing = os.pipe()
        told = bench.scratch.outside / f"order{time.monotonic_ns()}"
        told.write_bytes(codec.compact(order))
        lock = os.open(bench.run_directory / "lock", os.O_RDWR)
        with open(told, "rb") as standard_input:
            self.process = preloaded.execute(
                (DRIVER, PACKAGE), writing, lock, stdin=standard_input.fileno(), cwd=bench.place,
                env={**ENVIRONMENT, **environment},
            )  # fmt: skip
        os.close(writing)
        os.close(lock)
        self.answers = reading

    def done(self, timeout: float = 90) -> Done:
        log, _ = self.process.communicate(timeout=timeout)
        with os.fdopen(self.answers, "rb") as stream:
            said = stream.read()
        answer = codec.parse(Answer, said) if said else None
        return Done(answer, self.process.returncode, log, self.bench.run_directory)


@dataclass
class Done:
    """What came of a stage; `answer` is None if its process said nothing."""

    said: Answer | None
    exit_code: int
    log: str
    run_directory: Path

    @property
    def answer(self) -> Answer:
        assert self.said is not None, self.log
        return self.said

    @property
    def detail(self) -> Mapping[str, Any]:
        return self.answer.detail

    def file(self, name: str) -> bytes:
        """Return a file of evidence, which must be what the answer says of it."""
        found = next(each for each in self.answer.files if each.path.endswith(f"/{name}"))
        data = (self.run_directory / found.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (found.bytes, found.sha256)
        return data

    def names(self) -> list[str]:
        return sorted(each.path.rpartition("/")[2] for each in self.answer.files)


def program(scratch: Scratch, text: str, name: str = "agent.py") -> list[str]:
    """Write a Python program outside the repository and return the command that runs it. `say` prints an event."""
    head = "import json, os, sys, time\ndef say(**event):\n    print(json.dumps(event), flush=True)\n"
    path = scratch.outside / name
    path.write_text(head + textwrap.dedent(text))
    return [sys.executable, str(path)]


def named(command: list[str], driver: str = "command", events: bool = True) -> str:
    """Return settings in which an agent `mine` is this command."""
    config = {"events": True} if events and driver == "command" else {}
    return json.dumps({"agents": {"mine": {"driver": driver, "command": command, "config": config}}})
