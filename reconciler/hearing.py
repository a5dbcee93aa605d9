"""What machines that share a remote know of each other: who executes which run, and since when nothing new was heard.

Two kinds of refs at the remote carry it. `refs/reconciler/claims/<run-id>` says which host executes a run, and moves
by compare-and-swap only. `refs/reconciler/hosts/<host-id>` is a host's sign of life. Silence is measured between two
answers of the remote by this machine's own monotonic clock: an instant that another machine wrote is shown to people
and never compared, and while the remote does not answer nobody grows silent.

Writes `<git directory>/reconciler/remote.json`: what was heard when, so that passes of separate processes add up, and
which evidence was seen that the branch does not hold any more. Losing it delays a takeover and forgets such evidence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reconciler import codec
from reconciler.errors import GitFailed
from reconciler.model import (
    CLAIMS,
    HOSTS,
    Announcement,
    Held,
    HostId,
    Instant,
    Neighbour,
    RunId,
    SharedClaim,
    TaskId,
    claim_ref,
    host_ref,
)
from reconciler.notes import ID, Note, parsed
from reconciler.remote import RefUpdate, read_notes
from reconciler.values import frozen
from reconciler.world import World

MEMORY_BYTES_MAX = 16 * 1024 * 1024


@frozen
class Heard:
    """The newest sign of life of one ref: what it was, and when it was heard first."""

    sign: str
    at: Instant


@dataclass(slots=True, kw_only=True)
class Memory:
    """`remote.json`. `lost` maps a run whose evidence is gone from the branch to the last tip that held it."""

    heard: dict[str, Heard] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    tip: str = ""
    asked: Instant | None = None


class Hearing:
    """Listens to the refs of one remote, remembering what it has heard."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.path = world.repository.state / "remote.json"
        self.refs: dict[str, str] = {}
        self.asked: Instant | None = None
        self.answered: Instant | None = None
        self.memory = self._recall()
        self.changed = False
        self.claims: dict[RunId, SharedClaim] = {}
        self.hosts: dict[HostId, Announcement] = {}
        self._wanted: dict[str, str] = {}
        self._notes: dict[str, Note | None] = {}
        self._written: dict[str, bytes] = {}

    def ask(self, branches: Sequence[str]) -> None:
        """Fetch the branches and all claims and hosts. Raise GitFailed if the remote does not answer, or if a note that
        it has is not here all the same."""
        assert self.world.remote is not None
        asked = self.world.now()
        refs = self.world.remote.fetch(branches)
        self.asked, self.answered = asked, self.world.now()
        self.memory.asked, self.changed = asked, True
        if gone := self._read(refs):
            # `git gc --prune=now` removes what no ref leads to at that moment. Fetched anew, it is there again.
            self.world.remote.keep([RefUpdate(ref=ref, old=None, new=None) for ref in gone])
            raise GitFailed(f"git fetch: {gone[0]} was fetched and is not here; is git gc --prune=now at work?")
        self._listen(self.answered)

    def recall(self, branches: Sequence[str]) -> None:
        """Take what was fetched last for what is, without asking anybody."""
        assert self.world.remote is not None
        self._read(self.world.remote.known(branches))

    def wrote(self, notes: Mapping[str, bytes]) -> None:
        """Remember notes by object id that are about to be pushed: what we say ourselves need not be read."""
        self._written = dict(notes)

    def note(self, updates: Sequence[RefUpdate]) -> None:
        """Take over what we changed at the remote ourselves."""
        assert self.world.remote is not None
        with contextlib.suppress(GitFailed):  # the next fetch brings it all the same
            self.world.remote.keep(updates)
        gone = {each.ref for each in updates if each.new is None}
        kept = {ref: oid for ref, oid in self.refs.items() if ref not in gone}
        self._read({**kept, **{each.ref: each.new for each in updates if each.new is not None}})

    def remember(self) -> None:
        """Write down what was heard; not synced, because losing it only makes us more patient."""
        if self.changed:
            self.world.disk.make_directory(self.path.parent)
            self.world.disk.write_atomic(self.path, codec.compact(self.memory), sync=False)
            self.changed = False

    # -------------------------------------------------------------------------------------------- judging

    def held(self, me: HostId | None) -> dict[RunId, Held]:
        """Return every claim at the remote as it looks from here."""
        return {run_id: self._held(run_id, claim, me) for run_id, claim in self.claims.items()}

    def _held(self, run_id: RunId, claim: SharedClaim, me: HostId | None) -> Held:
        host = self.hosts.get(claim.host)
        return Held(
            claim=claim,
            oid=self.refs[claim_ref(run_id)],
            ours=claim.host == me,
            host_name=host.name if host else claim.host,
            silent_s=self.silence(claim_ref(run_id)),
            lease_s=host.lease_s if host else self.lease_unknown_s,
        )

    lease_unknown_s = 300.0
    """The lease of a host that has announced nothing: ours, set by the observer from the settings."""

    def neighbours(self, me: HostId | None) -> dict[HostId, Neighbour]:
        """Return the other hosts that have announced themselves."""
        return {
            host: Neighbour(oid=self.refs[host_ref(host)], silent_s=self.silence(host_ref(host)), lease_s=each.lease_s)
            for host, each in self.hosts.items()
            if host != me
        }

    def silence(self, ref: str) -> float:
        """Return for how many seconds the remote has answered without anything new about a ref."""
        heard, asked = self.memory.heard.get(ref), self.asked or self.world.now()
        if heard is None or heard.at.boot_id != asked.boot_id:
            return 0.0
        return max(0.0, asked.monotonic_s - heard.at.monotonic_s)

    # -------------------------------------------------------------------------------------------- listening

    def _read(self, refs: Mapping[str, str]) -> Sequence[str]:
        """Take over what the remote holds, with the notes behind claims and hosts; one that says nothing we understand
        counts as a claim of nobody, which falls silent. Return the refs whose notes are not in the repository: nothing
        is known of those yet. Where git fails, nothing is taken over."""
        named = {ref: oid for ref, oid in refs.items() if ref.startswith((CLAIMS, HOSTS))}
        gone = self._read_notes(named) if named != self._wanted else set[str]()
        self.refs = dict(refs)
        if named == self._wanted:
            return ()
        self._wanted = wanted = {ref: oid for ref, oid in named.items() if oid not in gone}
        self._notes = {oid: self._notes[oid] for oid in wanted.values()}
        self.claims = {
            RunId(ref.removeprefix(CLAIMS)): self._claim(ref, oid)
            for ref, oid in sorted(wanted.items())
            if ref.startswith(CLAIMS) and ID.fullmatch(ref.removeprefix(CLAIMS))
        }
        notes = {ref: self._notes[oid] for ref, oid in wanted.items() if ref.startswith(HOSTS)}
        self.hosts = {
            each.host: each
            for ref, each in sorted(notes.items())
            if isinstance(each, Announcement) and ref == host_ref(each.host)
        }
        return [ref for ref, oid in named.items() if oid in gone]

    def _read_notes(self, named: Mapping[str, str]) -> set[str]:
        """Read the notes that are new, and return the object ids of those that are not here."""
        kinds: dict[str, type[Note]] = {
            oid: SharedClaim if ref.startswith(CLAIMS) else Announcement for ref, oid in named.items()
        }
        new = sorted({oid for oid in named.values() if oid not in self._notes})
        found = {oid: self._written[oid] for oid in new if oid in self._written}
        unread = [oid for oid in new if oid not in found]
        found |= read_notes(self.world.repository, unread) if unread else {}
        unread = [oid for oid in unread if oid not in found]
        there = self.world.repository.look_up(unread) if unread else ()
        gone = {oid for oid, known in zip(unread, there, strict=True) if known is None}
        self._notes.update({oid: parsed(kinds[oid], found.get(oid)) for oid in new if oid not in gone})
        return gone

    def _claim(self, ref: str, oid: str) -> SharedClaim:
        run_id, note = RunId(ref.removeprefix(CLAIMS)), self._notes[oid]
        if isinstance(note, SharedClaim) and note.run_id == run_id and ID.fullmatch(note.task_id):
            return note
        return SharedClaim(run_id=run_id, task_id=TaskId("unknown"), host=HostId("unknown"), claims=(), nonce=oid)

    def _listen(self, now: Instant) -> None:
        """Note what is new about every claim and host, and forget those that are gone."""
        heard = self.memory.heard
        signs = {claim_ref(run_id): self._sign(run_id, claim) for run_id, claim in self.claims.items()}
        signs |= {host_ref(host): self.refs[host_ref(host)] for host in self.hosts}
        for ref, sign in signs.items():
            known = heard.get(ref)
            if known is None or known.sign != sign or known.at.boot_id != now.boot_id:
                heard[ref] = Heard(sign=sign, at=now)
                self.changed = True
        for ref in [each for each in heard if each not in signs]:
            del heard[ref]
            self.changed = True

    def _sign(self, run_id: RunId, claim: SharedClaim) -> str:
        """Return what must change for a run to count as alive: its claim, or the announcement that lists it."""
        host = self.hosts.get(claim.host)
        listed = self.refs[host_ref(claim.host)] if host is not None and run_id in host.runs else ""
        return f"{self.refs[claim_ref(run_id)]} {listed}"

    def _recall(self) -> Memory:
        with contextlib.suppress(codec.CodecError, OSError):
            data = self.world.disk.read_bounded(self.path, MEMORY_BYTES_MAX)
            if data is not None:
                return codec.parse(Memory, data)
        return Memory()

    # -------------------------------------------------------------------------------------------- lost evidence

    def missing(self, gone: Mapping[str, object], wanted: Mapping[RunId, object], tip: str) -> None:
        """Remember evidence that was at the last tip and is not at `tip`, while somebody still asks for its run."""
        memory = self.memory
        lost = {**memory.lost, **{run_id: memory.tip for run_id in gone if memory.tip}}
        kept = {run_id: commit for run_id, commit in lost.items() if run_id in wanted}
        if (kept, tip) != (memory.lost, memory.tip):
            memory.lost, memory.tip, self.changed = kept, tip, True

    def found(self, run_id: str) -> None:
        """Forget that the evidence of a run was lost: it is there."""
        if self.memory.lost.pop(run_id, None) is not None:
            self.changed = True
