"""One consumer for the reply stream of each agent, as agents come and go."""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from flotilla.bus import Consumer
from flotilla.contracts.errors import RetryLater
from flotilla.runtime.stopping import wait_for_any_event
from flotilla.runtime.supervision import Job, JobSupervisor
from workflow_worker.delegates import KnownDelegates

NEW_AGENTS_CHECK_INTERVAL_S = 2.0
CONSUMER_STUCK_AFTER_S = 60.0
log = structlog.get_logger(__name__)


class ReplyStreamConsumers:
    """Reads the replies of every agent that is registered or was delegated to, beside the `others`."""

    def __init__(
        self,
        delegates: KnownDelegates,
        others: Mapping[str, Consumer],
        consumer_of: Callable[[str], Consumer],
        supervisor: JobSupervisor,
    ) -> None:
        self._supervisor = supervisor
        self._delegates = delegates
        self._others = others
        self._consumer_of = consumer_of
        self._read: set[str] = set()

    async def start_consumers_until(self, stop: asyncio.Event) -> None:
        """Start consumers until `stop`; each is a task of its own, which lives on when this one is started again."""
        for name, other in self._others.items():
            self._start_consumer(name, other)
        self._others = {}
        while not stop.is_set():
            for agent in await self._find_new_agents():
                self._read.add(agent)
                self._start_consumer(f"replies of {agent}", self._consumer_of(agent))
            await wait_for_any_event(stop, self._delegates.changed, timeout_s=NEW_AGENTS_CHECK_INTERVAL_S)

    def _start_consumer(self, name: str, consumer: Consumer) -> None:
        self._supervisor.start_job(Job(name=name, work=consumer.run, stuck_after_s=CONSUMER_STUCK_AFTER_S))

    async def _find_new_agents(self) -> set[str]:
        self._delegates.changed.clear()
        try:
            return await self._delegates.agent_names() - self._read
        except RetryLater as error:
            log.warning("reply_streams_not_looked_up", error=str(error))
            return set()
