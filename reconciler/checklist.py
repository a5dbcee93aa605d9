"""Checklists and the registry of tasks: what they say, and the few bytes that evidence changes in them.

An item carries its id in a comment that the rendered page does not show, and its evidence as a link:

    - [ ] Tests green <!-- item: 0001-demo/tests-green -->
    - [x] Tests green; Evidence: [<run-id>](<path to the manifest>) <!-- item: 0001-demo/tests-green -->

The registry, `tasks/index.json`, names the gate of every task: `{"items": [{"id": ..., "gate": {...}}]}`.

Bytes in, bytes out. Which line is an item comes from a Markdown parser, where a gate stands from a JSON
decoder; the edit is made by hand in that span alone, because formatters change lines nobody asked them to.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from reconciler.errors import ContentError
from reconciler.model import Link, Problem, Severity
from reconciler.values import frozen

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

FILE_BYTES_MAX = 4 * 1024 * 1024
LINES_MAX = 20_000
NESTING_MAX = 32
"""Levels of Markdown blocks: a list counts two, a quote one, a paragraph one."""

ITEM_ID_CHARACTERS_MAX = 200

_BOM = b"\xef\xbb\xbf"


# ---------------------------------------------------------------------------------------------- checklists


@frozen
class Item:
    """One line of a checklist. `evidence_path` is relative to the file the item stands in, as its link is."""

    id: str
    line: int
    column: int
    ticked: bool
    text: str
    evidence_run: str | None = None
    evidence_path: str | None = None


def items(data: bytes, path: str = "checklist") -> tuple[Item, ...]:
    """Return every item of a Markdown file, in the order of its lines. Raise ContentError beyond our bounds."""
    return tuple(_item(place) for place in _places(data, path))


def problems(data: bytes, path: str) -> tuple[Problem, ...]:
    """Return what is wrong with the item comments of a Markdown file; comments in code are never wrong."""
    found = list(_survey(data, path))
    wrong = [each for each in found if isinstance(each, Problem)]
    places = [each for each in found if isinstance(each, _Place)]
    return tuple(sorted([*wrong, *_repeated(places, path)], key=lambda each: (each.line, each.column)))


def tick(data: bytes, evidence: Mapping[str, Link], path: str) -> bytes:
    """Return `data` with every item that `evidence` proves ticked and linked; no other line changes.

    `path` is the repo-relative path of the file itself: the links are relative to it.
    """
    proven = (place for place in _places(data, path) if place.id in evidence)
    edited = {place.line_index: _ticked(place, _spell(evidence[place.id], path)) for place in proven}
    if not edited:
        return data
    lines = enumerate(data.splitlines(keepends=True))
    return b"".join(edited.get(line_index, line) for line_index, line in lines)


@frozen
class _Place:
    """Where the parts of an item stand: its line with what ends it, and byte offsets into that line."""

    id: str
    line_index: int
    line: bytes
    box: int
    comment: tuple[int, int]
    links: tuple[tuple[int, int], ...]


@frozen
class _Text:
    """A piece of running text between two block boundaries, and the index of its first line."""

    line_index: int
    content: str
    opens_item: bool


_COMMENTS_MAX = 10
"""Item comments that are judged in one paragraph: one is right, a few tell what is wrong, each costs its length."""

_CANDIDATE = re.compile(rb"<!--[ \t]*item[ \t]*:")
_COMMENT = re.compile(r"<!--[ \t]*item[ \t]*:(.*?)-->", re.DOTALL)
_ITEM_ID = re.compile(r"[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*")
_BOX = re.compile(r"\[[ xX]\][ \t]")
_OPENER = re.compile(r"\\[\\`<\[\]()]|`+|<!--")
_LABEL = r"\[([^\[\]<>]*)\]"
_TARGET = r"\((<[^<>]*>|(?:[^()<>]|\([^()<>]*\))*)\)"
_EVIDENCE = re.compile("; ?Evidence: ?" + _LABEL + _TARGET)


def _places(data: bytes, path: str) -> Iterator[_Place]:
    for each in _survey(data, path):
        if isinstance(each, _Place):
            yield each
        elif each.severity is Severity.ERROR:
            raise ContentError(each.sentence())


def _survey(data: bytes, path: str) -> Iterator[_Place | Problem]:
    """Yield every item, every item comment that makes none, or the one reason why the file is not read."""
    if not _CANDIDATE.search(data):
        return
    lines = data.splitlines(keepends=True)
    if reason := _oversize(data, lines):
        yield Problem(path=path, reason=reason, rule="checklist-bounds", cure="split the file")
        return
    tokens = _parser().parse(_plain(data.removeprefix(_BOM)))
    if any(token.nesting == 1 and token.level >= NESTING_MAX - 1 for token in tokens):
        # The parser leaves out whatever follows a line that is nested this deep.
        reason = f"lists and quotes are nested {NESTING_MAX} levels deep or more"
        yield Problem(path=path, reason=reason, rule="checklist-bounds", cure="flatten them")
        return
    for text in _texts(tokens):
        yield from _judge(text, lines, path)


def _oversize(data: bytes, lines: list[bytes]) -> str:
    if len(data) > FILE_BYTES_MAX:
        return f"{len(data)} bytes are more than the {FILE_BYTES_MAX} a checklist may have"
    if len(lines) > LINES_MAX:
        return f"{len(lines)} lines are more than the {LINES_MAX} a checklist may have"
    return ""


@cache
def _parser() -> MarkdownIt:
    """Return a parser of blocks alone; the import waits here because most files hold no item and need none."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"maxNesting": NESTING_MAX}).disable(["inline", "text_join", "reference"])


