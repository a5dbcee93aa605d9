"""What is said to Slurm and what it answers, in words: options, the script of a batch, listings, refusals.

Pure. Slurm's own word for what it executes is *job*; here it is one of our submissions, whose name is its handle. An
*array* is several submissions with the same resources in one: its tasks have one script and one name, until each is
given its own.

Slurm accepts a name twice. So what is submitted may not *begin* (`BEGIN`, a day far away) before somebody lets it:
who has submitted looks who else has, lets the one begin that was there first and cancels all others. Whoever looks
later comes to the same result (`settle`), so it does not matter who of several does it, nor whether the one who
submitted still lives. It is no hold: those are for people, and Slurm looks less closely at what is held.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reconciler.executors.engine import Sighting, Standing, Submission, Turned
from reconciler.places import Cause, Resources
from reconciler.values import frozen
from reconciler.work import HANDLE, repository_in

PROGRAM = ("python3", "-m", "reconciler.executors.courier")
"""What an attempt is executed by, where the options name nothing else."""
WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,@+-]{0,99}")
"""A partition, an account, a QOS or a reservation."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
ARRAY = "gitops-reconciler-array"
"""The name of an array's tasks before they get their own."""
ARRAY_MAX = 200
"""So many tasks an array has at most; Slurm's own bound is 1000 by default (`MaxArraySize`)."""
CHUNK = 200
"""So many ids stand in one line or one list of arguments."""
SCRIPT_BYTES_MAX = 1024 * 1024
"""Slurm's own bound is 4 MiB by default (`max_script_size`)."""
FIELDS = ("JobArrayID", "Name", "State", "exit_code", "RestartCnt", "EligibleTime", "NodeList", "Reason")
BEGIN = "2037-07-01T00:00:00"
"""When something begins that nobody has let begin; a time that 32 bits can tell."""
FORMAT = ",".join(f"{each}:|" for each in FIELDS)
DETAIL_CHARACTERS_MAX = 300

QUEUED = frozenset(
    ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
)
ENDED: Mapping[str, Cause | None] = {
    "COMPLETED": None,
    "FAILED": None,
    "CANCELLED": Cause.ENGINE_CANCELLED,
    "REVOKED": Cause.ENGINE_CANCELLED,
    "TIMEOUT": Cause.TIME_LIMIT,
    "DEADLINE": Cause.TIME_LIMIT,
    "OUT_OF_MEMORY": Cause.OUT_OF_MEMORY,
    "NODE_FAIL": Cause.NODE_FAILED,
    "BOOT_FAIL": Cause.NODE_FAILED,
    "PREEMPTED": Cause.PREEMPTED,
}
"""States in which nothing of a submission runs any more. In any other one something may."""
NEVER_STARTED = "BadConstraints"
KILLED = 9
LAUNCH_FAILED = "JobLaunchFailure"

MEANINGS: Mapping[str, str] = {
    "Resources": "the nodes it needs are busy",
    "Priority": "others go first",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "PartitionNodeLimit": "it wants more nodes than its partition gives",
    "PartitionTimeLimit": "it wants more time than its partition gives",
    "PartitionConfig": "its partition has no node like that",
    "ReqNodeNotAvail": "the nodes it needs are down, drained or reserved",
    "Reservation": "its reservation has not begun",
    "JobHeldAdmin": "an administrator holds it",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its QOS is not valid",
}
"""What the reasons for waiting mean that people meet most often; others are told as Slurm says them."""

SETTLED = re.compile(
    r"invalid partition|invalid account|invalid qos|reservation is invalid|access denied to requested reservation"
    r"|memory specification can ?not be satisfied|node configuration is not available|invalid generic resource"
    r"|invalid trackable resource|time limit is invalid|more processors requested than permitted|invalid feature"
    r"|not permitted to use this partition|access/permission denied|invalid user id|node count specification invalid"
    r"|invalid --|dos line breaks|script exceeds|parameter too long|unrecognized option|requires an argument",
    re.IGNORECASE,
)
"""Refusals that only a person can change. All others are taken to pass: limits, rates, nodes that are drained."""
SILENT = re.compile(
    r"unable to contact slurm controller|connect failure|socket timed out|zero bytes were transmitted|standby mode"
    r"|authentication (credential|plugin)|protocol authentication|munge|communication (connection|shutdown) failure"
    r"|configuration (file|source)|connection refused|unable to resolve|incompatible versions",
    re.IGNORECASE,
)
"""What the commands complain of when there is nobody who could refuse."""
GONE = re.compile(r"invalid job id|already completing or completed|job/step already", re.IGNORECASE)
"""What `scancel` complains of when there is nothing left to cancel."""
FORBIDDEN = re.compile(r"access/permission denied|not permitted", re.IGNORECASE)
"""What `scontrol` complains of when it is not only too late for a change."""
MEMORY_TOLD = re.compile(rb"slurmstepd[^\n]*: error: [^\n]*(exceeded job memory limit|oom.kill)", re.IGNORECASE)
"""What the node writes into the output where memory is bounded by measuring it, and not by the kernel."""


