"""The CloudEvents 1.0 envelope that every channel carries, in structured JSON mode.

An event is encoded once. The same bytes stand in the outbox, in Kafka and in the projection, and the hash
chain is over them. Source: CloudEvents 1.0.2, JSON event format.
"""

from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from flotilla.contracts.errors import Undecodable
from flotilla.contracts.ids import new_id, utc_now
from flotilla.contracts.json_types import JsonObject

T = TypeVar("T")

SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEvent:
    """One CloudEvent. Lower-case names without marks, as CloudEvents demands of attributes."""

    type: str
    """Dotted and versioned: `flotilla.session.tool_call.v1`."""
    source: str
    """Who made it: `/agents/research`."""
    subject: str
    """The session id."""
    data: JsonObject = field(default_factory=dict)
    id: str = field(default_factory=new_id)
    time: datetime = field(default_factory=utc_now)
    tenant: str | None = None
    sequence: int | None = None
    """The session's sequence number, from 1 without gaps; only events of the session log have one."""
    subjectkey: str | None = None
    """Key id of the person whose data this is."""
    runid: str | None = None
    taskid: str | None = None
    traceparent: str | None = None
    """W3C Trace Context of the span that made the event."""
    datacontenttype: str = CONTENT_TYPE
    specversion: str = SPEC_VERSION


_ATTRIBUTES = tuple(f.name for f in fields(AgentEvent))
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AgentEvent)


def encode_event(event: AgentEvent) -> bytes:
    """The event as one JSON document; attributes without a value are left out."""
    document: dict[str, Any] = {}
    for name in _ATTRIBUTES:
        value = getattr(event, name)
        if value is not None:
            document[name] = value
    return _encoder.encode(document)


def decode_event(body: bytes | str) -> AgentEvent:
    """Read one JSON document. Unknown extension attributes are ignored, as CloudEvents asks.

    Raises:
        Undecodable: not JSON, or an attribute is missing or of the wrong type.
    """
    try:
        event = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Undecodable(f"not a CloudEvent: {error}") from error
    if event.specversion != SPEC_VERSION:
        raise Undecodable(f"CloudEvents specversion {event.specversion!r} is not supported: send {SPEC_VERSION}")
    if event.time.tzinfo is None:
        raise Undecodable(f"event {event.id}: time {event.time.isoformat()} has no offset: write one, such as Z")
    return event


def to_json(value: object) -> bytes:
    """Any contract (dataclass, mapping, sequence, scalar) as JSON."""
    return _encoder.encode(value)


def to_builtins(value: object) -> Any:
    """A contract as plain dicts, lists and scalars, ready to be an event's `data`."""
    return msgspec.to_builtins(value)


def from_builtins(value: object, kind: type[T]) -> T:
    """Plain data as the dataclass `kind`.

    Raises:
        Undecodable: a field is missing or of the wrong type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Undecodable(f"not a {kind.__name__}: {error}") from error


def from_json(body: bytes | str, kind: type[T]) -> T:
    """JSON text as the dataclass `kind`.

    Raises:
        Undecodable: not JSON, nested too deep, or a field is missing or of the wrong type.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Undecodable(f"not a {kind.__name__}: {error}") from error