_PLAIN = bytes(byte if byte in b"\t\n\r" or 32 <= byte < 127 else ord(",") for byte in range(256))


def _plain(data: bytes) -> str:
    """Return `data` as text in which every character is one byte.

    No byte outside ASCII means anything to Markdown's blocks, and a comma means nothing to them either; so the
    parser sees the same blocks, whatever the encoding, and its offsets are ours.
    """
    return data.translate(_PLAIN).decode("ascii")


def _texts(tokens: list[Token]) -> Iterator[_Text]:
    """Yield paragraphs, headings and HTML: all that may hold a comment. Code blocks are left out."""
    for index, token in enumerate(tokens):
        if token.map is not None and token.type in ("inline", "html_block"):
            around = [each.type for each in tokens[max(0, index - 2) : index]]
            opens_item = around == ["list_item_open", "paragraph_open"]
            yield _Text(line_index=token.map[0], content=token.content, opens_item=opens_item)


def _judge(text: _Text, lines: list[bytes], path: str) -> Iterator[_Place | Problem]:
    """Yield an item for the first good comment in the line of a checkbox, a problem for any other comment."""
    spans = list(_spans(text.content))
    comments = (found for span in spans if (found := _COMMENT.fullmatch(text.content, *span)))
    boxed = text.opens_item and _BOX.match(text.content) is not None
    taken = False
    for comment in islice(comments, _COMMENTS_MAX):
        if fault := _fault(text, comment, boxed=boxed, taken=taken):
            yield _problem(text, comment, lines, path, fault)
        else:
            taken = True
            yield _place(text, comment, lines, spans)


@frozen
class _Fault:
    rule: str
    reason: str
    cure: str


_FAULT_LINE = _Fault(
    rule="checklist-line",
    reason="an item comment stands on a line that is no item",
    cure="put it at the end of a line such as `- [ ] Tests green`",
)
_FAULT_TWO = _Fault(
    rule="checklist-two-ids",
    reason="a second item comment stands on one line",
    cure="give every item a line of its own",
)


def _fault(text: _Text, comment: re.Match[str], *, boxed: bool, taken: bool) -> _Fault | None:
    id = _id(comment)
    if len(id) > ITEM_ID_CHARACTERS_MAX or not _ITEM_ID.fullmatch(id):
        cure = f"write words of a-z, 0-9, `.`, `_`, `-`, joined by `/`, {ITEM_ID_CHARACTERS_MAX} characters at most"
        return _Fault(rule="checklist-id", reason=f"{id[:ITEM_ID_CHARACTERS_MAX]!r} is no item id", cure=cure)
    if not boxed or "\n" in text.content[: comment.start()]:
        return _FAULT_LINE
    return _FAULT_TWO if taken else None


