"""`reconciler new`: a task, request, pipeline or document to start from, its id filled in. It only ever adds."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from reconciler import checklist, parse, scaffold
from reconciler.check import Files, Kind, kind_of
from reconciler.commands.start import parameters as parameters_of
from reconciler.commands.validate import checklists_of, overlay, problems_of
from reconciler.errors import ContentError, UsageError
from reconciler.model import Pipeline, Problem, Rejection, Severity, Source
from reconciler.newfiles import (
    File,
    facts,
    ignored,
    patch,
    refuse_bare,
    refuse_detours,
    refuse_existing,
    show,
    to_commit,
    write_all,
)
from reconciler.terminal import format_option, print_json, single_line
from reconciler.world import World, open_world

F = TypeVar("F", bound=Callable[..., Any])

TITLE_CHARACTERS_MAX = 200
ITEMS_MAX = 100
MIRRORS_MAX = 100


@click.group(short_help="write a task, request, pipeline or document to start from")
def command() -> None:
    """Write a task, request, pipeline or document to start from, its id filled in.

    \b
    reconciler new task 0002-login --title "Fast login"
    reconciler new pipeline login-checks
    reconciler new request 0002-login --task 0002-login --pipeline login-checks
    reconciler new spec login

    What is there is never overwritten: then nothing is written at all, and the exit code is 1. What is written passes
    `reconciler validate`. Nothing is committed: that is yours to do.
    """


def options(function: F) -> F:
    """Add what every kind takes: its id first, then the options about writing and printing."""
    for each in (
        format_option,
        click.option("--dry-run", is_flag=True, help="Show what would be written, as a patch, and write nothing."),
        click.argument("id_", metavar="ID"),
    ):
        function = each(function)
    return function


title_option = click.option("--title", help="One line for people. Default: made of the id.")


@command.command("task", short_help="a task, its checklist, its mirrors and its entry in the registry")
@options
@title_option
@click.option(
    "--item", "items", multiple=True, metavar="NAME=TEXT",
    help="An item of the checklist; repeat for more. Default: tests-green and reviewed.",
)  # fmt: skip
@click.option(
    "--mirror", "mirrors", multiple=True, metavar="PATH",
    help="A file that repeats the checklist; repeat for more. Default: docs/tasks/ID.md and .agent/tasks/ID.md.",
)  # fmt: skip
@click.option("--no-mirrors", is_flag=True, help="Repeat the checklist nowhere.")
@click.pass_obj
def task(repo: str, /, id_: str, title: str | None, dry_run: bool, form: str, **asked: Any) -> int:
    """Write a task: its checklist tasks/ID.md, its mirrors, and its entry in tasks/index.json.

    \b
    reconciler new task 0002-login --title "Fast login"
    reconciler new task 0002-login --item fast="Answers within 100 ms" --no-mirrors

    Items are ticked by requests that say `proves: [ID/NAME]`, in the checklist and in its mirrors at once.
    """
    _refuse_id(id_)
    world = _world(repo)
    searched = checklists_of(world.repository.directory)
    planned = scaffold.Task(
        id=id_,
        title=_title(id_, title),
        items=_items(asked["items"]) or scaffold.ITEMS,
        mirrors=_mirrors(id_, asked["mirrors"], searched, none=asked["no_mirrors"]),
    )
    _refuse_unsearched([planned.path, *planned.mirrors], searched)
    new = [File(path=path, data=data) for path, data in scaffold.task_files(planned).items()]
    files = [*new, _registry(world.repository.directory, planned)]
    return _finish(world, files, f"tasks: {id_}", ["reconciler plan"], dry_run, form)


@command.command("request", short_help="a request for a run of a pipeline")
@options
@click.option("--task", "task_id", required=True, metavar="TASK", help="The task the run belongs to.")
@click.option("--pipeline", "pipeline_id", required=True, metavar="PIPELINE", help="The pipeline to run.")
@click.option(
    "--parameter", "--param", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter; repeat for more."
)
@click.option("--title", help="One line for people. Default: the title of the pipeline.")
@click.option("--proves", multiple=True, metavar="ITEM", help="A checklist item that success ticks; repeat for more.")
@click.pass_obj
def request(repo: str, /, id_: str, title: str | None, dry_run: bool, form: str, **asked: Any) -> int:
    """Write a request, runs.d/ID.yaml, for a task and a pipeline that are there.

    \b
    reconciler new request 0002-login --task 0002-login --pipeline login-checks
    reconciler new request team/0003-nightly --task 0002-login --pipeline login-checks --param python=3.12

    Parameters that are not given stand in it as comments, with the defaults of the pipeline. To write a request, commit
    it and wait for its run at once, use `reconciler start`.
    """
    path = f"runs.d/{id_}.yaml"
    name = parse.request_name(path)
    if isinstance(name, Problem):
        raise UsageError(f"{id_}: {name.reason}; {name.cure}")
    world = _world(repo)
    there = overlay(world.repository.directory, {}).files
    wish = scaffold.Wish(
        task=_known("task", asked["task_id"], _tasks(there)),
        pipeline=_pipeline(world, there, asked["pipeline_id"]),
        title=_line("--title", title) if title else "",
        parameters=parameters_of(asked["parameters"]),
        proves=asked["proves"],
        items=_items_of(there, asked["task_id"]),
    )
    files = [File(path=path, data=scaffold.request(wish))]
    return _finish(world, files, f"runs: ask for {name}", ["reconciler reconcile --wait"], dry_run, form)


@command.command("pipeline", short_help="a pipeline that says in comments what it could say")
@options
@title_option
@click.pass_obj
def pipeline(repo: str, /, id_: str, title: str | None, dry_run: bool, form: str) -> int:
    """Write a pipeline, pipelines/ID.yaml, that runs in any repository and says in comments what else it could.

    \b
    reconciler new pipeline login-checks
    """
    _refuse_id(id_)
    world = _world(repo)
    files = [File(path=f"pipelines/{id_}.yaml", data=scaffold.pipeline(id_, _title(id_, title)))]
    following = [f"reconciler new request NAME --task TASK --pipeline {id_}"]
    return _finish(world, files, f"pipelines: {id_}", following, dry_run, form)


def _document(kind: str, help_: str) -> click.Command:
    """Return the verb that writes a document of a kind."""

    @options
    @title_option
    @click.pass_obj
    def verb(repo: str, /, id_: str, title: str | None, dry_run: bool, form: str) -> int:
        _refuse_id(id_)
        world = _world(repo)
        today = world.now().at[:10]
        data = scaffold.document(kind, id_, _title(id_, title), today)
        files = [File(path=f"{scaffold.FOLDERS[kind]}/{id_}.md", data=data)]
        return _finish(world, files, f"docs: {kind} {id_}", [], dry_run, form)

    verb.__doc__ = f"""{help_}, {scaffold.FOLDERS[kind]}/ID.md, with `last_review` of today (UTC) in its front matter.

    \b
    reconciler new {kind} login --title "Fast login"
    """
    found: click.Command = command.command(kind, short_help=help_.removeprefix("Write ").lower())(verb)
    return found


spec = _document("spec", "Write a spec")
prd = _document("prd", "Write a product requirements document")
action_plan = _document("action-plan", "Write an action plan")


# ------------------------------------------------------------------------------------------------ what was said


def _refuse_id(text: str) -> None:
    """Raise UsageError for what is no id."""
    fault = parse.id_fault(text)
    if fault is None and text.endswith((".md", ".yaml", ".json")):
        fault = f"{text!r} ends like a file's name", "leave the suffix out"
    if fault is not None:
        raise UsageError(f"{single_line(text[:100])}: {fault[0]}; {fault[1]}")


def _title(id_: str, said: str | None) -> str:
    return scaffold.title_of(id_) if said is None else _line("--title", said)


def _line(option: str, text: str) -> str:
    """Return one line of text for people. Raise UsageError if it is none, or would end up as a comment."""
    if not text.strip() or not text.isprintable() or len(text) > TITLE_CHARACTERS_MAX:
        raise UsageError(f"{option}: is one line of text, at most {TITLE_CHARACTERS_MAX} characters")
    if "<!--" in text:
        raise UsageError(f"{option}: holds '<!--', which begins a comment; leave it out")
    return text.strip()


def _items(said: Sequence[str]) -> dict[str, str]:
    """Return NAME=TEXT words as items."""
    found: dict[str, str] = {}
    for word in said:
        name, separator, text = word.partition("=")
        if not separator:
            raise UsageError(f"--item {word!r}: write NAME=TEXT, for example tests-green='Tests green'")
        if fault := parse.id_fault(name):
            raise UsageError(f"--item {word!r}: {fault[0]}; {fault[1]}")
        if name in found:
            raise UsageError(f"--item {word!r}: item '{name}' is there twice; rename one")
        found[name] = _line(f"--item {name}", text)
    if len(found) > ITEMS_MAX:
        raise UsageError(f"--item: {len(found)} items; at most {ITEMS_MAX} are written at once")
    return found


def _mirrors(id_: str, said: Sequence[str], searched: Sequence[str], *, none: bool) -> tuple[str, ...]:
    """Return the paths of the mirrors; where nobody says anything, the usual ones that the publisher searches.

    Raise UsageError for one that is not a Markdown file of this repository.
    """
    if none and said:
        raise UsageError("--mirror and --no-mirrors exclude each other")
    for path in said:
        if not _is_inside(path) or not path.endswith(".md") or path == f"tasks/{id_}.md":
            raise UsageError(f"--mirror {path!r}: is no path of another Markdown file; for example docs/tasks/{id_}.md")
    if len(set(said)) != len(said) or len(said) > MIRRORS_MAX:
        raise UsageError(f"--mirror: name each file once, at most {MIRRORS_MAX}")
    usual = () if none else [f"{folder}/{id_}.md" for folder in scaffold.MIRRORS]
    return tuple(said or (each for each in usual if kind_of(each, searched) is Kind.CHECKLIST))


def _refuse_unsearched(paths: Sequence[str], searched: Sequence[str]) -> None:
    """Raise ContentError for a checklist in which nobody would tick anything."""
    for path in paths:
        if kind_of(path, searched) is not Kind.CHECKLIST:
            raise ContentError(f"{path}: the setting 'checklists' leaves it out; add a pattern for it to that")


def _is_inside(path: str) -> bool:
    """Return whether a path names a file below the root, spelled in the one way there is."""
    parts = path.split("/")
    return path.isprintable() and not {"", ".", "..", ".git"} & set(parts) and len(path) <= 1000


# ------------------------------------------------------------------------------------------------ what is there


def _world(repo: str) -> World:
    world = open_world(Path(repo))
    refuse_bare(world.repository)
    return world


def _registry(root: Path, planned: scaffold.Task) -> File:
    """Return the registry with the task in it. Raise ContentError if it cannot be read, or knows the task."""
    path = scaffold.INDEX_PATH
    if not os.path.lexists(root / path):
        return File(path=path, data=scaffold.registry(planned))
    before = overlay(root, {}).files[path]
    if isinstance(before, Problem):
        raise ContentError(before.sentence())
    return File(path=path, data=checklist.add_task(before, path, planned.entry), action="update", before=before)


def _tasks(files: Files) -> list[str]:
    """Return the ids of the tasks that the registry names or a checklist is of. Raise ContentError."""
    content = files.get(scaffold.INDEX_PATH, b'{"items": []}')
    if isinstance(content, Problem):
        raise ContentError(content.sentence())
    named = checklist.gates(content, scaffold.INDEX_PATH)
    stems = (found[1] for path in files if (found := re.fullmatch(r"tasks/([^/]+)\.md", path)))
    return sorted({*named, *stems})


def _known(kind: str, word: str, known: Collection[str]) -> str:
    """Return a word that is among the known ones. Raise UsageError with those that are close."""
    if word in known:
        return word
    close = difflib.get_close_matches(word[:100], list(known)[:10_000], 3)
    meant = " or ".join(f"'{each}'" for each in close)
    hint = f"did you mean {meant}?" if close else f"write it with: reconciler new {kind} ID"
    raise UsageError(f"there is no {kind} '{single_line(word[:100])}'; {hint}")


def _pipeline(world: World, files: Files, word: str) -> Pipeline:
    """Return the pipeline that lies here. Raise UsageError if there is none, ContentError if it is broken."""
    paths = {found[1]: path for path in files if (found := re.fullmatch(r"pipelines/([^/]+)\.yaml", path))}
    path = paths[_known("pipeline", word, paths)]
    content = files[path]
    if isinstance(content, Problem):
        raise ContentError(content.sentence())
    parsed = parse.parse_pipeline(content, Source(path=path), world.contracts)
    if isinstance(parsed, Rejection):
        raise ContentError("\n".join(each.sentence() for each in parsed.problems))
    return parsed


def _items_of(files: Files, task_id: str) -> tuple[str, ...]:
    """Return the items of a task's own checklist, none where it cannot be read."""
    content = files.get(f"tasks/{task_id}.md", b"")
    try:
        found = checklist.items(content) if isinstance(content, bytes) else ()
    except ContentError:
        return ()
    return tuple(dict.fromkeys(each.id for each in found))[:ITEMS_MAX]


