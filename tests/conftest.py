"""What every test has: git that knows nothing of this machine, and a repository to try things in."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler import process
from tests import preloaded
from tests.scratch import ENVIRONMENT, NOT_OURS, Scratch

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it starts in the background ignore Ctrl-C, and what that starts as well: tests press it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let git and the reconciler read nothing that the person at this machine has configured, but what it says of these
    tests themselves."""
    configured = [each for each in os.environ if each.startswith((*NOT_OURS, "CODEX_"))]
    for name in [each for each in configured if not each.startswith("RECONCILER_TESTS_")]:
        monkeypatch.delenv(name)
    for name, value in ENVIRONMENT.items():
        if name.startswith("GIT_") or name == "TZ":
            monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def executed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever is marked so start its workers as people's machines do."""
    if request.node.get_closest_marker("executed"):
        monkeypatch.setitem(ENVIRONMENT, preloaded.EXEC, "workers")


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    repository = Scratch(tmp_path)
    try:
        yield repository
    finally:
        end_all(tmp_path)


def end_all(place: Path) -> None:
    """SIGKILL every process that belongs to a place, and wait until none is left."""
    deadline = time.monotonic() + 20
    while found := living(place):
        assert time.monotonic() < deadline, f"these processes do not end: {found}"
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def living(place: Path) -> set[int]:
    """Return the processes that work below a place, have a file of it open, are of a run in it or hold its lock."""
    found = (os.stat(each) for each in _locks(place))
    locks = {(each.st_dev, each.st_ino) for each in found}
    pids = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {os.getpid()}
    return {pid for pid in pids if process.identify(pid) is not None and _belongs(pid, str(place), locks)}


def _locks(place: Path) -> Iterator[str]:
    """Yield the locks of the runs below a place, without looking at what git keeps."""
    for directory, names, files in os.walk(place):
        names[:] = [each for each in names if not each.endswith(".git")]
        if "lock" in files and Path(directory).match(".runs/*/cli/*"):
            yield f"{directory}/lock"


def _belongs(pid: int, place: str, locks: set[tuple[int, int]]) -> bool:
    with contextlib.suppress(OSError):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if any(each.startswith(f"RECONCILER_RUN_DIR={place}/".encode()) for each in variables):
            return True
        for link in [f"/proc/{pid}/cwd", *(f"/proc/{pid}/fd/{each}" for each in os.listdir(f"/proc/{pid}/fd"))]:
            with contextlib.suppress(OSError):
                if f"{os.readlink(link)}/".startswith(f"{place}/"):
                    return True
                # In a namespace of its own a process has the file by another name.
                if locks and ((seen := os.stat(link)).st_dev, seen.st_ino) in locks:
                    return True
    return False
