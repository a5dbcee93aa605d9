"""The outlet that shows a note on the desktop of whoever runs the reconciler, by `notify-send`."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

from reconciler.outgoing import Desktop, Notification
from reconciler.outlets.message import is_wanted, message
from reconciler.outlets.outlet import Delivery, Ended, Receipt, Undeliverable, Undelivered, delivery_of

PROGRAM = "notify-send"
PATIENCE_S = 10.0


@dataclass(slots=True)
class DesktopOutlet:
    """One rule whose notifications are shown here."""

    name: str
    rule: Notification
    said: Desktop

    def wanted(self, run: Ended) -> tuple[Delivery, ...]:
        return (delivery_of(run),) if is_wanted(run, self.rule.when) else ()

    def deliver(self, delivery: Delivery) -> Receipt:
        program = shutil.which(PROGRAM)
        if program is None:
            raise Undeliverable(f"{PROGRAM} is not installed; on Debian: apt install libnotify-bin")
        said = message(self.rule, delivery)
        # What follows `--` is no option, whoever wrote it; a body is markup there.
        body = said.text.partition("\n")[2].replace("&", "&amp;").replace("<", "&lt;")
        argv = [program, "--app-name=reconciler", f"--urgency={self.said.urgency}", "--", said.subject, body]
        null = subprocess.DEVNULL
        try:
            done = subprocess.run(argv, stdin=null, stdout=null, stderr=null, timeout=PATIENCE_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Undelivered(f"{PROGRAM}: {type(error).__name__}") from None
        if done.returncode:
            raise Undelivered(f"{PROGRAM} ended with {done.returncode}; is there a desktop?")
        return Receipt(said="shown")

    def close(self) -> None:
        pass
