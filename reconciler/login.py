"""As whom git asks a remote, where that is not left to what this machine has: a name and a token. Words.

Git is told by its own protocol for credentials, for one call alone: it starts a line of shell that prints what stands
in two variables of its environment. Everybody else who would answer for it is silenced, and it answers for one address,
so that a server which sends git elsewhere gets nothing for there. No file and no list of processes holds the token.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from reconciler.values import frozen

ADDRESS = re.compile(
    r"(?P<scheme>https?)://((?P<user>[A-Za-z0-9._~+-]{1,100})?(:[^/@\s]*)?@)?"
    r"(?P<host>[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,60}\])(?P<port>:[0-9]{1,5})?(/[^\s]*)?",
    re.IGNORECASE,
)
LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|\[::1\]", re.IGNORECASE)
USER = "x-access-token"
"""As whom a token is said where the address names nobody: forges that look at the name take this one."""
USER_VARIABLE, TOKEN_VARIABLE = "RECONCILER_GIT_USER", "RECONCILER_GIT_TOKEN"
ANSWER = (
    '!f() { if test "$1" = get; then '
    f'printf \'username=%s\\npassword=%s\\n\' "${USER_VARIABLE}" "${TOKEN_VARIABLE}"; fi; }}; f'
)


@frozen
class Login:
    """As whom an address is asked. `origin` is its beginning without names, up to the path; `token` returns what counts
    now, and may raise TransientError."""

    origin: str
    user: str
    token: Callable[[], str]

    @property
    def settings(self) -> tuple[str, ...]:
        """Return the settings of git, `<key>=<value>`, by which it asks nobody but us."""
        return ("credential.helper=", f"credential.{self.origin}.helper={ANSWER}")

    def variables(self) -> dict[str, str]:
        """Return what stands in the environment of one call of git. Raise TransientError if there is no token now."""
        return {USER_VARIABLE: self.user, TOKEN_VARIABLE: self.token(), "GIT_ASKPASS": ""}


def login_of(address: str, token: Callable[[], str]) -> Login:
    """Return as whom a repository is asked. Raise ValueError for an address that takes no token."""
    found, fault = ADDRESS.fullmatch(address), login_fault(address)
    if found is None or fault:
        raise ValueError(fault)
    origin = f"{found['scheme']}://{found['host']}{found['port'] or ''}".lower()
    return Login(origin=origin, user=found["user"] or USER, token=token)


def login_fault(address: str) -> str:
    """Return why a token is of no use for the repository at an address, "" if it is."""
    found = ADDRESS.fullmatch(address)
    if found is None:
        return "a token reaches a repository by https alone"
    is_open = found["scheme"].lower() == "http" and not LOOPBACK.fullmatch(found["host"])
    return "a token would cross the network in the clear" if is_open else ""
