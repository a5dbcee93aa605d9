"""Scenarios: what their repository is made of, and how a manifest and files are judged."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from reconciler import scenarios
from reconciler.check import Kind, check, kind_of
from reconciler.contracts import Contracts
from reconciler.model import Rejection, Severity, Source
from reconciler.scenarios import Expect, File, Result, Scenario, findings, laid_out

CONTRACTS = Contracts()
MANIFEST: dict[str, Any] = {
    "status": "failed",
    "summary": "1 of 2 stages succeeded",
    "commands": [{"id": "a", "status": "succeeded", "exit_code": 0}, {"id": "b", "status": "failed", "summary": "no"}],
    "guardrail_status": {"passed": ["g"], "failed": [], "missing": [], "advisory": []},
    "a/b": {"~": True},
    "none": None,
}
FILES = {
    "evals/x/fix/Makefile": b"all:",
    "evals/x/fix/reconciler.yaml": b"runs_max: 1\nbranch: other\nkeep_workspace: never\n",
    "pipelines/p.yaml": b"stages: [{id: a, command: x}]\n",
    "pipelines/sub/q.yaml": b"",
}


def scenario(text: str = "pipeline: p\n", path: str = "evals/x/a.eval.yaml") -> Scenario:
    found = scenarios.parse_scenario(text.encode(), Source(path=path), CONTRACTS)
    assert not isinstance(found, Rejection), found
    return found


def made(text: str) -> dict[str, bytes]:
    found = laid_out(scenario(text), FILES, FILES.get)
    assert isinstance(found, dict), found
    return found


# ------------------------------------------------------------------------------------------------ laying out


def test_a_repository_is_made_of_the_fixture_the_pipelines_and_a_request() -> None:
    files = made(
        "pipeline: p\nparameters: {v: '3'}\nfixture: {directory: fix, files: {a/b.txt: hello, Makefile: mine}}\n"
    )
    assert set(files) == {"Makefile", "a/b.txt", "pipelines/p.yaml", "runs.d/eval.yaml", "reconciler.yaml"}
    assert files["Makefile"] == b"mine"
    assert json.loads(files["runs.d/eval.yaml"]) == {
        "task": "eval", "pipeline": "p", "parameters": {"v": "3"}, "timeout": "120.000s",
    }  # fmt: skip
    settings = json.loads(files["reconciler.yaml"])
    assert settings == {"runs_max": 1, "branch": "main", "remote": None, "keep_workspace": "always"}


def test_what_is_made_passes() -> None:
    files = made(
        "pipeline: {stages: [{id: a, command: x}]}\nfixture: {files: {pipelines/own.yaml: 'stages: [{id: a, command: y}]'}}\n"
    )
    kinds = {path: kind for path in files if (kind := kind_of(path)) is not None}
    assert Kind.REQUEST in kinds.values()
    found = check(files, kinds, CONTRACTS)
    assert [each for each in found if each.severity is Severity.ERROR] == []


def test_a_folder_that_is_not_there_is_told() -> None:
    said = laid_out(scenario("pipeline: p\nfixture: {directory: nowhere}\n"), FILES, FILES.get)
    assert said == "there is no file in the folder 'nowhere'"


def test_a_file_that_cannot_be_read_is_told() -> None:
    assert "is no regular file" in str(laid_out(scenario("pipeline: p\n"), FILES, lambda _: None))


# ------------------------------------------------------------------------------------------------ judging


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        (Expect(status="failed"), []),
        (Expect(), ["the run has failed, expected succeeded (1 of 2 stages succeeded)"]),
        (Expect(status="failed", stages={"a": "succeeded", "b": "failed"}), []),
        (Expect(status="failed", stages={"b": "succeeded"}), ["stage b: failed, expected succeeded (no)"]),
        (Expect(status="failed", stages={"c": "skipped"}), ["stage c: is not there, expected skipped"]),
        (Expect(status="failed", guardrails={"passed": ["g"]}), []),
        (Expect(status="failed", guardrails={"failed": ["g"]}), ["guardrail g: is not among those that are failed"]),
        (Expect(status="failed", manifest={"/commands/0/exit_code": 0, "/a~1b/~0": True, "/none": None}), []),
        (Expect(status="failed", manifest={"/commands/0/exit_code": False}),
         ["manifest /commands/0/exit_code: is 0, expected false"]),
        (Expect(status="failed", manifest={"/commands/9/x": 1}), ["manifest /commands/9/x: is not there, expected 1"]),
        (Expect(status="failed", manifest={"/commands/-1": 1}), ["manifest /commands/-1: is not there, expected 1"]),
    ],
)  # fmt: skip
def test_a_manifest_is_judged(expect: Expect, said: list[str]) -> None:
    assert list(findings(expect, MANIFEST, lambda _: None)) == said


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (File(path="a", contains=("hel", "lo"), matches="^h.*o$", sha256=hashlib.sha256(b"hello\n").hexdigest()), []),
        (File(path="a", exists=False), ["file a: is there"]),
        (File(path="b"), ["file b: is not there"]),
        (File(path="b", exists=False), []),
        (File(path="a", contains=("x",)), ["file a: does not contain 'x'"]),
        (File(path="a", matches="^x"), ["file a: no line matches '^x'"]),
        (File(path="a", sha256="0" * 64), [f"file a: has the SHA-256 {hashlib.sha256(b'hello' + bytes([10])).hexdigest()}, expected {'0' * 64}"]),
    ],
)  # fmt: skip
def test_files_are_judged(file: File, said: list[str]) -> None:
    read = {"a": b"hello\n"}.get
    assert list(findings(Expect(status="failed", files=(file,)), MANIFEST, read)) == said


@pytest.mark.parametrize("manifest", [{}, {"status": 1, "commands": [{}], "guardrail_status": None}])
def test_a_manifest_that_is_odd_breaks_nothing(manifest: dict[str, Any]) -> None:
    assert list(findings(Expect(stages={"a": "failed"}, guardrails={"passed": ["g"]}), manifest, lambda _: None))


# ------------------------------------------------------------------------------------------------ telling


def test_results_are_xml_whatever_they_say() -> None:
    odd = 'a<b>&"\n\x00\ud800]]>'
    results = [
        Result(path="a.eval.yaml", title="", findings=(), took_s=1.5),
        Result(path=odd, title=odd, findings=(odd, odd)),
    ]
    suite = ET.fromstring(scenarios.junit(results))[0]
    assert suite.attrib == {"name": "scenarios", "tests": "2", "failures": "1", "time": "1.500"}
    assert [len(each) for each in suite] == [0, 1]


def test_results_are_data() -> None:
    said = scenarios.document([Result(path="a", title="", findings=("x",)), Result(path="b", title="", findings=())])
    assert (said["scenarios"], said["failed"]) == (2, 1)
