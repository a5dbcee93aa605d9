"""The gate before a run: a control plane is shown each plan that is about to be frozen.

Its verdict becomes part of the plan. It never holds up a pass for long: one answer, and all answers of a pass together,
are bounded in time, and after one that fails nobody else is asked about for a while, longer each time. Nothing is asked
and nothing more is loaded where settings name no control plane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from reconciler import codec
from reconciler.actions import Abandon, Action, Launch, Restore, TakeOver, Wait
from reconciler.conditions import set_condition
from reconciler.errors import GitFailed, TransientError
from reconciler.model import ControlSettings, ControlVerdict, Outcome, Plan, RunId, Settings
from reconciler.observe import Observation
from reconciler.world import World

if TYPE_CHECKING:
    # What asks is loaded where a control plane is named.
    from reconciler.control.asking import Answer, Asker
    from reconciler.credentials.broker import Broker

PASS_BUDGET_S = 10.0
"""So long are control planes asked in one pass; the other runs come in the next."""
LEASE_SHARE = 12
"""With other machines, a pass spends no more than this part of its lease on it."""
BACKOFF_S, BACKOFF_MAX_S = 1.0, 60.0
FAILURES_MAX = 4
"""After so many failures in a row a command that waits for runs waits no longer for the control plane."""
REMEMBERED_S = 60.0
REMEMBERED_MAX = 256
ERRORS_TOLD = 3
CONDITION = "control plane"


@dataclass(slots=True)
class Gate:
    """Who asks for one process. `due_s` (monotonic) is when a control plane that failed is asked again, `waiting`
    whether a run waits for that; `known` are recent answers by what was asked, with their time."""

    world: World
    failures: int = 0
    due_s: float = float("-inf")
    waiting: bool = False
    reason: str = ""
    said: str | None = None
    known: dict[str, tuple[float, Answer]] = field(default_factory=dict)
    broker: Callable[[Settings], Broker] | None = None
    """Who hands out a token that is a credential."""

    def judge_all(self, seen: Observation, actions: Sequence[Action]) -> tuple[Action, ...]:
        """Return the actions, those that freeze a plan with the verdict on it; a run that is refused fails instead, and
        one that cannot be asked about waits."""
        self.waiting = False
        settings = seen.settings.control_plane
        if settings.mode == "off" or not any(map(_asks, actions)):
            self._say("" if settings.mode == "off" else self.said or "")
            return tuple(actions)
        round_ = Round(self, seen.settings)
        found = tuple(each for action in actions for each in self._judged(round_, seen, action))
        round_.close()
        self._say(self.reason if self.failures else "")
        return found

    def for_person(self, plan: Plan, settings: Settings) -> tuple[Plan, str]:
        """Return a plan that a person wants executed, with the verdict on it, and why it must not be, "" if it may."""
        if settings.control_plane.mode == "off":
            return plan, ""
        round_ = Round(self, settings)
        verdict = round_.verdict(plan)
        round_.close()
        if verdict is None or (verdict.mode == "enforce" and verdict.outcome == "unreachable"):
            why = verdict.reason if verdict is not None else "there was no time to ask"
            return plan, f"the control plane gives no answer: {why}"
        return replace(plan, control=verdict), objection(verdict)

    @property
    def told(self) -> tuple[str, ...]:
        """What people shall hear of this pass: that a run waits, and for what."""
        return (f"{CONDITION}: {self.reason}",) if self.waiting and self.failures else ()

    def patience_s(self) -> float:
        """Return in how many seconds the control plane is asked again for a run that waits for it."""
        return max(0.0, self.due_s - self.world.now().monotonic_s) if self.waiting else float("inf")

    # -------------------------------------------------------------------------------------------- one action

    def _judged(self, round_: Round, seen: Observation, action: Action) -> tuple[Action, ...]:
        if not isinstance(action, Launch | TakeOver | Restore) or not _asks(action):
            return (action,)
        verdict = round_.verdict(action.plan)
        if verdict is None:
            self.waiting = True
            return (Wait(subject=action.plan.run_id, reason="waits to be shown to the control plane"),)
        judged = replace(action, plan=replace(action.plan, control=verdict))
        why = objection(verdict)
        if not why:
            return (judged,)
        if verdict.outcome == "unreachable":
            self.waiting = True
            settled = self.failures >= FAILURES_MAX
            return (Wait(subject=action.plan.run_id, reason=why, settled=settled),)
        if isinstance(judged, Restore):
            return (judged, self._given_up(seen, judged.run_id, judged, why))
        return (replace(judged, outcome=Outcome.FAILED, reason=why),)

    def _given_up(self, seen: Observation, run_id: RunId, restored: Restore, reason: str) -> Abandon:
        number = seen.actual.runs[run_id].number
        return Abandon(run_id=run_id, task_id=restored.task_id, number=number, reason=reason)

    # -------------------------------------------------------------------------------------------- how it went

    def failed(self, reason: str) -> None:
        """Note that a control plane gave no answer: it is left alone for a while."""
        self.failures += 1
        doubled_s = min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(self.failures - 1, 16))
        pause_s = doubled_s * (0.5 + self.world.chance.fraction())
        self.due_s, self.reason = self.world.now().monotonic_s + pause_s, reason

    def answered(self, digest: str, answer: Answer) -> None:
        self.failures, self.due_s, self.reason = 0, float("-inf"), ""
        if len(self.known) >= REMEMBERED_MAX:
            self.known.clear()
        self.known[digest] = (self.world.now().monotonic_s, answer)

    def _say(self, reason: str) -> None:
        """Remember as a condition what `status` shall tell, once for each change of it."""
        if reason != self.said:
            set_condition(self.world.repository.state, CONDITION, reason, self.world.now().at, self.world.disk)
            self.said = reason


@dataclass(slots=True)
class Round:
    """The questions of one pass to one control plane, which share a connection and a budget of time."""

    gate: Gate
    settings: Settings
    asker: Asker | None = None
    began_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.began_s = self.gate.world.now().monotonic_s

    @property
    def _control(self) -> ControlSettings:
        return self.settings.control_plane

    @property
    def budget_s(self) -> float:
        shared = self.gate.world.remote is not None
        return min(PASS_BUDGET_S, self.settings.lease_s / LEASE_SHARE) if shared else PASS_BUDGET_S

    def close(self) -> None:
        if self.asker is not None:
            self.asker.close()

    def verdict(self, plan: Plan) -> ControlVerdict | None:
        """Return the verdict on a plan, by our own rules first; None if there is no time for it in this pass."""
        from reconciler.control.request import run_request
        from reconciler.control.rules import content_digest, errors_of, expected_of

        at = self.gate.world.now().at
        level = self._control.privacy_level
        document = codec.dump(run_request(plan, privacy_level=level, actor=self._actor(plan), at=at))
        errors = errors_of(document, self.gate.world.contracts)
        made = ControlVerdict(mode=self._control.mode, outcome="invalid", at=at, request_id=plan.run_id, errors=errors)
        if errors:
            return made
        if not self._control.url:
            return replace(made, outcome="valid", expected=expected_of(document))
        found = self._answer(document, f"{self._control.url} {content_digest(document)}")
        if found is None:
            return None
        if isinstance(found, str):
            return replace(made, outcome="unreachable", reason=found)
        return replace(
            made, outcome=found.outcome, remote_id=found.remote_id, errors=found.errors, expected=found.expected
        )

    def _actor(self, plan: Plan) -> str:
        """Return who changed the request of a plan last, "" where git cannot tell."""
        try:
            change = self.gate.world.repository.last_change(plan.commit, plan.request.path)
        except GitFailed:
            return ""
        return change.author if change is not None else ""

    def _answer(self, document: dict[str, Any], digest: str) -> Answer | str | None:
        """Return what the control plane says, now or a moment ago, or why it does not; None if time is up."""
        gate, now_s = self.gate, self.gate.world.now().monotonic_s
        at_s, answer = gate.known.get(digest, (float("-inf"), None))
        if answer is not None and now_s - at_s < REMEMBERED_S:
            return answer
        if now_s < gate.due_s:
            return gate.reason
        if now_s - self.began_s >= self.budget_s:
            return None
        found = self._asked(document)
        if isinstance(found, str):
            gate.failed(found)
        else:
            gate.answered(digest, found)
        return found

    def _asked(self, document: dict[str, Any]) -> Answer | str:
        from reconciler.control.asking import open_asker, token_of

        if self.asker is None:
            timeout_s = min(self._control.timeout_s, self.budget_s)
            try:
                token = token_of(self._control, self._secret)
            except TransientError as error:
                return str(error)
            opened = open_asker(self._control, self.gate.world.contracts, timeout_s, token)
            if isinstance(opened, str):
                return opened
            self.asker = opened
        found = self.asker.ask(document)
        if self.asker.refused and self._broker is not None:
            self._broker.forget(self._control.credential)  # the next time with one that is asked for anew
        return found

    @property
    def _broker(self) -> Broker | None:
        return self.gate.broker(self.settings) if self.gate.broker is not None and self._control.credential else None

    def _secret(self, name: str) -> str:
        """Return a credential. Raise TransientError if it cannot be had."""
        if self._broker is None:
            raise TransientError(f"credential '{name}': nobody here hands it out")
        return self._broker.get(name).value


def _asks(action: Action) -> bool:
    """Return whether an action freezes a plan that is to be executed."""
    if isinstance(action, Restore):
        return True
    return isinstance(action, Launch | TakeOver) and action.outcome is None


def objection(verdict: ControlVerdict) -> str:
    """Return why a run must not begin, "" if it may: `shadow` is in nobody's way."""
    if verdict.mode != "enforce" or verdict.outcome == "valid":
        return ""
    if verdict.outcome == "unreachable":
        return f"waits for the control plane: {verdict.reason}"
    told = [f"{each.path or 'the whole'}: {each.message}" for each in verdict.errors[:ERRORS_TOLD]]
    more = f"; and {len(verdict.errors) - ERRORS_TOLD} more" if len(verdict.errors) > ERRORS_TOLD else ""
    return f"the control plane refuses it: {'; '.join(told) or 'it does not say why'}{more}"
