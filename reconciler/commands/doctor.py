"""`reconciler doctor`: what is missing or wrong here, and the command that cures it."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import click

from reconciler import git, health, parse, probes, redact
from reconciler.check import SETTINGS_PATH, Content, Kind
from reconciler.commands.validate import Batch, everything, problems_of
from reconciler.conditions import read_conditions
from reconciler.errors import ContentError, GitFailed, NoAtomicPush, ReconcilerError, TransientError
from reconciler.health import Finding, Level
from reconciler.installed import ROLES, SUBSCRIBERS, cure, entry_points, has_extra, missing_roles
from reconciler.locks import old_locks
from reconciler.model import BUILT_IN, ExecutorSettings, Rejection, Settings, Severity
from reconciler.places import ENGINES, RENEWING
from reconciler.process import worker_environment
from reconciler.remote import Remote, misnamed
from reconciler.terminal import format_option, print_json, single_line, use_colour
from reconciler.world import World, open_world, settings_at
from reconciler.yaml_events import Document, load_yaml

REMOTE_S = 10.0
"""How long the remote may take for one answer: less than a pass gives it, because a person waits."""

COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}

Look = Callable[[], Iterable[Finding]]


@click.command(short_help="say what is missing or wrong here, and what cures it")
@format_option
@click.pass_obj
def command(repo: str, form: str) -> int:
    """Say what is missing or wrong on this machine and in this repository, each with the command that cures it.

    \b
    reconciler doctor
    reconciler doctor --format json | jq -r '.findings[] | select(.level == "error") | .cure'

    An error keeps runs from working; a warning is a promise that is weaker here. The remote is asked, which may take
    half a minute. Nothing is changed. Of credentials in the environment only the names are told.

    Exit codes: 0 nothing wrong, or warnings only, 1 errors.
    """
    found = {"machine": list(_machine(Path(repo))), **_repository(repo)}
    if form == "json":
        print_json(_document(found))
    else:
        _show(found)
    return 1 if _count(found, Level.ERROR) else 0


# ------------------------------------------------------------------------------------------------ the machine


def _machine(place: Path) -> Iterator[Finding]:
    yield from _looked("python", lambda: [health.python(sys.version_info[:3])])
    yield from _looked("git", lambda: [health.git(_git_version())])
    yield health.platform(sys.platform)
    if sys.platform == "linux":
        yield from _looked("processes", _processes)
        yield from _looked("sandbox", lambda: [health.sandbox(_sandbox())])
    yield health.open_files(probes.open_files_max())
    yield health.environment(sorted(redact.secret_names(worker_environment(os.environ))))


def _git_version() -> str | None:
    try:
        return git.run(("version",), directory=Path("/"), timeout_s=probes.ANSWER_S).decode(errors="replace").strip()
    except (ReconcilerError, OSError):
        return None


def _processes() -> Iterator[Finding]:
    return health.processes(pidfd=probes.has_pidfd(), subreaper=probes.has_subreaper(), proc=probes.has_proc())


def _sandbox() -> health.Sandboxing:
    """Return how bubblewrap does when it is asked to do nothing."""
    said = probes.ask(("bwrap", "--ro-bind", "/", "/", "true"))
    if said is None:
        return health.Sandboxing(found=False)
    kernel = probes.kernel_settings(tuple(health.USER_NAMESPACES))
    return health.Sandboxing(found=True, works=said.status == 0, said=said.line, kernel=kernel)


# ------------------------------------------------------------------------------------------------ the repository


def _repository(repo: str) -> dict[str, list[Finding]]:
    """Return what is found in the repository, and in what people wrote there, by group."""
    try:
        world = open_world(Path(repo))
    except (ReconcilerError, OSError) as error:
        return {"repository": [health.no_repository(str(error), str(Path(repo).absolute()))]}
    place = Place(world)
    groups: dict[str, Mapping[str, Look]] = {
        "repository": {
            "repository": place.kind,
            "branch": lambda: [health.branch(place.branches, place.unusable)],
            "remote": lambda: health.remote(
                place.settings.remote, place.contact, misnamed(place.world.repository, place.settings.remote)
            ),
            "clock": lambda: [health.clock(time.time(), place.newest_s)],
            "locks": lambda: [health.locks(old_locks(world.repository.common))],
            "exclude": place.exclude,
            "disk": lambda: [health.space(*probes.free_space(place.root), str(place.root))],
            "file system": place.storage,
        },
        "content": {"settings": place.said, "files": place.files, "agents": place.agents, "roles": place.roles}
        | {"subscribers": place.subscribers, "credentials": place.credentials, "extras": place.extras}
        | {"engines": place.engines},
        "runs": {"runs": place.leftovers, "conditions": place.conditions, "deliveries": place.deliveries},
    }
    return {
        group: [each for subject, look in looks.items() for each in _looked(subject, look)]
        for group, looks in groups.items()
    }


@dataclass(frozen=True)  # without slots: what is asked once is kept beside the fields
class Place:
    """A repository that is looked at; what several findings need is asked once."""

    world: World

    @property
    def root(self) -> Path:
        return self.world.repository.directory

    # -------------------------------------------------------------------------------------------- what is asked

    @cached_property
    def settings(self) -> Settings:
        """What counts at HEAD; the defaults where that is nothing that can be used."""
        found = settings_at(self.world.repository, self.world.contracts, "HEAD")
        return found if isinstance(found, Settings) else Settings()

    @cached_property
    def head(self) -> str | None:
        try:
            return self.world.repository.head_branch()
        except ReconcilerError:
            return None

    @cached_property
    def unusable(self) -> str:
        """Why the branch that HEAD names cannot be used, "" if it can or if HEAD names none."""
        try:
            self.world.repository.head_branch()
        except ContentError as error:
            return "" if "detached" in str(error) else str(error)
        except ReconcilerError:
            pass
        return ""

    @cached_property
    def remote(self) -> Remote | None:
        found = self.world.remote
        return None if found is None else replace(found, timeout_s=min(found.timeout_s, REMOTE_S))

    @cached_property
    def there(self) -> Mapping[str, str] | TransientError | None:
        """The branch that counts as the remote has it, or why that is not known."""
        name = self.settings.branch or self.head
        if self.remote is None or name is None:
            return None
        try:
            return self.remote.look([f"refs/heads/{name}"])
        except TransientError as error:
            return error

    @cached_property
    def branches(self) -> health.Branches:
        said, there = self.settings.branch, self.there
        name = said or self.head
        return health.Branches(
            head=self.head,
            said=said,
            local=name is not None and self.world.repository.commit_of(name) is not None,
            there=bool(there) if isinstance(there, Mapping) else None,
            remote=self.remote.name if self.remote is not None else None,
        )

    @cached_property
    def contact(self) -> health.Contact | None:
        """How the remote answers, and whether it would take a push."""
        if self.remote is None:
            return None
        if isinstance(self.there, TransientError):
            return health.Contact(name=self.remote.name, refusal=str(self.there))
        newest = self.world.repository.look_up(["HEAD^{commit}"])[0]
        if newest is None:
            return health.Contact(name=self.remote.name)
        try:
            self.remote.rehearse(newest)
        except NoAtomicPush:
            return health.Contact(name=self.remote.name, atomic=False)
        except TransientError as error:
            return health.Contact(name=self.remote.name, push=str(error))
        return health.Contact(name=self.remote.name)

    @cached_property
    def newest_s(self) -> int | None:
        """When the newest commit was made, in seconds since 1970."""
        newest = self.world.repository.look_up(["HEAD^{commit}"])[0]
        if newest is None:
            return None
        return int(self.world.repository.git("log", "-1", "--format=%ct", "--end-of-options", newest))

    @cached_property
    def batch(self) -> Batch:
        """The files of ours on disk; where nothing is checked out, those of the tip."""
        return everything(self.root)

    @property
    def pipelines(self) -> Mapping[str, Content]:
        return {path: self.batch.files[path] for path, kind in self.batch.asked.items() if kind is Kind.PIPELINE}

    # -------------------------------------------------------------------------------------------- what is found

    def kind(self) -> Iterator[Finding]:
        repository = self.world.repository
        shallow = (repository.common / "shallow").exists()
        name = self.remote.name if self.remote is not None else "origin"
        partial = _configured(self.world, f"remote.{name}.promisor") == "true"
        return health.repository(bare=repository.bare, shallow=shallow, partial=partial, remote=name)

    def exclude(self) -> list[Finding]:
        if self.world.repository.bare:
            return []
        file = self.world.repository.common / "info" / "exclude"
        lines = file.read_bytes().splitlines() if file.exists() else []
        runs = self.world.runs.root.exists()
        return [health.exclude(excluded=b"/.runs/" in lines, runs=runs, file=str(file))]

    def storage(self) -> Iterator[Finding]:
        """Yield what the disk can do on which claims and locks lie."""
        common = self.world.repository.common
        kind = health.mount_of(probes.mounts(), str(common.resolve()))
        try:
            locks, links = probes.try_storage(common)
            seen = health.Storage(kind=kind, locks=locks, links=links)
        except OSError as error:
            seen = health.Storage(kind=kind, refusal=str(error.strerror), read_only=error.errno == errno.EROFS)
        return health.storage(seen, str(common))

    def said(self) -> list[Finding]:
        """Return whether the settings that count are sound."""
        found = settings_at(self.world.repository, self.world.contracts, "HEAD")
        problems = [each.sentence() for each in found.problems] if isinstance(found, Rejection) else []
        return [health.settings(problems, found is not None)]

    def files(self) -> list[Finding]:
        """Return what `validate` says, of the files on disk or at the tip."""
        found = list(problems_of(self.batch))
        sentences = {level: [each.sentence() for each in found if each.severity is level] for level in Severity}
        where = f" at {self.batch.commit}" if self.batch.commit else ""
        return [health.files(len(self.batch.asked), sentences[Severity.ERROR], sentences[Severity.WARNING], where)]

    def agents(self) -> Iterator[Finding]:
        """Yield whether the coding agents are there that pipelines let work."""
        used: dict[str, str] = {}
        if self.settings.roles.agent is not None:
            used[str(self.settings.roles.agent["use"])] = SETTINGS_PATH
        for path, content in self.pipelines.items():
            for name in _agents_of(content):
                used.setdefault(name, path)
        versions = {name: probes.version_of(health.AGENTS[name][0]) for name in used if name in health.AGENTS}
        return health.agents(used, versions)

    def roles(self) -> Iterator[Finding]:
        """Yield whether the roles are installed that the settings name."""
        said = self.settings.roles
        found = {(role, name): cure(name) for role, name in missing_roles(said)}
        return health.roles(found, any(getattr(said, role) != BUILT_IN for role in ROLES))

    def subscribers(self) -> Iterator[Finding]:
        """Yield whether the subscribers are installed that the settings name."""
        said = self.settings.subscribers
        missing = {name: cure(name, SUBSCRIBERS) for name in said if not entry_points(name, SUBSCRIBERS)}
        return health.subscribers(missing, bool(said))

    def credentials(self) -> Iterator[Finding]:
        """Yield whether the credentials can be had that settings name. Programs are not started for that: the settings
        of a branch that nobody has merged may name any."""
        if not self.settings.credentials:
            return iter(())
        from reconciler.credentials.broker import broker_of
        from reconciler.credentials.secret import NoCredential
        from reconciler.outlet_settings import outgoing

        said, missing = outgoing(self.settings).credentials, {}
        broker = broker_of(said)
        for name in [each for each, source in said.items() if not source.command]:
            try:
                broker.get(name)
            except NoCredential as error:
                missing[name] = str(error)
        return health.credentials(missing, True)

    def extras(self) -> Iterator[Finding]:
        """Yield whether the extras are installed that settings and pipelines ask for."""
        wanted = dict(self._extras())
        missing = {name: why for name, why in wanted.items() if not has_extra(name)}
        return health.extras(missing, bool(wanted))

    def _extras(self) -> Iterator[tuple[str, str]]:
        """Yield each extra that is asked for, and what asks for it."""
        if self.settings.telemetry.otlp is not None:
            yield "otel", "telemetry.otlp"
        for name, each in self.settings.credentials.items():
            if "keyring" in each:
                yield "keyring", f"credentials.{name}"
        for path, content in self.pipelines.items():
            if "patterns" in (*_named(content, "guard"), *_named(content, "guard.use")):
                yield "patterns", path

    def engines(self) -> Iterator[Finding]:
        """Yield whether the engines answer that executors of the settings have. What settings of a branch that nobody
        has merged name is not executed for that."""
        said = {name: each for name, each in self.settings.executors.items() if each.engine}
        yield from health.engines({name: _engine_problem(name, each) for name, each in said.items()})
        yield from health.lent({name: self._lent(each) for name, each in said.items() if each.credential})

    def _lent(self, said: ExecutorSettings) -> health.Lent:
        from reconciler.afar.engines import address_for
        from reconciler.login import login_fault

        renewed = said.engine in RENEWING if said.engine in ENGINES else None
        fault = login_fault(address_for(self.world, said))
        return health.Lent(credential=said.credential, engine=said.engine, fault=fault, renewed=renewed)

    def deliveries(self) -> Iterator[Finding]:
        """Yield whether something was given up to deliver."""
        from reconciler.outlets.box import letters

        return health.deliveries(len(letters(self.world.repository.state, self.world.disk)))

    def leftovers(self) -> list[Finding]:
        runs = self.world.runs
        marks = runs.marks().items()
        gone = [run for run, task in marks if not task or not self.world.disk.exists(runs.directory(task, run).path)]
        return [health.leftovers(gone)]

    def conditions(self) -> Iterator[Finding]:
        return health.conditions(read_conditions(self.world.repository.state))


def _engine_problem(executor: str, said: ExecutorSettings) -> str | None:
    """Return what is in the way of asking an engine, "" if it answers, None where it is not asked."""
    from reconciler.executors.opening import open_engine

    if said.engine not in ENGINES or said.options.keys() & {"commands", "config", "kubeconfig"}:
        return None
    with tempfile.TemporaryDirectory(prefix="doctor-") as place:
        try:
            open_engine(executor, said, Path(place)).adopt("0" * 8)
        except (TransientError, OSError) as error:
            return str(error)
    return ""


def _agents_of(content: Content) -> Sequence[str]:
    return _named(content, "agent.use")


def _named(content: Content, key: str) -> Sequence[str]:
    """Return what the stages of a pipeline name at a key; nothing of a file that cannot be read, which is told
    elsewhere."""
    document = load_yaml(content, "", bytes_max=len(content)) if isinstance(content, bytes) else None
    found = parse.at(document.value, f"stages.[].{key}") if isinstance(document, Document) else ()
    return [name for _, name in found if isinstance(name, str)]


def _configured(world: World, key: str) -> str:
    try:
        return world.repository.git("config", "--get", key)
    except GitFailed as error:
        if error.exit_status == 1:  # git config: no such key
            return ""
        raise


def _looked(subject: str, look: Look) -> list[Finding]:
    """Return what a look finds; that it fails is a finding as well, and hinders no other."""
    try:
        return list(look())
    except (ReconcilerError, OSError) as error:
        return [health.unknown(subject, str(error))]


# ------------------------------------------------------------------------------------------------ output


def _count(found: Mapping[str, Sequence[Finding]], level: Level) -> int:
    return sum(each.level is level for findings in found.values() for each in findings)


def _document(found: Mapping[str, Sequence[Finding]]) -> dict[str, object]:
    rows = [
        {"group": group, "subject": each.subject, "level": each.level, "text": each.text, "cure": each.cure}
        for group, findings in found.items()
        for each in findings
    ]
    return {"errors": _count(found, Level.ERROR), "warnings": _count(found, Level.WARNING), "findings": rows}


def _show(found: Mapping[str, Sequence[Finding]]) -> None:
    for group, findings in found.items():
        click.echo(group)
        for each in findings:
            click.echo(f"  {_coloured(each.level)}{single_line(f'{each.subject}: {each.text}')}")
            if each.cure:
                click.echo(f"           cure: {single_line(each.cure)}")
    click.echo(_conclusion(found))


def _coloured(level: Level) -> str:
    word = f"{level.value:9}"
    return click.style(word, fg=COLOURS[level]) if use_colour() else word


def _conclusion(found: Mapping[str, Sequence[Finding]]) -> str:
    looked = f"{sum(map(len, found.values()))} things looked at"
    counts = ((_count(found, Level.ERROR), "error"), (_count(found, Level.WARNING), "warning"))
    words = " and ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count)
    return f"{looked}, {words}" if words else f"{looked}, nothing is wrong"
