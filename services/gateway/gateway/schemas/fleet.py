"""The fleet itself: agents, keys, dead letters, outbox, analytics."""

from datetime import date, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, ConfigDict, Field

from gateway.auth.principal import Role
from gateway.schemas.common import Answer, Name, RequestBody


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


class KeyBody(RequestBody):
    """A new API key."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "carol", "roles": ["operator", "approver"], "person": True}]}
    )

    name: Name
    """Whose key it is: the subject of everything that is done with it."""
    roles: Annotated[list[Role], Field(min_length=1, max_length=4)]
    expires_at: Annotated[AwareDatetime | None, Field(strict=False)] = None
    """With its offset; by default it does not expire."""
    person: bool = False
    """Notes that the name is a person's. Only keys of people can approve."""


class Key(Answer):
    """An API key, without its secret."""

    key_id: str
    hint: str | None
    """How the key begins; null for one that was made before hints were kept, or chosen by a person."""
    name: str
    roles: list[Role]
    is_person: bool
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKey(Key):
    """A key that was just made."""

    key: str
    """The secret: shown this once, stored only as a hash."""


class KeyList(Answer):
    """A page of keys, newest first."""

    keys: list[Key]
    next_cursor: str | None


class DeadLetter(Answer):
    """An entry of the bus that nobody could handle."""

    dead_letter_id: str
    stream: str
    group: str
    entry_id: str
    task_id: str | None
    session_id: str | None
    run_id: str | None
    event_type: str | None
    reason: str
    error: str
    attempts: int
    created_at: datetime
    redriven_at: datetime | None
    discarded_at: datetime | None


class DeadLetterWithBody(DeadLetter):
    """With what it holds; bytes that are no text are shown as `\\xNN`."""

    body: str
    fields: dict[str, str]


class DeadLetterList(Answer):
    """A page of dead letters, newest first."""

    dead_letters: list[DeadLetter]
    next_cursor: str | None


class Redriven(Answer):
    """The entry is on its stream again, under the same task id."""

    dead_letter_id: str
    entry_id: str


class StreamRedriven(Answer):
    """How many dead letters of the stream are back on it; at most 1,000 at a time."""

    stream: str
    redriven: int


class Discarded(Answer):
    """The dead letter is given up; its row stays as a record."""

    dead_letter_id: str
    discarded: bool


class ParkedSession(Answer):
    """A session whose event `seq` Kafka refused; `waiting` events of it are held back."""

    session_id: str
    seq: int
    event_id: str
    error: str
    parked_at: datetime
    waiting: int


class OutboxStatus(Answer):
    """Events on their way to Kafka: the whole fleet's (capped at 10,001), and the tenant's parked sessions."""

    backlog_rows: int
    oldest_unpublished_s: float
    parked: list[ParkedSession]


class OutboxRedriveBody(RequestBody):
    """How a parked session goes on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"tombstone": True}]})

    tombstone: bool = False
    """Publish an event of kind `error` in the refused one's place."""


class OutboxRedriven(Answer):
    """The session goes on."""

    session_id: str
    waiting: int
    """Events on their way."""


class ToolUsage(Answer):
    """How a tool did."""

    tool: str
    calls: int
    errors: int
    p50_ms: float
    p95_ms: float


class ToolAnalytics(Answer):
    """Every tool that was called, most called first."""

    tools: list[ToolUsage]


class TokenUsageOfDay(Answer):
    """Tokens that a model counted on a day (UTC)."""

    model: str
    day: date
    calls: int
    input_tokens: int
    output_tokens: int


class TokenAnalytics(Answer):
    """By day, newest first, and model."""

    tokens: list[TokenUsageOfDay]
