"""The edge to a remote repository: what it has, moving its refs by compare-and-swap, and notes that refs carry.

What the remote has comes into a namespace of our own, so that nothing a person configured or looks at decides or is
touched. A push answers ref by ref: what the remote did not accept because its place had moved is *rejected* and the
caller looks again; what it refuses by policy, and what nobody knows, are errors of their own. The remote alone knows
the truth after an error, so nothing here guesses.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from reconciler import git, packs
from reconciler.disk import DISK
from reconciler.errors import (
    ContentError,
    GitFailed,
    NoAtomicPush,
    PushRefused,
    PushUnclear,
    TransientError,
    UsageError,
)
from reconciler.git import Repository
from reconciler.lent import guard, has_passed, without_refs
from reconciler.login import Login
from reconciler.model import CLAIMS, HOSTS
from reconciler.values import frozen
from reconciler.work import WORK

NETWORK_TIMEOUT_S = 60.0
FETCH_ATTEMPTS = 3
UPDATES_MAX = 2500
"""So many updates, with the longest names and SHA-256, are 1 MB of command line; Linux takes 2 MB."""
DEPTH = 500
"""How much history a shallow clone gets with a commit that is brought by its id."""
LOOK_MAX = 1000
KEPT_UNSYNCED = "core.fsync=objects,pack-metadata"
"""What we keep of a remote can be fetched again: to sync 1,000 refs takes 4 s. Objects that seem to be there cannot."""
DELETIONS_MANY = 50
"""From so many deletions in a push on, git is told of them in the way that does not grow with their square."""
REASON_CHARACTERS_MAX = 300
FETCHED_BYTES_MAX = 1024 * 1024 * 1024
"""A pack that comes together with what attempts at engines say is not larger. Where it would be, the attempts' refs are
fetched one by one, each within this bound, and the rest without one."""
NOTE_BYTES_MAX = 256 * 1024
NOTE_REF = "refs/reconciler/note"
"""Named by the stream that makes notes, and never written: git is told to forget it before the stream ends."""

DEFAULT = "origin"
"""The remote that counts where settings name none, if it is configured."""
OWN = "refs/reconciler/remote/"
HEADS = "refs/heads/"
SHARED = (CLAIMS, HOSTS, WORK)
SPACES = {HEADS: f"{OWN}heads/", **{each: each.replace("refs/reconciler/", OWN) for each in SHARED}}
"""Where a ref of the remote is kept here."""

REF = re.compile(r"refs/[^\x00-\x20\x7f:^~?*\[\\]+")
REF_CHARACTERS_MAX = 200
HEAD_CHARACTERS_MAX = len(HEADS) + git.BRANCH_CHARACTERS_MAX
"""Of branches few are moved at once, and their names are people's."""
OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
REMOTE_NAME = re.compile(r"\w[\w.+/-]*", re.ASCII)

MENDABLE = re.compile(r"couldn't find remote ref|cannot lock ref|local refs could not be updated|; cannot create ")
"""Why a fetch failed that may succeed once it is known what the remote has, and our stale refs are out of the way."""

BROKEN = re.compile(r"(bad|missing) object|broken ref|did not send all necessary objects|bad ref")
"""What a fetch says for ever when a ref here is empty after a loss of power, or its object is gone."""

MOVED = re.compile(
    r"stale info|fetch first|atomic push fail|atomic transaction failed|transaction failed to start"
    r"|(failed|unable) to (update|lock|delete)|cannot lock ref|reference (already exists|does not exist)"
    r"|incorrect old value|is at [0-9a-f]+ but expected"
)
"""Reasons for a rejection that a lost race has: of git since 2.36, and of the servers of GitHub and GitLab."""

STUBBORN = re.compile(
    r"[^\n]*(\.lock'?: File exists|permission denied|no space left|read-only file system|disk quota|; cannot create )"
    r"[^\n]*",
    re.IGNORECASE,
)
"""What a server says when the same reasons have another cause, which a second look will not change."""

DENIED = re.compile(
    r"[^\n]*(permission( to \S+)? denied|authentication failed|could not read (username|password)|access denied"
    r"|returned error: 40[13]|not allowed to push|write access)[^\n]*",
    re.IGNORECASE,
)


