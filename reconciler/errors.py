"""The endings a program of ours can have, and the sentence each of them prints.

A problem in *content* (a request, a pipeline) is a value, `model.Problem`; it becomes a `ContentError` only
at the edge of a command. A problem of the *environment* is a `TransientError`: the next pass may succeed.
A problem of *our own* is an `InvariantError`: stop, keep everything, ask for a report.

Messages read `<where>[ at <pointer>]: <what is wrong>[; <what would be right>]`.
"""

import errno

REFUSALS = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES", "EPERM", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN")
}
"""What the system may refuse without a bug of ours: trying again later is the cure, or making room."""


class ReconcilerError(Exception):
    """Any error this package raises on purpose."""

    exit_code = 70


class ContentError(ReconcilerError):
    """A file in the repository does not say what it must."""

    exit_code = 1


class UsageError(ReconcilerError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class TransientError(ReconcilerError):
    """The environment refused this time; trying again later is right (75 is EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75


class GitFailed(TransientError):
    """A git command failed, timed out or said more than it may."""

    def __init__(self, message: str, *, exit_status: int | None = None, stderr: str = "", stdout: str = "") -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.stderr = stderr
        self.stdout = stdout


class TipMoved(TransientError):
    """A branch is not where it was when a commit was made for it; observe again and recompute."""


class PushRefused(TransientError):
    """The remote refuses by policy or because of its state; nothing of `refused` was applied, nor of `rejected`,
    whose place had moved. In an atomic push they are all there is."""

    def __init__(
        self, message: str, *, refused: frozenset[str] = frozenset(), rejected: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(message)
        self.refused = refused
        self.rejected = rejected


class PushUnclear(TransientError):
    """A push ended without an answer for every ref; only the remote knows what was applied: look."""


class NoAtomicPush(TransientError):
    """The remote cannot move several refs as one; nothing was sent."""


class PublishBlocked(TransientError):
    """A person's work is in the way of the evidence; publishing waits until it is not."""


class LockHeld(TransientError):
    """Another process holds the lock that is needed."""


class SpawnFailed(TransientError):
    """A worker could not be started."""


class ForgeFailed(TransientError):
    """A forge did not answer, not in time, or with something that is no answer."""


class ForgeUnclear(ForgeFailed):
    """A request to a forge ended without an answer; only the forge knows whether it was applied: look."""


class ForgeRefused(TransientError):
    """A forge answered and refuses; the message says why, and which permission is missing if that is it."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class InvariantError(ReconcilerError):
    """Something that cannot happen has happened (70 is EX_SOFTWARE of sysexits.h)."""

    exit_code = 70
