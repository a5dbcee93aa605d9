"""A person collects garbage after every single thing that git does for us, and before every move of a ref."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.scratch import Hub, Scratch

GIT = """#!/bin/sh
# Collect before and after, and note what a person would be told. Not around read-tree: the branch is locked then.
collect() {
  env -u GIT_OBJECT_DIRECTORY -u GIT_ALTERNATE_OBJECT_DIRECTORIES -u GIT_INDEX_FILE -u GIT_DIR \\
    @git@ -C @repository@ gc -q --prune=now >> @said@ 2>&1 || echo failed >> @said@
  echo collected >> @count@
}
case " $* " in *' fast-import '*|*' pack-objects '*|*' update-ref '*|*' push '*) busy=1 ;; *) busy= ;; esac
[ -z "$busy" ] || collect
@git@ "$@"
status=$?
[ -z "$busy" ] || collect
exit "$status"
"""


def collecting(scratch: Scratch) -> str:
    """Return a PATH whose git collects garbage around all that writes."""
    words = {
        "git": shutil.which("git"),
        "repository": scratch.path,
        "said": scratch.outside / "said",
        "count": scratch.outside / "count",
    }
    text = GIT
    for name, value in words.items():
        text = text.replace(f"@{name}@", str(value))
    place: Path = scratch.outside / "bin"
    place.mkdir()
    (place / "git").write_text(text)
    (place / "git").chmod(0o755)
    return f"{place}:{os.environ['PATH']}"


@pytest.mark.parametrize("shared", [False, True], ids=["local", "shared"])
def test_evidence_is_whole_whenever_garbage_is_collected(hub: Hub, shared: bool) -> None:
    [a] = hub.clones("a", more="" if shared else "branch: main\nremote: null\n", lease_s=60)
    a.write("tasks/t.md", "- [ ] Green <!-- item: t/x -->\n")
    a.simple("x", "echo it ran", proves="[t/x]")
    a.push()
    done = a.run("reconcile", "--wait", PATH=collecting(a))
    assert done.returncode == 0, done.stderr
    assert (a.outside / "said").read_text() == ""
    assert (a.outside / "count").read_text().count("collected") >= 6
    if shared:
        a.git("pull", "-q", "--ff-only", "origin", "main")
    assert a.manifest("x")["status"] == "succeeded"
    assert "[x] Green" in a.git("show", "HEAD:tasks/t.md")
    assert a.git("fsck", "--full", "--no-dangling") == ""
    assert hub.shared() == []
