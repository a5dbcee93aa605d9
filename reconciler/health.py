"""What `doctor` makes of what it saw: every fact becomes a finding, and every finding that is bad names its cure.

An *error* keeps runs from working; a *warning* is a promise that is weaker here, or something that a person would like
to know. Facts come in as values; where they come from is `probes`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from enum import StrEnum

from reconciler.values import frozen

PYTHON_MIN = (3, 11)
GIT_MIN = (2, 36)
"""`git cat-file --batch-command` and `core.fsync` came with it."""

OPEN_FILES_MIN, OPEN_FILES_FEW = 64, 512
"""A worker needs a few for every stage that runs, a pass a few dozen; 256 is what macOS gives."""
FREE_BYTES_MIN, FREE_BYTES_FEW = 64 * 1024**2, 1024**3
FREE_FILES_FEW = 10_000
CLOCK_TOLERANCE_S = 120
CLOCK_EPOCH_MIN_S = 1_735_689_600
"""2025-01-01: a clock that shows an earlier day has not been set."""
NAMES_SHOWN_MAX = 10

NETWORKS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs", "afs", "lustre"})

AGENTS = {
    "codex": ("codex", "npm install -g @openai/codex"),
    "claude": ("claude", "npm install -g @anthropic-ai/claude-code"),
}
"""The program that an agent's name means, and how it gets here."""

USER_NAMESPACES = {
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
    "user.max_user_namespaces": ("0", "15000"),
}
"""What a kernel may say that keeps bubblewrap from working, and what lets it work."""


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@frozen
class Finding:
    """One thing that was looked at. `cure` is a command where one helps; it is "" where nothing is wrong."""

    subject: str
    level: Level = Level.OK
    text: str
    cure: str = ""


def fine(subject: str, text: str) -> Finding:
    return Finding(subject=subject, text=text)


def warning(subject: str, text: str, cure: str) -> Finding:
    return Finding(subject=subject, level=Level.WARNING, text=text, cure=cure)


def error(subject: str, text: str, cure: str) -> Finding:
    return Finding(subject=subject, level=Level.ERROR, text=text, cure=cure)


# ------------------------------------------------------------------------------------------------ programs


def python(version: Sequence[int]) -> Finding:
    said = _dotted(version)
    if tuple(version[:2]) < PYTHON_MIN:
        cure = f"install Python {_dotted(PYTHON_MIN)} or newer, and reconciler into it"
        return error("python", f"{said} is too old; {_dotted(PYTHON_MIN)} is needed", cure)
    return fine("python", said)


def git(said: str | None) -> Finding:
    """Return what `git --version` means; None is no git."""
    needed = f"install git {_dotted(GIT_MIN)} or newer"
    if said is None:
        return error("git", "is not installed or not on PATH", needed)
    found = re.search(r"(\d+)\.(\d+)[^\s]*", said)
    if found is None:
        return warning("git", f"does not say its version: {_short(said)}", needed)
    if (int(found[1]), int(found[2])) < GIT_MIN:
        return error("git", f"{found[0]} is too old; {_dotted(GIT_MIN)} is needed", needed)
    return fine("git", found[0])


def agents(used: Mapping[str, str], versions: Mapping[str, str | None]) -> Iterator[Finding]:
    """Yield a finding for each coding agent that a pipeline names. `used` is agent -> pipeline file, `versions`
    agent -> what its program says of itself, None if it is not there."""
    for name, path in used.items():
        if name not in AGENTS:
            continue
        program, cure = AGENTS[name]
        said = versions.get(name)
        if said is None:
            yield error(name, f"{path} lets it work, and '{program}' is not on PATH or does not answer", cure)
        else:
            yield fine(name, _short(said))


def roles(missing: Mapping[tuple[str, str], str], named: bool) -> Iterator[Finding]:
    """Yield a finding for each role that settings name and no package takes; `missing` is (role, name) -> cure."""
    for (role, name), cure in missing.items():
        yield error("roles", f"{role} '{name}' is not installed", cure)
    if named and not missing:
        yield fine("roles", "every role that reconciler.yaml names is installed")


