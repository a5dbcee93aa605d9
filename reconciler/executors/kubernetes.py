"""The engine `kubernetes`: a Job an attempt, by plain requests to the API server of a cluster.

A Job bears the name of its attempt, so to make it twice is to make it once; what belongs to it is found by labels.
What an attempt alone may see is in a Secret of the same name, which is made before the Job and goes with it. The engine
makes, looks at and removes only what bears its labels, in one namespace.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reconciler.executors.engine import CALL_S, Engine, EngineSilent, Opening, Sighting, Standing, Submission, Turned
from reconciler.executors.kubernetes_access import Access, looking
from reconciler.executors.kubernetes_api import (
    JOBS,
    PODS,
    SECRETS,
    Api,
    checked,
    chunks,
    document_of,
    mapping,
    said,
)
from reconciler.executors.kubernetes_job import (
    CONTAINER,
    HANDLE_LABEL,
    MANAGED_BY,
    OURS,
    Options,
    encoded,
    ended_by_us,
    is_of,
    job_of,
    options_of,
    owned,
    refusal,
    secret_of,
    secrets_in,
    selector_of,
)
from reconciler.executors.kubernetes_mirror import Mirror
from reconciler.executors.kubernetes_words import (
    JobSeen,
    PodSeen,
    has_ended,
    instant_s,
    is_final,
    job_seen,
    pod_seen,
    sighting,
    stuck,
    turned,
)
from reconciler.http import ANSWER_BYTES_MAX, Answer, Call
from reconciler.work import repository_in

SUBMIT_S = CALL_S * 0.75
"""For how long attempts are placed in one call; those left wait for the next."""
SLOW = "the API server takes long to answer"
THROTTLED = "answered 429"
NOT_ASKED = "not asked for yet: "
QUOTAS_MAX = 3
"""After so many that a quota keeps out, no further ones are tried in one call."""
ALONE_MAX = 20
"""So many attempts that a mirror does not know are asked for one by one."""
SELECTED_MAX = 50
ENDED_MAX = 10_000
"""Of so many attempts it is remembered how they ended."""
ORPHAN_S = 600.0
"""A Secret that has had no Job for so long belongs to a submission that was cut off."""
LINE_BYTES = 100
"""How long a line of output is taken to be at first."""
HERE_TRIES = 4


def open_engine(opening: Opening) -> Engine:
    """Return the engine of an executor; the cluster is asked when there is something to ask."""
    options = options_of(opening.options)
    look = looking(options.kubeconfig, options.context, options.namespace, os.environ)
    return Kubernetes(options, Api(access=Access(look=look)))


class Kubernetes:
    """Jobs of one namespace, as the protocol of engines has them."""

    def __init__(self, options: Options, api: Api) -> None:
        self.options, self.api = options, api
        self.jobs: Mirror[JobSeen] = Mirror(api, JOBS, job_seen, options.resync_s)
        self.pods: Mirror[PodSeen] = Mirror(api, PODS, pod_seen, options.resync_s)
        self._ended: OrderedDict[str, Sighting] = OrderedDict()
        self._doubted: set[str] = set()

    # -------------------------------------------------------------------------------------------- submit

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Turned]:
        deadline_s = self.api.monotonic() + SUBMIT_S
        found: dict[str, Turned] = {}
        waiting: list[Turned] = []
        for each in submissions:
            if self.api.monotonic() > deadline_s:
                waiting.append(Turned(reason=SLOW))
            said_no = self._refused(each) or _halted(waiting) or self._place(each)
            if said_no is not None:
                found[each.handle] = said_no
                waiting += [] if said_no.settled else [said_no]
        return found

    def _refused(self, submission: Submission) -> Turned | None:
        reason = refusal(submission)
        return Turned(reason=reason, settled=True) if reason else None

    def _place(self, submission: Submission) -> Turned | None:
        """Make the Secret and the Job of an attempt, as far as they are not there; return why the engine did not."""
        if (said_no := self._hide(submission)) is not None:
            return said_no
        answer = self.api.order("POST", self.api.path(JOBS), job_of(submission, self.options))
        document = mapping(document_of(answer))
        if answer.status == 409:
            document = self.api.get(self.api.path(JOBS, submission.handle)) or {}
        elif not answer.ok:
            self._reveal_nothing(submission)
            return _turned(answer)
        if not document:
            return Turned(reason="a Job of its name was there and is gone; it is tried again")
        if not is_of(document, submission):
            return Turned(reason=f"there is a Job '{submission.handle}' that is none of ours; remove it", settled=True)
        self._hand_over(submission, document)
        return None

    def _hand_over(self, submission: Submission, job: Mapping[str, Any]) -> None:
        """Have the Secret go when the Job goes, and know the Job from now on."""
        self.jobs.keep(dict(job))
        seen = job_seen(job)
        if _has_secrets(submission) and seen is not None and seen.uid:
            path = self.api.path(SECRETS, submission.handle)
            answer = self.api.order("PATCH", path, owned(seen.uid, submission.handle))
            if answer.status == 404 and not has_ended(seen):
                # Somebody else whose Job was refused at this moment has taken it away.
                self._hide(submission)
                answer = self.api.order("PATCH", path, owned(seen.uid, submission.handle))
            if not answer.ok and answer.status != 404:
                raise EngineSilent(f"kubernetes: {answer.call}: answered {answer.status}: {said(answer)[1]}")

    def _hide(self, submission: Submission) -> Turned | None:
        """Make the Secret of an attempt, or take the one that an earlier submission made."""
        if not _has_secrets(submission):
            return None
        wanted = secret_of(submission)
        answer = self.api.order("POST", self.api.path(SECRETS), wanted)
        if answer.ok:
            return None
        if answer.status != 409:
            return _turned(answer)
        there = self.api.get(self.api.path(SECRETS, submission.handle))
        if there is None:
            return Turned(reason="its Secret was there and is gone; it is tried again")
        if not is_of(there, submission):
            return Turned(
                reason=f"there is a Secret '{submission.handle}' that is none of ours; remove it", settled=True
            )
        return self._correct(submission, mapping(there.get("data")), wanted["data"])

    def _correct(self, submission: Submission, old: Mapping[str, Any], new: Mapping[str, Any]) -> Turned | None:
        """Have a Secret say what it must now, unless its Job is there already and goes by what it said."""
        if dict(old) == dict(new) or self.api.get(self.api.path(JOBS, submission.handle)) is not None:
            return None
        data = {**dict.fromkeys(old), **new}
        answer = self.api.order("PATCH", self.api.path(SECRETS, submission.handle), {"data": data})
        return None if answer.ok else _turned(answer)

    def _reveal_nothing(self, submission: Submission) -> None:
        """Remove the Secret of an attempt that was not taken."""
        if _has_secrets(submission):
            self._delete(SECRETS, submission.handle, "")

    # -------------------------------------------------------------------------------------------- renew

    def renew(self, secrets: Mapping[str, Mapping[str, str]]) -> Collection[str]:
        """Change the Secrets of attempts, as far as time allows; those that are gone need none."""
        deadline_s = self.api.monotonic() + SUBMIT_S
        done = []
        for handle, wanted in secrets.items():
            if self.api.monotonic() > deadline_s:
                break
            answer = self.api.order("PATCH", self.api.path(SECRETS, handle), {"data": encoded(wanted)})
            if answer.status == 429:
                break
            if not answer.ok and answer.status != 404:
                raise EngineSilent(f"kubernetes: {answer.call}: answered {answer.status}: {said(answer)[1]}")
            done.append(handle)
        return done

    # -------------------------------------------------------------------------------------------- observe

    def observe(self, handles: Collection[str]) -> Mapping[str, Sighting]:
        asked = [each for each in handles if each not in self._ended]
        jobs, pods = self._look(asked)
        found = {each: self._sight(jobs.get(each), pods.get(each)) for each in asked}
        found |= self._doubts({each: jobs[each] for each in asked if each in jobs}, pods)
        self._remember(found, jobs)
        return {each: found[each] if each in found else self._ended[each] for each in handles}

    def _look(self, handles: Sequence[str]) -> tuple[dict[str, JobSeen], dict[str, PodSeen]]:
        """Return the Jobs of some attempts and the newest pod of each."""
        repositories = tuple(sorted({repository_in(each) for each in handles} - {""}))
        if not handles:
            return {}, {}
        selector = selector_of(repositories)
        jobs = {each.name: each for each in (self.jobs.look(selector) if repositories else ())}
        pods = _newest(self.pods.look(selector) if repositories else ())
        self._ask_alone([each for each in handles if each not in jobs], jobs)
        self._ask_how([each for each in handles if each in jobs and _is_open(jobs[each], pods.get(each))], pods)
        return jobs, pods

    def _ask_alone(self, missing: Sequence[str], jobs: dict[str, JobSeen]) -> None:
        """Ask for attempts that the mirror does not know: it may be behind, or not speak of them."""
        if self.jobs.fresh:
            missing = [each for each in missing if not repository_in(each)]
        elif len(missing) > ALONE_MAX:
            self.jobs.forget()
            jobs |= {each.name: each for each in self.jobs.look(self.jobs.selector)}
            return
        for each in missing:
            document = self.api.get(self.api.path(JOBS, each))
            if document is not None and _is_ours(document) and (seen := self.jobs.keep(document)) is not None:
                jobs[each] = seen

    def _ask_how(self, handles: list[str], pods: dict[str, PodSeen]) -> None:
        """Ask for the pods of Jobs that have ended: how, they alone may know, and be behind."""
        last = _newest(self.pods.last_words()) if handles else {}
        pods |= {each: last[each] for each in handles if each in last}
        for some in chunks([each for each in handles if each not in last], SELECTED_MAX):
            listed = self.api.listed(PODS, f"{MANAGED_BY}={OURS},{HANDLE_LABEL} in ({','.join(some)})")
            pods |= _newest(each for each in map(pod_seen, listed.items) if each is not None)

    def _sight(self, job: JobSeen | None, pod: PodSeen | None) -> Sighting:
        now_s = self.jobs.now_s()
        hopeless = stuck(job, pod, now_s, self.options.start_patience_s)
        if job is None or hopeless is None:
            return sighting(job, pod, now_s)
        cause, detail = hopeless
        if not job.cause:
            answer = self.api.order("PATCH", self.api.path(JOBS, job.name), ended_by_us(cause, detail))
            if not answer.ok and answer.status != 404:
                raise EngineSilent(f"kubernetes: {answer.call}: answered {answer.status}: {said(answer)[1]}")
        place = pod.node if pod is not None else ""
        return Sighting(standing=Standing.RUNNING, detail=f"it is being ended: {detail}", place=place)

    def _doubts(self, jobs: Mapping[str, JobSeen], pods: Mapping[str, PodSeen]) -> dict[str, Sighting]:
        """Return those whose end is told with the next look: changes of pods are listened to by themselves, and the
        last words of one may come after those about its Job."""
        still = set() if self.pods.fresh else {each for each, job in jobs.items() if _is_open(job, pods.get(each))}
        new, self._doubted = still - self._doubted, still
        detail = "it has ended; how is not known yet"
        return {each: Sighting(standing=Standing.RUNNING, detail=detail) for each in new}

    def _remember(self, found: Mapping[str, Sighting], jobs: Mapping[str, JobSeen]) -> None:
        """Keep how attempts ended, so that it is the same when their Jobs are gone. A node may come back."""
        for handle, each in found.items():
            if each.standing is Standing.ENDED and has_ended(jobs[handle]):
                self._ended[handle] = each
        while len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)

    # -------------------------------------------------------------------------------------------- the rest

    def cancel(self, handles: Collection[str]) -> None:
        deadline_s = self.api.monotonic() + CALL_S
        for each in handles:
            if self.api.monotonic() > deadline_s:
                raise EngineSilent("kubernetes: not all attempts could be cancelled in time; try again")
            document = self.api.get(self.api.path(JOBS, each)) if each not in self._ended else None
            seen = job_seen(document)
            if document is not None and seen is not None and _is_ours(document) and not has_ended(seen):
                self._delete(JOBS, each, seen.uid)

    def _delete(self, kind: str, name: str, uid: str) -> None:
        """Have an object go, and before it what belongs to it: for a Job that is its pod, with the grace of that."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        only = {"preconditions": {"uid": uid}} if uid else {}
        answer = self.api.order("DELETE", self.api.path(kind, name), {**body, **only})
        if not answer.ok and answer.status not in (404, 409):
            raise EngineSilent(f"kubernetes: {answer.call}: answered {answer.status}: {said(answer)[1]}")

    def adopt(self, repository: str) -> Mapping[str, Mapping[str, str]]:
        selector = selector_of((repository,))
        hidden = self.api.listed(SECRETS, selector)
        jobs = {each.name: each for each in map(job_seen, self.api.listed(JOBS, selector).items) if each is not None}
        secrets = {_name(each): mapping(each) for each in hidden.items}
        for name, each in secrets.items():
            if name not in jobs and _is_orphan(each, hidden.now_s if hidden.now_s is not None else time.time()):
                self._delete(SECRETS, name, "")
        return {name: secrets_in(secrets.get(name, {})) for name in jobs}

    def logs(self, handle: str, bytes_max: int) -> bytes:
        listed = self.api.listed(PODS, f"{MANAGED_BY}={OURS},{HANDLE_LABEL}={handle}")
        pod = _newest(each for each in map(pod_seen, listed.items) if each is not None).get(handle)
        if pod is None or bytes_max <= 0:
            return b""
        limit, lines = min(ANSWER_BYTES_MAX // 2, bytes_max * 8), max(1, bytes_max // LINE_BYTES)
        for _ in range(HERE_TRIES):
            data = self._tail(pod.name, lines, limit)
            if len(data) < limit:
                break
            # The server counts its bytes from the first of these lines on: with fewer lines the end is among them.
            lines = max(1, lines // 16)
        return data[-bytes_max:]

    def _tail(self, pod: str, lines: int, bytes_max: int) -> bytes:
        query: dict[str, str | int] = {"container": CONTAINER, "tailLines": lines, "limitBytes": bytes_max}
        answer = self.api.ask(Call(method="GET", path=self.api.path(PODS, pod, "log"), query=query))
        if answer.status in (400, 404):
            # A container that has not begun has no log yet.
            return b""
        if not answer.ok:
            checked(answer)
        return answer.data


def _turned(answer: Answer) -> Turned:
    """Return what a refusal means. Raise EngineSilent where it means nothing for this attempt."""
    found = turned(answer.status, document_of(answer))
    if found is None:
        raise EngineSilent(f"kubernetes: {answer.call}: answered {answer.status}: {said(answer)[1]}")
    after = answer.headers.get("retry-after", "")
    asks = f"; it asks to come again in {after} s" if after.isascii() and after.isdigit() and len(after) < 6 else ""
    return replace(found, reason=f"{found.reason}{asks}")


def _has_secrets(submission: Submission) -> bool:
    return bool(submission.secrets or submission.renewed)


def _halted(waiting: Sequence[Turned]) -> Turned | None:
    """Return why nothing more is asked for in this call: after a rate or a delay at once; a quota may have room for
    what is smaller."""
    last = next((each for each in waiting if each.reason == SLOW or THROTTLED in each.reason), None)
    last = last or (waiting[-1] if len(waiting) >= QUOTAS_MAX else None)
    if last is None or last.reason.startswith(NOT_ASKED):
        return last
    return Turned(reason=f"{NOT_ASKED}{last.reason}")


def _newest(pods: Iterable[PodSeen]) -> dict[str, PodSeen]:
    """Return of each attempt the pod that was made last."""
    return {each.handle: each for each in sorted(pods, key=lambda pod: pod.created_s)}


def _is_open(job: JobSeen, pod: PodSeen | None) -> bool:
    """Return whether a Job has ended and its pod may have more to say."""
    return has_ended(job) and not job.cause and not is_final(pod)


def _is_ours(document: Mapping[str, Any]) -> bool:
    labels = mapping(mapping(document.get("metadata")).get("labels"))
    return labels.get(MANAGED_BY) == OURS


def _name(document: object) -> str:
    return str(mapping(mapping(document).get("metadata")).get("name", ""))


def _is_orphan(secret: Mapping[str, Any], now_s: float) -> bool:
    made_s = instant_s(mapping(secret.get("metadata")).get("creationTimestamp"))
    return made_s is not None and now_s - made_s > ORPHAN_S
