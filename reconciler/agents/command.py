"""An agent of one's own: any program that takes a prompt.

The prompt is its standard input. `AGENT_PROMPT_FILE` names a file that holds it, too, and wherever an argument is
`{prompt_file}` it stands for that path; then standard input is empty.
"""

from __future__ import annotations

from pathlib import Path

from reconciler.agent import Agent
from reconciler.agents.command_events import CommandReader, TextReader
from reconciler.agents.driver import Launch, Place, Task
from reconciler.agents.events import Reader


class Command:
    cumulative = False
    install = "install it, or correct its command"

    def new_session(self) -> str:
        return ""

    def kept(self, place: Place, session: str) -> bool:
        return bool(session)

    def launch(self, task: Task) -> Launch:
        agent, prompt = task.agent, str(task.prompt_file)
        said = {
            "AGENT_PROMPT_FILE": prompt,
            "AGENT_MODEL": agent.model,
            "AGENT_SANDBOX": agent.sandbox,
            "AGENT_SCHEMA_FILE": str(task.schema_file or ""),
            "AGENT_SESSION": task.session if task.resumed else "",
        }
        return Launch(
            argv=tuple(prompt if each == "{prompt_file}" else each for each in agent.command),
            environment={**said, "HOME": str(task.place.home), "TMPDIR": str(task.place.temporary)},
            told_by_input="{prompt_file}" not in agent.command,
        )

    def through(self, agent: Agent, url: str, token: str) -> Agent:
        """Return the agent as it is: there is no door for programs nobody knows."""
        return agent

    def reader(self, agent: Agent) -> Reader:
        return CommandReader() if self.terminal(agent) else TextReader()

    def terminal(self, agent: Agent) -> bool:
        return agent.config.get("events") is True

    def record(self, place: Place, session: str) -> tuple[Path, Reader] | None:
        return None
