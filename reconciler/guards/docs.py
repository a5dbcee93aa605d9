"""`guard: docs`: links, paths and commands that documents name exist. The network is never asked."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import unquote

from reconciler.guards.findings import EVERYWHERE, Finding, Report, chosen, report_of, shortened, texts
from reconciler.values import frozen

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

    from reconciler.guards.scene import Scene

DOCUMENTS = ("**/*.md",)
DOCUMENTS_MAX = 5000
DOCUMENT_BYTES_MAX = 1024 * 1024
MAKEFILES = ("GNUmakefile", "makefile", "Makefile")
RECORDS = (".runs", "out")
"""What the reconciler writes comes and goes: a document may speak of records that are not there."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|//")
_ATTRIBUTE = re.compile(r"\b(?:href|src)\s*=\s*\"([^\"]{1,1000})\"", re.IGNORECASE)
_ANCHOR = re.compile(r"\b(?:id|name)\s*=\s*\"([^\"]{1,200})\"", re.IGNORECASE)
_PATH = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.+@-]*(?:/[A-Za-z0-9_.+@-]+)+/?")
_LINES = re.compile(r"(?::[0-9]+(?:[-:][0-9]+)?|#L?[0-9]+(?:-L?[0-9]+)?)$")
_SHELLS = frozenset({"sh", "bash", "shell", "zsh", "console", "shell-session"})
_SHOWN_FILE = re.compile(r"\s*(?:#|//|--|;|<!--)\s*(\S+)[^\n]*")
_VERB = re.compile(r"^\s*(?:\$ )?reconciler((?: +(?:-C|--repo) +\S+)*) +([a-z][a-z-]*)\b(?![./:=])", re.MULTILINE)
_MAKE = re.compile(r"^\s*(?:\$ )?(?:[A-Z_]+=\S* +)*make( +[^\n#;&|>]*)?(?:$|[ ;&|>#])", re.MULTILINE)
_TARGET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_RULE = re.compile(r"^([^\s#:=][^#:=\n]*?)\s*::?(?![:=])", re.MULTILINE)
_INCLUDE = re.compile(r"^\s*-?s?include\s", re.MULTILINE)


@frozen
class Page:
    """What one document names, each with its line: where links lead, what stands in backticks and in blocks for a
    shell. `anchors` are what a link into it may name, `shown` the files whose content it shows."""

    links: tuple[tuple[int, str], ...]
    codes: tuple[tuple[int, str], ...]
    scripts: tuple[tuple[int, str], ...]
    anchors: frozenset[str]
    shown: frozenset[str]


@frozen
class Known:
    """What there is: files, the folders they lie in, verbs of the reconciler, and what `make` can make (None where
    nobody can tell)."""

    paths: frozenset[str]
    verbs: frozenset[str]
    targets: frozenset[str] | None
    folders: frozenset[str]


def check(scene: Scene, options: Mapping[str, object]) -> Report:
    """Judge the documents of a workspace."""
    from reconciler.guards.scene import verbs

    documents = chosen(scene.paths, options, DOCUMENTS)
    contents = scene.read(documents[:DOCUMENTS_MAX])
    pages = {path: page_of(data) for path, data in contents.items() if data is not None and _fits(data)}
    linked = sorted({each for path, page in pages.items() for each in _linked(path, page)} & scene.paths - pages.keys())
    others = {path: page_of(data) for path, data in scene.read(linked).items() if data is not None and _fits(data)}
    known = known_of(scene.paths, verbs(), _targets(scene))
    found = [*_unread(contents), *_too_many(documents, options)]
    for path, page in pages.items():
        found += findings(path, page, known, {each: page.anchors for each, page in (pages | others).items()})
    return report_of(found, len(pages))


def _fits(data: bytes) -> bool:
    return len(data) <= DOCUMENT_BYTES_MAX


def _unread(contents: Mapping[str, bytes | None]) -> Iterator[Finding]:
    for path, data in contents.items():
        if data is not None and not _fits(data):
            reason = f"the document has {len(data)} bytes, and {DOCUMENT_BYTES_MAX} are read"
            yield Finding(path=path, reason=reason, cure="split it, or leave it out with 'exclude'")


