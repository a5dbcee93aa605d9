"""Scenarios, tried: each in a directory, a repository and a home of its own, by a reconciler of its own.

Nothing of a trial reaches this repository, and it is given nothing of this environment but where programs are and
how text is spelled. What it started does not outlive its directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler import codec, scenarios
from reconciler.disk import DISK
from reconciler.errors import LockHeld, ReconcilerError
from reconciler.git import run
from reconciler.process import Target, fence
from reconciler.scenarios import FILE_BYTES_MAX, NAME, TASK, Result, Scenario

PARALLEL_MAX = 16
MARGIN_S = 30.0
"""How much longer than its run a trial may take, for what is done before and after it."""
ENDING_S = 1.0
"""A signal reaches the reconciler of a trial and us in any order; so long is waited for ours."""
LAST_WORDS_BYTES = 4096
LOOK_S = 0.05
_PASSED_ON = ("PATH", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ")
_AUTHOR = ("user.name=Scenario", "user.email=scenario@localhost", "commit.gpgSign=false", "core.autocrlf=false")


def parallel_default() -> int:
    """Return how many trials are under way at once where nobody says it."""
    return max(1, min(4, os.cpu_count() or 1))


def try_all(asked: Sequence[tuple[Scenario, Mapping[str, bytes]]], parallel: int) -> Iterator[Result]:
    """Try scenarios with the files that their repositories are made of, and yield their results in this order.

    Whoever is told to end (TERM, Ctrl-C) ends what is under way and removes what there is first.
    """
    ending = threading.Event()
    with _ended_by_signal(), ThreadPoolExecutor(max_workers=max(1, min(parallel, PARALLEL_MAX))) as pool:
        coming = [pool.submit(try_one, scenario, files, ending) for scenario, files in asked]
        try:
            for each in coming:
                yield each.result()
        finally:
            ending.set()
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Let TERM end this program as Ctrl-C does, so that it can tidy up; only the main thread can say that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def try_one(scenario: Scenario, files: Mapping[str, bytes], ending: threading.Event) -> Result:
    """Make the repository of a scenario, let the reconciler do what it asks for, judge, and remove it all. Where the
    program is `ending`, only the last is done."""
    started = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="reconciler-eval-"))
    try:
        found = _tried(place, scenario, files, ending)
    except (ReconcilerError, OSError) as error:
        found = _result(scenario, f"the repository could not be made: {error}")
    finally:
        _remove(place)
    return replace(found, took_s=time.monotonic() - started)


def _remove(place: Path) -> None:
    """Remove all there is; a worker that is still at work would write it anew, so it is ended first."""
    locks = place.glob("repository/.runs/*/cli/*/lock")
    with contextlib.suppress(LockHeld):
        fence([Target(worker=None, leaders=(), lock=each, grace_s=ENDING_S) for each in locks])
    DISK.remove_tree(place)


def _tried(place: Path, scenario: Scenario, files: Mapping[str, bytes], ending: threading.Event) -> Result:
    repository = place / "repository"
    for directory in (repository, place / "home", place / "tmp"):
        directory.mkdir()
    _write(repository, files)
    run(("init", "--quiet", "--initial-branch=main"), directory=repository)
    run(("add", "--all"), directory=repository)
    run(("commit", "--quiet", "--message=The scenario"), directory=repository, config=_AUTHOR)
    said = _reconcile(place, repository, scenario, ending)
    manifest = _manifest(repository)
    if manifest is None:
        return _result(scenario, f"nothing was run: {said}")
    run_id = str(manifest.get("run_id", ""))
    workspace = _workspace(repository, run_id)
    faults = scenarios.findings(scenario.expect, manifest, lambda path: _read(workspace, path))
    return replace(_result(scenario, *faults), status=str(manifest.get("status", "")), run_id=run_id)


def _result(scenario: Scenario, *findings: str) -> Result:
    return Result(path=scenario.source.path, title=scenario.title, findings=findings)


def _write(repository: Path, files: Mapping[str, bytes]) -> None:
    """Write the files; one that begins with `#!` can be executed. Their names were judged with the scenario."""
    for path, data in files.items():
        target = repository / path
        if {"..", ".git"} & set(Path(path).parts):
            raise OSError(f"{path}: lies outside")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o755 if data.startswith(b"#!") else 0o644)


def _reconcile(place: Path, repository: Path, scenario: Scenario, ending: threading.Event) -> str:
    """Let the reconciler do what is asked for, and return its last words. The run has its own time limit; a run that is
    under way all the same is cancelled."""
    if ending.is_set():
        return "ended"
    limit_s = scenario.timeout_s + MARGIN_S
    words = ["reconcile", "--wait", "--timeout", f"{limit_s:.0f}s"]
    code, said = _reconciler(place, repository, words, limit_s + MARGIN_S, ending)
    if code not in (0, 1) and not ending.wait(0 if code > 0 else ENDING_S):
        words = ["cancel", NAME, "--reason", "the scenario took too long"]
        _reconciler(place, repository, words, MARGIN_S, ending)
        _reconciler(place, repository, ["reconcile", "--wait", "--timeout", "20s"], MARGIN_S, ending)
    return said


def _reconciler(
    place: Path, repository: Path, words: Sequence[str], timeout_s: float, ending: threading.Event
) -> tuple[int, str]:
    """Run the command line in the repository, and return its exit code and its last words."""
    # Without -P, a fixture that holds a package of our name would be the program.
    argv = [sys.executable, "-P", "-m", "reconciler", *words]
    with tempfile.TemporaryFile(dir=place) as output:
        process = subprocess.Popen(
            argv, cwd=repository, env=_environment(place), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        code = _code(process, time.monotonic() + timeout_s, ending)
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - LAST_WORDS_BYTES))
        said = output.read().decode(errors="replace")
    return code, " ".join(said.split())[-500:]


def _code(process: subprocess.Popen[bytes], deadline_s: float, ending: threading.Event) -> int:
    """Return the exit code of a reconciler, 3 for one that is not done in time or when the program ends."""
    while process.poll() is None:
        if time.monotonic() > deadline_s or ending.wait(LOOK_S):
            process.kill()
            process.wait()
            return 3
    return process.returncode


def _environment(place: Path) -> dict[str, str]:
    known = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    own = {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp"), "NO_COLOR": "1"}
    return {**known, **own, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def _manifest(repository: Path) -> dict[str, Any] | None:
    """Return the committed manifest, which lies in the checkout as well; None if there is none."""
    with contextlib.suppress(codec.CodecError, ValueError):
        for path in sorted((repository / ".runs" / TASK / "cli").glob(f"{NAME}-*/manifest.json")):
            data = DISK.read_bounded(path)
            found = json.loads(data) if data is not None else None
            return found if isinstance(found, dict) else None
    return None


def _workspace(repository: Path, run_id: str) -> Path:
    """Return where the stages worked."""
    own = repository / ".runs" / TASK / "cli" / run_id / "workspace"
    return own if own.is_dir() and not own.is_symlink() else repository


def _read(workspace: Path, path: str) -> bytes | None:
    """Return a regular file of the workspace; a link may lead anywhere, so none is followed out of it."""
    target = workspace / path
    if not target.parent.resolve().is_relative_to(workspace.resolve()):
        return None
    try:
        return DISK.read_bounded(target, FILE_BYTES_MAX)
    except codec.CodecError:
        return None
