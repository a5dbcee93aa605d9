"""A remote that takes no claim, or does not show one that it took: said in its own words, and no attempt is used up."""

from __future__ import annotations

import json
import subprocess

import pytest

from reconciler.model import CLAIMS
from tests.scratch import Clone, Hub


@pytest.fixture
def a(hub: Hub) -> Clone:
    (a,) = hub.clones("a", lease_s=20)
    a.simple("x", "true")
    a.push()
    return a


def refused(a: Clone, words: str) -> None:
    """Everybody who looks is told why nothing is launched, and waiting ends."""
    done = a.run("reconcile", "--wait", timeout=60)
    assert done.returncode == 75, (done.stdout, done.stderr)
    assert words in done.stderr and "another" not in done.stderr.replace("another repository", ""), done.stderr
    assert words in a.run("status").stdout
    once = a.run("reconcile")
    assert "nothing to do" not in once.stdout, once.stdout


def claims(hub: Hub) -> list[str]:
    return [each for each in hub.refs() if each.startswith(CLAIMS)]


def heals(hub: Hub, a: Clone) -> None:
    """Once the remote is what it should be, the run is executed as its first attempt."""
    done = a.run("reconcile", "--wait", timeout=60)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert [each["number"] for each in hub.manifests()["x"]["attempts"]] == [1]
    assert hub.shared() == []
    [row] = json.loads(a.run("status", "--format", "json").stdout)["runs"]
    assert row["phase"] == "succeeded"
    assert "cannot be used" not in a.run("status").stdout


def test_an_address_for_pushing_that_leads_nowhere(hub: Hub, a: Clone) -> None:
    a.git("remote", "set-url", "--push", "origin", "no_push")
    refused(a, "'no_push' does not appear to be a git repository")
    a.git("config", "--unset", "remote.origin.pushurl")
    heals(hub, a)


def test_what_was_refused_and_is_asked_for_no_more_is_forgotten(hub: Hub, a: Clone) -> None:
    a.git("remote", "set-url", "--push", "origin", "no_push")
    refused(a, "'no_push' does not appear to be a git repository")
    a.git("rm", "-q", "runs.d/x.yaml")
    a.git("commit", "-q", "-m", "not any more")
    a.git("push", "-q", str(hub.path), "HEAD:main")
    assert a.run("reconcile", "--wait").returncode == 0
    assert "cannot be used" not in a.run("status").stdout


def test_a_server_that_hides_what_it_takes(hub: Hub, a: Clone) -> None:
    hub.git("config", "uploadpack.hideRefs", "refs/reconciler")
    refused(a, "does not show it")
    hub.git("config", "--unset", "uploadpack.hideRefs")
    assert not claims(hub), "what was claimed in vain is given back"
    heals(hub, a)


def test_what_is_fetched_is_a_copy_of_what_is_pushed_to(hub: Hub, a: Clone) -> None:
    copy = hub.outside / "copy.git"
    subprocess.run(["git", "clone", "-q", "--mirror", str(hub.path), str(copy)], check=True, timeout=30)
    a.git("remote", "set-url", "--push", "origin", str(hub.path))
    a.git("remote", "set-url", "origin", str(copy))
    refused(a, "does not show it")
    assert not claims(hub)
    a.git("config", "--unset", "remote.origin.pushurl")
    a.git("remote", "set-url", "origin", str(hub.path))
    heals(hub, a)


def test_who_may_not_tell_a_ref_apart_is_told_by_the_server(hub: Hub, a: Clone) -> None:
    """A server that fails in the middle of a push says nothing about any ref."""
    hub.hook("reference-transaction", "case $1 in prepared) exit 1;; esac")
    refused(a, "ref updates aborted by hook")
    (hub.path / "hooks/reference-transaction").unlink()
    heals(hub, a)
