"""A request written and committed: onto the branch that is reconciled, or onto a branch of its own, to be merged.

The shared middle of `start`, the Python API and the door for agents. A request is parsed and planned before it is
committed, by the same parsers as everywhere; nobody's index or working tree is touched.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from reconciler import parse, resolve
from reconciler.errors import ContentError, ForgeFailed, TipMoved, TransientError, UsageError
from reconciler.git import Draft
from reconciler.loop import Loop, pass_lock
from reconciler.model import Name, PipelineId, Plan, Problem, Rejection, Request, RunId, Source, TaskId
from reconciler.observe import Observation
from reconciler.pulls import Opener
from reconciler.remote import HEADS, RefUpdate
from reconciler.requests import name_at
from reconciler.values import frozen
from reconciler.world import World

if TYPE_CHECKING:
    from reconciler.forges.forge import Forge

T = TypeVar("T")

TRIES_MAX = 10
REQUEST_BYTES_MAX = 64 * 1024
BODY_CHARACTERS_MAX = 60_000
NOTE_CHARACTERS_MAX = 200
_LINE = re.compile(rb"^rerun:[^\r\n]*\r?\n?", re.MULTILINE)
BRANCHES = "requests/"
"""Where the branches of requests are that wait to be merged."""


@frozen
class Submitted:
    """A request that is committed: the run it asks for, where its file is, and how it gets onto the branch.

    `run_id` is "" for a request that asks for more than one run. `branch` holds the commit; `pull_request` is the
    address of the pull request of it, "" if there is none. `new` is False where the tip asked for this already, so that
    nothing was committed.
    """

    run_id: RunId
    name: Name
    task: TaskId
    path: str
    commit: str
    branch: str
    pull_request: str = ""
    new: bool = True


def on_the_tip(loop: Loop, what: str, act: Callable[[Observation], T]) -> T:
    """Look at the tip and commit onto it, alone among those of this machine, and again if the tip moves meanwhile.

    `what` names what is committed. Raise TransientError if the remote does not answer, or the tip never stands still.
    """
    for _ in range(TRIES_MAX):
        try:
            with pass_lock(loop.world):
                return act(_seen(loop, what))
        except TipMoved:
            loop.observer.online = False
            loop.contact.spread()
    raise TransientError(f"the branch moved {TRIES_MAX} times while the {what} was committed; try again")


def _seen(loop: Loop, what: str) -> Observation:
    loop.contact.ask_if_due()
    seen = loop.observer.observe()
    if loop.world.remote is not None and not loop.observer.online:
        raise TransientError(
            f"{loop.world.remote.name} does not answer, and a {what} must be pushed there; try again later"
        )
    return seen


# ------------------------------------------------------------------------------------------------ what is asked for


def render(asked: Mapping[str, Any]) -> bytes:
    """Return a mapping as YAML, its keys in their order. Raise UsageError for what YAML or our bounds cannot hold."""
    from ruamel.yaml import YAML

    buffer = io.BytesIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 4096
    yaml.dump(_plain(asked), buffer)
    return buffer.getvalue()


def _plain(asked: Mapping[str, Any]) -> Any:
    """Return a mapping made of plain JSON values only."""
    try:
        text = json.dumps(asked, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        cure = "it is made of text, numbers, truth values, lists and mappings"
        raise UsageError(f"the request: {error}; {cure}") from None
    if len(text.encode()) > REQUEST_BYTES_MAX:
        raise UsageError(f"the request: has more than {REQUEST_BYTES_MAX} bytes; leave something out")
    return json.loads(text)


def planned(loop: Loop, content: bytes, path: str) -> tuple[Request, Plan]:
    """Return a request and its plan at the tip that was observed last. Raise ContentError with all that is wrong."""
    request = parse.parse_request(content, Source(path=path), loop.world.contracts)
    plan = request if isinstance(request, Rejection) else loop.observer.tip.plan_for(request)
    if isinstance(request, Rejection) or isinstance(plan, Rejection):
        problems = plan.problems if isinstance(plan, Rejection) else ()
        raise ContentError("\n".join(each.sentence().removeprefix(f"{path}: ") for each in problems))
    return request, plan


def pipeline_of(loop: Loop, content: bytes) -> PipelineId:
    """Return the pipeline that a request without a name yet asks for. Raise ContentError with all that is wrong."""
    return planned(loop, content, "runs.d/request.yaml")[0].pipeline


def written_down(world: World, seen: Observation, path: str) -> bytes | None:
    """Return what the tip holds at a path, None if there is no file."""
    [entry] = world.repository.files_at(seen.tip, [path]) or (None,)
    return next(world.repository.blobs([entry.oid]))[1] if entry is not None else None


def path_of(name: str) -> str:
    """Return where the request of a name lies. Raise UsageError if that can be no name."""
    path = f"runs.d/{name}.yaml"
    found = parse.request_name(path)
    if isinstance(found, Problem):
        raise UsageError(f"{name[:100]!r}: {found.reason}; {found.cure or 'for example 0001-diagnostics'}")
    return path


def next_name(names: Collection[str], pipeline: str) -> str:
    """Return `NNNN-<pipeline>`, one above the highest number in use."""
    numbers = [int(found[0]) for name in names if (found := re.match(r"\d{1,8}", name))]
    return f"{max(numbers, default=0) + 1:04d}-{pipeline}"


# ------------------------------------------------------------------------------------------------ onto a branch


def submit(
    loop: Loop,
    asked: Mapping[str, Any],
    name: str = "",
    *,
    mode: str = "direct",
    opener: Opener | None = None,
    note: str = "",
) -> Submitted:
    """Commit a request and return where it is; the same wish under the same `name` is found again.

    `mode` is `direct` for the branch that is reconciled, `branch` for one of its own, `pull_request` for that with a
    pull request, which is opened by way of `opener`. Without a name it gets the next free number. `note` is a line for
    the message of the commit. Raise ContentError for a request that cannot be used, or a name that another one has.
    """
    content, identity = render(asked), loop.world.repository.identity()
    if name:
        path_of(name)

    def act(seen: Observation) -> Submitted:
        path = path_of(name or _free_name(loop, seen, content, mode))
        request, _ = planned(loop, content, path)
        if (there := _there(loop, seen, request, mode)) is not None:
            return there
        draft = _draft(seen, request, content, identity, note)
        if mode == "direct":
            return _submitted(request, loop.commit(seen, draft), seen.branch)
        return _beside(loop, seen, draft, request, opener if mode == "pull_request" else None)

    return on_the_tip(loop, "request", act)


def rerun(loop: Loop, name: str) -> Submitted:
    """Raise `rerun` in the request of a name at the tip and return it. Raise UsageError if there is none, or if it is
    not written key by key."""
    identity = loop.world.repository.identity()

    def act(seen: Observation) -> Submitted:
        where = _place_of(loop, name)
        data = written_down(loop.world, seen, where)
        was = parse.parse_request(data or b"", Source(path=where), loop.world.contracts)
        if data is None or isinstance(was, Rejection):
            raise UsageError(f"{where}: there is no request that could be run again; see: reconciler status --all")
        text = _LINE.sub(b"", data).rstrip(b"\n") + f"\nrerun: {was.rerun + 1}\n".encode()
        request = replace(was, rerun=was.rerun + 1)
        if parse.parse_request(text, was.source, loop.world.contracts) != request:
            raise UsageError(f"{where}: it is not written key by key; write it yourself: rerun: {was.rerun + 1}")
        commit = loop.commit(seen, _draft(seen, request, text, identity))
        return _submitted(request, commit, seen.branch)

    return on_the_tip(loop, "request", act)


def _place_of(loop: Loop, name: str) -> str:
    """Return the path of the request of a name: its folders are dots in the name."""
    paths = (each for each in loop.observer.requests.cache.requests if not each.endswith(parse.APPROVAL_SUFFIX))
    return next((each for each in paths if name_at(each) == name), path_of(name))


def _free_name(loop: Loop, seen: Observation, content: bytes, mode: str) -> str:
    """Return a name that no request has; on a branch of its own one that no other branch chooses, either."""
    found = next_name(seen.desired.names, pipeline_of(loop, content))
    return found if mode == "direct" else f"{found}-{loop.world.chance.nonce()[:6]}"


def _there(loop: Loop, seen: Observation, request: Request, mode: str) -> Submitted | None:
    """Return the request if the tip holds it already, None if its name is free. Raise ContentError if it is taken."""
    data = written_down(loop.world, seen, request.source.path)
    if data is None:
        return None
    there = parse.parse_request(data, request.source, loop.world.contracts)
    if there != request:
        raise ContentError(f"{request.source.path}: is another request; choose another name")
    return replace(_submitted(request, seen.tip, seen.branch), new=False)


def _submitted(request: Request, commit: str, branch: str) -> Submitted:
    run_id = RunId("") if request.recurring else resolve.run_id(request)
    return Submitted(
        run_id=run_id, name=request.name, task=request.task, path=request.source.path, commit=commit, branch=branch
    )


def _draft(seen: Observation, request: Request, content: bytes, identity: str, note: str = "") -> Draft:
    line = "".join(each if each.isprintable() else " " for each in note[:NOTE_CHARACTERS_MAX])
    return Draft(
        parent=seen.tip,
        files={request.source.path: content},
        message=f"runs: start {request.pipeline} for {request.task}\n" + (f"\n{line}\n" if line else ""),
        identity=identity,
        epoch_s=int(datetime.now(UTC).timestamp()),
    )


def _beside(loop: Loop, seen: Observation, draft: Draft, request: Request, opener: Opener | None) -> Submitted:
    """Commit onto a new branch, with a pull request where there is an opener: the forge is found first."""
    forge = opener(loop.world, seen.settings.forge) if opener is not None else None
    if isinstance(forge, str):
        raise ForgeFailed(f"{request.source.path}: no pull request can be opened, so nothing was committed: {forge}")
    try:
        branch = f"{BRANCHES}{request.name}"
        there = _branch_there(loop.world, branch, draft, request.source.path)
        found = _submitted(request, there or _branched(loop.world, branch, draft), branch)
        found = replace(found, new=there is None)
        return found if forge is None else _proposed(forge, found, seen, draft)
    finally:
        if forge is not None:
            forge.close()


def _branch_there(world: World, branch: str, draft: Draft, path: str) -> str | None:
    """Return the commit of a branch that holds this very request already, None if there is no such branch. Raise
    UsageError if it holds something else, or nobody here can tell."""
    ref = f"{HEADS}{branch}"
    commit = world.repository.commit_of(branch) if world.remote is None else world.remote.look([ref]).get(ref)
    if commit is None:
        return None
    blob = world.repository.look_up([f"{commit}:{path}"])[0]
    if blob is None or next(world.repository.blobs([blob]))[1] != draft.files[path]:
        raise UsageError(f"branch '{branch}': is there already and says something else; choose another name")
    return commit


def _branched(world: World, branch: str, draft: Draft) -> str:
    """Make a branch that does not exist, at the remote if there is one. Raise UsageError if somebody just did."""
    commit = world.repository.make_commit(draft)
    if world.remote is None:
        world.repository.create_branch(branch, commit)
    elif world.remote.push([RefUpdate(ref=f"{HEADS}{branch}", old=None, new=commit)], atomic=False):
        raise UsageError(f"branch '{branch}': is there already at {world.remote.name}; choose another name")
    return commit


def _proposed(forge: Forge, found: Submitted, seen: Observation, draft: Draft) -> Submitted:
    """Open the pull request of a branch that was pushed; what people and agents wrote is shown as code."""
    from reconciler import markup
    from reconciler.forges.forge import Wanted

    shown = "\n".join(f"    {line}" for line in draft.files[found.path].decode().splitlines())
    said = f"Merging this asks for the run {markup.code(found.run_id or found.name)}:"
    body = f"{said}\n\n{markup.bounded(shown, BODY_CHARACTERS_MAX)}\n"
    wanted = Wanted(head=found.branch, base=seen.branch, title=draft.message.partition("\n")[0], body=body)
    try:
        return replace(found, pull_request=forge.pull_request(wanted).url)
    except TransientError as error:
        raise ForgeFailed(f"branch '{found.branch}' is pushed, and no pull request of it is open: {error}") from None
