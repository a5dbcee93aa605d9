"""What a sandbox shows and keeps out, as values: demands, environments, arguments, configs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import replace

import pytest

from reconciler.sandbox import Demand, Git, Inner, Scene, Wall, arguments, demand, environment, shown_config

RUN = "/home/ann/app/.runs/t/cli/r"
COMMON = "/home/ann/app/.git"
GIT = Git(common=COMMON, paths=(f"{COMMON}/HEAD", f"{COMMON}/objects"), config="", pointer=f"{RUN}/workspace/.git")
SCENE = Scene(
    workspace=f"{RUN}/workspace",
    cwd=f"{RUN}/workspace/src",
    home=f"{RUN}/home",
    hidden=("/home/ann/app", "/home/ann/app/.runs", COMMON, "/home/ann"),
    links=(("/bin", "usr/bin"),),
    readable=("/usr", "/opt", "/etc/ssl/certs", f"{COMMON}/objects", "/srv/objects"),
    copied=("/etc/hosts", f"{COMMON}/HEAD"),
    git=GIT,
)


def told(
    scene: Scene = SCENE, wanted: Demand | None = None, variables: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    wanted = wanted or Demand()
    paths = (*(wanted.write or ()), *scene.copied, f"{COMMON}/config")
    files = {path: number for number, path in enumerate(paths, 20)}
    return arguments(scene, wanted, variables or {}, kept=7, files=files)


def mounts(words: tuple[str, ...]) -> dict[str, str]:
    """Return what is put at each path, in order."""
    sources = {"--bind", "--ro-bind", "--ro-bind-try", "--bind-fd", "--file", "--symlink"}
    found: dict[str, str] = {}
    for index, word in enumerate(words):
        if word in sources:
            found[words[index + 2]] = word
        elif word in ("--tmpfs", "--proc", "--dev"):
            found[words[index + 1]] = word
    return found


# ------------------------------------------------------------------------------------------------ demands


def test_a_stage_that_says_nothing_gets_no_sandbox() -> None:
    assert demand(None) is None


def test_an_empty_sandbox_is_the_strictest_with_a_workspace() -> None:
    assert demand({}) == Demand(network=False, write=None, secrets=())


def test_what_is_said_is_demanded() -> None:
    said = {"network": True, "write": ["build/", "./a/b"], "secrets": ["A", "B"]}
    assert demand(said) == Demand(network=True, write=("build", "a/b"), secrets=("A", "B"))


@pytest.mark.parametrize(("said", "write"), [([], ()), (["."], None), (["a", "./"], None)])
def test_the_whole_workspace_is_no_list_of_paths(said: list[str], write: tuple[str, ...] | None) -> None:
    found = demand({"write": said})
    assert found is not None
    assert found.write == write


def test_untrusted_text_gets_no_secrets_and_no_network_whatever_the_stage_says() -> None:
    said = {"network": True, "write": ["a"], "secrets": ["A"]}
    assert demand(said, trusted=False) == Demand(write=("a",))
    assert demand(None, trusted=False) == Demand()


# ------------------------------------------------------------------------------------------------ the environment


def test_the_environment_is_an_allowlist() -> None:
    inherited = {
        "PATH": "/bin",
        "LC_TIME": "C",
        "TZ": "UTC",
        "TOKEN": "t",
        "WANTED": "w",
        "HOME": "/home/ann",
        "TMPDIR": "/scratch",
        "LD_PRELOAD": "x",
        "SSH_AUTH_SOCK": "y",
        "lc_x": "z",
    }
    own = {"RECONCILER_RUN_ID": "r", "MINE": "m"}
    assert environment(inherited, own, Demand(secrets=("WANTED", "GONE")), "/run/home") == {
        "PATH": "/bin",
        "LC_TIME": "C",
        "TZ": "UTC",
        "WANTED": "w",
        "HOME": "/run/home",
        "TMPDIR": "/tmp",
        **own,
    }


def test_a_secret_replaces_neither_the_home_nor_what_is_ours() -> None:
    inherited = {"HOME": "/home/ann", "RECONCILER_RUN_ID": "another"}
    wanted = Demand(secrets=("HOME", "RECONCILER_RUN_ID"))
    found = environment(inherited, {"RECONCILER_RUN_ID": "r"}, wanted, "/run/home")
    assert (found["HOME"], found["RECONCILER_RUN_ID"]) == ("/run/home", "r")


def test_there_is_always_a_path_to_find_programs() -> None:
    assert environment({}, {}, Demand(), "/h")["PATH"].startswith("/usr/local/sbin:")


# ------------------------------------------------------------------------------------------------ arguments


def test_everything_is_separate_and_nothing_is_gained() -> None:
    words = told()
    for each in ("user", "ipc", "pid", "uts", "net"):
        assert f"--unshare-{each}" in words
    assert {"--die-with-parent", "--new-session", "--disable-userns"} <= set(words)
    assert words[words.index("--cap-drop") + 1] == "ALL"


def test_the_network_is_there_only_if_demanded() -> None:
    assert "--unshare-net" not in told(wanted=Demand(network=True))


def test_only_who_sandboxes_its_own_commands_makes_namespaces() -> None:
    assert "--disable-userns" not in told(replace(SCENE, nested=True))


def test_only_what_is_named_is_there() -> None:
    assert mounts(told()) == {
        "/bin": "--symlink", "/dev": "--dev", "/opt": "--ro-bind", "/proc": "--proc", "/tmp": "--tmpfs",
        "/usr": "--ro-bind", "/etc/hosts": "--file", "/var/tmp": "--tmpfs", "/etc/ssl/certs": "--ro-bind",
        "/srv/objects": "--ro-bind", f"{COMMON}/HEAD": "--file", f"{COMMON}/objects": "--ro-bind",
        f"{COMMON}/config": "--file", f"{RUN}/home": "--bind", f"{RUN}/workspace": "--bind",
        f"{RUN}/workspace/.git": "--ro-bind",
    }  # fmt: skip


def test_what_root_could_change_of_the_kernel_is_read_only() -> None:
    found = mounts(told(replace(SCENE, root=True)))
    assert {found[f"/proc/{each}"] for each in ("acpi", "fs", "mtrr", "scsi", "sys")} == {"--ro-bind-try"}


@pytest.mark.parametrize("workspace", [f"{RUN}/workspace", "/home/ann/app", "/opt/app"])
@pytest.mark.parametrize("write", [None, (), ("build", "deep/er")])
def test_a_mount_never_covers_one_that_was_named_more_closely(workspace: str, write: tuple[str, ...] | None) -> None:
    scene = replace(SCENE, workspace=workspace, hidden=(*SCENE.hidden, "/opt/app", "/opt/app/.git"))
    paths = list(mounts(told(scene, Demand(write=write))))
    for earlier, later in itertools.combinations(paths, 2):
        assert not earlier.startswith(f"{later}/"), (earlier, later)


def test_the_checkout_as_a_workspace_shows_neither_records_nor_repository() -> None:
    scene = replace(SCENE, workspace="/home/ann/app", cwd="/home/ann/app", git=replace(GIT, pointer=""))
    found = mounts(told(scene))
    assert found["/home/ann/app"] == "--bind"
    assert (found["/home/ann/app/.runs"], found["/home/ann/app/.git"]) == ("--tmpfs", "--tmpfs")
    assert "/home/ann" not in found


def test_a_repository_in_a_system_directory_is_covered() -> None:
    found = mounts(told(replace(SCENE, hidden=("/opt/app", "/opt/home"))))
    assert (found["/opt"], found["/opt/app"], found["/opt/home"]) == ("--ro-bind", "--tmpfs", "--tmpfs")


def test_what_covers_something_and_the_root_are_read_only_in_the_end() -> None:
    words = told(replace(SCENE, hidden=("/opt/app",)))
    at = [index for index, word in enumerate(words) if word == "--remount-ro"]
    assert [words[index + 1] for index in at] == ["/opt/app", "/"]
    assert min(at) > max(index for index, word in enumerate(words) if word.startswith(("--bind", "--ro-bind")))


def test_paths_to_write_are_bound_by_descriptor_in_a_workspace_to_read() -> None:
    words = told(wanted=Demand(write=("build", "one")))
    assert mounts(words)[f"{RUN}/workspace"] == "--ro-bind"
    for number, path in ((20, "build"), (21, "one")):
        at = words.index(f"{RUN}/workspace/{path}")
        assert words[at - 2 : at] == ("--bind-fd", str(number))


def test_variables_are_set_as_they_are_after_all_others_are_gone() -> None:
    words = told(variables={"A": "--bind", "B": "x=y z"})
    at = words.index("--clearenv")
    assert words[at:] == ("--clearenv", "--setenv", "A", "--bind", "--setenv", "B", "x=y z", "--chdir", SCENE.cwd)


# ------------------------------------------------------------------------------------------------ who is inside


def test_the_first_process_is_known_however_it_is_told_and_nobody_hangs_up_before_the_end() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    inner = Inner(told=reading)
    assert not inner.lives()
    for part in (b'{\n    "child-pid": 12', b"34", b',\n    "pid-namespace": 5'):
        assert not inner.is_it(12)
        os.write(writing, part)
    assert inner.lives()
    assert inner.told is not None
    os.write(writing, b"6\n}\n")
    os.close(writing)
    assert inner.is_it(1234)
    assert (inner.lives(), inner.told) == (False, None)


def test_where_there_is_no_sandbox_nobody_is_waited_for() -> None:
    assert not Inner().lives()
    assert not Inner().is_it(1)


# ------------------------------------------------------------------------------------------------ configs, records


def test_a_config_is_shown_only_as_far_as_it_spells_files() -> None:
    text = """[core]