def _id(comment: re.Match[str]) -> str:
    return comment[1].strip(" \t")


def _problem(text: _Text, comment: re.Match[str], lines: list[bytes], path: str, fault: _Fault) -> Problem:
    line_index = text.line_index + text.content.count("\n", 0, comment.start())
    line = lines[line_index]
    return Problem(
        path=path,
        reason=fault.reason,
        rule=fault.rule,
        cure=fault.cure,
        line=line_index + 1,
        column=_column(line, _offset(line, text, comment)),
        severity=Severity.WARNING,
    )


def _place(text: _Text, comment: re.Match[str], lines: list[bytes], spans: list[tuple[int, int]]) -> _Place:
    """Return where the parts of an item are; its text begins with the checkbox and shifts as a whole."""
    line = lines[text.line_index]
    start = _offset(line, text, comment) - comment.start()
    first_line = _masked(text.content, spans).split("\n", 1)[0]
    return _Place(
        id=_id(comment),
        line_index=text.line_index,
        line=line,
        box=start,
        comment=(start + comment.start(), start + comment.end()),
        links=tuple((start + link.start(), start + link.end()) for link in _EVIDENCE.finditer(first_line)),
    )


def _offset(line: bytes, text: _Text, comment: re.Match[str]) -> int:
    """Return where in `line` the comment starts.

    The last occurrence of the rest of the text's line is it: any later one would have to hold as many comments.
    """
    rest = text.content[comment.start() :].split("\n", 1)[0]
    return _plain(line).rindex(rest.rstrip())


def _column(line: bytes, offset: int) -> int:
    return len(line[:offset].removeprefix(_BOM).decode("utf-8", "replace")) + 1