@frozen
class RefUpdate:
    """A ref at the remote that shall go from `old` to `new`; None for `old` is a ref that must not exist, for `new`
    one to be deleted. Nobody can tell whether nothing was done, so `old` and `new` differ."""

    ref: str
    old: str | None
    new: str | None

    def __post_init__(self) -> None:
        characters_max = HEAD_CHARACTERS_MAX if self.ref.startswith(HEADS) else REF_CHARACTERS_MAX
        if not REF.fullmatch(self.ref) or len(self.ref) > characters_max:
            raise ValueError(f"{self.ref!r}: not the full name of a ref")
        if any(oid is not None and not OID.fullmatch(oid) for oid in (self.old, self.new)):
            raise ValueError(f"{self.ref}: not a full object id")
        if self.old == self.new:
            raise ValueError(f"{self.ref}: an update to what is there already")


@frozen(kw_only=False)
class Remote:
    """A configured remote of a repository, asked as whom git finds here, or as `login` says. Every method but `known`
    raises TransientError if it cannot be asked."""

    repository: Repository
    name: str
    timeout_s: float = NETWORK_TIMEOUT_S
    login: Login | None = None

    def fetch(self, branches: Sequence[str]) -> Mapping[str, str]:
        """Bring the branches there are, all claims, hosts and attempts at engines; return ref at the remote -> object
        id."""
        for each in branches:
            if not each or not REF.fullmatch(f"{HEADS}{each}"):
                raise ContentError(f"'{each}' is not the name of a branch")
        existing = tuple(dict.fromkeys(branches))
        for left in reversed(range(FETCH_ATTEMPTS)):
            try:
                with packs.noted(self.repository):
                    self._bring(existing)
                break
            except GitFailed as error:
                if self._was_too_large():
                    self._bring_apart(existing)
                    break
                broken = BROKEN.search(error.stderr) is not None
                if not left or not (broken or MENDABLE.search(error.stderr)):
                    raise
            if broken:
                self._forget()
            existing = self._mend(branches)
        return _there(self._kept(existing), existing)

    def known(self, branches: Sequence[str]) -> Mapping[str, str]:
        """Return what the last fetch saw. Until there was one, branches are as a person's last fetch saw them."""
        kept = self._kept(branches)
        found = _there(kept, branches)
        if not any(ref.startswith(SPACES[HEADS]) for ref in kept):
            theirs = {f"{HEADS}{each}": kept.get(f"refs/remotes/{self.name}/{each}") for each in branches}
            found |= {ref: oid for ref, oid in theirs.items() if oid is not None}
        return found

    def look(self, refs: Sequence[str]) -> Mapping[str, str]:
        """Ask the remote for exactly these refs; return ref -> object id of those that exist."""
        found: dict[str, str] = {}
        for start in range(0, len(refs), LOOK_MAX):
            # The patterns match the ends of names; with none of them the answer would be everything.
            asked = frozenset(refs[start : start + LOOK_MAX])
            answer = self._network("ls-remote", "--refs", "--quiet", "--end-of-options", self.name, *sorted(asked))
            found |= {ref: oid for oid, ref in _pairs(answer, "\t") if ref in asked}
        return found

    def bring(self, oids: Sequence[str]) -> None:
        """Fetch commits by their full ids; no ref leads to them then. Raise GitFailed if the remote does not give them.

        A shallow clone gets so much of their history as is likely to reach what it has.
        """
        if not all(map(OID.fullmatch, oids)):
            raise ValueError("commits are named by full object ids")
        depth = (f"--depth={DEPTH}",) if (self.repository.common / "shallow").exists() else ()
        with packs.noted(self.repository):
            self._network(
                "fetch", "--quiet", "--no-tags", "--refmap=", "--no-write-fetch-head", "--no-recurse-submodules",
                "--no-auto-maintenance", "--no-show-forced-updates", *depth, "--end-of-options", self.name, *oids,
            )  # fmt: skip

    def take(self, ref: str, depth: int = 0) -> str | None:
        """Bring one ref under its own name, with `depth` commits of its history (0: all); return where it is, None if
        it does not exist."""
        if not REF.fullmatch(ref):
            raise ValueError(f"{ref!r}: not the full name of a ref")
        shallow = (self.repository.common / "shallow").exists()
        history = (f"--depth={depth}",) if depth else ("--unshallow",) if shallow else ()
        try:
            self._network(
                "fetch", "--quiet", "--force", "--no-tags", "--refmap=", "--no-write-fetch-head",
                "--no-recurse-submodules", "--no-auto-maintenance", "--no-show-forced-updates", *history,
                "--end-of-options", self.name, f"+{ref}:{ref}",
            )  # fmt: skip
        except GitFailed as error:
            if "couldn't find remote ref" in error.stderr:
                return None
            raise
        return self.repository.look_up([ref])[0]

    def push(self, updates: Sequence[RefUpdate], *, atomic: bool = True) -> frozenset[str]:
        """Move refs, each only from where it must be now; return those that were rejected because they are not there
        (of an atomic push all or none). One that is at `new` already is rejected too: it was not moved from `old`.

        Raise PushRefused, NoAtomicPush or PushUnclear. History is not asked: a move back is a move.
        """
        refs = [each.ref for each in updates]
        if len(updates) > UPDATES_MAX or len(set(refs)) != len(refs):
            raise ValueError(f"{len(refs)} updates: at most {UPDATES_MAX} are pushed at once, and each ref once")
        if not updates:
            return frozenset()
        began_s = time.monotonic()
        if atomic and sum(each.new is None for each in updates) >= DELETIONS_MANY:
            told = self._push_guarded(updates)
            if told is not None:
                return _verdict(refs, atomic, *told)
        rest = replace(self, timeout_s=max(self.timeout_s / 4, self.timeout_s - (time.monotonic() - began_s)))
        # Without a lease on every single ref, git would move that one from anywhere.
        leases = [f"--force-with-lease={each.ref}:{each.old or ''}" for each in updates]
        moves = [f"{each.new or ''}:{each.ref}" for each in updates]
        with without_refs(self.repository, updates[0].new or updates[0].old or "") as place:
            options = ("--no-verify", *(["--atomic"] if atomic else []), *leases)
            return _verdict(refs, atomic, *rest._send([*options, "--end-of-options", self.name, *moves], place))

    def _push_guarded(self, updates: Sequence[RefUpdate]) -> tuple[Mapping[str, Told], str] | None:
        """Push as `push` does, many deletions told as patterns to be pruned; return what git tells. None if nothing
        was pushed because a ref is not where it must be, or nobody can guard that: then git has to be told one by one,
        in the other half of the time, which is this one's only if the guard has let it pass.
        """
        oid = updates[0].new or updates[0].old or ""
        nothing = "0" * len(oid)
        expected = [(each.ref, each.old or nothing, each.new or nothing) for each in updates]
        moves = [f"{each.new}:{each.ref}" if each.new else f"{each.ref}*:{each.ref}*" for each in updates]
        with without_refs(self.repository, oid) as place:
            hooks = guard(place, expected) if place is not None else None
            if hooks is None:
                return None
            words = ["--verify", "--atomic", "--force", "--prune", "--end-of-options", self.name, *moves]
            half = replace(self, timeout_s=self.timeout_s / 2)
            try:
                return half._send(
                    words,
                    place,
                    f"core.hooksPath={hooks}",
                    more_s=lambda: half.timeout_s if has_passed(hooks) else 0.0,
                )
            except TransientError:
                if has_passed(hooks):
                    raise
                return None  # also where git waits for ever because the guard cannot be started

    def _send(
        self, words: Sequence[str], place: Path | None, *settings: str, more_s: Callable[[], float] = lambda: 0.0
    ) -> tuple[Mapping[str, Told], str]:
        """Return what git tells of each ref, and what it says to people. Raise what a push means that ended without a
        word on any."""
        options = ("--porcelain", "--no-follow-tags", "--no-signed", "--no-progress", "--no-force-if-includes")
        words = ("push", *options, "--recurse-submodules=no", *words)
        try:
            return _told(self._network(*words, lent=place, settings=settings, more_s=more_s)), ""
        except GitFailed as error:
            told = _told(error.stdout)
            if not told:
                raise _unanswered(error) from None
            return told, error.stderr

    def rehearse(self, oid: str) -> None:
        """Ask whether a push of refs as one would be taken, and move none. Raise NoAtomicPush, PushRefused or
        PushUnclear. What a server decides when it is told the refs, as for a protected branch, stays unknown."""
        asked = ("push", "--dry-run", "--porcelain", "--no-verify", "--no-signed", "--no-follow-tags", "--atomic")
        try:
            self._network(*asked, "--end-of-options", self.name, f"{oid}:{SHARED[0]}doctor")
        except GitFailed as error:
            raise _unanswered(error) from None

    def keep(self, updates: Sequence[RefUpdate]) -> None:
        """Note here what was applied there, as the next fetch would: for whoever looks without asking the remote."""
        lines = []
        for each in updates:
            space = next((space for space in SPACES if each.ref.startswith(space)), None)
            if space is not None:
                here = f"{SPACES[space]}{each.ref.removeprefix(space)}"
                lines.append(f"update {here} {each.new}\n" if each.new else f"delete {here}\n")
        if lines:
            feed = "".join(lines).encode()
            self.repository.git("update-ref", "--stdin", standard_input=feed, config=(KEPT_UNSYNCED,))

    # -------------------------------------------------------------------------------------------- small parts

    def _network(
        self,
        *arguments: str,
        lent: Path | None = None,
        settings: Sequence[str] = (),
        more_s: Callable[[], float] = lambda: 0.0,
        file_bytes_max: int = 0,
    ) -> str:
        """Run git against the remote, as if nothing but its address were configured for it, with what is `lent` in the
        place of what worktrees share."""
        config = (
            *settings,
            *(self.login.settings if self.login is not None else ()),
            f"remote.{self.name}.mirror=false",  # or no ref can be named in a push
            f"remote.{self.name}.followRemoteHEAD=never",
            KEPT_UNSYNCED,
            "fetch.pruneTags=false",
            "advice.fetchShowForcedUpdates=false",
        )
        return self.repository.git(
            *arguments,
            timeout_s=self.timeout_s,
            config=config,
            variables={
                **(self.login.variables() if self.login is not None else {}),
                **({"GIT_COMMON_DIR": str(lent)} if lent is not None else {}),
            },
            git_directory=self.repository.git_directory if lent is not None else None,
            more_s=more_s,
            file_bytes_max=file_bytes_max,
        )

    def _bring(self, branches: Sequence[str]) -> None:
        moves = (*_moves(branches), *(f"+{each}*:{SPACES[each]}*" for each in SHARED))
        self._fetch(moves, FETCHED_BYTES_MAX)

    def _bring_apart(self, branches: Sequence[str]) -> None:
        """Bring what people and hosts have put there, however much it is, and of attempts what is not too large: of one
        that says too much nothing new is heard."""
        self._fetch((*_moves(branches), *(f"+{each}*:{SPACES[each]}*" for each in SHARED if each != WORK)), 0)
        answer = self._network("ls-remote", "--refs", "--quiet", "--end-of-options", self.name, f"{WORK}*")
        there = {ref: oid for oid, ref in _pairs(answer, "\t") if REF.fullmatch(ref) and ref.startswith(WORK)}
        here = {ref: f"{SPACES[WORK]}{ref.removeprefix(WORK)}" for ref in there}
        known = self.repository.look_up(list(here.values()))
        for (ref, oid), was in zip(there.items(), known, strict=True):
            if oid != was:
                try:
                    self._fetch((f"+{ref}:{here[ref]}",), FETCHED_BYTES_MAX)
                except GitFailed as error:
                    if not (self._was_too_large() or MENDABLE.search(error.stderr)):
                        raise
        for ref in self._kept(()):
            if ref.startswith(SPACES[WORK]) and ref not in here.values():
                self.repository.delete_ref(ref)

    def _was_too_large(self) -> bool:
        """Return whether a fetch that failed had more to write than it may. It left a file of just that size, which is
        removed."""
        place = self.repository.common / "objects" / "pack"
        found = [each for each in DISK.names(place) if each.startswith("tmp_")]
        full = [each for each in found if _bytes(place / each) == FETCHED_BYTES_MAX]
        for each in full:
            DISK.unlink(place / each)
        return bool(full)

    def _fetch(self, moves: Sequence[str], file_bytes_max: int) -> None:
        self._network(
            "fetch", "--quiet", "--force", "--prune", "--no-tags", "--refmap=", "--no-write-fetch-head",
            "--no-recurse-submodules", "--no-auto-maintenance", "--no-show-forced-updates", "--no-write-commit-graph",
            "--end-of-options", self.name, *moves, file_bytes_max=file_bytes_max,
        )  # fmt: skip

    def _mend(self, branches: Sequence[str]) -> tuple[str, ...]:
        """Return which branches exist, and delete what we keep of others of that name, or in their way."""
        there = self.look([f"{HEADS}{each}" for each in branches])
        existing = tuple(each for each in dict.fromkeys(branches) if f"{HEADS}{each}" in there)
        for ref in self._kept(()):
            name = ref.removeprefix(SPACES[HEADS])
            gone = name in branches and name not in existing
            if name != ref and (gone or any(_collide(name, each) for each in existing)):
                self.repository.delete_ref(ref)
        return existing

    def _forget(self) -> None:
        """Forget what we keep of the remote, also what git can neither read nor delete."""
        DISK.remove_tree(self.repository.common / OWN)
        for ref in self._kept(()):
            self.repository.delete_ref(ref)

    def _kept(self, branches: Sequence[str]) -> dict[str, str]:
        """Return ref -> object id of all we keep of the remote, and of a person's refs to these branches there."""
        theirs = [f"refs/remotes/{self.name}/{each}" for each in branches]
        form = "--format=%(objectname) %(refname)"
        return {ref: oid for oid, ref in _pairs(self.repository.git("for-each-ref", form, "--", OWN, *theirs), " ")}


