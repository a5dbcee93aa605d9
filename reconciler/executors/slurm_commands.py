"""The edge to Slurm: its own commands, each bounded in time and in what it may say.

What is private goes to them by standard input, which no list of processes shows and no disk keeps. They get nothing of
this process's environment but what they need to find their configuration: `SBATCH_*` of a person's shell would be
options that nobody asked for.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from reconciler.executors.engine import EngineSilent
from reconciler.values import frozen

OUTPUT_BYTES_MAX = 32 * 1024 * 1024
"""A hundred thousand lines of a listing, or two thousand scripts."""
COMPLAINT_BYTES_MAX = 64 * 1024
PASSED = ("PATH", "HOME", "USER", "LOGNAME", "SLURM_CONF", "SLURM_JWT", "LD_LIBRARY_PATH")
"""Of its environment what this process hands on."""
CHUNK_BYTES = 1 << 16


@frozen
class Said:
    """What a command has printed and complained of, and its exit status."""

    status: int
    output: str
    complaint: str


class Commands:
    """Slurm's commands, for one call of an engine: all of them together take no longer than a call may."""

    def __init__(self, directory: str, config: str, timeout_s: float) -> None:
        self._directory = directory
        self._config = config
        self._deadline_s = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Return how much time there is left, in seconds."""
        return self._deadline_s - time.monotonic()

    def run(self, name: str, words: Sequence[str], feed: str = "") -> Said:
        """Run a command. Raise EngineSilent if it is not there, takes too long or says too much."""
        program = str(Path(self._directory) / name) if self._directory else name
        try:
            process = subprocess.Popen(
                (program, *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                cwd="/", env=self._environment(), umask=0o077, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise EngineSilent(
                f"{program}: {error.strerror}; install Slurm's commands, or say where they are"
            ) from None
        with process:
            try:
                return self._heard(name, process, feed.encode())
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def _environment(self) -> dict[str, str]:
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        return {**passed, **({"SLURM_CONF": self._config} if self._config else {}), "LC_ALL": "C", "TZ": "UTC"}

    def _heard(self, name: str, process: subprocess.Popen[bytes], feed: bytes) -> Said:
        """Tell a command what it reads and return what it says, when it has ended."""
        assert process.stdin and process.stdout and process.stderr
        said = {process.stdout: bytearray(), process.stderr: bytearray()}
        bounds = {process.stdout: OUTPUT_BYTES_MAX, process.stderr: COMPLAINT_BYTES_MAX}
        with selectors.DefaultSelector() as selector:
            for each in said:
                selector.register(each, selectors.EVENT_READ)
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            while selector.get_map():
                for key, _ in self._ready(name, selector, said[process.stderr]):
                    if key.fileobj is process.stdin:
                        feed = _tell(selector, process.stdin, feed)
                    else:
                        _hear(name, selector, key.fileobj, said, bounds)  # type: ignore[arg-type]
        try:
            status = process.wait(max(0.0, self.left_s()))
        except subprocess.TimeoutExpired:
            raise EngineSilent(f"{name}: it does not end in time") from None
        output, complaint = (bytes(said[each]).decode(errors="replace") for each in (process.stdout, process.stderr))
        return Said(status=status, output=output, complaint=complaint)

    def _ready(
        self, name: str, selector: selectors.BaseSelector, complaint: bytearray
    ) -> list[tuple[selectors.SelectorKey, int]]:
        ready = selector.select(max(0.0, self.left_s()))
        if not ready:
            said = complaint.decode(errors="replace").strip().splitlines()
            raise EngineSilent(f"{name}: no answer in time{': ' + said[-1] if said else ''}")
        return ready


def _tell(selector: selectors.BaseSelector, pipe: IO[bytes], feed: bytes) -> bytes:
    """Write some of what a command reads, close it when all is told, return what is left."""
    try:
        feed = feed[os.write(pipe.fileno(), feed[:CHUNK_BYTES]) :] if feed else feed
    except BlockingIOError:
        return feed
    except BrokenPipeError:
        feed = b""
    if not feed:
        selector.unregister(pipe)
        pipe.close()
    return feed


def _hear(
    name: str,
    selector: selectors.BaseSelector,
    pipe: IO[bytes],
    said: dict[IO[bytes], bytearray],
    bounds: dict[IO[bytes], int],
) -> None:
    """Read some of what a command says. Raise EngineSilent if that is more than it may."""
    part = os.read(pipe.fileno(), CHUNK_BYTES)
    if not part:
        selector.unregister(pipe)
    said[pipe] += part
    if len(said[pipe]) > bounds[pipe]:
        raise EngineSilent(f"{name}: it says more than {bounds[pipe]} bytes")
