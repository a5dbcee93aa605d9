"""How to keep a watcher running, as text for systemd, for a container and for cron. Pure.

Every value that comes from this machine is spelled so that the program that reads the text gets it back as it was.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence

from reconciler.values import frozen

WATCHDOG_S = 600
"""A pass may wait for the remote several times, each for a minute; after so long without a sign it hangs."""
STOP_S = 120
RESTART_S = 10


@frozen
class Place:
    """What is watched, and with which program: an absolute path and its first arguments. `search` is the PATH that
    stages are to have."""

    directory: str
    program: tuple[str, ...]
    search: str

    @property
    def name(self) -> str:
        """Return the name of the unit: of the directory, and what tells it from others of that name."""
        last = self.directory.rstrip("/").rpartition("/")[2]
        slug = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:40] or "repository"
        return f"reconciler-{slug}-{hashlib.sha256(self.directory.encode()).hexdigest()[:8]}.service"

    @property
    def words(self) -> tuple[str, ...]:
        return (*self.program, "--repo", self.directory, "watch", "--lines")


# ------------------------------------------------------------------------------------------------ systemd


def systemd(place: Place) -> str:
    """Return the unit of a user's own systemd. Raise ValueError if a path cannot be spelled in it."""
    return f"""\
# Written by: reconciler service install. Changes of your own belong into: systemctl --user edit {place.name}
[Unit]
Description=Runs as GitOps: {_described(place.directory)}
Documentation=man:systemd.service(5)
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command(place.words)}
ExecReload=/bin/kill -HUP $MAINPID
Environment={quoted(f"PATH={place.search}")}
WatchdogSec={WATCHDOG_S}
Restart=on-failure
RestartSec={RESTART_S}
# Another watcher of this clone (75) goes away by itself; wrong usage (2) does not.
RestartPreventExitStatus=2
TimeoutStartSec=infinity
TimeoutStopSec={STOP_S}
# Workers have sessions of their own and outlive the watcher: to stop, restart or upgrade it never ends a run.
KillMode=process
OOMPolicy=continue
# What a stage may do is said by its pipeline (`sandbox`). Options such as NoNewPrivileges, PrivateTmp or ProtectSystem
# would hold for stages too, break bubblewrap in them, and give the workers of one start another /tmp than those before.
UMask=0022

[Install]
WantedBy=default.target
"""


def _described(directory: str) -> str:
    return _printable(directory).replace("%", "%%")


def command(words: Sequence[str]) -> str:
    """Return a command line of systemd that starts exactly these words.

    In arguments `$` begins a variable and is doubled; of the program's path systemd makes no variable, so there it
    stays as it is. `%` begins a specifier everywhere.
    """
    first, *rest = words
    if not first.startswith("/"):
        raise ValueError(f"{first}: systemd wants an absolute path")
    return " ".join([quoted(first), *(quoted(each).replace("$", "$$") for each in rest)])


def quoted(word: str) -> str:
    """Return a word in the double quotes of systemd. Raise ValueError for what no unit file can say."""
    if "\0" in word:
        raise ValueError(f"{_printable(word)}: a unit file cannot name it")
    escaped = "".join(_escaped(each) for each in word)
    return f'"{escaped}"'.replace("%", "%%")


def _escaped(character: str) -> str:
    if character in '\\"':
        return f"\\{character}"
    if character < " " or character == "\x7f":
        return f"\\x{ord(character):02x}"
    return character


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)


def unquoted(line: str, *, program: bool = True) -> list[str]:
    """Return the words that systemd reads from a command line as `command` writes it: its own reading, for a check."""
    words, word, inside, at = [], "", False, 0
    while at < len(line):
        character = line[at]
        if character == "\\":
            size = 4 if line[at + 1] == "x" else 2
            word += chr(int(line[at + 2 : at + 4], 16)) if size == 4 else line[at + 1]
            at += size
            continue
        if character == '"':
            inside = not inside
            if not inside:
                words.append(word)
                word = ""
        elif inside:
            word += character
        at += 1
    found = [each.replace("%%", "%") for each in words]
    return [each if program and index == 0 else each.replace("$$", "$") for index, each in enumerate(found)]


# ------------------------------------------------------------------------------------------------ other ways


def container(place: Place, version: str, remote: str) -> str:
    """Return a recipe for an image and how to run it beside a clone of its own."""
    url = remote or "https://git.example.com/team/app.git"
    return f"""\
# Containerfile
FROM docker.io/library/python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends git bubblewrap tini && rm -rf /var/lib/apt/lists/*
# The program itself: a wheel built with `python3 -m pip wheel --no-deps -w dist .` in its checkout.
COPY dist/gitops_reconciler-{version}-*.whl /tmp/
RUN python3 -m pip install --no-cache-dir /tmp/*.whl && useradd --create-home reconciler
USER reconciler
ENV XDG_CACHE_HOME=/state
VOLUME /state
# Workers are not children of the watcher: an init that adopts them is wanted, and time for a pass to end.
ENTRYPOINT ["tini", "--", "reconciler"]
CMD ["--repo", {json.dumps(url)}, "watch", "--format", "json"]

# compose.yaml
# The clone and the records of runs live in the volume. When the container is removed, its runs end with it; where
# machines share a remote, they go on by the next attempt, here or elsewhere, as soon as the clone is watched again.
services:
  reconciler:
    build: .
    restart: on-failure
    stop_grace_period: {STOP_S}s
    volumes: ["state:/state"]
    # How git reaches the remote, for example: environment: {{GIT_SSH_COMMAND: "ssh -i /run/secrets/deploy"}}
volumes:
  state: {{}}
"""


def cron(place: Place) -> str:
    """Return a line of cron: a pass a minute, for machines on which nothing stays. Raise ValueError for a path that
    cron cannot name."""
    if "\n" in place.directory:
        raise ValueError(f"{_printable(place.directory)}: a crontab cannot name it")
    words = shlex.join((*place.program, "--repo", place.directory, "reconcile")).replace("%", "\\%")
    return f"""\
# A pass a minute, instead of a watcher: it launches, resumes and publishes, and does not wait. Add it with: crontab -e
PATH={place.search}
* * * * * {words} 2>&1 | logger -t reconciler
"""


KINDS: Mapping[str, str] = {
    "systemd": "a unit of your own systemd",
    "container": "a Containerfile and a compose file",
    "cron": "a pass a minute",
}