def open_remote(repository: Repository, name: str | None) -> Remote | None:
    """Return the remote of that name, None if it is not configured. Raise UsageError for one that cannot be used."""
    if name is None:
        return None
    if not REMOTE_NAME.fullmatch(name):
        raise UsageError(f"remote: '{name}' is not the name of a remote")
    urls, push_urls = (_configured(repository, f"remote.{name}.{each}") for each in ("url", "pushurl"))
    if max(len(urls), len(push_urls)) > 1:
        raise UsageError(f"remote: '{name}' has several addresses; the refs of several cannot move as one")
    return Remote(repository, name) if urls else None


def addresses(repository: Repository, name: str) -> list[str]:
    """Return the addresses that are configured for a remote, none if there is no such remote."""
    return _configured(repository, f"remote.{name}.url") if REMOTE_NAME.fullmatch(name) else []


def misnamed(repository: Repository, name: str | None) -> tuple[str, str] | None:
    """Return what is wrong and what would be right where settings name a remote that is not configured while others
    are; None where that is not so. Whoever has none at all works alone, and has to say nothing for it."""
    if name in (None, DEFAULT):
        return None
    there = _names(repository)
    if not there or name in there:
        return None
    import difflib

    close = difflib.get_close_matches(str(name)[:100], there[:200], n=1)
    cure = f"did you mean '{close[0]}'?" if close else f"git remote add {name} URL; configured: {', '.join(there[:5])}"
    return f"no remote '{name}' is configured here, so the local branch counts", cure


