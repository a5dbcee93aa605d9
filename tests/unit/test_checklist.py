"""Checklists and the registry of tasks: what is read from them, and that an edit changes its own bytes only."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.checklist import (
    FILE_BYTES_MAX,
    LINES_MAX,
    Item,
    Link,
    gates,
    items,
    problems,
    set_gate,
    tick,
)
from reconciler.errors import ContentError
from reconciler.model import Severity

PATH = "tasks/0001-demo.md"
LINK = Link(run_id="demo-1a2b3c4d", manifest_path=".runs/0001-demo/cli/demo-1a2b3c4d/manifest.json")
PROOF = b"; Evidence: [demo-1a2b3c4d](../.runs/0001-demo/cli/demo-1a2b3c4d/manifest.json)"
OLD = b"; Evidence: [old-00000000](../.runs/0001-demo/cli/old-00000000/manifest.json)"
BOM = b"\xef\xbb\xbf"


def ticked(data: bytes, *ids: str) -> bytes:
    return tick(data, dict.fromkeys(ids or ("a",), LINK), PATH)


# ---------------------------------------------------------------------------------------------- ticking

FILE = b"""\
# Demo \t
\xef\xbb\xbf\xff not UTF-8 \x00\x0c\x85

- [ ] Build <!-- item: 0001-demo/build -->\r
- [ ] Tests green <!-- item: 0001-demo/tests-green -->  \r
  continued\t
   * [ ] nested <!-- item: a -->
\r
> 1. [ ] quoted **\xc3\xa9** <!-- item: 0001-demo/tests-green -->

```md
- [ ] Tests green <!-- item: 0001-demo/tests-green -->
```
- [ ] last <!-- item: a -->"""

FILE_TICKED = b"""\
# Demo \t
\xef\xbb\xbf\xff not UTF-8 \x00\x0c\x85

- [ ] Build <!-- item: 0001-demo/build -->\r
- [x] Tests green; Evidence: [demo-1a2b3c4d](../.runs/0001-demo/cli/demo-1a2b3c4d/manifest.json) \
<!-- item: 0001-demo/tests-green -->  \r
  continued\t
   * [ ] nested <!-- item: a -->
\r
> 1. [x] quoted **\xc3\xa9**; Evidence: [demo-1a2b3c4d](../.runs/0001-demo/cli/demo-1a2b3c4d/manifest.json) \
<!-- item: 0001-demo/tests-green -->

