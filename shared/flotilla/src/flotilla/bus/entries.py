"""Redis entries: the CloudEvent in the field `event`, and what a handler gets and gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from opentelemetry import trace

from flotilla.bus.batching import RedisCommand
from flotilla.bus.channels import stream_maxlen
from flotilla.bus.tickets import SignedEvent
from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.contracts.errors import Oversize, Undecodable
from flotilla.contracts.foreign import decode_foreign_agent_event
from flotilla.contracts.names import EVENT_FIELD, TICKET_FIELD
from flotilla.telemetry import current_traceparent

MAX_ENTRY_BYTES = 1_000_000
_EVENT_FIELD_BYTES = EVENT_FIELD.encode()


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One entry as Redis delivered it."""

    entry_id: str
    fields: Mapping[bytes, bytes]
    deliveries: int = 1
    """How often it was delivered, this time included."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a handler gets."""

    entry_id: str
    event: AgentEvent
    deliveries: int = 1
    fields: Mapping[bytes, bytes] | None = None
    """The entry as it stood in Redis."""


@dataclass(frozen=True, slots=True)
class HandlerResult:
    """What a handler gives back: `(stream, event)` pairs, written in one MULTI with the acknowledgement."""

    publish: Sequence[tuple[str, AgentEvent]] = ()


DONE = HandlerResult()


def make_xadd_command(stream: str, event: AgentEvent | SignedEvent) -> RedisCommand:
    """The command that publishes `event`. An event without a trace joins the current one; a sealed one stays as it is.

    Raises:
        Oversize: over 1,000,000 bytes as JSON.
    """
    if isinstance(event, SignedEvent):
        return ("XADD", stream, "*", EVENT_FIELD, event.body, TICKET_FIELD, event.ticket)
    body = _encode_for_stream(stream, event)
    maxlen = stream_maxlen(stream)
    if maxlen is None:
        return ("XADD", stream, "*", EVENT_FIELD, body)
    return ("XADD", stream, "MAXLEN", "~", maxlen, "*", EVENT_FIELD, body)


def _encode_for_stream(stream: str, event: AgentEvent) -> bytes:
    if event.traceparent is None and trace.get_current_span().get_span_context().is_valid:
        event = replace(event, traceparent=current_traceparent())
    body = encode_event(event)
    check_entry_size(stream, event, body)
    return body


def check_entry_size(stream: str, event: AgentEvent, body: bytes) -> None:
    """Check that an entry for `stream` can hold `body`.

    Raises:
        Oversize: over 1,000,000 bytes.
    """
    if len(body) > MAX_ENTRY_BYTES:
        raise Oversize(
            f"event {event.id} ({event.type}) for {stream} has {len(body)} bytes, {MAX_ENTRY_BYTES} are allowed: "
            "store the content and send a reference"
        )


def decode_stream_entry(entry: StreamEntry) -> Delivery:
    """The entry as a handler sees it.

    Raises:
        Undecodable: the field `event` is missing, or holds no CloudEvent.
        Oversize: it is larger than any event of ours may be.
    """
    body = entry.fields.get(_EVENT_FIELD_BYTES)
    if body is None:
        raise Undecodable(f"entry {entry.entry_id} has no field {EVENT_FIELD!r}: send events by flotilla.bus.Publisher")
    if len(body) > MAX_ENTRY_BYTES:
        raise Oversize(f"entry {entry.entry_id} has {len(body)} bytes, {MAX_ENTRY_BYTES} are allowed: send a reference")
    return Delivery(entry.entry_id, decode_foreign_agent_event(body), entry.deliveries, entry.fields)
