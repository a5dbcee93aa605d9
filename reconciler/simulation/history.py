"""A story, told: machines come up, people commit, things go wrong, and in the end all is quiet or a promise broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from reconciler.actions import Wait
from reconciler.errors import ContentError, TransientError
from reconciler.loop import Loop, Pass
from reconciler.model import HOSTS, HostId, Phase, Plan, PlannedStage, Rejection, RunId, claim_ref
from reconciler.observe import Observer
from reconciler.phases import ENDED
from reconciler.places import Where
from reconciler.remote import HEADS
from reconciler.simulation.deciding import APPROVERS, decide
from reconciler.simulation.disk import Folder
from reconciler.simulation.engine import Cluster
from reconciler.simulation.engine_story import Trouble
from reconciler.simulation.engine_watch import EngineWatch
from reconciler.simulation.forger import ClaimForger
from reconciler.simulation.host import Host
from reconciler.simulation.remote import Server
from reconciler.simulation.repository import Store
from reconciler.simulation.resting import Asked, Rest, Watching
from reconciler.simulation.scheduler import (
    MOVES_MAX,
    MOVES_MAX_A_REQUEST,
    NEVER,
    Actor,
    Happening,
    Scheduler,
    Violation,
)
from reconciler.simulation.story import EPOCH_S, PIPELINES, YEAR_S, Behaviour, Deed, Story, path_of, request
from reconciler.simulation.watch import Watch
from reconciler.simulation.world import world_of
from reconciler.waiting import awaited_runs, open_gates
from reconciler.work import WORK, of_ref

PASSES_MAX = 60
"""Within how many passes of each machine, and 12 more for each request, all is quiet once nothing goes wrong."""
RESTART_S = 1.0
FORGE_TRIES = 30
"""So many seconds somebody waits for a claim that he can move."""
TWINS, TWIN = 0.1, HostId("twin-00000000")
"""How often machines that share a remote are copies of one, and with which name they all begin."""


@dataclass(slots=True)
class Result:
    """How a history went. `violation` is what was broken, "" if nothing was."""

    story: Story
    violation: str
    moves: int
    seconds: float
    counts: dict[str, int]
    digest: str
    trace: list[str] = field(default_factory=list)


class History:
    """One run of a story."""

    def __init__(self, story: Story, *, trace: bool = False, moves_max: int = 0) -> None:
        self.story = story
        asked = len(story.deeds) + sum(path.startswith("runs.d/") for path in story.files)
        bound = moves_max or MOVES_MAX + MOVES_MAX_A_REQUEST * asked
        self.scheduler = Scheduler(story.happenings, self._happen, trace=trace, moves_max=bound)
        self.store = Store()
        self.branch = f"refs/heads/{story.branch}"
        self.owned: dict[str, bytes | None] = {}
        self.watch = (Watch if story.trouble is None else EngineWatch)(self.store, self.branch, story)
        self.server = Server(self.scheduler, self.watch.branch_moved)
        self.drawn = 0
        self.counts: dict[str, int] = {}
        self.watchers: dict[Actor, Watching] = {}
        self.calm_at: float | None = None
        self.passes: dict[str, int] = {}
        self.quiet: dict[str, str] = {}
        self.rests: dict[str, set[RunId]] = {}
        self.deeds_left = len(story.deeds)
        self.requests_seen = 0
        self.last_stop = 0.0
        base = self.store.make(None, dict(story.files), "the beginning")
        self.owned.update(story.files)
        self.watch.tip = base
        self.hosts = [Host(self, self.store, f"host{index + 1}", index) for index in range(len(story.hosts))]
        self.server.refs[self.branch] = base
        for host in self.hosts:
            host.repository.refs[self.branch] = base
            host.disk.make_directory(host.repository.state)
        if story.remote and len(self.hosts) > 1 and story.draw("twins") < TWINS:
            for host in self.hosts:
                host.take_name(TWIN)
        self.forger = ClaimForger(self.store, self.server)
        self.cluster = self._cluster(story.trouble) if story.trouble is not None else None

    def _cluster(self, trouble: Trouble) -> Cluster:
        """Return the engine of this history; its couriers reach the remote, or the one repository there is."""
        server = self.server
        if not self.story.remote:
            server = Server(self.scheduler, self.watch.branch_moved)
            server.refs = self.hosts[0].repository.refs
        cluster = Cluster(self, self.store, server, trouble)
        assert isinstance(self.watch, EngineWatch)
        self.watch.cluster, self.watch.hosts = cluster, self.hosts
        self.last_stop = trouble.until_s
        return cluster

    def tell(self) -> Result:
        """Let it happen, and return how it went."""
        scheduler = self.scheduler
        for deed in self.story.deeds:
            scheduler.call_at(deed.at_s, lambda deed=deed: self._do(deed))  # type: ignore[misc]
        for host, count in zip(self.hosts, self.story.hosts, strict=True):
            for index in range(count):
                self._keep_reconciler(host, index, 0.1 * index)
        violation = ""
        try:
            scheduler.run()
            if not scheduler.over:
                raise Violation("nobody moves any more, and not all is done")
            self.watch.check_end(self.owned)
        except Violation as broken:
            violation = str(broken)
            scheduler.say(f"VIOLATION: {violation}")
        finally:
            for host in self.machines():
                scheduler.close(list(host.actors))
        return Result(
            story=self.story,
            violation=violation,
            moves=scheduler.moves,
            seconds=scheduler.now,
            counts=self.counts,
            digest=f"{scheduler.moves}-{scheduler.now:.3f}-{self.watch.tip}",
            trace=scheduler.trace or [],
        )

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    # -------------------------------------------------------------------------------------------- reconcilers

    def _keep_reconciler(self, host: Host, index: int, delay_s: float) -> None:
        """Start a reconciler, and another one whenever it has ended."""
        delay_s = max(delay_s, host.asleep_until - self.scheduler.now)
        actor = host.new_actor(f"reconciler {index + 1}", "reconciler")
        actor.on_death = lambda: self._restart(host, index)
        self.scheduler.start(actor, lambda: self._reconcile(host, actor), delay_s)

    def _restart(self, host: Host, index: int) -> None:
        if self.scheduler.over or host.away_until == NEVER:
            return
        draw = self.story.draw("restart", host.name, index, self.scheduler.moves)
        # Now and then nobody is there to look after the workers for as long as a lease, or longer.
        pause_s = RESTART_S + 3 * draw if draw < 0.85 or self.calm_at is not None else 1000 * (draw - 0.85)
        at = max(self.scheduler.now, host.away_until) + pause_s
        self.last_stop = max(self.last_stop, at)
        self.scheduler.call_at(at, lambda: self._keep_reconciler(host, index, 0.0))

    def _reconcile(self, host: Host, actor: Actor) -> None:
        world = world_of(host, self.server if self.story.remote else None, self.cluster)
        loop, rest = Loop(world, Observer(world)), self._rest(host, actor)
        if not self.story.fresh and self.story.draw("beside", host.name, actor.me.pid) < 0.5:
            loop.observer.ring = rest.ring  # passes go on while an engine is asked
        while True:
            if self.cluster is not None:
                self.cluster.passes.setdefault(actor.me, []).append(host.monotonic())
            try:
                result = loop.run_pass()
            except TransientError as error:
                self.scheduler.say("pass refused:", error)
                self._note_pass(host)
                self.scheduler.sleep(2.0)
                continue
            except (ContentError, OSError) as error:
                self.scheduler.say("process ends:", error)
                return
            self._passed(host, result)
            if self.scheduler.over:
                self.scheduler.to_hub()
            if self.story.fresh:
                self.scheduler.sleep(self.story.pause_s)
                return
            rest.sleep(loop, result)
            if self.cluster is not None and self.cluster.trouble.is_silent(self.scheduler.now):
                self.scheduler.sleep(self.cluster.pause_s())

    def _rest(self, host: Host, actor: Actor) -> Rest:
        """Return what a reconciler does between passes: half of those that stay watch."""
        if self.story.draw("watches", host.name, actor.me.pid) < 0.5:
            return Asked(host, self.story.pause_s)
        self.watchers[actor] = watching = Watching(host, actor)
        return watching

    def _ring(self, host: Host) -> None:
        """Let the watchers of a clone know that a ref has moved there."""
        for actor, watching in list(self.watchers.items()):
            if actor.dead:
                del self.watchers[actor]
            elif actor.host is host:
                watching.ring()

    def _passed(self, host: Host, result: Pass) -> None:
        if self.scheduler.trace is not None:
            for each in result.done:
                self.scheduler.say("did:", each.sentence)
            self.scheduler.say("pass ends:", "idle" if result.idle else result.blocked or "")
        if result.publication is not None:
            refs = (self.server.refs, host.repository.refs)
            heads = [oid for each in refs for ref, oid in each.items() if ref.startswith(HEADS)]
            self.watch.acknowledged(result.publication.commit, heads)
            self._ring(host)
            self.count("publications")
        self.requests_seen = max(self.requests_seen, len(result.seen.desired.names))
        self._note_pass(host)
        suspended = {wish.run_id for wish in result.seen.desired.wishes if wish.request.suspend}
        self.rests[host.name] = self._at_rest(result, suspended)
        # Whoever waits for people on another machine is under way for all others.
        suspended |= {run_id for each in self.present() for run_id in self.rests.get(each.name, ())}
        suspended |= _held_up(result, suspended)
        if self.story.own:
            suspended |= _without_place(result)
        if self.deeds_left or result.seen.tip != self.watch.tip or not _is_quiet(result, suspended):
            return
        self.quiet[host.name] = result.seen.tip
        others_too = all(self.quiet.get(each.name) == self.watch.tip for each in self.present())
        self.scheduler.over = others_too and self._is_done(result, suspended)

    def _is_done(self, result: Pass, suspended: set[RunId]) -> bool:
        """Return whether everything that can be proven is, and nothing is kept as under way."""
        for wish in result.seen.desired.wishes:
            excused = wish.run_id in suspended or wish.request.cancel or isinstance(wish.plan, Rejection)
            if not excused and not _is_over(result, wish.run_id):
                return False
        marks = [host.disk.node(f"{host.repository.state}/live") for host in self.present()]
        names = {name for each in marks if isinstance(each, Folder) for name in each.names}
        refs = {ref for ref in self.server.refs if not ref.startswith(HEADS)} - {claim_ref(each) for each in suspended}
        refs |= {ref for ref in self.hosts[0].repository.refs if ref.startswith(WORK)}
        refs -= {ref for ref in refs if (of_ref(ref) or ("", 0))[0] in suspended}
        shared = {ref for ref in refs if not ref.startswith(HOSTS) or not suspended}
        return {name for name in names if not name.startswith(".")} <= suspended and not shared

    def _at_rest(self, result: Pass, suspended: set[RunId]) -> set[RunId]:
        """Return the runs that wait for people: at gates about which nothing was committed that counts, and for nested
        runs that are themselves at rest."""
        found: set[RunId] = set()
        settled = {each.subject for each in result.actions if isinstance(each, Wait) and each.settled}
        wanted = {each.run_id for each in result.seen.desired.wishes}
        for run_id in sorted(settled, key=lambda each: -len(each)):
            if run_id not in wanted and run_id in result.phases:
                found.add(RunId(run_id))  # its request cannot be read, or its parent is held back
            (plan, base), gates, awaited = _waits_for(result, RunId(run_id))
            is_early = partial(self._holds, base)
            decided = any(self.watch.decisions.decides(run_id, gate, plan, is_early) for gate in gates)
            if (gates or awaited) and not decided and set(awaited) <= suspended | found:
                found.add(RunId(run_id))
        return found

    def _holds(self, commit: str, other: str) -> bool:
        return bool(commit) and self.store.is_ancestor(other, commit)

    def _note_pass(self, host: Host) -> None:
        self.count("passes")
        if self.scheduler.faults_left or self.deeds_left or self.scheduler.now < self.last_stop:
            return
        self.passes[host.name] = self.passes.get(host.name, 0) + 1
        # A pass that only looks costs a machine nothing: the bound is on passes *and* on time.
        if self.calm_at is None:
            self.calm_at = self.scheduler.now
        bound = PASSES_MAX + 12 * self.requests_seen
        calm_s = self.scheduler.now - self.calm_at
        if self.passes[host.name] > bound * len(self.story.hosts) and calm_s > 600 + 60 * self.requests_seen:
            passed = f"{self.passes[host.name]} passes of {host.name} and {calm_s:.0f} s"
            raise Violation(f"{passed} after the last fault, not all is done")

    # -------------------------------------------------------------------------------------------- what stages do

    def behaviour(self, run_id: str, stage: PlannedStage, number: int, tries: int) -> Behaviour:
        draw = self.story.draw("stage", run_id, stage.id, number, tries)
        fails = draw < self.story.fails
        seconds = (0.2, 1.0, 3.0, 9.0, 14.0)[int(draw * 977) % 5]
        output = f"{stage.id} of attempt {number}, try {tries}\n".encode() * (int(draw * 31) % 3)
        return Behaviour(seconds, 1 + int(draw * 100) if fails else 0, output, draw * 13 % 1 < 0.1)

    def latency(self) -> float:
        """Return a number from 0 to below 1 for something on the network that takes its time."""
        self.drawn += 1
        return self.story.draw("latency", self.drawn)

    def late_s(self, run_id: str, number: int) -> float:
        """Return how long the worker of an attempt takes to start: past all patience now and then."""
        draw = self.story.draw("late", run_id, number)
        if self.calm_at is not None or draw < 0.8:
            return 0.05
        return (0.5, 4.0, 20.0, 40.0)[int(draw * 1000) % 4]

    # -------------------------------------------------------------------------------------------- people

    def _do(self, deed: Deed) -> None:
        """Let a person commit something."""
        self.deeds_left -= 1
        files = self._decision(deed) if deed.who else _changed_files(deed, self.owned, self.story)
        if not files:
            return
        self.owned.update(files)
        written = {path: self._on_top(path, data) for path, data in files.items()}
        said, who = f"{deed.kind} {deed.about}", APPROVERS[deed.who or "ann"]
        commit = self.store.make(self.watch.tip, written, said, who, int(EPOCH_S + self.scheduler.now))
        self.scheduler.say(f"a person commits: {deed.kind}", ", ".join(files))
        self.count("commits by people")
        if self.story.remote:
            self.server.refs[self.branch] = commit
        else:
            self.hosts[0].repository.refs[self.branch] = commit
            self._ring(self.hosts[0])
        self.watch.person_committed(commit)
        decisions = self.watch.decisions
        decisions.commits += [commit] * (len(decisions.said) - len(decisions.commits))

    def _decision(self, deed: Deed) -> dict[str, bytes | None]:
        """Return the decision that somebody commits, and remember what it says."""
        found = decide(deed, path_of(deed.about), self.owned)
        if found is None:
            return {}
        self.watch.decisions.said.append(found[1])
        self.count("decisions")
        return {deed.path: found[0]}

    def _on_top(self, path: str, data: bytes | None) -> bytes | None:
        """A person edits a checklist as it is by now."""
        now = self.store.read(self.watch.tip, path)
        return now + data[-len(b"\nMore words.\n") :] if path.endswith(".md") and now and data else data

    # -------------------------------------------------------------------------------------------- faults

    def _happen(self, happening: Happening) -> None:
        kind, value = happening.kind, happening.value
        if kind == "switch":
            self.scheduler.give_way(value)
            return
        current = self.scheduler.current
        assert current is not None
        self.scheduler.say(f"FAULT {kind}")
        self.count(kind)
        FAULTS.get(kind, _arm(kind))(self, current, value)

    def machine(self, actor: Actor) -> Host:
        """Return the machine a process is on."""
        return next(each for each in self.machines() if each is actor.host)

    def machines(self) -> list[Host]:
        """Return every machine, those of the engine last."""
        return [*self.hosts, *(self.cluster.nodes if self.cluster is not None else ())]

    def present(self) -> list[Host]:
        """Return the machines that are there, or will be again."""
        return [host for host in self.hosts if host.away_until < NEVER]

    def others(self, current: Actor) -> list[Actor]:
        """Return the processes with code, on every machine, but the one that moves."""
        return [each for host in self.machines() for each in host.actors if each is not current]


def _held_up(result: Pass, suspended: set[RunId]) -> set[RunId]:
    """Return the runs that wait for others, and that only a person can set going again."""
    settled = {each.subject for each in result.actions if isinstance(each, Wait) and (each.settled or suspended)}
    wishes = result.seen.desired.wishes
    ordered = (each for each in wishes if each.request.after or each.request.concurrency or each.due_at)
    return {each.run_id for each in ordered if each.run_id in settled}


def _without_place(result: Pass) -> set[RunId]:
    """Return the runs for which no executor is configured: they wait until a person does that."""
    settled = {each.subject for each in result.actions if isinstance(each, Wait) and each.settled}
    plans = [each.plan for each in result.seen.desired.wishes if isinstance(each.plan, Plan)]
    return {
        each.run_id for each in plans if each.run_id in settled and (each.capabilities or each.where != Where.ANYWHERE)
    }


def _waits_for(result: Pass, run_id: RunId) -> tuple[tuple[str, str], list[str], list[RunId]]:
    """Return the digest of the plan of a run that waits and its commit, at the gates of which stages it waits, and for
    which runs."""
    run = result.seen.actual.runs.get(run_id)
    if run is not None and run.claim is not None and result.phases[run_id] == Phase.WAITING:
        awaited = [each for each in awaited_runs(run) if not _is_over(result, each)]
        return (run.claim.plan_digest, run.claim.commit), [gate.stage for gate in open_gates(run)], awaited
    waiting = result.seen.actual.waits_elsewhere(run_id)
    if waiting is None:
        return ("", ""), [], []
    return (waiting.plan_digest, waiting.commit), [gate.stage for gate in waiting.gates], []


def _is_over(result: Pass, run_id: RunId) -> bool:
    found = result.seen.actual.evidence.get(run_id)
    return found is not None and found.waiting is None


def _is_quiet(result: Pass, suspended: set[RunId]) -> bool:
    """Return whether a pass found nothing to do and nothing to wait for, but for what people hold back."""
    if result.acted or result.publication or result.blocked or not result.online:
        return False
    waits = {each.subject for each in result.actions if isinstance(each, Wait) and not each.settled}
    under_way = {run_id for run_id, phase in result.phases.items() if phase not in ENDED}
    return waits | under_way <= suspended


Fault = Callable[[History, Actor, float], None]


def _crash(history: History, current: Actor, value: float) -> None:
    history.scheduler.kill(current)


def _kill(history: History, current: Actor, value: float) -> None:
    """KILL another process: as the kernel does when memory runs out."""
    others = history.others(current)
    if others:
        chosen = others[int(value * len(others))]
        history.scheduler.say("kill", chosen.name)
        history.scheduler.kill(chosen)


def _stop(history: History, current: Actor, value: float) -> None:
    """STOP a process, this one or another, for longer than any patience, or a little."""
    others = [each for each in history.others(current) if each.greenlet is not None]
    chosen = current if value < 0.5 or not others else others[int(value * 7919) % len(others)]
    seconds = (2.0, 20.0, 45.0, 90.0)[int(value * 104729) % 4]
    history.last_stop = max(history.last_stop, history.scheduler.now + seconds)
    history.scheduler.say(f"stop for {seconds:g} s", chosen.name)
    history.scheduler.stop(chosen, seconds)


def _power(history: History, current: Actor, value: float) -> None:
    history.machine(current).lose_power(value)
    history.scheduler.kill(current)


def _cut_off(history: History, current: Actor, value: float) -> None:
    """Let a machine not reach the remote for longer than a lease, or a little."""
    host = history.machine(current)
    host.cut_off_until = history.scheduler.now + (5.0, 40.0, 100.0, 200.0)[int(value * 7919) % 4]
    history.last_stop = max(history.last_stop, host.cut_off_until)


def _away(history: History, current: Actor, value: float) -> None:
    """Let a machine lose its power for long, or for good unless it is the last one."""
    host = history.machine(current)
    for_good = value < 0.5 and len(history.present()) > 1
    host.away_until = NEVER if for_good else history.scheduler.now + 600 * (value % 0.5)
    if not for_good:
        history.last_stop = max(history.last_stop, host.away_until)
    _power(history, current, value)


def _suspend(history: History, current: Actor, value: float) -> None:
    """Suspend a machine for longer than any lease, or a little."""
    host = history.machine(current)
    seconds = (5.0, 45.0, 100.0, 200.0, 300.0)[int(value * 7919) % 5]
    history.last_stop = max(history.last_stop, history.scheduler.now + seconds)
    history.scheduler.say(f"suspended for {seconds:g} s", host.name)
    host.suspend(seconds)


def _forge(history: History, current: Actor, value: float) -> None:
    """Let somebody who may write refs make up a claim, as soon as there is one. He can have a host give up an attempt
    at an engine, and then what the watch knows of that is no promise."""
    if history.cluster is None:
        _make_up(history, value, FORGE_TRIES)


def _make_up(history: History, value: float, tries: int) -> None:
    scheduler = history.scheduler
    if ref := history.forger.forge(value):
        scheduler.say("somebody makes up", ref)
        history.last_stop = max(history.last_stop, scheduler.now + 100)
        history.count("claims that were made up")
    elif tries:
        scheduler.call_at(scheduler.now + 1.0, lambda: _make_up(history, value, tries - 1))


def _clock(history: History, current: Actor, value: float) -> None:
    history.machine(current).wall_s += (2 * value - 1) * YEAR_S


def _arm(kind: str) -> Fault:
    def arm(history: History, current: Actor, value: float) -> None:
        arms = history.machine(current).arms
        arms[kind] = arms.get(kind, 0) + 1 + int(value * 3)

    return arm


FAULTS: Mapping[str, Fault] = {
    "crash": _crash,
    "kill": _kill,
    "stop": _stop,
    "power": _power,
    "clock": _clock,
    "suspend": _suspend,
    "forge": _forge,
    "cut off": _cut_off,
    "away": _away,
}


# ------------------------------------------------------------------------------------------------ people


def _changed_files(deed: Deed, owned: Mapping[str, bytes | None], story: Story) -> dict[str, bytes | None]:
    """Return what a deed changes, given what people have committed so far, and at first."""
    path = deed.path or path_of(deed.about)
    there = owned.get(path) is not None
    order = story.order.get(deed.about, "")
    pipeline = story.waiting.get(deed.about, "")
    match deed.kind:
        case "ask":
            return (
                {}
                if there
                else {path: story.files[path] if deed.path else request(deed.about, pipeline=pipeline, more=order)}
            )
        case "edit":
            return (
                {path: request(deed.about, pipeline=pipeline, more=f"title: Another title\npriority: 3\n{order}")}
                if there
                else {}
            )
        case "rerun":
            return {path: request(deed.about, pipeline=pipeline, more=f"rerun: 1\n{order}")} if there else {}
        case "pipeline":
            return (
                {path: request(deed.about, pipeline=tuple(PIPELINES)[(deed.about + 1) % len(PIPELINES)], more=order)}
                if there
                else {}
            )
        case "cancel":
            return (
                {path: request(deed.about, pipeline=pipeline, more=f"cancel: no longer needed\n{order}")}
                if there
                else {}
            )
        case "suspend":
            return (
                {path: request(deed.about, pipeline=pipeline, more=f"suspend: {{reason: holidays}}\n{order}")}
                if there
                else {}
            )
        case "delete":
            return {path: None} if there else {}
        case "break":
            return {path: b"task: [\n"} if there else {}
        case "source":
            return {"src/main.py": f"print({deed.at_s:.3f})\n".encode()}
        case "checklist":
            name = f"tasks/t{deed.about % 2}.md"
            return {name: (owned[name] or b"") + b"\nMore words.\n"}
        case _:
            return {"notes.txt": f"note {deed.at_s:.3f}\n".encode()}
