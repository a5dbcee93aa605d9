"""The courier, `python -m reconciler.executors.courier --url URL --ref REF`: what an engine executes for one attempt.

It fetches the order by git, lays the run directory down, executes the ordinary worker on it, says words while that
lives and hands back what became of it, all by moving one ref. It needs the repository and nothing else.

- Who said the first word executes; whoever comes second does not. The first word is pushed before the worker starts.
- A ref that somebody else moved, or that is gone, means that this attempt is fenced: the worker is ended, and nothing
  is kept.
- A remote that does not answer stops nothing: the attempt goes on, and its end is handed back when that is possible
  again.
- The worker dies with its courier (Linux), so that nothing goes on that nobody could hear or fence.

The key by which words are believed comes in the environment and is taken out of it, and out of what the kernel shows of
it, before anything else happens. So does a token for the remote, where the host gives one; one that is renewed is read
from a file for every call of git, and whoever could say it is told first not to.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import random
import re
import secrets
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from reconciler import codec, ear, process, worker
from reconciler.confided import confide, confided
from reconciler.disk import DISK
from reconciler.errors import REFUSALS, ContentError, GitFailed, ReconcilerError, TransientError, UsageError
from reconciler.executors import changes, clone, handback, ordering
from reconciler.executors.clone import NoRef
from reconciler.executors.echo import Echo
from reconciler.executors.entrusted import FILE_VARIABLE, Entrusted
from reconciler.executors.voice import Fenced, Voice
from reconciler.model import Attempt, Claim, Outcome, Plan, Process, Workspace
from reconciler.redact import secret_values
from reconciler.remote import OID, Remote
from reconciler.rundir import RunDirectory
from reconciler.scrub import scrubbed_text
from reconciler.values import frozen
from reconciler.work import (
    CREDENTIAL_VARIABLE,
    HANDLE,
    KEY_VARIABLE,
    RUN,
    WorkOrder,
    handle_of,
    of_ref,
    repository_of,
)

T = TypeVar("T")
Hidden = Sequence[bytes]

FENCED_STATUS = 77
"""What the courier exits with when its attempt is not its own (any more)."""
AWAY_STATUS = 75
PATIENCE_S = 86_400.0
START_PATIENCE_S = 600.0
"""How long the order is asked for. Later the host makes another attempt anyway."""
PAUSE_S, PAUSE_MAX_S = 0.5, 60.0
SAY_S = 3.0
"""A change is told at once, but not more often than this."""
SILENT_BEATS, SILENT_S = 3, 5.0
"""Somebody who says nothing for so many beats and seconds is taken for gone: a push may take its time."""
MARGIN_S = 2.0
"""What a worker that was told to stop gets beyond the grace of its stages."""
PR_SET_PDEATHSIG = 1
CARD = "courier.json"
"""What of a word says which courier said it. It is no part of the run directory."""
INCARNATION = re.compile(r"[0-9a-f]{16}")
LEFTOVER_S = 7 * 86_400.0
"""What a courier that was KILLed left is removed by others after so long: nobody waits for it any more."""
LEFTOVERS_MAX = 1000
LOCK_PATIENCE_S = 2.0
"""How long what a dead courier started may take to be dead as well."""
TOKEN_LOOK_S = 1.0
"""How often it is looked whether there is a new token while nothing else is done."""
KEY = re.compile(r"[A-Za-z0-9_-]{20,200}")
PATIENCE = re.compile(r"(?P<number>\d{1,9}(\.\d{1,3})?)(?P<unit>s|m|h|d)?")
UNITS_S = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
STARTED_AGAIN = "the engine started it again"
NEVER_SAID = "the worker ended without a record of its end"
NO_CHECKOUT = "workspace 'checkout' is a person's own directory and is only here; use 'worktree' or 'empty' elsewhere"


class ToldToStop(Exception):
    """The courier was told to end, and there is nothing more that it could hand back."""


@frozen
class Errand:
    """What a courier is told: where the repository is, the ref of the attempt and the order that it shall be at (""
    for any), the directory that it may use, for how long it tries to hand back, and what it reaches the repository
    with."""

    url: str
    ref: str
    order: str
    scratch: Path
    patience_s: float
    key: str
    entrusted: Entrusted = Entrusted()

    @property
    def handle(self) -> str:
        run_id, number = of_ref(self.ref) or ("", 0)
        return handle_of(repository_of(self.url), run_id, number)


# ------------------------------------------------------------------------------------------------ being told


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status: 0 handed back, 1 the order is none, 2 misused,
    75 the remote cannot be reached, 77 the attempt belongs to somebody else by now."""
    try:
        key = take_secret(KEY_VARIABLE)
        entrusted = Entrusted(value=take_secret(CREDENTIAL_VARIABLE), path=take_secret(FILE_VARIABLE))
        for name in [each for each in os.environ if each.startswith("GIT_")]:
            os.environ[name] = take_secret(name)
        said = errand(sys.argv[1:] if arguments is None else arguments, key)
        with Courier(replace(said, entrusted=entrusted)) as courier:
            return courier.run()
    except (Fenced, NoRef):
        return say(FENCED_STATUS, "this attempt is not ours: its ref was moved by somebody else, or is gone")
    except ToldToStop:
        return say(AWAY_STATUS, "told to stop, and nothing could be handed back")
    except ReconcilerError as error:
        return say(error.exit_code, str(error))
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        return say(AWAY_STATUS, f"{error.filename or 'the system'}: {error.strerror}")


