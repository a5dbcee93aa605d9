"""What is summed up over the runs of a task: exact after every commit, bounded for ever, readable whatever runs say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from reconciler.aggregate import PIPELINES_MAX, RUNS_SHOWN_MAX, duration, metrics, page, state

AT = "2026-03-01T12:00:00.000Z"


def minute(number: int) -> str:
    return f"2026-03-01T{number // 60:02d}:{number % 60:02d}:00.000Z"


def run(number: int, status: str = "succeeded", **keys: Any) -> dict[str, Any]:
    """Return as much of a manifest as is summed up, of a run that ended in minute `number`."""
    run_id = f"a{number}-1a2b3c4d"
    return {
        "run_id": run_id,
        "name": f"a{number}",
        "pipeline_id": "p",
        "status": status,
        "started_at": minute(number),
        "completed_at": minute(number),
        "commands": [{"status": "succeeded", "tries": 1}, {"status": "skipped", "tries": 0}],
        "attempts": [{}],
        "resources": {"duration_s": 2.0},
        "privacy": {"redactions": 1},
        "summary": "1 of 2 stages succeeded",
        "artifact_root": f".runs/t/cli/{run_id}",
        "commit": "c" * 40,
    } | keys


def failed(number: int, **keys: Any) -> dict[str, Any]:
    return run(number, "failed", commands=[{"status": "failed", "tries": 2}] * 2, **keys)


def summed(*added: dict[str, Any], previous: Any = None, replaced: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return metrics(previous, "t", added, replaced, AT)


# ------------------------------------------------------------------------------------------------ metrics


def test_the_first_run_is_all_there_is() -> None:
    assert summed(run(1)) == {
        "schema_version": 1,
        "task_id": "t",
        "updated_at": AT,
        "runs": {"total": 1, "succeeded": 1, "failed": 0, "cancelled": 0},
        "attempts_total": 1,
        "stages": {"total": 1, "failed": 0},
        "redactions_total": 1,
        "duration_s": {"total": 2.0, "mean": 2.0, "max": 2.0},
        "pipelines": {
            "p": {
                "total": 1,
                "succeeded": 1,
                "failed": 0,
                "cancelled": 0,
                "duration_s_total": 2.0,
                "last_run_id": "a1-1a2b3c4d",
                "last_status": "succeeded",
                "last_completed_at": minute(1),
            }
        },
        "last_run_id": "a1-1a2b3c4d",
        "last_status": "succeeded",
        "success_rate": 1.0,
    }


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ([run(1), failed(2)], {"runs": {"total": 2, "succeeded": 1, "failed": 1, "cancelled": 0}, "success_rate": 0.5}),
        ([run(1), failed(2)], {"stages": {"total": 3, "failed": 2}, "last_status": "failed", "attempts_total": 2}),
        ([failed(2), run(1)], {"last_run_id": "a2-1a2b3c4d", "last_status": "failed"}),
        ([run(1), run(2), run(3, "cancelled")], {"success_rate": 0.6667}),
        (
            [run(1, resources={"duration_s": 0.5}), run(2, resources={"duration_s": 3.0})],
            {"duration_s": {"total": 3.5, "mean": 1.75, "max": 3.0}},
        ),
        ([run(1, privacy={"redactions": 4}), run(2)], {"redactions_total": 5}),
    ],
)
def test_runs_add_up(added: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    found = summed(*added)
    assert {key: found[key] for key in expected} == expected


RUNS = st.lists(
    st.builds(
        run,
        st.integers(0, 1000),
        st.sampled_from(["succeeded", "failed", "cancelled"]),
        pipeline_id=st.sampled_from(["p", "q"]),
        resources=st.fixed_dictionaries({"duration_s": st.sampled_from([0.0, 0.25, 1.5, 60.0])}),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda each: each["run_id"],
)


@settings(deadline=None)
@given(RUNS, st.integers(0, 8))
def test_it_does_not_matter_how_runs_are_spread_over_commits(runs: list[dict[str, Any]], cut: int) -> None:
    together = summed(*runs)
    first, second = runs[:cut], runs[cut:]
    apart = summed(*first) if first else None
    apart = summed(*second, previous=apart) if second else apart
    assert apart == together


@settings(deadline=None)
@given(RUNS)
def test_what_is_written_can_be_read_and_added_to(runs: list[dict[str, Any]]) -> None:
    read = json.loads(json.dumps(summed(*runs)))
    assert summed(run(1001), previous=read) == summed(*runs, run(1001))


def test_a_resumed_run_takes_the_place_of_what_it_was() -> None:
    before = failed(1, resources={"duration_s": 5.0})
    after = run(2, run_id=before["run_id"], attempts=[{}, {}], resources={"duration_s": 7.0})
    found = summed(after, previous=summed(before, run(0)), replaced=(before,))
    expected = summed(run(0), after)
    assert found == expected
    assert (found["runs"]["total"], found["attempts_total"], found["duration_s"]["total"]) == (2, 3, 9.0)


def test_a_run_that_is_replaced_and_was_never_counted_leaves_no_sum_below_zero() -> None:
    found = summed(run(2), replaced=(failed(1),))
    assert found["runs"] == {"total": 1, "succeeded": 1, "failed": 0, "cancelled": 0}
    assert found["stages"] == {"total": 1, "failed": 0}
    assert found["pipelines"]["p"]["total"] == 1


def test_only_the_pipelines_that_ended_last_are_kept() -> None:
    many = [run(number, pipeline_id=f"p{number:03d}") for number in range(PIPELINES_MAX + 30)]
    found = summed(*many)
    assert list(found["pipelines"]) == [f"p{number:03d}" for number in range(30, PIPELINES_MAX + 30)]
    assert found["runs"]["total"] == PIPELINES_MAX + 30
    again = summed(run(500, pipeline_id="p000"), previous=found)
    assert len(again["pipelines"]) == PIPELINES_MAX
    assert "p000" in again["pipelines"] and "p030" not in again["pipelines"]


def test_the_last_run_is_the_one_that_ended_last_in_whatever_order_they_are_published() -> None:
    found = summed(failed(1), previous=summed(run(2)))
    shown = state(state(None, summed(run(2)), [run(2)], AT), found, [failed(1)], AT)
    assert (found["last_run_id"], found["last_status"]) == ("a2-1a2b3c4d", "succeeded")
    assert (shown["last_run_id"], shown["status"]) == (found["last_run_id"], found["last_status"])


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {"runs": {}},
        {"runs": 3},
        {"runs": None},
        {"runs": {"total": "1", "succeeded": 0, "failed": 0, "cancelled": 0}},
        {"pipelines": []},
        {"pipelines": {"p": 1}},
        {"pipelines": {"p": {}, "q": {}}},
        {"duration_s": {"total": None}},
        {"stages": {}},
        {"attempts_total": "many"},
    ],
    ids=str,
)
def test_damaged_metrics_at_the_tip_count_as_none(damaged: dict[str, Any]) -> None:
    assert summed(run(1), previous=damaged) == summed(run(1))


def test_a_key_that_is_none_of_ours_is_not_carried_on() -> None:
    assert summed(run(1), previous=summed(run(0)) | {"surprise": 1}) == summed(run(0), run(1))


# ------------------------------------------------------------------------------------------------ state


def shown(*added: dict[str, Any], previous: Any = None) -> dict[str, Any]:
    return state(previous, summed(*added), added, AT)


def test_a_row_of_a_run() -> None:
    [row] = shown(run(1))["runs"]
    assert row == {
        "run_id": "a1-1a2b3c4d",
        "name": "a1",
        "pipeline_id": "p",
        "status": "succeeded",
        "started_at": minute(1),
        "completed_at": minute(1),
        "duration_s": 2.0,
        "attempts": 1,
        "summary": "1 of 2 stages succeeded",
        "manifest_path": ".runs/t/cli/a1-1a2b3c4d/manifest.json",
        "commit": "c" * 40,
    }


def test_the_newest_run_stands_first_and_says_where_the_task_stands() -> None:
    found = shown(failed(2), previous=shown(run(3), run(1)))
    assert [row["name"] for row in found["runs"]] == ["a3", "a2", "a1"]
    assert (found["status"], found["last_run_id"]) == ("succeeded", "a3-1a2b3c4d")


def test_a_resumed_run_has_one_row() -> None:
    before = failed(1)
    after = run(5, run_id=before["run_id"], name="a1")
    found = shown(after, previous=shown(before, run(2)))
    assert [(row["name"], row["status"]) for row in found["runs"]] == [("a1", "succeeded"), ("a2", "succeeded")]


def test_no_more_rows_are_kept_than_people_read() -> None:
    found = None
    for start in range(0, 60, 3):
        found = shown(*(run(number) for number in range(start, start + 3)), previous=found)
        assert len(found["runs"]) <= RUNS_SHOWN_MAX
    assert found is not None
    assert [row["name"] for row in found["runs"]] == [f"a{number}" for number in range(59, 39, -1)]


@pytest.mark.parametrize("damaged", [{}, {"runs": 1}, {"runs": [1]}, {"runs": [{}]}, {"runs": {"a": 1}}], ids=str)
def test_a_damaged_state_at_the_tip_counts_as_none(damaged: dict[str, Any]) -> None:
    assert shown(run(1), previous=damaged) == shown(run(1))


# ------------------------------------------------------------------------------------------------ the page


def test_the_page() -> None:
    found = shown(run(1), failed(2, resources={"duration_s": 185.0}, summary="0 of 2 stages succeeded; 'lint' failed"))
    assert (
        page(found)
        == """\
