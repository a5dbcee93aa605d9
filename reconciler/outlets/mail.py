"""The outlet that sends mail by SMTP, encrypted but for a server on this machine."""

from __future__ import annotations

import hashlib
import smtplib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate

from reconciler.credentials.broker import Broker
from reconciler.outgoing import Email, Notification
from reconciler.outlets.message import Message, is_wanted, message
from reconciler.outlets.outlet import Delivery, Ended, Receipt, Undeliverable, Undelivered, delivery_of

SILENCE_S = 10.0


@dataclass(slots=True)
class MailOutlet:
    """One rule whose notifications are mails. `trusted` makes what a server's certificate is checked with."""

    name: str
    rule: Notification
    said: Email
    broker: Broker
    trusted: Callable[[], ssl.SSLContext] = ssl.create_default_context

    def wanted(self, run: Ended) -> tuple[Delivery, ...]:
        return (delivery_of(run),) if is_wanted(run, self.rule.when) else ()

    def deliver(self, delivery: Delivery) -> Receipt:
        """Send a mail; where a server takes it for some recipients only, that is a receipt which says so."""
        password = self.broker.get(self.said.credential).value if self.said.credential else ""
        mail = self._mail(delivery, message(self.rule, delivery))
        try:
            with self._connected() as server:
                if password:
                    server.login(self.said.user, password)
                refused = server.send_message(mail)
        except smtplib.SMTPRecipientsRefused as error:
            raise _failure(max(code for code, _ in error.recipients.values()), "refuses all recipients") from None
        except smtplib.SMTPResponseException as error:
            raise _failure(error.smtp_code, _text(error.smtp_error)) from None
        except (smtplib.SMTPException, OSError) as error:
            raise Undelivered(f"{self.said.host}: {str(error)[:300] or type(error).__name__}") from None
        return Receipt(said=f"refused for {', '.join(refused)}" if refused else "sent")

    def close(self) -> None:
        pass

    def _connected(self) -> smtplib.SMTP:
        """Return a connection on which nothing secret was sent in the clear."""
        host, port = self.said.host, self.said.port
        if self.said.security == "tls":
            return smtplib.SMTP_SSL(host, port, timeout=SILENCE_S, context=self.trusted())
        server = smtplib.SMTP(host, port, timeout=SILENCE_S)
        try:
            if self.said.security == "starttls":
                server.starttls(context=self.trusted())
        except BaseException:
            server.close()
            raise
        return server

    def _mail(self, delivery: Delivery, said: Message) -> EmailMessage:
        """Return a mail; the same delivery always has the same id, so that a repeat can be told."""
        mail = EmailMessage()
        mail["From"], mail["To"] = self.said.sender, ", ".join(self.said.recipients)
        mail["Subject"] = " ".join(said.subject.split())
        mail["Date"] = formatdate()
        known = hashlib.sha256(f"{self.name}/{delivery.key}".encode()).hexdigest()[:32]
        mail["Message-ID"] = f"<{known}@{self.said.sender.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(said.text)
        return mail


def _text(said: bytes | str) -> str:
    return (said if isinstance(said, str) else said.decode(errors="replace"))[:300]


def _failure(code: int, said: str) -> Undelivered | Undeliverable:
    """Return the error that a code of SMTP is: 4xx passes, 5xx does not."""
    kind = Undelivered if 400 <= code < 500 else Undeliverable
    return kind(f"answered {code} {said}")