def _names(repository: Repository) -> list[str]:
    """Return the names of the remotes that have an address."""
    try:
        keys = repository.git("config", "-z", "--name-only", "--get-regexp", r"^remote\..*\.url$").split("\0")[:-1]
    except GitFailed as error:
        if error.exit_status == 1:  # git config: no such key
            return []
        raise
    return sorted({each.removeprefix("remote.").removesuffix(".url") for each in keys})


def _configured(repository: Repository, key: str) -> list[str]:
    try:
        return repository.git("config", "-z", "--get-all", key).split("\0")[:-1]
    except GitFailed as error:
        if error.exit_status == 1:  # git config: no such key
            return []
        raise


def _pairs(text: str, separator: str) -> Iterator[tuple[str, str]]:
    for line in text.split("\n"):  # not at what else ends a line: a name of a ref may hold that
        first, _, second = line.partition(separator)
        yield first, second


def _there(kept: Mapping[str, str], branches: Sequence[str]) -> dict[str, str]:
    """Return what we keep under the names it has at the remote: all that is shared, and of the branches these."""
    found: dict[str, str] = {}
    for there, here in SPACES.items():
        names = {ref.removeprefix(here): oid for ref, oid in kept.items() if ref.startswith(here)}
        found |= {f"{there}{name}": oid for name, oid in names.items() if there != HEADS or name in branches}
    return found


