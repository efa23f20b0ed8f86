"""Agents make themselves known in `flotilla_ops.agents`, with a heartbeat; people and housekeeping read it."""

import asyncio
import json
from collections.abc import Callable

import asyncpg
import structlog

from flotilla.agent.agent import Agent
from flotilla.postgres import AWAY, Pool
from flotilla.runtime.stopping import sleep_or_stop

HEARTBEAT_S = 10.0

_REGISTER = """
INSERT INTO flotilla_ops.agents AS a (
    name, instance, version, stream, consumer_group, concurrency, in_flight, input_schema, output_schema, timeout_s,
    replayable
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9::jsonb, $10, $11)
ON CONFLICT (name, instance) DO UPDATE SET
    version = excluded.version, concurrency = excluded.concurrency, in_flight = excluded.in_flight,
    input_schema = excluded.input_schema, output_schema = excluded.output_schema,
    timeout_s = excluded.timeout_s, replayable = excluded.replayable, last_seen = now()
"""
# Instances that were replaced; the last one of an agent stays, so that its stream is remembered at 0 replicas.
_FORGET = """
DELETE FROM flotilla_ops.agents AS a
WHERE a.name = $1 AND a.instance <> $2 AND a.last_seen < now() - interval '1 hour'
"""

log = structlog.get_logger(__name__)


class AgentRegistration:
    """One process's entry."""

    def __init__(self, pool: Pool, agent: Agent, instance: str, concurrency: int, in_flight: Callable[[], int]) -> None:
        self._pool = pool
        self._agent = agent
        self._instance = instance
        self._concurrency = concurrency
        self._in_flight = in_flight
        self._forgot = False
        self._input_schema = json.dumps(agent.input.schema())
        self._output_schema = json.dumps(agent.output.schema())

    async def run(self, stop: asyncio.Event) -> None:
        """Register now and every 10 s until `stop`. Work goes on while PostgreSQL is unavailable."""
        while not stop.is_set():
            await self._beat()
            await sleep_or_stop(stop, HEARTBEAT_S)
        await self._beat()

    async def _beat(self) -> None:
        try:
            if not self._forgot:
                await self._pool.execute(_FORGET, self._agent.name, self._instance)
                self._forgot = True
            await self._pool.execute(
                _REGISTER,
                self._agent.name,
                self._instance,
                self._agent.version,
                self._agent.stream,
                self._agent.group,
                self._concurrency,
                self._in_flight(),
                self._input_schema,
                self._output_schema,
                self._agent.timeout_s,
                self._agent.replayable,
            )
        except (*AWAY, asyncpg.PostgresError, TimeoutError) as error:
            log.warning("registration_postponed", error=str(error) or type(error).__name__)
