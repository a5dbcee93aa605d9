"""What a module for one agent's command line provides: how it is started, and how its lines are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Protocol

from reconciler.agent import Agent
from reconciler.agents.events import Reader
from reconciler.values import frozen


@frozen
class Place:
    """The absolute directories of one agent stage: where it works, and what is its own below the run directory.

    `home` keeps its sessions between tries. `temporary` is its `TMPDIR`: Codex refuses to run sandboxed commands
    when its home lies below the system's temporary directory.
    """

    work: Path
    home: Path
    temporary: Path


@frozen
class Task:
    """One try: a new session, or with `resumed` the one named. `schema` is what the answer must satisfy, as a file and
    as text. `cost_left` is what is left of a budget in US dollars."""

    agent: Agent
    place: Place
    session: str
    resumed: bool
    prompt_file: Path
    schema_file: Path | None = None
    schema: str = ""
    cost_left: float | None = None


@frozen
class Launch:
    """What is executed: `environment` is added to what is inherited, less the names in `without`. The prompt is
    standard input, a file that ends, unless `told_by_input` is False."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    told_by_input: bool = True


class Driver(Protocol):
    """One kind of agent.

    `cumulative` is whether a resumed session counts what it spent before as well; `install` says how to get the
    program; `terminal` is whether the agent says itself when it is done (else the end of its program says so).
    """

    cumulative: bool
    install: str

    def new_session(self) -> str:
        """Return the id of a session that is about to begin, "" if the agent chooses it."""
        ...

    def kept(self, place: Place, session: str) -> bool:
        """Return whether the agent can go on with this session."""
        ...

    def launch(self, task: Task) -> Launch:
        """Write what the agent is configured by, and return what to execute."""
        ...

    def through(self, agent: Agent, url: str, token: str) -> Agent:
        """Return an agent that looks for its model at a URL and shows a token there, and knows no other key."""
        ...

    def reader(self, agent: Agent) -> Reader:
        """Return a reader of its standard output."""
        ...

    def terminal(self, agent: Agent) -> bool:
        """Return whether it says itself when its turn is over; if not, the end of its program with 0 says so."""
        ...

    def record(self, place: Place, session: str) -> tuple[Path, Reader] | None:
        """Return the file in which the agent notes its session while it works, and a reader of its lines."""
        ...