# ------------------------------------------------------------------------------------------------ writing


def _finish(
    world: World, files: Sequence[File], message: str, following: Sequence[str], dry_run: bool, form: str
) -> int:
    """Write the files, unless only a look was asked for, and say what comes next."""
    root = world.repository.directory
    for each in files:
        refuse_detours(root, each.path)
    refuse_existing(root, [each.path for each in files if each.action == "write"])
    _refuse_problems(root, files)
    done = list(files) if dry_run else write_all(root, files)
    kept = ignored(world.repository, [each.path for each in files])
    added = [each.path for each in files if each.path not in kept]
    commands = [*to_commit(world.repository, added, message), *following]
    if form == "json":
        print_json(facts(root, done, commands) | ({"patches": _patches(done)} if dry_run else {}))
    else:
        show(root, done)
        _conclude(done, commands, dry_run)
    return 0


def _patches(files: Sequence[File]) -> Mapping[str, str]:
    return {each.path: patch(each) for each in files}


def _refuse_problems(root: Path, files: Sequence[File]) -> None:
    """Raise ContentError with all that `validate` would find wrong; say what it would only warn of."""
    batch = overlay(root, {each.path: each.data for each in files})
    found = list(problems_of(batch))
    errors = [each.sentence() for each in found if each.severity is Severity.ERROR]
    if errors:
        raise ContentError("\n".join(errors))
    for warning in found:
        click.echo(single_line(f"warning: {warning.sentence()}"), err=True)


def _conclude(files: Sequence[File], commands: Sequence[str], dry_run: bool) -> None:
    if dry_run:
        click.echo("".join(f"\n{patch(each)}" for each in files), nl=False)
        click.echo("\nnothing was written")
        return
    changed = sum(each.action == "updated" for each in files)
    count = len(files) - changed
    words = [f"{count} file{'s' if count > 1 else ''} written", *([f"{changed} updated"] if changed else [])]
    click.echo(f"{', '.join(words)}. Next:")
    for each in commands:
        click.echo(f"  {each}")
