"""One try of an agent's stage: tell it what to do, hear it, look at what it left, judge.

Everything of its own lies in `agents/<NN-stage>/` below the run directory: a home, a directory for temporary files, the
prompt, and the record by which a later try goes on. The home holds all that the agent read, so it is removed when the
stage has passed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reconciler import codec, contracts
from reconciler.agent import Agent
from reconciler.agents.claude import Claude
from reconciler.agents.codex import Codex
from reconciler.agents.command import Command
from reconciler.agents.doorway import Doorway, NoDoor, open_doorway
from reconciler.agents.driver import Driver, Launch, Place, Task
from reconciler.agents.events import Event, Kind
from reconciler.agents.evidence import ANSWER_BYTES_MAX, Changed, EventLog, Secrets, changed, diff_detail, leave
from reconciler.agents.prompt import INSTRUCTIONS_BYTES_MAX, PROMPT_BYTES_MAX, answer_of, told, told_again
from reconciler.agents.record import Record, read_record, write_record
from reconciler.agents.running import Ending, Running, Tail, end_marked
from reconciler.agents.story import Story, line
from reconciler.agents.verdict import Findings, How, Judgement, Spent, failed, judge, out_of_budget, over
from reconciler.disk import DISK
from reconciler.errors import ContentError
from reconciler.git import Repository, open_repository
from reconciler.order import ARTIFACT_BYTES_MAX, Answer, Artifact, Order, Verdict
from reconciler.parse import pattern_fault
from reconciler.redact import secret_values
from reconciler.values import frozen

DRIVERS: Mapping[str, type[Driver]] = {"codex": Codex, "claude": Claude, "command": Command}
SCHEMA_BYTES_MAX = 64 * 1024
PATTERN_CHARACTERS_MAX = 500
SAVE_INTERVAL_S = 5.0
ANSWER_DEPTH_MAX = 50
SHOWN_VIOLATIONS_MAX = 20
SHOWN_VALUE_CHARACTERS_MAX = 64 * 1024
SHOWN_TEXT_CHARACTERS_MAX = 8 * 1024


class Unfit(Exception):
    """The stage cannot begin: what it needs is not there. It is an answer."""

    def __init__(self, reason: str, summary: str) -> None:
        super().__init__(summary)
        self.reason = reason


@frozen
class Told:
    """What the commit says that the agent shall do. `schema` is "" where any answer will do."""

    prompt: str
    instructions: tuple[tuple[str, str], ...]
    schema: str


_NOTHING = object()


@frozen
class Given:
    """What the agent answered: as text, and as a value where a schema asked for one and there is one."""

    text: str
    value: Any = _NOTHING
    violations: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        return "answer.txt" if self.value is _NOTHING else "answer.json"

    def shown(self) -> Any:
        """Return what the manifest shows of it: a value if it is not too large, else the start of the text."""
        small = len(self.text) <= SHOWN_VALUE_CHARACTERS_MAX
        return self.value if self.value is not _NOTHING and small else self.text[:SHOWN_TEXT_CHARACTERS_MAX]


class AgentStage:
    """The try from its order to its answer."""

    def __init__(self, order: Order, door: int | None = None) -> None:
        self.order, self.door = order, door
        self.agent = codec.load(Agent, dict(order.planned.agent or {}))
        self.driver = DRIVERS[self.agent.driver]()
        self.workspace = Path(order.workspace)
        self.own = Path(order.run_directory) / order.own
        work = self.workspace / order.planned.cwd
        self.place = Place(work=work, home=self.own / "home", temporary=self.own / "tmp")
        self.record_path = self.own / "record.json"
        self.environment = {**os.environ, **self.agent.env}
        self.secrets = Secrets(order.plan.redact, secret_values(self.environment))
        self.story, self.events = Story(), EventLog(self.secrets)
        self.record = Record()
        self.before = Spent()
        self.resumed = False
        self.began = self.saved = time.monotonic()
        self.running: Running | None = None
        self.doorway: Doorway | None = None

    def run(self) -> Answer:
        """Do the stage and return its answer."""
        self._fence()
        self._make_room()
        self.record = read_record(self.record_path, self.order.earlier)
        self.before = self.record.spent
        if how := over(self.before, self.agent):
            return self._answer(out_of_budget(how, self.before, self.agent))
        repository = open_repository(Path(self.order.checkout))
        try:
            self._go_through_door()
            said = self._told(repository)
            self._begin(repository)
            # Ending the agent ends every child of this process: git is started anew when it is asked again.
            repository.objects.close()
            return self._look(repository, said, self._run_program(said))
        except Unfit as unfit:
            return self._answer(failed(unfit.reason, str(unfit)))
        finally:
            repository.objects.close()

    # -------------------------------------------------------------------------------------------- before

    def _fence(self) -> None:
        """End what an earlier try left running; before the very first one, remove what anybody else put there."""
        end_marked(str(self.place.home))
        if self.order.number == 1 and self.order.try_number == 1:
            DISK.remove_tree(self.own)

    def _make_room(self) -> None:
        for each in (self.own, self.place.home, self.place.temporary):
            DISK.make_directory(each)
            os.chmod(each, 0o700)

    def _go_through_door(self) -> None:
        """Let an agent without trust reach its model, and nothing else. Raise Unfit if it cannot."""
        if self.door is None:
            return
        try:
            self.doorway = open_doorway(self.door)
        except NoDoor as error:
            raise Unfit("no-door", str(error)) from None
        self.agent = self.driver.through(self.agent, self.doorway.url, self.doorway.token)
        self.environment = {**os.environ, **self.agent.env}
        self.secrets = Secrets(self.order.plan.redact, secret_values(self.environment))
        self.events = EventLog(self.secrets)

    def _told(self, repository: Repository) -> Told:
        """Return what the commit says. Raise Unfit where it does not say it."""
        agent, commit = self.agent, self.order.commit
        prompt = agent.prompt or self._read(repository, agent.prompt_file, PROMPT_BYTES_MAX, "prompt-missing")
        if not prompt.strip():
            raise Unfit("prompt-missing", f"{agent.prompt_file}: the prompt is blank at commit {commit[:12]}")
        schema = ""
        if agent.output_schema:
            schema = self._read(repository, agent.output_schema, SCHEMA_BYTES_MAX, "schema-missing")
            _refuse_bad_schema(agent.output_schema, schema)
        paths = self.order.plan.instructions.sources
        instructions = [
            (path, self._read(repository, path, INSTRUCTIONS_BYTES_MAX, "instructions-missing")) for path in paths
        ]
        return Told(prompt=prompt, instructions=tuple(instructions), schema=schema)

    def _read(self, repository: Repository, path: str, bytes_max: int, reason: str) -> str:
        """Return a file of the commit as text. Raise Unfit if it is not there, no file, too large or no text."""
        commit = self.order.commit
        entries = repository.files_at(commit, [path])
        if not entries:
            raise Unfit(reason, f"{path}: no such file at commit {commit[:12]}")
        [(_, data)] = repository.blobs([entries[0].oid])
        if data is None or len(data) > bytes_max:
            raise Unfit(reason, f"{path}: too large; at most {bytes_max // 1024} KiB are read")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise Unfit(reason, f"{path}: is no UTF-8 text") from None

    def _begin(self, repository: Repository) -> None:
        """Write down how the workspace was found, and which session begins or goes on."""
        digest = self.order.planned.digest
        base = self.record.base if self.record.digest == digest else None
        if base is None:
            base = self._changed(repository).sha256
        known = self.record.session if self.record.digest == digest else ""
        self.resumed = self.agent.resume and bool(known) and self.driver.kept(self.place, known)
        before_tokens = self.record.before_tokens if self.resumed and self.driver.cumulative else self.before.tokens
        session = known if self.resumed else self.driver.new_session()
        self.record = replace(self.record, session=session, digest=digest, base=base, before_tokens=before_tokens)
        self._save(sync=True)

    def _changed(self, repository: Repository) -> Changed:
        return changed(
            repository, self.order.plan, self.order.commit, self.workspace, self.own / f"index.{os.getpid()}"
        )

    # -------------------------------------------------------------------------------------------- running

    def _run_program(self, said: Told) -> Ending:
        """Start the agent and hear it to its end. Raise Unfit if it cannot be started."""
        launch = self._launch(said)
        without = {*launch.without}
        environment = {name: value for name, value in self.environment.items() if name not in without}
        self.running = Running(
            self.driver.reader(self.agent),
            self._heard,
            self._limit,
            stall_after_s=self.agent.stall_after_s,
            grace_s=self.order.plan.grace_s,
        )
        self._follow_record(at_end=True)
        prompt = self.own / "prompt.md" if launch.told_by_input else None
        lock = Path(self.order.run_directory) / "lock"
        try:
            return self.running.run(launch, self.place.work, prompt, {**environment, **launch.environment}, lock)
        except (OSError, ValueError) as error:
            raise self._not_started(error) from None
        finally:
            if self.resumed and not self.story.session:
                # It could not go on with what it kept: the next try begins anew.
                self.record = replace(self.record, session="")
            self._save(sync=True)

    def _launch(self, said: Told) -> Launch:
        """Write the prompt and the schema down, and return what the driver makes of them."""
        prompt_file, schema_file = self.own / "prompt.md", self.own / "schema.json"
        DISK.write_atomic(prompt_file, self._prompt(said).encode(), sync=False, mode=0o600)
        if said.schema:
            DISK.write_atomic(schema_file, said.schema.encode(), sync=False)
        bound = self.agent.budget.cost
        return self.driver.launch(
            Task(
                agent=self.agent,
                place=self.place,
                session=self.record.session,
                resumed=self.resumed,
                prompt_file=prompt_file,
                schema_file=schema_file if said.schema else None,
                schema=said.schema,
                cost_left=bound - self.before.cost_usd if bound is not None else None,
            )
        )

    def _prompt(self, said: Told) -> str:
        if not self.resumed:
            parameters = self.order.plan.parameters
            return told(said.prompt, parameters=parameters, instructions=said.instructions, schema=said.schema)
        earlier = self.order.earlier
        return told_again(str(earlier.get("reason", "")), str(earlier.get("summary", "")), said.schema)

    def _not_started(self, error: OSError | ValueError) -> Unfit:
        if not self.place.work.is_dir():
            return Unfit("failed", f"directory '{self.order.planned.cwd}' is not there")
        program = self.agent.command[0] if self.agent.command else ""
        if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError):
            cure = self.driver.install
            return Unfit("not-found", f"{self.agent.use} is not installed: no program '{program}'; {cure}")
        return Unfit("failed", f"'{program}' cannot be started: {error}")

    def _heard(self, event: Event) -> None:
        """Take an event in: into the story, the log, the evidence and, if a session begins, the record."""
        self.story.add(event)
        self.events.add(event)
        if said := line(event):
            print(said[:8192], flush=True)
        if event.kind == Kind.SESSION and event.session and event.session != self.record.session:
            self.record = replace(self.record, session=event.session)
            self._save(sync=True)
        if event.kind == Kind.SESSION:
            self._follow_record(at_end=False)

    def _follow_record(self, *, at_end: bool) -> None:
        """Begin to read what the agent notes itself; of a session that goes on only what is new."""
        if self.running is None or self.running.tail is not None:
            return
        found = self.driver.record(self.place, self.record.session) if self.record.session else None
        if found is not None:
            path, reader = found
            self.running.tail = Tail(path, reader, path.stat().st_size if at_end else 0)

    def _spent(self) -> Spent:
        usage = self.story.usage
        return Spent(
            seconds=round(self.before.seconds + time.monotonic() - self.began, 3),
            tokens=max(self.before.tokens, self.record.before_tokens + usage.tokens),
            cost_usd=self.before.cost_usd + (usage.cost_usd or 0.0),
        )

    def _limit(self) -> How | None:
        """Return which bound is reached, and note now and then what was spent: a try that is killed counts."""
        self._follow_record(at_end=False)
        if time.monotonic() - self.saved > SAVE_INTERVAL_S:
            self._save(sync=False)
        return over(self._spent(), self.agent)

    def _save(self, *, sync: bool) -> None:
        self.saved = time.monotonic()
        self.record = replace(self.record, spent=self._spent())
        write_record(self.record_path, self.record, sync=sync)

    # -------------------------------------------------------------------------------------------- after

    def _look(self, repository: Repository, said: Told, ending: Ending) -> Answer:
        """Judge what the agent left, and answer with the evidence."""
        if not self.driver.terminal(self.agent) and ending.how == How.EXITED and ending.exit_code == 0:
            self._heard(Event(kind=Kind.ENDED, raw="exit code 0"))
        change = self._changed(repository)
        answer = self._answered(said.schema)
        judgement = judge(self.story, self.agent, self._findings(ending, change, answer))
        files, more = self._evidence(change, answer)
        detail = {
            **more,
            "exit_code": ending.exit_code,
            "answer": answer.shown(),
            "violations": list(answer.violations[:SHOWN_VIOLATIONS_MAX]),
        }
        if judgement.verdict == Verdict.PASSED:
            DISK.remove_tree(self.place.home)
            DISK.remove_tree(self.place.temporary)
        return self._answer(judgement, detail, files)

    def _findings(self, ending: Ending, change: Changed, answer: Given) -> Findings:
        return Findings(
            how=ending.how,
            exit_code=ending.exit_code,
            stderr=ending.stderr,
            answered=bool(answer.text.strip()),
            violations=answer.violations,
            changed=None if change.sha256 is None else change.sha256 != self.record.base,
            missing=tuple(each for each in self.agent.demand.files if not _is_file(self.workspace, each)),
            spent=self._spent(),
        )

    def _answered(self, schema: str) -> Given:
        """Return the agent's answer: its text and, where a schema asks for JSON, what is wrong in it."""
        text = self.story.answer if self.story.answer is not None else self.story.last_message
        if not schema or not text.strip():
            return Given(text=text)
        text = answer_of(text)
        if (size := len(text.encode(errors="replace"))) > ANSWER_BYTES_MAX:
            return Given(text=text, violations=(f"it has {size} bytes, at most {ANSWER_BYTES_MAX} are kept",))
        try:
            value = json.loads(text, parse_constant=_no_number)
            deep = _is_deep(value)
        except (ValueError, RecursionError):
            return Given(text=text, violations=("it is no JSON",))
        if deep:
            return Given(text=text, violations=(f"it is nested more than {ANSWER_DEPTH_MAX} levels deep",))
        try:
            found = contracts.violations(json.loads(schema), value)
        except ContentError as error:
            return Given(text=text, value=value, violations=(f"the schema {error}",))
        return Given(text=text, value=value, violations=tuple(_sentence(each.path, each.reason) for each in found))

    def _evidence(self, change: Changed, answer: Given) -> tuple[tuple[Artifact, ...], Mapping[str, object]]:
        """Write what becomes evidence; return it, and what the manifest says of the change."""
        files = {"events.jsonl": self.events.data()}
        counted = self.secrets.redactor.count
        if change.change is not None and change.change.patch:
            files["changes.patch"] = self.secrets.without(change.change.patch)[:ARTIFACT_BYTES_MAX]
        detail = diff_detail(change, self.secrets.redactor.count - counted)
        if answer.text.strip():
            data = self.secrets.without(answer.text.encode(errors="replace"))
            files[answer.file_name] = data[:ANSWER_BYTES_MAX] + b"\n"
        return leave(Path(self.order.run_directory), self.order.artifacts, files), detail

    def _answer(
        self,
        judgement: Judgement,
        detail: Mapping[str, object] | None = None,
        files: tuple[Artifact, ...] = (),
    ) -> Answer:
        """Return the answer, with what is said of every try: who worked, in which session, and what it took."""
        agent = self.agent
        about = {
            "agent": agent.use,
            "driver": agent.driver,
            "model": agent.model,
            "sandbox": agent.sandbox,
            **self.story.detail(),
            "session": self.record.session,
            "resumed": self.resumed,
            "spent": asdict(self._spent()),
            "not_enforced": self._not_enforced(),
            "deliver": agent.deliver,
        }
        print(f"{judgement.verdict}: {judgement.summary}", flush=True)
        return Answer(
            verdict=judgement.verdict,
            reason=judgement.reason,
            summary=judgement.summary,
            detail={**about, **(detail or {})},
            files=files,
        )

    def _not_enforced(self) -> list[str]:
        """Return the bounds that this agent says nothing about, so that nobody believes in them."""
        asked = self.agent.budget.cost is not None and self.story.terminal is not None
        return ["budget.cost"] if asked and self.story.usage.cost_usd is None else []


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _is_deep(value: Any) -> bool:
    """Return whether an answer is nested more deeply than records may be."""
    level = [value]
    for _ in range(ANSWER_DEPTH_MAX):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [item for each in inner for item in each]
    return any(isinstance(each, dict | list) for each in level)


