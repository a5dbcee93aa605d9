"""The unit of systemd and the other recipes: whatever a path is called, it is read back as it was."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.unit import Place, command, container, cron, quoted, systemd, unquoted

WILD = '/tmp/a b/$HOME/%h/"q"/back\\slash/it\'s/ä'
PLACE = Place(directory=WILD, program=("/usr/bin/reconciler",), search="/usr/bin:/opt/a b/bin")
paths = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=30)


@given(paths)
def test_every_path_is_read_back_as_it_was(path: str) -> None:
    words = ["/bin/echo", "--repo", f"/{path}", "watch"]
    assert unquoted(command(words)) == words
    assert not set(command(words)) & {chr(each) for each in range(32)}


def test_of_the_program_a_dollar_stays_single_and_of_arguments_it_is_doubled() -> None:
    assert command(["/opt/$x/bin", "$y", "%z"]) == '"/opt/$x/bin" "$$y" "%%z"'
    assert quoted('a"b\\c\td') == '"a\\"b\\\\c\\x09d"'


@pytest.mark.parametrize("words", [["reconciler"], ["/bin/x", "a\0b"]])
def test_what_no_unit_can_say_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"absolute|cannot name"):
        command(words)


def test_a_unit_keeps_workers_alive_and_waits_for_readiness() -> None:
    lines = systemd(PLACE).splitlines()
    said = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert said["Type"] == "notify"
    assert said["KillMode"] == "process"
    assert said["Restart"] == "on-failure"
    assert int(said["WatchdogSec"]) > 0
    assert unquoted(said["ExecStart"]) == ["/usr/bin/reconciler", "--repo", WILD, "watch", "--lines"]
    assert unquoted(said["Environment"], program=False) == ["PATH=/usr/bin:/opt/a b/bin"]
    assert not {"NoNewPrivileges", "PrivateTmp", "ProtectSystem"} & said.keys()


def test_two_repositories_of_one_name_have_units_of_their_own() -> None:
    names = {Place(directory=each, program=("/x",), search="").name for each in ("/a/app", "/b/app", "/b/Ä p\n")}
    assert len(names) == 3
    assert all(each.startswith("reconciler-") and each.isascii() and " " not in each for each in names)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here to ask")
def test_systemd_itself_finds_nothing_wrong(tmp_path: Path) -> None:
    program = tmp_path / "a b$c%d" / "reconciler"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    place = Place(directory=WILD, program=(str(program),), search="/usr/bin")
    path = tmp_path / place.name
    path.write_text(systemd(place))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_cron_and_its_shell_read_the_path_back() -> None:
    line = cron(PLACE).splitlines()[-1].split(" ", 5)[5]
    words = shlex.split(line.replace("\\%", "%").partition(" 2>&1")[0])
    assert words == ["/usr/bin/reconciler", "--repo", WILD, "reconcile"]
    assert "%" not in line.replace("\\%", "")
    with pytest.raises(ValueError, match="crontab"):
        cron(Place(directory="/a\nb", program=("/x",), search=""))


def test_a_container_names_the_remote() -> None:
    assert '"https://git.example.com/a.git", "watch"' in container(PLACE, "0.1.0", "https://git.example.com/a.git")
