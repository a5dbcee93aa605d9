"""What an attempt at an engine made of its workspace: packed, judged, kept, laid over another one. Real git."""

from __future__ import annotations

import hashlib
import os
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler import codec, process
from reconciler.errors import ContentError
from reconciler.executors import changes, ordering
from reconciler.model import Attempt, Claim, Host, Outcome
from reconciler.rundir import RunDirectory
from reconciler.work import Change, Word, change_ref
from tests.placed import Placed, placed
from tests.scratch import Scratch

STAGES = "  - {id: a, agent: {use: codex, prompt: Do it., deliver: branch}}\n"
HERE = Host(name="node1", system="Linux", machine="x", python="3", cpus=1)
TOKEN = "gh" + "p_" + "A1b2" * 9
DONE, WAITS = Outcome.SUCCEEDED, Outcome.WAITING
MANY = 4 * 1024 * 1024


@pytest.fixture
def run(scratch: Scratch) -> Iterator[Placed]:
    yield from begun(scratch, "worktree")


@pytest.fixture
def bare(scratch: Scratch) -> Iterator[Placed]:
    yield from begun(scratch, "empty")


def begun(scratch: Scratch, workspace: str) -> Iterator[Placed]:
    scratch.write("README.md", "hello\n")
    scratch.write("old/gone.txt", "gone\n")
    scratch.write(".runs/t/known.json", "{}\n")
    scratch.write(".gitignore", "*.log\n")
    scratch.git("add", "--force", ".")
    scratch.commit()
    found = placed(scratch, STAGES, workspace)
    found.place()
    yield found
    found.close()


def made(run: Placed, name: str = "node") -> RunDirectory:
    """Return the run directory of an attempt elsewhere, with a workspace."""
    directory = RunDirectory(run.repository.directory.parent / name)
    directory.path.mkdir()
    if run.plan.workspace.value == "worktree":
        run.repository.add_worktree(directory.workspace, run.plan.commit)
    else:
        directory.workspace.mkdir()
    return directory


def attempt(outcome: Outcome) -> Attempt:
    return Attempt(number=1, worker=process.myself(), host=HERE, started=process.instant(), stages=(), outcome=outcome)


def pack(run: Placed, directory: RunDirectory, outcome: Outcome = DONE, bytes_max: int = MANY) -> Change:
    told, beside = changes.pack(
        run.repository, directory, run.plan, attempt(outcome), bytes_max=bytes_max, hidden=(b"Zk3vQ9xT7pLm2RwY8sHd",)
    )
    change = codec.parse(Change, told["changes/1.json"])
    assert bool(change.tree) == bool(beside) != bool(change.why)
    return change


def bring(run: Placed, change: Change | bytes, outcome: Outcome = DONE, bytes_max: int = MANY) -> Change:
    """Let a change come home with the last word, and return what is recorded of it."""
    data = change if isinstance(change, bytes) else codec.compact(change)
    word = Word(run_id=run.plan.run_id, number=1, beat=1, at="2030-01-01T00:00:00Z", ended=True, tree="")
    files = {"attempts/1.json": codec.compact(attempt(outcome)), "changes/1.json": data}
    _, said = ordering.make_word(run.repository, run.order, word, files, run.key, 1_700_000_000)
    ordering.bring_home(run.repository, said, run.directory, run.plan, bytes_max=bytes_max)
    kept = changes.read_change(run.directory, 1)
    assert kept is not None
    assert bool(kept.tree) == (changes.kept_commit(run.repository, run.plan.run_id, 1) is not None) != bool(kept.why)
    return kept


def tree_of(scratch: Scratch, *lines: str) -> str:
    """Return a tree of these lines (`mode type oid TAB name`), whatever they are."""
    feed = "".join(f"{each}\n" for each in lines)
    words = ["git", "mktree", "--missing"]
    return subprocess.run(
        words, cwd=scratch.path, input=feed, capture_output=True, text=True, check=True
    ).stdout.strip()


