"""Settings of every agent service."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from flotilla.config import OperatorSettings, PostgresSettings, RedisSettings, ServiceSettings


class AgentSettings(ServiceSettings, PostgresSettings, RedisSettings, OperatorSettings):
    """What an agent needs; inherit to add your own."""

    encryption: Literal["off", "on"] = "off"
    """`on` encrypts what the agent records from now on, as at the other services (docs/privacy.md)."""
    session_keys_url: str | None = Field(default=None, pattern="^https?://")
    """Where workers answer with the key of a task's session, `http://host:port`: an agent has no root key. Also needed
    to read what was encrypted while encryption was on."""

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

    @model_validator(mode="after")
    def _check_session_keys_url(self) -> Self:
        if self.encryption == "on" and self.session_keys_url is None:
            raise ValueError(
                "FLOTILLA_ENCRYPTION=on needs FLOTILLA_SESSION_KEYS_URL at an agent, the worker's address: it answers "
                "with the keys of sessions (an agent does not read FLOTILLA_ENCRYPTION_KEY_FILE)"
            )
        return self
