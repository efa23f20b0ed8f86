"""Settings of the sidecar: those of an agent, its model, and where the worker connects."""

from pydantic import Field, SecretStr

from flotilla.agent.settings import AgentSettings
from flotilla.config import LlmSettings


class SidecarSettings(AgentSettings, LlmSettings):
    """An agent whose function is in another process."""

    agent_name: str
    """The agent that the worker must be."""
    sidecar_port: int = Field(default=0, ge=0, le=65535)
    """The port on loopback where the worker connects; 0 picks a free one, which the command's variables hold."""
    sidecar_key: SecretStr | None = Field(default=None, min_length=16)
    """What the worker shows; unset: one is made at each start, which the command's variables hold."""