@frozen
class Options:
    """The options of an executor with Slurm, as its schema has them; "" where Slurm or the program has its own way.
    `output` is a directory that nodes and this host share; `environment` are variables of every attempt."""

    program: tuple[str, ...] = PROGRAM
    partition: str = ""
    account: str = ""
    qos: str = ""
    reservation: str = ""
    constraint: str = ""
    scratch: str = ""
    output: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    requeue: bool = False
    arrays: bool = True
    commands: str = ""
    config: str = ""


@frozen
class Seen:
    """One line of a listing: what Slurm knows of one submission. `handle` is its name, "" for a task of an array that
    has no name of its own yet. `exit_status` is as wait(2) has it."""

    id: str
    handle: str
    state: str
    exit_status: int
    restarts: int
    may_begin: bool
    nodes: str
    reason: str

    @property
    def order(self) -> tuple[int, int]:
        """Who was submitted first: the number of an array, and the task in it."""
        first, _, task = self.id.partition("_")
        return int(first), int(task or -1)

    @property
    def signal(self) -> int:
        """What ended it, 0 where nothing did."""
        return self.exit_status & 0x7F

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED


@frozen
class Settling:
    """What is to be said so that of every handle one submission goes on, by the ids of Slurm: tasks of arrays that get
    their names and begin, others that begin, and those that are cancelled."""

    named: tuple[tuple[str, str], ...] = ()
    begun: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()


def options_of(given: Mapping[str, Any]) -> Options:
    """Return the options that settings say, which have been checked against their schema."""
    found = {key: value for key, value in given.items() if key not in ("program", "environment")}
    environment = tuple(sorted((name, str(value)) for name, value in given.get("environment", {}).items()))
    return Options(program=tuple(given.get("program", PROGRAM)), environment=environment, **found)


# ------------------------------------------------------------------------------------------------ submitting


def problem_of(submission: Submission) -> str:
    """Return why a submission cannot be told to Slurm, "" if it can."""
    asked = submission.resources
    words = {each: getattr(asked, each) for each in ("partition", "account", "qos", "reservation")}
    for name, value in words.items():
        if value and not WORD.fullmatch(value):
            return f"resources: {name} {value!r} is no name that Slurm could have; letters, digits and _.,@+- make one"
    if any("\0" in each for each in (*submission.arguments, *submission.secrets.values())):
        return "its arguments or secrets hold a NUL, which no program can be given"
    if any("\r\n" in each for each in (*submission.arguments, *submission.secrets.values())):
        return "its arguments or secrets hold a line end of DOS, which Slurm refuses; use plain line ends"
    bad = next((each for each in submission.secrets if not VARIABLE.fullmatch(each)), None)
    return f"secret {bad!r} is no name of an environment variable" if bad is not None else ""


def words_of(options: Options, group: Sequence[Submission]) -> list[str]:
    """Return the arguments of `sbatch` for submissions with the same resources: of one, or of an array. The script is
    given to it on standard input, so that nobody sees it in a list of processes."""
    first = group[0]
    name = ARRAY if len(group) > 1 else first.handle
    return [
        "--parsable",
        f"--begin={BEGIN}",
        f"--job-name={name}",
        f"--comment=gitops-reconciler {first.repository}",
        *((f"--array=0-{len(group) - 1}",) if len(group) > 1 else ("--dependency=singleton",)),
        "--export=NONE",
        "--input=/dev/null",
        f"--output={output_of(options, name)}",
        "--open-mode=append",
        "--chdir=/tmp",  # the one directory that every node has, and every container sees
        "--requeue" if options.requeue else "--no-requeue",
        "--nodes=1",
        "--ntasks=1",
        *_resources(options, first.resources),
    ]


def output_of(options: Options, handle: str) -> str:
    """Return where the output of a submission goes. Tasks of an array get their place with their name."""
    return f"{options.output}/{handle}.log" if options.output and handle != ARRAY else "/dev/null"


def _resources(options: Options, asked: Resources) -> Iterator[str]:
    if asked.cpus is not None:
        yield f"--cpus-per-task={asked.cpus}"
    if asked.memory_bytes is not None:
        yield f"--mem={max(1, math.ceil(asked.memory_bytes / 1024))}K"
    if asked.gpus:
        yield f"--gpus={asked.gpus}"
    if asked.time_s is not None:
        yield f"--time={max(1, math.ceil(asked.time_s / 60))}"  # in minutes, which is as fine as Slurm counts
    for name in ("partition", "account", "qos", "reservation"):
        if value := getattr(asked, name) or getattr(options, name):
            yield f"--{name}={value}"
    if options.constraint:
        yield f"--constraint={options.constraint}"