# t

2 runs so far: 1 succeeded, 1 failed. Last: ❌ failed at 2026-03-01 00:02:00.

| run | pipeline | status | ended (UTC) | took | commit | result |
| --- | --- | --- | --- | ---: | --- | --- |
| [a2-1a2b3c4d](../../.runs/t/cli/a2-1a2b3c4d/manifest.json) | p | ❌ failed | 2026-03-01 00:02:00 | 3 min 05 s \
| `cccccccccc` | 0 of 2 stages succeeded; 'lint' failed |
| [a1-1a2b3c4d](../../.runs/t/cli/a1-1a2b3c4d/manifest.json) | p | ✅ succeeded | 2026-03-01 00:01:00 | 2.0 s \
| `cccccccccc` | 1 of 2 stages succeeded |

Written by the reconciler from the manifests in this commit; edits are overwritten.
"""
    )


@pytest.mark.parametrize(("runs", "words"), [(1, "1 run so far: 1 succeeded."), (2, "2 runs so far: 2 succeeded.")])
def test_the_page_counts_as_people_do(runs: int, words: str) -> None:
    assert words in page(shown(*(run(number) for number in range(runs))))


def test_the_page_says_what_it_leaves_out() -> None:
    text = page(shown(*(run(number) for number in range(30))))
    assert "The newest 20 of 30 are shown; `git log` has them all." in text
    assert text.count("manifest.json") == 20


def cells(text: str) -> list[list[tuple[str, str]]]:
    """Return the last cell of every row of the page as (kind of markup, text), as a reader of Markdown sees it."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    rows = [index for index, token in enumerate(tokens) if token.type == "tr_close"][1:]
    return [[(each.type, each.content) for each in tokens[index - 2].children or ()] for index in rows]


