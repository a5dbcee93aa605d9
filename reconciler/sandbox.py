"""The walls around a stage that asks for a sandbox: what it may reach, know and leave behind.

What is asked (`demand`), the arguments of bubblewrap (`arguments`) and the environment of the stage (`environment`)
follow from values alone; `probe`, `build` and `launch` look at this machine. Nothing is in reach that is not named
here: the root is an empty, read-only file system, on which what a stage needs is bound.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from reconciler.model import PlannedStage, StageKind
from reconciler.values import frozen

ASPECTS = ("filesystem", "network", "processes", "environment")
"""What a sandbox keeps apart, in the words of a manifest."""

HARMLESS = frozenset(("PATH", "LANG", "LANGUAGE", "TERM", "COLORTERM", "NO_COLOR", "TZ", "USER", "LOGNAME"))
"""What is inherited in a sandbox, beside `LC_*` and the secrets that are named."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TEMPORARY = "/tmp"  # noqa: S108  a file system of its own in the sandbox, empty at the start of every stage

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store")
ETC = (
    *("alternatives", "bash.bashrc", "crypto-policies", "debian_version", "fonts", "group", "host.conf", "hosts"),
    *("inputrc", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias", "locale.conf", "localtime", "magic"),
    *("mime.types", "networks", "nsswitch.conf", "os-release", "passwd", "pki/ca-trust", "pki/java"),
    *("pki/tls/cert.pem", "pki/tls/certs", "protocols", "resolv.conf", "rpc", "services", "ssl/cert.pem"),
    *("ssl/certs", "ssl/openssl.cnf", "timezone"),
)
"""What programs need of `/etc`; keys, passwords and what daemons are told are none of it."""
LANGUAGES = re.compile(r"(java|php)[-.0-9a-z]*")
"""Directories of `/etc` that belong to the runtime of a language."""
KERNEL = ("acpi", "fs", "mtrr", "scsi", "sys")
"""What of `/proc` files belong to root in, beside what bubblewrap covers by itself (bus, irq, sysrq-trigger)."""

OF_REPOSITORY = ("HEAD", "objects", "packed-refs", "refs", "reftable", "shallow")
"""What git needs to read history. Not its config, hooks and logs: they can hold credentials and start programs."""
OF_WORKTREE = ("HEAD", "ORIG_HEAD", "commondir", "gitdir", "index")
OF_PYTHON = ("bin", "lib", "lib64", "ssl", "pyvenv.cfg")
CONFIG_KEYS = re.compile(
    r"\s*(autocrlf|eol|filemode|ignorecase|objectformat|refstorage|repositoryformatversion|symlinks)"
    r"\s*=\s*([0-9a-z]{1,20})\s*",
    re.IGNORECASE,
)
"""Keys of a repository's config that say how its files are spelled; all others stay out."""

PROBE_PATIENCE_S = 5.0
CONFIG_BYTES_MAX = 1024 * 1024
COPY_BYTES_MAX = 256 * 1024
"""A file up to this size is copied: bubblewrap takes the longer for a mount the more of them there are."""
ALTERNATES_MAX = 10
WORKTREES_MAX = 10_000
LINKS_MAX = 10
REASON_CHARACTERS_MAX = 300


class Refused(Exception):
    """A stage cannot have the sandbox it asks for; the message says why."""


# ------------------------------------------------------------------------------------------------ demands


@frozen
class Demand:
    """What a stage may reach. `write` None: all of the workspace."""

    network: bool = False
    write: tuple[str, ...] | None = None
    secrets: tuple[str, ...] = ()


def demand(said: Mapping[str, Any] | None, *, trusted: bool = True) -> Demand | None:
    """Return what is asked of the sandbox of a stage, None if it gets none.

    Where the text that a stage acts on is not `trusted`, it gets no secrets and no network, whatever it says.
    """
    if said is None and trusted:
        return None
    words = said or {}
    write = tuple(os.path.normpath(each) for each in words["write"]) if "write" in words else None
    return Demand(
        network=trusted and bool(words.get("network", False)),
        write=None if write is not None and "." in write else write,
        secrets=tuple(words.get("secrets", ())) if trusted else (),
    )


def environment(inherited: Mapping[str, str], own: Mapping[str, str], wanted: Demand, home: str) -> dict[str, str]:
    """Return all that a stage gets of the environment: what is harmless, the secrets it names, a home and a directory
    for temporary files, and its `own`: what its pipeline and the reconciler say."""
    kept = {name: value for name, value in inherited.items() if name in HARMLESS or name.startswith("LC_")}
    secrets = {name: inherited[name] for name in wanted.secrets if name in inherited}
    return {"PATH": PATH, **kept, **secrets, "HOME": home, "TMPDIR": TEMPORARY, **own}


# ------------------------------------------------------------------------------------------------ what is in reach


@frozen
class Git:
    """What a sandbox shows of the repository: `paths` of files and directories as they are, and in place of the config
    in its git directory, `common`, another one. `pointer` is the file in the workspace that names the git directory of
    a linked worktree ("" without)."""

    common: str
    paths: tuple[str, ...]
    config: str
    pointer: str = ""


@frozen
class Scene:
    """One stage on one machine; all paths are absolute.

    `links` are links of the system, each with its target; `readable` are directories and large files to read. `hidden`
    are directories that nothing may show as part of something larger. `nested` lets the stage make sandboxes of its
    own. `root` is whether it is root's, of whom the kernel must be protected.
    """

    workspace: str
    cwd: str
    home: str
    hidden: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    readable: tuple[str, ...]
    copied: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    git: Git | None = None
    nested: bool = False
    root: bool = False


Mounts = dict[str, tuple[str, ...]]


def arguments(
    scene: Scene, wanted: Demand, variables: Mapping[str, str], *, kept: int, files: Mapping[str, int]
) -> tuple[str, ...]:
    """Return what bubblewrap is told.

    Descriptors: `kept` stays open as long as anything lives in the sandbox; `files` holds what is copied by its path
    there, and every path of the demand that may be changed by its path in the workspace.
    """
    mounts = _mounts(scene, wanted, files)
    masks = _masks(mounts, scene.hidden)
    found = [*SEPARATE, *([] if scene.nested else ["--disable-userns"]), *([] if wanted.network else ["--unshare-net"])]
    # The kernel asks this of root that makes a namespace in which there is root again.
    found += ["--cap-add", "CAP_SETFCAP"] if scene.nested and scene.root else []
    found += ["--sync-fd", str(kept)]
    # A mount covers what is below it, so the path with fewer parts comes first, whoever asked for it.
    for path in sorted({**mounts, **masks}, key=lambda each: (_depth(each), each)):
        found += {**mounts, **masks}[path]
    for path in (*masks, "/"):
        found += ["--remount-ro", path]
    found += ["--clearenv", *(word for name, value in variables.items() for word in ("--setenv", name, value))]
    return (*found, "--chdir", scene.cwd)


SEPARATE = (
    *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"),
    *("--cap-drop", "ALL", "--die-with-parent", "--new-session"),
)


def _mounts(scene: Scene, wanted: Demand, files: Mapping[str, int]) -> Mounts:
    """Return path -> what puts something there."""
    workspace = scene.workspace
    found: Mounts = {"/proc": ("--proc", "/proc"), "/dev": ("--dev", "/dev")}
    found |= {path: ("--symlink", target, path) for path, target in scene.links}
    found |= {f"/proc/{name}": ("--ro-bind-try", f"/proc/{name}", f"/proc/{name}") for name in KERNEL if scene.root}
    found |= {path: ("--tmpfs", path) for path in (TEMPORARY, "/var/tmp")}  # noqa: S108
    found |= {path: _read(path) for path in scene.readable}
    found |= {path: ("--bind", path, path) for path in (*scene.writable, scene.home)}
    found[workspace] = _read(workspace) if wanted.write is not None else ("--bind", workspace, workspace)
    for path, number in files.items():
        inside = wanted.write is not None and path in wanted.write
        target = f"{workspace}/{path}" if inside else path
        found[target] = ("--bind-fd" if inside else "--file", str(number), target)
    if scene.git is not None and scene.git.pointer:
        found[scene.git.pointer] = _read(scene.git.pointer)
    return found


def _masks(mounts: Mounts, hidden: Iterable[str]) -> Mounts:
    """Return what puts an empty directory over each hidden one that lies in something larger: else it would be seen as
    a part of that, or the stage could put things where it should be."""
    found = [path for path, words in mounts.items() if words[0] in ("--bind", "--ro-bind", "--tmpfs")]
    return {
        path: ("--tmpfs", path)
        for path in hidden
        if path not in mounts and any(_is_below(path, each) for each in found)
    }


def _read(path: str) -> tuple[str, ...]:
    return ("--ro-bind", path, path)


def _depth(path: str) -> int:
    return len([part for part in path.split("/") if part])


def _is_below(path: str, other: str) -> bool:
    return path.startswith(f"{other.rstrip('/')}/")


def shown_config(text: str, *, bare: bool) -> str:
    """Return what a sandbox shows in place of a repository's config: how its objects, refs and files are spelled."""
    found = {name.lower(): value for name, value in map(_setting, text.splitlines()) if name}
    extensions = {name: found.pop(name) for name in ("objectformat", "refstorage") if name in found}
    found |= {"repositoryformatversion": "1" if extensions else "0", "bare": str(bare).lower()}
    lines = ["[core]", *(f"\t{name} = {value}" for name, value in sorted(found.items()))]
    lines += ["[extensions]", *(f"\t{name} = {value}" for name, value in extensions.items())] if extensions else []
    return "\n".join(lines) + "\n"


def _setting(line: str) -> tuple[str, str]:
    found = CONFIG_KEYS.fullmatch(line)
    return (found[1], found[2]) if found else ("", "")


# ------------------------------------------------------------------------------------------------ this machine


@frozen
class Bubblewrap:
    """The program on this machine. `reason` says why it is of no use here ("" if it is); `by_descriptor` whether it
    can bind what a descriptor holds, which nobody can exchange for a link meanwhile; `closing` whether it can keep a
    stage from making namespaces of its own."""

    path: str = ""
    reason: str = ""
    by_descriptor: bool = False
    closing: bool = False


@cache
def probe() -> Bubblewrap:
    """Try whether bubblewrap can build walls here: namespaces for users, processes and the network, and a `/proc`."""
    if sys.platform != "linux":
        return Bubblewrap(reason="bubblewrap works on Linux only")
    path = _found("bwrap")
    if path is None:
        return Bubblewrap(reason="bubblewrap (bwrap) is not installed")
    try:
        known = _asked(path, "--help").stdout
        closing = "--disable-userns " in known
        tried = _asked(path, *SEPARATE, *(["--disable-userns"] if closing else []), *TRIED)
    except subprocess.TimeoutExpired:
        return Bubblewrap(reason=f"bubblewrap does not answer within {PROBE_PATIENCE_S:g} s")
    except OSError as error:
        return Bubblewrap(reason=f"bubblewrap does not work: {_said(error)}")
    said = tried.stderr.strip().splitlines()
    reason = f"bubblewrap does not work: {said[-1][:200] if said else f'exit code {tried.returncode}'}"
    by_descriptor = "--bind-fd " in known
    return Bubblewrap(
        path=path, reason=reason if tried.returncode else "", by_descriptor=by_descriptor, closing=closing
    )


TRIED = ("--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--", "true")


def _asked(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd="/",
        env={"PATH": PATH},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PROBE_PATIENCE_S,
        check=False,
    )


def _found(program: str) -> str | None:
    """Return the absolute path of a program; directories that are not absolute could be anybody's."""
    places = [each for each in os.environ.get("PATH", PATH).split(":") if each.startswith("/")]
    paths = (f"{place}/{program}" for place in places)
    return next((each for each in paths if os.access(each, os.X_OK) and stat.S_ISREG(os.stat(each).st_mode)), None)


@cache
def _system() -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return the links among the system directories, and what there is to read of the system."""
    there = [each for each in SYSTEM if _is_directory(each)]
    links = tuple((each, os.readlink(each)) for each in there if Path(each).is_symlink())
    own = [each.path for each in os.scandir("/etc") if LANGUAGES.fullmatch(each.name) and each.is_dir()]
    etc = [f"/etc/{each}" for each in ETC if os.access(f"/etc/{each}", os.R_OK)]
    return links, (*(each for each in there if each not in dict(links)), *etc, *sorted(own))


@cache
def _python(package: str) -> tuple[str, ...]:
    """Return what this interpreter and this package are read from."""
    prefixes, path = {sys.base_prefix, sys.base_exec_prefix}, sys.executable
    for _ in range(LINKS_MAX):
        prefixes.add(os.path.dirname(os.path.dirname(path)))
        if not Path(path).is_symlink():
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    paths = {f"{prefix}/{name}" for prefix in prefixes - {"/"} for name in OF_PYTHON}
    installed = os.path.basename(package) in ("site-packages", "dist-packages")
    paths |= {package} if installed else {f"{package}/{name}" for name in ("reconciler", "schemas")}
    return tuple(sorted(each for each in paths if os.access(each, os.F_OK)))


def _git(checkout: Path, workspace: Path) -> Git | None:
    """Return what may be shown of the repository of a checkout, None if there is none."""
    common = _common(checkout)
    if common is None:
        return None
    private = _private(common, workspace)
    pointer = f"{workspace}/.git"
    if private and not stat.S_ISREG(_mode(pointer)):
        raise Refused("the file '.git' of the workspace, which leads to the repository, was replaced")
    paths = [common / each for each in OF_REPOSITORY]
    paths += [private / each for each in OF_WORKTREE] if private else []
    paths += [common / "index"] if private is None and workspace == checkout else []
    there = [str(each) for each in paths if os.access(each, os.F_OK)]
    return Git(
        common=str(common),
        paths=(*there, *_alternates(common / "objects")),
        config=shown_config(_text(common / "config"), bare=common == checkout),
        pointer=pointer if private else "",
    )


def _common(checkout: Path) -> Path | None:
    """Return the git directory that all worktrees of a repository share."""
    git = checkout / ".git"
    if not _is_directory(git):
        named = _text(git).partition("gitdir:")[2].strip()
        git = (checkout / named) if named else checkout
    shared = _text(git / "commondir").strip()
    common = Path(os.path.normpath(git / shared)) if shared else git
    return common if _is_directory(common / "objects") and os.access(common / "HEAD", os.F_OK) else None


def _private(common: Path, workspace: Path) -> Path | None:
    """Return the git directory of a linked worktree, by what git remembers of it and not by what stands in it."""
    real = os.path.realpath(workspace)
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(common / "worktrees"))[:WORKTREES_MAX]:
            if _text(common / "worktrees" / name / "gitdir").strip() in (f"{workspace}/.git", f"{real}/.git"):
                return common / "worktrees" / name
    return None


def _alternates(objects: Path) -> tuple[str, ...]:
    lines = [each for each in _text(objects / "info/alternates").splitlines() if each and not each.startswith("#")]
    paths = [os.path.normpath(objects / each) for each in lines[:ALTERNATES_MAX]]
    return tuple(each for each in paths if _is_directory(each))


def _text(path: Path) -> str:
    """Return the text of a file, "" if there is none."""
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        return stream.read(CONFIG_BYTES_MAX).decode(errors="surrogateescape")
    return ""


def _is_directory(path: str | Path) -> bool:
    """Return whether a directory is there for us; where we may not even look is none."""
    return os.access(path, os.F_OK) and stat.S_ISDIR(os.stat(path).st_mode)


def _mode(path: str | Path) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


# ------------------------------------------------------------------------------------------------ building


@frozen
class Wall:
    """What stands around one stage. Without a `scene` there is nothing but the environment, because of `reason`; and
    if `refused`, the stage must not start at all."""

    demand: Demand
    scene: Scene | None = None
    reason: str = ""
    refused: bool = False

    def refusing(self, reason: str) -> Wall:
        """Return what is left of it where it could not be built after all."""
        return Wall(demand=self.demand, reason=reason, refused=True)

    def record(self) -> dict[str, object]:
        """Return what a manifest says of it. The network is not named where the stage may use it."""
        asked = [each for each in ASPECTS if each != "network" or not self.demand.network]
        if self.scene is not None:
            return {"enforced": asked, "unenforced": [], "reason": ""}
        enforced = [] if self.refused else ["environment"]
        unenforced = [each for each in asked if each not in enforced]
        return {"enforced": enforced, "unenforced": unenforced, "reason": self.reason}


@frozen
class Surroundings:
    """Where a stage is to run: its workspace, the run's directory and home, the repository's checkout, the package that
    a driver is read from, and the directory of files that a driver leaves ("" for a command). `own` is a directory that
    an agent keeps between its tries; `programs` are to be found in the sandbox wherever they are installed."""

    workspace: Path
    run_directory: Path
    home: Path
    checkout: Path
    package: str
    artifacts: str = ""
    own: str = ""
    programs: tuple[str, ...] = ()


def build(stage: PlannedStage, wanted: Demand, around: Surroundings, *, missing: str) -> Wall:
    """Make what the sandbox of a stage needs, and return it; where it cannot be had, `missing` decides: `refuse` or
    `record`."""
    try:
        _make_home(around.home)
        found = probe()
        if found.reason:
            raise Refused(found.reason)
        if wanted.write is not None and not found.by_descriptor:
            raise Refused("this bubblewrap cannot bind by descriptor, as 'write' needs (0.10 can)")
        return Wall(demand=wanted, scene=_scene(stage, around, nested=not found.closing))
    except (Refused, OSError) as error:
        if missing == "refuse":
            cure = "install bubblewrap, or set 'sandbox: {missing: record}'"
            return Wall(demand=wanted, reason=f"cannot be sandboxed here: {_said(error)}; {cure}", refused=True)
        return Wall(demand=wanted, reason=f"unsandboxed: {_said(error)}")


def _said(error: Exception) -> str:
    """Return what went wrong, without the paths of this machine: a manifest is committed."""
    said = error.strerror if isinstance(error, OSError) else str(error)
    return str(said)[:REASON_CHARACTERS_MAX]


def _make_home(home: Path) -> None:
    with contextlib.suppress(FileExistsError):
        home.mkdir(mode=0o700)
    seen = os.lstat(home)
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid():
        raise Refused("the home of the run is no directory of ours")
    os.chmod(home, 0o700)


def _scene(stage: PlannedStage, around: Surroundings, *, nested: bool) -> Scene:
    links, system = _system()
    git = _git(around.checkout, around.workspace)
    writable = tuple(each for each in (around.artifacts, around.own) if each)
    for each in writable:
        Path(each).mkdir(parents=True, exist_ok=True)
    paths_of_programs, links_of_programs = _programs(around.programs)
    workspace = str(around.workspace)
    paths = [*system, *(_python(around.package) if around.artifacts else ()), *(git.paths if git else ())]
    paths += paths_of_programs
    copied = [each for each in paths if _is_small(each)]
    return Scene(
        workspace=workspace,
        cwd=os.path.normpath(f"{workspace}/{stage.cwd}"),
        home=str(around.home),
        hidden=_hidden(around, git),
        links=(*links, *links_of_programs),
        readable=tuple(each for each in paths if each not in copied),
        copied=tuple(copied),
        writable=writable,
        git=git,
        # Agents put what they start into sandboxes of their own.
        nested=nested or stage.kind == StageKind.AGENT,
        root=os.geteuid() == 0,
    )


def _programs(words: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return what programs are read from, and the links by which they are found, as far as the system's directories do
    not hold them: a package of npm with all those beside it, else the file alone."""
    paths: dict[str, None] = {}
    links: dict[str, str] = {}
    for word in words:
        found = _found(word) if "/" not in word else os.path.normpath(word)
        if found is None or not found.startswith("/") or not os.access(found, os.X_OK):
            continue
        real = os.path.realpath(found)
        before, package, _ = real.partition(f"/{PACKAGES}/")
        root = f"{before}/{PACKAGES}" if package else real
        if not any(_is_below(root, each) for each in SYSTEM):
            paths[root] = None
        if found != real and not any(_is_below(found, each) for each in (*SYSTEM, *paths)):
            links[found] = real
    return list(paths), list(links.items())


PACKAGES = "node_modules"


def _is_small(path: str) -> bool:
    """Return whether a path is that of a file that is cheaper to copy than to mount."""
    seen = os.stat(path)
    return stat.S_ISREG(seen.st_mode) and seen.st_size <= COPY_BYTES_MAX


def _hidden(around: Surroundings, git: Git | None) -> tuple[str, ...]:
    """Return what stays out of reach even where it lies below something that is shown."""
    # `<root>/<task>/cli/<run>`: the records of all runs.
    found = [str(around.checkout), str([around.run_directory, *around.run_directory.parents][:4][-1])]
    found += [git.common] if git is not None else []
    home = os.path.normpath(os.environ.get("HOME", "/"))
    programs = os.environ.get("PATH", "").split(":")
    # Accounts of daemons have homes such as /usr/sbin.
    found += [home] if home not in programs and _is_directory(home) else []
    return tuple(dict.fromkeys(found))


# ------------------------------------------------------------------------------------------------ launching


@dataclass(slots=True, kw_only=True)
class Inner:
    """The first process of a sandbox, as bubblewrap tells it on a descriptor; nobody's where there is no sandbox."""

    told: int | None = None
    said: bytes = b""
    pid: int | None = None
    gone: bool = False

    def is_it(self, pid: int) -> bool:
        """Return whether the child with this pid, which has ended, was it, and remember that."""
        self._hear()
        self.gone = self.gone or self.pid == pid
        return self.pid == pid

    def lives(self) -> bool:
        """Return whether it is still to be waited for."""
        self._hear()
        return self.pid is not None and not self.gone

    def end(self) -> None:
        """KILL it once bubblewrap has ended, which it is bound to survive if that happened before it asked not to."""
        if self.lives() and self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        if self.told is not None:
            os.close(self.told)
            self.told = None

    def _hear(self) -> None:
        """Read which process it is: bubblewrap says so before it lets it go on. It does that in several writes, and
        would die of one that nobody reads, so this end stays open until it has closed the other."""
        while self.told is not None:
            try:
                said = os.read(self.told, 4096)
            except BlockingIOError:
                return
            self.said += said
            if not said or len(self.said) > SAID_BYTES_MAX:
                self.close()
            if self.pid is None and (found := CHILD.search(self.said)):
                self.pid = int(found[1])


SAID_BYTES_MAX = 64 * 1024
CHILD = re.compile(rb'"child-pid": ([0-9]{1,9})[^0-9]')


@dataclass(slots=True, kw_only=True)
class Launch:
    """How a sandboxed process is started: its arguments, and the descriptors it is given and that we then close."""

    argv: tuple[str, ...] = ()
    given: list[int] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)

    def close(self) -> None:
        for each in self.given:
            os.close(each)
        self.given = []


