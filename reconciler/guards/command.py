"""`guard: command`: a check of one's own, which passes if it exits with 0 and by nothing that it prints."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING

from reconciler.guards.findings import EVERYWHERE, Finding, Report, report_of

if TYPE_CHECKING:
    from reconciler.guards.scene import Scene


def check(scene: Scene, options: Mapping[str, object]) -> Report:
    """Run the command and judge how it ended."""
    said = options.get("command", "")
    argv = ["sh", "-c", said] if isinstance(said, str) else [str(each) for each in said]  # type: ignore[attr-defined]
    try:
        # Whatever is inherited goes on to it, and nothing of ours is inheritable but the lock of the run: while the
        # command lives, so does the attempt. Its time limit is that of the stage, whose process group it is in.
        ended = subprocess.run(
            argv, cwd=scene.place, stdin=subprocess.DEVNULL, stdout=scene.output, close_fds=False, check=False
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return report_of([_finding(f"cannot start '{argv[0]}': {why}")], 1)
    fault = fault_of(ended.returncode)
    return report_of([_finding(fault)] if fault else [], 1)


def fault_of(status: int) -> str:
    """Return why a command that ended like this did not pass, "" if it did."""
    if status < 0:
        return f"the command was killed by {_signal_name(-status)}"
    return f"the command ended with exit code {status}" if status else ""


def _finding(reason: str) -> Finding:
    return Finding(path=EVERYWHERE, reason=reason, cure="see what it printed")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
