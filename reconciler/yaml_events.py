"""The YAML that people may write here: one mapping of text keys to plain values, and the place of every value.

Read from the parser's events, not from its loader: events know line and column, and every bound holds before
the value exists. Anchors, aliases, tags, merge keys and duplicate keys are refused, because a reviewer must see
in a diff what a file means. Scalars follow the core schema of YAML 1.2: `no` is text, and so is a date.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from math import isinf
from reprlib import Repr
from typing import Any, NoReturn

from reconciler.model import Problem, Rejection
from reconciler.values import frozen

Pointer = tuple[str | int, ...]
Place = tuple[int, int]

DEPTH_MAX = 32
NODES_MAX = 10_000
PROBLEMS_MAX = 50

_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**63 - 1
_NUMBER_LENGTH_MAX = 400

_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# Line breaks that only some programs know (U+0085, U+2028, U+2029) are out too: line numbers would differ.
_ALLOWED = "\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff"
_FORBIDDEN_ASCII = re.compile("[^\t\n\r\x20-\x7e]")

_INDENT = ("this does not fit the lines around it", "check the indentation, and quote the text as a whole")
# What the parser says, in its C and its Python form: does its context know the better place, reason, cure.
_SYNTAX: tuple[tuple[str, bool, str, str], ...] = (
    ("end of stream", True, "the quote that opens here is never closed", "close it"),
    ("parsing a flow sequence", True, "the list that opens here lacks ',' or ']'", "close it"),
    ("parsing a flow mapping", True, "the mapping that opens here lacks ',' or '}'", "close it"),
    ("expected ':'", True, "a ':' is missing or not expected", "write 'key: value', quote text that holds ':'"),
    ("mapping values", False, "':' is not expected here", "quote text that holds ': ', or check the indentation"),
    ("start any token", False, "text cannot start with this character", "put it in quotes"),
    ("escape c", False, "there is no such escape", "write '\\\\' for a backslash, or use single quotes"),
    ("document start", False, "a second document starts here", "one file holds one document"),
    ("directive", False, "a line cannot start with '%'", "remove it"),
    ("incompatible", False, "a line cannot start with '%'", "remove it"),
    ("a tag", False, "tags are not allowed", "write the value without '!'"),
    ("tag handle", False, "tags are not allowed", "write the value without '!'"),
    ("an anchor", False, "anchors are not allowed", "write the value without '&'"),
    ("an alias", False, "aliases are not allowed", "write the value out"),
    ("node content", False, "a value is missing here", "write it, or put text in quotes"),
    ("expected key", False, *_INDENT),
    ("block end", False, *_INDENT),
    ("'-' indicator", False, *_INDENT),
    ("sequence entries", False, *_INDENT),
)

_shown = Repr()
_shown.maxstring = 80


@frozen
class Document:
    """What a file says. `marks` leads from a pointer to (line, column), from 1: of the key for an entry of a
    mapping, of the value for an item of a sequence. `spellings` holds what was written where it became no text.
    """

    value: Mapping[str, object]
    marks: Mapping[Pointer, Place]
    spellings: Mapping[Pointer, str]


def load_yaml(data: bytes, path: str, *, bytes_max: int) -> Document | Rejection:
    """Return what the file `path` says, or every reason why it cannot be read."""
    reader = _Reader(path)
    with suppress(_UnreadableError):
        reader.read(data, bytes_max)
    if reader.problems:
        return Rejection(path=path, problems=tuple(reader.problems))
    return Document(value=reader.value, marks=reader.marks, spellings=reader.spellings)


def shown(text: object) -> str:
    """Return `text` as a message may hold it: quoted, on one line, bounded."""
    return _shown.repr(text)


class _UnreadableError(Exception):
    """Nothing more can be learnt from this file."""


class _Reader:
    """One reading of one file. Problems gather in `problems`; only those that blind us raise `_UnreadableError`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.value: dict[str, object] = {}
        self.marks: dict[Pointer, Place] = {}
        self.spellings: dict[Pointer, str] = {}
        self.nodes = 0
        self.events: Iterator[Any] = iter(())

    def read(self, data: bytes, bytes_max: int) -> None:
        """Fill `value`, `marks` and `spellings` from `data`."""
        if len(data) > bytes_max:
            self.stop((0, 0), "too-large", f"the file has {len(data)} bytes", f"at most {bytes_max} are allowed")
        text = self.decode(data)
        self.events = _events(text)
        try:
            self.document()
        except _yaml_errors() as error:
            self.syntax(error, text)

    def decode(self, data: bytes) -> str:
        """Return `data` as text. Stop at the first byte or character that text in YAML cannot hold."""
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            self.stop((1, 1), "not-utf-8", "the file is UTF-16", "save it as UTF-8")
        try:
            text = data.decode().removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            place = _place(data[: error.start].decode())
            reason = f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8"
            self.stop(place, "not-utf-8", reason, "save the file as UTF-8")
        if found := _forbidden(text):
            self.stop(_place(text[: found.start()]), "control-character", *_control_character(found))
        return text

    def document(self) -> None:
        """Read the one document that a file has."""
        next(self.events)
        start = next(self.events)
        if type(start).__name__ == "StreamEndEvent":
            self.stop((0, 0), "empty", "the file is empty", "write at least one 'key: value'")
        if start.version or start.tags:
            self.refuse(_mark(start), "directive", "a line cannot start with '%'", "remove it")
        root = next(self.events)
        self.marks[()] = _mark(root)
        value = self.node(root, ())
        if isinstance(value, dict):
            self.value = value
        elif value is None and not self.problems:
            self.stop((0, 0), "empty", "the file is empty", "write at least one 'key: value'")
        elif not self.problems:
            kind = "a list" if isinstance(value, list) else shown(value)
            self.stop(_mark(root), "not-a-mapping", f"the file is {kind}, not a mapping", "write 'key: value' lines")
        next(self.events)
        after = next(self.events)
        if type(after).__name__ != "StreamEndEvent":
            self.stop(_mark(after), "second-document", "a second document starts here", "one file holds one document")

    def node(self, event: Any, pointer: Pointer) -> object:
        """Return the value that `event` begins, read to its end."""
        self.nodes += 1
        if self.nodes > NODES_MAX:
            self.stop(_mark(event), "too-large", f"the file has more than {NODES_MAX} values", "split it")
        kind = type(event).__name__
        if kind == "AliasEvent":
            self.refuse(_mark(event), "alias", "aliases are not allowed", "write the value out")
            return None
        if event.anchor:
            self.refuse(_mark(event), "anchor", "anchors are not allowed", f"remove {shown('&' + event.anchor)}")
        if event.tag:
            self.refuse(_mark(event), "tag", "tags are not allowed", "write the value without '!'")
        if kind == "ScalarEvent":
            return self.scalar(event, pointer)
        if len(pointer) >= DEPTH_MAX:
            self.stop(_mark(event), "too-deep", f"more than {DEPTH_MAX} levels of nesting", "nest less")
        return self.mapping(pointer) if kind == "MappingStartEvent" else self.sequence(pointer)

    def scalar(self, event: Any, pointer: Pointer) -> object:
        """Return the value of a scalar: text where it is quoted or looks like nothing else."""
        text: str = event.value
        if event.style:
            if event.style == '"' and (found := _forbidden(text)):
                self.refuse(_mark(event), "control-character", *_control_character(found))
            return text
        try:
            value = _plain(text)
        except ValueError as error:
            self.refuse(_mark(event), "bad-number", str(error), "put it in quotes if it is text")
            return None
        if value is not text:
            self.spellings[pointer] = text
        return value

    def sequence(self, pointer: Pointer) -> list[object]:
        """Return the items up to the end of this sequence."""
        result: list[object] = []
        while type(event := next(self.events)).__name__ != "SequenceEndEvent":
            here = (*pointer, len(result))
            self.marks[here] = _mark(event)
            result.append(self.node(event, here))
        return result

    def mapping(self, pointer: Pointer) -> dict[str, object]:
        """Return the entries up to the end of this mapping."""
        result: dict[str, object] = {}
        while type(event := next(self.events)).__name__ != "MappingEndEvent":
            key = self.key(event, pointer)
            here = (*pointer, key)
            if key in result:
                first = self.marks[here][0]
                reason = f"key {shown(key)} is there twice, first on line {first}"
                self.refuse(_mark(event), "duplicate-key", reason, "keep one")
            self.marks.setdefault(here, _mark(event))
            result[key] = self.node(next(self.events), here)
        return result

    def key(self, event: Any, pointer: Pointer) -> str:
        """Return the key that `event` begins. One that is no text gives a stand-in that no key can equal."""
        known = len(self.problems)
        value = self.node(event, (*pointer, "?"))
        if value == "<<" and not event.style:
            self.refuse(_mark(event), "merge-key", "merge keys '<<' are not allowed", "write the entries out")
        elif isinstance(value, str):
            return value
        elif len(self.problems) == known:
            written = f"key {event.value}" if type(event).__name__ == "ScalarEvent" else "a key with parts"
            self.refuse(_mark(event), "key-not-text", f"{written} is not text", "put it in quotes")
        return f"\0{self.nodes}"

    def refuse(self, place: Place, rule: str, reason: str, cure: str) -> None:
        """Note a problem and read on, unless there are too many of them."""
        line, column = place
        self.problems.append(Problem(path=self.path, line=line, column=column, rule=rule, reason=reason, cure=cure))
        if len(self.problems) >= PROBLEMS_MAX:
            raise _UnreadableError

    def stop(self, place: Place, rule: str, reason: str, cure: str) -> NoReturn:
        """Note a problem behind which nothing can be read."""
        self.refuse(place, rule, reason, cure)
        raise _UnreadableError

    def syntax(self, error: Any, text: str) -> NoReturn:
        """Stop with the parser's complaint, told in our words."""
        mark = getattr(error, "problem_mark", None)
        said = f"{getattr(error, 'context', '')} {getattr(error, 'problem', error)}"
        if mark and text[mark.index : mark.index + 1] == "\t":
            self.stop(_from_one(mark), "syntax", "a tab cannot indent or start text", "indent with spaces")
        for words, at_context, reason, cure in _SYNTAX:
            if words in said:
                better = error.context_mark if at_context else None
                self.stop(_from_one(better or mark), "syntax", reason, cure)
        self.stop(_from_one(mark), "syntax", f"this is not YAML ({shown(said.strip())})", "")