def launch(wall: Wall, argv: Sequence[str], variables: Mapping[str, str], lock: int) -> Launch:
    """Return how to start `argv` behind a wall, nothing where there is only the environment. Raise Refused or OSError.

    What bubblewrap is told goes through a descriptor, so that no secret stands in the list of processes. It gets no
    environment: a variable of the stage must not reach a program outside of the sandbox. The lock of the run is held
    once more by its first process, which ends last.
    """
    if wall.refused:
        raise Refused(wall.reason)
    found = Launch()
    if wall.scene is None:
        return found
    try:
        kept = _keep(found, os.dup(lock))
        files = {path: _keep(found, os.open(path, os.O_RDONLY | os.O_CLOEXEC)) for path in wall.scene.copied}
        if wall.scene.git is not None:
            files[f"{wall.scene.git.common}/config"] = _keep(found, _memory(wall.scene.git.config))
        for path in wall.demand.write or ():
            files[path] = _keep(found, _open_below(wall.scene.workspace, path))
        found.inner.told, telling = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        words = arguments(wall.scene, wall.demand, variables, kept=kept, files=files)
        words = (*words, "--info-fd", str(_keep(found, telling)))
        told = _keep(found, _memory("".join(f"{each}\0" for each in words)))
    except (Refused, OSError) as error:
        found.close()
        found.inner.close()
        raise Refused(f"cannot be sandboxed here: {_said(error)}") from None
    found.argv = (probe().path, "--args", str(told), "--", *argv)
    return found


def _keep(found: Launch, descriptor: int) -> int:
    found.given.append(descriptor)
    return descriptor


def _memory(text: str) -> int:
    """Return a descriptor to read `text` from, which no file system knows."""
    descriptor = os.memfd_create("sandbox")
    view = memoryview(os.fsencode(text))
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _open_below(workspace: str, path: str) -> int:
    """Return a descriptor of what stands at a path in the workspace, made as a directory if nothing does.

    No link is followed: one that an earlier stage put there would lead out of the workspace.
    """
    here = os.open(workspace, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    for part in path.split("/"):
        above = here
        try:
            here = _open_part(above, part)
        except NotADirectoryError:
            raise Refused(f"'{path}' lies below a file") from None
        finally:
            os.close(above)
        mode = os.fstat(here).st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            os.close(here)
            raise Refused(f"'{path}' leads over what is neither a directory nor a file, such as a symbolic link")
    return here


def _open_part(above: int, name: str) -> int:
    with contextlib.suppress(FileExistsError):
        try:
            return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        except FileNotFoundError:
            os.mkdir(name, dir_fd=above)
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
