"""What a stage's coding agent is, with every default filled in: the pipeline's words and the settings' in one value.

`resolve` freezes it in the plan, and the process of the stage reads it from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from reconciler.model import AgentSettings, Plan
from reconciler.values import frozen

BUILT_IN: Mapping[str, AgentSettings] = {
    "codex": AgentSettings(driver="codex", command=("codex",)),
    "claude": AgentSettings(driver="claude", command=("claude",)),
    "command": AgentSettings(driver="command"),
}
"""The agents that need no settings. The keys are the drivers, too."""

STALL_AFTER_S = 300.0
LIMITS = frozenset({"budget", "stall_after_s", "resume"})
"""What bounds an agent and is no part of what it is asked to do."""


@frozen
class Budget:
    """What a stage may spend, over all its tries; None where there is no bound. `cost` is in US dollars."""

    minutes: float | None = None
    tokens: int | None = None
    cost: float | None = None


@frozen
class Demand:
    """What must be there when the agent is done: a change of any file (`diff`), and these files."""

    diff: bool = False
    files: tuple[str, ...] = ()


@frozen
class Agent:
    """One agent stage. Exactly one of `prompt` and `prompt_file` says something; `deliver` is "", `branch`
    or `pull_request`.

    `command` is the program and its first arguments; for the driver `command` it is all of them.
    """

    use: str
    driver: str
    command: tuple[str, ...]
    prompt: str = ""
    prompt_file: str = ""
    model: str = ""
    sandbox: str = "read-only"
    output_schema: str = ""
    budget: Budget = Budget()
    env: Mapping[str, str] = field(default_factory=dict)
    resume: bool = True
    stall_after_s: float = STALL_AFTER_S
    demand: Demand = Demand()
    deliver: str = ""
    config: Mapping[str, object] = field(default_factory=dict)


def resolve(said: Mapping[str, Any], named: Mapping[str, AgentSettings]) -> Agent:
    """Return the agent that a stage asks for: what it says, then what the settings say, then the defaults.

    Raise KeyError if nobody knows it.
    """
    use = str(said["use"])
    settings = named[use] if use in named else BUILT_IN[use]
    own: dict[str, Any] = {**said, "env": {**settings.env, **said.get("env", {})}}
    own.setdefault("model", settings.model or "")
    own["command"] = tuple(said.get("command", ())) or settings.command or BUILT_IN[settings.driver].command
    own["budget"] = Budget(**said.get("budget", {}))
    demand = said.get("demand", {})
    own["demand"] = Demand(diff=demand.get("diff", False), files=tuple(demand.get("files", ())))
    return Agent(**own, driver=settings.driver, config=settings.config)


def wants_delivery(plan: Plan) -> bool:
    """Return whether a stage of a plan asks for its change to leave the run."""
    return any(each.selected and each.agent is not None and each.agent.get("deliver") for each in plan.stages)


def wants_pull_request(plan: Plan) -> bool:
    """Return whether the branch of a run shall become a pull request."""
    stages = (each for each in plan.stages if each.selected and each.agent is not None)
    return any(each.agent.get("deliver") == "pull_request" for each in stages if each.agent is not None)
