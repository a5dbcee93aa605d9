"""`reconciler service`: let this machine keep a watcher running. It writes one file, and tells what to type."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from reconciler import unit
from reconciler.errors import ContentError, UsageError
from reconciler.terminal import format_option, print_json


@click.group(short_help="let this machine keep a watcher running")
def command() -> None:
    """Let this machine keep a watcher running.

    \b
    reconciler service install                   # write a systemd unit of yours, and say how to start it
    reconciler service install --print           # only show it
    reconciler service install --kind container  # print how to build and run a container; also: cron
    reconciler service status
    reconciler service uninstall

    Nothing is started or stopped: the commands to do so are printed.
    """


@command.command("install", short_help="write the unit, or print another recipe")
@click.option(
    "--kind", type=click.Choice(list(unit.KINDS)), default="systemd", show_default=True,
    help="What keeps it running. Only the unit of systemd is written, the others are printed.",
)  # fmt: skip
@click.option("--print", "only_print", is_flag=True, help="Print the unit and write nothing.")
@click.pass_obj
def install(repo: str, /, kind: str, only_print: bool) -> int:
    """Write a unit that keeps `reconciler watch` running for this repository, and say how to start it.

    \b
    reconciler service install
    reconciler service install --kind cron >> /tmp/crontab

    The watcher tells systemd that it is ready and that it lives. It is started again when it fails or hangs, and
    workers are left alone when it is stopped. Stages find the PATH that you have now. What this command did not write,
    it does not overwrite.
    """
    place = _place(repo)
    try:
        text = _text(place, kind, repo)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if kind != "systemd" or only_print:
        click.echo(text, nl=False)
        return 0
    path = _path(place)
    if path.exists() and path.read_text(encoding="utf-8") != text and not _is_ours(path):
        raise ContentError(f"{path}: it was not written by this command; remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    click.echo(f"wrote {path}")
    click.echo("now type:")
    for line in _to_start(place):
        click.echo(f"  {line}")
    return 0


@command.command("uninstall", short_help="remove the unit")
@click.pass_obj
def uninstall(repo: str, /) -> int:
    """Remove the unit of this repository, and say how to stop what it runs.

    \b
    reconciler service uninstall
    """
    place = _place(repo)
    path = _path(place)
    if not path.exists():
        click.echo(f"nothing to do: {path} is not there")
        return 0
    if not _is_ours(path):
        raise ContentError(f"{path}: it was not written by this command; remove it yourself")
    path.unlink()
    click.echo(f"removed {path}")
    click.echo("now type:")
    click.echo(f"  systemctl --user disable --now {place.name}; systemctl --user daemon-reload")
    return 0


@command.command("status", short_help="say whether a watcher is installed, and which one is at work")
@format_option
@click.pass_obj
def status(repo: str, /, form: str) -> int:
    """Say whether the unit is installed and up to date, and which watcher is at work in this clone.

    \b
    reconciler service status

    Exit codes: 0 a watcher is at work, 1 none is.
    """
    from reconciler.watcher import holder
    from reconciler.world import open_world

    place, world = _place(repo), open_world(Path(repo))
    path, who = _path(place), holder(world)
    installed = path.exists()
    current = installed and path.read_text(encoding="utf-8") == unit.systemd(place)
    if form == "json":
        print_json({"unit": str(path), "installed": installed, "current": current, "watcher": who or None})
    else:
        said = "not installed"
        if installed:
            said = (
                "installed"
                if current
                else "installed, but not as this version, from here and with this PATH, writes it"
            )
        click.echo(f"unit: {path}: {said}")
        click.echo(f"watcher: {who or 'none is at work in this clone'}")
    return 0 if who else 1


def _text(place: unit.Place, kind: str, repo: str) -> str:
    if kind == "systemd":
        return unit.systemd(place)
    if kind == "cron":
        return unit.cron(place)
    from reconciler import __version__
    from reconciler.remote import address_of
    from reconciler.world import open_world

    world = open_world(Path(repo))
    url = address_of(world.repository, world.remote.name) if world.remote is not None else ""
    return unit.container(place, __version__, url)


def _to_start(place: unit.Place) -> list[str]:
    return [
        "systemctl --user daemon-reload",
        f"systemctl --user enable --now {place.name}",
        "loginctl enable-linger              # so that it runs while you are not logged in",
        f"journalctl --user -fu {place.name}",
    ]


def _place(repo: str) -> unit.Place:
    """Return what is watched, and with which program."""
    from reconciler.world import open_world

    directory = open_world(Path(repo)).repository.directory
    return unit.Place(directory=str(directory), program=_program(), search=os.environ.get("PATH", os.defpath))


def _program() -> tuple[str, ...]:
    """Return how this program is started from anywhere: by its script, else by its interpreter, which must not take
    modules from the directory it happens to stand in."""
    script = Path(sys.executable).with_name("reconciler")
    if script.is_file() and os.access(script, os.X_OK):
        return (str(script),)
    found = shutil.which("reconciler")
    return (found,) if found and Path(found).is_absolute() else (sys.executable, "-P", "-m", "reconciler")


def _path(place: unit.Place) -> Path:
    config = os.environ.get("XDG_CONFIG_HOME", "")
    home = Path(config) if Path(config).is_absolute() else Path.home() / ".config"
    return home / "systemd" / "user" / place.name


def _is_ours(path: Path) -> bool:
    return path.read_text(encoding="utf-8", errors="replace").startswith("# Written by: reconciler service install.")
