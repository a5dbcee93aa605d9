"""Slurm: attempts as its jobs, by its own commands.

An attempt's name at Slurm is its handle. Slurm accepts a name twice, so a submission may not begin when it is made;
then all of that name are looked at, the first is let begin and the others are cancelled. Every look does that, so it
needs nobody who lives on: what a host that was killed has submitted, the next one lets begin.

Slurm forgets what ended after a while (`MinJobAge`, five minutes by default). What became of the run does not depend on
it: that comes home by git.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from reconciler.disk import DISK
from reconciler.executors import slurm_words as words
from reconciler.executors.engine import CALL_S, Engine, EngineSilent, Opening, Sighting, Submission, Turned
from reconciler.executors.slurm_commands import Commands, Said
from reconciler.work import HANDLE

TOLD_BYTES = 16 * 1024
"""So much of the end of an output is looked through for what the node wrote into it."""
BUSY = "temporarily unable to accept"


def open_engine(opening: Opening) -> Engine:
    """Return the engine of an executor with these options."""
    return Slurm(words.options_of(opening.options))


class Slurm:
    """One cluster, as one user sees it: that of this process."""

    def __init__(self, options: words.Options, call_s: float = CALL_S) -> None:
        self._options = options
        self._call_s = call_s

    # -------------------------------------------------------------------------------------------- what an engine does

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Turned]:
        """Place attempts; return by handle those that were not taken."""
        commands = self._commands()
        there = words.first_of(self._look(commands))
        turned = {each.handle: refusal for each in submissions if (refusal := _refusal(each, there.get(each.handle)))}
        fresh = {each.handle: each for each in submissions if each.handle not in turned and each.handle not in there}
        for group in words.grouped(self._options, tuple(fresh.values())):
            turned |= self._placed(commands, group)
        if not fresh.keys() <= turned.keys():
            self._look(commands)
        return turned

    def observe(self, handles: Collection[str]) -> Mapping[str, Sighting]:
        """Return what is known of these handles."""
        if not handles:
            return {}
        there = words.first_of(self._look(self._commands()))
        return {each: self._sighting(each, there.get(each)) for each in handles}

    def cancel(self, handles: Collection[str]) -> None:
        """Have these ended: TERM, and KILL after the time that the cluster gives (`KillWait`)."""
        if not handles:
            return
        wanted, commands = set(handles), self._commands()
        seen, _ = self._list(commands)
        self._cancel(commands, [each.id for each in seen if each.handle in wanted and not each.has_ended])

    def adopt(self, repository: str) -> Mapping[str, Mapping[str, str]]:
        """Return what there is of a repository, with the secrets that are in its scripts. Slurm has the script of what
        ended until it forgets it (`MinJobAge`)."""
        commands = self._commands()
        there = words.of_repository(self._look(commands), repository)
        ids = {str(each.order[0]): each.id for each in there.values()}  # one script an array
        secrets = {handle: found for _, handle, found in self._scripts(commands, tuple(ids.values()))}
        return {handle: secrets.get(handle, {}) for handle in there}

    def logs(self, handle: str, bytes_max: int) -> bytes:
        """Return the end of what a submission has printed, where nodes and this host share the directory `output`."""
        if not self._options.output or not HANDLE.fullmatch(handle):
            return b""
        path = Path(self._options.output) / f"{handle}.log"
        found = DISK.look(path)
        if found is None or found.is_directory:
            return b""
        try:
            return DISK.read(path, bytes_max, max(0, found.bytes - bytes_max))
        except OSError:
            return b""

    # -------------------------------------------------------------------------------------------- submitting

    def _commands(self) -> Commands:
        return Commands(self._options.commands, self._options.config, self._call_s)

    def _placed(self, commands: Commands, group: Sequence[Submission]) -> dict[str, Turned]:
        """Submit a group, each by itself where an array is refused; return those that were not taken. What was refused
        to one is refused to those after it, which want the same."""
        if (refusal := self._refused(commands, group)) is None:
            return {}
        for index, each in enumerate(group):
            if len(group) > 1:
                refusal = self._refused(commands, (each,))
            if refusal is not None:
                return {later.handle: refusal for later in group[index:]}
        return {}

    def _refused(self, commands: Commands, group: Sequence[Submission]) -> Turned | None:
        """Submit a group in one call; return why it was not taken, None if it was."""
        if commands.left_s() < self._call_s / 4:  # for looking at what was submitted and letting it begin
            return Turned(reason="Slurm is slow, and the time to submit was over")
        try:
            said = commands.run("sbatch", words.words_of(self._options, group), words.script_of(self._options, group))
        except EngineSilent as silent:
            if BUSY in str(silent):
                return Turned(reason="Slurm has as many submissions as it takes (MaxJobCount)")
            raise
        refusal = words.refused(said.complaint) if said.status else None
        if said.status and refusal is None:
            raise EngineSilent(f"sbatch: {words.told(said.complaint)}")
        return refusal

    # -------------------------------------------------------------------------------------------- looking

    def _look(self, commands: Commands) -> list[words.Seen]:
        """Return what there is of this user, and have one submission of every handle begin."""
        seen, names = self._list(commands)
        settling = words.settle(seen, names)
        self._cancel(commands, settling.cancelled)
        self._tell(commands, words.lines_of(self._options, settling))
        return seen

    def _list(self, commands: Commands) -> tuple[list[words.Seen], Mapping[str, str]]:
        """Return what there is of this user, and by their ids the handles of tasks that have no name of their own."""
        said = _answer("squeue", commands.run("squeue", _LISTING))
        seen = words.listed(said.output)
        names: dict[str, str] = {}
        for array, first in words.unnamed(seen).items():
            names |= {f"{array}_{index}": handle for index, handle, _ in self._scripts(commands, (first,))}
        return words.with_names(seen, names), names

    def _scripts(self, commands: Commands, ids: Sequence[str]) -> Iterator[tuple[int, str, Mapping[str, str]]]:
        """Yield of the scripts of submissions the index of each task, its handle and its secrets."""
        if ids:
            yield from words.batches(self._tell(commands, [f"write batch_script {each} -" for each in ids]).output)

    def _sighting(self, handle: str, seen: words.Seen | None) -> Sighting:
        found = words.sighting(seen)
        return words.out_of_memory(found, self.logs(handle, TOLD_BYTES)) if words.may_be_of_memory(seen) else found

    # -------------------------------------------------------------------------------------------- telling

    def _tell(self, commands: Commands, lines: Sequence[str]) -> Said:
        """Say lines to `scontrol`. That it cannot do one of them shows at the next look."""
        if not lines:
            return Said(status=0, output="", complaint="")
        said = commands.run("scontrol", (), "".join(f"{each}\n" for each in lines))
        if words.FORBIDDEN.search(said.complaint) or (said.status and words.SILENT.search(said.complaint)):
            raise EngineSilent(f"scontrol: {words.told(said.complaint)}")
        return said

    def _cancel(self, commands: Commands, ids: Sequence[str]) -> None:
        for part in words.parts(ids):
            said = commands.run("scancel", part)
            left = "\n".join(each for each in said.complaint.splitlines() if not words.GONE.search(each))
            if said.status and left:
                raise EngineSilent(f"scancel: {words.told(left)}")


_LISTING = ("--me", "--all", "--noheader", "--array", "--states=all", f"--Format={words.FORMAT}")


def _refusal(submission: Submission, there: words.Seen | None) -> Turned | None:
    """Return why a submission is not even tried, None where nothing speaks against it: it cannot be told, or Slurm has
    refused it before and remembers that as an end."""
    if problem := words.problem_of(submission):
        return Turned(reason=problem, settled=True)
    if there is not None and there.state == "FAILED" and there.reason == words.NEVER_STARTED:
        return Turned(reason="Slurm: no node can give what it asks for (BadConstraints)", settled=True)
    return None


def _answer(name: str, said: Said) -> Said:
    if said.status:
        raise EngineSilent(f"{name}: {words.told(said.complaint)}")
    return said
