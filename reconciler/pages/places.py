"""Where each page is, at an address and in a directory alike: paths from the root of the site. Pure."""

from __future__ import annotations

import re
from urllib.parse import quote

HOME = "index.html"
TASKS = "tasks.html"
QUEUE = "queue.html"
STYLE, SCRIPT, ICON = "assets/style.css", "assets/live.js", "assets/icon.svg"

GROUPS: dict[str, tuple[str, ...]] = {
    "active": ("starting", "running", "stale"),
    "waiting": ("waiting", "absent"),
    "failed": ("failed",),
    "succeeded": ("succeeded",),
    "cancelled": ("cancelled",),
    "damaged": ("damaged",),
}
"""What the list of runs can be narrowed to, and the phases each group holds."""

ID = r"[a-z0-9][a-z0-9._-]*"
RUN = re.compile(rf"runs/({ID})/({ID})\.html")
LOG = re.compile(rf"logs/({ID})/({ID})/({ID})\.(html|txt)")
MANIFEST = re.compile(rf"evidence/({ID})/({ID})/manifest\.json")
TASK = re.compile(rf"tasks/({ID})\.html")
LISTED = re.compile(rf"list/(all|{'|'.join(GROUPS)})(?:-([1-9][0-9]{{0,4}}))?\.html")


def run(task_id: str, run_id: str) -> str:
    return f"runs/{quote(task_id)}/{quote(run_id)}.html"


def log(task_id: str, run_id: str, log_path: str, suffix: str = "html") -> str:
    """Return the place of a log by its path in the repository."""
    name = log_path.rpartition("/")[2].removesuffix(".log")
    return f"logs/{quote(task_id)}/{quote(run_id)}/{quote(name)}.{suffix}"


def manifest(task_id: str, run_id: str) -> str:
    return f"evidence/{quote(task_id)}/{quote(run_id)}/manifest.json"


def task(task_id: str) -> str:
    return f"tasks/{quote(task_id)}.html"


def listed(group: str = "", number: int = 1) -> str:
    """Return the place of a page of the list: `group` is "" for all runs, `number` counts from 1."""
    if not group and number == 1:
        return HOME
    return f"list/{group or 'all'}{f'-{number}' if number > 1 else ''}.html"


def up(place: str) -> str:
    """Return what leads from a page back to the root: "" or some `../`."""
    return "../" * place.count("/")