def subscribers(missing: Mapping[str, str], named: bool) -> Iterator[Finding]:
    """Yield a finding for each subscriber that settings name and no package has; `missing` is name -> cure."""
    for name, cure in missing.items():
        yield warning("subscribers", f"'{name}' is not installed, and hears nothing", cure)
    if named and not missing:
        yield fine("subscribers", "every subscriber that reconciler.yaml names is installed")


def credentials(missing: Mapping[str, str], named: bool) -> Iterator[Finding]:
    """Yield a finding for each credential that cannot be had here; `missing` is name -> why."""
    for name, reason in missing.items():
        yield warning("credentials", reason, f"see what reconciler.yaml says of '{name}'")
    if named and not missing:
        yield fine("credentials", "what is in variables, files and the keyring can be read")


def extras(missing: Mapping[str, str], named: bool) -> Iterator[Finding]:
    """Yield what is not installed that is asked for: `missing` is what asks for it, by extra."""
    for name, why in missing.items():
        cure = f"python3 -m pip install 'gitops-reconciler[{name}]'"
        yield error("extras", f"{why} needs the extra '{name}', which is not installed", cure)
    if named and not missing:
        yield fine("extras", "all that is asked for are installed")


def engines(said: Mapping[str, str | None]) -> Iterator[Finding]:
    """Yield a finding for each executor with an engine: what is in the way of asking that, "" if it answers, None if it
    was not asked."""
    for name, problem in said.items():
        if problem:
            cure = "runs placed there wait until it answers; see docs/how-to/executors.md"
            yield warning("engines", f"the engine of executor '{name}' cannot be used: {_short(problem)}", cure)
        else:
            how = (
                "answers" if problem is not None else "was not asked: its options name what would be executed for that"
            )
            yield fine("engines", f"the engine of executor '{name}' {how}")


@frozen
class Lent:
    """A credential that an executor lends to its attempts. `fault` says why that is of no use, "" if it is; `renewed`
    whether its engine can renew it, None where only the engine knows."""

    credential: str
    engine: str
    fault: str
    renewed: bool | None


def lent(said: Mapping[str, Lent]) -> Iterator[Finding]:
    """Yield a finding for each executor that lends a credential to its attempts."""
    for name, each in said.items():
        whole = f"executor '{name}' lends credential '{each.credential}'"
        if each.fault:
            cure = "name an address that begins with https:// as its 'url', or leave its 'credential' out"
            yield warning("engines", f"{whole}, and {each.fault}", cure)
        elif each.renewed is None:
            yield fine("engines", whole)
        elif each.renewed:
            yield fine("engines", f"{whole}, and renews it")
        else:
            yield fine("engines", f"{whole}, which '{each.engine}' cannot renew: it has to outlive the attempts")


def deliveries(dead: int) -> Iterator[Finding]:
    """Yield a finding if there are dead letters."""
    if dead:
        cure = "reconciler deliveries --retry all"
        yield warning("deliveries", f"{dead} were given up; 'reconciler deliveries' says why", cure)


# ------------------------------------------------------------------------------------------------ the machine


def platform(name: str) -> Finding:
    """Return what `sys.platform` means."""
    if name == "linux":
        return fine("platform", "Linux carries every promise")
    if name == "darwin":
        text = (
            "macOS has no subreaper, no /proc and no bubblewrap: what a stage starts in a session of its own can "
            "outlive it, a process that took a run's lock along cannot be found, and stages are not sandboxed"
        )
        return warning("platform", text, "reconcile on Linux where that matters")
    return error("platform", f"{name} is not supported", "use Linux, or a virtual machine or container with it")


