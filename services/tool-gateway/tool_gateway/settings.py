"""Settings of the tool gateway."""

from pathlib import Path

from pydantic import Field

from flotilla.agent import AgentSettings


class Settings(AgentSettings):
    """An agent's settings, and which MCP servers there are."""

    mcp_servers_file: Path | None = None
    """A file (JSON) whose `mcpServers` are the MCP servers; unset: there are none. docs/tools.md has its members."""
    http_host: str = "0.0.0.0"  # noqa: S104 - in a pod, agents come from outside
    """The address on which agents that hold a task call tools; `::` is every address of IPv6 and IPv4."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """The port for it; 0 picks a free one."""
    max_calls_per_task: int = Field(default=1000, ge=1, le=1_000_000)
    """How many calls one task of an agent may have the tool gateway make while it is held, in all its tries together;
    further ones fail, and the agent learns why."""
