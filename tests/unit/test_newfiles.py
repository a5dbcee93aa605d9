"""Of several files all are written or none, whatever comes in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import ContentError, TransientError, UsageError
from reconciler.newfiles import File, patch, refuse_detours, refuse_existing, write_all


def names(root: Path) -> list[str]:
    return sorted(each.relative_to(root).as_posix() for each in root.rglob("*") if each.is_file())


def test_new_files_are_written_and_others_replaced(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"old")
    files = [File(path="index", data=b"new", action="update", before=b"old"), File(path="a/b", data=b"b")]
    assert [each.action for each in write_all(tmp_path, files)] == ["updated", "written"]
    assert (tmp_path / "index").read_bytes() == b"new"
    assert names(tmp_path) == ["a/b", "index"]


def test_a_file_that_has_changed_meanwhile_is_not_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"somebody else's")
    files = [File(path="a/b", data=b"b"), File(path="index", data=b"new", action="update", before=b"old")]
    with pytest.raises(TransientError, match="has changed meanwhile; try again"):
        write_all(tmp_path, files)
    assert names(tmp_path) == ["index"]
    assert (tmp_path / "index").read_bytes() == b"somebody else's"


def test_a_file_that_is_gone_meanwhile_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="has changed meanwhile"):
        write_all(tmp_path, [File(path="index", data=b"new", action="update", before=b"old")])
    assert names(tmp_path) == []


def test_a_file_that_appears_meanwhile_is_kept_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"theirs")
    with pytest.raises(ContentError, match="b: somebody has written it meanwhile; choose another id"):
        write_all(tmp_path, [File(path="a", data=b"a"), File(path="b", data=b"mine")])
    assert names(tmp_path) == ["b"]
    assert (tmp_path / "b").read_bytes() == b"theirs"


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    for path in ("link/x", "file/x", "file/x/y"):
        with pytest.raises(UsageError, match="is in the way, it is no folder"):
            refuse_detours(tmp_path, path)
    refuse_detours(tmp_path, "new/folder/x")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(ContentError, match="dangling: is there already"):
        refuse_existing(tmp_path, ["new", "dangling"])


def test_a_patch_shows_what_becomes_of_a_file() -> None:
    assert patch(File(path="a", data=b"x\ny")) == (
        "--- /dev/null\n+++ b/a\n@@ -0,0 +1,2 @@\n+x\n+y\n\\ No newline at end of file\n"
    )
    assert patch(File(path="a", data=b"y\n", action="update", before=b"x\n")) == (
        "--- a/a\n+++ b/a\n@@ -1 +1 @@\n-x\n+y\n"
    )
