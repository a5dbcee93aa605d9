"""Mirrors that agree, and ticked items whose evidence is there and true."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.guards import checklists
from reconciler.guards.checklists import Proof, proof_of, tasks_of
from reconciler.guards.findings import Finding
from reconciler.model import Severity

MANIFEST = ".runs/t/cli/a-1a2b3c4d/manifest.json"
SUMMARY = ".runs/t/a-1a2b3c4d/manifest.json"
OPEN = "- [ ] Tests <!-- item: t/x -->\n"
PROVEN = f"- [x] Tests; Evidence: [a-1a2b3c4d](../{MANIFEST}) <!-- item: t/x -->\n"
BARE = "- [x] Tests <!-- item: t/x -->\n"
DOCUMENT = {"status": "succeeded", "run_id": "a-1a2b3c4d", "proves": ["t/x"]}


def proof(document: object = None, summary: str | None = None, told: str | None = None, **keys: Any) -> Proof:
    """Return a proof as it is read; `summary` and `told` are digests, "right" for that of the bytes."""
    data = json.dumps(DOCUMENT | keys).encode() if document is None else str(document).encode()
    right = hashlib.sha256(data).hexdigest()
    said = {"manifest_sha256": right if summary == "right" else summary}
    summaries = {} if summary is None else {SUMMARY: json.dumps(said).encode()}
    digests = {} if told is None else {MANIFEST: right if told == "right" else told}
    return proof_of(MANIFEST, data, summaries, digests)


def judged(text: str, proofs: dict[str, Proof], *, strict: bool = False, path: str = "tasks/t.md") -> list[Finding]:
    places, unread = checklists.places_of({path: text.encode()})
    assert unread == []
    return list(checklists.unproven(places, proofs, strict=strict))


# ------------------------------------------------------------------------------------------------ evidence


@pytest.mark.parametrize(
    ("text", "proofs"),
    [
        ("", {}),
        (OPEN, {}),
        (PROVEN, {MANIFEST: proof()}),
        (PROVEN, {MANIFEST: proof(summary="right", told="right")}),
        (PROVEN, {MANIFEST: proof(proves=["t/other", "t/x"])}),
        (f"- [ ] Tests; Evidence: [a-1a2b3c4d](../{MANIFEST}) <!-- item: t/x -->\n", {}),
        ("- [x] no item at all\n", {}),
        (f"```\n{PROVEN}```\n", {}),
    ],
)
def test_what_is_proven_is_fine(text: str, proofs: dict[str, Proof]) -> None:
    assert judged(text, proofs, strict=True) == []


OTHER = "f" * 64


@pytest.mark.parametrize(
    ("text", "proofs", "said"),
    [
        (PROVEN, {}, f"is not there at the commit ({MANIFEST})"),
        (PROVEN, {SUMMARY: proof()}, f"is not there at the commit ({MANIFEST})"),
        (PROVEN.replace("../", ""), {MANIFEST: proof()}, f"is not there at the commit (tasks/{MANIFEST})"),
        (PROVEN.replace("../", "../../"), {}, f"leads out of the repository (../../{MANIFEST})"),
        (
            PROVEN.replace("../", "https://example.invalid/"),
            {},
            "leads out of the repository (https://example.invalid/",
        ),
        (PROVEN.replace("../", "/"), {MANIFEST: proof()}, f"leads out of the repository (/{MANIFEST})"),
        (PROVEN, {MANIFEST: proof(status="failed")}, "is of a run that has not succeeded, its status is 'failed'"),
        (PROVEN, {MANIFEST: proof(status="in_progress")}, "is of a run that has not succeeded"),
        (PROVEN, {MANIFEST: proof(status="cancelled")}, "is of a run that has not succeeded"),
        (PROVEN, {MANIFEST: proof(status=True)}, "is of a run that has not succeeded, its status is True"),
        (PROVEN, {MANIFEST: proof(run_id="b-1a2b3c4d")}, "names run a-1a2b3c4d and is of run b-1a2b3c4d"),
        (PROVEN, {MANIFEST: proof(summary=OTHER)}, f"was altered: the SHA-256 of {MANIFEST} is not the one"),
        (PROVEN, {MANIFEST: proof(told=OTHER)}, f"was altered: the SHA-256 of {MANIFEST} is not the one"),
        (PROVEN, {MANIFEST: proof(summary="right", told=OTHER)}, "was altered"),
        (PROVEN, {MANIFEST: proof(summary=OTHER, told="right")}, "was altered"),
        (PROVEN, {MANIFEST: proof("")}, f"is no manifest ({MANIFEST})"),
        (PROVEN, {MANIFEST: proof("[]")}, f"is no manifest ({MANIFEST})"),
        (PROVEN, {MANIFEST: proof("{}")}, f"is no manifest ({MANIFEST})"),
        (PROVEN, {MANIFEST: proof("guardrail passed")}, f"is no manifest ({MANIFEST})"),
        (PROVEN, {MANIFEST: proof("[" * 100_000)}, f"is no manifest ({MANIFEST})"),
    ],
)
def test_evidence_that_is_none_is_told(text: str, proofs: dict[str, Proof], said: str) -> None:
    (found,) = judged(text, proofs)
    assert found.reason.startswith(f"the evidence of item t/x {said}")
    assert (found.path, found.line, found.severity) == ("tasks/t.md", 1, Severity.ERROR)


@pytest.mark.parametrize(
    ("text", "proofs", "said"),
    [
        (BARE, {}, "item t/x is ticked without evidence"),
        (BARE.replace("x", "X", 1), {}, "item t/x is ticked without evidence"),
        ("- [x] Tests, see [a](../README.md) <!-- item: t/x -->\n", {}, "item t/x is ticked without evidence"),
        (PROVEN, {MANIFEST: proof(proves=["t/other"])}, "run a-1a2b3c4d does not say that it proves item t/x"),
        (PROVEN, {MANIFEST: proof(proves=[])}, "run a-1a2b3c4d does not say that it proves item t/x"),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_what_may_be_meant_is_a_warning_unless_strict(
    text: str, proofs: dict[str, Proof], said: str, strict: bool
) -> None:
    (found,) = judged(text, proofs, strict=strict)
    assert found.reason == said
    assert found.severity == (Severity.ERROR if strict else Severity.WARNING)


def test_a_checklist_that_cannot_be_read_is_told() -> None:
    deep = "> " * 40 + "- [x] a <!-- item: a -->\n"
    places, found = checklists.places_of({"tasks/a.md": deep.encode(), "tasks/b.md": None})
    assert places == []
    assert [each.path for each in found] == ["tasks/a.md", "tasks/b.md"]
    assert "nested" in found[0].reason


# ------------------------------------------------------------------------------------------------ mirrors


def registry(*items: object) -> bytes:
    return json.dumps({"items": items}, indent=1).encode()


TASK = {"id": "t", "title": "T", "path": "tasks/t.md", "mirrors": ["docs/t.md"]}


def differences(files: dict[str, str], *items: object) -> list[str]:
    tasks, wrong = tasks_of(registry(*items))
    assert wrong == []
    places, _ = checklists.places_of({path: text.encode() for path, text in files.items()})
    found = checklists.disagreements(tasks, places, files)
    return [f"{each.path}:{each.line}: {each.reason}" for each in found]


MIRRORED = PROVEN.replace("Tests", "All tests")
TWO = OPEN + "- [ ] Docs <!-- item: t/y -->\n"


@pytest.mark.parametrize(
    ("files", "items"),
    [
        ({}, []),
        ({"tasks/t.md": OPEN, "docs/t.md": OPEN}, [TASK]),
        ({"tasks/t.md": PROVEN, "docs/t.md": MIRRORED}, [TASK]),
        ({"tasks/t.md": TWO, "docs/t.md": "- [ ] Docs <!-- item: t/y -->\n" + OPEN}, [TASK]),
        ({"tasks/t.md": OPEN}, [{"id": "t", "title": "T"}]),
        ({}, [{"id": "t", "title": "T"}]),
        (
            {"tasks/t.md": OPEN, "tasks/u.md": "- [ ] U <!-- item: u/x -->\n",
             "docs/t.md": OPEN + "- [ ] U <!-- item: u/x -->\n"},
            [TASK, {"id": "u", "title": "U", "mirrors": ["docs/t.md"]}],
        ),
        ({"tasks/t.md": PROVEN, "docs/deep/t.md": PROVEN.replace("../", "../../")}, [TASK | {"mirrors": ["docs/deep/t.md"]}]),
    ],
)  # fmt: skip
def test_mirrors_that_agree(files: dict[str, str], items: list[object]) -> None:
    assert differences(files, *items) == []


@pytest.mark.parametrize(
    ("files", "items", "said"),
    [
        ({"tasks/t.md": OPEN, "docs/t.md": PROVEN}, [TASK], ["docs/t.md:1: item t/x is ticked here and not in tasks/t.md:1"]),
        ({"tasks/t.md": PROVEN, "docs/t.md": OPEN}, [TASK], ["docs/t.md:1: item t/x is not ticked here and so in tasks/t.md:1"]),
        ({"tasks/t.md": PROVEN, "docs/t.md": BARE}, [TASK], ["docs/t.md:1: item t/x has other evidence here than in tasks/t.md:1"]),
        ({"tasks/t.md": PROVEN, "docs/t.md": PROVEN.replace("1a2b", "ffff")}, [TASK],
         ["docs/t.md:1: item t/x has other evidence here than in tasks/t.md:1"]),
        ({"tasks/t.md": TWO, "docs/t.md": OPEN}, [TASK], ["docs/t.md:0: it mirrors tasks/t.md and lacks t/y"]),
        ({"tasks/t.md": TWO, "docs/t.md": "nothing"}, [TASK], ["docs/t.md:0: it mirrors tasks/t.md and lacks t/x, t/y"]),
        ({"tasks/t.md": OPEN, "docs/t.md": TWO}, [TASK],
         ["docs/t.md:2: item t/y stands in no checklist that this file mirrors (tasks/t.md)"]),
        ({"tasks/t.md": OPEN}, [TASK], ["tasks/index.json:3: task t names docs/t.md, which is not there"]),
        ({"docs/t.md": OPEN}, [TASK], ["tasks/index.json:3: task t names tasks/t.md, which is not there"]),
        ({}, [{"id": "t", "title": "T", "mirrors": ["docs/t.md"]}],
         ["tasks/index.json:3: task t names tasks/t.md, which is not there",
          "tasks/index.json:3: task t names docs/t.md, which is not there"]),
        ({"tasks/t.md": OPEN, "docs/other.md": BARE}, [],
         ["docs/other.md:1: item t/x is ticked here and not in tasks/t.md:1"]),
        ({"tasks/t.md": BARE + OPEN}, [], ["tasks/t.md:2: item t/x is not ticked here and so in tasks/t.md:1"]),
    ],
)  # fmt: skip
def test_mirrors_that_disagree(files: dict[str, str], items: list[object], said: list[str]) -> None:
    ordered = dict(sorted(files.items(), key=lambda each: not each[0].startswith("tasks")))
    found = differences(ordered, *items)
    assert [each.split(":", 2)[::2] for each in found] == [each.split(":", 2)[::2] for each in said]


@pytest.mark.parametrize("data", [b"", b"{", b'{"items": [}', b"\xff", b'{"items": [], "items": []}', b"[" * 10_000])
def test_a_registry_that_cannot_be_read_is_told(data: bytes) -> None:
    tasks, found = tasks_of(data)
    assert tasks == []
    assert found[0].path == "tasks/index.json"


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["items", "id", "path", "mirrors"]), inner),
                    max_leaves=12))  # fmt: skip
def test_no_registry_breaks_it(value: object) -> None:
    tasks, _ = tasks_of(json.dumps({"items": value}).encode())
    tasks, _ = tasks_of(json.dumps({"items": [value]}).encode())
    list(checklists.disagreements(tasks, [], ()))


# ------------------------------------------------------------------------------------------------ citations

CITED = ".runs/t/cli/a-11111111/manifest.json"


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({CITED: "1" * 64}, []),
        ({}, [f"cites run a-11111111, whose manifest is not there any more ({CITED})"]),
        ({CITED: "2" * 64}, [f"cites run a-11111111, whose manifest has changed since ({CITED})"]),
    ],
)
def test_evidence_that_cites_other_evidence(there: dict[str, str], said: list[str]) -> None:
    """What is cited was there when it was, so the item stays proven: it is a warning."""
    reused = {"run_id": "a-11111111", "stage": "s", "manifest": {"path": CITED, "sha256": "1" * 64}}
    commands = [{"id": "s", "reused": reused}, {"id": "n", "reused": None}, "broken", {"reused": {"manifest": 1}}]
    proofs = {MANIFEST: proof(commands=commands)}
    assert judged(PROVEN, proofs) == []
    places, _ = checklists.places_of({"tasks/t.md": PROVEN.encode()})
    found = list(checklists.astray(places, proofs, there))
    assert [each.severity for each in found] == [Severity.WARNING for _ in said]
    assert all(text in each.reason for text, each in zip(said, found, strict=True))


@pytest.mark.parametrize("path", ["../../etc/passwd", "x\ny", ".runs/t/cli/a\n/manifest.json", ""])
def test_a_citation_that_leads_elsewhere_is_not_followed(path: str) -> None:
    reused = {"run_id": "a-11111111", "manifest": {"path": path, "sha256": "1" * 64}}
    assert checklists.citations(proof(commands=[{"reused": reused}])) == []
