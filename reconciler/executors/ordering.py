"""Orders and words as commits: made and read at both ends, the host's and the courier's.

What comes from the other side is judged before it touches a file. Nobody walks a tree that somebody else made: only
names that are looked for are read, each at its own place, each a regular file, each bounded, and all of them together.
So links, names that lead elsewhere, deep trees and a million files are simply not seen.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from reconciler import codec, events, journal, manifest
from reconciler.disk import RECORD_BYTES_MAX
from reconciler.errors import ContentError
from reconciler.executors import changes
from reconciler.git import Draft, Entry, Repository
from reconciler.model import Attempt, Claim, Plan, PlannedStage, StageRecord
from reconciler.order import ARTIFACT_BYTES_MAX, ARTIFACTS, ARTIFACTS_MAX, Answer
from reconciler.rundir import RunDirectory
from reconciler.values import frozen
from reconciler.work import RUN, Word, WorkOrder, is_true, signed

IDENTITY = "Reconciler <reconciler@localhost>"
ORDER = "order.json"
AGENTS = "agents"
AGENT_RECORD_BYTES_MAX = 64 * 1024
WORD_BYTES_MAX = 16 * 1024
HAND_BACK_S = 15.0
"""What a courier that was told to end takes beyond the grace of its stages, to hand back what became of them: an engine
that KILLs it sooner costs the record."""
ORDER_BYTES_MAX = 64 * 1024 * 1024
ORDER_FILES_MAX = 4000
"""A run directory with more records than this is not sent anywhere."""
LISTED_MAX = 20_000
"""A directory of a tree with more names than this is not one that we made."""
PATH_PARTS_MAX = 8

EARLIER = ("claims", "attempts", "ends", "changes")
NUMBERED = re.compile(r"(?P<number>[1-9][0-9]{0,8})\.json")
PLAN_FILE = re.compile(r"plan\.json|plans/[1-9][0-9]{0,8}\.json")
STAGE_NAME = re.compile(r"[0-9]{2,5}-[a-z0-9][a-z0-9._-]{0,200}")
PART = re.compile(r"[^\x00-\x1f\x7f/\\]{1,255}")


# ------------------------------------------------------------------------------------------------ the order


def draft_order(
    repository: Repository,
    directory: RunDirectory,
    plan: Plan,
    claim: Claim,
    *,
    plan_sha256: str,
    beat_s: float,
    bytes_max: int,
    epoch_s: int,
    depth: int = 0,
) -> Draft:
    """Return the order of a claimed attempt as a commit on top of that of its run, to be made.

    `plan_sha256` is the digest of the plan as it was frozen, `epoch_s` the time of the commit in seconds since 1970.
    The same order of the same second is the same commit. Raise ContentError if the records cannot be sent.
    """
    order = WorkOrder(
        run_id=plan.run_id,
        task_id=plan.task_id,
        number=claim.number,
        commit=plan.commit,
        plan_sha256=plan_sha256,
        beat_s=beat_s,
        bytes_max=bytes_max,
        depth=depth,
    )
    records = _records(directory, claim, plan_sha256)
    files = {ORDER: codec.render(order), **{f"{RUN}{name}": data for name, data in records.items()}}
    message = f"order: attempt {claim.number} of {plan.run_id}\n"
    beside = _carried(repository, directory, claim)
    return _draft(repository, plan.commit, files, message, epoch_s, beside)


def _carried(repository: Repository, directory: RunDirectory, claim: Claim) -> tuple[str, ...]:
    """Return the commit of the workspace in which an attempt goes on. Raise ContentError if that is gone."""
    change = changes.carried(directory, claim)
    if change is None:
        return ()
    commit = changes.kept_commit(repository, directory.path.name, change.number)
    if commit is None:
        raise ContentError(f"{directory.path}: the workspace in which attempt {claim.number} goes on is gone")
    return (commit,)


def _draft(
    repository: Repository,
    parent: str,
    files: Mapping[str, bytes],
    message: str,
    epoch_s: int,
    beside: tuple[str, ...] = (),
) -> Draft:
    """Return a commit of these files alone; `beside` are further parents."""
    nothing = repository.empty_tree()
    return Draft(
        parent=parent,
        base_tree=nothing,
        files=files,
        message=message,
        identity=IDENTITY,
        epoch_s=max(0, epoch_s),
        merges=beside,
    )


def _records(directory: RunDirectory, claim: Claim, plan_sha256: str) -> dict[str, bytes]:
    """Return what the attempt has to see of its run directory: name below it -> bytes."""
    disk, found, left = directory.disk, {}, ORDER_BYTES_MAX
    names = [claim.plan, *_earlier(directory, claim.number), *_agent_records(directory.disk.names(_agents(directory)))]
    if len(names) > ORDER_FILES_MAX:
        raise ContentError(f"{directory.path}: {len(names)} records; at most {ORDER_FILES_MAX} are sent elsewhere")
    for name in names:
        data = disk.read_bounded(directory.place(name))
        if data is not None:
            found[name], left = data, left - len(data)
        if left < 0:
            raise ContentError(f"{directory.path}: its records are too large; at most {ORDER_BYTES_MAX} bytes are sent")
    if hashlib.sha256(found.get(claim.plan, b"")).hexdigest() != plan_sha256:
        raise ContentError(f"{directory.path}/{claim.plan}: it is not the plan that was frozen here")
    return found


def _earlier(directory: RunDirectory, number: int) -> Iterator[str]:
    """Yield the names of all claims up to that of an attempt, and of what became of the attempts before."""
    for family in EARLIER:
        last = number if family == "claims" else number - 1
        yield from (f"{family}/{each}.json" for each in directory.numbers(family) if each <= last)


def _agents(directory: RunDirectory) -> str:
    return directory.place(AGENTS)


def _agent_records(names: Iterable[str]) -> list[str]:
    """Return the names of what agents spent, of the directories that are those of stages."""
    return [f"{AGENTS}/{each}/record.json" for each in sorted(names) if STAGE_NAME.fullmatch(each)]


def read_order(repository: Repository, oid: str) -> WorkOrder:
    """Return the order that a commit is. Raise ContentError if it is none."""
    [blob] = repository.look_up([f"{oid}:{ORDER}"])
    try:
        return codec.parse(WorkOrder, _content(repository, blob) or b"")
    except codec.CodecError as error:
        raise ContentError(f"{oid[:12]}: it is no order: {error}") from None


def lay_down(repository: Repository, oid: str, order: WorkOrder, directory: RunDirectory) -> None:
    """Write the run directory that comes with an order. Raise ContentError if it is not what the order says."""
    root = repository.tree(repository.look_up([f"{oid}:{RUN.rstrip('/')}"])[0])
    names = list(_laid_down(repository, root, order.number))
    if len(names) > ORDER_FILES_MAX:
        raise ContentError(f"{oid[:12]}: {len(names)} records; at most {ORDER_FILES_MAX} are taken")
    left, disk = ORDER_BYTES_MAX, directory.disk
    for name, entry in names:
        data = _content(repository, entry.oid)
        left -= len(data or b"")
        if data is None or left < 0:
            raise ContentError(f"{oid[:12]}:{RUN}{name}: too large; at most {RECORD_BYTES_MAX} bytes are taken")
        path = directory.path / name
        disk.make_directory(path.parent, sync=False)
        disk.write_atomic(path, data, sync=False)
    _ask_for_plan(directory, oid, order)


def _ask_for_plan(directory: RunDirectory, oid: str, order: WorkOrder) -> None:
    """Raise ContentError if the plan of the ordered attempt is not there as it was frozen."""
    where = f"{oid[:12]}:{RUN}"
    try:
        claim = directory.read(Claim, directory.record("claims", order.number))
        if claim is None or claim.number != order.number:
            raise ContentError(f"{where}claims/{order.number}.json: there is no such claim")
        data = directory.disk.read_bounded(directory.plan_path(claim)) if PLAN_FILE.fullmatch(claim.plan) else None
        if data is None or hashlib.sha256(data).hexdigest() != order.plan_sha256:
            raise ContentError(f"{where}{claim.plan}: it is not the plan that was ordered")
        plan = codec.parse(Plan, data)
    except codec.CodecError as error:
        raise ContentError(f"{where}: a record cannot be read: {error}") from None
    if (plan.run_id, plan.task_id, plan.commit) != (order.run_id, order.task_id, order.commit):
        raise ContentError(f"{where}{claim.plan}: it is the plan of another run")


def _laid_down(repository: Repository, root: Mapping[str, Entry], number: int) -> Iterator[tuple[str, Entry]]:
    """Yield name and entry of every record in a run directory that an attempt may see."""
    if (entry := root.get("plan.json")) is not None and entry.is_file:
        yield "plan.json", entry
    for family in (*EARLIER, "plans"):
        last = number if family in ("claims", "plans") else number - 1
        for name, entry in _listed(repository, root.get(family)).items():
            found = NUMBERED.fullmatch(name)
            if found and entry.is_file and int(found["number"]) <= last:
                yield f"{family}/{name}", entry
    yield from _told_by_agents(repository, root)


def _told_by_agents(repository: Repository, root: Mapping[str, Entry]) -> Iterator[tuple[str, Entry]]:
    for name, entry in _listed(repository, root.get(AGENTS)).items():
        record = _listed(repository, entry).get("record.json") if STAGE_NAME.fullmatch(name) else None
        if record is not None and record.is_file:
            yield f"{AGENTS}/{name}/record.json", record


def _listed(repository: Repository, entry: Entry | None) -> Mapping[str, Entry]:
    """Return what is in a directory of a tree, nothing where there is none or it has more names than any of ours."""
    found = repository.tree(entry.oid) if entry is not None and entry.is_tree else {}
    return found if len(found) <= LISTED_MAX else {}


def _content(repository: Repository, blob: str | None) -> bytes | None:
    """Return the bytes of a blob, None if there is none or it is larger than any record of ours."""
    return next(repository.objects.contents([blob], "blob"))[1] if blob is not None else None


# ------------------------------------------------------------------------------------------------ the word


def make_word(
    repository: Repository,
    order: str,
    word: Word,
    files: Mapping[str, bytes],
    key: str,
    epoch_s: int,
    beside: tuple[str, ...] = (),
) -> tuple[str, Word]:
    """Write a word as a commit on top of its order, with files of the run directory; return its id and the word as it
    was said, with tree and code. No ref leads to it. `beside` are commits that come with it."""
    told = {f"{RUN}{name}": data for name, data in files.items()}
    bare = repository.make_commit(_draft(repository, order, told, "word\n", epoch_s))
    [tree] = repository.look_up([f"{bare}^{{tree}}"])
    said = signed(replace(word, tree=tree or ""), key)
    draft = replace(_draft(repository, order, {}, codec.compact(said).decode(), epoch_s, beside), base_tree=tree)
    return repository.make_commit(draft), said


def read_word(repository: Repository, oid: str, key: str) -> Word | None:
    """Return the word that a commit is, None if it is none, or was not said by who has the key."""
    [(_, data)] = repository.objects.contents([oid], "commit")
    head, separator, message = (data or b"").partition(b"\n\n")
    if not separator or len(message) > WORD_BYTES_MAX:
        return None
    with suppress(codec.CodecError, UnicodeEncodeError):
        word = codec.parse(Word, message)
        comes_with_it = head.partition(b"\n")[0] == b"tree %s" % word.tree.encode()
        return word if comes_with_it and is_true(word, key) else None
    return None


# ------------------------------------------------------------------------------------------------ bringing home


class _Luggage:
    """The files of a word, taken one by one by their names, until there was too much."""

    def __init__(self, repository: Repository, tree: str, bytes_max: int) -> None:
        self.repository, self.left = repository, bytes_max
        root = repository.look_up([f"{tree}:{RUN.rstrip('/')}"])[0]
        self.folders: dict[str, Mapping[str, Entry]] = {"": repository.tree(root)}

    def entry(self, name: str) -> Entry | None:
        """Return the regular file of this name."""
        folder, _, last = name.rpartition("/")
        found = self._folder(folder).get(last)
        return found if found is not None and found.is_file else None

    def _folder(self, path: str) -> Mapping[str, Entry]:
        if path not in self.folders:
            above, _, last = path.rpartition("/")
            self.folders[path] = _listed(self.repository, self._folder(above).get(last))
        return self.folders[path]

    def take(self, name: str, bytes_max: int) -> bytes | None:
        """Return a file, None if it is not there, or larger than it or all of them may be."""
        entry = self.entry(name)
        data = _content(self.repository, entry.oid) if entry is not None else None
        if data is None or len(data) > min(bytes_max, self.left):
            return None
        self.left -= len(data)
        return data


@frozen
class Brought:
    """What a word brought: the record of its attempt, None where it has none yet, and how many files were written."""

    attempt: Attempt | None
    files: int = 0


def bring_home(repository: Repository, word: Word, directory: RunDirectory, plan: Plan, *, bytes_max: int) -> Brought:
    """Write what came with a word into a run directory: of that attempt alone, and its record last, so that whoever is
    interrupted begins again. A record that is there and has ended is not replaced.

    `plan` is the plan of the attempt, `bytes_max` what the order allowed. Raise ContentError if the record is none.
    """
    luggage = _Luggage(repository, word.tree, bytes_max + RECORD_BYTES_MAX)
    name = f"attempts/{word.number}.json"
    data = luggage.take(name, RECORD_BYTES_MAX)
    if data is None:
        return Brought(attempt=None)
    attempt = _attempt(data, word, plan)
    if _has_ended(directory, name):
        return Brought(attempt=attempt)
    if attempt.outcome is not None and not word.ended:
        return Brought(attempt=None)  # all that belongs to its end comes with the last word
    written = _bring_files(luggage, attempt, directory, plan) if word.ended else 0
    if word.ended:
        data = luggage.take(changes.record_name(word.number), changes.CHANGE_BYTES_MAX)
        changes.receive(repository, data, directory, plan, attempt, bytes_max=bytes_max)
    _bring_events(luggage, word, directory, plan)
    directory.disk.make_directory(directory.path / "attempts")
    directory.disk.write_atomic(directory.path / name, codec.compact(attempt))
    return Brought(attempt=attempt, files=written + 1)


def _attempt(data: bytes, word: Word, plan: Plan) -> Attempt:
    """Return the record that came with a word. Raise ContentError if it is not one of that attempt."""
    where = f"{word.run_id}: attempts/{word.number}.json"
    try:
        attempt = codec.parse(Attempt, data)
    except codec.CodecError as error:
        raise ContentError(f"{where}: what came home is no record: {error}") from None
    known = {each.id for each in plan.stages}
    if attempt.number != word.number or not {each.id for each in attempt.stages} <= known:
        raise ContentError(f"{where}: what came home is the record of another attempt")
    return attempt


def _has_ended(directory: RunDirectory, name: str) -> bool:
    with suppress(codec.CodecError):
        known = directory.read(Attempt, directory.place(name))
        return known is not None and known.outcome is not None
    return False


def _bring_files(luggage: _Luggage, attempt: Attempt, directory: RunDirectory, plan: Plan) -> int:
    """Write the files of evidence of an attempt and return how many there were."""
    written, disk = 0, directory.disk
    for name, bytes_max in files_of(plan, attempt):
        data = luggage.take(name, bytes_max)
        if data is not None:
            path = directory.path / name
            disk.make_directory(path.parent)
            disk.write_atomic(path, data, mode=0o600 if name.startswith(f"{AGENTS}/") else 0o644)
            written += 1
    return written


def _bring_events(luggage: _Luggage, word: Word, directory: RunDirectory, plan: Plan) -> None:
    """Append what happened in the attempt and is not told here yet: a journal only grows, for others read on."""
    data = luggage.take(journal.NAME, journal.BYTES_MAX)
    if not data:
        return
    heard = (events.parse(each) for each in data.split(b"\n") if each)
    ours = (plan.run_id, plan.task_id, word.number)
    told = [each for each in heard if each is not None and (each.run_id, each.task_id, each.attempt) == ours]
    with suppress(OSError):
        path = directory.path / journal.NAME
        known = set(_known_lines(directory, path))
        new = [each for each in told if events.line(each) not in known]
        if new:
            journal.append(path, new)


def _known_lines(directory: RunDirectory, path: Path) -> Iterator[bytes]:
    try:
        data = directory.disk.read(path, journal.BYTES_MAX)
    except FileNotFoundError:
        return
    yield from data.splitlines(keepends=True)


def files_of(plan: Plan, attempt: Attempt) -> Iterator[tuple[str, int]]:
    """Yield the name below the run directory, and the most bytes, of every file that may be evidence of an attempt:
    logs, what stages answered for, and what agents spent.

    The names follow from the plan. What a record says is taken only where it agrees.
    """
    records = {each.id: each for each in (*attempt.stages, *_judges(attempt)) if each.attempt == attempt.number}
    for stage in (*plan.stages, *plan.roles.judges):
        record = records.get(stage.id)
        if record is None:
            continue
        log = manifest.log_name(stage.index, stage.id, attempt.number)
        if record.log_path == log:
            yield log, RECORD_BYTES_MAX
        yield from _artifacts(stage, record, attempt.number)
        if stage.agent is not None:
            yield f"{AGENTS}/{_place(stage)}/record.json", AGENT_RECORD_BYTES_MAX


def _judges(attempt: Attempt) -> tuple[StageRecord, ...]:
    return attempt.judgement.records if attempt.judgement is not None else ()


def _place(stage: PlannedStage) -> str:
    return f"{stage.index + 1:02d}-{stage.id}"


def _artifacts(stage: PlannedStage, record: StageRecord, number: int) -> Iterator[tuple[str, int]]:
    """Yield the files that a stage answered for, as far as they lie where its files belong."""
    with suppress(codec.CodecError):
        answer = codec.load(Answer, record.answer) if record.answer is not None else None
        place = f"{ARTIFACTS}/{_place(stage)}{f'.{number}' if number > 1 else ''}/"
        for each in answer.files[:ARTIFACTS_MAX] if answer is not None else ():
            if each.path.startswith(place) and 0 <= each.bytes <= ARTIFACT_BYTES_MAX and _is_plain(each.path):
                yield each.path, each.bytes


def _is_plain(path: str) -> bool:
    """Return whether a path leads nowhere but down."""
    parts = path.split("/")
    plain = all(PART.fullmatch(each) and each not in (".", "..") for each in parts)
    return plain and len(parts) <= PATH_PARTS_MAX
