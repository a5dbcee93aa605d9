"""The command line, forked from a process that has it loaded: nine tenths of what starting it costs are imports.

`start` is `subprocess.Popen` for it: a process and session of its own with the arguments, directory, environment and
standard streams it is given, and a real exit status. What is decided when an interpreter starts cannot be given to a fork: with
variables that Python itself reads, or with RECONCILER_TESTS_EXEC=1 in the environment, it is executed. What forks workers for it is
forked as well (`tests.preloaded_workers`); with RECONCILER_TESTS_EXEC=workers in the environment, that is executed.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, NoReturn

from tests import forking, preloaded_workers

RECONCILER = (sys.executable, "-m", "reconciler")
EXEC = "RECONCILER_TESTS_EXEC"
EXECUTED = os.environ.get(EXEC, "" if sys.platform == "linux" else "1")
READ_AT_START = ("PYTHON", "LC_", "LANG")
COMMANDS = (
    *("reconcile", "status", "plan", "validate", "why", "logs", "start", "resume", "cancel", "approve", "new"),
    *("ci", "doctor", "guard", "init"),
)
LOADED = (
    *(f"reconciler.commands.{each}" for each in COMMANDS),
    *("reconciler.drive", "reconciler.agents.stage", "reconciler.guards"),
    *(
        "reconciler.bus",
        "reconciler.confided",
        "reconciler.journal",
        "reconciler.redact",
        "_ruamel_yaml",
        "jsonschema_rs",
        "markdown_it",
        "graphlib",
        "email",
        "string",
        "glob",
    ),
)
"""What those verbs and the processes of stages load, at once or when they need it."""


class Forked(subprocess.Popen[str]):
    """A process that was forked for us: its exit status comes through a pipe, since only its parent can wait for it."""

    def __init__(self, pid: int, status: int, stdout: IO[str] | None, stderr: IO[str] | None) -> None:
        self.pid, self.returncode, self.args = pid, None, list(RECONCILER)  # type: ignore[assignment]
        self.stdin, self.stdout, self.stderr = None, stdout, stderr
        self._status, self._reading = status, threading.Lock()
        # What Popen keeps for its own methods.
        self.encoding = self.errors = None
        self.text_mode, self.pipesize, self._input = True, -1, None
        self._communication_started, self._child_created, self._sigint_wait_secs = False, True, 0.25
        self._closed_child_pipe_fds = self._in_use = False

    def poll(self) -> int | None:
        return self._look(0)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        found = self._look(timeout)
        if found is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return found

    def _wait(self, timeout: float | None) -> int:
        return self.wait(timeout)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            # Two threads may wait: one is told, and the pipe is left open, at its end, for the other's `select`.
            with self._reading:
                if self.returncode is None:
                    said = os.read(self._status, 16)
                    self.returncode = os.waitstatus_to_exitcode(int(said)) if said else -signal.SIGKILL
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def __del__(self, *_: Any) -> None:
        os.close(self._status)


def execute(
    program: Sequence[str], answers: int, *others: int, stdin: int, cwd: Path, env: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start a program of ours as `python -I -c` does, with what it prints in one pipe. Its last word is the descriptor it
    is to answer on; it inherits others too."""
    if {"1", "workers"} & {EXECUTED, env.get(EXEC)}:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", *program, str(answers)], cwd=cwd, env=env, text=True, errors="replace",
            stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            pass_fds=(answers, *others),
        )  # fmt: skip
    (out, printing), (status, telling) = os.pipe(), os.pipe()
    order = {"program": list(program), "cwd": str(cwd), "env": dict(env)}
    try:
        pid = forking.ask(_server().address, order, [stdin, printing, printing, answers, *others, telling])
    finally:
        os.close(printing)
        os.close(telling)
    return Forked(pid, status, open(out, encoding="utf-8", errors="replace"), None)


