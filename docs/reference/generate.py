"""Write the pages of `docs/reference/`: `formats.md` from the JSON Schemas, `cli.md` from the verbs themselves, so that
no page says something else than they do; and the list of decisions, `docs/adr/README.md`, from their titles.

python docs/reference/generate.py            write the pages
python docs/reference/generate.py --check    exit 1 if a page is not what it is made from
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "schemas"
PAGE = ROOT / "docs" / "reference" / "formats.md"
DECISIONS = ROOT / "docs" / "adr"

BOUND_SHOWN_MAX = 1_000_000_000
"""A larger bound is there for machines; people learn nothing from it."""

FLOW_CHARACTERS_MAX = 90
"""A YAML list or map of scalars that fits into this many characters stays on one line."""

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A kind of file: the name of its schema, where it lies, and the syntax of its example."""

    name: str
    path: str
    syntax: str


FORMATS = (
    Format(name="request", path="runs.d/**/*.yaml", syntax="yaml"),
    Format(name="approval", path="runs.d/**/*.approval.yaml", syntax="yaml"),
    Format(name="pipeline", path="pipelines/*.yaml", syntax="yaml"),
    Format(name="settings", path="reconciler.yaml", syntax="yaml"),
    Format(name="pattern", path="patterns/*.yaml", syntax="yaml"),
    Format(name="eval", path="**/*.eval.yaml", syntax="yaml"),
    Format(name="manifest", path=".runs/<task-id>/cli/<run-id>/manifest.json", syntax="json"),
    Format(name="run-summary", path=".runs/<task-id>/<run-id>/manifest.json", syntax="json"),
    Format(name="task-index", path="tasks/index.json", syntax="json"),
    Format(name="metrics", path=".runs/<task-id>/metrics.json", syntax="json"),
    Format(name="pull-request", path=".runs/<task-id>/cli/<run-id>/pull_request.json", syntax="json"),
    Format(name="imported", path=".runs/<task-id>/imported/<run-id>/manifest.json", syntax="json"),
    Format(name="state", path="out/<task-id>/state.json", syntax="json"),
    Format(name="plan-preview", path="reconciler plan --base REF --head REF --format json", syntax="json"),
    Format(name="event", path=".runs/<task-id>/cli/<run-id>/events.jsonl", syntax="json"),
    Format(name="review", path=".runs/<task-id>/cli/<run-id>/reviews/<n>.json", syntax="json"),
    Format(name="review-answer", path="the answer of a reviewing agent", syntax="json"),
    Format(name="run-request-v2", path="reconciler control export RUN", syntax="json"),
    Format(name="control-answer", path="the answer of a control plane", syntax="json"),
    Format(name="drift", path=".runs/<task-id>/drift.json", syntax="json"),
)

INTRODUCTION = """\
# Formats

<!-- Written by docs/reference/generate.py from schemas/*.schema.json: edit those and run it again. -->

Every file that the reconciler reads or writes, key by key. Each format has a JSON Schema (draft 2020-12); a key that
is not listed here is an error. An editor with a YAML language server completes and explains the keys when the first
line of a file is `# yaml-language-server: $schema=` and the path or address of the schema.

In the tables `a.b` is the key `b` in the map `a`, `a[].b` is the key `b` in every map of the list `a`, and `a.<name>`
is a key of your own choice. *required* means that the file, or the map the key stands in, is refused without it.
"""


def main(arguments: Sequence[str]) -> int:
    wanted = {
        PAGE: page(read_schemas(SCHEMAS)),
        PAGE.with_name("cli.md"): cli_page(),
        DECISIONS / "README.md": decisions_page(DECISIONS),
    }
    if "--check" not in arguments:
        for path, text in wanted.items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is stale; run: python docs/reference/generate.py", file=sys.stderr)
    return 1 if stale else 0


def read_schemas(directory: Path) -> dict[str, Schema]:
    """Read the schema of every format."""
    return {each.name: json.loads((directory / f"{each.name}.schema.json").read_bytes()) for each in FORMATS}


