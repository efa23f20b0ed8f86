"""A PostgreSQL and a Kafka that may be harmed, and services between them."""

import asyncio
import json
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from flotilla.config import KafkaSettings
from flotilla.contracts.names import session_key
from flotilla.postgres import AWAY
from flotilla_devstack import RunningStack, ServiceProcess
from flotilla_devstack.servers.kafka import KafkaServer
from flotilla_devstack.servers.postgres import PostgresServer
from flotilla_devstack.services import SERVICES
from tests.support.postgres import Database, make_template, with_database
from tests.support.session_events import topics_named
from tests.support.waiting import eventually

_DATABASE_TROUBLE = (*AWAY, asyncpg.PostgresError)


@dataclass
class World:
    """Everything that one chaos run works on, and harms."""

    stack: RunningStack
    postgres: PostgresServer
    kafka_server: KafkaServer
    database: Database
    kafka: KafkaSettings
    services: list[ServiceProcess] = field(default_factory=list)
    restarting: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    def run(self, name: str, count: int = 1, **env: str) -> list[ServiceProcess]:
        """Starts `count` processes of a service on this world's servers; they are part of what faults hit."""
        started = [self.stack.service(name, env=self._environment(name) | env) for _ in range(count)]
        for process in started:
            process.start()
        self.services += started
        return started

    async def ready(self, timeout_s: float = 60.0) -> None:
        """Waits until every service is ready."""
        for process in self.services:
            await asyncio.to_thread(process.wait_ready, timeout_s)

    async def committed(self) -> dict[str, list[tuple[int, str]]]:
        """Per Kafka key, (seq, event id) of every committed event, as the writers' own transactions noted them."""
        connection = await asyncpg.connect(self.database.superuser_dsn)
        notes = await connection.fetch("SELECT tenant_id, sources FROM flotilla.interactions")
        await connection.close()
        expected: dict[str, list[tuple[int, str]]] = {}
        for note in notes:
            for session, seq, event_id in json.loads(note["sources"]):
                expected.setdefault(session_key(note["tenant_id"], session), []).append((seq, event_id))
        return {key: sorted(events) for key, events in expected.items()}

    async def outbox_drained(self, timeout_s: float = 120.0) -> None:
        """Waits until the relays have emptied the outbox."""

        async def empty() -> bool:
            try:
                connection = await asyncpg.connect(self.database.superuser_dsn)
            except _DATABASE_TROUBLE:
                return False
            try:
                return not await connection.fetchval("SELECT EXISTS (SELECT FROM flotilla.event_outbox)")
            finally:
                await connection.close()

        await eventually(empty, timeout_s=timeout_s, every_s=0.2)

    def _environment(self, service: str) -> dict[str, str]:
        return {
            "FLOTILLA_POSTGRES_DSN": self.database.dsn(SERVICES[service].role),
            "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS": self.kafka.kafka_bootstrap_servers,
            "FLOTILLA_KAFKA_SESSION_EVENTS_TOPIC": self.kafka.kafka_session_events_topic,
            "FLOTILLA_KAFKA_CHECKPOINTS_TOPIC": self.kafka.kafka_checkpoints_topic,
        }


@asynccontextmanager
async def open_world(stack: RunningStack) -> AsyncIterator[World]:
    """Starts private servers, a migrated database and topics; ends all of it, services included."""
    postgres, kafka_server = await asyncio.gather(
        asyncio.to_thread(stack.extra_postgres), asyncio.to_thread(stack.extra_kafka)
    )
    name = f"flotilla_chaos_{secrets.token_hex(4)}"
    services: list[ServiceProcess] = []
    try:
        await make_template(postgres.dsn(), name)
        yield World(
            stack=stack,
            postgres=postgres,
            kafka_server=kafka_server,
            database=Database(with_database(postgres.dsn(), name)),
            kafka=await topics_named(kafka_server.bootstrap_address, f"session-events-{secrets.token_hex(4)}"),
            services=services,
        )
    finally:
        for process in services:
            await asyncio.to_thread(process.stop)
        await asyncio.gather(asyncio.to_thread(postgres.stop), asyncio.to_thread(kafka_server.stop))
