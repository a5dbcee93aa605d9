"""The edge to ast-grep: it is given rules and copies of files in a directory of their own, and asked once.

Nothing that a repository names becomes an argument, no configuration of the repository is read, nothing is ignored
because of a file that says so, and what it prints is bounded, as is the time it takes.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from reconciler.errors import ContentError, TransientError

TIMEOUT_S = 300.0
OUTPUT_BYTES_MAX = 64 * 1024 * 1024
FILES_MAX = 50_000
BYTES_MAX = 512 * 1024 * 1024
ERROR_BYTES = 8 * 1024
_NOTHING_IGNORED = [
    word for each in ("hidden", "dot", "exclude", "global", "parent", "vcs") for word in ("--no-ignore", each)
]


def program() -> str:
    """Return the path of ast-grep: beside this Python, or in PATH. Raise TransientError if it is in neither."""
    beside = Path(sys.executable).parent / "ast-grep"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("ast-grep")
    if found is None:
        raise TransientError("ast-grep: is not installed; python3 -m pip install 'gitops-reconciler[patterns]'")
    return found


def scan(rules: Mapping[str, bytes], files: Mapping[str, bytes], matches_max: int) -> bytes:
    """Return what ast-grep finds, a JSON object a line: `rules` are its rules by id, `files` contents by path.

    Raise ContentError if it refuses a rule, or there is more than the bounds; TransientError if it fails.
    """
    if len(files) > FILES_MAX or sum(map(len, files.values())) > BYTES_MAX:
        raise ContentError(f"patterns: {len(files)} files are too much at once; say which with 'paths'")
    with tempfile.TemporaryDirectory(prefix="reconciler-patterns-") as place:
        own, tree = Path(place) / "own", Path(place) / "tree"
        _write(own, {**{f"rules/{name}.yml": data for name, data in rules.items()}, "c.yml": b"ruleDirs: [rules]\n"})
        _write(tree, files)
        words = [program(), "scan", "--config", str(own / "c.yml"), "--json=stream", "--color", "never"]
        words += [*_NOTHING_IGNORED, "--max-results", str(matches_max), "."]
        return _run(words, tree)


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    directory.mkdir()
    for path, data in files.items():
        target = directory / path
        if ".." in target.parts or target == directory:
            raise ContentError(f"{path}: is no path of a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def _run(words: list[str], directory: Path) -> bytes:
    environment = {"PATH": os.defpath, "HOME": str(directory), "NO_COLOR": "1"}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            words, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            output = _read(process)
            status = process.wait(TIMEOUT_S)
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            assert process.stdout is not None
            process.stdout.close()
        errors.seek(0)
        said = errors.read(ERROR_BYTES).decode(errors="replace")
    if status:
        raise _refusal(status, said)
    return output


def _read(process: subprocess.Popen[bytes]) -> bytes:
    """Return what a process prints until it closes its output. Raise for too much of it, or too little in time."""
    assert process.stdout is not None
    deadline, count = time.monotonic() + TIMEOUT_S, 0
    parts: list[bytes] = []
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        while waiting.select(max(0.0, deadline - time.monotonic())):
            part = os.read(process.stdout.fileno(), 1 << 20)
            if not part:
                return b"".join(parts)
            parts.append(part)
            count += len(part)
            if count > OUTPUT_BYTES_MAX:
                raise ContentError("patterns: far too much is found; make the rules narrower, or say 'paths'")
    raise TransientError(f"ast-grep: no answer within {TIMEOUT_S:g} s")


def _refusal(status: int, said: str) -> Exception:
    """Return what went wrong: a rule that ast-grep refuses, by its id, or ast-grep itself."""
    reasons = re.findall(r"╰▻ (.*)", said)
    if named := re.search(r"rules/([^/\s]+)\.yml", said):
        why = ": ".join(each.strip().rstrip(".") for each in reasons[-2:])
        return ContentError(f"rule '{named[1]}': ast-grep refuses it: {why[:500]}")
    lines = [line for line in said.splitlines() if line.strip()]
    return TransientError(f"ast-grep: ended with {status}: {' '.join(lines)[:500]}")
