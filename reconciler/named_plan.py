"""The key `plan` in the text of a request: one line of it is written, every other byte stays. Pure."""

from __future__ import annotations

import re

_LINE = re.compile(rb"^plan:[^\r\n]*", re.MULTILINE)


def with_plan(text: bytes, digest: str) -> bytes:
    """Return a request that names a plan, whatever it named before. Where that cannot be done by lines, as in `{...}`,
    the result is no such request: whoever writes it parses it first."""
    line = f"plan: {digest}".encode()
    if _LINE.search(text):
        return _LINE.sub(line, text, count=1)
    end = b"\r\n" if b"\r\n" in text else b"\n"
    return text + (b"" if text.endswith(b"\n") else end) + line + end
