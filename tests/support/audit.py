"""The audit consumer in this process, and hands that do the relay's work."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import asyncpg
from aiokafka import AIOKafkaProducer

from audit_consumer.checkpoints import make_checkpoint
from audit_consumer.main import run
from audit_consumer.projection import Projection, ProjectionResult
from audit_consumer.projection_rows import RecordBatch
from audit_consumer.settings import Settings
from audit_consumer.snapshotting import write_due_snapshots
from flotilla.config import KafkaSettings
from flotilla.config.signing import Signer, create_key_pair
from flotilla.contracts.envelope import AgentEvent, encode_event
from flotilla.contracts.names import session_key
from flotilla.contracts.session_events import SessionEventKind, session_event_type
from flotilla.kafka.client import kafka_client_arguments
from flotilla.kafka.lanes import lane_of_session
from flotilla.postgres import Connection, Pool
from flotilla.runtime import Runtime
from tests.support.postgres import Database
from tests.support.waiting import eventually

TENANT = "default"
PARKED = """
SELECT seq, reason FROM audit.parked_events WHERE session_id IS NOT DISTINCT FROM $1 ORDER BY kafka_offset
"""
ANCHORED = """
SELECT count(*) AS heads, count(*) FILTER (WHERE dirty) AS dirty,
    (SELECT count(*) FROM audit.checkpoints WHERE published_at IS NULL) AS unpublished
