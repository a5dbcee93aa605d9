"""What the documents say is there, and what is there is documented: verbs, keys, links, examples, words."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from reconciler.check import check, kind_of
from reconciler.cli import VERBS, cli
from reconciler.contracts import Contracts
from reconciler.model import Problem, Rejection, Severity, Source
from reconciler.patterns import parse_rule

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = Contracts()
GUIDE = ROOT / "docs" / "guide.md"
GUIDES = [GUIDE, *sorted(ROOT.glob("docs/how-to/*.md"))]
"""The guide and the pages that tell one thing each."""
README = ROOT / "README.md"
WRITTEN = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tasks/**/*.md")])
DOCUMENTS = [*WRITTEN, *sorted(ROOT.glob("out/**/*.md"))]

WORDS_NOT_USED = re.compile(r"\b(jobs?|steps?|workflows?|helpers?|managers?|services?|utils?)\b", re.IGNORECASE)


NAMES = re.compile(r"service( [a-z]+)?")
"""A verb that is called by a word of others: headings of the command line name it."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


documents = pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
written = pytest.mark.parametrize("path", WRITTEN, ids=name_of)


@cache
def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def tokens(path: Path) -> tuple[Token, ...]:
    return tuple(MarkdownIt("commonmark").enable("table").parse(read(path)))


def fences(path: Path, language: str) -> Iterator[str]:
    """Yield the code blocks of a language."""
    yield from (each.content for each in tokens(path) if each.type == "fence" and each.info == language)


def inlines(path: Path) -> Iterator[Token]:
    """Yield what stands in running text: words, code and links."""
    for each in tokens(path):
        yield from each.children or ()


def section(path: Path, title: str) -> str:
    """Return what stands below a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", read(path), re.MULTILINE | re.DOTALL)
    assert found, f"{name_of(path)} has no section '{title}'"
    return found[1]


# ------------------------------------------------------------------------------------------------ verbs


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_documented(verb: str) -> None:
    assert f"| `{verb}` | {VERBS[verb]}" in section(README, "Verbs")
    assert f"| `reconciler {verb}` |" in section(GUIDE, "Looking on, ending, going on")
    assert f"\n## {verb}\n" in read(ROOT / "docs" / "reference" / "cli.md")


def leaves(command: click.Command, words: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, by the words it is typed with."""
    if not isinstance(command, click.Group):
        yield words, command
        return
    for name in command.list_commands(click.Context(command)):
        inner = command.get_command(click.Context(command), name)
        assert inner is not None
        yield from leaves(inner, f"{words} {name}".strip())


def forms(command: click.Command) -> set[str]:
    """Return the words that `--format` takes."""
    options = [each for each in command.params if "--format" in each.opts]
    return {word for each in options if isinstance(each.type, click.Choice) for word in each.type.choices}


@pytest.mark.parametrize("path", [README, GUIDE], ids=name_of)
def test_which_verbs_print_no_json_is_said(path: Path) -> None:
    silent = {f"`{words}`" for words, command in leaves(cli, "") if "json" not in forms(command)}
    [said] = re.findall(r"All print JSON with `--format json`, but (.*?)(?:\.| \()", read(path), re.DOTALL)
    assert set(re.findall("`[a-z ]+`", said)) == silent


def test_no_document_speaks_of_a_verb_that_is_not_there() -> None:
    for path in WRITTEN:
        code = [each.content for each in tokens(path) if each.type == "fence" and each.info == "sh"]
        code += [each.content for each in inlines(path) if each.type == "code_inline"]
        said = [
            found[1] for each in code for found in re.finditer(r"^(?:\$ )?reconciler ([a-z]+)\b", each, re.MULTILINE)
        ]
        assert set(said) <= VERBS.keys(), name_of(path)


COMMAND = re.compile(r"\$\((reconciler [^)]*)\)|(?:^|\s)(reconciler [^\n]*)")
PLACEHOLDER = re.compile(r"\.\.\.|\b[A-Z]{4,}\b|<[a-z]+>")
"""What stands for something else, so that no command can be made of it."""


