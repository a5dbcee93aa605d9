"""Which forge a repository is at: settings, CI, and the address of the remote, in this order."""

from __future__ import annotations

import pytest

from reconciler.forges.forge import Kind, Site, Token
from reconciler.forges.where import site_of, token_of
from reconciler.model import ForgeSettings

AUTO = ForgeSettings()
ACTIONS = {
    "GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://ghe.example", "GITHUB_API_URL": "https://ghe.example/api/v3",
    "GITHUB_REPOSITORY": "acme/billing",
}  # fmt: skip
GITLAB = {
    "GITLAB_CI": "true", "CI_SERVER_URL": "https://lab.example", "CI_API_V4_URL": "https://lab.example/api/v4",
    "CI_PROJECT_PATH": "acme/group/billing",
}  # fmt: skip


@pytest.mark.parametrize(
    ("url", "kind", "api_url"),
    [
        ("https://github.com/acme/billing.git", Kind.GITHUB, "https://api.github.com"),
        ("https://ann:secret@github.com/acme/billing", Kind.GITHUB, "https://api.github.com"),
        ("git@github.com:acme/billing.git", Kind.GITHUB, "https://api.github.com"),
        ("ssh://git@gitlab.com:22/acme/billing.git", Kind.GITLAB, "https://gitlab.com/api/v4"),
        ("https://codeberg.org/acme/billing/", Kind.GITEA, "https://codeberg.org/api/v1"),
    ],
)
def test_servers_that_everybody_knows_are_told_by_the_remote(url: str, kind: Kind, api_url: str) -> None:
    site = site_of(AUTO, {}, url)
    assert isinstance(site, Site)
    assert (site.kind, site.api_url, site.repository) == (kind, api_url, "acme/billing")
    assert "secret" not in site.url


@pytest.mark.parametrize(
    "url", ["", "/srv/git/billing.git", "../x", "file:///x/y", "https://git.example.com/a/b", "http://["]
)
def test_of_other_servers_somebody_must_say_what_they_are(url: str) -> None:
    assert "say 'forge: {kind: ...}'" in str(site_of(AUTO, {}, url))


def test_a_server_of_ones_own_needs_its_kind_only() -> None:
    site = site_of(ForgeSettings(kind="gitea"), {}, "https://git.example.com:3000/acme/billing.git")
    wanted = ("https://git.example.com:3000", "https://git.example.com:3000/api/v1", "acme/billing")
    assert isinstance(site, Site)
    assert (site.url, site.api_url, site.repository) == wanted


@pytest.mark.parametrize(
    ("environment", "kind", "repository"),
    [
        (ACTIONS, Kind.GITHUB, "acme/billing"),
        ({**ACTIONS, "GITEA_ACTIONS": "true"}, Kind.GITEA, "acme/billing"),
        ({**ACTIONS, "FORGEJO_ACTIONS": "true"}, Kind.GITEA, "acme/billing"),
        (GITLAB, Kind.GITLAB, "acme/group/billing"),
        ({**GITLAB, "CI_MERGE_REQUEST_PROJECT_PATH": "acme/target"}, Kind.GITLAB, "acme/target"),
    ],
)
def test_ci_says_where_it_is(environment: dict[str, str], kind: Kind, repository: str) -> None:
    site = site_of(AUTO, environment, "https://github.com/x/y")
    assert isinstance(site, Site)
    assert (site.kind, site.repository) == (kind, repository)


def test_settings_win() -> None:
    settings = ForgeSettings(kind="gitlab", url="https://a.example/", api_url="https://b.example/api", repository="c/d")
    wanted = Site(kind=Kind.GITLAB, url="https://a.example", api_url="https://b.example/api", repository="c/d")
    assert site_of(settings, ACTIONS, "") == wanted
    assert "there is no forge" in str(site_of(ForgeSettings(kind="none"), ACTIONS, ""))


@pytest.mark.parametrize("path", ["acme", "acme/../x", "a b/c", "", "acme/bill?x", "-x/y"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    assert "not known" in str(site_of(AUTO, {**ACTIONS, "GITHUB_REPOSITORY": path or " "}, ""))


def test_the_token_of_ours_comes_before_that_of_the_forge() -> None:
    both = {"RECONCILER_FORGE_TOKEN": "ours", "GITHUB_TOKEN": "theirs"}
    assert token_of(Kind.GITHUB, AUTO, both) == Token(name="RECONCILER_FORGE_TOKEN", value="ours")
    assert token_of(Kind.GITHUB, AUTO, {"GITHUB_TOKEN": "theirs"}) == Token(name="GITHUB_TOKEN", value="theirs")
    named = ForgeSettings(token_env="ACME")
    assert token_of(Kind.GITHUB, named, {**both, "ACME": "named"}) == Token(name="ACME", value="named")
    assert token_of(Kind.GITHUB, named, both) == "there is no token in $ACME"
    assert "ours" not in repr(token_of(Kind.GITHUB, AUTO, both))


@pytest.mark.parametrize("value", ["two words", "line\nbreak", "ümlaut"])
def test_what_cannot_be_a_token_is_not_sent_and_not_shown(value: str) -> None:
    said = token_of(Kind.GITHUB, AUTO, {"GITHUB_TOKEN": value})
    assert said == "$GITHUB_TOKEN holds what cannot be a token"


def test_the_token_of_a_gitlab_ci_run_is_not_enough() -> None:
    assert "CI_JOB_TOKEN may neither comment nor set statuses" in str(
        token_of(Kind.GITLAB, AUTO, {"CI_JOB_TOKEN": "x"})
    )
