"""What others wrote, made fit to be seen: nothing moves a cursor, turns a line around or grows without bound. Pure.

Escaping for HTML is the templates' matter; this is about what stays dangerous or unreadable when it is escaped.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from reconciler import aggregate
from reconciler.values import frozen

UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Controls, what turns the direction of writing, what takes no room, and halves of characters."""
ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
"""What a terminal obeys and does not show: colours, titles, movements of the cursor."""
LINE_CHARACTERS_MAX = 2_000
LINES_MAX = 20_000


def visible(text: str) -> str:
    """Return a text in which every character can be seen: one that could not is shown by its number."""
    return UNSEEN.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    number = ord(found[0])
    return chr(0x2400 + number) if number < 0x20 else "␡" if number == 0x7F else f"⟨U+{number:04X}⟩"


@frozen
class LogText:
    """What is shown of a log: its lines, and a sentence about what is left out, "" if that is nothing."""

    lines: tuple[str, ...]
    left_out: str = ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def log_text(data: bytes) -> LogText:
    """Return a log without what only a terminal obeys; of more than LINES_MAX lines the last ones, each bounded."""
    text = ESCAPES.sub("", data.decode("utf-8", "replace")).replace("\r\n", "\n").replace("\r", "\n")
    lines = text.removesuffix("\n").split("\n") if text else []
    left_out = f"{len(lines) - LINES_MAX} earlier lines are left out here" if len(lines) > LINES_MAX else ""
    return LogText(lines=tuple(visible(_cut(line)) for line in lines[-LINES_MAX:]), left_out=left_out)


def _cut(line: str) -> str:
    """Return a line with its middle left out if it is too long to be read."""
    over = len(line) - LINE_CHARACTERS_MAX
    if over <= 0:
        return line
    half = LINE_CHARACTERS_MAX // 2
    return f"{line[:half]} [… {over} characters left out …] {line[-half:]}"


def instant(text: str | None) -> str:
    """Return a UTC instant for people, `2026-03-01 09:30:12`; what is none is shown as it is."""
    if not text:
        return "–"
    return text[:19].replace("T", " ") if seconds_of(text) is not None else text


def seconds_of(text: str | None) -> float | None:
    """Return an instant in seconds since 1970, None if it is none."""
    try:
        found = datetime.fromisoformat(text or "")
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def took(seconds: float | None) -> str:
    """Return a duration for people, `–` where there is none."""
    if seconds is None:
        return "–"
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.0f} days"
    return aggregate.duration(seconds)


def size(count: int) -> str:
    """Return a number of bytes for people: `512 B`, `1.5 KiB`, `20 MiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