def grouped(options: Options, submissions: Sequence[Submission]) -> list[tuple[Submission, ...]]:
    """Return what is submitted in one call each: those with the same resources together, at most so many."""
    if not options.arrays:
        return [(each,) for each in submissions]
    alike: dict[tuple[str, Resources], list[list[Submission]]] = {}
    for each in submissions:
        groups = alike.setdefault((each.repository, each.resources), [[]])
        if len(groups[-1]) >= ARRAY_MAX or sum(map(_bytes, (*groups[-1], each))) > SCRIPT_BYTES_MAX:
            groups.append([])
        groups[-1].append(each)
    return [tuple(group) for groups in alike.values() for group in groups if group]


def _bytes(submission: Submission) -> int:
    """Return about how much a submission adds to a script."""
    return 200 + sum(len(each.encode()) for each in (*submission.arguments, *submission.secrets.values()))


def script_of(options: Options, group: Sequence[Submission]) -> str:
    """Return the script of a batch: fixed text that becomes the program. Whatever anybody else wrote is quoted.

    The first line that is neither empty nor a comment ends what `sbatch` reads as options, so there is one before any
    value, which may hold lines that look like options.
    """
    scratch = ("--scratch", options.scratch) if options.scratch else ()
    lines = ["#!/bin/sh", "umask 022"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in options.environment]
    for index, each in enumerate(group):
        lines += [f'if [ "${{SLURM_ARRAY_TASK_ID:-0}}" = {index} ]; then', f": attempt {each.handle}"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(each.secrets.items())]
        lines += [f"exec {shlex.join((*options.program, *each.arguments, *scratch))}", "fi"]
    return "\n".join((*lines, "exit 70", ""))


def batches(text: str) -> Iterator[tuple[int, str, Mapping[str, str]]]:
    """Yield what scripts say that Slurm has told again: the index of a task, its handle, its secrets."""
    for part in re.split(r"(?m)^if \[ \"\$\{SLURM_ARRAY_TASK_ID:-0\}\" = (?=\d{1,4} \]; then\n: attempt )", text)[1:]:
        index, _, rest = part.partition(" ]; then\n: attempt ")
        handle, _, lines = rest.partition("\n")
        if HANDLE.fullmatch(handle):
            yield int(index), handle, dict(_exported(lines))


