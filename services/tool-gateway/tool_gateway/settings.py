"""Settings of the tool gateway."""

from pathlib import Path

from flotilla.agent import AgentSettings


class Settings(AgentSettings):
    """An agent's settings, and which MCP servers there are."""

    mcp_servers_file: Path | None = None
    """A file (JSON) whose `mcpServers` are the MCP servers; unset: there are none. docs/tools.md has its members."""
