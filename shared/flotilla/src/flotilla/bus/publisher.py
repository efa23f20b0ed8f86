"""Publishing to streams: concurrent publishes share a round trip, and a full stream raises an error."""

import structlog
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from flotilla.bus.batching import CommandBatcher, SharedCommand
from flotilla.bus.channels import MAX_TASK_STREAM_ENTRIES
from flotilla.bus.connection import AWAY, WRITE_REFUSED_ERRORS, Redis
from flotilla.bus.entries import make_xadd_command
from flotilla.bus.tickets import SignedEvent
from flotilla.contracts.envelope import AgentEvent
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.names import TASK_STREAM_PREFIX
from flotilla.telemetry import span

log = structlog.get_logger(__name__)


class Publisher:
    """Publishes events. At least once if the caller repeats after RetryLater: consumers deduplicate by task id."""

    def __init__(self, redis: Redis, *, hard_limit: int = MAX_TASK_STREAM_ENTRIES) -> None:
        self._redis = redis
        self._batcher = CommandBatcher(redis, atomic=False)
        self._hard_limit = hard_limit
        self._lengths: dict[str, int] = {}

    async def publish(self, stream: str, event: AgentEvent | SignedEvent) -> str:
        """Append `event` and give its entry id. Nothing is repeated behind the caller's back.

        Raises:
            RetryLater: Redis is unavailable or out of memory (if it went away in between, the entry may be there), or a
                task stream holds `hard_limit` entries (answers are never refused: they are as many as tasks).
            Oversize: the event is over 1,000,000 bytes.
        """
        if not trace.get_current_span().get_span_context().is_valid:
            return await self._append_entry(stream, event)
        attributes: dict[str, AttributeValue] = {
            "messaging.system": "redis",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": stream,
        }
        with span(f"send {stream}", kind=SpanKind.PRODUCER, attributes=attributes) as active:
            entry_id = await self._append_entry(stream, event)
            active.set_attribute("messaging.message.id", entry_id)
            return entry_id

    async def _append_entry(self, stream: str, event: AgentEvent | SignedEvent) -> str:
        command = make_xadd_command(stream, event)
        limited = stream.startswith(TASK_STREAM_PREFIX)
        try:
            if limited:
                await self._raise_if_stream_full(stream)
                entry_id, length = await self._batcher.send_commands((command,), SharedCommand(("XLEN", stream)))
                self._lengths[stream] = length
            else:
                (entry_id,) = await self._batcher.send_commands((command,))
        except WRITE_REFUSED_ERRORS as error:
            raise RetryLater(f"Redis does not accept an event for {stream}: {error}") from error
        except AWAY as error:
            raise RetryLater(f"Redis is unavailable, {stream} may or may not have the event: {error}") from error
        return str(entry_id.decode())

    async def _raise_if_stream_full(self, stream: str) -> None:
        if self._lengths.get(stream, 0) < self._hard_limit:
            return
        (length,) = await self._batcher.send_commands((("XLEN", stream),))
        self._lengths[stream] = length
        if length >= self._hard_limit:
            log.warning("bus_stream_full", stream=stream, entries=length, limit=self._hard_limit)
            raise RetryLater(
                f"{stream} holds {length} entries, {self._hard_limit} are allowed: agents are behind; try again later"
            )