def _bytes(path: Path) -> int:
    found = DISK.look(path)
    return found.bytes if found is not None else 0


def _moves(branches: Sequence[str]) -> tuple[str, ...]:
    """Return what says to git where branches of the remote are kept here."""
    return tuple(f"+{HEADS}{each}:{SPACES[HEADS]}{each}" for each in branches)


def _collide(one: str, other: str) -> bool:
    """Return whether one name of a ref is a directory of the other."""
    return one.startswith(f"{other}/") or other.startswith(f"{one}/")


# ------------------------------------------------------------------------------------------------ the answer to a push


@frozen(kw_only=False)
class Told:
    """What git tells of one ref: a flag, a summary, and the reason of whoever did not want it."""

    flag: str
    summary: str

    @property
    def reason(self) -> str:
        return self.summary.partition("(")[2].removesuffix(")")

    @property
    def is_applied(self) -> bool:
        return self.flag in (" ", "+", "*", "-")

    @property
    def is_unclear(self) -> bool:
        return not self.is_applied and self.flag != "=" and "rejected]" not in self.summary

    def is_refused(self, stubborn: bool) -> bool:
        from_there = "[remote rejected]" in self.summary
        return "rejected]" in self.summary and (not MOVED.search(self.reason) or (stubborn and from_there))


