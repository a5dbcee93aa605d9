"""Every way in which a file can be wrong, and the exact sentence a person then reads.

A case is named by what is wrong. Its bytes are `before` + `text` * `times` + `after` (`binary`: each character is
a byte); `says` lists every sentence, or with `first` and `count` their beginning and their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from reconciler import parse, patterns, scenarios
from reconciler.contracts import Contracts
from reconciler.model import Rejection, Source
from reconciler.settings import parse_settings

CONTRACTS = Contracts()
FILES = {
    "pipelines": "pipelines/p.yaml",
    "evals": "evals/a.eval.yaml",
    "patterns": "patterns/p.yaml",
    "settings": "reconciler.yaml",
    "approvals": "runs.d/ok.approval.yaml",
}
CONTENT = "task: t\npipeline: p\n"


def cases() -> Iterator[Any]:
    for path in sorted((Path(__file__).parent / "malformed").glob("*.yaml")):
        for title, case in YAML(typ="safe").load(path).items():
            yield pytest.param({"file": FILES.get(path.stem, "runs.d/a.yaml"), **case}, id=f"{path.stem}: {title}")


def content(case: dict[str, Any]) -> bytes:
    text: str = case.get("before", "") + case.get("text", CONTENT) * case.get("times", 1) + case.get("after", "")
    return text.encode("latin-1" if case.get("binary") else "utf-8")


def read(path: str, data: bytes) -> object:
    source = Source(path=path)
    if path == "reconciler.yaml":
        return parse_settings(data, source, CONTRACTS)
    if path.endswith(scenarios.SUFFIX):
        return scenarios.parse_scenario(data, source, CONTRACTS)
    if path.startswith("patterns/"):
        return patterns.parse_rule(data, source, CONTRACTS)
    if path.startswith("pipelines/"):
        return parse.parse_pipeline(data, source, CONTRACTS)
    if path.endswith(parse.APPROVAL_SUFFIX):
        return parse.parse_approval(data, source, CONTRACTS)
    return parse.parse_request(data, source, CONTRACTS)


@pytest.mark.parametrize("case", list(cases()))
def test_a_malformed_file_is_rejected_with_these_words(case: dict[str, Any]) -> None:
    rejection = read(case["file"], content(case))
    assert isinstance(rejection, Rejection)
    said = [each.sentence() for each in rejection.problems]
    assert said[: case.get("first")] == case["says"]
    assert len(said) == case.get("count", len(case["says"]))
