"""`reconciler import`: what the Node orchestrator left, as files of this one. It only adds, and says what is lost."""

# ruff: noqa: N999 (the file is named as the verb is typed)
from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from reconciler import ancestor, ancestor_records, checklist, codec, scaffold
from reconciler.check import load_json
from reconciler.commands.validate import overlay, problems_of
from reconciler.disk import DISK
from reconciler.errors import ContentError, UsageError
from reconciler.git import Repository, open_repository
from reconciler.model import Problem, Rejection, Severity
from reconciler.newfiles import DONE, File, facts, ignored, refuse_bare, refuse_detours, show, to_commit, write_all
from reconciler.terminal import format_option, print_json, single_line
from reconciler.yaml_events import Document, locate

MANIFESTS_MAX = 10_000
FOLDERS_MAX = 200_000
CONFIG_BYTES_MAX = 1024 * 1024
SHOWN_MAX = 200
LINES_SHOWN_MAX = 12


@click.command(short_help="take over what the Node orchestrator left: pipelines, tasks, past runs")
@click.argument("source", metavar="FILE|DIR")
@click.option("--write", is_flag=True, help="Write the files. Default: show what would be written.")
@format_option
@click.pass_obj
def command(repo: str, source: str, write: bool, form: str) -> int:
    """Take over what the Node orchestrator (codex-orchestrator) left, and say what has no equivalent.

    FILE is its codex.orchestrator.json; DIR is a folder that holds one, an old tasks/index.json or an old .runs/.

    \b
    reconciler import .                             # look: what would come of it, and what is lost
    reconciler import . --write                     # write it
    reconciler import old/codex.orchestrator.json   # the pipelines alone

    Pipelines become pipelines/*.yaml, with the stages of stage sets in their place. Tasks get an entry in
    tasks/index.json. Past manifests become records below .runs/TASK/imported/, which say what was said and are no
    evidence. What is there is never overwritten, and what is written passes `reconciler validate`.

    Exit codes: 0 done, whatever has no equivalent, 1 what is named cannot be read or holds nothing of the kind.
    """
    repository = open_repository(Path(repo))
    refuse_bare(repository)
    root = repository.directory
    found = _Old(Path(os.path.normpath(Path.cwd() / repo / source)), source)
    files, problems = _sound(root, [*_files(root, found.files), *_registry(root, found)], found.problems)
    files = _written(root, files) if write else files
    following = _following(repository, files, write=write, source=source)
    if form == "json":
        print_json({**facts(root, files, following), "left_out": problems})
    else:
        show(root, files)
        _conclude(files, problems, following)
    return 0


# ------------------------------------------------------------------------------------------------ what is there


