"""A repository in memory: content-addressed blobs, trees and commits, and refs that move by compare-and-swap.

What is built on objects in the real one (`changes`, `entries`, `files_at`) is inherited and runs as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

from reconciler.disk import RECORD_BYTES_MAX
from reconciler.errors import GitFailed, PublishBlocked, TipMoved, UsageError
from reconciler.git import TREE_MODE, Change, Draft, Entry, LastChange, Objects, Repository
from reconciler.simulation.disk import SimulatedDisk
from reconciler.simulation.seams import Machine
from reconciler.values import frozen

FULL = re.compile("[0-9a-f]{40}")


@frozen
class Commit:
    tree: str
    parents: tuple[str, ...]
    message: str
    identity: str = ""
    epoch_s: int = 0


@dataclass(slots=True)
class Store:
    """All objects of one history, shared by every clone: which clone knows what is in its refs."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    trees: dict[str, dict[str, Entry]] = field(default_factory=dict)
    found: dict[str, str | None] = field(default_factory=dict)
    """What is at `<commit>:<path>`, once asked: objects do not change."""
    commits: dict[str, Commit] = field(default_factory=dict)

    def blob(self, data: bytes) -> str:
        oid = _blob_id(data)
        self.blobs[oid] = data
        return oid

    def tree(self, entries: Mapping[str, Entry]) -> str:
        """Return the id of a tree, the one git gives it."""
        raw = b"".join([row for _, row in sorted([_row(each.mode, each.oid, each.path) for each in entries.values()])])
        oid = hashlib.sha1(b"tree %d\0%s" % (len(raw), raw), usedforsecurity=False).hexdigest()
        self.trees.setdefault(oid, dict(entries))
        return oid

    def commit(self, commit: Commit) -> str:
        text = "\n".join((commit.tree, *commit.parents, commit.identity, commit.message))
        oid = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.commits[oid] = commit
        return oid

    def changed(self, tree: str | None, files: Mapping[str, bytes | None]) -> str | None:
        """Return the tree with these files written, or removed where the content is None; None if nothing is left."""
        entries = dict(self.trees[tree]) if tree is not None else {}
        below: dict[str, dict[str, bytes | None]] = {}
        for path, data in files.items():
            name, _, rest = path.partition("/")
            if rest:
                below.setdefault(name, {})[rest] = data
            elif data is None:
                entries.pop(name, None)
            else:
                entries[name] = Entry("100644", self.blob(data), name)
        for name, part in below.items():
            old = entries.get(name)
            oid = self.changed(old.oid if old is not None and old.is_tree else None, part)
            if oid is None:
                entries.pop(name, None)
            else:
                entries[name] = Entry("040000", oid, name)
        return self.tree(entries) if entries else None

    def make(
        self,
        parent: str | None,
        files: Mapping[str, bytes | None],
        message: str,
        identity: str = "",
        epoch_s: int = 0,
    ) -> str:
        """Return a commit on a parent in which these files are changed."""
        tree = self.changed(self.commits[parent].tree if parent else None, files) or self.tree({})
        parents = (parent,) if parent else ()
        return self.commit(Commit(tree=tree, parents=parents, message=message, identity=identity, epoch_s=epoch_s))

    def at(self, tree: str | None, path: str) -> Entry | None:
        """Return what is at a path below a tree."""
        if "/" not in path:
            return self.trees[tree].get(path) if tree is not None else None
        *folders, name = path.split("/")
        for folder in folders:
            entry = self.trees[tree].get(folder) if tree is not None else None
            tree = entry.oid if entry is not None and entry.is_tree else None
        return self.trees[tree].get(name) if tree is not None else None

    def read(self, commit: str, path: str) -> bytes | None:
        entry = self.at(self.commits[commit].tree, path)
        return self.blobs.get(entry.oid) if entry is not None else None

    def differences(
        self, old: str | None, new: str | None, prefix: str = ""
    ) -> Iterator[tuple[str, Entry | None, Entry | None]]:
        """Yield (path, entry before, entry after) of every file that differs between two trees, in order."""
        before = self.trees[old] if old is not None else {}
        after = self.trees[new] if new is not None else {}
        for name in sorted({**before, **after}):
            was, now = before.get(name), after.get(name)
            if was is now or was == now:
                continue
            trees = [each.oid if each is not None and each.is_tree else None for each in (was, now)]
            if trees[0] or trees[1]:
                yield from self.differences(trees[0], trees[1], f"{prefix}{name}/")
            files = [each if each is not None and not each.is_tree else None for each in (was, now)]
            if files[0] or files[1]:
                yield f"{prefix}{name}", files[0], files[1]

    def line(self, commit: str | None) -> set[str]:
        """Return the commits from one back to the beginning, by first parents."""
        found: set[str] = set()
        while commit:
            found.add(commit)
            commit = next(iter(self.commits[commit].parents), None)
        return found

    def is_ancestor(self, old: str, new: str) -> bool:
        ahead, seen = [new], {new}
        while ahead:
            commit = ahead.pop()
            if commit == old:
                return True
            fresh = [each for each in self.commits[commit].parents if each not in seen]
            seen.update(fresh)
            ahead += fresh
        return False