@pytest.mark.parametrize(
    "summary",
    [
        "a | b | c",
        "a \\| b",
        "ends with \\",
        "first\nsecond\r\nthird",
        "| --- |\n\n# Title",
        "<script>alert(1)</script>",
        "<!-- hidden",
        "[click](https://example.invalid)",
        "![](https://example.invalid/x.png)",
        "`code` and ``more",
        "*a* **b** _c_ __d__",
        "~~gone~~",
        "&lt;b&gt; &copy; &#64;",
        "\\*not escaped\\*",
        "",
    ],
)
def test_what_a_run_says_is_shown_and_never_becomes_markup(summary: str) -> None:
    [said] = cells(page(shown(run(1, summary=summary))))
    assert {kind for kind, _ in said} <= {"text"}
    assert "".join(content for _, content in said) == " ".join(summary.split())


@settings(deadline=None)
@given(st.lists(st.text(alphabet=st.sampled_from("ab \\|`<>[]()*_~&!#-:\n;\"'"), max_size=30), min_size=2, max_size=2))
def test_nothing_that_runs_say_breaks_the_table(summaries: list[str]) -> None:
    newest, oldest = (run(2 - index, summary=each) for index, each in enumerate(summaries))
    said = cells(page(shown(newest, oldest)))
    assert ["".join(content for _, content in each) for each in said] == [" ".join(each.split()) for each in summaries]
    assert {kind for each in said for kind, _ in each} <= {"text"}


# ------------------------------------------------------------------------------------------------ durations


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (0.35, "0.3 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_a_duration_is_said_as_people_say_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words
