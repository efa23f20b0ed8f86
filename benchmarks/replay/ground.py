"""A topic with many sessions, and the projection of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from aiokafka import AIOKafkaProducer

from audit_consumer.settings import Settings
from flotilla.config import KafkaSettings
from flotilla.contracts.envelope import encode_event
from flotilla.contracts.names import session_key
from flotilla.kafka.lanes import lane_of_session
from flotilla.postgres import Connection, Pool, open_pool
from flotilla_devstack import RunningStack
from tests.support.audit import Projected, audit_settings, event_at, running_audit
from tests.support.postgres import Database, make_template, with_database
from tests.support.session_events import topics_named

SESSION_EVENTS = 100
_IN_FLIGHT = 20_000
_ADD_SESSIONS = """
INSERT INTO flotilla.sessions (tenant_id, session_id, user_id, head_seq)
SELECT 'default', 's' || n, 'bench', $2 FROM generate_series(0, $1::integer - 1) AS n
"""
_STANDING = "SELECT sum(next_offset)::bigint FROM audit.consumer_offsets"


@dataclass(frozen=True)
class Ground:
    """Where the benchmark runs."""

    database: Database
    kafka: KafkaSettings
    pool: Pool
    folder: Path

    @property
    def audit_settings(self) -> Settings:
        """Of the audit consumer."""
        return audit_settings(self.database, self.kafka, self.folder, checkpoint_interval_s=5.0)


@asynccontextmanager
async def open_ground(stack: RunningStack, folder: Path, name: str) -> AsyncIterator[Ground]:
    """A private PostgreSQL and Kafka with everything in place but events."""
    with stack.extra_postgres() as postgres, stack.extra_kafka() as kafka:
        await make_template(postgres.dsn(), name)
        database = Database(with_database(postgres.dsn(), name))
        async with open_pool(database.dsn(), application="benchmark") as pool:
            yield Ground(database, await topics_named(kafka.bootstrap_address, name), pool, folder)


def session_of(number: int) -> str:
    """The sessions are s0, s1, ..."""
    return f"s{number}"


def _bodies(first: int, last: int) -> Iterator[tuple[str, bytes]]:
    """Events of about 600 bytes, in the order in which a busy fleet writes them: a hundred sessions at a time."""
    for start in range(first, last, 100):
        for seq in range(1, SESSION_EVENTS + 1):
            for number in range(start, min(start + 100, last)):
                yield session_of(number), encode_event(event_at(session_of(number), seq, "x" * 250))


async def fill(ground: Ground, first: int, last: int) -> None:
    """Puts the sessions with these numbers into Kafka, whole."""
    await put(ground, _bodies(first, last))
    await Projected(ground.database).execute("DELETE FROM flotilla.sessions")
    await Projected(ground.database).execute(_ADD_SESSIONS, last, SESSION_EVENTS)


async def put(ground: Ground, bodies: Iterable[tuple[str, bytes]]) -> None:
    """Puts events, each with its session, into Kafka."""
    producer = AIOKafkaProducer(
        bootstrap_servers=ground.kafka.kafka_bootstrap_servers, acks="all", linger_ms=20, max_batch_size=262_144
    )
    await producer.start()
    sent: list[asyncio.Future[object]] = []
    for session, body in bodies:
        sent.append(
            await producer.send(
                ground.kafka.kafka_session_events_topic,
                body,
                key=session_key("default", session).encode(),
                partition=lane_of_session("default", session),
            )
        )
        if len(sent) == _IN_FLIGHT:
            await asyncio.gather(*sent)
            sent.clear()
    await asyncio.gather(*sent)
    await producer.stop()


async def project(ground: Ground, upto: int) -> tuple[float, float]:
    """Projects until `upto` events are in; returns events per second and CPU µs per event of the consumer.

    From the first batch on: joining the group is not part of the rate.
    """
    connection = await asyncpg.connect(ground.database.superuser_dsn)
    try:
        began_at = await _standing(connection)
        async with running_audit(ground.audit_settings):
            from_events = await _until(connection, began_at + 1)
            began, cpu_s = time.perf_counter(), time.process_time()
            events = await _until(connection, upto) - from_events
            return events / (time.perf_counter() - began), (time.process_time() - cpu_s) / events * 1e6
    finally:
        await connection.close()


async def _until(connection: Connection, events: int) -> int:
    while (standing := await _standing(connection)) < events:  # noqa: ASYNC110 - another process moves it
        await asyncio.sleep(0.05)
    return standing


async def _standing(connection: Connection) -> int:
    return int(await connection.fetchval(_STANDING) or 0)