```md
- [ ] Tests green <!-- item: 0001-demo/tests-green -->
```
- [ ] last <!-- item: a -->"""


def test_a_file_is_ticked_in_the_lines_of_the_item_and_nowhere_else() -> None:
    assert ticked(FILE, "0001-demo/tests-green") == FILE_TICKED


BEFORE_AND_AFTER = {
    "dash": (b"- [ ] t <!-- item: a -->", b"- [x] t%b <!-- item: a -->"),
    "star": (b"* [ ] t <!-- item: a -->", b"* [x] t%b <!-- item: a -->"),
    "plus": (b"+ [ ] t <!-- item: a -->", b"+ [x] t%b <!-- item: a -->"),
    "ordered": (b"12. [ ] t <!-- item: a -->", b"12. [x] t%b <!-- item: a -->"),
    "ordered with a bracket": (b"1) [ ] t <!-- item: a -->", b"1) [x] t%b <!-- item: a -->"),
    "indented": (b"   -   [ ] t <!-- item: a -->", b"   -   [x] t%b <!-- item: a -->"),
    "tabs": (b"-\t[ ]\tt\t<!-- item: a -->\t", b"-\t[x]\tt%b\t<!-- item: a -->\t"),
    "nested": (b"- b\n\t- [ ] t <!-- item: a -->", b"- b\n\t- [x] t%b <!-- item: a -->"),
    "lists in one line": (b"- 1. * [ ] t <!-- item: a -->", b"- 1. * [x] t%b <!-- item: a -->"),
    "quote": (b"> > - [ ] t <!-- item: a -->", b"> > - [x] t%b <!-- item: a -->"),
    "quote without blanks": (b">- [ ] t <!-- item: a -->", b">- [x] t%b <!-- item: a -->"),
    "quote in a list": (b"- > - [ ] t <!-- item: a -->", b"- > - [x] t%b <!-- item: a -->"),
    "box below its bullet": (b"-\n  [ ] t <!-- item: a -->", b"-\n  [x] t%b <!-- item: a -->"),
    "trailing blanks": (b"- [ ] t <!-- item: a -->  \n", b"- [x] t%b <!-- item: a -->  \n"),
    "blanks before the comment": (b"- [ ] t  \t<!-- item: a -->", b"- [x] t%b  \t<!-- item: a -->"),
    "no blank before the comment": (b"- [ ] t<!-- item: a -->", b"- [x] t%b<!-- item: a -->"),
    "no blank in the comment": (b"- [ ] t <!--item:a-->", b"- [x] t%b <!--item:a-->"),
    "blanks in the comment": (b"- [ ] t <!-- \titem :\ta  -->", b"- [x] t%b <!-- \titem :\ta  -->"),
    "no text": (b"- [ ] <!-- item: a -->", b"- [x] %b<!-- item: a -->"),
    "text after the comment": (b"- [ ] t <!-- item: a --> more", b"- [x] t%b <!-- item: a --> more"),
    "continued": (b"- [ ] t <!-- item: a -->\nlazy\n", b"- [x] t%b <!-- item: a -->\nlazy\n"),
    "another comment": (b"- [ ] t <!-- b --> <!-- item: a -->", b"- [x] t <!-- b -->%b <!-- item: a -->"),
    "empty comment": (b"- [ ] t <!--> <!-- item: a -->", b"- [x] t <!-->%b <!-- item: a -->"),
    "open comment after it": (b"- [ ] t <!-- item: a --> <!-- b", b"- [x] t%b <!-- item: a --> <!-- b"),
    "code": (b"- [ ] `t` ``a`b`` <!-- item: a -->", b"- [x] `t` ``a`b``%b <!-- item: a -->"),
    "code that nothing closes": (b"- [ ] `t ``` <!-- item: a -->", b"- [x] `t ```%b <!-- item: a -->"),
    "escaped backtick": (b"- [ ] \\`t <!-- item: a --> `", b"- [x] \\`t%b <!-- item: a --> `"),
    "half-escaped run": (b"- [ ] \\``t` <!-- item: a --> ``", b"- [x] \\``t`%b <!-- item: a --> ``"),
    "backslash at the end": (b"- [ ] t\\ <!-- item: a -->", b"- [x] t\\%b <!-- item: a -->"),
    "open bracket": (b"- [ ] [t( <!-- item: a --> )", b"- [x] [t(%b <!-- item: a --> )"),
    "not UTF-8": (b"- [ ] \xff\xe9 <!-- item: a --> \xc3", b"- [x] \xff\xe9%b <!-- item: a --> \xc3"),
    "separators that end no line": (
        b"- [ ] a\x0b\x0c\x1c\xc2\x85\xe2\x80\xa8b <!-- item: a -->",
        b"- [x] a\x0b\x0c\x1c\xc2\x85\xe2\x80\xa8b%b <!-- item: a -->",
    ),
    "byte-order mark": (BOM + b"- [ ] t <!-- item: a -->\r\n", BOM + b"- [x] t%b <!-- item: a -->\r\n"),
    "CR": (b"t\r\r- [ ] t <!-- item: a -->\r- b\r", b"t\r\r- [x] t%b <!-- item: a -->\r- b\r"),
    "after a fence": (b"```\n- [ ]\n```\n- [ ] t <!-- item: a -->", b"```\n- [ ]\n```\n- [x] t%b <!-- item: a -->"),
    "after a comment": (b"<!--\n-->\n- [ ] t <!-- item: a -->", b"<!--\n-->\n- [x] t%b <!-- item: a -->"),
    "in HTML, apart": (
        b"<details>\n\n- [ ] t <!-- item: a -->\n\n</details>",
        b"<details>\n\n- [x] t%b <!-- item: a -->\n\n</details>",
    ),
    "15 lists deep": (b"- " * 14 + b"- [ ] t <!-- item: a -->", b"- " * 14 + b"- [x] t%b <!-- item: a -->"),
    "second id": (
        b"- [ ] t <!-- item: a --> <!-- item: b -->",
        b"- [x] t%b <!-- item: a --> <!-- item: b -->",
    ),
    "after a bad id": (
        b"- [ ] t <!-- item: No --> <!-- item: a -->",
        b"- [x] t <!-- item: No -->%b <!-- item: a -->",
    ),
    "old evidence": (b"- [x] t" + OLD + b" <!-- item: a -->", b"- [x] t%b <!-- item: a -->"),
    "upper case": (b"- [X] t" + OLD + b" <!-- item: a -->", b"- [X] t%b <!-- item: a -->"),
    "unticked with old evidence": (b"- [ ] t" + OLD + b" <!-- item: a -->", b"- [x] t%b <!-- item: a -->"),
    "unticked with this evidence": (b"- [ ] t" + PROOF + b" <!-- item: a -->", b"- [x] t%b <!-- item: a -->"),
    "text after evidence": (b"- [x] t" + OLD + b", see b <!-- item: a -->", b"- [x] t%b, see b <!-- item: a -->"),
    "evidence after the comment": (b"- [x] t <!-- item: a -->" + OLD, b"- [x] t <!-- item: a -->%b"),
    "two pieces of evidence": (
        b"- [x] t" + OLD + b" and" + OLD + b" <!-- item: a -->" + OLD + b"!",
        b"- [x] t%b and <!-- item: a -->!",
    ),
    "evidence without text": (b"- [x] " + OLD + b"<!-- item: a -->", b"- [x] %b<!-- item: a -->"),
    "evidence by hand": (b"- [x] t;Evidence:[ a `b` \\] ](<c (d>) <!-- item: a -->", b"- [x] t%b <!-- item: a -->"),
    "evidence with brackets": (b"- [x] t; Evidence: [a](b(c)d) <!-- item: a -->", b"- [x] t%b <!-- item: a -->"),
    "empty evidence": (b"- [x] t; Evidence: []() <!-- item: a -->", b"- [x] t%b <!-- item: a -->"),
    "evidence in code": (
        b"- [ ] write `; Evidence: [a](b)` <!-- item: a -->",
        b"- [x] write `; Evidence: [a](b)`%b <!-- item: a -->",
    ),
    "evidence in a comment": (
        b"- [ ] t <!-- ; Evidence: [a](b) --> <!-- item: a -->",
        b"- [x] t <!-- ; Evidence: [a](b) -->%b <!-- item: a -->",
    ),
    "evidence around the comment": (
        b"- [ ] t; Evidence: [<!-- item: a -->](b)",
        b"- [x] t; Evidence: [%b<!-- item: a -->](b)",
    ),
    "evidence cut short": (
        b"- [ ] t; Evidence: [a](b <!-- item: a -->",
        b"- [x] t; Evidence: [a](b%b <!-- item: a -->",
    ),
    "other links": (b"- [ ] [t](u); [v](w) <!-- item: a -->", b"- [x] [t](u); [v](w)%b <!-- item: a -->"),
    "evidence in the next line": (
        b"- [ ] t <!-- item: a -->\n  b" + OLD,
        b"- [x] t%b <!-- item: a -->\n  b" + OLD,
    ),
}


@pytest.mark.parametrize("name", BEFORE_AND_AFTER)
def test_a_line_is_ticked(name: str) -> None:
    before, after = BEFORE_AND_AFTER[name]
    assert ticked(before) == after.replace(b"%b", PROOF)


@pytest.mark.parametrize("name", BEFORE_AND_AFTER)
def test_ticking_again_changes_nothing_and_newer_evidence_takes_the_place_of_the_old(name: str) -> None:
    before, after = BEFORE_AND_AFTER[name]
    older = tick(before, {"a": Link(run_id="old", manifest_path="b c/(d).json")}, PATH)
    assert older != ticked(before)
    assert ticked(older) == ticked(ticked(older)) == after.replace(b"%b", PROOF)


NO_ITEMS = {
    "nothing": b"",
    "no comment": b"- [ ] item: a",
    "fence": b"~~~\n- [ ] t <!-- item: a -->\n~~~",
    "fence that nothing closes": b"- b\n```\n- [ ] t <!-- item: a -->",
    "fence in a list": b"- b\n  ```\n  - [ ] t <!-- item: a -->\n  ```",
    "fence in a quote": b"> ```\n> - [ ] t <!-- item: a -->",
    "indented code": b"    - [ ] t <!-- item: a -->",
    "indented code by tab": b"b\n\n\t- [ ] t <!-- item: a -->",
    "indented code in a list": b"- b\n\n      - [ ] t <!-- item: a -->",
    "code in an item": b"-     [ ] t <!-- item: a -->",
    "code span": b"- [ ] `t <!-- item: a -->`",
    "code span that closes in the next line": b"- [ ] ``t <!-- item: a -->\n  `b` ``",
    "code span with a backslash": b"- [ ] `t\\` b `<!-- item: a -->`",
    "HTML comment": b"<!--\n- [ ] t <!-- item: a -->",
    "comment in a comment": b"- [ ] t <!-- was <!-- item: a -->",
    "comment over lines": b"- [ ] t <!-- was\n  b <!-- item: a -->",
    "escaped": b"- [ ] t \\<!-- item: a -->",
    "never closed": b"- [ ] t <!-- item: a",
    "other word": b"- [ ] t <!-- items: a -->",
}


@pytest.mark.parametrize("name", NO_ITEMS)
def test_what_a_page_shows_as_code_or_hides_in_a_comment_is_no_item(name: str) -> None:
    assert items(NO_ITEMS[name]) == ()
    assert problems(NO_ITEMS[name], PATH) == ()
    assert ticked(NO_ITEMS[name]) == NO_ITEMS[name]


TARGETS = {
    ("tasks/0001-demo.md", ".runs/m.json"): "../.runs/m.json",
    ("README.md", ".runs/m.json"): ".runs/m.json",
    ("docs/a/b/c.md", "docs/a/m.json"): "../m.json",
    ("docs/a b/c.md", "docs/d/m.json"): "../d/m.json",
    ("docs/c.md", "docs/a b/(m)<>[]`\\*.json"): "a%20b/%28m%29%3C%3E%5B%5D%60%5C%2A.json",
    ("c.md", "a:b/\u00e9\udcff%41.json"): "a%3Ab/%C3%A9%FF%2541.json",
}


@pytest.mark.parametrize(("path", "manifest_path"), TARGETS)
def test_a_link_is_relative_to_its_file_and_safe_in_markdown(path: str, manifest_path: str) -> None:
    link = Link(run_id="r", manifest_path=manifest_path)
    after = tick(b"- [ ] t <!-- item: a -->", {"a": link}, path)
    assert after == f"- [x] t; Evidence: [r]({TARGETS[path, manifest_path]}) <!-- item: a -->".encode()


def test_every_line_with_the_id_is_ticked_and_no_other() -> None:
    before = b"- [ ] t <!-- item: a -->\n- [ ] t <!-- item: a/b -->\n- [x] u <!-- item: a -->\n"
    after = b"- [x] t%b <!-- item: a -->\n- [ ] t <!-- item: a/b -->\n- [x] u%b <!-- item: a -->\n"
    assert ticked(before) == after.replace(b"%b", PROOF)
    assert tick(before, {}, PATH) == ticked(before, "b") == before


# ---------------------------------------------------------------------------------------------- any text around

IDS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}(/[a-z0-9][a-z0-9._-]{0,9}){0,2}", fullmatch=True)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
MARKDOWN = st.lists(
    st.sampled_from(
        [
            *(
                b"`",
                b"``",
                b"\\",
                b"<!--",
                b"-->",
                b"<",
                b">",
                b"[",
                b"](",
                b")",
                b"(",
                b"*",
                b"_",
                b"# ",
                b"- ",
                b"1. ",
            ),
            *(
                b"; Evidence: [",
                b"; Evidence: [a](b)",
                b"```",
                b"    ",
                b"\t",
                b" ",
                b"x",
                b"\xff",
                b"\xc3\xa9",
                b"\x0c",
            ),
            *(b"<!-- item: other -->", b"- [ ] ", b"[ ] ", b"<div>", b"---", b"|", b"\x00", b"> "),
        ]
    ),
    max_size=12,
).map(b"".join)
PAGES = st.lists(st.tuples(MARKDOWN, ENDS).map(b"".join), max_size=12).map(b"".join)


def _changed_lines(before: bytes, after: bytes) -> list[int]:
    pairs = zip(before.splitlines(keepends=True), after.splitlines(keepends=True), strict=True)
    return [number for number, (old, new) in enumerate(pairs, start=1) if old != new]


@given(before=PAGES, text=MARKDOWN, rest=MARKDOWN, end=ENDS, after=PAGES)
@example(before=b"", text=b"x", rest=b"", end=b"\r", after=b"\nx")
def test_whatever_stands_around_an_item_only_the_lines_of_items_change(
    before: bytes, text: bytes, rest: bytes, end: bytes, after: bytes
) -> None:
    page = before + b"- [ ] " + text + b" <!-- item: a -->" + rest + end + after
    found = [item for item in items(page) if item.id == "a"]
    edited = ticked(page)
    assert _changed_lines(page, edited) == [item.line for item in found]
    assert ticked(edited) == edited
    for old, new in zip(found, [item for item in items(edited) if item.id == "a"], strict=True):
        assert (new.id, new.line, new.column, new.ticked) == (old.id, old.line, old.column, True)
        assert (new.evidence_run, new.evidence_path) == (LINK.run_id, "../" + LINK.manifest_path)


@given(before=st.binary(max_size=60), after=st.binary(max_size=60), id=IDS)
def test_an_item_apart_from_any_bytes_is_found_and_only_it_changes(before: bytes, after: bytes, id: str) -> None:
    line = f"- [ ] t <!-- item: {id} -->".encode()
    # Only what has no Markdown in it: a stray fence or `<!--` hides rightly all that follows.
    before = before.translate(None, b"`~<->+*#=|0123456789\t \\")
    page = before + b"\n\n" + line + b"\n\n" + after
    expected = before + b"\n\n" + line.replace(b"[ ] t", b"[x] t" + PROOF) + b"\n\n" + after
    assert ticked(page, id) == expected


@given(page=st.binary(max_size=200))
def test_no_bytes_at_all_break_the_reader(page: bytes) -> None:
    page = page.replace(b"?", b"<!-- item: a -->").replace(b"!", b"- [ ] ")
    assert items(page) == items(tick(page, {}, PATH))
    assert tick(page, {}, PATH) == page
    assert all(problem.line >= 1 and problem.column >= 1 for problem in problems(page, PATH))


# ---------------------------------------------------------------------------------------------- items and problems


def test_items_say_where_they_stand_and_what_they_hold() -> None:
    page = (
        BOM
        + b"- [ ] **Tests** green <!-- item: a -->\r\n"
        + b"> - [X] \xc3\xa9 `c`; Evidence: [r-1](<../b%20c/m (1).json>) now <!-- item: b/c.d_e-f --> then  \r\n"
        + b"- [x] \xff <!-- item: a -->"
    )
    assert items(page) == (
        Item(id="a", line=1, column=3, ticked=False, text="**Tests** green"),
        Item(
            id="b/c.d_e-f",
            line=2,
            column=5,
            ticked=True,
            text="\u00e9 `c` now  then",
            evidence_run="r-1",
            evidence_path="../b c/m (1).json",
        ),
        Item(id="a", line=3, column=3, ticked=True, text="\ufffd"),
    )


PROBLEMS: dict[bytes, list[tuple[int, int, str]]] = {
    b"- [ ] t <!-- item: a -->": [],
    b"- [ ] t <!-- item: %b -->" % (b"a" * 200): [],
    b"- [ ] t <!-- item: %b -->" % (b"a" * 201): [(1, 9, "checklist-id")],
    b"- [ ] t <!-- item: -->": [(1, 9, "checklist-id")],
    b"- [ ] t <!-- item: A -->": [(1, 9, "checklist-id")],
    b"- [ ] t <!-- item: a b -->": [(1, 9, "checklist-id")],
    b"- [ ] t <!-- item: a/ -->": [(1, 9, "checklist-id")],
    b"- [ ] t <!-- item: a//b -->": [(1, 9, "checklist-id")],
    b"- [ ] t <!-- item: ../b -->": [(1, 9, "checklist-id")],
    b"- [ ] t <!-- item: \xc3\xa9 -->": [(1, 9, "checklist-id")],
    b"- [ ] t <!-- item:\n  a -->": [(1, 9, "checklist-id")],
    b"- t <!-- item: a -->": [(1, 5, "checklist-line")],
    b"- [] t <!-- item: a -->": [(1, 8, "checklist-line")],
    b"- [y] t <!-- item: a -->": [(1, 9, "checklist-line")],
    b"- [ ]t <!-- item: a -->": [(1, 8, "checklist-line")],
    b"t\n<!-- item: a -->": [(2, 1, "checklist-line")],
    b"\xc3\xa9\n\n\xc3\xa9\xc3\xa9 <!-- item: a --> ": [(3, 4, "checklist-line")],
    b"# [ ] t <!-- item: a --> ##": [(1, 9, "checklist-line")],
    b"- [ ] t <!-- item: a -->\n  ===": [(1, 9, "checklist-line")],
    b"[ ] t <!-- item: a -->": [(1, 7, "checklist-line")],
    b"- [ ] t\n  b <!-- item: a -->": [(2, 5, "checklist-line")],
    b"- [ ] t\n  <!-- item: a -->": [(2, 3, "checklist-line")],
    b"- b\n\n  [ ] t <!-- item: a -->": [(3, 9, "checklist-line")],
    b"<div>\n- [ ] t <!-- item: a -->\n</div>": [(2, 9, "checklist-line")],
    BOM + b"t <!-- item: a -->": [(1, 3, "checklist-line")],
    b"- [ ] t <!-- item: a --> <!-- item: b -->": [(1, 26, "checklist-two-ids")],
    b"- [ ] t <!-- item: a --><!-- item: a -->": [(1, 25, "checklist-two-ids")],
    b"- [ ] t <!-- item: a -->\n- [ ] t <!-- item: b -->\n- [ ] t <!-- item: a -->": [(3, 9, "checklist-repeated-id")],
}


@pytest.mark.parametrize("page", PROBLEMS)
def test_an_item_comment_that_makes_no_item_is_reported(page: bytes) -> None:
    found = problems(page, PATH)
    assert [(each.line, each.column, each.rule) for each in found] == PROBLEMS[page]
    assert all(each.severity is Severity.WARNING and each.path == PATH and each.cure for each in found)


def test_a_problem_is_a_sentence() -> None:
    page = b"- [ ] t <!-- item: a -->\n- [ ] t <!-- item: a -->\n\nt <!-- item: Bad -->\n"
    assert [each.sentence() for each in problems(page, PATH)] == [
        "tasks/0001-demo.md:2:9: item a stands on line 1, too; "
        "one piece of evidence ticks both; give each an id of its own",
        "tasks/0001-demo.md:4:3: 'Bad' is no item id; "
        "write words of a-z, 0-9, `.`, `_`, `-`, joined by `/`, 200 characters at most",
    ]


# ---------------------------------------------------------------------------------------------- bounds

ITEM = b"- [ ] t <!-- item: a -->\n"
BEYOND_BOUNDS = {
    "4194305 bytes are more than the 4194304 a checklist may have; split the file": ITEM
    + b"x" * (FILE_BYTES_MAX + 1 - len(ITEM)),
    "20001 lines are more than the 20000 a checklist may have; split the file": ITEM * (LINES_MAX + 1),
    "lists and quotes are nested 32 levels deep or more; flatten them": b"- " * 15 + ITEM + ITEM,
}
BEYOND_BOUNDS = {reason: page.replace(b"- - [", b"- > - [") for reason, page in BEYOND_BOUNDS.items()}


@pytest.mark.parametrize("reason", BEYOND_BOUNDS)
def test_a_file_beyond_a_bound_is_refused_with_the_reason(reason: str) -> None:
    page = BEYOND_BOUNDS[reason]
    for use in (ticked, lambda data: items(data, PATH)):
        with pytest.raises(ContentError) as caught:
            use(page)
        assert str(caught.value) == f"{PATH}: {reason}"
    assert [(each.sentence(), each.severity) for each in problems(page, PATH)] == [
        (f"{PATH}: {reason}", Severity.ERROR)
    ]


def test_a_file_without_item_comments_has_no_bound() -> None:
    page = b"- [ ] t\n" * FILE_BYTES_MAX
    assert (items(page), problems(page, PATH)) == ((), ())
    assert ticked(page) == page


def test_a_file_without_item_comments_costs_no_import() -> None:
    program = (
        "import sys; from reconciler.checklist import items, problems, tick;"
        "items(b'- [ ] t'), problems(b'- [ ] t', 'p'), tick(b'- [ ] t', {}, 'p');"
        "sys.exit('markdown_it' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


HOSTILE = {
    "brackets": ITEM + b"[" * 100_000,
    "brackets in the item": b"- [ ] " + b"[" * 100_000 + b"<!-- item: a -->",
    "quotes": ITEM + b">" * 100_000,
    "bullets": ITEM + b"\n" + b"- " * 50_000 + b"x",
    "backticks": b"- [ ] <!-- item: a -->" + b"".join(b"`" * count + b" " for count in range(500)),
    "escaped backticks": b"- [ ] <!-- item: a -->" + b"\\`" * 50_000,
    "comments": b"- [ ] " + b"<!-- item: a -->" * 10_000,
    "open comments": b"- [ ] <!-- item: a -->" + b"<!-- item:" * 10_000,
    "evidence": b"- [ ] " + b"; Evidence: [a](b)" * 10_000 + b"<!-- item: a -->",
    "open evidence": b"- [ ] " + b"; Evidence: [a]((" * 10_000 + b"<!-- item: a -->",
    "long evidence": b"- [ ] ; Evidence: [a](" + b"(b)" * 30_000 + b"<!-- item: a -->",
    "tags": b"- [ ] <!-- item: a -->" + b"<a " * 30_000,
    "items": ITEM * 5_000,
    "stray comments": b"t <!-- item: a -->\n" * 5_000,
    "lazy lines": b"> " * 20 + b"t\n" + b"t\n" * 3_000 + b"\n" + ITEM,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_takes_bounded_time(name: str) -> None:
    started = time.process_time()
    for use in (items, ticked, lambda data: problems(data, PATH)):
        try:
            use(HOSTILE[name])
        except ContentError as error:
            assert "levels deep" in str(error)
    assert time.process_time() - started < 10


# ---------------------------------------------------------------------------------------------- the registry

INDEX = "tasks/index.json"
GATE = {"status": "succeeded", "run_id": "r-1"}


PRETTY = b"""\
{
  "items": [
    {
      "id": "0001-demo",
      "title": "Caf\\u00e9   \\/ b"  ,
      "gate": {
        "status": "failed"
      },
      "more": [1,  2.50, 1e2]
    },

    {"id": "0002", "title": "B"}
  ],
  "x":null }