def _told(answer: str) -> dict[str, Told]:
    """Return ref -> what git tells of it, of the lines `<flag> TAB <from>:<to> TAB <summary> (<reason>)`."""
    lines = [line.split("\t", 2) for line in answer.split("\n")]
    return {each[1].rpartition(":")[2]: Told(each[0], each[2]) for each in lines if len(each) == 3}


def _verdict(refs: Sequence[str], atomic: bool, told: Mapping[str, Told], errors: str) -> frozenset[str]:
    """Return which refs were rejected. Raise PushRefused, or PushUnclear if the answer does not say it of all."""
    if any(ref not in told or told[ref].is_unclear for ref in refs):
        raise PushUnclear(f"git push: {_line(errors) or 'the remote did not answer for every ref'}")
    stubborn = STUBBORN.search(errors)
    refused = {ref: told[ref].reason for ref in refs if told[ref].is_refused(stubborn is not None)}
    rejected = frozenset(ref for ref in refs if ref not in refused and not told[ref].is_applied)
    if refused:
        ref, reason = next(iter(refused.items()))
        more = _line(stubborn[0] if stubborn else _remote_words(errors))
        sentence = _line(f"git push: {ref}: {reason}" + (f"; {more}" if more else ""))
        raise PushRefused(sentence, refused=frozenset(refused), rejected=rejected)
    if atomic and rejected and len(rejected) < len(refs):
        # Git leaves a ref that is where it shall go out of the transaction, though it was not where it must be.
        if any(told[ref].is_applied for ref in refs):
            raise PushUnclear("git push: a part of the refs had been moved before")
        return frozenset(refs)
    return rejected


def _unanswered(error: GitFailed) -> NoAtomicPush | PushRefused | PushUnclear:
    """Return what a push means that ended without a word on any ref."""
    if "does not support --atomic push" in error.stderr:
        return NoAtomicPush("git push: the remote does not support atomic pushes")
    denied = DENIED.search(error.stderr)
    if denied:
        return PushRefused(f"git push: {_line(denied[0])}")
    return PushUnclear(_line(str(error)))


def _remote_words(errors: str) -> str:
    """Return the first words of the server, or of its hooks."""
    words = [line.removeprefix("remote:").strip() for line in errors.splitlines() if line.startswith("remote:")]
    return " ".join(list(filter(None, words))[:3])


def _line(text: str) -> str:
    """Return a text of the remote as one line for people."""
    words = "".join(each if each.isprintable() else " " for each in git.without_credentials(text)).split()
    line = " ".join(words)
    return line if len(line) <= REASON_CHARACTERS_MAX else f"{line[: REASON_CHARACTERS_MAX - 3]}..."


# ------------------------------------------------------------------------------------------------ notes


def write_notes(repository: Repository, messages: Sequence[bytes], identity: str, epoch_s: int) -> tuple[str, ...]:
    """Write each message as a commit of its own, with no parent and no file, and return their ids in order.

    No ref leads to them, and no garbage collection takes them: they are there to be pushed at once. Equal messages of
    one second are one note.
    """
    if any(len(each) > NOTE_BYTES_MAX for each in messages):
        raise ValueError(f"a note is larger than {NOTE_BYTES_MAX} bytes")
    if not messages:
        return ()
    stream = b"".join(_note(number, each, identity, epoch_s) for number, each in enumerate(messages, 1))
    feed = b"feature done\n%sreset %s\ndone\n" % (stream, NOTE_REF.encode())
    oids = tuple(repository.import_objects(feed).split())
    if len(oids) != len(messages) or not all(map(OID.fullmatch, oids)):
        raise GitFailed(f"git fast-import: {len(oids)} answers to {len(messages)} notes")
    return oids