FROM audit.session_heads
"""


def event_at(
    session_id: str, seq: int, text: str = "", *, kind: SessionEventKind = "message", **changes: object
) -> AgentEvent:
    """A session event with its place in the log; `changes` replace attributes."""
    data: dict[str, object] = {"role": "user", "content": text or f"{session_id} {seq}"}
    attributes: dict[str, object] = {
        "type": session_event_type(kind),
        "source": "/tests",
        "subject": session_id,
        "sequence": seq,
        "tenant": TENANT,
        "data": data,
    }
    return AgentEvent(**{**attributes, **changes})  # type: ignore[arg-type]


def events_of(session_id: str, seqs: Iterable[int]) -> list[AgentEvent]:
    """Messages with these sequence numbers."""
    return [event_at(session_id, seq) for seq in seqs]


@asynccontextmanager
async def producing(settings: KafkaSettings) -> AsyncIterator[AIOKafkaProducer]:
    """A producer that keeps the order of what it is given."""
    producer = AIOKafkaProducer(**kafka_client_arguments(settings), acks="all", enable_idempotence=True, linger_ms=5)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def publish(settings: KafkaSettings, events: Sequence[AgentEvent]) -> None:
    """Puts the events into Kafka, in order, as the relay does."""
    await publish_bodies(settings, [(event.tenant or "", event.subject, encode_event(event)) for event in events])


async def publish_bodies(settings: KafkaSettings, bodies: Iterable[tuple[str, str, bytes]]) -> None:
    """Puts (tenant, session, body) into Kafka, in order."""
    async with producing(settings) as producer:
        sent = [
            await producer.send(
                settings.kafka_session_events_topic,
                body,
                key=session_key(tenant, session).encode(),
                partition=lane_of_session(tenant, session),
            )
            for tenant, session, body in bodies
        ]
        await asyncio.gather(*sent)


async def relay_all(database: Database, settings: KafkaSettings) -> int:
    """Moves every outbox row to Kafka; returns their number."""
    connection = await asyncpg.connect(database.superuser_dsn)
    try:
        rows = await connection.fetch("SELECT id, tenant_id, session_id, body FROM flotilla.event_outbox ORDER BY id")
        await publish_bodies(settings, [(row["tenant_id"], row["session_id"], row["body"]) for row in rows])
        await connection.execute("DELETE FROM flotilla.event_outbox WHERE id = ANY($1)", [row["id"] for row in rows])
    finally:
        await connection.close()
    return len(rows)


def audit_settings(database: Database, kafka: KafkaSettings, folder: Path, **changes: object) -> Settings:
    """Settings of an audit consumer on `database`, with a group of its own."""
    create_key_pair(folder / "audit.pem", folder / "audit.pub")
    given: dict[str, object] = {
        "postgres_dsn": database.dsn("flotilla_audit"),
        "kafka_bootstrap_servers": kafka.kafka_bootstrap_servers,
        "kafka_session_events_topic": kafka.kafka_session_events_topic,
        "kafka_checkpoints_topic": kafka.kafka_checkpoints_topic,
        "audit_group": f"audit-{kafka.kafka_session_events_topic}",
        "audit_signing_key_file": folder / "audit.pem",
        "checkpoint_interval_s": 0.2,
    }
    return Settings(**{**given, **changes})  # type: ignore[arg-type]


@asynccontextmanager
async def running_audit(settings: Settings) -> AsyncIterator[Runtime]:
    """An audit consumer that works as long as the block, and drains on leaving it."""
    runtime = Runtime("audit-consumer")
    task = asyncio.create_task(run(settings, runtime))
    try:
        yield runtime
    finally:
        runtime.request_stop("end of the test")
        await task


@dataclass(frozen=True)
class FakeRecord:
    """A record as Kafka would give it."""

    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def records_of(bodies: Iterable[tuple[str, str, bytes]]) -> list[FakeRecord]:
    """(tenant, session, body) as the records of a new topic."""
    ends: dict[int, int] = defaultdict(int)
    records = []
    for tenant, session, body in bodies:
        lane = lane_of_session(tenant, session)
        records.append(FakeRecord(lane, ends[lane], session_key(tenant, session).encode(), body))
        ends[lane] += 1
    return records


async def project_directly(pool: Pool, records: Sequence[FakeRecord], signer: Signer | None = None) -> ProjectionResult:
    """Projects the records of a new topic in one batch, without Kafka, and anchors them if there is a signer."""
    by_partition: dict[int, list[FakeRecord]] = defaultdict(list)
    for record in records:
        by_partition[record.partition].append(record)
    for partition in by_partition:
        await pool.execute("INSERT INTO consumer_offsets VALUES ($1, 0) ON CONFLICT DO NOTHING", partition)
    batches = [RecordBatch(partition, found[0].offset, found) for partition, found in by_partition.items()]
    outcome = await Projection(pool).project_batches(batches)
    await write_due_snapshots(pool, outcome.snapshots_due)
    for batch in batches:
        if signer is not None:
            await make_checkpoint(pool, batch.partition, batch.next_offset, signer)
    return outcome


async def outbox_bodies(database: Database) -> list[tuple[str, str, bytes]]:
    """(tenant, session, body) of every outbox row, in order."""
    rows = await Projected(database).fetch("SELECT tenant_id, session_id, body FROM flotilla.event_outbox ORDER BY id")
    return [(row["tenant_id"], row["session_id"], row["body"]) for row in rows]


class Projected:
    """Looks into the projection as a superuser, through one connection while it is entered: to connect for each look
    takes a hundred times as long as to look."""

    def __init__(self, database: Database) -> None:
        self._dsn = database.superuser_dsn
        self._kept: Connection | None = None
        self._one_at_a_time = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._kept = await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._kept is not None:
            self._kept.terminate()

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        async with self._connection() as connection:
            return list(await connection.fetch(query, *arguments))

    async def execute(self, statement: str, *arguments: object) -> str:
        async with self._connection() as connection:
            return str(await connection.execute(statement, *arguments))

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        if self._kept is not None and not self._kept.is_closed():
            async with self._one_at_a_time:
                yield self._kept
            return
        connection = await self._connect()
        try:
            yield connection
        finally:
            await connection.close()

    async def _connect(self) -> Connection:
        # A rebuild puts other tables in the place of those that a cached statement was prepared for.
        return await asyncpg.connect(self._dsn, statement_cache_size=0)

    async def seqs(self, session_id: str) -> list[int]:
        rows = await self.fetch("SELECT seq FROM audit.session_events WHERE session_id = $1 ORDER BY seq", session_id)
        return [row["seq"] for row in rows]

    async def parked(self, session_id: str | None = None) -> list[tuple[int, str]]:
        rows = await self.fetch(PARKED, session_id)
        return [(row["seq"], row["reason"]) for row in rows]

    async def until(self, session_id: str, last_seq: int, timeout_s: float = 30) -> list[int]:
        """The projected seqs of a session once `last_seq` is among them."""

        async def there() -> list[int]:
            seqs = await self.seqs(session_id)
            return seqs if last_seq in seqs else []

        return await eventually(there, timeout_s)

    async def until_offsets(self, records: int, timeout_s: float = 30) -> None:
        """Wait until the consumer is past `records` records in all partitions together."""

        async def there() -> bool:
            rows = await self.fetch("SELECT coalesce(sum(next_offset), 0) AS total FROM audit.consumer_offsets")
            return bool(rows[0]["total"] >= records)

        await eventually(there, timeout_s)


async def until_anchored(projected: Projected, timeout_s: float = 30) -> None:
    """Waits until every projected head is in a checkpoint that is in Kafka too."""

    async def anchored() -> bool:
        (row,) = await projected.fetch(ANCHORED)
        return bool(row["heads"] and not row["dirty"] and not row["unpublished"])

    await eventually(anchored, timeout_s)
