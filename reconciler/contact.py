"""When a pass asks the remote, and how it makes way for others: pauses that grow, with chance in them."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.claims import ANNOUNCEMENTS_A_LEASE
from reconciler.conditions import set_condition
from reconciler.errors import GitFailed, PushRefused, TransientError
from reconciler.host import name_host
from reconciler.observe import Observer
from reconciler.world import World

BACKOFF_S, BACKOFF_MAX_S = 0.5, 60.0
"""How long the remote is left alone when it does not answer: about 1, 2, 4 ... 60 seconds."""
SPREAD_S, SPREAD_MAX_S = 0.05, 5.0
"""How long at most to wait after another host was faster: 0.1, 0.2 ... 5 seconds, times a random fraction."""
SPREAD_A_HOST_S = 0.08
"""How long one host needs to publish: fetch, commit, push. So many may want to as are announced."""
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
    rejections: int = 0
    not_before_s: float = float("-inf")

    def ask_if_due(self) -> None:
        """Ask the remote if there is one, and if what is known of it is old or no longer true."""
        hearing = self.observer.hearing
        if hearing is None:
            return
        name_host(self.world.disk, self.world.repository.state, self.world.machine, self.world.chance)
        now_s = self.world.now().monotonic_s
        asked_s = hearing.asked.monotonic_s if hearing.asked else float("-inf")
        fresh = self.observer.online and now_s - asked_s < self.observer.settings.poll_interval_s
        if fresh or now_s < self.not_before_s:
            return
        try:
            self.observer.ask()
        except TransientError as error:
            self.lost(error)
            return
        self.not_before_s = float("-inf")
        if not self.refused:
            self._well()

    def obeyed(self) -> None:
        """Note that the remote did what was asked of it, after it may have refused that before."""
        if self.refused:
            self._well()

    def _well(self) -> None:
        self.failures, self.refused = 0, False
        self._say("")

    def lost(self, error: TransientError) -> None:
        """Note that the remote did not answer, or not clearly: it is left alone for a while."""
        self.observer.online = False
        self.failures += 1
        self.refused = isinstance(error, PushRefused)
        if isinstance(error, GitFailed) and ".lock" in error.stderr:
            self.world.repository.clear_stale_locks()
        longest_s = min(BACKOFF_MAX_S, self.observer.settings.lease_s / ANNOUNCEMENTS_A_LEASE)
        pause_s = min(longest_s, BACKOFF_S * 2 ** min(self.failures, 16)) * (0.5 + self.world.chance.fraction())
        self.not_before_s = self.world.now().monotonic_s + pause_s
        tries = f"{self.failures} tries" if self.failures > 1 else "1 try"
        self._say(f"the remote cannot be used ({tries}, the next one after {pause_s:.1f} s): {error}")

    def landed(self) -> None:
        self.rejections = 0

    def spread(self) -> None:
        """Sleep a moment after somebody else was faster: at random, twice as long at most as the last time, and as
        long as all the others need who may be at it."""
        self.rejections += 1
        hosts = len(self.observer.hearing.hosts) if self.observer.hearing is not None else 0
        window_s = max(SPREAD_S * 2 ** min(self.rejections, 16), SPREAD_A_HOST_S * hosts)
        self.world.sleep(self.world.chance.fraction() * min(SPREAD_MAX_S, window_s))

    def patience_s(self) -> float:
        """Return in how many seconds the remote has to be asked."""
        hearing = self.observer.hearing
        if hearing is None:
            return float("inf")
        now_s = self.world.now().monotonic_s
        if not self.observer.online:
            return max(0.0, self.not_before_s - now_s)
        asked_s = hearing.asked.monotonic_s if hearing.asked else float("-inf")
        return max(0.0, asked_s + self.observer.settings.poll_interval_s - now_s)

    def hopeless(self) -> bool:
        """Return whether it is of no use to wait for the remote unless something lives here that it is needed for."""
        return self.failures >= FAILURES_MAX

    def _say(self, reason: str) -> None:
        state, at = self.world.repository.state, self.world.now().at
        set_condition(state, "remote", reason, at, self.world.disk)
