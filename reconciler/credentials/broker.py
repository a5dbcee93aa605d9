"""The one place where secrets are asked for: by name, kept until they expire, and hidden in all that is said after."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from reconciler.confided import confide
from reconciler.credentials.command import FromCommand
from reconciler.credentials.environment import FromEnvironment
from reconciler.credentials.file import FromFile
from reconciler.credentials.keyring import FromKeyring
from reconciler.credentials.secret import NoCredential, Secret, Source
from reconciler.outgoing import Credential

REFRESH_S = 60.0
"""A secret is asked for anew so long before it expires, where who asks does not need it for longer."""
KEPT_S = 300.0
"""One that does not say when it expires is kept so long: whoever replaces it need not restart anything."""


def _now() -> datetime:
    return datetime.now(UTC)


def _nobody() -> None:
    """Tell nobody else."""


@dataclass(slots=True)
class Kept:
    """A secret, when it was asked for, and when it does not count any more."""

    secret: Secret
    asked: datetime
    until: datetime | None

    def is_fresh(self, now: datetime, left_s: float) -> bool:
        return now < _fresh_until(self.asked, self.until, left_s)


@dataclass(slots=True)
class Broker:
    """The secrets of one process. `now` is the wall clock, because that is what secrets expire by. `heard` is called
    before a secret that was asked for is handed out: for those who must not say it either."""

    sources: Mapping[str, Source]
    now: Callable[[], datetime] = _now
    heard: Callable[[], None] = _nobody
    _kept: dict[str, Kept] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def get(self, name: str, left_s: float = REFRESH_S) -> Secret:
        """Return the secret of a name; from then on it is hidden in what this process says. It is asked for anew
        `left_s` before it expires, or at half of its life if that is short. Raise NoCredential."""
        with self._lock:
            kept, now = self._kept.get(name), self.now()
            if kept is not None and kept.is_fresh(now, left_s):
                return kept.secret
            try:
                return self._asked(name, now)
            except NoCredential:
                if kept is not None and kept.until is not None and now < kept.until:
                    return kept.secret
                raise

    def forget(self, name: str) -> None:
        """Ask for a secret anew the next time: somebody did not accept it."""
        with self._lock:
            self._kept.pop(name, None)

    def _asked(self, name: str, now: datetime) -> Secret:
        source = self.sources.get(name)
        if source is None:
            raise NoCredential(f"credential '{name}': it is not there; name it below 'credentials' in reconciler.yaml")
        secret = source.get(name)
        confide(secret.value)
        self.heard()
        until = datetime.fromisoformat(secret.expires_at) if secret.expires_at else None
        if until is not None and until <= now:
            raise NoCredential(f"credential '{name}': it has expired at {secret.expires_at}")
        self._kept[name] = Kept(secret, now, until)
        return secret


def _fresh_until(asked: datetime, until: datetime | None, left_s: float) -> datetime:
    if until is None:
        return asked + timedelta(seconds=KEPT_S)
    return until - min(timedelta(seconds=left_s), (until - asked) / 2)


def broker_of(said: Mapping[str, Credential]) -> Broker:
    """Return the broker for the credentials that settings name."""
    return Broker({name: source_of(each) for name, each in said.items()})


def source_of(said: Credential) -> Source:
    """Return where a secret comes from."""
    if said.env:
        return FromEnvironment(variable=said.env)
    if said.file:
        return FromFile(path=said.file)
    if said.command:
        return FromCommand(argv=said.command, timeout_s=said.timeout_s)
    assert said.keyring is not None
    return FromKeyring(system=said.keyring.system, user=said.keyring.user)
