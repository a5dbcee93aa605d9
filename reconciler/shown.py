"""How text that others wrote is shown on one line: nothing in it is obeyed, and nothing is left out without a sign.

Pure. Whoever reviews must see the command that runs. A line break that looked like a blank would make a comment of
what is executed, and the end of a long command could hide behind an edge that nobody sees.
"""

from __future__ import annotations

import unicodedata

LINE_BREAK = "⏎"


def visible(text: str) -> str:
    """Return text on one line, a sign in the place of each line break and of whatever else cannot be printed. The one
    at the end is left out: it changes nothing. To show what is shown is to change nothing."""
    text = text.rstrip("\n")
    return text if text.isprintable() else "".join(each if each.isprintable() else _sign(each) for each in text)


def cut(text: str, characters_max: int, whole: str = "") -> str:
    """Return text that is not much longer, and says how much is left out, and where it is `whole`."""
    left = len(text) - characters_max
    if left <= 0:
        return text
    return f"{text[:characters_max]}… ({left} more character{'s' * (left != 1)}{f'; {whole}' if whole else ''})"


def _sign(character: str) -> str:
    """Return what is seen in the place of a character that cannot be printed."""
    number = ord(character)
    if character == "\n":
        return LINE_BREAK
    if character == "\t" or unicodedata.category(character) == "Zs":
        return " "
    # Unicode has a picture of each control character.
    return chr(0x2400 + number) if number < 0x20 else "␡" if number == 0x7F else "�"