def page(schemas: Mapping[str, Schema]) -> str:
    """Return the whole page."""
    contents = "\n".join(_contents_line(each, schemas[each.name]) for each in FORMATS)
    sections = (_section(each, schemas[each.name]) for each in FORMATS)
    return "\n".join([INTRODUCTION, contents, "", _kinds(schemas), *sections])


def _contents_line(format_: Format, schema: Schema) -> str:
    anchor = schema["title"].lower().replace(" ", "-")
    return f"- [{schema['title']}](#{anchor}): `{format_.path}`"


def _section(format_: Format, schema: Schema) -> str:
    example = schema["examples"][0]
    rendered = yaml(example) if format_.syntax == "yaml" else json.dumps(example, indent=2, ensure_ascii=False)
    return "\n".join(
        [
            f"## {schema['title']}",
            "",
            f"`{format_.path}` ([schema](../../schemas/{format_.name}.schema.json))",
            "",
            schema["description"],
            "",
            f"```{format_.syntax}",
            rendered,
            "```",
            "",
            *_table(("key", "type", "default", "meaning"), (_cells(row) for row in rows(schema))),
            "",
        ]
    )


def _kinds(schemas: Mapping[str, Schema]) -> str:
    """Return the section about the kinds of value that formats share."""
    found: dict[str, Schema] = {}
    for schema in schemas.values():
        for each in schema["$defs"].values():
            if "properties" not in each and not each["title"].endswith(" or null"):
                found[_kind_name(each)] = each
    cells = (
        (name, found[name]["description"], _shown(found[name]["examples"])) for name in sorted(found, key=str.lower)
    )
    return "\n".join(["## Kinds of value", "", *_table(("kind", "meaning", "examples"), cells), ""])