def say(status: int, sentence: str) -> int:
    """Tell in one line what happened; a server may have answered with the token that it was told."""
    print(f"reconciler courier: {scrubbed_text(' '.join(sentence.split()), confided())}", file=sys.stderr)
    return status


def take_secret(name: str) -> str:
    """Take a variable out of the environment and return it, "" if it is not there; what the kernel shows of the first
    environment of this process is overwritten."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    at, value = libc.getenv(os.fsencode(name)), os.environ.get(name, "")
    if at and value:
        ctypes.memset(at, 0, len(os.fsencode(value)))
    os.environ.pop(name, None)
    return value


def errand(arguments: Sequence[str], key: str) -> Errand:
    """Return what the command line asks for. Raise UsageError if that cannot be."""
    said = _parser().parse_args(list(arguments))
    if of_ref(said.ref) is None:
        raise UsageError(f"--ref: '{said.ref}' is not the ref of an attempt; refs/reconciler/work/<run-id>/<number> is")
    if not KEY.fullmatch(key):
        raise UsageError(f"{KEY_VARIABLE}: not set to a key; the engine hands it to the attempt as a secret")
    found = PATIENCE.fullmatch(said.patience)
    if found is None:
        raise UsageError(f"--patience: '{said.patience}' is no duration; 90s, 10m, 2h and 1d are")
    patience_s = float(found["number"]) * UNITS_S[found["unit"]]
    ahead = [str(Path(each).resolve()) for each in said.program_path]
    os.environ["PATH"] = os.pathsep.join([*ahead, os.environ.get("PATH", os.defpath)])
    if said.order and not OID.fullmatch(said.order):
        raise UsageError(f"--order: '{said.order}' is not the id of a commit; give all of its hex digits")
    scratch = Path(said.scratch).resolve()
    return Errand(url=said.url, ref=said.ref, order=said.order, scratch=scratch, patience_s=patience_s, key=key)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reconciler.executors.courier",
        description="Execute one attempt that a host has placed at an engine, and hand back what became of it.",
        epilog=f"The key of the attempt is expected in {KEY_VARIABLE}, and a token for the repository may be in "
        f"{CREDENTIAL_VARIABLE}, or in the file that {FILE_VARIABLE} names. Example: "
        "--url https://git.example.com/a/b.git --ref refs/reconciler/work/nightly-1a2b3c4d/1 --scratch /scratch",
        allow_abbrev=False,
    )
    parser.add_argument("--url", required=True, help="the repository: a URL, or the path of a git directory")
    parser.add_argument("--ref", required=True, help="the ref of the attempt")
    parser.add_argument("--order", default="", help="the commit of the order; another order is not carried out")
    default = os.path.join(tempfile.gettempdir(), f"reconciler-{os.getuid()}")
    parser.add_argument("--scratch", default=default, help=f"where to work (default: {default})")
    parser.add_argument("--patience", default="1d", help="how long to try to hand back (default: 1d)")
    parser.add_argument(
        "--program-path", action="append", default=[], help="a directory of programs, looked in first; may be repeated"
    )
    return parser


# ------------------------------------------------------------------------------------------------ the errand


class Courier:
    """One errand from the order to the last word. It owns a directory of its own, which it holds locked."""

    def __init__(self, errand: Errand) -> None:
        self.errand = errand
        self.incarnation = secrets.token_hex(8)
        self.place = errand.scratch / f"{errand.handle}.{self.incarnation}"
        self.told = False
        self.worker: Process | None = None
        self.keeps = False
        self.held: int | None = None
        self.objects: Callable[[], None] = lambda: None
        self.secrets = secret_values({**os.environ, "KEY_SECRET": errand.key, "URL": errand.url})
        self.login = errand.entrusted.login(errand.url, self._hide)
        self.echo: Echo | None = None
        self.tokens: dict[str, bool] = {}
        """What the repository was reached with so far, and whether the worker knows that it must not say it."""

    def __enter__(self) -> Courier:
        self._listen()
        DISK.make_directory(self.errand.scratch)
        if self.errand.scratch.stat().st_uid not in (0, os.getuid()):
            raise UsageError(f"--scratch: {self.errand.scratch} belongs to somebody else; name a directory of your own")
        self.place.mkdir(mode=0o700)
        self.held = DISK.take_lock(self.place / "held")
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind, unless there is something that could not be handed back."""
        self.objects()
        if not self.keeps:
            self.errand.entrusted.let_go()
            DISK.remove_tree(self.place)
        if self.held is not None:
            DISK.let_go(self.held)

    def run(self) -> int:
        """Execute the attempt, or hand back what became of it, and return the exit status."""
        remote = self._patiently(
            lambda: clone.open_clone(self.errand.url, self.errand.ref, self.place / "git", self.login)
        )
        self.objects = remote.repository.objects.close
        oid = self._patiently(lambda: clone.bring(remote, self.errand.ref, 1))
        if remote.repository.look_up([f"{oid}:{ordering.ORDER}"])[0] is None:
            return self._find_it_begun(remote)
        order = self._order(remote, oid)
        voice = Voice(remote, self.errand.ref, oid, order, oid, self.errand.key)
        directory = RunDirectory(self.place / "run")
        self._remove_leftovers()
        ordering.lay_down(remote.repository, oid, order, directory)
        plan = _plan_of(directory, order.number)
        if problem := self._prepare(remote, order, plan, directory):
            handback.mend(directory, order.number, *problem)
            return self._hand_back(voice, directory, plan)
        self._patiently(lambda: voice.say(self._with_card({})))
        return self._execute(voice, directory, plan)

    def _order(self, remote: Remote, oid: str) -> WorkOrder:
        """Return the order that a commit is. Raise ContentError if it is not one of this ref, Fenced if it is another
        one than this courier was started for."""
        if self.errand.order not in ("", oid):
            raise Fenced(self.errand.ref)
        order = ordering.read_order(remote.repository, oid)
        if (order.run_id, order.number) != of_ref(self.errand.ref):
            raise ContentError(f"{self.errand.ref}: the order there is for another attempt")
        return order

    def _prepare(
        self, remote: Remote, order: WorkOrder, plan: Plan, directory: RunDirectory
    ) -> tuple[Outcome, str] | None:
        """Make the place where stages work; return how the attempt ends where that cannot be."""
        if plan.workspace == Workspace.CHECKOUT:
            return Outcome.FAILED, NO_CHECKOUT
        depth = order.depth + 1 if order.depth else 0
        self._patiently(lambda: clone.bring(remote, self.errand.ref, depth))
        try:
            clone.name_branch(remote.repository, plan.branch, order.commit)
            if plan.workspace == Workspace.WORKTREE:
                remote.repository.add_worktree(directory.workspace, order.commit)
                DISK.write_atomic(directory.path / "workspace.json", codec.render({"commit": order.commit}))
            else:
                DISK.make_directory(directory.workspace, sync=False)
            claim = directory.read(Claim, directory.record("claims", order.number))
            if (change := changes.carried(directory, claim) if claim is not None else None) is not None:
                changes.lay_over(remote.repository, directory, plan, change)
        except (GitFailed, OSError) as error:
            return Outcome.INTERRUPTED, f"attempt {order.number} could not be started: {error}"
        return None

    # -------------------------------------------------------------------------------------------- the attempt

    def _execute(self, voice: Voice, directory: RunDirectory, plan: Plan) -> int:
        """Run the worker and say what becomes of it; return the exit status."""
        voice.remote.repository.objects.close()
        pid = self._fork(directory, voice.order)
        self.echo = echo = Echo(directory, plan, voice.order.number, self.secrets)
        echo.start()
        try:
            self._accompany(voice, directory, plan)
        except Fenced:
            self._fence(directory, plan.grace_s)
            raise
        finally:
            echo.end()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.worker = None  # or every pause from now on would be over at once
        self._end_what_is_left(directory)
        said = handback.last_words(directory, self.secrets)
        detail = f"{NEVER_SAID} (status {status})" + (f": {said}" if said else "")
        handback.mend(directory, voice.order.number, Outcome.INTERRUPTED, detail)
        return self._hand_back(voice, directory, plan)

    def _fork(self, directory: RunDirectory, order: WorkOrder) -> int:
        """Start the worker in a session of its own; what is sent to it until it can listen ends it."""
        me = os.getpid()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                _become_worker(me, blocked, self.place / "git", directory, order, self.secrets)
                status = 0
            finally:
                os._exit(status)
        self.worker = process.identify(pid)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if self.told:
            self._pass_on()
        return pid

    def _accompany(self, voice: Voice, directory: RunDirectory, plan: Plan) -> None:
        """Say words until the worker has ended. Raise Fenced if nobody may hear them any more."""
        shown: object = None
        said_s, failed, deadline_s = time.monotonic(), 0, float("inf")
        while self.worker is not None and process.is_alive(self.worker):
            failed = 0 if self._has_new_token() else failed
            now_s = time.monotonic()
            deadline_s = min(deadline_s, now_s + plan.grace_s + MARGIN_S) if self.told else deadline_s
            if now_s >= deadline_s:
                self._fence(directory, 0.0)
            shows = _shown(handback.record_of(directory, voice.order.number))
            wait_s = _pause_s(failed) if failed else min(SAY_S, voice.order.beat_s)
            due_s = said_s + (wait_s if failed or shows != shown else voice.order.beat_s)
            if now_s < due_s:
                self._sleep(min(due_s - now_s, 0.2 if self.told else min(SAY_S, 1.0, voice.order.beat_s)))
                continue
            try:
                voice.say(self._with_card(handback.standing(directory, voice.order)))
                shown, failed = shows, 0
            except (TransientError, OSError):
                failed += 1
            said_s = time.monotonic()

    def _hand_back(self, voice: Voice, directory: RunDirectory, plan: Plan) -> int:
        """Say the last word until it is heard, and return the exit status."""
        self.keeps = True
        attempt = handback.record_of(directory, voice.order.number)
        outcome = attempt.outcome.value if attempt is not None and attempt.outcome is not None else "no record"
        name = f"attempt {voice.order.number} of {voice.order.run_id}: {outcome}"
        try:
            self._say_last(voice, directory, plan)
        except Fenced:
            self.keeps = False
            raise
        except (ToldToStop, TransientError) as error:
            why = str(error) or "told to stop"
            return say(
                AWAY_STATUS, f"{name}, and that could not be handed back; it is kept in {directory.path.parent}: {why}"
            )
        self.keeps = False
        return say(0, f"{name}, handed back")

    def _say_last(self, voice: Voice, directory: RunDirectory, plan: Plan) -> None:
        change, beside = self._change(voice, directory, plan)
        files = self._with_card({**handback.everything(directory, voice.order, plan), **change})
        first = self.told  # who was told to stop before has one try, and who is told meanwhile another one

        def speak() -> None:
            voice.say(files, ended=True, beside=beside)

        if first:
            return speak()
        try:
            self._patiently(speak, self.errand.patience_s)
        except ToldToStop:
            speak()

    def _change(self, voice: Voice, directory: RunDirectory, plan: Plan) -> tuple[changes.Told, tuple[str, ...]]:
        """Return what is told of what the attempt made of its workspace, and the commit that carries it."""
        order, attempt = voice.order, handback.record_of(directory, voice.order.number)
        if attempt is None or not changes.is_wanted(plan, attempt.outcome):
            return {}, ()
        repository = voice.remote.repository
        if repository.look_up([f"{order.commit}^{{tree}}"])[0] is None:  # begun by another courier
            with contextlib.suppress(ToldToStop, TransientError):
                self._patiently(lambda: clone.bring(voice.remote, self.errand.ref, 0), self.errand.patience_s)
        return changes.pack(repository, directory, plan, attempt, bytes_max=order.bytes_max, hidden=self.secrets)

    def _with_card(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return the files of a word, with who says it: no two couriers say the same."""
        card = {"incarnation": self.incarnation, "host": os.uname().nodename, "pid": os.getpid()}
        return {**files, CARD: codec.render(card)}

    # -------------------------------------------------------------------------------------------- the token

    def _has_new_token(self) -> bool:
        """Return whether there is a token that was not there before; a stage that finds it cannot say it then."""
        known = len(self.tokens)
        if self.errand.entrusted.is_there:
            with contextlib.suppress(TransientError):
                self._hide(self.errand.entrusted.token())
        return len(self.tokens) > known

    def _hide(self, token: str) -> None:
        """Let nobody here say a token: this process, what it tells of logs, its worker."""
        if token not in self.tokens:
            confide(token)
            self.tokens[token] = False
            self.secrets = tuple(dict.fromkeys((*self.secrets, *confided())))
            if self.echo is not None:
                self.echo.learn(confided())
        if self.worker is not None and not all(self.tokens.values()):
            self.tokens = {each: told or ear.tell(self.worker, each) for each, told in self.tokens.items()}

    # -------------------------------------------------------------------------------------------- begun before

    def _find_it_begun(self, remote: Remote) -> int:
        """Hand back an attempt that another courier began, unless that one lives or has said how it ended."""
        oid = self._patiently(lambda: clone.bring(remote, self.errand.ref, 2))
        word = ordering.read_word(remote.repository, oid, self.errand.key)
        if word is None:
            raise ContentError(f"{self.errand.ref}: neither an order nor a word of this attempt")
        if word.ended:
            self._remove_leftovers()
            return say(0, f"attempt {word.number} of {word.run_id} has ended already; there is nothing to do")
        first = remote.repository.parent(oid) or ""
        order = self._order(remote, first)
        directory = self._left_by(_incarnation(remote, oid))
        if directory is None:
            self._ask_to_be_silent(remote, oid, order.beat_s)
            directory = RunDirectory(self.place / "run")
            ordering.lay_down(remote.repository, first, order, directory)
            plan = _plan_of(directory, order.number)
            ordering.bring_home(remote.repository, word, directory, plan, bytes_max=order.bytes_max)
        self._end_what_is_left(directory)
        handback.mend(directory, order.number, Outcome.INTERRUPTED, STARTED_AGAIN)
        voice = Voice(remote, self.errand.ref, first, order, oid, self.errand.key)
        voice.beat = word.beat
        status = self._hand_back(voice, directory, _plan_of(directory, order.number))
        if status == 0:
            self._remove_leftovers()
        return status

    def _ask_to_be_silent(self, remote: Remote, oid: str, beat_s: float) -> None:
        """Return when whoever said a word says no more. Raise Fenced if he lives: then the attempt is his."""
        until_s = time.monotonic() + SILENT_BEATS * beat_s + SILENT_S
        while time.monotonic() < until_s:
            self._sleep(max(0.05, min(beat_s / 2, until_s - time.monotonic())))
            if self.told:
                raise ToldToStop
            there = self._patiently(lambda: remote.look([self.errand.ref])).get(self.errand.ref)
            if there != oid:
                raise Fenced(self.errand.ref)

    def _left_by(self, incarnation: str) -> RunDirectory | None:
        """Return the run directory of an earlier courier that is dead, None if it is not here. Raise Fenced if that
        one lives."""
        place = self.errand.scratch / f"{self.errand.handle}.{incarnation}"
        if not incarnation or not (place / "run" / "claims").is_dir():
            return None
        handle = DISK.wait_for(lambda: DISK.take_lock(place / "held"), LOCK_PATIENCE_S)
        if handle is None:
            raise Fenced(self.errand.ref)
        DISK.let_go(handle)
        return RunDirectory(place / "run")

    def _remove_leftovers(self) -> None:
        """Remove the directories of dead couriers that are of no use any more: of this attempt, of earlier ones of its
        run, and of any that ended long ago."""
        for name in DISK.names(self.errand.scratch)[:LEFTOVERS_MAX]:
            place = self.errand.scratch / name
            if place != self.place and _is_of_no_use(name, place, self.errand.handle):
                handle = DISK.take_lock(place / "held")
                if handle is not None:
                    DISK.remove_tree(place)
                    DISK.let_go(handle)

    # -------------------------------------------------------------------------------------------- ending

    def _fence(self, directory: RunDirectory, grace_s: float) -> None:
        """Make sure that nothing of the attempt runs any more: TERM, grace, KILL."""
        process.fence([process.Target(worker=self.worker, leaders=(), lock=directory.lock, grace_s=grace_s)])

    def _end_what_is_left(self, directory: RunDirectory) -> None:
        """KILL whatever still holds the lock of an attempt whose worker is gone."""
        if DISK.exists(directory.lock):
            process.fence([process.Target(worker=None, leaders=(), lock=directory.lock, grace_s=0.0)])

    def _listen(self) -> None:
        """Turn signals into a readable descriptor, so that every wait wakes for them."""
        self.woken, waking = socket.socketpair()
        self.waking = waking
        for each in (self.woken, waking):
            each.setblocking(False)
        signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)

    def _on_stop(self, *_: object) -> None:
        self.told = True
        self._pass_on()

    def _pass_on(self) -> None:
        if self.worker is not None:
            process.send(self.worker, signal.SIGTERM)

    def _sleep(self, seconds: float) -> None:
        """Wait until the worker ends, a signal comes or the time is over."""
        process.wait_any([self.worker] if self.worker is not None else [], seconds, [self.woken.fileno()])
        with contextlib.suppress(BlockingIOError):
            while self.woken.recv(4096):
                pass

    def _patiently(self, ask: Callable[[], T], patience_s: float = START_PATIENCE_S) -> T:
        """Return what is asked of the remote, again and again with growing pauses until patience is at its end. Raise
        ToldToStop if the courier is told to end meanwhile."""
        deadline_s = time.monotonic() + min(patience_s, self.errand.patience_s)
        for failed in itertools.count():
            if self.told:
                raise ToldToStop
            try:
                return ask()
            except TransientError as error:
                if time.monotonic() >= deadline_s:
                    raise
                if failed == 0:
                    say(0, f"waits for the remote: {error}")  # who looks at the node sees why nothing happens
            self._rest(min(_pause_s(failed), max(0.0, deadline_s - time.monotonic())))
        raise AssertionError

    def _rest(self, seconds: float) -> None:
        """Wait, at most until the courier is told to end or there is a new token."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0 and not self.told and not self._has_new_token():
            self._sleep(min(left_s, TOKEN_LOOK_S) if self.errand.entrusted.path else left_s)


# ------------------------------------------------------------------------------------------------ small parts


def _become_worker(
    courier: int,
    mask: set[int | signal.Signals],
    checkout: Path,
    directory: RunDirectory,
    order: WorkOrder,
    hidden: Hidden,
) -> None:
    """Execute the attempt in this process, which was forked for it."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    _die_with(courier)
    kept = process.worker_environment(os.environ)
    for name in os.environ.keys() - kept.keys():
        del os.environ[name]
    try:
        _be_silent(directory)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        worker.run_attempt(directory, order.number, checkout, order.plan_sha256, hidden)
    except BaseException:
        traceback.print_exc()
        raise


def _die_with(courier: int) -> None:
    """Have the kernel KILL this process when its courier ends (Linux): its guard then ends the stages."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != courier:
        os._exit(70)


def _be_silent(directory: RunDirectory) -> None:
    """Let only a crash be heard, in `worker.err`."""
    silent = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    said = os.open(directory.path / "worker.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for source, stream in ((silent, 0), (silent, 1), (said, 2)):
        os.dup2(source, stream)


def _is_of_no_use(name: str, place: Path, handle: str) -> bool:
    """Return whether a directory in the scratch is that of a courier whose attempt is over, or has been for long."""
    theirs, ours = HANDLE.fullmatch(name.rpartition(".")[0]), HANDLE.fullmatch(handle)
    found = DISK.look(place)
    if theirs is None or ours is None or found is None or not found.is_directory:
        return False
    same_run = all(theirs[each] == ours[each] for each in ("slug", "repository", "run"))
    is_old = time.time() - found.changed_ns / 1e9 > LEFTOVER_S
    return is_old or (same_run and int(theirs["number"]) <= int(ours["number"]))


def _plan_of(directory: RunDirectory, number: int) -> Plan:
    """Return the plan of an attempt whose run directory was laid down."""
    claim = directory.read(Claim, directory.record("claims", number))
    plan = directory.plan(claim)
    if plan is None:
        raise ContentError(f"{directory.path}: there is no plan")
    return plan


def _incarnation(remote: Remote, oid: str) -> str:
    """Return which courier said a word, "" if it does not say so."""
    [blob] = remote.repository.look_up([f"{oid}:{RUN}{CARD}"])
    [(_, data)] = remote.repository.objects.contents([blob], "blob") if blob is not None else [("", None)]
    with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError):
        said = str(json.loads(data or b"")["incarnation"])
        return said if INCARNATION.fullmatch(said) else ""
    return ""


def _shown(attempt: Attempt | None) -> Attempt | None:
    """Return what of a record is worth a word: not how long it has been going on."""
    return None if attempt is None else replace(attempt, elapsed_s=0.0)


def _pause_s(failed: int) -> float:
    """Return how long to wait after so many failures, in seconds: longer each time, and never all at once."""
    return float(min(PAUSE_MAX_S, PAUSE_S * 2 ** min(failed, 10)) * (0.5 + random.random()))  # noqa: S311  spreads retries


if __name__ == "__main__":
    sys.exit(main())
