"""Agents make themselves known in `flotilla_ops.agents`, with a heartbeat; people and housekeeping read it."""

import asyncio
import json
from collections.abc import Callable

import asyncpg
import structlog

from flotilla.agent.agent import Agent
from flotilla.postgres import AWAY, Pool, keyring_of
from flotilla.runtime.stopping import sleep_or_stop

REGISTRATION_HEARTBEAT_S = 10.0

_UPSERT_AGENT = """
INSERT INTO flotilla_ops.agents AS a (
    name, instance, version, stream, consumer_group, concurrency, in_flight, input_schema, output_schema, timeout_s,
    replayable, public_key
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9::jsonb, $10, $11, $12)
ON CONFLICT (name, instance) DO UPDATE SET
    version = excluded.version, concurrency = excluded.concurrency, in_flight = excluded.in_flight,
    input_schema = excluded.input_schema, output_schema = excluded.output_schema,
    timeout_s = excluded.timeout_s, replayable = excluded.replayable,
    public_key = excluded.public_key, last_seen = now()
"""
# Instances that were replaced; the last one of an agent stays, so that its stream is remembered at 0 replicas.
_DELETE_SILENT_INSTANCES = """
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
        self.tried = asyncio.Event()
        """Set once the entry was written, or could not be: keys of sessions are issued to processes that have one."""
        self._input_schema = json.dumps(agent.input.schema())
        self._output_schema = json.dumps(agent.output.schema())

    async def keep_registered(self, stop: asyncio.Event) -> None:
        """Register now and every 10 s until `stop`. Work goes on while PostgreSQL is unavailable."""
        while not stop.is_set():
            await self.upsert_registration()
            await sleep_or_stop(stop, REGISTRATION_HEARTBEAT_S)
        await self.upsert_registration()

    async def upsert_registration(self) -> None:
        """Write the entry, or renew it; only a warning while PostgreSQL is unavailable."""
        try:
            if not self._forgot:
                await self._pool.execute(_DELETE_SILENT_INSTANCES, self._agent.name, self._instance)
                self._forgot = True
            async with self._pool.acquire() as connection:
                keyring = keyring_of(connection)
                await connection.execute(
                    _UPSERT_AGENT,
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
                    None if keyring is None else keyring.public_key,
                )
        except (*AWAY, asyncpg.PostgresError, TimeoutError) as error:
            log.warning("registration_postponed", error=str(error) or type(error).__name__)
        finally:
            self.tried.set()