def raw(scratch: Scratch, *entries: tuple[str, str, str]) -> str:
    """Return a tree of these entries (mode, name, oid), as nobody but us would write it."""
    body = b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(oid) for mode, name, oid in entries)
    data = b"tree %d\0" % len(body) + body
    oid = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    place = scratch.path / ".git/objects" / oid[:2]
    place.mkdir(exist_ok=True)
    (place / oid[2:]).write_bytes(zlib.compress(data))
    return oid


def blob(scratch: Scratch, text: str = "x\n") -> str:
    words = ["git", "hash-object", "-w", "--stdin"]
    return subprocess.run(
        words, cwd=scratch.path, input=text, capture_output=True, text=True, check=True
    ).stdout.strip()


# ------------------------------------------------------------------------------------------------ delivered


def test_what_was_changed_comes_home_as_a_commit_of_the_hosts_own(scratch: Scratch, run: Placed) -> None:
    directory = made(run)
    (directory.workspace / "README.md").write_text("hello again\n")
    (directory.workspace / "old/gone.txt").unlink()
    (directory.workspace / "old/more/new.sh").parent.mkdir()
    (directory.workspace / "old/more/new.sh").write_text("new\n")
    (directory.workspace / "old/more/new.sh").chmod(0o755)
    (directory.workspace / "link").symlink_to("README.md")
    (directory.workspace / "build.log").write_text("ignored\n")
    (directory.workspace / ".runs/more.json").write_text("ignored here as well\n")
    change = pack(run, directory)
    assert bring(run, change) == change
    kept = changes.kept_commit(run.repository, run.plan.run_id, 1) or ""
    assert scratch.git("log", "-1", "--format=%P %an %s", kept).split() == [run.plan.commit, "Reconciler", "change"]
    told = scratch.git("diff-tree", "-r", "--name-status", "--no-renames", f"{kept}^", kept).split()
    assert told == ["M", "README.md", "A", "link", "D", "old/gone.txt", "A", "old/more/new.sh"]


def test_an_attempt_that_nobody_wants_a_change_of_hands_over_none(scratch: Scratch, run: Placed) -> None:
    directory = made(run)
    for outcome in (Outcome.FAILED, Outcome.INTERRUPTED, Outcome.CANCELLED):
        packed = changes.pack(run.repository, directory, run.plan, attempt(outcome), bytes_max=MANY, hidden=())
        assert packed == ({}, ())
    word = Word(run_id=run.plan.run_id, number=1, beat=1, at="x", ended=True, tree="")
    tree = scratch.git("rev-parse", "HEAD:old").strip()
    data = codec.compact(Change(number=1, tree=tree))
    files = {"attempts/1.json": codec.compact(attempt(Outcome.FAILED)), "changes/1.json": data}
    _, said = ordering.make_word(run.repository, run.order, word, files, run.key, 1_700_000_000)
    ordering.bring_home(run.repository, said, run.directory, run.plan, bytes_max=MANY)
    assert changes.read_change(run.directory, 1) is None


@pytest.mark.parametrize(
    ("path", "text", "why"),
    [
        ("a.txt", f"x {TOKEN}\n", "a.txt would reveal a secret (github-token)"),
        ("b.txt", "Zk3vQ9xT7pLm2RwY8sHd", "b.txt would reveal a secret (environment)"),
        ("c.bin", "x" * 5000, "it has 5000 bytes; at most 4000 travel ('bytes_max' of its executor)"),
        ("README.md", "hello\n", "nothing was changed"),
    ],
)
def test_what_must_stay_stays_and_says_why(run: Placed, path: str, text: str, why: str) -> None:
    directory = made(run)
    (directory.workspace / path).write_text(text)
    assert pack(run, directory, bytes_max=4000) == Change(number=1, why=why)


# ------------------------------------------------------------------------------------------------ hostile


def entries(scratch: Scratch, *more: str) -> str:
    """Return the tree of the run's commit with further entries."""
    return tree_of(scratch, *scratch.git("ls-tree", "HEAD").splitlines(), *more)


