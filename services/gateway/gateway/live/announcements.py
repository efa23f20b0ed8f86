"""Agents announce on `flotilla.events` what they have done; followers of that run then look at the log at once.

A lost announcement does no harm: `RunWatch` looks by itself twice a second.
"""

import asyncio

import structlog
from faststream.redis import RedisBroker
from redis.exceptions import RedisError

from flotilla.bus import AWAY
from flotilla.bus.announcements import announcement_broker
from flotilla.contracts.envelope import AgentEvent
from flotilla.runtime.stopping import sleep_or_stop
from gateway.live.run_watch import RunWatch

RETRY_S = 2.0
LOOK_EVERY_S = 1.0
log = structlog.get_logger(__name__)


class AnnouncementListener:
    """Listens, without a group: every replica hears everything."""

    def __init__(self, redis_url: str, watch: RunWatch) -> None:
        self._redis_url = redis_url
        self._watch = watch

    async def run(self, stop: asyncio.Event) -> None:
        """Listens until `stop`."""
        while not stop.is_set():
            broker = announcement_broker(self._redis_url, self._heard)
            try:
                await broker.start()
                while not stop.is_set() and _listens(broker):
                    await sleep_or_stop(stop, LOOK_EVERY_S)
            except (*AWAY, RedisError) as error:
                log.info("announcements_away", error=str(error))
                await sleep_or_stop(stop, RETRY_S)
            finally:
                await broker.stop()

    async def _heard(self, event: AgentEvent) -> None:
        if event.runid is not None:
            self._watch.wake_followers(event.runid)


def _listens(broker: RedisBroker) -> bool:
    """Whether a task of the broker lives: one that was cancelled, or met an unexpected error, does not come back."""
    tasks = [task for subscriber in broker.subscribers for task in getattr(subscriber, "tasks", ())]
    return any(not task.done() for task in tasks)