def start(
    words: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdin: int = subprocess.DEVNULL,
    python: str = sys.executable,
) -> subprocess.Popen[str]:
    """Start the command line with pipes for what it prints, and nothing to read if there is no descriptor for that."""
    if "1" in (EXECUTED, env.get(EXEC)) or any(
        name.startswith(READ_AT_START) and os.environ.get(name) != value for name, value in env.items()
    ):
        return subprocess.Popen(
            [python, *RECONCILER[1:], *words], cwd=cwd, env=env, text=True, stdin=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
    pipes = [os.pipe() for _ in range(3)]
    with open(os.devnull, "rb") as nothing:
        given = [nothing.fileno() if stdin == subprocess.DEVNULL else stdin, *(each[1] for each in pipes)]
        try:
            pid = forking.ask(_server(python).address, {"words": list(words), "cwd": str(cwd), "env": dict(env)}, given)
        finally:
            for _, theirs in pipes:
                os.close(theirs)
    out, err, status = (ours for ours, _ in pipes)
    return Forked(pid, status, open(out, encoding="utf-8"), open(err, encoding="utf-8"))


def run(
    words: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float,
    told: str = "",
    python: str = sys.executable,
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end, with what it is told as its input; KILL it when its time is over."""
    with tempfile.TemporaryFile() as file:
        file.write(told.encode())
        file.seek(0)
        with start(
            words, cwd=cwd, env=env, stdin=file.fileno() if told else subprocess.DEVNULL, python=python
        ) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
    return subprocess.CompletedProcess([*RECONCILER, *words], process.returncode, out, err)


def program(place: Path) -> Path:
    """Write a program `reconciler` for shells: it lets the command line be forked and ends as that does."""
    path = place / "reconciler"
    path.write_text(
        f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {preloaded_workers.ROOT!r})\n"
        f"from tests import forking\nsys.exit(forking.type_in('{_server().address.hex()}'))\n"
        if EXECUTED != "1"
        else f'#!/bin/sh\nexec {sys.executable} -m reconciler "$@"\n'
    )
    path.chmod(0o755)
    return path


# ------------------------------------------------------------------------------------------------ who forks


class Server:
    """The process that forks, as long as the one that started it lives."""

    def __init__(self, python: str) -> None:
        alive, self._alive = os.pipe()
        with forking.listen() as listening:
            self.address = bytes(listening.getsockname())
            given = (listening.fileno(), alive)
            self._process = subprocess.Popen(
                [python, "-m", "tests.preloaded", *map(str, given), preloaded_workers.preload(python).hex()],
                cwd=Path(__file__).parent.parent, pass_fds=given, start_new_session=True, stdin=subprocess.DEVNULL,
                env={each: value for each, value in os.environ.items() if each != "PYTHONDONTWRITEBYTECODE"},
            )  # fmt: skip
        os.close(alive)
        atexit.register(self.end)

    def end(self) -> None:
        os.close(self._alive)
        self._process.wait()


@cache
def _server(python: str = sys.executable) -> Server:
    return Server(python)


def serve(listening: socket.socket, alive: int) -> Mapping[str, Any] | None:
    """Fork for every order; return it in the fork, and None at the end in the process that forks: when nobody holds the
    other end of the pipe `alive`."""
    wake, wakened = socket.socketpair()
    wake.setblocking(False)
    wakened.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakened.fileno())
    children: dict[int, int] = {}
    while alive not in (ready := select.select([listening, alive, wake], [], [])[0]):
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                wake.recv(4096)
            _tell(children)
        if listening not in ready or (forked := forking.fork(listening)) is None:
            continue
        pid, order, descriptors = forked
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for each in (listening, wake, wakened):
                each.detach()
            preloaded_workers.become(order["env"], descriptors[:3], order["cwd"])
            os.close(descriptors.pop())
            if "program" in order:
                preloaded_workers.execute([*order["program"], str(descriptors[3])], descriptors[3:])
            os.closerange(3, 1024)
            return order
        children[pid] = descriptors.pop()
        for each in descriptors:
            os.close(each)
    return None


def _tell(children: dict[int, int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            descriptor = children.pop(pid)
            with contextlib.suppress(BrokenPipeError):
                os.write(descriptor, b"%d" % status)
            os.close(descriptor)


def main() -> None:
    listening, alive = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    forking_workers = bytes.fromhex(sys.argv[3])
    import reconciler.cli
    import reconciler.process

    for each in LOADED:
        importlib.import_module(each)
    preloaded_workers.compile_values()
    gc.freeze()
    if (order := serve(listening, alive)) is not None:
        if "workers" not in (EXECUTED, order["env"].get(EXEC)):
            subprocess.Popen = preloaded_workers.Popen  # type: ignore[misc]
            reconciler.process.start_server = partial(preloaded_workers.start_server, forking_workers)  # type: ignore[assignment]
        sys.argv = [str(Path(reconciler.cli.__file__).with_name("__main__.py")), *order["words"]]
        sys.path[0] = order["cwd"]
        try:
            reconciler.cli.main()
        except SystemExit as ending:
            _end(ending.code)


def _end(code: object) -> NoReturn:
    """End as an interpreter does, without taking apart what it has loaded: that would take longer than most verbs."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for each in (sys.stdout, sys.stderr):
        with contextlib.suppress(BrokenPipeError):
            each.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