def _note(number: int, message: bytes, identity: str, epoch_s: int) -> bytes:
    """Return the part of a fast-import stream that makes a note; `reset` sees to it that it has no parent."""
    head = f"reset {NOTE_REF}\ncommit {NOTE_REF}\nmark :{number}\ncommitter {identity} {epoch_s} +0000\n"
    return b"%sdata %d\n%s\nget-mark :%d\n" % (head.encode(), len(message), message, number)


def read_notes(repository: Repository, oids: Sequence[str]) -> Mapping[str, bytes]:
    """Return the message of each commit, leaving out what is missing, too large, or no commit."""
    found = {}
    for oid, data in repository.objects.contents(oids, "commit"):
        _, separator, message = (data or b"").partition(b"\n\n")
        if separator and len(message) <= NOTE_BYTES_MAX:
            found[oid] = message
    return found


# ------------------------------------------------------------------------------------------------ a clone to work in

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\x00-\x1f]+")
SCP_LIKE = re.compile(r"([^\s:/@\x00-\x1f-][^\s:/@\x00-\x1f]*@)?(\[[0-9A-Fa-f:.]+\]|[\w][\w.-]*):(?!:)[^\s\x00-\x1f]+")


def address_of(repository: Repository, name: str) -> str:
    """Return where a remote is, without credentials, "" if it is not configured."""
    urls = _configured(repository, f"remote.{name}.url")
    return git.without_credentials(urls[0]) if urls else ""


def is_url(text: str) -> bool:
    """Return whether a text is the address of a repository elsewhere: `scheme://...` or `[user@]host:path`."""
    if URL.fullmatch(text):
        return True
    return SCP_LIKE.fullmatch(text) is not None and not os.path.isdir(text)


def clone_of(url: str, root: Path) -> Path:
    """Return the bare repository below `root` whose `origin` is `url`, made on first use. It holds no commit until
    something is fetched. Raise UsageError if the address does not answer."""
    name = re.sub(r"[^\w.-]", "-", re.split(r"[/:]", url.rstrip("/"))[-1].removesuffix(".git"), flags=re.ASCII)
    directory = root / f"{name[:60].lstrip('.-') or 'repository'}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    if directory.is_dir():
        return directory
    if not is_url(url):
        raise UsageError(f"{url}: not the address of a repository")
    root.mkdir(parents=True, exist_ok=True)
    branch, length = _head_of(url, root)
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=root))
    try:
        kind = "sha256" if length == 64 else "sha1"
        git.run(("init", "--quiet", "--bare", "--template=", f"--object-format={kind}"), directory=staging)
        git.run(("remote", "add", "--", "origin", url), directory=staging)
        git.run(("symbolic-ref", "HEAD", branch), directory=staging)
        _publish(staging, directory)
    finally:
        DISK.remove_tree(staging)
    return directory


def _head_of(url: str, root: Path) -> tuple[str, int]:
    """Return the branch that HEAD of a remote names, and how long its object ids are."""
    asked = ("ls-remote", "--symref", "--end-of-options", url, "HEAD")
    try:
        answer = git.run(asked, directory=root, timeout_s=NETWORK_TIMEOUT_S).decode(errors="surrogateescape")
    except GitFailed as error:
        said = error.stderr.strip().splitlines() or [str(error)]
        raise UsageError(f"{git.without_credentials(url)}: cannot be reached; git says: {_line(said[0])}") from None
    branch, length = f"{HEADS}main", 40
    for first, ref in _pairs(answer, "\t"):
        if ref == "HEAD" and first.startswith(f"ref: {HEADS}"):
            branch = first.removeprefix("ref: ")
        elif ref == "HEAD" and OID.fullmatch(first):
            length = len(first)
    return branch, length


def _publish(staging: Path, directory: Path) -> None:
    """Let a clone appear, whole, unless another process was faster."""
    for name in ("HEAD", "config"):
        with open(staging / name, "rb") as file:
            os.fsync(file.fileno())
    with contextlib.suppress(OSError):
        staging.rename(directory)
    if not directory.is_dir():
        raise UsageError(f"{directory}: cannot be made")