def _too_many(documents: Sequence[str], options: Mapping[str, object]) -> Iterator[Finding]:
    if len(documents) > DOCUMENTS_MAX:
        reason = f"there are {len(documents)} documents, and {DOCUMENTS_MAX} are read"
        yield Finding(path=EVERYWHERE, reason=reason, cure="say in 'paths' which are meant")
    elif not documents and "paths" in options:
        reason = f"there is no document ({', '.join(texts(options, 'paths'))})"
        yield Finding(path=EVERYWHERE, reason=reason, cure="say in 'paths' where they are")


def _linked(path: str, page: Page) -> Iterator[str]:
    """Yield the files that a document links with an anchor."""
    for _, said in page.links:
        target = _place(path, said)
        if target is not None and "#" in said:
            yield target


def _targets(scene: Scene) -> frozenset[str] | None:
    name = next((each for each in MAKEFILES if each in scene.paths), None)
    return targets_of((scene.read([name])[name] or b"").decode(errors="replace")) if name else frozenset()


def known_of(paths: Iterable[str], verbs: Iterable[str], targets: frozenset[str] | None) -> Known:
    """Return what documents may name, folders included."""
    paths = frozenset(paths)
    folders: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in folders:
            folders.add(path)
    return Known(paths=paths, verbs=frozenset(verbs), targets=targets, folders=frozenset(folders))


def targets_of(makefile: str) -> frozenset[str] | None:
    """Return what a makefile says how to make; None where it includes others, or makes up names."""
    if _INCLUDE.search(makefile) or re.search(r"^[^\t#\n]*%[^\n]*:", makefile, re.MULTILINE):
        return None
    found = {word for rule in _RULE.finditer(makefile) for word in rule[1].split()}
    return frozenset(each for each in found if "$" not in each and each != ".PHONY")


# ------------------------------------------------------------------------------------------------ reading


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"maxNesting": 32}).enable("table")


def page_of(data: bytes) -> Page:
    """Return what a Markdown file names."""
    tokens = _parser().parse(data.decode(errors="replace").removeprefix("\ufeff"))
    links: list[tuple[int, str]] = []
    codes: list[tuple[int, str]] = []
    anchors: set[str] = set()
    for line, token in _inlines(tokens):
        if target := token.attrs.get("href") or token.attrs.get("src"):
            links.append((line, str(target)))
        elif token.type == "code_inline":
            codes.append((line, token.content))
        elif token.type in ("html_inline", "html_block"):
            links += [(line, each) for each in _ATTRIBUTE.findall(token.content)]
            anchors.update(_ANCHOR.findall(token.content))
    fences = [each for each in tokens if each.type == "fence"]
    return Page(
        links=tuple(links),
        codes=tuple(codes),
        scripts=tuple((_line(each) + 1, each.content) for each in fences if _language(each) in _SHELLS),
        anchors=frozenset(anchors | _headings(tokens)),
        shown=frozenset(found[1] for each in fences if (found := _SHOWN_FILE.match(each.content))),
    )


def _inlines(tokens: Sequence[Token]) -> Iterator[tuple[int, Token]]:
    """Yield what stands in running text with its line; what has no place of its own stands where the last thing was."""
    line = 1
    for token in tokens:
        line = _line(token) if token.map else line
        if token.type == "html_block":
            yield line, token
        within = line
        for child in token.children or ():
            yield within, child
            within += child.type in ("softbreak", "hardbreak")


def _line(token: Token) -> int:
    return token.map[0] + 1 if token.map else 0


def _language(fence: Token) -> str:
    return fence.info.split()[0].lower() if fence.info.strip() else ""


def _headings(tokens: Sequence[Token]) -> set[str]:
    """Return the anchors of headings, spelled as code forges do: a name that repeats gets a number."""
    found: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            said = "".join(each.content for each in tokens[index + 1].children or () if each.type != "html_inline")
            slug = re.sub(r"[^\w\- ]", "", said.strip().lower()).replace(" ", "-")
            while (number := found.get(slug)) is not None:
                found[slug] += 1
                slug = f"{slug}-{number + 1}"
            found[slug] = 0
    return set(found)


# ------------------------------------------------------------------------------------------------ judging


