"""Registered agents."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from gateway.schemas.common import Answer, RequestBody, ResourceId


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


class RoutedVersion(Answer):
    """A version of an agent: what share of the sessions it gets, and how many instances are alive."""

    version: str
    percent: int | None
    """None: it shares what the others leave."""
    drained: bool
    instances: int
    in_flight: int
    changed_by: str | None
    changed_at: datetime | None


class AgentRoute(Answer):
    """Which versions of an agent get its tasks. Where nothing is said about any of them, all take what comes."""

    agent: str
    versions: list[RoutedVersion]


class RouteBody(RequestBody):
    """What is said about one version; it may be one that is not deployed yet."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "2", "percent": 10}]})

    version: ResourceId
    percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Of the sessions; None: it shares what the others leave."""
    drained: bool = False
    """It gets no new tasks, and ends those it has."""