"""

PRETTY_SET = b"""\
{
  "items": [
    {
      "id": "0001-demo",
      "title": "Caf\\u00e9   \\/ b"  ,
      "gate": {
        "status": "succeeded",
        "run_id": "r-1"
      },
      "more": [1,  2.50, 1e2]
    },

    {"id": "0002", "title": "B"}
  ],
  "x":null }
"""

PRETTY_ADDED = b"""\
{
  "items": [
    {
      "id": "0001-demo",
      "title": "Caf\\u00e9   \\/ b"  ,
      "gate": {
        "status": "failed"
      },
      "more": [1,  2.50, 1e2]
    },

    {"id": "0002", "title": "B", "gate": {"status": "succeeded", "run_id": "r-1"}}
  ],
  "x":null }
"""


def test_a_gate_is_replaced_or_added_and_every_other_byte_stays() -> None:
    assert set_gate(PRETTY, INDEX, "0001-demo", GATE) == PRETTY_SET
    assert set_gate(PRETTY, INDEX, "0002", GATE) == PRETTY_ADDED
    crlf = PRETTY.replace(b"\n", b"\r\n")
    assert set_gate(crlf, INDEX, "0001-demo", GATE) == PRETTY_SET.replace(b"\n", b"\r\n")
    bare = BOM + PRETTY.rstrip()
    assert set_gate(bare, INDEX, "0001-demo", GATE) == BOM + PRETTY_SET.rstrip()


LAYOUTS = {
    "compact": (b'{"items":[{"id":"a"}]}', b'{"items":[{"id":"a","gate":{"status":"succeeded","run_id":"r-1"}}]}'),
    "one line": (
        b'{"items": [{ "id": "a", "title": "t" }]}',
        b'{"items": [{ "id": "a", "title": "t", "gate": { "status": "succeeded", "run_id": "r-1" } }]}',
    ),
    "one member": (
        b'{"items": [{"id": "a"}]}',
        b'{"items": [{"id": "a", "gate": {"status": "succeeded", "run_id": "r-1"}}]}',
    ),
    "tabs": (
        b'{"items": [\n\t{\n\t\t"id": "a"\n\t}\n]}',
        b'{"items": [\n\t{\n\t\t"id": "a",\n'
        b'\t\t"gate": {\n\t\t\t"status": "succeeded",\n\t\t\t"run_id": "r-1"\n\t\t}\n\t}\n]}',
    ),
    "CRLF": (
        b'{"items": [{\r\n  "id" : "a"\r\n}]}',
        b'{"items": [{\r\n  "id" : "a",\r\n'
        b'  "gate" : {\r\n    "status" : "succeeded",\r\n    "run_id" : "r-1"\r\n  }\r\n}]}',
    ),
    "CR": (
        b'{"items": [{\r "id":"a"\r}]}',
        b'{"items": [{\r "id":"a",\r "gate":{\r  "status":"succeeded",\r  "run_id":"r-1"\r }\r}]}',
    ),
    "closing brace elsewhere": (
        b'{"items": [{\n    "id": "a" }]}',
        b'{"items": [{\n    "id": "a",\n    "gate": {\n      "status": "succeeded",\n      "run_id": "r-1"\n    } }]}',
    ),
    "empty gate": (
        b'{"items": [{\n  "gate": { },\n  "id": "a"\n}]}',
        b'{"items": [{\n  "gate": {\n    "status": "succeeded",\n    "run_id": "r-1"\n  },\n  "id": "a"\n}]}',
    ),
    "gate in a line of its own": (
        b'{"items": [{\n  "id": "a",\n  "gate": {"status": "failed"}\n}]}',
        b'{"items": [{\n  "id": "a",\n  "gate": {"status": "succeeded", "run_id": "r-1"}\n}]}',
    ),
    "comma first": (
        b'{"items": [{ "id": "a"\n  , "title": "t"\n  }]}',
        b'{"items": [{ "id": "a"\n  , "title": "t"\n'
        b'  , "gate": { "status": "succeeded"\n  , "run_id": "r-1"\n  }\n  }]}',
    ),
    "values of any kind": (
        b'{"items": [{"id": "a", "gate": {"n": [1, {"b": "}"}]}, "gates": "\\"gate\\": {}"}]}',
        b'{"items": [{"id": "a", "gate": {"status": "succeeded", "run_id": "r-1"}, "gates": "\\"gate\\": {}"}]}',
    ),
    "keys and ids spelled with escapes": (
        b'{"items": [{"\\u0069d": "\\u0061", "g\\u0061te": {"b": "c"}}]}',
        b'{"items": [{"\\u0069d": "\\u0061", "g\\u0061te": {"status": "succeeded", "run_id": "r-1"}}]}',
    ),
    "a gate elsewhere": (
        b'{"gate": {}, "b": [{"id": "a"}], "items": [{"b": {"id": "b", "gate": {}}, "id": "a"}]}',
        b'{"gate": {}, "b": [{"id": "a"}], "items": [{"b": {"id": "b", "gate": {}}, "id": "a", '
        b'"gate": {"status": "succeeded", "run_id": "r-1"}}]}',
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_gate_is_written_as_the_file_around_it(name: str) -> None:
    before, after = LAYOUTS[name]
    assert set_gate(before, INDEX, "a", GATE) == after
    assert set_gate(after, INDEX, "a", GATE) == after
    assert gates(after, INDEX)["a"] == GATE


SAME = {
    "no such task": (PRETTY, "0003", GATE),
    "no task": (b'{"items": [ ]}\r\n', "a", GATE),
    "the same gate": (PRETTY_SET, "0001-demo", GATE),
    "the same gate in another order": (PRETTY_SET, "0001-demo", dict(reversed(GATE.items()))),
}


@pytest.mark.parametrize("name", SAME)
def test_nothing_to_say_changes_nothing(name: str) -> None:
    before, task_id, gate = SAME[name]
    assert set_gate(before, INDEX, task_id, gate) == before


def test_text_beyond_ascii_is_written_as_the_file_writes_it() -> None:
    gate = {"summary": '\u00e9 "\n'}
    plain = set_gate(b'{"items": [{"id": "a"}]}', INDEX, "a", gate)
    assert plain == b'{"items": [{"id": "a", "gate": {"summary": "\\u00e9 \\"\\n"}}]}'
    local = set_gate('{"items": [{"id": "a", "t": "\u00fc"}]}'.encode(), INDEX, "a", gate)
    assert local == '{"items": [{"id": "a", "t": "\u00fc", "gate": {"summary": "\u00e9 \\"\\n"}}]}'.encode()


def test_an_empty_gate_is_a_gate() -> None:
    assert set_gate(b'{"items": [{"id": "a"}]}', INDEX, "a", {}) == b'{"items": [{"id": "a", "gate": {}}]}'
    assert set_gate(PRETTY_ADDED, INDEX, "0002", {}) == PRETTY.replace(b'"B"', b'"B", "gate": {}')


def test_gates_are_told_by_task() -> None:
    assert gates(PRETTY, INDEX) == {"0001-demo": {"status": "failed"}, "0002": {}}


REFUSED = {
    b"": "tasks/index.json:1:1: is not JSON: Expecting value",
    b'{\n  "items": [,]}': "tasks/index.json:2:13: is not JSON: Expecting value",
    b'{"items": []} x': "tasks/index.json:1:15: is not JSON: Extra data",
    b'{"items": [{"id": "a\n"}]}': "tasks/index.json:1:21: is not JSON: Invalid control character at",
    b'{"items":\r\n \xc3\xa9 \xff}': "tasks/index.json:2:4: is not UTF-8",
    b'{"items": [NaN]}': "tasks/index.json: is not JSON: a number is NaN, infinite or too long",
    b'{"items": [%b]}' % (b"1" * 5000): "tasks/index.json: is not JSON: a number is NaN, infinite or too long",
    b'{"items": %b}' % (b"[" * 100_000 + b"]" * 100_000): "tasks/index.json: is nested too deeply",
    b" []": 'tasks/index.json:1:2: is not an object; write {"items": [...]}',
    b"{}": 'tasks/index.json:1:1: `items` is not a list; write {"items": [...]}',
    b'{"items": {}}': 'tasks/index.json:1:11: `items` is not a list; write {"items": [...]}',
    b'{"items": [], "items": []}': "tasks/index.json:1:15: key 'items' stands twice in one object",
    b'{"items": [\n "a"]}': 'tasks/index.json:2:2: an item is not an object; write {"id": "0001-demo"}',
    b'{"items": [{}]}': "tasks/index.json:1:12: an item has no string `id`",
    b'{"items": [{"id": 1}]}': "tasks/index.json:1:19: an item has no string `id`",
    b'{"items": [{"id": "a"},\n  {"id": "a"}]}': "tasks/index.json:2:10: task a stands twice in the registry",
    b'{"items": [{"id": "b", "gate": null}]}': "tasks/index.json:1:32: the gate of b is not an object",
    b" " * (FILE_BYTES_MAX + 1): "tasks/index.json: 4194305 bytes are more than the 4194304 a registry may have",
}


@pytest.mark.parametrize("data", REFUSED, ids=lambda data: data[:30].decode("ascii", "replace"))
def test_what_is_no_registry_is_refused_with_place_and_reason(data: bytes) -> None:
    uses: tuple[Callable[[], Any], ...] = (lambda: gates(data, INDEX), lambda: set_gate(data, INDEX, "a", GATE))
    for use in uses:
        with pytest.raises(ContentError) as caught:
            use()
        assert str(caught.value) == REFUSED[data]


AMBIGUOUS = {
    b'{"items": [{"id": "b", "id": "a"}]}': "tasks/index.json:1:24: key 'id' stands twice in one object",
    b'{"items": [{"id": "a", "gate": {"b": 1, "b": 2}}]}': "tasks/index.json:1:41: key 'b' stands twice in one object",
}


@pytest.mark.parametrize("data", AMBIGUOUS)
def test_an_entry_that_says_something_twice_is_not_edited_and_stops_no_other(data: bytes) -> None:
    with pytest.raises(ContentError) as caught:
        set_gate(data, INDEX, "a", GATE)
    assert str(caught.value) == AMBIGUOUS[data]
    beside = data.replace(b"[{", b'[{"id":"c"},{', 1)
    assert set_gate(beside, INDEX, "c", {}) == beside.replace(b'"c"', b'"c","gate":{}')


def test_depth_is_refused_or_read_but_never_a_crash() -> None:
    for depth in range(800, 1100):
        data = b'{"items": [{"id": "a", "gate": {"b": %b}}]}' % (b"[" * depth + b"]" * depth)
        try:
            assert json.loads(set_gate(data, INDEX, "a", GATE))["items"] == [{"id": "a", "gate": GATE}]
        except ContentError as error:
            assert str(error) == "tasks/index.json: is nested too deeply"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
TASKS = st.dictionaries(st.text(), st.dictionaries(st.text().filter(lambda key: key not in ("id", "gate")), JSON))
PLAIN_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
DUMPS: list[Mapping[str, Any]] = [
    {},
    {"indent": 2},
    {"indent": "\t"},
    {"indent": 0},
    {"separators": (",", ":")},
    {"indent": 1, "separators": (",", " : ")},
]


@given(
    tasks=TASKS, gate=st.dictionaries(PLAIN_TEXT, PLAIN_TEXT, max_size=3), dump=st.sampled_from(DUMPS), data=st.data()
)
def test_whatever_the_registry_holds_the_gate_is_all_that_changes(
    tasks: dict[str, dict[str, Any]], gate: dict[str, str], dump: Mapping[str, Any], data: st.DataObject
) -> None:
    registry: dict[str, Any] = {"items": [{"id": task_id, **more} for task_id, more in tasks.items()], "x": "y"}
    before = json.dumps(registry, **dump).encode()
    task_id = data.draw(st.sampled_from(["no such", *tasks]))
    for each in registry["items"]:
        if each["id"] == task_id:
            each["gate"] = gate
    after = json.dumps(registry, **dump).encode()
    assert set_gate(before, INDEX, task_id, gate) == after
    assert json.loads(set_gate(set_gate(before, INDEX, task_id, GATE), INDEX, task_id, gate)) == registry


def test_a_large_registry_is_edited_in_a_moment() -> None:
    registry = {"items": [{"id": f"{number:05}", "title": "t" * 60, "gate": GATE} for number in range(10_000)]}
    data = json.dumps(registry, indent=2).encode()
    started = time.process_time()
    assert set_gate(data, INDEX, "05000", GATE | {"status": "failed"}).count(b"failed") == 1
    assert time.process_time() - started < 5
