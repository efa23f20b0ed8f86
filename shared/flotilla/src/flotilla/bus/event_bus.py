"""The bus in two verbs, for programs that want nothing else of Flotilla.

async with connect_redis("redis://localhost:6379/0") as redis:
    bus = AgentEventBus(redis)
    await bus.publish("news", AgentEvent(type="news.v1", source="/me", subject="s1", data={"hello": "world"}))
    await bus.subscribe("news", "printers", "printer-1", print_event)
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from flotilla.bus.connection import Redis
from flotilla.bus.consumer import Consumer, ConsumerOptions
from flotilla.bus.dead_letters import DeadLetters
from flotilla.bus.entries import DONE, Delivery, HandlerResult
from flotilla.bus.publisher import Publisher
from flotilla.bus.tickets import SignedEvent
from flotilla.contracts.envelope import AgentEvent

EventHandler: TypeAlias = Callable[[AgentEvent], Awaitable[object]]
"""Handles one event; may see it twice. Raise RetryLater or DeadLetter to say what becomes of it."""


class AgentEventBus:
    """Publishes events to channels (Redis streams) and hands them to the consumers of groups."""

    def __init__(self, redis: Redis, *, dead_letters: DeadLetters | None = None) -> None:
        self._redis = redis
        self._dead_letters = dead_letters
        self._publisher = Publisher(redis)

    async def publish(self, channel: str, event: AgentEvent | SignedEvent) -> str:
        """Append `event` to `channel` and give the entry's id; see `Publisher.publish`."""
        return await self._publisher.publish(channel, event)

    async def subscribe(
        self,
        channel: str,
        group: str,
        consumer: str,
        handler: EventHandler,
        *,
        options: ConsumerOptions | None = None,
        stop: asyncio.Event | None = None,
    ) -> None:
        """Hand each event of `channel` to one consumer of `group`, from the first one on; until `stop` or cancel.

        At least once: an event whose consumer dies is handed to another one after min-idle. Without a database,
        events that nobody can handle are kept on the stream `flotilla.dead-letters`.
        """

        async def handle(delivery: Delivery) -> HandlerResult:
            await handler(delivery.event)
            return DONE

        member = Consumer(self._redis, channel, group, consumer, handle, options, self._dead_letters)
        await member.run(stop or asyncio.Event())
