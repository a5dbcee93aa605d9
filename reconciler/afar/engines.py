"""The engines that settings name: opened when they are needed, and left alone for a while when they do not answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from reconciler.afar.looks import Beside, Looks
from reconciler.errors import TransientError
from reconciler.executors.engine import Engine, EngineSilent, Renewing
from reconciler.executors.opening import open_engine
from reconciler.model import ExecutorSettings, Settings
from reconciler.remote import address_of
from reconciler.work import repository_of
from reconciler.world import World

PAUSE_S, PAUSE_MAX_S = 1.0, 60.0
"""How long an engine is left alone that does not answer or takes nothing: 1, 2, 4 ... 60 seconds."""
MISSING = "it has attempts, and settings name no engine for it any more; name it again to look at them or to end them"


@dataclass(slots=True)
class Pause:
    """How an engine behaves: `why` nothing can be placed there until `until_s` (monotonic seconds), how often in a row
    it did not answer, or took nothing, and when it was asked last."""

    why: str = ""
    until_s: float = float("-inf")
    failures: int = 0
    refusals: int = 0
    asked_s: float = float("-inf")


class Engines:
    """All engines of one host. `said` is by executor what settings say of those that have one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.said: Mapping[str, ExecutorSettings] = {}
        self.withheld: frozenset[str] = frozenset()
        self.looks = Looks(world.beside or Beside())
        self.pauses: dict[str, Pause] = {}
        self.missing: frozenset[str] = frozenset()
        """The executors that have attempts, and of which settings say nothing any more."""
        self._open: dict[str, tuple[ExecutorSettings, frozenset[str], Engine]] = {}

    def configure(self, settings: Settings) -> None:
        self.said = {name: each for name, each in settings.executors.items() if each.engine}
        self.withheld |= frozenset(settings.withheld)

    # -------------------------------------------------------------------------------------------- asking

    @contextlib.contextmanager
    def asking(self, executor: str) -> Iterator[Engine]:
        """Use an engine. One that does not answer is left alone for a while, and the reason is kept."""
        pause = self.pause(executor)
        try:
            yield self.open(executor)
            pause.failures = 0
        except (TransientError, OSError) as error:
            self.note_silent(executor, error)

    def open(self, executor: str) -> Engine:
        """Return the engine of an executor. Raise EngineSilent if settings name none, TransientError if it cannot be
        used."""
        if executor not in self.said:
            raise EngineSilent(f"executor '{executor}': {MISSING}")
        said, withheld = self.said[executor], self.withheld
        if executor not in self._open or self._open[executor][:2] != (said, withheld):
            directory = self.world.repository.state / "engines" / executor
            opener = self.world.open_engine or partial(open_engine, withheld=tuple(sorted(withheld)))
            self._open[executor] = said, withheld, opener(executor, said, directory)
        return self._open[executor][2]

    def renews(self, executor: str) -> bool:
        """Return whether an engine can renew what attempts have; True where it cannot be known yet."""
        known = self._open.get(executor)
        return known is None or isinstance(known[2], Renewing)

    def unusable(self, executor: str, *, only_silence: bool = False) -> str:
        """Return why an engine is not used now, "" if it may be; `only_silence` if it is not to be given anything."""
        if executor not in self.said:
            return f"executor '{executor}': {MISSING}"
        if executor in self.looks.under_way:
            return f"executor '{executor}' is asked how its attempts stand, and is given nothing meanwhile"
        pause = self.pause(executor)
        rests = self.world.now().monotonic_s < pause.until_s and (pause.failures > 0 or not only_silence)
        return pause.why if rests else ""

    # -------------------------------------------------------------------------------------------- resting

    def pause(self, executor: str) -> Pause:
        return self.pauses.setdefault(executor, Pause())

    def note_silent(self, executor: str, error: Exception) -> None:
        """Leave an engine alone for a while that did not answer."""
        pause = self.pause(executor)
        pause.failures += 1
        self._rest(executor, str(error), pause.failures)

    def note_taken(self, executor: str, later: Sequence[str]) -> None:
        """Note that an engine has answered a submission; `later` says why it did not take what it may take later."""
        if later:
            self.keep_waiting(executor, later[0])
        else:
            self.pause(executor).refusals = 0

    def keep_waiting(self, executor: str, why: str) -> None:
        """Hand nothing to an engine for a while, which itself may well be asked."""
        pause = self.pause(executor)
        pause.refusals += 1
        self._rest(executor, why, pause.refusals)

    def _rest(self, executor: str, why: str, times: int) -> None:
        """Hand nothing to an engine for a while, the longer the more often that was said in a row."""
        pause = self.pause(executor)
        pause.why = why
        pause.until_s = self.world.now().monotonic_s + min(PAUSE_MAX_S, PAUSE_S * 2 ** min(times - 1, 16))

    def refusals(self) -> dict[str, str]:
        """Return by executor why its engine takes nothing now, or cannot be asked at all."""
        now_s = self.world.now().monotonic_s
        resting = {name: each.why for name, each in self.pauses.items() if each.why and now_s < each.until_s}
        return resting | dict.fromkeys(self.missing, MISSING)

    def patience_s(self, executors: Iterable[str]) -> float:
        """Return in how many seconds one of these engines is to be asked, or any takes something again that rests now;
        infinite if none does."""
        now_s = self.world.now().monotonic_s
        busy = set(executors) & self.said.keys()
        busy -= self.looks.under_way.keys()  # whoever goes on meanwhile is told when they are over
        due = [max(self.pause(each).until_s, self.pause(each).asked_s + self.said[each].poll_s) for each in busy]
        due += [each.until_s for name, each in self.pauses.items() if name in self.said and now_s < each.until_s]
        return max(0.0, min(due, default=float("inf")) - now_s)

    # -------------------------------------------------------------------------------------------- addresses

    def address(self, executor: str) -> str:
        """Return where attempts clone the repository from."""
        return address_for(self.world, self.said[executor])

    def repository(self, executor: str) -> str:
        """Return the digest of the repository by which handles name it."""
        return repository_of(self.address(executor))


def address_for(world: World, said: ExecutorSettings) -> str:
    """Return where attempts of an executor clone the repository from, without credentials."""
    if said.url or world.remote is None:
        return said.url or str(world.repository.common)
    return address_of(world.repository, world.remote.name)