def findings(path: str, page: Page, known: Known, anchors: Mapping[str, frozenset[str]]) -> Iterator[Finding]:
    """Yield everything that a document names and nobody finds. `anchors` are those of other documents, by path."""
    for line, said in page.links:
        if reason := link_fault(path, said, known, {path: page.anchors, **anchors}):
            yield Finding(path=path, line=line, reason=reason, cure="correct the link, or write what it leads to")
    for line, said in page.codes:
        if (place := missing_path(path, said, known)) and place not in page.shown:
            reason = f"there is no {shortened(said, 200)} in this repository"
            yield Finding(path=path, line=line, reason=reason, cure=_suggestion(place, known))
    for line, said in (*page.codes, *page.scripts):
        yield from _commands(path, line, said, known)


def link_fault(path: str, said: str, known: Known, anchors: Mapping[str, frozenset[str]]) -> str:
    """Return why a link leads nowhere, "" if it leads somewhere or is not ours to judge."""
    if _SCHEME.match(said):
        return ""
    place, anchor = _place(path, said), unquote(said.partition("#")[2])
    if place is None:
        return f"the link {shortened(said, 200)} leads out of the repository"
    if place and place not in known.paths and place not in known.folders:
        return f"the link {shortened(said, 200)} leads nowhere"
    if anchor and place in anchors and anchor not in anchors[place]:
        return f"the link {shortened(said, 200)} leads to no heading of {place}"
    return ""


def _place(path: str, said: str) -> str | None:
    """Return where a link leads, from the root ("" for the root itself); None if that is outside."""
    target = unquote(said.partition("#")[0].partition("?")[0])
    if not target:
        return path
    joined = target.lstrip("/") if target.startswith("/") else posixpath.join(posixpath.dirname(path), target)
    place = posixpath.normpath(joined or ".")
    if place == ".." or place.startswith("../"):
        return None
    return "" if place == "." else place


def missing_path(path: str, said: str, known: Known) -> str:
    """Return the path that a text in backticks means, if it looks like one of this repository and is not there; else
    "". It looks like one if its first folder is there, seen from the root or from the document, and if it ends like a
    file or with `/`: `origin/main` is a branch and `and/or` is prose."""
    text = _LINES.sub("", said.strip())
    named = "." in text.rpartition("/")[2] or text.endswith("/")
    if not _PATH.fullmatch(text) or not named or text.startswith("../") or "..." in text:
        return ""
    here = posixpath.dirname(path)
    places = [posixpath.normpath(each) for each in (text, posixpath.join(here, text))]
    if any(each in known.paths or each in known.folders for each in places):
        return ""
    likely = [each for each, base in zip(places, ("", here), strict=True) if _first(each, base) in known.folders]
    return likely[0] if likely and likely[0].split("/")[0] not in RECORDS else ""


def _first(place: str, base: str) -> str:
    """Return the first folder of a path below `base`."""
    below = place.removeprefix(f"{base}/") if base else place
    first = below.split("/")[0]
    return f"{base}/{first}" if base else first


def _suggestion(place: str, known: Known) -> str:
    name = place.rpartition("/")[2]
    same = sorted(each for each in known.paths if each.rpartition("/")[2] == name)
    near = same or get_close_matches(place, sorted(known.paths)[:2000], 1)
    return f"did you mean {near[0]}?" if near else "correct the path"


def _commands(path: str, line: int, said: str, known: Known) -> Iterator[Finding]:
    """Yield a finding for every verb and target in a text of commands that is not there."""
    for found in _VERB.finditer(said):
        if found[2] not in known.verbs:
            near = get_close_matches(found[2], sorted(known.verbs), 1)
            cure = f"did you mean '{near[0]}'?" if near else "see reconciler --help"
            where = line + said.count("\n", 0, found.start(2))
            yield Finding(path=path, line=where, reason=f"reconciler has no verb '{found[2]}'", cure=cure)
    # In another directory, make reads another makefile.
    if known.targets is None or re.search(r"\bcd\s|\bmake\s.*-[Cf]", said):
        return
    for found in _MAKE.finditer(said):
        for target in _made(found[1] or ""):
            if target not in known.targets:
                near = get_close_matches(target, sorted(known.targets), 1)
                cure = f"did you mean '{near[0]}'?" if near else "write a rule for it, or correct the name"
                where = line + said.count("\n", 0, found.start(0) + len(found[0]) - len(found[0].lstrip()))
                yield Finding(path=path, line=where, reason=f"make has no target '{target}'", cure=cure)


def _made(words: str) -> list[str]:
    """Return the targets among the words of a call of make."""
    return [each for each in words.split() if _TARGET.fullmatch(each) and "=" not in each]
