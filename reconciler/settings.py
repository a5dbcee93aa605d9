"""`reconciler.yaml` becomes `Settings` here; every key has a default, and so has the whole file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from reconciler.agent import BUILT_IN as AGENTS
from reconciler.login import login_fault
from reconciler.model import (
    AgentSettings,
    ApprovalPolicy,
    Contract,
    ControlSettings,
    EvidenceSettings,
    ExecutorSettings,
    ForgeSettings,
    GuardSettings,
    Heartbeat,
    McpSettings,
    Otlp,
    PatternSettings,
    Policy,
    PublishSettings,
    Redact,
    Rejection,
    RoleSettings,
    Rule,
    SandboxSettings,
    Settings,
    Source,
    SpecSettings,
    TelemetrySettings,
    Trust,
    Violation,
    Watch,
    Workspace,
)
from reconciler.parse import (
    Conversions,
    agent_of,
    at,
    examine,
    fields_of,
    parse_duration,
    parse_size,
    pattern_fault,
    resources_of,
)
from reconciler.places import ENGINES, Quotas
from reconciler.rules import RESERVED
from reconciler.yaml_events import Document, shown

_PATTERN_LENGTH_MAX = 500
_SILENCE_RATIO_MIN = 2
_LEASE_RATIO_MIN = 4
_AGEING_S_MIN = 1
_CONTROL_TIMEOUT_S_MIN, _CONTROL_TIMEOUT_S_MAX = 0.1, 30
_SENDING_S_MAX = 60


def parse_settings(data: bytes | None, source: Source, contract: Contract) -> Settings | Rejection:
    """Return the settings that `data` says, the defaults where it says nothing, or everything that is wrong."""
    if data is None:
        return Settings()
    checks = (
        *(_intervals, _silence, _lease, _ageing, _patterns, _rules, _sending, _commands, _reviewer),
        *(_outgoing, _control, _lent, lambda document: _engines(document, contract)),
    )
    document = examine("settings", data, source, contract, *checks)
    if isinstance(document, Rejection):
        return document
    return Settings(**fields_of(document.value, _SETTINGS))


def _intervals(document: Document) -> Iterator[Violation]:
    for key in ("poll_interval", "heartbeat.interval", "executors.*.beat", "executors.*.poll"):
        for pointer, text in at(document.value, key):
            if _seconds(text) == 0:
                reason = f"{shown(text)} would leave no pause"
                yield Violation(path=pointer, reason=reason, cure="for example 5s", rule="no-time")


def _ageing(document: Document) -> Iterator[Violation]:
    """Return a violation where waiting would outweigh every priority at once."""
    for pointer, text in at(document.value, "ageing"):
        if _seconds(text) < _AGEING_S_MIN:
            reason = f"{shown(text)} a point would let age outweigh every priority at once"
            yield Violation(path=pointer, reason=reason, cure="at least 1s, for example 1h", rule="no-time")


def _silence(document: Document) -> Iterator[Violation]:
    """Return a violation where a worker would look silent between two of its heartbeats."""
    heartbeat = document.value.get("heartbeat")
    if not isinstance(heartbeat, dict):
        return
    default = Heartbeat()
    interval = _seconds(heartbeat.get("interval"), default.interval_s)
    stale_after = _seconds(heartbeat.get("stale_after"), default.stale_after_s)
    if stale_after < _SILENCE_RATIO_MIN * interval:
        key = "stale_after" if "stale_after" in heartbeat else "interval"
        reason = f"stale_after is {stale_after:g} s and interval {interval:g} s, a worker would look silent"
        cure = f"stale_after is at least {_SILENCE_RATIO_MIN} times interval"
        yield Violation(path=("heartbeat", key), reason=reason, cure=cure, rule="stale-too-soon")


def _lease(document: Document) -> Iterator[Violation]:
    """Return a violation where a host could not end its stages in the last third of its lease, or would lose its
    runs between two looks at the remote."""
    default = Settings()
    said = document.value
    lease = _seconds(said.get("lease"), default.lease_s)
    for key, seconds in (("grace", default.grace_s), ("poll_interval", default.poll_interval_s)):
        if _LEASE_RATIO_MIN * (value := _seconds(said.get(key), seconds)) > lease:
            reason = f"lease is {lease:g} s and {key} {value:g} s, that is too short a lease"
            where = "lease" if "lease" in said else key
            cure = f"lease is at least {_LEASE_RATIO_MIN} times {key}"
            yield Violation(path=(where,), reason=reason, cure=cure, rule="lease-too-short")


def _seconds(text: object, default: float = 1.0) -> float:
    """Return a duration in seconds; the default where there is none, or one that its schema refuses anyway."""
    try:
        return parse_duration(text) if isinstance(text, str) else default
    except ValueError:
        return default


def _patterns(document: Document) -> Iterator[Violation]:
    for key in ("redact.patterns.[]", "redact.rules.[].pattern", "redact.rules.[].allow.[]", "redact.allow.[]"):
        for pointer, pattern in at(document.value, key):
            if isinstance(pattern, str) and (reason := pattern_fault(pattern, length_max=_PATTERN_LENGTH_MAX)):
                yield Violation(path=pointer, reason=reason, cure="", rule="bad-pattern")


def _rules(document: Document) -> Iterator[Violation]:
    """Return a violation where two rules have one id, or one that is counted for something else."""
    seen: set[object] = set(RESERVED)
    for pointer, named in at(document.value, "redact.rules.[].id"):
        if isinstance(named, str) and named in seen:
            reason = f"there is already a rule {shown(named)}"
            yield Violation(path=pointer, reason=reason, cure="give it another id", rule="twin-rule")
        seen.add(named if isinstance(named, str) else None)


def _sending(document: Document) -> Iterator[Violation]:
    for pointer, text in at(document.value, "telemetry.otlp.timeout"):
        if not 0 < _seconds(text) <= _SENDING_S_MAX:
            reason = f"{shown(text)} is no time for one sending"
            yield Violation(path=pointer, reason=reason, cure="at most 60s, for example 10s", rule="no-time")


def _commands(document: Document) -> Iterator[Violation]:
    for pointer, each in at(document.value, "agents.*"):
        if isinstance(each, dict) and each.get("driver") == "command" and "command" not in each:
            reason = "the driver 'command' has no command"
            yield Violation(path=pointer, reason=reason, cure="add 'command: [...]'", rule="agent-command")


def _reviewer(document: Document) -> Iterator[Violation]:
    """Return a violation where the reviewing agent is none that is known, or its command does not belong to it."""
    named: object = document.value.get("agents")
    for pointer, each in at(document.value, "roles.reviewer.agent"):
        if not isinstance(each, dict) or not isinstance(used := each.get("use"), str):
            continue
        known = sorted({*AGENTS, *(map(str, named) if isinstance(named, dict) else ())})
        if used not in known:
            reason = f"{shown(used)} is no agent that is known"
            cure = f"name it below 'agents', or use: {', '.join(known)}"
            yield Violation(path=(*pointer, "use"), reason=reason, cure=cure, rule="unknown-agent")
        elif (used == "command") != ("command" in each):
            reason = "'command' is only read with 'use: command'"
            yield Violation(path=pointer, reason=reason, cure="say both or neither", rule="agent-command")


def _outgoing(document: Document) -> Iterator[Violation]:
    """Yield what is wrong with what leaves the repository; what knows of that is loaded where something does."""
    lent = any(True for _ in at(document.value, "executors.*.credential"))
    if isinstance(document.value, dict) and (lent or {"cloud_sync", "notifications"} & document.value.keys()):
        from reconciler.outlet_settings import violations

        yield from violations(document)


def _control(document: Document) -> Iterator[Violation]:
    """Return a violation where a token would cross the network in the clear, or no time is left for an answer."""
    for pointer, url in at(document.value, "control_plane.url"):
        if isinstance(url, str) and url.startswith("http://") and not _is_loopback(url):
            reason = f"{shown(url)} would carry the token in the clear"
            yield Violation(path=pointer, reason=reason, cure="use https; http is for this machine", rule="no-tls")
    for pointer, text in at(document.value, "control_plane.timeout"):
        if not _CONTROL_TIMEOUT_S_MIN <= _seconds(text) <= _CONTROL_TIMEOUT_S_MAX:
            reason = f"a pass waits for the control plane, and {shown(text)} is no time for that"
            yield Violation(path=pointer, reason=reason, cure="100ms to 30s, for example 5s", rule="out-of-range")


def _engines(document: Document, contract: Contract) -> Iterator[Violation]:
    """Return a violation for every option that an engine of ours does not understand, and for what says nothing where
    the host itself executes runs."""
    for pointer, said in at(document.value, "executors.*"):
        if not isinstance(said, dict):
            continue
        engine = said.get("engine")
        if engine in ENGINES:
            for each in contract.check(f"executors/{engine}", said.get("options", {})):
                yield replace(each, path=(*pointer, "options", *each.path))
        for key in sorted(said.keys() & _OF_ENGINES if engine is None else ()):
            cure = "say which engine executes its runs ('engine: slurm'), or leave it out"
            yield Violation(
                path=(*pointer, key), reason=f"'{key}' says nothing without 'engine'", cure=cure, rule="engine"
            )


def _lent(document: Document) -> Iterator[Violation]:
    """Return a violation where an executor's credential could not reach the address that it says."""
    for pointer, said in at(document.value, "executors.*"):
        url = said.get("url") if isinstance(said, dict) and "credential" in said else None
        if isinstance(url, str) and (fault := login_fault(url)):
            cure = "say an address that begins with https://, or leave 'credential' out"
            yield Violation(path=(*pointer, "url"), reason=f"{shown(url)}: {fault}", cure=cure, rule="no-tls")


