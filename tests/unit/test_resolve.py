"""Request and pipeline to plan: which edit makes another run, which another stage, and what is refused why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler import codec
from reconciler.agent import Agent, Budget, Demand
from reconciler.model import (
    AgentSettings,
    ApprovalPolicy,
    Concurrency,
    EvidenceSettings,
    Execution,
    ExecutionMode,
    Heartbeat,
    Instructions,
    Name,
    Parameter,
    Pipeline,
    PipelineId,
    Plan,
    Problem,
    Redact,
    Rejection,
    Request,
    Role,
    Settings,
    Source,
    Stage,
    StageId,
    Suspend,
    TaskId,
    Workspace,
)
from reconciler.resolve import Place, instructions_of, resolve, run_id

PLACE = Place(commit="c" * 40, branch="main")


def request(**changed: Any) -> Request:
    source = Source(path="runs.d/0001-a.yaml", blob="b" * 40)
    plain = Request(name=Name("0001-a"), source=source, task=TaskId("t"), pipeline=PipelineId("p"))
    return replace(plain, **changed)


def stage(id: str, **keys: Any) -> Stage:
    return Stage(id=StageId(id), **({"command": f"make {id}"} | keys))


def pipeline(*stages: Stage, **keys: Any) -> Pipeline:
    source = Source(path="pipelines/p.yaml", blob="a" * 40)
    return Pipeline(id=PipelineId("p"), source=source, stages=stages or (stage("build"), stage("test")), **keys)


def planned(wanted: Request, meant: Pipeline, settings: Settings = Settings()) -> Plan:
    plan = resolve(wanted, {meant.id: meant}, settings, PLACE)
    assert isinstance(plan, Plan), plan
    return plan


def refused(wanted: Request, *pipelines: Pipeline) -> list[str]:
    rejection = resolve(wanted, {each.id: each for each in pipelines}, Settings(), PLACE)
    assert isinstance(rejection, Rejection), rejection
    assert (rejection.path, rejection.name) == (wanted.source.path, wanted.name)
    return [each.sentence() for each in rejection.problems]


# ------------------------------------------------------------------------------------------------ run ids


def test_a_run_id_is_the_same_in_every_version() -> None:
    assert run_id(request()) == "0001-a-bdefd8c0"
    full = request(
        parameters={"python": "3.12", "deep": True, "count": 3},
        target=StageId("test"),
        execution=Execution(mode=ExecutionMode.MCP),
        rerun=2,
    )
    assert run_id(full) == "0001-a-e773d7fc"


@pytest.mark.parametrize(
    "changed",
    [
        {"source": Source(path="runs.d/0001-a.yaml", blob="0" * 40)},
        {"source": Source(path="runs.d/elsewhere.yaml")},
        {"title": "Another title"},
        {"priority": 7},
        {"labels": ("nightly",)},
        {"capabilities": ("gpu",)},
        {"proves": ("t/green",)},
        {"suspend": Suspend(reason="later")},
        {"cancel": "not needed"},
        {"attempts_max": 9},
        {"timeout_s": 60.0},
        {"approval_policy": ApprovalPolicy.NEVER},
        {"after": (Name("0000"),)},
        {"concurrency": Concurrency(group="g")},
        {"execution": Execution(parallel=True)},
    ],
    ids=str,
)
def test_this_does_not_make_another_run(changed: dict[str, Any]) -> None:
    assert run_id(request(**changed)) == run_id(request())


@pytest.mark.parametrize(
    "changed",
    [
        {"name": Name("0001-b")},
        {"task": TaskId("u")},
        {"pipeline": PipelineId("q")},
        {"parameters": {"a": "1"}},
        {"parameters": {"a": 1}},
        {"parameters": {"a": 1.0}},
        {"parameters": {"a": True}},
        {"parameters": {"a": ""}},
        {"target": StageId("build")},
        {"execution": Execution(mode=ExecutionMode.CLOUD)},
        {"rerun": 1},
    ],
    ids=str,
)
def test_this_makes_another_run(changed: dict[str, Any]) -> None:
    assert run_id(request(**changed)) != run_id(request())


def test_every_way_to_change_what_is_executed_makes_a_run_of_its_own() -> None:
    values: list[dict[str, Any]] = [{"a": "1"}, {"a": 1}, {"a": 1.0}, {"a": True}, {"a": "true"}, {"b": "1"}, {}]
    assert len({run_id(request(parameters=each)) for each in values}) == len(values)


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.integers() | st.text() | st.booleans()))
def test_a_run_id_is_the_name_and_eight_hex_digits_in_whatever_order_parameters_stand(
    parameters: dict[str, Any],
) -> None:
    found = run_id(request(parameters=parameters))
    assert run_id(request(parameters=dict(reversed(parameters.items())))) == found
    name, _, digits = found.rpartition("-")
    assert name == "0001-a" and len(digits) == 8 and int(digits, 16) >= 0


# ------------------------------------------------------------------------------------------------ digests


def digests(meant: Pipeline, settings: Settings = Settings(), **parameters: Any) -> dict[str, str]:
    plan = planned(request(parameters=parameters), meant, settings)
    return {each.id: each.digest for each in plan.stages}


THREE = pipeline(stage("build"), stage("lint", needs=()), stage("test", needs=(StageId("build"),)))


def changed(which: str, **keys: Any) -> set[str]:
    """Return which stages of THREE have another digest after an edit of one of them."""
    edited = tuple(replace(each, **keys) if each.id == which else each for each in THREE.stages)
    before, after = digests(THREE), digests(replace(THREE, stages=edited))
    return {each for each in before if before[each] != after[each]}


def test_a_digest_is_the_same_in_every_version() -> None:
    assert digests(THREE)["test"] == "5fb7afb81f21c1ff8341142cf105f738eeb7f485cdfdf47d8bd4de92514abcf0"


@pytest.mark.parametrize(
    "keys",
    [
        {"title": "Another title"},
        {"timeout_s": 60.0},
        {"attempts_max": 5},
        {"backoff_s": 9.0},
        {"allow_failure": True},
        {"summary_hint": "the last line"},
        {"role": Role.TEST},
        {"capabilities": ("gpu",)},
    ],
    ids=str,
)
def test_limits_and_titles_do_not_change_a_digest(keys: dict[str, Any]) -> None:
    assert changed("build", **keys) == set()


@pytest.mark.parametrize(
    "keys",
    [
        {"command": "make all"},
        {"command": ("make", "build")},
        {"cwd": "sub"},
        {"env": {"CI": "1"}},
    ],
    ids=str,
)
def test_what_is_executed_changes_its_digest_and_those_of_what_needs_it(keys: dict[str, Any]) -> None:
    assert changed("build", **keys) == {"build", "test"}
    assert changed("lint", **keys) == {"lint"}
    assert changed("test", **keys) == {"test"}


def test_what_a_stage_needs_is_part_of_its_digest() -> None:
    assert changed("lint", needs=(StageId("build"),)) == {"lint"}
    assert changed("test", needs=()) == {"test"}
    assert changed("test", needs=(StageId("build"), StageId("lint"))) == {"test"}


def test_a_shell_command_is_the_argv_that_is_executed() -> None:
    assert changed("build", command=("sh", "-c", "make build")) == set()


def test_a_renamed_stage_is_another_stage() -> None:
    renamed = replace(THREE, stages=(stage("compile", command="make build"), *THREE.stages[1:2]))
    assert digests(renamed)["compile"] != digests(THREE)["build"]


def test_a_stage_that_moves_is_the_same_stage() -> None:
    build, lint, test = THREE.stages
    assert digests(replace(THREE, stages=(lint, replace(build, needs=()), test))) == digests(THREE)


@pytest.mark.parametrize("workspace", [Workspace.CHECKOUT, Workspace.EMPTY])
def test_the_workspace_is_part_of_every_digest(workspace: Workspace) -> None:
    before = digests(THREE)
    said, by_default = (
        digests(replace(THREE, workspace=workspace)),
        digests(THREE, Settings(workspace=workspace)),
    )
    assert said == by_default
    assert not set(said.values()) & set(before.values())


def test_parameters_are_part_of_every_digest_whether_given_or_by_default() -> None:
    meant = replace(THREE, parameters={"python": Parameter(default="3.12")})
    assert digests(meant) == digests(meant, python="3.12")
    assert not set(digests(meant, python="3.13").values()) & set(digests(meant).values())


def test_what_a_plan_executes_has_one_digest() -> None:
    meant = replace(THREE, parameters={"python": Parameter(default="3.12")})
    plain = planned(request(), meant)
    assert planned(request(title="x", labels=("y",), attempts_max=9), meant).digest == plain.digest
    assert planned(request(target=StageId("lint")), meant).digest != plain.digest
    assert planned(request(parameters={"python": "3.13"}), meant).digest != plain.digest
    assert planned(request(), replace(meant, workspace=Workspace.EMPTY)).digest != plain.digest


# ------------------------------------------------------------------------------------------------ stages


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("make build", ("sh", "-c", "make build")),
        ("a\nb", ("sh", "-c", "a\nb")),
        (("ruff", "check", ""), ("ruff", "check", "")),
    ],
)
def test_text_goes_to_a_shell_and_a_list_does_not(command: object, argv: tuple[str, ...]) -> None:
    assert planned(request(), pipeline(stage("a", command=command))).stages[0].argv == argv


def test_a_stage_that_does_not_say_needs_the_one_before_it() -> None:
    plan = planned(request(), pipeline(stage("a"), stage("b", needs=()), stage("c"), stage("d", needs=("a", "c"))))
    assert [(each.id, each.needs, each.index) for each in plan.stages] == [
        ("a", (), 0),
        ("b", (), 1),
        ("c", ("b",), 2),
        ("d", ("a", "c"), 3),
    ]


DIAMOND = pipeline(
    stage("a"), stage("left", needs=("a",)), stage("right", needs=("a",)), stage("end", needs=("left", "right"))
)


@pytest.mark.parametrize(
    ("target", "selected"),
    [
        (None, ["a", "left", "right", "end"]),
        ("end", ["a", "left", "right", "end"]),
        ("left", ["a", "left"]),
        ("a", ["a"]),
    ],
)
def test_a_target_selects_itself_and_what_it_needs(target: str | None, selected: list[str]) -> None:
    plan = planned(request(target=target), DIAMOND)
    assert [each.id for each in plan.stages if each.selected] == selected
    assert [each.id for each in plan.stages] == ["a", "left", "right", "end"]
    assert [each.digest for each in plan.stages] == [each.digest for each in planned(request(), DIAMOND).stages]


def test_a_stage_may_need_one_that_stands_behind_it() -> None:
    plan = planned(request(target="first"), pipeline(stage("first", needs=("second",)), stage("second", needs=())))
    assert [each.selected for each in plan.stages] == [True, True]


def test_two_hundred_stages_in_a_row_are_resolved() -> None:
    plan = planned(request(), pipeline(*(stage(f"s{number}") for number in range(200))))
    assert len({each.digest for each in plan.stages}) == 200


# ------------------------------------------------------------------------------------------------ defaults


def test_a_plan_says_all_that_nobody_said() -> None:
    plan = planned(request(), pipeline(stage("build")))
    assert (plan.run_id, plan.name, plan.task_id, plan.pipeline_id) == (run_id(request()), "0001-a", "t", "p")
    assert (plan.request, plan.pipeline) == (request().source, pipeline().source)
    assert (plan.commit, plan.branch, plan.instructions) == (PLACE.commit, PLACE.branch, Instructions())
    assert (plan.title, plan.stages[0].title) == ("p", "build")
    assert (plan.attempts_max, plan.timeout_s, plan.stages_max, plan.grace_s) == (3, None, 4, 10.0)
    assert (plan.workspace, plan.approval_policy) == (Workspace.WORKTREE, ApprovalPolicy.ON_REQUEST)
    assert plan.resume_token_sha256 == ""


@pytest.mark.parametrize(
    ("asked", "meant", "settings", "key", "value"),
    [
        ({}, {}, {"attempts_max": 7}, "attempts_max", 7),
        ({"attempts_max": 1}, {}, {"attempts_max": 7}, "attempts_max", 1),
        ({}, {}, {"approval_policy": ApprovalPolicy.AUTO}, "approval_policy", ApprovalPolicy.AUTO),
        (
            {"approval_policy": ApprovalPolicy.NEVER},
            {},
            {"approval_policy": ApprovalPolicy.AUTO},
            "approval_policy",
            ApprovalPolicy.NEVER,
        ),
        ({}, {"workspace": Workspace.EMPTY}, {"workspace": Workspace.CHECKOUT}, "workspace", Workspace.EMPTY),
        ({}, {}, {"workspace": Workspace.CHECKOUT}, "workspace", Workspace.CHECKOUT),
        ({}, {"title": "Of the pipeline"}, {}, "title", "Of the pipeline"),
        ({"title": "Of the request"}, {"title": "Of the pipeline"}, {}, "title", "Of the request"),
        ({"timeout_s": 60.0}, {}, {}, "timeout_s", 60.0),
        ({}, {}, {"keep_workspace": "failed"}, "keep_workspace", "failed"),
        ({}, {}, {"stages_max": 9}, "stages_max", 9),
        ({}, {}, {"grace_s": 1.0}, "grace_s", 1.0),
        ({}, {}, {"heartbeat": Heartbeat(interval_s=1.0)}, "heartbeat", Heartbeat(interval_s=1.0)),
        ({}, {}, {"evidence": EvidenceSettings(log_bytes_max=1024)}, "log_bytes_max", 1024),
        ({}, {}, {"redact": Redact(patterns=("x",))}, "redact", Redact(patterns=("x",))),
        ({"proves": ("t/a",)}, {}, {}, "proves", ("t/a",)),
        ({"labels": ("x",)}, {}, {}, "labels", ("x",)),
        ({"rerun": 3}, {}, {}, "rerun", 3),
        ({"execution": Execution(mode=ExecutionMode.MCP)}, {}, {}, "execution_mode", ExecutionMode.MCP),
        ({}, {}, {}, "execution_mode", ExecutionMode.MCP),
        ({"execution": Execution(mode=ExecutionMode.CLOUD)}, {}, {}, "execution_mode", ExecutionMode.CLOUD),
        ({"execution": Execution(parallel=True)}, {}, {}, "execution_mode", ExecutionMode.CLOUD),
    ],
)
def test_what_is_said_closest_to_the_run_counts(
    asked: dict[str, Any], meant: dict[str, Any], settings: dict[str, Any], key: str, value: object
) -> None:
    assert getattr(planned(request(**asked), pipeline(**meant), Settings(**settings)), key) == value


# ------------------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, {"python": "3.12"}),
        ({"python": "3.13"}, {"python": "3.13"}),
        ({"python": ""}, {"python": ""}),
        ({"python": False}, {"python": False}),
        ({"python": 0}, {"python": 0}),
    ],
)
def test_a_parameter_is_what_was_given_else_its_default(given: dict[str, Any], found: dict[str, Any]) -> None:
    meant = pipeline(parameters={"python": Parameter(default="3.12")})
    assert planned(request(parameters=given), meant).parameters == found


@pytest.mark.parametrize(
    ("value", "pattern", "fits"),
    [
        ("3.12", r"3\.\d+", True),
        ("3.12\n", r"3\.\d+", False),
        ("x3.12", r"3\.\d+", False),
        (312, r"\d+", True),
        (True, "true", True),
        (True, "True", False),
        (False, "false|true", True),
        ("", "", True),
        ("anything", None, True),
    ],
)
def test_a_value_matches_its_pattern_as_a_whole(value: Any, pattern: str | None, fits: bool) -> None:
    meant = pipeline(parameters={"a": Parameter(default="d", pattern=pattern)})
    found = resolve(request(parameters={"a": value}), {meant.id: meant}, Settings(), PLACE)
    assert isinstance(found, Plan) == fits


# ------------------------------------------------------------------------------------------------ refusals

ASKED = "runs.d/0001-a.yaml"


@pytest.mark.parametrize(
    ("wanted", "meant", "sentences"),
    [
        (
            {"pipeline": PipelineId("diagnostic")},
            ["diagnostics", "p"],
            [f"{ASKED}: there is no pipeline 'diagnostic'; did you mean 'diagnostics'?"],
        ),
        (
            {"pipeline": PipelineId("zzz")},
            ["b", "a"],
            [f"{ASKED}: there is no pipeline 'zzz'; known pipelines: a, b"],
        ),
        ({"pipeline": PipelineId("zzz")}, [], [f"{ASKED}: there is no pipeline 'zzz'; known pipelines: none"]),
        ({"target": StageId("biuld")}, ["p"], [f"{ASKED}: pipeline 'p' has no stage 'biuld'; did you mean 'build'?"]),
        ({"target": StageId("zzz")}, ["p"], [f"{ASKED}: pipeline 'p' has no stage 'zzz'; its stages: build, test"]),
        (
            {"parameters": {"pyhton": "3.12"}},
            ["p"],
            [
                f"{ASKED}: pipeline 'p' has no parameter 'pyhton'; did you mean 'python'?",
                f"{ASKED}: parameter 'python' of pipeline 'p' has no default and no value;"
                " add 'parameters: {python: ...}'",
            ],
        ),
        (
            {"parameters": {"python": "2.7", "zzz": 1}, "target": StageId("zzz")},
            ["p"],
            [
                f"{ASKED}: parameter 'python' is '2.7', which does not match the pattern 3\\.\\d+; see pipelines/p.yaml",
                f"{ASKED}: pipeline 'p' has no parameter 'zzz'; its parameters: python",
                f"{ASKED}: pipeline 'p' has no stage 'zzz'; its stages: build, test",
            ],
        ),
    ],
)
def test_a_request_that_does_not_fit_is_told_every_reason(
    wanted: dict[str, Any], meant: list[str], sentences: list[str]
) -> None:
    has = {"parameters": {"python": Parameter(pattern=r"3\.\d+")}}
    known = [replace(pipeline(**(has if "parameters" in wanted else {})), id=PipelineId(each)) for each in meant]
    assert refused(request(**wanted), *known) == sentences


@pytest.mark.parametrize(("length", "fits"), [(256, True), (257, False)])
def test_a_value_is_matched_only_if_that_cannot_take_long(length: int, fits: bool) -> None:
    has = pipeline(parameters={"a": Parameter(default="", pattern="x*"), "b": Parameter(default="")})
    wanted = request(parameters={"a": "x" * length, "b": "y" * 8192})
    if fits:
        assert planned(wanted, has).parameters["a"] == "x" * length
    else:
        assert refused(wanted, has) == [
            f"{ASKED}: parameter 'a' has 257 characters, too many to be matched with a pattern; at most 256 are"
        ]


def test_of_very_many_pipelines_only_some_are_named() -> None:
    known = [replace(pipeline(), id=PipelineId(f"p{number:03d}")) for number in range(100)]
    [sentence] = refused(request(pipeline=PipelineId("zzz")), *known)
    assert len(sentence) < 200


def test_a_broken_pipeline_is_told_with_its_own_problem() -> None:
    broken = Rejection(
        path="pipelines/p.yaml",
        problems=(
            Problem(path="pipelines/p.yaml", line=3, column=1, reason="unknown key 'stage'", rule="unknown-key"),
        ),
    )
    found = resolve(request(), {PipelineId("p"): broken}, Settings(), PLACE)
    assert isinstance(found, Rejection)
    assert [(each.path, each.pointer, each.rule, each.reason) for each in found.problems] == [
        (
            ASKED,
            "/pipeline",
            "broken-pipeline",
            "pipeline 'p' cannot be used: pipelines/p.yaml:3:1: unknown key 'stage'",
        )
    ]


@pytest.mark.parametrize(
    ("wanted", "pointers"),
    [
        ({"pipeline": PipelineId("zzz")}, ["/pipeline"]),
        ({"target": StageId("zzz")}, ["/target"]),
        ({"parameters": {"zzz": 1}}, ["/parameters/zzz"]),
    ],
)
def test_a_problem_points_at_the_key_that_is_meant(wanted: dict[str, Any], pointers: list[str]) -> None:
    meant = pipeline()
    found = resolve(request(**wanted), {meant.id: meant}, Settings(), PLACE)
    assert isinstance(found, Rejection)
    assert [each.pointer for each in found.problems] == pointers


# ------------------------------------------------------------------------------------------------ agents


def by_agent(settings: Settings = Settings(), **keys: Any) -> Plan:
    return planned(
        request(), pipeline(stage("a", command=None, agent={"use": "codex", "prompt": "x"} | keys)), settings
    )


def agent_of(plan: Plan) -> Agent:
    return codec.load(Agent, dict(plan.stages[0].agent or {}))


def test_an_agent_that_needs_no_settings() -> None:
    assert agent_of(by_agent()) == Agent(use="codex", driver="codex", command=("codex",), prompt="x")
    assert agent_of(by_agent(use="claude")).command == ("claude",)


def test_the_plan_holds_what_stage_and_settings_say_of_an_agent() -> None:
    ours = AgentSettings(driver="codex", env={"A": "1", "B": "1"}, model="small", config={"x": {"y": 1}})
    known = Settings(agents={"ours": ours, "codex": AgentSettings(driver="claude", command=("c",))})
    keys = {"use": "ours", "env": {"B": "2"}, "budget": {"tokens": 5}, "demand": {"files": ["a"]}, "stall_after_s": 9.0}
    agent = agent_of(by_agent(known, **keys))
    assert (agent.driver, agent.command, agent.model) == ("codex", ("codex",), "small")
    assert (agent.env, agent.config) == ({"A": "1", "B": "2"}, {"x": {"y": 1}})
    assert (agent.budget, agent.demand, agent.stall_after_s) == (Budget(tokens=5), Demand(files=("a",)), 9.0)
    assert agent_of(by_agent(known, use="ours", model="large")).model == "large"
    assert agent_of(by_agent(known)).driver == "claude", "a name in the settings replaces what is there without"
    own = {"use": "command", "command": ["./agent", "x"]}
    assert agent_of(by_agent(**own)).command == ("./agent", "x")


def test_a_bound_of_an_agent_makes_no_other_stage_and_all_else_does() -> None:
    digest = by_agent().stages[0].digest
    for bound in ({"budget": {"minutes": 5}}, {"stall_after_s": 1.0}, {"resume": False}):
        assert by_agent(**bound).stages[0].digest == digest
    for other in ({"prompt": "y"}, {"model": "m"}, {"sandbox": "full"}, {"demand": {"diff": True}}):
        assert by_agent(**other).stages[0].digest != digest
    other_settings = Settings(agents={"codex": AgentSettings(driver="codex", model="m")})
    assert by_agent(other_settings).stages[0].digest != digest


def test_an_agent_that_nobody_knows() -> None:
    known = pipeline(stage("a", command=None, agent={"use": "codx", "prompt": "x"}))
    assert refused(request(), known) == [
        f"{ASKED}: stage 'a' of pipeline 'p' uses agent 'codx', which is not known; did you mean 'codex'?"
    ]
    far = pipeline(stage("a", command=None, agent={"use": "gemini", "prompt": "x"}))
    assert refused(request(), far) == [
        f"{ASKED}: stage 'a' of pipeline 'p' uses agent 'gemini', which is not known; "
        "name it in reconciler.yaml below 'agents', or use: claude, codex, command"
    ]


# ------------------------------------------------------------------------------------------------ instructions


def test_instructions_that_say_nothing_are_none() -> None:
    assert instructions_of([]) == instructions_of([("AGENTS.md", b" \n\t")]) == Instructions()


def test_instructions_are_named_in_their_order_and_hashed_over_paths_and_bytes() -> None:
    files = [("AGENTS.md", b"a"), ("docs/AGENTS.md", b""), (".agent/AGENTS.md", b"b")]
    found = instructions_of(files)
    assert found.sources == ("AGENTS.md", ".agent/AGENTS.md")
    others = [
        [("AGENTS.md", b"ab"), (".agent/AGENTS.md", b"")],
        [("AGENTS.md", b"a"), ("docs/AGENTS.md", b"b")],
        [(".agent/AGENTS.md", b"b"), ("AGENTS.md", b"a")],
        [("AGENTS.md", b"a")],
    ]
    assert len({found.hash, *(instructions_of(each).hash for each in others)}) == 5


# ------------------------------------------------------------------------------------------------ capabilities


@pytest.mark.parametrize(
    ("target", "needed"), [(None, ("docker", "gpu", "net", "tpu")), ("build", ("docker", "gpu", "net"))]
)
def test_a_run_needs_what_its_request_and_the_stages_need_that_are_selected(
    target: str | None, needed: tuple[str, ...]
) -> None:
    stages = (
        stage("build", capabilities=("docker", "gpu")),
        stage("train", capabilities=("tpu",)),
        stage("tidy", finally_=True, capabilities=("net",)),
    )
    wish = request(capabilities=("gpu",), target=StageId(target) if target else None)
    found = planned(wish, pipeline(*stages))
    assert found.capabilities == needed
    assert found.digest == planned(request(target=wish.target), pipeline(*stages)).digest
