"""Conditions of stages: `when`, a small language of comparisons. Pure.

It is judged by simpleeval; what may be written at all is what this module lists, so that a condition says the same in
every version of Python, cannot call or reach anything, and its mistakes are found before a run starts.
"""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Collection, Mapping, Sequence
from typing import Any

NODES = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare, ast.Eq, ast.NotEq, ast.Lt,
    ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Name, ast.Load, ast.Attribute, ast.Subscript, ast.Constant,
    ast.List, ast.Tuple, ast.Call,
)  # fmt: skip
WORDS = {"true": True, "false": False}
NAMES = ("parameters", "stages", "labels", "attempt", "target", *WORDS)
FUNCTIONS = ("changed",)
STATES = ("succeeded", "failed", "skipped")
NODES_MAX = 200
EXAMPLE = "for example: parameters.full == true and changed('src/*')"

Names = Mapping[str, Any]


class ConditionError(ValueError):
    """A condition that cannot be judged, and why."""


def fault(text: str, parameters: Collection[str], stages: Collection[str]) -> str:
    """Return what is wrong with a condition, "" if nothing is. `parameters` are those of its pipeline, `stages` the
    ids of the stages that end before it is judged."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"it is no condition ({getattr(error, 'msg', None) or error})"
    nodes = list(ast.walk(tree))
    if len(nodes) > NODES_MAX:
        return f"it has {len(nodes)} parts, at most {NODES_MAX} are allowed"
    found = (_fault_of(each, parameters, stages) for each in nodes)
    return next((each for each in found if each), "") or _fault_of_whole(nodes)


def _fault_of_whole(nodes: Sequence[ast.AST]) -> str:
    """Return where a condition speaks of a whole that has no truth of its own: it would hold always, or never."""
    called = {id(each.func) for each in nodes if isinstance(each, ast.Call)}
    parted = {id(each.value) for each in nodes if isinstance(each, ast.Attribute | ast.Subscript)}
    for each in nodes:
        match each:
            case ast.Name(id=name) if name in FUNCTIONS and id(each) not in called:
                return f"'{name}' stands alone; write changed('<pattern>', ...)"
            case ast.Name(id="parameters" | "stages" as name) if id(each) not in parted:
                return f"'{name}' stands alone; say which one is meant, {name}.<name>"
            case ast.Attribute(value=ast.Name(id="stages")) | ast.Subscript(value=ast.Name(id="stages")):
                if id(each) not in parted:
                    return "a stage stands alone; write stages.<id>.status"
            case ast.Compare(ops=[ast.Eq() | ast.NotEq()]):
                if wrong := _no_state(each):
                    return f"no stage has ever the status '{wrong}'; there are: {', '.join(STATES)}"
    return ""


def _no_state(node: ast.Compare) -> str:
    """Return the text that a status is compared with and can never be, "" if there is none."""
    sides = (node.left, *node.comparators)
    of_stage = any(
        isinstance(each, ast.Attribute) and each.attr == "status" and not isinstance(each.value, ast.Name)
        for each in sides
    )
    texts = [each.value for each in sides if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return next((each for each in texts if each not in STATES), "") if of_stage else ""


def _fault_of(node: ast.AST, parameters: Collection[str], stages: Collection[str]) -> str:
    if not isinstance(node, NODES):
        return f"{type(node).__name__} is not allowed in a condition"
    match node:
        case ast.Call():
            return _fault_of_call(node)
        case ast.Name(id=name) if name not in (*NAMES, *FUNCTIONS):
            return f"there is no '{name}'; there are: {', '.join((*NAMES, *FUNCTIONS))}"
        case ast.Attribute(value=ast.Name(id="parameters"), attr=name) if name not in parameters:
            return f"the pipeline has no parameter '{name}'"
        case ast.Attribute(value=ast.Name(id="stages"), attr=name) if name not in stages:
            return f"'{name}' is no stage that this one needs"
        case ast.Subscript(value=ast.Name(id="stages"), slice=ast.Constant(value=str(name))) if name not in stages:
            return f"'{name}' is no stage that this one needs"
        case ast.Attribute(value=ast.Name(id=owner)) if owner in ("parameters", "stages"):
            return ""
        case ast.Attribute(attr=name) if name != "status":
            return f"there is no '.{name}'; of a stage there is '.status': {', '.join(STATES)}"
    return ""


def _fault_of_call(node: ast.Call) -> str:
    texts = all(isinstance(each, ast.Constant) and isinstance(each.value, str) for each in node.args)
    known = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
    if not known or node.keywords or not node.args or not texts:
        return "the only call is changed('<pattern>', ...)"
    return ""


def holds(text: str, names: Names, changed: Sequence[str]) -> bool:
    """Return whether a condition holds. Raise ConditionError if it cannot be judged.

    `names` holds `parameters`, `stages` (id -> {"status": ...}), `labels`, `attempt` and `target`; `changed` are the
    paths that the run's commit changed.
    """
    import simpleeval

    def has_changed(*patterns: str) -> bool:
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns for path in changed)

    said: Mapping[str, Any] = {**WORDS, **names}
    if wrong := fault(text, said["parameters"], said["stages"]):
        raise ConditionError(wrong)
    judge = simpleeval.EvalWithCompoundTypes(names=dict(said), functions={"changed": has_changed})
    try:
        return bool(judge.eval(text.strip()))
    except (simpleeval.InvalidExpression, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise ConditionError(str(error) or type(error).__name__) from None