def commands(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield every command of ours in a document, and whether it is whole: in running text a verb may just be named."""
    for each in fences(path, "sh"):
        lines = [line.partition("  #")[0] for line in each.splitlines() if not line.startswith("#")]
        yield from ((found[1] or found[2], True) for line in lines for found in COMMAND.finditer(line))
    for token in inlines(path):
        if token.type == "code_inline" and token.content.startswith("reconciler "):
            yield token.content, False


def typed(command: str) -> list[str]:
    """Return the words of a command up to where a shell makes something else of them."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words = list(lexer)
    end = next((index for index, word in enumerate(words) if word and not set(word) - set("|&;<>()")), len(words))
    return words[1:end]


def parse_words(words: list[str]) -> None:
    """Parse a command line as the program does, and do nothing. Raise click.ClickException if it cannot be."""
    command: click.Command = cli
    context, name = None, "reconciler"
    while isinstance(command, click.Group):
        context = command.make_context(name, words, parent=context)
        words = [*context._protected_args, *context.args]
        if not words:
            raise click.exceptions.NoArgsIsHelpError(context)
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command, name = found, str(found.name)
    command.make_context(name, words, parent=context)


@written
def test_every_command_in_a_document_could_be_typed(path: Path) -> None:
    for command, whole in commands(path):
        if PLACEHOLDER.search(command):
            continue
        try:
            parse_words(typed(command))
        except (click.MissingParameter, click.exceptions.NoArgsIsHelpError):
            assert not whole, f"{name_of(path)}: {command}"
        except click.ClickException as error:
            pytest.fail(f"{name_of(path)}: {command}: {error.format_message()}")


@pytest.mark.parametrize(
    "words", [["statsu"], ["status", "--al"], ["start", "x"], ["new", "tsk", "x"], ["new", "task"], ["logs", "--tail"]]
)
def test_what_cannot_be_typed_is_noticed(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse_words(words)


def test_the_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, "docs/reference/generate.py", "--check"]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr


# ------------------------------------------------------------------------------------------------ keys


def properties(schema: Mapping[str, Any], *way: str) -> dict[str, Any]:
    """Return the keys of a format, or of a definition in it."""
    for each in way:
        schema = schema[each]
    found: dict[str, Any] = schema["properties"]
    return found


def keys() -> Iterator[Any]:
    places = {
        "Requests": properties(CONTRACTS.schema("request")),
        "Pipelines": properties(CONTRACTS.schema("pipeline")),
        "Settings": properties(CONTRACTS.schema("settings")),
    }
    stage = properties(CONTRACTS.schema("pipeline"), "$defs", "stage")
    for title, found in (*places.items(), ("Pipelines", stage)):
        for key, schema in found.items():
            yield pytest.param(title, key, schema, id=f"{title.lower()}-{key}")


@pytest.mark.parametrize(("title", "key", "schema"), list(keys()))
def test_a_key_is_explained_in_the_guide(title: str, key: str, schema: dict[str, Any]) -> None:
    text = section(GUIDE, title)
    heads = [cells.split("|")[1] for cells in text.splitlines() if cells.startswith("|")]
    assert any(f"`{key}`" in each for each in heads), f"no table in '{title}' has a row for {key}"
    for inner in schema.get("properties", {}):
        said = any(re.search(rf"\b{inner}\b", read(page)) for page in GUIDES)
        assert said, f"no page of the guide says anything of {key}.{inner}"


# ------------------------------------------------------------------------------------------------ links


def links(path: Path) -> Iterator[str]:
    for each in inlines(path):
        target = each.attrs.get("href") or each.attrs.get("src")
        if target is not None and not re.match(r"[a-z]+:", str(target)):
            yield str(target)


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return what a link into a document may name: its headings, as they are spelled in addresses."""
    found = tokens(path)
    titles = (found[index + 1] for index, each in enumerate(found) if each.type == "heading_open")
    said = ("".join(part.content for part in each.children or ()) for each in titles)
    return frozenset(re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in said)


@documents
def test_relative_links_lead_somewhere(path: Path) -> None:
    for each in links(path):
        target, _, anchor = each.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f"{name_of(path)}: {each}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{name_of(path)}: {each}"


# ------------------------------------------------------------------------------------------------ examples

FORMATS = ROOT / "docs" / "reference" / "formats.md"
EXEMPLARY = [each for each in WRITTEN if each != FORMATS and any(fences(each, "yaml"))]
"""Every document that shows a file of ours, but the page of formats, which has examples of another shape."""
SHOWN = re.compile(r"\(\.\./\.\./schemas/([a-z-]+)\.schema\.json\)\).*?\n```(yaml|json)\n(.*?)```", re.DOTALL)
PLACES = {
    "request": "runs.d/example.yaml",
    "approval": "runs.d/example.approval.yaml",
    "pipeline": "pipelines/example.yaml",
    "settings": "reconciler.yaml",
    "eval": "evals/example.eval.yaml",
    "pattern": "patterns/example.yaml",
}

EXAMPLE = re.compile(r"# (\S+)( \(rejected\))?\n(.*)", re.DOTALL)


def examples(path: Path) -> list[tuple[str, bool, bytes]]:
    """Return the YAML examples of a document: their paths, whether they are to be rejected, and what they say."""
    found = []
    for each in fences(path, "yaml"):
        example = EXAMPLE.fullmatch(each)
        assert example, f"{name_of(path)}: the first line of a YAML example is a comment with its path:\n{each}"
        found.append((example[1], bool(example[2]), example[3].encode()))
    return found


def problems_of_rule(place: str, data: bytes) -> tuple[Problem, ...]:
    """Return what is wrong with a rule about code: its folder is a setting, so its place does not say what it is."""
    rule = parse_rule(data, Source(path=place), CONTRACTS)
    return rule.problems if isinstance(rule, Rejection) else ()


def problems_of(path: Path, place: str, data: bytes) -> tuple[Problem, ...]:
    """Return what is wrong with an example among the other examples of its document."""
    others = {each: text for each, rejected, text in reversed(examples(path)) if not rejected}
    if place.startswith("patterns/"):
        return problems_of_rule(place, data)
    kind = kind_of(place)
    assert kind is not None, f"{name_of(path)}: {place} is no place for a file of ours"
    return check({**others, place: data}, {place: kind}, CONTRACTS)


@pytest.mark.parametrize("path", EXEMPLARY, ids=name_of)
def test_what_an_example_shows_works(path: Path) -> None:
    sound = [(place, data) for place, rejected, data in examples(path) if not rejected]
    assert sound
    for place, data in sound:
        wrong = [each.sentence() for each in problems_of(path, place, data) if each.severity is Severity.ERROR]
        assert wrong == [], f"{name_of(path)}: {place}"


def test_the_examples_of_the_formats_are_what_they_are_called() -> None:
    found = SHOWN.findall(read(FORMATS))
    assert {name for name, *_ in found} >= PLACES.keys()
    for name, syntax, text in found:
        if syntax == "json":
            assert CONTRACTS.check(name, json.loads(text)) == (), name
        elif name == "pattern":
            assert problems_of_rule(PLACES[name], text.encode()) == ()
        else:
            place = PLACES[name]
            kind = kind_of(place)
            assert kind is not None
            problems = check({place: text.encode()}, {place: kind}, CONTRACTS, alone=True)
            assert [each.sentence() for each in problems] == []


def test_the_json_in_the_guide_keeps_its_schema() -> None:
    (index,) = fences(GUIDE, "json")
    assert CONTRACTS.check("task-index", json.loads(index)) == ()


# ------------------------------------------------------------------------------------------------ words


@written
def test_a_document_speaks_our_words(path: Path) -> None:
    """Names that others gave may stand in code."""
    said = " ".join(each.content for each in inlines(path) if each.type == "text" and not NAMES.fullmatch(each.content))
    assert WORDS_NOT_USED.findall(said) == []


@cache
def tracked() -> list[Path]:
    """Return the files that git has or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        pytest.skip("this is no git checkout")
    paths = (ROOT / each for each in asked.stdout.split("\0") if each)
    return [each for each in paths if each.is_file() and not each.is_symlink()]


# Written in pieces, so that this file does not hold what it looks for. Tests may speak of homes that nobody has, and the
# refs of attempts elsewhere begin like one.
HOMES = re.compile(
    rb"(?<!refs/reconciler)/(?:" + rb"|".join([rb"wor" + rb"k", rb"home/\w+", rb"Users/\w+", rb"roo" + rb"t"]) + rb")/"
)
CHECKOUTS = re.compile(rb"/wor" + rb"k/(?:main|shared|\.)")


def test_no_file_names_a_place_of_one_machine() -> None:
    for path in tracked():
        pattern = CHECKOUTS if path.is_relative_to(ROOT / "tests") else HOMES
        found = pattern.search(path.read_bytes())
        assert found is None, f"{name_of(path)} names {found and found[0].decode()}"
