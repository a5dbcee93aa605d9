"""What every engine keeps to, as a suite that its tests inherit.

An engine's tests give a `bench` fixture and a class:

    class TestMine(EngineContract):
        pass

The programs that are placed are one line for `/bin/sh`: the engine is opened with the option `program: [/bin/sh]`, and
the arguments of a submission are `-c` and the line.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reconciler.executors.engine import FILE_SUFFIX, Engine, EngineSilent, Renewing, Sighting, Standing, Submission
from reconciler.work import handle_of, repository_of

PROGRAM = ["/bin/sh"]
SECRET = "5ecre7-0f-an-attempt"
LENT, NEWER = "1en7-a7-f1r57", "1en7-1a7er"
OVER = (Standing.ENDED, Standing.ABSENT)


@dataclass(kw_only=True)
class Bench:
    """One engine to be tried.

    `open` returns it as a process would that remembers nothing, `shared` is a directory that the programs and the test
    see, `away` makes it unreachable as long as that lasts, None where nothing can. `kept` are the places where it
    leaves files. `patience_s` is how long anything may take, `many` how many attempts are placed at once, `has_logs`
    whether it gives what programs print.
    """

    open: Callable[[], Engine]
    shared: Path
    away: Callable[[], AbstractContextManager[object]] | None = None
    kept: tuple[Path, ...] = ()
    patience_s: float = 20.0
    many: int = 12
    has_logs: bool = True
    look_s: float = 0.02
    names: list[str] = field(default_factory=list)

    def submission(
        self, line: str, *, number: int = 1, address: str = "here", grace_s: float = 0.5, lent: str = ""
    ) -> Submission:
        """Return a submission whose program is a line of shell, with a name that nobody had before."""
        name = f"trial{len(self.names)}-0000000{len(self.names) % 10}"
        self.names.append(name)
        repository = repository_of(address)
        return Submission(
            handle=handle_of(repository, name, number),
            repository=repository,
            run_id=name,
            task_id="t",
            number=number,
            arguments=("-c", line),
            secrets={"RECONCILER_WORK_KEY": SECRET},
            renewed={"LENT": lent} if lent else {},
            grace_s=grace_s,
        )

    def until(self, engine: Engine, handles: Collection[str], wanted: Callable[[Sighting], bool]) -> None:
        """Look until all handles stand as wanted."""
        deadline = time.monotonic() + self.patience_s
        while True:
            seen = engine.observe(handles)
            if all(wanted(seen[each]) for each in handles):
                return
            assert time.monotonic() < deadline, f"it did not happen in time: {seen}"
            time.sleep(self.look_s)

    def until_over(self, engine: Engine, *handles: str) -> None:
        self.until(engine, handles, lambda seen: seen.standing in OVER)

    def until_there(self, path: Path) -> None:
        deadline = time.monotonic() + self.patience_s
        while not path.exists():
            assert time.monotonic() < deadline, f"{path}: it did not come in time"
            time.sleep(self.look_s)

    def lines(self, name: str) -> list[str]:
        path = self.shared / name
        return path.read_text().splitlines() if path.exists() else []


class EngineContract:
    """The suite. What it places it has ended before it returns."""

    def test_what_is_submitted_runs_and_ends(self, bench: Bench) -> None:
        engine = bench.open()
        one = bench.submission(
            f"echo begun >> {bench.shared}/one; until test -e {bench.shared}/go; do sleep 0.05; done"
        )
        assert engine.submit([one]) == {}
        bench.until_there(bench.shared / "one")
        bench.until(engine, [one.handle], lambda seen: seen.standing == Standing.RUNNING)
        (bench.shared / "go").touch()
        bench.until_over(engine, one.handle)
        assert bench.lines("one") == ["begun"]

    def test_submitted_twice_it_runs_once(self, bench: Bench) -> None:
        one = bench.submission(
            f"echo x >> {bench.shared}/twice; until test -e {bench.shared}/stop; do sleep 0.05; done"
        )
        bench.open().submit([one])
        engine = bench.open()
        assert engine.submit([one, one]) == {}
        bench.until_there(bench.shared / "twice")
        assert engine.submit([one]) == {}
        (bench.shared / "stop").touch()
        bench.until_over(engine, one.handle)
        assert engine.submit([one]) == {}
        bench.until_over(engine, one.handle)
        assert bench.lines("twice") == ["x"]

    def test_what_was_never_submitted_is_absent(self, bench: Bench) -> None:
        engine = bench.open()
        unknown = [bench.submission("true").handle for _ in range(3)]
        assert {each: seen.standing for each, seen in engine.observe(unknown).items()} == dict.fromkeys(
            unknown, Standing.ABSENT
        )
        assert engine.observe([]) == {}
        engine.cancel(unknown)
        engine.cancel([])
        assert engine.submit([]) == {}
        assert engine.logs(unknown[0], 100) == b""

    def test_cancelled_it_gets_term_and_may_end_well(self, bench: Bench) -> None:
        engine = bench.open()
        line = f"trap 'echo told >> {bench.shared}/told; exit 0' TERM; touch {bench.shared}/up; while :; do sleep 0.05; done"
        one = bench.submission(line, grace_s=5.0)
        engine.submit([one])
        bench.until_there(bench.shared / "up")
        engine.cancel([one.handle])
        bench.until_over(engine, one.handle)
        assert bench.lines("told") == ["told"]
        engine.cancel([one.handle])
        assert engine.observe([one.handle])[one.handle].standing in OVER

    def test_what_does_not_heed_term_is_ended_by_force(self, bench: Bench) -> None:
        engine = bench.open()
        one = bench.submission(f"trap '' TERM; touch {bench.shared}/deaf; while :; do sleep 0.05; done")
        engine.submit([one])
        bench.until_there(bench.shared / "deaf")
        engine.cancel([one.handle])
        bench.until_over(engine, one.handle)

    def test_cancelled_before_it_was_seen_it_does_not_go_on(self, bench: Bench) -> None:
        engine = bench.open()
        one = bench.submission("sleep 600")
        engine.submit([one])
        engine.cancel([one.handle])
        bench.until_over(engine, one.handle)

    def test_who_remembers_nothing_finds_what_lives(self, bench: Bench) -> None:
        line = f"until test -e {bench.shared}/done; do sleep 0.05; done"
        living, ended = bench.submission(line), bench.submission("true")
        foreign = bench.submission(line, address="elsewhere")
        first = bench.open()
        assert first.submit([living, ended, foreign]) == {}
        bench.until_over(first, ended.handle)
        engine = bench.open()
        found = engine.adopt(living.repository)
        assert living.handle in found and foreign.handle not in found
        assert found[living.handle] in ({}, dict(living.secrets))
        assert foreign.handle in engine.adopt(foreign.repository)
        assert engine.adopt(repository_of("nowhere")) == {}
        (bench.shared / "done").touch()
        bench.until_over(engine, living.handle, foreign.handle)

    def test_who_comes_late_is_told_the_key_of_what_has_ended_while_the_engine_has_it(self, bench: Bench) -> None:
        engine = bench.open()
        well, badly, cancelled = (bench.submission(line) for line in ("true", "exit 3", "sleep 600"))
        engine.submit([well, badly, cancelled])
        tells = engine.adopt(well.repository)[well.handle]
        engine.cancel([cancelled.handle])
        handles = [each.handle for each in (well, badly, cancelled)]
        bench.until_over(engine, *handles)
        late = bench.open()
        there = {each for each, seen in late.observe(handles).items() if seen.standing == Standing.ENDED}
        found = late.adopt(well.repository)
        assert there <= set(found) and all(found[each] == tells for each in there)
        assert late.adopt(well.repository) == found, "it is told as often as somebody asks"

    def test_what_it_prints_is_given_bounded(self, bench: Bench) -> None:
        if not bench.has_logs:
            pytest.skip("this engine gives no logs")
        engine = bench.open()
        one = bench.submission("i=0; while test $i -lt 2000; do echo line $i; i=$((i+1)); done; echo the end")
        engine.submit([one])
        bench.until_over(engine, one.handle)
        log = engine.logs(one.handle, 1000)
        assert len(log) <= 1000 and log.endswith(b"line 1999\nthe end\n")

    def test_many_are_placed_and_seen_in_one_call_each(self, bench: Bench) -> None:
        engine = bench.open()
        many = [bench.submission(f"echo {number} >> {bench.shared}/many") for number in range(bench.many)]
        assert engine.submit(many) == {}
        bench.until_over(engine, *(each.handle for each in many))
        assert sorted(map(int, bench.lines("many"))) == list(range(bench.many))

    def test_a_secret_reaches_the_program_and_is_seen_nowhere_else(self, bench: Bench) -> None:
        engine = bench.open()
        line = f'test "$RECONCILER_WORK_KEY" = {SECRET[:4]}"{SECRET[4:]}" && touch {bench.shared}/had; sleep 0.5'
        one = bench.submission(line)
        engine.submit([one])
        bench.until_there(bench.shared / "had")
        assert [each for each, words in command_lines().items() if SECRET in words] == []
        shown = engine.observe([one.handle])[one.handle]
        assert SECRET not in f"{shown} {engine.logs(one.handle, 10_000)!r}"
        for place in bench.kept:
            assert [path for path in place.rglob("*") if others_may_read(path, place) and holds(path, SECRET)] == []
        bench.until_over(engine, one.handle)

    def test_a_secret_that_is_renewed_is_seen_by_what_runs_and_by_nobody_else(self, bench: Bench) -> None:
        engine = bench.open()
        if not isinstance(engine, Renewing):
            pytest.skip("this engine cannot change a secret of what is there")
        line = (
            f'until grep -q {LENT[:5]}"{LENT[5:]}" "$LENT{FILE_SUFFIX}"; do sleep 0.05; done; touch {bench.shared}/old; '
            f'until grep -q {NEWER[:5]}"{NEWER[5:]}" "$LENT{FILE_SUFFIX}"; do sleep 0.05; done; env > {bench.shared}/env; '
            f"touch {bench.shared}/new; until test -e {bench.shared}/go; do sleep 0.05; done"
        )
        one, ended, never = (bench.submission(each, lent=LENT) for each in (line, "true", "true"))
        assert engine.submit([one, ended]) == {}
        bench.until_there(bench.shared / "old")
        bench.until_over(engine, ended.handle)
        newer = {"LENT": NEWER}
        told = bench.open()
        assert isinstance(told, Renewing)
        for _ in range(2):
            assert set(told.renew({each.handle: newer for each in (one, ended, never)})) == {
                one.handle,
                ended.handle,
                never.handle,
            }
        bench.until_there(bench.shared / "new")
        seen = [*command_lines().values(), (bench.shared / "env").read_text(), str(engine.observe([one.handle]))]
        assert [each for each in seen if LENT in each or NEWER in each] == []
        for place in bench.kept:
            for text in (LENT, NEWER):
                assert [path for path in place.rglob("*") if others_may_read(path, place) and holds(path, text)] == []
        assert engine.observe([never.handle])[never.handle].standing == Standing.ABSENT, "nothing came into being"
        (bench.shared / "go").touch()
        bench.until_over(engine, one.handle)
        engine.observe([one.handle])
        for place in bench.kept:
            assert [
                path for path in place.rglob("*") if path.is_file() and (holds(path, LENT) or holds(path, NEWER))
            ] == []

    def test_an_engine_that_is_away_says_so(self, bench: Bench) -> None:
        if bench.away is None:
            pytest.skip("nothing makes this engine unreachable")
        one = bench.submission("true")
        engine = bench.open()
        with bench.away():
            asked: Mapping[str, Callable[[], object]] = {
                "submit": lambda: engine.submit([one]),
                "observe": lambda: engine.observe([one.handle]),
                "cancel": lambda: engine.cancel([one.handle]),
                "adopt": lambda: engine.adopt(one.repository),
            }
            if isinstance(engine, Renewing):
                renewing = engine
                asked = {**asked, "renew": lambda: renewing.renew({one.handle: {"LENT": NEWER}})}
            for name, ask in asked.items():
                with pytest.raises(EngineSilent):
                    print(name, ask())
        # It is back: what could not be placed is placed now.
        assert bench.open().submit([one]) == {}
        bench.until_over(engine, one.handle)


def command_lines() -> dict[int, str]:
    """Return the command lines of all processes that may be looked at."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found[int(pid)] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


def others_may_read(path: Path, place: Path) -> bool:
    """Return whether somebody else could read a file below a place, as far as the modes from there on say."""
    if not path.is_file() or not path.stat().st_mode & 0o044:
        return False
    above = [each for each in path.parents if each == place or place in each.parents]
    return all(each.stat().st_mode & 0o011 for each in above)


def holds(path: Path, text: str) -> bool:
    try:
        return text.encode() in path.read_bytes()
    except OSError:
        return False