def _sentence(path: tuple[str | int, ...], reason: str) -> str:
    pointer = "".join(f"/{each}" for each in path)
    return f"at {pointer}: {reason}" if pointer else reason


def _is_file(workspace: Path, path: str) -> bool:
    """Return whether a path is a regular file in the workspace, reached by no link that leads out of it."""
    found = workspace / path
    return found.is_file() and found.resolve().is_relative_to(workspace.resolve())


def _refuse_bad_schema(path: str, text: str) -> None:
    """Raise Unfit if a text is no JSON Schema that can be used: no other file, no pattern that takes for ever."""
    try:
        schema = json.loads(text, parse_constant=_no_number)
        if not isinstance(schema, dict):
            raise ContentError("is no JSON object")
        for pattern in _patterns(schema):
            if fault := pattern_fault(pattern, length_max=PATTERN_CHARACTERS_MAX):
                raise ContentError(fault)
        for reference in _references(schema):
            if not reference.startswith("#"):
                raise ContentError(f"refers to {reference[:200]}, which lies outside the file")
        contracts.violations(schema, None)
    except (ValueError, RecursionError, ContentError) as error:
        raise Unfit("schema-missing", f"{path}: {error}") from None


def _patterns(schema: Any) -> list[str]:
    """Return every regular expression in a schema."""
    found: list[str] = []
    for part in _parts(schema):
        if isinstance(part.get("pattern"), str):
            found.append(part["pattern"])
        if isinstance(part.get("patternProperties"), dict):
            found += part["patternProperties"]
    return found


def _references(schema: Any) -> list[str]:
    return [part[key] for part in _parts(schema) for key in ("$ref", "$dynamicRef") if isinstance(part.get(key), str)]


def _parts(value: Any) -> list[dict[str, Any]]:
    """Return every mapping in a value."""
    found, ahead = [], [value]
    while ahead:
        each = ahead.pop()
        if isinstance(each, dict):
            found.append(each)
            ahead += each.values()
        elif isinstance(each, list):
            ahead += each
    return found
