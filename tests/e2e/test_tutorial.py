"""The tutorial is done here from its first block to its last, in one shell, and says what it says.

Ids of commits, digests and times are others each time; a `…` stands for anything in its line, and alone for any lines.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests import preloaded
from tests.scratch import ENVIRONMENT
from tests.test_docs import ROOT, tokens

TUTORIAL = ROOT / "docs" / "tutorial.md"
END = "--- end of block"

VARIES = [
    (r"(?<![\w-])[0-9a-f]{7,64}\b", r"[0-9a-f]{7,64}"),
    (r"\d+\.\d s\b", r"\d+\.\d s"),
    (r"\b\d+s ago\b", r"\d+[sm] ago"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?", r"[-\d]{10}[T ][\d:.]+"),
    (r" \| +\d+ [+-]+", r" \| +\d+ [+-]+"),
    (r"\b\d+ insertions", r"\d+ insertions"),
    (r"\bindex [0-9a-f]+\.\.[0-9a-f]+ ", r"index [0-9a-f.]+ "),
]
"""What is another one each time, as it is written and as it may be. Columns may be wider, too."""

RUNNING = re.compile(r"^\S+: \S+ running\n", re.MULTILINE)
"""What is said of a stage that takes a while, as on a busy machine each may."""


def blocks() -> Iterator[tuple[str, str]]:
    """Yield every block of commands and what the tutorial says it prints: nothing where no output follows it."""
    fences = [each for each in tokens(TUTORIAL) if each.type in ("fence", "heading_open", "paragraph_open")]
    for block, following in zip(fences, [*fences[1:], None], strict=True):
        if block.type == "fence" and block.info == "sh":
            said = following.content if following and following.type == "fence" and following.info == "text" else ""
            yield block.content, said


def pattern(said: str) -> str:
    """Return what output may look like that the tutorial shows as `said`."""
    lines = (each.rstrip() for each in said.splitlines())
    return "".join(r"(?:.*\n)*?" if each == "…" else rf"{_line(each)} *\n" for each in lines)


def _line(line: str) -> str:
    varying = re.compile("|".join(f"({said})" for said, _ in VARIES) + "|(…)")
    parts, at = [], 0
    for found in varying.finditer(line):
        parts += [re.escape(line[at : found.start()]), _may_be(found[0])]
        at = found.end()
    return re.sub(r"(?:\\ )+", " +", "".join([*parts, re.escape(line[at:])]))


def _may_be(text: str) -> str:
    return next((may_be for said, may_be in VARIES if re.fullmatch(said, text)), ".*")


def outputs(place: Path) -> list[str]:
    """Type all blocks in one shell, and return what each of them printed."""
    (place / "bin").mkdir()
    preloaded.program(place / "bin")
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(place)}
    environment |= {"PATH": f"{place}/bin:{environment['PATH']}", "PWD": str(place)}
    script = "".join(f"{commands}printf '%s\\n' '{END}'\n" for commands, _ in blocks())
    done = subprocess.run(
        ["sh", "-e", "-c", f"exec 2>&1\n{script}"], cwd=place, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout.split(f"{END}\n")[:-1]


def test_the_tutorial_says_what_happens(tmp_path: Path) -> None:
    wanted = list(blocks())
    printed = outputs(tmp_path)
    assert len(printed) == len(wanted) >= 15
    for (commands, said), whole in zip(wanted, printed, strict=True):
        text = RUNNING.sub("", whole)
        assert re.fullmatch(pattern(said), text), f"{commands}\nis said to print\n{said}\nand prints\n{text}"


def test_what_varies_is_told_from_what_does_not() -> None:
    said = "evidence of 0001-a-1a2b3c4d committed: a175184d5e45\n…\ntook 0.2 s, 3s ago\n"
    same = "evidence of 0001-a-1a2b3c4d committed: ffffffffffff\nmore\nand more\ntook 12.0 s, 10s ago\n"
    assert re.fullmatch(pattern(said), same)
    for wrong in (
        same.replace("3c4d", "3c4e"),
        same.replace("took", "takes"),
        f"{same}more\n",
        same.replace("12.0", ""),
    ):
        assert not re.fullmatch(pattern(said), wrong)