def _plain(text: str) -> object:
    """Return the value of an unquoted scalar. Raise ValueError for a number that JSON cannot hold."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "0123456789+-.":
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text, 10)
    if _BASED.fullmatch(text):
        return _integer(text, 0)
    if _FLOAT.fullmatch(text):
        return _float(text)
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    return text


def _integer(text: str, base: int) -> int:
    # The length first: Python itself refuses to read thousands of digits.
    if len(text) > _NUMBER_LENGTH_MAX or not _INTEGER_MIN <= (value := int(text, base)) <= _INTEGER_MAX:
        raise ValueError(f"{shown(text)} does not fit into 64 bits")
    return value


def _float(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError(f"{shown(text)} is too large for a number")
    return value


def _forbidden(text: str) -> re.Match[str] | None:
    """Return the first character that no file may hold. Most text is ASCII, and a pattern for that alone is made in a
    hundredth of the time."""
    return (_FORBIDDEN_ASCII if text.isascii() else _all_forbidden()).search(text)


@cache
def _all_forbidden() -> re.Pattern[str]:
    return re.compile(f"[^{_ALLOWED}]")


def _control_character(found: re.Match[str]) -> tuple[str, str]:
    return f"control character U+{ord(found[0]):04X} is not allowed", "remove it"


def _place(before: str) -> Place:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _mark(event: Any) -> Place:
    mark = event.start_mark
    return mark.line + 1, mark.column + 1


def _from_one(mark: Any) -> Place:
    return (mark.line + 1, mark.column + 1) if mark else (0, 0)


@cache
def _yaml_errors() -> tuple[type[Exception], ...]:
    """Return what a parser may raise. Its Python form also lets numbers in escapes and directives slip."""
    from ruamel.yaml.error import YAMLError

    return (YAMLError, ValueError, OverflowError)


def _events(text: str) -> Iterator[Any]:
    """Return the events of `text`, from the C parser if it is there (20 times as fast)."""
    try:
        from _ruamel_yaml import CParser  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        from ruamel.yaml import YAML

        return iter(YAML(typ="safe", pure=True).parse(text.encode()))
    return iter(CParser(text.encode()).get_event, None)


def locate(problem: Problem, marks: Mapping[Pointer, tuple[int, int]]) -> Problem:
    """Return a problem with line and column of what its pointer leads to, or of the nearest thing around that."""
    places = {spelled(way): mark for way, mark in marks.items()}
    pointer = problem.pointer
    while pointer not in places:
        pointer = pointer.rpartition("/")[0]
    line, column = places[pointer]
    return replace(problem, line=line, column=column)


def spelled(way: Pointer) -> str:
    """Return the JSON pointer of what stands at a place."""
    return "".join("/" + str(each).replace("~", "~0").replace("/", "~1") for each in way)
