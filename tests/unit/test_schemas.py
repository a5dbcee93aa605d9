"""The formats as they are published: schemas that hold, explain every key, and refuse what they must."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema_rs
import pytest
from referencing import Registry
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
PATHS = {path.name.removesuffix(".schema.json"): path for path in (ROOT / "schemas").glob("*.schema.json")}
SCHEMAS: dict[str, dict[str, Any]] = {name: json.loads(path.read_bytes()) for name, path in PATHS.items()}
FORMATS = (
    "approval",
    "control-answer",
    "drift",
    "eval",
    "event",
    "imported",
    "manifest",
    "metrics",
    "pattern",
    "pipeline",
    "plan-preview",
    "pull-request",
    "request",
    "review",
    "review-answer",
    "run-request-v2",
    "run-summary",
    "settings",
    "state",
    "task-index",
)
WORDS_NOT_USED = re.compile(r"\b(jobs?|steps?|workflows?|helpers?|managers?|services?|utils?)\b", re.IGNORECASE)


def _generator() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "reference" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while they are made.
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    return module


GENERATOR = _generator()


def _subschemas(schema: dict[str, Any], pointer: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema that describes a value, with its place: the document, properties, items, definitions."""
    yield pointer, schema
    for keyword in ("properties", "$defs"):
        for key, each in schema.get(keyword, {}).items():
            yield from _subschemas(each, f"{pointer}/{keyword}/{key}")
    for index, each in enumerate(schema.get("prefixItems", ())):
        yield from _subschemas(each, f"{pointer}/prefixItems/{index}")
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from _subschemas(schema[keyword], f"{pointer}/{keyword}")


ALL = [
    pytest.param(name, each, id=f"{name}#{pointer}") for name in FORMATS for pointer, each in _subschemas(SCHEMAS[name])
]


