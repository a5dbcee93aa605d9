"""The edge to git: the only module that runs it.

Plumbing is run directly, bounded in time and output. Nothing a user wrote can become an option: revisions are full
object ids or names below `refs/`, paths stand behind `--`, and content goes in by standard input. No hook of
a repository runs, replace refs are ignored, and the environment is rid of the `GIT_*` variables that would point git
elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import UTC, datetime
from pathlib import Path

from reconciler import packs
from reconciler.checkout import INTENT_PATH, LOCK_PATIENCE_S, Checkout
from reconciler.disk import DISK
from reconciler.errors import ContentError, GitFailed, PublishBlocked, TipMoved, UsageError
from reconciler.locks import remove_stale_locks
from reconciler.values import frozen

TIMEOUT_S = 120.0
END_PATIENCE_S = 2.0
"""How long git that is told to end may take to remove its lock files, here and in a repository it serves."""
OUTPUT_BYTES_MAX = 512 * 1024 * 1024
STDERR_BYTES_MAX = 64 * 1024
BLOB_BYTES_MAX = 8 * 1024 * 1024
"""A blob larger than this is not read; no format of ours may be as large."""

PUBLISH_REF = "refs/reconciler/publish"
"""Named by the stream that makes a commit, and never written: git is told to forget it before the stream ends."""
COMMIT_TRIES = 3
OWN_REFS = "refs/reconciler/"
REFLOG = "reconciler: publish evidence"

OPTIONS = (
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.fsync=committed,loose-object",
    "-c", "gc.auto=0",
    "-c", "maintenance.auto=false",
    "-c", "protocol.allow=user",
    "-c", "protocol.ext.allow=never",
    "-c", "core.fsmonitor=false",
    *packs.KEPT,
    *(word for setting in (
        # what is written into objects
        "i18n.commitEncoding=UTF-8", "core.safecrlf=false",
        # what is found, and how it is told
        "grep.patternType=basic", "grep.extendedRegexp=false", "core.quotePath=false", "core.commentChar=#",
        "trailer.separators=:", "i18n.logOutputEncoding=UTF-8", "log.showSignature=false", "log.follow=false",
        "log.mailmap=false", "advice.diverging=false", *(f"color.{each}=false" for each in (
            "ui", "advice", "branch", "diff", "grep", "push", "remote", "status", "transport")),
        # how files differ
        "diff.algorithm=default", "diff.colorMoved=no", "diff.context=3", "diff.dstPrefix=b/",
        "diff.ignoreSubmodules=none", "diff.indentHeuristic=true", "diff.interHunkContext=0",
        "diff.mnemonicPrefix=false", "diff.noprefix=false", "diff.orderFile=/dev/null", "diff.relative=false",
        "diff.srcPrefix=a/", "diff.submodule=short", "diff.suppressBlankEmpty=false", "diff.wsErrorHighlight=none",
        # what is merged
        "merge.default=text", "merge.renames=true", "merge.verifySignatures=false",
        # what goes over the wire beside what was asked for
        "fetch.prune=false", "fetch.pruneTags=false", "fetch.recurseSubmodules=false", "fetch.writeCommitGraph=false",
        "push.followTags=false", "push.gpgSign=false", "push.negotiate=false", "push.pushOption=",
        "push.recurseSubmodules=no", "push.useForceIfIncludes=false", "submodule.recurse=false",
        # what is kept of a worktree
        "worktree.useRelativePaths=false",
    ) for word in ("-c", setting)),
)  # fmt: skip
"""Before every command: no hooks, durable objects and refs (git syncs no ref by default), no maintenance in the
middle of a pass, no transport that runs a command, no watcher that a repository's configuration names, no loose objects
of an import or a fetch, which somebody's garbage collection may take. Then all by which a person has git find, tell,
convert or send something else than it does by itself: that is for the person's own eyes, and evidence is the same
whoever makes it. What says how to reach a remote, who somebody is and what is ignored stays the person's."""

KEPT_VARIABLES = re.compile(
    r"GIT_(EXEC_PATH|SSH|SSH_COMMAND|SSL_\w+|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+)"
    r"|HTTP_\w+|ASKPASS|ALLOW_PROTOCOL|(AUTHOR|COMMITTER)_(NAME|EMAIL))"
)
"""How to reach and identify, not which repository: the variables that name one leak from hooks and break the rest."""

BRANCH_CHARACTERS_MAX = 244
"""As much of a name fits into settings and records."""
NAME_SHOWN_MAX = 100

REGULAR_MODES = ("100644", "100755")
TREE_MODE = "040000"


@frozen(kw_only=False)
class Entry:
    """A path in a tree: mode, object id and repo-relative path."""

    mode: str
    oid: str
    path: str

    @property
    def is_file(self) -> bool:
        return self.mode in REGULAR_MODES

    @property
    def is_tree(self) -> bool:
        return self.mode == TREE_MODE


@frozen
class Change:
    """How files differ from a tree.

    `stats` are (path, lines added, lines removed), None for binary files; `patch` is cut if it is not `whole`; `nested`
    are repositories within, of which nothing is compared.
    """

    patch: bytes
    whole: bool
    stats: tuple[tuple[str, int | None, int | None], ...]
    nested: tuple[str, ...] = ()


@frozen
class Merged:
    """The tree that a merge gives, and the paths in conflict; with conflicts the tree is of no use."""

    tree: str
    conflicts: tuple[str, ...]


@frozen
class Draft:
    """A commit to be made: the files that differ from the parent, the message, who and when.

    `merges` are further parents. With `base_tree` (a tree, or a commit for its tree) the commit starts from that
    instead of the parent's tree; then `removals` go, `copies` (mode and blob id by path) come, and `files` last.
    """

    parent: str
    files: Mapping[str, bytes]
    message: str
    identity: str
    epoch_s: int
    modes: Mapping[str, str] = field(default_factory=dict)
    merges: tuple[str, ...] = ()
    base_tree: str | None = None
    removals: tuple[str, ...] = ()
    copies: Mapping[str, tuple[str, str]] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------ running git