@lru_cache(maxsize=2_000)
def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%s" % (len(data), data), usedforsecurity=False).hexdigest()


@lru_cache(maxsize=2_000)
def _row(mode: str, oid: str, name: str) -> tuple[str, bytes]:
    """Return by what an entry is sorted among others of a tree, and how it is spelled there."""
    spelled = b"%s %s\0%s" % (mode.lstrip("0").encode(), name.encode(), bytes.fromhex(oid))
    return f"{name}/" if mode == TREE_MODE else name, spelled


@cache
def pattern_of(glob: str) -> re.Pattern[str]:
    """Return what a git pathspec with `:(glob)` matches."""
    parts = []
    for part in re.split(r"(\*\*/|/\*\*$|\*|\?)", glob):
        known = {"**/": "(?:.*/)?", "/**": "/.*", "*": "[^/]*", "?": "[^/]"}
        parts.append(known.get(part) or re.escape(part))
    return re.compile("".join(parts))


@lru_cache(maxsize=2_000)
def _matches(path: str, globs: tuple[str, ...]) -> bool:
    return any(pattern_of(glob).fullmatch(path) for glob in globs)


class SimulatedObjects(Objects):
    """Commits as they are read to find the notes and words in them, and what comes with a word."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def contents(self, oids: Sequence[str], kind: str = "") -> Iterator[tuple[str, bytes | None]]:
        if kind == "blob":
            yield from ((oid, self.store.blobs.get(oid)) for oid in oids)
            return
        for oid in oids:
            commit = self.store.commits.get(oid)
            yield oid, None if commit is None else _spelled(commit)

    def close(self) -> None:
        return


def _spelled(commit: Commit) -> bytes:
    """Return a commit as git spells it, less who made it and when."""
    parents = "".join(f"parent {each}\n" for each in commit.parents)
    return f"tree {commit.tree}\n{parents}\n{commit.message}".encode()


class SimulatedRepository(Repository):
    """One clone on one simulated machine."""

    def __init__(self, host: Machine, disk: SimulatedDisk, store: Store, directory: Path) -> None:
        super().__init__(directory=directory, common=directory, bare=True, objects=SimulatedObjects(store))
        for name, value in (
            ("host", host),
            ("disk", disk),
            ("store", store),
            ("refs", {}),
            ("begun", {}),
            ("found", store.found),
            ("move", host.scheduler.move),
        ):
            object.__setattr__(self, name, value)

    host: Machine
    disk: SimulatedDisk
    store: Store
    refs: dict[str, str]
    begun: dict[str, tuple[str, str]]
    """From where to where a branch moves whose checkout may have moved before."""
    found: dict[str, str | None]
    move: Any

    @cached_property
    def state(self) -> Path:
        return self.common / "reconciler"

    # -------------------------------------------------------------------------------------------- reading

    def _ask(self, what: str, subject: object = "") -> None:
        self.move(what, subject)
        if self.host.armed("git fails"):
            raise GitFailed("git: no answer within 120 s")

    def head_branch(self) -> str:
        return self.host.branch

    def look_up(self, names: Sequence[str]) -> tuple[str | None, ...]:
        self._ask("look up", names[0] if names else "")
        found = self.found
        return tuple([found[name] if name in found else self._look_up(name) for name in names])

    def _look_up(self, name: str) -> str | None:
        revision, colon, path = name.partition(":")
        if name.endswith("^{tree}"):
            return self._tree_at(name.removesuffix("^{tree}"))
        known = self.store.commits.get(revision)
        if known is not None and path:
            found = self.store.at(known.tree, path)
            oid = self.found[name] = found.oid if found is not None else None
            return oid
        revision = revision.removesuffix("^{commit}")
        if revision == "HEAD":
            revision = f"refs/heads/{self.host.branch}"
        commit = revision if revision in self.store.commits else self.refs.get(revision)
        if path and revision in self.store.trees:
            entry = self.store.at(revision, path)
            return entry.oid if entry is not None else None
        if not colon or commit not in self.store.commits:
            return None if colon else commit
        tree = self.store.commits[commit].tree
        entry = self.store.at(tree, path) if path else None
        return entry.oid if entry is not None else None if path else tree

    def _tree_at(self, revision: str) -> str | None:
        """Return the tree of a commit, or with `^1` of its first parent."""
        made = self.store.commits.get(revision.removesuffix("^1"))
        if made is not None and revision.endswith("^1"):
            made = self.store.commits[made.parents[0]] if made.parents else None
        return made.tree if made is not None else None

    def last_change(self, tip: str, path: str, signers: Path | None = None) -> LastChange | None:
        """Walk back as git does: to the first parent in which the path is the same, else it was changed here."""
        self._ask("look for the last change of", path)
        store, commit = self.store, tip
        while made := store.commits.get(commit):
            entry = store.at(made.tree, path)
            before = {parent: store.at(store.commits[parent].tree, path) for parent in made.parents}
            same = [parent for parent, was in before.items() if was == entry]
            if not same and (entry is not None or before):
                at = datetime.fromtimestamp(made.epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                return LastChange(commit=commit, author=made.identity, at=at, signer=None)
            if not same:
                return None
            commit = same[0]
        return None

    def blobs(self, oids: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        asked = tuple(oids)
        if asked:
            self._ask("read blobs")
        return iter([(oid, self.store.blobs.get(oid)) for oid in asked])

    def tree(self, oid: str | None) -> dict[str, Entry]:
        if oid is None:
            return {}
        self.move("read tree", oid)
        return self.store.trees.get(oid, {})

    def touched(self, old: str | None, new: str, folder: str, commits_max: int) -> list[tuple[int, tuple[str, ...]]]:
        self._ask("ask what was touched below", folder)
        known, commit = self.store.line(old), new
        found: list[tuple[int, tuple[str, ...]]] = []
        while commit and commit not in known and len(found) < commits_max:
            made = self.store.commits[commit]
            parent = next(iter(made.parents), "")
            before = self.store.at(self.store.commits[parent].tree, folder) if parent else None
            after = self.store.at(made.tree, folder)
            trees = [each.oid if each is not None and each.is_tree else None for each in (before, after)]
            if trees[0] != trees[1]:
                paths = tuple(path for path, _, _ in self.store.differences(trees[0], trees[1], f"{folder}/"))
                found.append((made.epoch_s, paths))
            commit = parent
        return found[::-1]

    def search(self, commit: str, texts: Sequence[str], globs: Sequence[str]) -> tuple[str, ...]:
        if not texts or not globs:
            return ()
        self._ask("search", commit)
        wanted, limits = [text.encode() for text in texts], tuple(globs)
        found = []
        for path, _, entry in self.store.differences(None, self.store.commits[commit].tree):
            if entry is not None and _matches(path, limits):
                data = self.store.blobs[entry.oid]
                if any(text in data for text in wanted):
                    found.append(path)
        return tuple(found)

    def evidence_commits(self, tip: str, commits_max: int = 500) -> Mapping[str, str]:
        found: dict[str, str] = {}
        commit: str | None = tip
        while commit is not None:
            for run_id in re.findall(r"^Reconciler-Run: (\S+)", self.store.commits[commit].message, re.MULTILINE):
                found.setdefault(run_id, commit)
            commit = next(iter(self.store.commits[commit].parents), None)
        return found

    def identity(self) -> str:
        return "Ann Author <ann@example.invalid>"

    def change(self, workspace: Path, base: str | None, index: Path, bytes_max: int) -> Change:
        """Return what stages have made in a workspace. No file of the commit is checked out there, and none changes."""
        self._ask("look for what was changed in", workspace)
        lines = {path: data.count(b"\n") for path, data in self._made(workspace).items()}
        return Change(patch=b"", whole=True, stats=tuple((path, count, 0) for path, count in lines.items()))

    def _made(self, workspace: Path) -> dict[str, bytes]:
        """Return the files that stages have made. Raise as git does that is to work in a directory that is gone."""
        if self.disk.look(workspace) is None:
            raise UsageError(f"{workspace}: no such directory")
        names = [each for each in sorted(self.disk.names(workspace)) if each != ".git"]
        return {each: self.disk.read(workspace / each, RECORD_BYTES_MAX) for each in names}

    # -------------------------------------------------------------------------------------------- writing

    def exclude(self, line: str) -> None:
        self.move("")

    def keep_as_written(self, patterns: Iterable[str]) -> None:
        """No file of a simulated repository goes through a filter."""

    def make_commit(self, draft: Draft) -> str:
        self._ask("commit on", draft.parent)
        if draft.parent not in self.store.commits:
            raise GitFailed(f"git fast-import: {draft.parent} is no commit")
        commit = self.store.commit(self._commit_of(draft))
        self.move("")
        return commit

    def make_commits(self, drafts: Sequence[Draft]) -> tuple[str, ...]:
        return tuple(self.make_commit(each) for each in drafts)

    def snapshot(
        self, workspace: Path, base: str, *, message: str, identity: str, epoch_s: int, start: str = ""
    ) -> str | None:
        self._ask("make a commit of", workspace)
        made = self._made(workspace)
        old = self.store.commits[base].tree
        tree = self.store.changed(old, made) or old
        if tree == old:
            return None
        commit = Commit(tree=tree, parents=(base,), message=message, identity=identity, epoch_s=epoch_s)
        return self.store.commit(commit)

    def create_branch(self, branch: str, commit: str) -> None:
        ref = f"refs/heads/{branch}"
        self._ask("make the branch", ref)
        if ref in self.refs:
            raise GitFailed(f"git update-ref: cannot lock ref '{ref}': reference already exists")
        self.refs[ref] = commit
        self.host.moved(ref, None, commit)
        self.move("")

    def _commit_of(self, draft: Draft) -> Commit:
        base = draft.base_tree or draft.parent
        tree: str | None = self.store.commits[base].tree if base in self.store.commits else base
        gone: dict[str, bytes | None] = dict.fromkeys(draft.removals)
        tree = self.store.changed(tree, gone)
        copied = {path: self.store.blobs[oid] for path, (_, oid) in draft.copies.items()}
        tree = self.store.changed(tree, {**copied, **draft.files}) or self.store.tree({})
        return Commit(
            tree=tree,
            parents=(draft.parent, *draft.merges),
            message=draft.message,
            identity=draft.identity,
            epoch_s=draft.epoch_s,
        )

    def git(
        self,
        *arguments: str,
        standard_input: bytes = b"",
        timeout_s: float = 0.0,
        config: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        git_directory: Path | None = None,
        more_s: Callable[[], float] = lambda: 0.0,
        file_bytes_max: int = 0,
    ) -> str:
        """Read and make refs of attempts; nothing else is asked of git in words."""
        if arguments[0] == "for-each-ref":
            self._ask("read refs below", arguments[-1])
            return "\n".join(f"{oid} {ref}" for ref, oid in sorted(self.refs.items()) if ref.startswith(arguments[-1]))
        if arguments[:2] == ("update-ref", "--stdin"):
            return self._create_refs(standard_input.decode())
        raise NotImplementedError(f"git {arguments[0]}")

    def import_objects(self, stream: bytes) -> str:
        """Make notes from a stream; nothing else is imported that is not a draft."""
        self._ask("write notes")
        messages = [each.partition(b"\nget-mark")[0] for each in re.split(rb"\ndata \d+\n", stream)[1:]]
        empty = self.store.tree({})
        made = [self.store.commit(Commit(tree=empty, parents=(), message=each.decode())) for each in messages]
        self.move("")
        return "\n".join(made)

    def _create_refs(self, lines: str) -> str:
        """Make refs that do not exist, all of them or none."""
        self._ask("make refs", lines.split(" ")[1])
        asked = dict(line.split(" ")[1:] for line in lines.splitlines())
        if there := sorted(asked.keys() & self.refs.keys()):
            raise GitFailed(f"git update-ref: cannot lock ref '{there[0]}': reference already exists")
        for ref, oid in asked.items():
            self.refs[ref] = oid
            self.host.moved(ref, None, oid)
        self.move("")
        return ""

    def empty_tree(self) -> str:
        return self.store.tree({})

    def is_ancestor(self, old: str, new: str) -> bool:
        self._ask("ask for the history of", new)
        return old in self.store.commits and new in self.store.commits and self.store.is_ancestor(old, new)

    def update_ref(self, ref: str, new: str) -> None:
        self._ask("move", ref)
        self.refs[ref] = new

    def delete_ref(self, ref: str) -> None:
        self._ask("delete", ref)
        old = self.refs.pop(ref, None)
        if old is not None:
            self.host.moved(ref, old, None)

    def clear_stale_locks(self) -> list[str]:
        return []

    def finish_advance(self, branch: str, old: str) -> None:
        left = self.begun.get(f"refs/heads/{branch}", ("", ""))
        if left[0] == old:
            self.advance(branch, old, "")

    def advance(self, branch: str, old: str, new: str) -> None:
        ref = f"refs/heads/{branch}"
        self._ask("move the branch to", new)
        if self.host.armed("publish blocked"):
            raise PublishBlocked("it would overwrite your work in notes.txt; commit, stash or remove it")
        if self.refs.get(ref) != old:
            raise TipMoved(f"{branch}: moved while evidence was made for {old[:12]}")
        left = self.begun.get(ref, ("", ""))
        target = left[1] if left[0] == old else new
        self.begun[ref] = (old, target)
        self.move("move the branch after its checkout to", target)
        if self.refs.get(ref) != old:
            raise TipMoved(f"{branch}: moved while evidence was made for {old[:12]}")
        self.refs[ref] = target
        self.host.moved(ref, old, target)
        self.move("")
        if target != new:
            raise TipMoved(f"{branch}: an interrupted move to {target[:12]} has been brought to its end")

    def add_worktree(self, path: Path, commit: str) -> None:
        self.remove_worktree(path)
        self._ask("make worktree", path)
        disk = self.disk
        disk.make_folder(path)
        disk.create(path / ".git", commit.encode(), sync=False)

    def move_worktree(self, path: Path, commit: str) -> None:
        self._ask("move worktree", path)
        if self.disk.look(path) is None:
            raise GitFailed(f"git checkout: {path} is not there")
        self.disk.create(path / ".git", commit.encode(), sync=False)

    def remove_worktree(self, path: Path) -> None:
        self.disk.remove_tree(path)
