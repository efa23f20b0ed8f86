"""The bus: Redis Streams with delivery guarantees."""

from flotilla.bus.connection import AWAY, Redis, check_redis, connect_redis
from flotilla.bus.consumer import Consumer, ConsumerOptions, Handler
from flotilla.bus.dead_letters import DeadLetters, StreamDeadLetters
from flotilla.bus.entries import DONE, Delivery, Finish
from flotilla.bus.event_bus import AgentEventBus
from flotilla.bus.groups import ensure_group, entry_exists
from flotilla.bus.housekeeping import Housekeeping
from flotilla.bus.live import RunFeed
from flotilla.bus.publisher import Publisher

__all__ = [
    "AWAY",
    "DONE",
    "AgentEventBus",
    "Consumer",
    "ConsumerOptions",
    "DeadLetters",
    "Delivery",
    "Finish",
    "Handler",
    "Housekeeping",
    "Publisher",
    "Redis",
    "RunFeed",
    "StreamDeadLetters",
    "check_redis",
    "connect_redis",
    "ensure_group",
    "entry_exists",
]
