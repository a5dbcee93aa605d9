"""`guard: diff`: a change stays small enough to be reviewed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from reconciler.guards.findings import EVERYWHERE, Finding, Report, chosen, number, report_of

if TYPE_CHECKING:
    from reconciler.guards.scene import Scene
    from reconciler.worktree import Changed

FILES_MAX = 25
LINES_MAX = 800
CURE = "split the change, leave out with 'exclude' what nobody reviews, or raise '{}'"


def check(scene: Scene, options: Mapping[str, object]) -> Report:
    """Judge the size of the change."""
    change = scene.change(str(options.get("since", "")))
    wanted = frozenset(chosen(change.paths, options, ("**",)))
    counted = [each for each in change.files if each.path in wanted]
    files_max, lines_max = number(options, "files_max", FILES_MAX), number(options, "lines_max", LINES_MAX)
    return report_of(excesses(counted, int(files_max), int(lines_max)), len(counted), change.base)


def excesses(changed: Sequence[Changed], files_max: int, lines_max: int) -> Iterator[Finding]:
    """Yield a finding for each budget that a change does not keep."""
    if len(changed) > files_max:
        reason = f"the change touches {len(changed)} files, and {files_max} are allowed"
        yield Finding(path=EVERYWHERE, reason=reason, cure=CURE.format("files_max"))
    added, removed = sum(each.added for each in changed), sum(each.removed for each in changed)
    if added + removed > lines_max:
        largest = max(changed, key=lambda each: (each.added + each.removed, each.path))
        most = f"most of them, {largest.added + largest.removed}, in {largest.path}"
        reason = f"the change adds {added} lines and removes {removed}, and {lines_max} are allowed ({most})"
        yield Finding(path=EVERYWHERE, reason=reason, cure=CURE.format("lines_max"))
