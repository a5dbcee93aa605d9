"""A package that subscribes to events, as a third party ships it: a wheel with entry points, installed by pip."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tests.role_package import environment

SOURCE = '''
import os


class Chat:
    """Writes a line for every event to the file that CHAT_FILE names."""

    def __call__(self, event):
        with open(os.environ["CHAT_FILE"], "a") as chat:
            chat.write(f"{event.name.value} {event.run_id}\\n")


def broken(event):
    raise ValueError(f"no idea what {event.name.value} is")
'''


def install(place: Path) -> Path:
    """Make a virtual environment at a place in which the package is installed; return its interpreter."""
    return environment(place, _wheel(place))


def _wheel(place: Path) -> Path:
    """Write the package as a wheel."""
    points = "[reconciler.subscribers]\nchat = our_subscribers:Chat\nbroken = our_subscribers:broken\n"
    information = "our_subscribers-1.dist-info"
    files = {
        "our_subscribers.py": SOURCE,
        f"{information}/METADATA": "Metadata-Version: 2.1\nName: our-subscribers\nVersion: 1\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/entry_points.txt": points,
        f"{information}/RECORD": "",
    }
    path = place / "our_subscribers-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path
