"""The bus: Redis Streams with delivery guarantees."""

from flotilla.bus.connection import AWAY, Redis, check_redis, connect_redis
from flotilla.bus.consumer import Consumer, ConsumerOptions, Handler
from flotilla.bus.dead_letters import DeadLetters, StreamDeadLetters
from flotilla.bus.entries import DONE, Delivery, HandlerResult
from flotilla.bus.event_bus import AgentEventBus
from flotilla.bus.groups import ensure_group, entry_exists
from flotilla.bus.housekeeping import BusHousekeeping
from flotilla.bus.live import LiveRunWriter
from flotilla.bus.publisher import Publisher

Finish = HandlerResult
"""Its former name, for consumers outside this repository."""

__all__ = [
    "AWAY",
    "DONE",
    "AgentEventBus",
    "BusHousekeeping",
    "Consumer",
    "ConsumerOptions",
    "DeadLetters",
    "Delivery",
    "Finish",
    "Handler",
    "HandlerResult",
    "LiveRunWriter",
    "Publisher",
    "Redis",
    "StreamDeadLetters",
    "check_redis",
    "connect_redis",
    "ensure_group",
    "entry_exists",
]