def processes(*, pidfd: bool, subreaper: bool, proc: bool) -> Iterator[Finding]:
    """Yield what this kernel can do about processes (Linux)."""
    if not proc:
        text = "/proc is not there: what outlives its run cannot be found and ended"
        yield error("processes", text, "mount -t proc proc /proc")
    if not subreaper:
        text = "no subreaper: what a stage starts in a session of its own can outlive it"
        yield warning("processes", text, "use Linux 3.4 or newer, or a container that allows prctl")
    if not pidfd:
        text = "no pidfd: the end of a process is noticed up to 50 ms later"
        yield warning("processes", text, "use Linux 5.3 or newer, or a container that allows pidfd_open")
    if pidfd and subreaper and proc:
        yield fine("processes", "pidfd, subreaper and /proc are there")


@frozen
class Sandboxing:
    """How bubblewrap answered: `found` on PATH, `works`, what it `said`; `kernel` holds settings by their name."""

    found: bool
    works: bool = False
    said: str = ""
    kernel: Mapping[str, str] = field(default_factory=dict)


def sandbox(seen: Sandboxing) -> Finding:
    if not seen.found:
        text = "bubblewrap is not installed: stages cannot be sandboxed"
        return warning("sandbox", text, "sudo apt-get install bubblewrap")
    if seen.works:
        return fine("sandbox", "bubblewrap works")
    bad = [(name, good) for name, (wrong, good) in USER_NAMESPACES.items() if seen.kernel.get(name) == wrong]
    cure = "; ".join(f"sudo sysctl -w {name}={good}" for name, good in bad)
    text = f"bubblewrap does not work here: {_short(seen.said) or 'it does not answer'}"
    return warning("sandbox", text, cure or "bwrap --ro-bind / / true, and allow user namespaces to this container")


def open_files(soft: int) -> Finding:
    """Return what the limit of open files means; below 0 is none."""
    if soft < 0 or soft >= OPEN_FILES_FEW:
        return fine("open files", "no limit" if soft < 0 else f"{soft} at once")
    text = f"a process may have {soft} open, which is few for many stages at once"
    kind = error if soft < OPEN_FILES_MIN else warning
    return kind("open files", text, "ulimit -n 4096")


def clock(now_s: float, commit_s: int | None) -> Finding:
    """Return whether the clock is believable. Both are seconds since 1970; None if there is no commit."""
    cure = "sudo timedatectl set-ntp true"
    if now_s < CLOCK_EPOCH_MIN_S:
        return warning("clock", "shows a day before 2025: it has not been set", cure)
    ahead_s = 0 if commit_s is None else commit_s - now_s
    if ahead_s > CLOCK_TOLERANCE_S:
        text = f"the newest commit is {_span(ahead_s)} in the future: this clock is slow, or its author's was fast"
        return warning("clock", text, cure)
    return fine("clock", "no commit is in the future")


def environment(names: Sequence[str]) -> Finding:
    """Return what stages without a sandbox inherit: names of variables that look like credentials."""
    if not names:
        return fine("environment", "holds no credentials that stages would inherit")
    text = f"stages without a sandbox inherit what looks like credentials: {_listed(names)}"
    unset = " ".join(f"-u {shlex.quote(each)}" for each in names[:NAMES_SHOWN_MAX])
    return warning("environment", text, f"env {unset} reconciler reconcile")


# ------------------------------------------------------------------------------------------------ the place


def space(free_bytes: int, free_files: int | None, where: str) -> Finding:
    """Return whether there is room for records and evidence. `free_files` is None where none are counted."""
    cure = f"du -xh --max-depth=2 {shlex.quote(where)} | sort -h | tail"
    said = f"{_size(free_bytes)} free"
    if free_bytes < FREE_BYTES_MIN or free_files == 0:
        return error("disk", f"{said}: records and evidence cannot be written", cure)
    if free_bytes < FREE_BYTES_FEW:
        return warning("disk", f"{said}, which a few worktrees and logs can fill", cure)
    if free_files is not None and free_files < FREE_FILES_FEW:
        return warning("disk", f"room for {free_files} more files only", cure)
    return fine("disk", said)


@frozen
class Storage:
    """What a directory can do: its file system's `kind`, whether locks exclude, whether a file can have a second name;
    `refusal` is why nothing could be tried, `read_only` that nobody may write there."""

    kind: str = ""
    locks: bool = False
    links: bool = False
    refusal: str = ""
    read_only: bool = False


