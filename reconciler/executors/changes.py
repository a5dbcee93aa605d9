"""What an attempt at an engine made of its workspace: how it is packed there, judged here, and laid over another one.

It travels as a commit on top of that of the run, a further parent of the attempt's last word; its tree stands in
`run/changes/<n>.json`, and is signed with the word. Of the commit itself nothing is believed: the host walks the tree
as far as it differs, within bounds, weaves the same change into the tree of the run with an index of its own, and makes
a commit of its own of what comes out. So what git would not check out, or no workspace gives, does not come in.

An attempt that has succeeded hands over what an agent shall deliver; one that waits, all of its workspace, for the
attempt that goes on.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from reconciler import codec
from reconciler.agent import wants_delivery
from reconciler.errors import ContentError, GitFailed, TransientError
from reconciler.git import REGULAR_MODES, Entry, Repository
from reconciler.model import Attempt, Claim, Outcome, Plan, Workspace
from reconciler.redact import redact_text
from reconciler.rundir import RunDirectory
from reconciler.work import Change, change_ref

IDENTITY = "Reconciler <reconciler@localhost>"
CHANGE_BYTES_MAX = 8 * 1024
WHY_CHARACTERS_MAX = 500
PATHS_MAX, FOLDERS_MAX, DEPTH_MAX = 20_000, 4_000, 64
"""So many paths may differ, in so many directories, so deep: a small tree may look endless to whoever walks it."""
MODES = (*REGULAR_MODES, "120000")
OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
RUNS = ".runs/"

Files = Mapping[str, Entry | None]
"""What differs: path -> what is there now, None for what has gone."""
Told = Mapping[str, bytes]


def record_name(number: int) -> str:
    """Return the name of the record of a change below a run directory."""
    return f"changes/{number}.json"


def read_change(directory: RunDirectory, number: int) -> Change | None:
    """Return what an attempt handed over, None if there is no record of it that can be read."""
    with suppress(codec.CodecError):
        return directory.read(Change, directory.place(record_name(number)))
    return None


def is_wanted(plan: Plan, outcome: Outcome | None) -> bool:
    """Return whether an attempt that ended so hands over what it made of its workspace."""
    if plan.workspace == Workspace.WORKTREE and outcome == Outcome.SUCCEEDED:
        return wants_delivery(plan)
    return plan.workspace != Workspace.CHECKOUT and outcome == Outcome.WAITING


# ------------------------------------------------------------------------------------------------ judging


def differing(repository: Repository, base: str, tree: str, bytes_max: float = float("inf")) -> Files:
    """Return what differs between two trees, of which somebody else made the second one. Raise ContentError if that is
    more than may travel, or nothing that a workspace gives."""
    seen, folders = itertools.count(1), set[str]()

    def within(path: str) -> bool:
        folders.add(path.rpartition("/")[0])
        if next(seen) > PATHS_MAX or len(folders) > FOLDERS_MAX or path.count("/") >= DEPTH_MAX:
            bounds = f"{PATHS_MAX} paths, {FOLDERS_MAX} directories or {DEPTH_MAX} levels"
            raise ContentError(f"it has more than {bounds}")
        return True

    try:
        files = dict(repository.changes(base, tree, within))
        _weigh(repository, files, bytes_max)
        if repository.woven(base, files) != tree:
            raise ContentError("it is not what git makes of these files")
    except (GitFailed, ValueError) as error:
        raise ContentError(f"it cannot be read: {error}") from None
    return files


def _weigh(repository: Repository, files: Files, bytes_max: float) -> None:
    """Raise ContentError if something in files is neither a file nor a link, or they are too large together."""
    new = {path: entry for path, entry in files.items() if entry is not None}
    strange = sorted(path for path, entry in new.items() if entry.mode not in MODES)
    if strange:
        raise ContentError(f"{strange[0]} is neither a file nor a link")
    sizes = repository.objects.sizes([entry.oid for entry in new.values()])
    if None in sizes:
        raise ContentError("a file of it is missing")
    if (size := sum(filter(None, sizes))) > bytes_max:
        raise ContentError(f"it has {size} bytes; at most {bytes_max:g} travel ('bytes_max' of its executor)")


def _start(repository: Repository, plan: Plan) -> str:
    """Return the tree that the workspace of a run is made from."""
    if plan.workspace == Workspace.EMPTY:
        return repository.empty_tree()
    [tree] = repository.look_up([f"{plan.commit}^{{tree}}"])
    if tree is None:
        raise GitFailed(f"git cat-file: {plan.commit} is missing")
    return tree


# ------------------------------------------------------------------------------------------------ at the engine


def pack(
    repository: Repository,
    directory: RunDirectory,
    plan: Plan,
    attempt: Attempt | None,
    *,
    bytes_max: int,
    hidden: Sequence[bytes],
) -> tuple[Told, tuple[str, ...]]:
    """Return what an attempt tells of its change, and the commit that carries it; nothing of either where nobody wants
    it, and no commit where it must stay: it is too large, would reveal a secret, or is more than files.

    `hidden` are the secrets that are known here.
    """
    if attempt is None or not is_wanted(plan, attempt.outcome):
        return {}, ()
    commit, why = None, ""
    try:
        commit = _packed(repository, directory, plan, attempt, bytes_max, hidden)
    except (ContentError, TransientError, OSError) as error:
        why = _sentence(str(error), hidden)
    [tree] = repository.look_up([f"{commit}^{{tree}}"]) if commit is not None else [None]
    change = Change(number=attempt.number, tree=tree or "", why=why)
    return {record_name(attempt.number): codec.compact(change)}, (commit,) if commit is not None else ()


def _packed(
    repository: Repository,
    directory: RunDirectory,
    plan: Plan,
    attempt: Attempt,
    bytes_max: int,
    hidden: Sequence[bytes],
) -> str:
    """Return the commit of what an attempt made of its workspace. Raise ContentError if it must stay there."""
    from reconciler.disclosure import revealed_by

    waits, start = attempt.outcome == Outcome.WAITING, _start(repository, plan)
    repository.exclude(f"/{RUNS}")
    if waits:
        _ask_for_plain_files(directory.workspace, plan)
    commit = repository.snapshot(
        directory.workspace, plan.commit, message="change\n", identity=IDENTITY, epoch_s=0, start=start if waits else ""
    )
    if commit is None and not waits:
        raise ContentError("nothing was changed")
    commit = commit or plan.commit
    [tree] = repository.look_up([f"{commit}^{{tree}}"])
    files = differing(repository, start, tree or "", bytes_max)
    if secret := revealed_by(repository, plan, files, hidden):
        raise ContentError(secret)
    return commit


def _ask_for_plain_files(workspace: Path, plan: Plan) -> None:
    """Raise ContentError if a workspace holds what a tree of files cannot: then the attempt that goes on would find
    another one."""
    if plan.workspace == Workspace.WORKTREE and _head(workspace) != plan.commit:
        raise ContentError("a stage has committed in it")
    for path, folders, names in os.walk(workspace):
        if not folders and not names:
            raise ContentError(f"{Path(path).relative_to(workspace)} is an empty directory")
        if path != str(workspace) and ".git" in (*folders, *names):
            raise ContentError(f"{Path(path).relative_to(workspace)} is a repository of its own")
        for each in names:
            found = Path(path, each)
            if not found.is_symlink() and not found.is_file():
                raise ContentError(f"{found.relative_to(workspace)} is neither a file nor a link")


def _head(workspace: Path) -> str:
    """Return the commit that a worktree says it is at: stages may have made it say anything."""
    with suppress(OSError, UnicodeDecodeError):
        place = (workspace / ".git").read_text(encoding="utf-8").removeprefix("gitdir: ").strip()
        return Path(place, "HEAD").read_text(encoding="utf-8").strip()
    return ""


def _sentence(text: str, hidden: Sequence[bytes] = ()) -> str:
    """Return a text as one short line without secrets."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return redact_text(line, values=hidden)[:WHY_CHARACTERS_MAX]


