"""`reconciler validate`: all problems of all files at once."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any

import click

from reconciler import __version__, codec, sarif
from reconciler.check import (
    RECORD_FOLDERS,
    RECORDS,
    SETTINGS_PATH,
    Content,
    Files,
    Kind,
    check,
    folders,
    kind_of,
    settings_of,
)
from reconciler.contracts import Contracts
from reconciler.disk import DISK
from reconciler.errors import ContentError, ReconcilerError, TransientError, UsageError
from reconciler.git import BLOB_BYTES_MAX, Entry, Repository, open_repository
from reconciler.model import Problem, RoleSettings, Settings, Severity
from reconciler.terminal import print_json, single_line, use_colour
from reconciler.values import frozen

FILES_MAX = 100_000
STANDARD_INPUT = "-"

_CONTRACTS = Contracts()
_ROOT_MARKS = (".git", "runs.d", "pipelines", SETTINGS_PATH)
_STAND_INS = {
    Kind.REQUEST: "runs.d/this.yaml",
    Kind.APPROVAL: "runs.d/this.approval.yaml",
    Kind.PIPELINE: "pipelines/this.yaml",
    Kind.SETTINGS: SETTINGS_PATH,
    Kind.TASK_INDEX: "tasks/index.json",
    Kind.CHECKLIST: "tasks/this.md",
}
"""Where a file stands in for one when `--as` says what it is."""


@frozen
class Batch:
    """Files of one repository that are checked together: `prefix`, or a name of its own, is how one is shown. `commit`
    is the one they are read from although nobody named it, "" for none; `home` is where that repository is, if it is
    one of git."""

    files: Files
    asked: Mapping[str, Kind]
    prefix: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False
    commit: str = ""
    home: Path | None = None


@click.command(short_help="say everything that is wrong with the files, at once")
@click.argument("paths", nargs=-1)
@click.option("--commit", metavar="REV", help="Check what this commit holds, not what lies on disk.")
@click.option(
    "--as", "said", type=click.Choice([each.value for each in _STAND_INS]),
    help="What the named files are, wherever they lie.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Let warnings fail, too.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "sarif"]), default="text", show_default=True,
    help="Text for people, JSON for programs, SARIF for code scanning.",
)  # fmt: skip
@click.pass_obj
def command(repo: str, paths: tuple[str, ...], commit: str | None, said: str | None, strict: bool, form: str) -> int:
    """Say everything that is wrong with requests, approvals, pipelines, settings, tasks and checklists, at once.

    \b
    reconciler validate                      # everything in this repository
    reconciler validate runs.d pipelines     # files, or what is below folders
    reconciler validate --commit main        # what a commit holds
    reconciler validate --as request - < x   # standard input
    reconciler validate --format sarif > problems.sarif

    Nothing is written and the network is not used; without --commit, git is not needed either. Where nothing is checked
    out (a bare repository, --repo URL, git clone -n), the tip is checked, and that is said. Records that the reconciler
    wrote (below .runs/ and out/) are checked when they are named.

    Exit codes: 0 nothing wrong, or warnings only, 1 problems (with --strict: or warnings), 2 wrong usage.
    """
    kind = Kind(said) if said else None
    _refuse_contradictions(paths, commit, kind)
    base = Path(os.path.normpath(Path.cwd() / repo))
    if not base.is_dir():
        raise UsageError(f"{repo}: no such directory")
    batches = _at_commit(base, paths, commit) if commit is not None else _without_commit(base, paths, kind)
    found = (problem for batch in batches for problem in problems_of(batch))
    problems = sorted(found, key=lambda each: (each.path, each.line, each.column))
    _print(form, sum(len(batch.asked) for batch in batches), problems, batches[0].commit if batches else "")
    failing = [each for each in problems if strict or each.severity is Severity.ERROR]
    return 1 if failing else 0


def _refuse_contradictions(paths: Sequence[str], commit: str | None, kind: Kind | None) -> None:
    if kind is not None and not paths:
        raise UsageError("--as needs a path, or - for standard input")
    if kind is not None and commit is not None:
        raise UsageError("--as and --commit exclude each other")
    if STANDARD_INPUT in paths and kind is None:
        raise UsageError("- needs --as: standard input has no path that says what it is; for example: --as request -")


def problems_of(batch: Batch) -> Iterator[Problem]:
    """Yield the problems of a batch under the names that people know its files by."""
    for each in check(batch.files, batch.asked, _CONTRACTS, alone=batch.alone):
        name = batch.names.get(each.path, batch.prefix + each.path)
        # A name that is not UTF-8 can be on disk and cannot be printed.
        path, reason = (text.encode(errors="backslashreplace").decode() for text in (name, each.reason))
        yield replace(each, path=path, reason=reason)
    if SETTINGS_PATH in batch.asked:
        name = batch.names.get(SETTINGS_PATH, batch.prefix + SETTINGS_PATH)
        settings = settings_of(batch.files, _CONTRACTS)
        yield from _missing_roles(name, settings)
        yield from _missing_remote(name, settings, batch.home)


def _missing_remote(path: str, settings: Settings, home: Path | None) -> Iterator[Problem]:
    """Yield a warning for a remote that is not configured in this clone while others are: a slip of the pen would let
    the local branch count, without a word."""
    if home is None or settings.remote == Settings().remote:
        return
    from reconciler.remote import misnamed

    with contextlib.suppress(ReconcilerError):  # no git here, or none that reads this repository
        if wrong := misnamed(open_repository(home), settings.remote):
            reason, cure = wrong
            rule, severity = "remote-missing", Severity.WARNING
            yield Problem(path=path, pointer="/remote", reason=reason, cure=cure, rule=rule, severity=severity)


def _missing_roles(path: str, settings: Settings) -> Iterator[Problem]:
    """Yield a warning for every role that is not installed on this machine: another one may execute the runs."""
    if settings.roles == RoleSettings():
        return
    from reconciler.installed import cure, missing_roles

    for role, name in missing_roles(settings.roles):
        reason = f"{role} '{name}' is not installed here"
        rule, pointer = "role-missing", f"/roles/{role}"
        yield Problem(path=path, pointer=pointer, reason=reason, cure=cure(name), rule=rule, severity=Severity.WARNING)


def problems_at(base: Path, revision: str) -> list[Problem]:
    """Return everything that is wrong with the files of a commit, in the order of places."""
    found = (problem for batch in _at_commit(base, (), revision) for problem in problems_of(batch))
    return sorted(found, key=lambda each: (each.path, each.line, each.column))


# ------------------------------------------------------------------------------------------------ on disk


class Disk(Mapping[str, Content]):
    """Files below a directory by their path, each read when it is looked at, unless its content is held already."""

    def __init__(self, root: Path, paths: Iterable[str], held: Mapping[str, Content] | None = None) -> None:
        self.root, self.held = root, held or {}
        self.paths = dict.fromkeys([*self.held, *paths])

    def __getitem__(self, path: str) -> Content:
        if path in self.held:
            return self.held[path]
        if path not in self.paths:
            raise KeyError(path)
        return _read(self.root / path, path)

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


def _read(file: Path, path: str) -> Content:
    """Return the bytes of a file, or why there are none; what is no regular file is not opened."""
    try:
        mode = os.lstat(file).st_mode
        if not stat.S_ISREG(mode):
            return _not_a_file(path, "a symbolic link" if stat.S_ISLNK(mode) else "a pipe, socket or device")
        data = DISK.read_bounded(file, BLOB_BYTES_MAX)
    except OSError as error:
        return Problem(path=path, reason=f"the file cannot be read: {error.strerror}", rule="unreadable")
    except codec.CodecError as error:
        return Problem(path=path, reason=f"the file cannot be read: {error}", rule="unreadable")
    return data if data is not None else Problem(path=path, reason="the file is gone", rule="unreadable")


def _not_a_file(path: str, what: str) -> Problem:
    return Problem(path=path, reason=f"this is {what}, not a file", cure="commit the file itself", rule="not-a-file")


def _on_disk(base: Path, words: Sequence[str], said: Kind | None) -> list[Batch]:
    home = _above(base, (".git",)) or base
    if said is not None:
        return [_stand_in(base, home, word, said) for word in words]
    asked: dict[Path, dict[str, Kind]] = {} if words else {home: _below(home, home)}
    for word in words:
        path = Path(os.path.normpath(base / word))
        if not os.path.lexists(path):
            raise UsageError(f"{word}: no such file or directory")
        root = _root(path)
        found = _below(root, path) if _is_folder(path) else _named(root, path, word)
        asked.setdefault(root, {}).update(found)
    return [_batch(home, root, found) for root, found in asked.items()]


def everything(base: Path) -> Batch:
    """Return all files of the repository or directory around `base` that are ours, without records."""
    return _without_commit(base, (), None)[0]


def _without_commit(base: Path, words: Sequence[str], said: Kind | None) -> list[Batch]:
    """Return what lies on disk; where that is nothing, because nothing is checked out, what the tip holds."""
    there = _on_disk(base, words, said)
    if words or any(batch.asked for batch in there) or not _is_repository(base):
        return there
    tip = _tip(base)
    committed = _at_commit(base, (), tip) if tip else []
    return [replace(batch, commit=tip[:12]) for batch in committed if batch.asked] or there


def _is_repository(base: Path) -> bool:
    """Return whether git could have something here that is not on disk: below a `.git`, or in a git directory."""
    return _above(base, (".git",)) is not None or _above(base, ("HEAD",)) is not None


def _tip(base: Path) -> str:
    """Return the commit of a checkout, or in a bare repository the tip that a pass would look at; "" if there is none.
    Raise ContentError where the remote must be asked first."""
    from reconciler.observe import Observer
    from reconciler.world import open_world

    try:
        world = open_world(base)
    except UsageError:
        return ""
    head = world.repository.look_up(["HEAD^{commit}"])[0] or ""
    if not world.repository.bare:
        return head
    observer = Observer(world)
    try:
        observer.recall()
        return observer.branches.commit()
    except ContentError:
        # Broken settings are found by whoever reads them as a file.
        if head or world.remote is None:
            return head
        raise


def overlay(root: Path, held: Mapping[str, bytes]) -> Batch:
    """Return files as if they lay in a repository already, among all that does."""
    checklists = checklists_of(root)
    asked = {path: kind for path in held if (kind := kind_of(path, checklists)) is not None}
    return Batch(files=Disk(root, _below(root, root), held), asked=asked)


def _batch(home: Path, root: Path, asked: Mapping[str, Kind]) -> Batch:
    whole = _is_whole(root)
    return Batch(
        files=Disk(root, [*asked, *(_below(root, root) if whole else ())]),
        asked=asked,
        prefix="" if root == home else f"{_shown(home, root)}/",
        alone=not whole,
        home=root if (root / ".git").exists() else None,
    )


def _stand_in(base: Path, home: Path, word: str, said: Kind) -> Batch:
    """Return a batch in which one file, or standard input, stands where a file of its kind belongs."""
    file = Path(os.path.normpath(base / word))
    own = os.path.relpath(file, home)
    path = own if kind_of(own) == said else _STAND_INS[said]
    if word == STANDARD_INPUT:
        content: Content = sys.stdin.buffer.read(BLOB_BYTES_MAX)
    elif os.path.lexists(file) and not _is_folder(file):
        content = _read(file, path)
    else:
        raise UsageError(f"{word}: no such file")
    whole = _is_whole(home)
    return Batch(
        files=Disk(home, _below(home, home) if whole else (), {path: content}),
        asked={path: said},
        names={path: "<stdin>" if word == STANDARD_INPUT else _shown(home, file)},
        alone=not whole,
    )


def _shown(home: Path, path: Path) -> str:
    """Return a path as it is shown: relative to the root of the repository one is in, absolute elsewhere."""
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else path.as_posix()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_whole(root: Path) -> bool:
    """Return whether a directory holds what its requests name, and is not just where a file happened to lie."""
    return (root / ".git").exists() or (root / "pipelines").is_dir()


def _above(path: Path, marks: Sequence[str]) -> Path | None:
    """Return the nearest directory, from `path` itself upwards, that holds one of `marks`."""
    return next((each for each in (path, *path.parents) if any((each / mark).exists() for mark in marks)), None)


def _root(path: Path) -> Path:
    """Return the directory that the place of a file of ours, or of a folder, is relative to.

    For a file it is the repository it is in, if the file has a place there, else the nearest directory in which it
    has one: so examples and fixtures are checked by their own places.
    """
    if _is_folder(path):
        return _above(path, _ROOT_MARKS) or path
    repository = _above(path.parent, (".git",))
    inside = [each for each in path.parents if repository is None or each.is_relative_to(repository)]
    for each in (repository or path.parent, *inside):
        if kind_of(path.relative_to(each).as_posix(), ()) is not None:
            return each
    return repository or path.parent


def _named(root: Path, path: Path, word: str) -> dict[str, Kind]:
    """Return the kind of a file that was named. Raise UsageError if nothing says what it is."""
    relative = path.relative_to(root).as_posix()
    return {relative: _kind(word, relative, kind_of(relative, checklists_of(root)))}


def _kind(word: str, path: str, kind: Kind | None) -> Kind:
    """Return what a named file is; Markdown is a checklist wherever it lies."""
    if kind is None and not path.endswith(".md"):
        kinds = ", ".join(each.value for each in _STAND_INS)
        raise UsageError(f"{word}: its place does not say what it is; say --as with one of: {kinds}")
    return kind or Kind.CHECKLIST


def checklists_of(root: Path) -> Sequence[str]:
    """Return the patterns of the files that hold checklists, as the settings on disk say."""
    there = [SETTINGS_PATH] if (root / SETTINGS_PATH).exists() else []
    return settings_of(Disk(root, there), _CONTRACTS).checklists


def _below(root: Path, within: Path) -> dict[str, Kind]:
    """Return the files of ours below a directory and their kinds, sorted. Raise UsageError beyond our bound."""
    checklists = checklists_of(root)
    inside = os.path.relpath(within, root)
    skipped = frozenset() if _is_record(inside) else RECORDS
    found: dict[str, Kind] = {}
    for start in folders(checklists) if skipped else RECORD_FOLDERS:
        for path in _walk(_meet(root / start, within)):
            relative = os.path.relpath(path, root)
            kind = kind_of(relative, checklists)
            if kind is not None and kind not in skipped:
                found[relative] = kind
            if len(found) > FILES_MAX:
                raise UsageError(f"{within}: more than {FILES_MAX} files; name a folder that holds fewer")
    return dict(sorted(found.items()))


def _is_record(path: str) -> bool:
    """Return whether a path leads into what the reconciler wrote; only somebody who names that asks for it."""
    return path.partition("/")[0] in RECORD_FOLDERS


def _meet(start: Path, within: Path) -> Path | None:
    """Return the deeper one of two places, None if neither lies in the other."""
    if start.is_relative_to(within):
        return start
    return within if within.is_relative_to(start) else None


def _walk(start: Path | None) -> Iterator[str]:
    """Yield every file below a place, not following links and not looking into other repositories."""
    if start is None or not _is_folder(start):
        yield from [str(start)] if start and os.path.lexists(start) else []
        return
    for directory, names, files in os.walk(start, onerror=_refuse):
        if directory != str(start) and (".git" in names or ".git" in files):
            names.clear()
            continue
        links = [each for each in names if Path(directory, each).is_symlink()]
        names[:] = set(names) - {".git", ".runs", *links}
        yield from (os.path.join(directory, each) for each in (*files, *links))


def _refuse(error: OSError) -> None:
    raise TransientError(f"{error.filename}: cannot be read: {error.strerror}")


# ------------------------------------------------------------------------------------------------ at a commit


def _at_commit(base: Path, words: Sequence[str], revision: str) -> list[Batch]:
    repository = open_repository(base)
    named = {_inside(repository, base, word): word for word in words}
    tree = _tree(repository, revision)
    checklists = settings_of(_contents(repository, repository.tree(tree), [SETTINGS_PATH]), _CONTRACTS).checklists
    entries = _entries(repository, tree, (*folders(checklists), *filter(None, named)))
    kinds = {path: kind for path in sorted(entries) if (kind := kind_of(path, checklists)) is not None}
    asked: dict[str, Kind] = {} if named else _below_at_commit("", kinds)
    for path, word in named.items():
        if path in entries:
            asked[path] = _kind(word, path, kinds.get(path))
        elif any(each.startswith(_prefix(path)) for each in entries):
            asked |= _below_at_commit(path, kinds)
        else:
            raise UsageError(f"{word}: there is no such path in {revision}")
    wanted = {**asked, **_below_at_commit("", kinds)}
    if len(wanted) > FILES_MAX:
        raise UsageError(f"{revision}: more than {FILES_MAX} files")
    return [Batch(files=_contents(repository, entries, wanted), asked=asked, home=repository.directory)]


def _tree(repository: Repository, revision: str) -> str:
    """Return the tree of the commit a revision means. It goes to git as input, so it cannot become an option."""
    oid = None if "\n" in revision else repository.look_up([f"{revision}^{{commit}}^{{tree}}"])[0]
    if oid is None:
        raise UsageError(f"--commit {revision}: there is no such commit")
    return oid


def _entries(repository: Repository, tree: str, starts: Sequence[str]) -> dict[str, Entry]:
    """Return the files of a tree below the places of ours and the named ones; no other folder is read."""

    def within(path: str) -> bool:
        return any(path == each or path.startswith(_prefix(each)) or each.startswith(f"{path}/") for each in starts)

    return {path: entry for path, entry in repository.changes(None, tree, within) if entry is not None}


def _inside(repository: Repository, base: Path, word: str) -> str:
    """Return the path in a tree that a word of the command line means, "" for the whole tree."""
    path = os.path.relpath(os.path.normpath(base.resolve() / word), repository.directory.resolve())
    if path.partition("/")[0] == "..":
        raise UsageError(f"{word}: is not in the repository {repository.directory}")
    return "" if path == "." else path


def _below_at_commit(folder: str, kinds: Mapping[str, Kind]) -> dict[str, Kind]:
    skipped = frozenset() if _is_record(folder) else RECORDS
    return {path: kind for path, kind in kinds.items() if path.startswith(_prefix(folder)) and kind not in skipped}


def _prefix(folder: str) -> str:
    return f"{folder}/" if folder else ""


def _contents(repository: Repository, entries: Mapping[str, Entry], paths: Iterable[str]) -> dict[str, Content]:
    found = [entries[path] for path in paths if path in entries]
    read = repository.blobs([each.oid for each in found if each.is_file])
    return {each.path: _content(each, next(read)[1] if each.is_file else None) for each in found}


def _content(entry: Entry, data: bytes | None) -> Content:
    if not entry.is_file:
        kinds = {"120000": "a symbolic link", "160000": "a submodule"}
        return _not_a_file(entry.path, kinds.get(entry.mode, f"of mode {entry.mode}"))
    missing = Problem(path=entry.path, reason=f"larger than {BLOB_BYTES_MAX} bytes, or missing", rule="unreadable")
    return data if data is not None else missing


# ------------------------------------------------------------------------------------------------ output


def _print(form: str, count: int, problems: Sequence[Problem], commit: str) -> None:
    if form == "json":
        print_json(_document(count, problems) | ({"commit": commit} if commit else {}))
    elif form == "sarif":
        print_json(sarif.report(problems, __version__))
    else:
        for each in problems:
            click.echo(_line(each))
        click.echo(_conclusion(count, problems, commit))


def _document(count: int, problems: Sequence[Problem]) -> dict[str, Any]:
    warnings = sum(each.severity is Severity.WARNING for each in problems)
    return {"files": count, "errors": len(problems) - warnings, "warnings": warnings, "problems": problems}


def _line(problem: Problem) -> str:
    """Return `file:line:column: reason; cure`, the place in colour on a terminal."""
    place = f"{problem.path}:{problem.line}:{problem.column}:" if problem.line else f"{problem.path}:"
    words = problem.reason + (f"; {problem.cure}" if problem.cure else "")
    warning = "warning: " if problem.severity is Severity.WARNING else ""
    place, words = single_line(place), single_line(words)
    if use_colour():
        place, warning = click.style(place, bold=True), warning and click.style(warning, fg="yellow")
    return f"{place} {warning}{words}"


def _conclusion(count: int, problems: Sequence[Problem], commit: str) -> str:
    checked = f"{_counted(count, 'file')} checked" + (f" at {commit}, as nothing is checked out" if commit else "")
    if not problems:
        return f"{checked}, no problems" if count else f"{checked}: there is nothing of ours here; see: reconciler init"
    warnings = sum(each.severity is Severity.WARNING for each in problems)
    counts = ((len(problems) - warnings, "problem"), (warnings, "warning"))
    words = " and ".join(_counted(number, word) for number, word in counts if number)
    return f"{checked}, {words} in {_counted(len({each.path for each in problems}), 'file')}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