def _table(head: Sequence[str], body: Iterator[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for cells in body:
        yield f"| {' | '.join(_escaped(each) for each in cells)} |"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


# ------------------------------------------------------------------------------------------------ rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One key of a format: its dotted name, what values it takes, and what its property says of it."""

    key: str
    required: bool
    kind: str
    said: Schema


def rows(schema: Schema) -> Iterator[Row]:
    """Return a row for every key, in the order of the schema, nested keys behind the key that holds them."""
    yield from _rows(schema, schema["$defs"], "")


def _rows(schema: Schema, definitions: Schema, prefix: str, way: frozenset[str] = frozenset()) -> Iterator[Row]:
    # A definition that refers to itself is told once, where it is met first.
    way |= {schema.get("$ref", "")}
    for key, said in schema.get("properties", {}).items():
        meant = resolved(said, definitions)
        name = f"{prefix}{key}"
        required = key in schema.get("required", ())
        yield Row(key=name, required=required, kind=_kind(said, definitions), said=said)
        for within, end in (
            (meant, "."),
            (_values(meant, "items", definitions), "[]."),
            (_values(meant, "additionalProperties", definitions), ".<name>."),
        ):
            if within.get("$ref", None) not in way:
                yield from _rows(within, definitions, f"{name}{end}", way)


def resolved(schema: Schema, definitions: Schema) -> Schema:
    """Return `schema` with the definition that it refers to, if any, under its own keys."""
    reference = schema.get("$ref")
    return {**definitions[reference.removeprefix("#/$defs/")], **schema} if reference else schema


def _values(schema: Schema, keyword: str, definitions: Schema) -> Schema:
    value = schema.get(keyword)
    return resolved(value, definitions) if isinstance(value, dict) else {}


def _cells(row: Row) -> tuple[str, str, str, str]:
    meaning, default = _split_default(row.said["description"])
    if row.required:
        default = "*required*"
    elif not default and "default" in row.said:
        default = _shown([row.said["default"]])
    return f"`{row.key}`", row.kind, default, meaning


def _split_default(description: str) -> tuple[str, str]:
    """Return the description without its last sentence, if that says the default, and what it says."""
    meaning, _, default = description.partition(" Default: ")
    return meaning, default.removesuffix(".")


def _shown(values: Sequence[object]) -> str:
    return ", ".join(f"`{json.dumps(each, ensure_ascii=False)}`" for each in values)


# ------------------------------------------------------------------------------------------------ types


def _kind(schema: Schema, definitions: Schema) -> str:
    """Return in words what values a key takes."""
    meant = resolved(schema, definitions)
    if "$ref" in schema and "properties" not in meant:
        return _kind_name(resolved({"$ref": schema["$ref"]}, definitions))
    if "const" in meant:
        return _shown([meant["const"]])
    if "enum" in meant:
        return " | ".join("null" if each is None else f"`{each}`" for each in meant["enum"])
    types = meant["type"] if isinstance(meant["type"], list) else [meant["type"]]
    words = [_type_words(each, meant, definitions) for each in types]
    return (", or " if "," in words[0] else " or ").join(words)


def _kind_name(definition: Schema) -> str:
    return re.sub(r"^an? ", "", str(definition["title"]))


def _type_words(type_: str, schema: Schema, definitions: Schema) -> str:
    if type_ == "string":
        return _text_words(schema)
    if type_ in ("integer", "number"):
        return _number_words(type_, schema)
    if type_ == "array":
        return f"list, each {_kind(schema['items'], definitions)}"
    if type_ == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map, each {_kind(schema['additionalProperties'], definitions)}"
    return {"object": "map", "boolean": "true or false"}.get(type_, type_)


def _text_words(schema: Schema) -> str:
    maximum = schema.get("maxLength", BOUND_SHOWN_MAX)
    return f"text, at most {maximum} characters" if maximum < BOUND_SHOWN_MAX else "text"


def _number_words(type_: str, schema: Schema) -> str:
    minimum, maximum = schema.get("minimum"), schema.get("maximum", BOUND_SHOWN_MAX)
    lower = f"from {minimum}" if minimum is not None else f"above {schema['exclusiveMinimum']}"
    return f"{type_}, {lower}" + (f" to {maximum}" if maximum < BOUND_SHOWN_MAX else "")


# ------------------------------------------------------------------------------------------------ YAML


def yaml(value: object) -> str:
    """Return `value`, made of plain JSON values, as YAML that people would write."""
    return "\n".join(_block(value))


def _block(value: object) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _entry(f"{_scalar(key)}:", item)
    elif isinstance(value, list) and value:
        for item in value:
            lines = [_flow(item)] if not isinstance(item, dict) else list(_block(item))
            yield f"- {lines[0]}"
            yield from (f"  {line}" for line in lines[1:])
    else:
        yield _flow(value)


def _entry(head: str, item: object) -> Iterator[str]:
    flat = _flow(item)
    if not isinstance(item, dict | list) or (len(flat) <= FLOW_CHARACTERS_MAX and _is_shallow(item)):
        yield f"{head} {flat}"
    else:
        yield head
        yield from (f"  {line}" for line in _block(item))


def _is_shallow(value: dict[str, object] | list[object]) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return not any(isinstance(each, dict | list) and each for each in items)


def _flow(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(each) for each in value) + "]"
    return _scalar(value)


def _scalar(value: object) -> str:
    """Return a scalar; text that a reader of YAML could take for something else is quoted as JSON does it."""
    if not isinstance(value, str):
        return json.dumps(value)
    plain = re.fullmatch(r"[A-Za-z0-9./][A-Za-z0-9./_+ -]*", value) and re.search("[A-Za-z]", value)
    ambiguous = re.fullmatch(r"(?i:true|false|null|yes|no|on|off|y|n|[0-9._]+e[0-9+-]+|0[xob].*|\.?(inf|nan))", value)
    return value if plain and not ambiguous and value == value.strip() else json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------------------------------------ verbs

CLI_INTRODUCTION = """\
# Command line

<!-- Written by docs/reference/generate.py from the verbs in reconciler/commands/: edit those and run it again. -->

`reconciler VERB ...`, in any directory of a repository. Each verb says the same about itself with `--help`. How the
verbs work together is told in the [guide](../guide.md), what the files say in [formats](formats.md).
"""

CLI_EXIT_CODES = """\
## Exit codes

| code | meaning |
|---|---|
| 0 | Done. For verbs that wait: every run they had to do with succeeded, or there was nothing to do. |
| 1 | A run failed or was cancelled, a file was rejected, or the repository does not say what it must. |
| 2 | The command line asks for something that cannot be. |
| 3 | The time of `--timeout` is over and a run is still under way; it goes on. |
| 4 | A run waits for approval, or the reviewer leaves it to a person. |
| 70 | A bug in the reconciler. What is printed can be pasted into a report. |
| 75 | The environment refused: evidence could not be committed, git failed, another reconciler is busy. Try again. |
| 130 | Interrupted with Ctrl-C; runs under way go on. |
| 141 | Whoever read the output closed it. |
"""


def cli_page() -> str:
    """Return the page about the command line."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    import click

    from reconciler.cli import VERBS, cli

    context = click.Context(cli, info_name="reconciler")
    contents = "\n".join(f"- [`{verb}`](#{verb}): {said}" for verb, said in VERBS.items())
    everywhere = "\n".join(["## Everywhere", "", *_options(cli, before="before the verb")])
    verbs = (_verb(verb, cli.get_command(context, verb), context) for verb in VERBS)
    return "\n".join([CLI_INTRODUCTION, contents, "", everywhere, *verbs, CLI_EXIT_CODES])


def _verb(name: str, command: click.Command | None, parent: click.Context) -> str:
    """Return the section about a verb, and below it, of one that is several, those about its parts."""
    import click

    assert command is not None, name
    context = click.Context(command, info_name=name, parent=parent)
    path = context.command_path.removeprefix("reconciler ")
    usage = ["```text", f"reconciler {path} {' '.join(command.collect_usage_pieces(context))}", "```", ""]
    heading = f"{'#' * (1 + len(path.split()))} {path}"
    parts = list(command.commands.items()) if isinstance(command, click.Group) else []
    own = "\n".join([heading, "", *usage, *_paragraphs(command.help or ""), *_options(command)])
    return "\n".join([own, *(_verb(each, part, context) for each, part in parts)])


def _paragraphs(help_: str) -> Iterator[str]:
    """Yield what a verb says of itself; what stands behind the mark that click knows, `\\b`, keeps its lines."""
    for paragraph in inspect.cleandoc(help_).split("\n\n"):
        plain = paragraph.removeprefix("\b\n")
        yield from ([" ".join(plain.split())] if plain == paragraph else ["```sh", plain, "```"])
        yield ""


def _options(command: click.Command, *, before: str = "") -> Iterator[str]:
    import click

    options = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    cells = ((_spelled(each), _meaning(each)) for each in options)
    if options:
        yield from _table((f"option, {before}" if before else "option", "meaning"), cells)
        yield ""


def _spelled(option: click.Option) -> str:
    import click

    words = sorted(option.opts, key=lambda each: not each.startswith("--"))
    value = ""
    if isinstance(option.type, click.Choice):
        value = f" {'|'.join(str(each) for each in option.type.choices)}"
    elif not option.is_flag:
        value = f" {option.metavar or 'TEXT'}"
    return ", ".join(f"`{each}{value if index == 0 else ''}`" for index, each in enumerate(words))


def _meaning(option: click.Option) -> str:
    """Return what an option does, with what click would say in brackets."""
    names = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
    said = [option.help or ""]
    said += ["Required." if option.required else ""]
    said += [f"Default: `{option.default}`." if option.show_default and isinstance(option.default, str) else ""]
    said += [f"Also from the environment: {', '.join(f'`{each}`' for each in names)}." if names else ""]
    return " ".join(each for each in said if each)


# ------------------------------------------------------------------------------------------------ decisions

DECISIONS_INTRODUCTION = """\
# Decisions

<!-- Written by docs/reference/generate.py from the titles of the pages beside it. -->

What was decided about how this works, why, and what was considered instead. Each page tells one decision.

"""


def decisions_page(directory: Path) -> str:
    """Return the list of the decisions that lie in a directory, by their numbers."""
    titles = ((path.name, _title(path)) for path in sorted(directory.glob("[0-9]*.md")))
    return DECISIONS_INTRODUCTION + "".join(f"- [{title}]({name})\n" for name, title in titles)


def _title(path: Path) -> str:
    """Return the heading of a page, with a dot behind its number that no reader takes for that of a list."""
    with path.open(encoding="utf-8") as page:
        return page.readline().removeprefix("# ").strip().replace(".", ":", 1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
