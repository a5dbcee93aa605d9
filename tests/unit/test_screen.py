"""The screen of a watcher: whole pictures in three sizes, and what must hold in every size."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.explain import Row
from reconciler.model import Name, Phase, RunId, TaskId
from reconciler.screen import View, cells, screen, span, text


def row(run_id: str, phase: Phase, **keys: object) -> Row:
    plain = Row(
        run_id=RunId(run_id), task_id=TaskId("t"), name=Name(run_id[:-9]), phase=phase, stage="", done=0, total=0,
        attempts=1, heartbeat_age_s=None, duration_s=None, completed_at=None, evidence="", reason="",
    )  # fmt: skip
    return replace(plain, **keys)  # type: ignore[arg-type]


RUNNING = row("0007-diagnostics-1a2b3c4d", Phase.RUNNING, stage="lint", done=1, total=3, heartbeat_age_s=4.2)
AGAIN = row("0008-a-very-long-name-of-a-run-that-goes-on-1a2b3c4d", Phase.STALE, attempts=2, total=40, done=7)
ROWS = (
    RUNNING,
    AGAIN,
    row(
        "0009-release-1a2b3c4d", Phase.WAITING, reason="waits for approval of 'ship' (Publishes): a decision is missing"
    ),
    row("0010-after-1a2b3c4d", Phase.ABSENT, reason="waits for 0007-diagnostics-1a2b3c4d, which it comes after"),
    row("0006-done-1a2b3c4d", Phase.SUCCEEDED, duration_s=3.21, evidence="5ffb50b42c3c"),
    row("0005-bad-1a2b3c4d", Phase.FAILED, duration_s=0.1, evidence="committed"),
    row("0004-worse-1a2b3c4d", Phase.CANCELLED),
)
VIEW = View(
    where="my-project", branch="main", tip="792ea1b7c3d2", rows=ROWS, settled=120,
    problems=("runs.d/0011.yaml:2:1: unknown key 'pipelin'; did you mean 'pipeline'?",), remote="origin answered at 09:12:30Z",
    next_s=25.9, next_what="a heartbeat is missed", since="09:10", passes=7, passed_s=0.0061,
    ages={"0006-done-1a2b3c4d": 75.0, "0005-bad-1a2b3c4d": 7300.0},
)  # fmt: skip

WIDE = """\
my-project  main @ 792ea1b7c3                               watching since 09:10
2 under way · 1 queued · 1 at a gate · 120 proven

UNDER WAY
  running  0007-diagnostics-1a2b3c4d  lint                         █░░ 1/3  ♥ 4s
  stale    0008-a-very-long-name-of-a-run-that-goes…  attempt 2             7/40

WRONG
  runs.d/0011.yaml:2:1: unknown key 'pipelin'; did you mean 'pipeline'?

WAITING
  0009-release-1a2b3c4d  waits for approval of 'ship' (Publishes): a decision i…
  0010-after-1a2b3c4d  waits for 0007-diagnostics-1a2b3c4d, which it comes after

NEWEST RESULTS
  ✓ 0006-done-1a2b3c4d                                 3.2 s  1m ago  5ffb50b42c
  ✗ 0005-bad-1a2b3c4d                                              0.1 s  2h ago
  - 0004-worse-1a2b3c4d                                        not yet committed

remote: origin answered at 09:12:30Z
next pass in 25s: a heartbeat is missed · pass 7 took 6 ms
"""

NARROW = """\
my-project
main @ 792ea1b7c3
2 under way · 1 queued · 1 at a gate · …
UNDER WAY
  0007-diagnostics…  lint      1/3  ♥ 4s
  0008-a-very-long-na…  attempt 2   7/40
WRONG
  runs.d/0011.yaml:2:1: unknown key 'pi…
WAITING
  0009-release-1a…  waits for approval …
  0010-after-1a2b…  waits for 0007-diag…
NEWEST RESULTS
  ✓ 0006-done-1a2b3c4d            1m ago
  ✗ 0005-bad-1a2b3c4d             2h ago
  - 0004-worse-1a2b3c4d

remote: origin answered at 09:12:30Z
next pass in 25s
"""

SHORT = """\
my-project  main @ 792ea1b7c3                               watching since 09:10
2 under way · 1 queued · 1 at a gate · 120 proven
UNDER WAY  1 of 2
  running  0007-diagnostics-1a2b3c4d  lint                         █░░ 1/3  ♥ 4s
WRONG
  runs.d/0011.yaml:2:1: unknown key 'pipelin'; did you mean 'pipeline'?
WAITING  1 of 2
  0009-release-1a2b3c4d  waits for approval of 'ship' (Publishes): a decision i…

remote: origin answered at 09:12:30Z
next pass in 25s: a heartbeat is missed · pass 7 took 6 ms
"""


@pytest.mark.parametrize(("size", "picture"), [((80, 24), WIDE), ((40, 20), NARROW), ((80, 12), SHORT)])
def test_the_picture_in_a_size(size: tuple[int, int], picture: str) -> None:
    assert text(screen(VIEW, *size)) == picture


def test_a_quiet_watcher_says_so() -> None:
    quiet = replace(VIEW, rows=(), problems=(), remote="")
    assert "  nothing is under way, and nothing waits\n" in text(screen(quiet, 80, 24))


def test_what_a_repository_says_cannot_move_the_cursor() -> None:
    wild = replace(
        VIEW, where="\x1b[2J", problems=("\x1b]0;title\x07\nnext",), rows=(replace(RUNNING, stage="\r\x1b[A"),)
    )
    assert not set(text(screen(wild, 80, 24))) & set("\x1b\x07\r")


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 80),
    words=st.lists(st.text(max_size=120), max_size=12),
    count=st.integers(0, 60),
)
def test_no_picture_is_larger_than_its_size(width: int, height: int, words: list[str], count: int) -> None:
    rows = [replace(ROWS[each % len(ROWS)], reason=words[each % len(words)] if words else "") for each in range(count)]
    picture = screen(replace(VIEW, rows=rows, problems=words, where=words[0] if words else ""), width, height)
    assert len(picture) <= max(4, height)
    assert all(sum(cells(each.text) for each in line) <= max(20, width) for line in picture)


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0s"), (59.9, "59s"), (60, "1m"), (3600, "1h"), (90000, "1d")])
def test_a_time_is_said_in_its_largest_unit(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_wide_characters_count_twice_and_marks_not_at_all() -> None:
    assert (cells("ab"), cells("漢字"), cells("e\u0301")) == (2, 4, 1)