# ------------------------------------------------------------------------------------------------ at the host


def receive(
    repository: Repository,
    data: bytes | None,
    directory: RunDirectory,
    plan: Plan,
    attempt: Attempt,
    *,
    bytes_max: int,
) -> None:
    """Keep what an attempt hands over with its last word: by a ref of this host's, and a record. What is not sound is
    refused, and the record says why. `data` is the record as it came, None if none did."""
    if data is None or not is_wanted(plan, attempt.outcome):
        return
    change = _kept(repository, data, plan, attempt, bytes_max)
    directory.disk.make_directory(directory.path / "changes")
    directory.disk.write_atomic(directory.path / record_name(attempt.number), codec.compact(change))


def _kept(repository: Repository, data: bytes, plan: Plan, attempt: Attempt, bytes_max: int) -> Change:
    """Return what is recorded of a change that came home; a ref leads to it if it is sound."""
    try:
        change = codec.parse(Change, data)
        if change.tree:
            _keep(repository, change.tree, plan, attempt, bytes_max)
            return Change(number=attempt.number, tree=change.tree)
        why = change.why
    except codec.CodecError:
        why = "the record of its change cannot be read"
    except ContentError as error:
        why = f"its change is refused: {error}"
    return Change(number=attempt.number, why=_sentence(why))


