"""Claude Code: `claude -p --output-format stream-json`, with a session id that we choose."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import replace
from pathlib import Path

from reconciler.agent import Agent
from reconciler.agents.claude_events import ClaudeReader
from reconciler.agents.driver import Launch, Place, Task
from reconciler.agents.events import Reader

_SESSION = re.compile(r"[0-9a-f-]{36}")
_READERS = "Read,Glob,Grep"
_WRITERS = "Edit,Write,NotebookEdit"
PERMISSIONS = {
    "read-only": ("--permission-mode", "default", "--allowedTools", _READERS, "--disallowedTools", _WRITERS),
    "workspace-write": ("--permission-mode", "acceptEdits", "--allowedTools", f"{_READERS},{_WRITERS},Bash"),
    "full": (
        "--permission-mode", "acceptEdits",
        "--allowedTools", f"{_READERS},{_WRITERS},Bash,WebFetch,WebSearch",
        "--add-dir", "/",
    ),
}  # fmt: skip
"""Its shell is not confined by these: a stage's `sandbox` does that. It refuses to skip permissions for root."""
CREDENTIALS = (
    *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_CUSTOM_HEADERS"),
    "CLAUDE_CODE_OAUTH_TOKEN",
)
"""What says where its model is and who asks."""
QUIET = {"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}


class Claude:
    cumulative = False
    install = "npm install -g @anthropic-ai/claude-code"

    def new_session(self) -> str:
        return str(uuid.uuid4())

    def kept(self, place: Place, session: str) -> bool:
        """Return whether it wrote anything of the session down: an id alone cannot be resumed."""
        found = bool(_SESSION.fullmatch(session))
        return found and any((place.home / ".claude" / "projects").glob(f"*/{session}.jsonl"))

    def launch(self, task: Task) -> Launch:
        agent = task.agent
        more = ["--resume" if task.resumed else "--session-id", task.session]
        if agent.model:
            more += ["--model", agent.model]
        if task.schema:
            more += ["--json-schema", json.dumps(json.loads(task.schema))]
        if task.cost_left is not None:
            more += ["--max-budget-usd", f"{task.cost_left:.4f}"]
        if agent.config:
            more += ["--settings", json.dumps(agent.config)]
        output = ("-p", "--output-format", "stream-json", "--verbose", "--setting-sources", "user")
        home = str(task.place.home)
        return Launch(
            argv=(*agent.command, *output, *PERMISSIONS[agent.sandbox], *more),
            environment={**QUIET, "HOME": home, "TMPDIR": str(task.place.temporary)},
            without=("CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SSE_PORT", "CLAUDE_CONFIG_DIR"),
        )

    def through(self, agent: Agent, url: str, token: str) -> Agent:
        env = {name: value for name, value in agent.env.items() if name not in CREDENTIALS}
        return replace(agent, env={**env, "ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": token})

    def reader(self, agent: Agent) -> Reader:
        return ClaudeReader()

    def terminal(self, agent: Agent) -> bool:
        return True

    def record(self, place: Place, session: str) -> tuple[Path, Reader] | None:
        return None
