"""Asking a control plane about one run request, over HTTP, and reading its answer as what it is: a stranger's words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler import codec
from reconciler.errors import TransientError, UsageError
from reconciler.http import Answer as Response
from reconciler.http import Call, Http
from reconciler.model import Contract, ControlError, ControlSettings, Expected
from reconciler.values import frozen

PATH = "/v2/requests"
ANSWER_BYTES_MAX = 1024 * 1024
REQUEST_BYTES_MAX = 4 * 1024 * 1024
"""The largest plan there can be, 200 stages with long names that each need all before them, takes half of it."""
REASON_CHARACTERS_MAX = 500
CONTRACT = "control-answer"
REFUSALS = (401, 403)
"""What is answered to a token that does not count."""

Secret = Callable[[str], str]
"""Returns the credential of a name."""


@frozen
class Answer:
    """`schemas/control-answer.schema.json`: what a control plane says of a run request."""

    schema_version: int
    request_id: str
    remote_id: str | None
    outcome: str
    errors: tuple[ControlError, ...]
    expected: Expected | None


def credential(settings: ControlSettings, environment: Mapping[str, str] | None = None) -> str:
    """Return the token for a control plane, "" if there is none: the one place where it is looked for."""
    found = os.environ if environment is None else environment
    return found.get(settings.credential_env, "").strip()


def token_of(settings: ControlSettings, secret: Secret) -> str:
    """Return the token for a control plane: the credential that settings name, else that of the environment. Raise
    NoCredential if the one that is named cannot be had."""
    return secret(settings.credential).strip() if settings.credential else credential(settings)


@dataclass(slots=True)
class Asker:
    """One control plane. `contract` is what its answers must keep; `refused` is whether it did not accept the token."""

    http: Http
    contract: Contract
    token: str = ""
    refused: bool = False

    def ask(self, document: Mapping[str, Any]) -> Answer | str:
        """Return what the control plane says of a run request, or why it gave no answer that can be used."""
        try:
            response = self.http.ask(Call(method="POST", path=PATH, body=document, repeatable=True))
            found = self._read(document, response)
        except TransientError as error:
            found = str(error)
        return self._reason(found) if isinstance(found, str) else found

    def close(self) -> None:
        self.http.close()

    def _read(self, document: Mapping[str, Any], response: Response) -> Answer | str:
        self.refused = response.status in REFUSALS
        if not response.ok:
            said = response.said()
            return f"{self.http.host} answered {response.status}" + (f": {said}" if said else "")
        value = response.json()
        if self.token and self.token in json.dumps(value, ensure_ascii=False):
            return f"the answer of {self.http.host} repeats the token"
        if broken := self.contract.check(CONTRACT, value):
            return f"the answer of {self.http.host} is none: {broken[0].reason}"
        if value["request_id"] != document["request_id"]:
            return f"the answer of {self.http.host} is about another run"
        try:
            return codec.load(Answer, value)
        except codec.CodecError as error:
            return f"the answer of {self.http.host} is none: {error}"

    def _reason(self, text: str) -> str:
        """Return a reason on one line, bounded, and without the token, whoever put it there."""
        clean = text.replace(self.token, "[redacted]") if self.token else text
        return " ".join(clean.split())[:REASON_CHARACTERS_MAX]


def open_asker(settings: ControlSettings, contract: Contract, timeout_s: float, token: str) -> Asker | str:
    """Return who asks the control plane that settings name, or why nobody can. One answer takes at most one
    and a half times `timeout_s`: what fails at once is tried again for half of it, and the last try may take it all."""
    if not (token.isascii() and token.isprintable()):
        where = f"the credential '{settings.credential}'" if settings.credential else f"${settings.credential_env}"
        return f"{where} holds what no header can carry; a token is printable ASCII"
    try:
        http = Http(
            address=settings.url,
            authority={"Authorization": f"Bearer {token}"} if token else {},
            patience_s=timeout_s / 2,
            answer_s=timeout_s,
            silence_s=timeout_s,
            bytes_max=ANSWER_BYTES_MAX,
            order_bytes_max=REQUEST_BYTES_MAX,
        )
    except UsageError:
        return f"{settings.url} is no address; for example https://control.example.com"
    return Asker(http=http, contract=contract, token=token)
