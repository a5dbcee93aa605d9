"""Filters of contents (`.gitattributes`), as large-file storage has them: evidence is stored as it was written."""

from __future__ import annotations

from tests.scratch import Hub, Scratch

STORE = "sed 's/^/stored: /'"
FETCH = "sed 's/^stored: //'"


def filtered(repository: Scratch) -> None:
    """Have all JSON, text and logs of a repository go through a filter that changes what is stored."""
    for key, value in {"clean": STORE, "smudge": FETCH, "required": "true"}.items():
        repository.git("config", f"filter.store.{key}", value)
    repository.write(".gitattributes", "*.json filter=store\n*.md filter=store\n*.log filter=store\n")


def test_evidence_follows_evidence_where_a_filter_changes_what_is_stored(scratch: Scratch) -> None:
    scratch.settings()
    filtered(scratch)
    for name in ("x", "y", "z"):
        scratch.simple(name, f"echo {name}")
        done = scratch.run("reconcile", "--wait")
        assert done.returncode == 0, (done.stdout, done.stderr)
        scratch.git("update-index", "-q", "--really-refresh")
        assert scratch.git("status", "--porcelain") == ""
    assert scratch.git("show", "HEAD:out/t/state.json").startswith("{")
    assert scratch.git("show", f"HEAD:.runs/t/cli/{scratch.run_id('x')}/manifest.json").startswith("{")


def test_what_is_a_person_s_goes_through_their_filter(scratch: Scratch) -> None:
    scratch.settings()
    filtered(scratch)
    scratch.simple("x", "true")
    assert scratch.run("reconcile", "--wait").returncode == 0
    scratch.write("out/mine.json", "{}\n")
    scratch.write("notes.json", "{}\n")
    scratch.commit("mine")
    assert scratch.git("show", "HEAD:out/mine.json") == "stored: {}\n" == scratch.git("show", "HEAD:notes.json")


def test_pulled_evidence_looks_unchanged_where_a_filter_changes_what_is_stored(hub: Hub) -> None:
    a = hub.clones("a")[0]
    filtered(a)
    a.simple("x", "true")
    a.push()
    assert a.run("reconcile", "--wait").returncode == 0
    a.git("pull", "-q", "origin", "main")
    a.git("update-index", "-q", "--really-refresh")
    assert a.git("status", "--porcelain") == ""
