"""Pages as values: what hostile text becomes, that every link leads somewhere, what the picture of stages shows."""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.checklist import Item
from reconciler.model import Problem, Rejection
from reconciler.pagefiles import read_assets, read_templates
from reconciler.pages import places, views
from reconciler.pages.render import Pages, Site
from reconciler.pages.text import LINE_CHARACTERS_MAX, LINES_MAX, instant, log_text, size, took, visible
from reconciler.pages.timeline import timeline
from reconciler.pages.views import EvidenceNote, Line, RunView

SCHEMA = Path(__file__).resolve().parents[2] / "schemas" / "manifest.schema.json"
PAGES = Pages(read_templates())
LIVE = Site(name="demo", live=True, said="As the last pass saw it.", commit="4b825dc642cb6eb9a060e54bf8d69288fbee4904")
STATIC = replace(LIVE, live=False)
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b[31m\x00\u202egnp.exe{{ 7*7 }}{% raw %}"
RUN = "0001-diagnostics-1a2b3c4d"


def document(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(SCHEMA.read_text())["examples"][0]
    return found | changes


def line(**changes: Any) -> Line:
    found = Line(run_id=RUN, task_id="0001-demo", name="0001-diagnostics", phase="succeeded", at="2026-03-01T09:30:12Z")
    return replace(found, **changes)


def view(**changes: Any) -> RunView:
    note = EvidenceNote(committed=True, path=f".runs/0001-demo/cli/{RUN}/manifest.json", commit="4b825dc642")
    found = RunView(line=line(), document=document(), evidence=note)
    return replace(found, **changes)


class Read(HTMLParser):
    """What a browser would make of a page: its elements, its links and ids, and whether elements close as they open."""

    VOID = frozenset({"meta", "link", "input", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, each, value in self.attributes if each == name]


def problem() -> Rejection:
    return Rejection(path=HOSTILE, problems=(Problem(path=HOSTILE, reason=HOSTILE, rule="x"),))


def item(**changes: Any) -> Item:
    found = Item(id="a", line=1, column=1, ticked=True, text=HOSTILE, evidence_run=HOSTILE, evidence_path=HOSTILE)
    return replace(found, **changes)


def hostile_document() -> dict[str, Any]:
    found = document(title=HOSTILE, summary=HOSTILE, parameters={"p": HOSTILE}, labels=[HOSTILE], branch=HOSTILE)
    answer = {"verdict": HOSTILE, "reason": "", "summary": HOSTILE, "detail": {}, "files": []}
    changes = {"title": HOSTILE, "command": HOSTILE, "summary": HOSTILE, "status": "failed", "answer": answer}
    found["commands"] = [found["commands"][0] | changes]
    found["attempts"] = [found["attempts"][0] | {"reason": HOSTILE, "actor": HOSTILE, "detail": HOSTILE}] * 2
    found["approvals"] = [
        {"stage": HOSTILE, "decision": None, "prompt": HOSTILE, "asked_at": HOSTILE, "policy": HOSTILE, "actor": ""}
        | {"at": None, "reason": HOSTILE}
    ]
    found["resume_events"] = [{"at": HOSTILE, "outcome": "refused", "actor": HOSTILE, "detail": HOSTILE}]
    return found


def everything(site: Site) -> dict[str, str]:
    """Return a page of every kind, with hostile text wherever others may write."""
    bad = line(detail=HOSTILE, reason=HOSTILE, at=None, phase="waiting")
    command = hostile_document()["commands"][0]
    ends = {"build": HOSTILE.encode()}
    run = view(document=hostile_document(), reasons=[HOSTILE], damage=[HOSTILE], ends=ends)
    return {
        "list": views.list_page(PAGES, site, [bad], query=HOSTILE, notices=[HOSTILE]),
        "run": views.run_page(PAGES, site, run, {RUN}),
        "log": views.log_page(PAGES, site, bad, command, HOSTILE.encode(), HOSTILE, "x.txt", 1),
        "tasks": views.tasks_page(PAGES, site, views.task_lines([bad], {})),
        "task": views.task_page(PAGES, site, "0001-demo", [bad], [item()], {}, [HOSTILE]),
        "queue": views.queue_page(PAGES, site, [bad], [problem()], HOSTILE, [HOSTILE]),
        "message": views.message_page(PAGES, site, "x/y", HOSTILE, HOSTILE),
    }


KINDS = sorted(everything(LIVE))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("site", [LIVE, STATIC], ids=["live", "static"])
def test_what_others_wrote_is_shown_and_never_obeyed(kind: str, site: Site) -> None:
    page = everything(site)[kind]
    found = Read(page)
    assert "img" not in found.tags
    assert found.tags.count("script") == 1
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    if kind != "tasks":
        assert "{{ 7*7 }}" in "".join(found.text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("site", [LIVE, STATIC], ids=["live", "static"])
def test_a_page_holds_no_script_and_no_style_and_loads_only_what_lies_beside_it(kind: str, site: Site) -> None:
    found = Read(everything(site)[kind])
    assert "style" not in found.tags
    assert found.values("style") == []
    assert [name for _, name, _ in found.attributes if name.startswith("on")] == []
    assert [each for each in found.values("src") if not re.fullmatch(r"(\.\./)*assets/live\.js", each)] == []
    assert [each for each in found.values("href") if "//" in each or each.startswith("/")] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_can_be_walked_through(kind: str) -> None:
    """Landmarks, one main heading, no level left out, names for what has none, ids that are unique."""
    found = Read(everything(LIVE)[kind])
    levels = [int(each[1]) for each in found.tags if re.fullmatch("h[1-6]", each)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert [found.tags.count(each) for each in ("main", "header", "footer")] == [1, 1, 1]
    assert ("html", "lang", "en") in found.attributes
    ids = found.values("id")
    assert len(ids) == len(set(ids))
    pointed = [*found.values("aria-labelledby"), *found.values("for")]
    pointed += [each[1:] for each in found.values("href") if each.startswith("#")]
    assert set(pointed) <= set(ids)
    pictures = sum(tag == "svg" for tag in found.tags)
    assert (
        sum(tag == "svg" and name == "aria-label" and bool(value) for tag, name, value in found.attributes) == pictures
    )


@pytest.mark.parametrize("kind", KINDS)
def test_times_can_be_read_by_programs(kind: str) -> None:
    assert all(value for tag, name, value in Read(everything(LIVE)[kind]).attributes if name == "datetime")


def test_every_place_is_known_by_its_pattern_and_leads_back() -> None:
    log = f".runs/t/cli/{RUN}/commands/01-build.2.log"
    assert places.RUN.fullmatch(places.run("t", RUN))
    assert places.LOG.fullmatch(places.log("t", RUN, log))
    assert places.LOG.fullmatch(places.log("t", RUN, log, "txt"))
    assert places.MANIFEST.fullmatch(places.manifest("t", RUN))
    assert places.TASK.fullmatch(places.task("t"))
    for group in ("", *places.GROUPS):
        for number in (1, 2, 10):
            place = places.listed(group, number)
            assert place == places.HOME or places.LISTED.fullmatch(place)
    assert posixpath.normpath(f"{posixpath.dirname(places.run('t', RUN))}/{places.up(places.run('t', RUN))}") == "."


@pytest.mark.parametrize(
    "place", ["runs/../x.html", "runs/a/../b.html", "logs/a/b/../../x.html", "tasks/.html", "runs/a/b/c.html"]
)
def test_no_place_leads_out(place: str) -> None:
    patterns = (places.RUN, places.LOG, places.MANIFEST, places.TASK, places.LISTED)
    assert not any(each.fullmatch(place) for each in patterns)


def test_a_list_is_cut_into_pages_and_says_so() -> None:
    lines = [line(run_id=f"{number:04d}-x-1a2b3c4d") for number in range(450)]
    assert views.page_count(lines) == 3
    third = views.list_page(PAGES, LIVE, lines, number=3)
    assert "401 to 450 of 450 runs" in third
    assert 'href="../list/all-2.html"' in third
    assert "older →" not in third
    found = Read(views.list_page(PAGES, LIVE, lines, query="0007"))
    assert sum(value == "run" for value in found.values("class")) == 1


def test_a_list_can_be_narrowed_without_a_script() -> None:
    lines = [line(), line(run_id="0002-x-1a2b3c4d", phase="failed"), line(run_id="0003-x-1a2b3c4d", phase="damaged")]
    page = views.list_page(PAGES, STATIC, lines)
    assert 'href="list/failed.html"' in page
    assert 'href="list/damaged.html"' in page
    assert 'href="list/cancelled.html"' not in page
    assert "0001-diagnostics" not in views.list_page(PAGES, STATIC, lines, "failed")


def test_a_name_that_is_not_there_is_an_error_and_no_empty_place() -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        PAGES.page("message", "x", LIVE, heading="x")


# ------------------------------------------------------------------------------------------------ text


@given(st.text())
def test_what_is_visible_stays_and_nothing_else_does(text: str) -> None:
    found = visible(text)
    assert found == visible(found)
    assert all(
        each.isprintable() or each in "\n\t" or each.isspace() or each in "\u200c\u200d" or ord(each) > 0xFF
        for each in found
    )
    found.encode()


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\x1b[1;32mok\x1b[0m\n", "ok"),
        (b"\x1b]0;title\x07x\r\ny\n", "x\ny"),
        (b"10%\r20%\rdone\n", "10%\n20%\ndone"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("\u202edrow".encode(), "⟨U+202E⟩drow"),
        (b"\x00\x07", "␀␇"),
        (b"", ""),
        (b"\n", ""),
    ],
)
def test_a_log_is_shown_without_what_a_terminal_obeys(data: bytes, shown: str) -> None:
    assert log_text(data).text == shown


def test_a_line_of_a_megabyte_and_a_million_lines_are_bounded() -> None:
    long = log_text(b"x" * 1_000_000).text
    assert len(long) < LINE_CHARACTERS_MAX + 100
    assert "998000 characters left out" in long
    many = log_text(b"y\n" * 1_000_000)
    assert len(many.lines) == LINES_MAX
    assert many.left_out == "980000 earlier lines are left out here"


@settings(deadline=1000)
@given(st.binary())
def test_any_bytes_are_a_log(data: bytes) -> None:
    assert "\x1b" not in log_text(data).text


def test_numbers_are_said_as_people_say_them() -> None:
    assert [size(each) for each in (0, 512, 1536, 20 << 20, 5 << 40)] == [
        "0 B",
        "512 B",
        "1.5 KiB",
        "20 MiB",
        "5120 GiB",
    ]
    assert [took(each) for each in (None, 0.44, 185, 7800, 260000)] == [
        "–",
        "0.4 s",
        "3 min 05 s",
        "2 h 10 min",
        "3 days",
    ]
    assert [instant(each) for each in (None, "", "2026-03-01T09:30:12.5Z", "soon")] == [
        "–",
        "–",
        "2026-03-01 09:30:12",
        "soon",
    ]


# ------------------------------------------------------------------------------------------------ the picture


def stage(name: str, start: int | None, end: int | None) -> dict[str, Any]:
    def at(minutes: int | None) -> str | None:
        return (
            None
            if minutes is None
            else f"2026-03-{1 + minutes // 1440:02d}T{minutes % 1440 // 60:02d}:{minutes % 60:02d}:00Z"
        )

    return {"id": name, "started_at": at(start), "completed_at": at(end)}


def test_stages_stand_where_they_worked() -> None:
    found = timeline([stage("a", 0, 10), stage("b", 10, 40), stage("c", 10, 20), stage("d", None, None)], None)
    assert {name: (bar.at, bar.width) for name, bar in found.bars.items()} == {
        "a": (0, 25),
        "b": (25, 75),
        "c": (25, 25),
    }
    assert (found.busy_s, found.total_s, found.gaps) == (2400, 2400, ())
    assert found.bars["b"].began_s == 600


def test_a_night_at_a_gate_does_not_press_the_stages_together() -> None:
    found = timeline([stage("a", 0, 10), stage("b", 600, 610)], None)
    assert found.bars["a"].width > 45
    assert found.bars["b"].width > 45
    assert [each.seconds for each in found.gaps] == [590 * 60]
    assert found.total_s == 610 * 60


def test_what_runs_goes_on_until_now() -> None:
    found = timeline([stage("a", 0, 10), stage("b", 10, None)], "2026-03-01T00:20:00Z")
    assert (found.bars["b"].at, found.bars["b"].width) == (50, 50)


def test_times_that_are_none_make_no_picture() -> None:
    wrong = [
        {"id": "a", "started_at": "soon", "completed_at": None},
        {"id": "b", "started_at": None, "completed_at": None},
    ]
    assert timeline(wrong, "later").bars == {}


spans = st.tuples(st.integers(0, 40_000), st.integers(0, 40_000))


@given(st.lists(spans, min_size=1, max_size=12))
def test_a_bar_is_never_outside_the_picture(found: list[tuple[int, int]]) -> None:
    bars = timeline([stage(str(index), *sorted(each)) for index, each in enumerate(found)], None).bars
    assert len(bars) == len(found)
    assert all(
        0 <= each.at <= 100 and 0 < each.width <= 100.01 and each.at + each.width <= 100.02 for each in bars.values()
    )


# ------------------------------------------------------------------------------------------------ colours


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.03928 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_what_it_stands_on(dark: bool) -> None:
    """AA asks for 4.5 for text and 3 for what carries meaning."""
    style = read_assets()["style.css"].decode()
    light, _, rest = style.partition("@media (prefers-color-scheme: dark)")
    words = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", light))
    words |= dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", rest)) if dark else {}
    for ink in ("ink", "quiet", "accent"):
        for paper in ("paper", "card", "code"):
            assert contrast(words[ink], words[paper]) >= 4.5, (ink, paper)
    for state in ("ok", "bad", "busy", "wait", "lost", "calm"):
        assert contrast(words[f"{state}-ink"], words[f"{state}-paper"]) >= 4.5, state
        assert contrast(words[state], words["card"]) >= 3, state
