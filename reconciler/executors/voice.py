"""How an attempt speaks: words that move its ref, each only from where the ref is known to be.

Nothing is guessed after a push that nobody answered: the remote is looked at, and if the ref is at a word of this very
attempt, the next word goes on from there. A ref that is elsewhere or gone has been taken from the attempt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import datetime

from reconciler import process
from reconciler.errors import GitFailed, PushUnclear
from reconciler.executors.ordering import make_word
from reconciler.model import Instant
from reconciler.remote import RefUpdate, Remote
from reconciler.work import Word, WorkOrder

TRIES = 3
PRUNED_EVERY = 500
"""After so many words those that nothing leads to are removed: an attempt may speak for days."""
SAID_MAX = 1000
"""So many words are remembered: what is delayed for longer than that many beats is not delivered any more."""


class Fenced(Exception):
    """The ref of an attempt was moved by somebody else, or deleted: whatever it says is not heard any more."""


class Voice:
    """The words of one courier about one attempt. `there` is where its ref was seen last."""

    def __init__(
        self,
        remote: Remote,
        ref: str,
        oid: str,
        order: WorkOrder,
        there: str,
        key: str,
        now: Callable[[], Instant] = process.instant,
    ) -> None:
        self.remote, self.ref, self.oid, self.order, self.there, self._key = remote, ref, oid, order, there, key
        self._now = now
        self.beat = 0
        self._said: dict[str, None] = {}

    def say(self, files: Mapping[str, bytes], *, ended: bool = False, beside: tuple[str, ...] = ()) -> None:
        """Say a word with files of the run directory, and commits that come with it. Raise Fenced if the ref is not
        this attempt's any more, TransientError if it cannot be said now; then it may have been heard all the same."""
        self.beat += 1
        at = self._now().at
        word = Word(
            run_id=self.order.run_id,
            number=self.order.number,
            beat=self.beat,
            at=at,
            ended=ended,
            tree="",
        )
        epoch_s = int(datetime.fromisoformat(at).timestamp())
        oid, _ = make_word(self.remote.repository, self.oid, word, files, self._key, epoch_s, beside)
        self._said[oid] = None
        if len(self._said) > SAID_MAX:
            del self._said[next(iter(self._said))]
        self._move(oid)
        self._tidy(oid)

    def _move(self, oid: str) -> None:
        """Move the ref to a word of ours."""
        for _ in range(TRIES):
            if self._pushed(oid):
                self.there = oid
                return
            now = self.remote.look([self.ref]).get(self.ref)
            if now is None or (now != self.there and now not in self._said):
                raise Fenced(self.ref)
            self.there = now
            if now == oid:
                return
        raise PushUnclear(f"{self.ref}: the remote took none of {TRIES} pushes")

    def _pushed(self, oid: str) -> bool:
        """Return whether the remote says that it moved the ref."""
        with contextlib.suppress(PushUnclear):
            return not self.remote.push([RefUpdate(ref=self.ref, old=self.there, new=oid)], atomic=False)
        return False

    def _tidy(self, oid: str) -> None:
        """Keep the newest word, and once in a while remove those before."""
        self.remote.repository.update_ref(self.ref, oid)
        if self.beat % PRUNED_EVERY == 0:
            with contextlib.suppress(GitFailed):
                self.remote.repository.git("prune", "--expire=now")
