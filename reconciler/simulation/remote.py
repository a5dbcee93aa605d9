"""A remote in memory: one server that many clones fetch from and push to, over a network that loses what it likes.

A push has three parts: it leaves, the server applies it, the answer arrives. Between them anything may happen, each of
them may be lost, and what was sent may be applied late or twice. A fetch reads refs one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from reconciler.errors import GitFailed, PushUnclear
from reconciler.remote import HEADS, SHARED, SPACES, RefUpdate, Remote
from reconciler.simulation.repository import SimulatedRepository
from reconciler.simulation.scheduler import Scheduler
from reconciler.simulation.seams import Machine

PATIENCE_S = 20.0
"""How long a client waits for an answer that does not come."""


class Server:
    """The refs of the repository that all clones share."""

    def __init__(self, scheduler: Scheduler, moved: Callable[[str, str | None, str | None], None]) -> None:
        self.scheduler, self.moved = scheduler, moved
        self.refs: dict[str, str] = {}

    def apply(self, updates: Sequence[RefUpdate], *, atomic: bool) -> frozenset[str]:
        """Move refs by compare-and-swap, and return those that were not where they must be."""
        wrong = frozenset(each.ref for each in updates if self.refs.get(each.ref) != each.old)
        if atomic and wrong:
            return frozenset(each.ref for each in updates)
        for each in updates:
            if each.ref in wrong:
                continue
            if each.new is None:
                del self.refs[each.ref]
            else:
                self.refs[each.ref] = each.new
            self.moved(each.ref, each.old, each.new)
        return wrong

    def apply_late(self, updates: Sequence[RefUpdate], *, atomic: bool, after_s: float) -> None:
        """Apply a push when its client has long given up on it."""
        scheduler = self.scheduler

        def apply() -> None:
            rejected = self.apply(updates, atomic=atomic)
            scheduler.say("a push arrives late" + (", and is rejected" if rejected else ""), updates[0].ref)

        scheduler.call_at(scheduler.now + after_s, apply)


class SimulatedRemote(Remote):
    """The server as one clone reaches it."""

    host: Machine
    server: Server
    refs: dict[str, str]

    def __init__(self, host: Machine, repository: SimulatedRepository, server: Server) -> None:
        super().__init__(repository=repository, name="origin")
        for name, value in (("host", host), ("server", server), ("refs", repository.refs)):
            object.__setattr__(self, name, value)

    def _travel(self, what: str, subject: object = "") -> None:
        """Let a message go one way."""
        host = self.host
        host.scheduler.move(what, subject)
        host.scheduler.sleep(0.01 + 0.2 * host.latency())
        if host.scheduler.now < host.cut_off_until:
            host.scheduler.sleep(PATIENCE_S)
            raise GitFailed("git: no answer within 60 s")

    def fetch(self, branches: Sequence[str]) -> Mapping[str, str]:
        host, server = self.host, self.server
        self._travel("fetch", ", ".join(branches))
        if host.armed("fetch fails"):
            host.scheduler.sleep(PATIENCE_S)
            raise GitFailed("git fetch: no answer within 60 s")
        wanted = sorted(ref for ref in server.refs if ref.startswith(SHARED) or ref.removeprefix(HEADS) in branches)
        found: dict[str, str] = {}
        for ref in wanted:
            host.scheduler.move("the server reads", ref)
            if (oid := server.refs.get(ref)) is not None:
                found[ref] = oid
        slow = host.armed("slow answer")
        self._travel("the answer is on its way")
        if slow:
            host.scheduler.sleep(3 * PATIENCE_S)
        refs = self.refs
        for ref in [each for each in refs if each.startswith(tuple(SPACES.values()))]:
            del refs[ref]
        refs.update({_here(ref): oid for ref, oid in found.items()})
        host.scheduler.move("")
        return found

    def known(self, branches: Sequence[str]) -> Mapping[str, str]:
        host = self.host
        host.scheduler.move("read what was fetched")
        found = {}
        for ref, oid in self.refs.items():
            for there, here in SPACES.items():
                if ref.startswith(here):
                    found[there + ref.removeprefix(here)] = oid
        return {
            ref: oid for ref, oid in found.items() if not ref.startswith(HEADS) or ref.removeprefix(HEADS) in branches
        }

    def keep(self, updates: Sequence[RefUpdate]) -> None:
        host = self.host
        host.scheduler.move("keep what was pushed")
        for each in updates:
            if each.new is None:
                self.refs.pop(_here(each.ref), None)
            else:
                self.refs[_here(each.ref)] = each.new
        host.scheduler.move("")

    def look(self, refs: Sequence[str]) -> Mapping[str, str]:
        host, server = self.host, self.server
        self._travel("ask for", refs[0] if refs else "")
        if host.armed("fetch fails"):
            raise GitFailed("git ls-remote: no answer within 60 s")
        found = {ref: server.refs[ref] for ref in refs if ref in server.refs}
        self._travel("the answer is on its way")
        return found

    def push(self, updates: Sequence[RefUpdate], *, atomic: bool = True) -> frozenset[str]:
        try:
            return self._push(updates, atomic=atomic)
        except GitFailed as error:
            raise PushUnclear(str(error)) from None

    def _push(self, updates: Sequence[RefUpdate], *, atomic: bool) -> frozenset[str]:
        host, server = self.host, self.server
        if not updates:
            return frozenset()
        scheduler, draw = host.scheduler, host.latency
        self._travel("push", ", ".join(each.ref.removeprefix("refs/") for each in updates))
        if host.armed("push lost"):
            scheduler.sleep(PATIENCE_S)
            raise PushUnclear("git push: no answer within 60 s")
        if host.armed("push late"):
            server.apply_late(updates, atomic=atomic, after_s=80 * draw())
            scheduler.sleep(PATIENCE_S * draw())
            raise PushUnclear("git push: the connection was closed")
        if host.armed("push twice"):
            server.apply_late(updates, atomic=atomic, after_s=40 * draw())
        rejected = server.apply(updates, atomic=atomic)
        lost = host.armed("no answer")
        self._travel(
            "the server has rejected" if rejected else "the server has applied it", ", ".join(sorted(rejected))
        )
        if lost:
            scheduler.sleep(PATIENCE_S * draw())
            raise PushUnclear("git push: the connection was closed")
        scheduler.move("")
        return rejected


def _here(ref: str) -> str:
    """Return where a ref of the remote is kept in a clone."""
    there = next(each for each in SPACES if ref.startswith(each))
    return SPACES[there] + ref.removeprefix(there)
