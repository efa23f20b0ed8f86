"""Registered agents."""

from datetime import datetime
from typing import Any

from gateway.schemas.common import Answer


class AgentInstance(Answer):
    """One process of an agent."""

    instance: str
    version: str
    concurrency: int
    in_flight: int
    started_at: datetime
    last_seen: datetime


class Agent(Answer):
    """An agent that registered itself. `instances` counts those that were seen in the last minute."""

    name: str
    version: str
    """Of the instance that started last."""
    stream: str
    group: str
    instances: int
    in_flight: int
    last_seen: datetime
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    members: list[AgentInstance]


class AgentList(Answer):
    """All agents, by name."""

    agents: list[Agent]
