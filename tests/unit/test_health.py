"""What `doctor` makes of what it saw: levels, words and cures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from reconciler import health, installed
from reconciler.health import Branches, Contact, Finding, Level, Sandboxing, Storage
from reconciler.installed import has_extra

OK, WARNING, ERROR = Level.OK, Level.WARNING, Level.ERROR
NOW_S = 1_795_000_000


def levels(found: Sequence[Finding]) -> list[Level]:
    for each in found:
        assert bool(each.cure) is (each.level is not OK), each
        assert "\n" not in each.text
    return [each.level for each in found]


def level(found: Finding) -> Level:
    return levels([found])[0]


# ------------------------------------------------------------------------------------------------ the machine


@pytest.mark.parametrize(
    ("version", "expected"), [((3, 10, 9), ERROR), ((3, 11, 0), OK), ((3, 14, 1), OK), ((4, 0), OK)]
)
def test_python(version: tuple[int, ...], expected: Level) -> None:
    assert level(health.python(version)) is expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, ERROR),
        ("git version 2.35.9", ERROR),
        ("git version 1.99", ERROR),
        ("git version 2.36.0", OK),
        ("git version 2.39.5 (Apple Git-154)", OK),
        ("git version 3.0.0-rc1", OK),
        ("who knows", WARNING),
        ("", WARNING),
    ],
)
def test_git(said: str | None, expected: Level) -> None:
    assert level(health.git(said)) is expected


@pytest.mark.parametrize(("name", "expected"), [("linux", OK), ("darwin", WARNING), ("win32", ERROR)])
def test_platform(name: str, expected: Level) -> None:
    assert level(health.platform(name)) is expected


def test_what_macos_lacks_is_said_in_words() -> None:
    text = health.platform("darwin").text
    assert all(word in text for word in ("subreaper", "/proc", "sandbox"))


def test_processes() -> None:
    assert levels(list(health.processes(pidfd=True, subreaper=True, proc=True))) == [OK]
    assert levels(list(health.processes(pidfd=False, subreaper=True, proc=True))) == [WARNING]
    assert levels(list(health.processes(pidfd=False, subreaper=False, proc=False))) == [ERROR, WARNING, WARNING]


def test_a_sandbox_that_does_not_work_names_the_setting_in_its_way() -> None:
    assert level(health.sandbox(Sandboxing(found=True, works=True))) is OK
    assert health.sandbox(Sandboxing(found=False)).cure == "sudo apt-get install bubblewrap"
    kernel = {"user.max_user_namespaces": "0", "kernel.unprivileged_userns_clone": "1"}
    seen = Sandboxing(found=True, said="bwrap: No permissions\n", kernel=kernel)
    assert health.sandbox(seen).cure == "sudo sysctl -w user.max_user_namespaces=15000"
    assert "bwrap: No permissions" in health.sandbox(seen).text
    silent = health.sandbox(Sandboxing(found=True))
    assert (level(silent), "it does not answer" in silent.text) == (WARNING, True)


@pytest.mark.parametrize(("soft", "expected"), [(-1, OK), (512, OK), (511, WARNING), (64, WARNING), (63, ERROR)])
def test_open_files(soft: int, expected: Level) -> None:
    assert level(health.open_files(soft)) is expected


@pytest.mark.parametrize(
    ("now_s", "commit_s", "expected"),
    [
        (NOW_S, None, OK),
        (NOW_S, NOW_S - 10**8, OK),
        (NOW_S, NOW_S + 120, OK),
        (NOW_S, NOW_S + 121, WARNING),
        (0, None, WARNING),
    ],
)
def test_clock(now_s: float, commit_s: int | None, expected: Level) -> None:
    assert level(health.clock(now_s, commit_s)) is expected


def test_a_clock_says_by_how_much() -> None:
    assert "2 days in the future" in health.clock(NOW_S, NOW_S + 2 * 86400 + 5).text
    assert "116 minutes in the future" in health.clock(NOW_S, NOW_S + 7000).text


def test_credentials_are_named_a_few_of_them() -> None:
    assert level(health.environment([])) is OK
    found = health.environment([f"TOKEN_{number}" for number in range(12)])
    assert level(found) is WARNING
    assert found.text.endswith("TOKEN_9 and 2 more")
    assert found.cure.startswith("env -u TOKEN_0 -u TOKEN_1 ")
    assert "'$(x)'" in health.environment(["$(x)"]).cure


def test_agents_are_asked_for_only_where_a_pipeline_uses_them() -> None:
    used = {"codex": "pipelines/a.yaml", "claude": "pipelines/b.yaml", "mine": "pipelines/c.yaml"}
    found = list(health.agents(used, {"codex": "codex-cli 0.169.0", "claude": None}))
    assert levels(found) == [OK, ERROR]
    assert found[1].cure == "npm install -g @anthropic-ai/claude-code"
    assert "pipelines/b.yaml" in found[1].text
    assert list(health.agents({}, {})) == []


# ------------------------------------------------------------------------------------------------ the place


@pytest.mark.parametrize(
    ("free_bytes", "free_files", "expected"),
    [
        (2**40, None, OK),
        (2**40, 10**6, OK),
        (2**30 - 1, 10**6, WARNING),
        (2**40, 9_999, WARNING),
        (2**20, 10**6, ERROR),
        (2**40, 0, ERROR),
    ],
)
def test_space(free_bytes: int, free_files: int | None, expected: Level) -> None:
    found = health.space(free_bytes, free_files, "/a b")
    assert level(found) is expected
    assert expected is OK or "'/a b'" in found.cure


def test_storage() -> None:
    assert levels(list(health.storage(Storage(kind="ext4", locks=True, links=True), "/x"))) == [OK]
    assert levels(list(health.storage(Storage(kind="nfs4", locks=True, links=True), "/x"))) == [WARNING]
    assert levels(list(health.storage(Storage(), "/x"))) == [ERROR, ERROR]
    refused = list(health.storage(Storage(refusal="Permission denied"), "/a b"))
    assert levels(refused) == [ERROR]
    locked = list(health.storage(Storage(refusal="Read-only file system", read_only=True), "/x"))
    assert levels(locked) == [ERROR] and "chown" not in locked[0].cure and "mount" in locked[0].cure
    assert refused[0].cure == "sudo chown -R \"$(id -un)\" '/a b'"


MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:25 / /home rw shared:2 master:3 - nfs4 server:/home rw
31 21 0:26 / /home/with\\040space rw - btrfs /dev/sdb rw
32 21 0:27 broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/homely", "ext4"),
        ("/home", "nfs4"),
        ("/home/ann/x", "nfs4"),
        ("/home/with space/x", "btrfs"),
    ],
)
def test_the_mount_that_is_deepest_counts(path: str, kind: str) -> None:
    assert health.mount_of(MOUNTS, path) == kind
    assert health.mount_of("", path) == ""


# ------------------------------------------------------------------------------------------------ the repository


def branches(**keys: object) -> Branches:
    facts: dict[str, object] = {"head": "main", "said": None, "local": True, "there": None, "remote": None}
    return Branches(**(facts | keys))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "expected", "cure"),
    [
        (branches(), OK, ""),
        (branches(head=None), ERROR, "git switch main, or: echo 'branch: main' >> reconciler.yaml"),
        (branches(head=None, said="main"), OK, ""),
        (branches(local=False), ERROR, "git commit --allow-empty -m 'begin'"),
        (branches(said="other", local=False), ERROR, "git branch other"),
        (branches(remote="origin", there=True, local=False), OK, ""),
        (branches(remote="origin", there=False), ERROR, "git push origin main"),
        (branches(remote="origin", there=None), OK, ""),
        (branches(said="a;b", remote="origin", there=False), ERROR, "git push origin 'a;b'"),
    ],
)
def test_branch(seen: Branches, expected: Level, cure: str) -> None:
    found = health.branch(seen)
    assert (level(found), found.cure) == (expected, cure)


@pytest.mark.parametrize(
    ("said", "seen", "expected"),
    [
        ("origin", None, OK),
        (None, None, OK),
        ("other", None, WARNING),
        ("origin", Contact(name="origin"), OK),
        ("origin", Contact(name="origin", refusal="no route"), ERROR),
        ("origin", Contact(name="origin", atomic=False), WARNING),
        ("origin", Contact(name="origin", push="access denied"), ERROR),
    ],
)
def test_remote(said: str | None, seen: Contact | None, expected: Level) -> None:
    assert levels(list(health.remote(said, seen))) == [expected]


@pytest.mark.parametrize(
    ("reason", "cure"),
    [
        ("/x: not in a git repository; run 'git init' first, or name one with --repo", "git init && reconciler init"),
        ("/x: detected dubious ownership in repository at '/x'", "git config --global --add safe.directory '/a b'"),
        (
            "remote: 'x' has several addresses; the refs of several cannot move as one",
            "the refs of several cannot move as one",
        ),
        ("odd", "name a repository with --repo"),
    ],
)
def test_no_repository(reason: str, cure: str) -> None:
    found = health.no_repository(reason, "/a b")
    assert (level(found), found.cure) == (ERROR, cure)


def test_kinds_of_clones() -> None:
    full, *_ = health.repository(bare=False, shallow=False, partial=False, remote="origin")
    assert (level(full), full.text) == (OK, "a full clone with a checkout")
    both, *_ = health.repository(bare=True, shallow=True, partial=False, remote="origin")
    assert (level(both), both.text) == (OK, "bare, shallow")
    assert levels(list(health.repository(bare=False, shallow=False, partial=True, remote="origin"))) == [WARNING]


def test_what_has_a_command_names_it() -> None:
    found = [
        health.locks(["index.lock"]),
        health.exclude(excluded=False, runs=True, file="/x/exclude"),
        health.settings(["reconciler.yaml:1:1: wrong"], True),
        health.files(3, ["a", "b"], ["c"]),
        health.files(3, [], ["c"]),
        health.files(0, [], []),
        health.leftovers(["x-12345678"]),
        *health.conditions({"publish": {"since": "2026", "reason": "your work"}}),
        health.unknown("x", "y\nz"),
    ]
    assert levels(found) == [WARNING, WARNING, ERROR, ERROR, WARNING, WARNING, WARNING, ERROR, ERROR]
    assert found[3].text == "a (and 1 more)"
    sound = [
        health.locks([]),
        health.exclude(excluded=True, runs=True, file=""),
        health.exclude(excluded=False, runs=False, file=""),
        health.settings([], False),
        health.files(3, [], []),
        health.leftovers([]),
    ]
    assert set(levels(sound)) == {OK}
    assert list(health.conditions({})) == []


def test_what_leaves_the_repository_is_looked_at_where_something_does() -> None:
    assert (
        list(health.subscribers({}, False)) == list(health.credentials({}, False)) == list(health.deliveries(0)) == []
    )
    [missing] = health.subscribers({"chat": "install it"}, True)
    assert (missing.level, missing.cure) == (Level.WARNING, "install it")
    [lacking] = health.credentials({"hook": "credential 'hook': it is not set"}, True)
    assert (lacking.level, lacking.text) == (Level.WARNING, "credential 'hook': it is not set")
    [dead] = health.deliveries(3)
    assert (dead.text, dead.cure) == (
        "3 were given up; 'reconciler deliveries' says why",
        "reconciler deliveries --retry all",
    )
    fine = [*health.subscribers({}, True), *health.credentials({}, True)]
    assert [each.level for each in fine] == [OK, OK]


def test_extras_are_told_one_by_one_with_what_asks_for_them() -> None:
    assert levels(list(health.extras({}, False))) == []
    assert levels(list(health.extras({}, True))) == [OK]
    otel, patterns = health.extras({"otel": "telemetry.otlp", "patterns": "pipelines/p.yaml"}, True)
    assert levels([otel, patterns]) == [ERROR, ERROR]
    assert "gitops-reconciler[otel]" in otel.cure and otel.text.startswith("telemetry.otlp needs the extra 'otel'")
    assert "pipelines/p.yaml" in patterns.text


def test_an_engine_answers_or_does_not_or_is_not_asked() -> None:
    found = list(health.engines({"hpc": "squeue is not installed", "near": "", "other": None}))
    assert levels(found) == [WARNING, OK, OK]
    assert found[0].text == "the engine of executor 'hpc' cannot be used: squeue is not installed"
    assert found[1].text.endswith("answers") and "was not asked" in found[2].text


def test_a_credential_that_an_executor_lends() -> None:
    def lent(engine: str, renewed: bool | None, fault: str = "") -> health.Lent:
        return health.Lent(credential="git", engine=engine, fault=fault, renewed=renewed)

    bad = lent("slurm", False, "a token reaches a repository by https alone")
    said = {"a": bad, "b": lent("slurm", False), "c": lent("kubernetes", True), "d": lent("nomad", None)}
    found = list(health.lent(said))
    assert levels(found) == [WARNING, OK, OK, OK] and "https://" in found[0].cure
    assert [each.text.partition("'git'")[2] for each in found] == [
        ", and a token reaches a repository by https alone",
        ", which 'slurm' cannot renew: it has to outlive the attempts",
        ", and renews it",
        "",
    ]


def test_an_extra_is_looked_for_by_its_modules_or_its_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert has_extra("otel") and has_extra("patterns")
    monkeypatch.setitem(installed.EXTRAS, "otel", ("reconciler", "nobody_has_this.at_all"))
    assert not has_extra("otel")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not has_extra("patterns")
