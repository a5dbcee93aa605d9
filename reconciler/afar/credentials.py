"""What attempts at engines reach the remote with, where settings name a credential for it: handed over, and renewed.

The token comes from the broker and goes to the engine as a secret of the attempt. An engine that can renew (`Renewing`)
gets every newer one for attempts that are there, long enough before the old one expires that it may take its time.
Which one an attempt has is remembered in memory alone: a reconciler that was started anew tells every engine once more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.errors import TransientError
from reconciler.executors.engine import Engine, Renewing, Submission
from reconciler.login import login_fault
from reconciler.model import ExecutorSettings
from reconciler.work import CREDENTIAL_VARIABLE
from reconciler.world import World

if TYPE_CHECKING:
    from reconciler.credentials.broker import Broker

LEFT_S = 300.0
"""A token is renewed so long before it expires, or at half of its life if that is short: a pass comes once a minute at
least, and a kubelet takes as long again to show it."""
RENEWED_MAX = 100
"""So many attempts are told in one pass at most; the others follow soon."""
SOON_S = 1.0
RETRY_S = 10.0
"""How long nobody is asked for a token that could not be had for those under way."""


class Lending:
    """The credentials of all attempts at engines. `broker` is who hands out secrets, None before anybody may."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broker: Callable[[], Broker] | None = None
        self._there: dict[str, str] = {}
        """By handle the token that its engine has for it, as far as this process told it."""
        self._again_s: dict[str, float] = {}
        """When (monotonic seconds) a token may be asked for again that could not be had, by executor."""
        self._behind = False

    def token(self, said: ExecutorSettings, address: str) -> str:
        """Return what attempts of an executor reach the repository at an address with, "" for what the node has. Raise
        TransientError if there is none now, or none that could be of use."""
        if not said.credential or self.broker is None:
            return ""
        if fault := login_fault(address):
            raise TransientError(f"credential '{said.credential}': {fault}; the remote of its executor is '{address}'")
        return self.broker().get(said.credential, LEFT_S).value

    def entrusted(self, engine: Engine, submissions: Sequence[Submission], token: str) -> Sequence[Submission]:
        """Return submissions with a token, so that it can be renewed where their engine can do that."""
        if not token:
            return submissions
        lent = {CREDENTIAL_VARIABLE: token}
        if isinstance(engine, Renewing):
            return [replace(each, renewed=lent) for each in submissions]
        return [replace(each, secrets={**each.secrets, **lent}) for each in submissions]

    def due(
        self, executor: str, said: ExecutorSettings, address: str, handles: Collection[str]
    ) -> tuple[str, list[str]]:
        """Return the token that counts now and which attempts do not have it, some of very many. Raise TransientError
        if there is none."""
        now_s = self.world.now().monotonic_s
        if now_s < self._again_s.get(executor, float("-inf")):
            return "", []
        try:
            token = self.token(said, address)
        except TransientError:
            self._again_s[executor] = now_s + RETRY_S
            raise
        wanting = [each for each in handles if self._there.get(each) != token]
        self._behind = self._behind or len(wanting) > RENEWED_MAX
        return token, wanting[:RENEWED_MAX]

    def renew(self, engine: Engine, token: str, handles: Collection[str]) -> None:
        """Let attempts have a token. Raise EngineSilent if their engine cannot be asked."""
        if isinstance(engine, Renewing):
            done = engine.renew({each: {CREDENTIAL_VARIABLE: token} for each in handles})
            self._there |= dict.fromkeys(done, token)

    def begin(self, handles: Collection[str]) -> None:
        """Forget all attempts but these: the first thing when it is looked who needs a token."""
        self._there = {each: token for each, token in self._there.items() if each in handles}
        self._behind = False

    def patience_s(self) -> float:
        """Return in how many seconds more attempts are to be told."""
        return SOON_S if self._behind else float("inf")