def environment() -> dict[str, str]:
    """Return the environment git runs in."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or KEPT_VARIABLES.fullmatch(name)
    }
    return {
        **kept,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_FLUSH": "1",
        "LC_ALL": "C",
    }


def run(
    arguments: Sequence[str],
    *,
    directory: Path,
    standard_input: bytes = b"",
    timeout_s: float = TIMEOUT_S,
    config: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    git_directory: Path | None = None,
    more_s: Callable[[], float] = lambda: 0.0,
    file_bytes_max: int = 0,
) -> bytes:
    """Run git in `directory` and return what it prints. Raise GitFailed with its exit status and last words.

    `config` holds settings, `<key>=<value>`, and `variables` of the environment, for this command only;
    `git_directory` takes the place of the one that git would find. When the time is over, `more_s` says once how much
    more there is. No file that git writes gets larger than `file_bytes_max` (0: no bound; Linux).
    """
    with tempfile.TemporaryFile() as feed:
        feed.write(standard_input)
        feed.seek(0)
        place = () if git_directory is None else (f"--git-dir={git_directory}", f"--work-tree={directory}")
        process = _popen((*place, *arguments), directory, feed.fileno(), config=config, variables=variables)
        _bound_files(process.pid, file_bytes_max)
        try:
            output, errors = _communicate(process, timeout_s, more_s)
        except subprocess.TimeoutExpired:
            _stop(process)
            raise GitFailed(f"git {_verb(arguments)}: no answer within {timeout_s:g} s") from None
        except BaseException:
            _stop(process)
            raise
    if process.returncode != 0:
        raise _failed(arguments, process.returncode, errors, output)
    return output


def _bound_files(pid: int, bytes_max: int) -> None:
    """Let a process, and what it starts from now on, write no file that is larger."""
    if bytes_max and sys.platform == "linux":
        with contextlib.suppress(OSError):  # it has ended already
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (bytes_max, bytes_max))


def _communicate(
    process: subprocess.Popen[bytes], timeout_s: float, more_s: Callable[[], float]
) -> tuple[bytes, bytes]:
    """Return what a process prints and complains of. Raise TimeoutExpired if it does not end in time."""
    try:
        return process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        longer_s = more_s()
        if longer_s <= 0:
            raise
        return process.communicate(timeout=longer_s)


def _popen(
    arguments: Sequence[str],
    directory: Path,
    feed: int,
    *,
    quiet: bool = False,
    errors: int = subprocess.PIPE,
    config: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    settings = [word for each in config for word in ("-c", each)]
    try:
        return subprocess.Popen(
            ["git", *OPTIONS, *settings, *arguments],
            cwd=directory,
            env={**environment(), **(variables or {})},
            stdin=feed,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else errors,
            start_new_session=True,
        )
    except FileNotFoundError:
        if not directory.is_dir():
            raise UsageError(f"{directory}: no such directory") from None
        raise UsageError("git is not installed or not on PATH; install git 2.36 or newer") from None


def read_start(arguments: Sequence[str], directory: Path, variables: Mapping[str, str], bytes_max: int) -> bytes:
    """Return the first bytes that git prints, and end it there. Raise GitFailed if it fails or takes too long."""
    with tempfile.TemporaryFile() as nothing, tempfile.TemporaryFile() as errors:
        process = _popen(arguments, directory, nothing.fileno(), errors=errors.fileno(), variables=variables)
        try:
            found = _read_until(process, bytes_max)
            if len(found) < bytes_max and process.wait() != 0:
                errors.seek(0)
                raise _failed(arguments, process.returncode, errors.read(STDERR_BYTES_MAX), b"")
        finally:
            _end(process)
    return found[:bytes_max]


def _read_until(process: subprocess.Popen[bytes], bytes_max: int) -> bytes:
    """Return what a process prints, to its end or to so many bytes. Raise GitFailed if it falls silent."""
    assert process.stdout is not None
    poll, found = select.poll(), bytearray()
    poll.register(process.stdout.fileno(), select.POLLIN)
    deadline = time.monotonic() + TIMEOUT_S
    while len(found) < bytes_max:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise GitFailed(f"git: no answer within {TIMEOUT_S:g} s")
        chunk = os.read(process.stdout.fileno(), 1 << 16)
        if not chunk:
            break
        found += chunk
    return bytes(found)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """TERM git and what it started, so that they remove their lock files, and KILL what does not end by that."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.communicate(timeout=END_PATIENCE_S)
    except subprocess.TimeoutExpired:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """KILL git and what it started, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    """Let git that waits for more words know that there are none, and wait for it: it takes back what it has begun."""
    if process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
            process.communicate(timeout=END_PATIENCE_S)
    _stop(process)


def without_credentials(text: str) -> str:
    """Return a text for people: addresses of remotes may carry credentials."""
    return re.sub(r"(\w+://)[^/\s]*@", r"\1", text)


def _verb(arguments: Sequence[str]) -> str:
    """Return what git was asked for: options before it may name places of this machine."""
    return next((each for each in arguments if not each.startswith("-")), "")


def _failed(arguments: Sequence[str], status: int, errors: bytes, output: bytes) -> GitFailed:
    words = without_credentials(errors.decode(errors="replace").strip())
    last = next((line for line in words.splitlines() if line.startswith(("fatal:", "error:"))), words[-300:])
    said = output.decode(errors="replace")
    return GitFailed(
        f"git {_verb(arguments)}: {last or f'exit status {status}'}", exit_status=status, stderr=words, stdout=said
    )


class Objects:
    """Reads objects by name from one `git cat-file` that stays, started on first use.

    Starting git costs 4 ms, asking one that runs 0.05 ms. It resolves refs anew for every question and finds packs
    that were written meanwhile; if it dies, the question at hand fails and the next one starts another.
    """

    def __init__(self, directory: Path, variables: Mapping[str, str] | None = None) -> None:
        self._directory, self._variables = directory, variables
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = bytearray()
        self._packed: object = None

    def look_up(self, names: Sequence[str]) -> tuple[str | None, ...]:
        """Return the object id of each name, None where there is nothing."""
        self._notice_packed_refs()
        found: list[str | None] = []
        for chunk in _chunked(names):
            self._ask("info", chunk)
            found += [None if header is None else header[0] for header in (self._header() for _ in chunk)]
        return tuple(found)

    def sizes(self, oids: Sequence[str]) -> tuple[int | None, ...]:
        """Return how many bytes each blob has, None where there is none."""
        found: list[int | None] = []
        for chunk in _chunked(oids):
            self._ask("info", chunk)
            headers = [self._header() for _ in chunk]
            found += [None if each is None or each[2] != "blob" else each[1] for each in headers]
        return tuple(found)

    def contents(self, oids: Sequence[str], kind: str = "") -> Iterator[tuple[str, bytes | None]]:
        """Return (object id, bytes) in order; bytes is None for an object that is missing or too large, and empty for
        one that is of another kind than asked for."""
        for chunk in _chunked(oids):
            self._ask("contents", chunk)
            # The answers of a chunk are read to the end before the first is handed out: who asks may stop in the
            # middle, and the next question must not be answered with what is left of this one.
            yield from [(oid, self._content(kind)) for oid in chunk]

    def close(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None
        self._buffer.clear()

    def _notice_packed_refs(self) -> None:
        """End a git that has read `packed-refs` before they were written anew. It would notice that by itself, but not
        when it happened twice in a second: it compares seconds, size and inode, and an inode is given out again."""
        try:
            found = os.stat(self._directory / "packed-refs")
            packed: object = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
        except OSError:
            packed = None
        if packed != self._packed:
            self.close()
        self._packed = packed

    def _ask(self, verb: str, names: Sequence[str]) -> None:
        if any("\n" in name for name in names):
            raise GitFailed("git cat-file: a name holds a line break")
        if self._process is None or self._process.poll() is not None:
            self.close()
            # Named, and not found by git: a person may have it take no bare repository that it was not told of.
            self._process = _popen(
                [f"--git-dir={self._directory}", "cat-file", "--batch-command"],
                self._directory,
                subprocess.PIPE,
                quiet=True,
                variables=self._variables,
            )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("".join(f"{verb} {name}\n" for name in names).encode(errors="surrogateescape"))
            self._process.stdin.flush()
        except BrokenPipeError:
            self._broken("has ended")

    def _header(self) -> tuple[str, int, str] | None:
        """Return (object id, size, kind) of the next answer, None for `<name> missing` and its like."""
        while (end := self._buffer.find(b"\n")) < 0:
            self._receive()
        words = bytes(self._buffer[:end]).split(b" ")
        del self._buffer[: end + 1]
        sound = len(words) == 3 and words[2].isdigit()
        return (words[0].decode(), int(words[2]), words[1].decode()) if sound else None

    def _content(self, kind: str) -> bytes | None:
        header = self._header()
        if header is None:
            return None
        size, is_other = header[1], kind not in ("", header[2])
        if size > BLOB_BYTES_MAX or is_other:
            self._skip(size + 1)
            return b"" if is_other else None
        while len(self._buffer) < size + 1:
            self._receive()
        data = bytes(self._buffer[:size])
        del self._buffer[: size + 1]
        return data

    def _skip(self, size: int) -> None:
        while size:
            if not self._buffer:
                self._receive()
            dropped = min(size, len(self._buffer))
            del self._buffer[:dropped]
            size -= dropped

    def _receive(self) -> None:
        """Read what git has written, waiting for it a bounded time."""
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        data = os.read(descriptor, 1 << 16) if poll.poll(TIMEOUT_S * 1000) else self._broken("does not answer")
        self._buffer += data or self._broken("has ended")

    def _broken(self, how: str) -> bytes:
        self.close()
        raise GitFailed(f"git cat-file: {how}")


def _chunked(names: Sequence[str], bytes_max: int = 16 * 1024) -> Iterator[Sequence[str]]:
    """Return the names in pieces that fit into a pipe, so that asking never waits for answering."""
    chunk: list[str] = []
    size = 0
    for name in names:
        if chunk and size + len(name) + 10 > bytes_max:
            yield chunk
            chunk, size = [], 0
        chunk.append(name)
        size += len(name.encode(errors="surrogateescape")) + 10
    if chunk:
        yield chunk


# ------------------------------------------------------------------------------------------------ a repository


@frozen
class LastChange:
    """The commit that changed a path last: its author as `Name <address>`, when it was committed (UTC), and by whom it
    is signed, None if by nobody who is believed."""

    commit: str
    author: str
    at: str
    signer: str | None


SIGNING_TIMEOUT_S = 120.0
"""A person may have to type a passphrase, or touch a key."""

NO_OTHER_SIGNATURES = ("gpg.program=false", "gpg.x509.program=false", "gpg.ssh.program=ssh-keygen")
"""Of signatures only those by SSH keys are believed: what a person's key ring trusts is that person's matter, and so is
which program says so."""

CHANGERS_MAX = 100
"""So many commits that touched one path are looked at."""


@frozen(kw_only=False)
class Repository:
    """One repository. `directory` is its checkout (the git directory of a bare one), `common` the git directory
    that all its worktrees share."""

    directory: Path
    common: Path
    bare: bool
    objects: Objects
    known: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """What git says of this repository for good, so that it is asked once."""

    def git(
        self,
        *arguments: str,
        standard_input: bytes = b"",
        timeout_s: float = TIMEOUT_S,
        config: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        git_directory: Path | None = None,
        more_s: Callable[[], float] = lambda: 0.0,
        file_bytes_max: int = 0,
    ) -> str:
        """Return the text git prints, without the final newline."""
        output = run(
            arguments,
            directory=self.directory,
            standard_input=standard_input,
            timeout_s=timeout_s,
            config=config,
            variables=variables,
            git_directory=git_directory,
            more_s=more_s,
            file_bytes_max=file_bytes_max,
        )
        return output.decode(errors="surrogateescape").removesuffix("\n")

    @property
    def git_directory(self) -> Path:
        """The git directory of this checkout alone: that of a linked worktree lies in `common`."""
        if self.bare or (self.directory / ".git").is_dir():
            return self.common
        if "git directory" not in self.known:
            self.known["git directory"] = self.git("rev-parse", "--absolute-git-dir")
        return Path(self.known["git directory"])

    @property
    def is_sparse(self) -> bool:
        """Whether git may be told to leave files out of this checkout."""
        return not self.bare and (self.git_directory / "info" / "sparse-checkout").exists()

    @property
    def state(self) -> Path:
        """Where this machine's state of the reconciler lives: never in a tree, never in the way of `git clean`."""
        return self.common / "reconciler"

    # -------------------------------------------------------------------------------------------- reading

    def head_branch(self) -> str:
        """Return the branch HEAD names, also when it has no commit yet. Raise ContentError if HEAD is detached, or if
        no record could hold that name."""
        try:
            name = self.git("symbolic-ref", "HEAD").removeprefix("refs/heads/")
        except GitFailed:
            raise ContentError("HEAD is detached; say in reconciler.yaml which 'branch' is meant") from None
        is_text = not any("\ud800" <= each <= "\udfff" for each in name)
        if not is_text or len(name) > BRANCH_CHARACTERS_MAX:
            fault = f"is longer than {BRANCH_CHARACTERS_MAX} characters" if is_text else "is no text in UTF-8"
            cure = "no record can say it, and git branch -m NAME gives it another one"
            raise ContentError(f"the name of the branch at HEAD, {ascii(name)[:NAME_SHOWN_MAX]}, {fault}; {cure}")
        return name

    def look_up(self, names: Sequence[str]) -> tuple[str | None, ...]:
        """Return the object id of each name (`<ref>`, `<oid>:<path>`), None where there is nothing."""
        return self.objects.look_up(names)

    def commit_of(self, branch: str) -> str | None:
        """Return the commit a branch points at."""
        return self.look_up([f"refs/heads/{branch}^{{commit}}"])[0]

    def blobs(self, oids: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Return (object id, bytes) of each blob in order; bytes is None for one that is missing or too large."""
        return self.objects.contents(tuple(oids))

    def blob(self, oid: str) -> bytes:
        """Return the bytes of a blob however large it is; the caller knows how large that may be."""
        return run(("cat-file", "blob", oid), directory=self.directory)

    def tree(self, oid: str | None) -> dict[str, Entry]:
        """Return the entries of one tree by name, subtrees included; none where there is nothing, or a file."""
        if oid is None:
            return {}
        data = next(self.objects.contents((oid,), "tree"))[1]
        if data is None:
            raise GitFailed(f"git cat-file: tree {oid} is missing or too large")
        return _tree_entries(data, len(oid) // 2)

    def changes(
        self, old: str | None, new: str | None, within: Callable[[str], bool] = lambda path: True
    ) -> Iterator[tuple[str, Entry | None]]:
        """Return (path, entry or None if removed) of every file that differs between two trees.

        Subtrees that are the same on both sides are not read, nor are those whose path `within` refuses.
        """
        ahead: list[tuple[str, str | None, str | None]] = [("", old, new)]
        while ahead:
            prefix, old, new = ahead.pop()
            before, after = self.tree(old), self.tree(new)
            for name in sorted(before.keys() | after.keys()):
                was, now = before.get(name), after.get(name)
                path = f"{prefix}{name}"
                if was == now or not within(path):
                    continue
                trees = [each.oid if each is not None and each.is_tree else None for each in (was, now)]
                if any(trees):
                    ahead.append((f"{path}/", trees[0], trees[1]))
                if now is not None and not now.is_tree:
                    yield path, Entry(now.mode, now.oid, path)
                elif was is not None and not was.is_tree:
                    yield path, None

    def entries(self, tree: str | None) -> tuple[Entry, ...]:
        """Return every file below a tree, recursively, by path; none for a tree that is not there."""
        found = (entry for _, entry in self.changes(None, tree) if entry is not None)
        return tuple(sorted(found, key=lambda entry: entry.path))

    def files_at(self, commit: str, paths: Sequence[str]) -> tuple[Entry, ...]:
        """Return the regular files among `paths` at a commit."""
        folders: dict[str, dict[str, Entry]] = {}
        found = []
        for path in paths:
            folder, _, name = path.rpartition("/")
            if folder not in folders:
                folders[folder] = self.tree(self.look_up([f"{commit}:{folder}"])[0])
            entry = folders[folder].get(name)
            if entry is not None and entry.is_file:
                found.append(Entry(entry.mode, entry.oid, path))
        return tuple(found)

    def touched(self, old: str | None, new: str, folder: str, commits_max: int) -> list[tuple[int, tuple[str, ...]]]:
        """Return (committer time in seconds since 1970, paths) of every commit on the first-parent line from `old`, or
        from the beginning, to `new` that changes files below a folder: oldest first, the newest `commits_max`. Raise
        GitFailed if a commit is not there."""
        words = ("--first-parent", "--diff-merges=first-parent", "--no-renames", "--name-only", "-z")
        limits = (f"--max-count={commits_max}", "--format=%x01%ct%x00", "--end-of-options", new)
        known = (f"^{old}",) if old is not None else ()
        text = self.git("log", *words, *limits, *known, "--", f":(top,literal){folder}")
        commits = [each.split("\0") for each in text.split("\x01")[1:]]
        return [
            (int(time), tuple(path for each in paths if (path := each.strip("\n")))) for time, *paths in commits[::-1]
        ]

    def search(self, commit: str, texts: Sequence[str], globs: Sequence[str]) -> tuple[str, ...]:
        """Return the paths matching `globs` at a commit whose text holds one of `texts` literally."""
        if not texts or not globs:
            return ()
        patterns = [part for text in texts for part in ("-e", text)]
        limits = [f":(glob,top){glob}" for glob in globs]
        try:
            found = self.git("grep", "-l", "-z", "-I", "-F", *patterns, commit, "--", *limits)
        except GitFailed as error:
            if error.exit_status == 1:  # git grep: nothing found
                return ()
            raise
        return tuple(line.partition(":")[2] for line in found.split("\0") if line)

    def evidence_commits(self, tip: str, commits_max: int = 500) -> Mapping[str, str]:
        """Return run id -> the newest commit that published it, looking at `commits_max` commits of evidence."""
        trailers = "%(trailers:key=Reconciler-Run,valueonly,separator=%x2C)"
        log = self.git(
            "log", f"-{commits_max}", "--grep=^Reconciler-Run: ", f"--format=%H {trailers}",
            "--end-of-options", tip,
        )  # fmt: skip
        found: dict[str, str] = {}
        for line in log.splitlines():
            commit, _, runs = line.partition(" ")
            for run_status in runs.split(","):
                if run_status:
                    found.setdefault(run_status.split(" ")[0], commit)
        return found

    def committers(self, before: str, after: str, commits_max: int = 200) -> tuple[tuple[str, str], ...]:
        """Return committer and nonce ("" for none) of the commits that `after` has and `before` has not, newest first.
        Raise GitFailed where one of them is not there."""
        form = "--format=%cn <%ce>%x00%(trailers:key=Reconciler-Nonce,valueonly,separator=%x2C)"
        log = self.git("log", f"-{commits_max}", form, "--end-of-options", f"{before}..{after}", "--")
        lines = (line.partition("\0") for line in log.splitlines() if line)
        return tuple((who, nonce.strip()) for who, _, nonce in lines)

    def last_change(self, tip: str, path: str, signers: Path | None = None) -> LastChange | None:
        """Return the newest commit in the history of `tip` that changed a path, and whose it is; None if there is none,
        or if it cannot be told from what a shallow clone was cut off from.

        With the file of allowed `signers` an SSH signature is verified by it, and by nothing a person has configured.
        """
        form = "%H%x00%an <%ae>%x00%ct%x00" + ("%G?%x00%GS" if signers is not None else "%x00")
        believed = () if signers is None else (f"gpg.ssh.allowedSignersFile={signers}", *NO_OTHER_SIGNATURES)
        asked = ("log", "-1", "--no-show-signature", f"--format={form}", "--end-of-options", tip, "--")
        found = _text(self.git(*asked, f":(literal){path}", config=believed)).split("\0")
        if len(found) != 5 or found[0] in self._cut_off():
            return None
        at = datetime.fromtimestamp(int(found[2]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        signer = found[4] if found[3] == "G" and found[4] else None
        return LastChange(commit=found[0], author=found[1], at=at, signer=signer)

    def changers(self, tip: str, path: str) -> tuple[tuple[str, str], ...]:
        """Return commit and author, as `Name <address>`, of the newest commits in all lines of history that touched a
        path."""
        words = ("--full-history", "--no-show-signature", "-z", f"--max-count={CHANGERS_MAX}", "--format=%H %an <%ae>")
        asked = ("log", *words, "--end-of-options", tip, "--", f":(literal){path}")
        lines = _text(self.git(*asked)).split("\0")
        return tuple((commit, author) for commit, _, author in (each.partition(" ") for each in lines if each))

    def authors(self, old: str, new: str, folder: str, commits_max: int) -> dict[str, list[tuple[str, str]]]:
        """Return by path below a folder the commits between two commits that touched it, and their authors as
        `Name <address>`: newest first, of the newest `commits_max`."""
        words = ("--full-history", "--no-show-signature", "--no-renames", "--diff-merges=first-parent", "--name-only")
        limits = ("-z", f"--max-count={commits_max}", "--format=%x01%H%x00%an <%ae>%x00")
        asked = ("log", *words, *limits, "--end-of-options", new, f"^{old}", "--", f":(top,literal){folder}")
        found: dict[str, list[tuple[str, str]]] = {}
        for each in self.git(*asked).split("\x01")[1:]:
            commit, author, *paths = each.split("\0")
            for path in filter(None, (path.strip("\n") for path in paths)):
                found.setdefault(path, []).append((commit, _text(author)))
        return found

    def _cut_off(self) -> frozenset[str]:
        """Return the commits at which the history of a shallow clone ends."""
        with contextlib.suppress(OSError):
            return frozenset((self.common / "shallow").read_text().split())
        return frozenset()

    def first_parent_changes(self, commit: str) -> tuple[str, ...]:
        """Return the paths that a commit changed against its first parent (all its files, if it has none)."""
        trees = self.look_up([f"{commit}^{{tree}}", f"{commit}^1^{{tree}}"])
        return tuple(sorted(path for path, _ in self.changes(trees[1], trees[0])))

    def manifest_digests(self, tip: str, commits_max: int = 500) -> Mapping[str, str]:
        """Return path of a manifest -> the SHA-256 that the newest commit of evidence names for it, looking at
        `commits_max` commits of evidence."""
        trailers = "%(trailers:key=Reconciler-Manifest,valueonly,separator=%x00)"
        log = self.git(
            "log", f"-{commits_max}", "-z", "--grep=^Reconciler-Manifest: ", f"--format={trailers}",
            "--end-of-options", tip,
        )  # fmt: skip
        found: dict[str, str] = {}
        for said in log.split("\0"):
            path, _, sha256 = said.rpartition(" sha256:")
            if path and re.fullmatch(r"[0-9a-f]{64}", sha256):
                found.setdefault(path, sha256)
        return found

    def parent(self, commit: str) -> str | None:
        """Return the first parent of a commit, None of a root. Raise ContentError where a shallow clone ends."""
        data = next(self.objects.contents((commit,), "commit"))[1] or b""
        found = re.match(rb"tree [0-9a-f]+\nparent ([0-9a-f]+)\n", data)
        if not found:
            return None
        parent = found[1].decode()
        if self.look_up([parent])[0] is None:
            cure = "fetch more of the history, or name a commit to compare with"
            raise ContentError(f"{commit[:12]}: its parent is not here, this clone is shallow; {cure}")
        return parent

    def empty_tree(self) -> str:
        """Return the object id of a tree without files; every repository knows it."""
        if "empty tree" not in self.known:
            self.known["empty tree"] = self.git("hash-object", "-t", "tree", "--stdin")
        return self.known["empty tree"]

    def parting(self, one: str, other: str) -> str | None:
        """Return the newest commit that two commits have in common, None where there is none, or none is here."""
        try:
            return self.git("merge-base", "--end-of-options", one, other).splitlines()[0]
        except GitFailed as error:
            if error.exit_status == 1:
                return None
            raise

    @property
    def shallow(self) -> bool:
        """Whether some of the history is not here."""
        return bool(self._cut_off())

    def merged(self, base: str, head: str, place: Path) -> Merged:
        """Return what merging one commit into another gives. Nothing of the repository is touched: what is made lies
        below `place`, an empty directory, and `with_objects` reads it there.

        Attributes of the tree are not obeyed, so nobody's merge driver runs: a file that needs one is in conflict.
        """
        words = ("merge-tree", "--write-tree", "--no-messages", "--name-only", "-z", base, head)
        variables = {**self._beside(place), "GIT_INDEX_FILE": str(place / "index")}
        config = ("core.attributesFile=/dev/null",)
        try:
            said = run(words, directory=place, config=config, variables=variables, git_directory=self.common)
            answer = os.fsdecode(said)
        except GitFailed as error:
            if error.exit_status != 1:  # git merge-tree: conflicts
                raise
            answer = error.stdout
        tree, *paths = answer.split("\0")
        return Merged(tree=tree, conflicts=tuple(dict.fromkeys(each for each in paths if each)))

    def with_objects(self, place: Path) -> Repository:
        """Return this repository as it would be with the objects below a directory."""
        return replace(self, objects=Objects(self.common, self._beside(place)))

    def _beside(self, place: Path) -> dict[str, str]:
        """Return what lets git write objects below a directory and read them together with ours."""
        own = str(self.common / "objects").replace("\\", "\\\\").replace('"', '\\"')
        return {"GIT_OBJECT_DIRECTORY": str(place), "GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{own}"'}

    def is_ancestor(self, old: str, new: str) -> bool:
        """Return whether `old` is `new` or in its history, as far as that is here: what a shallow clone cut off is
        not, nor is an object that is missing."""
        try:
            self.git("merge-base", "--is-ancestor", "--end-of-options", old, new)
        except GitFailed as error:
            if error.exit_status in (1, 128):
                return False
            raise
        return True

    def identity(self) -> str:
        """Return `Name <email>` of the person at this machine. Raise UsageError with the cure if git knows none."""
        try:
            return self.git("var", "GIT_AUTHOR_IDENT").rsplit(" ", 2)[0]
        except GitFailed:
            raise UsageError(
                "git does not know who you are; run: git config user.name NAME && git config user.email EMAIL"
            ) from None

    def snapshot(
        self, workspace: Path, base: str, *, message: str, identity: str, epoch_s: int, start: str = ""
    ) -> str | None:
        """Return a commit on top of `base` of the files of a workspace as they are, None if they are those of `base`.

        New files count unless they are ignored; repositories within do not. The index is one of our own, as is the
        repository, whatever `.git` in the workspace says by now. The same files give the same commit. `start` is the
        tree that the workspace was made from where all of it is wanted, ignored files too.
        """
        where = (f"--git-dir={self.common}", f"--work-tree={workspace}", "--literal-pathspecs")
        with packs.incoming(self) as place:
            variables = {"GIT_INDEX_FILE": str(place / "index"), **self._beside(place), **_roles(identity, epoch_s)}

            def ask(*words: str, feed: bytes = b"") -> bytes:
                return run((*where, *words), directory=workspace, standard_input=feed, variables=variables)

            ask("read-tree", "--end-of-options", start or base)
            ask("add", "--update")
            new = ask("ls-files", "--others", *(() if start else ("--exclude-standard",)), "-z").split(b"\0")
            if files := [each for each in new if each and not each.endswith(b"/")]:
                named = ("--pathspec-from-file=-", "--pathspec-file-nul")
                ask("add", *(("--force",) if start else ()), *named, feed=b"\0".join(files))
            tree = ask("write-tree").decode().strip()
            if tree == self._tree_of(base):
                return None
            made = ask("commit-tree", "-p", base, "-F", "-", tree, feed=message.encode())
            return self._take_in(made.decode().strip(), (base,), place)

    def committed(self, tree: str, base: str, *, message: str, identity: str, epoch_s: int) -> str:
        """Return a commit on top of `base` of a tree that is here: the one that `snapshot` makes of the same files."""
        with packs.incoming(self) as place:
            variables = {**self._beside(place), **_roles(identity, epoch_s)}
            asked = ("commit-tree", "-p", base, "-F", "-", tree)
            made = run(asked, directory=self.directory, standard_input=message.encode(), variables=variables)
            return self._take_in(made.decode().strip(), (base,), place)

    def woven(self, base: str, files: Mapping[str, Entry | None]) -> str:
        """Return the id of the tree that `base` becomes with these files put in, or (None) taken out. It is made by an
        index, which has no place for a path that must not be checked out: such a file is left out."""
        nothing = "0" * len(base)
        gone = b"".join(b"0 %s\t%s\0" % (nothing.encode(), os.fsencode(path)) for path in _gone(files))
        new = ((os.fsencode(path), each) for path, each in files.items() if each is not None)
        feed = b"".join(b"%s %s\t%s\0" % (each.mode.encode(), each.oid.encode(), path) for path, each in new)
        with packs.incoming(self) as place:
            variables = {
                "GIT_DIR": str(self.common),
                "GIT_INDEX_FILE": str(place / "index"),
                **self._beside(place),
            }
            run(("read-tree", "--end-of-options", base), directory=self.common, variables=variables)
            asked = ("update-index", "-z", "--index-info")
            run(asked, directory=self.common, standard_input=gone + feed, variables=variables)
            return run(("write-tree",), directory=self.common, variables=variables).decode().strip()

    def lay_over(self, workspace: Path, base: str, tree: str) -> None:
        """Make the files of a workspace that are those of `base` those of a tree; its own index stays as it is."""
        where = (f"--git-dir={self.common}", f"--work-tree={workspace}")
        with packs.incoming(self) as place:
            variables = {"GIT_INDEX_FILE": str(place / "index")}
            for words in (("--end-of-options", base), ("--reset", "-u", "--end-of-options", base, tree)):
                run((*where, "read-tree", *words), directory=workspace, variables=variables, timeout_s=600.0)

    def change(self, workspace: Path, base: str | None, index: Path, bytes_max: int) -> Change:
        """Return how the files of `workspace` differ from a commit (None: from nothing), new ones included.

        The index is a file of its own, made here, so nobody's is touched and nothing that was written into one hides a
        change. The repository and its configuration are this one's, whatever `.git` in the workspace says by now.
        """
        where = (f"--git-dir={self.common}", f"--work-tree={workspace}", "--literal-pathspecs")
        variables = {"GIT_INDEX_FILE": str(index), **self._own_objects(index)}

        def ask(*arguments: str, feed: bytes = b"") -> bytes:
            return run((*where, *arguments), directory=workspace, standard_input=feed, variables=variables)

        tree = base or ask("hash-object", "-t", "tree", "--stdin").decode().strip()
        ask("read-tree", "--empty") if base is None else ask("read-tree", "--end-of-options", base)
        new = [each for each in ask("ls-files", "--others", "--exclude-standard", "-z").split(b"\0") if each]
        if files := [each for each in new if not each.endswith(b"/")]:
            named = ("--pathspec-from-file=-", "--pathspec-file-nul")
            ask("add", "--intent-to-add", *named, feed=b"\0".join(files))
        diff = ("diff", "--no-ext-diff", "--no-textconv", "--no-renames", "--ignore-submodules=dirty")
        stats = ask(*diff, "--numstat", "-z", tree, "--")
        patch = read_start((*where, *diff, "--binary", "--full-index", tree, "--"), workspace, variables, bytes_max + 1)
        return Change(
            patch=patch[:bytes_max],
            whole=len(patch) <= bytes_max,
            stats=tuple(_stat(each) for each in stats.split(b"\0") if each),
            nested=tuple(os.fsdecode(each) for each in new if each.endswith(b"/")),
        )

    def difference(self, base: str, commit: str, bytes_max: int) -> Change:
        """Return how a commit differs from another commit or tree, all by object ids; the patch is cut after so many
        bytes."""
        diff = ("diff", "--no-ext-diff", "--no-textconv", "--no-renames")
        ends = ("--end-of-options", base, commit, "--")
        stats = run((*diff, "--numstat", "-z", *ends), directory=self.directory)
        patch = read_start((*diff, *ends), self.directory, {}, bytes_max + 1)
        return Change(
            patch=patch[:bytes_max],
            whole=len(patch) <= bytes_max,
            stats=tuple(_stat(each) for each in stats.split(b"\0") if each),
        )

    def _own_objects(self, index: Path) -> dict[str, str]:
        """Return the variables by which git writes objects beside an index where it must not into the repository: in a
        sandbox that is only to be read."""
        objects = self.common / "objects"
        if os.access(objects, os.W_OK):
            return {}
        place = index.with_name("objects")
        place.mkdir(exist_ok=True)
        return {"GIT_OBJECT_DIRECTORY": str(place), "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects)}

    # -------------------------------------------------------------------------------------------- writing

    def exclude(self, line: str) -> None:
        """Add a line to `info/exclude`, once."""
        self._note("exclude", line)

    def keep_as_written(self, patterns: Iterable[str]) -> None:
        """Let git put the files that match through no filter of contents, here and in all worktrees.

        What we commit never came through one, so it would look edited as soon as git looks at it, for ever, and block
        what is committed next.
        """
        for each in patterns:
            self._note("attributes", f"{each} -filter")

    def _note(self, name: str, line: str) -> None:
        """Add a line to a file that git reads for this repository alone, once."""
        path = self.common / "info" / name
        known = path.read_bytes() if path.exists() else b""
        if line.encode() in known.splitlines():
            return
        path.parent.mkdir(exist_ok=True)
        with open(path, "ab") as file:
            file.write((b"" if not known or known.endswith(b"\n") else b"\n") + line.encode() + b"\n")

    def make_commit(self, draft: Draft) -> str:
        """Write a commit by fast-import and return its id. No ref leads to it yet.

        All that its parents have not is in one pack that no garbage collection takes, also what git found in another
        pack and would have made no copy of: that one may go. If it has gone between the two, the next try misses it.
        """
        return self.make_commits([draft])[0]

    def make_commits(self, drafts: Sequence[Draft]) -> tuple[str, ...]:
        """Write commits that do not stand on each other, all by one import and into one pack, and return their ids in
        order."""
        if not drafts:
            return ()
        trees = {each: self._tree_of(each) for each in {each.base_tree for each in drafts} if each is not None}
        stream = _stream([replace(each, base_tree=trees.get(each.base_tree or "")) for each in drafts])
        known = {parent: None for each in drafts for parent in (each.parent, *each.merges)}
        for _ in range(COMMIT_TRIES - 1):
            with packs.incoming(self) as place:
                commits = self._import(stream, place, "core.fsync=none").splitlines()
                with contextlib.suppress(GitFailed):
                    return self._take_in_all(commits, known, place)
        with packs.incoming(self) as place:
            return self._take_in_all(self._import(stream, place, "core.fsync=none").splitlines(), known, place)

    def import_objects(self, stream: bytes) -> str:
        """Give git a stream to import that moves no ref and return what it answers. What is imported is in a pack that
        no garbage collection takes."""
        with packs.incoming(self) as place:
            answer = self._import(stream, place)
            packs.take_in(self, place / "pack")
        return answer

    def _import(self, stream: bytes, place: Path, *config: str) -> str:
        """Import a stream into the object directory `place`, and return what git answers."""
        return self._aside(place, "fast-import", "--quiet", "--force", "--done", feed=stream, config=config)

    def _take_in(self, commit: str, known: Iterable[str], place: Path) -> str:
        """Take a commit that was made in the object directory `place` in, whole but for what the commits `known` have,
        and return it. Raise GitFailed if something of it is missing."""
        return self._take_in_all([commit], known, place)[0]

    def _take_in_all(self, commits: Sequence[str], known: Iterable[str], place: Path) -> tuple[str, ...]:
        whole = place / "whole"
        whole.mkdir()
        feed = "\n".join([*commits, *(f"^{each}" for each in known), ""]).encode()
        words = ("pack-objects", "--quiet", "--revs", "--sparse", "--delta-base-offset", str(whole / "pack"))
        self._aside(place, *words, feed=feed, config=("pack.packSizeLimit=0",))
        packs.take_in(self, whole)
        return tuple(commits)

    def _aside(self, place: Path, *words: str, feed: bytes, config: Sequence[str], timeout_s: float = TIMEOUT_S) -> str:
        """Return what git prints that writes objects into the directory `place` and reads them together with ours."""
        variables = self._beside(place)
        said = run(
            words,
            directory=self.directory,
            standard_input=feed,
            timeout_s=timeout_s,
            config=config,
            variables=variables,
        )
        return said.decode(errors="surrogateescape").strip()

    def signed(self, commit: str) -> str:
        """Return a copy of a commit with one parent that is signed as the person at this machine has configured it.
        Raise GitFailed if that cannot be done."""
        message = self.git("log", "-1", "--format=%B", "--end-of-options", commit)
        tree, parent = self._tree_of(commit), self.look_up([f"{commit}^1"])[0]
        asked = ("commit-tree", "-S", "-p", parent or "", "-F", "-", tree)
        with packs.incoming(self) as place:
            made = self._aside(place, *asked, feed=message.encode(), config=(), timeout_s=SIGNING_TIMEOUT_S)
            return self._take_in(made, (parent or "",), place)

    def _tree_of(self, oid: str) -> str:
        """Return the tree of a commit, or a tree itself."""
        [tree] = self.look_up([f"{oid}^{{tree}}"])
        if tree is None:
            raise GitFailed(f"git cat-file: {oid} is missing or has no tree")
        return tree

    def update_ref(self, ref: str, new: str) -> None:
        """Set a ref of ours."""
        self.git("update-ref", "--no-deref", "--end-of-options", _own(ref), new)

    def create_branch(self, branch: str, commit: str) -> None:
        """Make a branch that does not exist. Raise GitFailed if it does."""
        nothing = "0" * len(commit)
        self.git("update-ref", "--no-deref", "--end-of-options", f"refs/heads/{branch}", commit, nothing)

    def delete_ref(self, ref: str) -> None:
        """Delete a ref of ours; nothing happens if there is none."""
        self.git("update-ref", "--no-deref", "-d", "--end-of-options", _own(ref))

    def clear_stale_locks(self) -> list[str]:
        """Remove lock files that git left when it was KILLed or the machine lost power, and return their names.

        Every command that meets one fails, until somebody removes it. Nothing is removed without proof that its
        maker is dead.
        """
        return remove_stale_locks(self.common, [self.common, self.directory, *self._worktrees()])

    def _worktrees(self) -> list[Path]:
        """Return the checkouts beside the first: where they are, or were."""
        found = [self.common.parent] if self.common.name == ".git" else []
        for remembered in (self.common / "worktrees").glob("*/gitdir"):
            with contextlib.suppress(OSError):
                found.append(Path(os.fsdecode(remembered.read_bytes().strip())).parent)
        return found

    def finish_advance(self, branch: str, old: str) -> None:
        """Bring a move of a checkout that was interrupted to its end. Raise TipMoved if there was one, PublishBlocked
        if a person's work is in its way: what it has written so far is nobody's work, and looks like it."""
        if any((each / INTENT_PATH).exists() for each in (self.common, *(self.common / "worktrees").glob("*"))):
            checkout = self._checkout_of(branch)
            if checkout is not None:
                Checkout(repository=self, directory=checkout, branch=branch).finish(old)

    def advance(self, branch: str, old: str, new: str) -> None:
        """Move a branch from `old` to `new`, and its checkout with it, keeping a person's work.

        Raise TipMoved if the branch is elsewhere by now, PublishBlocked with the reason if moving the checkout
        would overwrite something.
        """
        checkout = self._checkout_of(branch)
        if checkout is None:
            self._move_ref(branch, old, new)
            self._follow(branch, old, new)
            return
        if self.commit_of(branch) != old:
            raise TipMoved(f"{branch}: moved while evidence was made for {old[:12]}")
        self._refuse_during_rebase(branch)
        if self.look_up([f"{new}^1"])[0] != old and not self.is_ancestor(old, new):
            raise PublishBlocked(f"{new[:12]} does not follow {old[:12]}, where '{branch}' is")
        Checkout(repository=self, directory=checkout, branch=branch).move(old, new)

    def ask(self, directory: Path, *arguments: str, standard_input: bytes = b"", timeout_s: float = TIMEOUT_S) -> bytes:
        """Return what git prints in a checkout of this repository."""
        return run(arguments, directory=directory, standard_input=standard_input, timeout_s=timeout_s)

    @contextlib.contextmanager
    def prepared(self, branch: str, old: str, new: str, directory: Path) -> Iterator[Callable[[], None]]:
        """Lock a branch that is at `old`, and HEAD of the checkout in `directory` if it names it; hand out what moves
        the branch to `new`. Left without that, nothing has moved. Raise GitFailed if it is elsewhere, or in use."""
        words = ("update-ref", "-m", REFLOG, "-z", "--stdin")
        with tempfile.TemporaryFile() as errors:
            process = _popen(words, directory, subprocess.PIPE, errors=errors.fileno())

            def tell(lines: str, answer: bytes) -> None:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(lines.encode(errors="surrogateescape"))
                    process.stdin.flush()
                if _read_until(process, len(answer)) != answer:
                    _end(process)
                    errors.seek(0)
                    raise _failed(words, process.returncode, errors.read(STDERR_BYTES_MAX), b"")

            try:
                tell(f"start\0update refs/heads/{branch}\0{new}\0{old}\0prepare\0", b"start: ok\nprepare: ok\n")
                yield lambda: tell("commit\0", b"commit: ok\n")
            finally:
                _hang_up(process)

    def _move_ref(self, branch: str, old: str, new: str) -> None:
        self._refuse_during_rebase(branch)
        try:
            self.git("update-ref", "-m", REFLOG, f"refs/heads/{branch}", new, old)
        except GitFailed:
            if self.commit_of(branch) != old:
                raise TipMoved(f"{branch}: moved while evidence was made for {old[:12]}") from None
            raise

    def _follow(self, branch: str, old: str, new: str) -> None:
        """Bring a checkout after a branch that was moved while somebody switched to it: `git switch` looks where the
        branch is before it locks anything, and then checks out the commit that it saw."""
        places = [self.common, *(self.common / "worktrees").glob("*")]
        name = f"ref: refs/heads/{branch}\n".encode(errors="surrogateescape")

        def is_busy() -> bool:
            return any((each / "index.lock").exists() for each in places)

        def is_named() -> bool:
            return any(
                DISK.exists(each / "HEAD") and DISK.read(each / "HEAD", len(name) + 1) == name for each in places
            )

        patience_s = LOCK_PATIENCE_S if is_busy() else 0.0
        DISK.wait_for(lambda: None if is_busy() else True, patience_s)
        if DISK.wait_for(lambda: is_named() or None, patience_s):  # HEAD moves after the index has been let go
            checkout = self._checkout_of(branch)
            if checkout is not None:
                Checkout(repository=self, directory=checkout, branch=branch).follow(old, new)

    def _checkout_of(self, branch: str) -> Path | None:
        """Return the worktree that has `branch` checked out, if it is still there."""
        listed = self.git("worktree", "list", "--porcelain", "-z").split("\0\0")
        for block in listed:
            lines = block.split("\0")
            if f"branch refs/heads/{branch}" in lines and "bare" not in lines:
                checkout = Path(lines[0].removeprefix("worktree "))
                return checkout if checkout.is_dir() else None
        return None

    def _refuse_during_rebase(self, branch: str) -> None:
        """Raise PublishBlocked while the branch is being rebased: moving it would make the rebase fail at its end."""
        directories = [self.common, *(self.common / "worktrees").glob("*")]
        for directory in directories:
            for kind in ("rebase-merge", "rebase-apply"):
                with contextlib.suppress(OSError):
                    if (directory / kind / "head-name").read_text().strip() == f"refs/heads/{branch}":
                        raise PublishBlocked(f"a rebase of '{branch}' is in progress; finish or abort it")

    def add_worktree(self, path: Path, commit: str) -> None:
        """Make a detached worktree at a commit; what an interrupted attempt at that left is removed first."""
        self.remove_worktree(path)
        self.git("worktree", "add", "--detach", "--quiet", "--force", "--", str(path), commit, timeout_s=600.0)

    def move_worktree(self, path: Path, commit: str) -> None:
        """Check another commit out in a worktree, keeping untracked files. Raise GitFailed if it cannot be."""
        run(("checkout", "--detach", "--quiet", "--force", commit, "--"), directory=path, timeout_s=600.0)

    def remove_worktree(self, path: Path) -> None:
        """Remove a worktree and what git remembers of it; nothing happens if there is none.

        `git worktree prune` would do more: it forgets a person's worktree on a disk that is not plugged in just now.
        """
        DISK.remove_tree(path)
        for remembered in (self.common / "worktrees").glob("*/gitdir"):
            with contextlib.suppress(OSError):
                if remembered.read_bytes().strip() == os.fsencode(f"{path}/.git"):
                    DISK.remove_tree(remembered.parent)


def open_repository(directory: Path) -> Repository:
    """Return the repository that `directory` is in. Raise UsageError if it is in none."""
    asked = ("rev-parse", "--path-format=absolute", "--is-bare-repository", "--git-common-dir", "--show-toplevel")
    try:
        lines = run(asked, directory=directory).decode().splitlines()
    except GitFailed as error:
        lines = _bare_answer(directory, error)
    bare = lines[0] == "true"
    common = Path(lines[1])
    return Repository(directory=common if bare else Path(lines[2]), common=common, bare=bare, objects=Objects(common))


def _bare_answer(directory: Path, error: GitFailed) -> list[str]:
    """Return what rev-parse says of a bare repository, for which `--show-toplevel` fails."""
    try:
        asked = ("rev-parse", "--path-format=absolute", "--is-bare-repository", "--git-common-dir")
        lines = run(asked, directory=directory).decode().splitlines()
    except GitFailed:
        lines = []
    if lines and lines[0] == "true":
        return lines
    if "dubious ownership" in error.stderr or "safe.bareRepository" in error.stderr:
        raise UsageError(f"{directory}: {error.stderr.splitlines()[0].removeprefix('fatal: ')}")
    raise UsageError(f"{directory}: not in a git repository; run 'git init' first, or name one with --repo")


# ------------------------------------------------------------------------------------------------ small parts


def _tree_entries(data: bytes, oid_bytes: int) -> dict[str, Entry]:
    """Return the entries of a raw tree object: `<mode> <name> NUL <object id>`, again and again."""
    found, at = {}, 0
    while at < len(data):
        space = data.index(b" ", at)
        end = data.index(b"\0", space)
        mode, name = data[at:space].decode().zfill(6), os.fsdecode(data[space + 1 : end])
        at = end + 1 + oid_bytes
        found[name] = Entry(mode, data[end + 1 : at].hex(), name)
    return found


def _gone(files: Mapping[str, Entry | None]) -> list[str]:
    return [path for path, each in files.items() if each is None]


def _roles(identity: str, epoch_s: int) -> dict[str, str]:
    """Return the variables that say who makes a commit and when."""
    name, _, address = identity.rpartition(" <")
    who = {"NAME": name, "EMAIL": address.rstrip(">"), "DATE": f"@{epoch_s} +0000"}
    return {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}


def _stat(line: bytes) -> tuple[str, int | None, int | None]:
    """Return path, added and removed of a line of `git diff --numstat -z`; counts are `-` for binary files."""
    added, removed, path = line.split(b"\t", 2)
    return os.fsdecode(path), *(int(each) if each.isdigit() else None for each in (added, removed))  # type: ignore[return-value]


def _stream(drafts: Sequence[Draft]) -> bytes:
    """Return the fast-import stream of commits; `get-mark` makes it answer with their ids, one a line."""
    told = [part for number, each in enumerate(drafts, start=1) for part in _told(each, number)]
    return b"".join((b"feature done\n", *told, b"done\n"))


def _told(draft: Draft, number: int) -> list[bytes]:
    """Return what fast-import is told of one commit, which leaves no ref behind."""
    message = draft.message.encode()
    parts = [
        f"commit {PUBLISH_REF}\nmark :{number}\ncommitter {draft.identity} {draft.epoch_s} +0000\n".encode(),
        b"data %d\n%s\nfrom %s\n" % (len(message), message, draft.parent.encode()),
        *(f"merge {each}\n".encode() for each in draft.merges),
    ]
    if draft.base_tree is not None:
        parts.append(b'M %s %s ""\n' % (TREE_MODE.encode(), draft.base_tree.encode()))
    parts += [b"D %s\n" % _quoted(path) for path in sorted(draft.removals)]
    for path, (mode, oid) in sorted(draft.copies.items()):
        parts.append(b"M %s %s %s\n" % (mode.encode(), oid.encode(), _quoted(path)))
    for path in sorted(draft.files):
        data, mode = draft.files[path], draft.modes.get(path, "100644")
        parts.append(b"M %s inline %s\ndata %d\n%s\n" % (mode.encode(), _quoted(path), len(data), data))
    return [*parts, b"get-mark :%d\nreset %s\n" % (number, PUBLISH_REF.encode())]


def _text(said: str) -> str:
    """Return what git said of a commit as text that can be written down: names in it may be any bytes."""
    return said.encode(errors="surrogateescape").decode(errors="replace")


def _own(ref: str) -> str:
    if not ref.startswith(OWN_REFS):
        raise ValueError(f"{ref}: not a ref of the reconciler")
    return ref


UNSAID = re.compile(rb'[\x00-\x1f"\\]')
"""What the quoting of fast-import has to spell out."""


def _quoted(path: str) -> bytes:
    """Return a path in the C quoting of fast-import, which every byte but NUL survives."""
    raw = os.fsencode(path)
    if not UNSAID.search(raw):
        return b'"%s"' % raw
    return b'"' + b"".join(b"\\%03o" % each if each < 32 or each in b'"\\' else bytes([each]) for each in raw) + b'"'