def _is_loopback(url: str) -> bool:
    host = url.removeprefix("http://").partition("/")[0]
    return re.fullmatch(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?", host) is not None


def _heartbeat(value: Mapping[str, Any]) -> Heartbeat:
    seconds: Conversions = {key: (f"{key}_s", parse_duration) for key in value}
    return Heartbeat(**fields_of(value, seconds))


def _evidence(value: Mapping[str, Any]) -> EvidenceSettings:
    return EvidenceSettings(**fields_of(value, {"log_bytes_max": ("log_bytes_max", parse_size)}))


def _redact(value: Mapping[str, Any]) -> Redact:
    lists: Conversions = {"patterns": ("patterns", tuple), "allow": ("allow", tuple)}
    return Redact(**fields_of(value, {**lists, "rules": ("rules", lambda rules: tuple(map(_rule, rules)))}))


def _rule(value: Mapping[str, Any]) -> Rule:
    return Rule(**fields_of(value, {"allow": ("allow", tuple), "entropy_min": ("entropy_min", float)}))


def _policies(value: Mapping[str, Mapping[str, Any]]) -> tuple[Policy, ...]:
    lists: Conversions = {
        key: (key, tuple) for key in ("pipelines", "stages", "labels", "paths", "authors", "approvers")
    }
    conversions: Conversions = {
        **lists,
        "within": ("within_s", parse_duration),
        "approvals_min": ("approvals_min", int),
    }
    return tuple(Policy(name=name, **fields_of(each, conversions)) for name, each in value.items())


def _guards(value: Mapping[str, Any]) -> GuardSettings:
    return GuardSettings(
        **fields_of(value, {"specs": ("specs", _specs), "patterns": ("patterns", lambda said: PatternSettings(**said))})
    )


def _specs(value: Mapping[str, Any]) -> SpecSettings:
    known: Conversions = {
        "paths": ("paths", tuple),
        "age_max": ("age_max_s", parse_duration),
        "watch": ("watch", lambda watches: tuple(_watch(each) for each in watches)),
    }
    return SpecSettings(**fields_of(value, known))


def _watch(value: Mapping[str, Any]) -> Watch:
    return Watch(**fields_of(value, {"paths": ("paths", tuple)}))


def _agents(value: Mapping[str, Mapping[str, Any]]) -> dict[str, AgentSettings]:
    return {name: AgentSettings(**fields_of(each, {"command": ("command", tuple)})) for name, each in value.items()}


def _roles(value: Mapping[str, Any]) -> RoleSettings:
    said = dict(value)
    reviewer = said.get("reviewer")
    if isinstance(reviewer, dict):
        del said["reviewer"]
        said["agent"] = agent_of(reviewer["agent"])
    return RoleSettings(**fields_of(said, {"timeout": ("timeout_s", parse_duration)}))


def _control_plane(value: Mapping[str, Any]) -> ControlSettings:
    return ControlSettings(**fields_of(value, {"timeout": ("timeout_s", parse_duration)}))


def _telemetry(value: Mapping[str, Any]) -> TelemetrySettings:
    otlp = value.get("otlp")
    if not isinstance(otlp, dict):
        return TelemetrySettings()
    known: Conversions = {"timeout": ("timeout_s", parse_duration), "signals": ("signals", tuple)}
    return TelemetrySettings(otlp=Otlp(**fields_of(otlp, known)))


def _executors(value: Mapping[str, Mapping[str, Any]]) -> dict[str, ExecutorSettings]:
    known: Conversions = {
        "capabilities": ("capabilities", tuple),
        "beat": ("beat_s", parse_duration),
        "silent_max": ("silent_max_s", parse_duration),
        "poll": ("poll_s", parse_duration),
        "bytes_max": ("bytes_max", parse_size),
        "resources": ("resources", resources_of),
    }
    return {name: ExecutorSettings(**fields_of(each, known)) for name, each in value.items()}


_OF_ENGINES = {"options", "url", "depth", "beat", "silent_max", "poll", "bytes_max", "resources", "credential"}

_SETTINGS: Conversions = {
    "poll_interval": ("poll_interval_s", parse_duration),
    "lease": ("lease_s", parse_duration),
    "runs_max": ("runs_max", int),
    "stages_max": ("stages_max", int),
    "attempts_max": ("attempts_max", int),
    "heartbeat": ("heartbeat", _heartbeat),
    "grace": ("grace_s", parse_duration),
    "workspace": ("workspace", Workspace),
    "approval_policy": ("approval_policy", ApprovalPolicy),
    "evidence": ("evidence", _evidence),
    "checklists": ("checklists", tuple),
    "redact": ("redact", _redact),
    "approvals": ("approvals", _policies),
    "trust": ("trust", lambda value: Trust(**fields_of(value, {"paths": ("paths", tuple)}))),
    "publish": ("publish", lambda value: PublishSettings(**value)),
    "forge": ("forge", lambda value: ForgeSettings(**value)),
    "mcp": ("mcp", lambda value: McpSettings(**value)),
    "guards": ("guards", _guards),
    "sandbox": ("sandbox", lambda value: SandboxSettings(**value)),
    "agents": ("agents", _agents),
    "ageing": ("ageing_s", parse_duration),
    "require_plan": ("require_plan", bool),
    "roles": ("roles", _roles),
    "subscribers": ("subscribers", tuple),
    "notifications": ("notifications", tuple),
    "control_plane": ("control_plane", _control_plane),
    "telemetry": ("telemetry", _telemetry),
    "executors": ("executors", _executors),
    "quotas": ("quotas", lambda value: Quotas(**value)),
}
