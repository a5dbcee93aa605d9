"""When somebody who stays does the next pass: what time alone brings, or sooner what was refused."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.due import Due
from reconciler.loop import Loop, Pass

BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0
"""How long the next try waits after the environment refused something: 1, 2, 4 ... 30 seconds."""


@dataclass(slots=True)
class Pacing:
    """How the passes of one process follow each other. `failures` counts those in a row that were refused something."""

    failures: int = 0

    def note(self, result: Pass | None) -> None:
        """Note how a pass went; None is one that could not be done."""
        self.failures = self.failures + 1 if result is None or _is_refused(result) else 0

    def due(self, loop: Loop, result: Pass | None) -> Due:
        """Return when the next pass is due, after the one that was noted last."""
        retry = Due(in_s=self._backoff_s(), what="what was refused is tried again")
        if result is None:
            return retry
        if result.leads_on and not self.failures:
            return Due(in_s=0.0, what="the pass changed something itself")
        return min(loop.due(result), retry, key=lambda each: each.in_s)

    def _backoff_s(self) -> float:
        return min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(self.failures, 16)) if self.failures else float("inf")


def _is_refused(result: Pass) -> bool:
    """Return whether the environment kept a pass from doing what it decided; of the remote, `contact` takes care."""
    return bool(result.blocked or result.untouched) or any(each.error for each in result.done)
