"""The edge to a directory that is lent to one push: what worktrees share but for its refs, and a guard of our own.

Git compares every ref that it is told to push with every ref there is, here and at the remote, and every lease with
every ref at the remote: to delete 1,000 claims by their names takes it 1.4 s. So nothing of ours is there to compare
with (what is pushed is named by object id), and many deletions are told in another way: as patterns of which nothing
is here, to be pruned, without leases. What git is about to do then is looked at by the guard, a hook before the push,
which has it done only if it is, ref by ref from its old value to its new one, what was asked for. So a pattern that
meets more than one ref, and a claim that is gone or has moved, stop the push before the server hears of it, as a lease
does. What the guard looks at is what git tells the server to compare with: over HTTP, too, git sends the old values of
the one advertisement that it has asked for, so what moves behind the guard's back is refused by the server.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from reconciler.disk import DISK
from reconciler.git import Repository

ABANDONED_S = 3600.0

SHELL = "/bin/sh"
GUARD = """#!/bin/sh
here=${0%/*}
asked=$(while read -r _ new ref old; do printf '%s\\n' "$ref $old $new"; done | sort)
[ "$asked" = "$(cat "$here/asked")" ] && : > "$here/passed"
"""
"""Reads what git tells a hook, `<name here> <new> <ref there> <old>` line by line. Git pushes if it ends well."""


@contextlib.contextmanager
def without_refs(repository: Repository, oid: str) -> Iterator[Path | None]:
    """Lend a directory that is what all worktrees of a repository share but for its refs, None where they are not
    stored as files.

    It takes the place of that alone (`GIT_COMMON_DIR`) and includes its configuration. The git directory stays the
    repository's own: so all that is configured holds here too, also on the condition of a place or a branch
    (`includeIf`), and no setting, which may be a secret, is copied. `oid` is any object id, for how long they are.
    """
    if (repository.common / "reftable").exists():
        yield None
        return
    repository.state.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(repository.state)
    with tempfile.TemporaryDirectory(prefix="push-", dir=repository.state) as name:
        place = Path(name)
        (place / "refs").mkdir()
        for each in ("objects", "shallow"):
            (place / each).symlink_to(repository.common / each)
        places = (repository.common / "config", repository.git_directory / "config.worktree")
        included = [_configuration(each) for each in places]
        kind = "sha256" if len(oid) == 64 else "sha1"
        head = f"[core]\nrepositoryFormatVersion = 1\n[extensions]\nobjectFormat = {kind}\n".encode()
        (place / "config").write_bytes(head + b"".join(included))
        yield place


def guard(place: Path, moves: Sequence[tuple[str, str, str]]) -> Path | None:
    """Put a guard into a lent directory who lets pass just these moves (ref, old and new object id, zeros for none);
    return the directory of hooks, None if nothing can be executed there: git would push unguarded."""
    hooks = place / "guard"
    hooks.mkdir()
    hook = hooks / "pre-push"
    hook.write_text(GUARD, encoding="ascii")
    hook.chmod(0o700)
    lines = sorted(" ".join(each).encode() for each in moves)
    (hooks / "asked").write_bytes(b"\n".join(lines) + b"\n")
    return hooks if all(os.access(each, os.X_OK) for each in (hook, SHELL)) else None


def has_passed(hooks: Path) -> bool:
    """Return whether the guard had git push; if not, nothing was pushed."""
    return (hooks / "passed").exists()


def _remove_abandoned(state: Path) -> None:
    """Remove what a push left that was KILLed: nobody pushes for an hour."""
    for each in state.glob("push-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - each.stat().st_mtime > ABANDONED_S:
                DISK.remove_tree(each)


def _configuration(path: Path) -> bytes:
    """Return the words that include a file of configuration, which need not exist."""
    quoted = os.fsencode(path).replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'[include]\npath = "%s"\n' % quoted