def _spans(content: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of all that is not plain text: escapes, code spans and comments.

    One sweep from left to right, in linear time whatever is opened and never closed.
    """
    run_ends: dict[int, deque[int]] = {}
    for run in re.finditer("`+", content):
        run_ends.setdefault(len(run[0]), deque()).append(run.end())
    position = 0
    comment_last = content.rfind("-->")
    while opener := _OPENER.search(content, position):
        start, position = opener.span()
        if opener[0].startswith("`"):
            position = _code_end(run_ends.get(len(opener[0]), deque()), position)
        elif opener[0] == "<!--" and start + 2 <= comment_last:
            # `<!-->` is a whole comment: its dashes may be those of the end.
            position = content.index("-->", start + 2) + 3
        yield start, position


def _code_end(run_ends: deque[int], position: int) -> int:
    """Return where a code span ends that opened before `position`: there, if nothing closes it."""
    while run_ends and run_ends[0] <= position:
        run_ends.popleft()
    return run_ends[0] if run_ends else position


def _masked(content: str, spans: list[tuple[int, int]]) -> str:
    """Return `content` with its spans blanked: code by what a link may contain, a comment by what it may not."""
    pieces, position = [], 0
    for start, end in spans:
        blank = "<" if content[start] == "<" else ","
        pieces += [content[position:start], re.sub(r"[^\n]", blank, content[start:end])]
        position = end
    return "".join([*pieces, content[position:]])


def _repeated(places: list[_Place], path: str) -> Iterator[Problem]:
    """Yield a warning for every item whose id an earlier one has: evidence for one ticks both."""
    first: dict[str, int] = {}
    for place in places:
        line = first.setdefault(place.id, place.line_index) + 1
        if line != place.line_index + 1:
            yield Problem(
                path=path,
                reason=f"item {place.id} stands on line {line}, too",
                rule="checklist-repeated-id",
                cure="one piece of evidence ticks both; give each an id of its own",
                line=place.line_index + 1,
                column=_column(place.line, place.comment[0]),
                severity=Severity.WARNING,
            )


def _item(place: _Place) -> Item:
    hidden = [(0, place.box + 3), place.comment, *place.links]
    text = _edited(place.line, [(start, end, b"") for start, end in hidden])
    run_id, evidence_path = _link_parts(place)
    return Item(
        id=place.id,
        line=place.line_index + 1,
        column=_column(place.line, place.box),
        ticked=place.line[place.box + 1 : place.box + 2] != b" ",
        text=text.decode("utf-8", "replace").strip(),
        evidence_run=run_id,
        evidence_path=evidence_path,
    )


def _link_parts(place: _Place) -> tuple[str, str] | tuple[None, None]:
    """Return label and target of the item's first evidence link."""
    if not place.links:
        return None, None
    start, end = place.links[0]
    label, _, target = place.line[start:end].decode("utf-8", "replace").partition("](")
    return label.partition("[")[2], unquote(target[:-1].removeprefix("<").removesuffix(">"))


def _spell(link: Link, path: str) -> bytes:
    """Return the evidence as it stands in the file at `path`, with nothing in it that Markdown could misread."""
    # Both paths are made absolute, or `relpath` would ask the process for its directory.
    relative = posixpath.relpath("/" + link.manifest_path, "/" + posixpath.dirname(path))
    target = quote(relative, errors="surrogateescape")
    return f"; Evidence: [{quote(link.run_id)}]({target})".encode("ascii")


def _ticked(place: _Place, link: bytes) -> bytes:
    """Return the item's line, ticked and with `link` as its only evidence: where the first was, else after the text."""
    text_end = _text_end(place)
    first, *others = place.links or [(text_end, text_end)]
    mark = place.line[place.box + 1 : place.box + 2].replace(b" ", b"x")
    removals = [(start, end, b"") for start, end in others]
    return _edited(place.line, [(place.box + 1, place.box + 2, mark), (*first, link), *removals])


def _edited(line: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Return `line` with each span, none of which overlap, replaced."""
    pieces, position = [], 0
    for start, end, new in sorted(edits):
        pieces += [line[position:start], new]
        position = end
    return b"".join([*pieces, line[position:]])


def _text_end(place: _Place) -> int:
    """Return where the text before the comment ends; the blank that makes a box of `[ ]` belongs to the text."""
    return max(len(place.line[: place.comment[0]].rstrip(b" \t")), place.box + 4)


# ---------------------------------------------------------------------------------------------- the registry


def gates(data: bytes, path: str) -> Mapping[str, Mapping[str, object]]:
    """Return the gate of every task in the registry, an empty one where it has none. Raise ContentError."""
    entries = _entries(_json_text(data, path), path)
    return {task_id: entry.value.get("gate", {}) for task_id, entry in entries.items()}


def set_gate(data: bytes, path: str, task_id: str, gate: Mapping[str, str]) -> bytes:
    """Return the registry with the gate of one task replaced or added, written as the text around it is.

    A task that is not there, or whose gate says so already, changes nothing. Raise ContentError.
    """
    text = _json_text(data, path)
    entry = _entries(text, path).get(task_id)
    if entry is None or entry.value.get("gate") == gate:
        return data
    start, end, spelled = _gate_edit(text, path, entry, gate)
    bom = data[: len(_BOM)] if data.startswith(_BOM) else b""
    return bom + (text[:start] + spelled + text[end:]).encode()


def add_task(data: bytes, path: str, task: Mapping[str, object]) -> bytes:
    """Return the registry with one task more at its end, written as the last one before it is.

    `task` is its keys and values, the `id` among them. Raise ContentError, also if there is a task of that id.
    """
    text = _json_text(data, path)
    known = _entries(text, path)
    if task["id"] in known:
        found = known[str(task["id"])]
        raise _refusal(path, text, found.start, f"task {task['id']} is in the registry already", "choose another id")
    start, end, spelled = _task_edit(text, path, list(known.values()), task)
    bom = data[: len(_BOM)] if data.startswith(_BOM) else b""
    return bom + (text[:start] + spelled + text[end:]).encode()


@frozen
class _Value:
    """A JSON value and where its text starts and ends; a member's key, too."""

    key_start: int = 0
    key_end: int = 0
    start: int
    end: int
    value: Any


@frozen
class _Layout:
    """What stands between the tokens of an object: after its brace, between members, inside one, at the end."""

    lead: str
    comma: str
    colon: str
    tail: str


def _json_text(data: bytes, path: str) -> str:
    """Return the text of a JSON file. Raise ContentError when it is too large or not JSON."""
    if len(data) > FILE_BYTES_MAX:
        raise ContentError(f"{path}: {len(data)} bytes are more than the {FILE_BYTES_MAX} a registry may have")
    body = data.removeprefix(_BOM)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        before = body[: error.start].decode()
        raise _refusal(path, before, len(before), "is not UTF-8") from None
    _check_json(text, path)
    return text


def _check_json(text: str, path: str) -> None:
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _refusal(path, text, error.pos, f"is not JSON: {error.msg}") from None
    except ValueError:
        raise ContentError(f"{path}: is not JSON: a number is NaN, infinite or too long") from None
    except RecursionError:
        raise ContentError(f"{path}: is nested too deeply") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(name)


def _refusal(path: str, text: str, offset: int, reason: str, cure: str = "") -> ContentError:
    line = text.count("\n", 0, offset) + 1
    column = offset - text.rfind("\n", 0, offset)
    problem = Problem(path=path, reason=reason, rule="registry", cure=cure, line=line, column=column)
    return ContentError(problem.sentence())


def _entries(text: str, path: str) -> dict[str, _Value]:
    """Return the objects of the registry by their id. Raise ContentError for any other shape."""
    entries: dict[str, _Value] = {}
    for entry in _elements(text, _list_start(text, path)):
        task_id = _checked_id(text, path, entry)
        if task_id in entries:
            start = _member_start(text, path, entry, "id")
            raise _refusal(path, text, start, f"task {task_id} stands twice in the registry")
        entries[task_id] = entry
    return entries


def _list_start(text: str, path: str) -> int:
    root = _skip(text, 0)
    shape = 'write {"items": [...]}'
    if text[root] != "{":
        raise _refusal(path, text, root, "is not an object", shape)
    found = _members(text, path, root).get("items")
    if found is None or not isinstance(found.value, list):
        raise _refusal(path, text, found.start if found else root, "`items` is not a list", shape)
    return found.start


def _checked_id(text: str, path: str, entry: _Value) -> str:
    """Return the id of an entry whose gate, if it has one, is an object. Raise ContentError."""
    if not isinstance(entry.value, dict):
        raise _refusal(path, text, entry.start, "an item is not an object", 'write {"id": "0001-demo"}')
    task_id = entry.value.get("id")
    if not isinstance(task_id, str):
        raise _refusal(path, text, _member_start(text, path, entry, "id"), "an item has no string `id`")
    if not isinstance(entry.value.get("gate", {}), dict):
        raise _refusal(path, text, _member_start(text, path, entry, "gate"), f"the gate of {task_id} is not an object")
    return task_id


def _member_start(text: str, path: str, entry: _Value, key: str) -> int:
    """Return where the value of `key` starts, or the whole entry when it has none."""
    return _members(text, path, entry.start).get(key, entry).start


def _task_edit(text: str, path: str, known: list[_Value], task: Mapping[str, object]) -> tuple[int, int, str]:
    """Return a span of `text` and what shall stand there instead, so that the list holds a task more."""
    root = _skip(text, 0)
    members = _members(text, path, root)
    end = _next(text, list(members.values())[-1].end) + 1
    outer = _layout(text, _Value(start=root, end=end, value=None), list(members.values()))
    inner = _inner(outer)
    if not known:
        found = members["items"]
        spelled = _spell_object(text, task, _inner(inner))
        return found.start, found.end, f"[{inner.lead}{spelled}{inner.tail}]" if _breaks(inner.lead) else f"[{spelled}]"
    last = known[-1]
    own = list(_members(text, path, last.start).values())
    before = text[known[-2].end : last.start] if len(known) > 1 else _comma_of(text, members["items"], last, inner)
    return last.end, last.end, before + _spell_object(text, task, _layout(text, last, own))


def _comma_of(text: str, items: _Value, first: _Value, inner: _Layout) -> str:
    """Return what stands between two elements of a list that has one."""
    lead = text[items.start + 1 : first.start]
    return "," + lead if _breaks(lead) else inner.comma


def _gate_edit(text: str, path: str, entry: _Value, gate: Mapping[str, str]) -> tuple[int, int, str]:
    """Return a span of `text` and what shall stand there instead."""
    members = _members(text, path, entry.start)
    outer = _layout(text, entry, list(members.values()))
    found = members.get("gate")
    if found is None:
        end = list(members.values())[-1].end
        return end, end, outer.comma + '"gate"' + outer.colon + _spell_object(text, gate, _inner(outer))
    own = list(_members(text, path, found.start).values())
    layout = _layout(text, found, own) if own else _inner(outer)
    return found.start, found.end, _spell_object(text, gate, layout)


def _layout(text: str, outer: _Value, members: list[_Value]) -> _Layout:
    """Return how an object is written that has these members, one at least."""
    last = members[-1]
    lead = text[outer.start + 1 : members[0].key_start]
    colon = text[last.key_end : last.start]
    comma = "," + (lead if _breaks(lead) else colon.partition(":")[2])
    if len(members) > 1:
        comma = text[members[-2].end : last.key_start]
    return _Layout(lead=lead, comma=comma, colon=colon, tail=text[last.end : outer.end - 1])


def _inner(outer: _Layout) -> _Layout:
    """Return how an object in an object is written: one level deeper where members have lines of their own."""
    if not _breaks(outer.lead):
        return outer
    unit = outer.lead.removeprefix(outer.tail) if outer.lead.startswith(outer.tail) else "  "
    lead = outer.lead + unit
    return _Layout(lead=lead, comma="," + lead, colon=outer.colon, tail=outer.lead)


def _breaks(blank: str) -> bool:
    return "\n" in blank or "\r" in blank


def _spell_object(text: str, members: Mapping[str, object], layout: _Layout) -> str:
    """Return an object as JSON; it escapes what is not ASCII where the rest of the file holds nothing else."""
    if not members:
        return "{}"
    spelled = (
        json.dumps(key, ensure_ascii=text.isascii()) + layout.colon + json.dumps(value, ensure_ascii=text.isascii())
        for key, value in members.items()
    )
    return "{" + layout.lead + layout.comma.join(spelled) + layout.tail + "}"


_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\r\n]*")


def _skip(text: str, position: int) -> int:
    blank = _BLANK.match(text, position)
    return blank.end() if blank else position


def _next(text: str, position: int) -> int:
    """Return where the next part of an object or array starts, or its closing bracket, after a value's end."""
    position = _skip(text, position)
    return _skip(text, position + 1) if text[position] == "," else position


def _elements(text: str, start: int) -> Iterator[_Value]:
    """Yield the elements of the array at `start`, in text that is JSON."""
    position = _skip(text, start + 1)
    while text[position] != "]":
        value, end = _DECODER.raw_decode(text, position)
        yield _Value(start=position, end=end, value=value)
        position = _next(text, end)


def _members(text: str, path: str, start: int) -> dict[str, _Value]:
    """Return the members of the object at `start`, in text that is JSON. Raise ContentError for a key that repeats."""
    members: dict[str, _Value] = {}
    position = _skip(text, start + 1)
    while text[position] != "}":
        key, key_end = _DECODER.raw_decode(text, position)
        value_start = _skip(text, _skip(text, key_end) + 1)
        value, end = _DECODER.raw_decode(text, value_start)
        if key in members:
            raise _refusal(path, text, position, f"key {key!r} stands twice in one object")
        members[key] = _Value(key_start=position, key_end=key_end, start=value_start, end=end, value=value)
        position = _next(text, end)
    return members