\trepositoryformatversion = 1
\tfileMode = false
\thooksPath = /tmp/evil
\tautocrlf = input
[extensions]
\tobjectFormat = sha256
[remote "origin"]
\turl = https://ann:token@example.com/app.git
[filter "x"]
\tsmudge = evil
[include]
\tpath = evil
"""
    assert shown_config(text, bare=False) == (
        "[core]\n\tautocrlf = input\n\tbare = false\n\tfilemode = false\n\trepositoryformatversion = 1\n"
        "[extensions]\n\tobjectformat = sha256\n"
    )


def test_a_config_that_says_nothing_is_that_of_a_plain_repository() -> None:
    assert shown_config("", bare=True) == "[core]\n\tbare = true\n\trepositoryformatversion = 0\n"


def test_a_record_says_what_was_enforced_and_what_was_not() -> None:
    assert Wall(demand=Demand(network=True), scene=SCENE).record() == {
        "enforced": ["filesystem", "processes", "environment"], "unenforced": [], "reason": "",
    }  # fmt: skip
    assert Wall(demand=Demand(), reason="unsandboxed: x").record() == {
        "enforced": ["environment"], "unenforced": ["filesystem", "network", "processes"], "reason": "unsandboxed: x",
    }  # fmt: skip
    refused = Wall(demand=Demand(), scene=SCENE).refusing("no")
    assert refused.record()["enforced"] == []
    assert refused.refused