def storage(seen: Storage, where: str) -> Iterator[Finding]:
    if seen.refusal:
        cure = f'sudo chown -R "$(id -un)" {shlex.quote(where)}'
        if seen.read_only:
            cure = "mount the file system so that it can be written, or move the repository to one that can"
        yield error("file system", f"{where} cannot be written: {seen.refusal}", cure)
        return
    move = "move the repository to a disk of this machine"
    if not seen.locks:
        yield error("file system", "locks (flock) exclude nobody here: a run could be executed twice", move)
    if not seen.links:
        yield error("file system", "it knows no hard links, with which claims are made", move)
    if seen.kind in NETWORKS:
        text = f"{seen.kind} is shared: two machines must not use one checkout, each needs a clone of its own"
        yield warning("file system", text, move)
    elif seen.locks and seen.links:
        yield fine("file system", " ".join(filter(None, (seen.kind, "with locks and hard links"))))


def mount_of(mounts: str, path: str) -> str:
    """Return the kind of file system a path is on, as /proc/self/mountinfo tells, "" if it does not."""
    best, kind = "", ""
    for line in mounts.splitlines():
        words = line.split(" ")
        if "-" not in words[6:-3] or len(words) < 10:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, words[words.index("-", 6) + 1]
    return kind


# ------------------------------------------------------------------------------------------------ the repository


def no_repository(reason: str, where: str) -> Finding:
    if "dubious ownership" in reason:
        cure = f"git config --global --add safe.directory {shlex.quote(where)}"
        return error("repository", "git does not trust it, because another user owns it", cure)
    text, _, cure = reason.partition("; ")
    if "not in a git repository" in reason:
        cure = "git init && reconciler init"
    return error("repository", text, cure or "name a repository with --repo")


def repository(*, bare: bool, shallow: bool, partial: bool, remote: str) -> Iterator[Finding]:
    """Yield what kind of clone it is."""
    words = ["bare" if bare else "", "shallow" if shallow else "", "partial" if partial else ""]
    if partial:
        text = "a partial clone: a pass fetches what it reads, and fails where the remote does not answer"
        cure = f"git config --unset remote.{remote}.partialclonefilter; git fetch --refetch {remote}"
        yield warning("repository", text, cure)
    else:
        yield fine("repository", ", ".join(filter(None, words)) or "a full clone with a checkout")


@frozen
class Branches:
    """`head` is the branch HEAD names, None if it is detached; `said` what the settings name; `local` and `there`
    whether the branch that counts exists here and at the remote (None: that is not known, or there is none)."""

    head: str | None
    said: str | None
    local: bool
    there: bool | None
    remote: str | None

    @property
    def name(self) -> str | None:
        return self.said or self.head


def branch(seen: Branches, unusable: str = "") -> Finding:
    """Return whether there is a branch to read requests from. `unusable` says why the one HEAD names cannot be that."""
    if seen.name is None and unusable:
        return error("branch", unusable.partition("; ")[0], "git branch -m NAME")
    if seen.name is None:
        text = "HEAD is detached, and reconciler.yaml names no 'branch'"
        return error("branch", text, "git switch main, or: echo 'branch: main' >> reconciler.yaml")
    name = shlex.quote(seen.name)
    if seen.remote is None and not seen.local:
        cure = "git commit --allow-empty -m 'begin'" if seen.name == seen.head else f"git branch {name}"
        return error("branch", f"'{seen.name}' has no commit", cure)
    if seen.there is False:
        return error("branch", f"there is no '{seen.name}' at {seen.remote}", f"git push {seen.remote} {name}")
    where = f" at {seen.remote}" if seen.remote is not None else ""
    return fine("branch", f"'{seen.name}'{where}")


@frozen
class Contact:
    """How a remote answered: "" where it did. `push` is why a push of several refs as one is not taken."""

    name: str
    refusal: str = ""
    push: str = ""
    atomic: bool = True


