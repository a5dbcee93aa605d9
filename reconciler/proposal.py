"""A pull request as it is: two commits are read, merged on the side, and held against each other. Nothing is written.

What the merge makes lies in a directory that is gone afterwards. Both sides are read as a pass reads its tip, and
nothing of either is executed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from reconciler import proposal_powers, proposal_problems, reviewed
from reconciler.approvals import decision_of
from reconciler.approve import Case
from reconciler.cache import read_cache
from reconciler.errors import ContentError, UsageError
from reconciler.git import Entry
from reconciler.model import Approval, Decision, Name, Plan, Settings
from reconciler.preview import NOWHERE, Change, Preview, Verdict, Wanted, preview
from reconciler.preview_gates import Cast
from reconciler.proposal_sides import Side, copied, gates, look, wanted, with_case
from reconciler.requests import APPROVAL_SUFFIX, name_at
from reconciler.values import frozen
from reconciler.world import World, settings_at

CHANGED_MAX = 100_000
"""Beyond so many changed files nothing is said about a change."""
REPLANNED_MAX = 1_000
"""So many requests that the change does not touch are planned anew where what plans are made of changes."""
DECISIONS_MAX = 100
COMMITS_MAX = 1_000


@frozen
class Pair:
    """What is asked about: two commits by their full object ids."""

    base: str
    head: str


def propose(world: World, base: str | None, head: str) -> Preview:
    """Return what merging `head` into `base`, by default the branch of the settings, would do. Raise UsageError where a
    name means no commit, or where too little of the history is here."""
    pair = Pair(base=_base(world, base), head=_commit(world, "--head", head))
    repository = world.repository
    if repository.is_ancestor(pair.head, pair.base):
        return _unlooked(world, pair, Change(base=pair.base, head=pair.head, verdict=Verdict.NOTHING))
    parting = repository.parting(pair.base, pair.head)
    if parting is None:
        raise UsageError(_apart(world, pair))
    with tempfile.TemporaryDirectory(prefix="reconciler-plan-") as place:
        tree, conflicts = _merge(world, pair, parting, Path(place))
        change = Change(base=pair.base, head=pair.head, merge_base=parting, conflicts=conflicts)
        if conflicts:
            return _unlooked(world, pair, replace(change, verdict=Verdict.CONFLICT))
        there = replace(world, repository=repository.with_objects(Path(place)))
        try:
            return _compared(world, there, pair, tree, change, Path(place))
        finally:
            there.repository.objects.close()


def unreviewed(world: World) -> dict[str, str]:
    """Return by path the digests that requests at HEAD would have to name and do not: what kept them from being
    launched is that alone."""
    head = _commit(world, "--head", "HEAD")
    cache = read_cache(world.repository.state / "cache.json", world.disk)
    side = look(world, cache, head, _evidence_tip(world, head))
    found = wanted(side, islice(_unsettled(side), REPLANNED_MAX), world.now())
    plans = ((each.request, each.plan) for each in found.values() if isinstance(each.plan, Plan))
    settings = side.tip.settings
    return {
        request.source.path: reviewed.digest(plan, settings)
        for request, plan in plans
        if reviewed.objection(request, plan, settings) is not None
    }


def _unlooked(world: World, pair: Pair, change: Change) -> Preview:
    return preview(NOWHERE, NOWHERE, change, world.now())


def _merge(world: World, pair: Pair, parting: str, place: Path) -> tuple[str, tuple[str, ...]]:
    """Return the tree of the merge, and the paths in conflict."""
    if parting == pair.base:
        return world.repository.look_up([f"{pair.head}^{{tree}}"])[0] or "", ()
    found = world.repository.merged(pair.base, pair.head, place)
    return found.tree, found.conflicts


# ------------------------------------------------------------------------------------------------ commits


def _commit(world: World, option: str, word: str) -> str:
    """Return the commit a revision means. It goes to git as input, so it cannot become an option."""
    oid = None if "\n" in word else world.repository.look_up([f"{word}^{{commit}}"])[0]
    if oid is None:
        cure = "name a branch as 'origin/main', a tag or a commit, and fetch it first"
        raise UsageError(f"{option} {word}: there is no such commit here; {cure}")
    return oid


def _base(world: World, word: str | None) -> str:
    if word is not None:
        return _commit(world, "--base", word)
    settings = settings_at(world.repository, world.contracts, "HEAD")
    branch = settings.branch if isinstance(settings, Settings) else None
    try:
        branch = branch or world.repository.head_branch()
    except ContentError:
        raise UsageError("HEAD is detached and reconciler.yaml names no 'branch'; say --base REF") from None
    found = _branch_tip(world, branch)
    if found is None and world.remote is not None:
        name = world.remote.name
        raise UsageError(f"nothing is known of branch '{branch}' at {name}; run: git fetch {name} {branch}")
    if found is None:
        raise UsageError(f"there is no branch '{branch}'; say --base REF")
    return found


def _branch_tip(world: World, branch: str) -> str | None:
    """Return the newest commit that is known of a branch: as a fetch or a pass saw it, where there is a remote."""
    repository = world.repository
    if world.remote is None:
        return repository.commit_of(branch)
    names = (f"refs/remotes/{world.remote.name}/{branch}", f"refs/reconciler/remote/heads/{branch}")
    fetched, heard = repository.look_up([f"{each}^{{commit}}" for each in names])
    if fetched is None or heard is None:
        return fetched or heard
    return heard if repository.is_ancestor(fetched, heard) else fetched


def _apart(world: World, pair: Pair) -> str:
    where = f"{pair.base[:12]} and {pair.head[:12]} have no commit in common"
    if not world.repository.shallow:
        return f"{where}; name two branches of one history"
    cure = "fetch more of both, for example: git fetch --depth 1000 REMOTE BRANCH ..., or: git fetch --unshallow"
    return f"{where} here, because this clone is shallow; {cure}"


# ------------------------------------------------------------------------------------------------ both sides


def _compared(world: World, there: World, pair: Pair, tree: str, change: Change, place: Path) -> Preview:
    repository, now = there.repository, world.now()
    base_tree = repository.look_up([f"{pair.base}^{{tree}}"])[0]
    found = repository.changes(base_tree, tree)
    changed = dict(islice(found, CHANGED_MAX + 1))
    if len(changed) > CHANGED_MAX:
        raise UsageError(f"more than {CHANGED_MAX} files differ between base and head; merge in smaller parts")
    cache = read_cache(world.repository.state / "cache.json", world.disk)
    base = look(there, cache, pair.base, _evidence_tip(world, pair.base))
    merged = look(there, copied(cache), tree, base.proofs.tip)
    if not changed:
        return _unlooked(world, pair, replace(change, verdict=Verdict.NOTHING))
    names = _names(base, merged, changed)
    before = wanted(base, names, now)
    after = _judged(base, merged, wanted(merged, names, now), pair, changed)
    problems = proposal_problems.of_files(merged, changed)
    brought, standing = proposal_problems.elsewhere(base, merged, before, after, changed)
    whole = replace(
        change,
        casts=tuple(_casts(base, merged, pair, changed, place)),
        powers=proposal_powers.powers(base, merged, changed),
        problems=(*problems, *brought),
        standing=standing,
    )
    if merged.broken:
        # No pass begins anything under settings that cannot be used.
        return preview(base.state(before), base.state(before), whole, now)
    return preview(base.state(before), merged.state(after), whole, now)


def _evidence_tip(world: World, commit: str) -> str:
    """Return the tip of the branch that evidence has of its own, "" if it has none."""
    settings = settings_at(world.repository, world.contracts, commit)
    if not isinstance(settings, Settings) or settings.publish.mode != "branch":
        return ""
    return _branch_tip(world, settings.publish.branch) or ""


def _names(base: Side, merged: Side, changed: Mapping[str, Entry | None]) -> list[Name]:
    """Return the names of the requests that the change may concern."""
    ours = (path for path in changed if path.startswith("runs.d/") and path.endswith((".yaml", ".yml")))
    found = dict.fromkeys(name_at(path) for path in ours if not path.endswith((APPROVAL_SUFFIX, ".approval.yml")))
    found |= dict.fromkeys(_with_changed_inputs(merged, changed))
    was, now = base.tip.trees, merged.tip.trees
    if (was.pipelines, was.settings, was.instructions) != (now.pipelines, now.settings, now.instructions):
        found |= dict.fromkeys(islice(_unsettled(merged), REPLANNED_MAX))
    return list(found)


def _with_changed_inputs(merged: Side, changed: Mapping[str, Entry | None]) -> Iterator[Name]:
    """Yield the requests that run anew when something changes that the change changes."""
    paths = list(merged.requests.recurring.values())
    merged.requests.read(paths)
    folders = {path[:end] for path in changed for end in _ends(path)}
    for request in (merged.requests.parsed[path] for path in paths if path in merged.requests.parsed):
        if any(each in folders for each in request.on_change):
            yield request.name


def _ends(path: str) -> Iterator[int]:
    """Yield where a path and each folder around it ends."""
    yield len(path)
    yield from (index for index, each in enumerate(path) if each == "/")


def _unsettled(merged: Side) -> Iterator[Name]:
    yield from merged.requests.recurring
    paths = merged.requests.unsettled((), merged.proofs.rows)
    yield from (name_at(path) for path in paths)


# ------------------------------------------------------------------------------------------------ people


def _judged(
    base: Side, merged: Side, after: Mapping[Name, Wanted], pair: Pair, changed: Mapping[str, Entry | None]
) -> dict[Name, Wanted]:
    """Return requests with what policies look at, where somebody must allow a stage."""
    if not any(gates(each.plan) for each in after.values()):
        return dict(after)
    authors = merged.world.repository.authors(pair.base, pair.head, "runs.d", COMMITS_MAX)
    decided = frozenset(commit for path, who in authors.items() if path.endswith(APPROVAL_SUFFIX) for commit, _ in who)
    by_path = any(each.paths for each in (*base.tip.settings.approvals, *merged.tip.settings.approvals))
    paths = tuple(sorted(changed)) if by_path else ()
    older = {
        path: base.world.repository.changers(pair.base, path) for path in islice(_edited(base, after), DECISIONS_MAX)
    }
    found = dict(after)
    for name, each in after.items():
        path = each.request.source.path
        asked = (*authors.get(path, ()), *older.get(path, ()))
        if gates(each.plan):
            author, commit = (asked[0][1], asked[0][0]) if asked else ("", "")
            case = Case(
                pipeline=each.request.pipeline,
                plan_digest="",
                author=author,
                commit=commit,
                changed=paths,
                asked=asked,
                early=decided,
            )
            found[name] = with_case(each, case)
    return found


def _edited(base: Side, after: Mapping[Name, Wanted]) -> Iterator[str]:
    """Yield the requests with gates that the base has already: there others may have asked for them."""
    for each in after.values():
        path = each.request.source.path
        if gates(each.plan) and path in base.requests.cache.requests:
            yield path


def _casts(base: Side, merged: Side, pair: Pair, changed: Mapping[str, Entry | None], place: Path) -> Iterator[Cast]:
    """Yield the decisions that the change brings along, by path, the first `DECISIONS_MAX`."""
    paths = sorted(path for path, entry in changed.items() if entry is not None and _is_decision(path))
    signers = _signers(base, place)
    for path in paths[:DECISIONS_MAX]:
        entry = changed[path]
        assert entry is not None
        data = next(merged.world.repository.blobs([entry.oid]))[1] if entry.is_file else None
        approval = merged.requests.parse(path, entry, data)
        if isinstance(approval, Approval):
            last = merged.world.repository.last_change(pair.head, path, signers)
            yield _cast(base, approval, decision_of(approval, last))


def _is_decision(path: str) -> bool:
    return path.startswith("runs.d/") and path.endswith(APPROVAL_SUFFIX)


def _cast(base: Side, approval: Approval, decision: Decision) -> Cast:
    """Return a decision with the gate it is about, if a run waits there by what the base proves."""
    evidence = base.state({}).evidence.get(approval.run)
    waiting = evidence.waiting if evidence is not None else None
    gate = next((each for each in waiting.gates if each.stage == approval.stage), None) if waiting is not None else None
    path = base.requests.paths.get(approval.run, "")
    base.requests.read([path] if path else [])
    request = base.requests.parsed.get(path)
    if waiting is None or gate is None or request is None:
        return Cast(approval=approval, decision=decision)
    repository, policies = base.world.repository, base.tip.settings.approvals
    asked = repository.changers(base.commit, path)
    case = Case(
        pipeline=request.pipeline,
        plan_digest=waiting.plan_digest,
        labels=request.labels,
        author=asked[0][1] if asked else "",
        commit=asked[0][0] if asked else "",
        changed=repository.first_parent_changes(waiting.commit) if any(each.paths for each in policies) else (),
        asked=asked,
    )
    return Cast(approval=approval, decision=decision, gate=gate, case=case)


def _signers(base: Side, place: Path) -> Path | None:
    """Write down the allowed signers of the base where git finds them; None if signatures are not asked for. Those of
    the change do not count: it would say itself whom to believe."""
    path = base.tip.settings.trust.allowed_signers
    if path is None:
        return None
    files = base.world.repository.files_at(base.commit, [path])
    data = next(base.world.repository.blobs([files[0].oid]))[1] if files else None
    found = place / "allowed_signers"
    found.write_bytes(data or b"")
    return found
