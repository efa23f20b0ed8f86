"""Listening on `flotilla.events` with FastStream, where a lost or doubled announcement does no harm.

    broker = announcement_broker("redis://localhost:6379/0", print_event)
    await broker.start()

Needs the extra `http`. Work that must be done goes over task streams and `flotilla.bus.Consumer` instead.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import structlog
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.message import RedisStreamMessage

from flotilla.bus.connection import redis_url_and_options
from flotilla.contracts.envelope import AgentEvent, decode_event
from flotilla.contracts.errors import Undecodable
from flotilla.contracts.names import EVENT_FIELD, EVENTS_STREAM

OnAnnouncement: TypeAlias = Callable[[AgentEvent], Awaitable[None]]

log = structlog.get_logger(__name__)
_EVENT_FIELD_BYTES = EVENT_FIELD.encode()
_MAX_ENTRIES_PER_READ = 100
_READ_BLOCK_MS = 1_000


def announcement_broker(redis_url: str, on_announcement: OnAnnouncement) -> RedisBroker:
    """A broker that hands every announcement made from its start on to `on_announcement`, to each listener of its own.

    At most once: what is announced while it is not connected is missed.
    """
    url, options = redis_url_and_options(redis_url)
    broker = RedisBroker(url, apply_types=False, logger=None, **options)  # type: ignore[arg-type]

    @broker.subscriber(
        stream=StreamSub(EVENTS_STREAM, polling_interval=_READ_BLOCK_MS, max_records=_MAX_ENTRIES_PER_READ),
        decoder=_decode_announcement,
    )
    async def receive(event: AgentEvent | None) -> None:
        if event is not None:
            await on_announcement(event)

    return broker


async def _decode_announcement(message: RedisStreamMessage) -> Any:
    """The entry's event; None for an entry that holds none, which is logged and passed over."""
    try:
        return decode_event(message.raw_message["data"].get(_EVENT_FIELD_BYTES, b""))
    except Undecodable as error:
        log.warning("announcement_unreadable", error=str(error))
        return None