def remote(said: str | None, seen: Contact | None, wrong: tuple[str, str] | None = None) -> Iterator[Finding]:
    """Yield whether the remote can be used. `said` is the remote that the settings name; `wrong` what is wrong with
    that name among those that are configured, and what would be right."""
    if seen is None and wrong is not None:
        yield warning("remote", *wrong)
    elif seen is None and said not in (None, "origin"):
        text = f"'{said}' is not configured, so the local branch counts"
        yield warning("remote", text, f"git remote add {shlex.quote(str(said))} URL")
    elif seen is None:
        yield fine("remote", "none: the local branch counts")
    elif seen.refusal:
        yield error("remote", f"{seen.name} does not answer: {_short(seen.refusal)}", f"git ls-remote {seen.name}")
    elif not seen.atomic:
        text = f"{seen.name} cannot push atomically: evidence is pushed first, and claims are deleted after it"
        yield warning("remote", text, "upgrade git at the server, or reconcile from one machine only")
    elif seen.push:
        text = f"{seen.name} does not take a push: {_short(seen.push)}"
        cure = f"git push --dry-run {seen.name} HEAD:refs/reconciler/claims/doctor"
        yield error("remote", text, cure)
    else:
        yield fine("remote", f"{seen.name} answers and takes atomic pushes")


def locks(names: Sequence[str]) -> Finding:
    if not names:
        return fine("locks", "no stale lock files")
    text = (
        f"git left lock files behind: {_listed(names)}; a pass removes them once it is proven that their maker is dead"
    )
    return warning("locks", text, "reconciler reconcile")


def exclude(*, excluded: bool, runs: bool, file: str) -> Finding:
    """Return whether live records stay out of `git status`. `runs` says that there are any."""
    if excluded or not runs:
        return fine("exclude", "/.runs/ is excluded" if excluded else "/.runs/ will be, by the first pass")
    text = "/.runs/ is not excluded: live records show up in git status, and `git add` would take them"
    return warning("exclude", text, f"echo /.runs/ >> {shlex.quote(file)}")


def settings(problems: Sequence[str], there: bool) -> Finding:
    if problems:
        return error("settings", _first(problems), "reconciler validate --commit HEAD")
    return fine("settings", "reconciler.yaml is sound" if there else "the defaults: there is no reconciler.yaml")


def files(count: int, errors: Sequence[str], warnings: Sequence[str], where: str = "") -> Finding:
    """Return what `validate` finds, in one line; `where` says so if that is not on disk."""
    if errors:
        return error("files", _first(errors), "reconciler validate")
    if warnings:
        return warning("files", _first(warnings), "reconciler validate")
    if not count:
        return warning("files", "there is nothing of ours here", "reconciler init")
    return fine("files", f"{count} checked{where}, no problems")


def leftovers(runs: Sequence[str]) -> Finding:
    if not runs:
        return fine("runs", "every run that is under way has its records")
    text = f"marked as under way, and their records are gone: {_listed(runs)}; a pass launches anew what is asked for"
    return warning("runs", text, "reconciler reconcile --wait")


def conditions(found: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """Yield what the last pass could not do."""
    for name, each in found.items():
        yield error(name, f"waits since {each['since']}: {each['reason']}", "reconciler reconcile")


def unknown(subject: str, reason: str) -> Finding:
    """Return the finding of a look that failed itself."""
    return error(subject, f"cannot be looked at: {_short(reason)}", "reconciler status")


# ------------------------------------------------------------------------------------------------ small parts


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _short(text: str, characters_max: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters_max else f"{line[: characters_max - 3]}..."


def _first(sentences: Sequence[str]) -> str:
    more = len(sentences) - 1
    return _short(sentences[0]) + (f" (and {more} more)" if more else "")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN_MAX
    return ", ".join(names[:NAMES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{count / 1024**2:.0f} MiB"


def _span(seconds: float) -> str:
    units = (("days", 86400), ("hours", 3600), ("minutes", 60))
    name, size = next((each for each in units if seconds >= 2 * each[1]), ("seconds", 1))
    return f"{int(seconds / size)} {name}"
