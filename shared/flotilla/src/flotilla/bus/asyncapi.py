"""Every channel, declared with FastStream; the AsyncAPI 3 document comes from these declarations.

The brokers here are never started. Needs the extras `http` and `kafka`.
"""

import json
from typing import Any, Literal

from faststream.kafka import KafkaBroker
from faststream.redis import RedisBroker, StreamSub
from faststream.specification import AsyncAPI
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, create_model

from flotilla.bus.channels import ANNOUNCEMENTS_MAXLEN, DEAD_LETTERS_MAXLEN, LIVE_RUN_MAXLEN
from flotilla.contracts.dead_letters import REDRIVE_REQUESTED, DeadLettered, RedriveRequested
from flotilla.contracts.live import LiveDone, LiveReset, LiveStep, LiveToken
from flotilla.contracts.names import (
    BRIDGE_GROUP,
    CHECKPOINTS_TOPIC,
    DEAD_LETTERS_STREAM,
    EVENTS_STREAM,
    REDRIVES_STREAM,
    REPLY_STREAM_PREFIX,
    RUN_STREAM_PREFIX,
    SESSION_EVENTS_TOPIC,
    TASK_STREAM_PREFIX,
    TICKET_FIELD,
)
from flotilla.contracts.session_events import DATA_OF_KIND, session_event_type
from flotilla.contracts.tasks import (
    DEAD_LETTERED,
    DRAFT_COMPLETED,
    RESEARCH_COMPLETED,
    TASK_REPLIED,
    TASK_REQUESTED,
    AgentReply,
    AgentTask,
    TaskCompleted,
)

TITLE = "Flotilla"
_ENTRY_FORMAT = "Each entry's field `event` holds the message: one CloudEvents 1.0 document as JSON."


class CloudEvent(BaseModel):
    """CloudEvents 1.0 in structured JSON mode."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    specversion: Literal["1.0"]
    id: str
    """A UUIDv7."""
    source: str
    """Who made it: `/agents/research`."""
    type: str
    subject: str
    """The session id."""
    time: AwareDatetime
    datacontenttype: Literal["application/json"] = "application/json"
    tenant: str | None = None
    sequence: int | None = None
    """The session's sequence number; only events of the session log have one."""
    subjectkey: str | None = None
    """Key id of the person whose data this is."""
    runid: str | None = None
    taskid: str | None = None
    traceparent: str | None = None
    """W3C Trace Context."""


class _LiveRunEntry(BaseModel):
    kind: str


class Checkpoint(BaseModel):
    """A signed checkpoint of one partition's chain; `flotilla audit checkpoints` shows its fields."""

    model_config = ConfigDict(extra="allow")


def asyncapi_document(
    version: str, *, redis_host: str = "redis:6379", kafka_host: str = "kafka:9092"
) -> dict[str, Any]:
    """The AsyncAPI 3.0 document of the fleet's channels."""
    redis = RedisBroker(f"redis://{redis_host}", description="Redis or Valkey: streams between agents.")
    kafka = KafkaBroker(kafka_host, description="The permanent event log.")
    _declare_tasks(redis)
    _declare_announcements(redis)
    _declare_live_runs(redis)
    _declare_event_log(kafka)
    specification = AsyncAPI(
        redis,
        kafka,
        title=TITLE,
        version=version,
        description="Channels of the fleet. Anyone may listen on `flotilla.events`, with a group of their own.",
        schema_version="3.0.0",
    )
    made: dict[str, Any] = json.loads(specification.to_specification().to_json())
    return _declare_address_parameters(made)


def asyncapi_message(name: str, event_type: str, data: Any) -> type[BaseModel]:
    """The CloudEvent of `event_type` whose `data` is the contract `data`."""
    return create_model(
        name,
        __base__=CloudEvent,
        __doc__=f"`{event_type}`. {(data.__doc__ or '').strip().splitlines()[0]}",
        type=_constant_field(event_type),
        data=(data, Field()),
    )


