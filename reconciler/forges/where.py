"""Which forge a repository is at, and the token for it: from the settings, the CI it runs in, and the remote's address.

Pure: the environment is given. Settings win where they speak, for they were committed to the branch that is reconciled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from reconciler.forges.forge import Kind, Site, Token
from reconciler.model import ForgeSettings

Environment = Mapping[str, str]

REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*){1,20}", re.ASCII)
TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
SCP_LIKE = re.compile(r"(?:[^@/]+@)?([A-Za-z0-9.-]+):(?!/)(.+)")

KNOWN_HOSTS = {
    "github.com": Kind.GITHUB,
    "gitlab.com": Kind.GITLAB,
    "codeberg.org": Kind.GITEA,
    "gitea.com": Kind.GITEA,
}
TOKENS = {
    Kind.GITHUB: ("GITHUB_TOKEN", "GH_TOKEN"),
    Kind.GITLAB: ("GITLAB_TOKEN",),
    Kind.GITEA: ("GITEA_TOKEN", "FORGEJO_TOKEN", "GITHUB_TOKEN"),
}
OWN_TOKEN = "RECONCILER_FORGE_TOKEN"
"""Ours before all others: no stage inherits a variable of that kind."""
SECRETS = frozenset({"GITHUB_TOKEN", "GH_TOKEN", "GITLAB_TOKEN", "GITEA_TOKEN", "FORGEJO_TOKEN"})


def site_of(settings: ForgeSettings, environment: Environment, remote_url: str) -> Site | str:
    """Return where the repository is, or the sentence that says why nobody knows."""
    if settings.kind == "none":
        return "there is no forge: 'forge: {kind: none}' in reconciler.yaml"
    found = _by_ci(environment) or _by_remote(settings, remote_url)
    kind = Kind(settings.kind) if settings.kind != "auto" else found.kind if found else None
    if kind is None:
        return "the remote's address does not tell which forge this is; say 'forge: {kind: ...}' in reconciler.yaml"
    url = (settings.url or (found.url if found else "")).rstrip("/")
    repository = settings.repository or (found.repository if found else "")
    if not url or not REPOSITORY.fullmatch(repository) or ".." in repository:
        cure = "say 'forge: {url: ..., repository: ...}' in reconciler.yaml"
        return f"where the repository is at its forge is not known; {cure}"
    said = found.api_url if found is not None and found.url == url and found.kind is kind else ""
    api_url = (settings.api_url or said or api_of(kind, url)).rstrip("/")
    return Site(kind=kind, url=url, api_url=api_url, repository=repository)


def api_of(kind: Kind, url: str) -> str:
    """Return where the API of a server is."""
    if kind is Kind.GITHUB:
        return "https://api.github.com" if url == "https://github.com" else f"{url}/api/v3"
    return f"{url}/api/v4" if kind is Kind.GITLAB else f"{url}/api/v1"


def ci_kind(environment: Environment) -> Kind | None:
    """Return the forge whose CI this is, None outside of one. Gitea and Forgejo also say that they were GitHub."""
    if environment.get("GITEA_ACTIONS") == "true" or environment.get("FORGEJO_ACTIONS") == "true":
        return Kind.GITEA
    if environment.get("GITHUB_ACTIONS") == "true":
        return Kind.GITHUB
    return Kind.GITLAB if environment.get("GITLAB_CI") == "true" else None


def _by_ci(environment: Environment) -> Site | None:
    kind = ci_kind(environment)
    # The CI run of a merge request from a fork can be the fork's own, and the merge request is not there.
    project = "CI_MERGE_REQUEST_PROJECT_PATH" if environment.get("CI_MERGE_REQUEST_PROJECT_PATH") else "CI_PROJECT_PATH"
    names = ("CI_SERVER_URL", "CI_API_V4_URL", project)
    if kind is not Kind.GITLAB:
        names = ("GITHUB_SERVER_URL", "GITHUB_API_URL", "GITHUB_REPOSITORY")
    url, api_url, repository = (environment.get(each, "").rstrip("/") for each in names)
    if kind is None or not url or not repository:
        return None
    return Site(kind=kind, url=url, api_url=api_url or api_of(kind, url), repository=repository)


def _by_remote(settings: ForgeSettings, remote_url: str) -> Site | None:
    """Return what the address of the remote tells; the kind only of the servers everybody knows."""
    host, port, path = _parts(remote_url)
    if not host:
        return None
    kind = KNOWN_HOSTS.get(host) if settings.kind == "auto" else Kind(settings.kind)
    if kind is None:
        return None
    url = settings.url or f"https://{host}{port}"
    return Site(kind=kind, url=url.rstrip("/"), api_url="", repository=path)


def _parts(remote_url: str) -> tuple[str, str, str]:
    """Return host, `:port` of HTTP, and path of a git address, empty for one that is none of a server."""
    try:
        parts = urlsplit(remote_url)
        port = f":{parts.port}" if parts.port and parts.scheme in ("http", "https") else ""
        host, path = parts.hostname or "", parts.path
    except ValueError:
        return "", "", ""
    if parts.scheme not in ("http", "https", "ssh", "git", "git+ssh"):
        found = SCP_LIKE.fullmatch(remote_url)
        host, port, path = (found[1], "", found[2]) if found and "://" not in remote_url else ("", "", "")
    return host.lower(), port, unquote(path).strip("/").removesuffix(".git")


def token_of(kind: Kind, settings: ForgeSettings, environment: Environment) -> Token | str:
    """Return the token, or the sentence that says which variable would hold it."""
    names = (settings.token_env,) if settings.token_env else (OWN_TOKEN, *TOKENS[kind])
    for name in names:
        value = environment.get(name, "").strip()
        if value and not TOKEN.fullmatch(value):
            return f"${name} holds what cannot be a token"
        if value:
            return Token(name=name, value=value)
    if kind is Kind.GITLAB and environment.get("CI_JOB_TOKEN"):
        return (
            f"there is no token in ${names[-1]}: CI_JOB_TOKEN may neither comment nor set statuses; "
            "make a project access token (scope 'api', role Developer) and give it to the pipeline under that name"
        )
    return f"there is no token in {' or '.join(f'${each}' for each in names)}"