def _resolved(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return dict(GENERATOR.resolved(schema, SCHEMAS[name]["$defs"]))


def _errors(name: str, schema: dict[str, Any], value: object) -> list[str]:
    whole = {**schema, "$defs": SCHEMAS[name]["$defs"]}
    whole.pop("$id", None)
    registry: Any = Registry()
    return [each.message for each in jsonschema.Draft202012Validator(whole, registry=registry).iter_errors(value)]


# ------------------------------------------------------------------------------------------------ the schemas


def test_every_format_has_one_schema() -> None:
    assert tuple(sorted(SCHEMAS)) == FORMATS
    assert sorted(each.name for each in GENERATOR.FORMATS) == sorted(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_is_a_valid_schema_of_its_draft(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"https://gitops-reconciler.dev/schemas/{name}.schema.json"
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema_rs.Draft202012Validator(schema)


@pytest.mark.parametrize("name", FORMATS)
def test_no_reference_leaves_its_file_and_every_definition_is_used(name: str) -> None:
    text = PATHS[name].read_text(encoding="utf-8")
    references = re.findall(r'"\$(?:ref|dynamicRef)": "([^"]*)"', text)
    assert {each.removeprefix("#/$defs/") for each in references} == set(SCHEMAS[name]["$defs"])
    assert all(each.startswith("#/$defs/") for each in references)


@pytest.mark.parametrize(("name", "schema"), ALL)
def test_explains_itself(name: str, schema: dict[str, Any]) -> None:
    meant = _resolved(name, schema)
    assert 0 < len(meant["title"]) <= 40
    assert meant["description"].endswith(".")
    assert {"examples", "const", "enum", "default", "properties"} & set(meant)
    assert "examples" in meant


@pytest.mark.parametrize(("name", "schema"), ALL)
def test_examples_and_defaults_hold(name: str, schema: dict[str, Any]) -> None:
    values = [*schema.get("examples", ()), *([schema["default"]] if "default" in schema else [])]
    assert [_errors(name, schema, each) for each in values] == [[]] * len(values)


@pytest.mark.parametrize(("name", "schema"), ALL)
def test_is_bounded(name: str, schema: dict[str, Any]) -> None:
    meant = _resolved(name, schema)
    if {"const", "enum"} & set(meant):
        return
    types_ = meant["type"] if isinstance(meant["type"], list) else [meant["type"]]
    wanted = {
        "string": {"maxLength"},
        "array": {"maxItems", "items"},
        "integer": {"minimum", "maximum"},
        "number": {"maximum"},
        "object": {"additionalProperties"},
    }
    missing = {key for each in types_ for key in wanted.get(each, set()) if key not in meant}
    assert not missing
    if isinstance(meant.get("additionalProperties"), dict):
        assert {"maxProperties", "propertyNames"} <= set(meant)


def test_only_a_task_of_the_index_may_have_keys_of_its_own() -> None:
    is_open = [
        f"{name}#{pointer}"
        for name in FORMATS
        for pointer, each in _subschemas(SCHEMAS[name])
        if "properties" in each and each.get("additionalProperties") is not False
    ]
    assert is_open == ["task-index#/$defs/item"]


def test_a_shared_definition_is_the_same_in_every_file() -> None:
    found: dict[str, Any] = {}
    for schema in SCHEMAS.values():
        for name, each in schema["$defs"].items():
            if "properties" not in each:
                assert found.setdefault(name, each) == each


@pytest.mark.parametrize("name", FORMATS)
def test_speaks_the_words_of_the_design(name: str) -> None:
    text = PATHS[name].read_text(encoding="utf-8")
    assert WORDS_NOT_USED.findall(text) == []


# ------------------------------------------------------------------------------------------------ the page


def test_the_reference_page_is_up_to_date() -> None:
    assert GENERATOR.main(["--check"]) == 0


def test_a_stale_page_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GENERATOR, "ROOT", tmp_path)
    monkeypatch.setattr(GENERATOR, "PAGE", tmp_path / "formats.md")
    assert GENERATOR.main(["--check"]) == 1
    assert GENERATOR.main([]) == 0
    assert GENERATOR.main(["--check"]) == 0
    (tmp_path / "formats.md").write_text("old", encoding="utf-8")
    assert GENERATOR.main(["--check"]) == 1


@pytest.mark.parametrize("name", FORMATS)
def test_the_page_shows_every_key_and_an_example_that_holds(name: str) -> None:
    schema = SCHEMAS[name]
    section = re.split(r"^## ", GENERATOR.PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    mine = next(each for each in section if each.startswith(f"{schema['title']}\n"))
    keys = [each.key for each in GENERATOR.rows(schema)]
    assert re.findall(r"^\| `([^`]+)` \|", mine, flags=re.MULTILINE) == keys
    example = re.search(r"^```(yaml|json)\n(.*?)^```", mine, flags=re.MULTILINE | re.DOTALL)
    assert example
    assert YAML(typ="safe", pure=True).load(example[2]) == schema["examples"][0]


@pytest.mark.parametrize(
    "value",
    [
        {"a": "1", "b": 1, "c": 1.5, "d": True, "e": None, "f": "true", "g": "~", "h": "1e3", "i": "0x1f", "j": ".inf"},
        {
            "text": [
                "",
                " ",
                "a: b",
                "- a",
                "#",
                "a #b",
                "'",
                '"',
                "\n",
                "é",
                "2026-03-01T09:00:00Z",
                "2026-03-01",
                "No",
            ]
        },
        {"nested": [{"a": [{"b": {"c": [1, [2, [3]]]}}]}, [], {}, [{}]], "empty": {}, "1": {"x y": {"z": ["=", "<<"]}}},
        [],
        "text",
    ],
)
def test_its_yaml_is_read_as_it_was_meant(value: object) -> None:
    assert YAML(typ="safe", pure=True).load(GENERATOR.yaml(value)) == value


# ------------------------------------------------------------------------------------------------ documents

REQUEST = {"task": "0001-demo", "pipeline": "diagnostics"}
STAGE = {"id": "build", "command": "make"}
APPROVAL = {"run": "0001-demo-1a2b3c4d", "stage": "ship", "decision": "approve", "reason": "Looks right"}
AGENT = {"use": "codex", "prompt": "Fix it"}


def _staged(**keys: object) -> dict[str, object]:
    return {"stages": [{**STAGE, **keys}]}


def _driven(**keys: object) -> dict[str, object]:
    return {"stages": [{"id": "fix", "agent": {**AGENT, **keys}}]}


def _changed(name: str, *path: str | int, to: object) -> dict[str, Any]:
    """Return the example of a format with one value replaced."""
    document: Any = copy.deepcopy(SCHEMAS[name]["examples"][0])
    place = document
    for each in path[:-1]:
        place = place[each]
    place[path[-1]] = to
    assert isinstance(document, dict)
    return document


def _without(name: str, key: str) -> dict[str, Any]:
    return {each: value for each, value in SCHEMAS[name]["examples"][0].items() if each != key}


ID_BAD = ("", "A", "-a", ".a", "_a", "a.", "a..b", "a b", "a/b", "é", "a\n", "a" * 101, 1, None)
ID_GOOD = ("a", "0", "a.b", "a-", "a_", "a._b", "0001-demo", "a" * 100)
DURATION_BAD = ("", "10", "s", "1.5", "1.h", ".5h", "-1s", "1 s", "1w", "1S", "1s\n", "1.0000s", "1234567s", 90)
DOCUMENT_BAD: tuple[object, ...] = (None, [], "text", 1)
PARAMETER_BAD: tuple[object, ...] = (None, [], {}, "a\x00", 9007199254740992)
STAGES_BAD: tuple[object, ...] = ([], {}, None, [STAGE] * 201, ["make"])
PATH_BAD = ("", "/a", "..", "../a", "a/..", "a/../b", "a\x00b", "a\nb", "a" * 1001)

GOOD: list[tuple[str, object]] = [
    *((name, each) for name in FORMATS for each in SCHEMAS[name]["examples"]),
    ("settings", {}),
    *(("request", {**REQUEST, "task": each}) for each in ID_GOOD),
    *(("request", {**REQUEST, "timeout": each}) for each in ("1ms", "90s", "10m", "1.5h", "7d", "0.001s", "999999d")),
    *(
        ("request", {**REQUEST, "suspend": each})
        for each in (True, False, {"reason": "x"}, {"until": "2026-01-31T23:59:59Z"})
    ),
    *(("request", {**REQUEST, "proves": [each]}) for each in ("a", "0001-demo/tests-green", "a/b/c")),
    *(("request", {**REQUEST, "parameters": {"a": each}}) for each in ("", "x\ny", 0, -1.5, False, 9007199254740991)),
    ("request", {**REQUEST, "attempts_max": 100, "priority": -1000, "labels": ["a/b.c_d-e", "a" * 63], "rerun": 0}),
    ("request", {**REQUEST, "concurrency": {"group": "g"}, "execution": {}, "after": [], "title": ""}),
    *(("pipeline", _staged(cwd=each)) for each in (".", "a", "a/b", "..a", "a..", "a/..b", ".hidden")),
    *(("pipeline", _staged(env={each: ""})) for each in ("A", "_", "path", "GIT", "PARAM", "MY_GIT_DIR", "A" * 128)),
    *(("pipeline", _staged(command=each)) for each in ("x", ["x"], ["x", ""], "a\nb", "a" * 65536)),
    *(("pipeline", {"stages": [{"id": "a", key: word}]}) for key, word in (("guard", "docs"), ("pipeline", "x"))),
    *(
        ("pipeline", {"stages": [{"id": "a", "guard": {"use": "diff", "since": each}}]})
        for each in ("main", "v1.2", "HEAD", "HEAD~5", "HEAD^^", "feature/x~2^1", "a" * 40, "0.1-rc+1", "a@b")
    ),
    *(
        ("pipeline", {"stages": [{"id": "a", "guard": {"use": "command", "command": each}}]})
        for each in ("./x", ["x"], ["x", ""])
    ),
    ("pipeline", {"stages": [STAGE] * 200}),
    ("pipeline", {"stages": [STAGE], "parameters": {"a": {}}}),
    ("pipeline", _staged(approval={"reason": "x"}, role="review", when="x", attempts_max=20, needs=[])),
    ("pipeline", {"stages": [{"id": "a", "agent": {"use": "claude", "prompt_file": "a/b.md"}}]}),
    ("pipeline", _driven(budget={"cost": 0.01}, env={"A": "1"}, resume=False, output_schema="a.json", model="a/b:c")),
    *(
        ("settings", {"evidence": {"log_bytes_max": each}})
        for each in ("1KiB", "1024B", "2KB", "64KiB", "1MB", "01KiB")
    ),
    *(("settings", {"branch": each}) for each in ("main", "release/1.x", "a@b", "münchen", "a#b")),
    *(("settings", {"remote": each}) for each in (None, "origin", "team/origin")),
    *(("settings", {"redact": {"mode": each}}) for each in ("enforce", "off", "shadow")),
    ("settings", {"heartbeat": {"interval": "1s"}, "checklists": [], "runs_max": 1000, "stages_max": 64}),
    ("manifest", _changed("manifest", "request", "blob", to="")),
    ("manifest", _changed("manifest", "commands", 0, "signal", to="signal 35")),
    ("manifest", _changed("manifest", "commit", to="a" * 64)),
    ("manifest", _changed("manifest", "host", to=None)),
    ("run-summary", _without("run-summary", "attempts")),
    ("task-index", {"items": []}),
    ("task-index", {"items": [{"id": "a", "title": "A", "owner": {"of": "anything"}}]}),
    ("metrics", _changed("metrics", "pipelines", to={})),
    ("state", _changed("state", "runs", to=[])),
]

BAD: list[tuple[str, object]] = [
    *((name, each) for name in FORMATS for each in DOCUMENT_BAD),
    *((name, {**SCHEMAS[name]["examples"][0], "surprise": 1}) for name in FORMATS),
    *((name, _without(name, key)) for name in FORMATS for key in SCHEMAS[name].get("required", ())),
    *(("request", {**REQUEST, key: each}) for key in ("task", "pipeline", "target") for each in ID_BAD),
    *(("request", {**REQUEST, "timeout": each}) for each in DURATION_BAD),
    *(("request", {**REQUEST, "suspend": each}) for each in (None, {}, "yes", {"until": "tomorrow"}, {"why": "x"})),
    *(
        ("request", {**REQUEST, "suspend": {"until": each}})
        for each in ("2026-13-01T00:00:00Z", "2026-01-01T24:00:00Z")
    ),
    *(("request", {**REQUEST, "suspend": {"until": each}}) for each in ("2026-01-01T00:00:00+01:00", "2026-01-01")),
    *(("request", {**REQUEST, "cancel": each}) for each in ("", "  ", True, None)),
    *(
        ("request", {**REQUEST, "proves": each})
        for each in ("a/b", ["a/b", "a/b"], ["/a"], ["a/"], ["a//b"], ["a/../b"])
    ),
    *(("request", {**REQUEST, "labels": each}) for each in (["A"], ["-a"], ["a", "a"], ["a" * 64], [""], "a", ["a\n"])),
    *(("request", {**REQUEST, "parameters": {"a": each}}) for each in PARAMETER_BAD),
    *(("request", {**REQUEST, "parameters": {each: 1}}) for each in ("", "A", "1a", "_a", "a-b", "a" * 65, "a\n")),
    *(("request", {**REQUEST, "attempts_max": each}) for each in (0, 101, 1.5, "3", True, None)),
    *(("request", {**REQUEST, "priority": each}) for each in (-1001, 1001, "high")),
    *(("request", {**REQUEST, "rerun": each}) for each in (-1, True, "1")),
    *(("request", {**REQUEST, "title": each}) for each in ("a\nb", "\x1b[31m", "a" * 201, None)),
    *(("request", {**REQUEST, "concurrency": each}) for each in ("g", {}, {"group": "g", "on_conflict": "skip"})),
    *(("request", {**REQUEST, "execution": each}) for each in ("auto", {"mode": "local"}, {"parallel": "yes"})),
    ("request", {**REQUEST, "approval_policy": "always"}),
    ("request", {**REQUEST, "after": ["a", "a"]}),
    *(("approval", {**APPROVAL, "run": each}) for each in ("0001-demo", "a-1A2B3C4D", "-1a2b3c4d", "a..b-1a2b3c4d")),
    *(("approval", {**APPROVAL, "decision": each}) for each in ("approved", "", None)),
    ("approval", {**APPROVAL, "reason": " "}),
    *(("pipeline", {"stages": each}) for each in STAGES_BAD),
    ("pipeline", {"stages": [{"id": "a"}]}),
    ("pipeline", {"stages": [{"command": "x"}]}),
    *(("pipeline", _staged(**{key: "x"})) for key in ("guard", "pipeline")),
    ("pipeline", _staged(agent=AGENT)),
    *(
        ("pipeline", _staged(command=each))
        for each in ("", "  \n", [], [""], [1], ["x", None], "a\x00", None, "a" * 65537)
    ),
    *(("pipeline", _staged(cwd=each)) for each in PATH_BAD),
    *(
        ("pipeline", _staged(env={each: "x"}))
        for each in ("", "1A", "A-B", "A=B", "GIT_DIR", "PARAM_A", "RECONCILER_X")
    ),
    *(("pipeline", _staged(env={"A": each})) for each in (1, True, None, "a\x00")),
    *(("pipeline", _staged(needs=each)) for each in ("build", ["a", "a"], [None], None)),
    *(("pipeline", _staged(attempts_max=each)) for each in (0, 21)),
    *(("pipeline", _staged(approval=each)) for each in (True, {}, {"reason": ""}, {"reason": "x", "by": "y"})),
    *(("pipeline", _staged(**{key: None})) for key in ("timeout", "backoff", "when", "role", "title")),
    ("pipeline", _staged(role="deploy")),
    *(("pipeline", {"stages": [{"id": "a", "guard": each}]}) for each in ("", "spec", {}, {"use": "spec"}, ["docs"])),
    *(
        ("pipeline", {"stages": [{"id": "a", "guard": {"use": "diff", "since": each}}]})
        for each in (
            "",
            "-x",
            "--all",
            "a..b",
            "a:b",
            "a b",
            "a^{tree}",
            "@{u}",
            ":/x",
            "^a",
            "a/",
            "a//b",
            "a\n",
            "a" * 245,
        )
    ),
    *(
        ("pipeline", {"stages": [{"id": "a", "guard": {"use": "diff", key: value}}]})
        for key, value in (
            ("files_max", -1),
            ("lines_max", True),
            ("paths", []),
            ("exclude", ["/a"]),
            ("dry_run", "yes"),
        )
    ),
    *(
        ("settings", {"guards": each})
        for each in (
            {"docs": {}},
            {"specs": {"age_max": 30}},
            {"specs": {"paths": []}},
            {"specs": {"watch": [{"spec": "a"}]}},
            {"specs": {"watch": [{"spec": "../a", "paths": ["b"]}]}},
            None,
        )
    ),
    ("pipeline", _staged(allow_failure="yes")),
    *(("pipeline", _driven(**keys)) for keys in ({"prompt_file": "a.md"}, {"sandbox": "none"}, {"surprise": 1})),
    *(("pipeline", _driven(budget=each)) for each in ({}, {"minutes": 0}, {"tokens": 0.5}, {"cost": -1}, {"hours": 1})),
    *(("pipeline", _driven(env=each)) for each in ({"GIT_DIR": "x"}, ["A=1"])),
    ("pipeline", {"stages": [{"id": "a", "agent": {"use": "codex"}}]}),
    ("pipeline", {"stages": [{"id": "a", "agent": {"use": "codex", "prompt_file": "../a.md"}}]}),
    *(("pipeline", {"stages": [STAGE], "parameters": {"a": each}}) for each in ("3.12", None, {"default": None})),
    *(
        ("settings", {"evidence": {"log_bytes_max": each}})
        for each in ("0B", "000GiB", "999B", "1000B", "1023B", "1KB")
    ),
    *(("settings", {"evidence": {"log_bytes_max": each}}) for each in ("64", "64 KiB", "1.5MB", "64kib", 65536)),
    *(
        ("settings", {"branch": each})
        for each in ("", "-x", "/a", "a/", "a..b", "a b", "a.lock", "a~1", "@", "a\\b", None)
    ),
    *(("settings", {"remote": each}) for each in ("", "-x", "https://a/b", "a b", "a/../b")),
    *(("settings", {"runs_max": each}) for each in (0, 1001, None)),
    *(("settings", {"stages_max": each}) for each in (0, 65)),
    *(("settings", {"checklists": each}) for each in ("*.md", ["/etc/*.md"], ["../*.md"], ["a", "a"])),
    ("settings", {"keep_workspace": True}),
    ("settings", {"redact": {"mode": "detect"}}),
    ("settings", {"publish": {"mode": "pull-request"}}),
    *(("settings", {"sandbox": each}) for each in ({"missing": "ignore"}, {"network": True}, "refuse")),
    *(
        ("pipeline", _staged(sandbox=each))
        for each in (
            True,
            {"network": "yes"},
            {"write": ["../a"]},
            {"write": ["/a"]},
            {"secrets": ["A=B"]},
            {"read": []},
        )
    ),
    *(("manifest", _changed("manifest", "commands", 0, key, to="/a")) for key in ("log_path", "error_file")),
    *(("manifest", _changed("manifest", key, to="/a")) for key in ("log_path", "artifact_root")),
    ("manifest", _changed("manifest", "instructions_sources", to=["/etc/passwd"])),
    ("manifest", _changed("manifest", "request", "path", to="/home/a/runs.d/x.yaml")),
    ("manifest", _changed("manifest", "commit", to="4b825dc")),
    ("manifest", _changed("manifest", "commit", to=None)),
    ("manifest", _changed("manifest", "status", to="done")),
    ("manifest", _changed("manifest", "started_at", to="2026-03-01 09:30:00")),
    *(("manifest", _changed("manifest", "resume_token_sha256", to=each)) for each in ("", "g" * 64, "a" * 63)),
    ("manifest", _changed("manifest", "schema_version", to=2)),
    ("manifest", _changed("manifest", "commands", 0, "command", to="a" * 2001)),
    ("manifest", _changed("manifest", "commands", 0, "exit_code", to=-9)),
    ("manifest", _changed("manifest", "commands", 0, "surprise", to=1)),
    ("run-summary", _changed("run-summary", "status", to="in_progress")),
    ("run-summary", _changed("run-summary", "manifest_path", to=".runs/a/manifest.json")),
    ("run-summary", _changed("run-summary", "review", "decision", to="maybe")),
    ("task-index", {"items": [{"id": "a"}]}),
    ("task-index", _changed("task-index", "items", 0, "gate", "surprise", to=1)),
    ("task-index", _changed("task-index", "items", 0, "mirrors", to=["/a.md"])),
    ("metrics", _changed("metrics", "success_rate", to=1.1)),
    ("metrics", _changed("metrics", "runs", "total", to=-1)),
    ("metrics", _changed("metrics", "pipelines", to={"Bad Id": {}})),
    ("state", _changed("state", "runs", to=[SCHEMAS["state"]["examples"][0]["runs"][0]] * 21)),
]

IsValid = Callable[[object], bool]
VALIDATORS: dict[str, IsValid] = {name: jsonschema_rs.Draft202012Validator(SCHEMAS[name]).is_valid for name in FORMATS}


def _ids(documents: list[tuple[str, object]]) -> list[str]:
    return [f"{name}-{index}" for index, (name, _) in enumerate(documents)]


@pytest.mark.parametrize(("name", "document"), GOOD, ids=_ids(GOOD))
def test_accepts(name: str, document: object) -> None:
    assert VALIDATORS[name](document), document
    assert _errors(name, SCHEMAS[name], document) == []


@pytest.mark.parametrize(("name", "document"), BAD, ids=_ids(BAD))
def test_refuses(name: str, document: object) -> None:
    assert not VALIDATORS[name](document), document
