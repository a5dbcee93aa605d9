"""Specs and their reviews: what is fresh, what is stale, and code that changed without its spec."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.guards import specs
from reconciler.guards.findings import Finding

TODAY = date(2026, 3, 31)
DAY_S = 86400.0
FRESH = b"---\nlast_review: 2026-03-31\n---\n# Billing\n"


def fault(text: str | bytes, age_max_d: float = 30) -> Finding | None:
    data = text if isinstance(text, bytes) else text.encode()
    return specs.review_fault(data, "docs/specs/a.md", TODAY, age_max_d * DAY_S)


@pytest.mark.parametrize(
    "text",
    [
        FRESH,
        "---\nlast_review: 2026-03-01\n---\n",
        "---\nlast_review: '2026-03-31'\n---\n",
        '---\nlast_review: "2026-03-31"  # by Ann\n---\n',
        "---\ntitle: A\ntags: [a, b]\nlast_review: 2026-03-31\nowner: {team: x}\n---\n",
        "---\r\nlast_review: 2026-03-31\r\n---\r\n# A\r\n",
        b"\xef\xbb\xbf" + FRESH,
        "--- \nlast_review: 2026-03-31\n...\n",
        "---\nlast_review: 2026-03-31\n---",
        "---\nlast_review: 2026-03-31\n---\n---\nlast_review: 2020-01-01\n---\n",
        b"---\nlast_review: 2026-03-31\n---\n\xff not UTF-8",
        "---\nlast_review: 2024-02-29\n---\n",
    ],
)
def test_a_spec_that_was_reviewed_lately_is_fine(text: str | bytes) -> None:
    assert fault(text, 1000 if "2024" in str(text) else 30) is None


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "the spec has no front matter"),
        ("# Billing\n", 1, "the spec has no front matter"),
        ("last_review: 2026-03-31\n", 1, "the spec has no front matter"),
        ("\n---\nlast_review: 2026-03-31\n---\n", 1, "the spec has no front matter"),
        (" ---\nlast_review: 2026-03-31\n---\n", 1, "the spec has no front matter"),
        ("---\nlast_review: 2026-03-31\n# never closed\n", 1, "the spec has no front matter"),
        ("----\nlast_review: 2026-03-31\n----\n", 1, "the spec has no front matter"),
        ("# Billing\n\n---\nlast_review: 2026-03-31\n---\n", 1, "the spec has no front matter"),
        ("```yaml\n---\nlast_review: 2026-03-31\n---\n```\n", 1, "the spec has no front matter"),
        ("---\n---\n", 1, "its front matter has no 'last_review'"),
        ("---\n\n---\n", 1, "its front matter has no 'last_review'"),
        ("---\ntitle: A\n---\nlast_review: 2026-03-31\n", 1, "its front matter has no 'last_review'"),
        ("---\nlast-review: 2026-03-31\n---\n", 1, "its front matter has no 'last_review'"),
        ("---\nLast_Review: 2026-03-31\n---\n", 1, "its front matter has no 'last_review'"),
        ("---\nmeta: {last_review: 2026-03-31}\n---\n", 1, "its front matter has no 'last_review'"),
        ("---\n# last_review: 2026-03-31\ntitle: A\n---\n", 1, "its front matter has no 'last_review'"),
        ("---\ntitle: A\nlast_review:\n---\n", 3, "last_review is None, which is no day"),
        ("---\nlast_review: yesterday\n---\n", 2, "last_review is 'yesterday', which is no day"),
        ("---\nlast_review: 2026-3-1\n---\n", 2, "last_review is '2026-3-1', which is no day"),
        ("---\nlast_review: 20260331\n---\n", 2, "last_review is 20260331, which is no day"),
        ("---\nlast_review: 2026-W13-2\n---\n", 2, "last_review is '2026-W13-2', which is no day"),
        ("---\nlast_review: 2026-03-31T10:00:00Z\n---\n", 2, "last_review is '2026-03-31T10:00:00Z', which is no day"),
        ("---\nlast_review: 31.03.2026\n---\n", 2, "last_review is '31.03.2026', which is no day"),
        ("---\nlast_review: 2026-02-30\n---\n", 2, "last_review is '2026-02-30', which is no day"),
        ("---\nlast_review: 2025-02-29\n---\n", 2, "last_review is '2025-02-29', which is no day"),
        ("---\nlast_review: 2026-13-01\n---\n", 2, "last_review is '2026-13-01', which is no day"),
        ("---\nlast_review: 0000-00-00\n---\n", 2, "last_review is '0000-00-00', which is no day"),
        ("---\nlast_review: [2026-03-31]\n---\n", 2, "last_review is ['2026-03-31'], which is no day"),
        ("---\nlast_review: true\n---\n", 2, "last_review is True, which is no day"),
        ("---\nlast_review: ２０２６-03-31\n---\n", 2, "last_review is '２０２６-03-31', which is no day"),
        ("---\nlast_review: 2026-04-01\n---\n", 2, "last_review is 2026-04-01, which is in the future"),
        ("---\nlast_review: 9999-12-31\n---\n", 2, "last_review is 9999-12-31, which is in the future"),
        ("---\nlast_review: 2026-02-28\n---\n", 2, "last_review is 2026-02-28, 31 days ago, and 30 are allowed"),
        ("---\nlast_review: 0001-01-01\n---\n", 2, "last_review is 0001-01-01, 739705 days ago"),
        ("---\nlast_review: 2026-03-31\nlast_review: 2020-01-01\n---\n", 3, "its front matter cannot be read: key"),
        ("---\nlast_review: &a 2026-03-31\n---\n", 2, "its front matter cannot be read: anchors are not allowed"),
        ("---\nlast_review: !!str 2026-03-31\n---\n", 2, "its front matter cannot be read: tags are not allowed"),
        ("---\n- last_review: 2026-03-31\n---\n", 2, "its front matter cannot be read"),
        ("---\nlast_review: '2026-03-31\n---\n", 2, "its front matter cannot be read"),
        (b"---\nlast_review: 2026-03-31\ntitle: \xff\n---\n", 3, "its front matter cannot be read"),
        ("---\nlast_review: 2026-03-31\nx: " + "[" * 100 + "\n---\n", 3, "its front matter cannot be read"),
        ("---\nlast_review: 2026-03-31\nx: '" + "a" * 70_000 + "'\n---\n", 1, "its front matter cannot be read"),
    ],
)  # fmt: skip
def test_a_spec_that_does_not_say_so_is_told(text: str | bytes, line: int, said: str) -> None:
    found = fault(text)
    assert found is not None
    assert found.reason.startswith(said)
    assert found.line == line
    assert found.path == "docs/specs/a.md"


@pytest.mark.parametrize(
    ("day", "age_max_d", "stale"),
    [("2026-03-01", 30, False), ("2026-02-28", 30, True), ("2026-03-31", 0, False), ("2026-03-30", 0.5, True),
     ("2026-03-30", 1, False), ("2025-12-31", 90, False), ("2025-12-30", 90, True)],
)  # fmt: skip
def test_the_age_is_counted_in_days(day: str, age_max_d: float, stale: bool) -> None:
    assert (fault(f"---\nlast_review: {day}\n---\n", age_max_d) is not None) == stale


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_break_it(data: bytes) -> None:
    assert fault(data) is None or fault(data) is not None
    assert fault(b"---\n" + data + b"\n---\n") is None or True


def test_what_is_no_file_is_no_spec() -> None:
    (found,) = specs.stale({"docs/specs/a.md": None}, TODAY, 30 * DAY_S)
    assert "no regular file" in found.reason


# ------------------------------------------------------------------------------------------------ watched code

WATCH = [{"paths": ["src/billing/**", "src/tax.py"], "spec": "docs/specs/billing.md"}]
THERE = {"src/billing/a.py", "src/billing/b/c.py", "src/tax.py", "src/other.py", "docs/specs/billing.md"}


@pytest.mark.parametrize(
    ("touched", "present", "said"),
    [
        (set(), THERE, None),
        ({"src/other.py"}, THERE, None),
        ({"docs/specs/billing.md"}, THERE, None),
        ({"src/billing/a.py", "docs/specs/billing.md"}, THERE, None),
        ({"src/billing/a.py"}, THERE, "src/billing/a.py changed and its spec docs/specs/billing.md did not"),
        ({"src/tax.py"}, THERE, "src/tax.py changed and its spec docs/specs/billing.md did not"),
        ({"src/billing/gone.py"}, THERE, "src/billing/gone.py changed and its spec docs/specs/billing.md did not"),
        ({"src/billing/a.py"}, THERE - {"docs/specs/billing.md"}, "docs/specs/billing.md is not there"),
        ({"src/tax.py", "docs/specs/billing.md"}, THERE - {"docs/specs/billing.md"}, "docs/specs/billing.md is gone"),
        ({f"src/billing/{number}" for number in range(9)}, THERE, "src/billing/2 and 6 more changed"),
    ],
)
def test_watched_code_changes_with_its_spec(touched: set[str], present: set[str], said: str | None) -> None:
    found = [each.reason for each in specs.unaccompanied(touched, present, WATCH)]
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, ["docs/specs/a.md", "docs/specs/b/c.md", "specs/d.md"]),
        ({"paths": ["docs/specs/*.md"]}, ["docs/specs/a.md"]),
        ({"exclude": ["docs/**"]}, ["specs/d.md"]),
        ({"watch": [{"paths": ["src"], "spec": "README.md"}]},
         ["README.md", "docs/specs/a.md", "docs/specs/b/c.md", "specs/d.md"]),
        ({"watch": [{"paths": ["src"], "spec": "missing.md"}], "paths": ["nothing"]}, []),
    ],
)  # fmt: skip
def test_which_files_are_specs(options: dict[str, Any], found: list[str]) -> None:
    paths = ["README.md", "docs/specs/a.md", "docs/specs/b/c.md", "docs/specs/x.txt", "specs/d.md", "src/a.py"]
    assert specs.specs_of(paths, options, specs.watches_of(options)) == found
