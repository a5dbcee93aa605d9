"""What a notification says and of which runs: rules and templates, judged without touching anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from string import Template
from typing import Any

from reconciler.aggregate import duration
from reconciler.outgoing import TEMPLATE_FIELDS, Notification, When
from reconciler.outlets.outlet import Delivery, Ended
from reconciler.values import frozen

FIELD_MAX = 500
TEXT_MAX = 8000
SUBJECT_MAX = 200


@frozen
class Message:
    """A text, its first line as a subject, and the fields that it was made of."""

    subject: str
    text: str
    fields: Mapping[str, str]


def is_wanted(run: Ended, when: When) -> bool:
    """Return whether a rule tells of a run. A first run has no status before it, so its status is a change."""
    if run.status not in when.statuses or (when.changed and run.status == run.previous):
        return False
    labels = [str(each) for each in run.document.get("labels", ())]
    may = not when.labels or any(fnmatchcase(label, each) for label in labels for each in when.labels)
    pipeline = str(run.document.get("pipeline_id", ""))
    return may and (not when.pipelines or any(fnmatchcase(pipeline, each) for each in when.pipelines))


def message(rule: Notification, delivery: Delivery) -> Message:
    """Return what is said of the run whose manifest a delivery holds."""
    found = fields(json.loads(delivery.body), delivery.previous)
    text = Template(rule.template).safe_substitute(found)[:TEXT_MAX].strip()
    first = text.partition("\n")[0].strip() or f"{found['name']} {found['status']}"
    return Message(subject=first[:SUBJECT_MAX], text=text, fields=found)


def fields(document: Mapping[str, Any], previous: str | None) -> dict[str, str]:
    """Return what templates may name: one line each, bounded, without what only a terminal or a mail would obey."""
    attempts: Any = document.get("attempts") or ({},)
    resources = document.get("resources") or {}
    known: dict[str, Any] = {
        "attempt": attempts[-1].get("number", ""),
        "duration": duration(float(resources.get("duration_s", 0.0))),
        "labels": ", ".join(map(str, document.get("labels", ()))),
        "previous_status": previous or "",
    }
    return {name: _line(known.get(name, document.get(name))) for name in TEMPLATE_FIELDS}


def _line(value: object) -> str:
    text = "" if value is None else str(value)
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= FIELD_MAX else f"{line[: FIELD_MAX - 3]}..."
