"""Coding agents as stages: one module for each command line that is driven."""

from __future__ import annotations

from reconciler.order import Answer, Order


def run_agent(order: Order, door: int | None = None) -> Answer:
    """Let the agent that the stage names work in the run's workspace, and judge what came of it. It reaches its model
    through the `door` that is opened at this descriptor, if there is one."""
    from reconciler.agents.stage import AgentStage

    return AgentStage(order, door).run()


def run_reviewer(order: Order, door: int | None = None) -> Answer:
    """Let the agent that is the reviewer look at a run, and judge whether it answered with a decision."""
    from reconciler.agents.review import run_reviewer

    return run_reviewer(order, door)