def _exported(lines: str) -> Iterator[tuple[str, str]]:
    """Yield the variables that a part of a script exports before it becomes the program."""
    lexer = shlex.shlex(lines, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words = iter(lexer)
    while next(words, "") == "export":
        name, _, value = next(words, "").partition("=")
        yield name, value


def refused(complaint: str) -> Turned | None:
    """Return what `sbatch` meant that did not submit, by what it complained of; None if there is nobody to refuse."""
    said = told(complaint)
    if SETTLED.search(complaint):
        return Turned(reason=f"Slurm: {said}", settled=True)
    return None if SILENT.search(complaint) else Turned(reason=f"Slurm: {said}")


def told(complaint: str) -> str:
    """Return what a command complained of, on one line."""
    lines = [re.sub(r"^.*?error: |Batch job submission failed: ", "", each).strip() for each in complaint.splitlines()]
    return _line("; ".join(dict.fromkeys(filter(None, lines))) or "it says nothing")


# ------------------------------------------------------------------------------------------------ looking


def listed(text: str) -> list[Seen]:
    """Return what a listing says of submissions of ours; other lines are other people's."""
    return [each for line in text.splitlines() if (each := _seen(line.strip())) is not None]


def _seen(line: str) -> Seen | None:
    words = line.removesuffix("|").split("|", len(FIELDS) - 1)
    if len(words) != len(FIELDS) or not re.fullmatch(r"\d+(_\d+)?", words[0]):
        return None
    if words[1] != ARRAY and not HANDLE.fullmatch(words[1]):
        return None
    return Seen(
        id=words[0],
        handle="" if words[1] == ARRAY else words[1],
        state=words[2],
        exit_status=_status(words[3]),
        restarts=int(words[4]) if words[4].isdecimal() else 0,
        may_begin=words[5] != BEGIN,
        nodes="" if words[6] in ("(null)", "None assigned") else words[6],
        reason=words[7],
    )


def _status(word: str) -> int:
    """Return an exit status as wait(2) has it: Slurm tells that number, or `<code>:<signal>`."""
    code, _, signal = word.partition(":")
    if not code.isdecimal() or (signal and not signal.isdecimal()):
        return 0
    return (int(code) << 8) + int(signal) if signal else int(code)


def unnamed(seen: Iterable[Seen]) -> dict[str, str]:
    """Return the arrays with tasks that have no name of their own and may still go on, each with the id of one."""
    return {str(each.order[0]): each.id for each in seen if not each.handle and not each.has_ended}


def with_names(seen: Iterable[Seen], names: Mapping[str, str]) -> list[Seen]:
    """Return a listing in which tasks of arrays have the names that they were submitted for, by their ids."""
    return [replace(each, handle=each.handle or names.get(each.id, "")) for each in seen]


def first_of(seen: Iterable[Seen]) -> dict[str, Seen]:
    """Return by handle the one submission that counts: the one that was there first."""
    found: dict[str, Seen] = {}
    for each in sorted((each for each in seen if each.handle), key=lambda each: each.order):
        found.setdefault(each.handle, each)
    return found


def settle(seen: Collection[Seen], names: Mapping[str, str]) -> Settling:
    """Decide who goes on: the first of every handle begins, and all others that are not over are cancelled.
    `names` are tasks that had none, by id."""
    first = first_of(seen)
    live = [each for each in seen if each.handle and not each.has_ended]
    kept = [each for each in live if first[each.handle].id == each.id and not each.may_begin]
    return Settling(
        named=tuple((each.id, each.handle) for each in kept if each.id in names),
        begun=tuple(each.id for each in kept if each.id not in names),
        cancelled=tuple(each.id for each in live if first[each.handle].id != each.id),
    )


def lines_of(options: Options, settling: Settling) -> list[str]:
    """Return what `scontrol` is told so that those begin who may."""
    named = [
        f"update JobId={id} JobName={handle} StdOut={output_of(options, handle)} StartTime=now"
        for id, handle in settling.named
    ]
    return [*named, *(f"update JobId={','.join(part)} StartTime=now" for part in parts(settling.begun))]


def parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield ids, as many at once as stand in one line."""
    return (ids[at : at + CHUNK] for at in range(0, len(ids), CHUNK))


def sighting(seen: Seen | None) -> Sighting:
    """Return where a submission stands."""
    if seen is None:
        return Sighting(standing=Standing.ABSENT, detail="Slurm knows nothing of it")
    if seen.has_ended:
        return Sighting(standing=Standing.ENDED, cause=_cause(seen), detail=_ending(seen), place=seen.nodes)
    standing = Standing.QUEUED if seen.state in QUEUED else Standing.RUNNING
    return Sighting(standing=standing, detail=_waiting(seen), place=seen.nodes)


def _cause(seen: Seen) -> Cause | None:
    cause = ENDED[seen.state]
    if seen.state == "FAILED" and seen.reason == LAUNCH_FAILED and not seen.signal:
        return Cause.NODE_FAILED  # Slurm says the same of a program that a signal has ended
    return cause or (Cause.REQUEUED if seen.restarts else None)


def _ending(seen: Seen) -> str:
    reason = f" ({seen.reason})" if seen.reason not in ("", "None") else ""
    end = f"signal {seen.signal}" if seen.signal else f"exit code {seen.exit_status >> 8}"
    end = "never started" if seen.reason == NEVER_STARTED else end
    again = f", requeued {seen.restarts} times" if seen.restarts else ""
    return _line(f"Slurm: {seen.state}{reason}, {end}{again}, job {seen.id}")


def _waiting(seen: Seen) -> str:
    reason = seen.reason if seen.reason not in ("", "None") else ""
    if not seen.may_begin and reason == "BeginTime":
        reason = ""  # it begins as soon as it is seen to be the first of its name
    meaning = MEANINGS.get(reason.partition(",")[0], "")
    why = f" ({reason}: {meaning})" if meaning else f" ({reason})" if reason else ""
    again = f", requeued {seen.restarts} times" if seen.restarts else ""
    return _line(f"Slurm: {seen.state}{why}{again}, job {seen.id}")


def may_be_of_memory(seen: Seen | None) -> bool:
    """Return whether only the output can tell if a submission used more memory than it has."""
    return seen is not None and seen.state == "FAILED" and seen.signal == KILLED


def out_of_memory(found: Sighting, output: bytes) -> Sighting:
    """Return what is seen of such a submission, with what the node wrote into its output taken in."""
    if not MEMORY_TOLD.search(output):
        return found
    return replace(found, cause=Cause.OUT_OF_MEMORY, detail=_line(f"{found.detail}; it used more memory than it has"))


def of_repository(seen: Iterable[Seen], repository: str) -> dict[str, Seen]:
    """Return by handle what there is of a repository."""
    return {name: each for name, each in first_of(seen).items() if repository_in(name) == repository}


def _line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)[:DETAIL_CHARACTERS_MAX]
