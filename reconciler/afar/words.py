"""What attempts at engines say of themselves: the refs that they move, brought home when they moved.

Writes `.work-key-<n>` (mode 0600) in a run directory: what the words of attempt n are signed with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from reconciler import codec, manifest
from reconciler.afar.engines import Engines
from reconciler.afar.memory import Memory, placement_of
from reconciler.errors import ContentError, TransientError
from reconciler.executors.ordering import ORDER, bring_home, read_word
from reconciler.hearing import Hearing
from reconciler.model import ExecutorSettings, Plan, Run
from reconciler.records import read_records
from reconciler.rundir import RunDirectory
from reconciler.work import KEY_VARIABLE, WORK, key_of, of_ref, repository_in, work_ref
from reconciler.world import World


class Words:
    """The words that one host hears. `refs` are those of attempts as they were known when it listened, `online` becomes
    False when the remote does not answer afterwards."""

    def __init__(self, world: World, engines: Engines, memory: Memory) -> None:
        self.world, self.engines, self.memory = world, engines, memory
        self.hearing: Hearing | None = None
        self.refs: Mapping[str, str] = {}
        self.online = True
        self.unheard: set[str] = set()
        """The attempts whose word waits until their engine can be asked for its key, by handle."""
        self._adopted: dict[tuple[str, str], Mapping[str, Mapping[str, str]]] = {}
        """What engines said since it was listened that they have, by executor and repository."""

    def begin(self, hearing: Hearing | None) -> None:
        """Begin a look. What engines have is asked anew in it."""
        self.hearing, self._adopted, self.unheard = hearing, {}, set()

    def listen(self) -> None:
        self.refs = self.known_refs()

    def known_refs(self) -> dict[str, str]:
        """Return the refs of attempts as they are known now: at the remote, or here where there is none."""
        if self.hearing is not None:
            return {ref: oid for ref, oid in self.hearing.refs.items() if ref.startswith(WORK)}
        answer = self.world.repository.git("for-each-ref", "--format=%(objectname) %(refname)", "--", WORK)
        return {ref: oid for oid, _, ref in (line.partition(" ") for line in answer.splitlines()) if of_ref(ref)}

    def bring_home(self, run: Run) -> Run:
        """Bring home the newest word of an attempt and return its run as it is then; one that is not true, or belongs
        to another order, counts for nothing."""
        placed, oid = placement_of(run), self.refs.get(work_ref(run.run_id, run.number))
        heard = self.memory.heard(placed.executor, placed.handle)
        if heard.heard is None or heard.heard.boot_id != self.world.now().boot_id:
            # Whoever hears of it first, or after this machine began anew, counts its silence from now on.
            heard = replace(heard, heard=self.world.now())
            self.memory.keep(placed.handle, heard)
        if oid is None or oid in (heard.word, heard.order):
            return run
        directory = self.world.runs.directory(run.task_id, run.run_id)
        key = self._key(directory, run.number) or self._recalled_key(directory, run)
        if key is None:
            self.unheard.add(placed.handle)  # its engine is asked for the key again when it answers
            return run
        word, order, plan = read_word(self.world.repository, oid, key), self._parent(oid), self.plan(run)
        ours = word is not None and (word.run_id, word.number) == (run.run_id, run.number)
        if word is not None and ours and plan is not None and heard.order in ("", order):
            with contextlib.suppress(ContentError):  # said by who has the key, and no record: nothing is known by it
                bytes_max = self.engines.said.get(placed.executor, ExecutorSettings()).bytes_max
                bring_home(self.world.repository, word, directory, plan, bytes_max=bytes_max)
            if not heard.submitted:
                # Somebody else handed it over, or nobody lived to hear the answer: what was seen before that is void.
                heard = replace(heard, sighting=None, ended=None)
            heard = replace(heard, order=order, submitted=True, over=word.ended)
        unread = word is None and not self._is_order(oid)
        self.memory.keep(placed.handle, replace(heard, word=oid, heard=self.world.now(), unread=unread))
        self._show(run)
        return self.world.runs.observe(run.task_id, run.run_id) or run

    def _show(self, run: Run) -> None:
        """Show the run as a manifest, as a worker here does, unless the path belongs to committed evidence by now."""
        if run.claim is None or run.claim.series > 1:
            return
        now_at, directory = self.world.now().at, self.world.runs.directory(run.task_id, run.run_id)
        with contextlib.suppress(TransientError, OSError):  # it is a view: the records are what counts
            records = read_records(self.world, run.task_id, run.run_id)
            document = manifest.manifest(records, updated_at=now_at, heartbeat_at=now_at)
            self.world.disk.write_atomic(directory.path / "manifest.json", codec.render(document), sync=False)

    def plan(self, run: Run) -> Plan | None:
        """Return the frozen plan of a run, None if it is lost."""
        with contextlib.suppress(codec.CodecError):
            return self.world.runs.frozen_plan(run.task_id, run.run_id, run.claim)
        return None

    # -------------------------------------------------------------------------------------------- whose they are

    def _parent(self, oid: str) -> str:
        """Return the first parent of a commit, "" if it has none: of a word, the order that it belongs to."""
        [(_, data)] = self.world.repository.objects.contents([oid], "commit")
        line = next((each for each in (data or b"").splitlines()[:3] if each.startswith(b"parent ")), b"")
        return line.removeprefix(b"parent ").decode("ascii", "replace")

    def _is_order(self, oid: str) -> bool:
        return self.world.repository.look_up([f"{oid}:{ORDER}"])[0] is not None

    def made_key(self, run: Run) -> str:
        """Return what the words of the newest attempt of a run are signed with, which is made if there is none yet."""
        directory = self.world.runs.directory(run.task_id, run.run_id)
        key = self._key(directory, run.number)
        if not key:
            key = key_of(self.world.chance.token(), run.number)
            self._keep_key(directory, run.number, key)
        return key

    def _key(self, directory: RunDirectory, number: int) -> str:
        """Return what the words of an attempt are signed with, "" where this host does not know it."""
        data = None
        with contextlib.suppress(codec.CodecError):
            data = self.world.disk.read_bounded(_key_path(directory, number))
        return data.decode("ascii", "replace").strip() if data is not None else ""

    def _keep_key(self, directory: RunDirectory, number: int, key: str) -> None:
        self.world.disk.write_atomic(_key_path(directory, number), key.encode(), mode=0o600)

    def _recalled_key(self, directory: RunDirectory, run: Run) -> str | None:
        """Return the key of an attempt that somebody else handed over: its engine tells it, "" if it does not. None
        where that cannot be asked now."""
        placed = placement_of(run)
        if placed.executor not in self.engines.said:
            return ""
        told = self._what_there_is(placed.executor, repository_in(placed.handle))
        key = told.get(placed.handle, {}).get(KEY_VARIABLE, "") if told is not None else None
        if key:
            self._keep_key(directory, run.number, key)
        return key

    def _what_there_is(self, executor: str, repository: str) -> Mapping[str, Mapping[str, str]] | None:
        """Return what an engine has of a repository, asked once in a look; None where it cannot be asked now."""
        about = executor, repository
        if about not in self._adopted and not self.engines.unusable(executor, only_silence=True):
            with self.engines.asking(executor) as engine:
                self._adopted[about] = engine.adopt(repository)
        return self._adopted.get(about)


def _key_path(directory: RunDirectory, number: int) -> Path:
    return directory.path / f".work-key-{number}"
