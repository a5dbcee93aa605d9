"""`reconciler.yaml`: every key has a default, and what is said is taken over exactly."""

from __future__ import annotations

import pytest

from reconciler.contracts import Contracts
from reconciler.model import (
    AgentSettings,
    ApprovalPolicy,
    EvidenceSettings,
    ExecutorSettings,
    GuardSettings,
    Heartbeat,
    PublishSettings,
    Redact,
    Rejection,
    Settings,
    Source,
    SpecSettings,
    Watch,
    Workspace,
)
from reconciler.outgoing import (
    CloudSync,
    Credential,
    Desktop,
    Email,
    KeyringEntry,
    Notification,
    Outgoing,
    To,
    Webhook,
    When,
)
from reconciler.outlet_settings import outgoing
from reconciler.places import Quotas
from reconciler.settings import parse_settings

CONTRACTS = Contracts()
SOURCE = Source(path="reconciler.yaml")


def settings_of(text: str) -> Settings:
    settings = parse_settings(text.encode(), SOURCE, CONTRACTS)
    assert isinstance(settings, Settings), settings
    return settings


def test_an_absent_file_means_the_defaults() -> None:
    assert parse_settings(None, SOURCE, CONTRACTS) == Settings()


def test_an_empty_mapping_means_the_defaults() -> None:
    assert settings_of("{}") == Settings()


def test_an_empty_file_is_not_an_absent_one() -> None:
    assert isinstance(parse_settings(b"", SOURCE, CONTRACTS), Rejection)


def test_all_that_can_be_said() -> None:
    text = """
    branch: release
    remote: null
    poll_interval: 1m
    runs_max: 8
    stages_max: 2
    attempts_max: 5
    heartbeat: {interval: 500ms, stale_after: 1s}
    grace: 0s
    workspace: checkout
    keep_workspace: failed
    approval_policy: auto
    evidence: {log_bytes_max: 1MB}
    checklists: ["tasks/*.md"]
    redact: {mode: enforce, patterns: ["ACME-[0-9a-f]{32}"]}
    publish: {mode: direct}
    guards:
      specs: {paths: ["specs/*.md"], age_max: 90d, watch: [{paths: [src], spec: specs/a.md}]}
    executors: {heavy: {runs_max: 1, capabilities: [gpu, docker], weight: 0}, local: {}}
    quotas: {tasks: {"*": 2, t: 1}, labels: {team/x: 3}}
    agents: {mine: {driver: command, command: [./a, b], config: {events: true}}, codex: {driver: codex, env: {A: "1"}}}
    """
    assert settings_of(text) == Settings(
        branch="release",
        remote=None,
        poll_interval_s=60.0,
        runs_max=8,
        stages_max=2,
        attempts_max=5,
        heartbeat=Heartbeat(interval_s=0.5, stale_after_s=1.0),
        grace_s=0.0,
        workspace=Workspace.CHECKOUT,
        keep_workspace="failed",
        approval_policy=ApprovalPolicy.AUTO,
        evidence=EvidenceSettings(log_bytes_max=1_000_000),
        executors={
            "heavy": ExecutorSettings(runs_max=1, capabilities=("gpu", "docker"), weight=0),
            "local": ExecutorSettings(),
        },
        quotas=Quotas(tasks={"*": 2, "t": 1}, labels={"team/x": 3}),
        checklists=("tasks/*.md",),
        redact=Redact(mode="enforce", patterns=("ACME-[0-9a-f]{32}",)),
        publish=PublishSettings(mode="direct"),
        guards=GuardSettings(
            specs=SpecSettings(
                paths=("specs/*.md",), age_max_s=90 * 86400.0, watch=(Watch(paths=("src",), spec="specs/a.md"),)
            )
        ),
        agents={
            "mine": AgentSettings(driver="command", command=("./a", "b"), config={"events": True}),
            "codex": AgentSettings(driver="codex", env={"A": "1"}),
        },
    )


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("{}", SpecSettings()),
        ("{specs: {}}", SpecSettings()),
        ("{specs: {age_max: 12h}}", SpecSettings(age_max_s=43_200.0)),
        ("{specs: {watch: []}}", SpecSettings()),
    ],
)
def test_what_guardrails_are_not_told_is_the_default(text: str, specs: SpecSettings) -> None:
    assert settings_of(f"guards: {text}").guards == GuardSettings(specs=specs)


@pytest.mark.parametrize(
    ("text", "heartbeat"),
    [
        ("{interval: 15s}", Heartbeat(interval_s=15.0)),
        ("{stale_after: 10s}", Heartbeat(stale_after_s=10.0)),
        ("{}", Heartbeat()),
    ],
)
def test_half_a_heartbeat_keeps_the_other_half(text: str, heartbeat: Heartbeat) -> None:
    assert settings_of(f"heartbeat: {text}").heartbeat == heartbeat


@pytest.mark.parametrize("text", ["{interval: 16s}", "{stale_after: 9s}", "{interval: 1h, stale_after: 119m}"])
def test_a_worker_must_be_able_to_miss_one_heartbeat(text: str) -> None:
    rejection = parse_settings(f"heartbeat: {text}".encode(), SOURCE, CONTRACTS)
    assert isinstance(rejection, Rejection)
    assert [each.rule for each in rejection.problems] == ["stale-too-soon"]


def test_what_leaves_the_repository() -> None:
    text = """
    credentials:
      a: {env: A}
      b: {command: [x, y], timeout: 5s}
      c: {keyring: {system: s, user: u}}
      d: {file: ~/d}
    cloud_sync: {base_url: "https://x", workspace: w, credential: a, tasks: [t-*]}
    notifications:
      - {to: {webhook: {url: "https://x/y", secret: b}}, when: {labels: [l], changed: true}, template: "$name"}
      - {to: {email: {host: m, sender: a@b, recipients: [c@d], user: u, credential: c}}}
      - {to: {desktop: {}}}
    """
    said = settings_of(text)
    assert said.tells_others and not Settings().tells_others
    assert outgoing(said) == Outgoing(
        credentials={
            "a": Credential(env="A"),
            "b": Credential(command=("x", "y"), timeout_s=5.0),
            "c": Credential(keyring=KeyringEntry(system="s", user="u")),
            "d": Credential(file="~/d"),
        },
        cloud_sync=CloudSync(base_url="https://x", workspace="w", credential="a", tasks=("t-*",)),
        notifications=(
            Notification(
                to=To(webhook=Webhook(url="https://x/y", secret="b")),
                when=When(labels=("l",), changed=True),
                template="$name",
            ),
            Notification(
                to=To(email=Email(host="m", sender="a@b", recipients=("c@d",), user="u", credential="c")),
            ),
            Notification(to=To(desktop=Desktop())),
        ),
    )