def test_what_no_workspace_gives_is_refused(scratch: Scratch, run: Placed) -> None:
    text, commit = blob(scratch), run.plan.commit
    inner = tree_of(scratch, f"100644 blob {text}\tconfig")
    runs = scratch.git("ls-tree", "HEAD", ".runs").split()[2]
    more = tree_of(scratch, *scratch.git("ls-tree", runs).splitlines(), f"100644 blob {text}\tforged.json")
    others = [each for each in scratch.git("ls-tree", "HEAD").splitlines() if not each.endswith("\t.runs")]
    for tree, why in (
        (entries(scratch, f"040000 tree {inner}\t.git"), "it is not what git makes"),
        (
            entries(scratch, f"040000 tree {tree_of(scratch, f'040000 tree {inner}{chr(9)}.GIT')}\ta"),
            "it is not what git makes",
        ),
        (entries(scratch, f"040000 tree {inner}\t.."), "it is not what git makes"),
        (entries(scratch, f"160000 commit {commit}\tmodule"), "module is neither a file nor a link"),
        (entries(scratch, f"100644 blob {'1' * 40}\tmissing"), "a file of it is missing"),
        (entries(scratch, f"040000 tree {'1' * 40}\tmissing"), "it cannot be read"),
        (raw(scratch, ("100644", "commit", commit)), "a file of it is missing"),
        (raw(scratch, ("100644", "b", text), ("100644", "a", text)), "it is not what git makes"),
        (raw(scratch, ("100644", "a", text), ("100755", "a", text)), "it is not what git makes"),
        (raw(scratch, ("100644", "a", text[:-2])), "it cannot be read"),
        (tree_of(scratch, *others, f"040000 tree {more}\t.runs"), ".runs/forged.json is where evidence is kept"),
        (entries(scratch, f"040000 tree {tree_of(scratch)}\tempty"), "it is not what git makes of these files"),
        (text, "it is not what git makes"),
        ("HEAD^{tree}", "it is not named by the id of a tree"),
        ("2" * 40, "it cannot be read"),
    ):
        kept = bring(run, Change(number=1, tree=tree))
        assert kept.tree == "" and kept.why.startswith(f"its change is refused: {why}"), (tree, kept, why)
        run.directory.record("attempts", 1).unlink()
    assert bring(run, b"[]").why == "the record of its change cannot be read"


def test_a_tree_that_grows_when_it_is_walked_is_not_walked_to_its_end(
    scratch: Scratch, run: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "FOLDERS_MAX", 500)
    tree, deep = raw(scratch), blob(scratch)
    for _ in range(30):
        tree = raw(scratch, ("40000", "a", tree), ("40000", "b", tree))
    assert (
        "more than 20000 paths, 500 directories"
        in bring(run, Change(number=1, tree=raw(scratch, ("40000", "z", tree)))).why
    )
    for number in range(80):
        deep = raw(scratch, ("40000" if number else "100644", "d", deep))
    run.directory.record("attempts", 1).unlink()
    assert "64 levels" in bring(run, Change(number=1, tree=raw(scratch, ("40000", "z", deep)))).why


def test_files_that_are_many_times_the_same_count_as_often(scratch: Scratch, run: Placed) -> None:
    text = blob(scratch, "x" * 1000)
    tree = entries(scratch, *(f"100644 blob {text}\tz{number}" for number in range(5)))
    assert "it has 5000 bytes" in bring(run, Change(number=1, tree=tree), bytes_max=4999).why
    run.directory.record("attempts", 1).unlink()
    assert bring(run, Change(number=1, tree=tree), bytes_max=5000).tree == tree


def test_why_it_stayed_is_one_line_without_what_moves_a_terminal(run: Placed) -> None:
    assert bring(run, Change(number=1, why=f"a\nb\x1b[31m {TOKEN} {'c' * 900}")).why.startswith("a b [31m [redacted")


# ------------------------------------------------------------------------------------------------ going on


