"""When a pass asks the remote, and how it makes way for others: pauses that grow, with chance in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reconciler import namesakes
from reconciler.claims import ANNOUNCEMENTS_A_LEASE
from reconciler.conditions import set_condition
from reconciler.errors import ContentError, GitFailed, PushRefused, TransientError
from reconciler.host import name_host
from reconciler.model import host_ref
from reconciler.observe import Observer
from reconciler.world import World

BACKOFF_S, BACKOFF_MAX_S = 0.5, 60.0
"""How long the remote is left alone when it does not answer: about 1, 2, 4 ... 60 seconds."""
SPREAD_S, SPREAD_MAX_S = 0.05, 5.0
"""How long at most to wait after another host was faster: 0.1, 0.2 ... 5 seconds, times a random fraction."""
TURN_S, LOOK_S = 0.15, 0.03
"""How long one host needs at least to publish (fetch, commit, push), and how often to look whether it has."""
PACE_MAX_S, LOOKS_A_TURN, EARLY = 1.0, 5, 0.6
"""How long a turn is taken to be at most, how often during one the next in line looks, and which part of what the turns
before the last one are thought to take others sleep: who comes too late keeps everybody waiting."""
NEAR, MISSED = 4, 8
"""So few hosts are before this one when its turn is near; so many publications are worth a fetch of their own."""
TURNS_MAX_S = 30.0
"""How long at most to wait for the turns of others before all that a pass does is done again."""
FAILURES_MAX = 5
"""After so many failures in a row a command that has nothing of its own to bring home stops waiting for the remote."""


@dataclass(slots=True)
class Contact:
    """When to ask the remote, and how long to leave it alone after it did not answer.

    Evidence is retried without a limit; what grows is the pause, with jitter, so that many hosts do not come back at
    one instant.
    """

    world: World
    observer: Observer
    failures: int = 0
    refused: bool = False
    """Whether the last failure was a refusal: then the remote does answer, and that alone is no success."""
    trouble: str = ""
    """What is in the way of the remote, "" if nothing is known to be."""
    rejections: int = 0
    not_before_s: float = float("-inf")
    asked_for: bool = False
    """Whether somebody has heard that there is something new at the remote: then what is known is old."""
    began_s: float = float("-inf")
    """When the pass began that is under way, or the last one: so long takes a try to publish."""

    def ask_if_due(self) -> None:
        """Ask the remote if there is one, and if what is known of it is old or no longer true. A pass begins so."""
        hearing = self.observer.hearing
        if hearing is None:
            return
        name_host(self.world.disk, self.world.repository.state, self.world.machine, self.world.chance)
        self.began_s = now_s = self.world.now().monotonic_s
        asked_s = hearing.asked.monotonic_s if hearing.asked else float("-inf")
        if namesakes.strangers(self.world, hearing):
            self.observer.online = False  # nothing is decided by what another clone may have said in our name
        wanted = self.asked_for or (self.observer.afar is not None and self.observer.afar.wants_answer(hearing))
        fresh = not wanted and self.observer.online and now_s - asked_s < self.observer.settings.poll_interval_s
        if fresh or now_s < self.not_before_s:
            return
        try:
            self.observer.ask()
        except TransientError as error:
            self.lost(error)
            return
        self._say(namesakes.part(self.world, hearing), "host")
        self.not_before_s, self.asked_for = float("-inf"), False
        if not self.refused:
            self._well()

    def obeyed(self) -> None:
        """Note that the remote did what was asked of it, after it may have refused that before."""
        if self.refused:
            self._well()

    def _well(self) -> None:
        self.failures, self.refused, self.trouble = 0, False, ""
        self._say("")

    def lost(self, error: TransientError, *, refused: bool = False) -> None:
        """Note that the remote did not answer, or not clearly, or `refused` a push: it is left alone for a while."""
        self.observer.online = False
        self.failures += 1
        self.refused = refused or isinstance(error, PushRefused)
        if isinstance(error, GitFailed) and ".lock" in error.stderr:
            self.world.repository.clear_stale_locks()
        longest_s = min(BACKOFF_MAX_S, self.observer.settings.lease_s / ANNOUNCEMENTS_A_LEASE)
        pause_s = min(longest_s, BACKOFF_S * 2 ** min(self.failures, 16)) * (0.5 + self.world.chance.fraction())
        self.not_before_s = self.world.now().monotonic_s + pause_s
        tries = f"{self.failures} tries" if self.failures > 1 else "1 try"
        self.trouble = str(error)
        self._say(f"the remote cannot be used ({tries}, the next one after {pause_s:.1f} s): {error}")

    def landed(self) -> None:
        self.rejections = 0

    def spread(self, deadline_s: float = float("inf")) -> None:
        """Sleep after somebody else was faster, not beyond the deadline (monotonic seconds): until those have published
        whose turn is before ours, or else a moment at random, twice as long at most as the last time."""
        self.rejections += 1
        ahead = self._ahead()
        if ahead:
            self._let_pass(ahead, deadline_s)
        else:
            window_s = min(SPREAD_MAX_S, SPREAD_S * 2 ** min(self.rejections, 16))
            self.world.sleep(self.world.chance.fraction() * window_s)

    def _ahead(self) -> dict[str, str]:
        """Return the announcements of the hosts whose turn is before ours: those with smaller object ids, which are
        chance, and the same wherever one looks from. None if this host has not announced itself."""
        hearing, me = self.observer.hearing, self.world.host()
        if hearing is None or me is None:
            return {}
        said = {ref: hearing.refs[ref] for ref in map(host_ref, hearing.hosts)}
        own = said.get(host_ref(me), "")
        return {ref: oid for ref, oid in said.items() if oid < own}

    def _let_pass(self, ahead: Mapping[str, str], deadline_s: float) -> None:
        """Sleep while hosts whose turn is before ours get on: each takes down or renews its announcement when it has
        published. For those that do not, nobody waits longer than two tries take: they may have nothing to publish."""
        now_s, missed = self.world.now().monotonic_s, 0
        patience_s, stuck_s, pace_s = 2 * (now_s - self.began_s), 0.0, TURN_S
        # A host that waits announces nothing, and its runs must not be taken for dead.
        until_s = min(deadline_s, now_s + min(TURNS_MAX_S, self.observer.settings.lease_s / ANNOUNCEMENTS_A_LEASE))
        while ahead and stuck_s < patience_s and now_s < until_s:
            # The first of them may be done at any moment; each other one needs a turn after that.
            pause_s = max(LOOK_S, pace_s / LOOKS_A_TURN) + EARLY * pace_s * (len(ahead) - 1)
            pause_s = min(pause_s, patience_s - stuck_s, until_s - now_s)
            self.world.sleep(max(LOOK_S, pause_s))  # a rest too small for the clock would never end
            try:
                left = self._left(ahead)
                missed += len(ahead) - len(left)
                if missed >= MISSED and 0 < len(left) <= NEAR:
                    left, missed = self._catch_up(left), 0
            except (TransientError, ContentError):
                self.observer.online = False
                return  # the next pass asks too, and says what is wrong
            slept_s, now_s = self.world.now().monotonic_s - now_s, self.world.now().monotonic_s
            pace_s = _pace_s(pace_s, len(ahead) - len(left), slept_s)
            stuck_s, ahead = 0.0 if len(left) < len(ahead) else stuck_s + slept_s, left

    def _left(self, ahead: Mapping[str, str]) -> dict[str, str]:
        """Return the announcements that still stand at the remote."""
        assert self.world.remote is not None
        there = self.world.remote.look(list(ahead))
        return {ref: oid for ref, oid in ahead.items() if there.get(ref) == oid}

    def _catch_up(self, ahead: Mapping[str, str]) -> dict[str, str]:
        """Fetch what others have published before the own turn comes, since everybody waits for what is done in a turn;
        return the announcements that still stand."""
        assert self.observer.hearing is not None
        self.observer.ask()
        self.observer.online = False  # the last of them have not published yet
        return {ref: oid for ref, oid in ahead.items() if self.observer.hearing.refs.get(ref) == oid}

    def patience_s(self) -> float:
        """Return in how many seconds the remote has to be asked."""
        hearing = self.observer.hearing
        if hearing is None:
            return float("inf")
        now_s = self.world.now().monotonic_s
        if not self.observer.online or self.asked_for:
            return max(0.0, self.not_before_s - now_s)
        asked_s = hearing.asked.monotonic_s if hearing.asked else float("-inf")
        return max(0.0, asked_s + self.observer.settings.poll_interval_s - now_s)

    def hopeless(self) -> bool:
        """Return whether it is of no use to wait for the remote unless something lives here that it is needed for."""
        return self.failures >= FAILURES_MAX

    def _say(self, reason: str, name: str = "remote") -> None:
        state, at = self.world.repository.state, self.world.now().at
        set_condition(state, name, reason, at, self.world.disk)


def _pace_s(pace_s: float, passed: int, slept_s: float) -> float:
    """Return how long a turn takes (seconds), given how many ended since the last look: a little less than it seems, so
    that who looks comes rather too early than too late; longer than was thought where none did."""
    seems_s = 0.75 * slept_s / (passed + 0.5) if passed else 1.5 * pace_s
    return min(PACE_MAX_S, max(TURN_S, seems_s))
