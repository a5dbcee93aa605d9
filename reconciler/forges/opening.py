"""Opening a forge: the place, the token, and the client that speaks with it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from reconciler.errors import UsageError
from reconciler.forges import gitea, github, gitlab
from reconciler.forges.forge import Forge, Kind, Site, Token
from reconciler.forges.where import site_of, token_of
from reconciler.http import Http
from reconciler.model import ForgeSettings
from reconciler.remote import addresses
from reconciler.world import World

AUTHORITIES = {Kind.GITHUB: github.authority, Kind.GITLAB: gitlab.authority, Kind.GITEA: gitea.authority}
FORGES: Mapping[Kind, type[github.GitHub] | type[gitlab.GitLab]] = {
    Kind.GITHUB: github.GitHub,
    Kind.GITLAB: gitlab.GitLab,
    Kind.GITEA: gitea.Gitea,
}


def site(world: World, settings: ForgeSettings, environment: Mapping[str, str]) -> Site | str:
    """Return where the repository is, or the sentence that says why nobody knows."""
    name = world.remote.name if world.remote is not None else "origin"
    found = addresses(world.repository, name)
    return site_of(settings, environment, found[0] if found else "")


def open_forge(
    world: World, settings: ForgeSettings, environment: Mapping[str, str] | None = None, patience_s: float | None = None
) -> Forge | str:
    """Return the forge of the repository, or the sentence that says why there is none to speak with."""
    environment = os.environ if environment is None else environment
    where = site(world, settings, environment)
    if isinstance(where, str):
        return where
    token = token_of(where.kind, settings, environment)
    return token if isinstance(token, str) else speak(where, token, _proxy(settings, environment), patience_s)


def speak(where: Site, token: Token, proxy: str = "", patience_s: float | None = None) -> Forge | str:
    """Return the forge at a place, or why its address cannot be one."""
    try:
        http = Http(address=where.api_url, authority=AUTHORITIES[where.kind](token.value), proxy=proxy)
    except UsageError as error:
        return str(error)
    if patience_s is not None:
        http.patience_s = patience_s
    return FORGES[where.kind](http=http, site=where, token=token)


def _proxy(settings: ForgeSettings, environment: Mapping[str, str]) -> str:
    return environment.get(settings.proxy_env, "") if settings.proxy_env else ""
