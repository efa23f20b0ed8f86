"""Settings of every agent service."""

from pathlib import Path

from pydantic import Field

from flotilla.config import EncryptionSettings, OperatorSettings, PostgresSettings, RedisSettings, ServiceSettings


class AgentSettings(ServiceSettings, PostgresSettings, RedisSettings, OperatorSettings, EncryptionSettings):
    """What an agent needs; inherit to add your own."""

    ticket_public_key_file: Path
    """The worker's public keys (PEM, one or more): a task that none of them signed is not worked on."""
    approval_policy: str = "builtin:production"
    """A policy file, `builtin:production` or `builtin:local`; the workflow worker must have the same."""
    vote_roots: Path | None = None
    """A file (TOML) of the keys whose approval of a voter's key counts; the workflow worker must have the same."""
    tool_gateway_url: str | None = None
    """Where the tool gateway takes calls of MCP tools from agents that hold a task, `http://host:port`; unset: each
    call goes through the worker."""
    agent_name: str | None = None
    """The agent that this service is meant to be; another one refuses to start, since nothing scales its streams."""
    agent_concurrency: int | None = Field(default=None, ge=1, le=1000)
    """Tasks in hand at a time; unset: what the agent's code says."""
    bus_min_idle_ms: int = Field(default=15_000, ge=100)
    """How long a consumer may be silent before others take its entries; a crash delays a task by this plus 5 s."""
