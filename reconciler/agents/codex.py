"""The Codex CLI: `codex exec --json`, and `codex exec resume` for a session that goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler.agent import Agent
from reconciler.agents.codex_events import CodexReader, RolloutReader
from reconciler.agents.driver import Launch, Place, Task
from reconciler.agents.events import Reader
from reconciler.disk import DISK

SANDBOXES = {"read-only": "read-only", "workspace-write": "workspace-write", "full": "danger-full-access"}
DOOR_KEY = "RECONCILER_DOOR_KEY"
SPOKEN = ("wire_api", "query_params", "request_max_retries", "stream_max_retries", "stream_idle_timeout_ms")
"""What the configuration of a provider says beside where it is and who asks."""
_SESSION = re.compile(r"[0-9a-f-]{8,64}")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Codex:
    cumulative = True
    install = "npm install -g @openai/codex"

    def new_session(self) -> str:
        return ""

    def kept(self, place: Place, session: str) -> bool:
        return _rollout(place, session) is not None

    def launch(self, task: Task) -> Launch:
        """Configure by a file in a home of its own: arguments are seen by everybody on the machine."""
        config = _config(task.agent)
        DISK.write_atomic(task.place.home / "config.toml", _toml(config).encode(), sync=False, mode=0o600)
        more: list[str] = ["--json", "--skip-git-repo-check"]
        if task.agent.model:
            more += ["-m", task.agent.model]
        if task.schema_file is not None and _strict(json.loads(task.schema)):
            more += ["--output-schema", str(task.schema_file)]
        resume = ("resume", *more, task.session, "-") if task.resumed else (*more, "-")
        home = str(task.place.home)
        return Launch(
            argv=(*task.agent.command, "exec", *resume),
            environment={"CODEX_HOME": home, "HOME": home, "TMPDIR": str(task.place.temporary)},
            without=("CODEX_SANDBOX", "CODEX_SANDBOX_NETWORK_DISABLED", "CODEX_THREAD_ID"),
        )

    def through(self, agent: Agent, url: str, token: str) -> Agent:
        """Return it with a provider of our own: what it may not change is how the model is spoken to."""
        used = str(agent.config.get("model_provider", "openai"))
        providers = agent.config.get("model_providers")
        known = providers.get(used) if isinstance(providers, Mapping) else None
        said = known if isinstance(known, Mapping) else {}
        kept = {key: said[key] for key in SPOKEN if key in said}
        door = {"wire_api": "responses", **kept, "name": "door", "base_url": url, "env_key": DOOR_KEY}
        hidden = {str(said.get("env_key", "")), "OPENAI_API_KEY", "OPENAI_BASE_URL", "CODEX_API_KEY"}
        env = {name: value for name, value in agent.env.items() if name not in hidden}
        config = {**agent.config, "model_provider": "door", "model_providers": {"door": door}, "web_search": "disabled"}
        return replace(agent, env={**env, DOOR_KEY: token}, config=config)

    def reader(self, agent: Agent) -> Reader:
        return CodexReader()

    def terminal(self, agent: Agent) -> bool:
        return True

    def record(self, place: Place, session: str) -> tuple[Path, Reader] | None:
        path = _rollout(place, session)
        return (path, RolloutReader()) if path is not None else None


def _rollout(place: Place, session: str) -> Path | None:
    """Return the file in which a session is kept."""
    if not _SESSION.fullmatch(session):
        return None
    return next(iter(sorted((place.home / "sessions").glob(f"*/*/*/*{session}*.jsonl"))), None)


def _config(agent: Agent) -> dict[str, Any]:
    """Return the agent's configuration: what nobody can change last.

    Nobody is there to approve anything. Instructions come with the prompt, so that those are followed whose hash is
    written down. Secrets of the environment stay out of its commands unless the settings say otherwise.
    """
    return {
        "check_for_update_on_startup": False,
        "shell_environment_policy": {"inherit": "all", "ignore_default_excludes": False},
        **agent.config,
        "approval_policy": "never",
        "project_doc_max_bytes": 0,
        "sandbox_mode": SANDBOXES[agent.sandbox],
    }


def _toml(config: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {_value(each)}\n" for key, each in config.items() if each is not None)


def _value(value: Any) -> str:
    """Return a value as TOML writes it; texts are those of JSON, except that DEL must be escaped."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items() if each is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(each) for each in value if each is not None) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _value(key)


def _strict(schema: Any) -> bool:
    """Return whether the model's own service accepts a schema: there every object must close and require its keys."""
    if isinstance(schema, list):
        return all(_strict(each) for each in schema)
    if not isinstance(schema, dict):
        return True
    keys = schema.get("properties")
    if schema.get("type") == "object" or isinstance(keys, dict):
        closed = schema.get("additionalProperties") is False and isinstance(keys, dict)
        if not closed or set(schema.get("required", ())) != set(keys or ()):
            return False
    return all(_strict(each) for each in schema.values() if isinstance(each, dict | list))