def _declare_tasks(redis: RedisBroker) -> None:
    redis.publisher(
        stream=StreamSub(TASK_STREAM_PREFIX + "{agent}"),
        title="tasks",
        description=f"Work for one agent, read by its group `<agent>-agents`. {_ENTRY_FORMAT} "
        f"The field `{TICKET_FIELD}` "
        "holds the worker's signature over the field `event`, byte for byte: `<key id>.<Ed25519 in base64url>`.",
        schema=asyncapi_message("TaskRequested", TASK_REQUESTED, AgentTask),
    )
    redis.publisher(
        stream=StreamSub(REPLY_STREAM_PREFIX + "{agent}"),
        title="replies",
        description=f"What one agent answers, read by the group `{BRIDGE_GROUP}`. {_ENTRY_FORMAT}",
        schema=asyncapi_message("TaskReplied", TASK_REPLIED, AgentReply),
    )
    redis.publisher(
        stream=StreamSub(REDRIVES_STREAM),
        title="redrives",
        description=f"Dead letters that are to be published again, read by the group `{BRIDGE_GROUP}`. {_ENTRY_FORMAT}",
        schema=asyncapi_message("RedriveAsked", REDRIVE_REQUESTED, RedriveRequested),
    )


def _declare_announcements(redis: RedisBroker) -> None:
    for title, name, event_type in (
        ("research-completed", "ResearchCompleted", RESEARCH_COMPLETED),
        ("draft-completed", "DraftCompleted", DRAFT_COMPLETED),
    ):
        redis.publisher(
            stream=StreamSub(EVENTS_STREAM, maxlen=ANNOUNCEMENTS_MAXLEN),
            title=title,
            description=f"Announcements, about {ANNOUNCEMENTS_MAXLEN:,} of them; Kafka has the durable copy. "
            f"{_ENTRY_FORMAT}",
            schema=asyncapi_message(name, event_type, TaskCompleted),
        )
    redis.publisher(
        stream=StreamSub(DEAD_LETTERS_STREAM, maxlen=DEAD_LETTERS_MAXLEN),
        title="dead-letters",
        description=f"Announces entries that could not be handled; PostgreSQL keeps them. {_ENTRY_FORMAT}",
        schema=asyncapi_message("EntryDeadLettered", DEAD_LETTERED, DeadLettered),
    )


def _declare_live_runs(redis: RedisBroker) -> None:
    for kind, data in (("token", LiveToken), ("reset", LiveReset), ("step", LiveStep), ("done", LiveDone)):
        redis.publisher(
            stream=StreamSub(RUN_STREAM_PREFIX + "{run}.{key}", maxlen=LIVE_RUN_MAXLEN),
            title=f"run-{kind}",
            description="Live progress of a run, kept for an hour. Fields `kind` and `data`, the latter as JSON.",
            schema=create_model(
                data.__name__ + "Entry",
                __base__=_LiveRunEntry,
                __doc__=data.__doc__,
                kind=_constant_field(kind),
                data=(data, Field()),
            ),
        )


def _declare_event_log(kafka: KafkaBroker) -> None:
    for kind, data in DATA_OF_KIND.items():
        event_type = session_event_type(kind)
        name = "Session" + "".join(part.capitalize() for part in kind.split("_"))
        kafka.publisher(
            SESSION_EVENTS_TOPIC,
            title=f"session-{kind.replace('_', '-')}",
            description="Every session event, in order within its session, never deleted. Key `<tenant>/<session>`.",
            schema=asyncapi_message(name, event_type, data),
        )
    kafka.publisher(
        CHECKPOINTS_TOPIC,
        title="audit-checkpoints",
        description="Signed checkpoints of the audit chain.",
        schema=Checkpoint,
    )


def _constant_field(value: str) -> tuple[Any, Any]:
    """A field that holds just this value."""
    return Literal[value], Field()


_ADDRESS_PARAMETERS = {
    "agent": "Name of the agent.",
    "run": "Id of the run.",
    "key": "A secret: who follows the run has it from the database, an agent from its task.",
}


def _declare_address_parameters(made: dict[str, Any]) -> dict[str, Any]:
    """AsyncAPI wants the variables of an address declared; FastStream has no place for them. Sorted, since FastStream
    collects publishers in a set."""
    for part in ("channels", "operations"):
        made[part] = dict(sorted(made[part].items()))
    for part in ("messages", "schemas"):
        made["components"][part] = dict(sorted(made["components"][part].items()))
    for channel in made["channels"].values():
        names = [name for name in _ADDRESS_PARAMETERS if f"{{{name}}}" in channel["address"]]
        if names:
            channel["parameters"] = {name: {"description": _ADDRESS_PARAMETERS[name]} for name in names}
    return made
