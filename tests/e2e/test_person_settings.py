"""What a person has configured for their own use of git decides nothing here: evidence lands, and reads, as always."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.scratch import Clone, Hub, Scratch

ORDINARY = """\
[alias]
	log = !false
	push = !false
[advice]
	pushUpdateRejected = false
[branch]
	autoSetupMerge = always
[color]
	ui = always
	diff = always
	grep = always
	push = always
	remote = always
	status = always
	transport = always
[column]
	ui = always
[commit]
	gpgSign = true
	verbose = true
[tag]
	gpgSign = true
[core]
	abbrev = 4
	autocrlf = input
	commentChar = R
	fsmonitor = true
	hooksPath = /nowhere
	pager = false
	quotePath = true
	safecrlf = true
	untrackedCache = true
[diff]
	algorithm = patience
	colorMoved = zebra
	context = 0
	external = false
	ignoreSubmodules = all
	interHunkContext = 9
	mnemonicPrefix = true
	noprefix = true
	renames = copies
	submodule = log
	suppressBlankEmpty = true
	wsErrorHighlight = all
[fetch]
	all = true
	output = compact
	prune = true
	pruneTags = true
	recurseSubmodules = true
	writeCommitGraph = true
[format]
	pretty = oneline
[gc]
	auto = 1
[grep]
	extendedRegexp = true
	fullName = true
	lineNumber = true
	column = true
	patternType = fixed
[i18n]
	commitEncoding = latin1
	logOutputEncoding = latin1
[log]
	abbrevCommit = true
	date = relative
	decorate = full
	follow = true
	mailmap = true
	showSignature = true
[maintenance]
	auto = true
[merge]
	autoStash = true
	conflictStyle = zdiff3
	default = theirs
	ff = false
	renames = false
	verifySignatures = true
[merge "theirs"]
	driver = false
[pager]
	log = false
[pull]
	rebase = true
[push]
	autoSetupRemote = true
	default = nothing
	followTags = true
	gpgSign = if-asked
	negotiate = true
	pushOption = ci.skip
	recurseSubmodules = check
	useForceIfIncludes = true
[remote "origin"]
	mirror = true
	prune = true
	pruneTags = true
	tagOpt = --tags
[rerere]
	enabled = true
	autoUpdate = true
[safe]
	bareRepository = explicit
[status]
	branch = true
	relativePaths = false
	short = true
	showUntrackedFiles = no
[submodule]
	recurse = true
[trailer]
	separators = =
[worktree]
	guessRemote = true
	useRelativePaths = true
"""
"""Each of it is in somebody's configuration."""

UMLAUTS = "für Jürgen 🦊"


@pytest.fixture
def person(tmp_path: Path) -> str:
    """The configuration of a person who likes git their own way, as a file."""
    place = tmp_path / "person.config"
    place.write_text(ORDINARY)
    return str(place)


def changing(repository: Scratch, **keys: object) -> None:
    """Commit a request for a run that delivers a change with umlauts and two kinds of line ends."""
    command = f"printf 'one\\r\\n{UMLAUTS}\\r\\n' > dos.txt; echo '{UMLAUTS}' >> README.md; echo done"
    stage = f"  - id: s\n    agent:\n      use: command\n      command: [sh, -c, {command!r}]\n"
    repository.write("README.md", "hello\n")
    repository.pipeline("c", f"stages:\n{stage}      prompt: {UMLAUTS}\n      deliver: branch\n")
    repository.request("c", "c", proves="[t/green]", **keys)
    repository.write("tasks/t.md", f"- [ ] Green {UMLAUTS} <!-- item: t/green -->\n")
    repository.commit()


def done(repository: Scratch, person: str, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    found = repository.run(*words, timeout=45, GIT_CONFIG_GLOBAL=person)
    assert found.returncode == status, (found.stdout, found.stderr)
    return found


def landed(where: Scratch | Hub, run_id: str) -> None:
    """Assert that evidence is whole, and that what was delivered is text in UTF-8 and says no other encoding."""
    raw = where.git("cat-file", "commit", f"runs/{run_id}")
    assert "encoding" not in raw and UMLAUTS in where.git("show", f"runs/{run_id}:README.md")
    assert f"Reconciler-Run: {run_id} succeeded" in where.git("log", "-1", "--format=%B", "main")
    assert where.git("show", "main:tasks/t.md").startswith(f"- [x] Green {UMLAUTS}")
    patch = where.git("show", f"main:.runs/t/cli/{run_id}/artifacts/01-s/changes.patch")
    assert "\x1b" not in patch and "--- a/README.md\n+++ b/README.md\n" in patch
    assert where.git("fsck", "--no-dangling") == ""


def checked(repository: Scratch, person: str, run_id: str) -> None:
    """Assert that evidence is found by its commit, and that an edit of it is noticed."""
    short = repository.git("rev-parse", "HEAD")[:10]
    assert short in done(repository, person, "status").stdout
    done(repository, person, "guard", "checklists", "--strict")
    path = f".runs/t/cli/{run_id}/manifest.json"
    repository.write(path, repository.git("show", f"HEAD:{path}").replace('"succeeded"', '"succeeded" '))
    repository.commit("an edit of evidence")
    assert path in done(repository, person, "guard", "checklists", "--strict", status=1).stdout


def test_evidence_lands_and_is_checked_whatever_a_person_has_configured(scratch: Scratch, person: str) -> None:
    scratch.settings()
    changing(scratch)
    done(scratch, person, "reconcile", "--wait")
    assert scratch.git("status", "--porcelain") == ""
    landed(scratch, scratch.run_id("c"))
    checked(scratch, person, scratch.run_id("c"))


@pytest.mark.parametrize("atomic", ["true", "false"])
def test_evidence_lands_at_a_remote_whatever_a_person_has_configured(hub: Hub, person: str, atomic: str) -> None:
    hub.git("config", "receive.advertisePushOptions", "false")
    hub.git("config", "receive.advertiseAtomic", atomic)
    a: Clone = hub.clones("a")[0]
    changing(a)
    a.push()
    done(a, person, "reconcile", "--wait")
    landed(hub, a.run_id("c"))
    assert hub.shared() == []
    a.git("pull", "-q", "origin", "main")
    assert a.git("status", "--porcelain") == ""
    checked(a, person, a.run_id("c"))