def _keep(repository: Repository, tree: str, plan: Plan, attempt: Attempt, bytes_max: int) -> None:
    """Make a commit of our own of a tree that came home, and a ref to it. Raise ContentError if it is not sound."""
    if not OID.fullmatch(tree):
        raise ContentError("it is not named by the id of a tree")
    if attempt.outcome == Outcome.SUCCEEDED:
        delivered_files(repository, plan, tree, bytes_max)
    else:
        differing(repository, _start(repository, plan), tree, bytes_max)
    commit = repository.committed(tree, plan.commit, message="change\n", identity=IDENTITY, epoch_s=0)
    repository.update_ref(change_ref(plan.run_id, attempt.number), commit)


def delivered_files(repository: Repository, plan: Plan, tree: str, bytes_max: float = float("inf")) -> Files:
    """Return what differs in a tree that is to be delivered. Raise ContentError if it is not sound, or has new files
    where evidence lies: no workspace here gives those, because that place is ignored."""
    files = differing(repository, _start(repository, plan), tree, bytes_max)
    there = [path for path, entry in files.items() if entry is not None and f"{path}/".startswith(RUNS)]
    known = repository.look_up([f"{plan.commit}:{path}" for path in there])
    if None in known:
        raise ContentError(f"{there[known.index(None)]} is where evidence is kept")
    return files


def kept_commit(repository: Repository, run_id: str, number: int) -> str | None:
    """Return the commit by which what an attempt has changed is kept here, None if it is not."""
    return repository.look_up([change_ref(run_id, number)])[0]


# ------------------------------------------------------------------------------------------------ going on


def goes_on(repository: Repository, directory: RunDirectory, last: Claim) -> str:
    """Return why the attempt behind one that waited begins anew at an engine, "" if it goes on in its workspace."""
    attempt = None
    with suppress(codec.CodecError):
        attempt = directory.read(Attempt, directory.record("attempts", last.number))
    if attempt is None or attempt.outcome != Outcome.WAITING:
        return f"attempt {last.number} did not wait"
    change = read_change(directory, last.number)
    if change is None or not change.tree:
        return change.why if change is not None and change.why else "its workspace was not handed over"
    there = kept_commit(repository, directory.path.name, last.number) is not None
    return "" if there else "its workspace is gone"


def carried(directory: RunDirectory, claim: Claim) -> Change | None:
    """Return in what the claimed attempt goes on, None if it begins anew."""
    before = claim.number - 1
    change = read_change(directory, before) if claim.keeps_from <= before else None
    return change if change is not None and change.tree else None


def lay_over(repository: Repository, directory: RunDirectory, plan: Plan, change: Change) -> None:
    """Make a new workspace what an earlier attempt made of its own. Raise GitFailed if that cannot be done."""
    repository.lay_over(directory.workspace, _start(repository, plan), change.tree)
