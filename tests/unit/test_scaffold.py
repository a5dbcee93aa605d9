"""What `new` writes, as text: it keeps its format, whatever titles and values it is given."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler import checklist, parse, scaffold
from reconciler.contracts import Contracts
from reconciler.model import Parameter, Pipeline, PipelineId, Rejection, Request, Source, Stage, StageId
from reconciler.scaffold import Task, Wish, document, pipeline, request, scalar, task_files, title_of
from reconciler.yaml_events import Document, load_yaml

CONTRACTS = Contracts()
ONE_LINE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1).filter(lambda text: text.strip())


def read(data: bytes, path: str = "x.yaml") -> Document:
    found = load_yaml(data, path, bytes_max=len(data))
    assert isinstance(found, Document), found
    return found


def pipeline_of(**parameters: Parameter) -> Pipeline:
    stages = (Stage(id=StageId("s"), command="true"),)
    return Pipeline(id=PipelineId("p"), source=Source(path="pipelines/p.yaml"), stages=stages, parameters=parameters)


def wish(**keys: object) -> Wish:
    facts: dict[str, object] = {
        "task": "t", "pipeline": pipeline_of(), "title": "", "parameters": {}, "proves": (), "items": (),
    }  # fmt: skip
    return Wish(**(facts | keys))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        ("0001-demo", "0001-demo"),
        ("Fast login", "Fast login"),
        ("2026-11-24", '"2026-11-24"'),
        ("0001", '"0001"'),
        ("1e5", '"1e5"'),
        ("no", '"no"'),
        ("True", '"True"'),
        ("a: b", '"a: b"'),
        ("a #b", '"a #b"'),
        (True, "true"),
        (3, "3"),
    ],
)
def test_a_value_is_quoted_where_a_reader_could_take_it_for_another(value: object, spelled: str) -> None:
    assert scalar(value) == spelled


@given(ONE_LINE | st.integers(-(2**63), 2**63 - 1) | st.booleans())
def test_a_value_is_read_as_it_was_meant(value: object) -> None:
    assert read(f"a: {scalar(value)}\n".encode()).value == {"a": value}


@pytest.mark.parametrize(
    ("id_", "title"),
    [("0002-fast-login", "Fast login"), ("login", "Login"), ("0002", "0002"), ("12-", "12-"), ("a.b_c", "A b c")],
)
def test_a_title_is_made_of_an_id(id_: str, title: str) -> None:
    assert title_of(id_) == title


# ------------------------------------------------------------------------------------------------ requests


def parsed(data: bytes) -> Request:
    found = parse.parse_request(data, Source(path="runs.d/r.yaml"), CONTRACTS)
    assert isinstance(found, Request), found
    return found


@given(ONE_LINE, ONE_LINE)
def test_a_request_says_what_it_was_given(title: str, value: str) -> None:
    made = request(wish(title=title[:200], parameters={"a": value[:200]}, pipeline=pipeline_of(a=Parameter())))
    assert parsed(made).title == title[:200]
    assert parsed(made).parameters == {"a": value[:200]}


def uncommented(data: bytes) -> bytes:
    """Return a file with every commented key as a key."""
    return re.sub(rb"^( *)# (?=(?:[a-z_]+:|  [a-z]))", rb"\1", data, flags=re.MULTILINE)


def test_what_was_not_given_stands_in_comments_with_its_default() -> None:
    declared = {
        "full": Parameter(default=False, description="Slow tests\ntoo"),
        "python": Parameter(default="3.10"),
        "token": Parameter(),
    }
    made = request(wish(parameters={"token": "x"}, pipeline=pipeline_of(**declared), items=("t/a", "t/b")))
    assert made.decode().splitlines()[1:] == [
        "task: t",
        "pipeline: p",
        "parameters:",
        "  token: x",
        "  # full: false  # Slow tests too",
        '  # python: "3.10"  # the default',
        "# proves: [t/a, t/b]  # what success ticks",
    ]
    assert parsed(uncommented(made)).parameters == {"token": "x", "full": False, "python": "3.10"}
    assert parsed(uncommented(made)).proves == ("t/a", "t/b")


def test_all_parameters_may_stand_in_comments() -> None:
    made = request(wish(pipeline=pipeline_of(python=Parameter(default="3.10"))))
    assert parsed(made).parameters == {}
    assert parsed(uncommented(made)).parameters == {"python": "3.10"}


# ------------------------------------------------------------------------------------------------ pipelines


@given(ONE_LINE)
def test_a_pipeline_is_sound_whatever_its_title(title: str) -> None:
    found = parse.parse_pipeline(pipeline("p", title[:200]), Source(path="pipelines/p.yaml"), CONTRACTS)
    assert isinstance(found, Pipeline), found
    assert found.title == title[:200]


def test_what_a_pipeline_says_in_comments_could_be_said() -> None:
    data = uncommented(pipeline("p", "P"))
    found = parse.parse_pipeline(data, Source(path="pipelines/p.yaml"), CONTRACTS)
    assert not isinstance(found, Rejection), found
    assert found.parameters["python"].default == "3.12"
    assert found.stages[1].attempts_max == 2
    assert found.stages[1].env == {"CI": "true"}


# ------------------------------------------------------------------------------------------------ tasks, documents


def test_a_task_and_its_mirrors_hold_the_same_items() -> None:
    task = Task(id="0002-x", title="X", items={"a": "All `good`", "b": "B"}, mirrors=("docs/x.md",))
    files = task_files(task)
    assert list(files) == ["tasks/0002-x.md", "docs/x.md"]
    for path, data in files.items():
        assert checklist.problems(data, path) == ()
        assert [(each.id, each.text, each.ticked) for each in checklist.items(data)] == [
            ("0002-x/a", "All `good`", False),
            ("0002-x/b", "B", False),
        ]
    assert CONTRACTS.check("task-index", {"items": [task.entry]}) == ()


@pytest.mark.parametrize("kind", scaffold.FOLDERS)
@given(ONE_LINE)
def test_front_matter_says_what_and_when(kind: str, title: str) -> None:
    data = document(kind, "0001", title, "2026-11-24")
    _, front, body = data.split(b"---\n", 2)
    # A date is text to YAML 1.2, in quotes or not.
    assert read(front).value == {"id": "0001", "title": title, "status": "draft", "last_review": "2026-11-24"}
    assert body.startswith(f"\n# {title}\n".encode())
