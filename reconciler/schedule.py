"""When a scheduled request fires: cron expressions in a time zone become instants in UTC. Pure: `now` is an argument.

A fire is named by its instant in UTC to the second, `YYYY-MM-DDTHH:MM:SSZ`, so every machine names it alike. It is
looked for backwards from now, so the cost does not grow with the fires that went by.

Where clocks are put forward, a fixed time that does not exist fires at the first instant after the gap. Where they are
put back, a fixed time fires once, the first time; what repeats (`*` in minute or hour) fires both times. That is what
Debian's cron does.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice

from reconciler.model import Instant, Schedule

FIRES_TRIED_MAX = 3
"""Of these the newest that counts is taken: the first may lie a moment ahead, and behind `until` there is another."""
AHEAD_MAX = timedelta(days=1)
"""So far ahead of ours may the clock of a machine be that launched a run for a fire."""
_MINUTE = timedelta(minutes=1)


def cron_fault(text: str) -> str:
    """Return why a text is no cron expression, "" if it is one."""
    from cronsim import CronSim, CronSimError

    try:
        next(CronSim(text, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        return f"{text!r} is no cron expression ({error})"
    except StopIteration:
        return f"{text!r} never comes true"
    return ""


def latest(schedule: Schedule, zone: tzinfo, now: Instant, since_s: int | None) -> str | None:
    """Return the newest fire that is due now and wanted, None if there is none.

    `since_s` is when the request came to the branch: it asks for nothing before that. With `missed: skip` a fire that
    is older than the grace is not wanted any more.
    """
    here = datetime.fromisoformat(now.at)
    until = datetime.fromisoformat(schedule.until) if schedule.until is not None else here
    start = min(here, until)
    for fire in islice(_backwards(schedule.cron, start, zone), FIRES_TRIED_MAX):
        if fire > start:
            continue
        late_s = (here - fire).total_seconds()
        if since_s is not None and fire.timestamp() <= since_s:
            return None
        return None if schedule.missed == "skip" and late_s > schedule.grace_s else _named(fire)
    return None


def following(schedule: Schedule, zone: tzinfo, now: Instant, since_s: int | None) -> str | None:
    """Return the next fire after now, and after the request came to the branch; None if there is none any more."""
    here = max(datetime.fromisoformat(now.at), datetime.fromtimestamp(max(0, since_s or 0), UTC))
    fire = next(_forwards(schedule.cron, here, zone), None)
    if fire is None or (schedule.until is not None and fire > datetime.fromisoformat(schedule.until)):
        return None
    return _named(fire)


def is_fire(schedule: Schedule, zone: tzinfo, fired_at: str, now: Instant) -> bool:
    """Return whether a schedule fires at an instant, and has by now as far as clocks of machines agree."""
    fire, here = datetime.fromisoformat(fired_at), datetime.fromisoformat(now.at)
    if fire > here + AHEAD_MAX or (schedule.until is not None and fire > datetime.fromisoformat(schedule.until)):
        return False
    return fired_at in map(_named, islice(_backwards(schedule.cron, fire.astimezone(UTC), zone), FIRES_TRIED_MAX))


def _backwards(cron: str, start: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Yield fires in UTC from the minute after `start` backwards."""
    from cronsim import CronSim

    ahead = (start.replace(second=0, microsecond=0) + _MINUTE).astimezone(zone)
    return (each.astimezone(UTC) for each in CronSim(cron, ahead, reverse=True))


def _forwards(cron: str, start: datetime, zone: tzinfo) -> Iterator[datetime]:
    from cronsim import CronSim

    found = (each.astimezone(UTC) for each in CronSim(cron, start.astimezone(zone)))
    return (each for each in found if each > start)


def _named(fire: datetime) -> str:
    return fire.isoformat(timespec="seconds").replace("+00:00", "Z")
