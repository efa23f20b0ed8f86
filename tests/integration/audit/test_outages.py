"""Servers and other consumers that hang: partitions are taken over all the same, and stopping has an end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from audit_consumer.main import run
from flotilla.config import KafkaSettings
from flotilla.postgres import Pool
from flotilla.runtime import Runtime
from flotilla_devstack.servers.kafka import KafkaServer
from flotilla_devstack.servers.postgres import PostgresServer
from tests.support.audit import Projected, audit_settings, events_of, publish, running_audit, until_anchored
from tests.support.postgres import Database
from tests.support.waiting import eventually

ADD_OFFSETS = "INSERT INTO audit.consumer_offsets SELECT n, 0 FROM generate_series(0, 11) AS n"
STOPS_WITHIN_S = 20


async def test_a_consumer_that_froze_in_the_middle_of_a_transaction_is_succeeded(
    database: Database, kafka: KafkaSettings, projected: Projected, audit_pool: Pool, tmp_path: Path
) -> None:
    """Its rows stay locked for as long as PostgreSQL lets it idle."""
    await projected.execute(ADD_OFFSETS)
    await publish(kafka, events_of("s1", range(1, 11)))
    async with audit_pool.acquire() as frozen:
        await frozen.execute("BEGIN")
        await frozen.execute("UPDATE consumer_offsets SET next_offset = next_offset + 1")
        async with running_audit(audit_settings(database, kafka, tmp_path)):
            assert await projected.until("s1", 10, timeout_s=60) == list(range(1, 11))


async def test_it_stops_although_its_rows_are_locked(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    await projected.execute(ADD_OFFSETS)
    holder = await asyncpg.connect(database.superuser_dsn)
    await holder.execute("BEGIN")
    await holder.execute("LOCK TABLE audit.consumer_offsets IN EXCLUSIVE MODE")
    await publish(kafka, events_of("s1", range(1, 11)))
    runtime = Runtime("audit-consumer")
    working = asyncio.create_task(run(audit_settings(database, kafka, tmp_path, drain_s=1), runtime))
    await until_waiting_for_a_lock(projected)
    runtime.request_stop("the test")
    async with asyncio.timeout(STOPS_WITHIN_S):
        await working
    await holder.close()
    assert await projected.seqs("s1") == []


async def test_it_stops_although_kafka_hangs_with_a_checkpoint_in_hand(
    own_kafka: KafkaServer, harmed_kafka: KafkaSettings, database: Database, projected: Projected, tmp_path: Path
) -> None:
    async with working_on_one_session(database, harmed_kafka, tmp_path) as (runtime, working):
        own_kafka.pause()
        try:
            await projected.execute("UPDATE audit.session_heads SET dirty = true")
            await until_a_checkpoint_waits(projected)
            runtime.request_stop("the test")
            async with asyncio.timeout(STOPS_WITHIN_S):
                await working
        finally:
            own_kafka.resume()


async def test_it_stops_although_postgresql_hangs(
    own_postgres: PostgresServer, kafka: KafkaSettings, harmed_database: Database, tmp_path: Path
) -> None:
    async with working_on_one_session(harmed_database, kafka, tmp_path) as (runtime, working):
        own_postgres.pause()
        try:
            runtime.request_stop("the test")
            async with asyncio.timeout(STOPS_WITHIN_S):
                await working
        finally:
            own_postgres.resume()


@asynccontextmanager
async def working_on_one_session(
    database: Database, kafka: KafkaSettings, folder: Path
) -> AsyncIterator[tuple[Runtime, "asyncio.Task[None]"]]:
    """An audit consumer that has projected and anchored one session."""
    projected = Projected(database)
    runtime = Runtime("audit-consumer")
    working = asyncio.create_task(run(audit_settings(database, kafka, folder, drain_s=1), runtime))
    await publish(kafka, events_of("s1", range(1, 11)))
    await projected.until("s1", 10)
    await until_anchored(projected)
    yield runtime, working


async def until_a_checkpoint_waits(projected: Projected) -> None:
    """Waits until a checkpoint is made that Kafka does not have."""

    async def waits() -> bool:
        return bool(await projected.fetch("SELECT FROM audit.checkpoints WHERE published_at IS NULL"))

    await eventually(waits, timeout_s=30)


async def until_waiting_for_a_lock(projected: Projected) -> None:
    """Waits until a statement of the audit consumer does."""

    async def waits() -> bool:
        rows = await projected.fetch(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name LIKE 'audit-consumer%' AND wait_event_type = 'Lock'"
        )
        return bool(rows)

    await eventually(waits, timeout_s=30)
