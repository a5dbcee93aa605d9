"""What a policy demands, and which decisions count: tables."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from reconciler.approve import Case, address_of, is_governed, policy_of, weigh
from reconciler.evidence import evidence_row
from reconciler.model import Choice, Decision, Gate, Policy, StageId

SHIP = StageId("ship")
NOW = "2026-03-02T12:00:00Z"
GATE = Gate(stage=SHIP, reason="Publishes", policy="", asked_at="2026-03-01T12:00:00Z")
PLAN, OTHER_PLAN = "a" * 64, "b" * 64
CASE = Case(
    pipeline="release",
    plan_digest=PLAN,
    labels=("prod",),
    author="Ann <ann@a.example>",
    commit="c0",
    changed=("src/a.py",),
)


def said(choice: str, who: str = "Bob <bob@b.example>", at: str = "2026-03-01T13:00:00Z", **more: Any) -> Decision:
    fields: dict[str, Any] = {"stage": SHIP, "reason": "because", "commit": "c1", **more}
    return Decision(decision=Choice(choice), actor=who, at=at, **fields)


APPROVED, REJECTED = said("approve"), said("reject")
ANN = "Ann <ann@a.example>"

WEIGHED: list[tuple[str, dict[str, Any], dict[str, Any], list[Decision], str | None, str]] = [
    ("nobody", {}, {}, [], None, "a decision is missing"),
    ("one", {}, {}, [APPROVED], "approve", ""),
    ("another stage", {}, {}, [replace(APPROVED, stage=StageId("build"))], None, "a decision is missing"),
    ("this plan", {}, {}, [replace(APPROVED, plan=PLAN)], "approve", ""),
    ("another plan", {}, {}, [replace(APPROVED, plan=OTHER_PLAN)], None, "for another plan"),
    ("nobody's", {}, {}, [replace(APPROVED, actor="")], None, "nobody knows whose it is"),
    ("approve, then reject", {}, {}, [APPROVED, said("reject", at="2026-03-01T13:00:01Z")], "reject", ""),
    ("reject, then approve", {}, {}, [said("reject", at="2026-03-01T12:59:59Z"), APPROVED], "approve", ""),
    ("both in one second", {}, {}, [REJECTED, APPROVED], "reject", ""),
    ("both in one second, the other way", {}, {}, [APPROVED, REJECTED], "reject", ""),
    ("one of two rejects", {}, {}, [APPROVED, said("reject", ANN)], "reject", ""),
    ("two by one, in two cases", {"approvals_min": 2}, {}, [APPROVED, said("approve", "B <BOB@b.EXAMPLE>")], None, "1 of 2"),
    ("two by two", {"approvals_min": 2}, {}, [APPROVED, said("approve", ANN)], "approve", ""),
    ("not on the list", {"approvers": ("*@a.example",)}, {}, [APPROVED], None, "does not let bob@b.example decide"),
    ("a rejection of nobody on the list", {"approvers": ("*@a.example",)}, {}, [REJECTED], None, "does not let"),
    ("a name like an address", {"approvers": ("ann@a.example",)}, {}, [said("approve", "ann@a.example <m@m.example>")],
     None, "does not let m@m.example"),
    ("an address in the name", {"approvers": ("ann@a.example",)}, {}, [said("approve", "x <ann@a.example> <m@m.example>")],
     None, "does not let m@m.example"),
    ("oneself", {"other_person": True}, {}, [said("approve", ANN)], None, "another person must decide"),
    ("oneself, louder", {"other_person": True}, {}, [said("approve", "X <ANN@A.EXAMPLE>")], None, "another person"),
    ("oneself, a request touched by others", {"other_person": True},
     {"author": "Eve <eve@e.example>", "commit": "c9", "asked": (("c9", "Eve <eve@e.example>"), ("c0", ANN))},
     [said("approve", ANN)], None, "another person must decide"),
    ("with the request", {"other_person": True}, {}, [replace(APPROVED, commit="c0")], None, "together with the request"),
    ("with the request, touched since", {"other_person": True}, {"commit": "c9", "asked": (("c9", ANN), ("c0", ANN))},
     [replace(APPROVED, commit="c0")], None, "together with the request"),
    ("with the request, which may be", {}, {"early": frozenset({"c0"})}, [replace(APPROVED, commit="c0")], "approve", ""),
    ("before what runs", {}, {"early": frozenset({"c1"})}, [APPROVED], None, "before what the run works on"),
    ("unsigned", {"signed": True}, {}, [APPROVED], None, "not signed by anybody"),
    ("signed", {"signed": True, "approvers": ("k@k.example",)}, {}, [replace(APPROVED, signer="k@k.example")], "approve", ""),
    ("signed by another than it says", {"signed": True, "approvers": ("bob@b.example",)}, {},
     [replace(APPROVED, signer="m@m.example")], None, "does not let m@m.example"),
    ("two signed by one", {"signed": True, "approvals_min": 2}, {},
     [replace(APPROVED, signer="k@k"), replace(said("approve", ANN), signer="K@k")], None, "1 of 2 signed"),
    ("in time", {"within_s": 7200.0}, {}, [APPROVED], "approve", ""),
    ("too late", {"within_s": 60.0}, {}, [APPROVED], "reject", ""),
    ("not yet too late", {"within_s": 7 * 86400.0}, {}, [], None, "by 2026-03-08T12:00:00Z"),
    ("by a day that no calendar has", {"within_s": 1e15}, {}, [], None, "a decision is missing"),
    ("too many to look at", {}, {"decisions_left": 3}, [APPROVED], None, "3 decisions more than are looked at"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "case", "decisions", "choice", "missing"),
    [each[1:] for each in WEIGHED],
    ids=[each[0] for each in WEIGHED],
)
def test_what_becomes_of_a_gate(
    policy: dict[str, Any], case: dict[str, Any], decisions: list[Decision], choice: str | None, missing: str
) -> None:
    gate = replace(GATE, policy="p")
    found = weigh(gate, replace(CASE, **case), decisions, [Policy(name="p", **policy)], NOW)
    assert (found.choice.value if found.choice else None) == choice, found
    assert missing in found.missing


POLICIES = (
    Policy(name="unruled", approvals_min=9),
    Policy(name="labelled", labels=("prod*",), stages=("ship",)),
    Policy(name="code", paths=("src/*",)),
    Policy(name="theirs", authors=("*@a.example",)),
)


@pytest.mark.parametrize(
    ("named", "case", "name"),
    [
        ("", {}, "labelled"),
        ("", {"labels": ("PROD-EU",)}, "labelled"),
        ("", {"labels": ()}, "code"),
        ("", {"labels": (), "changed": ("docs/x",)}, "theirs"),
        ("", {"labels": (), "changed": (), "author": "X <x@b.example>"}, ""),
        ("", {"labels": (), "changed": (), "author": "X <x@b.example>", "asked": (("c0", ANN),)}, "theirs"),
        ("unruled", {}, "unruled"),
        ("gone", {}, None),
    ],
)
def test_which_policy_a_gate_has(named: str, case: dict[str, Any], name: str | None) -> None:
    found = policy_of(replace(GATE, policy=named), replace(CASE, **case), POLICIES)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("approval", "policies", "governed"),
    [
        ({}, (), False),
        ({"policy": "gone"}, (), True),
        ({}, POLICIES[:1], False),
        ({}, POLICIES[1:2], True),
        ({}, POLICIES[2:3], True),
        ({}, POLICIES[3:], True),
        ({}, (Policy(name="p", stages=("deploy",), paths=("*",)),), False),
        ({}, (Policy(name="p", pipelines=("other",)),), False),
    ],
)
def test_what_a_policy_may_govern(approval: dict[str, object], policies: tuple[Policy, ...], governed: bool) -> None:
    assert is_governed(approval, replace(CASE, changed=(), author=""), SHIP, policies) is governed


@pytest.mark.parametrize("asked_at", ["soon", None, 7, "", "2026-13-01T00:00:00Z", "2026-03-01T12:00:00"])
def test_a_manifest_that_waits_since_no_instant_proves_nothing(asked_at: object) -> None:
    gate = {"stage": "ship", "prompt": "P", "policy": "", "asked_at": asked_at, "decision": None}
    attempt = {"number": 1, "plan_digest": PLAN, "commit": "c0"}
    document = {
        "run_id": "r-1a2b3c4d", "name": "r", "task_id": "t", "status": "waiting", "completed_at": None,
        "resources": {"duration_s": 1}, "attempts": [attempt], "approvals": [gate],
    }  # fmt: skip
    assert evidence_row("r-1a2b3c4d", "0" * 40, json.dumps(document).encode()) is None
    gate["asked_at"] = GATE.asked_at
    row = evidence_row("r-1a2b3c4d", "0" * 40, json.dumps(document).encode())
    assert row is not None and row[7]["gates"][0]["asked_at"] == GATE.asked_at


@pytest.mark.parametrize(
    ("actor", "address"),
    [
        ("Ann <Ann@A.example>", "ann@a.example"),
        ("ann@a.example", "ann@a.example"),
        ("a <b> c <d@e>", "d@e"),
        ("<x@y>", "x@y"),
        ("", ""),
    ],
)
def test_the_address_of_an_author(actor: str, address: str) -> None:
    assert address_of(actor) == address
