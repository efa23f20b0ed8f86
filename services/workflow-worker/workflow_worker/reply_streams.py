"""One consumer for the reply stream of each agent, as agents come and go."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from flotilla.bus import Consumer
from flotilla.contracts.errors import RetryLater
from workflow_worker.delegates import Delegates

LOOK_EVERY_S = 2.0
log = structlog.get_logger(__name__)


class ReplyStreams:
    """Reads the replies of every agent that is registered or was delegated to, beside the `others`."""

    def __init__(
        self, delegates: Delegates, others: Sequence[Consumer], consumer_of: Callable[[str], Consumer]
    ) -> None:
        self._delegates = delegates
        self._others = others
        self._consumer_of = consumer_of
        self._read: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop`."""
        async with asyncio.TaskGroup() as group:
            for other in self._others:
                group.create_task(other.run(stop))
            while not stop.is_set():
                for agent in await self._new():
                    self._read.add(agent)
                    group.create_task(self._consumer_of(agent).run(stop), name=f"replies of {agent}")
                await self._wait(stop)

    async def _new(self) -> set[str]:
        self._delegates.changed.clear()
        try:
            return await self._delegates.names() - self._read
        except RetryLater as error:
            log.warning("reply_streams_not_looked_up", error=str(error))
            return set()

    async def _wait(self, stop: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (stop, self._delegates.changed)]
        try:
            await asyncio.wait(waits, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