def test_a_workspace_goes_on_as_it_was(run: Placed) -> None:
    directory = made(run)
    (directory.workspace / "README.md").write_text("hello again\n")
    (directory.workspace / "old/gone.txt").unlink()
    (directory.workspace / "old").rmdir()
    (directory.workspace / "build.log").write_text("ignored, and wanted\n")
    (directory.workspace / ".runs/mine.json").write_text("no evidence, a file of a stage\n")
    (directory.workspace / "run.sh").symlink_to("build.log")
    bring(run, pack(run, directory, WAITS), WAITS)
    claim = run.claim(2)
    assert changes.goes_on(run.repository, run.directory, claim_of(run, 1)) == ""
    order = run.place(claim)
    assert run.repository.look_up([f"{order}^2"])[0] == changes.kept_commit(run.repository, run.plan.run_id, 1)
    there = RunDirectory(run.repository.directory.parent / "there")
    ordering.lay_down(run.repository, order, ordering.read_order(run.repository, order), there)
    change = changes.carried(there, claim)
    assert change is not None
    other = made(run, "other")
    changes.lay_over(run.repository, other, run.plan, change)
    assert listed(other.workspace) == listed(directory.workspace)
    said = subprocess.run(["git", "status", "--short"], cwd=other.workspace, capture_output=True, text=True, check=True)
    assert said.stdout.split("\n")[:2] == [" M README.md", " D old/gone.txt"]


def test_an_empty_workspace_goes_on_as_it_was(bare: Placed) -> None:
    directory = made(bare)
    (directory.workspace / "made.txt").write_text("made\n")
    change = pack(bare, directory, WAITS)
    assert bring(bare, change, WAITS) == change
    other = made(bare, "other")
    changes.lay_over(bare.repository, other, bare.plan, change)
    assert listed(other.workspace) == {"made.txt": "made\n"}


def test_an_untouched_workspace_goes_on(run: Placed) -> None:
    change = pack(run, made(run), WAITS)
    assert bring(run, change, WAITS) == change
    run.place(run.claim(2))
    changes.lay_over(run.repository, other := made(run, "other"), run.plan, change)
    assert listed(other.workspace)["README.md"] == "hello\n"


def test_what_is_more_than_files_begins_anew_and_says_why(run: Placed, scratch: Scratch) -> None:
    directory = made(run)
    place = directory.workspace / "x"
    place.mkdir()
    assert pack(run, directory, WAITS).why == "x is an empty directory"
    subprocess.run(["git", "init", "-q", str(place)], check=True)
    assert "x is a repository of its own" in pack(run, directory, WAITS).why
    subprocess.run(["rm", "-r", str(place)], check=True)
    os.mkfifo(place)
    assert pack(run, directory, WAITS).why == "x is neither a file nor a link"
    place.unlink()
    scratch.git("-C", str(directory.workspace), "commit", "-q", "--allow-empty", "-m", "mine")
    change = pack(run, directory, WAITS)
    assert change.why == "a stage has committed in it"
    bring(run, change, WAITS)
    assert changes.goes_on(run.repository, run.directory, claim_of(run, 1)) == "a stage has committed in it"


def test_a_workspace_that_is_gone_is_not_gone_on_in(run: Placed) -> None:
    assert changes.goes_on(run.repository, run.directory, claim_of(run, 1)) == "attempt 1 did not wait"
    bring(run, pack(run, made(run), WAITS), WAITS)
    run.repository.delete_ref(change_ref(run.plan.run_id, 1))
    assert changes.goes_on(run.repository, run.directory, claim_of(run, 1)) == "its workspace is gone"
    with pytest.raises(ContentError, match="is gone"):
        run.place(run.claim(2))


def claim_of(run: Placed, number: int) -> Claim:
    found = run.directory.read(Claim, run.directory.record("claims", number))
    assert found is not None
    return found


def listed(place: Path) -> dict[str, str]:
    """Return every file below a place, and what is in it or where it leads."""
    found = (each for each in place.rglob("*") if (each.is_symlink() or each.is_file()) and each.name != ".git")
    named = {each.relative_to(place).as_posix(): each for each in found}
    return {name: os.readlink(each) if each.is_symlink() else each.read_text() for name, each in named.items()}