class _Old:
    """What lies in the place that was named: files that come of it, tasks, and what has no equivalent."""

    def __init__(self, path: Path, word: str) -> None:
        self.root = path if path.is_dir() else path.parent
        self.files: dict[str, bytes] = {}
        self.tasks: dict[str, ancestor_records.Task] = {}
        self.problems: list[Problem] = []
        if not path.exists():
            raise UsageError(f"{word}: no such file or directory")
        names = [path.name] if path.is_file() else [ancestor.CONFIG_NAME, scaffold.INDEX_PATH]
        read = [self._take(name, whole=path.is_dir()) for name in names]
        read += [self._past()] if path.is_dir() else []
        if not any(read):
            what = f"neither {ancestor.CONFIG_NAME} nor an old {scaffold.INDEX_PATH} or .runs/ is there"
            raise ContentError(f"{word}: {what}; name the folder or the file that the Node orchestrator used")
        if not self.files and not self.tasks:
            told = (each.sentence() for each in self.problems[:SHOWN_MAX])
            raise ContentError("\n".join([f"{word}: nothing of it can be taken over", *told]))

    def _take(self, name: str, *, whole: bool) -> bool:
        """Read one file, and return whether it is there. Raise ContentError if it cannot be read."""
        document = _document(self.root / name, name)
        if document is None:
            return False
        if name == scaffold.INDEX_PATH and whole:
            self._take_tasks(document, name)
        else:
            converted = ancestor.convert(document.value, name)
            self.files.update(converted.files)
            self.problems += [locate(each, document.marks) for each in converted.problems]
        return True

    def _take_tasks(self, document: Document, name: str) -> None:
        tasks, faults = ancestor_records.tasks_of(document.value)
        self.tasks.update({each.id: each for each in tasks})
        for index, reason, cure in faults:
            problem = _lost(name, reason, cure, f"/items/{index}")
            self.problems.append(locate(problem, document.marks))

    def _past(self) -> bool:
        """Read past manifests, and return whether there is one. A run is taken once, wherever it lies twice."""
        before = len(self.files)
        for path in _manifests(self.root):
            data = DISK.read_bounded(self.root / path)
            document = load_json(data, path) if data is not None else None
            if isinstance(document, Rejection):
                self.problems += [replace(each, severity=Severity.WARNING) for each in document.problems[:1]]
            elif document is not None and ancestor_records.is_old(document.value):
                self._take_manifest(path, data or b"", document.value)
        return len(self.files) > before

    def _take_manifest(self, path: str, data: bytes, document: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(data).hexdigest()
        source = ancestor_records.Source(path=path, sha256=digest, bytes=len(data))
        record = ancestor_records.record_of(document, source)
        if isinstance(record, tuple):
            self.problems.append(_lost(path, *record))
            return
        self.files.setdefault(record.path, record.data)
        self.tasks.setdefault(record.task, ancestor_records.Task(id=record.task, title=scaffold.title_of(record.task)))


def _lost(path: str, reason: str, cure: str, pointer: str = "") -> Problem:
    severity = Severity.WARNING
    return Problem(path=path, pointer=pointer, reason=reason, cure=cure, rule="left-out", severity=severity)


def _document(path: Path, name: str) -> Document | None:
    """Return what a JSON file says, None if it is not there. Raise ContentError if it cannot be read."""
    try:
        data = DISK.read_bounded(path, CONFIG_BYTES_MAX)
    except codec.CodecError as error:
        raise ContentError(f"{name}: cannot be read: {error}") from None
    if data is None:
        return None
    document = load_json(data, name)
    if isinstance(document, Rejection):
        raise ContentError("\n".join(each.sentence() for each in document.problems))
    return document


def _manifests(root: Path) -> Iterator[str]:
    """Yield the manifests below `.runs`, in the order of their paths; links are not followed.

    Raise UsageError for more than are taken at once.
    """
    count = 0
    for number, (directory, names, files) in enumerate(os.walk(root / ".runs")):
        names.sort()
        path = (Path(directory) / "manifest.json").relative_to(root).as_posix()
        if "manifest.json" in files and ancestor_records.MANIFEST.fullmatch(path):
            count += 1
            yield path
        if count > MANIFESTS_MAX or number > FOLDERS_MAX:
            raise UsageError(f"{root / '.runs'}: more than {MANIFESTS_MAX} manifests; move some of them away first")


# ------------------------------------------------------------------------------------------------ what becomes of it


def _files(root: Path, made: Mapping[str, bytes]) -> list[File]:
    found = []
    for path, data in made.items():
        there = os.path.lexists(root / path)
        if not there:
            refuse_detours(root, path)
        found.append(File(path=path, data=data, action="kept" if there else "write"))
    return found


def _registry(root: Path, found: _Old) -> list[File]:
    """Return the registry with the tasks that it does not know yet; nothing where it knows them all."""
    path = scaffold.INDEX_PATH
    there = os.path.lexists(root / path)
    before = overlay(root, {}).files[path] if there else b'{\n  "items": []\n}\n'
    try:
        if isinstance(before, Problem):
            raise ContentError(before.sentence())
        after, known = before, checklist.gates(before, path)
        for each in found.tasks.values():
            after = after if each.id in known else checklist.add_task(after, path, each.entry)
    except ContentError as error:
        reason = str(error).removeprefix(f"{path}: ")
        found.problems.append(_lost(path, f"no task is added: {reason}", "put the registry right first"))
        return []
    if after == before:
        return []
    return [File(path=path, data=after, action="update" if there else "write", before=before if there else None)]


def _sound(root: Path, files: Sequence[File], problems: Sequence[Problem]) -> tuple[list[File], list[Problem]]:
    """Return the files less those that `validate` would refuse, and these among what has no equivalent."""
    new = {each.path: each.data for each in files if each.action != "kept"}
    wrong = [each for each in problems_of(overlay(root, new)) if each.severity is Severity.ERROR]
    refused = {each.path for each in wrong}
    told = [_lost(each.path, f"it is not written: {each.reason}", each.cure) for each in wrong]
    return [each for each in files if each.path not in refused], [*problems, *told]


def _written(root: Path, files: Sequence[File]) -> list[File]:
    """Write what is not there yet, all or nothing."""
    wanted = [each for each in files if each.action in DONE]
    done = {each.path: each for each in write_all(root, wanted)}
    return [done.get(each.path, each) for each in files]


def _following(repository: Repository, files: Sequence[File], *, write: bool, source: str) -> list[str]:
    """Return the commands that come next. What lies below .runs/ is ignored by git until somebody adds it."""
    changed = [each.path for each in files if each.action != "kept"]
    if not changed:
        return []
    if not write:
        return [f"reconciler import {source} --write"]
    records = any(each.startswith(".runs/") for each in changed)
    hidden = ignored(repository, changed)
    visible = [each for each in changed if each not in hidden and not each.startswith(".runs/")]
    added = dict.fromkeys(each.split("/")[0] for each in visible)
    commands = to_commit(repository, list(added), "pipelines: those of the Node orchestrator")
    return [*commands, *(["git add -f .runs/*/imported   # only if past runs shall be kept"] if records else [])]


# ------------------------------------------------------------------------------------------------ output


def _conclude(files: Sequence[File], problems: Sequence[Problem], following: Sequence[str]) -> None:
    told = list(_told(problems))
    if told:
        click.echo(f"\nWithout an equivalent, or not as it was ({len(problems)}):")
    for each in told[:SHOWN_MAX]:
        click.echo(f"  {single_line(each)}")
    if len(told) > SHOWN_MAX:
        click.echo(f"  ... and {len(told) - SHOWN_MAX} more; --format json has them all")
    count = sum(each.action in DONE.values() for each in files)
    click.echo(f"\n{count or 'no'} file{'' if count == 1 else 's'} written." + (" Next:" if following else ""))
    for line in following:
        click.echo(f"  {line}")


def _told(problems: Sequence[Problem]) -> Iterator[str]:
    """Yield a line for each thing that is lost, with every line of the old file in which it stands."""
    lines: dict[tuple[str, str, str], list[int]] = {}
    for each in problems:
        lines.setdefault((each.path, each.reason, each.cure), []).append(each.line)
    for (path, reason, cure), found in lines.items():
        where = ",".join(str(line) for line in sorted(found)[:LINES_SHOWN_MAX] if line)
        more = ",..." if len(found) > LINES_SHOWN_MAX else ""
        yield f"{path}{f':{where}{more}' if where else ''}: {reason}" + (f"; {cure}" if cure else "")
