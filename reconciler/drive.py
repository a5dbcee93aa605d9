"""The process of a stage that is no command: read the order, do it, answer.

Whatever goes wrong in it is an answer as well, with a reason: only a process that was killed answers nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Sequence

from reconciler import codec
from reconciler.model import StageKind
from reconciler.order import ANSWER_BYTES_MAX, ORDER_BYTES_MAX, Answer, Order, Verdict


def main(answers: str, door: str = "") -> int:
    """Do the order that standard input holds, answer on the descriptor of this number, and return the exit status. With
    a `door`, that descriptor leads to whoever opens the way to an agent's model."""
    descriptor = int(answers)
    os.set_inheritable(descriptor, False)
    order = codec.parse(Order, sys.stdin.buffer.read(ORDER_BYTES_MAX))
    answer = _answer(order, int(door) if door else None)
    data = codec.compact(answer)
    if len(data) > ANSWER_BYTES_MAX:
        answer = Answer(verdict=Verdict.FAILED, reason="answer-too-large", summary=f"its answer has {len(data)} bytes")
        data = codec.compact(answer)
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
    return 1 if answer.verdict == Verdict.FAILED else 0


def judge_condition() -> int:
    """Judge the condition of the stage that standard input is the order of, and print whether it holds.

    It is a process of its own because a worker has the standard library alone, and a condition may ask git.
    """
    from reconciler.condition import ConditionError, holds

    order = codec.parse(Order, sys.stdin.buffer.read(ORDER_BYTES_MAX))
    plan, text = order.plan, order.planned.when or "true"
    names = {
        "parameters": dict(plan.parameters),
        "stages": {each: {"status": result["status"]} for each, result in order.results.items()},
        "labels": list(plan.labels),
        "attempt": order.number,
        "target": plan.target or "",
    }
    try:
        said: dict[str, object] = {"holds": holds(text, names, _changed(order) if "changed" in text else ())}
    except ConditionError as error:
        said = {"error": str(error)}
    sys.stdout.write(json.dumps(said))
    return 0


def _changed(order: Order) -> Sequence[str]:
    from pathlib import Path

    from reconciler.git import open_repository

    return open_repository(Path(order.checkout)).first_parent_changes(order.commit)


def _answer(order: Order, door: int | None) -> Answer:
    try:
        return _do(order, door)
    except Exception as error:
        traceback.print_exc()
        return Answer(verdict=Verdict.FAILED, reason="driver-failed", summary=f"{type(error).__name__}: {error}"[:500])


def _do(order: Order, door: int | None) -> Answer:
    if order.role == "reviewer" and order.planned.kind == StageKind.AGENT:
        from reconciler.agents import run_reviewer

        return run_reviewer(order, door)
    if order.role:
        from reconciler.asking import ask

        return ask(order)
    return BuiltInBuilder(door).build(order)


class BuiltInBuilder:
    """The builder that is ours. The worker starts commands itself, without a process like this one between."""

    def __init__(self, door: int | None = None) -> None:
        """Let agents that have no network reach their model through the `door` at this descriptor."""
        self._door = door

    def build(self, order: Order) -> Answer:
        """Execute one stage in its workspace and return how it went."""
        match order.planned.kind:
            case StageKind.AGENT:
                from reconciler.agents import run_agent

                return run_agent(order, self._door)
            case StageKind.GUARD:
                from reconciler.guards import run_guard

                return run_guard(order)
            case StageKind.COMMAND:
                return _run_command(order)
            case StageKind.PIPELINE:
                raise ValueError("a nested pipeline is a run of its own, not a process")


def _run_command(order: Order) -> Answer:
    """Run the command of a stage; what it prints is the log of this process."""
    import subprocess

    planned = order.planned
    status = subprocess.run(
        planned.argv, cwd=os.path.join(order.workspace, planned.cwd), stdin=subprocess.DEVNULL, check=False
    ).returncode
    if status:
        return Answer(verdict=Verdict.FAILED, reason="failed", summary=f"exit code {status}", detail={"exit": status})
    return Answer(verdict=Verdict.PASSED, summary=planned.summary_hint)
